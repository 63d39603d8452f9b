"""A run that has not begun, taken apart into passes of a model over tokens, and into memory.

What every method has in common stands here: both policies answer test prompts and are measured. How
a method learns is told by `planned_rows` and `planned_online`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple, Self

from training.costs import MB, Costs
from training.general import HELD_OUT_SHARE
from training.machine import Machine
from training.measurements import ANSWERED_ALONE
from training.methods.process_options import ProcessOptions
from training.methods.trainer_options import TuningOptions
from training.shape import ModelShape

# A trainer with its libraries imported and nothing loaded; a GPU's memory holds none of that.
PROCESS_MB: Mapping[str, float] = {"cpu": 500.0, "mps": 500.0, "cuda": 0.0}
# Rows of like length share a batch, so little is padding.
PADDING = 1.08
# Logits of `evaluate.token_log_probs`: themselves, in float32, and their exponentials.
SCORED_TOKENS, SCORED_COPIES = 4096, 3
GENERATION_ROWS = 64
# Rows that have ended are computed until a quarter of their batch has (`generation.PAUSE_SHARE`);
# measured on 48 responses of the bundled policy, 1.07 to 1.09.
LEFT_LATE = 1.08


class Lengths(NamedTuple):
    """Tokens of a sequence, prompt and completion together, and of the completion alone."""

    mean: float
    longest: int
    completion_mean: float
    completion_longest: int


class Rows(NamedTuple):
    """The rows that a run would be given, held-out ones among them, and what is general."""

    number: int
    lengths: Lengths
    general: int = 0

    @property
    def general_held_out(self) -> int:
        """Demonstrations that the run would be measured on."""
        return round(self.general * HELD_OUT_SHARE)


class Company(NamedTuple):
    """Models that a run takes along beside what its method learns with, all to measure it.

    With `is_scored` a reward model scores what both policies answer to test prompts, and with
    `meets_base` what the base model answers too. With `is_watched` a second one looks on. With
    `is_apart` each of these two has a base of its own: only low-rank adapters share one.
    """

    is_scored: bool = False
    meets_base: bool = False
    is_watched: bool = False
    is_apart: bool = False


ALONE = Company()


class New(NamedTuple):
    """Tokens of a response within a limit: on average, and of the longest."""

    mean: float
    longest: int

    @classmethod
    def of(cls, rows: Rows, limit: int) -> Self:
        """Of rows whose completions are what the policy writes without one."""
        lengths = rows.lengths
        return cls(min(lengths.completion_mean, limit), min(lengths.completion_longest, limit))


class Pass(NamedTuple):
    """So many tokens through a model, in so many batches; with a gradient there and back."""

    tokens: float
    batches: float
    has_gradient: bool = False
    has_head: bool = True


@dataclass(frozen=True)
class Memory:
    """Where a run's memory goes at its peak, in MiB.

    `trained` is what learns, with gradients and optimiser state; `step` what a training step holds
    (activations and logits), `evaluation` what answering and measuring hold (generation cache,
    logits). The latter two are not held at once.
    """

    process: float
    weights: float
    reference: float
    trained: float
    step: float
    evaluation: float
    reward_model: float = 0.0

    @property
    def peak_mb(self) -> float:
        """Of the trainer's process on a CPU, of what it takes from the GPU on one."""
        models = self.weights + self.reference + self.reward_model
        return self.process + models + self.trained + max(self.step, self.evaluation)


@dataclass(frozen=True)
class PlannedRun(ABC):
    """A run with these options, on these rows, of a model of this shape, on this machine."""

    options: TuningOptions
    rows: Rows
    shape: ModelShape
    machine: Machine
    company: Company = field(default=ALONE, kw_only=True)

    @abstractmethod
    def learning(self) -> Iterator[Pass]:
        """What goes through models while training, in all processes together."""

    @property
    @abstractmethod
    def steps(self) -> int:
        """As people see them counted."""

    @property
    def processes(self) -> int:
        """That share the training; one of them measures the result."""
        return self.options.processes if isinstance(self.options, ProcessOptions) else 1

    @property
    def updates(self) -> int:
        """Steps of an optimiser."""
        return self.steps

    @property
    def rows_prepared(self) -> int:
        """Sequences that are tokenised before the first step."""
        return self.rows.number

    @property
    @abstractmethod
    def length(self) -> float:
        """Mean tokens of a sequence as the model reads it."""

    @property
    @abstractmethod
    def longest(self) -> int:
        """Tokens of the longest sequence that it reads."""

    @abstractmethod
    def step_bytes(self) -> float:
        """What a training step holds."""

    def held_bytes(self) -> float:
        """What learns, with its gradients and its optimiser's state."""
        return self.costs.trained_bytes()

    def reference_bytes(self) -> float:
        """The policy that the run starts from, where it is another model."""
        return self.costs.reference_bytes()

    def reward_model_bytes(self) -> float:
        """A reward model beside the policy."""
        return 0.0

    def evaluation_bytes(self) -> float:
        """Scoring text, or answering test prompts, whichever is more."""
        scored = self.costs.logits(min(self.scored_tokens, SCORED_TOKENS), SCORED_COPIES)
        measured = max(scored, self.generation_bytes(self.answers, self.answer.longest))
        return measured + self._late_model_bytes

    @property
    def _late_model_bytes(self) -> float:
        """A reward model that is loaded to score the answers alone, on a base of its own."""
        is_late = self.is_scored and not self.reward_model_bytes()
        return self.costs.number_bytes * self.shape.parameters if is_late else 0.0

    @property
    def scored_tokens(self) -> float:
        """Tokens of the text that both policies are measured on."""
        return max(self.answers, self.rows.general_held_out) * self.length

    @cached_property
    def costs(self) -> Costs:
        """Of the policy's passes."""
        return Costs(self.options, self.shape, self.machine, self.length, self.longest)

    @cached_property
    def headless_costs(self) -> Costs:
        """Of passes that end in a number."""
        return replace(self.costs, has_head=False)

    def memory(self) -> Memory:
        """Where the run's memory goes."""
        return Memory(
            process=PROCESS_MB[self.machine.device.kind],
            weights=self.costs.base_bytes() / MB,
            reference=self.reference_bytes() / MB,
            trained=self.held_bytes() / MB,
            step=self.step_bytes() / MB,
            evaluation=self.evaluation_bytes() / MB,
            reward_model=self.reward_model_bytes() / MB,
        )

    @property
    def answers(self) -> int:
        """Test prompts that each policy answers."""
        return self.options.eval_generations

    @cached_property
    def answer(self) -> New:
        """Tokens of an answer to a test prompt."""
        return New.of(self.rows, self.options.sample_tokens)

    @property
    def prompt_mean(self) -> float:
        """Mean tokens of a prompt."""
        return max(self.rows.lengths.mean - self.rows.lengths.completion_mean, 1.0)

    @property
    def prompt_longest(self) -> int:
        """Tokens of the longest prompt, or about that."""
        return max(self.rows.lengths.longest - self.rows.lengths.completion_longest, 0)

    def measuring(self) -> Iterator[Pass]:
        """Both policies answer, some prompts one by one as well, perhaps the base too; a reward
        model may score all answers, and the policies read them and what they should keep
        knowing."""
        kept = self.rows.general_held_out or self.answers
        yield self._reading(2 * kept)
        if not self.answers:
            return
        writers = 2 + self.company.meets_base
        for _ in range(writers):
            yield from self.drawing(self.answers, self.answer)
        alone = 2 * min(ANSWERED_ALONE, self.answers)
        yield Pass(alone * self.prompt_mean, alone)
        yield Pass(alone * self.answer.mean, alone * self.answer.mean)
        yield self._reading(2 * self.answers)
        if self.is_scored:
            yield self._reading(writers * self.answers, has_head=False)

    def watching(self) -> Iterator[Pass]:
        """Before the first step, every few ones, and after the last: the policy answers, it and the
        reference read the answers, two reward models score them."""
        if not (self.is_watched and self.answers):
            return
        for _ in range(math.ceil(self.steps / self.watch_steps) + 1):
            yield from self.drawing(self.answers, self.answer)
            yield self._reading(2 * self.answers)
            yield self._reading(2 * self.answers, has_head=False)

    @property
    def is_scored(self) -> bool:
        """A reward model scores the answers of both policies."""
        return self.company.is_scored

    @property
    def watch_steps(self) -> int:
        """Steps, as `steps` counts them, from a look of the second reward model to the next."""
        return 0

    @property
    def is_watched(self) -> bool:
        """A second reward model is there, and looks on."""
        return self.company.is_watched and self.watch_steps > 0

    def drawing(self, responses: int, new: New, times: int = 1) -> Iterator[Pass]:
        """So many responses, `times` over. A batch draws until its last row has ended, and leaves
        most of those that have ended before behind."""
        batches = times * math.ceil(responses / GENERATION_ROWS)
        written = min(new.mean * LEFT_LATE, new.longest)
        yield Pass(times * responses * self.prompt_mean, batches)
        yield Pass(times * responses * written, batches * new.longest)

    def _reading(self, sequences: int, *, has_head: bool = True) -> Pass:
        tokens = sequences * self.length
        return Pass(tokens, tokens / SCORED_TOKENS, has_head=has_head)

    def generation_bytes(self, responses: int, longest: int) -> float:
        """What drawing so many responses holds."""
        rows = min(responses, GENERATION_ROWS)
        return self.costs.generation(rows, self.prompt_longest + longest)
