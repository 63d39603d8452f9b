"""Training data with a clear preference, and run directories that hold it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from training.config import RunSpec
from training.engine import launch_of
from training.events import EventReader
from training.methods import LearnsFrom, method_named
from training.rundir import RunDir, RunResult

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT_S = 180
PAIRS = 48
# A fresh tiny model learns the difference in a dozen steps.
OPTIONS: Mapping[str, Any] = {
    "learning_rate": 5e-3,
    "epochs": 2,
    "batch_size": 8,
    "save_steps": 2,
    "eval_generations": 4,
    "sample_tokens": 12,
}


def preference_rows(count: int = PAIRS) -> list[dict[str, Any]]:
    """Pairs whose chosen side thanks and whose rejected side knows nothing; lengths vary."""
    return [
        {
            "prompt_id": f"p{n}",
            "prompt": [{"role": "user", "content": f"Where is parcel {n}?"}],
            "chosen": [{"role": "assistant", "content": f"Thank you{' for waiting' * (n % 3)}."}],
            "rejected": [{"role": "assistant", "content": f"No idea{', sorry' * (n % 4)}."}],
        }
        for n in range(count)
    ]


def eval_prompts(count: int = 4) -> list[dict[str, Any]]:
    """Prompts that no pair has."""
    return [
        {"prompt_id": f"e{n}", "messages": [{"role": "user", "content": f"Is item {n} late?"}]}
        for n in range(count)
    ]


def demonstration_rows(count: int = PAIRS) -> list[dict[str, Any]]:
    """Thanks, as people wrote them; every third one is only the best-liked response."""
    return [
        {
            "prompt": row["prompt"],
            "completion": row["chosen"],
            "kind": "demonstration" if n % 3 else "chosen",
        }
        for n, row in enumerate(preference_rows(count))
    ]


def rated_rows(count: int = PAIRS) -> list[dict[str, Any]]:
    """Pairs taken apart, and every third one rated."""
    return [
        {
            "prompt": row["prompt"],
            "completion": row[side],
            "label": side == "chosen",
            "kind": "pair" if n % 3 else "rating",
        }
        for n, row in enumerate(preference_rows(count))
        for side in ("chosen", "rejected")
    ]


def comparison_rows(count: int = PAIRS) -> list[dict[str, Any]]:
    """Rankings of three: thanks, waiting, no idea; in every fourth the last two are tied."""
    nothing = [{"role": "assistant", "content": "Wait."}]
    rows = []
    for n, row in enumerate(preference_rows(count)):
        pairs = [(row["chosen"], row["rejected"], 2.0), (row["chosen"], nothing, 1.0)]
        pairs.append((nothing, row["rejected"], 1.0 if n % 4 else 0.0))
        rows += [
            {
                "prompt": row["prompt"],
                "chosen": better,
                "rejected": worse,
                "margin": margin,
                "is_tie": margin == 0,
                "comparison_id": f"c{n}",
            }
            for better, worse, margin in pairs
        ]
    return rows


def prompt_rows(count: int = PAIRS) -> list[dict[str, Any]]:
    """Prompts alone."""
    return [{"prompt": row["prompt"]} for row in preference_rows(count)]


def general_rows(count: int = 40) -> list[dict[str, Any]]:
    """What a policy should keep saying when it is greeted."""
    return [
        {
            "prompt": [{"role": "user", "content": f"Hello number {n}!"}],
            "completion": [
                {"role": "assistant", "content": f"Good morning{', friend' * (n % 3)}."}
            ],
        }
        for n in range(count)
    ]


ROWS: Mapping[LearnsFrom, Callable[[], list[dict[str, Any]]]] = {
    LearnsFrom.PREFERENCES: preference_rows,
    LearnsFrom.COMPARISONS: comparison_rows,
    LearnsFrom.DEMONSTRATIONS: demonstration_rows,
    LearnsFrom.RATINGS: rated_rows,
    LearnsFrom.PROMPTS: prompt_rows,
}


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A Parquet file as a snapshot is one."""
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def make_run_dir(
    path: Path,
    base_model: Path,
    *,
    method: str = "dpo",
    rows: list[dict[str, Any]] | None = None,
    parent_adapter: Path | None = None,
    reward_model: Path | None = None,
    watch_model: Path | None = None,
    agreement: tuple[float | None, int] = (None, 0),
    test_prompts: list[dict[str, Any]] | None = None,
    general: list[dict[str, Any]] | None = None,
    **options: Any,
) -> RunDir:
    """A run directory; `options` replace those of `OPTIONS` that the method has."""
    chosen = method_named(method)
    known = {option.name for option in chosen.options.described()}
    usual = {name: value for name, value in OPTIONS.items() if name in known}
    spec = RunSpec(
        run_id=path.name,
        method=method,
        options=chosen.options.parsed({**usual, **options}),
        base_model=str(base_model),
        parent_version="pol-000000",
        parent_adapter=str(parent_adapter) if parent_adapter else None,
        reward_model=str(reward_model) if reward_model else None,
        watch_model=str(watch_model) if watch_model else None,
        agreement=agreement[0],
        agreement_pairs=agreement[1],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    given = ROWS[chosen.learns_from]() if rows is None else rows
    data = write_rows(path.with_suffix(".parquet"), given)
    return RunDir.create(
        path,
        spec,
        data=data,
        eval_prompts=test_prompts or eval_prompts(),
        general=write_rows(path.with_suffix(".general"), general) if general else None,
    )


def run_here(run_dir: RunDir) -> RunResult:
    """Train in this process, as `python -m training.worker` would in its own."""
    from training.worker.__main__ import work

    # A worker takes the signals over; give them back to the test runner.
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    work(run_dir)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    result = run_dir.read_result()
    assert result is not None
    return result


def run_as_launched(run_dir: RunDir, worker: str = "training.worker") -> RunResult:
    """Train as the application would start it, in as many processes as the spec says.

    `worker` is the module that they run.
    """
    launch = launch_of(run_dir.read_spec(), run_dir.path)
    with run_dir.log_path.open("ab") as log:
        subprocess.run(
            [worker if part == "training.worker" else part for part in launch.command],
            cwd=ROOT,
            env={**os.environ, **launch.environment},
            check=False,
            timeout=TIMEOUT_S,
            stdout=log,
            stderr=log,
        )
    result = run_dir.read_result()
    assert result is not None, run_dir.log_tail(40)
    return result


def losses(run_dir: RunDir) -> dict[int, float]:
    """The loss of each step; of a step that was trained twice, the later one."""
    events = EventReader(run_dir.events_path).read()
    return {e.data["step"]: e.data["loss"] for e in events if "loss" in e.data}


def edit_spec(run_dir: RunDir, **changes: Any) -> None:
    """Overwrite fields of spec.json, without any check."""
    values = json.loads(run_dir.spec_path.read_text())
    run_dir.spec_path.write_text(json.dumps({**values, **changes}))
