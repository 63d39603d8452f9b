"""The journal on disk: appended by a thread of its own, so that the next commit need not wait."""

from __future__ import annotations

import io
import logging
import os
import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

log = logging.getLogger(__name__)

Settle = Callable[[OSError | None], None]


class _Batch(NamedTuple):
    lines: Sequence[str]
    settle: Settle


class JournalFile:
    """The file at `path`, open until `close()`. Batches that wait together share a sync."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab+", buffering=0)
        self._is_torn = _ends_inside_a_line(self._file)
        self._batches: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self.thread = threading.Thread(target=self._write_loop, name="store-journal", daemon=True)
        self.thread.start()

    def append(self, lines: Sequence[str], settle: Settle) -> None:
        """Queue lines; `settle` is called on `thread` once they are on disk.

        It is given the error, if they are not known to be there.
        """
        self._batches.put(_Batch(lines, settle))

    def drain(self) -> None:
        """Return once all that was appended before is settled."""
        is_reached = threading.Event()
        self.append((), lambda _: is_reached.set())
        is_reached.wait()

    def close(self) -> None:
        """Settle all that was appended, then close the file."""
        self._batches.put(None)
        self.thread.join()
        self._file.close()

    def _write_loop(self) -> None:
        while batches := self._gather():
            error = self._write([line for batch in batches for line in batch.lines])
            for batch in batches:
                try:
                    batch.settle(error)
                except Exception:
                    log.exception("Somebody could not be told what became of their lines")

    def _gather(self) -> list[_Batch]:
        """What waits now, or comes first; empty once the file is to be closed."""
        batch = self._batches.get()
        batches = []
        while batch is not None:
            batches.append(batch)
            try:
                batch = self._batches.get_nowait()
            except queue.Empty:
                return batches
        if batches:
            self._batches.put(None)  # for the next look: nothing comes after it
        return batches

    def _write(self, lines: Sequence[str]) -> OSError | None:
        if not lines:
            return None
        data = "".join(f"{line}\n" for line in lines).encode()
        if self._is_torn:
            data = b"\n" + data
        self._is_torn = True
        try:
            while data:
                data = data[self._file.write(data) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            return error
        self._is_torn = False
        return None


def _ends_inside_a_line(file: io.FileIO) -> bool:
    """Whether the last write to the journal was cut off; what follows must not be glued to it."""
    if file.seek(0, os.SEEK_END) == 0:
        return False
    file.seek(-1, os.SEEK_END)
    return file.read(1) != b"\n"
