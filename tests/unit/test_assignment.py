"""Who gets which comparison."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence
from datetime import datetime

import pytest

from labeling import assignment as assigning
from labeling.assignment import LEASE_LIFE, Assignment
from store import comparisons, judgments, policies, reviews
from store.db import Store
from store.errors import StoreUnavailable
from store.records import Comparison, Decision, Lease, PromotionKind, Review, Verdict
from tests.builders import Clock, judge, make_comparison, make_judgment


def open_assignment(store: Store, *, min_submitted: int = 1, seed: int = 0) -> Assignment:
    return Assignment(store, min_submitted=min_submitted, rng=random.Random(seed))


def make_many(store: Store, n: int) -> list[Comparison]:
    return [make_comparison(store, prompt=f"Question {i}?") for i in range(n)]


def ids(leases: list[Lease]) -> set[str]:
    return {lease.comparison_id for lease in leases}


def claim(
    assignment: Assignment, annotator_id: str, want: int, held: Sequence[str] = ()
) -> list[Lease]:
    return assignment.claim(annotator_id, want, held=held).leases


def test_two_people_never_hold_the_same_comparison(store: Store) -> None:
    make_many(store, 10)
    assignment = open_assignment(store)
    ana = claim(assignment, "ana", 6)
    ben = claim(assignment, "ben", 6)
    assert len(ana) == 6
    assert len(ben) == 4
    assert not ids(ana) & ids(ben)


def test_what_is_upcoming_is_what_is_handed_out_next(store: Store) -> None:
    made = make_many(store, 6)
    assignment = open_assignment(store)
    claim(assignment, "ana", 2)
    assignment.withdraw(made[3].id)

    foretold = assignment.upcoming(2)

    assert foretold == [lease.comparison_id for lease in claim(assignment, "ben", 2)]
    assert made[3].id not in assignment.upcoming(9)


def test_a_hundred_threads_claiming_at_once_get_each_comparison_once(store: Store) -> None:
    make_many(store, 60)
    assignment = open_assignment(store)
    barrier = threading.Barrier(20)
    claimed: list[Lease] = []

    def take(who: int) -> None:
        barrier.wait()
        claimed.extend(claim(assignment, f"annotator-{who}", 5))

    threads = [threading.Thread(target=take, args=(i,)) for i in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(claimed) == 60
    assert len(ids(claimed)) == 60


def test_overlap_gives_a_comparison_to_that_many_different_people(store: Store) -> None:
    make_many(store, 1)
    assignment = open_assignment(store, min_submitted=2)
    assert len(claim(assignment, "ana", 1)) == 1
    assert len(claim(assignment, "ben", 1)) == 1
    assert claim(assignment, "cem", 1) == []


def test_a_judged_comparison_is_not_given_again(store: Store) -> None:
    (comparison,) = make_many(store, 1)
    assignment = open_assignment(store)
    claim(assignment, "ana", 1)
    assignment.settle(comparison.id, "ana", Verdict.TIE)
    assert claim(assignment, "ana", 1) == []
    assert claim(assignment, "ben", 1) == []
    assert assignment.counts().done == 1


def test_a_skipped_comparison_goes_to_somebody_else_only(store: Store) -> None:
    (comparison,) = make_many(store, 1)
    assignment = open_assignment(store)
    claim(assignment, "ana", 1)
    assignment.settle(comparison.id, "ana", Verdict.SKIPPED)
    assert claim(assignment, "ana", 1) == []
    assert ids(claim(assignment, "ben", 1)) == {comparison.id}


def test_a_retraction_gives_the_comparison_back_to_the_pool(store: Store) -> None:
    (comparison,) = make_many(store, 1)
    assignment = open_assignment(store)
    claim(assignment, "ana", 1)
    assignment.settle(comparison.id, "ana", Verdict.TIE)
    assignment.settle(comparison.id, "ana", Verdict.RETRACTED)
    assert ids(claim(assignment, "ben", 1)) == {comparison.id}


def test_a_reload_gives_first_what_the_annotator_holds_already(store: Store) -> None:
    make_many(store, 5)
    assignment = open_assignment(store)
    before = claim(assignment, "ana", 2)
    after = claim(assignment, "ana", 3)
    assert [x.id for x in after[:2]] == [x.id for x in before]
    assert [x.display_order for x in after[:2]] == [x.display_order for x in before]
    assert len(after) == 3


def test_held_items_are_not_sent_twice(store: Store) -> None:
    make_many(store, 5)
    assignment = open_assignment(store)
    first = claim(assignment, "ana", 2)
    second = claim(assignment, "ana", 2, held=[x.id for x in first])
    assert not ids(first) & ids(second)


def test_an_expired_lease_goes_to_others(store: Store, clock: Clock) -> None:
    (comparison,) = make_many(store, 1)
    assignment = open_assignment(store)
    claim(assignment, "ana", 1)
    clock.advance(seconds=LEASE_LIFE.total_seconds() + 1)
    assert ids(claim(assignment, "ben", 1)) == {comparison.id}


def test_a_page_that_still_holds_its_items_keeps_them_from_expiring(
    store: Store, clock: Clock
) -> None:
    make_many(store, 1)
    assignment = open_assignment(store)
    (lease,) = claim(assignment, "ana", 1)
    for _ in range(3):
        clock.advance(seconds=LEASE_LIFE.total_seconds() * 0.9)
        assignment.claim("ana", 0, held=[lease.id])
    assert claim(assignment, "ben", 1) == []


def test_a_released_item_goes_to_others_at_once(store: Store) -> None:
    (comparison,) = make_many(store, 1)
    assignment = open_assignment(store)
    (lease,) = claim(assignment, "ana", 1)
    assignment.release("ana", [lease.id])
    assert ids(claim(assignment, "ben", 1)) == {comparison.id}


def test_nobody_can_release_what_somebody_else_holds(store: Store) -> None:
    make_many(store, 1)
    assignment = open_assignment(store)
    (lease,) = claim(assignment, "ana", 1)
    assignment.release("ben", [lease.id])
    assert claim(assignment, "ben", 1) == []


def test_a_restart_remembers_leases_judgments_and_skips(store: Store) -> None:
    judged, skipped, held = make_many(store, 3)
    judge(store, judged, annotator_id="ana")
    judge(store, skipped, preferred=None, verdict=Verdict.SKIPPED, annotator_id="ana")
    before = open_assignment(store)
    (lease,) = claim(before, "ana", 1)
    assert lease.comparison_id == held.id

    after = open_assignment(store, seed=1)
    assert claim(after, "ana", 3) == [after.lease("ana", lease.id)]
    assert ids(claim(after, "ben", 3)) == {skipped.id}
    assert after.counts().done == 1


def test_sides_are_drawn_evenly(store: Store) -> None:
    make_many(store, 200)
    leases = claim(open_assignment(store), "ana", 200)
    first_on_the_left = sum(lease.display_order == (0, 1) for lease in leases)
    assert 70 <= first_on_the_left <= 130
    assert {lease.display_order for lease in leases} == {(0, 1), (1, 0)}


def go_live(store: Store, kind: PromotionKind = PromotionKind.PROMOTE) -> datetime:
    promotion = policies.record_promotion(store, "pol-000001", kind=kind, annotator_id=None)
    return promotion.created_at


def test_newer_comparisons_come_before_stale_ones(store: Store, clock: Clock) -> None:
    (old,) = make_many(store, 1)
    assignment = open_assignment(store)
    clock.advance(seconds=1)
    assignment.make_stale(since=go_live(store))
    new = make_comparison(store, prompt="Newer?")
    assignment.add([new], made_at=clock.now)
    first, second = claim(assignment, "ana", 2)
    assert (first.comparison_id, second.comparison_id) == (new.id, old.id)


def test_what_was_begun_before_a_promotion_is_stale_when_it_comes(
    store: Store, clock: Clock
) -> None:
    assignment = open_assignment(store)
    began = clock.now
    clock.advance(seconds=1)
    assignment.make_stale(since=go_live(store))
    assignment.add([make_comparison(store)], made_at=began)
    assert (assignment.count_fresh(9), assignment.counts().ready) == (0, 1)


def test_a_restart_remembers_what_is_stale(store: Store, clock: Clock) -> None:
    go_live(store, PromotionKind.INITIAL)
    make_many(store, 3)
    clock.advance(seconds=1)
    go_live(store)
    make_comparison(store, prompt="Newer?")
    assignment = open_assignment(store)
    assert (assignment.count_fresh(9), assignment.counts().ready) == (1, 4)


def test_the_first_policy_makes_nothing_stale(store: Store, clock: Clock) -> None:
    make_many(store, 3)
    clock.advance(seconds=1)
    go_live(store, PromotionKind.INITIAL)
    assert open_assignment(store).count_fresh(9) == 3


def test_what_somebody_skipped_does_not_count_as_waiting(store: Store) -> None:
    make_many(store, 2)
    assignment = open_assignment(store)
    (lease,) = claim(assignment, "ana", 1)
    assignment.settle(lease.comparison_id, "ana", Verdict.SKIPPED)
    assert assignment.count_fresh(9) == 1


def test_a_released_item_that_a_page_still_shows_is_its_own_again(store: Store) -> None:
    make_many(store, 1)
    assignment = open_assignment(store)
    (lease,) = claim(assignment, "ana", 1)
    assignment.release("ana", [lease.id])
    assert assignment.claim("ana", 0, held=[lease.id]).gone == []
    assert claim(assignment, "ben", 1) == []


def test_a_page_is_told_what_went_to_somebody_else(store: Store) -> None:
    make_many(store, 1)
    assignment = open_assignment(store)
    (lease,) = claim(assignment, "ana", 1)
    assignment.release("ana", [lease.id])
    claim(assignment, "ben", 1)
    assert assignment.claim("ana", 0, held=[lease.id]).gone == [lease.id]


@pytest.mark.parametrize("verdict", [Verdict.TIE, Verdict.SKIPPED])
def test_a_page_that_still_names_what_was_judged_does_not_get_it_again(
    store: Store, verdict: Verdict
) -> None:
    (comparison,) = make_many(store, 1)
    assignment = open_assignment(store)
    (lease,) = claim(assignment, "ana", 1)
    assignment.settle(comparison.id, "ana", verdict)
    assignment.claim("ana", 0, held=[lease.id])
    assert claim(assignment, "ana", 1) == []


def test_nobody_takes_back_the_lease_of_another(store: Store) -> None:
    make_many(store, 1)
    assignment = open_assignment(store)
    (lease,) = claim(assignment, "ana", 1)
    assignment.release("ana", [lease.id])
    assert assignment.claim("ben", 0, held=[lease.id]).gone == [lease.id]
    assert assignment.lease("ben", lease.id) is None


def test_after_an_import_a_released_item_stays_with_whoever_took_it(store: Store) -> None:
    (comparison,) = make_many(store, 1)
    assignment = open_assignment(store)
    (lease,) = claim(assignment, "ana", 1)
    assignment.release("ana", [lease.id])
    claim(assignment, "ben", 1)
    assignment.settle(comparison.id, "ben", Verdict.TIE)
    assignment.reload()
    assert claim(assignment, "ana", 1) == []


def test_after_a_restart_the_last_holder_keeps_the_place(store: Store, clock: Clock) -> None:
    make_many(store, 1)
    before = open_assignment(store)
    (lease,) = claim(before, "ana", 1)
    before.release("ana", [lease.id])
    clock.advance(seconds=1)
    (later,) = claim(before, "ben", 1)

    after = open_assignment(store)
    assert claim(after, "ana", 1) == []
    assert [x.id for x in claim(after, "ben", 1)] == [later.id]


def test_a_lease_that_could_not_be_stored_is_held_by_nobody(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_many(store, 1)
    assignment = open_assignment(store)

    def fail(*_: object) -> None:
        raise StoreUnavailable("The disk is full.")

    with monkeypatch.context() as patched:
        patched.setattr(comparisons, "record_leases", fail)
        with pytest.raises(StoreUnavailable):
            claim(assignment, "ana", 1)
    (lease,) = claim(assignment, "ana", 1)
    assert comparisons.get_lease(store, lease.id) == lease


@pytest.mark.parametrize("want", [0, 1, 7])
def test_no_more_than_wanted_is_given(store: Store, want: int) -> None:
    make_many(store, 8)
    assert len(claim(open_assignment(store), "ana", want)) == want


def settle_next(
    assignment: Assignment, annotator_id: str, verdict: Verdict = Verdict.TIE
) -> str | None:
    """Which comparison a person got and judged; None where there was none."""
    leases = claim(assignment, annotator_id, 1)
    for lease in leases:
        assignment.settle(lease.comparison_id, annotator_id, verdict)
    return leases[0].comparison_id if leases else None


def test_what_was_begun_is_finished_before_anything_new(store: Store) -> None:
    assignment = open_assignment(store, min_submitted=2)
    made = make_many(store, 4)
    assignment.add(made, made_at=store.clock())
    claim(assignment, "cem", 1)  # holds one place of the first
    assert settle_next(assignment, "ana", Verdict.SKIPPED) == made[0].id
    assert settle_next(assignment, "ana") == made[1].id
    assert [settle_next(assignment, "ben") for _ in range(2)] == [made[1].id, made[0].id]


def test_what_an_earlier_policy_began_waits_for_what_is_newer(store: Store, clock: Clock) -> None:
    (old,) = make_many(store, 1)
    assignment = open_assignment(store, min_submitted=2)
    settle_next(assignment, "ana")
    clock.advance(seconds=1)
    assignment.make_stale(since=go_live(store))
    new = make_comparison(store, prompt="Newer?")
    assignment.add([new], made_at=clock.now)
    assert [settle_next(assignment, "ben") for _ in range(2)] == [new.id, old.id]


def test_a_higher_overlap_opens_what_was_done_again_for_others(store: Store) -> None:
    (comparison,) = make_many(store, 1)
    assignment = open_assignment(store)
    settle_next(assignment, "ana")
    assignment.require(2)
    assert assignment.counts() == (1, 0, 1)
    assert claim(assignment, "ana", 1) == []
    assert settle_next(assignment, "ben") == comparison.id
    assert assignment.counts() == (0, 1, 1)


def test_what_an_earlier_policy_wrote_is_not_pulled_forward_by_a_higher_overlap(
    store: Store, clock: Clock
) -> None:
    old = {comparison.id for comparison in make_many(store, 3)}
    assignment = open_assignment(store)
    settle_next(assignment, "ana")
    (held,) = claim(assignment, "ana", 1)
    clock.advance(seconds=1)
    assignment.make_stale(since=go_live(store))
    new = make_comparison(store, prompt="Newer?")
    assignment.add([new], made_at=clock.now)
    assignment.require(2)
    assignment.release("ana", [held.id])
    order = [lease.comparison_id for lease in claim(assignment, "ben", 4)]
    assert order[0] == new.id
    assert set(order[1:]) == old


def test_a_lower_overlap_closes_places_and_takes_nothing_from_those_who_hold_one(
    store: Store,
) -> None:
    assignment = open_assignment(store, min_submitted=3)
    judged, held = make_many(store, 2)
    assignment.add([judged, held], made_at=store.clock())
    assert settle_next(assignment, "ana") == judged.id
    leases = {who: claim(assignment, who, 2) for who in ("ben", "cem")}
    assert [ids(leases[who]) for who in leases] == [{judged.id, held.id}] * 2
    assignment.require(1)
    assert assignment.counts() == (0, 1, 2)
    assert claim(assignment, "dan", 2) == []
    for who, own in leases.items():
        assert all(assignment.lease(who, lease.id) == lease for lease in own)
        assignment.settle(held.id, who, Verdict.TIE)
    assert assignment.counts() == (0, 2, 2)


def test_a_restart_counts_by_the_overlap_that_is_asked_for(store: Store) -> None:
    half, done = make_many(store, 2)
    for comparison, people in ((half, ("ana",)), (done, ("ana", "ben"))):
        for who in people:
            judge(store, comparison, annotator_id=who)
    assignment = open_assignment(store, min_submitted=2)
    assert assignment.counts() == (1, 1, 2)
    assert ids(claim(assignment, "cem", 2)) == {half.id}


def test_no_place_is_given_twice_while_the_overlap_changes(store: Store) -> None:
    """Twelve people judge all they get; a lead moves the overlap between two and four."""
    comparisons_made = make_many(store, 40)
    assignment = open_assignment(store, min_submitted=2)
    judged: list[tuple[str, str]] = []
    ended = threading.Event()
    barrier = threading.Barrier(13)

    def work(who: str) -> None:
        barrier.wait()
        while leases := claim(assignment, who, 3):
            for lease in leases:
                judged.append((lease.comparison_id, who))
                assignment.settle(lease.comparison_id, who, Verdict.TIE)

    def change() -> None:
        barrier.wait()
        while not ended.wait(0.001):
            assignment.require(4)
            assignment.require(2)

    people = [threading.Thread(target=work, args=(f"annotator-{i}",)) for i in range(12)]
    lead = threading.Thread(target=change)
    for thread in (*people, lead):
        thread.start()
    for thread in people:
        thread.join()
    ended.set()
    lead.join()
    assert len(set(judged)) == len(judged)
    counts = [sum(id == c.id for id, _ in judged) for c in comparisons_made]
    assert set(counts) <= {2, 3, 4}
    assert assignment.counts() == (0, 40, 40)


def test_half_judged_comparisons_do_not_keep_new_ones_from_being_made(store: Store) -> None:
    make_many(store, 3)
    assignment = open_assignment(store, min_submitted=2)
    settle_next(assignment, "ana")
    claim(assignment, "ana", 1)
    assert (assignment.count_fresh(9), assignment.counts().ready) == (1, 3)


def test_a_skip_goes_to_the_others_one_after_the_other(store: Store) -> None:
    (comparison,) = make_many(store, 1)
    assignment = open_assignment(store, min_submitted=2)
    for who in ("ana", "ben", "cem"):
        assert settle_next(assignment, who, Verdict.SKIPPED) == comparison.id
        assert claim(assignment, who, 1) == []


def test_what_everyone_skipped_is_counted_until_somebody_sees_it(store: Store) -> None:
    make_many(store, 2)
    assignment = open_assignment(store, min_submitted=2)
    for who in ("ana", "ben"):
        settle_next(assignment, who, Verdict.SKIPPED)
    assert assignment.count_skipped_by_all() == 1
    cem = claim(assignment, "cem", 2)
    assert assignment.count_skipped_by_all() == 0
    assignment.release("cem", [lease.id for lease in cem])
    assert assignment.count_skipped_by_all() == 1
    assert settle_next(assignment, "cem") is not None
    assert settle_next(assignment, "cem") is not None
    assert assignment.count_skipped_by_all() == 0


def test_an_expired_place_of_several_goes_to_others(store: Store, clock: Clock) -> None:
    (comparison,) = make_many(store, 1)
    assignment = open_assignment(store, min_submitted=2)
    claim(assignment, "ana", 1)
    settle_next(assignment, "ben")
    assert claim(assignment, "cem", 1) == []
    clock.advance(seconds=LEASE_LIFE.total_seconds() + 1)
    assert ids(claim(assignment, "cem", 1)) == {comparison.id}
    assert claim(assignment, "ana", 1) == []


def test_a_place_given_back_is_offered_to_those_who_have_looked_before(store: Store) -> None:
    (comparison,) = make_many(store, 1)
    assignment = open_assignment(store)
    (lease,) = claim(assignment, "ana", 1)
    for _ in range(3):
        assert claim(assignment, "ben", 1) == []
    assignment.release("ana", [lease.id])
    assert ids(claim(assignment, "ben", 1)) == {comparison.id}


def test_a_long_history_of_skips_and_releases_forgets_nothing(store: Store) -> None:
    """The lines are tidied many times over; whoever comes last still gets all that is left."""
    made = {comparison.id for comparison in make_many(store, 20)}
    assignment = open_assignment(store)
    for _ in range(150):
        leases = claim(assignment, "ana", 20)
        assert ids(leases) == made
        assignment.release("ana", [lease.id for lease in leases])
    assert ids(claim(assignment, "ben", 20)) == made


def test_a_reserved_comparison_stays_one_persons_whatever_overlap_is_asked_for(
    store: Store,
) -> None:
    assignment = open_assignment(store)
    comparison = make_comparison(store)
    assignment.reserve(comparison, made_at=store.clock())
    assignment.settle(comparison.id, "ana", Verdict.TIE)
    assignment.require(3)
    assert assignment.counts() == (0, 1, 1)
    assert not assignment.is_anything_open()
    assert claim(assignment, "ben", 1) == []


@pytest.mark.parametrize("seed", range(3))
def test_what_was_done_long_ago_is_looked_up_as_if_it_had_been_kept(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """After anything that can happen, it stands as after a restart, once no lease is open."""
    monkeypatch.setattr(assigning, "MAX_DONE_KEPT", 2)
    draw = random.Random(seed)
    made = {comparison.id: comparison for comparison in make_many(store, 14)}
    assignment = open_assignment(store)
    people, overlap = ("ana", "ben", "cem", "dan"), 1

    def say(id: str, who: str, verdict: Verdict) -> None:
        before = judgments.latest(store, id, who)
        said = make_judgment(
            made[id],
            annotator_id=who,
            verdict=verdict,
            supersedes=before.id if before else None,
            recorded_at=store.clock(),
        )
        judgments.record(store, said)
        assignment.settle(id, who, verdict)

    def decide(id: str, decision: Decision) -> None:
        number = draw.randrange(10**12)
        reviews.record(store, Review(f"r{number}", id, decision, "lea", store.clock()))

    for step in range(60):
        who, deed = draw.choice(people), draw.random()
        judged = [id for id in made if judgments.latest(store, id, who)]
        if deed < 0.55:
            for lease in claim(assignment, who, 1):
                skips = draw.random() < 0.15
                say(lease.comparison_id, who, Verdict.SKIPPED if skips else Verdict.TIE)
        elif deed < 0.75 and judged:
            changed = draw.choice([Verdict.RETRACTED, Verdict.SKIPPED, Verdict.BOTH_BAD])
            say(draw.choice(judged), who, changed)
        elif deed < 0.8 and judged:
            id = draw.choice(judged)
            decide(id, Decision.WITHDRAWN)
            assignment.withdraw(id)
        elif deed < 0.85 and judged:
            id = draw.choice(judged)
            decide(id, Decision.KEPT)
            assignment.restore(id)
        elif deed < 0.9:
            overlap = draw.choice([1, 2, 3])
            assignment.require(overlap)

        if step % 10 == 9:
            anew = open_assignment(store, min_submitted=overlap)
            assert assignment.counts()[1:] == anew.counts()[1:]
    clock.advance(seconds=2 * LEASE_LIFE.total_seconds())
    for who in people:
        handed_out = [claim(known, who, 14) for known in (assignment, anew)]
        assert ids(handed_out[0]) == ids(handed_out[1])
        for known, leases in zip((assignment, anew), handed_out, strict=True):
            known.release(who, [lease.id for lease in leases])
    assert assignment.counts() == anew.counts()


def test_what_was_taken_back_long_after_it_was_done_can_be_given_anew(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assigning, "MAX_DONE_KEPT", 0)
    (comparison,) = make_many(store, 1)
    assignment = open_assignment(store)
    (lease,) = claim(assignment, "ana", 1)
    said = judge(store, comparison)
    assignment.settle(comparison.id, "ana", said.verdict)
    assert assignment.counts() == (0, 1, 1)
    undone = make_judgment(comparison, verdict=Verdict.RETRACTED, supersedes=said.id)
    judgments.record(store, undone)
    assignment.settle(comparison.id, "ana", Verdict.RETRACTED)
    assert assignment.reinstate(lease).id == lease.id
    assert assignment.counts() == (0, 0, 1)
    assert assignment.lease("ana", lease.id) is not None
