"""A policy that is held to where its training started."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from tests.models import build_model
from tests.rundirs import make_run_dir, run_here
from training.rundir import Outcome, RunResult
from training.worker.start import PullToStart


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model(tmp_path_factory.mktemp("models") / "tiny")


def taught(folder: Path, model: Path, l2_to_start: float) -> RunResult:
    result = run_here(make_run_dir(folder, model, method="sft", epochs=4, l2_to_start=l2_to_start))
    assert result.state is Outcome.SUCCEEDED, result.failure
    return result


@pytest.mark.parametrize(("weight", "left"), [(2.0, 2.6), (100.0, 1.0)])
def test_a_weight_goes_back_by_the_learning_rate_and_never_beyond_the_start(
    tmp_path: Path, weight: float, left: float
) -> None:
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(layer.weight, 1.0)
    pull = PullToStart(layer, weight)
    torch.nn.init.constant_(layer.weight, 3.0)
    pull.on_optimizer_step(
        TrainingArguments(str(tmp_path)),
        TrainerState(),
        TrainerControl(),
        optimizer=torch.optim.SGD(layer.parameters(), lr=0.1),
    )
    assert layer.weight.item() == pytest.approx(left)


def test_a_policy_that_is_held_forgets_less_of_what_it_used_to_write(
    tmp_path: Path, model: Path
) -> None:
    free, held = (
        taught(tmp_path / name, model, l2_to_start=weight).report
        for name, weight in (("free", 0.0), ("held", 100.0))
    )
    rises = [r["forgetting"]["loss_after"] - r["forgetting"]["loss_before"] for r in (free, held)]
    assert 0 < rises[1] < 0.7 * rises[0]
    assert held["likelihood"]["loss_after"] < held["likelihood"]["loss_before"]
