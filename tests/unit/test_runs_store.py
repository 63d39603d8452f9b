from __future__ import annotations

import pytest

from store import runs
from store.db import Store
from store.errors import Conflict, NotFound
from store.records import Run, RunEvent, RunState
from tests.builders import START, Clock


def queue(store: Store, id: str = "run-1") -> Run:
    return runs.create(
        store,
        id=id,
        method="dpo",
        spec={"beta": 0.1, "note": "比较"},
        snapshot_id="snapshot",
        parent_version="pol-000000",
        folder=f"/somewhere/{id}",
        created_by="lea",
    )


def event(seq: int, *, run_id: str = "run-1") -> RunEvent:
    return RunEvent(run_id, seq, 1000.0 + seq, "metrics", {"step": seq})


def test_a_new_run_is_queued_with_its_spec(store: Store) -> None:
    run = queue(store)

    assert (run.state, run.spec) == (RunState.QUEUED, {"beta": 0.1, "note": "比较"})
    assert runs.get(store, "run-1") == run


@pytest.mark.parametrize("is_running", [False, True])
def test_a_second_run_waits_for_the_first(store: Store, is_running: bool) -> None:
    queue(store, "run-1")
    if is_running:
        runs.mark_started(store, "run-1", pid=7, pid_started_at=1.0)

    with pytest.raises(Conflict, match="run-1 is already training"):
        queue(store, "run-2")


@pytest.mark.parametrize("state", [state for state in RunState if state.is_final])
def test_a_finished_run_makes_room_for_the_next(store: Store, state: RunState) -> None:
    queue(store, "run-1")
    runs.mark_finished(store, "run-1", state)

    assert queue(store, "run-2").state is RunState.QUEUED


def test_a_started_run_knows_its_process(store: Store) -> None:
    queue(store)

    runs.mark_started(store, "run-1", pid=4711, pid_started_at=12.5)

    run = runs.get(store, "run-1")
    assert (run.state, run.pid, run.pid_started_at) == (RunState.RUNNING, 4711, 12.5)
    assert run.started_at == START


def test_a_finished_run_keeps_its_result(store: Store, clock: Clock) -> None:
    queue(store)
    runs.mark_started(store, "run-1", pid=7, pid_started_at=1.0)
    ended = clock.advance(seconds=60)

    runs.mark_finished(store, "run-1", RunState.SUCCEEDED, result={"adapter": "a"})

    run = runs.get(store, "run-1")
    assert (run.result, run.finished_at, run.error) == ({"adapter": "a"}, ended, None)


def test_a_resumed_run_forgets_its_former_end(store: Store, clock: Clock) -> None:
    queue(store)
    runs.mark_started(store, "run-1", pid=7, pid_started_at=1.0)
    runs.mark_finished(store, "run-1", RunState.INTERRUPTED, error="it died")
    clock.advance(seconds=60)

    runs.mark_started(store, "run-1", pid=8, pid_started_at=2.0)

    run = runs.get(store, "run-1")
    assert (run.state, run.error, run.finished_at) == (RunState.RUNNING, None, None)
    assert run.started_at == START


def test_unfinished_runs_are_those_with_a_trainer(store: Store) -> None:
    queue(store, "run-1")
    runs.mark_finished(store, "run-1", RunState.FAILED, error="no")
    queue(store, "run-2")

    assert [run.id for run in runs.unfinished(store)] == ["run-2"]


def test_the_newest_run_is_listed_first(store: Store, clock: Clock) -> None:
    for id in ("run-1", "run-2"):
        queue(store, id)
        runs.mark_finished(store, id, RunState.CANCELLED)
        clock.advance(seconds=1)

    assert [run.id for run in runs.list_all(store)] == ["run-2", "run-1"]


def test_an_unknown_run_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound, match="no run nowhere"):
        runs.get(store, "nowhere")


def test_events_come_back_in_order(store: Store) -> None:
    queue(store)

    runs.append_events(store, [event(i) for i in range(3)])

    assert runs.events(store, "run-1") == [event(i) for i in range(3)]


def test_events_after_a_number_are_the_later_ones(store: Store) -> None:
    queue(store)
    runs.append_events(store, [event(i) for i in range(5)])

    assert runs.events(store, "run-1", after=2) == [event(3), event(4)]


def test_events_read_twice_are_kept_once(store: Store) -> None:
    queue(store)
    runs.append_events(store, [event(0), event(1)])

    runs.append_events(store, [event(0), event(1), event(2)])

    assert [e.seq for e in runs.events(store, "run-1")] == [0, 1, 2]


def test_appending_no_events_is_no_error(store: Store) -> None:
    runs.append_events(store, [])

    assert runs.events(store, "run-1") == []


def test_each_run_has_events_of_its_own(store: Store) -> None:
    runs.append_events(store, [event(0, run_id="run-1")])
    runs.append_events(store, [event(0, run_id="run-2")])

    assert [e.run_id for e in runs.events(store, "run-2")] == ["run-2"]
