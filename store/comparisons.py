"""Comparisons and the leases by which annotators hold them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from store import journal, rows
from store.db import Cursor, Part, Store
from store.errors import NotFound
from store.records import Comparison, Lease, Purpose

_COLUMNS = "id, prompt_id, completion_ids, purpose"
_TYPES = {
    "id": "VARCHAR",
    "prompt_id": "VARCHAR",
    "completion_ids": "VARCHAR[]",
    "purpose": "VARCHAR",
    "created_at": "TIMESTAMPTZ",
}
_LEASE_TYPES = {
    "id": "VARCHAR",
    "comparison_id": "VARCHAR",
    "annotator_id": "VARCHAR",
    "display_order": "UTINYINT[]",
    "leased_at": "TIMESTAMPTZ",
    "expires_at": "TIMESTAMPTZ",
}
_LEASE_COLUMNS = ", ".join(_LEASE_TYPES)


# Every evaluation comparison that no lead has withdrawn, twice, once from each side; its sides are
# two versions.
_DUELS = """
    SELECT c.id, x.policy_version AS version, y.policy_version AS other, x.id AS completion_id,
        y.id AS other_id
    FROM (
        SELECT id, completion_ids[1] AS one, completion_ids[2] AS two
        FROM comparisons WHERE purpose = 'evaluate'
        UNION ALL
        SELECT id, completion_ids[2], completion_ids[1] FROM comparisons WHERE purpose = 'evaluate'
    ) c
    JOIN completions x ON x.id = c.one
    JOIN completions y ON y.id = c.two
    WHERE x.policy_version <> y.policy_version
        AND c.id NOT IN (SELECT comparison_id FROM withdrawn_comparisons)
"""


# What a judgment of a duel says for `version`: above 0 a win, below a loss, 0 a draw. Where each
# response was rated by itself, the higher rating wins.
_OUTCOME = """
    CASE
        WHEN j.verdict = 'preferred'
            THEN if(j.preferred_completion_id = d.completion_id, 1, -1)
        WHEN j.verdict IN ('tie', 'both_bad') THEN 0
        WHEN j.verdict = 'rated'
            THEN j.ratings[list_position(j.displayed_completion_ids, d.completion_id)]::INTEGER
                - j.ratings[list_position(j.displayed_completion_ids, d.other_id)]::INTEGER
    END
"""


class Progress(NamedTuple):
    """How far one comparison has come. `annotator_ids` are those whose judgment counts.

    `skipped_by` are annotators who could not judge it; they are not asked again. With
    `reserved_for` it is a turn of that annotator's own conversation, and nobody else's to judge.
    With `is_withdrawn` a lead has taken it out.
    """

    comparison_id: str
    size: int
    created_at: datetime
    annotator_ids: tuple[str, ...]
    skipped_by: tuple[str, ...]
    reserved_for: str | None = None
    is_withdrawn: bool = False


def insert(cursor: Cursor, comparisons: Sequence[Comparison], *, now: datetime) -> None:
    """Add comparisons within a change."""
    insert_dated(cursor, [(c, now) for c in comparisons])


def insert_dated(cursor: Cursor, dated: Sequence[tuple[Comparison, datetime]]) -> None:
    """`insert`, each with a time of its own."""
    values = [[c.id, c.prompt_id, list(c.completion_ids), c.purpose, at] for c, at in dated]
    rows.insert(cursor, "comparisons", _TYPES, values)


def get(store: Store, id: str) -> Comparison:
    """Raises `NotFound`."""
    found = get_many(store, [id])
    if id not in found:
        raise NotFound("There is no comparison {id}.", id=id)
    return found[id]


def get_many(store: Store, ids: Sequence[str]) -> dict[str, Comparison]:
    """The known ones among `ids`, by id."""
    with store.read() as cursor:
        found = cursor.execute(
            f"SELECT {_COLUMNS} FROM comparisons WHERE list_contains(?, id)", [list(ids)]
        ).fetchall()
    return {row[0]: _comparison(row) for row in found}


# Practice, which everybody judges, and what came with its judgments from a file are not handed out.
_PROGRESS = """
    SELECT
        c.id,
        len(c.completion_ids),
        c.created_at,
        coalesce(j.judged_by, []),
        coalesce(j.skipped_by, []),
        t.annotator_id,
        w.comparison_id IS NOT NULL
    FROM comparisons c
    LEFT JOIN (
        SELECT
            comparison_id,
            list(annotator_id) FILTER (WHERE verdict <> 'skipped') AS judged_by,
            list(annotator_id) FILTER (WHERE verdict = 'skipped') AS skipped_by,
            count(*) FILTER (WHERE source <> 'page') AS imported
        FROM effective_judgments
        WHERE $id IS NULL OR comparison_id = $id
        GROUP BY comparison_id
    ) j ON j.comparison_id = c.id
    LEFT JOIN arena_turns t ON t.comparison_id = c.id
    LEFT JOIN withdrawn_comparisons w ON w.comparison_id = c.id
    WHERE c.purpose <> 'practice' AND coalesce(j.imported, 0) = 0
        AND ($id IS NULL OR c.id = $id)
"""
_IS_LACKING = (
    "w.comparison_id IS NOT NULL"
    " OR coalesce(len(j.judged_by), 0) < if(t.comparison_id IS NULL, $required, 1)"
)


def progress(store: Store, *, fewer_than: int | None = None) -> list[Progress]:
    """Comparisons that people judge on the page, oldest first: all, or those not done.

    What has `fewer_than` judgments is not done; of one that is reserved, one judgment is enough.
    Withdrawn ones are never done. What came with an import has its judgments already and is not
    among them; nor is practice, which everybody judges.
    """
    with store.read() as cursor:
        found = cursor.execute(
            f"{_PROGRESS} AND ($required IS NULL OR {_IS_LACKING}) ORDER BY c.created_at, c.id",
            {"id": None, "required": fewer_than},
        ).fetchall()
    return [_progress(row) for row in found]


def progress_of(store: Store, id: str) -> Progress | None:
    """One of those that `progress` gives."""
    with store.read() as cursor:
        row = cursor.execute(_PROGRESS, {"id": id}).fetchone()
    return _progress(row) if row else None


def count(store: Store) -> int:
    """How many `progress` gives, all together."""
    with store.read() as cursor:
        row = cursor.execute(
            "SELECT count(*) FROM comparisons WHERE purpose <> 'practice' AND id NOT IN"
            " (SELECT comparison_id FROM effective_judgments WHERE source <> 'page')"
        ).fetchone()
    return int(row[0]) if row else 0


class HeadToHead(NamedTuple):
    """Blind verdicts of people on `version` against `other`; a draw is a tie or both bad.

    `waiting` are comparisons that nobody has judged yet.
    """

    version: str
    other: str
    wins: int
    losses: int
    draws: int
    waiting: int


def count_between(store: Store, version: str, other: str) -> int:
    """How many evaluation comparisons pit the two versions against each other."""
    with store.read() as cursor:
        row = cursor.execute(
            f"SELECT count(*) FROM ({_DUELS}) WHERE version = ? AND other = ?", [version, other]
        ).fetchone()
    return int(row[0]) if row else 0


def heads_to_heads(store: Store) -> list[HeadToHead]:
    """What people said of each version against every other that it met blind."""
    with store.read() as cursor:
        found = cursor.execute(
            f"""
            SELECT
                d.version,
                d.other,
                count(*) FILTER (WHERE ({_OUTCOME}) > 0),
                count(*) FILTER (WHERE ({_OUTCOME}) < 0),
                count(*) FILTER (WHERE ({_OUTCOME}) = 0),
                count(DISTINCT d.id) FILTER (WHERE j.id IS NULL)
            FROM ({_DUELS}) d LEFT JOIN effective_judgments j ON j.comparison_id = d.id
            GROUP BY d.version, d.other
            ORDER BY d.version, d.other DESC
            """
        ).fetchall()
    return [HeadToHead(*row) for row in found]


def record_leases(store: Store, leases: Sequence[Lease]) -> None:
    """Append leases; what an annotator was shown, and in which order, is never forgotten."""
    store.submit(
        lambda cursor: insert_leases(cursor, leases),
        journal=[journal.lease_line(lease) for lease in leases],
        part=Part(_insert_several_leases, leases),
    ).result()


def insert_leases(cursor: Cursor, leases: Sequence[Lease]) -> None:
    """Add leases within a change; not journalled."""
    rows.insert(cursor, "leases", _LEASE_TYPES, [_lease_values(x) for x in leases])


def _insert_several_leases(cursor: Cursor, several: Sequence[Sequence[Lease]]) -> list[None]:
    """Those of several people at once."""
    insert_leases(cursor, [lease for leases in several for lease in leases])
    return [None] * len(several)


def get_lease(store: Store, id: str) -> Lease:
    """Raises `NotFound`."""
    with store.read() as cursor:
        row = cursor.execute(f"SELECT {_LEASE_COLUMNS} FROM leases WHERE id = ?", [id]).fetchone()
    if row is None:
        raise NotFound("There is no lease {id}; reload the page to get current items.", id=id)
    return _lease(row)


def get_leases(store: Store, ids: Sequence[str]) -> dict[str, Lease]:
    """The known ones among `ids`, by id."""
    with store.read() as cursor:
        found = cursor.execute(
            f"SELECT {_LEASE_COLUMNS} FROM leases WHERE list_contains(?, id)", [list(ids)]
        ).fetchall()
    return {row[0]: _lease(row) for row in found}


def open_leases(store: Store, *, now: datetime) -> list[Lease]:
    """Leases that have neither expired nor led to a judgment that counts, oldest first."""
    with store.read() as cursor:
        found = cursor.execute(
            """
            SELECT l.id, l.comparison_id, l.annotator_id, l.display_order, l.leased_at, l.expires_at
            FROM leases l
            WHERE l.expires_at > ? AND NOT EXISTS (
                SELECT 1 FROM effective_judgments j
                WHERE j.comparison_id = l.comparison_id AND j.annotator_id = l.annotator_id
            )
            ORDER BY l.leased_at, l.id
            """,
            [now],
        ).fetchall()
    return [_lease(row) for row in found]


def _comparison(row: tuple[Any, ...]) -> Comparison:
    return Comparison(row[0], row[1], tuple(row[2]), Purpose(row[3]))


def _progress(row: tuple[Any, ...]) -> Progress:
    return Progress(row[0], row[1], row[2], tuple(row[3]), tuple(row[4]), row[5], row[6])


def _lease(row: tuple[Any, ...]) -> Lease:
    return Lease(row[0], row[1], row[2], tuple(row[3]), row[4], row[5])


def _lease_values(x: Lease) -> list[Any]:
    order = list(x.display_order)
    return [x.id, x.comparison_id, x.annotator_id, order, x.leased_at, x.expires_at]
