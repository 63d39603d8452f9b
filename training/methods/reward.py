"""Options of reward modelling."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import ClassVar, Self

from training.methods.process_options import ProcessOptions
from training.methods.trainer_options import TrainerOptions
from training.options import option


class Pooling(StrEnum):
    """Which of a response's tokens its score is read at."""

    MEAN = "mean"
    LAST = "last"


@dataclass(frozen=True)
class RewardOptions(ProcessOptions, TrainerOptions):
    """Reward modelling: learns to score a response as people would; PPO and best-of-n need one."""

    pooling: str = option(
        Pooling.MEAN.value,
        choices=tuple(pooling.value for pooling in Pooling),
        label="Pooling",
        help="mean scores a response by the mean of what the model says of each of its tokens, "
        "from which small models learn far more; last by its last token alone, as most published "
        "reward models do.",
    )
    margin_weight: float = option(
        0.0,
        minimum=0.0,
        maximum=1.0,
        is_main=True,
        label="Margin weight",
        help="How far apart a pair's scores must be for its loss to be small: this much for each "
        "step of people's strength. 0 looks at who won only.",
    )
    tie_weight: float = option(
        0.0,
        minimum=0.0,
        maximum=1.0,
        label="Tie weight",
        help="Pulls the scores of responses that people called equal together, weighted so "
        "against a decided pair.",
    )
    centering: float = option(
        0.01,
        minimum=0.0,
        maximum=1.0,
        label="Centring",
        help="Keeps the scores around 0, so that those of different prompts can be compared.",
    )
    watch_share: float = option(
        0.5,
        minimum=0.0,
        maximum=0.5,
        label="Share for the watch",
        help="This share of the conversations trains a second model, from which no policy learns: "
        "where its scores fall while the reward rises, the reward is being exploited. Few pairs "
        "are not divided; 0 keeps no second model, and all pairs for the first.",
    )

    EPOCHS: ClassVar[tuple[int, int, int]] = (2, 2, 1)  # more makes it over-confident
    FEWEST_TO_DIVIDE: ClassVar[int] = 300  # a share of fewer teaches too little to tell anything by

    def divided_share(self, rows: int) -> float:
        """The share of so many rows to learn from that is really kept for the second model."""
        return self.watch_share if rows >= self.FEWEST_TO_DIVIDE else 0.0

    def rows_of_second(self, rows: int) -> int:
        """How many of a snapshot's rows are kept for the second model; 0 where there is none."""
        return round(rows * self.divided_share(round(rows * (1 - self.eval_share))))

    @classmethod
    def preset(cls, rows: int, *, parameters: int | None, tuning: str) -> Self:
        """Defaults for what so many rows leave the first model, where they are divided."""
        learned = rows - round(rows * cls().divided_share(rows))
        return super().preset(learned, parameters=parameters, tuning=tuning)

    def of_second(self, rows: int) -> Self:
        """The second model's: as often and in as small batches as suit its rows."""
        usual = super().preset(rows, parameters=None, tuning=self.tuning)
        return replace(
            self,
            epochs=max(self.epochs, usual.epochs),
            batch_size=min(self.batch_size, usual.batch_size),
            trackers="",
        )
