"""Judgments: append-only, durable before acknowledged, and journalled a second time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any, NamedTuple

from store import completions, journal, rows
from store.db import Cursor, Part, Store
from store.errors import Conflict
from store.records import (
    Completion,
    CriterionJudgment,
    Flag,
    Judgment,
    RatingScale,
    Verdict,
)

_TYPES = {
    "id": "VARCHAR",
    "comparison_id": "VARCHAR",
    "annotator_id": "VARCHAR",
    "lease_id": "VARCHAR",
    "verdict": "VARCHAR",
    "displayed_completion_ids": "VARCHAR[]",
    "recorded_at": "TIMESTAMPTZ",
    "preferred_completion_id": "VARCHAR",
    "strength": "UTINYINT",
    "reason": "VARCHAR",
    "supersedes": "VARCHAR",
    "duration_ms": "BIGINT",
    "source": "VARCHAR",
    "guidelines_version": "INTEGER",
    "ranks": "UTINYINT[]",
    "ratings": "UTINYINT[]",
    "rating_scale": "VARCHAR",
    "criteria": 'STRUCT("name" VARCHAR, scale VARCHAR, preferred_completion_id VARCHAR,'
    " strength UTINYINT, ratings UTINYINT[])[]",
    "reasons": "VARCHAR[]",
    "rationale": "VARCHAR",
    "flags": "STRUCT(kind VARCHAR, completion_id VARCHAR)[]",
    "rewrite_completion_id": "VARCHAR",
    "rewritten_completion_id": "VARCHAR",
}
_COLUMNS = ", ".join(_TYPES)
_NESTED = ("ranks", "ratings", "criteria", "reasons", "flags")  # told to DuckDB, not guessed


class Extent(NamedTuple):
    """The highest seq, and how many judgments were given on the page."""

    seq: int
    from_page: int


class AnnotatorProgress(NamedTuple):
    """What one annotator has done: judgments that count, those of today, time per judgment.

    `days_ago` are the days with a judgment before today; yesterday is 1.
    """

    judged: int
    judged_today: int
    median_duration_ms: float | None
    days_ago: frozenset[int]


def submit(
    store: Store, judgment: Judgment, *, rewrite: Completion | None = None
) -> Future[Judgment]:
    """Append a judgment, and the completion that came with it; the future resolves once durable.

    Sending the same judgment again is harmless and gives the first record. Raises `Conflict`,
    through the future, when the id is known with other content.
    """

    def change(cursor: Cursor) -> Judgment:
        if rewrite is not None:
            completions.insert_new(cursor, [rewrite])
        return _insert_once(cursor, judgment)

    lines = [journal.completion_line(rewrite)] if rewrite is not None else []
    is_plain = rewrite is None and judgment.supersedes is None
    return store.submit(
        change,
        journal=[*lines, journal.judgment_line(judgment)],
        part=Part(_insert_several, judgment) if is_plain else None,
    )


def record(store: Store, judgment: Judgment) -> Judgment:
    """`submit` and wait."""
    return submit(store, judgment).result()


def insert_imported(cursor: Cursor, judgments: Sequence[Judgment]) -> None:
    """Add judgments that came with a file, within a change; not journalled."""
    rows.insert(cursor, "judgments", _TYPES, [_values(j) for j in judgments])


def extent(cursor: Cursor, *, up_to: int | None = None) -> Extent:
    """How far the judgments reach, all of them or those with a seq up to `up_to`."""
    row = cursor.execute(
        "SELECT coalesce(max(seq), 0), count(*) FILTER (WHERE source = 'page') FROM judgments"
        " WHERE ? IS NULL OR seq <= ?",
        [up_to, up_to],
    ).fetchone()
    return Extent(*row) if row else Extent(0, 0)


def missing_in(cursor: Cursor, table: str, *, after: int, batch: int) -> Iterator[list[Judgment]]:
    """Those of the page with a seq beyond `after` whose id the `table` lacks, oldest first."""
    found = cursor.execute(
        f"SELECT {_COLUMNS}, seq FROM judgments j WHERE source = 'page' AND seq > ?"
        f" AND NOT EXISTS (SELECT 1 FROM {table} t WHERE t.id = j.id) ORDER BY seq",
        [after],
    )
    while some := found.fetchmany(batch):
        yield [_judgment(row) for row in some]


def of_annotator(store: Store, annotator_id: str, *, limit: int) -> list[Judgment]:
    """The annotator's judgments that count, newest first."""
    with store.read() as cursor:
        found = cursor.execute(
            f"SELECT {_COLUMNS}, seq FROM effective_judgments WHERE annotator_id = ?"
            " ORDER BY seq DESC LIMIT ?",
            [annotator_id, limit],
        ).fetchall()
    return [_judgment(row) for row in found]


def latest(store: Store, comparison_id: str, annotator_id: str) -> Judgment | None:
    """The annotator's newest row on a comparison, an undo included."""
    with store.read() as cursor:
        row = cursor.execute(
            f"SELECT {_COLUMNS}, seq FROM judgments WHERE comparison_id = ? AND annotator_id = ?"
            " ORDER BY seq DESC LIMIT 1",
            [comparison_id, annotator_id],
        ).fetchone()
    return _judgment(row) if row else None


def get(store: Store, id: str) -> Judgment | None:
    """The judgment with this client-made id, if there is one."""
    with store.read() as cursor:
        row = cursor.execute(f"SELECT {_COLUMNS}, seq FROM judgments WHERE id = ?", [id]).fetchone()
    return _judgment(row) if row else None


def progress_of(store: Store, annotator_id: str, *, since: datetime) -> AnnotatorProgress:
    """How much the annotator judged in all, and since `since`, which is midnight.

    Practice is not counted. Days are counted back from `since` by 24 hours each.
    """
    with store.read() as cursor:
        row = cursor.execute(
            "SELECT count(*), count(*) FILTER (WHERE recorded_at >= $since),"
            " median(duration_ms) FILTER (WHERE recorded_at >= $since),"
            " list(DISTINCT ceil((epoch($since) - epoch(recorded_at)) / 86400)::INTEGER)"
            " FILTER (WHERE recorded_at < $since)"
            " FROM effective_judgments WHERE annotator_id = $annotator AND verdict <> 'skipped'"
            " AND comparison_id NOT IN (SELECT comparison_id FROM practice_items)",
            {"since": since, "annotator": annotator_id},
        ).fetchone()
    assert row is not None
    return AnnotatorProgress(row[0], row[1], row[2], frozenset(row[3] or ()))


def of_practice(store: Store, *, annotator_id: str | None = None) -> list[Judgment]:
    """What the annotator, or everybody, said of practice items, in the order of saying it."""
    with store.read() as cursor:
        found = cursor.execute(
            f"SELECT {_COLUMNS}, seq FROM effective_judgments"
            " WHERE comparison_id IN (SELECT comparison_id FROM practice_items)"
            " AND ($annotator IS NULL OR annotator_id = $annotator) ORDER BY seq",
            {"annotator": annotator_id},
        ).fetchall()
    return [_judgment(row) for row in found]


def _insert_once(cursor: Cursor, judgment: Judgment) -> Judgment:
    if cursor.execute("SELECT 1 FROM judgments WHERE id = ?", [judgment.id]).fetchone():
        return _known(cursor, judgment)
    if judgment.supersedes is not None:
        _check_newest(cursor, judgment)
    return _insert_several(cursor, [judgment])[0]


def _insert_several(cursor: Cursor, several: Sequence[Judgment]) -> list[Judgment]:
    """Add judgments with ids that are new. Raises `duckdb.ConstraintException` for a known one.

    On the path that everybody waits for: what nobody says is not sent to the database either.
    """
    values = [dict(zip(_TYPES, _values(judgment), strict=True)) for judgment in several]
    said = [name for name in _TYPES if any(row[name] is not None for row in values)]
    places = ", ".join(f"?::{_TYPES[name]}" if name in _NESTED else "?" for name in said)
    inserted = cursor.execute(
        f"INSERT INTO judgments ({', '.join(said)})"
        f" VALUES {', '.join([f'({places})'] * len(values))} RETURNING id, seq",
        [row[name] for row in values for name in said],
    ).fetchall()
    seqs = dict(inserted)
    return [replace(judgment, seq=seqs[judgment.id]) for judgment in several]


def _known(cursor: Cursor, judgment: Judgment) -> Judgment:
    """The record with the id of this one; sending it again is harmless, changing it is not."""
    row = cursor.execute(
        f"SELECT {_COLUMNS}, seq FROM judgments WHERE id = ?", [judgment.id]
    ).fetchone()
    assert row is not None
    known = _judgment(row)
    if not _says_the_same(known, judgment):
        raise Conflict(
            "Judgment {id} is already recorded with another content; reload the page and "
            "judge again.",
            id=judgment.id,
        )
    return known


def _check_newest(cursor: Cursor, judgment: Judgment) -> None:
    """What is superseded must still be the newest; two pages may act at once."""
    row = cursor.execute(
        "SELECT id FROM judgments WHERE comparison_id = ? AND annotator_id = ?"
        " ORDER BY seq DESC LIMIT 1",
        [judgment.comparison_id, judgment.annotator_id],
    ).fetchone()
    if row is None or row[0] != judgment.supersedes:
        raise Conflict("This judgment was changed since; reload the page to see the newest.")


def _says_the_same(a: Judgment, b: Judgment) -> bool:
    return replace(a, recorded_at=b.recorded_at, seq=b.seq, duration_ms=b.duration_ms) == b


def _values(j: Judgment) -> list[Any]:
    """In the order of the columns; nothing said is NULL, as it is for whoever was never asked."""
    return [
        j.id,
        j.comparison_id,
        j.annotator_id,
        j.lease_id,
        j.verdict,
        list(j.displayed_completion_ids),
        j.recorded_at,
        j.preferred_completion_id,
        j.strength,
        j.reason,
        j.supersedes,
        j.duration_ms,
        j.source,
        j.guidelines_version,
        _list(j.ranks),
        _list(j.ratings),
        j.rating_scale,
        [asdict(c) | {"ratings": _list(c.ratings)} for c in j.criteria] or None,
        list(j.reasons) or None,
        j.rationale,
        [asdict(flag) for flag in j.flags] or None,
        j.rewrite_completion_id,
        j.rewritten_completion_id,
    ]


def _list(given: Sequence[int | None] | None) -> list[int | None] | None:
    return None if given is None else list(given)


def _tuple(found: Sequence[int | None] | None) -> tuple[int | None, ...] | None:
    return None if found is None else tuple(found)


def _judgment(row: tuple[Any, ...]) -> Judgment:
    values = dict(zip([*_TYPES, "seq"], row, strict=True))
    values["verdict"] = Verdict(values["verdict"])
    values["displayed_completion_ids"] = tuple(values["displayed_completion_ids"])
    if values["ranks"] is not None:
        values["ranks"] = tuple(values["ranks"])
    if values["ratings"] is not None:
        values["ratings"] = tuple(values["ratings"])
        values["rating_scale"] = RatingScale(values["rating_scale"])
    values["criteria"] = tuple(
        CriterionJudgment(**(c | {"ratings": _tuple(c["ratings"])}))
        for c in values["criteria"] or ()
    )
    values["reasons"] = tuple(values["reasons"] or ())
    values["flags"] = tuple(Flag(**flag) for flag in values["flags"] or ())
    return Judgment(**values)
