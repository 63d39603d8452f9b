"""Giving back the memory of pages that DuckDB could read again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

LIMIT = "4GB"
_UNKEEPABLE = "1KB"


class Readers:
    """How many read at this moment, and a way to keep them out for another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Counted as reading meanwhile."""
        with self._lock:
            self._count += 1
        try:
            yield
        finally:
            with self._lock:
                self._count -= 1

    @contextmanager
    def none(self) -> Iterator[bool]:
        """Whether nobody reads; if so, those who come meanwhile wait."""
        with self._lock:
            yield self._count == 0


def give_back(cursor: duckdb.DuckDBPyConnection) -> None:
    """Have DuckDB drop every page and index part that is in the file too.

    It keeps them up to its limit, which is meant for big queries, so that the server would grow
    with each judgment. No call drops them, but a limit of almost nothing does: DuckDB drops what it
    can, and then takes the limit, which is set back here, or refuses it. Nobody may read meanwhile:
    under that limit a query fails, and what a query sorts would go to disk.
    """
    try:
        cursor.execute(f"SET memory_limit = '{_UNKEEPABLE}'")
    except duckdb.OutOfMemoryException:
        return
    cursor.execute(f"SET memory_limit = '{LIMIT}'")
