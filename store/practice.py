"""Practice items: comparisons with a known verdict, by which people learn the guidelines."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from store import comparisons, completions, journal, prompts, rows
from store.db import Cursor, Store
from store.errors import NotFound
from store.journal import Evidence
from store.records import Comparison, Completion, Prompt

_TYPES = {
    "comparison_id": "VARCHAR",
    "expected_completion_id": "VARCHAR",
    "explanation": "VARCHAR",
    "created_by": "VARCHAR",
    "created_at": "TIMESTAMPTZ",
    "is_active": "BOOLEAN",
}
_COLUMNS = ", ".join(_TYPES)


class PracticeItem(NamedTuple):
    """What is expected of a comparison, and why; without a completion a tie is.

    Only an active one is given to people who have not answered it.
    """

    comparison_id: str
    expected_completion_id: str | None
    explanation: str
    created_by: str
    created_at: datetime
    is_active: bool = True


class NewItem(NamedTuple):
    """A practice item with all that it is about, not yet stored."""

    item: PracticeItem
    comparison: Comparison
    prompt: Prompt
    completions: tuple[Completion, Completion]


def add(store: Store, new: Sequence[NewItem]) -> None:
    """Store them together, in this order."""
    now = store.clock()

    def change(cursor: Cursor) -> None:
        prompts.insert(cursor, [n.prompt for n in new], now=now)
        completions.insert(cursor, [c for n in new for c in n.completions])
        comparisons.insert(cursor, [n.comparison for n in new], now=now)
        rows.insert(cursor, "practice_items", _TYPES, [list(n.item) for n in new])

    lines = [
        journal.evidence_line(Evidence(n.comparison, n.prompt, n.completions, now)) for n in new
    ]
    store.write(change, journal=lines)


def list_all(store: Store) -> list[PracticeItem]:
    """Every one, oldest first."""
    with store.read() as cursor:
        found = cursor.execute(f"SELECT {_COLUMNS} FROM practice_items ORDER BY seq").fetchall()
    return [PracticeItem(*row) for row in found]


def set_active(store: Store, comparison_id: str, is_active: bool) -> None:
    """Give it to people, or no longer. Raises `NotFound`."""

    def change(cursor: Cursor) -> list[Any]:
        return cursor.execute(
            "UPDATE practice_items SET is_active = ? WHERE comparison_id = ?"
            " RETURNING comparison_id",
            [is_active, comparison_id],
        ).fetchall()

    if not store.write(change):
        raise NotFound("There is no practice item {id}; reload the page.", id=comparison_id)
