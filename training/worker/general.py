"""General demonstrations: what a policy should keep knowing, for runs that learn something else.

They lie in the run directory in TRL's columns, `prompt` and `completion`. Some may be replayed; the
others, of other conversations, tell what was forgotten. Which is which depends alone on how each of
them and its twins open, so that what one run has replayed, no other is measured on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from training.config import GENERAL
from training.general import HELD_OUT_SHARE, rows_to_replay
from training.methods import LearnsFrom
from training.methods.trainer_options import ReplayOptions
from training.worker import data, fitting
from training.worker.data import Split
from training.worker.decontamination import tested_prompts
from training.worker.encoding import Encoded, Encoder
from training.worker.job import Job
from training.worker.models import Loaded


class Replay(NamedTuple):
    """Demonstrations to learn once more, and the place of each in their file."""

    rows: list[Encoded]
    numbers: list[int]


def read(job: Job) -> Split:
    """What may be replayed and what is measured on; empty where the run was given nothing.

    Raises `BadData`.
    """
    path = job.run_dir.path / GENERAL
    if not path.exists():
        return Split([], [])
    rows = data.read_rows(path, LearnsFrom.DEMONSTRATIONS)
    split = data.split_by_conversation(rows, HELD_OUT_SHARE)
    return split._replace(train=data.without_test_prompts(split.train, tested_prompts(job)))


def draw_replay(job: Job, options: ReplayOptions, loaded: Loaded, *, learned: int) -> Replay:
    """As many as make up the replayed share beside `learned` rows, each of them once an epoch.

    Tells where there are fewer. Raises `BadData`.
    """
    wanted = rows_to_replay(options.replay_share, learned)
    if wanted == 0:
        return Replay([], [])
    fitting_rows = _that_fit(read(job).train, options, loaded)
    if len(fitting_rows) < wanted:
        _warn(job, options, found=len(fitting_rows), wanted=wanted)
    count = min(wanted, len(fitting_rows))
    order = data.shuffled_passes(len(fitting_rows), count, seed=job.spec.seed)
    chosen = [fitting_rows[at] for at in order]
    return Replay([encoded for _, encoded in chosen], [number for number, _ in chosen])


def _that_fit(
    rows: Sequence[data.Row], options: ReplayOptions, loaded: Loaded
) -> list[tuple[int, Encoded]]:
    encoder = Encoder(loaded.tokenizer, loaded.model)
    limit = fitting.longest_row(loaded.model, options)
    encoded = ((row.number, encoder.encode(row.prompt, row.values["completion"])) for row in rows)
    return [(number, row) for number, row in encoded if len(row.ids) <= limit]


def _warn(job: Job, options: ReplayOptions, *, found: int, wanted: int) -> None:
    percent = round(100 * options.replay_share)
    if found == 0:
        job.warn(
            "Nothing is replayed against forgetting: the run was given no general demonstrations."
        )
        return
    job.warn(
        "All {found} general demonstrations are replayed; {percent} % would be {wanted}.",
        found=found,
        percent=percent,
        wanted=wanted,
    )
