"""Experience: completions that the policy drew, scored, with what an update needs to know of them.

Which prompts an iteration takes and which random numbers its completions are drawn with depend on
the seed and the iteration's number alone, so that a resumed run sees what it would have seen.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from training.generation import FinishReason, GenerationStopped, Output, Request, generate
from training.worker.job import StopRequest
from training.worker.ppo import formulas
from training.worker.ppo.lora import sums_kept
from training.worker.ppo.model import Observed, SharedBase
from training.worker.ppo.processes import Processes
from training.worker.ppo.tokens import Tokens
from training.worker.prompts import Prompt


@dataclass(frozen=True)
class Rollout:
    """A prompt and the completion that the policy drew for it."""

    prompt: Prompt
    output: Output

    @property
    def has_ended(self) -> bool:
        """The policy stopped by itself, before the limit."""
        return self.output.finish_reason is FinishReason.STOP


class Scorer(Protocol):
    """Says how good completions are; higher is better, the unit is the scorer's own."""

    def score(self, rollouts: Sequence[Rollout], tokens: Tokens) -> Tensor:
        """One number a row, (rows,), from the completions or from their token ids."""
        ...


class RewardAdapter:
    """The scorer that a reward run trained, on the token ids just as they were drawn."""

    def __init__(self, shared: SharedBase) -> None:
        self._shared = shared

    def score(self, rollouts: Sequence[Rollout], tokens: Tokens) -> Tensor:  # noqa: ARG002
        """The reward model's score of each row."""
        return self._shared.rewards(tokens)


class PromptOrder:
    """An endless pass over the prompts, shuffled anew each time."""

    def __init__(self, count: int, *, seed: int) -> None:
        self._count = count
        self._seed = seed

    def at(self, place: int) -> int:
        """Which prompt comes at this place of the pass, counted from 0."""
        lap, number = divmod(place, self._count)
        return _shuffled(self._count, f"prompts {self._seed} {lap}")[number]


@lru_cache(maxsize=2)
def _shuffled(count: int, seed: str) -> list[int]:
    return random.Random(seed).sample(range(count), count)


@dataclass(frozen=True)
class Experience:
    """This process's completions of an iteration. Per-token tensors are (rows, completion)."""

    rollouts: Sequence[Rollout]
    tokens: Tokens
    scores: Tensor  # (rows,)
    log_probs: Tensor
    reference_log_probs: Tensor
    values: Tensor
    entropy: Tensor

    @property
    def kl(self) -> Tensor:
        """k1 of each token to the reference, whose sum is a row's KL."""
        return formulas.k1(self.log_probs, self.reference_log_probs)

    @property
    def ended(self) -> Tensor:
        """1 for the completions that ended by themselves, (rows,)."""
        return torch.tensor(
            [float(rollout.has_ended) for rollout in self.rollouts], device=self.scores.device
        )


@dataclass(frozen=True)
class Collector:
    """Lets the policy complete prompts and looks at the completions with all four models."""

    shared: SharedBase
    tokenizer: PreTrainedTokenizerBase
    scorer: Scorer
    prompts: Sequence[Prompt]
    processes: Processes
    stop: StopRequest
    rollouts: int  # in all processes together
    max_new_tokens: int
    batch_size: int
    seed: int

    def collect(self, iteration: int) -> Experience:
        """The experience of one iteration, this process's share. Raises `Cancelled`."""
        numbers = range(self.processes.rank, self.rollouts, self.processes.count)
        order = PromptOrder(len(self.prompts), seed=self.seed)
        prompts = [self.prompts[order.at(iteration * self.rollouts + n)] for n in numbers]
        requests = [
            Request(prompt.ids, self.max_new_tokens, seed=self._seed_of(iteration, number))
            for prompt, number in zip(prompts, numbers, strict=True)
        ]
        outputs: list[Output] = []
        with suppress(GenerationStopped), sums_kept(self.shared.model):
            outputs = generate(
                self.shared.model,
                self.tokenizer,
                requests,
                stop=self.stop.signal,
                is_watched=self.shared.is_exact,
            )
        self.processes.check(self.stop)
        rollouts = [Rollout(p, o) for p, o in zip(prompts, outputs, strict=True)]
        return self._observe(rollouts)

    @torch.no_grad()
    def _observe(self, rollouts: Sequence[Rollout]) -> Experience:
        tokens = Tokens.padded(
            [rollout.prompt.ids for rollout in rollouts],
            [rollout.output.token_ids for rollout in rollouts],
            self.shared.device,
        )
        scores = torch.zeros(len(rollouts), device=self.shared.device)
        values = torch.zeros_like(tokens.mask)
        for rows in self._looks(tokens, has_head=False):
            part = tokens.rows(rows)
            scores[rows] = self.scorer.score([rollouts[row] for row in rows], part).to(scores)
            values[rows, : part.completion_width] = self.shared.values(part)
        reference = torch.zeros_like(tokens.mask)
        for rows in self._looks(tokens, has_head=True):
            part = tokens.rows(rows)
            reference[rows, : part.completion_width] = self.shared.reference_log_probs(part)
        log_probs, entropy = self._observe_policy(rollouts, tokens)
        return Experience(rollouts, tokens, scores, log_probs, reference, values, entropy)

    def _observe_policy(self, rollouts: Sequence[Rollout], tokens: Tokens) -> Observed:
        """As it drew them, where drawing is as exact as what follows; as read again elsewhere."""
        if self.shared.is_exact:
            drawn = [token for rollout in rollouts for token in rollout.output.drawn]
            per_token = torch.tensor(drawn, device=self.shared.device).t()
            return Observed(*(tokens.spread(each) for each in per_token))
        seen = Observed(torch.zeros_like(tokens.mask), torch.zeros_like(tokens.mask))
        for rows in self._looks(tokens, has_head=True):
            part = self.shared.observe_policy(tokens.rows(rows))
            for whole, found in zip(seen, part, strict=True):
                whole[rows, : found.shape[1]] = found
        return seen

    def _looks(self, tokens: Tokens, *, has_head: bool) -> list[list[int]]:
        """The rows that are read together where no gradient is wanted."""
        many = self.shared.rows_at_once(tokens, has_head=has_head)
        rows = range(len(tokens.ids))
        return self.shared.batches(tokens, rows, max(self.batch_size, many))

    def _seed_of(self, iteration: int, number: int) -> int:
        return random.Random(f"rollout {self.seed} {iteration} {number}").getrandbits(32)
