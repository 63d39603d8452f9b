"""The lines that a trainer writes while it works, and how they are followed.

`events.jsonl` has one writer (the trainer) and any number of readers. A line is flushed when it is
written and numbered from 0 without gaps, also across resumes. What follows the last newline is a
torn tail: readers leave it for later, and a writer that takes over removes it.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

# That a trainer enters first, also when it goes on with a run.
_FIRST_PHASE = "loading"

log = logging.getLogger(__name__)


class EventKind(StrEnum):
    """What an event tells.

    PHASE     `name`: loading, preparing, generating, training, evaluating, watch (training the
              second reward model)
    PROGRESS  `step` of `total` of the phase, optimiser steps while training; `first_step` marks the
              first of this process
    METRICS   `step` and numbers measured there, or `held_out_*` numbers
    SAMPLE    a prompt with the responses of the old and the new policy
    WARNING   `message`: something that a person should know and that did not stop the run
    DONE      the adapter is complete and the result about to be written
    """

    PHASE = "phase"
    PROGRESS = "progress"
    METRICS = "metrics"
    SAMPLE = "sample"
    WARNING = "warning"
    DONE = "done"


@dataclass(frozen=True)
class Event:
    """One line. `at` is UNIX seconds."""

    seq: int
    at: float
    kind: str
    data: Mapping[str, Any]


class Told(Protocol):
    """What an event tells, whether it was read from a file or from the store."""

    @property
    def kind(self) -> str:
        """One of `EventKind`."""

    @property
    def data(self) -> Mapping[str, Any]:
        """Plain JSON."""


class EventWriter:
    """Appends events to a file, each flushed at once. Continues the numbering that it finds."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self._clock = clock
        known, end = _scan(path)
        self._next_seq = known[-1].seq + 1 if known else 0
        self._file = path.open("ab")
        self._file.truncate(end)

    def write(self, kind: EventKind, **data: Any) -> Event:
        """Append one event. Numbers that are not finite become null. Raises `OSError`."""
        event = Event(self._next_seq, self._clock(), kind, finite(data))
        line = json.dumps(
            {"seq": event.seq, "at": event.at, "kind": event.kind, "data": event.data},
            ensure_ascii=False,
            allow_nan=False,
        )
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        self._next_seq += 1
        return event

    def close(self) -> None:
        """Idempotent."""
        self._file.close()


class EventReader:
    """Hands out the events that were completed since the last `read`."""

    def __init__(self, path: Path, *, offset: int = 0) -> None:
        self._path = path
        self.offset = offset

    def read(self) -> list[Event]:
        """New events, in order; none when there is no file yet."""
        events, self.offset = _scan(self._path, self.offset)
        return events


def worked_s(events: Sequence[Event]) -> float:
    """How long trainers worked that wrote these events, from the first of each to its last."""
    seconds = 0.0
    for before, event in pairwise(events):
        begins_anew = event.kind == EventKind.PHASE and event.data.get("name") == _FIRST_PHASE
        seconds += 0.0 if begins_anew else event.at - before.at
    return seconds


def series(events: Iterable[Told], name: str) -> list[tuple[float, float]]:
    """(step, value) of one metric; after a resume the later value of a step counts."""
    found: dict[float, float] = {}
    for event in events:
        value, step = event.data.get(name), event.data.get("step")
        if event.kind == EventKind.METRICS and value is not None and step is not None:
            found[float(step)] = float(value)
    return sorted(found.items())


def finite(value: Any) -> Any:
    """A value as strict JSON has it: numbers that are not finite become null, tuples lists."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _scan(path: Path, offset: int = 0) -> tuple[list[Event], int]:
    """The complete lines after `offset`, and the offset of what follows them."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            text = file.read()
    except FileNotFoundError:
        return [], offset
    complete = text[: text.rfind(b"\n") + 1]
    events = [event for line in complete.splitlines() if (event := _parse(path, line))]
    return events, offset + len(complete)


def _parse(path: Path, line: bytes) -> Event | None:
    try:
        row = json.loads(line)
        return Event(int(row["seq"]), float(row["at"]), str(row["kind"]), dict(row["data"]))
    except (ValueError, KeyError, TypeError):
        log.warning("%s holds a line that is no event: %.80r", path, line)
        return None
