"""Drawing the next token of each row of a batch, by that row's own sampling and seed.

Importing it imports no torch.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    import torch


class Sampled(Protocol):
    """How a row is drawn: `temperature` 0 means greedy; `top_k` 0 and `top_p` 1 mean every token
    may be drawn."""

    @property
    def seed(self) -> int:
        """Of the row's own stream of random numbers."""

    @property
    def temperature(self) -> float:
        """What the logits are divided by."""

    @property
    def top_p(self) -> float:
        """The likeliest tokens that have this probability together may be drawn."""

    @property
    def top_k(self) -> int:
        """So many of the likeliest tokens may be drawn."""

    @property
    def is_greedy(self) -> bool:
        """The likeliest token is taken each time, and the seed has no say."""


class Drawn(NamedTuple):
    """A token's log-probability, and the entropy of what it was drawn from, in nats: both of the
    model's own distribution, before temperature, top-k and top-p."""

    log_prob: float
    entropy: float


class RowSampler:
    """A logits processor that draws each row's next token by that row's own sampling and seed.

    The token is the first whose cumulative probability exceeds a uniform number of the row's own
    stream (inverse transform sampling), so one number a token suffices whatever the vocabulary. The
    drawn token's score becomes infinite, for the greedy decoder behind to take.
    """

    def __init__(
        self,
        requests: Sequence[Sampled],
        steps: int,
        device: torch.device,
        *,
        first: int = 0,
        is_watched: bool = False,
    ) -> None:
        """For `steps` tokens of each row, of which the first is its own token number `first`.

        What `drawn` tells is kept only where the sampler is watched.
        """
        import torch

        # Apple's GPU has no float64, which the sum over a large vocabulary needs.
        device = torch.device("cpu") if device.type == "mps" else device
        self._device = device
        self._step = 0
        self._all_greedy = all(request.is_greedy for request in requests)
        self._greedy = torch.tensor([request.is_greedy for request in requests], device=device)
        self._any_greedy = bool(self._greedy.any())
        self._temperatures = torch.tensor(
            [[1.0 if request.is_greedy else request.temperature] for request in requests],
            device=device,
        )
        self._uniforms = _uniform_streams(requests, first + steps)[first:].to(device)
        self._filter = _TokenFilter.of(requests, device)
        self._is_watched = is_watched
        self._seen: list[torch.Tensor] = []  # (rows, 2) of each step

    def __call__(self, _input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Mark the drawn tokens in `scores`, the next token's logits (rows, vocabulary)."""
        if self._all_greedy and not self._is_watched:
            return scores
        uniforms = self._uniforms[self._step]
        self._step += 1
        logits = scores.to(self._device)
        tokens = self._draw(logits, uniforms)
        if self._is_watched:
            self._seen.append(_look(logits, tokens))
        return scores.scatter_(1, tokens.to(scores.device), float("inf"))

    def drawn(self) -> list[list[Drawn]]:
        """Each row's tokens so far, those too that follow its end."""
        import torch

        steps = torch.stack(self._seen, dim=1).tolist()
        return [[Drawn(*token) for token in row] for row in steps]

    def _draw(self, logits: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
        """Token ids (rows, 1) from logits (rows, vocabulary) and uniform numbers (rows, 1)."""
        import torch

        scaled = logits / self._temperatures
        if self._filter is not None:
            scaled = self._filter(scaled)
        cumulative = scaled.softmax(dim=-1).cumsum(dim=-1, dtype=torch.float64)
        drawn = torch.searchsorted(cumulative, uniforms * cumulative[:, -1:], right=True)
        drawn.clamp_(max=logits.shape[1] - 1)
        if not self._any_greedy:
            return drawn
        return torch.where(self._greedy[:, None], logits.argmax(dim=-1, keepdim=True), drawn)


def _look(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Log-probability and entropy (rows, 2) of tokens (rows, 1), by logits (rows, vocabulary)."""
    import torch

    log_probs = logits.log_softmax(dim=1)
    entropies = -torch.linalg.vecdot(log_probs.exp(), log_probs)
    return torch.cat([log_probs.gather(1, tokens), entropies[:, None]], dim=1)


@dataclass(frozen=True)
class _TokenFilter:
    """Top-k, then top-p, for those rows of a batch that ask for either.

    Tokens as likely as the last one kept are kept too, so that no arbitrary order decides.
    """

    rows: torch.Tensor  # (filtered,) row indices
    top_k: torch.Tensor  # (filtered, 1)
    top_p: torch.Tensor  # (filtered, 1), 2 where every token may be drawn
    largest_top_k: int | None  # None when some row has no top-k
    covers_batch: bool

    @classmethod
    def of(cls, requests: Sequence[Sampled], device: torch.device) -> _TokenFilter | None:
        """The filter that a batch needs; None when every row may draw any token."""
        import torch

        rows = [
            row
            for row, request in enumerate(requests)
            if not request.is_greedy and (request.top_k > 0 or request.top_p < 1)
        ]
        if not rows:
            return None
        top_k = [requests[row].top_k for row in rows]
        top_p = [requests[row].top_p if requests[row].top_p < 1 else 2.0 for row in rows]
        unlimited = torch.iinfo(torch.int64).max
        return cls(
            rows=torch.tensor(rows, device=device),
            top_k=torch.tensor([[k or unlimited] for k in top_k], device=device),
            top_p=torch.tensor([[p] for p in top_p], device=device),
            largest_top_k=max(top_k) if all(top_k) else None,
            covers_batch=len(rows) == len(requests),
        )

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """`logits` (rows, vocabulary) with minus infinity for the tokens that are filtered out."""
        if self.covers_batch:
            return self._mask(logits)
        filtered = logits.clone()
        filtered[self.rows] = self._mask(logits[self.rows])
        return filtered

    def _mask(self, logits: torch.Tensor) -> torch.Tensor:
        vocabulary = logits.shape[1]
        if self.largest_top_k is None:
            ranked = logits.sort(dim=-1, descending=True).values
        else:
            ranked = logits.topk(min(self.largest_top_k, vocabulary), dim=-1).values
        least_likely = ranked.gather(1, self.top_k.clamp(max=ranked.shape[1]) - 1)
        ranked = ranked.masked_fill(ranked < least_likely, float("-inf"))
        probabilities = ranked.softmax(dim=-1)
        mass_before = probabilities.cumsum(dim=-1) - probabilities
        kept = ((mass_before < self.top_p) & ranked.isfinite()).sum(dim=-1, keepdim=True)
        threshold = ranked.gather(1, kept.clamp(min=1) - 1)
        return logits.masked_fill(logits < threshold, float("-inf"))


def _uniform_streams(requests: Sequence[Sampled], steps: int) -> torch.Tensor:
    """Numbers in [0, 1), (steps, rows, 1): a row's are a function of its seed alone.

    Python's generator is used for its promise to draw the same numbers on every machine.
    """
    import torch

    streams = []
    for request in requests:
        stream = random.Random(request.seed)
        streams.append([stream.random() for _ in range(steps)])
    return torch.tensor(streams, dtype=torch.float64).T.unsqueeze(-1).contiguous()
