"""Estimates against real trainers: memory, time, and the ratio of each to what came true.

Every run is a trainer's own process, `python -m training.worker RUN_DIR`, one after the other.
Its time is what the process computed (`cpu_s`), for one thread has that in common with an idle
machine, whatever else is going on; the wall-clock time stands beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import psutil

import app
from labeling.outlook import company_of
from tests.rundirs import write_rows
from training import general
from training.config import RunSpec, worker_environment
from training.engine import launch_of
from training.estimate import Estimate, Lengths, Rows, estimate
from training.loading import load_tokenizer, render_prompt
from training.machine import Machine, measured
from training.methods import METHODS, LearnsFrom, Method, Product, method_named
from training.methods.trainer_options import TuningOptions
from training.rundir import Outcome, RunDir
from training.shape import ModelShape, read_shape
from training.starter import grammar
from training.tuning import Tuning

ROOT = Path(__file__).resolve().parents[2]
TUNINGS = (Tuning.LORA, Tuning.FULL)
SAMPLE_EVERY_S = 0.02


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--rows", type=int, default=60)
    parser.add_argument("--model", type=Path, default=app.ASSETS / "starter")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--tunings", nargs="+", default=list(TUNINGS), type=Tuning)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument(
        "--accompanied", action="store_true", help="score every result, and watch where one can"
    )
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Estimate, actual and ratio (estimate over actual) of each method and tuning."""
    shape = read_shape(options.model)
    assert shape is not None
    with tempfile.TemporaryDirectory() as folder:
        machine = measured(Path(folder) / "machine.json", 1, worker_environment(1))
        assert machine is not None
        bench = Bench(Path(folder), options, shape, machine)
        found = []
        for name, tuning in _fitting(options.methods, options.tunings):
            for seed in range(options.repeats):
                found.append(bench.compare(name, tuning, seed))
                if not options.json:
                    print(found[-1], file=sys.stderr, flush=True)
    return {"measured": asdict(machine), "rows": options.rows, "runs": found, **_worst(found)}


def _fitting(names: Iterable[str], tunings: Sequence[Tuning]) -> Iterable[tuple[str, Tuning]]:
    """Each method with each tuning that it offers."""
    for name in names:
        offered = next(o for o in method_named(name).options.described() if o.name == "tuning")
        yield from ((name, tuning) for tuning in tunings if tuning in offered.choices)


@dataclass(frozen=True)
class Bench:
    """Where runs are written, and what they are estimated from."""

    folder: Path
    options: argparse.Namespace
    shape: ModelShape
    machine: Machine

    def compare(self, name: str, tuning: Tuning, seed: int) -> dict[str, Any]:
        """A run with the preset for its rows, estimated and done."""
        method = method_named(name)
        run_dir, rows = self._write(
            f"{name}-{tuning}-{seed}",
            name,
            {"tuning": tuning, **self._given(method)},
            seed=seed,
            is_judged=method.needs_reward_model,
        )
        return _compare(run_dir, rows, self.shape, self.machine)

    def _given(self, method: Method) -> dict[str, str]:
        """The options of the command line that the method has."""
        known = {option.name for option in method.options.described()}
        given = (pair.split("=", 1) for pair in self.options.option)
        return {name: value for name, value in given if name in known}

    def _write(
        self,
        run_id: str,
        name: str,
        options: Mapping[str, Any],
        *,
        seed: int,
        is_judged: bool = False,
    ) -> tuple[RunDir, Rows]:
        """A run directory, and what an estimate is told of its rows."""
        method = method_named(name)
        number, parameters = self.options.rows, self.shape.parameters
        tuning = options.get("tuning", Tuning.LORA)
        preset = method.options.preset(number, parameters=parameters, tuning=tuning)
        is_accompanied = self.options.accompanied and method.makes is Product.POLICY
        is_scored, is_watched = is_judged or is_accompanied, is_judged and is_accompanied
        spec = RunSpec(
            run_id=run_id,
            method=name,
            options=method.options.parsed({**asdict(preset), **options}),
            base_model=str(self.options.model),
            parent_version="pol-000000",
            reward_model=str(self._reward_model) if is_scored else None,
            watch_model=str(self._reward_model) if is_watched else None,
            seed=seed,
        )
        rows = write_of_grammar(number, method.learns_from, seed)
        held_out = grammar.list_held_out_prompts(48, seed=seed)
        run_dir = RunDir.create(
            self.folder / run_id,
            spec,
            data=write_rows(self.folder / f"{run_id}.parquet", rows),
            eval_prompts=[{"prompt_id": p.text, "messages": [_asked(p)]} for p in held_out],
            general=self._general,
        )
        lengths = _lengths(self.options.model, rows, seed)
        return run_dir, Rows(len(rows), lengths, len(general_rows()))

    @cached_property
    def _general(self) -> Path:
        return write_rows(self.folder / "general.parquet", general_rows())

    @cached_property
    def _reward_model(self) -> Path:
        """Briefly trained; how well it scores takes no time."""
        run_dir, _ = self._write("judge", "reward", {"epochs": 1}, seed=0)
        _train(run_dir)
        return run_dir.adapter


@cache
def general_rows() -> list[dict[str, Any]]:
    """What the starter brings along for runs to replay and to be measured on."""
    path = general.brought_along(app.ASSETS / "starter")
    assert path is not None
    said = [json.loads(line)["messages"] for line in path.read_text("utf-8").splitlines()]
    return [{"prompt": turns[:-1], "completion": turns[-1:]} for turns in said]


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
            LearnsFrom.PROMPTS: {},
        }
        rows.append({"prompt": [_asked(prompt)], **columns[learns_from]})
    return rows


def _asked(prompt: grammar.Prompt) -> dict[str, str]:
    return {"role": "user", "content": prompt.text}


def _said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def _lengths(model: Path, rows: Sequence[dict[str, Any]], seed: int) -> Lengths:
    """Of the rows; prompts alone are answered as the starter was taught to."""
    tokenizer, rng = load_tokenizer(model), random.Random(seed)
    whole, completions = [], []
    for row in rows:
        asked = len(render_prompt(tokenizer, row["prompt"]))
        sides = [row[side] for side in ("chosen", "rejected", "completion") if side in row]
        for side in sides or [
            [_said(grammar.draw_reply(grammar.draw_training_prompt(rng), rng).text)]
        ]:
            ids = tokenizer.apply_chat_template([*row["prompt"], *side], return_dict=False)
            whole.append(len(ids))
            completions.append(len(ids) - asked)
    return Lengths(fmean(whole), max(whole), fmean(completions), max(completions))


def _draw_reply(rng: random.Random) -> str:
    return grammar.draw_reply(grammar.draw_training_prompt(rng), rng).text


def _compare(run_dir: RunDir, rows: Rows, shape: ModelShape, machine: Machine) -> dict[str, Any]:
    spec = run_dir.read_spec()
    assert isinstance(spec.options, TuningOptions)
    told = estimate(spec.method, spec.options, rows, shape, machine, company_of(spec.to_json()))
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
    launch = launch_of(run_dir.read_spec(), run_dir.path)
    environment = {**os.environ, **launch.environment, "PYTHONPATH": str(ROOT)}
    with run_dir.log_path.open("wb") as log:
        child = subprocess.Popen(launch.command, env=environment, stdout=log, stderr=log)
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
