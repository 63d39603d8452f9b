"""Checks: what a program can look for in a response to a prompt.

Of several imports that give a prompt checks, the newest counts. Knows what a check is called and
needs; whether a response holds to it is for those who measure to tell.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from store import rows
from store.db import Cursor, Store

_TYPES = {
    "prompt_id": "VARCHAR",
    "checks": "JSON",
    "source": "VARCHAR",
    "created_at": "TIMESTAMPTZ",
}


class Check(NamedTuple):
    """One instruction: its kind, and what that needs to know; empty where it needs nothing."""

    kind: str
    value: str | int = ""


Checks = tuple[Check, ...]


def insert(cursor: Cursor, given: Mapping[str, Checks], *, source: str, now: datetime) -> None:
    """Give prompts their checks, by prompt id, within a change."""
    values = [[id, json.dumps([c._asdict() for c in cs]), source, now] for id, cs in given.items()]
    rows.insert(cursor, "prompt_checks", _TYPES, values)


def of_prompts(store: Store, ids: Sequence[str]) -> dict[str, Checks]:
    """The checks of those among `ids` that have some, by prompt id."""
    with store.read() as cursor:
        return known(cursor, ids)


def known(cursor: Cursor, ids: Sequence[str]) -> dict[str, Checks]:
    """`of_prompts`, within a change."""
    found = cursor.execute(
        "SELECT prompt_id, checks FROM prompt_checks SEMI JOIN"
        " (SELECT unnest(?::VARCHAR[]) AS prompt_id) USING (prompt_id)"
        " QUALIFY row_number() OVER (PARTITION BY prompt_id ORDER BY seq DESC) = 1",
        [list(ids)],
    ).fetchall()
    return {id: _checks(json.loads(told)) for id, told in found}


def _checks(told: Sequence[Mapping[str, Any]]) -> Checks:
    return tuple(Check(**values) for values in told)
