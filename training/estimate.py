"""What a run will take, before it is launched: memory, time, tokens, arithmetic, money.

Arithmetic alone: no torch, no file. What a method does is told by `planned` and what is beside it,
what that costs by `costs`; the constants here are of this product's own trainers, measured by
`python -m tests.bench estimate`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial, reduce
from typing import Any, NamedTuple, Self

from training.machine import Machine
from training.methods.reward import RewardOptions
from training.options import MethodOptions
from training.planned import ALONE, Company, Lengths, Memory, Pass, PlannedRun, Rows
from training.planned_online import PlannedBestOfN, PlannedGroups, PlannedOnlineDPO, PlannedPPO
from training.planned_rows import READINGS, PlannedRows
from training.shape import ModelShape

__all__ = [
    "ALONE",
    "PLANS",
    "Company",
    "Estimate",
    "Foretold",
    "Lengths",
    "Memory",
    "Rows",
    "estimate",
]

# Share of the rate of a plain matrix product that whole training steps reach: measured on a CPU
# between idle and busy, so that either is met about as well; on a GPU 40 to 50 % is usual (PaLM,
# Chowdhery et al. 2022, appendix B, has 46 %).
EFFICIENCY: Mapping[str, float] = {"cpu": 0.34, "mps": 0.4, "cuda": 0.45}
# In calls of a small operation: one layer forward, of which half is Python; and an optimiser step
# with its logging.
CALLS_OF_LAYER = 190
CALLS_OF_STEP = 6500
# Loading a model and tokenising before the first step, and writing at the end.
SETUP_S, SETUP_S_OF_ROW = 2.5, 0.002
# Several processes are not prepared: each imports what takes seconds.
LAUNCH_S = 8.0

Plan = Callable[..., PlannedRun]


def _reading(method: str) -> Plan:
    return partial(PlannedRows, reading=READINGS[method])


PLANS: Mapping[str, Plan] = {
    **{method: _reading(method) for method in READINGS},
    "ppo": PlannedPPO,
    "rloo": PlannedGroups,
    "grpo": PlannedGroups,
    "best_of_n": PlannedBestOfN,
    "online_dpo": PlannedOnlineDPO,
}


@dataclass(frozen=True)
class Estimate:
    """What a run will take.

    `memory` is of one of its processes. `seconds` are from a trainer that stands by to its result,
    on a machine that nobody else uses; `tokens` are those trained on, over all epochs.
    """

    memory: Memory
    seconds: float
    tokens: int
    flops: float
    steps: int
    processes: int = 1

    def to_json(self) -> dict[str, Any]:
        """For `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Raises `TypeError` or `KeyError` for what is of another version."""
        return cls(**{**values, "memory": Memory(**values["memory"])})

    @property
    def peak_mb(self) -> float:
        """Largest memory of a process, in MiB."""
        return self.memory.peak_mb

    def followed_by(self, other: Estimate) -> Estimate:
        """With another, smaller training after it in the same process; the steps are of this."""
        return replace(
            self,
            seconds=self.seconds + other.seconds,
            tokens=self.tokens + other.tokens,
            flops=self.flops + other.flops,
        )

    def cost(self, price_per_hour: float) -> float:
        """In the currency of the price of an hour of this machine."""
        return self.seconds / 3600 * price_per_hour


class Foretold(NamedTuple):
    """What a run was estimated to take, and what an hour cost by then, in a currency of people's
    own; `is_afterwards` where nobody was told before the launch."""

    estimate: Estimate | None = None
    price_per_hour: float | None = None
    is_afterwards: bool = False

    def to_json(self) -> dict[str, Any]:
        """For `from_json`."""
        told = self.estimate.to_json() if self.estimate else {}
        return {**told, "price_per_hour": self.price_per_hour}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """What was told before a launch; no estimate where that is of another version."""
        told = dict(values)
        price = told.pop("price_per_hour", None)
        try:
            return cls(Estimate.from_json(told), price)
        except (TypeError, KeyError):
            return cls(None, price)

    @property
    def cost(self) -> float | None:
        """What the whole run was to cost; None where that cannot be told."""
        if self.estimate is None or self.price_per_hour is None:
            return None
        return self.estimate.cost(self.price_per_hour)


def estimate(
    method: str,
    options: MethodOptions,
    rows: Rows,
    shape: ModelShape,
    machine: Machine,
    company: Company = ALONE,
) -> Estimate | None:
    """What a run would take; None for a method whose work is not known here, and without rows."""
    if method not in PLANS or rows.number == 0:
        return None
    first, *others = (
        _estimate(PLANS[method](chosen, some, shape, machine, company=company))
        for chosen, some in _divided(options, rows)
    )
    return reduce(Estimate.followed_by, others, first)


def _divided(options: MethodOptions, rows: Rows) -> list[tuple[MethodOptions, Rows]]:
    """What is trained one after the other: a reward run may train a second model on a share."""
    if not isinstance(options, RewardOptions):
        return [(options, rows)]
    second = options.rows_of_second(rows.number)
    if not second:
        return [(options, rows)]
    return [
        (options, rows._replace(number=rows.number - second)),
        (options.of_second(second), rows._replace(number=second)),
    ]


def _estimate(run: PlannedRun) -> Estimate:
    learning, measuring = list(run.learning()), [*run.watching(), *run.measuring()]
    return Estimate(
        memory=run.memory(),
        seconds=_seconds(run, learning, measuring),
        tokens=round(sum(through.tokens for through in learning if through.has_gradient)),
        flops=_flops(run, [*learning, *measuring]),
        steps=run.steps,
        processes=run.processes,
    )


def _seconds(run: PlannedRun, learning: Sequence[Pass], measuring: Sequence[Pass]) -> float:
    """The processes share what is learned; one measures while the others wait for it."""
    each = _seconds_of(run, learning) / run.processes
    updates = run.updates * CALLS_OF_STEP * run.machine.call_s
    setup = SETUP_S + SETUP_S_OF_ROW * run.rows_prepared
    started = LAUNCH_S if run.processes > 1 else 0.0
    return each + updates + _seconds_of(run, measuring) + setup + started


def _seconds_of(run: PlannedRun, passes: Sequence[Pass]) -> float:
    """Arithmetic at the machine's rate, and the calls that small operations cannot go below."""
    machine = run.machine
    arithmetic = _flops(run, passes) / (machine.flops_per_s * EFFICIENCY[machine.device.kind])
    batches = sum((3 if through.has_gradient else 1) * through.batches for through in passes)
    return arithmetic + batches * run.shape.layers * CALLS_OF_LAYER * machine.call_s


def _flops(run: PlannedRun, passes: Sequence[Pass]) -> float:
    total = 0.0
    for through in passes:
        costs = run.costs if through.has_head else run.headless_costs
        backward = costs.backward() if through.has_gradient else 0.0
        total += through.tokens * (costs.forward() + backward)
    return total
