"""Where the metrics of a run go beside its events."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.models import build_model
from tests.ppo import build_reward_model
from tests.rundirs import losses, make_run_dir, run_as_launched, run_here
from tests.tensorboard import tracked
from training.events import EventReader
from training.rundir import Outcome, RunDir
from training.tracking import Tracker


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model(tmp_path_factory.mktemp("models") / "tiny")


def test_the_loss_of_each_step_is_in_the_files_of_tensorboard(tmp_path: Path, model: Path) -> None:
    run_dir = make_run_dir(tmp_path / "run", model, epochs=1, eval_generations=0)
    assert run_here(run_dir).state is Outcome.SUCCEEDED
    assert tracked(run_dir, "train/loss") == pytest.approx(losses(run_dir))
    assert tracked(run_dir, "train/loss")


def test_without_a_tracker_there_are_no_files(tmp_path: Path, model: Path) -> None:
    run_dir = make_run_dir(tmp_path / "run", model, epochs=1, eval_generations=0, trackers="")
    assert run_here(run_dir).state is Outcome.SUCCEEDED
    assert not run_dir.tensorboard.exists()


@pytest.mark.parametrize("method", ["dpo", "ppo"])
def test_a_tracker_that_cannot_write_is_a_named_failure(
    tmp_path: Path, model: Path, method: str
) -> None:
    run_dir = tracked_dir(tmp_path, model, method, Tracker.TENSORBOARD)
    run_dir.tensorboard.write_text("a file where a folder should be")
    failure = run_here(run_dir).failure
    assert failure is not None
    assert failure.name == "tracker", failure
    assert str(run_dir.tensorboard) in failure.message
    assert "Trackers" in failure.advice


def tracked_dir(folder: Path, model: Path, method: str, tracker: Tracker) -> RunDir:
    """A run of a few steps whose metrics go to that tracker."""
    shape: dict[str, Any] = {"epochs": 1}
    reward_model = None
    if method == "ppo":
        shape = {"rollouts": 8, "minibatch_size": 4, "micro_batch_size": 4, "iterations": 3}
        reward_model = build_reward_model(model, folder / "rm")
    return make_run_dir(
        folder / "run",
        model,
        method=method,
        trackers=tracker.value,
        reward_model=reward_model,
        eval_generations=0,
        **shape,
    )


def _of_mlflow(folder: Path, name: str) -> list[float]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"file://{folder}/mlflow")
    experiment = client.get_experiment_by_name("whetstone")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    return [point.value for point in client.get_metric_history(run.info.run_id, name)]


def _of_trackio(folder: Path, name: str) -> list[float]:
    import sqlite3

    with sqlite3.connect(folder / "trackio" / "whetstone.db") as database:
        told = database.execute("select metrics from metrics where run_name = 'run' order by step")
        points = [json.loads(metrics) for (metrics,) in told]
    return [point[name] for point in points if name in point]


def _of_wandb(folder: Path, name: str) -> list[float]:
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = (folder / "run" / "wandb").glob("offline-run-*/*.wandb")
    items = (
        item
        for data in _records_of_wandb(file.read_bytes())
        for item in Record.FromString(data).history.item
    )
    return [
        json.loads(item.value_json)
        for item in items
        if name in (item.key, "/".join(item.nested_key))
    ]


def _records_of_wandb(content: bytes) -> Iterator[bytes]:
    """They lie as LevelDB logs do: pieces that do not cross the end of a block."""
    block, header, at, record = 32768, 7, 7, b""
    while at + header <= len(content):
        if block - at % block < header:
            at += block - at % block
            continue
        size, kind = struct.unpack_from("<HB", content, at + 4)
        record += content[at + header : at + header + size]
        at += header + size
        if kind in (1, 4):  # whole, or the last piece
            yield record
            record = b""


KEPT: Mapping[Tracker, Callable[[Path, str], list[float]]] = {
    Tracker.MLFLOW: _of_mlflow,
    Tracker.TRACKIO: _of_trackio,
    Tracker.WANDB: _of_wandb,
}


@pytest.mark.nightly
@pytest.mark.parametrize("method", ["dpo", "ppo"])
@pytest.mark.parametrize("tracker", KEPT)
def test_the_loss_of_each_step_reaches_the_tracker_that_was_chosen(
    tmp_path: Path, model: Path, tracker: Tracker, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere: dict[str, Any] = {
        "MLFLOW_TRACKING_URI": f"file://{tmp_path}/mlflow",
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "TRACKIO_DIR": str(tmp_path / "trackio"),
        "WANDB_MODE": "offline",
    }
    for name, value in elsewhere.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("WANDB_DIR", raising=False)  # runs in this process have left theirs
    run_dir = tracked_dir(tmp_path, model, method, tracker)
    result = run_as_launched(run_dir)
    assert result.state is Outcome.SUCCEEDED, (result.failure, run_dir.log_tail(40))
    name = {"dpo": "loss", "ppo": "policy_loss"}[method]
    prefix = "" if (tracker, method) == (Tracker.MLFLOW, "dpo") else "train/"
    expected = [e.data[name] for e in EventReader(run_dir.events_path).read() if name in e.data]
    assert len(expected) > 2
    assert KEPT[tracker](tmp_path, prefix + name) == pytest.approx(expected)
