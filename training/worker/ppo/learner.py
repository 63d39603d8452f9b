"""An optimiser step on a minibatch that is spread over micro-batches and over processes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn.utils import clip_grad_norm_

from training.worker.failures import Diverged
from training.worker.ppo.processes import Processes


class Learner:
    """Moves one model's parameters, an explicit list: the active adapter changes all the time."""

    def __init__(
        self,
        parameters: Sequence[Parameter],
        *,
        learning_rate: float,
        max_grad_norm: float,
        processes: Processes,
    ) -> None:
        self._parameters = parameters
        self._first_rate = learning_rate
        self.learning_rate = learning_rate
        self._max_grad_norm = max_grad_norm
        self._processes = processes
        # Adam's own epsilon: the 1e-5 of lm-human-preferences is above a LoRA weight's gradients.
        self.optimizer = torch.optim.Adam(parameters, lr=learning_rate)
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)

    def anneal(self, share_left: float) -> None:
        """Set the learning rate to this share of its first value."""
        self.learning_rate = self._first_rate * share_left
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate

    def differentiate(self, parts: Iterable[Tensor]) -> Tensor:
        """The minibatch's means over tokens, with the gradient of the mean loss left in place.

        A part holds sums over a micro-batch's tokens: their count, the loss, and what else is to be
        averaged. It is made lazily, so that one graph is alive at a time.
        """
        self.optimizer.zero_grad(set_to_none=False)
        sums = torch.stack([self._backward(part) for part in parts]).sum(dim=0)
        sums = self._processes.total_gradients(self._parameters, sums)
        for parameter in self._parameters:
            assert parameter.grad is not None
            parameter.grad /= sums[0]
        return sums / sums[0]

    def step(self) -> float:
        """Follow the gradient; returns its length before clipping. Raises `Diverged`."""
        norm = self.clip()
        if not math.isfinite(norm):
            raise Diverged("The gradient became {value}.", value=norm)
        self.optimizer.step()
        return norm

    def clip(self) -> float:
        """Cut the gradient to the longest that is followed; returns its length before."""
        return float(clip_grad_norm_(self._parameters, self._max_grad_norm))

    @staticmethod
    def _backward(part: Tensor) -> Tensor:
        torch.autograd.backward(part[1])
        return part.detach()
