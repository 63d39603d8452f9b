"""What is derived from rankings, ratings and rewrites, and what a lead's review takes out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from store import completions, judgments, preferences, reviews
from store.db import Store
from store.records import (
    Comparison,
    CriterionJudgment,
    Decision,
    Flag,
    Judgment,
    Review,
    Verdict,
)
from tests.builders import (
    START,
    judge,
    make_comparison,
    make_completion,
    make_judgment,
    make_prompt,
)

TEXTS = ("Tap 'Forgot password'.", "Write to us.", "No idea.", "Hm.")


def rank(
    store: Store,
    comparison: Comparison,
    ranks: Sequence[int | None],
    *,
    displayed: Sequence[int] | None = None,
    annotator_id: str = "ana",
) -> Judgment:
    judgment = make_judgment(
        comparison, ranks=ranks, displayed=displayed, annotator_id=annotator_id
    )
    return judgments.record(store, judgment)


def pairs(store: Store, comparison: Comparison) -> set[tuple[int, int, float]]:
    """Numbers of the chosen and the rejected completion, and the margin."""
    index = {id: i for i, id in enumerate(comparison.completion_ids)}
    return {
        (index[p.chosen_completion_id], index[p.rejected_completion_id], p.margin)
        for p in preferences.list_all(store)
    }


def test_a_ranking_gives_every_pair_with_the_distance_as_its_margin(store: Store) -> None:
    comparison = make_comparison(store, TEXTS)

    rank(store, comparison, (2, 1, 3, 4))

    assert pairs(store, comparison) == {
        (1, 0, 1.0),
        (1, 2, 2.0),
        (1, 3, 3.0),
        (0, 2, 1.0),
        (0, 3, 2.0),
        (2, 3, 1.0),
    }


def test_ranks_belong_to_what_was_displayed(store: Store) -> None:
    comparison = make_comparison(store, TEXTS[:3])

    rank(store, comparison, (1, 2, 3), displayed=(2, 0, 1))

    assert pairs(store, comparison) == {(2, 0, 1.0), (2, 1, 2.0), (0, 1, 1.0)}


def test_a_tie_within_a_ranking_and_what_is_unranked_say_nothing(store: Store) -> None:
    comparison = make_comparison(store, TEXTS)

    rank(store, comparison, (1, 1, 2, None))

    assert pairs(store, comparison) == {(0, 2, 1.0), (1, 2, 1.0)}


def test_margins_of_a_long_ranking_end_at_three(store: Store) -> None:
    comparison = make_comparison(store, [f"Response {i}" for i in range(9)])

    rank(store, comparison, range(1, 10))

    assert max(margin for _, _, margin in pairs(store, comparison)) == 3.0
    assert len(pairs(store, comparison)) == 36


def test_rankings_of_several_people_are_put_together_pair_by_pair(store: Store) -> None:
    comparison = make_comparison(store, TEXTS[:3])

    rank(store, comparison, (1, 2, 3), annotator_id="ana")
    rank(store, comparison, (2, 1, 3), annotator_id="bo", displayed=(0, 1, 2))

    assert pairs(store, comparison) == {(0, 2, 1.5), (1, 2, 1.5)}


def test_not_rankable_says_nothing(store: Store) -> None:
    comparison = make_comparison(store, TEXTS[:3])

    judge(store, comparison, verdict=Verdict.NOT_RANKABLE)

    assert preferences.list_all(store) == []


def rewrite(store: Store, judgment: Judgment, rewritten: int | None) -> str:
    """Record the judgment together with something its author wrote; returns that one's id."""
    written = make_completion(make_prompt(), "Tap 'Forgot password' and follow the mail.")
    saved = judgments.submit(
        store,
        replace(
            judgment,
            rewrite_completion_id=written.id,
            rewritten_completion_id=(
                None if rewritten is None else judgment.displayed_completion_ids[rewritten]
            ),
        ),
        rewrite=written,
    )
    saved.result()
    return written.id


BEATEN: dict[str, tuple[dict[str, Any], int | None, set[int]]] = {
    "the better one": ({"preferred": 0}, 0, {0, 1}),
    "the worse one": ({"preferred": 0}, 1, {1}),
    "anew": ({"preferred": 0}, None, {0, 1}),
    "one of a tie": ({"preferred": None}, 1, {0, 1}),
    "anew, both bad": ({"verdict": Verdict.BOTH_BAD}, None, {0, 1}),
    "after a skip": ({"verdict": Verdict.SKIPPED}, 1, {1}),
    "anew after a skip": ({"verdict": Verdict.SKIPPED}, None, set()),
}


@pytest.mark.parametrize("case", BEATEN)
def test_a_rewrite_is_better_than_its_original_and_all_that_this_one_beats(
    store: Store, case: str
) -> None:
    given, rewritten, beaten = BEATEN[case]
    comparison = make_comparison(store)

    id = rewrite(store, make_judgment(comparison, **given), rewritten)

    found = [p for p in preferences.list_all(store) if p.chosen_completion_id == id]
    assert {comparison.completion_ids.index(p.rejected_completion_id) for p in found} == beaten
    assert {p.margin for p in found} <= {2.0}


def test_a_rewrite_within_a_ranking_beats_what_stood_no_higher(store: Store) -> None:
    comparison = make_comparison(store, TEXTS)

    id = rewrite(store, make_judgment(comparison, ranks=(2, 1, 3, None)), 0)

    found = [p for p in preferences.list_all(store) if p.chosen_completion_id == id]
    assert {comparison.completion_ids.index(p.rejected_completion_id) for p in found} == {0, 2}


def test_what_was_written_is_stored_once_however_often_it_is_sent(store: Store) -> None:
    written = make_completion(make_prompt(), "Better.")
    judgment = replace(make_judgment(make_comparison(store)), rewrite_completion_id=written.id)

    for _ in range(2):
        judgments.submit(store, judgment, rewrite=written).result()

    assert completions.get_many(store, [written.id])[written.id].text == "Better."


def test_ratings_of_single_responses_are_put_together(store: Store) -> None:
    comparison = make_comparison(store, TEXTS[:2])
    first = judgments.record(store, make_judgment(comparison, ratings=(5, None)))
    second = judgments.record(
        store, make_judgment(comparison, ratings=(3, 1), annotator_id="bo", displayed=(0, 1))
    )

    found = {r.completion_id: r for r in preferences.list_rated(store)}

    assert found[comparison.completion_ids[0]].rating == pytest.approx(0.75)
    assert found[comparison.completion_ids[0]].sources == (first.id, second.id)
    assert found[comparison.completion_ids[1]].rating == 0.0
    assert preferences.list_all(store) == []


def test_a_single_response_can_be_a_comparison(store: Store) -> None:
    comparison = make_comparison(store, TEXTS[:1])

    judgments.record(store, make_judgment(comparison, ratings=(4,)))

    assert [r.rating for r in preferences.list_rated(store)] == [0.75]


def test_everything_that_a_judgment_says_comes_back(store: Store) -> None:
    comparison = make_comparison(store)
    one, other = comparison.completion_ids
    judgment = replace(
        make_judgment(comparison),
        criteria=(
            CriterionJudgment("helpful", "seven_point", one, 3),
            CriterionJudgment("harmless", "thumbs", ratings=(1, None)),
            CriterionJudgment("style", "plain"),
        ),
        reasons=("clearer", "more polite"),
        rationale="It says what to press.",
        flags=(Flag("unsafe", other), Flag("off_topic")),
    )

    judgments.record(store, judgment)

    found = judgments.get(store, judgment.id)
    assert found is not None
    assert replace(found, seq=0) == judgment


def review(store: Store, comparison: Comparison, decision: Decision, id: str) -> None:
    reviews.record(store, Review(id, comparison.id, decision, "lead", START))


def test_nothing_is_derived_from_a_withdrawn_comparison(store: Store) -> None:
    comparison = make_comparison(store)
    rewrite(store, make_judgment(comparison), 0)
    rated = make_comparison(store)
    judgments.record(store, make_judgment(rated, ratings=(1, 5)))

    for some in (comparison, rated):
        review(store, some, Decision.WITHDRAWN, f"w {some.id}")

    assert preferences.list_all(store) == []
    assert preferences.list_rated(store) == []


def test_a_later_review_holds(store: Store) -> None:
    comparison = make_comparison(store)
    judge(store, comparison)

    review(store, comparison, Decision.WITHDRAWN, "first")
    review(store, comparison, Decision.KEPT, "second")

    assert len(preferences.list_all(store)) == 1
    assert reviews.latest(store, [comparison.id])[comparison.id].id == "second"
