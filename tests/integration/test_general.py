"""What a policy should keep knowing: some of it replayed, other of it measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.models import build_model
from tests.rundirs import (
    general_rows,
    make_run_dir,
    run_here,
)
from training.events import EventReader
from training.general import HELD_OUT_SHARE
from training.rundir import Outcome, RunDir
from training.worker import data
from training.worker.data import Row


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model(tmp_path_factory.mktemp("models") / "tiny")


def ran(folder: Path, model: Path, **options: Any) -> tuple[RunDir, Any]:
    run_dir = make_run_dir(folder, model, method="sft", learning_rate=0.02, **options)
    result = run_here(run_dir)
    assert result.state is Outcome.SUCCEEDED, (result.failure, run_dir.log_tail(40))
    return run_dir, result.report


def held_out_numbers(rows: list[dict[str, Any]]) -> set[int]:
    numbered = [Row(number, row["prompt"]) for number, row in enumerate(rows)]
    return {row.number for row in data.split_by_conversation(numbered, HELD_OUT_SHARE).held_out}


def warnings_of(run_dir: RunDir) -> list[str]:
    return [
        e.data["message"] for e in EventReader(run_dir.events_path).read() if e.kind == "warning"
    ]


def test_what_is_replayed_is_known_better_afterwards(tmp_path: Path, model: Path) -> None:
    alone, replaying = (
        ran(tmp_path / f"run-{share}", model, general=general_rows(60), replay_share=share)[1]
        for share in (0.0, 0.5)
    )

    assert alone["forgetting"]["on"] == replaying["forgetting"]["on"] == "general"
    assert alone["forgetting"]["loss_before"] == replaying["forgetting"]["loss_before"]
    assert replaying["forgetting"]["loss_after"] < 0.8 * alone["forgetting"]["loss_after"]
    assert replaying["likelihood"]["loss_after"] < replaying["likelihood"]["loss_before"]


def test_so_many_are_replayed_as_the_share_says_and_none_of_those_measured(
    tmp_path: Path, model: Path
) -> None:
    given = general_rows(60)
    run_dir, report = ran(
        tmp_path / "run", model, general=given, replay_share=0.25, epochs=1, eval_generations=4
    )

    counts, replayed = report["data"], run_dir.read_replayed_rows()
    assert counts["replayed"] == len(replayed) == round(counts["train"] / 3)
    assert counts["train"] == len(run_dir.read_trained_rows())
    assert counts["seen"] == counts["train"] + counts["replayed"]
    assert held_out_numbers(given).isdisjoint(replayed)
    assert report["forgetting"]["rows"] == len(held_out_numbers(given))
    assert report["environment"]["general"]


def test_where_there_are_fewer_than_the_share_asks_for_all_are_replayed_once(
    tmp_path: Path, model: Path
) -> None:
    given = general_rows(10)
    run_dir, _ = ran(
        tmp_path / "few", model, general=given, replay_share=0.5, epochs=1, eval_generations=0
    )
    alone, nothing = ran(tmp_path / "alone", model, epochs=1, eval_generations=0)

    expected = sorted(set(range(10)) - held_out_numbers(given))
    assert run_dir.read_replayed_rows() == expected
    assert any(text.startswith(f"All {len(expected)} general") for text in warnings_of(run_dir))
    assert (nothing["data"]["replayed"], alone.read_replayed_rows()) == (0, [])
    assert any(text.startswith("Nothing is replayed") for text in warnings_of(alone))


def test_neither_a_test_prompt_nor_a_row_that_is_too_long_is_replayed(
    tmp_path: Path, model: Path
) -> None:
    given = general_rows(30)
    given[3]["completion"][0]["content"] = "And on. " * 400
    tested = [{"messages": given[number]["prompt"]} for number in range(10, 20)]
    run_dir, _ = ran(
        tmp_path / "run",
        model,
        general=given,
        test_prompts=tested,
        replay_share=0.6,
        epochs=1,
        eval_generations=0,
    )

    kept = set(range(30)) - held_out_numbers(given) - {3, *range(10, 20)}
    assert set(run_dir.read_replayed_rows()) == kept
