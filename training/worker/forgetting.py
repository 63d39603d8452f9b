"""What a policy forgets: how surprised it is by text that it was not trained on, before and after.

That is general text where the run directory holds some, `data/general.parquet` with a column
`messages` whose last one is the assistant's; otherwise what the policy itself wrote before.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet  # type: ignore[import-untyped]

from training.loading import context_length
from training.worker import evaluate
from training.worker.encoding import Encoder
from training.worker.evaluate import Scored
from training.worker.failures import BadData
from training.worker.job import Job
from training.worker.models import Trainee

GENERAL = "data/general.parquet"


class Forgetting(NamedTuple):
    """Mean loss of a token, in nats, on `general` text or on the policy's `own` from before."""

    on: str
    rows: int
    tokens: int
    loss_before: float
    loss_after: float


def measure(job: Job, trainee: Trainee, own: Sequence[Scored]) -> Forgetting:
    """The loss of both policies; `own` are responses of the policy before, at least one."""
    path = job.run_dir.path / GENERAL
    general = _read(path, trainee) if path.exists() else []
    rows = general or own
    found = evaluate.compare_likelihoods(trainee, rows, job.stop)
    assert found is not None
    return Forgetting("general" if general else "own", *found)


def _read(path: Path, trainee: Trainee) -> list[Scored]:
    """The rows that fit into the model's context. Raises `BadData`."""
    try:
        rows = pyarrow.parquet.read_table(path, columns=["messages"]).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise BadData("{path} cannot be read: {error}", path=path, error=error) from error
    encoder = Encoder(trainee.tokenizer, trainee.model)
    encoded = [encoder.encode(row["messages"][:-1], row["messages"][-1:]) for row in rows]
    room = context_length(trainee.model)
    return [
        Scored(row.ids, len(row.prompt_ids))
        for row in encoded
        if row.completion_ids and (room is None or len(row.ids) <= room)
    ]
