"""Models that FSDP spreads over processes: two of them here, on a CPU (see `tests/fsdp_on_cpu.py`).

What GPUs would do differently, their memory, their numbers and their speed, is not tried by this.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.models import build_model
from tests.rundirs import (
    general_rows,
    losses,
    make_run_dir,
    preference_rows,
    run_as_launched,
    run_here,
)
from training.events import EventReader
from training.methods import METHODS, Product
from training.rundir import Outcome, RunDir, RunResult
from training.tuning import Tuning

pytestmark = pytest.mark.nightly
SPREAD = "tests.fsdp_on_cpu"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model(tmp_path_factory.mktemp("models") / "tiny")


def prepare(folder: Path, model: Path, method: str, *, count: int = 2, **options: Any) -> RunDir:
    given = {"epochs": 2, "eval_generations": 4, **options}
    size = 16 // count
    return make_run_dir(folder, model, method=method, batch_size=size, processes=count, **given)


def spread(run_dir: RunDir) -> RunResult:
    result = run_as_launched(run_dir, SPREAD)
    assert result.state is Outcome.SUCCEEDED, (result.failure, run_dir.log_tail(40))
    return result


@pytest.mark.parametrize(
    ("method", "tuning"),
    [
        ("sft", Tuning.LORA),
        ("sft", Tuning.FULL),
        ("dpo", Tuning.LORA),
        ("dpo", Tuning.FULL),
        ("kto", Tuning.LORA),
        ("reward", Tuning.LORA),
        ("reward", Tuning.FULL),
    ],
)
def test_a_model_that_is_spread_learns_what_a_whole_one_does(
    tmp_path: Path, model: Path, method: str, tuning: Tuning
) -> None:
    shape: dict[str, Any] = {"tuning": tuning.value, "learning_rate": 2e-3}
    together = prepare(tmp_path / "together", model, method, **shape)
    found = spread(together)
    alone = prepare(tmp_path / "alone", model, method, count=1, **shape)
    expected = run_here(alone)

    assert losses(together).keys() == losses(alone).keys()
    weights, others = learned(together), learned(alone)
    start = learned_at_first(model, others)
    moved = sum(float((w - start.get(name, 0)).norm() ** 2) for name, w in others.items()) ** 0.5
    apart = sum(float((weights[name] - w).norm() ** 2) for name, w in others.items()) ** 0.5
    assert apart < 0.1 * moved
    if METHODS[method].makes is Product.POLICY:
        kls = [result.report["generations"]["kl_k3"] for result in (found, expected)]
        assert kls[0] == pytest.approx(kls[1], rel=0.2)


def learned(run_dir: RunDir) -> dict[str, Any]:
    from safetensors.torch import load_file

    (path,) = run_dir.adapter.glob("*.safetensors")
    weights: dict[str, Any] = load_file(path)
    return weights


def learned_at_first(model: Path, learned: dict[str, Any]) -> dict[str, Any]:
    """A whole model's weights before training; an adapter's are not known, and taken for 0."""
    from safetensors.torch import load_file

    (path,) = model.glob("*.safetensors")
    return {name: weight for name, weight in load_file(path).items() if name in learned}


def test_a_run_that_is_spread_goes_on_from_its_checkpoint(tmp_path: Path, model: Path) -> None:
    run_dir = prepare(tmp_path / "run", model, "dpo", save_steps=2, eval_generations=0)
    spread(run_dir)
    straight = losses(run_dir)
    told = len(list(EventReader(run_dir.events_path).read()))
    last = max(straight)
    (run_dir.checkpoints / f"checkpoint-{last}" / "complete").unlink()
    checkpoint = run_dir.newest_checkpoint()
    assert checkpoint is not None
    run_dir.forget_end()
    spread(run_dir)

    events = list(EventReader(run_dir.events_path).read())[told:]
    again = {e.data["step"]: e.data["loss"] for e in events if "loss" in e.data}
    assert list(again) == list(range(int(checkpoint.name.rpartition("-")[2]) + 1, last + 1))
    assert again == pytest.approx({step: straight[step] for step in again})


def test_processes_that_have_met_other_pairs_ask_the_reference_together(
    tmp_path: Path, model: Path
) -> None:
    rows = preference_rows(9)
    run_dir = make_run_dir(
        tmp_path / "run",
        model,
        rows=rows,
        batch_size=1,
        processes=2,
        epochs=3,
        eval_share=0.0,
        eval_generations=0,
    )
    spread(run_dir)
    assert len(losses(run_dir)) == 14  # of 27 rows, two in each step


@pytest.mark.parametrize(
    ("method", "options", "field"),
    [
        ("sft", {"tuning": "prefix"}, "tuning"),
        ("sft", {"tuning": "prompt"}, "tuning"),
        ("sft", {"l2_to_start": 0.1}, "l2_to_start"),
        ("dpo", {"replay_share": 0.3, "general": general_rows()}, "replay_share"),
    ],
)
def test_what_cannot_be_spread_is_refused_before_the_first_step(
    tmp_path: Path, model: Path, method: str, options: dict[str, Any], field: str
) -> None:
    run_dir = prepare(tmp_path / "run", model, method, virtual_tokens=4, **options)
    failure = run_as_launched(run_dir, SPREAD).failure
    assert failure is not None
    assert failure.message.startswith(f"{field} = ")
    assert "FSDP" in failure.message
    assert not losses(run_dir)
