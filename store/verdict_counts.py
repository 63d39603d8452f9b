"""Counts of verdicts that tell how well people judge: what they say of the same, which side wins.

Practice, whose verdicts are known, is not among them, nor what a lead has withdrawn.
"""

from __future__ import annotations

from typing import NamedTuple

from store.db import Store


class SharedVerdicts(NamedTuple):
    """How often a pair was judged by several people in the same numbers.

    `one`, `other` and `neither` count the people for the response stored first, for the one stored
    second, and for none of them; `pairs` is how many pairs of responses share these numbers.
    """

    one: int
    other: int
    neither: int
    pairs: int


class SideCounts(NamedTuple):
    """Decided judgments on two responses: for the one displayed first, and in all."""

    first: int
    decided: int


def shared(store: Store) -> list[SharedVerdicts]:
    """What people said of each pair that more than one of them judged, rankings included."""
    with store.read() as cursor:
        found = cursor.execute(
            """
            SELECT one, other, neither, count(*) FROM (
                SELECT
                    count(*) FILTER (WHERE strength > 0) AS one,
                    count(*) FILTER (WHERE strength < 0) AS other,
                    count(*) FILTER (WHERE strength = 0) AS neither
                FROM pair_judgments
                WHERE purpose <> 'practice'
                GROUP BY comparison_id, one_completion_id, other_completion_id
                HAVING count(*) > 1
            )
            GROUP BY one, other, neither
            ORDER BY one, other, neither
            """
        ).fetchall()
    return [SharedVerdicts(*row) for row in found]


def count_shared(store: Store) -> int:
    """How many comparisons have a pair that more than one person judged."""
    with store.read() as cursor:
        row = cursor.execute(
            """
            SELECT count(DISTINCT comparison_id) FROM (
                SELECT comparison_id FROM pair_judgments
                WHERE purpose <> 'practice'
                GROUP BY comparison_id, one_completion_id, other_completion_id
                HAVING count(*) > 1
            )
            """
        ).fetchone()
    return int(row[0]) if row else 0


def sides(store: Store) -> SideCounts:
    """Which side people chose on the page; an import does not tell what stood first."""
    with store.read() as cursor:
        row = cursor.execute(
            """
            SELECT
                count(*) FILTER (
                    WHERE j.preferred_completion_id = j.displayed_completion_ids[1]
                ),
                count(*)
            FROM usable_judgments j
            JOIN comparisons c ON c.id = j.comparison_id
            WHERE j.verdict = 'preferred' AND j.source = 'page' AND c.purpose <> 'practice'
                AND len(j.displayed_completion_ids) = 2
            """
        ).fetchone()
    return SideCounts(*row) if row else SideCounts(0, 0)
