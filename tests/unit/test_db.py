from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import duckdb
import pytest

from store import db, judgments, memory, settings
from store.db import KEPT_UNCLEAN_COPIES, Cursor, Part, Store
from store.errors import NotFound, StoreLocked, StoreUnavailable
from store.records import Comparison, Purpose
from tests.builders import Clock, busy_writer, make_judgment

REPOSITORY = Path(__file__).parents[2]


def in_another_process(code: str, *arguments: object) -> str:
    """What a second Python process prints that runs `code`."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def put(cursor: Cursor, key: str) -> str:
    cursor.execute("INSERT INTO settings VALUES (?, '1')", [key])
    return key


UNSTORED = Comparison("comparison", "prompt", ("left", "right"), Purpose.COLLECT)


def fail(cursor: Cursor) -> None:
    put(cursor, "half done")
    raise NotFound("There is no such thing.")


def test_a_failing_change_does_not_hurt_its_neighbours(store: Store) -> None:
    with busy_writer(store):
        before = store.submit(lambda cursor: put(cursor, "before"))
        failing = store.submit(fail)
        after = store.submit(lambda cursor: put(cursor, "after"))

    assert (before.result(30), after.result(30)) == ("before", "after")
    with pytest.raises(NotFound):
        failing.result(30)
    assert [settings.get(store, key, 0) for key in ("before", "after")] == [1, 1]


def test_what_many_wait_for_is_made_at_once_and_everybody_hears_of_their_own(store: Store) -> None:
    made: list[Sequence[str]] = []

    def put_all(cursor: Cursor, keys: Sequence[str]) -> list[str]:
        made.append(keys)
        return [put(cursor, key) for key in keys]

    def put_part(key: str) -> Future[str]:
        return store.submit(lambda cursor: put(cursor, f"{key} alone"), part=Part(put_all, key))

    with busy_writer(store):
        first, other = put_part("a"), store.submit(lambda cursor: put(cursor, "b"))
        last = put_part("c")

    assert [future.result(30) for future in (first, other, last)] == ["a", "b", "c"]
    assert made == [["a", "c"]]


def test_where_making_all_at_once_fails_each_is_made_alone(store: Store) -> None:
    def fail_all(cursor: Cursor, keys: Sequence[str]) -> list[None]:
        put(cursor, keys[0])
        raise NotFound("One of them is nowhere.")

    with busy_writer(store):
        good = store.submit(lambda cursor: put(cursor, "a"), part=Part(fail_all, "a at once"))
        bad = store.submit(fail, part=Part(fail_all, "b at once"))

    assert good.result(30) == "a"
    with pytest.raises(NotFound, match="no such thing"):
        bad.result(30)
    assert [settings.get(store, key, 0) for key in ("a", "a at once", "half done")] == [1, 0, 0]


def test_nothing_remains_of_a_failed_change(store: Store) -> None:
    with pytest.raises(NotFound):
        store.write(fail)

    assert settings.get(store, "half done", "nothing") == "nothing"


def test_an_sql_error_reaches_the_one_who_asked(store: Store) -> None:
    store.write(lambda cursor: put(cursor, "taken"))

    with pytest.raises(duckdb.ConstraintException):
        store.write(lambda cursor: put(cursor, "taken"))


def test_waiting_changes_share_a_commit(store: Store) -> None:
    transactions: list[int] = []

    def change(cursor: Cursor) -> None:
        row = cursor.execute("SELECT txid_current()").fetchone()
        assert row is not None
        transactions.append(row[0])

    with busy_writer(store):
        futures = [store.submit(change) for _ in range(5)]
    for future in futures:
        future.result(30)

    assert len(set(transactions)) == 1


def test_a_result_is_handed_out_only_after_the_commit(store: Store, tmp_path: Path) -> None:
    store.write(lambda cursor: put(cursor, "acknowledged"))
    copy = tmp_path / "copy"
    shutil.copytree(store.folder, copy)

    code = (
        "import sys, pathlib; from store.db import Store; from store import settings;"
        "print(settings.get(Store(pathlib.Path(sys.argv[1])), 'acknowledged', 0))"
    )
    assert in_another_process(code, copy) == "1"


OPEN = (
    "import sys, os, pathlib\n"
    "from store.db import Store\n"
    "from store.errors import StoreLocked\n"
    "try: Store(pathlib.Path(sys.argv[1]))\n"
    "except StoreLocked as error: print(os.getppid(), error)"
)


def test_a_second_process_is_told_who_owns_the_file(store: Store) -> None:
    parent, _, message = in_another_process(OPEN, store.folder).partition(" ")

    assert f"in use by process {parent}." in message
    assert "--data" in message


def test_a_second_process_leaves_no_copies_behind(store: Store) -> None:
    store.write(lambda cursor: put(cursor, "in the log"))

    in_another_process(OPEN, store.folder)

    assert list(store.folder.glob("backups/*")) == []


def test_close_can_be_called_twice(store: Store) -> None:
    store.close()
    store.close()

    with pytest.raises(StoreUnavailable):
        store.submit(lambda cursor: put(cursor, "late"))


def test_close_finishes_what_is_queued(store: Store, clock: Clock) -> None:
    with busy_writer(store):
        futures: list[Future[str]] = [
            store.submit(lambda cursor, i=i: put(cursor, f"key {i}"))  # type: ignore[misc]
            for i in range(20)
        ]
        closing = threading.Thread(target=store.close)
        closing.start()
    closing.join(30)

    assert [future.result(0) for future in futures] == [f"key {i}" for i in range(20)]
    reopened = Store(store.folder, clock=clock)
    assert settings.get(reopened, "key 19", 0) == 1
    reopened.close()


def test_a_full_disk_is_told_in_words(store: Store) -> None:
    def change(_: Cursor) -> None:
        raise duckdb.TransactionException("Failed to commit: No space left on device")

    with pytest.raises(StoreUnavailable, match="disk is full, so this was not saved"):
        store.write(change)


needs_dev_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")


@pytest.fixture
def store_with_full_journal_disk(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    """The journal lies on a disk without space, the database on one with space."""
    folder = tmp_path / "full"
    folder.mkdir()
    (folder / "judgments.jsonl").symlink_to("/dev/full")
    opened = Store(folder, clock=clock)
    yield opened
    opened.close()


@needs_dev_full
def test_a_judgment_that_the_journal_cannot_take_is_not_acknowledged(
    store_with_full_journal_disk: Store,
) -> None:
    store = store_with_full_journal_disk

    with pytest.raises(StoreUnavailable, match="disk is full"):
        judgments.record(store, make_judgment(UNSTORED))


@needs_dev_full
def test_a_full_journal_disk_does_not_run_the_neighbours_twice(
    store_with_full_journal_disk: Store,
) -> None:
    store = store_with_full_journal_disk
    with busy_writer(store):
        neighbour = store.submit(lambda cursor: put(cursor, "once"))
        refused = judgments.submit(store, make_judgment(UNSTORED))

    assert neighbour.result(30) == "once"
    with pytest.raises(StoreUnavailable):
        refused.result(30)


def invalidate(_: Cursor) -> None:
    raise duckdb.FatalException("database has been invalidated")


def test_a_fatal_error_leaves_a_store_that_serves_again(store: Store) -> None:
    store.write(lambda cursor: put(cursor, "before"))

    with pytest.raises(StoreUnavailable, match="Try again"):
        store.write(invalidate)
    store.write(lambda cursor: put(cursor, "after"))

    assert [settings.get(store, key, 0) for key in ("before", "after")] == [1, 1]


def test_reading_is_enough_to_open_an_invalidated_store_again(store: Store) -> None:
    store.write(lambda cursor: put(cursor, "before"))

    with pytest.raises(StoreUnavailable), store.read() as cursor:
        invalidate(cursor)

    assert settings.get(store, "before", 0) == 1
    store.write(lambda cursor: put(cursor, "after"))


def test_a_safety_copy_that_fails_does_not_stop_the_store(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store.write(lambda cursor: put(cursor, "before"))

    def fill_half(_: Path, target: Path) -> None:
        (target / "half a copy").touch()
        raise OSError("Disk quota exceeded")

    monkeypatch.setattr(shutil, "copy2", fill_half)
    with pytest.raises(StoreUnavailable):
        store.write(invalidate)

    assert store.submit(lambda cursor: put(cursor, "after")).result(30) == "after"
    assert "could not be copied aside" in caplog.text
    assert list(store.folder.glob("backups/*")) == []


def test_a_store_that_cannot_be_opened_again_says_so_until_it_can(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write(lambda cursor: put(cursor, "before"))

    def refuse(*_: object, **__: object) -> None:
        raise MemoryError("no memory for that")

    with busy_writer(store):
        waiting: list[Future[object]] = [store.submit(invalidate) for _ in range(3)]
        monkeypatch.setattr(duckdb, "connect", refuse)
    for future in waiting:
        assert isinstance(future.exception(30), StoreUnavailable)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="no memory for that"):
            store.submit(lambda cursor: put(cursor, "too early")).result(30)
        with pytest.raises(StoreUnavailable), store.read():
            pass

    monkeypatch.undo()
    assert store.submit(lambda cursor: put(cursor, "after")).result(30) == "after"
    assert [settings.get(store, k, 0) for k in ("before", "too early", "after")] == [1, 0, 1]


def test_someone_who_stops_waiting_does_not_stop_the_writing(store: Store) -> None:
    with busy_writer(store):
        left = store.submit(lambda cursor: put(cursor, "left alone"))
        left.cancel()

    assert store.submit(lambda cursor: put(cursor, "after")).result(30) == "after"
    assert settings.get(store, "left alone", 0) == 1


# Commits until the checkpoint that DuckDB begins by itself finds no more space, which invalidates
# the instance; prints what happened, with and without space.
CHECKPOINT_WITHOUT_SPACE = """
import logging, pathlib, resource, sys
from store.db import Store
from store.errors import StoreUnavailable

logging.basicConfig(stream=sys.stdout, format="%(message)s")
store = Store(pathlib.Path(sys.argv[1]))

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

def put(key):
    return store.submit(
        lambda cursor: cursor.execute("INSERT INTO settings VALUES (?, '1')", [key]) and key
    )

store.write(lambda cursor: cursor.execute(
    "INSERT INTO settings SELECT md5(range::VARCHAR), '0' FROM range(20000)"))
store.write(lambda cursor: cursor.execute("SET wal_autocheckpoint_entries = 3"))
put("big").result(30)
limit(300_000)
saved = []
for number in range(20):
    try:
        saved.append(put(f"key {number}").result(30))
    except StoreUnavailable as error:
        print("refused:", error)
limit(resource.RLIM_INFINITY)
saved.append(put("with space").result(30))
with store.read() as cursor:
    (found,) = cursor.execute(
        "SELECT count(*) FROM settings WHERE list_contains(?, key)", [saved]).fetchone()
print("lost:", len(saved) - found)
store.close()
"""


def test_a_checkpoint_without_space_refuses_in_words_and_loses_nothing(tmp_path: Path) -> None:
    said = in_another_process(CHECKPOINT_WITHOUT_SPACE, tmp_path / "full")

    assert "refused: The disk is full" in said
    assert "could not be copied aside" in said
    assert said.endswith("lost: 0")


def leave_uncleanly(store: Store, folder: Path) -> None:
    """What a killed process leaves: the database with its write-ahead log."""
    for file in ("whetstone.duckdb", "whetstone.duckdb.wal", "judgments.jsonl"):
        shutil.copy2(store.folder / file, folder)


def test_files_of_an_unclean_stop_are_copied_aside_before_opening(
    store: Store, tmp_path: Path, clock: Clock
) -> None:
    store.write(lambda cursor: put(cursor, "in the log"))
    folder = tmp_path / "killed"
    folder.mkdir()
    leave_uncleanly(store, folder)
    Store(folder, clock=clock).close()

    (copy,) = folder.glob("backups/unclean-*")
    assert {file.name for file in copy.iterdir()} == {"whetstone.duckdb", "whetstone.duckdb.wal"}


def test_only_the_newest_copies_of_unclean_stops_are_kept(
    store: Store, tmp_path: Path, clock: Clock
) -> None:
    store.write(lambda cursor: put(cursor, "in the log"))
    folder = tmp_path / "killed"
    folder.mkdir()
    for _ in range(KEPT_UNCLEAN_COPIES + 2):
        clock.advance(seconds=60)
        leave_uncleanly(store, folder)
        Store(folder, clock=clock).close()

    kept = sorted(copy.name for copy in folder.glob("backups/*"))
    assert len(kept) == KEPT_UNCLEAN_COPIES
    assert kept[-1] == f"unclean-{clock.now:%Y%m%dT%H%M%S%f}"


def test_a_damaged_database_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "whetstone.duckdb").write_bytes(b"this is no database" * 1000)

    with pytest.raises(StoreUnavailable, match="cannot be") as refusal:
        Store(tmp_path)
    assert not isinstance(refusal.value, StoreLocked)


def held_bytes(store: Store) -> int:
    """What DuckDB holds of the file in memory."""
    with store.read() as cursor:
        found = cursor.execute(
            "SELECT sum(memory_usage_bytes) FROM duckdb_memory()"
            " WHERE tag IN ('BASE_TABLE', 'ART_INDEX')"
        ).fetchone()
    assert found is not None
    return int(found[0])


def put_several(store: Store, first: int, count: int) -> None:
    for i in range(first, first + count):
        store.write(partial(put, key=f"{i:04d} {'x' * 2000}"))


def test_memory_of_what_the_file_has_too_is_given_back(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_several(store, 0, 99)
    held = held_bytes(store)
    monkeypatch.setattr(db, "GIVE_BACK_EVERY", 100)
    monkeypatch.setattr(store, "_since_given_back", 99)

    put_several(store, 99, 1)
    store.write(lambda _: None)  # served after all that the one before it brought about

    assert held_bytes(store) < held / 4
    with store.read() as cursor:
        assert cursor.execute("SELECT count(*) FROM settings").fetchone() == (100,)
        limit = cursor.execute("SELECT current_setting('memory_limit')").fetchone()
    assert limit == ("3.7 GiB",)


def test_memory_is_not_given_back_from_under_a_reader(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_several(store, 0, 50)
    monkeypatch.setattr(db, "GIVE_BACK_EVERY", 1)
    given_back: list[Cursor] = []
    monkeypatch.setattr(memory, "give_back", given_back.append)

    with store.read() as cursor:
        put_several(store, 50, 3)
        assert cursor.execute("SELECT count(*) FROM settings").fetchone() == (53,)
        assert not given_back
    put_several(store, 53, 1)

    store.write(lambda _: None)  # served after all that the one before it brought about
    assert given_back


def test_without_room_for_a_checkpoint_memory_is_kept_and_the_store_serves_on(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(db, "GIVE_BACK_EVERY", 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    log = store.path.with_name(store.path.name + ".wal")

    put_several(store, 0, 3)
    store.write(lambda _: None)

    assert "was not given back: there is not enough free space" in caplog.text
    assert log.stat().st_size > 3 * 2000  # not checkpointed
    assert settings.get(store, f"0002 {'x' * 2000}", 0) == 1


def test_a_limit_that_cannot_be_set_back_is_left_by_opening_anew(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def leave_it_tiny(cursor: Cursor) -> None:
        cursor.execute("SET memory_limit = '1KB'")
        raise RuntimeError("The binding gave up.")

    monkeypatch.setattr(memory, "give_back", leave_it_tiny)
    monkeypatch.setattr(store, "_since_given_back", db.GIVE_BACK_EVERY - 1)

    store.write(lambda cursor: put(cursor, "before"))
    store.write(lambda cursor: put(cursor, "after"))

    assert "could not be given back" in caplog.text
    assert [settings.get(store, key, 0) for key in ("before", "after")] == [1, 1]
