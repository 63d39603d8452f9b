"""What each kind of training is made of, and that each row names the judgments behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pytest

from store import judgments, snapshots, training_data
from store.db import Store
from store.errors import BadInput
from store.records import Purpose, Split, Verdict
from store.training_data import Kind
from tests.builders import (
    judge,
    judge_in_every_way,
    make_comparison,
    make_judgment,
    make_preference,
    make_prompt,
    write_response,
)


def rows(store: Store, folder: Path, kind: Kind) -> list[dict[str, Any]]:
    """The rows of a snapshot of that kind."""
    snapshot = snapshots.freeze(store, folder, kind=kind, created_by="lea")
    with duckdb.connect() as connection:
        found = connection.execute("SELECT * FROM read_parquet(?)", [snapshot.path])
        names = [column[0] for column in found.description or ()]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def text(messages: list[dict[str, str]]) -> str:
    return messages[-1]["content"]


def test_comparisons_hold_ties_beside_preferences(store: Store, tmp_path: Path) -> None:
    make_preference(store, "Who?", "Me.", "No.")
    tied = make_comparison(store, ("Here.", "There."), prompt="Where?")
    said = judge(store, tied, None)
    found = rows(store, tmp_path, Kind.COMPARISONS)
    assert [(text(r["chosen"]), r["is_tie"], r["margin"]) for r in found] == [
        ("Me.", False, 1.0),
        ("Here.", True, 0.0),
    ]
    assert found[1]["judgment_ids"] == [said.id]


def test_both_are_bad_is_no_tie_nor_is_a_draw_of_two_people(store: Store, tmp_path: Path) -> None:
    make_preference(store)
    judge(store, make_comparison(store, prompt="Bad?"), verdict=Verdict.BOTH_BAD)
    split = make_comparison(store, prompt="Split?")
    judge(store, split, 0, annotator_id="ana")
    judge(store, split, 1, annotator_id="bo")
    assert not any(row["is_tie"] for row in rows(store, tmp_path, Kind.COMPARISONS))


def test_equal_ranks_are_a_tie_of_their_own_comparison(store: Store, tmp_path: Path) -> None:
    three = make_comparison(store, ("One.", "Two.", "Three."))
    judgments.record(store, make_judgment(three, ranks=(1, 2, 2)))
    found = rows(store, tmp_path, Kind.COMPARISONS)
    assert sum(row["is_tie"] for row in found) == 1
    assert {row["comparison_id"] for row in found} == {three.id}


def test_demonstrations_are_what_people_wrote_and_what_they_liked_best(
    store: Store, tmp_path: Path
) -> None:
    three = make_comparison(store, ("One.", "Two.", "Three."))
    judgments.record(store, make_judgment(three, ranks=(2, 1, 3)))
    two = make_comparison(store, ("Left.", "Right."), prompt="Which?")
    written = write_response(store, make_judgment(two), "Neither.", instead_of=0)
    found = {text(row["completion"]): row for row in rows(store, tmp_path, Kind.DEMONSTRATIONS)}
    assert {name: row["kind"] for name, row in found.items()} == {
        "Two.": "chosen",
        "Neither.": "demonstration",
    }
    assert found["Neither."]["judgment_ids"] == [written.id]


def test_ratings_are_thumbs_and_pairs_taken_apart(store: Store, tmp_path: Path) -> None:
    for rating, name in ((5, "Fine."), (3, "So so."), (1, "Awful.")):
        alone = make_comparison(store, (name,), prompt=f"{name}?")
        judgments.record(store, make_judgment(alone, ratings=(rating,)))
    make_preference(store, "Who?", "Me.", "No.")
    found = rows(store, tmp_path, Kind.RATINGS)
    assert {(text(r["completion"]), r["label"], r["kind"]) for r in found} == {
        ("Fine.", True, "rating"),
        ("Awful.", False, "rating"),
        ("Me.", True, "pair"),
        ("No.", False, "pair"),
    }


def test_the_middle_of_a_ranking_is_neither_liked_nor_disliked(
    store: Store, tmp_path: Path
) -> None:
    three = make_comparison(store, ("One.", "Two.", "Three."))
    judgments.record(store, make_judgment(three, ranks=(1, 2, 3)))
    found = {text(r["completion"]): r["label"] for r in rows(store, tmp_path, Kind.RATINGS)}
    assert found == {"One.": True, "Three.": False}


def test_prompts_are_those_to_train_on(store: Store, tmp_path: Path) -> None:
    make_preference(store, make_prompt("Train?"))
    make_preference(store, make_prompt("Held?", split=Split.HELD_OUT))
    assert [text(row["prompt"]) for row in rows(store, tmp_path, Kind.PROMPTS)] == ["Train?"]


@pytest.mark.parametrize("kind", list(Kind))
def test_nothing_held_out_or_for_evaluation_is_trained_on(
    store: Store, tmp_path: Path, kind: Kind
) -> None:
    judge_in_every_way(store, prompt=make_prompt("Train?"))
    before = len(rows(store, tmp_path, kind))
    judge_in_every_way(store, prompt=make_prompt("Held out?", split=Split.HELD_OUT))
    judge(store, make_comparison(store, prompt="Train?", purpose=Purpose.EVALUATE))
    assert before > 0
    assert len(rows(store, tmp_path, kind)) == before
    assert training_data.count(store, kind).rows == before


@pytest.mark.parametrize("kind", list(Kind))
def test_what_there_is_none_of_is_refused_with_what_to_do(
    store: Store, tmp_path: Path, kind: Kind
) -> None:
    with pytest.raises(BadInput, match="yet"):
        snapshots.freeze(store, tmp_path, kind=kind, created_by="lea")


def test_the_same_rows_give_the_same_snapshot(store: Store, tmp_path: Path) -> None:
    judge_in_every_way(store)
    for kind in Kind:
        one, other = (
            snapshots.freeze(store, tmp_path, kind=kind, created_by="lea") for _ in range(2)
        )
        assert one.id == other.id
