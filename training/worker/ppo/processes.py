"""The trainer processes of one run: each holds the whole model and works on a share of the rows.

Gradients are summed by hand, in one flat tensor for each optimiser step: DistributedDataParallel
would trip over a model whose adapters take turns. Alone, a process sums nothing up.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from torch import Tensor
from torch.nn import Parameter
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from training.worker.failures import Cancelled
from training.worker.job import StopRequest


class Processes:
    """This process among those that `accelerate launch` or `torchrun` started, or alone."""

    def __init__(self) -> None:
        self._state = PartialState(cpu=not torch.cuda.is_available())

    @property
    def rank(self) -> int:
        """This process's number, from 0."""
        return int(self._state.process_index)

    @property
    def count(self) -> int:
        """How many there are."""
        return int(self._state.num_processes)

    @property
    def is_main(self) -> bool:
        """This is the one that writes events, checkpoints and the adapter."""
        return bool(self._state.is_main_process)

    def total(self, part: Tensor) -> Tensor:
        """The sum of all processes' `part`, of the same shape everywhere."""
        summed: Tensor = reduce(part, reduction="sum")
        return summed

    def check(self, stop: StopRequest) -> None:
        """Raises `Cancelled` in every process once any of them was asked to stop."""
        asked = torch.tensor(float(stop.is_set), device=self._state.device)
        if self.total(asked) > 0:
            raise Cancelled

    def total_gradients(self, parameters: Sequence[Parameter], sums: Tensor) -> Tensor:
        """Replace the gradients by their totals over all processes; returns the total of `sums`."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        together = self.total(torch.cat([parameters_to_vector(gradients), sums]))
        vector_to_parameters(together[: -len(sums)], gradients)
        return together[-len(sums) :]
