"""Rows one behind the other: whether a model can be read so, and that none sees another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    FalconH1Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
)

from tests.models import build_model
from training.worker.ppo.packing import can_pack, packed, places

LENGTHS = [7, 1, 4]
SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def build(config: PreTrainedConfig, **how: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, **how).eval()


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2"])
def test_packed_rows_get_the_logits_of_rows_alone(tmp_path: Path, architecture: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(build_model(tmp_path, architecture)).eval()
    assert can_pack(model)
    ids = torch.randint(5, 90, (1, sum(LENGTHS)), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        alone = [model(row).logits for row in torch.split(ids, LENGTHS, dim=1)]
        with packed(model):
            together = model(
                ids, position_ids=places(LENGTHS), row_lengths=LENGTHS, use_cache=False
            ).logits
    assert torch.allclose(together, torch.cat(alone, dim=1), atol=1e-5)


def test_afterwards_a_model_reads_as_before(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(build_model(tmp_path)).eval()
    ids = torch.tensor([[5, 9, 30, 31]])
    with torch.no_grad():
        before = model(ids).logits
        with packed(model):
            pass
        assert torch.equal(model(ids).logits, before)


@pytest.mark.parametrize(
    ("config", "how"),
    [
        (MistralConfig(**SIZES, sliding_window=2), {}),
        (LlamaConfig(**SIZES), {"attn_implementation": "eager"}),
        (FalconH1Config(**SIZES, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_state=8), {}),
    ],
    ids=["window", "eager", "recurrent"],
)
def test_a_model_of_another_kind_is_not_packed(
    config: PreTrainedConfig, how: dict[str, Any]
) -> None:
    assert not can_pack(build(config, **how))


def test_a_model_whose_layers_mix_neighbours_is_found_out() -> None:
    model = build(LlamaConfig(**SIZES))
    assert can_pack(model)
    # As a convolution would.
    model.model.layers[1].mlp.register_forward_hook(lambda _, __, out: out + out.roll(1, dims=1))
    assert not can_pack(model)
