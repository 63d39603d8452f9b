"""Completions as tensors: prompts padded on the left, completions on the right, so they line up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor


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

    @property
    def positions(self) -> Tensor:
        """Position of each token within its own row, whatever padding stands before it."""
        return (self.attention.cumsum(dim=1) - 1).clamp(min=0)

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
        lengths = self.attention.sum(dim=1).tolist()
        alike = sorted(numbers, key=lambda number: lengths[number])
        return [alike[start : start + size] for start in range(0, len(alike), size)]
