"""What a reward model's scores make of the policy's own responses: the rewards it learns from.

Everything here is about token ids just as they were drawn. Text that is tokenised anew may lack the
token that ends a turn, which a reward model reads too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from training.loading import stop_token_ids
from training.methods.trainer_options import TuningOptions
from training.worker import answers, scoring
from training.worker.failures import ModelUnusable
from training.worker.job import Job
from training.worker.models import Loaded, Trainee
from training.worker.scoring import RewardModel


class Rewarded(NamedTuple):
    """What responses are worth, in standard deviations of the reward model's scores.

    `rewards` are the `scores`, less a penalty for responses that have not `ended` by themselves.
    """

    scores: list[float]
    ended: list[bool]
    rewards: list[float]


class Rewarder:
    """Scores completions, and punishes those without an end."""

    def __init__(
        self, model: RewardModel, stop_ids: Sequence[int], *, missing_eos_penalty: float
    ) -> None:
        self.model = model
        self._stop_ids = frozenset(stop_ids)
        self._penalty = missing_eos_penalty

    def by(self, model: RewardModel) -> Rewarder:
        """The same for another reward model."""
        return Rewarder(model, tuple(self._stop_ids), missing_eos_penalty=self._penalty)

    def reward(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
    ) -> Rewarded:
        """One of each a row, from the token ids of prompts and of completions, stop token included.

        A completion that ended by itself has a stop token last. Raises `ModelUnusable`.
        """
        scores = self.score(prompts, completions)
        ended = [completion[-1] in self._stop_ids for completion in completions]
        penalties = (0.0 if has_ended else self._penalty for has_ended in ended)
        return Rewarded(scores, ended, [s - p for s, p in zip(scores, penalties, strict=True)])

    def score(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
    ) -> list[float]:
        """What the reward model says, without the penalty. Raises `ModelUnusable`."""
        scores = self.model.score(prompts, completions)
        if not all(map(math.isfinite, scores)):
            raise ModelUnusable("The reward model's score of a response is no number.")
        return scores


def load(job: Job, loaded: Loaded, *, missing_eos_penalty: float) -> Rewarder:
    """The reward model that the run was given. Raises `ModelUnusable`."""
    assert job.spec.reward_model is not None  # a spec without one is refused
    model = scoring.load_reward_model(job.spec.base_model, job.spec.reward_model)
    stop_ids = stop_token_ids(loaded.tokenizer, loaded.model)
    return Rewarder(model, stop_ids, missing_eos_penalty=missing_eos_penalty)


def answer_held_out(
    job: Job, options: TuningOptions, trainee: Trainee, rewarder: Rewarder
) -> dict[str, Any]:
    """Both policies on the run's test prompts, told and scored, for the report."""
    return answers.score_held_out(job, options, trainee, rewarder.score)
