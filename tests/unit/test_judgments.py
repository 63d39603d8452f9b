from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from store import judgments, preferences
from store.db import Store
from store.errors import Conflict
from store.records import Verdict
from tests.builders import START, Clock, busy_writer, judge, make_comparison, make_judgment


def effective(store: Store, annotator_id: str = "ana") -> list[str]:
    """Ids of the annotator's judgments that count, newest first."""
    return [j.id for j in judgments.of_annotator(store, annotator_id, limit=100)]


def test_a_judgment_comes_back_as_it_was_recorded(store: Store) -> None:
    said = make_judgment(
        make_comparison(store), 1, strength=3, displayed=(1, 0), reason='比 "A" 好\n\tby far'
    )

    recorded = judgments.record(store, said)

    assert judgments.get(store, said.id) == recorded == replace(said, seq=recorded.seq)


def test_the_order_of_recording_is_the_order_of_seq(store: Store) -> None:
    recorded = [judge(store, make_comparison(store)) for _ in range(3)]

    assert [j.seq for j in recorded] == sorted(j.seq for j in recorded)


def test_sending_a_judgment_twice_is_one_row(store: Store) -> None:
    said = make_judgment(make_comparison(store))
    first = judgments.record(store, said)

    again = judgments.record(
        store, replace(said, recorded_at=START + timedelta(seconds=5), duration_ms=9000)
    )

    assert again == first
    assert effective(store) == [said.id]


def test_judgments_that_arrive_together_are_stored_in_order_each_with_what_it_says(
    store: Store,
) -> None:
    made = [
        make_judgment(make_comparison(store), 0),
        make_judgment(make_comparison(store), None, duration_ms=None, reason="Alike."),
        replace(make_judgment(make_comparison(store), 1), reasons=("rude",), rationale="So."),
    ]

    with busy_writer(store):
        waiting = [judgments.submit(store, judgment) for judgment in made]
    saved = [future.result(30) for future in waiting]

    assert [judgments.get(store, judgment.id) for judgment in made] == saved
    assert [replace(judgment, seq=0) for judgment in saved] == [replace(j, seq=0) for j in made]
    assert sorted(saved, key=lambda judgment: judgment.seq) == saved


def test_one_that_is_sent_again_among_others_is_one_row(store: Store) -> None:
    first, other = (make_judgment(make_comparison(store)) for _ in range(2))
    known = judgments.record(store, first)

    with busy_writer(store):
        waiting = [judgments.submit(store, sent) for sent in (first, other, other)]

    again, *others = [future.result(30) for future in waiting]
    assert again == known
    assert others[0] == others[1] == judgments.get(store, other.id)
    with store.read() as cursor:
        assert cursor.execute("SELECT count(*) FROM judgments").fetchone() == (2,)


def test_the_same_id_with_another_content_is_a_conflict(store: Store) -> None:
    comparison = make_comparison(store)
    said = make_judgment(comparison, 0)
    judgments.record(store, said)

    with pytest.raises(Conflict, match=said.id):
        judgments.record(store, make_judgment(comparison, 1, id=said.id))

    kept = judgments.get(store, said.id)
    assert kept is not None
    assert kept.preferred_completion_id == comparison.completion_ids[0]


def test_a_judgment_counts_once_per_comparison_and_annotator(store: Store) -> None:
    comparison = make_comparison(store)
    judge(store, comparison, 0)
    second = judge(store, comparison, 1)

    assert effective(store) == [second.id]


def test_each_annotator_has_a_judgment_of_their_own(store: Store) -> None:
    comparison = make_comparison(store)
    of_ana = judge(store, comparison, annotator_id="ana")
    of_bo = judge(store, comparison, annotator_id="bo")

    assert (effective(store, "ana"), effective(store, "bo")) == ([of_ana.id], [of_bo.id])


def test_an_undo_takes_the_judgment_back(store: Store) -> None:
    comparison = make_comparison(store)
    said = judge(store, comparison)

    undo = make_judgment(comparison, verdict=Verdict.RETRACTED, supersedes=said.id)
    judgments.record(store, undo)

    assert effective(store) == []
    assert preferences.list_all(store) == []


def test_an_undo_does_not_bring_back_what_was_said_before(store: Store) -> None:
    comparison = make_comparison(store)
    for preferred in (0, 1):
        judge(store, comparison, preferred)

    judge(store, comparison, verdict=Verdict.RETRACTED)

    assert effective(store) == []


def test_judging_again_after_an_undo_counts(store: Store) -> None:
    comparison = make_comparison(store)
    judge(store, comparison, 0)
    judge(store, comparison, verdict=Verdict.RETRACTED)
    again = judge(store, comparison, 1)

    assert effective(store) == [again.id]


def test_the_latest_row_may_be_an_undo(store: Store) -> None:
    comparison = make_comparison(store)
    judge(store, comparison)
    undo = judge(store, comparison, verdict=Verdict.RETRACTED)

    assert judgments.latest(store, comparison.id, "ana") == undo
    assert judgments.latest(store, comparison.id, "bo") is None


def test_skips_are_not_counted_as_work(store: Store, clock: Clock) -> None:
    judge(store, make_comparison(store))
    judge(store, make_comparison(store), verdict=Verdict.SKIPPED)

    assert judgments.progress_of(store, "ana", since=clock.now).judged == 1


def test_work_of_today_is_counted_apart(store: Store, clock: Clock) -> None:
    judge(store, make_comparison(store))
    midnight = clock.advance(seconds=24 * 3600)
    judge(store, make_comparison(store))

    progress = judgments.progress_of(store, "ana", since=midnight)

    assert (progress.judged, progress.judged_today) == (2, 1)
    assert progress.median_duration_ms == 4000


def test_imported_judgments_keep_the_order_of_their_file(store: Store) -> None:
    made = [make_judgment(make_comparison(store), source="import") for _ in range(20)]
    store.write(lambda cursor: judgments.insert_imported(cursor, made))

    assert effective(store) == [j.id for j in reversed(made)]
