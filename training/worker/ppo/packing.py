"""Rows of different length one behind the other, so that nothing is computed for padding.

Layers that look at one token at a time do not mind whose it is. Attention does, and is given each
row alone, by the library's own function.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

# What the library calls this way of attention. It has no mask of that name, and so makes none.
PACKED = "packed"
# Of the largest logit: what rounding may do to one when its row stands elsewhere.
TOLERANCE = 1e-4


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    row_lengths: Sequence[int],
    **how: Any,
) -> tuple[Tensor, None]:
    """Causal attention within each row: (1, heads, tokens, width) to (1, tokens, heads, width)."""
    states = (torch.split(each, list(row_lengths), dim=2) for each in (query, key, value))
    rows = zip(*states, strict=True)
    seen = [sdpa_attention_forward(module, *row, attention_mask, **how)[0] for row in rows]
    return torch.cat(seen, dim=1), None


AttentionInterface.register(PACKED, packed_attention)


@contextmanager
def packed(model: PreTrainedModel) -> Iterator[None]:
    """Inside, the model must be given `row_lengths` and each token's place in its row."""
    config = _text_config(model)
    own = config._attn_implementation
    config._attn_implementation = PACKED
    try:
        yield
    finally:
        config._attn_implementation = own


def can_pack(model: PreTrainedModel) -> bool:
    """Whether packed rows get the same logits as rows alone.

    Not on a GPU, which computes few tokens no faster than many, and is kept from its work by many
    calls. Nor by a model with attention of another kind than the plain, or that remembers in
    another way.
    """
    config = _text_config(model)
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    has_window = getattr(config, "sliding_window", None) is not None
    if (
        model.device.type != "cpu"
        or config._attn_implementation != "sdpa"
        or has_window
        or kinds != {"full_attention"}
    ):
        return False
    try:
        return _is_told_apart(model, config)
    except (TypeError, ValueError, KeyError):
        return False


@torch.no_grad()
def _is_told_apart(model: PreTrainedModel, config: PreTrainedConfig) -> bool:
    """Try it on two rows of some tokens."""
    rows = [torch.arange(length) % config.vocab_size for length in (5, 3)]
    alone = torch.cat([model(row[None], use_cache=False).logits for row in rows], dim=1)
    with packed(model):
        together = model(
            torch.cat(rows)[None],
            position_ids=places([5, 3]),
            row_lengths=[5, 3],
            use_cache=False,
        ).logits
    return bool((together - alone).abs().max() <= TOLERANCE * alone.abs().max())


def places(row_lengths: Sequence[int]) -> Tensor:
    """Each token's place in its row, counted from 0: (1, tokens)."""
    return torch.cat([torch.arange(length) for length in row_lengths])[None]


def _text_config(model: PreTrainedModel) -> PreTrainedConfig:
    config: PreTrainedConfig = model.config.get_text_config(decoder=True)
    return config
