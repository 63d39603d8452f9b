"""Options of the methods that learn from a reward model's scores of their own responses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from training.methods.trainer_options import TuningOptions
from training.options import SpecError, option
from training.tuning import suggested_learning_rate


def max_new_tokens_option() -> int:
    """The longest response while training."""
    tokens: int = option(
        128,
        minimum=1,
        maximum=4096,
        label="Response length",
        help="Longest response, in tokens, while training.",
    )
    return tokens


def missing_eos_penalty_option() -> float:
    """What not coming to an end costs, in standard deviations of the reward model's scores."""
    penalty: float = option(
        1.0,
        minimum=0.0,
        maximum=100.0,
        label="Penalty for no end",
        help="Taken off the score of a response that did not end by itself.",
    )
    return penalty


def iterations_option(default: int) -> int:
    """Rounds of answering and learning."""
    iterations: int = option(
        default,
        minimum=1,
        maximum=100000,
        is_main=True,
        label="Iterations",
        help="How often the policy answers a batch of prompts and learns from the scores.",
    )
    return iterations


def kl_coefficient_option(default: float) -> float:
    """The price of distance to the reference."""
    coefficient: float = option(
        default,
        minimum=0.0,
        maximum=10.0,
        is_main=True,
        label="KL coefficient",
        help="Reward points that a nat of distance to the reference policy costs: higher stays "
        "closer to it. Reward hacking shows as KL that grows while responses get worse.",
    )
    return coefficient


def inner_epochs_option(default: int) -> int:
    """Passes over the same responses."""
    epochs: int = option(
        default,
        minimum=1,
        maximum=20,
        label="Inner epochs",
        help="How often each iteration's responses are learned from.",
    )
    return epochs


def batch_size_option(default: int) -> int:
    """Responses in one forward pass."""
    size: int = option(
        default,
        minimum=1,
        maximum=1024,
        label="Batch size",
        help="Responses that go through the model at once. Lower it when memory runs out: the "
        "result stays the same.",
    )
    return size


def save_steps_option(default: int) -> int:
    """How much of a run may be lost."""
    steps: int = option(
        default,
        minimum=1,
        maximum=100000,
        label="Checkpoint every",
        help="Iterations between checkpoints, from which an interrupted run resumes.",
    )
    return steps


def watch_steps_option(unit: str = "Iterations") -> int:
    """How often the second reward model looks."""
    steps: int = option(
        5,
        minimum=0,
        maximum=100000,
        label="Watch every",
        help=f"{unit} between looks for over-optimisation: the test prompts are answered, and "
        "scored by the reward model and by the second one that it was trained with, if it was. 0 "
        "does not look.",
    )
    return steps


@dataclass(frozen=True)
class OnlineOptions(TuningOptions):
    """Base of the methods that answer prompts and learn from how the answers are scored.

    Several responses to the same prompt are compared with each other, so that no value function is
    needed. Scores are in standard deviations of the reward model's.
    """

    iterations: int = iterations_option(40)
    prompts: int = option(
        16,
        minimum=1,
        maximum=4096,
        is_main=True,
        label="Prompts per iteration",
        help="More of them make each step surer and each iteration longer.",
    )
    generations: int = option(
        4,
        minimum=2,
        maximum=256,
        is_main=True,
        label="Responses per prompt",
        help="Responses to the same prompt, each of which is compared with the others.",
    )
    beta: float = kl_coefficient_option(0.05)
    inner_epochs: int = inner_epochs_option(1)
    clip_range: float = option(
        0.2,
        minimum=0.01,
        maximum=1.0,
        label="Policy clip",
        help="How far a probability may move, relatively, before it stops counting. Matters from "
        "the second inner epoch on.",
    )
    batch_size: int = batch_size_option(32)
    missing_eos_penalty: float = missing_eos_penalty_option()
    max_new_tokens: int = max_new_tokens_option()
    save_steps: int = save_steps_option(10)
    watch_steps: int = watch_steps_option()

    @property
    def responses(self) -> int:
        """Responses per iteration."""
        return self.prompts * self.generations

    @classmethod
    def preset(cls, rows: int, *, parameters: int | None, tuning: str) -> Self:  # noqa: ARG003
        """Defaults for a model of this size; an iteration asks for as many prompts as it needs."""
        return cls(learning_rate=suggested_learning_rate(parameters, tuning), tuning=tuning)

    def check_together(self) -> None:
        super().check_together()
        if self.responses % self.batch_size:
            raise SpecError(
                "batch_size",
                self.batch_size,
                "must divide the {responses} responses of an iteration",
                responses=self.responses,
            )
