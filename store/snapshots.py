"""Snapshots: training data frozen into a Parquet file and named by its hash."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import duckdb

from store import general
from store.db import Cursor, Store
from store.errors import BadInput, NotFound
from store.general import Origins
from store.records import Snapshot
from store.training_data import Kind, select

_COLUMNS = 'id, path, "rows", max_judgment_seq, created_by, created_at'
ROW_GROUP_SIZE = 8192
_GENERAL = "general"


def freeze(
    store: Store, folder: Path, *, kind: Kind = Kind.PREFERENCES, created_by: str
) -> Snapshot:
    """Write every trainable row of a kind to `folder/<sha256>.parquet`, beside a manifest.

    The same rows give the same snapshot. Raises `BadInput` when there are none.
    """
    snapshot = _freeze(store, folder, select(kind), kind=kind.value, created_by=created_by)
    if snapshot is None:
        raise _nothing(kind)
    return snapshot


def freeze_general(
    store: Store, folder: Path, *, origins: Origins, created_by: str
) -> Snapshot | None:
    """The same for a run's general demonstrations; None where there are none.

    Raises `BadInput` for a file that cannot be read.
    """
    try:
        return _freeze(store, folder, general.select(origins), kind=_GENERAL, created_by=created_by)
    except duckdb.Error as error:
        raise general.unreadable(error) from error


def get(store: Store, id: str) -> Snapshot:
    """Raises `NotFound`."""
    with store.read() as cursor:
        row = cursor.execute(f"SELECT {_COLUMNS} FROM snapshots WHERE id = ?", [id]).fetchone()
    if row is None:
        raise NotFound("There is no snapshot {id}.", id=id)
    return Snapshot(*row)


def of_lineage(store: Store, version: str, *, methods: Collection[str]) -> list[Snapshot]:
    """What the runs by these methods learned from that made a policy version or one before it."""
    columns = ", ".join(f"s.{name.strip()}" for name in _COLUMNS.split(","))
    with store.read() as cursor:
        found = cursor.execute(
            "WITH RECURSIVE line AS ("
            " SELECT version, parent_version, run_id FROM policies WHERE version = $version"
            " UNION"
            " SELECT p.version, p.parent_version, p.run_id"
            " FROM policies p JOIN line ON p.version = line.parent_version"
            f") SELECT DISTINCT {columns}"
            " FROM line JOIN runs r ON r.id = line.run_id JOIN snapshots s ON s.id = r.snapshot_id"
            " WHERE list_contains($methods, r.method) ORDER BY s.created_at, s.id",
            {"version": version, "methods": list(methods)},
        ).fetchall()
    return [Snapshot(*row) for row in found]


def judgment_ids(store: Store, id: str) -> list[str]:
    """The judgments that a snapshot was made of."""
    with store.read() as cursor:
        rows = cursor.execute(
            "SELECT judgment_id FROM snapshot_judgments WHERE snapshot_id = ?", [id]
        ).fetchall()
    return [row[0] for row in rows]


def judgment_ids_of(store: Store, path: Path, rows: Sequence[int]) -> list[str]:
    """The judgments behind some rows of a snapshot's file, counted from 0."""
    with store.read() as cursor:
        found = cursor.execute(
            "SELECT DISTINCT unnest(s.judgment_ids)"
            " FROM read_parquet(?, file_row_number = true) s"
            " JOIN (SELECT unnest(?::BIGINT[]) AS number) r ON r.number = s.file_row_number"
            " ORDER BY 1",
            [str(path), list(rows)],
        ).fetchall()
    return [row[0] for row in found]


def write_parquet(cursor: Cursor, query: str, path: Path) -> None:
    """Stream a query into a Parquet file with small row groups (bounded memory)."""
    cursor.execute(
        f"COPY ({query}) TO '{_quoted(path)}'"
        f" (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {ROW_GROUP_SIZE})"
    )


def _freeze(
    store: Store, folder: Path, query: str, *, kind: str, created_by: str
) -> Snapshot | None:
    """The rows of a query as a snapshot; None when there are none."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{uuid.uuid4().hex}.partial"
    try:
        with store.read() as cursor:
            write_parquet(cursor, query, partial)
            rows, max_seq = _measure(cursor, partial)
            if rows == 0:
                return None
            judgment_ids = _judgment_ids(cursor, partial)
        sha256 = hashlib.sha256(partial.read_bytes()).hexdigest()
        path = folder / f"{sha256}.parquet"
        manifest = _manifest(kind, sha256, rows, max_seq, judgment_ids)
        _write_manifest(folder / f"{sha256}.json", manifest)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    snapshot = Snapshot(sha256, str(path), rows, max_seq, created_by, store.clock())
    return store.write(lambda cursor: _insert(cursor, snapshot, judgment_ids))


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")


def _measure(cursor: Cursor, path: Path) -> tuple[int, int]:
    row = cursor.execute(
        f"SELECT count(*), coalesce(max(max_judgment_seq), 0) FROM read_parquet('{_quoted(path)}')"
    ).fetchone()
    assert row is not None
    return row[0], row[1]


def _judgment_ids(cursor: Cursor, path: Path) -> list[str]:
    rows = cursor.execute(
        f"SELECT DISTINCT unnest(judgment_ids) FROM read_parquet('{_quoted(path)}') ORDER BY 1"
    ).fetchall()
    return [row[0] for row in rows]


def _nothing(kind: Kind) -> BadInput:
    if kind is Kind.DEMONSTRATIONS:
        return BadInput(
            "There are no demonstrations to train on yet. Rewrite or judge some responses in the "
            "Compare tab, and come back."
        )
    if kind is Kind.RATINGS:
        return BadInput(
            "There are no rated responses and no pairs to train on yet. Judge some responses in "
            "the Compare tab, and come back."
        )
    if kind is Kind.PROMPTS:
        return BadInput("There are no prompts to train on yet. Import some in the Prompts tab.")
    return BadInput(
        "There are no preferences to train on yet. Judge some responses in the Compare tab, or "
        "import ready preferences, and come back."
    )


def _manifest(
    kind: str, sha256: str, rows: int, max_seq: int, judgment_ids: list[str]
) -> dict[str, Any]:
    return {
        "sha256": sha256,
        "kind": kind,
        "rows": rows,
        "max_judgment_seq": max_seq,
        "judgments": len(judgment_ids),
    }


def _write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(manifest, indent=2), encoding="utf-8")
    partial.replace(path)


def _insert(cursor: Cursor, snapshot: Snapshot, ids: list[str]) -> Snapshot:
    known = cursor.execute(
        f"SELECT {_COLUMNS} FROM snapshots WHERE id = ?", [snapshot.id]
    ).fetchone()
    if known:
        return Snapshot(*known)
    values: list[Any] = [
        snapshot.id,
        snapshot.path,
        snapshot.rows,
        snapshot.max_judgment_seq,
        snapshot.created_by,
        snapshot.created_at,
    ]
    cursor.execute(f"INSERT INTO snapshots ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)", values)
    cursor.execute(
        "INSERT INTO snapshot_judgments SELECT ?, unnest(?::VARCHAR[])", [snapshot.id, ids]
    )
    return snapshot
