"""Where the metrics of a run go beside its events."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.models import build_model
from tests.rundirs import losses, make_run_dir, run_here
from tests.tensorboard import tracked
from training.rundir import Outcome


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
