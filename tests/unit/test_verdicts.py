"""What a page may say, and what a judgment makes of it."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from labeling import verdicts
from labeling.access import Actor
from labeling.assignment import Assignment
from labeling.comparing import Comparing
from labeling.verdicts import CriterionGiven, FlagGiven, RewriteGiven, VerdictGiven
from store import completions, judgments, preferences
from store.db import Store
from store.errors import BadInput, Conflict, NotAllowed, NotFound
from store.records import CriterionJudgment, Flag, Role, Verdict
from tests.builders import make_comparison

ANA = Actor("ana", "Ana", Role.ANNOTATOR)
BEN = Actor("ben", "Ben", Role.ANNOTATOR)
TWO = ("left", "right")
THREE = ("x", "y", "z")


def given(verdict: Verdict = Verdict.TIE, **more: Any) -> VerdictGiven:
    return VerdictGiven("j1", "lease", verdict, **more)


def fields(said: VerdictGiven, displayed: tuple[str, ...] = TWO) -> dict[str, Any]:
    verdicts.check(said)
    return verdicts.fields(said, displayed)


def ranked(*ranks: int | None) -> VerdictGiven:
    return given(Verdict.RANKED, ranks=ranks)


def rated(*ratings: int | None, scale: str = "five_point") -> VerdictGiven:
    return given(Verdict.RATED, ratings=ratings, rating_scale=scale)


def test_gaps_in_a_ranking_are_closed() -> None:
    assert fields(ranked(7, 2, 7), THREE)["ranks"] == (2, 1, 2)
    assert fields(ranked(None, 5, 9), THREE)["ranks"] == (None, 1, 2)


def test_every_place_becomes_the_completion_that_stood_there() -> None:
    said = given(
        Verdict.PREFERRED,
        place=1,
        strength=3,
        criteria=[
            CriterionGiven("helpful", "plain", 0, 2),
            CriterionGiven("harmless", "thumbs", ratings=[0, 1]),
            CriterionGiven("style", "seven_point"),
        ],
        flags=[FlagGiven("unsafe", 0), FlagGiven("off_topic"), FlagGiven("unsafe", 0)],
        rewrite=RewriteGiven("Better.", 1),
        reasons=["clearer", "clearer"],
        rationale="  It says what to press. ",
    )

    assert fields(said) == {
        "preferred_completion_id": "right",
        "strength": 3,
        "ranks": None,
        "ratings": None,
        "rating_scale": None,
        "criteria": (
            CriterionJudgment("helpful", "plain", "left", 2),
            CriterionJudgment("harmless", "thumbs", ratings=(0, 1)),
            CriterionJudgment("style", "seven_point"),
        ),
        "flags": (Flag("unsafe", "left"), Flag("off_topic")),
        "rewritten_completion_id": "right",
        "reasons": ("clearer",),
        "rationale": "It says what to press.",
    }


REFUSED = {
    "a preference among three": (given(Verdict.PREFERRED, place=0, strength=2), THREE, "two"),
    "a tie among three": (given(), THREE, "two"),
    "a ranking of one": (given(Verdict.NOT_RANKABLE), ("x",), "rate it"),
    "ranks for fewer": (ranked(1, 2), THREE, "3 responses and 2 ranks"),
    "one rank": (ranked(None, 1, None), THREE, "at least two"),
    "rank zero": (ranked(0, 1, 2), THREE, "1 .best. to 9"),
    "ranks with a tie": (given(ranks=(1, 2)), TWO, "ranks go with"),
    "a ranking without ranks": (given(Verdict.RANKED), TWO, "ranks go with"),
    "ratings without a scale": (given(Verdict.RATED, ratings=(1, 2)), TWO, "rating_scale"),
    "a scale that is none": (rated(1, 2, scale="stars"), TWO, "thumbs, five_point"),
    "six of five": (rated(6, 1), TWO, "is 1 to 5"),
    "two thumbs": (rated(2, 1, scale="thumbs"), TWO, "is 0 to 1"),
    "no rating": (rated(None, None), TWO, "at least one"),
    "a place too far": (given(Verdict.PREFERRED, place=2, strength=1), TWO, "0 to 1"),
    "a place before": (given(Verdict.PREFERRED, place=-1, strength=1), TWO, "0 to 1"),
    "a strength of four": (given(Verdict.PREFERRED, place=0, strength=4), TWO, "1 .slightly"),
    "a nameless criterion": (given(criteria=[CriterionGiven(" ", "plain")]), TWO, "1 to 80"),
    "a criterion twice": (given(criteria=[CriterionGiven("a", "plain")] * 2), TWO, "once"),
    "half a criterion": (given(criteria=[CriterionGiven("a", "plain", 0)]), TWO, "together"),
    "a strong criterion": (given(criteria=[CriterionGiven("a", "plain", 0, 9)]), TWO, "slightly"),
    "a criterion of three": (
        replace(ranked(1, 2, 3), criteria=[CriterionGiven("a", "plain")]),
        THREE,
        "compares two",
    ),
    "a flag that is none": (given(flags=[FlagGiven("ugly")]), TWO, "personal_data"),
    "a flag nowhere": (given(flags=[FlagGiven("unsafe", 2)]), TWO, "0 to 1"),
    "many flags": (given(flags=[FlagGiven("unsafe")] * 41), TWO, "at most 40"),
    "a long rationale": (given(rationale="x" * 5001), TWO, "5,000"),
    "an empty reason": (given(reasons=[""]), TWO, "1 to 80"),
    "many reasons": (given(reasons=[str(i) for i in range(21)]), TWO, "at most 20"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_contradicts_itself_or_the_item_is_refused(case: str) -> None:
    said, displayed, message = REFUSED[case]
    with pytest.raises(BadInput, match=message):
        fields(said, displayed)


@pytest.fixture
def comparing(store: Store) -> Comparing:
    make_comparison(store, ("One.", "Two."))
    return Comparing(store, Assignment(store, rng=random.Random(3)))


@pytest.fixture
def lease_id(comparing: Comparing) -> str:
    return comparing.items(ANA, want=1, held=[]).items[0].lease_id


def prefer(lease_id: str, place: int = 0, **more: Any) -> VerdictGiven:
    return VerdictGiven(
        **({"id": "j1", "lease_id": lease_id, "verdict": Verdict.PREFERRED} | more),
        place=place,
        strength=2,
    )


def test_a_rewrite_becomes_a_completion_and_is_better(
    store: Store, comparing: Comparing, lease_id: str
) -> None:
    saved = comparing.judge(
        ANA, prefer(lease_id, rewrite=RewriteGiven(" Three. \n", 0), rationale="Shorter.")
    ).result()

    assert saved.rewrite_completion_id is not None
    written = completions.get_many(store, [saved.rewrite_completion_id])
    assert written[saved.rewrite_completion_id].text == "Three."
    assert written[saved.rewrite_completion_id].source == "annotator"
    chosen = [p.chosen_completion_id for p in preferences.list_all(store)]
    assert chosen.count(saved.rewrite_completion_id) == 2


def test_an_empty_rewrite_is_refused(comparing: Comparing, lease_id: str) -> None:
    with pytest.raises(BadInput, match="needs a text"):
        comparing.judge(ANA, prefer(lease_id, rewrite=RewriteGiven(" ")))


def test_what_was_said_comes_back_as_it_was_sent(comparing: Comparing, lease_id: str) -> None:
    said = prefer(
        lease_id,
        1,
        criteria=[CriterionGiven("harmless", "thumbs", ratings=(0, 1))],
        flags=[FlagGiven("unsafe", 0), FlagGiven("off_topic")],
        rewrite=RewriteGiven("Three.", 0),
        reasons=("clearer",),
        rationale="Shorter.",
        duration_ms=500,
        guidelines_version=2,
    )
    comparing.judge(ANA, said).result()

    item, found = comparing.said(ANA, "j1")

    assert item.lease_id == lease_id
    assert replace(found, criteria=list(found.criteria), flags=list(found.flags)) == said


def test_a_correction_is_a_new_row_that_counts(
    store: Store, comparing: Comparing, lease_id: str
) -> None:
    before = comparing.progress(ANA)
    comparing.judge(ANA, prefer(lease_id, 0)).result()

    comparing.judge(ANA, prefer(lease_id, 1, id="j2", supersedes="j1")).result()

    assert [row.id for row in judgments.of_annotator(store, "ana", limit=9)] == ["j2"]
    assert judgments.get(store, "j1") is not None
    after = comparing.progress(ANA)
    assert (after.judged, after.judged_by_me) == (before.judged + 1, before.judged_by_me + 1)


def test_a_correction_of_a_skip_counts_as_work(comparing: Comparing, lease_id: str) -> None:
    comparing.progress(ANA)
    comparing.judge(ANA, VerdictGiven("j1", lease_id, Verdict.SKIPPED)).result()
    assert comparing.progress(ANA).judged_by_me == 0

    comparing.judge(ANA, prefer(lease_id, 1, id="j2", supersedes="j1")).result()

    assert comparing.progress(ANA).judged_by_me == 1


def test_sending_a_correction_twice_is_one_row(comparing: Comparing, lease_id: str) -> None:
    comparing.judge(ANA, prefer(lease_id, 0)).result()
    correction = prefer(lease_id, 1, id="j2", supersedes="j1")
    first = comparing.judge(ANA, correction).result()

    assert comparing.judge(ANA, correction).result() == first


def test_what_was_changed_meanwhile_is_not_corrected(comparing: Comparing, lease_id: str) -> None:
    comparing.judge(ANA, prefer(lease_id, 0)).result()
    comparing.judge(ANA, prefer(lease_id, 1, id="j2", supersedes="j1")).result()

    with pytest.raises(Conflict, match="changed since"):
        comparing.judge(ANA, prefer(lease_id, 0, id="j3", supersedes="j1")).result()


def test_nobody_sees_or_corrects_what_somebody_else_said(
    comparing: Comparing, lease_id: str
) -> None:
    comparing.judge(ANA, prefer(lease_id, 0)).result()

    with pytest.raises(NotAllowed):
        comparing.said(BEN, "j1")
    with pytest.raises(NotAllowed):
        comparing.reopen(BEN, lease_id)
    with pytest.raises(NotFound):
        comparing.said(ANA, "j9")


def test_a_correction_is_on_the_same_comparison(store: Store) -> None:
    for i in range(2):
        make_comparison(store, (f"One {i}.", f"Two {i}."))
    comparing = Comparing(store, Assignment(store, rng=random.Random(3)))
    first, second = (item.lease_id for item in comparing.items(ANA, want=2, held=[]).items)
    comparing.judge(ANA, prefer(first)).result()

    with pytest.raises(BadInput, match="same comparison"):
        comparing.judge(ANA, prefer(second, id="j2", supersedes="j1"))


def test_an_item_that_was_let_go_can_be_opened_again(comparing: Comparing, lease_id: str) -> None:
    comparing.release(ANA, [lease_id])

    assert comparing.reopen(ANA, lease_id).lease_id == lease_id
    assert comparing.items(BEN, want=1, held=[]).items == []
