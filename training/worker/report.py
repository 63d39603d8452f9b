"""Turns what transformers' Trainer tells its callbacks into events, checkpoints and stops."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import reduce
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.events import EventKind
from training.worker.failures import Diverged
from training.worker.job import Job, StopRequest

PROGRESS_EVERY_S = 0.5

METRIC_NAMES = {
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "entropy": "entropy",
    "score": "score",
    "rewarded": "reward",
    "ended": "ended",
    "kl": "kl",
    "kl_penalty": "kl_penalty",
    "objective": "objective",
    "completions/mean_length": "length",
    "clip_ratio/region_mean": "clip_fraction",
    "rewards/accuracies": "accuracy",
    "rewards/margins": "margin",
    "accuracy": "accuracy",
    "margin": "margin",
    "rewards/chosen": "reward_chosen",
    "rewards/rejected": "reward_rejected",
}


class Reporter(TrainerCallback):  # type: ignore[misc]  # the library has no types
    """Writes events, ends a training that diverged or was asked to stop, seals checkpoints.

    `epochs` is what people asked for; the Trainer may see them as one long epoch. `on_checkpoint`
    adds a recipe's own state to a checkpoint before it counts as complete.
    """

    def __init__(
        self, job: Job, *, epochs: float, on_checkpoint: Callable[[Path], None] = lambda _: None
    ) -> None:
        self._job = job
        self._epochs = epochs
        self._on_checkpoint = on_checkpoint
        self._progress_at = -math.inf
        self.first_step_at: float | None = None
        self.last_metrics: Mapping[str, Any] = {}

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Progress, and the one place where a wish to stop is granted, in all processes at once."""
        now = time.monotonic()
        is_first = self.first_step_at is None
        is_last = state.global_step >= state.max_steps
        if is_first:
            self.first_step_at = time.time()
        if is_first or is_last or now - self._progress_at >= PROGRESS_EVERY_S:
            self._progress_at = now
            step, total = state.global_step, state.max_steps
            epoch = self._epochs * step / max(total, 1)
            self._job.events.write(
                EventKind.PROGRESS, step=step, total=total, epoch=epoch, first_step=is_first
            )
        if args.world_size > 1:
            _agree_to_stop(self._job.stop, args.device)
        if self._job.stop.is_set:
            control.should_training_stop = True
            control.should_save = True

    def on_log(
        self,
        _args: TrainingArguments,
        state: TrainerState,
        _control: TrainerControl,
        logs: Mapping[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Every step's metrics. Raises `Diverged`."""
        metrics = rename_metrics(logs or {})
        if not metrics:
            return
        self._job.events.write(EventKind.METRICS, step=state.global_step, **metrics)
        for name in ("loss", "grad_norm"):
            if not math.isfinite(metrics.get(name, 0.0)):
                raise Diverged(
                    "The {name} became {value} at step {step}.",
                    name=name,
                    value=metrics[name],
                    step=state.global_step,
                )
        if "loss" in metrics:
            self.last_metrics = metrics

    def on_save(
        self, _args: TrainingArguments, state: TrainerState, _control: TrainerControl, **_: Any
    ) -> None:
        """Mark the checkpoint as whole, last of all."""
        if not self._job.is_main:
            return
        folder = self._job.run_dir.checkpoints / f"checkpoint-{state.global_step}"
        self._on_checkpoint(folder)
        (folder / "complete").touch()


def _agree_to_stop(stop: StopRequest, device: torch.device) -> None:
    """A wish that reached any process reaches all: one that stopped alone would block the rest."""
    if reduce(torch.tensor(float(stop.is_set), device=device), reduction="sum") > 0:
        stop.signal.set()


def rename_metrics(logs: Mapping[str, Any]) -> dict[str, float]:
    """The Trainer's names in ours; what it measured on held-out pairs gets `held_out_`."""
    renamed = {}
    for name, value in logs.items():
        prefix = "held_out_" if name.startswith("eval_") else ""
        if ours := METRIC_NAMES.get(name.removeprefix("eval_")):
            renamed[prefix + ours] = float(value)
    return renamed
