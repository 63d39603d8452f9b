"""Many rows at a time: one statement for a batch, some thirty times faster than `executemany`.

Knows SQL types and lists of values; knows no table of the domain.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from store.db import Cursor


class Extent(NamedTuple):
    """The highest seq of an append-only table, and how many rows there are up to it."""

    seq: int
    rows: int


def insert(
    cursor: Cursor, table: str, types: Mapping[str, str], rows: Sequence[Sequence[Any]]
) -> None:
    """Add `rows`, whose values stand in the order of `types` (column name to SQL type)."""
    if not rows:
        return
    columns = ", ".join(f'"{name}"' for name in types)
    values = ", ".join(f"unnest(?::{type}[])" for type in types.values())
    cursor.execute(
        f"INSERT INTO {table} ({columns}) SELECT {values}",
        [list(column) for column in zip(*rows, strict=True)],
    )


def known_ids(cursor: Cursor, table: str, ids: Iterable[str]) -> set[str]:
    """Those of `ids` that the table's `id` column holds."""
    rows = cursor.execute(
        f"SELECT id FROM {table} SEMI JOIN (SELECT unnest(?::VARCHAR[]) AS id) USING (id)",
        [list(ids)],
    ).fetchall()
    return {row[0] for row in rows}


def extent(cursor: Cursor, table: str, *, up_to: int | None = None) -> Extent:
    """How far the table reaches, all of it or its rows with a seq up to `up_to`."""
    row = cursor.execute(
        f"SELECT coalesce(max(seq), 0), count(*) FROM {table}"
        " WHERE $up_to IS NULL OR seq <= $up_to",
        {"up_to": up_to},
    ).fetchone()
    return Extent(*row) if row else Extent(0, 0)
