"""Completions as tensors: lined up, as what is known of their tokens is, and closed up, for models.

Lined up, prompts are padded on the left and completions on the right. Closed up, a completion
follows its prompt, and all padding is at the end: a batch is narrower, and computes less.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple, Self

import torch
from torch import Tensor

# What a batch costs beside its tokens, in tokens: on a CPU some calls; a GPU computes few tokens no
# faster than many.
BESIDE_TOKENS: Mapping[str, int] = {"cpu": 100, "cuda": 4096}


class Tokens(NamedTuple):
    """A batch of prompts with their completions, as the token ids that were really drawn.

    `ids` and `attention` are (rows, prompt + completion), `mask` is (rows, completion) and 1 at the
    completions' own tokens. What is padding is told by `attention` alone, never by an id.
    """

    ids: Tensor
    attention: Tensor
    mask: Tensor

    @classmethod
    def padded(
        cls,
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Sequence[int]],
        device: torch.device,
    ) -> Self:
        """From the token ids of each row; no prompt and no completion may be empty."""
        left, right = max(map(len, prompts)), max(map(len, completions))
        ids = torch.zeros(len(prompts), left + right, dtype=torch.long)
        attention = torch.zeros_like(ids)
        for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            start, end = left - len(prompt), left + len(completion)
            ids[row, start:end] = torch.tensor([*prompt, *completion])
            attention[row, start:end] = 1
        mask = attention[:, left:].float()
        return cls(ids.to(device), attention.to(device), mask.to(device))

    @property
    def prompt_width(self) -> int:
        """Columns of the prompts."""
        return self.ids.shape[1] - self.mask.shape[1]

    @property
    def completion_width(self) -> int:
        """Columns of the completions."""
        return self.mask.shape[1]

    def close_up(self) -> ClosedUp:
        """The same rows without padding between or before what they hold."""
        lengths, completions = self.attention.sum(dim=1), self.mask.sum(dim=1).long()
        width = int(lengths.max())
        columns = torch.arange(width, device=self.ids.device)
        held = columns < lengths[:, None]
        prompts = lengths - completions
        source = (self.prompt_width - prompts)[:, None] + columns
        ids = self.ids.gather(1, source.clamp(max=self.ids.shape[1] - 1)) * held
        is_completion = held & (columns >= prompts[:, None])
        return ClosedUp(ids, lengths.tolist(), is_completion.flatten().nonzero().squeeze(1))

    def pack(self) -> ClosedUp:
        """The same rows one behind the other, without any padding."""
        is_completion = self.attention.clone()
        is_completion[:, : self.prompt_width] = 0
        held = self.attention.bool()
        lengths = self.attention.sum(dim=1).tolist()
        return ClosedUp(self.ids[held][None], lengths, is_completion[held].nonzero().squeeze(1))

    def spread(self, values: Tensor) -> Tensor:
        """What is known of the completions' own tokens, row by row, (tokens,), lined up:
        (rows, completion), 0 at padding."""
        return torch.zeros_like(self.mask).masked_scatter(self.mask.bool(), values)

    def rows(self, numbers: Sequence[int]) -> Tokens:
        """Some of the rows, without the columns that hold nothing but padding there."""
        attention = self.attention[numbers]
        used = attention.any(dim=0).nonzero()
        first, end = int(used[0]), int(used[-1]) + 1
        width = end - self.prompt_width
        return Tokens(
            self.ids[numbers, first:end], attention[:, first:end], self.mask[numbers, :width]
        )

    def batches(self, numbers: Sequence[int], size: int) -> list[list[int]]:
        """`numbers` of rows, at most `size` at a time, those of like length together."""
        alike, lengths = self._by_length(numbers)
        beside = BESIDE_TOKENS.get(self.ids.device.type, BESIDE_TOKENS["cuda"])
        ends = cut([lengths[number] for number in alike], size, beside=beside)
        return [alike[start:end] for start, end in pairwise([0, *ends])]

    def even_batches(self, numbers: Sequence[int], size: int) -> list[list[int]]:
        """The same for rows that are to be packed: as few as can be, of about as many tokens."""
        alike, _ = self._by_length(numbers)
        count = math.ceil(len(alike) / size)
        return [alike[number::count] for number in range(count)]

    def _by_length(self, numbers: Sequence[int]) -> tuple[list[int], list[int]]:
        lengths: list[int] = self.attention.sum(dim=1).tolist()
        return sorted(numbers, key=lambda number: lengths[number]), lengths


def cut(lengths: Sequence[int], size: int, *, beside: int) -> list[int]:
    """Where to end batches of at most `size` rows, given in order of length, so that least is
    computed: rows times the longest, and `beside` for each batch."""
    cost, start_of = [0], [0]  # of the first rows, up to each of them
    for end in range(1, len(lengths) + 1):
        least, start = min(
            (cost[start] + (end - start) * lengths[end - 1] + beside, start)
            for start in range(max(0, end - size), end)
        )
        cost.append(least)
        start_of.append(start)
    ends, end = [], len(lengths)
    while end:
        ends.append(end)
        end = start_of[end]
    return ends[::-1]


class ClosedUp(NamedTuple):
    """A batch as models read it: `ids` are (rows, longest row), or (1, tokens) where it is packed.

    Nobody looks ahead, so that the padding at the end needs no mask. `row_lengths` count tokens,
    `places` are those of the completions' own tokens among `ids.flatten()`, row by row.
    """

    ids: Tensor
    row_lengths: list[int]
    places: Tensor
