"""What an iteration learns from its experience: the two losses, minibatch by minibatch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from training.worker.job import StopRequest
from training.worker.ppo import formulas
from training.worker.ppo.learner import Learner
from training.worker.ppo.lora import sums_kept
from training.worker.ppo.model import POLICY, VALUE, SharedBase
from training.worker.ppo.processes import Processes
from training.worker.ppo.rollout import Experience


class Targets(NamedTuple):
    """What the losses aim at: (rows, completion)."""

    advantages: Tensor
    returns: Tensor


class PolicyStep(NamedTuple):
    """Means over a minibatch's tokens before its step, and the gradient's length.

    One that would have begun too far away was looked at, and not taken. `tokens` are those of its
    prompts and completions in this process.
    """

    loss: float
    clip_fraction: float
    approx_kl: float
    ratio: float
    grad_norm: float
    tokens: int
    is_taken: bool


class ValueStep(NamedTuple):
    """The same for the value function."""

    loss: float
    clip_fraction: float
    grad_norm: float
    tokens: int


@dataclass(frozen=True)
class Update:
    """One iteration's learning. Minibatches are lists of this process's rows.

    `approx_kl_limit` is the k2 estimate, per token, of the distance to the policy that drew the
    completions beyond which the policy takes no further step.
    """

    shared: SharedBase
    seen: Experience
    targets: Targets
    processes: Processes
    stop: StopRequest
    clip_range: float
    value_clip_range: float
    approx_kl_limit: float
    micro_batch_size: int

    def improve_policy(
        self, learner: Learner, minibatches: Sequence[Sequence[int]]
    ) -> list[PolicyStep]:
        """The steps of an epoch; the one that finds the policy too far away is the last."""
        steps = []
        with self.shared.learning(POLICY):
            for rows in minibatches:
                self.processes.check(self.stop)
                with sums_kept(self.shared.model):
                    _, *means = learner.differentiate(self._policy_parts(rows)).tolist()
                loss, clip_fraction, approx_kl, ratio = means
                is_too_far = approx_kl > self.approx_kl_limit
                norm = learner.clip() if is_too_far else learner.step()
                told = (loss, clip_fraction, approx_kl, ratio, norm, self._tokens(rows))
                steps.append(PolicyStep(*told, is_taken=not is_too_far))
                if is_too_far:
                    break
        return steps

    def improve_value(
        self, learner: Learner, minibatches: Sequence[Sequence[int]]
    ) -> list[ValueStep]:
        """The steps of an epoch."""
        steps = []
        with self.shared.learning(VALUE):
            for rows in minibatches:
                self.processes.check(self.stop)
                with sums_kept(self.shared.model):
                    _, loss, clip_fraction = learner.differentiate(self._value_parts(rows)).tolist()
                steps.append(ValueStep(loss, clip_fraction, learner.step(), self._tokens(rows)))
        return steps

    def _tokens(self, minibatch: Sequence[int]) -> int:
        return int(self.seen.tokens.attention[minibatch].sum())

    def _policy_parts(self, minibatch: Sequence[int]) -> Iterator[Tensor]:
        """Sums over each micro-batch's tokens: count, loss, clipped ones, approximate KL, ratio."""
        for rows in self.shared.batches(self.seen.tokens, minibatch, self.micro_batch_size):
            tokens = self.seen.tokens.rows(rows)
            old = _cut(self.seen.log_probs, rows, tokens.mask)
            log_probs = self.shared.policy_log_probs(tokens)
            loss, is_clipped = formulas.policy_loss(
                log_probs,
                old,
                _cut(self.targets.advantages, rows, tokens.mask),
                clip_range=self.clip_range,
            )
            seen = log_probs.detach()
            approx_kl, ratio = formulas.k2(old, seen), (seen - old).exp()
            yield _sums(tokens.mask, loss, is_clipped, approx_kl, ratio)

    def _value_parts(self, minibatch: Sequence[int]) -> Iterator[Tensor]:
        """Sums over each micro-batch's tokens: count, loss, clipped ones."""
        for rows in self.shared.batches(self.seen.tokens, minibatch, self.micro_batch_size):
            tokens = self.seen.tokens.rows(rows)
            loss, is_clipped = formulas.value_loss(
                self.shared.active_values(tokens),
                _cut(self.seen.values, rows, tokens.mask),
                _cut(self.targets.returns, rows, tokens.mask),
                clip_range=self.value_clip_range,
            )
            yield _sums(tokens.mask, loss, is_clipped)


def _cut(per_token: Tensor, rows: Sequence[int], mask: Tensor) -> Tensor:
    """Those rows, as wide as their own longest completion."""
    return per_token[rows, : mask.shape[1]]


def _sums(mask: Tensor, *per_token: Tensor) -> Tensor:
    return torch.stack([mask.sum(), *((values * mask).sum() for values in per_token)])
