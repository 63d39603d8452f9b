"""Preferences: pairs derived from judgments by SQL, in TRL's columns when they leave the store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from store.db import Store
from store.records import Preference

_ORDER = "max_judgment_seq, chosen_completion_id, rejected_completion_id"

_LACKS_TEXT = "(trim(chosen.text) = '' OR trim(rejected.text) = '')"
# Judged before it was finished: whoever learned from it would learn to stop in mid-sentence.
_CUT_SHORT = "chosen.finish_reason = 'stopped'"
USABLE = (
    f"f.purpose = 'collect' AND chosen.text <> rejected.text AND NOT {_LACKS_TEXT}"
    f" AND NOT {_CUT_SHORT}"
)
TRAINABLE = f"{USABLE} AND p.split = 'train'"


def dataset_select(where: str, *, view: str = "preferences", columns: Sequence[str] = ()) -> str:
    """TRL's conversational preference format, followed by what each row is made of, by SQL.

    `columns` are further ones of the `view`. One comparison may give several rows, so the order is
    that of the newest judgment behind each and then of the ids: the same rows, the same order.
    """
    further = "".join(f" f.{name}," for name in columns)
    order = ", ".join(f"f.{name}" for name in [*_ORDER.split(", "), *columns])
    return f"""
        SELECT
            p.messages AS prompt,
            [{{'role': 'assistant', 'content': chosen.text}}] AS chosen,
            [{{'role': 'assistant', 'content': rejected.text}}] AS rejected,{further}
            f.margin,
            f.comparison_id,
            f.prompt_id,
            p.language,
            p.split,
            chosen.id AS chosen_completion_id,
            rejected.id AS rejected_completion_id,
            chosen.source AS chosen_source,
            rejected.source AS rejected_source,
            chosen.policy_version AS chosen_policy_version,
            rejected.policy_version AS rejected_policy_version,
            f.sources AS judgment_ids,
            f.max_judgment_seq
        FROM {view} f
        JOIN prompts p ON p.id = f.prompt_id
        JOIN completions chosen ON chosen.id = f.chosen_completion_id
        JOIN completions rejected ON rejected.id = f.rejected_completion_id
        WHERE {where}
        ORDER BY {order}
    """


class PreferenceCounts(NamedTuple):
    """What a training run started now would and would not use."""

    trainable: int
    held_out: int
    evaluation: int
    identical_texts: int
    distinct_prompts: int
    empty_texts: int = 0
    cut_short: int = 0


def counts(store: Store) -> PreferenceCounts:
    """Sort every derived preference into the one reason that decides its use."""
    with store.read() as cursor:
        row = cursor.execute(
            f"""
            SELECT
                count(*) FILTER (WHERE {TRAINABLE}),
                count(*) FILTER (WHERE f.purpose = 'collect' AND p.split = 'held_out'),
                count(*) FILTER (WHERE f.purpose = 'evaluate'),
                count(*) FILTER (WHERE f.purpose = 'collect' AND p.split = 'train'
                                 AND chosen.text = rejected.text),
                count(DISTINCT f.prompt_id) FILTER (WHERE {TRAINABLE}),
                count(*) FILTER (WHERE f.purpose = 'collect' AND p.split = 'train'
                                 AND chosen.text <> rejected.text AND {_LACKS_TEXT}),
                count(*) FILTER (WHERE f.purpose = 'collect' AND p.split = 'train'
                                 AND chosen.text <> rejected.text AND NOT {_LACKS_TEXT}
                                 AND {_CUT_SHORT})
            FROM preferences f
            JOIN prompts p ON p.id = f.prompt_id
            JOIN completions chosen ON chosen.id = f.chosen_completion_id
            JOIN completions rejected ON rejected.id = f.rejected_completion_id
            """
        ).fetchone()
    assert row is not None
    return PreferenceCounts(*row)


def list_all(store: Store) -> list[Preference]:
    """Every derived preference, whatever it may be used for, in the order of its judgments."""
    with store.read() as cursor:
        rows = cursor.execute(
            "SELECT comparison_id, prompt_id, chosen_completion_id, rejected_completion_id,"
            f" margin, sources FROM preferences ORDER BY {_ORDER}"
        ).fetchall()
    return [Preference(r[0], r[1], r[2], r[3], r[4], tuple(r[5])) for r in rows]


class RatedCompletion(NamedTuple):
    """What people's ratings of one response say together: `rating` from 0 (worst) to 1 (best)."""

    completion_id: str
    prompt_id: str
    rating: float
    sources: tuple[str, ...]


def list_rated(store: Store) -> list[RatedCompletion]:
    """Every response that was rated by itself, in the order of its judgments."""
    with store.read() as cursor:
        rows = cursor.execute(
            "SELECT completion_id, prompt_id, rating, sources FROM rated_completions"
            " ORDER BY max_judgment_seq, completion_id"
        ).fetchall()
    return [RatedCompletion(r[0], r[1], r[2], tuple(r[3])) for r in rows]
