"""Where a trainer's metrics go beside its events: TensorBoard files, and what else was chosen.

The names are those of transformers' Trainer, so that runs of all methods stand side by side.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Self

from accelerate.tracking import (
    GeneralTracker,
    MLflowTracker,
    TensorBoardTracker,
    TrackioTracker,
    WandBTracker,
)

from training.methods.trainer_options import TuningOptions
from training.tracking import Tracker
from training.worker.job import Job

PROJECT = "whetstone"


def trainer_arguments(job: Job, options: TuningOptions) -> dict[str, Any]:
    """Arguments that make transformers' Trainer report; where to, it reads from the environment."""
    _prepare(job)
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(job.run_dir.tensorboard)
    os.environ.setdefault("WANDB_PROJECT", PROJECT)
    os.environ.setdefault("MLFLOW_EXPERIMENT_NAME", PROJECT)
    return {
        "report_to": [tracker.value for tracker in options.tracked_by],
        "run_name": job.spec.run_id,
        "project": PROJECT,
    }


class Trackers:
    """The same trackers for a recipe that is not built on that Trainer."""

    def __init__(self, trackers: list[GeneralTracker]) -> None:
        self._trackers = trackers
        for tracker in trackers:
            tracker.start()

    @classmethod
    def of(cls, job: Job, options: TuningOptions) -> Self:
        """Those that were chosen; of several processes only the first one has any."""
        _prepare(job)
        return cls([_tracker(job, t) for t in options.tracked_by] if job.is_main else [])

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Metrics of a step."""
        named = {f"train/{name}": value for name, value in metrics.items()}
        for tracker in self._trackers:
            tracker.log(named, step=step)

    def close(self) -> None:
        """Write out what is left, and say that the run is over."""
        for tracker in self._trackers:
            tracker.finish()


def _prepare(job: Job) -> None:
    """What wandb keeps on this machine goes into the run's folder, not where the server started."""
    os.environ.setdefault("WANDB_DIR", str(job.run_dir.path))


def _tracker(job: Job, tracker: Tracker) -> GeneralTracker:
    name = job.spec.run_id
    if tracker is Tracker.TENSORBOARD:
        return TensorBoardTracker(job.run_dir.tensorboard.name, logging_dir=job.run_dir.path)
    if tracker is Tracker.MLFLOW:
        return MLflowTracker(PROJECT, run_name=name)
    library = {Tracker.TRACKIO: TrackioTracker, Tracker.WANDB: WandBTracker}[tracker]
    return library(PROJECT, name=name)
