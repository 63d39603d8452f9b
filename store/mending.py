"""Mending: at start, store and journal are compared and what one of them lacks is put back.

DuckDB opens silently when its write-ahead log is missing. What both had when they were last
compared is noted in the database, in the same log as what it speaks of, and not compared again.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from store import (
    arena,
    comparisons,
    completions,
    journal,
    judgments,
    practice,
    prompts,
    reviews,
    rows,
    settings,
)
from store.db import Cursor, Store
from store.journal import Decided, Evidence, Kind, Line
from store.records import Completion, Judgment, Lease, PracticeItem

log = logging.getLogger(__name__)

CHUNK_BYTES = 2_000_000
CHUNK_ROWS = 5000
FINGERPRINT_BYTES = 4096
_KEY = "journal_mark"
_JOURNALLED = "journalled"
Record = Evidence | Lease | Completion | Judgment | Decided | PracticeItem
# Of what is never changed; in the order in which it is put back.
_TABLES = {
    Kind.EVIDENCE: "comparisons",
    Kind.LEASE: "leases",
    Kind.COMPLETION: "completions",
    Kind.JUDGMENT: "judgments",
    Kind.REVIEW: "reviews",
}
_OF_LEADS = ("reviews", "practice_items")
_RECORDS: dict[Kind, Callable[[Mapping[str, Any]], Record]] = {
    Kind.EVIDENCE: journal.to_evidence,
    Kind.LEASE: journal.to_lease,
    Kind.COMPLETION: journal.to_completion,
    Kind.JUDGMENT: journal.to_judgment,
    Kind.REVIEW: journal.to_decided,
    Kind.PRACTICE: journal.to_practice,
}
# What a damaged line leads to; an error of the disk, say, is no fault of a line.
_UNUSABLE = (
    ValueError,
    KeyError,
    TypeError,
    duckdb.DataError,
    duckdb.IntegrityError,
    duckdb.ProgrammingError,
)


class Mending(NamedTuple):
    """What the comparison of store and journal put back at start.

    `restored_to_store` and `restored_to_journal` count judgments, `unreadable_lines` those that
    were looked at this time.
    """

    restored_to_store: int
    restored_to_journal: int
    unreadable_lines: int


class _Mark(NamedTuple):
    """Up to where store and journal are known to agree.

    All in the first `size` bytes of the journal is in the store, and all `judged` judgments of the
    page up to `seq` are in the journal. `fingerprint` is a hash of the end of those bytes;
    `leads` tells how far what leads wrote reached, by table.
    """

    size: int
    fingerprint: str
    seq: int
    judged: int
    leads: Mapping[str, Sequence[int]]


_START = _Mark(0, "", 0, 0, {})


def mend(store: Store) -> Mending:
    """Compare store and journal, and put back in each what only the other has.

    The journal gets back judgments only: all the rest is checkpointed here.
    """
    with store.read() as cursor:
        mark = _mark(store, cursor)
        cursor.execute(f"CREATE TEMP TABLE {_JOURNALLED} (id VARCHAR)")
        restored, unreadable = _mend_store(store, cursor, mark)
        rewritten = _mend_journal(store, cursor, mark)
    if restored:
        log.error("%d acknowledged judgments were missing; restored", restored)
    if unreadable:
        log.warning("%d unreadable lines in %s", unreadable, store.journal_path)
    store.checkpoint(noting=partial(_note, path=store.journal_path))
    return Mending(restored, rewritten, unreadable)


def _mend_store(store: Store, cursor: Cursor, mark: _Mark) -> tuple[int, int]:
    """Read the journal beyond the mark; how many judgments came back, how many lines are bad."""
    restored = unreadable = 0
    for chunk in _chunks(journal.read(store.journal_path, start=mark.size)):
        lines = [line for line in chunk if line is not None]
        unreadable += len(chunk) - len(lines)
        said = [[line.id] for line in lines if line.kind is Kind.JUDGMENT]
        rows.insert(cursor, _JOURNALLED, {"id": "VARCHAR"}, said)
        back, bad = _restore(store, _missing(cursor, lines))
        restored += back
        unreadable += bad
    return restored, unreadable


def _mend_journal(store: Store, cursor: Cursor, mark: _Mark) -> int:
    rewritten = 0
    for some in judgments.missing_in(cursor, _JOURNALLED, after=mark.seq, batch=CHUNK_ROWS):
        store.write(_nothing, journal=[journal.judgment_line(j) for j in some])
        rewritten += len(some)
    return rewritten


def _chunks(lines: Iterable[Line | None]) -> Iterator[list[Line | None]]:
    chunk: list[Line | None] = []
    size = 0
    for line in lines:
        chunk.append(line)
        size += line.size if line else 0
        if size >= CHUNK_BYTES or len(chunk) >= CHUNK_ROWS:
            yield chunk
            chunk, size = [], 0
    yield chunk


def _missing(cursor: Cursor, lines: Sequence[Line]) -> list[Line]:
    """Those that the store has not, each once, and what was last said of each practice item."""
    found: list[Line] = []
    for kind, table in _TABLES.items():
        first: dict[str, Line] = {}
        for line in lines:
            if line.kind is kind:
                first.setdefault(line.id, line)
        known = rows.known_ids(cursor, table, first) if first else set()
        found.extend(line for id, line in first.items() if id not in known)
    last = {line.id: line for line in lines if line.kind is Kind.PRACTICE}
    return [*found, *last.values()]


def _restore(store: Store, lines: Sequence[Line]) -> tuple[int, int]:
    """Put back what the lines hold; how many are judgments, how many cannot be used."""
    if not lines:
        return 0, 0
    try:
        store.write(partial(_insert, records=[_RECORDS[line.kind](line.values) for line in lines]))
    except _UNUSABLE:
        if len(lines) == 1:
            return 0, 1
        each = [_restore(store, [line]) for line in lines]
        return sum(back for back, _ in each), sum(bad for _, bad in each)
    return sum(line.kind is Kind.JUDGMENT for line in lines), 0


def _insert(cursor: Cursor, records: Sequence[Record]) -> None:
    evidence = [record for record in records if isinstance(record, Evidence)]
    if evidence:
        now = evidence[0].created_at
        prompts.insert(cursor, [e.prompt for e in evidence], now=now)
        completions.insert_new(cursor, [c for e in evidence for c in e.completions])
        comparisons.insert_dated(cursor, [(e.comparison, e.created_at) for e in evidence])
        arena.insert(cursor, [e.arena for e in evidence if e.arena is not None])
    completions.insert_new(cursor, [r for r in records if isinstance(r, Completion)])
    comparisons.insert_leases(cursor, [r for r in records if isinstance(r, Lease)])
    judgments.insert_imported(cursor, [r for r in records if isinstance(r, Judgment)])
    reviews.restore(cursor, [r for r in records if isinstance(r, Decided)])
    practice.restore(cursor, [r for r in records if isinstance(r, PracticeItem)])


def _nothing(_: Cursor) -> None:
    """A change that changes nothing, for its journal lines alone."""


def _mark(store: Store, cursor: Cursor) -> _Mark:
    """The one in the store, as long as both sides still are what it speaks of."""
    values = settings.get(store, _KEY, None)
    if values is None or values.keys() != set(_Mark._fields):  # older versions noted less
        return _START
    mark = _Mark(**values)
    is_same_journal = _fingerprint(store.journal_path, mark.size) == mark.fingerprint
    if is_same_journal and _has_all(cursor, mark):
        return mark
    log.warning("%s is not the one compared last; reading all of it", store.journal_path)
    return _START


def _has_all(cursor: Cursor, mark: _Mark) -> bool:
    """Whether the store still has what it had."""
    return judgments.extent(cursor, up_to=mark.seq) == (mark.seq, mark.judged) and all(
        rows.extent(cursor, table, up_to=seq) == (seq, count)
        for table, (seq, count) in mark.leads.items()
    )


def _note(cursor: Cursor, *, path: Path) -> None:
    """Store and journal agree now, and nothing is being written."""
    size = path.stat().st_size
    seq, judged = judgments.extent(cursor)
    leads = {table: rows.extent(cursor, table) for table in _OF_LEADS}
    mark = _Mark(size, _fingerprint(path, size), seq, judged, leads)
    settings.put_within(cursor, _KEY, mark._asdict())


def _fingerprint(path: Path, size: int) -> str:
    """Hash of the last bytes of the first `size`; that of a shorter file differs."""
    with path.open("rb") as file:
        file.seek(max(0, size - FINGERPRINT_BYTES))
        return hashlib.sha256(file.read(min(size, FINGERPRINT_BYTES))).hexdigest()
