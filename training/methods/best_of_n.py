"""Options of best-of-n sampling with fine-tuning on what was best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from training.methods.online_options import max_new_tokens_option, missing_eos_penalty_option
from training.methods.trainer_options import ImitationOptions
from training.options import option


@dataclass(frozen=True)
class BestOfNOptions(ImitationOptions):
    """Rejection sampling (Touvron et al. 2023): learns the best-scored of its own responses."""

    n: int = option(
        8,
        minimum=2,
        maximum=64,
        is_main=True,
        label="Responses per prompt",
        help="The best-scored one of them is learned. Twice as many take twice the time, and each "
        "doubling gains less.",
    )
    prompts: int = option(
        400,
        minimum=2,
        maximum=100000,
        is_main=True,
        label="Prompts",
        help="How many prompts are answered, drawn at random where there are more.",
    )
    keep: float = option(
        0.5,
        minimum=0.01,
        maximum=1.0,
        is_main=True,
        label="Kept share",
        help="Share of the prompts whose best response is learned: those where it scored highest.",
    )
    missing_eos_penalty: float = missing_eos_penalty_option()
    max_new_tokens: int = max_new_tokens_option()

    EPOCHS: ClassVar[tuple[int, int, int]] = (5, 4, 2)

    def rows_learned(self, rows: int) -> int:
        """The best responses to the prompts that are kept, but for those held out."""
        return super().rows_learned(round(self.keep * min(rows, self.prompts)))

    @classmethod
    def preset(cls, rows: int, *, parameters: int | None, tuning: str) -> Self:
        """By the number of responses that are kept of those to so many prompts."""
        kept = round(cls.keep * min(rows, cls.prompts))
        return super().preset(kept, parameters=parameters, tuning=tuning)
