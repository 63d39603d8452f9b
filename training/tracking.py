"""Trackers that a run's metrics also go to, and which of them this machine has.

Imports none of them: what they do is the trainer's business (`training/worker/tracking.py`).
"""

from __future__ import annotations

from enum import StrEnum
from importlib.util import find_spec


class Tracker(StrEnum):
    """Where metrics go beside a run's events, by the names that the trainers give them.

    TENSORBOARD  files in the run's folder; the others send the metrics to wherever the library of
                 that name is set up to keep them
    """

    TENSORBOARD = "tensorboard"
    TRACKIO = "trackio"
    WANDB = "wandb"
    MLFLOW = "mlflow"

    @property
    def is_installed(self) -> bool:
        """Whether a library that writes for it can be imported."""
        libraries = ("tensorboard", "tensorboardX") if self is Tracker.TENSORBOARD else (self,)
        return any(find_spec(library) is not None for library in libraries)


ALL = tuple(tracker.value for tracker in Tracker)
INSTALLED = tuple(tracker.value for tracker in Tracker if tracker.is_installed)
