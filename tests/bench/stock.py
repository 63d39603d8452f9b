"""Stocking a store before a measurement: accounts, comparisons that wait, and a long history.

Rows are made by SQL in one change. Ids are hashes, as real ones are spread: an order in them would
let the database skip what it has to search in life.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import partial

from labeling.sessions import hash_password
from store import annotators, mending
from store.db import Cursor, Store
from store.records import Role

COMPARISONS_PER_PROMPT = 5
HISTORY_LIFE = timedelta(days=400)

_SENTENCES = (
    "I am sorry for the trouble that this has caused you.",
    "Open the sign-in page and tap **Forgot password**, then follow the link.",
    "The parcel left our warehouse today and will arrive within three days.",
    "Please send a photo of the label, so that a replacement can be sent.",
    "A refund takes five working days to show on your statement.",
    "If nothing arrives, reply here and I will look into it by hand.",
    "Your subscription ends with the period that you have paid for.",
    "The address can be changed until the parcel is handed to the carrier.",
    "Neither the warranty nor the price changes because of this.",
    "You find the invoice under *My orders*, beside the tracking number.",
    "This happens when an update was interrupted; start the device again.",
    "Our colleagues answer by telephone between eight and six.",
)

_DRAW = "CREATE OR REPLACE TEMP MACRO draw(key, n) AS (hash(key) % n::UBIGINT)::BIGINT"
# Every table of rows numbered `i`: `kind` keeps the ids of waiting and judged ones apart.
_PROMPTS = """
    INSERT INTO prompts (id, messages, language, split, source, created_at)
    SELECT
        left(md5($kind || ' prompt ' || i), 24),
        [{'role': 'user', 'content': 'Case ' || i || ' (' || $kind || '): what should I do? '
            || array_to_string([$sentences[1 + draw(i * 31 + k, len($sentences))]
                for k in range(4)], ' ')}],
        'en', 'train', 'bench', $since
    FROM range($prompts) t(i)
"""
_COMPLETIONS = """
    INSERT INTO completions (
        id, prompt_id, text, source, policy_version, adapter_sha256, sampling, seed, finish_reason,
        token_count, created_at
    )
    SELECT
        md5($kind || ' completion ' || i || ' ' || side),
        left(md5($kind || ' prompt ' || (i % $prompts)), 24),
        array_to_string([$sentences[1 + draw(i * 62 + side * 31 + k, len($sentences))]
            for k in range(5)], ' ') || ' (' || i || ')',
        'policy', 'pol-000001', sha256('adapter'),
        {'temperature': 1.0, 'top_p': 0.95, 'top_k': 0, 'max_new_tokens': 256},
        draw(i * 2 + side, 2147483648), 'stop', 70, $since + i * $step
    FROM range($comparisons) t(i), range(2) s(side)
"""
_COMPARISONS = """
    INSERT INTO comparisons (id, prompt_id, completion_ids, purpose, created_at)
    SELECT
        md5($kind || ' comparison ' || i),
        left(md5($kind || ' prompt ' || (i % $prompts)), 24),
        [md5($kind || ' completion ' || i || ' 0'), md5($kind || ' completion ' || i || ' 1')],
        'collect', $since + i * $step
    FROM range($comparisons) t(i)
"""
_LEASES = """
    INSERT INTO leases (id, comparison_id, annotator_id, display_order, leased_at, expires_at)
    SELECT
        md5('lease ' || c.id),
        c.id,
        $annotators[1 + draw(c.id, len($annotators))],
        if(draw(c.id || ' order', 2) = 0, [0, 1], [1, 0]),
        c.created_at + INTERVAL 1 MINUTE,
        c.created_at + INTERVAL 31 MINUTE
    FROM comparisons c
"""
_JUDGMENTS = """
    INSERT INTO judgments (
        id, comparison_id, annotator_id, lease_id, verdict, preferred_completion_id, strength,
        displayed_completion_ids, duration_ms, source, recorded_at
    )
    SELECT
        md5('judgment ' || l.id), l.comparison_id, l.annotator_id, l.id, v.verdict,
        if(v.verdict = 'preferred', c.completion_ids[1 + draw(l.id, 2)], NULL),
        if(v.verdict = 'preferred', 2, NULL),
        [c.completion_ids[place + 1] for place in l.display_order],
        20000 + draw(c.id, 30000), 'page', l.leased_at + INTERVAL 40 SECOND
    FROM leases l
    JOIN comparisons c ON c.id = l.comparison_id
    JOIN (VALUES (0, 'tie'), (1, 'both_bad'), (2, 'preferred')) v(draw, verdict)
        ON v.draw = least(draw(c.id || ' verdict', 10), 2)
    ORDER BY l.leased_at
"""


def add_people(store: Store, names: Sequence[str], password: str) -> list[str]:
    """Accounts that share one password, which is hashed once; their ids."""
    hashed = hash_password(password)
    added = [annotators.add(store, name, Role.ANNOTATOR, password_hash=hashed) for name in names]
    return [annotator.id for annotator in added]


def add_history(store: Store, judgments: int, annotator_ids: Sequence[str]) -> None:
    """As many judged comparisons, one judgment each, in a store that has none yet."""
    since = store.clock() - HISTORY_LIFE
    step = (HISTORY_LIFE - timedelta(days=1)) / judgments

    def change(cursor: Cursor) -> None:
        _add_comparisons(cursor, "judged", judgments, since=since, step=step)
        cursor.execute(_LEASES, {"annotators": list(annotator_ids)})
        cursor.execute(_JUDGMENTS)

    store.write(change)
    mending.mend(store)  # the journal has what was judged, as in a store that has grown


def add_waiting(store: Store, comparisons: int) -> None:
    """Comparisons that nobody has judged yet."""
    store.write(
        partial(
            _add_comparisons,
            kind="waiting",
            count=comparisons,
            since=store.clock(),
            step=timedelta(microseconds=1),
        )
    )


def _add_comparisons(
    cursor: Cursor, kind: str, count: int, *, since: object, step: timedelta
) -> None:
    given = {
        "kind": kind,
        "comparisons": count,
        "prompts": -(-count // COMPARISONS_PER_PROMPT),
        "sentences": list(_SENTENCES),
        "since": since,
        "step": step,
    }
    cursor.execute(_DRAW)
    for query in (_PROMPTS, _COMPLETIONS, _COMPARISONS):
        cursor.execute(query, {name: given[name] for name in given if f"${name}" in query})
