"""Options of Direct Preference Optimisation and its family."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from training.methods.process_options import ProcessOptions
from training.methods.trainer_options import ReplayOptions, TrainerOptions, beta_option
from training.options import SpecError, option


class LossType(StrEnum):
    """Losses of the DPO family, by the names that TRL gives them."""

    SIGMOID = "sigmoid"
    SIGMOID_NORM = "sigmoid_norm"
    ROBUST = "robust"
    IPO = "ipo"
    HINGE = "hinge"
    APO_ZERO = "apo_zero"


@dataclass(frozen=True)
class PairOptions(TrainerOptions):
    """Base of the methods that learn from pairs by a loss of the DPO family."""

    beta: float = beta_option()
    loss_type: str = option(
        LossType.SIGMOID.value,
        choices=tuple(loss.value for loss in LossType),
        is_main=True,
        label="Loss",
        help="sigmoid is DPO, sigmoid_norm does not count length; robust assumes that some "
        "judgments are flipped; ipo and hinge resist overfitting; apo_zero raises the chosen and "
        "lowers the rejected response.",
    )
    label_smoothing: float = option(
        0.0,
        minimum=0.0,
        maximum=0.49,
        label="Flipped judgments",
        help="Share of judgments believed to be the wrong way round; used by the robust loss only.",
    )
    sft_weight: float = option(
        0.0,
        minimum=0.0,
        maximum=10.0,
        label="Chosen likelihood weight",
        help="Adds this much of the plain likelihood loss of the chosen response; 0.1 to 1 keeps "
        "its likelihood from falling.",
    )

    def check_together(self) -> None:
        super().check_together()
        if self.label_smoothing > 0 and self.loss_type != LossType.ROBUST:
            raise SpecError(
                "label_smoothing",
                self.label_smoothing,
                "has no effect on the {loss} loss; choose robust, or set it to 0",
                loss=self.loss_type,
            )
        if self.label_smoothing == 0 and self.loss_type == LossType.ROBUST:
            raise SpecError(
                "label_smoothing",
                self.label_smoothing,
                "the robust loss needs the share of flipped judgments; 0.1 is usual",
            )


@dataclass(frozen=True)
class DPOOptions(ProcessOptions, PairOptions, ReplayOptions):
    """Direct Preference Optimisation (Rafailov et al. 2023): learns from pairs alone."""
