"""What each kind of training is made of: rows in TRL's columns, derived from judgments by SQL.

Every row says which judgments are behind it, so that what was learned can be traced to people.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from store import preferences
from store.db import Store


class Kind(StrEnum):
    """Kinds of training data.

    PREFERENCES     prompt, chosen, rejected
    COMPARISONS     the same, and pairs that people called equal
    DEMONSTRATIONS  prompt, completion: what people wrote, and what they liked best of what they saw
    RATINGS         prompt, completion, label: rated responses, and pairs taken apart
    PROMPTS         prompt
    """

    PREFERENCES = "preferences"
    COMPARISONS = "comparisons"
    DEMONSTRATIONS = "demonstrations"
    RATINGS = "ratings"
    PROMPTS = "prompts"


class KindCount(NamedTuple):
    """How much there is of a kind, for training and of how many prompts."""

    rows: int
    distinct_prompts: int


_TIES = """
    SELECT
        p.comparison_id, any_value(p.prompt_id) AS prompt_id, any_value(p.purpose) AS purpose,
        p.one_completion_id AS chosen_completion_id,
        p.other_completion_id AS rejected_completion_id,
        0.0 AS margin, list(p.judgment_id ORDER BY p.seq) AS sources, max(p.seq) AS max_judgment_seq
    FROM pair_judgments p
    JOIN usable_judgments j ON j.id = p.judgment_id
    GROUP BY p.comparison_id, p.one_completion_id, p.other_completion_id
    HAVING bool_and(p.strength = 0 AND j.verdict <> 'both_bad')
"""
_COMPARISONS = f"""(
    SELECT *, false AS is_tie FROM preferences
    UNION ALL BY NAME
    SELECT *, true AS is_tie FROM ({_TIES})
)"""

# The completion of a row, and what training may not learn from: see `preferences.USABLE`.
_OF_COMPLETIONS = """
    SELECT
        p.messages AS prompt,
        [{{'role': 'assistant', 'content': c.text}}] AS completion,
        f.* EXCLUDE (sources, completion_id, purpose),
        p.language,
        p.split,
        c.id AS completion_id,
        c.source AS completion_source,
        c.policy_version AS completion_policy_version,
        f.sources AS judgment_ids
    FROM ({rows}) f
    JOIN prompts p ON p.id = f.prompt_id
    JOIN completions c ON c.id = f.completion_id
    WHERE f.purpose = 'collect' AND p.split = 'train' AND trim(c.text) <> ''
        AND coalesce(c.finish_reason, '') <> 'stopped'
    ORDER BY f.max_judgment_seq, c.id
"""
_LIKED_BEST = """
    SELECT
        f.prompt_id, any_value(f.purpose) AS purpose, f.chosen_completion_id AS completion_id,
        'chosen' AS kind, list_sort(list_distinct(flatten(list(f.sources)))) AS sources,
        max(f.max_judgment_seq) AS max_judgment_seq
    FROM preferences f
    WHERE NOT EXISTS (
        SELECT 1 FROM preferences o
        WHERE o.comparison_id = f.comparison_id
            AND o.rejected_completion_id = f.chosen_completion_id
    ) AND f.chosen_completion_id NOT IN (SELECT completion_id FROM demonstrations)
    GROUP BY f.prompt_id, f.chosen_completion_id
"""
# Rated best: what a file showed for imitation was written for that, the rest is only liked.
_RATED_BEST = """
    SELECT r.prompt_id, r.purpose, r.completion_id,
        CASE WHEN c.finish_reason = 'import' THEN 'demonstration' ELSE 'chosen' END AS kind,
        r.sources, r.max_judgment_seq
    FROM rated_completions r
    JOIN completions c ON c.id = r.completion_id
    WHERE r.rating = 1
"""
_DEMONSTRATIONS = f"""
    SELECT prompt_id, purpose, completion_id, 'demonstration' AS kind, [judgment_id] AS sources,
        seq AS max_judgment_seq
    FROM demonstrations
    UNION ALL BY NAME {_LIKED_BEST}
    UNION ALL BY NAME {_RATED_BEST}
"""
_RATINGS = """
    SELECT prompt_id, purpose, completion_id, 'rating' AS kind, rating > 0.5 AS label, sources,
        max_judgment_seq
    FROM rated_completions WHERE rating <> 0.5
    UNION ALL BY NAME
    SELECT
        any_value(prompt_id) AS prompt_id, any_value(purpose) AS purpose, completion_id,
        'pair' AS kind, sum(margin) > 0 AS label,
        list_sort(list_distinct(flatten(list(sources)))) AS sources,
        max(max_judgment_seq) AS max_judgment_seq
    FROM (
        SELECT * EXCLUDE (chosen_completion_id), chosen_completion_id AS completion_id
        FROM preferences
        UNION ALL BY NAME
        SELECT * EXCLUDE (rejected_completion_id, margin), rejected_completion_id AS completion_id,
            -margin AS margin
        FROM preferences
    )
    GROUP BY completion_id
    HAVING sum(margin) <> 0
"""
_PROMPTS = """
    SELECT p.messages AS prompt, p.id AS prompt_id, p.language, p.split,
        []::VARCHAR[] AS judgment_ids, 0::BIGINT AS max_judgment_seq
    FROM prompts p
    WHERE p.split = 'train'
    ORDER BY p.id
"""


def select(kind: Kind) -> str:
    """The rows of a kind that may be trained on, in an order that stays, by SQL."""
    return {
        Kind.PREFERENCES: preferences.dataset_select(preferences.TRAINABLE),
        Kind.COMPARISONS: preferences.dataset_select(
            preferences.TRAINABLE, view=_COMPARISONS, columns=["is_tie"]
        ),
        Kind.DEMONSTRATIONS: _OF_COMPLETIONS.format(rows=_DEMONSTRATIONS),
        Kind.RATINGS: _OF_COMPLETIONS.format(rows=_RATINGS),
        Kind.PROMPTS: _PROMPTS,
    }[kind]


def count(store: Store, kind: Kind) -> KindCount:
    """How much a run of that kind would have, if it started now."""
    with store.read() as cursor:
        row = cursor.execute(
            f"SELECT count(*), count(DISTINCT prompt_id) FROM ({select(kind)})"
        ).fetchone()
    assert row is not None
    return KindCount(*row)
