from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import timedelta

import pytest

from store import comparisons, judgments
from store.db import Store
from store.errors import NotFound
from store.records import Comparison, Lease, Purpose, Verdict
from tests.builders import Clock, judge, make_comparison, make_judgment


def make_lease(
    store: Store,
    comparison: Comparison,
    *,
    order: Sequence[int] = (1, 0),
    seconds: float = 900,
) -> Lease:
    now = store.clock()
    expires = now + timedelta(seconds=seconds)
    lease = Lease(uuid.uuid4().hex, comparison.id, "ana", tuple(order), now, expires)
    comparisons.record_leases(store, [lease])
    return lease


def test_a_comparison_comes_back_as_it_was_stored(store: Store) -> None:
    made = make_comparison(store, purpose=Purpose.EVALUATE)

    assert comparisons.get(store, made.id) == made


def test_more_than_two_completions_keep_their_order(store: Store) -> None:
    made = make_comparison(store, ("c", "a", "b"))

    assert comparisons.get(store, made.id).completion_ids == made.completion_ids


def test_an_unknown_comparison_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound, match="no comparison nowhere"):
        comparisons.get(store, "nowhere")


def test_progress_names_those_whose_judgment_counts(store: Store) -> None:
    made = make_comparison(store)
    for annotator in ("ana", "bo"):
        judge(store, made, annotator_id=annotator)

    (progress,) = comparisons.progress(store)

    assert set(progress.annotator_ids) == {"ana", "bo"}
    assert progress.skipped_by == ()


def test_progress_keeps_skips_apart(store: Store) -> None:
    made = make_comparison(store)
    judge(store, made, annotator_id="ana", verdict=Verdict.SKIPPED)

    (progress,) = comparisons.progress(store)

    assert (progress.annotator_ids, progress.skipped_by) == ((), ("ana",))


def test_a_retracted_judgment_is_no_progress(store: Store) -> None:
    made = make_comparison(store)
    judge(store, made)
    judge(store, made, verdict=Verdict.RETRACTED)

    (progress,) = comparisons.progress(store)

    assert progress.annotator_ids == ()


def test_progress_lists_the_oldest_first(store: Store, clock: Clock) -> None:
    made = []
    for _ in range(3):
        made.append(make_comparison(store).id)
        clock.advance(seconds=1)

    assert [p.comparison_id for p in comparisons.progress(store)] == made


def test_what_an_import_has_judged_is_not_for_the_page(store: Store) -> None:
    made = make_comparison(store)
    imported = make_judgment(made, source="some import")
    store.write(lambda cursor: judgments.insert_imported(cursor, [imported]))

    assert comparisons.progress(store) == []


def test_a_lease_remembers_the_order_that_was_shown(store: Store) -> None:
    lease = make_lease(store, make_comparison(store), order=(1, 0))

    assert comparisons.get_lease(store, lease.id) == lease


def test_an_unknown_lease_asks_to_reload(store: Store) -> None:
    with pytest.raises(NotFound, match="reload the page"):
        comparisons.get_lease(store, "nowhere")


def test_a_lease_is_open_until_it_expires(store: Store, clock: Clock) -> None:
    lease = make_lease(store, make_comparison(store), seconds=60)

    assert comparisons.open_leases(store, now=clock.advance(seconds=59)) == [lease]
    assert comparisons.open_leases(store, now=clock.advance(seconds=1)) == []


def test_a_judged_lease_is_no_longer_open(store: Store, clock: Clock) -> None:
    made = make_comparison(store)
    make_lease(store, made)
    judge(store, made, annotator_id="ana")

    assert comparisons.open_leases(store, now=clock.now) == []


def test_someone_elses_judgment_leaves_a_lease_open(store: Store, clock: Clock) -> None:
    made = make_comparison(store)
    lease = make_lease(store, made)
    judge(store, made, annotator_id="bo")

    assert comparisons.open_leases(store, now=clock.now) == [lease]


@pytest.mark.parametrize(
    ("ratings", "told"),
    [((5, 2), (1, 0, 0)), ((1, 4), (0, 1, 0)), ((3, 3), (0, 0, 1)), ((5, None), (0, 0, 0))],
)
def test_of_two_policies_whose_responses_were_rated_the_higher_rating_wins(
    store: Store, ratings: tuple[int | None, int | None], told: tuple[int, int, int]
) -> None:
    versions = ("pol-000001", "pol-000000")
    duel = make_comparison(store, purpose=Purpose.EVALUATE, policy_versions=versions)
    shown_the_other_way = make_judgment(duel, ratings=ratings[::-1], displayed=(1, 0))
    judgments.record(store, shown_the_other_way)

    new = next(h for h in comparisons.heads_to_heads(store) if h.version == "pol-000001")

    assert (new.wins, new.losses, new.draws) == told
