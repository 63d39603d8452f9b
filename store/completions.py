"""Completions: texts for a prompt, stamped with what produced them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from store import rows
from store.db import Cursor, Store
from store.records import Completion

_COLUMNS = (
    "id, prompt_id, text, source, policy_version, adapter_sha256, sampling, seed,"
    " finish_reason, token_count, created_at, author"
)
_SAMPLING = ("temperature", "top_p", "top_k", "max_new_tokens")
_TYPES = {
    "id": "VARCHAR",
    "prompt_id": "VARCHAR",
    "text": "VARCHAR",
    "source": "VARCHAR",
    "policy_version": "VARCHAR",
    "adapter_sha256": "VARCHAR",
    "sampling": "STRUCT(temperature DOUBLE, top_p DOUBLE, top_k INTEGER, max_new_tokens INTEGER)",
    "seed": "BIGINT",
    "finish_reason": "VARCHAR",
    "token_count": "INTEGER",
    "created_at": "TIMESTAMPTZ",
    "author": "VARCHAR",
}


def insert(cursor: Cursor, completions: Sequence[Completion]) -> None:
    """Add completions within a change."""
    rows.insert(cursor, "completions", _TYPES, [_values(c) for c in completions])


def insert_new(cursor: Cursor, completions: Sequence[Completion]) -> None:
    """Add those that are new, within a change."""
    unique = {c.id: c for c in completions}
    known = rows.known_ids(cursor, "completions", unique)
    insert(cursor, [c for c in unique.values() if c.id not in known])


def get_many(store: Store, ids: Sequence[str]) -> dict[str, Completion]:
    """The known ones among `ids`, by id."""
    with store.read() as cursor:
        found = cursor.execute(
            f"SELECT {_COLUMNS} FROM completions WHERE list_contains(?, id)", [list(ids)]
        ).fetchall()
    return {row[0]: _completion(row) for row in found}


class Written(NamedTuple):
    """Tokens of what policies wrote: on average, and of the longest."""

    mean_tokens: float
    longest_tokens: int


def written(store: Store, newest: int) -> Written | None:
    """Of so many of the newest completions by policies; None where there are none."""
    with store.read() as cursor:
        row = cursor.execute(
            "SELECT avg(token_count), max(token_count) FROM ("
            " SELECT token_count FROM completions"
            " WHERE policy_version IS NOT NULL AND token_count IS NOT NULL"
            " ORDER BY created_at DESC, id LIMIT ?)",
            [newest],
        ).fetchone()
    assert row is not None
    return Written(*row) if row[0] is not None else None


def _completion(row: tuple[Any, ...]) -> Completion:
    return Completion(*row)


def _values(c: Completion) -> list[Any]:
    return [
        c.id,
        c.prompt_id,
        c.text,
        c.source,
        c.policy_version,
        c.adapter_sha256,
        {key: c.sampling.get(key) for key in _SAMPLING} if c.sampling else None,
        c.seed,
        c.finish_reason,
        c.token_count,
        c.created_at,
        c.author,
    ]
