"""The queue of flagged comparisons, and what a decision changes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from labeling.access import Actor
from labeling.assignment import Assignment
from labeling.reviewing import PAGE_SIZE, Reviewing, ReviewItem, SideShare
from store import comparisons, judgments, preferences
from store.db import Store
from store.errors import BadInput, NotAllowed, NotFound
from store.records import Comparison, Decision, Flag, Judgment, Purpose, Role, Verdict
from store.reviews import Stage
from tests.builders import Clock, judge, make_annotator, make_comparison, make_judgment

LEAD = Actor("lea", "Lea", Role.LEAD)


@pytest.fixture
def assignment(store: Store) -> Assignment:
    return open_assignment(store)


@pytest.fixture
def reviewing(store: Store, assignment: Assignment) -> Reviewing:
    return Reviewing(store, assignment)


def open_assignment(store: Store) -> Assignment:
    return Assignment(store, rng=random.Random(0))


def flag(
    store: Store,
    comparison: Comparison,
    *flags: Flag,
    annotator_id: str = "ana",
    verdict: Verdict | None = None,
) -> Judgment:
    said = make_judgment(comparison, annotator_id=annotator_id, verdict=verdict)
    told = flags or (Flag("unsafe", comparison.completion_ids[0]),)
    return judgments.record(store, replace(said, flags=told, recorded_at=store.clock()))


def in_stage(reviewing: Reviewing, stage: Stage = Stage.OPEN) -> list[ReviewItem]:
    return reviewing.page(LEAD, stage, number=1).items


def ids(items: Sequence[ReviewItem]) -> list[str]:
    return [item.comparison_id for item in items]


def decide(reviewing: Reviewing, item: ReviewItem, decision: Decision, note: str = "") -> None:
    reviewing.decide(LEAD, item.comparison_id, decision, seen_seq=item.newest_seq, note=note)


def test_an_item_tells_what_was_flagged_by_whom_and_when(
    store: Store, reviewing: Reviewing, clock: Clock
) -> None:
    ana, bo = make_annotator(store, "Ana"), make_annotator(store, "Bo")
    comparison = make_comparison(store, ("first", "second"), prompt="Why?")
    one, other = comparison.completion_ids
    said = make_judgment(comparison, annotator_id=ana.id, displayed=(1, 0))
    flags = (Flag("unsafe", other), Flag("off_topic"))
    judgments.record(store, replace(said, flags=flags, rationale="It asks for a password."))
    clock.advance(seconds=60)
    flag(store, comparison, Flag("unsafe", other), Flag("off_topic", other), annotator_id=bo.id)

    (item,) = in_stage(reviewing)

    assert item.messages == ({"role": "user", "content": "Why?"},)
    assert item.responses == (("first", 0, ()), ("second", 2, ("unsafe", "off_topic")))
    assert (item.prompt_flagged_by, item.prompt_kinds) == (1, ("off_topic",))
    assert [f.annotator for f in item.flagged] == ["Ana", "Bo"]
    assert [f.rationale for f in item.flagged] == ["It asks for a password.", None]
    assert item.flagged[1].recorded_at == clock.now
    assert one != other


def test_what_nobody_flagged_is_not_in_the_queue(store: Store, reviewing: Reviewing) -> None:
    judge(store, make_comparison(store))

    assert in_stage(reviewing) == []


def test_an_undone_flag_leaves_the_queue(store: Store, reviewing: Reviewing) -> None:
    comparison = make_comparison(store)
    said = flag(store, comparison)
    undo = make_judgment(comparison, verdict=Verdict.RETRACTED, supersedes=said.id)
    judgments.record(store, undo)

    assert in_stage(reviewing) == []


def test_a_correction_without_the_flag_leaves_the_queue(store: Store, reviewing: Reviewing) -> None:
    comparison = make_comparison(store)
    flag(store, comparison)
    judge(store, comparison, 1)

    assert in_stage(reviewing) == []


def test_a_flag_counts_although_its_author_could_not_judge(
    store: Store, reviewing: Reviewing
) -> None:
    comparison = make_comparison(store)
    flag(store, comparison, verdict=Verdict.SKIPPED)

    assert ids(in_stage(reviewing)) == [comparison.id]


def test_open_ones_stand_as_they_were_flagged(store: Store, reviewing: Reviewing) -> None:
    first, second = make_comparison(store), make_comparison(store)
    flag(store, second)
    flag(store, first)

    assert ids(in_stage(reviewing)) == [second.id, first.id]


@pytest.mark.parametrize("decision", Decision)
def test_a_decision_moves_an_item(store: Store, reviewing: Reviewing, decision: Decision) -> None:
    lea = make_annotator(store, "Lea", Role.LEAD)
    flag(store, make_comparison(store))
    (item,) = in_stage(reviewing)

    reviewing.decide(
        Actor(lea.id, lea.name, Role.LEAD),
        item.comparison_id,
        decision,
        seen_seq=item.newest_seq,
        note=" Seen. ",
    )

    assert in_stage(reviewing) == []
    (decided,) = in_stage(reviewing, Stage(decision.value))
    assert decided.review is not None
    assert (decided.review.note, decided.reviewer) == ("Seen.", "Lea")
    counts = reviewing.page(LEAD, Stage.OPEN, number=1).counts
    assert counts == {stage: int(stage.value == decision.value) for stage in Stage}


def test_a_decision_can_be_changed(store: Store, reviewing: Reviewing) -> None:
    flag(store, make_comparison(store))
    (item,) = in_stage(reviewing)
    decide(reviewing, item, Decision.WITHDRAWN)
    assert preferences.list_all(store) == []

    decide(reviewing, item, Decision.KEPT)

    assert ids(in_stage(reviewing, Stage.KEPT)) == [item.comparison_id]
    assert in_stage(reviewing, Stage.WITHDRAWN) == []
    assert len(preferences.list_all(store)) == 1


def test_flags_that_came_later_open_what_was_kept(store: Store, reviewing: Reviewing) -> None:
    comparison = make_comparison(store)
    flag(store, comparison)
    decide(reviewing, in_stage(reviewing)[0], Decision.KEPT)
    judge(store, comparison, annotator_id="cy")
    assert in_stage(reviewing) == []

    flag(store, comparison, annotator_id="bo")

    (item,) = in_stage(reviewing)
    assert item.review is not None
    assert item.review.decision is Decision.KEPT
    assert in_stage(reviewing, Stage.KEPT) == []


def test_a_flag_that_the_lead_did_not_see_yet_leaves_the_item_open(
    store: Store, reviewing: Reviewing
) -> None:
    comparison = make_comparison(store)
    flag(store, comparison)
    (seen,) = in_stage(reviewing)
    flag(store, comparison, annotator_id="bo")

    decide(reviewing, seen, Decision.KEPT)

    assert ids(in_stage(reviewing)) == [comparison.id]


def test_more_flags_do_not_bring_back_what_was_withdrawn(
    store: Store, reviewing: Reviewing
) -> None:
    comparison = make_comparison(store)
    flag(store, comparison)
    decide(reviewing, in_stage(reviewing)[0], Decision.WITHDRAWN)

    flag(store, comparison, annotator_id="bo")

    assert in_stage(reviewing) == []
    assert len(in_stage(reviewing, Stage.WITHDRAWN)[0].flagged) == 2


def test_what_was_withdrawn_can_be_kept_after_its_flags_were_undone(
    store: Store, reviewing: Reviewing
) -> None:
    comparison = make_comparison(store)
    flag(store, comparison)
    decide(reviewing, in_stage(reviewing)[0], Decision.WITHDRAWN)
    judge(store, comparison, 1)

    (item,) = in_stage(reviewing, Stage.WITHDRAWN)
    decide(reviewing, item, Decision.KEPT)

    assert ids(in_stage(reviewing, Stage.KEPT)) == [comparison.id]


def test_many_are_shown_page_by_page(store: Store, reviewing: Reviewing) -> None:
    made = [make_comparison(store, prompt=f"Question {i}") for i in range(PAGE_SIZE + 2)]
    for comparison in made:
        flag(store, comparison)

    first, second, beyond = (reviewing.page(LEAD, Stage.OPEN, number=n) for n in (1, 2, 9))

    assert ids([*first.items, *second.items]) == [c.id for c in made]
    assert (len(first.items), first.number, first.pages) == (PAGE_SIZE, 1, 2)
    assert (ids(beyond.items), beyond.number) == (ids(second.items), 2)


def test_only_leads_see_and_decide(store: Store, reviewing: Reviewing) -> None:
    ana = Actor("ana", "Ana", Role.ANNOTATOR)
    comparison = make_comparison(store)

    with pytest.raises(NotAllowed):
        reviewing.page(ana, Stage.OPEN, number=1)
    with pytest.raises(NotAllowed):
        reviewing.decide(ana, comparison.id, Decision.KEPT, seen_seq=0)
    with pytest.raises(NotAllowed):
        reviewing.agreement(ana)
    with pytest.raises(NotAllowed):
        reviewing.sides(ana)


def test_what_does_not_exist_cannot_be_decided(reviewing: Reviewing) -> None:
    with pytest.raises(NotFound):
        reviewing.decide(LEAD, "nothing", Decision.WITHDRAWN, seen_seq=0)


def test_a_long_note_and_an_unknown_stage_are_refused(store: Store, reviewing: Reviewing) -> None:
    comparison = make_comparison(store)

    with pytest.raises(BadInput, match="2,000"):
        reviewing.decide(LEAD, comparison.id, Decision.KEPT, seen_seq=0, note="x" * 2001)
    with pytest.raises(BadInput, match="choose one of"):
        reviewing.page(LEAD, "elsewhere", number=1)


# What is withdrawn is handed to nobody.


def test_a_withdrawn_comparison_is_handed_to_nobody_also_after_a_restart(
    store: Store, assignment: Assignment, reviewing: Reviewing
) -> None:
    comparison = make_comparison(store)
    flag(store, comparison, verdict=Verdict.SKIPPED)
    assignment.reload()
    decide(reviewing, in_stage(reviewing)[0], Decision.WITHDRAWN)

    for some in (assignment, open_assignment(store)):
        assert some.claim("bo", 1, held=[]).leases == []
        assert some.counts() == (0, 0, 0)


def test_whoever_holds_what_is_withdrawn_loses_it(
    store: Store, assignment: Assignment, reviewing: Reviewing
) -> None:
    comparison = make_comparison(store)
    assignment.reload()
    (lease,) = assignment.claim("bo", 1, held=[]).leases

    reviewing.decide(LEAD, comparison.id, Decision.WITHDRAWN, seen_seq=0)

    for some in (assignment, open_assignment(store)):
        claim = some.claim("bo", 1, held=[lease.id])
        assert (claim.leases, claim.gone) == ([], [lease.id])


def test_what_is_kept_after_all_is_handed_out_again(
    store: Store, assignment: Assignment, reviewing: Reviewing
) -> None:
    comparison = make_comparison(store)
    assignment.reload()
    for decision in (Decision.WITHDRAWN, Decision.WITHDRAWN, Decision.KEPT, Decision.KEPT):
        reviewing.decide(LEAD, comparison.id, decision, seen_seq=0)

    assert assignment.counts() == (1, 0, 1)
    assert len(assignment.claim("bo", 1, held=[]).leases) == 1


def test_what_was_judged_while_withdrawn_is_done_when_it_is_kept_after_all(
    store: Store, assignment: Assignment, reviewing: Reviewing
) -> None:
    comparison = make_comparison(store)
    assignment.reload()
    reviewing.decide(LEAD, comparison.id, Decision.WITHDRAWN, seen_seq=0)
    assignment.settle(comparison.id, "bo", Verdict.TIE)
    assert assignment.counts() == (0, 0, 0)

    reviewing.decide(LEAD, comparison.id, Decision.KEPT, seen_seq=0)

    assert assignment.counts() == (0, 1, 1)


def test_an_undo_does_not_hand_out_what_is_withdrawn(
    store: Store, assignment: Assignment, reviewing: Reviewing
) -> None:
    comparison = make_comparison(store)
    assignment.reload()
    (lease,) = assignment.claim("bo", 1, held=[]).leases
    assignment.settle(comparison.id, "bo", Verdict.TIE)
    reviewing.decide(LEAD, comparison.id, Decision.WITHDRAWN, seen_seq=0)

    assignment.reinstate(lease)

    assert assignment.claim("bo", 1, held=[]).leases == []
    assert assignment.counts() == (0, 0, 0)


def test_a_withdrawn_duel_is_no_verdict_about_a_policy(store: Store, reviewing: Reviewing) -> None:
    versions = ("pol-000001", "pol-000000")
    duels = [
        make_comparison(store, purpose=Purpose.EVALUATE, policy_versions=versions) for _ in range(2)
    ]
    for duel in duels:
        judge(store, duel)

    reviewing.decide(LEAD, duels[0].id, Decision.WITHDRAWN, seen_seq=0)

    told = comparisons.heads_to_heads(store)
    assert [(t.version, t.wins, t.losses, t.waiting) for t in told] == [
        ("pol-000000", 0, 1, 0),
        ("pol-000001", 1, 0, 0),
    ]


# Agreement and sides.


def test_agreement_is_on_what_several_people_judged(store: Store, reviewing: Reviewing) -> None:
    for verdicts in ((0, 0), (1, 1), (0, None), (1,)):
        comparison = make_comparison(store)
        for i, preferred in enumerate(verdicts):
            displayed = (1, 0) if i else (0, 1)
            said = make_judgment(
                comparison, preferred, annotator_id=f"annotator {i}", displayed=displayed
            )
            judgments.record(store, said)

    found = reviewing.agreement(LEAD)

    # Coincidences: 2 + 2 equal, 1 + 1 unequal; totals 3, 2, 1 of 6; expected unequal 22.
    assert found.agreement.raw == pytest.approx(2 / 3)
    assert found.agreement.alpha == pytest.approx(1 - (6 - 1) * 2 / 22)
    assert (found.agreement.units, found.comparisons) == (3, 3)


def test_every_pair_of_a_ranking_is_a_pair_to_agree_on(store: Store, reviewing: Reviewing) -> None:
    three = make_comparison(store, ("a", "b", "c"))
    for name, ranks in (("ana", (1, 2, 3)), ("bo", (1, 3, 2))):
        judgments.record(store, make_judgment(three, ranks=ranks, annotator_id=name))

    found = reviewing.agreement(LEAD)

    assert found.agreement.raw == pytest.approx(2 / 3)
    assert (found.agreement.units, found.comparisons) == (3, 1)


def test_practice_and_what_is_withdrawn_are_in_no_figure(
    store: Store, reviewing: Reviewing
) -> None:
    practice = make_comparison(store, purpose=Purpose.PRACTICE)
    withdrawn = make_comparison(store)
    for comparison in (practice, withdrawn):
        for name in ("ana", "bo"):
            judge(store, comparison, annotator_id=name)
    reviewing.decide(LEAD, withdrawn.id, Decision.WITHDRAWN, seen_seq=0)

    assert reviewing.agreement(LEAD).comparisons == 0
    assert reviewing.sides(LEAD) == SideShare(None, 0.0, 1.0, 0)


def test_the_share_of_the_first_side_goes_by_what_was_displayed(
    store: Store, reviewing: Reviewing
) -> None:
    for displayed, preferred in (((0, 1), 0), ((1, 0), 1), ((1, 0), 0), ((0, 1), None)):
        comparison = make_comparison(store)
        judgments.record(store, make_judgment(comparison, preferred, displayed=displayed))
    imported = make_judgment(make_comparison(store), 0, source="import")
    judgments.record(store, imported)

    found = reviewing.sides(LEAD)

    assert found.decided == 3
    assert found.share == pytest.approx(2 / 3)
    # Wilson's interval of 2 in 3 at 95 %.
    assert found.low == pytest.approx(0.2077, abs=1e-3)
    assert found.high == pytest.approx(0.9385, abs=1e-3)
