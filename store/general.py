"""General demonstrations: what a policy should keep knowing, replayed and measured beside a run.

They come from files that a lead has imported for that, from the demonstrations that the policies
before learned from, and from what the base model brings along.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import duckdb

from store import rows, training_data
from store.db import Cursor, Store
from store.errors import BadInput
from store.records import GeneralDemonstration
from store.training_data import Kind

MOST_ROWS = 4000  # of one run; a sample of what there is beyond
_TYPES = {
    "id": "VARCHAR",
    "prompt": 'STRUCT("role" VARCHAR, "content" VARCHAR)[]',
    "completion": "VARCHAR",
    "source": "VARCHAR",
    "created_at": "TIMESTAMPTZ",
}


class Origins(NamedTuple):
    """Where a run's general demonstrations come from, beside those imported as such.

    `earlier` are the files of snapshots of demonstrations that the starting policy or one before it
    learned from; what the file `learned` holds, the run learns anyway. `own` is a file of the base
    model: JSON Lines with `messages`, of which the last one is the assistant's.
    """

    earlier: Sequence[Path] = ()
    learned: Path | None = None
    own: Path | None = None


_IMPORTED = """
    SELECT id, source AS origin, prompt, completion, []::VARCHAR[] AS judgment_ids,
        0::BIGINT AS max_judgment_seq
    FROM general_demonstrations
"""
_EARLIER = """
    SELECT completion_id AS id, 'earlier' AS origin, prompt, completion[1].content AS completion,
        judgment_ids, max_judgment_seq
    FROM ({demonstrations})
    WHERE completion_id IN (SELECT completion_id FROM read_parquet([{earlier}]))
"""
_NOT_LEARNED = " AND completion_id NOT IN (SELECT completion_id FROM read_parquet({learned}))"
_OWN = """
    SELECT md5(messages::VARCHAR) AS id, 'base model' AS origin, messages[:-2] AS prompt,
        messages[-1].content AS completion, []::VARCHAR[] AS judgment_ids,
        0::BIGINT AS max_judgment_seq
    FROM read_json(
        {own}, format = 'newline_delimited',
        columns = {{messages: 'STRUCT("role" VARCHAR, "content" VARCHAR)[]'}}
    )
    WHERE len(messages) > 1 AND messages[-1].role = 'assistant'
"""


def insert(cursor: Cursor, fresh: Sequence[GeneralDemonstration], *, now: datetime) -> None:
    """Add new ones, within a change."""
    values = [[g.id, list(g.prompt), g.completion, g.source, now] for g in fresh]
    rows.insert(cursor, "general_demonstrations", _TYPES, values)


def count_imported(store: Store) -> int:
    """How many have been imported."""
    with store.read() as cursor:
        row = cursor.execute("SELECT count(*) FROM general_demonstrations").fetchone()
    assert row is not None
    return int(row[0])


def count(store: Store, origins: Origins) -> int:
    """How many a run with these origins would be given. Raises `BadInput` for a torn file."""
    with store.read() as cursor:
        try:
            row = cursor.execute(f"SELECT count(*) FROM ({select(origins)})").fetchone()
        except duckdb.Error as error:
            raise unreadable(error) from error
    assert row is not None
    return int(row[0])


def unreadable(error: duckdb.Error) -> BadInput:
    """What a lead is told when a file of general demonstrations cannot be read."""
    return BadInput("The general demonstrations cannot be read: {error}", error=error)


def select(origins: Origins) -> str:
    """Them in TRL's columns, in an order that stays, by SQL."""
    parts = [_IMPORTED]
    if origins.earlier:
        demonstrations = training_data.select(Kind.DEMONSTRATIONS)
        earlier = ", ".join(map(_literal, origins.earlier))
        parts.append(_EARLIER.format(demonstrations=demonstrations, earlier=earlier))
        if origins.learned is not None:
            parts[-1] += _NOT_LEARNED.format(learned=_literal(origins.learned))
    if origins.own is not None:
        parts.append(_OWN.format(own=_literal(origins.own)))
    return f"""
        SELECT prompt, [{{'role': 'assistant', 'content': completion}}] AS completion,
            id AS demonstration_id, origin, judgment_ids, max_judgment_seq
        FROM ({" UNION ALL BY NAME ".join(parts)})
        WHERE trim(completion) <> ''
        ORDER BY md5(id), origin
        LIMIT {MOST_ROWS}
    """


def _literal(path: Path) -> str:
    quoted = str(path).replace("'", "''")
    return f"'{quoted}'"
