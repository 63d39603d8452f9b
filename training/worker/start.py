"""What holds a policy to where its training started, so that it forgets less."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim import Optimizer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class PullToStart(TrainerCallback):  # type: ignore[misc]  # the library has no types
    """L2 regularisation to the starting point (Li et al. 2018), decoupled from the loss.

    After each optimiser step, w <- w - lr * weight * (w - w_start) for all weights w that are
    trained: AdamW's decay (Loshchilov and Hutter 2019), around the start in place of 0, so that
    neither batch size nor the number of processes changes it. The start is how `model` is now.
    """

    def __init__(self, model: Any, weight: float) -> None:
        self._weight = weight
        trained = [p for p in model.parameters() if p.requires_grad]
        self._pairs = [(p, p.detach().clone()) for p in trained]

    @torch.no_grad()
    def on_optimizer_step(
        self,
        _args: TrainingArguments,
        _state: TrainerState,
        _control: TrainerControl,
        *,
        optimizer: Optimizer,
        **_: Any,
    ) -> None:
        """Go back a part of the way to the start, never beyond it."""
        part = min(1.0, optimizer.param_groups[0]["lr"] * self._weight)
        for weight, start in self._pairs:
            weight.lerp_(start, part)
