"""Options of supervised fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from training.methods.process_options import ProcessOptions
from training.methods.trainer_options import ImitationOptions
from training.options import option


class LearnFrom(StrEnum):
    """Which rows of a snapshot of demonstrations are learned.

    ALL             what people wrote or imported, and what they liked best of what was shown
    DEMONSTRATIONS  only what people wrote or imported
    """

    ALL = "all"
    DEMONSTRATIONS = "demonstrations"


@dataclass(frozen=True)
class SFTOptions(ProcessOptions, ImitationOptions):
    """Supervised fine-tuning: learns to write as people wrote, token by token."""

    learn_from: str = option(
        LearnFrom.ALL.value,
        choices=tuple(source.value for source in LearnFrom),
        is_main=True,
        label="Learn from",
        help="all adds the best-liked response of each comparison to what people wrote or "
        "imported; demonstrations leaves it at the latter.",
    )

    earlier_turns: bool = option(
        False,
        label="Earlier turns too",
        help="Imitates each turn of the assistant in a conversation of several, not its last one "
        "alone. For conversations that people wrote throughout; elsewhere it teaches the policy "
        "what policies said.",
    )

    @property
    def only_kind(self) -> str | None:
        return "demonstration" if self.learn_from == LearnFrom.DEMONSTRATIONS else None

    RATE_FACTOR: ClassVar[float] = 0.5
    EPOCHS: ClassVar[tuple[int, int, int]] = (3, 2, 1)
