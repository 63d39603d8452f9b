"""The run directory: all that a trainer is given and all that it leaves.

    spec.json        what to do (RunSpec)
    data/            the snapshot, the held-out prompts, perhaps general demonstrations
    events.jsonl     progress, see events.py; of several processes, the others' in events.N.jsonl
    log.txt          stdout and stderr of the trainer
    worker.json      pid and start time of the trainer that holds `lock`
    trained_rows.json  which rows of the snapshot are trained on, counted from 0
    replayed_rows.json  which of the general demonstrations are, where any are
    completions.jsonl  what the policy was made to write for training, where a method keeps that
    tensorboard/     the metrics as TensorBoard reads them, unless that was not wanted
    checkpoints/     mid-run state, the newest two
    watch/           of a reward model, a run directory of its second model, see worker/reward.py
    adapter/         the weights, renamed from adapter.partial when complete; then read-only
    cancel           a person asked for the run to stop
    failure.N.json   of several processes, why another than the first one failed
    report.html      the result for people to read, where it was good
    result.json      how it ended; written last, so that existence means complete

Every file but the events and the log appears whole or not at all. `python -m training.worker
RUN_DIR` is all it takes to run one by hand. Knows neither the store nor any ML library.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple, Self

from training.config import GENERAL, RunSpec
from training.events import finite
from training.messages import MessageError
from training.options import SpecError

MIN_FREE_BYTES = 128 * 2**20
RESERVE_BYTES = 64 * 2**10
FAILURES = "failure.*.json"
UNEXPECTED = "unexpected"  # the name of a failure that nobody has given one


class RunDirBusy(MessageError, RuntimeError):
    """Another trainer is at work in the run directory."""


class Outcome(StrEnum):
    """How a trainer ended. A trainer that wrote no result was interrupted."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True)
class Failure:
    """Why a run failed: a stable name, what happened, and what a person can do about it.

    `said` is the message once more, as a template with its values, for the pages to translate.
    """

    name: str
    message: str
    advice: str
    said: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_vague(self) -> bool:
        """Nobody has thought of it, and another process may know better."""
        return self.name == UNEXPECTED


@dataclass(frozen=True)
class RunResult:
    """`result.json`. `report` holds plain JSON: counts, timing, evaluation, samples."""

    state: Outcome
    failure: Failure | None = None
    report: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        failure = values.get("failure")
        return cls(
            Outcome(values["state"]),
            Failure(**failure) if failure else None,
            values.get("report", {}),
        )


class Trainer(NamedTuple):
    """A trainer process; the start time (UNIX seconds) tells it from a later one with its pid."""

    pid: int
    started_at: float


class RunDir:
    """A run's folder, by the names of what it holds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spec_path = path / "spec.json"
        self.events_path = path / "events.jsonl"
        self.log_path = path / "log.txt"
        self.checkpoints = path / "checkpoints"
        self.tensorboard = path / "tensorboard"
        self.completions_path = path / "completions.jsonl"
        self.adapter_partial = path / "adapter.partial"
        self.adapter = path / "adapter"
        self.report_path = path / "report.html"
        self.watch = path / "watch"
        self.result_path = path / "result.json"
        self._trainer_path = path / "worker.json"
        self._trained_rows_path = path / "trained_rows.json"
        self._replayed_rows_path = path / "replayed_rows.json"
        self._estimate_path = path / "estimate.json"
        self._lock_path = path / "lock"
        self._cancel_path = path / "cancel"
        self._reserve_path = path / "reserve"

    @classmethod
    def create(
        cls,
        path: Path,
        spec: RunSpec,
        *,
        data: Path,
        eval_prompts: Sequence[Mapping[str, Any]],
        general: Path | None = None,
    ) -> Self:
        """Write a new run directory; snapshots are linked, or copied across file systems.

        `general` is one of general demonstrations.

        `spec.json` comes last. Raises `SpecError`, `FileExistsError`, or `OSError` when the disk
        is full or refuses.
        """
        spec.validate()
        path.parent.mkdir(parents=True, exist_ok=True)
        given = sum(file.stat().st_size for file in (data, general) if file is not None)
        require_space(path.parent, MIN_FREE_BYTES + given)
        path.mkdir()
        run_dir = cls(path)
        target = path / spec.data
        target.parent.mkdir(parents=True, exist_ok=True)
        _link_or_copy(data, target)
        if general is not None:
            _link_or_copy(general, path / GENERAL)
        lines = [json.dumps(dict(prompt), ensure_ascii=False) for prompt in eval_prompts]
        write_whole(path / spec.eval_prompts, "".join(f"{line}\n" for line in lines))
        write_whole(run_dir.spec_path, _json(spec.to_json()))
        return run_dir

    def read_spec(self) -> RunSpec:
        """Raises `SpecError`, also when the file is missing or is not JSON."""
        try:
            values = json.loads(self.spec_path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SpecError(
                "spec.json", str(self.spec_path), "{error}", error=str(error)
            ) from error
        if not isinstance(values, dict):
            raise SpecError("spec.json", str(self.spec_path), "must hold an object")
        return RunSpec.from_json(values)

    def read_result(self) -> RunResult | None:
        """How the run ended; None while it has not. Raises `ValueError` if the file is damaged."""
        try:
            text = self.result_path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        try:
            return RunResult.from_json(json.loads(text))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{self.result_path} is damaged: {error}") from error

    def write_result(self, result: RunResult) -> None:
        """The last thing that a trainer does. Succeeds on a full disk: room was reserved."""
        self._reserve_path.unlink(missing_ok=True)
        write_whole(self.result_path, _json(asdict(result)))

    def write_trained_rows(self, rows: Sequence[int]) -> None:
        """Say which rows of the snapshot are trained on, neither held out nor too long."""
        write_whole(self._trained_rows_path, _json(sorted(rows)))

    def read_trained_rows(self) -> list[int]:
        """Raises `ValueError` when the trainer has not said it, or the file is damaged."""
        return _read_numbers(self._trained_rows_path)

    def write_replayed_rows(self, rows: Sequence[int]) -> None:
        """Say which general demonstrations are trained on."""
        write_whole(self._replayed_rows_path, _json(sorted(rows)))

    def read_replayed_rows(self) -> list[int]:
        """Empty when the trainer has not said it. Raises `ValueError` when the file is damaged."""
        return _read_numbers(self._replayed_rows_path) if self._replayed_rows_path.exists() else []

    def write_estimate(self, values: Mapping[str, Any]) -> None:
        """Keep what people were told, before launch, that the run would take."""
        write_whole(self._estimate_path, _json(values))

    def read_estimate(self) -> dict[str, Any]:
        """Empty where people were told nothing, or what they were told is not to be read."""
        try:
            values = json.loads(self._estimate_path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return values if isinstance(values, dict) else {}

    def write_failure_beside(self, rank: int, failure: Failure) -> None:
        """Say why a process failed that does not write the result."""
        write_whole(self._failure_path(rank), _json(asdict(failure)))

    def failure_beside(self) -> Failure | None:
        """Why a process beside the first one failed, a reason with a name before one without."""
        found = [_read_failure(path) for path in sorted(self.path.glob(FAILURES))]
        failures = [failure for failure in found if failure is not None]
        return min(failures, key=lambda failure: failure.is_vague, default=None)

    def forget_failure_beside(self, rank: int) -> None:
        """A process that starts has not failed."""
        self._failure_path(rank).unlink(missing_ok=True)

    def _failure_path(self, rank: int) -> Path:
        return self.path / FAILURES.replace("*", str(rank))

    def reserve_result(self) -> None:
        """Keep room on the disk for a result that has to report that the disk is full."""
        with self._reserve_path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, RESERVE_BYTES)

    def ask_to_cancel(self) -> None:
        """Note that a person wants the run to stop, so that its end is understood as that."""
        write_whole(self._cancel_path, "")

    @property
    def is_cancel_asked(self) -> bool:
        """A person asked for the run to stop."""
        return self._cancel_path.exists()

    def forget_end(self) -> None:
        """Make the directory ready for a resume: its previous end no longer counts."""
        for path in (self.result_path, self._cancel_path, *self.path.glob(FAILURES)):
            path.unlink(missing_ok=True)

    @contextmanager
    def held_by(self, trainer: Trainer) -> Iterator[None]:
        """Be the only trainer in this directory. Raises `RunDirBusy`."""
        with self._lock_path.open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunDirBusy(
                    "Another trainer ({trainer}) is at work in {path}. Wait for it to end, "
                    "or cancel that run.",
                    trainer=self.trainer(),
                    path=self.path,
                ) from None
            write_whole(self._trainer_path, _json(trainer._asdict()))
            yield

    def trainer(self) -> Trainer | None:
        """The trainer that worked here last, alive or not."""
        try:
            return Trainer(**json.loads(self._trainer_path.read_text(encoding="utf-8")))
        except (OSError, TypeError, ValueError):
            return None

    def newest_checkpoint(self) -> Path | None:
        """The last complete mid-run state; a folder without its state file was torn."""
        complete = [
            (int(path.name.removeprefix("checkpoint-")), path)
            for path in self.checkpoints.glob("checkpoint-*")
            if path.name.removeprefix("checkpoint-").isdigit() and (path / "complete").exists()
        ]
        return max(complete)[1] if complete else None

    def seal_adapter(self) -> Path:
        """Turn adapter.partial into the read-only adapter/, in place of a torn end's."""
        if self.adapter.exists():
            make_writable(self.adapter)
            shutil.rmtree(self.adapter)
        for file in self.adapter_partial.rglob("*"):
            if file.is_file():
                _sync(file)
                file.chmod(stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH)
        self.adapter_partial.replace(self.adapter)
        _sync(self.path)
        return self.adapter

    @property
    def watch_adapter(self) -> Path | None:
        """The second model that a reward run left, if it did."""
        adapter = RunDir(self.watch).adapter
        return adapter if adapter.exists() else None

    def log_tail(self, lines: int = 5) -> str:
        """The last lines of the log, to say why a trainer died."""
        with suppress(OSError):
            return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])
        return ""


def require_space(folder: Path, needed_bytes: int) -> None:
    """Raises `OSError` (ENOSPC) when the disk of `folder` has less room than that."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        message = (
            f"{folder} has {free / 2**20:.0f} MiB free and a run needs {needed_bytes / 2**20:.0f} "
            "MiB. Free some space and start the run again."
        )
        raise OSError(errno.ENOSPC, message)


def write_whole(path: Path, text: str) -> None:
    """Write a file so that readers see all of it or none of it, also after a power cut."""
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def make_writable(folder: Path) -> None:
    """Undo the read-only bits of a sealed folder, so that it can be removed."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode | stat.S_IWUSR)


def _read_numbers(path: Path) -> list[int]:
    try:
        return [int(number) for number in json.loads(path.read_text("utf-8"))]
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def _read_failure(path: Path) -> Failure | None:
    try:
        return Failure(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError):
        return None


def _json(values: Any) -> str:
    return json.dumps(finite(values), ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:
        partial = target.with_name(f"{target.name}.partial")
        shutil.copyfile(source, partial)
        partial.replace(target)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
