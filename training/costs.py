"""What passes of a model cost under a tuning, on a machine: floating point operations and bytes.

Arithmetic alone: no torch, no file. Each formula names its source; the constants are of this
product's own trainers, measured by `python -m tests.bench estimate`, and hold for every method.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from training.machine import Machine
from training.methods.trainer_options import TuningOptions
from training.shape import ModelShape
from training.tuning import LOW_RANK, Tuning

MB = 2**20
# What allocators hold for each byte in use at the peak. The C library's hands back only the top of
# its heap: 582 MB in use took 980 at the first step and 1,110 at the third. Blocks beyond its
# largest threshold (M_MMAP_THRESHOLD_MAX) lie outside the heap and are handed back whole.
FRAGMENTATION: Mapping[str, float] = {"cpu": 1.6, "mps": 1.6, "cuda": 1.1}
LARGE_BLOCK = 32 * MB
# TRL's LM head computes logits in tiles of at most so many tokens and of so much vocabulary, in a
# buffer of that width; without Triton its backward holds eight of them (`chunked_logprob.py`).
HEAD_TOKENS, HEAD_WIDTH, HEAD_TILES = 4096, 32768, 8
# PPO reads as many rows at once, where it wants no gradients, as keep each tensor below so many
# numbers: 16 MiB of float32. The widest tensor of a layer is taken to have so many hidden widths.
SMALL, INNER = 2**22, 4
# Weight, gradient and Adam's two moments, all in float32.
TRAINED_BYTES = 16


def rows_at_once(width: int, longest: int) -> int:
    """Rows of `longest` tokens whose tensors of `width` numbers a token are still small."""
    return SMALL // (width * longest)


@dataclass(frozen=True)
class Costs:
    """Of a model whose sequences have `length` tokens on average and `longest` at most.

    `has_head` is False for a model that scores and writes nothing.
    """

    options: TuningOptions
    shape: ModelShape
    machine: Machine
    length: float
    longest: int
    has_head: bool = True

    @property
    def tuning(self) -> Tuning:
        """Which weights change."""
        return Tuning(self.options.tuning)

    @property
    def is_full(self) -> bool:
        """All of them do."""
        return self.tuning is Tuning.FULL

    @property
    def is_on_gpu(self) -> bool:
        """Computed on a CUDA device, where the base is held in 16 bits."""
        return self.machine.device.kind == "cuda"

    @property
    def head(self) -> int:
        """Weights of the output head."""
        return self.shape.vocabulary * self.shape.hidden if self.has_head else 0

    @property
    def adapter(self) -> int:
        """Weights that learn beside the base: rank x (inputs + outputs) of each layer, Hu 2021."""
        if self.tuning in LOW_RANK:
            return self.options.lora_r * self.shape.linear_widths
        if self.tuning is Tuning.PREFIX:
            return self.options.virtual_tokens * 2 * self.shape.layers * self.shape.kv_width
        return self.options.soft_prompt * self.shape.hidden

    @property
    def learning(self) -> int:
        """Weights that learn."""
        return self.shape.parameters if self.is_full else self.adapter

    # --- floating point operations of a token ---

    def forward(self) -> float:
        """2 a weight (Kaplan et al. 2020, 2.1), and 4 x layers x width x length for attention
        (Chowdhery et al. 2022, appendix B)."""
        low_rank = self.adapter if self.tuning in LOW_RANK else 0
        attention = 4 * self.shape.layers * self.shape.hidden * self.length
        return 2 * (self.shape.linear_parameters + self.head + low_rank) + attention

    def backward(self) -> float:
        """The gradients of activations cost what the forward pass does, those of the weights that
        learn 2 each; so a step is 4 N for an adapter and 6 N for full tuning. Checkpointing
        computes the forward pass again."""
        weights = self.shape.linear_parameters + self.head if self.is_full else self.adapter
        again = self.forward() if self.options.gradient_checkpointing else 0.0
        return self.forward() + 2 * weights + again

    # --- bytes ---

    def base_bytes(self) -> float:
        """The frozen base: 4 bits a weight and their scales for QLoRA (Dettmers et al. 2023)."""
        if self.is_full:
            return 0.0
        shape = self.shape
        if self.tuning is Tuning.QLORA:
            return 0.52 * shape.linear_parameters + 2 * (shape.parameters - shape.linear_parameters)
        return shape.parameters * self.number_bytes

    def reference_bytes(self) -> float:
        """A reference that no adapter can be switched off for: with full tuning, a second model."""
        return 4 * self.shape.parameters if self.is_full else 0.0

    def trained_bytes(self) -> float:
        """What learns, with gradients and optimiser state."""
        return TRAINED_BYTES * self.learning

    @property
    def number_bytes(self) -> int:
        """Of a weight of the base and of an activation."""
        return 2 if self.is_on_gpu else 4

    def activations(self, tokens: float) -> float:
        """Kept for the backward pass of so many tokens, counted off the tensors autograd saves.

        A layer keeps, for each token: both norms' inputs, the inputs of its linear layers where
        those learn, queries, keys, values and what attention gave, four tensors of the inner width
        (gate, its activation, up, their product), and a row of the attention mask. With
        checkpointing it keeps its input, and one layer at a time all of it (Chen et al. 2016).
        """
        shape, number = self.shape, self.number_bytes
        hidden = 8 if self.is_full else 6
        floats = hidden * shape.hidden + 2 * shape.kv_width + 4 * shape.intermediate + self.longest
        layer = number * float(floats)
        if self.tuning in LOW_RANK:
            layer += number * self.options.lora_r * shape.linear_layers / shape.layers
        if self.is_on_gpu and self.tuning in LOW_RANK:
            layer += 4 * (3 * shape.hidden + shape.intermediate)  # adapters read float32
        if self.tuning is Tuning.DORA:
            layer += number * shape.linear_widths / shape.layers  # outputs before their rescaling
        if self.options.gradient_checkpointing:
            layers = number * shape.hidden * shape.layers + layer
        else:
            layers = layer * shape.layers
        return self.spread(layers * tokens, number * tokens * shape.intermediate)

    def head_tiles(self, tokens: float) -> float:
        """The LM head of a batch of so many tokens while its tiles are computed."""
        if not self.has_head:
            return 0.0
        tokens = min(tokens, HEAD_TOKENS)
        gradient = 4 * self.head if self.is_full else 0
        if self.is_on_gpu:
            return self.spread(tokens * HEAD_WIDTH * 2, 0) + gradient
        tile = tokens * min(self.shape.vocabulary, HEAD_WIDTH) * 4
        return self.spread(tile * HEAD_TILES, tile) + gradient

    def logits(self, tokens: float, copies: int) -> float:
        """So many float32 tensors of the scores of all that each of the tokens could be."""
        block = 4 * tokens * self.shape.vocabulary
        return self.spread(copies * block, block)

    def generation(self, rows: int, width: float) -> float:
        """Keys and values of every layer, and sampling in float64 over the vocabulary."""
        shape = self.shape
        cache = rows * width * 2 * shape.layers * shape.kv_width * self.number_bytes
        return self.spread(cache + rows * shape.vocabulary * 24, 0)

    def spread(self, used: float, block: float) -> float:
        """Bytes that an allocator holds for `used` bytes in blocks of this size."""
        kind = self.machine.device.kind
        is_returned = kind == "cpu" and block > LARGE_BLOCK
        return used if is_returned else FRAGMENTATION[kind] * used
