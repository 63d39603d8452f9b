"""Options of Proximal Policy Optimisation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from training.methods.online_options import (
    batch_size_option,
    inner_epochs_option,
    iterations_option,
    kl_coefficient_option,
    max_new_tokens_option,
    missing_eos_penalty_option,
    save_steps_option,
    watch_steps_option,
)
from training.methods.process_options import ProcessOptions
from training.methods.trainer_options import LOW_RANK_TUNINGS, TuningOptions, tuning_option
from training.options import SpecError, option
from training.tuning import suggested_learning_rate


@dataclass(frozen=True)
class PPOOptions(ProcessOptions, TuningOptions):
    """Proximal Policy Optimisation (Schulman et al. 2017): learns from a reward model's scores."""

    learning_rate: float = option(
        1e-4,
        minimum=1e-7,
        maximum=0.1,
        is_main=True,
        label="Learning rate",
        help="Step size of Adam at the start; it falls to 0 in a straight line. The preset follows "
        "the size of the model. Lower it when approximate KL or the clipped share jumps.",
    )
    value_learning_rate: float = option(
        1e-4,
        minimum=1e-7,
        maximum=0.1,
        label="Value learning rate",
        help="The same for the value function, which starts as a copy of the reward model.",
    )
    iterations: int = iterations_option(60)
    tuning: str = tuning_option(
        LOW_RANK_TUNINGS,
        why="the models of PPO share one base as low-rank adapters, and neither virtual tokens nor "
        "a changed base can be beside them",
    )
    rollouts: int = option(
        64,
        minimum=2,
        maximum=16384,
        is_main=True,
        label="Responses per iteration",
        help="More of them make each step surer and each iteration longer.",
    )
    minibatch_size: int = option(
        32,
        minimum=1,
        maximum=16384,
        label="Minibatch size",
        help="Responses per optimiser step.",
    )
    micro_batch_size: int = batch_size_option(8)
    ppo_epochs: int = inner_epochs_option(2)
    kl_coef: float = kl_coefficient_option(0.2)
    kl_target: float = option(
        0.0,
        minimum=0.0,
        maximum=1000.0,
        is_main=True,
        label="KL target",
        help="Distance to the reference, in nats per response, that the coefficient is steered "
        "towards; 0 keeps the coefficient fixed.",
    )
    kl_horizon: int = option(
        2000,
        minimum=1,
        maximum=10_000_000,
        label="KL horizon",
        help="Responses over which the coefficient follows; a long horizon steers slowly.",
    )
    clip_range: float = option(
        0.2,
        minimum=0.01,
        maximum=1.0,
        label="Policy clip",
        help="How far the probability of a token may move, relatively, before it stops counting.",
    )
    value_clip_range: float = option(
        0.2,
        minimum=0.01,
        maximum=100.0,
        label="Value clip",
        help="How far a value may move in an iteration, in reward points.",
    )
    gamma: float = option(
        1.0,
        minimum=0.0,
        maximum=1.0,
        label="Discount",
        help="Weight of a later token's reward for each token in between; 1 is usual for text.",
    )
    lam: float = option(
        0.95,
        minimum=0.0,
        maximum=1.0,
        label="GAE lambda",
        help="1 trusts the rewards alone, 0 the value function alone.",
    )
    missing_eos_penalty: float = missing_eos_penalty_option()
    whiten_rewards: bool = option(
        False,
        label="Whiten rewards",
        help="Divide the rewards of each iteration by their standard deviation, so that the step "
        "does not depend on the scale of the reward model.",
    )
    target_approx_kl: float = option(
        0.1,
        minimum=0.0,
        maximum=10.0,
        label="Stop inner epochs at",
        help="Mean distance of a token to the policy that drew it, in nats, from which an "
        "iteration stops learning from its responses; 0 never stops.",
    )
    max_new_tokens: int = max_new_tokens_option()
    save_steps: int = save_steps_option(5)
    watch_steps: int = watch_steps_option()

    SMALL: ClassVar[int] = 100_000_000
    LARGE: ClassVar[int] = 1_000_000_000

    @classmethod
    def preset(cls, rows: int, *, parameters: int | None, tuning: str) -> Self:  # noqa: ARG003
        """Defaults for a model of this size: a small one is trained on a CPU, in minutes."""
        rate = suggested_learning_rate(parameters, tuning)
        chosen = cls(learning_rate=rate, value_learning_rate=rate, tuning=tuning)
        if parameters is None:
            return chosen
        if parameters < cls.SMALL:
            return replace(chosen, iterations=40, rollouts=48, minibatch_size=24)
        if parameters > cls.LARGE:
            return replace(chosen, rollouts=128, minibatch_size=64, gradient_checkpointing=True)
        return chosen

    def check_together(self) -> None:
        super().check_together()
        if self.is_spread:
            raise SpecError(
                "accelerate_config",
                self.accelerate_config,
                "PPO holds the whole model in each process: it cannot be spread. Name a "
                "configuration of several whole processes",
            )
        if self.minibatch_size > self.rollouts:
            raise SpecError(
                "minibatch_size",
                self.minibatch_size,
                "must not exceed the {rollouts} responses per iteration",
                rollouts=self.rollouts,
            )
