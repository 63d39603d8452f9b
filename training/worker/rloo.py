"""REINFORCE Leave-One-Out (Ahmadian et al. 2024), with TRL's trainer.

python -m training.worker RUN_DIR        # spec.json says method "rloo"
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trl import RLOOConfig, RLOOTrainer

from training.methods.rloo import RLOOOptions
from training.worker import online
from training.worker.job import Job


class DrawingRLOOTrainer(online.OnlineTrainer, RLOOTrainer):  # type: ignore[misc]  # no types
    """TRL's trainer on responses that are drawn by us."""

    def _generate_single_turn(self, prompt_ids: Sequence[Any], *_: Any) -> list[list[int]]:
        return self.draw(prompt_ids)


def train(job: Job) -> Mapping[str, Any]:
    """Train, measure, and leave the adapter in `adapter.partial`; see `online.train`."""
    options = job.spec.options
    assert isinstance(options, RLOOOptions)
    arguments = RLOOConfig(**online.trainer_arguments(job, options))
    return online.train(job, options, DrawingRLOOTrainer, arguments)
