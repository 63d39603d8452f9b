"""Values from K. Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from labeling.agreement import Agreement, Unit, agreement, preference_agreement
from store.db import Store
from tests.builders import judge, make_comparison


def units(*people: str) -> list[Unit]:
    """Answers as the paper prints them, one string a person; a dot is none."""
    kinds = sorted({answer for answers in people for answer in answers} - {"."})
    return [Unit([Counter(unit)[k] for k in kinds]) for unit in zip(*people, strict=True)]


@pytest.mark.parametrize(
    ("people", "alpha"),
    [
        (("0100000010", "1110010000"), 0.095),  # section A: two values
        (("aabbdcccedda", "babbbccceddd"), 0.692),  # section B: nominal
        (
            ("123321412...", "1233224125.3", ".3332342251.", "12332441251."),
            0.743,  # section C: four people, answers missing
        ),
    ],
)
def test_alpha_is_what_was_published(people: Sequence[str], alpha: float) -> None:
    assert agreement(units(*people)).alpha == pytest.approx(alpha, abs=0.0005)


def test_only_those_who_preferred_a_response_count_for_what_a_model_is_held_against(
    store: Store,
) -> None:
    agreed, parted, tied = (make_comparison(store, prompt=f"{n}?") for n in range(3))
    for comparison, other in ((agreed, 0), (parted, 1)):
        judge(store, comparison, 0, annotator_id="ana")
        judge(store, comparison, other, annotator_id="ben")
    judge(store, tied, 0, annotator_id="ana")
    judge(store, tied, None, annotator_id="ben")

    found = preference_agreement(store)

    assert (found.raw, found.units) == (0.5, 2)


def test_raw_agreement_is_the_share_of_pairs_of_people_who_agree() -> None:
    found = agreement([Unit((2, 0, 0)), Unit((1, 1, 0)), Unit((2, 1, 0))])

    assert found.raw == pytest.approx((1 + 0 + 1) / (1 + 1 + 3))
    assert found.units == 3


def test_units_may_be_counted_instead_of_repeated() -> None:
    repeated = [Unit((2, 0, 1))] * 5 + [Unit((0, 3, 0))] * 2

    assert agreement([Unit((2, 0, 1), 5), Unit((0, 3, 0), 2)]) == agreement(repeated)


def test_what_one_person_judged_says_nothing() -> None:
    shared = [Unit((2, 0)), Unit((1, 1)), Unit((0, 2))]

    assert agreement([*shared, Unit((1, 0), 50)]) == agreement(shared)
    assert agreement([Unit((1, 0), 50)]) == Agreement(None, None, 0)


def test_alpha_is_unknown_where_all_say_the_same() -> None:
    assert agreement([Unit((2, 0)), Unit((3, 0))]) == Agreement(1.0, None, 2)
