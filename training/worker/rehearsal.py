"""General demonstrations that a trainer of preferences imitates beside its rows.

SFT has them among its rows. A preference loss has no place for them, so their likelihood loss is
added to it: the mixture of Ouyang et al. 2022 (their PPO-ptx), for the methods that TRL trains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from training.methods.trainer_options import ReplayOptions
from training.worker import data, fitting, general
from training.worker.encoding import IGNORED, Encoded
from training.worker.job import Job
from training.worker.models import Loaded


class Rehearsal(NamedTuple):
    """Demonstrations in the order in which they come, `per_row` of them beside each row learned."""

    rows: Sequence[Encoded]
    per_row: float

    def beside(self, first: int, count: int) -> Sequence[Encoded]:
        """Those that go with `count` rows, of which `first` have come before."""
        start, end = (int(self.per_row * rows + 1e-9) for rows in (first, first + count))
        return self.rows[start:end]


class Rehearsing:
    """Mixed into TRL's trainers of rows: their loss, and that of the demonstrations beside them.

    Each demonstration counts as much as a row does: the sum of both losses is taken over the rows.
    """

    rehearsal: Rehearsal | None = None
    _step, _within = -1, 0

    def compute_loss(
        self: Any, model: Any, inputs: Any, return_outputs: bool = False, *rest: Any, **more: Any
    ) -> Any:
        """TRL's loss while it measures, or has nothing to rehearse."""
        found = super().compute_loss(model, inputs, return_outputs, *rest, **more)  # type: ignore[misc]
        if self.rehearsal is None or not model.training:
            return found
        count = self.args.per_device_train_batch_size
        rows = self.rehearsal.beside(self._rows_before(count), count)
        if not rows:
            return found
        loss, *outputs = found if return_outputs else (found,)
        rehearsed = likelihood_loss(self.accelerator.unwrap_model(model), rows)
        self._metrics["train"]["replay_loss"].append(rehearsed.item())
        loss = loss + rehearsed * (len(rows) / count)
        return (loss, *outputs) if return_outputs else loss

    def _rows_before(self: Any, count: int) -> int:
        """Rows that all processes have had before this one's next batch, of `count` rows."""
        is_next = self._step == self.state.global_step
        self._step, self._within = self.state.global_step, self._within + 1 if is_next else 0
        batch = self._step * self.args.gradient_accumulation_steps + self._within
        return int((batch * self.args.world_size + self.args.process_index) * count)


def prepare(
    job: Job, options: ReplayOptions, loaded: Loaded, trainer: Rehearsing, counts: Mapping[str, int]
) -> dict[str, int]:
    """Draw what `trainer` is to rehearse in the epochs that `counts` tells of; returns its count.

    Raises `BadData`.
    """
    replay = general.draw_replay(job, options, loaded, learned=counts["train"])
    job.note_replayed_rows(replay.numbers)
    if replay.rows:
        # Some processes would have something to rehearse in a step where others have not.
        fitting.refuse_spread(trainer, "replay_share", options.replay_share)
        per_row = len(replay.rows) / counts["train"]
        length = int(per_row * counts["seen"]) + 1
        order = data.shuffled_passes(len(replay.rows), length, seed=job.spec.seed)
        trainer.rehearsal = Rehearsal([replay.rows[at] for at in order], per_row)
    return {"replayed": len(replay.rows)}


def likelihood_loss(model: Any, rows: Sequence[Encoded]) -> Tensor:
    """The mean of the completions' tokens, in nats: a scalar with its gradient."""
    width = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    attention, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for at, row in enumerate(rows):
        ids[at, : len(row.ids)] = torch.tensor(row.ids)
        attention[at, : len(row.ids)] = 1
        labels[at, : len(row.ids)] = torch.tensor(row.labels)
    given = {"input_ids": ids, "attention_mask": attention, "labels": labels}
    placed = {name: value.to(model.device) for name, value in given.items()}
    loss: Tensor = model(**placed, use_cache=False).loss
    return loss
