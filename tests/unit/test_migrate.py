from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from store.db import Store
from store.errors import StoreTooNew, StoreUnavailable
from store.migrate import MIGRATIONS, load, migrate
from tests.builders import START, make_preference


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """An empty database file."""
    opened = duckdb.connect(str(tmp_path / "some.duckdb"))
    yield opened
    opened.close()


@pytest.fixture
def oldest(tmp_path: Path) -> Path:
    """A folder that holds the first migration alone."""
    folder = tmp_path / "migrations"
    folder.mkdir()
    shutil.copy2(MIGRATIONS / "0001_initial.sql", folder)
    return folder


def tables(connection: duckdb.DuckDBPyConnection) -> set[str]:
    return {row[0] for row in connection.execute("SELECT table_name FROM duckdb_tables").fetchall()}


def ledger(connection: duckdb.DuckDBPyConnection) -> list[int]:
    rows = connection.execute("SELECT version FROM schema_migrations ORDER BY version").fetchall()
    return [row[0] for row in rows]


def test_migrations_are_numbered_without_gaps() -> None:
    assert [m.version for m in load()] == list(range(1, len(load()) + 1))


def test_the_oldest_schema_is_upgraded_to_the_newest(
    connection: duckdb.DuckDBPyConnection, oldest: Path
) -> None:
    migrate(connection, now=START, folder=oldest)

    applied = migrate(connection, now=START)

    assert applied == [m.version for m in load()[1:]]
    assert ledger(connection) == [m.version for m in load()]


def test_the_upgraded_schema_is_the_one_of_a_new_store(oldest: Path, tmp_path: Path) -> None:
    folder = tmp_path / "old"
    folder.mkdir()
    old = duckdb.connect(str(folder / "whetstone.duckdb"))
    migrate(old, now=START, folder=oldest)
    old.close()

    upgraded = Store(folder)
    make_preference(upgraded)
    with upgraded.read() as cursor:
        found = tables(cursor)
    upgraded.close()

    fresh = duckdb.connect()
    migrate(fresh, now=START)
    assert found == tables(fresh)


def test_what_is_in_an_old_schema_survives_the_upgrade(
    connection: duckdb.DuckDBPyConnection, oldest: Path
) -> None:
    migrate(connection, now=START, folder=oldest)
    connection.execute("INSERT INTO settings VALUES ('kept', '1')")

    migrate(connection, now=START)

    assert connection.execute("SELECT key FROM settings").fetchall() == [("kept",)]


def test_old_judgments_survive_tables_made_anew(
    connection: duckdb.DuckDBPyConnection, oldest: Path
) -> None:
    shutil.copy2(MIGRATIONS / "0002_policy_judgments.sql", oldest)
    shutil.copy2(MIGRATIONS / "0003_guidelines.sql", oldest)
    migrate(connection, now=START, folder=oldest)
    connection.execute(
        "INSERT INTO comparisons VALUES ('c', 'p', ['x', 'y'], 'collect', now());"
        "INSERT INTO judgments (id, comparison_id, annotator_id, verdict, preferred_completion_id,"
        " strength, displayed_completion_ids, source, recorded_at, guidelines_version)"
        " VALUES ('j', 'c', 'ana', 'preferred', 'y', 2, ['y', 'x'], 'page', now(), 7)"
    )

    migrate(connection, now=START)

    kept = "SELECT id, seq, guidelines_version, ranks FROM judgments"
    assert connection.execute(kept).fetchall() == [("j", 1, 7, None)]
    derived = "SELECT chosen_completion_id, margin, sources FROM preferences"
    assert connection.execute(derived).fetchall() == [("y", 2.0, ["j"])]
    connection.execute(
        "INSERT INTO judgments (id, comparison_id, annotator_id, verdict,"
        " displayed_completion_ids, source, recorded_at)"
        " VALUES ('k', 'c', 'bo', 'tie', ['x', 'y'], 'page', now())"
    )
    assert connection.execute("SELECT max(seq) FROM judgments").fetchall() == [(2,)]


def test_migrating_twice_changes_nothing(connection: duckdb.DuckDBPyConnection) -> None:
    migrate(connection, now=START)

    assert migrate(connection, now=START) == []


def test_a_schema_of_the_future_is_refused(
    connection: duckdb.DuckDBPyConnection, oldest: Path
) -> None:
    (oldest / "0002_next.sql").write_text("CREATE TABLE next (id INTEGER);")
    migrate(connection, now=START, folder=oldest)
    (oldest / "0002_next.sql").unlink()

    with pytest.raises(StoreTooNew, match="schema 2, this Whetstone knows only 1"):
        migrate(connection, now=START, folder=oldest)


def test_a_file_edited_after_it_was_applied_is_refused(
    connection: duckdb.DuckDBPyConnection, oldest: Path
) -> None:
    migrate(connection, now=START, folder=oldest)
    file = oldest / "0001_initial.sql"
    file.write_text(file.read_text() + "-- an afterthought\n")

    with pytest.raises(StoreUnavailable, match="0001_initial was edited"):
        migrate(connection, now=START, folder=oldest)


def test_a_failing_migration_leaves_nothing_behind(
    connection: duckdb.DuckDBPyConnection, oldest: Path
) -> None:
    migrate(connection, now=START, folder=oldest)
    before = tables(connection)
    (oldest / "0002_broken.sql").write_text("CREATE TABLE half (id INTEGER); SELECT * FROM none;")

    with pytest.raises(duckdb.CatalogException):
        migrate(connection, now=START, folder=oldest)

    assert tables(connection) == before
    assert ledger(connection) == [1]


def test_a_mended_migration_is_applied_the_next_time(
    connection: duckdb.DuckDBPyConnection, oldest: Path
) -> None:
    broken = oldest / "0002_next.sql"
    broken.write_text("CREATE TABLE next (id INTEGER); SELECT * FROM none;")
    with pytest.raises(duckdb.CatalogException):
        migrate(connection, now=START, folder=oldest)

    broken.write_text("CREATE TABLE next (id INTEGER);")

    assert migrate(connection, now=START, folder=oldest) == [2]
