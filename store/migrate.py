"""Numbered SQL files, applied in order, each with its ledger row in the same transaction."""

from __future__ import annotations

import hashlib
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import duckdb

from store.errors import StoreTooNew, StoreUnavailable

MIGRATIONS = Path(__file__).parent / "migrations"


class Migration(NamedTuple):
    """One numbered SQL file."""

    version: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        """Hash of the text, kept in the ledger so that an edited file is noticed."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def load(folder: Path = MIGRATIONS) -> list[Migration]:
    """The migrations in `folder`, oldest first."""
    files = sorted(folder.glob("[0-9][0-9][0-9][0-9]_*.sql"))
    return [Migration(int(f.name[:4]), f.stem, f.read_text(encoding="utf-8")) for f in files]


def migrate(
    connection: duckdb.DuckDBPyConnection, *, now: datetime, folder: Path = MIGRATIONS
) -> list[int]:
    """Bring the database to the newest schema; returns the versions applied now.

    Raises `StoreTooNew` when the ledger knows a version that the code does not, and
    `StoreUnavailable` when an applied file was edited since.
    """
    connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_migrations (version INTEGER PRIMARY KEY,"
        " name VARCHAR NOT NULL, sha256 VARCHAR NOT NULL, applied_at TIMESTAMPTZ NOT NULL)"
    )
    ledger = dict(connection.execute("SELECT version, sha256 FROM schema_migrations").fetchall())
    migrations = load(folder)
    newest = max((m.version for m in migrations), default=0)
    if ledger and max(ledger) > newest:
        raise StoreTooNew(
            "The database has schema {found}, this Whetstone knows only {newest}. Start the "
            "newer Whetstone that wrote it, or choose another folder with --data.",
            found=max(ledger),
            newest=newest,
        )
    for migration in migrations:
        if ledger.get(migration.version, migration.sha256) != migration.sha256:
            raise StoreUnavailable(
                "Migration {name} was edited after it was applied; restore the file.",
                name=migration.name,
            )
    pending = [m for m in migrations if m.version not in ledger]
    for migration in pending:
        _apply(connection, migration, now)
    return [m.version for m in pending]


def _apply(connection: duckdb.DuckDBPyConnection, migration: Migration, now: datetime) -> None:
    connection.execute("BEGIN")
    try:
        connection.execute(migration.sql)
        connection.execute(
            "INSERT INTO schema_migrations VALUES (?, ?, ?, ?)",
            [migration.version, migration.name, migration.sha256, now],
        )
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
