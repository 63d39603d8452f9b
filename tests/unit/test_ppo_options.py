from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from training.methods.ppo import PPOOptions
from training.options import SpecError


@pytest.mark.parametrize("parameters", [2_600_000, 500_000_000, 7_000_000_000, None])
def test_a_preset_of_any_size_may_be_launched(parameters: int | None) -> None:
    options = PPOOptions.preset(100, parameters=parameters, tuning="lora")
    assert PPOOptions.parsed(asdict(options)) == options


def test_larger_models_take_smaller_steps_on_more_responses() -> None:
    small, large = (
        PPOOptions.preset(100, parameters=n, tuning="lora") for n in (2_600_000, 7_000_000_000)
    )
    assert small.learning_rate > large.learning_rate
    assert small.rollouts < large.rollouts
    assert large.gradient_checkpointing


def test_a_minibatch_larger_than_an_iteration_is_refused() -> None:
    with pytest.raises(SpecError, match="must not exceed the 8 responses") as refused:
        PPOOptions.parsed({"rollouts": 8, "minibatch_size": 9})
    assert refused.value.field == "minibatch_size"


@pytest.mark.parametrize("kind", ["FSDP", "'FSDP'", "DEEPSPEED"])
def test_a_configuration_that_spreads_the_model_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "spread.yaml"
    path.write_text(f"compute_environment: LOCAL_MACHINE\ndistributed_type: {kind}\n")
    with pytest.raises(SpecError, match="cannot be spread") as refused:
        PPOOptions.parsed({"accelerate_config": str(path)})
    assert refused.value.field == "accelerate_config"
    path.write_text("distributed_type: MULTI_GPU\n")
    assert PPOOptions.parsed({"accelerate_config": str(path)}).is_launched


@pytest.mark.parametrize("tuning", ["full", "prefix", "prompt"])
def test_adapters_that_cannot_share_a_base_are_refused(tuning: str) -> None:
    with pytest.raises(SpecError, match=r"lora.*: the models of PPO share one base"):
        PPOOptions.parsed({"tuning": tuning})
