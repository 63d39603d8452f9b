"""What a run is tested with, kept out of what it learns from."""

from __future__ import annotations

from collections.abc import Sequence

from training.worker import data
from training.worker.data import Row
from training.worker.failures import AllTested
from training.worker.job import Job


def untested(job: Job, rows: Sequence[Row]) -> list[Row]:
    """Those that ask nothing that the run's test prompts ask, or nearly; tells how many others
    there are.

    Raises `AllTested` when none of some rows is left, `BadData`.
    """
    left = data.without_test_prompts(rows, tested_prompts(job))
    leaked = len(rows) - len(left)
    if leaked and not left:
        raise AllTested(
            "Nothing is left to learn from: all {rows} rows ask what the result is tested with, or "
            "nearly.",
            rows=len(rows),
        )
    if leaked:
        job.warn(
            "{leaked} rows ask what the result is tested with, or nearly; they were left out.",
            leaked=leaked,
        )
    return left


def tested_prompts(job: Job) -> list[data.Messages]:
    """What the run's test prompts say. Raises `BadData`."""
    asked = data.read_eval_prompts(job.run_dir.path / job.spec.eval_prompts)
    return [prompt["messages"] for prompt in asked]
