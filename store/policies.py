"""Policy versions and the promotions that made one of them live."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from store.db import Cursor, Store
from store.errors import NotFound
from store.records import Policy, Promotion, PromotionKind

_COLUMNS = (
    "version, base_model, parent_version, adapter_path, adapter_sha256, run_id, snapshot_id,"
    " created_at"
)
_PROMOTION_COLUMNS = "id, seq, version, previous_version, kind, annotator_id, created_at"


def version_name(number: int) -> str:
    """Fixed width, so that no name is a substring of another (adapters are matched by name)."""
    return f"pol-{number:06d}"


def register(
    store: Store,
    *,
    base_model: str,
    parent_version: str | None,
    adapter_path: str | None = None,
    adapter_sha256: str | None = None,
    run_id: str | None = None,
    snapshot_id: str | None = None,
    judgment_ids: Sequence[str] = (),
) -> Policy:
    """Give the next version number to a policy; numbers are never reused.

    `judgment_ids` are those it was trained on.
    """
    now = store.clock()

    def change(cursor: Cursor) -> Policy:
        row = cursor.execute(
            "SELECT coalesce(max(substr(version, 5)::INTEGER) + 1, 0) FROM policies"
        ).fetchone()
        assert row is not None
        policy = Policy(
            version_name(row[0]),
            base_model,
            parent_version,
            adapter_path,
            adapter_sha256,
            run_id,
            snapshot_id,
            now,
        )
        cursor.execute(
            f"INSERT INTO policies ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                policy.version,
                base_model,
                parent_version,
                adapter_path,
                adapter_sha256,
                run_id,
                snapshot_id,
                now,
            ],
        )
        cursor.execute(
            "INSERT INTO policy_judgments SELECT ?, unnest(?::VARCHAR[])",
            [policy.version, list(judgment_ids)],
        )
        return policy

    return store.write(change)


def get(store: Store, version: str) -> Policy:
    """Raises `NotFound`."""
    with store.read() as cursor:
        row = cursor.execute(
            f"SELECT {_COLUMNS} FROM policies WHERE version = ?", [version]
        ).fetchone()
    if row is None:
        raise NotFound("There is no policy version {version}.", version=version)
    return Policy(*row)


def list_all(store: Store) -> list[Policy]:
    """Every version, newest first."""
    with store.read() as cursor:
        rows = cursor.execute(f"SELECT {_COLUMNS} FROM policies ORDER BY version DESC").fetchall()
    return [Policy(*row) for row in rows]


def base_of(store: Store, base_model: str) -> Policy | None:
    """The version that is this base model itself, if it was ever served."""
    with store.read() as cursor:
        row = cursor.execute(
            f"SELECT {_COLUMNS} FROM policies WHERE base_model = ? AND adapter_path IS NULL"
            " ORDER BY version LIMIT 1",
            [base_model],
        ).fetchone()
    return Policy(*row) if row else None


def of_run(store: Store, run_id: str) -> Policy | None:
    """The version that a run produced, if it produced one."""
    with store.read() as cursor:
        row = cursor.execute(
            f"SELECT {_COLUMNS} FROM policies WHERE run_id = ?", [run_id]
        ).fetchone()
    return Policy(*row) if row else None


def judgment_ids(store: Store, version: str) -> list[str]:
    """The judgments that a version was trained on; those of its parents are not among them."""
    with store.read() as cursor:
        rows = cursor.execute(
            "SELECT judgment_id FROM policy_judgments WHERE policy_version = ? ORDER BY 1",
            [version],
        ).fetchall()
    return [row[0] for row in rows]


def record_promotion(
    store: Store, version: str, *, kind: PromotionKind, annotator_id: str | None
) -> Promotion:
    """Append that `version` is live now. After an `INITIAL` one there is nothing to go back to."""
    now = store.clock()
    id = uuid.uuid4().hex

    def change(cursor: Cursor) -> Promotion:
        previous = None
        if kind is not PromotionKind.INITIAL:
            previous = cursor.execute(
                "SELECT version FROM promotions ORDER BY seq DESC LIMIT 1"
            ).fetchone()
        row = cursor.execute(
            "INSERT INTO promotions (id, version, previous_version, kind, annotator_id, created_at)"
            f" VALUES (?, ?, ?, ?, ?, ?) RETURNING {_PROMOTION_COLUMNS}",
            [id, version, previous[0] if previous else None, kind, annotator_id, now],
        ).fetchone()
        assert row is not None
        return _promotion(row)

    return store.write(change)


def promotions(store: Store) -> Sequence[Promotion]:
    """Every promotion, newest first."""
    with store.read() as cursor:
        rows = cursor.execute(
            f"SELECT {_PROMOTION_COLUMNS} FROM promotions ORDER BY seq DESC"
        ).fetchall()
    return [_promotion(row) for row in rows]


def live(store: Store) -> Promotion | None:
    """The latest promotion: what should be answering people now."""
    with store.read() as cursor:
        row = cursor.execute(
            f"SELECT {_PROMOTION_COLUMNS} FROM promotions ORDER BY seq DESC LIMIT 1"
        ).fetchone()
    return _promotion(row) if row else None


def last_live_of(store: Store, base_model: str) -> Policy | None:
    """Which version of this base model was live last, whatever was live since."""
    columns = ", ".join(f"p.{name.strip()}" for name in _COLUMNS.split(","))
    with store.read() as cursor:
        row = cursor.execute(
            f"SELECT {columns} FROM promotions o JOIN policies p ON p.version = o.version"
            " WHERE p.base_model = ? ORDER BY o.seq DESC LIMIT 1",
            [base_model],
        ).fetchone()
    return Policy(*row) if row else None


def replaced_at(store: Store) -> datetime | None:
    """When the live policy took the place of another; None while there was only one."""
    with store.read() as cursor:
        row = cursor.execute("SELECT count(*), max_by(created_at, seq) FROM promotions").fetchone()
    return row[1] if row and row[0] > 1 else None


def _promotion(row: tuple[Any, ...]) -> Promotion:
    id, seq, version, previous, kind, annotator_id, created_at = row
    return Promotion(id, seq, version, previous, PromotionKind(kind), annotator_id, created_at)
