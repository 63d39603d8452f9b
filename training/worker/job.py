"""What a recipe is handed: the spec, the directory, the events, and the wish to stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType

from training.config import RunSpec
from training.events import EventKind, EventWriter
from training.messages import Message
from training.methods import Method, method_named
from training.rundir import RunDir
from training.worker.failures import Cancelled


class StopRequest:
    """Set by SIGTERM or SIGINT, looked at between steps: a signal never tears a step apart.

    Until `be_patient` there is nothing to tear, and a signal ends the trainer at once, in the
    middle of an import if need be.
    """

    def __init__(self) -> None:
        self.signal = threading.Event()
        self._is_patient = False

    def listen(self) -> None:
        """Take the signals over; only the main thread may."""
        signal.signal(signal.SIGTERM, self._set)
        signal.signal(signal.SIGINT, self._set)

    def be_patient(self) -> None:
        """From now on only note a signal. Raises `Cancelled` if one has come."""
        self._is_patient = True
        self.check()

    @property
    def is_set(self) -> bool:
        """A signal has come."""
        return self.signal.is_set()

    def check(self) -> None:
        """Raises `Cancelled` once a signal has come."""
        if self.is_set:
            raise Cancelled

    def _set(self, _number: int, _frame: FrameType | None) -> None:
        self.signal.set()
        if not self._is_patient:
            raise Cancelled


@dataclass(frozen=True)
class Job:
    """One run, as a recipe sees it; `rank` is the number of this process among several."""

    spec: RunSpec
    run_dir: RunDir
    events: EventWriter
    stop: StopRequest
    rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process writes what the run leaves; further ones only compute."""
        return self.rank == 0

    @property
    def method(self) -> Method:
        """What the run does, as the table of methods has it."""
        return method_named(self.spec.method)

    def enter_phase(self, name: str) -> None:
        """Announce loading, preparing, training or evaluating. Raises `Cancelled`."""
        self.stop.check()
        self.events.write(EventKind.PHASE, name=name)

    def note_trained_rows(self, rows: Sequence[int]) -> None:
        """Leave which rows of the snapshot are learned from."""
        if self.is_main:
            self.run_dir.write_trained_rows(rows)

    def note_replayed_rows(self, rows: Sequence[int]) -> None:
        """Leave which general demonstrations are learned from."""
        if self.is_main:
            self.run_dir.write_replayed_rows(rows)

    def warn(self, template: str, /, **values: object) -> None:
        """Tell people something that does not stop the run."""
        message = Message(template, values)
        self.events.write(EventKind.WARNING, message=str(message), said=message.to_json())
