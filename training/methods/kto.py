"""Options of Kahneman-Tversky Optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from training.methods.process_options import ProcessOptions
from training.methods.trainer_options import ReplayOptions, beta_option
from training.options import SpecError, option

BALANCED = 4 / 3


class Thumbs(StrEnum):
    """Where the thumbs up and down come from.

    ALL      ratings, and pairs taken apart: chosen up, rejected down
    RATINGS  only responses that were rated by themselves
    """

    ALL = "all"
    RATINGS = "ratings"


@dataclass(frozen=True)
class KTOOptions(ProcessOptions, ReplayOptions):
    """Kahneman-Tversky Optimisation (Ethayarajh et al. 2024): learns from thumbs alone."""

    beta: float = beta_option()
    learn_from: str = option(
        Thumbs.ALL.value,
        choices=tuple(source.value for source in Thumbs),
        is_main=True,
        label="Learn from",
        help="all takes pairs apart as well, the chosen response as liked, the rejected one as "
        "disliked; ratings leaves it at responses rated by themselves.",
    )
    desirable_weight: float = option(
        1.0,
        minimum=0.01,
        maximum=100.0,
        label="Weight of liked",
        help="Raise it where there are few liked responses: weight times number should be alike "
        "for both, within a factor of 4/3.",
    )
    undesirable_weight: float = option(
        1.0,
        minimum=0.01,
        maximum=100.0,
        label="Weight of disliked",
        help="Raise it where there are few disliked responses.",
    )

    @property
    def only_kind(self) -> str | None:
        return "rating" if self.learn_from == Thumbs.RATINGS else None

    def is_balanced(self, liked: int, disliked: int) -> bool:
        """What the loss weighs is alike for both kinds (eq. 8 of the paper); neither may be 0."""
        balance = self.desirable_weight * liked / (self.undesirable_weight * disliked)
        return 1 / BALANCED <= balance <= BALANCED

    def check_together(self) -> None:
        super().check_together()
        if self.batch_size < 2:
            raise SpecError(
                "batch_size",
                self.batch_size,
                "must be 2 or more: the reference point of KTO is estimated from other rows of "
                "the batch",
            )
