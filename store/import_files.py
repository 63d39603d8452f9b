"""Rows of a file, read one by one: JSON Lines, JSON arrays, CSV and Parquet, also gzipped.

Knows encodings and damage; knows no format of the rows.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any, cast

import duckdb

from store.errors import BadInput, BadRow
from store.formats.item import SourceRow

MAX_ROW_BYTES = 16 * 2**20
_CHUNK_CHARS = 2**16
_BOM = "\ufeff".encode()
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_SPACE = re.compile(r"[\s,]*")
_DAMAGE = (EOFError, OSError, zlib.error)
_STRUCTURED = {
    *("messages", "conversations", "prompt", "chosen", "rejected", "completion"),
    "checks",
}

Found = SourceRow | BadRow


class RowFile:
    """A file being read. Iterating gives its rows, and a `BadRow` in place of each unreadable one.

    Raises `BadInput` when the file is missing, empty, or of a kind that is not known.
    """

    KINDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        self._kind = Path(self.name.lower().removesuffix(".gz")).suffix
        self._closing = ExitStack()
        if self._kind not in self.KINDS:
            raise BadInput(
                "{name} is not of a kind that can be imported. Save it as one of {kinds} (each "
                "may be gzipped) and import it again.",
                name=self.name,
                kinds=", ".join(self.KINDS),
            )
        if not path.is_file():
            raise BadInput(
                "There is no file {path}. Check the path and import it again.", path=path
            )
        self._size = path.stat().st_size
        if self._size == 0:
            raise BadInput("{name} is empty. Choose the file that holds the rows.", name=self.name)
        self._parquet_done = 0.0
        self._raw = self._closing.enter_context(path.open("rb"))
        self._stream = self._open_stream()

    def __enter__(self) -> RowFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.close()

    def __iter__(self) -> Iterator[Found]:
        if self._kind == ".parquet":
            return self._read_parquet()
        if self._kind in (".csv", ".tsv"):
            return self._read_csv()
        if self._kind == ".json" and self._starts_an_array():
            return self._read_array()
        return self._read_lines()

    @property
    def fraction(self) -> float:
        """How much of the file has been read, 0 to 1, measured in bytes of the file."""
        if self._kind == ".parquet":
            return self._parquet_done
        return min(1.0, self._raw.tell() / self._size)

    def _open_stream(self) -> IO[bytes]:
        stream: IO[bytes] = self._raw
        if self.name.lower().endswith(".gz"):
            stream = cast("IO[bytes]", gzip.GzipFile(fileobj=self._raw))
        try:
            start = stream.read(4)
        except _DAMAGE as error:
            raise BadInput(
                "{name} cannot be unpacked ({error}). Download or compress it anew.",
                name=self.name,
                error=error,
            ) from error
        if self._kind != ".parquet" and start.startswith(_UTF16):
            raise BadInput(
                "{name} is in UTF-16. Save it as UTF-8 and import it again.", name=self.name
            )
        stream.seek(0)
        return stream

    def _bad(self, line: int, problem: str, /, **values: object) -> BadRow:
        return BadRow(self.name, line, "", problem, **values)

    def _breaks_off(self, line: int, error: Exception) -> BadRow:
        return self._bad(line, "nothing from here on could be read: {error}", error=str(error))

    def _read_lines(self) -> Iterator[Found]:
        line = 0
        while True:
            line += 1
            try:
                text = self._stream.readline(MAX_ROW_BYTES + 1)
                is_too_long = len(text) > MAX_ROW_BYTES
                if is_too_long:
                    self._skip_line(text)
            except _DAMAGE as error:
                yield self._breaks_off(line, error)
                return
            if not text:
                return
            if is_too_long:
                yield self._bad(line, "is longer than {most} MB", most=MAX_ROW_BYTES >> 20)
            elif text.strip():
                yield self._row_of_line(line, text.removeprefix(_BOM) if line == 1 else text)

    def _skip_line(self, text: bytes) -> None:
        while text and not text.endswith(b"\n"):
            text = self._stream.readline(MAX_ROW_BYTES)

    def _row_of_line(self, line: int, text: bytes) -> Found:
        try:
            value = json.loads(text.decode("utf-8"))
        except UnicodeDecodeError as error:
            return self._bad(line, "is not UTF-8 (byte {byte})", byte=error.start + 1)
        except json.JSONDecodeError as error:
            return self._bad(
                line,
                "is not valid JSON: {error} at column {column}",
                error=error.msg,
                column=error.colno,
            )
        except ValueError:
            return self._bad(line, "holds a number with too many digits")
        except RecursionError:
            return self._bad(line, "is nested too deeply")
        return self._object(line, value)

    def _object(self, line: int, value: object) -> Found:
        if not isinstance(value, dict):
            return self._bad(line, "should be an object with named fields")
        return SourceRow(self.name, line, value)

    def _starts_an_array(self) -> bool:
        try:
            start = self._stream.read(4096).removeprefix(_BOM).lstrip()
        except _DAMAGE:
            start = b""
        self._stream.seek(0)
        return start.startswith(b"[")

    def _read_array(self) -> Iterator[Found]:
        """The array's items as they come; only one of them is in memory at a time."""
        text = io.TextIOWrapper(self._stream, encoding="utf-8-sig", errors="surrogateescape")
        decoder = json.JSONDecoder()
        before, _, buffer = text.read(_CHUNK_CHARS).partition("[")
        line = 1 + before.count("\n")
        is_at_end = False
        while True:
            start = _after_space(buffer)
            line += buffer.count("\n", 0, start)
            buffer = buffer[start:]
            if buffer.startswith("]"):
                return
            try:
                value, end = decoder.raw_decode(buffer)
            except (ValueError, RecursionError) as error:
                if is_at_end or len(buffer) > MAX_ROW_BYTES:
                    yield self._breaks_off(line, error)
                    return
                try:
                    more = text.read(max(_CHUNK_CHARS, len(buffer)))
                except _DAMAGE as damage:
                    yield self._breaks_off(line, damage)
                    return
                is_at_end = not more
                buffer += more
                continue
            yield self._object(line, value)
            line += buffer.count("\n", 0, end)
            buffer = buffer[end:]

    def _read_csv(self) -> Iterator[Found]:
        csv.field_size_limit(MAX_ROW_BYTES)
        text = io.TextIOWrapper(
            self._stream, encoding="utf-8-sig", errors="surrogateescape", newline=""
        )
        try:
            first = text.readline(MAX_ROW_BYTES)
            text.seek(0)
        except _DAMAGE as error:
            raise BadInput(
                "{name} cannot be read ({error}).", name=self.name, error=error
            ) from error
        reader = csv.reader(text, delimiter=max(",;\t", key=first.count))
        header = next(reader, [])
        if len(set(header)) != len(header) or not all(header):
            raise BadInput(
                "{name} should begin with a line of column names, each given once; it begins with "
                "{first!r}. Add that line and import it again.",
                name=self.name,
                first=first.strip()[:80],
            )
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                yield self._bad(line, "{error}", error=str(error))
                continue
            except _DAMAGE as error:
                yield self._breaks_off(line, error)
                return
            if cells is None:
                return
            if not cells:
                continue
            if len(cells) != len(header):
                yield self._bad(
                    line,
                    "has {found} fields, the header has {expected}",
                    found=len(cells),
                    expected=len(header),
                )
                continue
            pairs = zip(header, cells, strict=True)
            yield SourceRow(self.name, line, {name: _cell(name, cell) for name, cell in pairs})

    def _read_parquet(self) -> Iterator[Found]:
        path = str(self._plain_parquet())
        connection = self._closing.enter_context(duckdb.connect())
        connection.execute("SET autoinstall_known_extensions = false")
        connection.execute("SET memory_limit = '1GB'")
        try:
            counted = connection.execute(
                "SELECT sum(num_rows) FROM parquet_file_metadata(?)", [path]
            ).fetchone()
            result = connection.execute("SELECT * FROM read_parquet(?)", [path])
            names = [column[0] for column in result.description or ()]
        except duckdb.Error as error:
            raise BadInput(
                "{name} is not a readable Parquet file ({error}). Write or download it anew.",
                name=self.name,
                error=error,
            ) from error
        total = int(counted[0]) if counted and counted[0] else 0
        line = 0
        while True:
            try:
                found = result.fetchmany(200)
            except duckdb.Error as error:
                yield self._breaks_off(line + 1, error)
                return
            if not found:
                return
            for values in found:
                line += 1
                yield SourceRow(self.name, line, dict(zip(names, values, strict=True)))
            self._parquet_done = line / total if total else 1.0

    def _plain_parquet(self) -> Path:
        """Parquet is read from its end, so a gzipped one is unpacked to a temporary file first."""
        if self._stream is self._raw:
            return self.path
        folder = Path(self._closing.enter_context(tempfile.TemporaryDirectory()))
        path = folder / "unpacked.parquet"
        try:
            with path.open("wb") as target:
                shutil.copyfileobj(self._stream, target)
        except _DAMAGE as error:
            raise BadInput(
                "{name} cannot be unpacked ({error}).", name=self.name, error=error
            ) from error
        return path


def _after_space(buffer: str) -> int:
    found = _SPACE.match(buffer)
    return found.end() if found else 0


def _cell(name: str, cell: str) -> Any:
    """Messages and checks are kept as JSON in a CSV cell; everything else is text."""
    if name not in _STRUCTURED or not cell.startswith(("[{", "{")):
        return cell
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        return cell
