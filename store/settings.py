"""The project's settings: small JSON values by name."""

from __future__ import annotations

import json
from typing import Any

from store.db import Cursor, Store


def get(store: Store, key: str, default: Any) -> Any:
    """The value kept under `key`, or `default`."""
    with store.read() as cursor:
        row = cursor.execute("SELECT value FROM settings WHERE key = ?", [key]).fetchone()
    return json.loads(row[0]) if row else default


def put(store: Store, key: str, value: Any) -> None:
    """Keep a JSON value under `key`."""
    store.write(lambda cursor: put_within(cursor, key, value))


def put_within(cursor: Cursor, key: str, value: Any) -> None:
    """`put`, within a change."""
    cursor.execute(
        "INSERT INTO settings VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value",
        [key, json.dumps(value, ensure_ascii=False)],
    )
