"""The one owner of the database file: a writer thread with group commit, a cursor per read.

Knows connections, transactions and durability; knows no table of the domain.
"""

from __future__ import annotations

import logging
import queue
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import duckdb

from store import memory
from store.errors import StoreLocked, StoreUnavailable
from store.journal_file import JournalFile
from store.migrate import migrate

log = logging.getLogger(__name__)

Cursor = duckdb.DuckDBPyConnection
T = TypeVar("T")
Change = Callable[[Cursor], T]

MAX_GROUP = 256
KEPT_UNCLEAN_COPIES = 3
GIVE_BACK_EVERY = 10_000  # changes, after which the memory of their pages is given back

# After one of these the whole instance is of no use: every connection fails.
FATAL = (duckdb.FatalException, duckdb.InternalException)

_FULL = re.compile("No space left|quota exceeded|File too large", re.IGNORECASE)


def utc_now() -> datetime:
    """The store's default clock."""
    return datetime.now(UTC)


class Part(NamedTuple):
    """A change as one of several of its kind, which `make(cursor, items)` makes all at once.

    `make` gives their values in the same order. It may fail where a change alone would not: then
    each is made alone.
    """

    make: Callable[[Cursor, Sequence[Any]], Sequence[Any]]
    item: Any


@dataclass
class _Request:
    change: Change[Any]
    journal: Sequence[str]
    part: Part | None
    future: Future[Any] = field(default_factory=Future)


class Store:
    """One DuckDB file in `folder`, owned by this process until `close()`.

    Every change runs on one writer thread; changes that wait together share a commit. A future
    resolves only after the commit, and after the change's journal lines are on disk too, which
    are written while the next changes are committed.

    Raises `StoreLocked` when another process owns the file, `StoreTooNew` when it was written by
    a newer version of this code.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], datetime] = utc_now) -> None:
        self.folder = folder
        self.clock = clock
        self.path = folder / "whetstone.duckdb"
        self.journal_path = folder / "judgments.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        self._connection = self._open()
        try:
            migrate(self._connection, now=clock())
        except BaseException:
            self._connection.close()
            raise
        self._cursor: Cursor | None = self._connection.cursor()  # the writer's; None while shut
        self._is_invalid = False
        self._journal = JournalFile(self.journal_path)
        self._requests: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._readers = memory.Readers()
        self._since_given_back = 0  # changes
        self._is_journalled = True  # no change of this session lacks its lines, as far as is known
        self._noting: Change[Any] | None = None
        self._serving = threading.Lock()  # keeps a checkpoint out of the midst of a group
        self._closing = threading.Lock()  # protects _is_closed against writes in flight
        self._is_closed = False
        self._writer = threading.Thread(target=self._write_loop, name="store-writer", daemon=True)
        self._writer.start()

    @contextmanager
    def read(self) -> Iterator[Cursor]:
        """A cursor of its own, on a consistent view of what is committed."""
        self._nudge()
        with self._readers.one():
            connection = self._connection
            try:
                cursor = connection.cursor()
            except duckdb.Error as error:
                raise StoreUnavailable(
                    "The store is not open. Nothing acknowledged is lost; start Whetstone again."
                ) from error
            try:
                yield cursor
            except FATAL as error:
                if connection is self._connection:
                    self._is_invalid = True
                raise _as_ours(error) from error
            finally:
                cursor.close()

    def submit(
        self, change: Change[T], *, journal: Sequence[str] = (), part: Part | None = None
    ) -> Future[T]:
        """Queue a change; the future holds its value once it is durable.

        `change` may run twice (once in a group, once alone if a neighbour failed), so it must
        have no effect outside its cursor. One that many wait for is also given as a `part`.
        """
        request = _Request(change, journal, part)
        request.future.set_running_or_notify_cancel()  # what is queued is written, whoever leaves
        with self._closing:
            if self._is_closed:
                raise StoreUnavailable("The store is closing; start Whetstone again and retry.")
            self._requests.put(request)
        return request.future

    def write(self, change: Change[T], *, journal: Sequence[str] = ()) -> T:
        """`submit` and wait."""
        return self.submit(change, journal=journal).result()

    def checkpoint(self, *, noting: Change[Any]) -> None:
        """Between two commits, write what the log holds into the database file, if there is room.

        `noting` runs just before, as a change of its own, and again before the checkpoint of
        `close`; it is left out once a commit may lack its journal lines. What it writes is in the
        log after all that it speaks of, so that it can never survive without that.
        """
        self._noting = noting
        with self._serving:
            self._journal.drain()
            self._checkpoint()

    def close(self) -> None:
        """Finish what is queued, checkpoint if the disk has room, close. Idempotent."""
        with self._closing:
            if self._is_closed:
                return
            self._is_closed = True
            self._requests.put(None)
        self._writer.join()
        self._journal.close()
        try:
            self._checkpoint()
        finally:
            if self._cursor is not None:
                self._cursor.close()
            self._connection.close()

    def _open(self) -> Cursor:
        """Open the file, which may be one that was not closed well."""
        copy = self._keep_unclean_copy()
        try:
            return self._connect()
        except StoreLocked:
            if copy:  # the log is its owner's, at work; nothing was unclean
                shutil.rmtree(copy)
            raise

    def _connect(self) -> Cursor:
        try:
            connection = duckdb.connect(str(self.path), config={"memory_limit": memory.LIMIT})
        except duckdb.IOException as error:
            owner = re.search(r"PID (\d+)", str(error))
            if "lock" in str(error).lower():
                who = f"process {owner.group(1)}" if owner else "another process"
                raise StoreLocked(
                    "{path} is in use by {who}. Stop that Whetstone first, or give this one "
                    "its own folder with --data.",
                    path=self.path,
                    who=who,
                ) from error
            raise StoreUnavailable(
                "{path} cannot be opened: {error}", path=self.path, error=error
            ) from error
        except duckdb.Error as error:
            raise StoreUnavailable(
                "{path} cannot be read: {error}. Copies from before unclean stops are in "
                "{folder}; acknowledged judgments are in {journal_path}.",
                path=self.path,
                error=error,
                folder=self.folder / "backups",
                journal_path=self.journal_path,
            ) from error
        try:
            _configure(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _keep_unclean_copy(self) -> Path | None:
        """A write-ahead log at start means an unclean stop: copy both files before opening."""
        wal = self.path.with_name(self.path.name + ".wal")
        if not (self.path.exists() and wal.exists()):
            return None
        backups = self.folder / "backups"
        target = backups / f"unclean-{self.clock():%Y%m%dT%H%M%S%f}"
        try:
            size = self.path.stat().st_size + wal.stat().st_size
            if shutil.disk_usage(self.folder).free < 2 * size:
                raise OSError("there is not enough free space")
            target.mkdir(parents=True)
            shutil.copy2(self.path, target)
            shutil.copy2(wal, target)
        except OSError as error:  # better to open it without a copy than not at all
            log.warning("%s could not be copied aside before it is opened: %s", wal, error)
            shutil.rmtree(target, ignore_errors=True)
            return None
        for old in sorted(backups.glob("unclean-*"))[:-KEPT_UNCLEAN_COPIES]:
            shutil.rmtree(old, ignore_errors=True)
        return target

    def _write_loop(self) -> None:
        while group := self._gather():
            with self._serving:
                self._serve(group)
                self._give_back_in_time(len(group))

    def _serve(self, group: list[_Request]) -> None:
        """The boundary of the writer: whatever happens, all are answered and it goes on."""
        try:
            self._commit_group(self._writing_cursor(), group)
        except Exception as error:
            log.exception("A group of %d changes was refused", len(group))
            self._is_journalled = False
            _refuse(group, error)

    def _gather(self) -> list[_Request]:
        """What waits now, or comes first; empty once the store closes and all is served."""
        first = self._requests.get()
        if first is None:
            return []
        group = [first]
        while len(group) < MAX_GROUP:
            try:
                request = self._requests.get_nowait()
            except queue.Empty:
                break
            if request is None:
                self._requests.put(None)  # for the next look: nothing comes after it
                break
            group.append(request)
        return group

    def _commit_group(self, cursor: Cursor, group: list[_Request]) -> None:
        """Commit all together; if one fails, each alone, so that only the culprit hears of it."""
        if len(group) == 1 and group[0].part is None:
            self._commit_alone(cursor, group[0])
            return
        try:
            values = self._transact(cursor, lambda: _make_together(cursor, group))
        except Exception as error:  # noqa: BLE001 - each is asked for again
            if isinstance(error, FATAL):
                self._is_invalid = True
            for request in group:
                self._commit_alone(self._writing_cursor(), request)
        else:
            self._acknowledge(group, values)

    def _commit_alone(self, cursor: Cursor, request: _Request) -> None:
        try:
            value = self._transact(cursor, lambda: request.change(cursor))
        except Exception as error:  # noqa: BLE001 - handed to whoever asked
            if isinstance(error, FATAL):
                self._is_invalid = True
            request.future.set_exception(_as_ours(error))
        else:
            self._acknowledge([request], [value])

    def _acknowledge(self, group: Sequence[_Request], values: Sequence[Any]) -> None:
        """Answer for what is committed, as soon as its lines, if it has any, are on disk too."""
        journalled: list[tuple[_Request, Any]] = []
        for request, value in zip(group, values, strict=True):
            if request.journal:
                journalled.append((request, value))
            else:
                request.future.set_result(value)
        if journalled:
            lines = [line for request, _ in journalled for line in request.journal]
            self._journal.append(lines, partial(self._settle, journalled))

    def _settle(self, journalled: list[tuple[_Request, Any]], unsaved: OSError | None) -> None:
        """Answer for changes that are committed, now that their lines are on disk, or are not."""
        if unsaved:
            self._is_journalled = False
        for request, value in journalled:
            if unsaved:
                request.future.set_exception(_as_ours(unsaved))
            else:
                request.future.set_result(value)

    def _transact(self, cursor: Cursor, make: Callable[[], T]) -> T:
        cursor.begin()
        try:
            made = make()
        except BaseException:
            # After an error inside a transaction a commit would not raise, and would lose it all.
            cursor.rollback()
            raise
        cursor.commit()
        return made

    def _nudge(self) -> None:
        """Have the writer open the database again for one who only reads, or say why it cannot."""
        is_broken = self._is_invalid or self._cursor is None
        is_own_thread = threading.current_thread() in (self._writer, self._journal.thread)
        if is_broken and not self._is_closed and not is_own_thread:
            self.write(_nothing)

    def _writing_cursor(self) -> Cursor:
        """The writer's cursor, on the database opened anew if it was invalidated."""
        if self._is_invalid:
            self._shut()
        if self._cursor is None:
            self._connection = self._connect()
            self._cursor = self._connection.cursor()
            log.warning("%s is open again", self.path)
        return self._cursor

    def _shut(self) -> None:
        """DuckDB invalidates the whole instance after a fatal error; only opening anew helps."""
        log.error("%s was invalidated; opening it again", self.path)
        self._is_journalled = False  # nor is it known that all in the journal is still here
        if self._cursor is not None:
            self._cursor.close()
            self._connection.close()
            self._cursor = None
            self._keep_unclean_copy()
        self._is_invalid = False

    def _give_back_in_time(self, changes: int) -> None:
        """Now and then, let go of pages that the file has too, at a moment when nobody reads."""
        self._since_given_back += changes
        if self._since_given_back < GIVE_BACK_EVERY or self._is_invalid or self._cursor is None:
            return
        with self._readers.none() as is_quiet:
            if not is_quiet:
                return
            self._since_given_back = 0
            try:
                self._check_room()
                self._cursor.execute("CHECKPOINT")  # what is only in the log cannot be let go
            except Exception as error:  # noqa: BLE001 - the writer goes on, whatever happens
                self._is_invalid = isinstance(error, FATAL)
                log.warning("The memory of %s was not given back: %s", self.path, error)
                return
            try:
                memory.give_back(self._cursor)
            except Exception:
                log.exception("The memory of %s could not be given back", self.path)
                self._is_invalid = True  # its limit is not known: only opening anew helps

    def _checkpoint(self) -> None:
        if self._is_invalid or self._cursor is None:
            log.warning("%s is not open, so its log is kept for the next start", self.path)
            return
        try:
            if self._noting is not None and self._is_journalled:
                self._transact(self._cursor, partial(self._noting, self._cursor))
            self._check_room()
            self._cursor.execute("CHECKPOINT")
        except (duckdb.Error, OSError) as error:
            self._is_invalid = isinstance(error, FATAL)
            log.warning("%s was not checkpointed, its log is kept: %s", self.path, error)

    def _check_room(self) -> None:
        """Raises `OSError` where a checkpoint could fill the disk."""
        if shutil.disk_usage(self.folder).free < 2 * self.path.stat().st_size:
            raise OSError("there is not enough free space")


def _configure(connection: Cursor) -> None:
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET autoinstall_known_extensions = false")
    connection.execute("SET autoload_known_extensions = false")
    connection.execute("SET wal_autocheckpoint_entries = 5000")
    connection.execute("SET allocator_background_threads = true")  # give back what it has freed
    connection.execute("PRAGMA disable_checkpoint_on_shutdown")


def _make_together(cursor: Cursor, group: Sequence[_Request]) -> list[Any]:
    """What can be made at once, then the others; the values are in the order of the group."""
    values: dict[int, Any] = {}
    for make, parts in _by_kind(group).items():
        made = make(cursor, [item for _, item in parts])
        values.update(zip((place for place, _ in parts), made, strict=True))
    for place, request in enumerate(group):
        if request.part is None:
            values[place] = request.change(cursor)
    return [values[place] for place in range(len(group))]


def _by_kind(group: Sequence[_Request]) -> dict[Any, list[tuple[int, Any]]]:
    """By what makes them: the place in the group, and the item, of each part."""
    parts: dict[Any, list[tuple[int, Any]]] = {}
    for place, request in enumerate(group):
        if request.part is not None:
            parts.setdefault(request.part.make, []).append((place, request.part.item))
    return parts


def _nothing(_: Cursor) -> None:
    """A change that changes nothing."""


def _refuse(group: Sequence[_Request], error: Exception) -> None:
    """Tell those of the group who have no answer yet that theirs is not known to be saved."""
    for request in group:
        if not request.future.done():
            refusal = StoreUnavailable(
                "Saving failed ({error}). Look for a full disk or quota, then try again; "
                "everything acknowledged before is safe.",
                error=error,
            )
            refusal.__cause__ = error
            request.future.set_exception(refusal)


def _as_ours(error: Exception) -> Exception:
    """What the one who asked can act on, where this is known."""
    if isinstance(error, (duckdb.Error, OSError)) and _FULL.search(str(error)):
        ours = StoreUnavailable(
            "The disk is full, so this was not saved. Free some space and try again; "
            "everything acknowledged before is safe."
        )
    elif isinstance(error, FATAL):
        ours = StoreUnavailable(
            "The database stopped and is opened again ({error}). Try again; everything "
            "acknowledged before is safe.",
            error=str(error).splitlines()[0],
        )
    else:
        return error
    ours.__cause__ = error
    return ours
