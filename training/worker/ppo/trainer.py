"""Proximal Policy Optimisation (Schulman et al. 2017) as Ziegler et al. 2019 apply it to text.

An iteration draws completions, scores them, and learns from them for a few epochs. In each epoch
the policy takes all of its steps before the value function takes any: their losses share no
weights, and no graph may be alive while the active adapter changes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from training.methods.ppo import PPOOptions
from training.options import SpecError
from training.worker.job import StopRequest
from training.worker.ppo import formulas
from training.worker.ppo.learner import Learner
from training.worker.ppo.processes import Processes
from training.worker.ppo.rollout import Collector, Experience
from training.worker.ppo.update import PolicyStep, Targets, Update, ValueStep


@dataclass(frozen=True)
class Metrics:
    """What one iteration saw and did; means over the completions of all processes.

    `score` is the scorer's own, `reward` what is left of it after the penalty for no end; `kl` and
    `kl_k3` estimate KL(policy || reference) per completion, in nats; `kl_penalty` is kl_coef * kl,
    and `objective` reward - kl_penalty, the negative of what is often written as the loss.
    `first_ratio` is policy / old policy before any step: 1 if all is well.
    `entropy` is a token's, in nats; `length` in tokens; `ended` the share that ended by themselves.
    Losses and norms are means over the steps, of which the policy took `policy_steps`; one that it
    only looked at, to find that it had gone too far, is among them.
    """

    score: float
    reward: float
    objective: float
    kl: float
    kl_k3: float
    kl_coef: float
    kl_penalty: float
    policy_loss: float
    value_loss: float
    approx_kl: float
    clip_fraction: float
    value_clip_fraction: float
    first_ratio: float
    entropy: float
    length: float
    ended: float
    explained_variance: float
    grad_norm: float
    value_grad_norm: float
    learning_rate: float
    policy_steps: int


class PPOTrainer:
    """Trains the policy that `collector` draws from, iteration by iteration."""

    def __init__(
        self, collector: Collector, options: PPOOptions, *, processes: Processes, stop: StopRequest
    ) -> None:
        """Raises `SpecError` when a minibatch is too small for that many processes."""
        self.collector = collector
        self._shared = collector.shared
        self._options = options
        self._processes = processes
        self._stop = stop
        self._minibatches = math.ceil(options.rollouts / options.minibatch_size)
        if options.rollouts // processes.count < self._minibatches:
            raise SpecError(
                "minibatch_size",
                options.minibatch_size,
                "must leave each of the {processes} processes a response",
                processes=processes.count,
            )
        self._policy = self._learner(self._shared.policy_parameters(), options.learning_rate)
        self._value = self._learner(self._shared.value_parameters(), options.value_learning_rate)
        self._kl_coef = options.kl_coef
        self.iteration = 0
        self.tokens = 0  # learned from in all processes, by the policy and by the value function

    def run_iteration(self) -> Metrics:
        """Collect and learn. Raises `Cancelled`, leaving an iteration half done, and `Diverged`."""
        seen = self.collector.collect(self.iteration)
        targets = self._aim(seen)
        policy_steps, value_steps = self._learn(seen, targets)
        metrics = self._measure(seen, targets, policy_steps, value_steps)
        self.tokens += self._learned(policy_steps, value_steps)
        self._steer_kl(metrics.kl)
        self.iteration += 1
        return metrics

    def state(self) -> dict[str, Any]:
        """All that the next iteration depends on; nothing is drawn from a shared generator."""
        return {
            "iteration": self.iteration,
            "tokens": self.tokens,
            "kl_coef": self._kl_coef,
            "weights": self._shared.state(),
            "policy_optimizer": self._policy.optimizer.state_dict(),
            "value_optimizer": self._value.optimizer.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        self.iteration = state["iteration"]
        self.tokens = state.get("tokens", 0)  # earlier checkpoints do not tell
        self._kl_coef = state["kl_coef"]
        self._shared.load_state(state["weights"])
        self._policy.optimizer.load_state_dict(state["policy_optimizer"])
        self._value.optimizer.load_state_dict(state["value_optimizer"])

    def _learner(self, parameters: Sequence[torch.nn.Parameter], rate: float) -> Learner:
        return Learner(
            parameters,
            learning_rate=rate,
            max_grad_norm=self._options.max_grad_norm,
            processes=self._processes,
        )

    def _aim(self, seen: Experience) -> Targets:
        options, mask, total = self._options, seen.tokens.mask, self._processes.total
        rewards = formulas.token_rewards(self._rewards(seen), seen.kl, mask, kl_coef=self._kl_coef)
        if options.whiten_rewards:
            rewards = formulas.whiten(rewards, mask, shift_mean=False, total=total)
        advantages, returns = formulas.generalized_advantages(
            rewards, seen.values, mask, gamma=options.gamma, lam=options.lam
        )
        return Targets(formulas.whiten(advantages, mask, total=total), returns)

    def _rewards(self, seen: Experience) -> Tensor:
        """What each completion is worth before its distance to the reference counts, (rows,)."""
        return seen.scores - self._options.missing_eos_penalty * (1 - seen.ended)

    def _learn(
        self, seen: Experience, targets: Targets
    ) -> tuple[list[PolicyStep], list[ValueStep]]:
        options = self._options
        update = Update(
            self._shared,
            seen,
            targets,
            self._processes,
            self._stop,
            clip_range=options.clip_range,
            value_clip_range=options.value_clip_range,
            approx_kl_limit=options.target_approx_kl or math.inf,
            micro_batch_size=options.micro_batch_size,
        )
        for learner in (self._policy, self._value):
            learner.anneal(1 - self.iteration / options.iterations)
        policy_steps: list[PolicyStep] = []
        value_steps: list[ValueStep] = []
        for epoch in range(options.ppo_epochs):
            minibatches = self._split(len(seen.rollouts), epoch)
            if all(step.is_taken for step in policy_steps):
                policy_steps += update.improve_policy(self._policy, minibatches)
            value_steps += update.improve_value(self._value, minibatches)
        return policy_steps, value_steps

    def _learned(self, policy_steps: Sequence[PolicyStep], value_steps: Sequence[ValueStep]) -> int:
        """Tokens of the steps that were taken."""
        taken = [step.tokens for step in policy_steps if step.is_taken]
        taken += [step.tokens for step in value_steps]
        return int(self._processes.total(torch.tensor(sum(taken), device=self._shared.device)))

    def _split(self, rows: int, epoch: int) -> list[Sequence[int]]:
        """This process's rows of each minibatch; every process has as many minibatches."""
        rng = random.Random(f"minibatches {self.collector.seed} {self.iteration} {epoch}")
        shuffled = rng.sample(range(rows), rows)
        return [shuffled[number :: self._minibatches] for number in range(self._minibatches)]

    def _measure(
        self,
        seen: Experience,
        targets: Targets,
        policy_steps: Sequence[PolicyStep],
        value_steps: Sequence[ValueStep],
    ) -> Metrics:
        mask = seen.tokens.mask
        k3 = formulas.k3(seen.log_probs, seen.reference_log_probs) * mask
        per_row = (
            *(seen.scores, self._rewards(seen), seen.kl.sum(dim=1), k3.sum(dim=1)),
            *(mask.sum(dim=1), seen.ended, seen.entropy.sum(dim=1), torch.ones_like(seen.scores)),
        )
        *totals, rows = self._processes.total(torch.stack([v.sum() for v in per_row])).tolist()
        score, reward, kl, kl_k3, length, ended, entropy = (value / rows for value in totals)
        explained = formulas.explained_variance(
            seen.values, targets.returns, mask, total=self._processes.total
        )
        return Metrics(
            score=score,
            reward=reward,
            objective=reward - self._kl_coef * kl,
            kl=kl,
            kl_k3=kl_k3,
            kl_coef=self._kl_coef,
            kl_penalty=self._kl_coef * kl,
            policy_loss=fmean(step.loss for step in policy_steps),
            value_loss=fmean(step.loss for step in value_steps),
            approx_kl=fmean(step.approx_kl for step in policy_steps),
            clip_fraction=fmean(step.clip_fraction for step in policy_steps),
            value_clip_fraction=fmean(step.clip_fraction for step in value_steps),
            first_ratio=policy_steps[0].ratio,
            entropy=entropy / length,
            length=length,
            ended=ended,
            explained_variance=float(explained),
            grad_norm=fmean(step.grad_norm for step in policy_steps),
            value_grad_norm=fmean(step.grad_norm for step in value_steps),
            learning_rate=self._policy.learning_rate,
            policy_steps=sum(step.is_taken for step in policy_steps),
        )

    def _steer_kl(self, kl: float) -> None:
        """Towards the target, if there is one."""
        if self._options.kl_target > 0:
            self._kl_coef = formulas.next_kl_coef(
                self._kl_coef,
                kl,
                target=self._options.kl_target,
                rollouts=self._options.rollouts,
                horizon=self._options.kl_horizon,
            )
