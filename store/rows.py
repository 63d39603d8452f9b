"""Many rows at a time: one statement for a batch, some thirty times faster than `executemany`.

Knows SQL types and lists of values; knows no table of the domain.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from store.db import Cursor


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
