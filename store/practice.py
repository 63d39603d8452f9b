"""Practice items: comparisons with a known verdict, by which people learn the guidelines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from store import comparisons, completions, journal, prompts, rows
from store.db import Cursor, Store
from store.errors import NotFound
from store.journal import Evidence
from store.records import Comparison, Completion, PracticeItem, Prompt

_TYPES = {
    "comparison_id": "VARCHAR",
    "expected_completion_id": "VARCHAR",
    "explanation": "VARCHAR",
    "created_by": "VARCHAR",
    "created_at": "TIMESTAMPTZ",
    "is_active": "BOOLEAN",
    "changed_at": "TIMESTAMPTZ",
}
_COLUMNS = ", ".join(_TYPES)


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
        _insert(cursor, [n.item for n in new])

    lines = [
        line
        for n in new
        for line in (
            journal.evidence_line(Evidence(n.comparison, n.prompt, n.completions, now)),
            journal.practice_line(n.item),
        )
    ]
    store.write(change, journal=lines)


def list_all(store: Store) -> list[PracticeItem]:
    """Every one, oldest first."""
    with store.read() as cursor:
        found = cursor.execute(f"SELECT {_COLUMNS} FROM practice_items ORDER BY seq").fetchall()
    return [PracticeItem(*row) for row in found]


def set_active(store: Store, comparison_id: str, is_active: bool) -> PracticeItem:
    """Give it to people, or no longer; the item as it is then. Raises `NotFound`."""
    changed = _get(store, comparison_id)._replace(is_active=is_active, changed_at=store.clock())
    store.write(lambda cursor: _change(cursor, changed), journal=[journal.practice_line(changed)])
    return changed


def restore(cursor: Cursor, items: Sequence[PracticeItem]) -> None:
    """Add the items that are not there, and take over what was changed since of those that are."""
    ids = [item.comparison_id for item in items]
    found = cursor.execute(
        "SELECT comparison_id FROM practice_items WHERE list_contains(?, comparison_id)", [ids]
    ).fetchall()
    known = {row[0] for row in found}
    _insert(cursor, [item for item in items if item.comparison_id not in known])
    for item in items:
        if item.comparison_id in known and item.changed_at is not None:
            _change(cursor, item)


def _get(store: Store, comparison_id: str) -> PracticeItem:
    with store.read() as cursor:
        row = cursor.execute(
            f"SELECT {_COLUMNS} FROM practice_items WHERE comparison_id = ?", [comparison_id]
        ).fetchone()
    if row is None:
        raise NotFound("There is no practice item {id}; reload the page.", id=comparison_id)
    return PracticeItem(*row)


def _insert(cursor: Cursor, items: Sequence[PracticeItem]) -> None:
    rows.insert(cursor, "practice_items", _TYPES, [list(item) for item in items])


def _change(cursor: Cursor, item: PracticeItem) -> None:
    """An older change leaves the item as it is."""
    cursor.execute(
        "UPDATE practice_items SET is_active = $active, changed_at = $at"
        " WHERE comparison_id = $id AND (changed_at IS NULL OR changed_at <= $at)",
        {"active": item.is_active, "at": item.changed_at, "id": item.comparison_id},
    )
