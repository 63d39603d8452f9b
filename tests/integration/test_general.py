"""What a policy should keep knowing: some of it replayed, other of it measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

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
from training.worker.encoding import Encoded
from training.worker.rehearsal import Rehearsal, Rehearsing, likelihood_loss


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model(tmp_path_factory.mktemp("models") / "tiny")


def ran(
    folder: Path, model: Path, method: str = "sft", **options: Any
) -> tuple[RunDir, Mapping[str, Any]]:
    run_dir = make_run_dir(folder, model, method=method, learning_rate=0.02, **options)
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


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_preferences_are_learned_with_demonstrations_beside_them(
    tmp_path: Path, model: Path, method: str
) -> None:
    given = general_rows(60)
    (_, alone), (run_dir, replaying) = (
        ran(tmp_path / f"run-{share}", model, method, general=given, replay_share=share)
        for share in (0.0, 0.5)
    )

    assert replaying["forgetting"]["loss_after"] < 0.8 * alone["forgetting"]["loss_after"]
    replayed = run_dir.read_replayed_rows()
    assert 0 < replaying["data"]["replayed"] == len(replayed)
    assert held_out_numbers(given).isdisjoint(replayed)
    assert alone["data"]["replayed"] == 0
    assert replaying["data"]["train"] == alone["data"]["train"]
    if method == "dpo":
        assert replaying["pairs"]["accuracy"] > 0.9


@pytest.mark.parametrize(("processes", "accumulation"), [(1, 1), (2, 3)])
@pytest.mark.parametrize("per_row", [0.1, 1 / 3, 1.0, 2.5])
def test_each_demonstration_comes_once_whatever_the_batches(
    processes: int, accumulation: int, per_row: float
) -> None:
    batch, steps = 4, 5
    total = batch * steps * processes * accumulation
    rows = [Encoded([n], [n]) for n in range(int(per_row * total) + 1)]
    rehearsal = Rehearsal(rows, per_row)
    heard: list[Encoded] = []
    ranks = [
        scripted_trainer(rehearsal, batch, accumulation, processes, r) for r in range(processes)
    ]
    for step in range(steps):
        for _ in range(accumulation):
            for trainer in ranks:
                trainer.state.global_step = step
                heard += rehearsal.beside(trainer._rows_before(batch), batch)
    assert heard == rows[: int(per_row * total + 1e-9)]


def test_a_resumed_trainer_goes_on_with_what_would_have_come() -> None:
    rehearsal = Rehearsal([], 0.5)
    steady, resumed = (scripted_trainer(rehearsal, 4, 2, 1, 0) for _ in range(2))
    places = {0: [steady._rows_before(4) for _ in range(2)]}
    for step in (1, 2):
        steady.state.global_step = step
        places[step] = [steady._rows_before(4) for _ in range(2)]
    resumed.state.global_step = 2
    assert places == {0: [0, 4], 1: [8, 12], 2: [16, 20]}
    assert [resumed._rows_before(4) for _ in range(2)] == places[2]


def scripted_trainer(
    rehearsal: Rehearsal, batch: int, accumulation: int, processes: int, rank: int
) -> Any:
    """A trainer as far as the rehearsal looks at it."""
    trainer: Any = Rehearsing()
    trainer.rehearsal = rehearsal
    trainer.state = SimpleNamespace(global_step=0)
    trainer.args = SimpleNamespace(
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        world_size=processes,
        process_index=rank,
    )
    return trainer


def test_the_loss_is_of_the_completions_tokens_alone(model: Path) -> None:
    from training.loading import load_base

    loaded = load_base(model)
    rows = [Encoded([5, 6, 7], [8, 9]), Encoded([10], [11, 12, 13])]
    loaded.requires_grad_(False)
    summed = 0.0
    for row in rows:
        log_probs = loaded(torch.tensor([row.ids])).logits[0].log_softmax(dim=-1)
        places = range(len(row.prompt_ids) - 1, len(row.ids) - 1)
        summed -= sum(float(log_probs[at, row.ids[at + 1]]) for at in places)
    assert float(likelihood_loss(loaded, rows)) == pytest.approx(summed / 5, rel=1e-4)
