"""Runs that answer prompts and learn from a reward model's scores, as they would go."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from training.costs import INNER, rows_at_once
from training.methods.best_of_n import BestOfNOptions
from training.methods.grpo import GRPOOptions
from training.methods.online_dpo import OnlineDPOOptions
from training.methods.online_options import OnlineOptions
from training.methods.ppo import PPOOptions
from training.planned import GENERATION_ROWS, PADDING, Lengths, New, Pass, PlannedRun, Rows
from training.planned_rows import MAX_HELD_OUT, READINGS, PlannedRows
from training.tuning import Tuning

# Logits of `SharedBase`: themselves in float32, their logarithms, exponentials and products with
# those, where the policy is observed, and the first two where the reference is; in a training step
# themselves, their exponentials and their gradient.
OBSERVED_COPIES, REFERENCE_COPIES, LEARNED_COPIES = 4, 2, 3
WEIGHT_BYTES = 4  # of an adapter that is only asked


@dataclass(frozen=True)
class PlannedRewarded(PlannedRun):
    """A run that learns from a reward model's scores, which scores its answers too."""

    @property
    def is_scored(self) -> bool:
        return True


@dataclass(frozen=True)
class PlannedPPO(PlannedRewarded):
    """PPO over one base: policy, reference, reward model and value function are adapters of it."""

    options: PPOOptions

    @property
    def steps(self) -> int:
        return self.options.iterations

    @property
    def updates(self) -> int:
        minibatches = math.ceil(self.options.rollouts / self.options.minibatch_size)
        return 2 * self.options.ppo_epochs * minibatches * self.options.iterations

    @property
    def length(self) -> float:
        # A processor reads packed rows.
        padding = 1 if self.machine.device.kind == "cpu" else PADDING
        return (self.prompt_mean + self._new.mean) * padding

    @property
    def longest(self) -> int:
        return self.prompt_longest + self._new.longest

    def learning(self) -> Iterator[Pass]:
        options = self.options
        yield from self.drawing(options.rollouts, self._new, times=options.iterations)
        # The reference, and the policy where it must be observed; values and scores.
        for looks, has_head in ((2 - self._is_exact, True), (2, False)):
            tokens = looks * self._drawn * self.length
            batches = looks * self._batches_of(self._rows_looked_at(has_head=has_head))
            yield Pass(tokens, batches, has_head=has_head)
        for has_head in (True, False):  # policy; values
            tokens = options.ppo_epochs * self._drawn * self.length
            batches = options.ppo_epochs * self._batches_of(options.micro_batch_size)
            yield Pass(tokens, batches, has_gradient=True, has_head=has_head)

    def step_bytes(self) -> float:
        options, costs = self.options, self.costs
        rows = min(options.micro_batch_size, options.minibatch_size)
        written = rows * (self._new.longest + 1)
        learning = costs.activations(rows * self.longest) + costs.logits(written, LEARNED_COPIES)
        copies = REFERENCE_COPIES if self._is_exact else OBSERVED_COPIES
        seen = min(self._rows_looked_at(has_head=True), options.rollouts)
        observing = costs.logits(seen * (self._new.longest + 1), copies)
        drawing = self.generation_bytes(options.rollouts, self._new.longest)
        return held_in_turn(self, drawing, max(learning, observing))

    def held_bytes(self) -> float:
        """The policy's adapter and the value function's."""
        return 2 * self.costs.trained_bytes()

    def reward_model_bytes(self) -> float:
        return WEIGHT_BYTES * self.costs.adapter * (1 + self.is_watched)

    @property
    def watch_steps(self) -> int:
        return self.options.watch_steps

    @cached_property
    def _new(self) -> New:
        return New.of(self.rows, self.options.max_new_tokens)

    @property
    def _is_exact(self) -> bool:
        """Whether the policy is known well enough from drawing; see `SharedBase`."""
        return not self.costs.is_on_gpu and self.costs.tuning is not Tuning.QLORA

    @property
    def _drawn(self) -> int:
        return self.options.iterations * self.options.rollouts

    def _batches_of(self, rows: int) -> int:
        """Of a pass over all that is drawn, so many rows at a time."""
        return self.options.iterations * math.ceil(self.options.rollouts / rows)

    def _rows_looked_at(self, *, has_head: bool) -> int:
        """Where no gradients are wanted."""
        width = self.shape.vocabulary if has_head else INNER * self.shape.hidden
        return max(self.options.micro_batch_size, rows_at_once(width, self.longest))


@dataclass(frozen=True)
class PlannedGroups(PlannedRewarded):
    """RLOO or GRPO, beside a reward model of its own."""

    options: OnlineOptions

    @property
    def steps(self) -> int:
        return self.options.iterations * self.options.inner_epochs

    @property
    def length(self) -> float:
        """TRL pads all prompts of an iteration alike, and all responses."""
        return self.longest

    @property
    def longest(self) -> int:
        return self.options.soft_prompt + self.prompt_longest + self._new.longest

    def learning(self) -> Iterator[Pass]:
        options = self.options
        drawn = options.iterations * options.responses
        batches = drawn // options.batch_size
        yield from self.drawing(options.responses, self._new, times=options.iterations)
        scored = drawn * (self.prompt_mean + self._new.mean) * PADDING
        yield Pass(scored, options.iterations, has_head=False)
        looks = self._looks
        yield Pass(looks * drawn * self.length, looks * batches)
        learned = options.inner_epochs * drawn * self.length
        yield Pass(learned, options.inner_epochs * batches, has_gradient=True)

    def step_bytes(self) -> float:
        options = self.options
        tokens = options.batch_size * self.longest
        learning = self.costs.activations(tokens) + self.costs.head_tiles(tokens)
        drawing = self.generation_bytes(options.responses, self._new.longest)
        return held_in_turn(self, drawing, learning)

    def reward_model_bytes(self) -> float:
        return reward_model_bytes(self)

    @property
    def watch_steps(self) -> int:
        return self.options.watch_steps * self.options.inner_epochs

    @property
    def _looks(self) -> int:
        """Passes without a gradient: the reference, and the policy that drew the responses.

        TRL's GRPO knows the latter from the first inner epoch where there is no other.
        """
        is_asked = not isinstance(self.options, GRPOOptions) or self.options.inner_epochs > 1
        return int(self.options.beta > 0) + int(is_asked)

    @cached_property
    def _new(self) -> New:
        return New.of(self.rows, self.options.max_new_tokens)


@dataclass(frozen=True)
class PlannedChoosing(PlannedRewarded):
    """Responses drawn and scored, beside a reward model, and the chosen ones as rows to learn from.

    Subclasses say how many prompts are asked and what the rows are.
    """

    options: BestOfNOptions | OnlineDPOOptions

    @property
    @abstractmethod
    def asked(self) -> int:
        """Prompts, each answered `n` times."""

    @property
    @abstractmethod
    def teaching(self) -> PlannedRows:
        """The run over the rows alone."""

    @property
    def length(self) -> float:
        return self.teaching.length

    @property
    def longest(self) -> int:
        return self.teaching.longest

    def learning(self) -> Iterator[Pass]:
        n = self.options.n
        at_once = max(1, GENERATION_ROWS // n)
        times = math.ceil(self.asked / at_once)
        yield from self.drawing(at_once * n, self._new, times=times)
        yield self._scoring(times)
        yield from self.teaching.learning()

    def _scoring(self, batches: int) -> Pass:
        """All that is drawn, by one reward model."""
        return Pass(self.asked * self.options.n * self.length, batches, has_head=False)

    def step_bytes(self) -> float:
        drawing = self.generation_bytes(GENERATION_ROWS, self._new.longest)
        return held_in_turn(self, drawing, self.teaching.step_bytes())

    def evaluation_bytes(self) -> float:
        return self.teaching.evaluation_bytes()

    def reward_model_bytes(self) -> float:
        return reward_model_bytes(self)

    def lengths(self) -> Lengths:
        """Of the prompts with what the policy would write to them."""
        prompts, new = self.rows.lengths, self._new
        return Lengths(
            mean=self.prompt_mean + new.mean,
            longest=prompts.longest - prompts.completion_longest + new.longest,
            completion_mean=new.mean,
            completion_longest=new.longest,
        )

    @cached_property
    def _new(self) -> New:
        return New.of(self.rows, self.options.max_new_tokens)


@dataclass(frozen=True)
class PlannedBestOfN(PlannedChoosing):
    """Responses drawn and scored once, and fine-tuning on the best."""

    options: BestOfNOptions

    @property
    def steps(self) -> int:
        return self.teaching.steps

    @property
    def asked(self) -> int:
        return min(self.options.prompts, self.rows.number)

    @property
    def is_watched(self) -> bool:
        """A second reward model is there, and scores what was drawn."""
        return self.company.is_watched

    def watching(self) -> Iterator[Pass]:
        """Once, prompt by prompt."""
        if self.is_watched:
            yield self._scoring(self.asked)

    @cached_property
    def teaching(self) -> PlannedRows:
        rows = Rows(round(self.options.keep * self.asked), self.lengths(), self.rows.general)
        return PlannedRows(self.options, rows, self.shape, self.machine, READINGS["sft"])


@dataclass(frozen=True)
class PlannedOnlineDPO(PlannedChoosing):
    """Responses drawn and scored in every round, and DPO on their pairs."""

    options: OnlineDPOOptions

    @property
    def watch_steps(self) -> int:
        return self.options.watch_steps

    @property
    def steps(self) -> int:
        options = self.options
        batch = options.batch_size * options.gradient_accumulation
        return options.rounds * math.ceil(self._prompts * options.epochs / batch)

    @property
    def asked(self) -> int:
        return self.options.rounds * self._prompts + self._held_out

    @cached_property
    def teaching(self) -> PlannedRows:
        options = replace(self.options, eval_share=self._held_out / self.asked)
        rows = Rows(self.asked, self.lengths(), self.rows.general)
        return PlannedRows(options, rows, self.shape, self.machine, READINGS["dpo"])

    @property
    def _held_out(self) -> int:
        asked = self.options.prompts_asked(self.rows.number)
        return min(round(asked * self.options.eval_share), MAX_HELD_OUT)

    @property
    def _prompts(self) -> int:
        """Of a round, to learn from."""
        left = self.options.prompts_asked(self.rows.number) - self._held_out
        return max(min(self.options.prompts, left), 1)


def held_in_turn(run: PlannedRun, drawing: float, learning: float) -> float:
    """What both hold, one after the other: a heap keeps what many small blocks have taken."""
    return max(drawing, learning) if run.costs.is_on_gpu else drawing + learning


def reward_model_bytes(run: PlannedRun) -> float:
    """Of a second base with an adapter, or two of them, all held and none of them trained; or of
    a base for either."""
    whole, held = run.costs.number_bytes * run.shape.parameters, 1 + run.is_watched
    if run.company.is_apart:
        return held * whole
    return whole + held * WEIGHT_BYTES * run.costs.adapter
