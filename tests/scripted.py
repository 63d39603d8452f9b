"""A policy that says what a test tells it to: no model, real threads."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from store.errors import BadInput, NotFound, PromptTooLong
from training.generation import FinishReason, GenerationStopped, StopSignal
from training.policy import AdapterFolder, Generation, GenerationRequest, SmokeReport

TIMEOUT_S = 20.0


class Batch(NamedTuple):
    version: str
    seeds: list[int]


class ScriptedPolicy:
    """Answers `version:seed`, holds where a test tells it to, fails for the names it is given.

    `too_long` are prompts that it refuses; `text` makes every answer the same, `answer` makes it of
    version and seed; `gate` holds the serving thread while it is cleared. A streamed request gets
    its answer word by word, and with `is_stepwise` a word only for each `step`.
    """

    def __init__(self, *, base_version: str = "base") -> None:
        self.base_version = base_version
        self.text: str | None = None
        self.answer: Callable[[str, int], str] = lambda version, seed: f"{version}:{seed}"
        self.batches: list[Batch] = []
        self.loads: list[str] = []
        self.smoked: list[tuple[str, str | None]] = []
        self.entered = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()
        self.unloadable: set[str] = set()
        self.degenerate: set[str] = set()
        self.failing_seeds: dict[int, Exception] = {}
        self.too_long: set[str] = set()
        self.memory_rows = 1000
        self.is_stepwise = False
        self._steps = threading.Semaphore(0)
        self._loaded: dict[str, str | None] = {base_version: None}

    @property
    def loaded_versions(self) -> tuple[str, ...]:
        return tuple(self._loaded)

    def load(self, adapter: AdapterFolder) -> None:
        if adapter.version in self.unloadable:
            raise BadInput(f"{adapter.version} does not load")
        self.loads.append(adapter.version)
        self._loaded[adapter.version] = adapter.sha256

    def drop(self, version: str) -> None:
        del self._loaded[version]

    def generate(
        self, version: str, requests: Sequence[GenerationRequest], *, stop: StopSignal | None = None
    ) -> list[Generation]:
        if version not in self._loaded:
            raise NotFound(f"{version} is not loaded")
        if len(requests) > self.memory_rows:
            raise MemoryError
        self.batches.append(Batch(version, [request.seed for request in requests]))
        self.entered.release()
        while not self.gate.wait(0.01):
            if stop is not None and stop.is_set():
                raise GenerationStopped("stopped")
        for request in requests:
            if request.messages[-1]["content"] in self.too_long:
                raise PromptTooLong("the prompt has too many tokens", limit_tokens=512)
            if request.seed in self.failing_seeds:
                raise self.failing_seeds[request.seed]
        said = [
            self._say(self._answer(version, request.seed), request, stop) for request in requests
        ]
        return [
            Generation(
                text=text,
                policy_version=version,
                adapter_sha256=self._loaded[version],
                sampling=request.sampling,
                seed=request.seed,
                finish_reason=finish_reason,
                token_count=1,
            )
            for request, (text, finish_reason) in zip(requests, said, strict=True)
        ]

    def _answer(self, version: str, seed: int) -> str:
        return self.text or self.answer(version, seed)

    def step(self, words: int = 1) -> None:
        """Let every streamed request of the batch have that many more words."""
        for _ in range(words):
            self._steps.release()

    def _say(
        self, answer: str, request: GenerationRequest, stop: StopSignal | None
    ) -> tuple[str, FinishReason]:
        """The words that were wanted."""
        stream = request.stream
        if stream is None:
            return answer, FinishReason.STOP
        stream.begin()
        for word in re.findall(r"\s*\S+", answer):
            while self.is_stepwise and not self._steps.acquire(timeout=0.01):
                if stream.stop.is_set():
                    break
                if stop is not None and stop.is_set():
                    raise GenerationStopped("stopped")
            if stream.stop.is_set():
                return stream.text, FinishReason.STOPPED
            stream.add(word)
        return answer, FinishReason.STOP

    def smoke(self, version: str, *, reference: str | None = None) -> SmokeReport:
        if version in self.degenerate:
            raise BadInput(f"{version} says nothing")
        self.smoked.append((version, reference))
        return SmokeReport(version, ("hello",), 0.5)


def wait_until(holds: Callable[[], bool], *, timeout_s: float = TIMEOUT_S) -> None:
    """Look every few milliseconds until it holds. Raises AssertionError if it never does."""
    pause = threading.Event()
    for _ in range(int(timeout_s / 0.005)):
        if holds():
            return
        pause.wait(0.005)
    raise AssertionError(f"still not so after {timeout_s} s")
