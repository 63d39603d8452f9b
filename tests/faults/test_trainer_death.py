from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from store import policies, runs
from store.records import Run, RunState
from tests.disks import files_no_larger_than
from tests.forks import forked_trainers
from tests.models import build_model
from tests.ppo import build_reward_model
from tests.rundirs import (
    TIMEOUT_S,
    comparison_rows,
    edit_spec,
    losses,
    make_run_dir,
    preference_rows,
    run_here,
)
from tests.services import Lab, open_lab
from training import engine, process
from training.config import worker_environment
from training.events import EventReader
from training.rundir import Outcome, RunDir

POLL_S = 0.005
# Comparisons of three pairs each: so many are divided between two reward models.
ENOUGH = 112
LONG: Mapping[str, Any] = {"epochs": 12, "save_steps": 4}
GROUPS = {"iterations": 8, "prompts": 4, "generations": 4, "batch_size": 8, "save_steps": 2}
FROM_SCORES: Mapping[str, Mapping[str, Any]] = {
    "ppo": {"iterations": 8, "rollouts": 8, "minibatch_size": 4, "save_steps": 2},
    "rloo": GROUPS,
    "grpo": GROUPS,
    "best_of_n": {"n": 4, "prompts": 24, "batch_size": 4, **LONG},
    "online_dpo": {"n": 4, "prompts": 24, "batch_size": 4, "missing_eos_penalty": 0.0, **LONG},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model(tmp_path_factory.mktemp("models") / "tiny")


class Death(NamedTuple):
    """A run that was killed, and what became of it after a resume."""

    lab: Lab
    died: Run
    checkpoint_step: int
    resumed: Run


@pytest.fixture(scope="module")
def death(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Death]:
    with forked_trainers(), open_lab(tmp_path_factory.mktemp("lab"), model) as lab:
        run = lab.launch(**LONG)
        lab.wait_for_step(run, 7)
        assert run.pid is not None
        os.kill(run.pid, signal.SIGKILL)
        died = lab.wait(run)
        run_dir = RunDir(Path(run.folder))
        checkpoint = run_dir.newest_checkpoint()
        assert checkpoint is not None
        with run_dir.events_path.open("ab") as file:
            file.write(b'{"seq": 99999, "at": 17')
        lab.service.resume(run.id)
        yield Death(lab, died, int(checkpoint.name.split("-")[1]), lab.wait(run))


def test_a_killed_trainer_is_interrupted_and_says_what_to_do(death: Death) -> None:
    assert death.died.state is RunState.INTERRUPTED
    assert death.died.error is not None
    assert "Resume" in death.died.error


def test_a_resumed_run_ends_as_a_policy(death: Death) -> None:
    assert death.resumed.state is RunState.SUCCEEDED, death.resumed.error
    assert death.resumed.error is None
    assert policies.of_run(death.lab.store, death.resumed.id) is not None


def test_a_resumed_run_goes_on_from_its_checkpoint_and_not_from_the_start(death: Death) -> None:
    steps = [e.data["step"] for e in death.lab.events(death.resumed, "progress")]
    firsts = [
        e.data["step"] for e in death.lab.events(death.resumed, "progress") if e.data["first_step"]
    ]
    assert firsts == [1, death.checkpoint_step + 1]
    assert steps[-1] == max(steps)


def test_a_resumed_run_has_the_very_losses_of_one_that_was_never_killed(
    death: Death, model: Path, tmp_path: Path
) -> None:
    run_dir = RunDir(Path(death.resumed.folder))
    undisturbed = make_run_dir(tmp_path / "run", model, **LONG)
    data = run_dir.path / run_dir.read_spec().data
    (undisturbed.path / "data/preferences.parquet").write_bytes(data.read_bytes())
    run_here(undisturbed)
    assert losses(run_dir) == losses(undisturbed)


def test_a_torn_event_is_dropped_and_the_numbering_has_no_gap(death: Death) -> None:
    in_file = EventReader(RunDir(Path(death.resumed.folder)).events_path).read()
    in_store = runs.events(death.lab.store, death.resumed.id)
    assert [e.seq for e in in_store] == list(range(len(in_file)))
    assert [(e.seq, e.kind, e.data) for e in in_store] == [(e.seq, e.kind, e.data) for e in in_file]


def kill_once(has_come: Callable[[], bool], run_dir: RunDir) -> None:
    """Start the trainer of a run directory in a process of its own, and kill it then."""
    with forked_trainers():
        trainer = process.start(
            [sys.executable, *engine.WORKER, str(run_dir.path)],
            log=run_dir.log_path,
            environment=worker_environment(1),
        )
        try:
            deadline = time.monotonic() + TIMEOUT_S
            while not has_come():
                assert trainer.poll() is None, run_dir.log_tail(40)
                assert time.monotonic() < deadline
                time.sleep(POLL_S)
        finally:
            trainer.kill()
            trainer.wait(TIMEOUT_S)
    assert run_dir.read_result() is None


@pytest.mark.parametrize("method", ["sft", "kto", "reward"])
def test_other_methods_too_have_the_very_losses_of_a_run_that_was_never_killed(
    model: Path, tmp_path: Path, method: str
) -> None:
    options: dict[str, Any] = {"method": method, "eval_generations": 0, **LONG}
    killed, undisturbed = (make_run_dir(tmp_path / name, model, **options) for name in "ab")
    kill_once(lambda: killed.newest_checkpoint() is not None, killed)

    results = [run_here(run_dir) for run_dir in (killed, undisturbed)]

    assert [result.state for result in results] == [Outcome.SUCCEEDED] * 2, killed.log_tail(40)
    steps = [e.data for e in EventReader(killed.events_path).read() if e.kind == "progress"]
    assert [step["first_step"] for step in steps].count(True) == 2
    assert losses(killed) == losses(undisturbed)


@pytest.mark.parametrize("method", ["ppo", "rloo", "grpo", "best_of_n", "online_dpo"])
def test_methods_that_learn_from_scores_too_go_on_as_if_they_had_never_been_killed(
    model: Path, tmp_path: Path, method: str
) -> None:
    options: dict[str, Any] = {
        "method": method,
        "reward_model": build_reward_model(model, tmp_path / "reward"),
        "eval_generations": 0,
        "max_new_tokens": 10,
        "tuning": "lora",
        **FROM_SCORES[method],
    }
    killed, undisturbed = (make_run_dir(tmp_path / name, model, **options) for name in "ab")
    kill_once(lambda: killed.newest_checkpoint() is not None, killed)

    results = [run_here(run_dir) for run_dir in (killed, undisturbed)]

    assert [result.state for result in results] == [Outcome.SUCCEEDED] * 2, killed.log_tail(40)
    found, expected = (measured(run_dir) for run_dir in (killed, undisturbed))
    assert len(expected) > 1
    assert found == expected
    events = EventReader(killed.events_path).read()
    assert [e.data["name"] for e in events if e.kind == "phase"].count("loading") == 2
    assert [e.data["step"] for e in events if e.kind == "metrics"].count(1) == 1  # it went on


def measured(run_dir: RunDir) -> dict[int, Mapping[str, Any]]:
    """What was told of each step, the last time that it was taken."""
    events = [e.data for e in EventReader(run_dir.events_path).read() if e.kind == "metrics"]
    return {data["step"]: data for data in events}


def test_a_reward_run_that_died_at_its_second_model_leaves_both(
    model: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"epochs": 2, "eval_share": 0.05, "evaluations": 1, "save_steps": 4}
    killed, undisturbed = (
        make_run_dir(
            tmp_path / name, model, method="reward", rows=comparison_rows(ENOUGH), **options
        )
        for name in "ab"
    )
    second = RunDir(killed.watch)
    kill_once(lambda: second.events_path.exists() and bool(losses(second)), killed)

    reports = [run_here(run_dir).report for run_dir in (killed, undisturbed)]

    assert reports[0]["reward_model"] == reports[1]["reward_model"]
    assert reports[0]["watch_model"] == reports[1]["watch_model"] is not None
    assert losses(second) == losses(RunDir(undisturbed.watch))


def test_a_full_disk_is_a_named_failure(model: Path, tmp_path: Path) -> None:
    run_dir = make_run_dir(tmp_path / "run", model)
    with files_no_larger_than(100_000):  # a checkpoint is larger, a result is not
        result = run_here(run_dir)
    assert result.state is Outcome.FAILED
    assert result.failure is not None
    assert result.failure.name == "disk_full"
    assert "Free some space" in result.failure.advice


def test_a_loss_that_is_no_number_is_a_named_failure(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    broken = build_model(tmp_path / "model")
    weights = load_file(broken / "model.safetensors")
    next(t for name, t in weights.items() if "mlp" in name).fill_(float("nan"))
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    run_dir = make_run_dir(tmp_path / "run", broken)
    result = run_here(run_dir)
    assert result.failure is not None
    assert result.failure.name == "nan_loss"
    assert "at step 1" in result.failure.message
    assert "learning rate" in result.failure.advice
    assert not run_dir.adapter.exists()


def test_a_snapshot_that_cannot_be_trained_on_is_a_named_failure(
    model: Path, tmp_path: Path
) -> None:
    rows = preference_rows()
    rows[2]["rejected"][0]["content"] = " "
    run_dir = make_run_dir(tmp_path / "run", model, rows=rows)
    result = run_here(run_dir)
    assert result.failure is not None
    assert result.failure.name == "bad_data"
    assert "row 3: rejected is empty" in result.failure.message


def test_a_missing_base_model_is_a_named_failure(model: Path, tmp_path: Path) -> None:
    run_dir = make_run_dir(tmp_path / "run", model)
    edit_spec(run_dir, base_model=str(tmp_path / "nowhere"))
    result = run_here(run_dir)
    assert result.failure is not None
    assert result.failure.name == "model_load"
    assert "nowhere" in result.failure.message


def test_an_adapter_of_another_model_is_a_named_failure(model: Path, tmp_path: Path) -> None:
    from tests.models import build_adapter

    stranger = build_adapter(build_model(tmp_path / "other", "gpt2"), tmp_path / "adapter", seed=1)
    run_dir = make_run_dir(tmp_path / "run", model, parent_adapter=stranger)
    result = run_here(run_dir)
    assert result.failure is not None
    assert result.failure.name == "model_load"


def test_a_spec_from_the_future_is_a_named_failure(model: Path, tmp_path: Path) -> None:
    run_dir = make_run_dir(tmp_path / "run", model)
    edit_spec(run_dir, schema_version=99)
    result = run_here(run_dir)
    assert result.failure is not None
    assert result.failure.name == "bad_spec"
    assert "schema_version" in result.failure.message
