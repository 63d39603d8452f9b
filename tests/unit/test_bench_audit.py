"""The judging benchmark must be able to find what it says is not there."""

from __future__ import annotations

import uuid
from datetime import timedelta

from store import comparisons, judgments
from store.db import Store
from store.records import Comparison, Lease, Verdict
from tests.bench import stock
from tests.bench.audit import audit
from tests.builders import Clock, judge, make_comparison, make_judgment


def lease(store: Store, comparison: Comparison, annotator_id: str) -> Lease:
    now = store.clock()
    made = Lease(
        uuid.uuid4().hex, comparison.id, annotator_id, (0, 1), now, now + timedelta(minutes=30)
    )
    comparisons.record_leases(store, [made])
    return made


def test_an_acknowledged_judgment_that_the_store_lacks_is_lost(store: Store) -> None:
    saved = [judge(store, make_comparison(store)).id for _ in range(3)]

    assert audit(store, saved).lost == 0
    assert audit(store, [*saved, "acknowledged-and-gone"]).lost == 1


def test_a_comparison_judged_by_two_people_was_given_out_twice(store: Store) -> None:
    made = make_comparison(store)
    judge(store, made, annotator_id="ana")
    assert audit(store, []).double_leased == 0

    judge(store, made, annotator_id="ben")

    assert audit(store, []).double_leased == 1


def test_a_skipped_comparison_may_be_judged_by_another(store: Store, clock: Clock) -> None:
    made = make_comparison(store)
    held = lease(store, made, "ana")
    clock.advance(seconds=5)
    skip = make_judgment(
        made, annotator_id="ana", verdict=Verdict.SKIPPED, lease_id=held.id, recorded_at=clock.now
    )
    judgments.record(store, skip)
    lease(store, made, "ben")
    judge(store, made, annotator_id="ben")

    assert audit(store, []).double_leased == 0


def test_two_open_leases_of_one_comparison_are_one_given_out_twice(
    store: Store, clock: Clock
) -> None:
    made = make_comparison(store)
    lease(store, made, "ana")
    clock.advance(seconds=5)
    lease(store, made, "ben")

    assert audit(store, []).double_leased == 1


def test_an_expired_lease_is_not_open(store: Store, clock: Clock) -> None:
    made = make_comparison(store)
    lease(store, made, "ana")
    clock.advance(seconds=31 * 60)
    lease(store, made, "ben")

    assert audit(store, []).double_leased == 0


def test_a_stocked_store_has_what_was_asked_for_and_nothing_amiss(store: Store) -> None:
    ids = stock.add_people(store, ["ana", "ben"], "correct horse battery")
    stock.add_history(store, 100, ids)
    stock.add_waiting(store, 20)

    found = comparisons.progress(store)

    assert len([x for x in found if x.annotator_ids]) == 100
    assert len([x for x in found if not x.annotator_ids]) == 20
    assert {id for x in found for id in x.annotator_ids} == set(ids)
    assert audit(store, []) == (0, 0)
    first = comparisons.get(store, found[0].comparison_id)
    assert len(first.completion_ids) == 2
