"""What a run will take, before it is launched: memory, time, tokens, arithmetic, money.

Arithmetic alone: no torch, no file. What a method does is told by `planned` and what is beside it,
what that costs by `costs`; the constants here are of this product's own trainers, measured by
`python -m tests.bench estimate`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from training.machine import Machine
from training.options import MethodOptions
from training.planned import Lengths, Memory, PlannedRun, Rows
from training.planned_online import PlannedBestOfN, PlannedGroups, PlannedPPO
from training.planned_rows import READINGS, PlannedRows
from training.shape import ModelShape

__all__ = ["PLANS", "Estimate", "Lengths", "Memory", "Rows", "estimate"]

# Share of the rate of a plain matrix product that whole training steps reach: measured on a CPU;
# on a GPU 40 to 50 % is usual (PaLM, Chowdhery et al. 2022, appendix B, has 46 %).
EFFICIENCY: Mapping[str, float] = {"cpu": 0.42, "mps": 0.4, "cuda": 0.45}
# In calls of a small operation: one layer forward, of which half is Python; and an optimiser step
# with its logging.
CALLS_OF_LAYER = 150
CALLS_OF_STEP = 5000
# Loading a model and tokenising before the first step, and writing at the end.
SETUP_S, SETUP_S_OF_ROW = 2.0, 0.002

Plan = Callable[[Any, Rows, ModelShape, Machine], PlannedRun]


def _reading(method: str) -> Plan:
    return partial(PlannedRows, reading=READINGS[method])


PLANS: Mapping[str, Plan] = {
    **{method: _reading(method) for method in READINGS},
    "ppo": PlannedPPO,
    "rloo": PlannedGroups,
    "grpo": PlannedGroups,
    "best_of_n": PlannedBestOfN,
}


@dataclass(frozen=True)
class Estimate:
    """What a run will take.

    `seconds` are from a trainer that stands by to its result, on a machine that nobody else uses;
    `tokens` are those trained on, over all epochs.
    """

    memory: Memory
    seconds: float
    tokens: int
    flops: float
    steps: int

    @property
    def peak_mb(self) -> float:
        """Largest memory, in MiB."""
        return self.memory.peak_mb

    def cost(self, price_per_hour: float) -> float:
        """In the currency of the price of an hour of this machine."""
        return self.seconds / 3600 * price_per_hour


def estimate(
    method: str, options: MethodOptions, rows: Rows, shape: ModelShape, machine: Machine
) -> Estimate | None:
    """What a run would take; None for a method whose work is not known here, and without rows."""
    if method not in PLANS or rows.number == 0:
        return None
    run = PLANS[method](options, rows, shape, machine)
    flops = _flops(run)
    return Estimate(run.memory(), _seconds(run, flops), _trained(run), flops, run.steps)


def _flops(run: PlannedRun) -> float:
    total = 0.0
    for through in run.passes():
        costs = run.costs if through.has_head else run.headless_costs
        once = costs.forward() + (costs.backward() if through.has_gradient else 0.0)
        total += through.tokens * once
    return total


def _seconds(run: PlannedRun, flops: float) -> float:
    """Arithmetic at the machine's rate, and the calls that small operations cannot go below."""
    machine = run.machine
    arithmetic = flops / (machine.flops_per_s * EFFICIENCY[machine.device.kind])
    layers = sum((3 if t.has_gradient else 1) * t.batches for t in run.passes()) * run.shape.layers
    calls = layers * CALLS_OF_LAYER + run.updates * CALLS_OF_STEP
    return arithmetic + calls * machine.call_s + SETUP_S + SETUP_S_OF_ROW * run.rows_prepared


def _trained(run: PlannedRun) -> int:
    return round(sum(through.tokens for through in run.passes() if through.has_gradient))
