"""The cache that grows in place: it remembers what the library's own would."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from tests.models import build_model
from training.growing_cache import ROOM, GrowingLayer, growing_cache
from training.loading import load_base

ROWS, HEADS, WIDTH = 3, 2, 4


def drawn(tokens: int, *, rows: int = ROWS) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, HEADS, tokens, WIDTH), torch.randn(rows, HEADS, tokens, WIDTH)


def grow_both(tokens: int = 5) -> tuple[GrowingLayer, DynamicLayer]:
    torch.manual_seed(0)
    ours, library = GrowingLayer(), DynamicLayer()
    told = drawn(tokens)
    for layer in (ours, library):
        layer.update(*told)
    return ours, library


def assert_same(ours: GrowingLayer, library: DynamicLayer) -> None:
    assert ours.get_seq_length() == library.get_seq_length()
    assert torch.equal(ours.keys, library.keys)
    assert torch.equal(ours.values, library.values)


def test_it_holds_what_the_librarys_layer_holds_beyond_the_room_made_at_once() -> None:
    ours, library = grow_both()
    for _ in range(2 * ROOM + 3):
        told = drawn(1)
        keys, values = ours.update(*told)
        assert torch.equal(keys, library.update(*told)[0])
        assert torch.equal(values, library.values)


def test_a_new_token_copies_nothing_that_was_there() -> None:
    ours, _ = grow_both()
    before = ours.keys.data_ptr()
    ours.update(*drawn(1))
    assert ours.keys.data_ptr() == before


@pytest.mark.parametrize(
    ("change", "rows"),
    [
        (lambda layer: layer.batch_select_indices(torch.tensor([2, 0])), 2),
        (lambda layer: layer.batch_select_indices(torch.tensor([1, 0, 2])), ROWS),
        (lambda layer: layer.batch_repeat_interleave(2), 2 * ROWS),
        (lambda layer: layer.reorder_cache(torch.tensor([2, 1, 1])), ROWS),
        (lambda layer: layer.crop(-2), ROWS),
        (lambda layer: layer.reset(), 1),
    ],
)
def test_what_the_library_does_to_it_is_followed(
    change: Callable[[DynamicLayer], None], rows: int
) -> None:
    ours, library = grow_both()
    for layer in (ours, library):
        change(layer)
    for _ in range(2):
        told = drawn(1, rows=rows)
        for layer in (ours, library):
            layer.update(*told)
        assert_same(ours, library)


def test_layers_that_forget_are_left_to_the_library(tmp_path: Path) -> None:
    plain = load_base(build_model(tmp_path / "plain"))
    assert [type(layer) for layer in growing_cache(plain).layers] == [GrowingLayer] * len(
        DynamicCache(config=plain.config).layers
    )
    plain.config.sliding_window = 8
    plain.config.layer_types = ["sliding_attention"] * plain.config.num_hidden_layers
    assert {type(layer) for layer in growing_cache(plain).layers} == {DynamicSlidingWindowLayer}
