"""Group Relative Policy Optimisation (Shao et al. 2024), with TRL's trainer.

python -m training.worker RUN_DIR        # spec.json says method "grpo"
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trl import GRPOConfig, GRPOTrainer

from training.methods.grpo import GRPOOptions
from training.worker import online
from training.worker.job import Job


class DrawingGRPOTrainer(online.OnlineTrainer, GRPOTrainer):  # type: ignore[misc]  # no types
    """TRL's trainer on responses that are drawn by us."""

    def _generate_single_turn(
        self, prompt_ids: Sequence[Any], *_: Any
    ) -> tuple[list[list[int]], None]:
        return self.draw(prompt_ids), None


def train(job: Job) -> Mapping[str, Any]:
    """Train, measure, and leave the adapter in `adapter.partial`; see `online.train`."""
    options = job.spec.options
    assert isinstance(options, GRPOOptions)
    arguments = GRPOConfig(
        **online.trainer_arguments(job, options),
        loss_type=options.loss_type,
        scale_rewards=options.scale_rewards,
    )
    return online.train(job, options, DrawingGRPOTrainer, arguments)
