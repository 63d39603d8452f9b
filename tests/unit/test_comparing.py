"""Showing comparisons blind and taking judgments of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import asdict, replace

import pytest

from labeling.access import Actor
from labeling.assignment import LEASE_LIFE, Assignment
from labeling.comparing import Comparing, Item, goal_after
from labeling.verdicts import VerdictGiven
from store import completions, judgments, preferences
from store.db import Store
from store.errors import BadInput, Conflict, NotAllowed, NotFound
from store.records import Completion, Role, Verdict
from tests.builders import Clock, make_comparison

ANA = Actor("ana", "Ana", Role.ANNOTATOR)
BEN = Actor("ben", "Ben", Role.ANNOTATOR)


@pytest.fixture
def comparing(store: Store) -> Comparing:
    for i in range(4):
        make_comparison(
            store,
            (f"good {i}", f"bad {i}"),
            prompt=f"Question {i}?",
            policy_versions=("pol-000001", "pol-000000"),
        )
    return Comparing(store, Assignment(store, rng=random.Random(1)))


def take(comparing: Comparing, actor: Actor, want: int) -> list[Item]:
    return comparing.items(actor, want=want, held=[]).items


def prefer(lease_id: str, place: int, id: str = "j1") -> VerdictGiven:
    return VerdictGiven(id, lease_id, Verdict.PREFERRED, place=place, strength=2, duration_ms=900)


def test_only_what_needs_no_look_into_the_store_is_at_hand(comparing: Comparing) -> None:
    (item,) = take(comparing, ANA, 1)
    given = prefer(item.lease_id, 0)
    assert not comparing.is_at_hand(ANA, given)  # what she has judged is not known yet
    comparing.progress(ANA)
    comparing.progress(BEN)

    assert comparing.is_at_hand(ANA, given)
    assert not comparing.is_at_hand(ANA, replace(given, supersedes="j0"))
    assert not comparing.is_at_hand(BEN, given)
    comparing.judge(ANA, given).result()
    assert not comparing.is_at_hand(ANA, given)


def test_what_is_at_hand_is_judged_and_counted_without_a_look_into_the_store(
    store: Store, comparing: Comparing, monkeypatch: pytest.MonkeyPatch
) -> None:
    (item,) = take(comparing, ANA, 1)
    comparing.progress(ANA)
    monkeypatch.setattr(store, "read", pytest.fail)

    comparing.judge(ANA, prefer(item.lease_id, 0)).result()

    assert comparing.progress(ANA).judged_by_me == 1


def test_what_will_be_wanted_next_is_read_together_with_what_is_wanted(
    comparing: Comparing, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    get_many = completions.get_many

    def count(store: Store, ids: Sequence[str]) -> dict[str, Completion]:
        read.append(len(ids))
        return get_many(store, ids)

    monkeypatch.setattr(completions, "get_many", count)

    items = [*take(comparing, ANA, 1), *take(comparing, BEN, 1)]
    items += comparing.items(ANA, want=2, held=[items[0].lease_id]).items

    assert read == [8]  # the two responses of all four
    for item in items:
        number = item.messages[0].text.removeprefix("Question ").removesuffix("?")
        assert {r.text for r in item.responses} == {f"good {number}", f"bad {number}"}
    assert len({item.messages[0].text for item in items}) == 4


def test_what_somebody_else_reads_meanwhile_is_shown_all_the_same(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(4):
        make_comparison(store, (f"good {i}", f"bad {i}"), prompt=f"Question {i}?")
    assignment = Assignment(store, rng=random.Random(1))
    comparing = Comparing(store, assignment)
    upcoming = assignment.upcoming
    (mine,) = assignment.claim(ANA.id, 1, held=[]).leases

    def meanwhile(number: int) -> list[str]:
        monkeypatch.setattr(assignment, "upcoming", lambda n: [mine.comparison_id, *upcoming(n)])
        take(comparing, BEN, 1)
        return upcoming(number)

    monkeypatch.setattr(assignment, "upcoming", meanwhile)

    assert [item.lease_id for item in take(comparing, ANA, 1)] == [mine.id]


@pytest.mark.parametrize("place", [0, 1])
def test_the_text_that_was_chosen_is_the_one_that_is_stored(
    store: Store, comparing: Comparing, place: int
) -> None:
    for item in take(comparing, ANA, 4):
        comparing.judge(ANA, prefer(item.lease_id, place, id=item.lease_id)).result()
        stored = judgments.get(store, item.lease_id)
        assert stored is not None
        chosen = next(p for p in preferences.list_all(store) if item.lease_id in p.sources)
        assert stored.preferred_completion_id == chosen.chosen_completion_id
        text = next(
            r["response_texts"][place]
            for r in map(asdict, comparing.history(ANA, limit=9))
            if r["id"] == item.lease_id
        )
        assert text == item.responses[place].text


def test_nothing_in_an_item_tells_where_a_response_is_from(comparing: Comparing) -> None:
    (item,) = take(comparing, ANA, 1)
    shown = repr(asdict(item))
    assert "pol-0" not in shown
    assert "policy" not in shown
    assert set(asdict(item)) == {
        *("lease_id", "expires_at", "language", "messages", "responses", "practice")
    }


def test_a_judgment_records_the_guidelines_that_it_was_made_under(
    store: Store, comparing: Comparing
) -> None:
    (item,) = take(comparing, ANA, 1)
    comparing.judge(ANA, replace(prefer(item.lease_id, 0), guidelines_version=3)).result()
    stored = judgments.get(store, "j1")
    assert stored is not None
    assert stored.guidelines_version == 3


def test_a_judgment_that_comes_after_its_lease_expired_is_kept(
    store: Store, comparing: Comparing, clock: Clock
) -> None:
    (item,) = take(comparing, ANA, 1)
    clock.advance(seconds=2 * LEASE_LIFE.total_seconds())
    take(comparing, BEN, 4)
    comparing.judge(ANA, prefer(item.lease_id, 0)).result()
    assert judgments.get(store, "j1") is not None


def test_sending_the_same_judgment_again_counts_once(store: Store, comparing: Comparing) -> None:
    (item,) = take(comparing, ANA, 1)
    comparing.progress(ANA)
    first = comparing.judge(ANA, prefer(item.lease_id, 0)).result()
    again = comparing.judge(ANA, prefer(item.lease_id, 0)).result()
    assert again == first
    assert len(preferences.list_all(store)) == 1


def test_the_same_id_with_another_verdict_is_a_conflict(comparing: Comparing) -> None:
    (item,) = take(comparing, ANA, 1)
    comparing.judge(ANA, prefer(item.lease_id, 0)).result()
    with pytest.raises(Conflict):
        comparing.judge(ANA, prefer(item.lease_id, 1)).result()


def test_nobody_judges_what_was_given_to_somebody_else(comparing: Comparing) -> None:
    (item,) = take(comparing, ANA, 1)
    with pytest.raises(NotAllowed):
        comparing.judge(BEN, prefer(item.lease_id, 0))


def test_an_unknown_lease_is_said_to_be_unknown(comparing: Comparing) -> None:
    with pytest.raises(NotFound, match="reload"):
        comparing.judge(ANA, prefer("nonsense", 0))


@pytest.mark.parametrize(
    "change",
    [
        {"place": None},
        {"strength": None},
        {"strength": 4},
        {"place": 2},
        {"place": -1},
        {"verdict": Verdict.TIE},
        {"verdict": Verdict.RETRACTED, "place": None, "strength": None},
        {"id": ""},
        {"duration_ms": -1},
        {"guidelines_version": 0},
        {"reason": "x" * 5000},
    ],
)
def test_a_verdict_that_contradicts_itself_is_refused(
    comparing: Comparing, change: dict[str, object]
) -> None:
    (item,) = take(comparing, ANA, 1)
    given = replace(prefer(item.lease_id, 0), **change)  # type: ignore[arg-type]
    with pytest.raises(BadInput):
        comparing.judge(ANA, given)


def test_undo_shows_the_same_item_in_the_same_order_and_forgets_the_preference(
    store: Store, comparing: Comparing
) -> None:
    (item,) = take(comparing, ANA, 1)
    comparing.judge(ANA, prefer(item.lease_id, 0)).result()
    again = comparing.undo(ANA, id="u1", judgment_id="j1")
    assert again.responses == item.responses
    assert again.lease_id == item.lease_id
    assert preferences.list_all(store) == []
    assert judgments.get(store, "j1") is not None


def test_after_an_undo_the_item_can_be_judged_anew(store: Store, comparing: Comparing) -> None:
    (item,) = take(comparing, ANA, 1)
    comparing.judge(ANA, prefer(item.lease_id, 0)).result()
    comparing.undo(ANA, id="u1", judgment_id="j1")
    comparing.judge(ANA, prefer(item.lease_id, 1, id="j2")).result()
    (preference,) = preferences.list_all(store)
    assert preference.sources == ("j2",)


def test_only_the_person_who_judged_can_undo(comparing: Comparing) -> None:
    (item,) = take(comparing, ANA, 1)
    comparing.judge(ANA, prefer(item.lease_id, 0)).result()
    with pytest.raises(NotAllowed):
        comparing.undo(BEN, id="u1", judgment_id="j1")


def test_undoing_twice_is_a_conflict_but_resending_the_same_undo_is_not(
    comparing: Comparing,
) -> None:
    (item,) = take(comparing, ANA, 1)
    comparing.judge(ANA, prefer(item.lease_id, 0)).result()
    comparing.undo(ANA, id="u1", judgment_id="j1")
    comparing.undo(ANA, id="u1", judgment_id="j1")
    with pytest.raises(Conflict):
        comparing.undo(ANA, id="u2", judgment_id="j1")


def test_an_undo_never_wipes_what_was_judged_since(store: Store, comparing: Comparing) -> None:
    (item,) = take(comparing, ANA, 1)
    comparing.judge(ANA, prefer(item.lease_id, 0)).result()
    comparing.judge(ANA, prefer(item.lease_id, 1, id="j2")).result()
    with pytest.raises(Conflict):
        comparing.undo(ANA, id="u1", judgment_id="j1")
    (preference,) = preferences.list_all(store)
    assert preference.sources == ("j2",)


def test_an_undo_that_comes_again_leaves_a_newer_judgment_booked(comparing: Comparing) -> None:
    (item,) = take(comparing, ANA, 1)
    comparing.judge(ANA, prefer(item.lease_id, 0)).result()
    comparing.undo(ANA, id="u1", judgment_id="j1")
    comparing.judge(ANA, prefer(item.lease_id, 1, id="j2")).result()
    with pytest.raises(Conflict):
        comparing.undo(ANA, id="u1", judgment_id="j1")
    assert comparing.progress(ANA).judged == 1


def test_an_undone_judgment_that_comes_again_does_not_count(
    comparing: Comparing, clock: Clock
) -> None:
    (item,) = take(comparing, ANA, 1)
    comparing.judge(ANA, prefer(item.lease_id, 0)).result()
    comparing.undo(ANA, id="u1", judgment_id="j1")
    clock.advance(seconds=5)
    comparing.judge(ANA, prefer(item.lease_id, 0)).result()
    assert comparing.progress(ANA).judged == 0


def test_progress_counts_judgments_and_takes_back_undone_ones(comparing: Comparing) -> None:
    (item,) = take(comparing, ANA, 1)
    assert comparing.progress(ANA).judged_by_me == 0
    comparing.judge(ANA, prefer(item.lease_id, 0)).result()
    progress = comparing.progress(ANA)
    assert (progress.judged, progress.goal) == (1, 50)
    assert (progress.judged_by_me, progress.judged_by_me_today) == (1, 1)
    assert progress.median_duration_s == pytest.approx(0.9)
    comparing.undo(ANA, id="u1", judgment_id="j1")
    assert comparing.progress(ANA).judged_by_me == 0
    assert comparing.progress(ANA).judged == 0


@pytest.mark.parametrize(
    ("judged", "goal"), [(0, 50), (49, 50), (50, 200), (999, 1000), (1000, 2000), (2345, 3000)]
)
def test_the_goal_is_always_ahead(judged: int, goal: int) -> None:
    assert goal_after(judged) == goal


def test_progress_is_the_same_after_a_restart(store: Store, comparing: Comparing) -> None:
    (item,) = take(comparing, ANA, 1)
    comparing.judge(ANA, prefer(item.lease_id, 0)).result()
    reopened = Comparing(store, Assignment(store, rng=random.Random(2)))
    assert reopened.progress(ANA) == comparing.progress(ANA)


def test_history_shows_each_judgment_as_it_was_displayed(comparing: Comparing) -> None:
    items = take(comparing, ANA, 2)
    comparing.judge(ANA, prefer(items[0].lease_id, 1, id="j1")).result()
    comparing.judge(ANA, VerdictGiven("j2", items[1].lease_id, Verdict.TIE)).result()
    newest, oldest = comparing.history(ANA, limit=10)
    assert (newest.id, newest.verdict, newest.place) == ("j2", Verdict.TIE, None)
    assert (oldest.id, oldest.place, oldest.strength) == ("j1", 1, 2)
    assert oldest.response_texts == [r.text for r in items[0].responses]


def test_a_judgment_of_an_unknown_comparison_does_not_hide_the_others(
    store: Store, comparing: Comparing
) -> None:
    (item,) = take(comparing, ANA, 1)
    comparing.judge(ANA, prefer(item.lease_id, 1, id="j1")).result()
    known = judgments.get(store, "j1")
    assert known is not None
    judgments.record(store, replace(known, id="j2", comparison_id="lost"))

    assert [past.id for past in comparing.history(ANA, limit=10)] == ["j1"]
