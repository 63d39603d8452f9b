"""Prompts to answer while training, as the token ids that the model is given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from training.loading import PromptRejected, render_prompt
from training.worker import data
from training.worker.decontamination import untested
from training.worker.failures import BadData
from training.worker.job import Job
from training.worker.models import Loaded


class Prompt(NamedTuple):
    """A row of the snapshot and its token ids, up to where the assistant's turn begins."""

    row: data.Row
    ids: list[int]


class Pool(NamedTuple):
    """The prompts that leave room for a response, and how many do not."""

    prompts: list[Prompt]
    too_long: int


def read(job: Job, loaded: Loaded, *, max_new_tokens: int, longest: int | None = None) -> Pool:
    """The snapshot's prompts without those of the test, in its order.

    Raises `BadData` when none is left, or none leaves room.

    With its response, a prompt has `longest` tokens at most, or as many as the model can read.
    """
    rows = untested(job, data.read_rows(job.run_dir.path / job.spec.data, job.method.learns_from))
    context = longest or loaded.context
    room = None if context is None else max(1, context - max_new_tokens)
    prompts = list(_rendered(rows, loaded.tokenizer, room))
    if not prompts:
        raise BadData(
            "None of the {rows} prompts leaves room for a response of {tokens} tokens.",
            rows=len(rows),
            tokens=max_new_tokens,
        )
    too_long = len(rows) - len(prompts)
    if too_long:
        job.warn("{too_long} prompts are too long and were left out.", too_long=too_long)
    return Pool(prompts, too_long)


def _rendered(
    rows: Sequence[data.Row], tokenizer: PreTrainedTokenizerBase, room: int | None
) -> Iterator[Prompt]:
    """Without the oldest turns of a long conversation."""
    for row in rows:
        try:
            yield Prompt(row, render_prompt(tokenizer, row.prompt, max_tokens=room))
        except PromptRejected:
            continue
