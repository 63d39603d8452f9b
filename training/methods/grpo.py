"""Options of Group Relative Policy Optimisation."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from training.methods.online_options import OnlineOptions
from training.options import option


class TokenWeight(StrEnum):
    """What a token's loss is divided by; the names are TRL's.

    DAPO     tokens of the batch (Yu et al. 2025)
    DR_GRPO  a constant (Liu et al. 2025)
    GRPO     tokens of its own response (Shao et al. 2024)
    """

    DAPO = "dapo"
    DR_GRPO = "dr_grpo"
    GRPO = "grpo"


class RewardScale(StrEnum):
    """What a reward's distance to its group's mean is divided by, by the names of TRL."""

    GROUP = "group"
    BATCH = "batch"
    NONE = "none"


@dataclass(frozen=True)
class GRPOOptions(OnlineOptions):
    """Group Relative Policy Optimisation (Shao et al. 2024): compares responses to a prompt."""

    loss_type: str = option(
        TokenWeight.DAPO.value,
        choices=tuple(weight.value for weight in TokenWeight),
        label="Loss",
        help="dapo and dr_grpo weigh every token alike; grpo, as first published, weighs every "
        "response alike, which favours short good and long bad ones.",
    )
    scale_rewards: str = option(
        RewardScale.GROUP.value,
        choices=tuple(scale.value for scale in RewardScale),
        label="Scale rewards by",
        help="The standard deviation of rewards within a prompt's responses (group), within the "
        "iteration (batch), or nothing (none). group gives prompts whose responses hardly differ "
        "as much say as the others.",
    )
