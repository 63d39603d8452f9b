"""PPO as a run: from a directory to an adapter, through an interruption, and in two processes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.models import build_adapter, build_model
from tests.ppo import OPTIONS, build_reward_model, share_base
from tests.rundirs import make_run_dir, run_as_launched, run_here
from tests.tensorboard import tracked
from training.events import EventReader
from training.rundir import Outcome, RunDir, RunResult
from training.worker.ppo.tokens import Tokens
from training.worker.scoring import load_reward_model

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 120


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def reward(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    folder = tmp_path_factory.mktemp("rewards") / "adapter"
    return build_reward_model(base, folder, mean=1.0, sd=2.0)


def make_ppo_dir(path: Path, base: Path, reward: Path, **given: Any) -> RunDir:
    return make_run_dir(path, base, method="ppo", reward_model=reward, **{**OPTIONS, **given})


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, base: Path, reward: Path
) -> tuple[RunDir, RunResult]:
    """One run, looked at from many sides."""
    run_dir = make_ppo_dir(tmp_path_factory.mktemp("runs") / "run-1", base, reward, save_steps=1)
    result = run_here(run_dir)
    assert result.state is Outcome.SUCCEEDED, (result.failure, run_dir.log_tail(40))
    return run_dir, result


def metrics(run_dir: RunDir) -> dict[int, Mapping[str, Any]]:
    """What was measured at each iteration; of one that was run twice, the later."""
    events = EventReader(run_dir.events_path).read()
    return {e.data["step"]: e.data for e in events if e.kind == "metrics"}


def test_the_report_says_what_was_learned_from_and_what_became_of_it(
    trained: tuple[RunDir, RunResult],
) -> None:
    report = trained[1].report
    assert report["steps"] == 4
    assert report["data"] == {"train": 48, "too_long": 0, "seen": 32}
    assert report["generations"]["prompts"] == 4
    assert report["generations"]["kl_k3"] > 0
    assert report["reward"]["before"] != report["reward"]["after"]
    assert report["training"]["score"] == metrics(trained[0])[4]["score"]
    assert report["timing"]["rollouts_per_s"] > 0


def test_its_metrics_are_in_the_files_of_tensorboard(trained: tuple[RunDir, RunResult]) -> None:
    told = {step: numbers["score"] for step, numbers in metrics(trained[0]).items()}
    assert tracked(trained[0], "train/score") == pytest.approx(told)
    assert told


def test_rewards_and_distances_are_told_apart_at_every_iteration(
    trained: tuple[RunDir, RunResult],
) -> None:
    told = metrics(trained[0])
    assert list(told) == [1, 2, 3, 4]
    assert told[1]["kl"] == pytest.approx(0, abs=1e-5)
    for at in told.values():
        assert at["kl_penalty"] == pytest.approx(at["kl_coef"] * at["kl"])
        assert at["objective"] == pytest.approx(at["reward"] - at["kl_penalty"])


def test_the_events_tell_the_whole_story_in_order(trained: tuple[RunDir, RunResult]) -> None:
    events = EventReader(trained[0].events_path).read()
    phases = [e.data["name"] for e in events if e.kind == "phase"]
    assert phases == ["loading", "preparing", "training", "evaluating"]
    progress = [e.data for e in events if e.kind == "progress"]
    assert [p["step"] for p in progress] == [1, 2, 3, 4]
    assert [p["first_step"] for p in progress] == [True, False, False, False]
    assert progress[-1]["total"] == 4
    assert len([e for e in events if e.kind == "sample"]) == 4
    assert events[-1].kind == "done"


def test_only_the_policy_s_adapter_is_left_and_it_loads(
    trained: tuple[RunDir, RunResult], base: Path
) -> None:
    from peft import PeftModel

    from training.loading import load_base

    adapter = trained[0].adapter
    assert not list(adapter.glob("*/"))
    assert not [name for name in load_file(adapter / "adapter_model.safetensors") if "head" in name]
    adapted = PeftModel.from_pretrained(load_base(base), adapter)
    b_weights = [p for name, p in adapted.named_parameters() if "lora_B" in name]
    assert b_weights
    assert all(p.abs().sum() > 0 for p in b_weights)


def test_the_newest_two_checkpoints_are_kept(trained: tuple[RunDir, RunResult]) -> None:
    kept = sorted(path.name for path in trained[0].checkpoints.iterdir())
    assert kept == ["checkpoint-3", "checkpoint-4"]
    assert (trained[0].checkpoints / "checkpoint-4" / "complete").exists()


def test_a_run_says_which_prompts_it_asked(trained: tuple[RunDir, RunResult]) -> None:
    rows = trained[0].read_trained_rows()
    assert len(set(rows)) == len(rows) == 32
    assert max(rows) < 48


def test_an_interrupted_run_goes_on_to_the_very_same_numbers(
    trained: tuple[RunDir, RunResult], tmp_path: Path, base: Path, reward: Path
) -> None:
    run_dir = make_ppo_dir(tmp_path / "run-1", base, reward, save_steps=2)
    process = subprocess.Popen(
        [sys.executable, "-m", "training.worker", str(run_dir.path)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + TIMEOUT_S
    while run_dir.newest_checkpoint() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait(TIMEOUT_S)
    killed_at = run_dir.newest_checkpoint()
    assert killed_at is not None
    assert killed_at.name == "checkpoint-2"
    assert run_dir.read_result() is None

    assert run_here(run_dir).state is Outcome.SUCCEEDED
    assert metrics(run_dir) == metrics(trained[0])
    weights, expected = (
        load_file(folder / "adapter_model.safetensors")
        for folder in (run_dir.adapter, trained[0].adapter)
    )
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_a_run_that_continues_starts_at_no_distance_from_its_parent(
    tmp_path: Path, base: Path, reward: Path
) -> None:
    parent = build_adapter(base, tmp_path / "parent", seed=3)
    run_dir = make_ppo_dir(tmp_path / "run", base, reward, parent_adapter=parent, iterations=2)
    result = run_here(run_dir)
    assert result.state is Outcome.SUCCEEDED, result.failure
    assert metrics(run_dir)[1]["kl"] == pytest.approx(0, abs=1e-5)
    assert result.report["win_rate_over_base"]["n"] == result.report["win_rate"]["n"] > 0
    warnings = [e for e in EventReader(run_dir.events_path).read() if e.kind == "warning"]
    assert any("LoRA rank 4" in e.data["message"] for e in warnings)


def test_prompts_that_leave_no_room_are_left_out_and_counted(
    tmp_path: Path, base: Path, reward: Path
) -> None:
    rows = [{"prompt": [{"role": "user", "content": "Where? " * n}]} for n in (1, 300, 2)]
    run_dir = make_ppo_dir(tmp_path / "run", base, reward, rows=rows, iterations=1)
    result = run_here(run_dir)
    assert result.report["data"]["too_long"] == 1
    assert run_dir.read_trained_rows() == [0, 2]


def test_prompts_that_all_leave_no_room_are_bad_data(
    tmp_path: Path, base: Path, reward: Path
) -> None:
    rows = [{"prompt": [{"role": "user", "content": "Where? " * 300}]}]
    result = run_here(make_ppo_dir(tmp_path / "run", base, reward, rows=rows))
    assert result.failure is not None
    assert result.failure.name == "bad_data"


def test_what_a_reward_run_leaves_scores_as_it_does_elsewhere(tmp_path: Path, base: Path) -> None:
    run_dir = make_run_dir(tmp_path / "run", base, method="reward", epochs=1)
    assert run_here(run_dir).state is Outcome.SUCCEEDED
    prompts, completions = [[5, 9, 30], [7]], [[32, 33], [50, 51, 52, 2]]
    known = load_reward_model(str(base), str(run_dir.adapter))
    tokens = Tokens.padded(prompts, completions, torch.device("cpu"))
    found = share_base(base, reward=run_dir.adapter).rewards(tokens)
    assert found.tolist() == pytest.approx(known.score(prompts, completions), abs=1e-4)


def test_a_reward_model_tuned_otherwise_is_refused(tmp_path: Path, base: Path) -> None:
    result = run_here(make_ppo_dir(tmp_path / "run", base, base))
    assert result.failure is not None
    assert result.failure.name == "model_load"
    assert "is no low-rank adapter" in result.failure.message


@pytest.mark.nightly
def test_two_processes_learn_what_one_does(tmp_path: Path, base: Path, reward: Path) -> None:
    # One minibatch an epoch: how rows fall into minibatches depends on the number of processes.
    shape = {"iterations": 2, "minibatch_size": 8, "eval_generations": 0, "save_steps": 1}
    alone, together = (
        make_ppo_dir(tmp_path / name, base, reward, processes=count, **shape)
        for name, count in (("alone", 1), ("together", 2))
    )
    result = run_as_launched(together)
    assert run_here(alone).state is Outcome.SUCCEEDED
    assert result.state is Outcome.SUCCEEDED
    other = EventReader(together.path / "events.1.jsonl").read()
    theirs = {e.data["step"]: e.data for e in other if e.kind == "metrics"}
    assert theirs == metrics(together)
    for step, expected in metrics(alone).items():
        found = metrics(together)[step]
        for name in ("score", "kl", "length", "policy_loss", "value_loss", "grad_norm"):
            assert found[name] == pytest.approx(expected[name], rel=1e-3, abs=1e-5), (step, name)
    weights, expected_weights = (
        load_file(run_dir.adapter / "adapter_model.safetensors") for run_dir in (together, alone)
    )
    for name, weight in expected_weights.items():
        assert torch.allclose(weights[name], weight, atol=1e-3), name
