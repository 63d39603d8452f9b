"""The over-optimisation watch while a policy learns: what a second reward model makes of it.

Every few iterations the policy answers the run's test prompts, always with the same random numbers;
the reward model and the second one score those that ended. It tells what it sees, and stops
nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean, stdev
from typing import Any, NamedTuple

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.events import EventKind, EventReader
from training.generation import FinishReason, GenerationStopped, Request, generate
from training.overoptimization import Alarm, Look, alarm, looks, reshaped, unjudged
from training.worker import evaluate, scoring
from training.worker.asking import Asking, to_ask
from training.worker.data import read_eval_prompts
from training.worker.evaluate import Scored
from training.worker.failures import Cancelled
from training.worker.job import Job
from training.worker.models import Trainee
from training.worker.rewards import Rewarder
from training.worker.scoring import RewardModel, Score


class Judges(NamedTuple):
    """What scores by the reward model that is learned from, and by the second one."""

    proxy: Score
    watch: Score


class Watch:
    """Looks at the policy in training, and tells what it sees as events."""

    def __init__(
        self, job: Job, trainee: Trainee, judges: Judges, *, every: int, asking: Asking
    ) -> None:
        """`every` is in iterations; the responses are those that `asking` says."""
        self._job = job
        self._trainee = trainee
        self._judges = judges
        self._every = every
        self._requests = _requests(job, trainee, asking)
        # What was seen before an interruption is still true, and a caution is given once.
        self._seen = looks(EventReader(job.run_dir.events_path).read())

    def follow(self, step: int, *, is_last: bool = False) -> None:
        """Look at the policy after this iteration, if its turn has come. Raises `Cancelled`."""
        if self._requests and (is_last or step % self._every == 0):
            self._tell(self._look(step))

    def _look(self, step: int) -> Look:
        model, tokenizer = self._trainee.model, self._trainee.tokenizer
        try:
            outputs = generate(model, tokenizer, self._requests, stop=self._job.stop.signal)
        except GenerationStopped:
            raise Cancelled from None
        rows = [
            Scored([*request.token_ids, *output.token_ids], len(request.token_ids))
            for request, output in zip(self._requests, outputs, strict=True)
        ]
        kl, _ = evaluate.mean_kl(self._trainee, rows, self._job.stop)
        # Scores read in the middle of a text stray by many standard deviations.
        drawn = list(zip(self._requests, outputs, strict=True))
        judged = [(r, o) for r, o in drawn if o.finish_reason is FinishReason.STOP] or drawn
        prompts = [request.token_ids for request, _ in judged]
        completions = [output.token_ids for _, output in judged]
        return Look(
            step,
            kl,
            *_mean_with_error(self._judges.proxy(prompts, completions)),
            *_mean_with_error(self._judges.watch(prompts, completions)),
            *_mean_with_error([output.token_count for output in outputs]),
        )

    def _tell(self, look: Look) -> None:
        before = self._seen
        self._seen = [*(seen for seen in before if seen.step < look.step), look]
        self._job.events.write(EventKind.METRICS, **look._asdict())
        if found := alarm(self._seen):
            if not alarm(before):
                self._warn_of_parting(found, look)
        elif unjudged(self._seen) and not _was_seen(_unjudged_alone, before):
            self._job.warn(
                "The average response scores {reward:.2f} standard deviations above those that "
                "people judged. What the reward model says of such responses is a guess.",
                reward=look.proxy_reward,
            )
        if reshaped(self._seen) and not _was_seen(reshaped, before):
            self._warn_of_length(self._seen[0], look)

    def _warn_of_parting(self, found: Alarm, look: Look) -> None:
        self._job.warn(
            "The reward is being exploited: since step {step} it has risen from {low:.2f} to "
            "{high:.2f}, while the second reward model's fell from {peak:.2f} to {now:.2f}.",
            step=found.peak.step,
            low=found.peak.proxy_reward,
            high=look.proxy_reward,
            peak=found.peak.watch_reward,
            now=look.watch_reward,
        )

    def _warn_of_length(self, first: Look, look: Look) -> None:
        before, now = first.held_out_length, look.held_out_length
        self._job.warn(
            "Responses became much shorter: {now:.0f} tokens instead of {before:.0f}. A reward "
            "model's liking for short ones is easily exploited: read some before you go on."
            if now < before
            else "Responses became much longer: {now:.0f} tokens instead of {before:.0f}. A reward "
            "model's liking for long ones is easily exploited: read some before you go on.",
            before=before,
            now=now,
        )


def _was_seen(sign: Callable[[Sequence[Look]], object], seen: Sequence[Look]) -> bool:
    """After any of the looks."""
    return any(sign(seen[: count + 1]) for count in range(len(seen)))


def _unjudged_alone(seen: Sequence[Look]) -> bool:
    return bool(unjudged(seen) and not alarm(seen))


class Looking(TrainerCallback):  # type: ignore[misc]  # the library has no types
    """Lets a watch look at the policy between optimiser steps."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def on_train_begin(
        self,
        _: TrainingArguments,
        state: TrainerState,
        __: TrainerControl,
        *,
        model: Any,
        **___: Any,
    ) -> None:
        """At the policy as it starts, unless this goes on from a checkpoint."""
        if state.global_step == 0:
            self._look(model, 0, is_last=False)

    def on_step_end(
        self,
        _: TrainingArguments,
        state: TrainerState,
        __: TrainerControl,
        *,
        model: Any,
        **___: Any,
    ) -> None:
        """At what a step has made of it."""
        self._look(model, state.global_step, is_last=state.global_step >= state.max_steps)

    def _look(self, model: Any, step: int, *, is_last: bool) -> None:
        was_training = model.training
        model.eval()
        try:
            self._watch.follow(step, is_last=is_last)
        finally:
            model.train(was_training)


def looking(
    job: Job, trainee: Trainee, rewarder: Rewarder, *, every: int, asking: Asking
) -> Looking | None:
    """What looks after each `every` optimiser steps of a library's trainer; every 0 never does.

    None without a second reward model, and in processes that only compute. Raises `ModelUnusable`.
    """
    second = load_second(job, rewarder) if every and job.is_main else None
    if second is None:
        return None
    judges = Judges(rewarder.model.score, second.score)
    return Looking(Watch(job, trainee, judges, every=every, asking=asking))


def load_second(job: Job, rewarder: Rewarder) -> RewardModel | None:
    """The second reward model beside the one that is learned from.

    None where the run was given none, and where the device has no memory for it, which it tells.
    Raises `ModelUnusable`.
    """
    if job.spec.watch_model is None:
        return None
    try:
        return scoring.load_second(rewarder.model, job.spec.base_model, job.spec.watch_model)
    except torch.OutOfMemoryError:
        job.warn(
            "The device has no memory for the second reward model, which watches for "
            "over-optimisation. The run goes on without."
        )
        return None


def _requests(job: Job, trainee: Trainee, asking: Asking) -> list[Request]:
    prompts = read_eval_prompts(job.run_dir.path / job.spec.eval_prompts)
    asked = to_ask(
        trainee,
        prompts[: asking.eval_generations],
        max_new_tokens=asking.sample_tokens,
        seed=job.spec.seed,
    )
    return [request for _, request in asked]


def _mean_with_error(scores: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error; that of a single score is not known, and taken for 0."""
    error = stdev(scores) / math.sqrt(len(scores)) if len(scores) > 1 else 0.0
    return fmean(scores), error
