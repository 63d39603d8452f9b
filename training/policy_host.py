"""The live policy: one thread owns the model, everybody else asks it.

Owns the queue of requests, which version is live, and when versions are loaded and dropped. Does
not know what a version is made of, nor who asks. A swap happens between batches, never inside one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any

from store.errors import BadInput, Conflict, NotFound, PolicyUnavailable
from training.generation import GenerationStopped, StopSignal
from training.messages import Message
from training.policy import AdapterFolder, Generation, GenerationRequest, Policy

logger = logging.getLogger(__name__)


class HostState(StrEnum):
    """Life of a host.

    LOADING  entered at creation; left when the base model is ready, or fails to load
    READY    entered when the base model is loaded; left by close
    FAILED   entered when it could not be loaded, or when the serving thread broke; final
    CLOSED   entered by close; final
    """

    LOADING = "loading"
    READY = "ready"
    FAILED = "failed"
    CLOSED = "closed"


class Priority(IntEnum):
    """Who is served first: a person who waits, then completions made ahead of the people."""

    INTERACTIVE = 0
    BACKGROUND = 1


@dataclass(frozen=True)
class HostStatus:
    """A snapshot for a page. `queue_depth` counts requests that no batch has taken yet."""

    state: HostState
    live_version: str | None
    previous_version: str | None
    loaded_versions: tuple[str, ...]
    message: Message
    queue_depth: int


@dataclass(frozen=True)
class PromotionReport:
    """What a promotion took and showed.

    A time is near 0, and `mean_kl` None, for what was not needed: a version still loaded is not
    loaded again, one that has been live before does not have to prove itself again.
    """

    version: str
    previous_version: str | None
    load_s: float
    smoke_s: float
    mean_kl: float | None
    smoke_texts: tuple[str, ...]


@dataclass(eq=False)
class _Job:
    """What one `submit` asked for. `version` None is replaced by the live one at first dispatch."""

    requests: Sequence[GenerationRequest]
    version: str | None
    future: Future[list[Generation]]
    generations: list[Generation | None] = field(default_factory=list)
    taken: int = 0

    def __post_init__(self) -> None:
        self.generations = [None] * len(self.requests)


@dataclass(frozen=True)
class _Row:
    """One request of a job."""

    job: _Job
    index: int

    @property
    def request(self) -> GenerationRequest:
        return self.job.requests[self.index]


@dataclass(frozen=True)
class _Batch:
    version: str
    rows: Sequence[_Row]

    @property
    def jobs(self) -> list[_Job]:
        return list(dict.fromkeys(row.job for row in self.rows))

    def split_by_job(self) -> Iterator[_Batch]:
        for job in self.jobs:
            yield _Batch(self.version, [row for row in self.rows if row.job is job])

    def split_in_half(self) -> Iterator[_Batch]:
        middle = len(self.rows) // 2
        yield _Batch(self.version, self.rows[:middle])
        yield _Batch(self.version, self.rows[middle:])


@dataclass(frozen=True)
class _Promotion:
    target: AdapterFolder | str
    future: Future[PromotionReport]


@dataclass(frozen=True)
class _Pinning:
    targets: Sequence[AdapterFolder | str]
    future: Future[None]


class PolicyHost:
    """Serves one policy to many callers, and changes its live version under them.

    Every method may be called from any thread and returns at once; what takes time is answered
    through a future.
    """

    def __init__(
        self,
        factory: Callable[[], Policy],
        *,
        max_batch: int = 32,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`factory` builds the policy, on the serving thread; `max_batch` is in requests."""
        self._factory = factory
        self._clock = clock
        self._thread = threading.Thread(target=self._run, name="policy-host", daemon=True)
        self._stop = StopSignal()
        # Guards every attribute below; what it notifies of is work to do, or the wish to close.
        self._changed = threading.Condition()
        self._state = HostState.LOADING
        self._message = Message("the base model is loading")
        self._live: str | None = None
        self._previous: str | None = None
        self._loaded: tuple[str, ...] = ()
        self._pinned: frozenset[str] = frozenset()
        self._commands: deque[_Promotion | _Pinning] = deque()
        self._waiting: dict[Priority, deque[_Job]] = {priority: deque() for priority in Priority}
        self._max_batch = max_batch
        # Of the serving thread alone.
        self._known: dict[str, AdapterFolder] = {}
        self._proven: set[str] = set()

    def start(self) -> None:
        """Begin to load the base model in the background. Once only; returns at once."""
        self._thread.start()

    def status(self) -> HostStatus:
        """What the host is doing now."""
        with self._changed:
            return HostStatus(
                state=self._state,
                live_version=self._live,
                previous_version=self._previous,
                loaded_versions=self._loaded,
                message=self._message,
                queue_depth=sum(
                    len(job.requests) - job.taken for jobs in self._waiting.values() for job in jobs
                ),
            )

    def submit(
        self,
        requests: Sequence[GenerationRequest],
        *,
        version: str | None = None,
        priority: Priority = Priority.INTERACTIVE,
    ) -> Future[list[Generation]]:
        """Ask for completions, in the order of the requests, all of one version.

        `version` None means whichever is live when the first of them is dispatched. While the base
        loads, requests wait. Raises PolicyUnavailable after a failure or a close; the future may
        raise that too, BadInput for a prompt that does not fit, or NotFound for a version that is
        not loaded.
        """
        future: Future[list[Generation]] = Future()
        if not requests:
            future.set_result([])
            return future
        with self._changed:
            self._require_open()
            self._waiting[priority].append(_Job(list(requests), version, future))
            self._changed.notify()
        return future

    def promote(self, target: AdapterFolder | str) -> Future[PromotionReport]:
        """Make a version live: load it beside the others, let it prove itself, flip.

        `target` is an adapter, or the name of the base or of an adapter given before. An older one
        is a roll back, and is loaded again where it was dropped. Whatever fails leaves the live
        version as it was and is raised by the future: BadInput for an adapter that does not load or
        prove itself, Conflict for a known name with other content, NotFound for an unknown name.
        """
        future: Future[PromotionReport] = Future()
        self._command(_Promotion(target, future))
        return future

    def pin(self, targets: Sequence[AdapterFolder | str]) -> Future[None]:
        """Keep exactly these loaded, besides the base, the live version and the previous one.

        Replaces what was pinned before; loads what is not loaded. Errors as for `promote`.
        """
        future: Future[None] = Future()
        self._command(_Pinning(list(targets), future))
        return future

    def close(self, *, timeout_s: float = 30.0) -> None:
        """Stop the running batch at its next token and fail what waits. Idempotent."""
        with self._changed:
            if self._state is not HostState.FAILED:
                self._state = HostState.CLOSED
                self._message = Message("the policy is shut down")
            self._stop.set()
            self._changed.notify_all()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)
        self._fail_waiting()

    def _command(self, command: _Promotion | _Pinning) -> None:
        with self._changed:
            self._require_open()
            self._commands.append(command)
            self._changed.notify()

    def _require_open(self) -> None:
        if self._state in (HostState.FAILED, HostState.CLOSED):
            raise _unavailable(self._message)

    def _fail_waiting(self) -> None:
        with self._changed:
            error = _unavailable(self._message)
            commands = list(self._commands)
            jobs = [job for waiting in self._waiting.values() for job in waiting]
            self._commands.clear()
            for waiting in self._waiting.values():
                waiting.clear()
        for command in commands:
            _fail(command.future, error)
        for job in jobs:
            _fail(job.future, error)

    def _next_work(self) -> _Promotion | _Pinning | _Batch | None:
        """Wait for work; a command goes before any batch. None when the host is to close."""
        with self._changed:
            while self._state is HostState.READY:
                if self._commands:
                    return self._commands.popleft()
                batch = self._take_batch()
                if batch is not None:
                    return batch
                self._changed.wait()
            return None

    def _take_batch(self) -> _Batch | None:
        """Requests of one priority and one version off the queue, oldest job first.

        Priorities do not mix: a person would wait for the longest of the background's completions.
        """
        if self._live is None:
            return None
        for waiting in self._waiting.values():
            rows: list[_Row] = []
            version: str | None = None
            for job in list(waiting):
                wanted = job.version or self._live
                if len(rows) == self._max_batch or version not in (None, wanted):
                    continue
                if job.taken == 0 and not job.future.set_running_or_notify_cancel():
                    waiting.remove(job)
                    continue
                version = job.version = wanted
                end = min(job.taken + self._max_batch - len(rows), len(job.requests))
                rows += [_Row(job, index) for index in range(job.taken, end)]
                job.taken = end
                if end == len(job.requests):
                    waiting.remove(job)
            if version is not None:
                return _Batch(version, rows)
        return None

    def _run(self) -> None:
        try:
            policy = self._factory()
        except Exception as error:
            logger.exception("the base model could not be loaded")
            self._finish(
                Message("the base model could not be loaded: {error}", {"error": Message.of(error)})
            )
            return
        try:
            self._begin(policy)
            while (work := self._next_work()) is not None:
                self._do(policy, work)
        except Exception as error:
            logger.exception("the serving thread broke")
            self._finish(
                Message(
                    "serving stopped by an unexpected error ({error}); restart Whetstone",
                    {"error": Message.of(error)},
                )
            )
        else:
            self._fail_waiting()

    def _begin(self, policy: Policy) -> None:
        base = policy.base_version
        self._proven.add(base)
        with self._changed:
            self._live = base
            self._loaded = policy.loaded_versions
            if self._state is HostState.LOADING:
                self._state = HostState.READY
                self._message = _is_live(base)

    def _finish(self, message: Message) -> None:
        with self._changed:
            if self._state is not HostState.CLOSED:
                self._state = HostState.FAILED
                self._message = message
        self._fail_waiting()

    def _do(self, policy: Policy, work: _Promotion | _Pinning | _Batch) -> None:
        if isinstance(work, _Batch):
            self._answer(policy, work)
            self._drop_unused(policy)
        elif isinstance(work, _Promotion):
            self._promote(policy, work)
        else:
            self._pin(policy, work)

    def _promote(self, policy: Policy, command: _Promotion) -> None:
        if not command.future.set_running_or_notify_cancel():
            return
        try:
            report = self._go_live(policy, command.target)
        except Exception as error:
            version = _version_of(command.target)
            logger.exception("the promotion of %s failed", version)
            with self._changed:
                self._message = Message(
                    "the promotion of {version} failed: {error}; {live} is live",
                    {"version": version, "error": Message.of(error), "live": self._live},
                )
            self._drop_unused(policy)
            command.future.set_exception(error)
            return
        self._drop_unused(policy)
        command.future.set_result(report)

    def _go_live(self, policy: Policy, target: AdapterFolder | str) -> PromotionReport:
        started = self._clock()
        version = self._ensure_loaded(policy, target)
        loaded = self._clock()
        smoke = None
        if version not in self._proven:
            smoke = policy.smoke(version, reference=self._live)
            self._proven.add(version)
        with self._changed:
            if version != self._live:
                self._previous, self._live = self._live, version
            self._message = _is_live(version)
            previous = self._previous
        return PromotionReport(
            version=version,
            previous_version=previous,
            load_s=loaded - started,
            smoke_s=self._clock() - loaded,
            mean_kl=smoke.mean_kl if smoke else None,
            smoke_texts=smoke.texts if smoke else (),
        )

    def _pin(self, policy: Policy, command: _Pinning) -> None:
        if not command.future.set_running_or_notify_cancel():
            return
        try:
            pinned = frozenset(self._ensure_loaded(policy, target) for target in command.targets)
        except Exception as error:
            logger.exception("policies could not be pinned")
            self._drop_unused(policy)
            command.future.set_exception(error)
            return
        with self._changed:
            self._pinned = pinned
        self._drop_unused(policy)
        command.future.set_result(None)

    def _ensure_loaded(self, policy: Policy, target: AdapterFolder | str) -> str:
        """Load what is not loaded. A name stands for one content for as long as the host lives."""
        version = _version_of(target)
        known = self._known.get(version)
        if isinstance(target, AdapterFolder):
            if known is not None and known.sha256 != target.sha256:
                raise Conflict(
                    "the policy {version} was another adapter before (sha256 {sha256}); give "
                    "the new one a new name",
                    version=version,
                    sha256=known.sha256[:12],
                )
            adapter: AdapterFolder | None = target
        else:
            adapter = known
        if version in policy.loaded_versions:
            if isinstance(target, AdapterFolder) and known is None:
                raise Conflict(
                    "{version} is the base model's name; give the adapter another", version=version
                )
            return version
        if adapter is None:
            raise NotFound(
                "the policy {version} is not known here; give its adapter folder", version=version
            )
        policy.load(adapter)
        self._known[version] = adapter
        return version

    def _drop_unused(self, policy: Policy) -> None:
        with self._changed:
            wanted = {policy.base_version, self._live, self._previous} | self._pinned
            wanted |= {job.version for waiting in self._waiting.values() for job in waiting}
        for version in policy.loaded_versions:
            if version not in wanted:
                policy.drop(version)
        with self._changed:
            self._loaded = policy.loaded_versions

    def _answer(self, policy: Policy, batch: _Batch) -> None:
        try:
            self._generate(policy, batch)
        except MemoryError:
            logger.warning("no memory for a batch of %d; halving it", len(batch.rows))
            with self._changed:
                self._max_batch = max(1, len(batch.rows) // 2)
            for half in batch.split_in_half():
                self._answer_or_fail(policy, half)
        except BadInput as error:
            if len(batch.jobs) == 1:
                self._fail_batch(batch, error)
                return
            # One caller's prompt is at fault; the others who shared its batch are not.
            for part in batch.split_by_job():
                self._answer_or_fail(policy, part)
        except Exception as error:  # noqa: BLE001 - it goes to those who asked, and to the log
            self._fail_batch(batch, error)

    def _answer_or_fail(self, policy: Policy, batch: _Batch) -> None:
        try:
            self._generate(policy, batch)
        except Exception as error:  # noqa: BLE001 - it goes to those who asked, and to the log
            self._fail_batch(batch, error)

    def _generate(self, policy: Policy, batch: _Batch) -> None:
        rows = [row for row in batch.rows if not row.job.future.done()]
        if not rows:
            return
        generations = policy.generate(batch.version, [row.request for row in rows], stop=self._stop)
        for row, generation in zip(rows, generations, strict=True):
            row.job.generations[row.index] = generation
        for job in batch.jobs:
            done = [generation for generation in job.generations if generation is not None]
            if len(done) == len(job.requests) and not job.future.done():
                job.future.set_result(done)

    def _fail_batch(self, batch: _Batch, error: Exception) -> None:
        if isinstance(error, GenerationStopped):
            error = _unavailable(self.status().message)
        elif isinstance(error, MemoryError):
            error = PolicyUnavailable(
                "the device has no memory for {completions} completions at once; ask for fewer new "
                "tokens or a smaller batch",
                completions=len(batch.rows),
            )
        if not isinstance(error, BadInput):  # that one is the caller's to tell
            logger.warning("a batch of %s failed", batch.version, exc_info=error)
        with self._changed:
            for job in batch.jobs:
                for waiting in self._waiting.values():
                    if job in waiting:
                        waiting.remove(job)
        for job in batch.jobs:
            if not job.future.done():
                job.future.set_exception(error)


def _version_of(target: AdapterFolder | str) -> str:
    return target.version if isinstance(target, AdapterFolder) else target


def _fail(future: Future[Any], error: Exception) -> None:
    """Unless it was cancelled meanwhile, or has its answer."""
    if future.done():
        return
    if future.running() or future.set_running_or_notify_cancel():
        future.set_exception(error)


def _is_live(version: str) -> Message:
    return Message("{version} is live", {"version": version})


def _unavailable(message: Message) -> PolicyUnavailable:
    return PolicyUnavailable(message.template, **message.values)
