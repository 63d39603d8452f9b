"""Did the policy get better? What the old and the new one write to prompts nobody trained on.

Both answer each prompt once, with the same seed, and all is measured on that. Nothing here says
whether people prefer the new policy: only a blind comparison does.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any, NamedTuple, Protocol

from transformers import PreTrainedTokenizerBase

from training import artefacts
from training.artefacts import Response
from training.events import EventKind
from training.generation import FinishReason, Output, Request, generate
from training.loading import PromptRejected, context_length, render_prompt
from training.proportions import WinRate, wilson_interval, win_rate
from training.worker import evaluate, following, forgetting, scoring
from training.worker.data import read_eval_prompts
from training.worker.evaluate import Scored
from training.worker.job import Job, StopRequest
from training.worker.models import Trainee

SIDE_BY_SIDE = 12
# Standard deviations of the reward model's scores: a difference that people would notice.
CLEARLY = 1.0


class Asking(Protocol):
    """How many test prompts are asked, and how long a response may be, in tokens."""

    @property
    def eval_generations(self) -> int:
        """Prompts."""

    @property
    def sample_tokens(self) -> int:
        """Tokens."""


class Answers(NamedTuple):
    """What both policies answered to the same prompts, row by row, and how long each took."""

    prompts: Sequence[Mapping[str, Any]]
    requests: Sequence[Request]
    before: Sequence[Output]
    after: Sequence[Output]
    before_s: float
    after_s: float

    def rows(self, outputs: Sequence[Output]) -> list[Scored]:
        """The prompts with `before` or `after` behind them, as token ids."""
        return [
            Scored([*request.token_ids, *output.token_ids], len(request.token_ids))
            for request, output in zip(self.requests, outputs, strict=True)
        ]


@dataclass(frozen=True)
class GenerationReport:
    """Responses of the old and the new policy to the same prompts, with the same seeds.

    Lengths are in tokens. `kl_k1` and `kl_k3` estimate KL(new || old) per response, in nats, on the
    new policy's own samples. `ended_*` is the share of responses that the policy ended by itself;
    `tokens_per_s_*` the speed at which a batch was written. `samples` are the first few prompts
    with both responses.
    """

    prompts: int
    length_before: float
    length_after: float
    ended_before: float
    ended_after: float
    tokens_per_s_before: float
    tokens_per_s_after: float
    kl_k1: float
    kl_k3: float
    samples: Sequence[Mapping[str, Any]]


class Regressions(NamedTuple):
    """Share of prompts that the new policy answers clearly worse, with its 95 % Wilson interval.

    `by` says who found so: `reward_model`, by more than `CLEARLY`, or `text`: the response does not
    end or goes round in circles, and the one before did not.
    """

    share: float
    low: float
    high: float
    by: str


class Scores(NamedTuple):
    """A reward model's standardised scores of both policies' answers, row by row."""

    before: Sequence[float]
    after: Sequence[float]


class Score(Protocol):
    """A reward model that is in memory already."""

    def __call__(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
    ) -> Sequence[float]:
        """Standardised, one a row, from the token ids."""


def answer_held_out(job: Job, asking: Asking, trainee: Trainee) -> dict[str, Any]:
    """Both policies on the run's test prompts: told as events, and for the report.

    A reward model that the run knows is loaded to judge them. Raises `ModelUnusable`.
    """
    answered = ask_held_out(job, asking, trainee)
    if answered is None:
        return {"generations": None}
    return tell_answers(job, trainee, answered, judge(job, trainee, answered))


def score_held_out(job: Job, asking: Asking, trainee: Trainee, score: Score) -> dict[str, Any]:
    """The same with the mean scores, by the reward model that the run has learned from."""
    answered = ask_held_out(job, asking, trainee)
    if answered is None:
        return {"reward": None, "generations": None}
    prompts = [request.token_ids for request in answered.requests]
    before, after = (
        score(prompts, [output.token_ids for output in outputs])
        for outputs in (answered.before, answered.after)
    )
    told = tell_answers(job, trainee, answered, Scores(before, after))
    return {"reward": {"before": fmean(before), "after": fmean(after)}, **told}


def ask_held_out(job: Job, asking: Asking, trainee: Trainee) -> Answers | None:
    """Both policies' answers to the run's test prompts; None where there are none."""
    return answer(
        trainee,
        read_eval_prompts(job.run_dir.path / job.spec.eval_prompts)[: asking.eval_generations],
        max_new_tokens=asking.sample_tokens,
        seed=job.spec.seed,
        stop=job.stop,
    )


def tell_answers(
    job: Job, trainee: Trainee, answers: Answers, scores: Scores | None
) -> dict[str, Any]:
    """What has changed: samples told as events, all of it for the report."""
    compared = compare_answers(trainee, answers, job.stop)
    for sample in compared.samples:
        job.events.write(EventKind.SAMPLE, **sample)
    before, after = responses(answers.before), responses(answers.after)
    followed = following.compare(job, answers.prompts, before, after)
    forgotten = forgetting.measure(job, trainee, answers.rows(answers.before))
    return {
        "generations": asdict(compared),
        "artefacts": [asdict(change) for change in artefacts.compare(before, after)],
        "instructions": followed._asdict() if followed else None,
        **_compared_by(scores, before, after),
        "forgetting": forgotten._asdict() if forgotten else None,
    }


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
    after, after_s = _timed(model, tokenizer, requests, stop)
    with trainee.reference() as frozen:
        before, before_s = _timed(frozen, tokenizer, requests, stop)
    return Answers([prompt for prompt, _ in asked], requests, before, after, before_s, after_s)


def to_ask(
    trainee: Trainee, prompts: Sequence[Mapping[str, Any]], *, max_new_tokens: int, seed: int
) -> list[tuple[Mapping[str, Any], Request]]:
    """The prompts that leave room for a response, each with the request for one."""
    renderable = _renderable(trainee, prompts, max_new_tokens)
    return [
        (prompt, Request(ids, max_new_tokens, seed=seed + number))
        for number, (prompt, ids) in enumerate(renderable)
    ]


def compare_answers(trainee: Trainee, answers: Answers, stop: StopRequest) -> GenerationReport:
    """Lengths, ends, speed and distance of both policies, and responses side by side."""
    before, after = answers.before, answers.after
    k1, k3 = evaluate.mean_kl(trainee, answers.rows(after), stop)
    samples = [
        {"messages": prompt["messages"], "before": old.text, "after": new.text}
        for prompt, old, new in zip(answers.prompts, before, after, strict=True)
    ]
    return GenerationReport(
        prompts=len(answers.prompts),
        length_before=fmean(o.token_count for o in before),
        length_after=fmean(o.token_count for o in after),
        ended_before=fmean(o.finish_reason is FinishReason.STOP for o in before),
        ended_after=fmean(o.finish_reason is FinishReason.STOP for o in after),
        tokens_per_s_before=sum(o.token_count for o in before) / answers.before_s,
        tokens_per_s_after=sum(o.token_count for o in after) / answers.after_s,
        kl_k1=k1,
        kl_k3=k3,
        samples=samples[:SIDE_BY_SIDE],
    )


def responses(outputs: Sequence[Output]) -> list[Response]:
    """Outputs as texts that the policy ended by itself, or did not."""
    return [Response(o.text, o.finish_reason is FinishReason.STOP) for o in outputs]


def won(before: Sequence[float], after: Sequence[float]) -> WinRate:
    """How often the new policy's response has the higher score; equal scores are draws."""
    pairs = list(zip(before, after, strict=True))
    wins = sum(new > old for old, new in pairs)
    losses = sum(new < old for old, new in pairs)
    return win_rate(wins, losses, len(pairs) - wins - losses)


def regressed(worse: Sequence[bool], by: str) -> Regressions:
    """The share of `worse`, one for each prompt."""
    low, high = wilson_interval(sum(worse), len(worse))
    return Regressions(fmean(worse), low, high, by)


def judge(job: Job, trainee: Trainee, answers: Answers) -> Scores | None:
    """What a reward model says of both, where the run knows one. Raises `ModelUnusable`."""
    if job.spec.reward_model is None:
        return None
    model = scoring.load_reward_model(job.spec.base_model, job.spec.reward_model, trainee.tokenizer)
    before, after = (
        model.score([row.ids for row in answers.rows(outputs)])
        for outputs in (answers.before, answers.after)
    )
    return Scores(before, after)


def _compared_by(
    scores: Scores | None, before: Sequence[Response], after: Sequence[Response]
) -> dict[str, Any]:
    """Who wins, and on which prompts the new policy is worse; without scores only the latter."""
    if scores is None:
        pairs = zip(before, after, strict=True)
        worse = [artefacts.is_broken(new) and not artefacts.is_broken(old) for old, new in pairs]
        return {"win_rate": None, "regressions": regressed(worse, "text")._asdict()}
    worse = [new < old - CLEARLY for old, new in zip(*scores, strict=True)]
    return {
        "win_rate": won(*scores)._asdict(),
        "regressions": regressed(worse, "reward_model")._asdict(),
    }


def _timed(
    model: Any, tokenizer: PreTrainedTokenizerBase, requests: Sequence[Request], stop: StopRequest
) -> tuple[list[Output], float]:
    began = time.monotonic()
    outputs = generate(model, tokenizer, requests, stop=stop.signal)
    stop.check()
    return outputs, time.monotonic() - began


def _renderable(
    trainee: Trainee, prompts: Sequence[Mapping[str, Any]], max_new_tokens: int
) -> Iterator[tuple[Mapping[str, Any], list[int]]]:
    context = context_length(trainee.model)
    room = None if context is None else max(1, context - max_new_tokens)
    for prompt in prompts:
        try:
            yield prompt, render_prompt(trainee.tokenizer, prompt["messages"], max_tokens=room)
        except PromptRejected:
            continue
