"""Options that methods share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

from training import tracking
from training.options import MethodOptions, SpecError, option
from training.tracking import Tracker
from training.tuning import (
    Tuning,
    is_quantization_installed,
    rounded,
    suggested_learning_rate,
)

ALL_TUNINGS = tuple(tuning.value for tuning in Tuning)
LOW_RANK_TUNINGS = (Tuning.LORA.value, Tuning.DORA.value, Tuning.RSLORA.value, Tuning.QLORA.value)
VIRTUAL_TOKEN_TUNINGS = (Tuning.PREFIX.value, Tuning.PROMPT.value)


def tuning_option(choices: tuple[str, ...] = ALL_TUNINGS, *, why: str = "") -> str:
    """The choice of what is tuned, among those that suit a method; `why` not the others."""
    chosen: str = option(
        Tuning.LORA.value,
        choices=choices,
        why=why,
        is_main=True,
        label="Tuning",
        help="Which weights change. LoRA is small and can be swapped live; DoRA and rsLoRA are its "
        "variants, QLoRA holds the base in 4 bits; prefix and prompt tuning learn virtual tokens; "
        "full tuning changes every weight and needs by far the most memory.",
    )
    return chosen


def learning_rate_option(default: float = 5e-4) -> float:
    """AdamW's peak step size."""
    rate: float = option(
        default,
        minimum=1e-8,
        maximum=0.5,
        is_main=True,
        label="Learning rate",
        help="Peak step size of AdamW. The preset follows the size of the model and of the data, "
        "the method and the tuning. Lower it when the loss jumps.",
    )
    return rate


def beta_option() -> float:
    """How strongly a preference loss holds the policy to its reference."""
    beta: float = option(
        0.1,
        minimum=0.001,
        maximum=10.0,
        is_main=True,
        label="Beta",
        help="Pull towards the reference policy: higher stays closer to it.",
    )
    return beta


@dataclass(frozen=True)
class TuningOptions(MethodOptions):
    """Base of all methods: what is tuned and how fast, and how the result is shown."""

    learning_rate: float = learning_rate_option()
    tuning: str = tuning_option()
    lora_r: int = option(
        16,
        minimum=1,
        maximum=256,
        only_with=("tuning", LOW_RANK_TUNINGS),
        label="LoRA rank",
        help="Size of a fresh adapter; a run that continues from an adapter keeps that one's rank.",
    )
    lora_alpha: int = option(
        32,
        minimum=1,
        maximum=1024,
        only_with=("tuning", LOW_RANK_TUNINGS),
        label="LoRA alpha",
        help="Scale of a fresh adapter; twice the rank is usual.",
    )
    virtual_tokens: int = option(
        20,
        minimum=1,
        maximum=512,
        only_with=("tuning", VIRTUAL_TOKEN_TUNINGS),
        label="Virtual tokens",
        help="Size of a prefix or of a soft prompt; they take room in the model's context.",
    )
    max_grad_norm: float = option(
        1.0,
        minimum=0.01,
        maximum=100.0,
        label="Gradient clip",
        help="Longest gradient that one step may follow.",
    )
    gradient_checkpointing: bool = option(
        False,
        label="Gradient checkpointing",
        help="Saves memory on large models; each step takes about a third longer.",
    )
    eval_generations: int = option(
        48,
        minimum=0,
        maximum=1000,
        label="Test prompts",
        help="Held-out prompts answered by the old and the new policy after training.",
    )
    sample_tokens: int = option(
        128,
        minimum=1,
        maximum=4096,
        label="Test response length",
        help="Longest response, in tokens, to a test prompt.",
    )
    trackers: str = option(
        Tracker.TENSORBOARD.value,
        choices=tracking.ALL,
        offered=tracking.INSTALLED,
        is_list=True,
        label="Trackers",
        help="Where the metrics go as well. tensorboard writes files into the run's folder; "
        "trackio, wandb and mlflow are offered where they are installed, and keep to their own "
        "settings.",
    )

    @property
    def soft_prompt(self) -> int:
        """Virtual tokens that go through the model before each sequence; a prefix's do not."""
        return self.virtual_tokens if Tuning(self.tuning) is Tuning.PROMPT else 0

    @property
    def tracked_by(self) -> list[Tracker]:
        """The trackers that are chosen."""
        return [Tracker(name) for name in self.trackers.split(",") if name]

    @property
    def needing_the_whole(self) -> tuple[str, ...]:
        return ("tuning",) if self.tuning in VIRTUAL_TOKEN_TUNINGS else ()

    def check_together(self) -> None:
        check_tuning(self.tuning, gradient_checkpointing=self.gradient_checkpointing)
        for tracker in self.tracked_by:
            if not tracker.is_installed:
                raise SpecError(
                    "trackers",
                    self.trackers,
                    "{tracker} is not installed here; install it, or leave it out",
                    tracker=tracker.value,
                )


@dataclass(frozen=True)
class TrainerOptions(TuningOptions):
    """Base of the methods that see rows of data, epoch by epoch."""

    epochs: int = option(
        3,
        minimum=1,
        maximum=50,
        is_main=True,
        label="Epochs",
        help="How often every row is seen. A large set needs fewer; watch the held-out loss for "
        "memorising.",
    )
    batch_size: int = option(
        16,
        minimum=1,
        maximum=512,
        label="Batch size",
        help="Rows in one forward pass; lower it when memory runs out.",
    )
    gradient_accumulation: int = option(
        1,
        minimum=1,
        maximum=256,
        label="Gradient accumulation",
        help="Batches per optimiser step; raise it when you lower the batch size.",
    )
    max_length: int = option(
        512,
        minimum=16,
        maximum=131072,
        label="Longest row",
        help="Tokens of prompt and response together; longer rows are left out and counted.",
    )
    warmup: float = option(
        0.1,
        minimum=0.0,
        maximum=0.5,
        label="Warm-up",
        help="Share of the steps over which the learning rate rises to its peak.",
    )
    eval_share: float = option(
        0.15,
        minimum=0.0,
        maximum=0.5,
        label="Held-out share",
        help="About this share of the conversations is kept out of training, to measure the "
        "result. They stay the same from run to run while the share does.",
    )
    evaluations: int = option(
        4,
        minimum=0,
        maximum=100,
        label="Held-out measurements",
        help="How often the held-out rows are measured while training, to see over-fitting as it "
        "begins.",
    )
    patience: int = option(
        0,
        minimum=0,
        maximum=100,
        label="Patience",
        help="Stop after this many measurements without a better held-out loss, and keep the best; "
        "0 trains to the end. It must be less than the number of measurements. With it a "
        "checkpoint is kept at each measurement, whatever 'Checkpoint every' says.",
    )
    weight_decay: float = option(
        0.0,
        minimum=0.0,
        maximum=1.0,
        label="Weight decay",
        help="Shrinks what is trained at every step.",
    )
    save_steps: int = option(
        50,
        minimum=1,
        maximum=100000,
        label="Checkpoint every",
        help="Optimiser steps between checkpoints, from which an interrupted run resumes.",
    )

    SMALL: ClassVar[int] = 200
    LARGE: ClassVar[int] = 1000
    RATE_FACTOR: ClassVar[float] = 1.0  # of this method's step size to DPO's
    EPOCHS: ClassVar[tuple[int, int, int]] = (5, 3, 2)  # for a small, a medium and a large set

    @classmethod
    def preset(cls, rows: int, *, parameters: int | None, tuning: str) -> Self:
        """The fewer rows there are, the gentler and the more often they are seen."""
        rate = cls.RATE_FACTOR * suggested_learning_rate(parameters, tuning)
        small, medium, large = cls.EPOCHS
        if rows < cls.SMALL:
            return cls(
                learning_rate=rounded(0.75 * rate), epochs=small, batch_size=8, tuning=tuning
            )
        if rows <= cls.LARGE:
            return cls(learning_rate=rounded(rate), epochs=medium, batch_size=16, tuning=tuning)
        return cls(learning_rate=rounded(1.25 * rate), epochs=large, batch_size=32, tuning=tuning)

    def check_together(self) -> None:
        super().check_together()
        if self.patience and not (self.evaluations and self.eval_share):
            raise SpecError(
                "patience",
                self.patience,
                "needs held-out measurements and a held-out share above 0",
            )
        if self.patience and self.patience >= self.evaluations:
            raise SpecError(
                "patience",
                self.patience,
                "would never stop the training: it must be less than 'Held-out measurements', "
                "evaluations = {evaluations}",
                evaluations=self.evaluations,
            )


def replay_option(default: float, *, is_main: bool) -> Any:
    """How much is replayed against forgetting."""
    return option(
        default,
        minimum=0.0,
        maximum=0.9,
        is_main=is_main,
        label="Replayed share",
        help="This share of what is learned are general demonstrations, so that the policy forgets "
        "less of what it knew: earlier ones, those imported as general, and the base model's own. "
        "Where there are none, nothing is replayed.",
    )


@dataclass(frozen=True)
class ReplayOptions(TrainerOptions):
    """Base of the methods that can imitate general demonstrations beside what they learn from."""

    replay_share: float = replay_option(0.0, is_main=False)

    REPLAYS_AMONG_ROWS: ClassVar[bool] = False  # or in batches beside theirs

    @property
    def needing_the_whole(self) -> tuple[str, ...]:
        is_beside = self.replay_share > 0 and not self.REPLAYS_AMONG_ROWS
        return (*super().needing_the_whole, *(("replay_share",) if is_beside else ()))

    def rows_learned(self, rows: int) -> int:
        """About how many rows are learned, of a snapshot with so many."""
        return round(rows * (1 - self.eval_share))


@dataclass(frozen=True)
class ImitationOptions(ReplayOptions):
    """Base of the methods that learn completions token by token, where no reference holds them."""

    replay_share: float = replay_option(0.1, is_main=True)
    l2_to_start: float = option(
        0.0,
        minimum=0.0,
        maximum=1000.0,
        label="Pull to the start",
        help="Draws what is trained back to where it started, at every step by this much times the "
        "learning rate. 0.1 to 10 keeps more of what the policy could do before; 0 does nothing.",
    )

    REPLAYS_AMONG_ROWS: ClassVar[bool] = True

    @property
    def needing_the_whole(self) -> tuple[str, ...]:
        return (*super().needing_the_whole, *(("l2_to_start",) if self.l2_to_start else ()))


def check_tuning(tuning: str, *, gradient_checkpointing: bool) -> None:
    """Refuse what cannot work, before anything is loaded. Raises `SpecError`."""
    if tuning == Tuning.PREFIX and gradient_checkpointing:
        raise SpecError(
            "gradient_checkpointing",
            True,
            "does not work with prefix tuning, whose keys and values are no part of a recomputed "
            "layer; turn it off or choose LoRA",
        )
    if tuning == Tuning.QLORA and not is_quantization_installed():
        raise SpecError(
            "tuning",
            tuning,
            "needs the library bitsandbytes; install it, or choose lora",
        )
