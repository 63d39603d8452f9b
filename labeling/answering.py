"""Two completions of one prompt, written while somebody watches.

Owns the two sides, what is tried again and what is replaced, and how both are ended early. Knows
the policy host; knows no store, no conversation and no page.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import Any, NamedTuple

from store.errors import BadInput, NotFound, PolicyUnavailable, PromptTooLong
from store.records import Message
from training.messages import Message as Said
from training.policy import Generation, GenerationRequest, SamplingParams
from training.policy_host import PolicyHost
from training.streaming import Stream

log = logging.getLogger(__name__)

SEEDS = 2**31
MAX_TRIES = 3


class ProblemKind(StrEnum):
    """Why there will be no responses.

    TOO_LONG     the prompt has more tokens than the policy has room for
    REFUSED      the policy cannot take this prompt for another reason
    FAILED       a side failed every time
    UNAVAILABLE  no policy can answer now
    STOPPED      it was ended before both sides had a word
    REPLACED     the same person asked for something else meanwhile
    """

    TOO_LONG = "too_long"
    REFUSED = "refused"
    FAILED = "failed"
    UNAVAILABLE = "unavailable"
    STOPPED = "stopped"
    REPLACED = "replaced"


class Problem(NamedTuple):
    """Why there will be no responses, and what is known of it."""

    kind: ProblemKind
    text: Said = Said("")
    limit_tokens: int | None = None


class SideView(NamedTuple):
    """A side as its reader may see it. `again` counts how often it was begun anew."""

    text: str
    is_done: bool
    again: int


@dataclass(eq=False)
class _Side:
    version: str | None
    stream: Stream
    tries: int = 0
    generation: Generation | None = None
    futures: list[Future[list[Generation]]] = field(default_factory=list)

    @property
    def text(self) -> str:
        return self.stream.text if self.generation is None else self.generation.text


class Answering:
    """One prompt, two versions, the same sampling; sides count from 0 in the order displayed.

    A side that fails or stays empty is tried once more, then written by the live policy instead.
    `on_end` is called once, on the executor, when both sides are there or none will be.
    """

    def __init__(
        self,
        host: PolicyHost,
        messages: Sequence[Message],
        versions: Sequence[str | None],
        *,
        sampling: SamplingParams,
        rng: random.Random,
        executor: Executor,
        on_end: Callable[[], None],
    ) -> None:
        """`versions` are those of the sides; None means whichever is live."""
        self._host = host
        self._messages = tuple(messages)
        self._sampling = sampling
        self._rng = rng
        self._executor = executor
        self._on_end = on_end
        self._lock = threading.Lock()  # protects the sides and everything below
        self._sides = [_Side(version, Stream(self._notify)) for version in versions]
        self._listeners: set[Callable[[], None]] = set()
        self._problem: Problem | None = None
        self._is_stopping = False
        self.ended = threading.Event()

    def start(self) -> None:
        """Ask for both sides. Raises `PolicyUnavailable`."""
        sides = list(self._sides)
        # Two versions answer one after the other; which comes first must say nothing.
        self._rng.shuffle(sides)
        self._submit(sides)

    def stop(self) -> None:
        """End both sides at their next token; what is written stays."""
        with self._lock:
            self._is_stopping = True
            futures = [future for side in self._sides for future in side.futures]
            for side in self._sides:
                side.stream.stop.set()
        for future in futures:
            future.cancel()

    def drop(self, problem: Problem) -> None:
        """Stop, and be of no use any more: the reader is told why."""
        self._end(problem)
        self.stop()

    @property
    def problem(self) -> Problem | None:
        """Why there are no responses, once it has ended without."""
        return self._problem

    @property
    def generations(self) -> list[Generation]:
        """Both, once it has ended well."""
        return [side.generation for side in self._sides if side.generation is not None]

    def views(self) -> list[SideView]:
        """Both sides as they stand."""
        with self._lock:
            return [SideView(s.text, s.generation is not None, s.tries) for s in self._sides]

    def listen(self, listener: Callable[[], None]) -> None:
        """`listener` is called, on any thread, whenever there is more to see."""
        with self._lock:
            self._listeners.add(listener)

    def leave(self, listener: Callable[[], None]) -> None:
        """The opposite of `listen`."""
        with self._lock:
            self._listeners.discard(listener)

    @property
    def has_listeners(self) -> bool:
        """Whether anybody watches."""
        with self._lock:
            return bool(self._listeners)

    def notify(self) -> None:
        """Have every listener look again."""
        self._notify()

    def _notify(self) -> None:
        for listener in list(self._listeners):
            listener()

    def _submit(self, sides: Sequence[_Side]) -> None:
        """One job for the sides of one version, so that they are written together."""
        for version in dict.fromkeys(side.version for side in sides):
            together = [side for side in sides if side.version == version]
            requests = [
                GenerationRequest(
                    self._messages, self._sampling, self._rng.randrange(SEEDS), side.stream
                )
                for side in together
            ]
            future = self._host.submit(requests, version=version)
            with self._lock:
                for side in together:
                    side.futures.append(future)
                is_stopping = self._is_stopping
            if is_stopping:
                future.cancel()
            future.add_done_callback(partial(self._hand_over, together))

    def _hand_over(self, sides: Sequence[_Side], done: Future[list[Generation]]) -> None:
        """Off the serving thread, which has others to serve."""
        try:
            self._executor.submit(self._take, sides, done)
        except RuntimeError:  # the application is closing
            self._end(Problem(ProblemKind.UNAVAILABLE, Said("Whetstone is shutting down.")))

    def _take(self, sides: Sequence[_Side], done: Future[list[Generation]]) -> None:
        if self.ended.is_set():
            return
        try:
            failed = self._failed(sides, done)
        except PromptTooLong as error:
            self._end(Problem(ProblemKind.TOO_LONG, limit_tokens=error.limit_tokens))
            return
        except BadInput as error:
            self._end(Problem(ProblemKind.REFUSED, Said.of(error)))
            return
        except PolicyUnavailable as error:
            self._end(Problem(ProblemKind.UNAVAILABLE, Said.of(error)))
            return
        if failed:
            self._try_again(failed, is_gone=isinstance(_error(done), NotFound))
        elif all(side.generation is not None for side in self._sides):
            self._end(None)
        self._notify()

    def _failed(self, sides: Sequence[_Side], done: Future[list[Generation]]) -> list[_Side]:
        """Keep what was written; which sides have nothing. Raises what another try cannot mend."""
        error = _error(done)
        if isinstance(error, (BadInput, PolicyUnavailable)):
            raise error
        if done.cancelled() or error is not None:
            return list(sides)
        with self._lock:
            for side, generation in zip(sides, done.result(), strict=True):
                if generation.text.strip():
                    side.generation = generation
        return [side for side in sides if side.generation is None]

    def _try_again(self, failed: Sequence[_Side], *, is_gone: bool) -> None:
        with self._lock:
            if self._is_stopping:
                problem = Problem(ProblemKind.STOPPED)
            elif any(side.tries + 1 >= MAX_TRIES for side in failed):
                problem = Problem(ProblemKind.FAILED)
            else:
                problem = None
                for side in failed:
                    side.tries += 1
                    side.stream = Stream(self._notify)
                    if is_gone or side.tries == MAX_TRIES - 1:
                        side.version = None
        if problem is not None:
            self._end(problem)
            return
        log.warning("%d of two responses are written again", len(failed))
        try:
            self._submit(failed)
        except PolicyUnavailable as error:
            self._end(Problem(ProblemKind.UNAVAILABLE, Said.of(error)))

    def _end(self, problem: Problem | None) -> None:
        with self._lock:
            if self.ended.is_set():
                return
            self._problem = problem
            self.ended.set()
        if problem is not None:
            self.stop()
        self._on_end()
        self._notify()


def _error(done: Future[Any]) -> BaseException | None:
    return None if done.cancelled() else done.exception()
