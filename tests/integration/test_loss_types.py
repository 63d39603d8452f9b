"""Short runs with each way of learning that a method offers beside its usual one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.models import build_model
from tests.rundirs import losses, make_run_dir, preference_rows, rated_rows, run_here
from training.methods.dpo import LossType
from training.rundir import Outcome, RunDir, RunResult

WAYS: list[dict[str, Any]] = [
    *({"loss_type": loss.value} for loss in LossType if loss is not LossType.ROBUST),
    {"loss_type": LossType.ROBUST.value, "label_smoothing": 0.1},
    {"sft_weight": 0.5},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model(tmp_path_factory.mktemp("models") / "tiny")


def ran(folder: Path, model: Path, **given: Any) -> tuple[RunDir, RunResult]:
    run_dir = make_run_dir(folder, model, epochs=1, eval_generations=0, **given)
    result = run_here(run_dir)
    assert result.state is Outcome.SUCCEEDED, (result.failure, run_dir.log_tail(40))
    return run_dir, result


def assert_moved(run_dir: RunDir) -> None:
    """All weights that are 0 in a fresh adapter are no longer."""
    from safetensors.torch import load_file

    weights = load_file(run_dir.adapter / "adapter_model.safetensors")
    grown = [weight for name, weight in weights.items() if "lora_B" in name]
    assert grown
    assert all(weight.any() for weight in grown)


@pytest.mark.parametrize(
    "way", WAYS, ids=lambda way: "-".join(str(value) for value in way.values())
)
def test_a_few_steps_of_each_loss_move_the_adapter_towards_what_was_chosen(
    tmp_path: Path, model: Path, way: dict[str, Any]
) -> None:
    run_dir, result = ran(tmp_path / "run", model, rows=preference_rows(36), **way)
    assert result.report["steps"] <= 5
    assert_moved(run_dir)
    curve = losses(run_dir)
    assert curve[max(curve)] < curve[1]
    assert result.report["pairs"]["margin"] > 0


def test_kto_leaves_out_pairs_where_asked_and_moves_the_adapter(
    tmp_path: Path, model: Path
) -> None:
    rows = rated_rows(60)
    run_dir, result = ran(tmp_path / "run", model, method="kto", rows=rows, learn_from="ratings")
    trained = run_dir.read_trained_rows()
    assert trained
    assert {rows[number]["kind"] for number in trained} == {"rating"}
    assert result.report["data"]["train"] == len(trained)
    assert sum(result.report["thumbs"].values()) == len(trained)
    assert_moved(run_dir)
