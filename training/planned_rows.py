"""Runs that read rows of data, epoch by epoch, as they would go."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from training.general import rows_replayable, rows_to_replay
from training.methods.trainer_options import ImitationOptions, ReplayOptions, TrainerOptions
from training.planned import PADDING, Pass, PlannedRun

MAX_HELD_OUT = 400


class Reading(NamedTuple):
    """How a method reads a row, which has `sequences`.

    Each is trained on once an epoch, looked at without gradients `looks` times an epoch and
    `first_looks` times in the first one (a reference that is remembered), and, if it is held out,
    `final_looks` times after training. With `answers` both policies answer test prompts; a method
    without `has_head` needs no logits.
    """

    sequences: int
    looks: int = 0
    first_looks: int = 0
    final_looks: int = 0
    answers: bool = True
    has_head: bool = True


READINGS: Mapping[str, Reading] = {
    "sft": Reading(1, final_looks=2),
    "dpo": Reading(2, first_looks=1, final_looks=2),
    "kto": Reading(1, looks=3),  # itself mismatched, and both under the reference
    "reward": Reading(2, final_looks=1, answers=False, has_head=False),
}


@dataclass(frozen=True)
class PlannedRows(PlannedRun):
    """A run of a method that reads rows so."""

    options: TrainerOptions
    reading: Reading

    @cached_property
    def held_out(self) -> int:
        """Rows to measure on."""
        return min(round(self.rows.number * self.options.eval_share), MAX_HELD_OUT)

    @cached_property
    def learned(self) -> int:
        """Rows in the batches of an epoch."""
        return self._own + (self._replayed if isinstance(self.options, ImitationOptions) else 0)

    @cached_property
    def beside(self) -> int:
        """Completions that are imitated beside the batches of an epoch."""
        return self._own + self._replayed - self.learned

    @property
    def _own(self) -> int:
        return max(self.rows.number - self.held_out, 1)

    @property
    def _replayed(self) -> int:
        if not isinstance(self.options, ReplayOptions):
            return 0
        wanted = rows_to_replay(self.options.replay_share, self._own)
        return min(wanted, rows_replayable(self.rows.general))

    @property
    def length(self) -> float:
        text = min(self.rows.lengths.mean, self.options.max_length)
        return text * PADDING + self.options.soft_prompt

    @property
    def longest(self) -> int:
        return min(self.rows.lengths.longest, self.options.max_length) + self.options.soft_prompt

    @property
    def prompt_longest(self) -> int:
        return max(self.longest - self.rows.lengths.completion_longest, 0)

    @property
    def steps(self) -> int:
        return math.ceil(self._batches / self.options.gradient_accumulation / self.processes)

    @property
    def rows_prepared(self) -> int:
        return self.rows.number * self.reading.sequences

    @property
    def answers(self) -> int:
        return self.options.eval_generations if self.reading.answers else 0

    def learning(self) -> Iterator[Pass]:
        reading, has_head = self.reading, self.reading.has_head
        epoch = self.learned * reading.sequences * self.length
        trained = self.options.epochs * epoch
        yield Pass(trained, self._batches, has_gradient=True, has_head=has_head)
        if self.beside:
            beside = self.options.epochs * self.beside
            passes = min(beside, self._batches)
            yield Pass(beside * self.length, passes, has_gradient=True, has_head=has_head)
        looked_at = reading.looks * trained + reading.first_looks * epoch + self._measured
        yield Pass(looked_at, looked_at / self._batch_mean, has_head=has_head)

    def measuring(self) -> Iterator[Pass]:
        """A reward model answers nothing and has nothing to forget."""
        return super().measuring() if self.reading.answers else iter(())

    def step_bytes(self) -> float:
        beside = math.ceil(self.options.batch_size * self.beside / self.learned)
        tokens = (self.options.batch_size * self.reading.sequences + beside) * self.longest
        costs = self.costs if self.reading.has_head else self.headless_costs
        return costs.activations(tokens) + costs.head_tiles(tokens)

    def reference_bytes(self) -> float:
        return super().reference_bytes() if self.reading.answers else 0.0

    def evaluation_bytes(self) -> float:
        return super().evaluation_bytes() if self.reading.answers else 0.0

    @property
    def scored_tokens(self) -> float:
        return max(super().scored_tokens, self.held_out * self.length)

    @property
    def _measured(self) -> float:
        """Tokens of held-out rows, each time that they are looked at."""
        reading = self.reading
        times = self.options.evaluations * (1 + reading.looks)
        times += reading.first_looks + reading.final_looks
        return times * self.held_out * reading.sequences * self.length

    @property
    def _batches(self) -> int:
        return math.ceil(self.learned * self.options.epochs / self.options.batch_size)

    @property
    def _batch_mean(self) -> float:
        """Tokens of a batch of mean length."""
        return self.options.batch_size * self.reading.sequences * self.length
