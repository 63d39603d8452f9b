"""The tokens that a run has learned from, as its report holds them against the estimate's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.models import build_model
from tests.ppo import LENGTH, build_reward_model, build_trainer, share_base
from tests.rundirs import (
    comparison_rows,
    demonstration_rows,
    make_run_dir,
    preference_rows,
    rated_rows,
    run_here,
)
from training.loading import load_base, load_tokenizer
from training.rundir import Outcome, RunDir
from training.worker.encoding import Encoder

# Comparisons of three pairs each: so many are divided between two reward models.
ENOUGH = 112
GROUPS = {"iterations": 3, "prompts": 4, "generations": 4, "batch_size": 8, "save_steps": 1}
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "dpo": {"save_steps": 2},
    "reward": {"save_steps": 2},
    "ppo": {"iterations": 3, "rollouts": 8, "minibatch_size": 4, "save_steps": 1},
    "rloo": GROUPS,
    "grpo": GROUPS,
    "best_of_n": {"n": 4, "prompts": 24, "batch_size": 4, "save_steps": 2},
    "online_dpo": {"n": 4, "prompts": 24, "batch_size": 4, "missing_eos_penalty": 0.0},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    return build_reward_model(model, tmp_path_factory.mktemp("rewards") / "adapter")


def prepare(folder: Path, model: Path, method: str, **options: Any) -> RunDir:
    given = {"eval_generations": 0, **OPTIONS.get(method, {}), **options}
    return make_run_dir(folder, model, method=method, **given)


def counted(run_dir: RunDir) -> int:
    """Train, and return what the run has counted."""
    result = run_here(run_dir)
    assert result.state is Outcome.SUCCEEDED, (result.failure, run_dir.log_tail(40))
    tokens: int = result.report["timing"]["tokens"]
    return tokens


def sequences(rows: Sequence[Mapping[str, Any]]) -> list[tuple[Any, Any]]:
    """Prompts with their completions, each as often as it is read in an epoch."""
    sides = ("completion", "chosen", "rejected")
    return [(row["prompt"], row[side]) for row in rows for side in sides if side in row]


def tokens_of(model: Path, read: Sequence[tuple[Any, Any]]) -> int:
    encoder = Encoder(load_tokenizer(model), load_base(model))
    return sum(len(encoder.encode(prompt, completion).ids) for prompt, completion in read)


@pytest.mark.parametrize(
    ("method", "rows", "more"),
    [
        ("sft", demonstration_rows(), 0),
        ("reward", [{**row, "margin": 1.0, "is_tie": False} for row in preference_rows()], 0),
        # TRL also has what the template writes behind the end of a turn.
        ("dpo", preference_rows(), 1),
        ("kto", rated_rows(), 1),
    ],
)
def test_all_that_a_run_reads_in_its_epochs_is_counted(
    tmp_path: Path, model: Path, method: str, rows: list[dict[str, Any]], more: int
) -> None:
    given = [{**row, "comparison_id": f"c{n}"} for n, row in enumerate(rows)]
    run_dir = prepare(tmp_path / "run", model, method, rows=given, epochs=2, eval_share=0.0)
    read = sequences(rows)
    assert counted(run_dir) == 2 * (tokens_of(model, read) + more * len(read))


def test_both_reward_models_count(tmp_path: Path, model: Path) -> None:
    rows = comparison_rows(ENOUGH)
    # Each of the three responses of a ranking is read once.
    read = [sequence for row in rows[::3] for sequence in sequences([row])]
    read += [(row["prompt"], row["chosen"]) for row in rows[2::3]]
    run_dir = prepare(tmp_path / "run", model, "reward", rows=rows, epochs=2, eval_share=0.0)
    assert counted(run_dir) == 2 * tokens_of(model, read)
    assert run_dir.watch_adapter is not None


def test_ppo_counts_what_the_policy_and_the_value_function_learn_from(model: Path) -> None:
    trainer = build_trainer(model, share_base(model), LENGTH, ppo_epochs=3, target_approx_kl=0.0)
    drawn = int(trainer.collector.collect(0).tokens.attention.sum())
    trainer.run_iteration()
    assert trainer.tokens == 2 * 3 * drawn


def test_ppo_does_not_count_steps_that_are_not_taken(model: Path) -> None:
    trainer = build_trainer(model, share_base(model), LENGTH, ppo_epochs=3, target_approx_kl=1e-20)
    drawn = int(trainer.collector.collect(0).tokens.attention.sum())
    trainer.run_iteration()
    assert trainer.tokens == 3 * drawn


@pytest.mark.parametrize("method", ["rloo", "grpo"])
def test_responses_count_each_time_that_they_are_learned_from(
    tmp_path: Path, model: Path, reward_model: Path, method: str
) -> None:
    once, twice = (
        prepare(
            tmp_path / str(epochs),
            model,
            method,
            reward_model=reward_model,
            iterations=1,
            inner_epochs=epochs,
            max_new_tokens=10,
        )
        for epochs in (1, 2)
    )
    assert counted(twice) == 2 * counted(once) > 0


@pytest.mark.parametrize("method", OPTIONS)
def test_a_resumed_run_tells_as_many_as_one_that_was_never_interrupted(
    tmp_path: Path, model: Path, reward_model: Path, method: str
) -> None:
    from_scores = {"reward_model": reward_model, "max_new_tokens": 10}
    more = {} if method in ("dpo", "reward") else from_scores
    run_dir = prepare(tmp_path / "run", model, method, **more)
    straight = counted(run_dir)
    last = run_dir.newest_checkpoint()
    assert last is not None
    (last / "complete").unlink()
    assert run_dir.newest_checkpoint() is not None
    run_dir.forget_end()
    assert counted(run_dir) == straight > 0
