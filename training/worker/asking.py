"""The policy before and after training, asked the prompts that nobody trained on.

Both answer each prompt once, with the same seed, by plain sampling. Measures nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from transformers import PreTrainedTokenizerBase

from training.artefacts import Response
from training.generation import FinishReason, GenerationStopped, Output, Request, generate
from training.loading import PromptRejected, context_length, render_prompt
from training.measurements import ANSWERED_ALONE
from training.worker.data import read_eval_prompts
from training.worker.evaluate import Scored
from training.worker.failures import Cancelled
from training.worker.job import Job, StopRequest
from training.worker.models import Trainee


class Asking(Protocol):
    """How many test prompts are asked, and how long a response may be, in tokens."""

    @property
    def eval_generations(self) -> int:
        """Prompts."""

    @property
    def sample_tokens(self) -> int:
        """Tokens."""


class Answers(NamedTuple):
    """What both policies answered to the same prompts, row by row, and how long each took: to all
    of them together, and to each of the first few alone."""

    prompts: Sequence[Mapping[str, Any]]
    requests: Sequence[Request]
    before: Sequence[Output]
    after: Sequence[Output]
    before_s: float
    after_s: float
    before_alone_s: Sequence[float]
    after_alone_s: Sequence[float]

    def only(self, places: Sequence[int]) -> Answers:
        """What was answered to some of the prompts."""
        return self._replace(
            prompts=[self.prompts[place] for place in places],
            requests=[self.requests[place] for place in places],
            before=[self.before[place] for place in places],
            after=[self.after[place] for place in places],
        )

    def rows(self, outputs: Sequence[Output]) -> list[Scored]:
        """The prompts with `before` or `after` behind them, as token ids."""
        return [
            Scored([*request.token_ids, *output.token_ids], len(request.token_ids))
            for request, output in zip(self.requests, outputs, strict=True)
        ]


def ask_held_out(job: Job, asking: Asking, trainee: Trainee) -> Answers | None:
    """Both policies' answers to the run's test prompts; None where there are none."""
    return answer(
        trainee,
        read_eval_prompts(job.run_dir.path / job.spec.eval_prompts)[: asking.eval_generations],
        max_new_tokens=asking.sample_tokens,
        seed=job.spec.seed,
        stop=job.stop,
    )


def answer(
    trainee: Trainee,
    prompts: Sequence[Mapping[str, Any]],
    *,
    max_new_tokens: int,
    seed: int,
    stop: StopRequest,
) -> Answers | None:
    """Let both policies answer, by plain sampling: any filter would make the KL estimates wrong."""
    model, tokenizer = trainee.model, trainee.tokenizer
    asked = to_ask(trainee, prompts, max_new_tokens=max_new_tokens, seed=seed)
    if not asked:
        return None
    requests = [request for _, request in asked]
    alone = [[request] for request in requests[:ANSWERED_ALONE]]
    after, after_s = _timed(model, tokenizer, requests, stop)
    after_alone_s = [_timed(model, tokenizer, one, stop).took_s for one in alone]
    with trainee.reference() as frozen:
        before, before_s = _timed(frozen, tokenizer, requests, stop)
        before_alone_s = [_timed(frozen, tokenizer, one, stop).took_s for one in alone]
    prompts = [prompt for prompt, _ in asked]
    times = (before_s, after_s, before_alone_s, after_alone_s)
    return Answers(prompts, requests, before, after, *times)


class _Timed(NamedTuple):
    outputs: list[Output]
    took_s: float


def _timed(
    model: Any, tokenizer: PreTrainedTokenizerBase, requests: Sequence[Request], stop: StopRequest
) -> _Timed:
    began = time.monotonic()
    return _Timed(respond(model, tokenizer, requests, stop), time.monotonic() - began)


def to_ask(
    trainee: Trainee, prompts: Sequence[Mapping[str, Any]], *, max_new_tokens: int, seed: int
) -> list[tuple[Mapping[str, Any], Request]]:
    """The prompts that leave room for a response, each with the request for one."""
    context = context_length(trainee.model)
    renderable = _renderable(trainee.tokenizer, prompts, context, max_new_tokens)
    return [
        (prompt, Request(ids, max_new_tokens, seed=seed + number))
        for number, (prompt, ids) in enumerate(renderable)
    ]


def respond(
    model: Any, tokenizer: PreTrainedTokenizerBase, requests: Sequence[Request], stop: StopRequest
) -> list[Output]:
    """What one model writes. Raises `Cancelled` when asked to stop."""
    try:
        return generate(model, tokenizer, requests, stop=stop.signal)
    except GenerationStopped:
        raise Cancelled from None


def responses(outputs: Sequence[Output]) -> list[Response]:
    """Outputs as texts that the policy ended by itself, or did not."""
    return [Response(o.text, o.finish_reason is FinishReason.STOP) for o in outputs]


def _renderable(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Mapping[str, Any]],
    context: int | None,
    max_new_tokens: int,
) -> Iterator[tuple[Mapping[str, Any], list[int]]]:
    room = None if context is None else max(1, context - max_new_tokens)
    for prompt in prompts:
        try:
            yield prompt, render_prompt(tokenizer, prompt["messages"], max_tokens=room)
        except PromptRejected:
            continue
