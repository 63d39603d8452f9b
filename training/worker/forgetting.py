"""What a policy forgets: how surprised it is by text that it was not trained on, before and after.

That is held-out general demonstrations where the run was given some, otherwise what the policy
itself wrote before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from training.loading import context_length
from training.worker import evaluate, general
from training.worker.encoding import Encoder
from training.worker.evaluate import Scored
from training.worker.job import Job
from training.worker.models import Trainee


class Forgetting(NamedTuple):
    """Mean loss of a token, in nats, on `general` text or on the policy's `own` from before."""

    on: str
    rows: int
    tokens: int
    loss_before: float
    loss_after: float


def measure(job: Job, trainee: Trainee, own: Sequence[Scored]) -> Forgetting | None:
    """The loss of both policies; `own` are responses of the policy before. None without any text.

    Raises `BadData`.
    """
    held_out = _held_out(job, trainee)
    found = evaluate.compare_likelihoods(trainee, held_out or own, job.stop)
    return Forgetting("general" if held_out else "own", *found) if found else None


def _held_out(job: Job, trainee: Trainee) -> list[Scored]:
    """The rows that fit into the model's context."""
    encoder = Encoder(trainee.tokenizer, trainee.model)
    rows = (encoder.encode(r.prompt, r.values["completion"]) for r in general.read(job).held_out)
    room = context_length(trainee.model)
    return [
        Scored(row.ids, len(row.prompt_ids))
        for row in rows
        if row.completion_ids and (room is None or len(row.ids) <= room)
    ]
