"""Estimates against real trainers: memory, time, and the ratio of each to what came true.

Every run is a trainer's own process, `python -m training.worker RUN_DIR`, one after the other.
Its time is what the process computed (`cpu_s`), for one thread has that in common with an idle
machine, whatever else is going on; the wall-clock time stands beside it.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import psutil

import app
from tests.rundirs import write_rows
from training.config import RunSpec, worker_environment
from training.estimate import Estimate, Lengths, Rows, estimate
from training.loading import load_tokenizer, render_prompt
from training.machine import Machine, measured
from training.methods import LearnsFrom, method_named
from training.methods.trainer_options import TrainerOptions
from training.rundir import Outcome, RunDir
from training.shape import ModelShape, read_shape
from training.starter import grammar
from training.tuning import Tuning

ROOT = Path(__file__).resolve().parents[2]
METHODS = ("dpo", "sft", "reward", "kto")
TUNINGS = (Tuning.LORA, Tuning.FULL)
SAMPLE_EVERY_S = 0.02


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--rows", type=int, default=60)
    parser.add_argument("--model", type=Path, default=app.ASSETS / "starter")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--tunings", nargs="+", default=list(TUNINGS), type=Tuning)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Estimate, actual and ratio (estimate over actual) of each method and tuning."""
    shape = read_shape(options.model)
    assert shape is not None
    with tempfile.TemporaryDirectory() as folder:
        machine = measured(Path(folder) / "machine.json", 1, worker_environment(1))
        assert machine is not None
        found = []
        for name, tuning in _fitting(options.methods, options.tunings):
            for seed in range(options.repeats):
                run_dir, given = _write(Path(folder), options, name, tuning, shape, seed)
                found.append(_compare(run_dir, given, shape, machine))
                if not options.json:
                    print(found[-1], file=sys.stderr, flush=True)
    return {"measured": asdict(machine), "rows": options.rows, "runs": found, **_worst(found)}


def _fitting(names: Iterable[str], tunings: Sequence[Tuning]) -> Iterable[tuple[str, Tuning]]:
    """Each method with each tuning that it offers."""
    for name in names:
        offered = next(o for o in method_named(name).options.described() if o.name == "tuning")
        yield from ((name, tuning) for tuning in tunings if tuning in offered.choices)


def _write(
    folder: Path,
    options: argparse.Namespace,
    name: str,
    tuning: Tuning,
    shape: ModelShape,
    seed: int,
) -> tuple[RunDir, Rows]:
    """A run directory with the preset for its rows, and what an estimate is told of them."""
    method = method_named(name)
    preset = method.options.preset(options.rows, parameters=shape.parameters, tuning=tuning)
    given = dict(pair.split("=", 1) for pair in options.option)
    spec = RunSpec(
        run_id=f"{name}-{tuning}-{seed}",
        method=name,
        options=method.options.parsed({**asdict(preset), **given}),
        base_model=str(options.model),
        parent_version="pol-000000",
        seed=seed,
    )
    rows = write_of_grammar(options.rows, method.learns_from, seed)
    prompts = [
        {"prompt_id": str(n), "messages": [{"role": "user", "content": prompt.text}]}
        for n, prompt in enumerate(grammar.list_held_out_prompts(48, seed=seed))
    ]
    data = write_rows(folder / f"{spec.run_id}.parquet", rows)
    run_dir = RunDir.create(folder / spec.run_id, spec, data=data, eval_prompts=prompts)
    return run_dir, Rows(len(rows), _lengths(options.model, rows))


def write_of_grammar(count: int, learns_from: LearnsFrom, seed: int) -> list[dict[str, Any]]:
    """Rows that the starter's grammar writes, in the columns of a kind of training data."""
    rng = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for number, prompt in enumerate(grammar.list_training_prompts(count, seed=seed)):
        one, other = ([_said(grammar.draw_reply(prompt, rng).text)] for _ in range(2))
        pair = {"chosen": one, "rejected": other}
        tie = {"margin": 1.0, "is_tie": False, "comparison_id": str(number)}
        columns: dict[LearnsFrom, dict[str, Any]] = {
            LearnsFrom.PREFERENCES: pair,
            LearnsFrom.COMPARISONS: pair | tie,
            LearnsFrom.DEMONSTRATIONS: {"completion": one, "kind": "demonstration"},
            LearnsFrom.RATINGS: {"completion": one, "kind": "rating", "label": number % 2 == 0},
        }
        asked = [{"role": "user", "content": prompt.text}]
        rows.append({"prompt": asked, **columns[learns_from]})
    return rows


def _said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def _lengths(model: Path, rows: Sequence[dict[str, Any]]) -> Lengths:
    tokenizer = load_tokenizer(model)
    whole, completions = [], []
    for row in rows:
        asked = len(render_prompt(tokenizer, row["prompt"]))
        for side in ("chosen", "rejected", "completion"):
            if side in row:
                ids = tokenizer.apply_chat_template([*row["prompt"], *row[side]], return_dict=False)
                whole.append(len(ids))
                completions.append(len(ids) - asked)
    return Lengths(fmean(whole), max(whole), fmean(completions), max(completions))


def _compare(run_dir: RunDir, rows: Rows, shape: ModelShape, machine: Machine) -> dict[str, Any]:
    spec = run_dir.read_spec()
    assert isinstance(spec.options, TrainerOptions)
    told = estimate(spec.method, spec.options, rows, shape, machine)
    assert told is not None
    resident_mb = _train(run_dir)
    result = run_dir.read_result()
    assert result is not None, run_dir.log_tail(20)
    assert result.state is Outcome.SUCCEEDED, result.failure
    timing = result.report["timing"]
    return {
        "method": spec.method,
        "tuning": spec.options.tuning,
        "peak_mb": _ratio(told.peak_mb, timing["peak_mb"]),
        "resident_mb": round(resident_mb),
        "seconds": _ratio(told.seconds, timing["cpu_s"]),
        "wall_s": round(timing["run_s"], 1),
        "steps": {"estimate": told.steps, "actual": result.report["steps"]},
        "memory": _rounded(told),
    }


def _train(run_dir: RunDir) -> float:
    """Run the trainer to its end; its largest resident memory as seen from outside, in MiB."""
    environment = {**os.environ, **worker_environment(1), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "training.worker", str(run_dir.path)]
    with run_dir.log_path.open("wb") as log:
        child = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        largest = [0.0]
        watcher = threading.Thread(target=_watch, args=(child, largest), daemon=True)
        watcher.start()
        child.wait()
        watcher.join()
    return largest[0]


def _watch(child: subprocess.Popen[bytes], largest: list[float]) -> None:
    process = psutil.Process(child.pid)
    while child.poll() is None:
        try:
            largest[0] = max(largest[0], process.memory_info().rss / 2**20)
        except psutil.NoSuchProcess:
            return
        time.sleep(SAMPLE_EVERY_S)


def _ratio(told: float, actual: float) -> dict[str, float]:
    return {
        "estimate": round(told, 1),
        "actual": round(actual, 1),
        "ratio": round(told / actual, 3),
    }


def _rounded(told: Estimate) -> dict[str, int]:
    return {part: round(value) for part, value in asdict(told.memory).items()}


def _worst(found: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The largest factor by which an estimate was off, either way."""
    return {
        f"worst_{name}": max(max(r[name]["ratio"], 1 / r[name]["ratio"]) for r in found)
        for name in ("peak_mb", "seconds")
    }
