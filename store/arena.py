"""Conversations in the arena: which comparison is which turn of whose conversation."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from store import comparisons, completions, journal, prompts, rows
from store.db import Cursor, Store
from store.journal import Evidence
from store.records import ArenaTurn, Lease, Message

_TYPES = {
    "comparison_id": "VARCHAR",
    "conversation_id": "VARCHAR",
    "annotator_id": "VARCHAR",
    "turn": "INTEGER",
    "created_at": "TIMESTAMPTZ",
}
_COLUMNS = ", ".join(_TYPES)


class ConversationLine(NamedTuple):
    """One conversation in a person's list. `messages` are those of its newest prompt."""

    id: str
    turns: int
    updated_at: datetime
    messages: tuple[Message, ...]


def record(store: Store, evidence: Evidence, lease: Lease) -> None:
    """Store a turn with everything that it is made of, and the lease that its annotator holds.

    Durable, and journalled, when it returns. `evidence.arena` says which turn it is.
    """
    turn = evidence.arena
    assert turn is not None

    def change(cursor: Cursor) -> None:
        prompts.insert(cursor, [evidence.prompt], now=evidence.created_at)
        completions.insert(cursor, evidence.completions)
        comparisons.insert(cursor, [evidence.comparison], now=evidence.created_at)
        insert(cursor, [turn])
        comparisons.insert_leases(cursor, [lease])

    lines = [journal.evidence_line(evidence), journal.lease_line(lease)]
    store.write(change, journal=lines)


def insert(cursor: Cursor, turns: Sequence[ArenaTurn]) -> None:
    """Add turns within a change."""
    values = [[getattr(turn, name) for name in _TYPES] for turn in turns]
    rows.insert(cursor, "arena_turns", _TYPES, values)


def newest_turn(store: Store, conversation_id: str) -> ArenaTurn | None:
    """Where the conversation stands; None when there is no such conversation."""
    with store.read() as cursor:
        row = cursor.execute(
            f"SELECT {_COLUMNS} FROM arena_turns WHERE conversation_id = ?"
            " ORDER BY turn DESC, seq DESC LIMIT 1",
            [conversation_id],
        ).fetchone()
    return ArenaTurn(*row) if row else None


def turn_of(store: Store, comparison_id: str) -> ArenaTurn | None:
    """The turn that a comparison is; None for one that is not of the arena."""
    with store.read() as cursor:
        row = cursor.execute(
            f"SELECT {_COLUMNS} FROM arena_turns WHERE comparison_id = ?", [comparison_id]
        ).fetchone()
    return ArenaTurn(*row) if row else None


def conversations(store: Store, annotator_id: str, *, limit: int) -> list[ConversationLine]:
    """The annotator's own, the one that was last spoken in first."""
    with store.read() as cursor:
        found = cursor.execute(
            """
            SELECT t.conversation_id, t.turn, t.created_at, p.messages
            FROM (
                SELECT * FROM arena_turns WHERE annotator_id = ?
                QUALIFY row_number() OVER (
                    PARTITION BY conversation_id ORDER BY turn DESC, seq DESC
                ) = 1
            ) t
            JOIN comparisons c ON c.id = t.comparison_id
            JOIN prompts p ON p.id = c.prompt_id
            ORDER BY t.seq DESC LIMIT ?
            """,
            [annotator_id, limit],
        ).fetchall()
    return [ConversationLine(row[0], row[1], row[2], tuple(row[3])) for row in found]


def lease_of(store: Store, turn: ArenaTurn) -> Lease:
    """The lease by which its annotator holds a turn."""
    with store.read() as cursor:
        row = cursor.execute(
            "SELECT id FROM leases WHERE comparison_id = ? AND annotator_id = ?"
            " ORDER BY leased_at LIMIT 1",
            [turn.comparison_id, turn.annotator_id],
        ).fetchone()
    return comparisons.get_lease(store, row[0] if row else "")
