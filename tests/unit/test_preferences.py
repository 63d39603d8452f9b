from __future__ import annotations

from collections.abc import Sequence

import pytest

from store import judgments, preferences
from store.db import Store
from store.records import Comparison, Preference, Purpose, Split, Verdict
from tests.builders import judge, make_comparison, make_judgment, make_preference, make_prompt


def judged(store: Store, preferred: Sequence[int | None], strength: int = 1) -> Comparison:
    """A comparison with one judgment by each of as many annotators; None is a tie."""
    comparison = make_comparison(store)
    for i, winner in enumerate(preferred):
        judge(store, comparison, winner, annotator_id=f"annotator {i}", strength=strength)
    return comparison


def only(store: Store) -> Preference:
    (preference,) = preferences.list_all(store)
    return preference


@pytest.mark.parametrize("winner", [0, 1])
def test_the_preferred_completion_is_chosen(store: Store, winner: int) -> None:
    comparison = judged(store, [winner])

    preference = only(store)

    assert preference.chosen_completion_id == comparison.completion_ids[winner]
    assert preference.rejected_completion_id == comparison.completion_ids[1 - winner]


def test_the_majority_decides(store: Store) -> None:
    comparison = judged(store, [1, 0, 1])

    assert only(store).chosen_completion_id == comparison.completion_ids[1]


def test_a_strong_minority_outweighs_a_slight_majority(store: Store) -> None:
    comparison = make_comparison(store)
    judge(store, comparison, 0, annotator_id="ana", strength=3)
    judge(store, comparison, 1, annotator_id="bo", strength=1)
    judge(store, comparison, 1, annotator_id="cy", strength=1)

    assert only(store).chosen_completion_id == comparison.completion_ids[0]


def test_a_draw_says_nothing(store: Store) -> None:
    judged(store, [0, 1])

    assert preferences.list_all(store) == []


def test_a_tie_alone_says_nothing(store: Store) -> None:
    judged(store, [None])

    assert preferences.list_all(store) == []


def test_both_bad_alone_says_nothing(store: Store) -> None:
    judge(store, make_comparison(store), verdict=Verdict.BOTH_BAD)

    assert preferences.list_all(store) == []


def test_ties_weaken_the_margin(store: Store) -> None:
    judged(store, [0, None, None, 0], strength=3)

    assert only(store).margin == pytest.approx((3 + 0 + 0 + 3) / 4)


def test_opposed_judgments_weaken_the_margin(store: Store) -> None:
    judged(store, [0, 0, 1], strength=2)

    assert only(store).margin == pytest.approx((2 + 2 - 2) / 3)


def test_a_skip_neither_decides_nor_weakens(store: Store) -> None:
    comparison = judged(store, [0], strength=2)
    judge(store, comparison, annotator_id="bo", verdict=Verdict.SKIPPED)

    preference = only(store)

    assert (preference.margin, len(preference.sources)) == (2.0, 1)


def test_the_sources_are_the_judgments_that_count(store: Store) -> None:
    comparison = make_comparison(store)
    judge(store, comparison, 1, annotator_id="ana")
    last_of_ana = judge(store, comparison, 0, annotator_id="ana")
    of_bo = judge(store, comparison, None, annotator_id="bo")

    assert only(store).sources == (last_of_ana.id, of_bo.id)


def test_preferences_stand_in_the_order_of_their_judgments(store: Store) -> None:
    first, second = make_comparison(store), make_comparison(store)
    judge(store, second)
    judge(store, first)

    found = [p.comparison_id for p in preferences.list_all(store)]

    assert found == [second.id, first.id]


def test_the_pairs_of_one_judgment_stand_in_the_order_of_their_ids(store: Store) -> None:
    judgments.record(store, make_judgment(make_comparison(store, "abcdefghi"), ranks=range(1, 10)))

    keys = [(p.chosen_completion_id, p.rejected_completion_id) for p in preferences.list_all(store)]

    assert len(keys) == 36
    assert keys == sorted(keys)


def test_every_pair_of_a_ranking_is_counted_its_prompt_once(store: Store) -> None:
    texts = ("a", "b", "b", "")
    judgments.record(store, make_judgment(make_comparison(store, texts), ranks=(1, 2, 3, 4)))

    counts = preferences.counts(store)

    assert (counts.trainable, counts.identical_texts, counts.empty_texts) == (2, 1, 3)
    assert counts.distinct_prompts == 1


def test_a_collected_preference_is_trainable(store: Store) -> None:
    make_preference(store)

    counts = preferences.counts(store)

    assert (counts.trainable, counts.distinct_prompts) == (1, 1)


def test_an_evaluation_is_never_trainable(store: Store) -> None:
    judge(store, make_comparison(store, purpose=Purpose.EVALUATE))

    counts = preferences.counts(store)

    assert (counts.trainable, counts.evaluation) == (0, 1)


def test_a_held_out_prompt_is_never_trainable(store: Store) -> None:
    make_preference(store, make_prompt(split=Split.HELD_OUT))

    counts = preferences.counts(store)

    assert (counts.trainable, counts.held_out) == (0, 1)


def test_equal_texts_are_never_trainable(store: Store) -> None:
    make_preference(store, chosen="Same.", rejected="Same.")

    counts = preferences.counts(store)

    assert (counts.trainable, counts.identical_texts) == (0, 1)


@pytest.mark.parametrize("texts", [("", "Something."), ("Something.", "")])
def test_an_empty_text_is_never_trainable(store: Store, texts: tuple[str, str]) -> None:
    make_preference(store, chosen=texts[0], rejected=texts[1])

    counts = preferences.counts(store)

    assert (counts.trainable, counts.empty_texts) == (0, 1)


@pytest.mark.parametrize(("winner", "cut_short"), [(0, 1), (1, 0)])
def test_a_chosen_text_that_was_cut_short_is_never_trainable(
    store: Store, winner: int, cut_short: int
) -> None:
    comparison = make_comparison(store, finish_reasons=("stopped", "stop"))
    judge(store, comparison, winner)

    counts = preferences.counts(store)

    assert (counts.trainable, counts.cut_short) == (1 - cut_short, cut_short)


def test_every_preference_is_counted_for_one_reason(store: Store) -> None:
    make_preference(store)
    make_preference(store, make_prompt("held out", split=Split.HELD_OUT), "Same.", "Same.")
    make_preference(store, chosen="Same.", rejected="Same.")
    make_preference(store, chosen="", rejected="Other.")
    judge(store, make_comparison(store, purpose=Purpose.EVALUATE))
    judge(store, make_comparison(store, finish_reasons=("stopped", "stop")))

    counts = preferences.counts(store)

    reasons = (counts.held_out, counts.evaluation, counts.identical_texts, counts.empty_texts)
    assert (counts.trainable, *reasons, counts.cut_short) == (1, 1, 1, 1, 1, 1)
