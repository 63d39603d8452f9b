"""Reading a store after the fact: what was promised and is not there, what two people shared."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from store import rows
from store.db import Cursor, Store

_JUDGED_TWICE = """
    SELECT comparison_id FROM effective_judgments WHERE verdict <> 'skipped'
    GROUP BY comparison_id HAVING count(DISTINCT annotator_id) > 1
"""
# A lease is open until its holder judged, or until it expired.
_LEASED_TWICE = """
    WITH held AS (
        SELECT
            l.comparison_id,
            l.annotator_id,
            l.leased_at AS since,
            least(l.expires_at, min(j.recorded_at)) AS until
        FROM leases l LEFT JOIN judgments j ON j.lease_id = l.id
        GROUP BY l.id, l.comparison_id, l.annotator_id, l.leased_at, l.expires_at
    )
    SELECT DISTINCT a.comparison_id
    FROM held a JOIN held b ON a.comparison_id = b.comparison_id AND a.annotator_id < b.annotator_id
    WHERE a.since < b.until AND b.since < a.until
"""


class Audit(NamedTuple):
    """`lost`: acknowledged judgments that the store lacks. `double_leased`: comparisons of one
    place that two people judged, or held at the same time."""

    lost: int
    double_leased: int


def audit(store: Store, acknowledged: Collection[str]) -> Audit:
    """For a store whose comparisons have one place each, and where nobody gave leases back."""
    with store.read() as cursor:
        known = rows.known_ids(cursor, "judgments", acknowledged)
        shared = _ids(cursor, _JUDGED_TWICE) | _ids(cursor, _LEASED_TWICE)
    return Audit(lost=len(set(acknowledged) - known), double_leased=len(shared))


def _ids(cursor: Cursor, query: str) -> set[str]:
    return {row[0] for row in cursor.execute(query).fetchall()}
