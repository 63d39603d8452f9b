"""Guidelines: what annotators are asked to go by, in numbered versions that are never edited."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from store.db import Cursor, Store

_COLUMNS = "version, text, created_by, created_at"


class Guidelines(NamedTuple):
    """One version, in Markdown; versions count from 1."""

    version: int
    text: str
    created_by: str
    created_at: datetime


def add(store: Store, text: str, *, created_by: str) -> Guidelines:
    """Append the next version; the newest one again when the text is the same."""
    now = store.clock()

    def change(cursor: Cursor) -> Guidelines:
        newest = _newest(cursor)
        if newest is not None and newest.text == text:
            return newest
        made = Guidelines(newest.version + 1 if newest else 1, text, created_by, now)
        cursor.execute(f"INSERT INTO guidelines ({_COLUMNS}) VALUES (?, ?, ?, ?)", list(made))
        return made

    return store.write(change)


def newest(store: Store) -> Guidelines | None:
    """The version in force; None before the first one."""
    with store.read() as cursor:
        return _newest(cursor)


def _newest(cursor: Cursor) -> Guidelines | None:
    row = cursor.execute(
        f"SELECT {_COLUMNS} FROM guidelines ORDER BY version DESC LIMIT 1"
    ).fetchone()
    return Guidelines(*row) if row else None
