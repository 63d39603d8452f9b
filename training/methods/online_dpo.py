"""Options of DPO on fresh pairs of the policy in training, judged by a reward model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from training.methods.dpo import PairOptions
from training.methods.online_options import (
    max_new_tokens_option,
    missing_eos_penalty_option,
    watch_steps_option,
)
from training.options import option


@dataclass(frozen=True)
class OnlineDPOOptions(PairOptions):
    """Online DPO (Guo et al. 2024): learns from pairs of its own, judged by a reward model."""

    rounds: int = option(
        2,
        minimum=1,
        maximum=8,
        is_main=True,
        label="Rounds",
        help="How often the policy, as it is then, writes responses and learns from pairs of them. "
        "The reference stays the policy that the run starts from.",
    )
    prompts: int = option(
        200,
        minimum=2,
        maximum=100000,
        is_main=True,
        label="Prompts per round",
        help="How many prompts each round answers, others in each as far as there are more.",
    )
    n: int = option(
        4,
        minimum=2,
        maximum=64,
        is_main=True,
        label="Responses per prompt",
        help="The best-scored one of them is preferred to the worst-scored one. More of them set "
        "the two further apart and take longer.",
    )
    missing_eos_penalty: float = missing_eos_penalty_option()
    max_new_tokens: int = max_new_tokens_option()
    watch_steps: int = watch_steps_option("Optimiser steps")

    def prompts_asked(self, rows: int) -> int:
        """How many different prompts are answered, of a snapshot with so many rows."""
        return min(rows, self.rounds * self.prompts)

    @classmethod
    def preset(cls, rows: int, *, parameters: int | None, tuning: str) -> Self:
        """By the number of pairs that all rounds make of so many prompts."""
        pairs = cls.rounds * min(rows, cls.prompts)
        return super().preset(pairs, parameters=parameters, tuning=tuning)
