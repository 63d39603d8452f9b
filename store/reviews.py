"""Reviews: what leads decided about comparisons that people flagged, and what waits for them.

Decisions are append-only; the latest one on a comparison holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

from store import journal
from store.db import Cursor, Store
from store.journal import Decided
from store.records import Decision, Flag, Review

_COLUMNS = "id, comparison_id, decision, annotator_id, recorded_at, note, seen_seq"


class Stage(StrEnum):
    """Where a flagged comparison stands.

    OPEN       flagged, and nobody has decided; or kept, and flagged anew since
    KEPT       a lead found it fine
    WITHDRAWN  a lead took it out; more flags change nothing about that
    """

    OPEN = "open"
    KEPT = "kept"
    WITHDRAWN = "withdrawn"


class FlaggedComparison(NamedTuple):
    """One entry of the queue: `newest_seq` is its newest flagged judgment, 0 if all were undone."""

    comparison_id: str
    stage: Stage
    newest_seq: int


class FlaggedJudgment(NamedTuple):
    """What one person flagged, with what they wrote about it."""

    comparison_id: str
    annotator: str
    flags: tuple[Flag, ...]
    rationale: str | None
    recorded_at: datetime


# Judgments that count and carry flags; only comparisons that were ever flagged are looked at.
_FLAGGED = """
    SELECT comparison_id, annotator_id, seq, flags, rationale, recorded_at FROM (
        SELECT comparison_id, annotator_id, seq, flags, rationale, recorded_at, verdict
        FROM judgments
        WHERE comparison_id IN (SELECT comparison_id FROM judgments WHERE flags IS NOT NULL)
        QUALIFY row_number() OVER (PARTITION BY comparison_id, annotator_id ORDER BY seq DESC) = 1
    )
    WHERE flags IS NOT NULL AND verdict <> 'retracted'
"""

_DECIDED = f"""
    SELECT {_COLUMNS}, seq FROM reviews
    QUALIFY row_number() OVER (PARTITION BY comparison_id ORDER BY seq DESC) = 1
"""

_STAGES = f"""
    SELECT
        comparison_id,
        CASE
            WHEN d.decision = 'withdrawn' THEN 'withdrawn'
            WHEN d.decision = 'kept' AND coalesce(f.newest_seq, 0) <= d.seen_seq THEN 'kept'
            ELSE 'open'
        END AS stage,
        f.oldest_seq,
        coalesce(f.newest_seq, 0) AS newest_seq,
        d.seq AS decided_seq
    FROM (
        SELECT comparison_id, min(seq) AS oldest_seq, max(seq) AS newest_seq
        FROM ({_FLAGGED}) GROUP BY comparison_id
    ) f
    FULL JOIN ({_DECIDED}) d USING (comparison_id)
"""


def record(store: Store, review: Review) -> None:
    """Append a decision; durable, and journalled, when it returns."""
    decided = Decided(review, _seen_judgment_id(store, review))
    store.write(lambda cursor: _insert(cursor, review), journal=[journal.review_line(decided)])


def restore(cursor: Cursor, decided: Sequence[Decided]) -> None:
    """Append decisions within a change, after the judgments that their leads saw."""
    for review, seen_id in ((d.review, d.seen_judgment_id) for d in decided):
        row = cursor.execute("SELECT seq FROM judgments WHERE id = ?", [seen_id]).fetchone()
        _insert(cursor, replace(review, seen_seq=row[0] if row else 0))


def _seen_judgment_id(store: Store, review: Review) -> str | None:
    with store.read() as cursor:
        row = cursor.execute(
            "SELECT id FROM judgments WHERE comparison_id = ? AND seq <= ? AND source = 'page'"
            " ORDER BY seq DESC LIMIT 1",
            [review.comparison_id, review.seen_seq],
        ).fetchone()
    return row[0] if row else None


def _insert(cursor: Cursor, review: Review) -> None:
    values = [getattr(review, name) for name in _COLUMNS.split(", ")]
    cursor.execute(f"INSERT INTO reviews ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)", values)


def latest(store: Store, comparison_ids: Sequence[str]) -> dict[str, Review]:
    """The decision that holds on each of them that has one."""
    with store.read() as cursor:
        found = cursor.execute(
            f"SELECT {_COLUMNS} FROM ({_DECIDED}) WHERE list_contains(?, comparison_id)",
            [list(comparison_ids)],
        ).fetchall()
    return {row[1]: _review(row) for row in found}


def count(store: Store) -> dict[Stage, int]:
    """How many comparisons are in each stage."""
    with store.read() as cursor:
        found = cursor.execute(f"SELECT stage, count(*) FROM ({_STAGES}) GROUP BY stage").fetchall()
    return {stage: dict(found).get(stage.value, 0) for stage in Stage}


def in_stage(store: Store, stage: Stage, *, offset: int, limit: int) -> list[FlaggedComparison]:
    """Some of the comparisons in a stage: open ones as they were flagged, others newest first."""
    with store.read() as cursor:
        found = cursor.execute(
            f"SELECT comparison_id, stage, newest_seq FROM ({_STAGES}) WHERE stage = ?"
            " ORDER BY CASE WHEN stage = 'open' THEN oldest_seq ELSE -decided_seq END,"
            " comparison_id LIMIT ? OFFSET ?",
            [stage, limit, offset],
        ).fetchall()
    return [FlaggedComparison(id, Stage(stage), newest) for id, stage, newest in found]


def flags_on(store: Store, comparison_ids: Sequence[str]) -> list[FlaggedJudgment]:
    """Who flagged what on these comparisons, oldest first."""
    with store.read() as cursor:
        found = cursor.execute(
            f"""
            SELECT j.comparison_id, coalesce(a.name, j.annotator_id), j.flags, j.rationale,
                j.recorded_at
            FROM ({_FLAGGED}) j
            LEFT JOIN annotators a ON a.id = j.annotator_id
            WHERE list_contains(?, j.comparison_id)
            ORDER BY j.seq
            """,
            [list(comparison_ids)],
        ).fetchall()
    return [
        FlaggedJudgment(row[0], row[1], tuple(Flag(**flag) for flag in row[2]), row[3], row[4])
        for row in found
    ]


def _review(row: tuple[Any, ...]) -> Review:
    id, comparison_id, decision, annotator_id, recorded_at, note, seen_seq = row
    return Review(id, comparison_id, Decision(decision), annotator_id, recorded_at, note, seen_seq)
