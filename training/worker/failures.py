"""Why a trainer stops early, in names that a person can act on.

WorkerError
├── BadData           the snapshot cannot be trained on
│   └── AllTested     all of it asks what the result is tested with
├── ModelUnusable     the base model or the parent adapter cannot be loaded or trained
├── Diverged          the loss or the gradient is no longer a number
└── Cancelled         a signal asked the trainer to stop; no failure
"""

from __future__ import annotations

import traceback
from pathlib import Path

from training.messages import Message, MessageError
from training.options import SpecError
from training.rundir import UNEXPECTED, Failure
from training.shortages import LESS_MEMORY, is_disk_full, is_out_of_memory

# Where the libraries that train call those that keep metrics.
_TRACKING = ("transformers/integrations/integration_utils.py", "accelerate/tracking.py")


class WorkerError(MessageError):
    """A failure with a stable name and something to do about it."""

    name = UNEXPECTED
    advice = "Read log.txt in the run's folder; resume the run, or start it again."


class BadData(WorkerError):
    """The snapshot cannot be trained on."""

    name = "bad_data"
    advice = "Collect more judgments, or raise 'Longest row', then start a new run."


class AllTested(BadData):
    """All of the snapshot asks what the result is tested with."""

    name = "all_tested"
    advice = "Import other prompts in the Prompts tab, or judge other ones, then start a new run."


class ModelUnusable(WorkerError):
    """The base model or the parent adapter cannot be loaded or trained."""

    name = "model_load"
    advice = "Check that the folder is complete and that the adapter belongs to this base model."


class Diverged(WorkerError):
    """The loss or the gradient is no longer a number."""

    name = "nan_loss"
    advice = (
        "Halve the learning rate or raise beta and start again. If it happens at the first step, "
        "the base model or the parent adapter holds broken weights."
    )


class Cancelled(BaseException):
    """A signal asked the trainer to stop. Libraries that catch `Exception` must not swallow it."""


def describe(error: BaseException) -> Failure:
    """The name, message and advice of anything that ended a trainer."""
    if isinstance(error, WorkerError):
        return _failure(error.name, error.message, error.advice)
    if isinstance(error, SpecError):
        return _failure("bad_spec", error.message, "Correct that option and start a new run.")
    if is_disk_full(error):
        advice = "Free some space, then resume the run: it continues from its last checkpoint."
        return _failure("disk_full", Message("The disk is full: {error}", _of(error)), advice)
    if is_out_of_memory(error):
        what = Message("Memory ran out: {error}", _of(error))
        return _failure("out_of_memory", what, LESS_MEMORY)
    if _is_of_a_tracker(error):
        advice = "Check its settings and its server, or take it out of 'Trackers' in a new run."
        what = Message("A tracker refused the metrics: {error}", _of(error))
        return _failure("tracker", what, advice)
    where = traceback.extract_tb(error.__traceback__)[-1:]
    at = f" (in {Path(where[0].filename).name}:{where[0].lineno})" if where else ""
    what = Message("{error}", {"error": f"{type(error).__name__}: {error}{at}"})
    return _failure(WorkerError.name, what, WorkerError.advice)


def _failure(name: str, message: Message, advice: str) -> Failure:
    return Failure(name, str(message), advice, message.to_json())


def _of(error: BaseException) -> dict[str, object]:
    return {"error": str(error)}


def _is_of_a_tracker(error: BaseException) -> bool:
    passed = traceback.extract_tb(error.__traceback__)
    return any(Path(frame.filename).as_posix().endswith(_TRACKING) for frame in passed)
