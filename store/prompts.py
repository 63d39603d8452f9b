"""Prompts: messages given to a policy, identified by a hash of their content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from store import rows
from store.db import Cursor, Store
from store.errors import NotFound
from store.records import Message, Prompt, Split

HELD_OUT_SHARE = 0.1
ARENA = "arena"  # the source of what people type in the arena; never handed out to others
PRACTICE = "practice"  # the source of what came with a practice item; no policy is asked it
_ASKED = f"source <> '{PRACTICE}'"
_COLUMNS = "id, messages, language, split, source"
_TYPES = {
    "id": "VARCHAR",
    "messages": 'STRUCT("role" VARCHAR, "content" VARCHAR)[]',
    "language": "VARCHAR",
    "split": "VARCHAR",
    "source": "VARCHAR",
    "created_at": "TIMESTAMPTZ",
}


class PromptCount(NamedTuple):
    """How many prompts of a language are in a split."""

    language: str
    split: Split
    prompts: int


def prompt_id(messages: Sequence[Message]) -> str:
    """Hash of the conversation, so that importing twice adds nothing."""
    canonical = json.dumps(
        [[m["role"], m["content"]] for m in messages], ensure_ascii=False, separators=(",", ":")
    )
    return hashlib.sha256(canonical.encode()).hexdigest()[:24]


def make(messages: Sequence[Message], *, language: str, split: Split, source: str) -> Prompt:
    """A prompt record with its content-derived id."""
    return Prompt(prompt_id(messages), tuple(messages), language, split, source)


def split_of(messages: Sequence[Message], held_out_share: float = HELD_OUT_SHARE) -> Split:
    """By the opening of the conversation, so that all its turns fall on the same side."""
    first = next(i for i, m in enumerate(messages) if m["role"] == "user")
    opening = prompt_id(messages[: first + 1])
    digest = hashlib.sha256(f"5:split{len(opening)}:{opening}".encode()).hexdigest()
    return Split.HELD_OUT if int(digest[:8], 16) / 2**32 < held_out_share else Split.TRAIN


def insert(cursor: Cursor, prompts: Sequence[Prompt], *, now: Any) -> int:
    """Add those that are new, within a change; returns how many were."""
    unique = {p.id: p for p in prompts}
    known = rows.known_ids(cursor, "prompts", unique)
    fresh = [p for p in unique.values() if p.id not in known]
    values = [[p.id, list(p.messages), p.language, p.split, p.source, now] for p in fresh]
    rows.insert(cursor, "prompts", _TYPES, values)
    return len(fresh)


def add(store: Store, prompts: Sequence[Prompt]) -> int:
    """Add those that are new; returns how many were."""
    now = store.clock()
    return store.write(lambda cursor: insert(cursor, prompts, now=now))


def get(store: Store, id: str) -> Prompt:
    """Raises `NotFound`."""
    with store.read() as cursor:
        row = cursor.execute(f"SELECT {_COLUMNS} FROM prompts WHERE id = ?", [id]).fetchone()
    if row is None:
        raise NotFound("There is no prompt {id}.", id=id)
    return _prompt(row)


def get_many(store: Store, ids: Sequence[str]) -> dict[str, Prompt]:
    """The known ones among `ids`, by id."""
    with store.read() as cursor:
        found = cursor.execute(
            f"SELECT {_COLUMNS} FROM prompts WHERE list_contains(?, id)", [list(ids)]
        ).fetchall()
    return {row[0]: _prompt(row) for row in found}


def count(store: Store, *, split: Split) -> int:
    """How many prompts the split holds."""
    with store.read() as cursor:
        row = cursor.execute(
            f"SELECT count(*) FROM prompts WHERE split = ? AND {_ASKED}", [split]
        ).fetchone()
    return int(row[0]) if row else 0


def tally(store: Store) -> list[PromptCount]:
    """How many prompts there are, by language and split; the commonest language first."""
    with store.read() as cursor:
        found = cursor.execute(
            f"SELECT language, split, count(*) AS prompts FROM prompts WHERE {_ASKED}"
            " GROUP BY language, split ORDER BY prompts DESC, language, split"
        ).fetchall()
    return [PromptCount(row[0], Split(row[1]), row[2]) for row in found]


def sample(store: Store, n: int, *, split: Split, seed: int) -> list[Prompt]:
    """`n` prompts of the split in an order that depends on `seed` alone."""
    with store.read() as cursor:
        found = cursor.execute(
            f"SELECT {_COLUMNS} FROM prompts WHERE split = ? AND {_ASKED}"
            " ORDER BY md5(id || ?) LIMIT ?",
            [split, str(seed), n],
        ).fetchall()
    return [_prompt(row) for row in found]


def least_compared(
    store: Store,
    n: int,
    *,
    split: Split,
    policy_version: str,
    seed: int,
    besides: Collection[str] = (),
) -> list[Prompt]:
    """`n` prompts, not among `besides`, with the fewest completions of `policy_version`.

    What somebody typed in the arena is not among them.
    """
    with store.read() as cursor:
        found = cursor.execute(
            f"""
            WITH used AS (
                SELECT prompt_id, count(*) AS uses FROM completions
                WHERE policy_version = ? GROUP BY prompt_id
            )
            SELECT p.id, p.messages, p.language, p.split, p.source
            FROM prompts p LEFT JOIN used u ON u.prompt_id = p.id
            WHERE p.split = ? AND p.source <> ? AND {_ASKED}
            AND NOT list_contains(?::VARCHAR[], p.id)
            ORDER BY coalesce(u.uses, 0), md5(p.id || ?) LIMIT ?
            """,
            [policy_version, split, ARENA, list(besides), str(seed), n],
        ).fetchall()
    return [_prompt(row) for row in found]


def _prompt(row: tuple[Any, ...]) -> Prompt:
    id, messages, language, split, source = row
    return Prompt(id, tuple(messages), language, Split(split), source)
