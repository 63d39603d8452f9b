from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from training.config import RunSpec
from training.engine import is_alone, launch_of
from training.methods.dpo import DPOOptions
from training.methods.grpo import GRPOOptions
from training.methods.kto import KTOOptions
from training.methods.sft import SFTOptions
from training.options import MethodOptions, SpecError

FOLDER = Path("/runs/run-1")


def spec_of(options: MethodOptions) -> RunSpec:
    return RunSpec("run-1", "dpo", options, "models/base", "pol-000000", threads=3)


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "fsdp.yaml"
    path.write_text("distributed_type: FSDP\n")
    return str(path)


@pytest.mark.parametrize("options", [DPOOptions(), GRPOOptions()])
def test_one_process_is_started_without_a_launcher(options: MethodOptions) -> None:
    launch = launch_of(spec_of(options), FOLDER)
    assert launch.command == [sys.executable, "-m", "training.worker", str(FOLDER)]
    assert launch.environment["CUDA_VISIBLE_DEVICES"] == "0"
    assert is_alone(spec_of(options))


def test_several_processes_are_started_by_accelerate_and_see_every_device() -> None:
    spec = spec_of(DPOOptions(processes=2))
    command, environment = launch_of(spec, FOLDER)
    assert command[:3] == [sys.executable, "-m", "accelerate.commands.launch"]
    assert command[command.index("--num_processes") + 1] == "2"
    assert command[-3:] == ["-m", "training.worker", str(FOLDER)]
    assert "CUDA_VISIBLE_DEVICES" not in environment
    assert environment["OMP_NUM_THREADS"] == "3"
    assert not is_alone(spec)


def test_a_configuration_says_how_many_unless_the_run_does(config: str) -> None:
    options = DPOOptions.parsed({"accelerate_config": config})
    command = launch_of(spec_of(options), FOLDER).command
    assert command[3:5] == ["--config_file", config]
    assert "--num_processes" not in command
    both = launch_of(spec_of(replace(options, processes=4)), FOLDER).command
    assert both[3:7] == ["--config_file", config, "--num_processes", "4"]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (SFTOptions(tuning="prefix"), "tuning"),
        (DPOOptions(tuning="prompt"), "tuning"),
        (SFTOptions(l2_to_start=0.1), "l2_to_start"),
        (DPOOptions(replay_share=0.3), "replay_share"),
        (KTOOptions(replay_share=0.3), "replay_share"),
    ],
)
def test_what_a_configuration_cannot_spread_is_refused_before_a_run_is_launched(
    config: str, options: MethodOptions, field: str
) -> None:
    with pytest.raises(SpecError, match="FSDP spreads the model") as refused:
        options.parsed({**asdict(options), "accelerate_config": config})
    assert refused.value.field == field
    Path(config).write_text("distributed_type: MULTI_GPU\n")
    assert options.parsed({**asdict(options), "accelerate_config": config})


def test_a_configuration_can_spread_what_sft_replays_among_its_rows(config: str) -> None:
    assert SFTOptions.parsed({"replay_share": 0.3, "accelerate_config": config})


@pytest.mark.parametrize("path", ["fsdp.yaml", "/nowhere/fsdp.yaml", "/"])
def test_a_configuration_that_is_no_file_is_refused(path: str) -> None:
    with pytest.raises(SpecError, match="whole path of a file") as refused:
        DPOOptions.parsed({"accelerate_config": path})
    assert refused.value.field == "accelerate_config"
