"""What a run will take, before it is launched: memory, time, tokens, arithmetic, money.

Arithmetic alone: no torch, no file. Each formula names its source; the constants are of this
product's own trainers, measured by `python -m tests.bench estimate`, and hold for every method.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from typing import NamedTuple

from training.machine import Machine
from training.methods.reward import RewardOptions
from training.methods.trainer_options import TrainerOptions
from training.options import MethodOptions
from training.shape import ModelShape
from training.tuning import LOW_RANK, Tuning

MB = 2**20
# A trainer with its libraries imported and nothing loaded; a GPU's memory holds none of that.
PROCESS_MB: Mapping[str, float] = {"cpu": 500.0, "mps": 500.0, "cuda": 0.0}
# What allocators hold for each byte in use at the peak. The C library's hands back only the top of
# its heap: 582 MB in use took 980 at the first step and 1,110 at the third. Blocks beyond its
# largest threshold (M_MMAP_THRESHOLD_MAX) lie outside the heap and are handed back whole.
FRAGMENTATION: Mapping[str, float] = {"cpu": 1.6, "mps": 1.6, "cuda": 1.1}
LARGE_BLOCK = 32 * MB
# Share of the rate of a plain matrix product that whole training steps reach: measured on a CPU;
# on a GPU 40 to 50 % is usual (PaLM, Chowdhery et al. 2022, appendix B, has 46 %).
EFFICIENCY: Mapping[str, float] = {"cpu": 0.42, "mps": 0.4, "cuda": 0.45}
# In calls of a small operation: one layer forward, of which half is Python; and an optimiser step
# with its logging.
CALLS_OF_LAYER = 150
CALLS_OF_STEP = 5000
# Loading a model and tokenising before the first step, and writing at the end.
SETUP_S, SETUP_S_OF_ROW = 2.0, 0.002
# Rows of like length share a batch (`data.training_order`), so little is padding.
PADDING = 1.08
# TRL's LM head computes logits in tiles of at most so many tokens and of so much vocabulary, in a
# buffer of that width; without Triton its backward holds eight of them (`chunked_logprob.py`).
HEAD_TOKENS, HEAD_WIDTH, HEAD_TILES = 4096, 32768, 8
# Logits of `evaluate.token_log_probs`: themselves, in float32, and their exponentials.
SCORED_TOKENS, SCORED_COPIES = 4096, 3
GENERATION_ROWS = 64
MAX_HELD_OUT = 400
# Weight, gradient and Adam's two moments, all in float32.
TRAINED_BYTES = 16


class Lengths(NamedTuple):
    """Tokens of a sequence, prompt and completion together, and of the completion alone."""

    mean: float
    longest: int
    completion_mean: float
    completion_longest: int


class Rows(NamedTuple):
    """The rows that a run would be given, held-out ones among them."""

    number: int
    lengths: Lengths


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
class Memory:
    """Where a run's memory goes at its peak, in MiB.

    `trained` is what learns, with gradients and optimiser state; `step` what a training step holds
    (activations and logits), `evaluation` what measuring holds (logits, generation cache). The
    latter two are not held at once.
    """

    process: float
    weights: float
    reference: float
    trained: float
    step: float
    evaluation: float

    @property
    def peak_mb(self) -> float:
        """Of the trainer's process on a CPU, of what it takes from the GPU on one."""
        held = self.process + self.weights + self.reference + self.trained
        return held + max(self.step, self.evaluation)


@dataclass(frozen=True)
class Estimate:
    """What a run will take.

    `seconds` are from a trainer that stands by to its result, on a machine that nobody else uses;
    `tokens` are those trained on, over all epochs.
    """

    memory: Memory
    seconds: float
    tokens: int
    flops: float
    steps: int

    @property
    def peak_mb(self) -> float:
        """Largest memory, in MiB."""
        return self.memory.peak_mb

    def followed_by(self, other: Estimate) -> Estimate:
        """With another, smaller training after it in the same process; the steps are of this."""
        return replace(
            self,
            seconds=self.seconds + other.seconds,
            tokens=self.tokens + other.tokens,
            flops=self.flops + other.flops,
        )

    def cost(self, price_per_hour: float) -> float:
        """In the currency of the price of an hour of this machine."""
        return self.seconds / 3600 * price_per_hour


def estimate(
    method: str, options: MethodOptions, rows: Rows, shape: ModelShape, machine: Machine
) -> Estimate | None:
    """What a run would take; None for a method whose work is not known here, and without rows."""
    reading = READINGS.get(method)
    if reading is None or not isinstance(options, TrainerOptions) or rows.number == 0:
        return None
    first, *others = (
        _Run(chosen, some, shape, machine, reading).estimate()
        for chosen, some in _divided(options, rows)
    )
    return reduce(Estimate.followed_by, others, first)


def _divided(options: TrainerOptions, rows: Rows) -> list[tuple[TrainerOptions, Rows]]:
    """What is trained one after the other: a reward run may train a second model on a share."""
    if not isinstance(options, RewardOptions):
        return [(options, rows)]
    share = options.divided_share(round(rows.number * (1 - options.eval_share)))
    second = round(rows.number * share)
    if not second:
        return [(options, rows)]
    return [
        (options, rows._replace(number=rows.number - second)),
        (options.of_second(second), rows._replace(number=second)),
    ]


@dataclass(frozen=True)
class _Run:
    """A run of a method on rows, taken apart into what is counted."""

    options: TrainerOptions
    rows: Rows
    shape: ModelShape
    machine: Machine
    reading: Reading

    def estimate(self) -> Estimate:
        seconds = self._seconds()
        return Estimate(self._memory(), seconds, round(self._trained), self._flops(), self._steps)

    @property
    def _tuning(self) -> Tuning:
        return Tuning(self.options.tuning)

    @property
    def _is_full(self) -> bool:
        return self._tuning is Tuning.FULL

    @property
    def _is_on_gpu(self) -> bool:
        return self.machine.device.kind == "cuda"

    # --- what is counted: rows, tokens, steps ---

    @property
    def _held_out(self) -> int:
        return min(round(self.rows.number * self.options.eval_share), MAX_HELD_OUT)

    @property
    def _learned(self) -> int:
        return max(self.rows.number - self._held_out, 1)

    @property
    def _virtual(self) -> int:
        """Virtual tokens that go through the model before each sequence."""
        return self.options.virtual_tokens if self._tuning is Tuning.PROMPT else 0

    @property
    def _length(self) -> float:
        """Mean tokens of a sequence as the model reads it."""
        return min(self.rows.lengths.mean, self.options.max_length) * PADDING + self._virtual

    @property
    def _longest(self) -> int:
        return min(self.rows.lengths.longest, self.options.max_length) + self._virtual

    @property
    def _epoch(self) -> float:
        """Tokens of one epoch."""
        return self._learned * self.reading.sequences * self._length

    @property
    def _trained(self) -> float:
        return self.options.epochs * self._epoch

    @property
    def _looked_at(self) -> float:
        """Tokens of forward passes without gradients."""
        reading, options = self.reading, self.options
        training = reading.looks * self._trained + reading.first_looks * self._epoch
        each = options.evaluations * (1 + reading.looks) + reading.first_looks + reading.final_looks
        measuring = each * self._held_out * reading.sequences * self._length
        # Both policies' answers, read, and scored under both for the distance between them.
        return training + measuring + 4 * self._answers * self._length

    @property
    def _answers(self) -> int:
        """Test prompts that each policy answers."""
        return self.options.eval_generations if self.reading.answers else 0

    @property
    def _draws(self) -> int:
        """Tokens that are drawn one after the other; the rows of a batch draw at once."""
        batches = math.ceil(self._answers / GENERATION_ROWS)
        return 2 * batches * min(self.options.sample_tokens, self.rows.lengths.completion_longest)

    @property
    def _batches(self) -> int:
        return math.ceil(self._learned * self.options.epochs / self.options.batch_size)

    @property
    def _steps(self) -> int:
        return math.ceil(self._batches / self.options.gradient_accumulation)

    # --- arithmetic ---

    @property
    def _head(self) -> int:
        """Weights of the output head."""
        return self.shape.vocabulary * self.shape.hidden if self.reading.has_head else 0

    @property
    def _adapter(self) -> int:
        """Weights that learn beside the base: rank x (inputs + outputs) of each layer, Hu 2021."""
        options, shape = self.options, self.shape
        if self._tuning in LOW_RANK:
            return options.lora_r * shape.linear_widths
        if self._tuning is Tuning.PREFIX:
            return options.virtual_tokens * 2 * shape.layers * shape.kv_width
        return options.virtual_tokens * shape.hidden if self._tuning is Tuning.PROMPT else 0

    @property
    def _learning(self) -> int:
        """Weights that learn."""
        return self.shape.parameters if self._is_full else self._adapter

    def _forward(self) -> float:
        """FLOP of a token: 2 a weight (Kaplan et al. 2020, 2.1) and 4 x layers x width x length for
        attention (Chowdhery et al. 2022, appendix B)."""
        shape = self.shape
        low_rank = self._adapter if self._tuning in LOW_RANK else 0
        attention = 4 * shape.layers * shape.hidden * self._length
        return 2 * (shape.linear_parameters + self._head + low_rank) + attention

    def _backward(self) -> float:
        """FLOP of a token: the gradients of activations cost what the forward pass does, those of
        the weights that learn 2 each; so a step is 4 N for an adapter and 6 N for full tuning.
        Checkpointing computes the forward pass again."""
        weights = self.shape.linear_parameters + self._head if self._is_full else self._adapter
        again = self._forward() if self.options.gradient_checkpointing else 0.0
        return self._forward() + 2 * weights + again

    def _flops(self) -> float:
        drawn = self._draws * min(self._answers, GENERATION_ROWS)
        forward = self._trained + self._looked_at + drawn
        return forward * self._forward() + self._trained * self._backward()

    # --- time ---

    def _seconds(self) -> float:
        """Arithmetic at the machine's rate, and the calls that small operations cannot go below."""
        machine, layers = self.machine, self.shape.layers
        arithmetic = self._flops() / (machine.flops_per_s * EFFICIENCY[machine.device.kind])
        looks = self._looked_at / (self.options.batch_size * self.reading.sequences * self._length)
        passes = 3 * self._batches + looks + self._draws
        calls = passes * layers * CALLS_OF_LAYER + self._steps * CALLS_OF_STEP
        setup = SETUP_S + SETUP_S_OF_ROW * self.rows.number * self.reading.sequences
        return arithmetic + calls * machine.call_s + setup

    # --- memory ---

    def _memory(self) -> Memory:
        kind = self.machine.device.kind
        return Memory(
            process=PROCESS_MB[kind],
            weights=0.0 if self._is_full else self._base_bytes() / MB,
            reference=self.shape.parameters * 4 / MB if self._is_full else 0.0,
            trained=self._learning * TRAINED_BYTES / MB,
            step=(self._activations() + self._logits()) / MB,
            evaluation=self._measuring() / MB,
        )

    def _spread(self, used: float, block: float) -> float:
        """Bytes that an allocator holds for `used` bytes in blocks of this size."""
        kind = self.machine.device.kind
        is_returned = kind == "cpu" and block > LARGE_BLOCK
        return used if is_returned else FRAGMENTATION[kind] * used

    def _base_bytes(self) -> float:
        """The frozen base: 4 bits a weight and their scales for QLoRA (Dettmers et al. 2023)."""
        shape = self.shape
        if self._tuning is Tuning.QLORA:
            return 0.52 * shape.linear_parameters + 2 * (shape.parameters - shape.linear_parameters)
        return shape.parameters * (2 if self._is_on_gpu else 4)

    def _activations(self) -> float:
        """Bytes kept for the backward pass, counted off the tensors that autograd saves.

        A layer keeps, for each token: both norms' inputs, the inputs of its linear layers where
        those learn, queries, keys, values and what attention gave, four tensors of the inner width
        (gate, its activation, up, their product), and a row of the attention mask. With
        checkpointing it keeps its input, and one layer at a time all of it (Chen et al. 2016).
        """
        shape, options = self.shape, self.options
        hidden = 8 if self._is_full else 6
        floats = hidden * shape.hidden + 2 * shape.kv_width + 4 * shape.intermediate + self._longest
        number = 2 if self._is_on_gpu else 4
        layer = number * float(floats)
        if self._tuning in LOW_RANK:
            layer += number * options.lora_r * shape.linear_layers / shape.layers
        if self._is_on_gpu and self._tuning in LOW_RANK:
            layer += 4 * (3 * shape.hidden + shape.intermediate)  # adapters read float32
        if self._tuning is Tuning.DORA:
            layer += number * shape.linear_widths / shape.layers  # outputs before their rescaling
        if options.gradient_checkpointing:
            layers = number * shape.hidden * shape.layers + layer
        else:
            layers = layer * shape.layers
        tokens = self._batch_tokens()
        return self._spread(layers * tokens, number * tokens * shape.intermediate)

    def _batch_tokens(self) -> int:
        """Tokens of the largest batch."""
        return self.options.batch_size * self.reading.sequences * self._longest

    def _logits(self) -> float:
        """Bytes of the LM head while its tiles are computed."""
        if not self.reading.has_head:
            return 0.0
        tokens = min(self._batch_tokens(), HEAD_TOKENS)
        gradient = 4 * self._head if self._is_full else 0
        if self._is_on_gpu:
            return self._spread(tokens * HEAD_WIDTH * 2, 0) + gradient
        tile = tokens * min(self.shape.vocabulary, HEAD_WIDTH) * 4
        return self._spread(tile * HEAD_TILES, tile) + gradient

    def _measuring(self) -> float:
        """Bytes of scoring held-out text, or of answering test prompts, whichever is more."""
        shape, lengths = self.shape, self.rows.lengths
        if not self.reading.answers:
            return 0.0
        tokens = min(max(self._held_out, self._answers) * self._length, SCORED_TOKENS)
        logits = tokens * shape.vocabulary * 4
        scored = self._spread(logits * SCORED_COPIES, logits)
        rows = min(self._answers, GENERATION_ROWS)
        width = max(self._longest - lengths.completion_longest, 0) + self.options.sample_tokens
        # Keys and values of every layer, and sampling in float64 over the vocabulary.
        cache = rows * width * 2 * shape.layers * shape.kv_width * (2 if self._is_on_gpu else 4)
        return max(scored, self._spread(cache + rows * shape.vocabulary * 24, 0))
