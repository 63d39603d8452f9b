"""The over-optimisation watch: a second reward model of its own judgments, and what it sees."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models import build_model
from tests.ppo import OPTIONS, build_reward_model, share_base
from tests.rundirs import comparison_rows, eval_prompts, make_run_dir, preference_rows, run_here
from training.events import EventReader, EventWriter
from training.generation import FinishReason, Output
from training.loading import stop_token_ids
from training.measurements import rows_given
from training.methods.reward import Pooling
from training.overoptimization import Look, looks
from training.rundir import Outcome, RunDir, RunResult
from training.tuning import Tuning
from training.worker import scoring, watch
from training.worker.job import Job, StopRequest
from training.worker.scoring import load_reward_model, load_second
from training.worker.watch import Judges, Watch

# Three pairs each: enough to be divided, even with some held out.
COMPARISONS = 112


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model(tmp_path_factory.mktemp("models") / "tiny")


def ran(run_dir: RunDir) -> RunResult:
    result = run_here(run_dir)
    assert result.state is Outcome.SUCCEEDED, (result.failure, run_dir.log_tail(40))
    return result


@pytest.fixture(scope="module")
def divided(
    tmp_path_factory: pytest.TempPathFactory, base: Path
) -> tuple[RunDir, RunResult, list[dict[str, Any]]]:
    """A reward run on enough pairs for a second model."""
    rows = comparison_rows(COMPARISONS)
    run_dir = make_run_dir(
        tmp_path_factory.mktemp("runs") / "reward",
        base,
        method="reward",
        rows=rows,
        epochs=1,
        eval_share=0.05,
        evaluations=1,
        save_steps=1000,
        agreement=(0.75, 20),
    )
    return run_dir, ran(run_dir), rows


def test_the_result_holds_what_people_reach_among_themselves(
    divided: tuple[RunDir, RunResult, list[dict[str, Any]]],
) -> None:
    _, result, _ = divided
    ranked = result.report["reward_model"]
    assert (ranked["agreement"], ranked["agreement_pairs"]) == (0.75, 20)


def test_no_conversation_teaches_both_models(
    divided: tuple[RunDir, RunResult, list[dict[str, Any]]],
) -> None:
    run_dir, result, rows = divided
    learned, watched = (
        {rows[number]["prompt"][0]["content"] for number in found.read_trained_rows()}
        for found in (run_dir, RunDir(run_dir.watch))
    )
    assert learned.isdisjoint(watched)
    assert 0.4 < len(watched) / len(learned | watched) < 0.6
    counts = result.report["data"]
    assert (counts["train"], counts["second_model"]) == (len(learned), len(watched))
    assert rows_given(result.report) == len(rows)


def test_both_are_reward_models_of_one_base_and_differ(
    divided: tuple[RunDir, RunResult, list[dict[str, Any]]], base: Path
) -> None:
    run_dir, result, _ = divided
    assert run_dir.watch_adapter is not None
    first = load_reward_model(str(base), str(run_dir.adapter))
    alone = load_reward_model(str(base), str(run_dir.watch_adapter))
    second = load_second(first, str(base), str(run_dir.watch_adapter))

    rows = [[5, 9], [7]], [[30, 2], [50, 51]]
    scores = first.score(*rows)
    assert second.score(*rows) == pytest.approx(alone.score(*rows), abs=1e-5)
    assert first.score(*rows) == scores != pytest.approx(second.score(*rows), abs=1e-3)
    for report in (result.report["reward_model"], result.report["watch_model"]):
        assert report["accuracy"] > 0.8


def test_training_the_second_model_leaves_no_trace_in_the_first_one_s_curves(
    divided: tuple[RunDir, RunResult, list[dict[str, Any]]],
) -> None:
    events = EventReader(divided[0].events_path).read()
    steps = [e.data["step"] for e in events if "loss" in e.data]
    assert steps == list(range(1, divided[1].report["steps"] + 1))
    phases = [e.data["name"] for e in events if e.kind == "phase"]
    assert phases == ["loading", "preparing", "training", "evaluating", "watch"]


def test_few_pairs_are_not_divided_and_the_run_says_so(tmp_path: Path, base: Path) -> None:
    run_dir = make_run_dir(tmp_path / "run", base, method="reward", epochs=1, evaluations=0)
    result = ran(run_dir)
    assert run_dir.watch_adapter is None
    assert "watch_model" not in result.report
    told = [e for e in EventReader(run_dir.events_path).read() if e.kind == "warning"]
    assert any("takes 300 pairs" in event.data["message"] for event in told)


@pytest.fixture(scope="module")
def reward(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    return build_reward_model(base, tmp_path_factory.mktemp("rewards") / "adapter", mean=1.0)


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """The same weights on another scale: its scores are half of (the first one's plus 1)."""
    return build_reward_model(base, tmp_path_factory.mktemp("seconds") / "adapter", sd=2.0)


@pytest.fixture(scope="module")
def watched(
    tmp_path_factory: pytest.TempPathFactory, base: Path, reward: Path, second: Path
) -> RunDir:
    """A PPO run whose second model is known by its scale, and whose few tokens hold no end."""
    options: dict[str, Any] = {**OPTIONS, "watch_steps": 3, "save_steps": 2, "sample_tokens": 5}
    run_dir = make_run_dir(
        tmp_path_factory.mktemp("runs") / "ppo",
        base,
        method="ppo",
        reward_model=reward,
        watch_model=second,
        **options,
    )
    ran(run_dir)
    return run_dir


def seen(run_dir: RunDir) -> list[Look]:
    return looks(EventReader(run_dir.events_path).read())


def test_ppo_is_looked_at_before_it_begins_every_few_iterations_and_at_its_end(
    watched: RunDir,
) -> None:
    told = seen(watched)
    assert [look.step for look in told] == [0, 3, 4]
    assert told[0].held_out_kl == pytest.approx(0, abs=1e-4)
    assert told[-1].held_out_kl != told[0].held_out_kl


def test_a_second_model_that_nobody_looks_through_is_not_loaded(
    tmp_path: Path, base: Path, reward: Path
) -> None:
    options: dict[str, Any] = {**OPTIONS, "watch_steps": 0, "iterations": 1}
    run_dir = make_run_dir(
        tmp_path / "ppo",
        base,
        method="ppo",
        reward_model=reward,
        watch_model=tmp_path / "nowhere",
        **options,
    )
    ran(run_dir)
    assert seen(run_dir) == []


def test_what_is_told_is_what_both_models_say_of_the_policy(watched: RunDir) -> None:
    result = watched.read_result()
    assert result is not None
    told = seen(watched)
    assert told[0].proxy_reward == pytest.approx(result.report["reward"]["before"], abs=1e-4)
    assert told[-1].proxy_reward == pytest.approx(result.report["reward"]["after"], abs=1e-4)
    assert told[-1].held_out_kl == pytest.approx(result.report["generations"]["kl_k1"], abs=1e-3)
    for look in told:
        assert look.watch_reward == pytest.approx((look.proxy_reward + 1) / 2, abs=1e-5)
        assert look.watch_error == pytest.approx(look.proxy_error / 2, abs=1e-5)
        assert look.proxy_error > 0


def test_a_resumed_run_goes_on_watching(watched: RunDir) -> None:
    straight = seen(watched)
    before = len(EventReader(watched.events_path).read())
    (watched.checkpoints / "checkpoint-4" / "complete").unlink()
    watched.forget_end()
    ran(watched)

    again = looks(EventReader(watched.events_path).read()[before:])
    assert [look.step for look in again] == [3, 4]
    assert again == straight[1:]


def warned_of(
    folder: Path, base: Path, proxy: Sequence[float], second: Sequence[float]
) -> list[str]:
    """What a watch warns of whose models say these of one look after another."""
    run_dir = make_run_dir(folder, base, method="ppo", reward_model=base)
    job = Job(run_dir.read_spec(), run_dir, EventWriter(run_dir.events_path), StopRequest())

    def judge(values: Sequence[float]) -> Any:
        said = iter(values)
        return lambda prompts, _: [next(said)] * len(prompts)

    trainee = share_base(base).trainee
    judges = Judges(judge(proxy), judge(second))
    looking = Watch(job, trainee, judges, every=1, asking=job.spec.options)  # type: ignore[arg-type]
    for step in range(len(proxy)):
        looking.follow(step)
    events = EventReader(run_dir.events_path).read()
    return [event.data["message"] for event in events if event.kind == "warning"]


def test_a_fall_beside_a_rising_reward_is_told_once(tmp_path: Path, base: Path) -> None:
    told = warned_of(tmp_path / "run", base, range(6), (0.0, 1.0, 0.5, 0.2, 0.1, 0.0))
    assert len(told) == 1
    assert "since step 1 it has risen from 1.00 to 3.00" in told[0]


def test_rewards_beyond_what_people_judged_are_told_of_once(tmp_path: Path, base: Path) -> None:
    rewards = (0.0, 2.0, 2.5, 1.0, 2.0, 2.5)
    told = warned_of(tmp_path / "run", base, rewards, rewards)
    assert len(told) == 1
    assert "scores 2.50 standard deviations above" in told[0]


def test_what_the_alarm_was_louder_than_is_told_once_the_alarm_is_taken_back(
    tmp_path: Path, base: Path
) -> None:
    proxy, watch = (0.0, 1.0, 1.8, 2.0, 2.2, 2.3), (0.0, 1.5, 1.0, 1.0, 1.8, 1.9)
    told = warned_of(tmp_path / "run", base, proxy, watch)
    assert ["exploited" in text for text in told] == [True, False]
    assert "scores 2.20 standard deviations above" in told[1]


@pytest.mark.parametrize(
    ("lengths", "told"),
    [((8, 6, 4, 4, 3), "much shorter: 4 tokens instead of 8"), ((4, 4, 6, 6), "much longer: 6")],
)
def test_responses_of_another_length_are_told_of_once(
    tmp_path: Path,
    base: Path,
    monkeypatch: pytest.MonkeyPatch,
    lengths: Sequence[int],
    told: str,
) -> None:
    left = iter(lengths)

    def generate(_: Any, __: Any, requests: Sequence[Any], **___: Any) -> list[Output]:
        ids = (5,) * next(left)
        return [Output("", ids, FinishReason.STOP) for _ in requests]

    monkeypatch.setattr(watch, "generate", generate)
    level = [0.0] * len(lengths)
    warned = warned_of(tmp_path / "run", base, level, level)
    assert len(warned) == 1
    assert told in warned[0]


def test_only_whole_responses_are_scored(tmp_path: Path, base: Path) -> None:
    # Of 16 responses of at most 120 tokens, this model ends some.
    run_dir = make_run_dir(
        tmp_path / "run",
        base,
        method="ppo",
        reward_model=base,
        test_prompts=eval_prompts(16),
        eval_generations=16,
        sample_tokens=120,
    )
    job = Job(run_dir.read_spec(), run_dir, EventWriter(run_dir.events_path), StopRequest())
    scored: list[Sequence[int]] = []

    def judge(
        prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
    ) -> list[float]:
        scored.extend(completions)
        return [0.0] * len(prompts)

    trainee = share_base(base).trainee
    watch = Watch(job, trainee, Judges(judge, judge), every=1, asking=job.spec.options)  # type: ignore[arg-type]
    watch.follow(0)

    stops = stop_token_ids(trainee.tokenizer, trainee.model)
    assert 0 < len(scored) < 32
    assert all(ids[-1] in stops for ids in scored)


@pytest.mark.parametrize("tuning", [Tuning.LORA, Tuning.PREFIX, Tuning.PROMPT, Tuning.FULL])
def test_rloo_is_watched_between_its_steps(tmp_path: Path, base: Path, tuning: Tuning) -> None:
    reward = build_reward_model(base, tmp_path / "reward", tuning=tuning, mean=1.0)
    second = build_reward_model(base, tmp_path / "second", tuning=tuning, sd=2.0)
    run_dir = make_run_dir(
        tmp_path / "rloo",
        base,
        method="rloo",
        rows=[{"prompt": row["prompt"]} for row in preference_rows(8)],
        reward_model=reward,
        watch_model=second,
        iterations=4,
        inner_epochs=2,
        prompts=2,
        generations=2,
        batch_size=4,
        max_new_tokens=10,
        sample_tokens=3,  # too few to come to an end
        watch_steps=3,
        learning_rate=0.01,
    )
    result = ran(run_dir)

    told = seen(run_dir)
    assert [look.step for look in told] == [0, 6, 8]  # two optimiser steps an iteration
    assert told[0].held_out_kl == pytest.approx(0, abs=1e-4)
    assert told[-1].proxy_reward == pytest.approx(result.report["reward"]["after"], abs=1e-4)
    assert told[-1].watch_reward == pytest.approx((told[-1].proxy_reward + 1) / 2, abs=1e-4)


def test_a_watch_that_the_device_has_no_memory_for_costs_the_run_nothing_else(
    tmp_path: Path, base: Path, reward: Path, second: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(scoring, "load_second", full)
    run_dir = make_run_dir(
        tmp_path / "run",
        base,
        method="rloo",
        rows=[{"prompt": row["prompt"]} for row in preference_rows(8)],
        reward_model=reward,
        watch_model=second,
        iterations=1,
        prompts=2,
        generations=2,
        batch_size=4,
        max_new_tokens=10,
        eval_generations=0,
    )
    ran(run_dir)

    told = [
        e.data["message"] for e in EventReader(run_dir.events_path).read() if e.kind == "warning"
    ]
    assert any("no memory for the second reward model" in message for message in told)


@pytest.mark.parametrize("tuning", [Tuning.LORA, Tuning.PREFIX, Tuning.PROMPT])
def test_a_row_is_scored_by_as_many_of_its_last_tokens_as_the_model_reads(
    tmp_path: Path, tuning: Tuning
) -> None:
    base = build_model(tmp_path / "model", "gpt2", context=32)
    model = load_reward_model(
        str(base), str(build_reward_model(base, tmp_path / "reward", tuning=tuning))
    )
    room = 32 if tuning is Tuning.LORA else 28
    row = [5 + n % 40 for n in range(32)]

    whole = model.score([row[:20]], [row[20:]])
    assert whole == model.score([row[32 - room : 20]], [row[20:]])
    assert model.score([row[:2]], [row[2:]]) == model.score([[]], [row[-room:]])


def test_the_head_of_a_base_in_bfloat16_learns_in_float32(base: Path) -> None:
    model = scoring.load_classifier(str(base), seed=0).to(torch.bfloat16)
    head = scoring.head_of(model).float()
    rows = scoring.Padded.of([[5, 9], [7]], [[30, 2], [50, 51]])

    scores = scoring.forward(model, rows, Pooling.MEAN)
    (gradient,) = torch.autograd.grad(scores.sum(), list(head.parameters()))
    assert gradient.dtype == torch.float32
    assert gradient.any()
