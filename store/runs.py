"""Runs and the events that their trainers wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from store.db import Cursor, Store
from store.errors import Conflict, NotFound
from store.records import Run, RunEvent, RunState

_COLUMNS = (
    "id, method, spec, snapshot_id, parent_version, state, folder, created_by, created_at, pid,"
    " pid_started_at, started_at, finished_at, error, result, general_snapshot_id"
)


def create(
    store: Store,
    *,
    id: str,
    method: str,
    spec: Mapping[str, Any],
    snapshot_id: str,
    parent_version: str,
    folder: str,
    created_by: str,
    general_snapshot_id: str | None = None,
) -> Run:
    """Queue a run. Raises `Conflict` while another one is queued or running."""
    now = store.clock()

    def change(cursor: Cursor) -> None:
        busy = cursor.execute(
            "SELECT id FROM runs WHERE state IN ('queued', 'running') LIMIT 1"
        ).fetchone()
        if busy:
            raise Conflict(
                "Run {id} is already training. Wait for it to end, or cancel it first.",
                id=busy[0],
            )
        cursor.execute(
            "INSERT INTO runs (id, method, spec, snapshot_id, parent_version, state, folder,"
            " created_by, created_at, general_snapshot_id)"
            " VALUES (?, ?, ?, ?, ?, 'queued', ?, ?, ?, ?)",
            [
                id,
                method,
                json.dumps(spec),
                snapshot_id,
                parent_version,
                folder,
                created_by,
                now,
                general_snapshot_id,
            ],
        )

    store.write(change)
    return get(store, id)


def get(store: Store, id: str) -> Run:
    """Raises `NotFound`."""
    with store.read() as cursor:
        row = cursor.execute(f"SELECT {_COLUMNS} FROM runs WHERE id = ?", [id]).fetchone()
    if row is None:
        raise NotFound("There is no run {id}.", id=id)
    return _run(row)


def list_all(store: Store) -> list[Run]:
    """Every run, newest first."""
    with store.read() as cursor:
        rows = cursor.execute(
            f"SELECT {_COLUMNS} FROM runs ORDER BY created_at DESC, id DESC"
        ).fetchall()
    return [_run(row) for row in rows]


def unfinished(store: Store) -> list[Run]:
    """Runs that a trainer is, or should be, working on."""
    return [run for run in list_all(store) if not run.state.is_final]


def mark_started(store: Store, id: str, *, pid: int, pid_started_at: float) -> None:
    """A trainer process exists. A resumed run starts anew: its end and error are cleared."""
    now = store.clock()
    store.write(
        lambda cursor: cursor.execute(
            "UPDATE runs SET state = 'running', pid = ?, pid_started_at = ?, finished_at = NULL,"
            " error = NULL, started_at = coalesce(started_at, ?) WHERE id = ?",
            [pid, pid_started_at, now, id],
        )
    )


def mark_finished(
    store: Store,
    id: str,
    state: RunState,
    *,
    error: str | None = None,
    result: Mapping[str, Any] | None = None,
) -> None:
    """The trainer is gone; `state` is one of the final ones."""
    now = store.clock()
    store.write(
        lambda cursor: cursor.execute(
            "UPDATE runs SET state = ?, finished_at = ?, error = ?, result = ? WHERE id = ?",
            [state, now, error, json.dumps(result) if result is not None else None, id],
        )
    )


def append_events(store: Store, events: Sequence[RunEvent]) -> None:
    """Append what a trainer wrote; events known already are left as they are."""
    if not events:
        return

    def change(cursor: Cursor) -> None:
        row = cursor.execute(
            "SELECT coalesce(max(seq), -1) FROM run_events WHERE run_id = ?", [events[0].run_id]
        ).fetchone()
        last = row[0] if row else -1
        fresh = [
            [e.run_id, e.seq, e.at, e.kind, json.dumps(e.data)] for e in events if e.seq > last
        ]
        if fresh:
            cursor.executemany(
                "INSERT INTO run_events (run_id, seq, written_at, kind, data)"
                " VALUES (?, ?, ?, ?, ?)",
                fresh,
            )

    store.write(change)


def events(store: Store, run_id: str, *, after: int = -1) -> list[RunEvent]:
    """The run's events with `seq > after`, in order."""
    with store.read() as cursor:
        rows = cursor.execute(
            "SELECT run_id, seq, written_at, kind, data FROM run_events"
            " WHERE run_id = ? AND seq > ? ORDER BY seq",
            [run_id, after],
        ).fetchall()
    return [RunEvent(r[0], r[1], r[2], r[3], json.loads(r[4])) for r in rows]


def _run(row: tuple[Any, ...]) -> Run:
    (id, method, spec, snapshot_id, parent, state, folder, by, created, *rest) = row
    pid, pid_started_at, started, finished, error, result, general_snapshot_id = rest
    when: tuple[datetime | None, datetime | None] = (started, finished)
    return Run(
        id=id,
        method=method,
        spec=json.loads(spec),
        snapshot_id=snapshot_id,
        parent_version=parent,
        state=RunState(state),
        folder=folder,
        created_by=by,
        created_at=created,
        pid=pid,
        pid_started_at=pid_started_at,
        started_at=when[0],
        finished_at=when[1],
        error=error,
        result=json.loads(result) if result else None,
        general_snapshot_id=general_snapshot_id,
    )
