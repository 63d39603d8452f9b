"""RLOO, GRPO, best-of-n, online DPO: a policy that learns from what a reward model says of it."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import pytest
import torch
from peft import PeftConfig

from tests.models import build_adapter, build_model
from tests.rundirs import make_run_dir, preference_rows, prompt_rows, run_here
from training.config import EVAL_PROMPTS
from training.events import EventReader
from training.loading import load_base, load_tokenizer, render_prompt, stop_token_ids
from training.methods.rloo import RLOOOptions
from training.overoptimization import looks
from training.rundir import Outcome, RunDir, RunResult
from training.tuning import Tuning, tuning_of
from training.worker import models
from training.worker.evaluate import kl_estimates, token_log_probs
from training.worker.models import Trainee, with_adapter
from training.worker.rewards import Rewarder
from training.worker.scoring import RewardModel, load_reward_model

TokenIds = Sequence[int]

ONLINE = ["rloo", "grpo"]
# About two seconds of learning.
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "rloo": {"iterations": 8, "prompts": 8, "generations": 4, "batch_size": 16},
    "grpo": {"iterations": 8, "prompts": 8, "generations": 4, "batch_size": 16},
    "best_of_n": {"n": 8, "prompts": 24, "epochs": 6, "batch_size": 8},
    "online_dpo": {"prompts": 20, "epochs": 4, "batch_size": 8, "learning_rate": 3e-3},
    "ppo": {"iterations": 1, "rollouts": 16, "minibatch_size": 8, "micro_batch_size": 8},
}
# Of the kind that is trained on; there are others in what is.
TEST_PROMPTS = [[{"role": "user", "content": f"Where is parcel {n}?"}] for n in range(100, 124)]


class Start(NamedTuple):
    """A model that thanks every other time, and a reward model that likes thanks."""

    model: Path
    reward_model: Path | None


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Start:
    folder = tmp_path_factory.mktemp("start")
    untaught = build_model(folder / "untaught")
    shown = [
        {"prompt": row["prompt"], "completion": row[side], "kind": "demonstration"}
        for row in preference_rows()
        for side in ("chosen", "rejected")
    ]
    school = make_run_dir(
        folder / "school",
        untaught,
        method="sft",
        rows=shown,
        tuning="full",
        learning_rate=0.01,
        epochs=12,
        batch_size=16,
        save_steps=1000,
        eval_generations=0,
    )
    ran(school)
    model = folder / "model"
    shutil.copytree(untaught, model)
    shutil.copytree(school.adapter, model, dirs_exist_ok=True, copy_function=shutil.copyfile)
    reward = make_run_dir(
        folder / "reward", model, method="reward", learning_rate=0.01, eval_generations=0
    )
    ran(reward)
    return Start(model, reward.adapter)


def prepare(
    folder: Path, start: Start, method: str, parent_adapter: Path | None = None, **options: Any
) -> RunDir:
    given = {
        "learning_rate": 0.01,
        "max_new_tokens": 20,
        "sample_tokens": 20,
        "eval_generations": 24,
        **OPTIONS[method],
        **options,
    }
    run_dir = make_run_dir(
        folder,
        start.model,
        method=method,
        parent_adapter=parent_adapter,
        reward_model=start.reward_model,
        **given,
    )
    lines = (json.dumps({"messages": messages}) for messages in TEST_PROMPTS)
    (run_dir.path / EVAL_PROMPTS).write_text("\n".join(lines))
    return run_dir


def ran(run_dir: RunDir) -> RunResult:
    result = run_here(run_dir)
    assert result.state is Outcome.SUCCEEDED, (result.failure, run_dir.log_tail(40))
    return result


def metrics(run_dir: RunDir) -> list[dict[str, Any]]:
    """What was measured while training, in order."""
    events = EventReader(run_dir.events_path).read()
    return [dict(e.data) for e in events if e.kind == "metrics" and "loss" in e.data]


@pytest.fixture(scope="module", params=["rloo", "grpo", "best_of_n", "online_dpo"])
def trained(
    request: pytest.FixtureRequest, start: Start, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunDir, RunResult]:
    run_dir = prepare(tmp_path_factory.mktemp("trained") / request.param, start, request.param)
    return run_dir, ran(run_dir)


@pytest.fixture(scope="module")
def trained_online_dpo(
    start: Start, tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunDir, RunResult]:
    run_dir = prepare(tmp_path_factory.mktemp("online") / "run", start, "online_dpo")
    return run_dir, ran(run_dir)


def test_responses_to_prompts_never_asked_come_to_score_higher(
    trained: tuple[RunDir, RunResult],
) -> None:
    reward = trained[1].report["reward"]
    assert reward["after"] > reward["before"] + 0.5
    assert trained[1].report["generations"]["kl_k3"] > 0


def test_who_gains_reward_is_not_said_to_have_learned_nothing(
    trained: tuple[RunDir, RunResult],
) -> None:
    found = {verdict["finding"] for verdict in trained[1].report["verdicts"]}
    assert not found & {"unstable", "underfitting"}


def test_wins_are_by_the_reward_model_that_was_learned_from(
    trained: tuple[RunDir, RunResult],
) -> None:
    report = trained[1].report
    assert report["win_rate"]["rate"] > 0.5
    assert report["scored_by"]["is_learned_from"]


def test_the_adapter_that_is_left_loads_and_has_moved(
    trained: tuple[RunDir, RunResult], start: Start
) -> None:
    adapter = trained[0].adapter
    assert tuning_of(adapter) is Tuning.LORA
    weights = with_adapter(load_base(start.model), str(adapter)).state_dict()
    moved = {name for name, weight in weights.items() if "lora_B" in name and weight.any()}
    assert len(moved) == 14  # every linear layer of both blocks


def test_the_rows_that_were_asked_are_told(trained: tuple[RunDir, RunResult]) -> None:
    rows = trained[0].read_trained_rows()
    assert len(rows) == len(set(rows)) == trained[1].report["data"]["train"]
    assert set(rows) <= set(range(len(prompt_rows())))


PENALTY = 2.0


@pytest.mark.parametrize("method", ONLINE)
def test_reward_and_its_price_are_told_at_every_step(
    tmp_path: Path, start: Start, method: str
) -> None:
    asked: dict[str, Any] = {"iterations": 3, "beta": 0.5, "missing_eos_penalty": PENALTY}
    run_dir = prepare(tmp_path / "run", start, method, eval_generations=0, **asked)
    ran(run_dir)
    told = metrics(run_dir)
    assert [m["step"] for m in told] == [1, 2, 3]
    assert any(m["ended"] < 1 for m in told)
    for m in told:
        rewarded = m["score"] - PENALTY * (1 - m["ended"])
        assert m["reward"] == pytest.approx(rewarded)
        assert m["objective"] == pytest.approx(rewarded - 0.5 * m["kl"])
        assert m["kl_penalty"] == pytest.approx(0.5 * m["kl"])
        assert 0 < m["length"] <= 20
        assert 0 <= m["ended"] <= 1
        assert m["entropy"] > 0
    # The policy starts as its own reference, and is the one that drew the first responses.
    assert told[0]["kl"] == pytest.approx(0, abs=1e-4)
    assert told[0]["clip_fraction"] == 0
    assert told[-1]["kl"] != pytest.approx(0, abs=1e-4)


@pytest.fixture
def overheard(monkeypatch: pytest.MonkeyPatch) -> list[tuple[TokenIds, TokenIds]]:
    """The prompts with their completions that reward models are given to score."""
    rows: list[tuple[TokenIds, TokenIds]] = []
    score = RewardModel.score

    def listen(
        self: RewardModel, prompts: Sequence[TokenIds], completions: Sequence[TokenIds]
    ) -> list[float]:
        rows.extend(zip(prompts, completions, strict=True))
        return score(self, prompts, completions)

    monkeypatch.setattr(RewardModel, "score", listen)
    return rows


@pytest.mark.parametrize("method", ["rloo", "grpo", "best_of_n", "online_dpo"])
def test_the_reward_model_reads_prompts_and_responses_as_they_were_drawn(
    tmp_path: Path, start: Start, method: str, overheard: list[tuple[TokenIds, TokenIds]]
) -> None:
    small: dict[str, Any] = {"iterations": 1} if method in ONLINE else {"n": 4, "prompts": 6}
    ran(prepare(tmp_path / "run", start, method, **small))

    tokenizer = load_tokenizer(start.model)
    stop_ids = stop_token_ids(tokenizer, load_base(start.model))
    (stop_id,) = set(stop_ids) - {tokenizer.eos_token_id}
    asked = [row["prompt"] for row in prompt_rows()] + TEST_PROMPTS
    rendered = [render_prompt(tokenizer, messages) for messages in asked]
    assert all(list(prompt) in rendered for prompt, _ in overheard)
    completions = [completion for _, completion in overheard]
    ended = [ids for ids in completions if ids[-1] == stop_id]
    assert len(ended) > len(completions) / 2
    assert all(stop_id not in ids[:-1] for ids in completions)
    assert all(0 < len(ids) <= 20 for ids in completions)
    assert not any(tokenizer.pad_token_id in ids for ids in completions)


@pytest.fixture(scope="module")
def absolute(tmp_path_factory: pytest.TempPathFactory) -> Start:
    """A model that counts positions from the first column, padding or not."""
    folder = tmp_path_factory.mktemp("absolute")
    model = build_model(folder / "model", "gpt2")
    reward = make_run_dir(folder / "reward", model, method="reward", epochs=1, eval_generations=0)
    ran(reward)
    return Start(model, reward.adapter)


@pytest.mark.parametrize("tuning", [Tuning.LORA, Tuning.PREFIX, Tuning.PROMPT])
@pytest.mark.parametrize(
    ("method", "estimator", "fixture"),
    [("rloo", 0, "start"), ("grpo", 1, "start"), ("rloo", 0, "absolute"), ("grpo", 1, "absolute")],
)
def test_the_kl_is_that_of_whole_responses(
    tmp_path: Path,
    method: str,
    estimator: int,
    fixture: str,
    tuning: Tuning,
    overheard: list[tuple[TokenIds, TokenIds]],
    request: pytest.FixtureRequest,
) -> None:
    """RLOO is told k1, GRPO k3: of the second step's responses, by the policy after the first."""
    start: Start = request.getfixturevalue(fixture)
    overheard.clear()
    run_dir = prepare(
        tmp_path / "run",
        start,
        method,
        tuning=tuning.value,
        iterations=2,
        batch_size=32,
        save_steps=1,
    )
    ran(run_dir)

    tokenizer = load_tokenizer(start.model)
    policy = with_adapter(load_base(start.model), str(run_dir.checkpoints / "checkpoint-1"))
    trainee = Trainee(policy.eval(), tokenizer, tuning)
    told = overheard[32:64]
    assert len({len(prompt) for prompt, _ in told}) > 1
    distances = [distance(trainee, *row)[estimator] for row in told]
    assert metrics(run_dir)[1]["kl"] == pytest.approx(fmean(distances), rel=1e-3)


@torch.no_grad()
def distance(trainee: Trainee, prompt: TokenIds, completion: TokenIds) -> list[float]:
    """KL of a completion to the reference, in nats, estimated by k1 and by k3."""
    ids, start = torch.tensor([[*prompt, *completion]]), len(prompt)
    policy = token_log_probs(trainee.model, ids, torch.ones_like(ids))[:, start - 1 :]
    with trainee.reference() as model:
        reference = token_log_probs(model, ids, torch.ones_like(ids))[:, start - 1 :]
    return [float(k) for k in kl_estimates(policy, reference, torch.ones_like(policy))]


def test_a_response_without_an_end_is_punished(start: Start) -> None:
    tokenizer = load_tokenizer(start.model)
    model = load_reward_model(str(start.model), str(start.reward_model))
    stop_ids = stop_token_ids(tokenizer, load_base(start.model))
    rewarder = Rewarder(model, stop_ids, missing_eos_penalty=2.5)
    prompt = render_prompt(tokenizer, [{"role": "user", "content": "Where is parcel 3?"}])
    words = tokenizer("Thank you.")["input_ids"]

    rewarded = rewarder.reward([prompt, prompt], [[*words, stop_ids[-1]], words])

    assert rewarded.ended == [True, False]
    assert rewarded.scores == pytest.approx(
        model.score([prompt, prompt], [[*words, stop_ids[-1]], words])
    )
    assert rewarded.rewards == pytest.approx([rewarded.scores[0], rewarded.scores[1] - 2.5])


@pytest.mark.parametrize("method", ONLINE)
def test_a_run_that_goes_on_from_a_checkpoint_does_what_it_would_have_done(
    tmp_path: Path, start: Start, method: str
) -> None:
    run_dir = prepare(
        tmp_path / "run", start, method, iterations=4, save_steps=2, eval_generations=0
    )
    ran(run_dir)
    straight = metrics(run_dir)
    (run_dir.checkpoints / "checkpoint-4" / "complete").unlink()
    run_dir.forget_end()
    ran(run_dir)

    resumed = metrics(run_dir)[len(straight) :]
    assert [m["step"] for m in resumed] == [3, 4]
    assert resumed == straight[2:]


@pytest.mark.parametrize("method", ["rloo", "best_of_n"])
def test_a_run_that_is_cancelled_keeps_what_it_has_to_go_on_from(
    tmp_path: Path, start: Start, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = RewardModel.score
    calls = iter(range(100))

    def interrupted(
        self: RewardModel, prompts: Sequence[TokenIds], completions: Sequence[TokenIds]
    ) -> list[float]:
        if next(calls) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return score(self, prompts, completions)

    monkeypatch.setattr(RewardModel, "score", interrupted)
    run_dir = prepare(tmp_path / "run", start, method, eval_generations=0)
    assert run_here(run_dir).state is Outcome.CANCELLED
    if method == "rloo":
        checkpoint = run_dir.newest_checkpoint()
        assert checkpoint is not None
        assert checkpoint.name == "checkpoint-2"
    else:
        assert len(run_dir.completions_path.read_bytes().splitlines()) == 16

    run_dir.forget_end()
    ran(run_dir)


def test_a_reward_model_without_numbers_ends_the_run(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RewardModel, "score", lambda _, prompts, __: [math.nan] * len(prompts))
    failure = run_here(prepare(tmp_path / "run", start, "grpo")).failure
    assert failure
    assert failure.name == "model_load"
    assert "no number" in failure.message


@pytest.mark.parametrize("method", ONLINE)
def test_responses_can_be_learned_from_more_than_once(
    tmp_path: Path, start: Start, method: str
) -> None:
    run_dir = prepare(
        tmp_path / "run", start, method, iterations=2, inner_epochs=3, eval_generations=0
    )
    assert ran(run_dir).report["steps"] == 6
    told = metrics(run_dir)
    # New responses are only drawn, and scored, in steps 1 and 4; the policy moves away from them.
    assert [m["step"] for m in told if "score" in m] == [1, 4]
    assert told[0]["clip_fraction"] == told[3]["clip_fraction"] == 0
    assert told[2]["clip_fraction"] > 0


@pytest.mark.parametrize(
    ("method", "tuning"),
    [
        ("rloo", Tuning.DORA),
        ("rloo", Tuning.PREFIX),
        ("grpo", Tuning.RSLORA),
        ("grpo", Tuning.FULL),
        ("grpo", Tuning.PROMPT),
    ],
)
def test_every_tuning_learns(tmp_path: Path, start: Start, method: str, tuning: Tuning) -> None:
    rate = 2e-3 if tuning is Tuning.FULL else 0.01
    run_dir = prepare(
        tmp_path / "run", start, method, tuning=tuning.value, learning_rate=rate, iterations=2
    )
    result = ran(run_dir)
    assert tuning_of(run_dir.adapter) is tuning
    assert result.report["generations"]["kl_k3"] > 0


def virtual_tokens(tuning: Tuning) -> PeftConfig:
    return models.fresh_adapter(RLOOOptions(tuning=tuning.value, virtual_tokens=4))


@pytest.mark.parametrize(
    ("method", "tuning"),
    [
        ("rloo", Tuning.FULL),
        ("rloo", Tuning.PREFIX),
        ("grpo", Tuning.LORA),
        ("grpo", Tuning.FULL),
        ("grpo", Tuning.PROMPT),
    ],
)
def test_the_policy_that_a_run_starts_from_is_its_reference(
    tmp_path: Path, start: Start, method: str, tuning: Tuning
) -> None:
    # A step of no length: whatever distance there is was there before.
    config = None if tuning in (Tuning.LORA, Tuning.FULL) else virtual_tokens(tuning)
    run_dir = prepare(
        tmp_path / "run",
        start,
        method,
        parent_adapter=build_adapter(start.model, tmp_path / "parent", 3, config),
        tuning=tuning.value,
        learning_rate=1e-8,
        iterations=2,
        eval_generations=6,
    )
    report = ran(run_dir).report
    assert [m["kl"] for m in metrics(run_dir)] == pytest.approx([0, 0], abs=1e-3)
    assert report["generations"]["kl_k1"] == pytest.approx(0, abs=2e-3)
    assert report["reward"]["before"] == pytest.approx(report["reward"]["after"])


def test_saving_memory_changes_no_step(tmp_path: Path, start: Start) -> None:
    curves = []
    for size in (32, 8):
        run_dir = prepare(
            tmp_path / f"batch-{size}",
            start,
            "rloo",
            iterations=2,
            batch_size=size,
            eval_generations=0,
            gradient_checkpointing=size == 8,
        )
        ran(run_dir)
        curves.append([m[name] for m in metrics(run_dir) for name in ("score", "grad_norm")])
    assert curves[0] == pytest.approx(curves[1], rel=1e-3)


def test_a_prompt_that_leaves_no_room_is_left_out_and_counted(tmp_path: Path, start: Start) -> None:
    rows = prompt_rows(8)
    rows[3]["prompt"][0]["content"] *= 60
    run_dir = prepare(tmp_path / "run", start, "rloo", rows=rows, iterations=2, eval_generations=0)
    assert ran(run_dir).report["data"] == {"train": 7, "held_out": 0, "too_long": 1, "seen": 64}
    assert 3 not in run_dir.read_trained_rows()


@pytest.mark.parametrize("method", OPTIONS)
def test_prompts_that_the_result_is_tested_with_are_never_asked(
    tmp_path: Path, start: Start, method: str
) -> None:
    first, second = (messages[0]["content"] for messages in TEST_PROMPTS[:2])
    leaked = [[{"role": "user", "content": text}] for text in (first, f"  {second.upper()}")]
    rows = [*({"prompt": prompt} for prompt in leaked), *prompt_rows(8)]
    run_dir = prepare(tmp_path / "run", start, method, rows=rows, eval_generations=0)
    ran(run_dir)
    asked = set(run_dir.read_trained_rows())
    if run_dir.completions_path.exists():
        asked |= {json.loads(line)["row"] for line in run_dir.completions_path.open()}
    assert asked
    assert asked <= set(range(2, 10))
    assert any(text.startswith("2 rows ask") for text in warnings_of(run_dir))


def test_prompts_that_are_all_of_the_test_are_refused_with_what_to_do(
    tmp_path: Path, start: Start
) -> None:
    rows = [{"prompt": prompt} for prompt in TEST_PROMPTS]
    failure = run_here(prepare(tmp_path / "run", start, "best_of_n", rows=rows)).failure
    assert failure
    assert failure.name == "all_tested"
    assert "all 24 rows ask what the result is tested with" in failure.message
    assert "Import other prompts" in failure.advice


def warnings_of(run_dir: RunDir) -> list[str]:
    events = EventReader(run_dir.events_path).read()
    return [event.data["message"] for event in events if event.kind == "warning"]


def test_best_of_n_tells_what_more_responses_would_gain(tmp_path: Path, start: Start) -> None:
    run_dir = prepare(tmp_path / "run", start, "best_of_n", keep=0.5, eval_generations=0)
    report = ran(run_dir).report
    curve = report["best_of_n"]
    assert [point["n"] for point in curve] == [1, 2, 4, 8]
    gains = [point["reward"] for point in curve]
    assert gains == sorted(gains)
    assert gains[-1] > gains[0]
    assert curve[-1]["kl"] == pytest.approx(math.log(8) - 7 / 8)
    assert report["data"]["train"] + report["data"]["held_out"] == 12
    phases = [e.data["name"] for e in EventReader(run_dir.events_path).read() if e.kind == "phase"]
    assert phases == ["loading", "generating", "preparing", "training", "evaluating"]


def second_of(start: Start, folder: Path) -> Path:
    """The same reward model, whose scores are half as large."""
    assert start.reward_model is not None
    second = Path(shutil.copytree(start.reward_model, folder))
    scale = json.loads((second / "scores.json").read_text())
    (second / "scores.json").write_text(json.dumps({**scale, "sd": 2 * scale["sd"]}))
    return second


def test_a_second_reward_model_tells_what_the_best_are_worth_and_so_it_does_when_the_run_goes_on(
    tmp_path: Path, start: Start
) -> None:
    options: dict[str, Any] = {"prompts": 12, "missing_eos_penalty": 0.0, "eval_generations": 0}
    run_dir = prepare(
        tmp_path / "run",
        start,
        "best_of_n",
        watch_model=second_of(start, tmp_path / "second"),
        save_steps=2,
        **options,
    )
    curve = ran(run_dir).report["best_of_n"]
    for point in curve:
        assert point["watch_reward"] == pytest.approx(point["reward"] / 2, abs=1e-4)

    adapter = adapter_of(run_dir)
    newest = run_dir.newest_checkpoint()
    assert newest is not None
    (newest / "complete").unlink()
    run_dir.forget_end()
    assert ran(run_dir).report["best_of_n"] == curve
    assert adapter_of(run_dir) == adapter

    alone = prepare(tmp_path / "alone", start, "best_of_n", save_steps=2, **options)
    assert "watch_reward" not in ran(alone).report["best_of_n"][0]
    assert adapter_of(alone) == adapter


def test_a_crash_while_drawing_loses_nothing_and_draws_nothing_twice(
    tmp_path: Path, start: Start
) -> None:
    options: dict[str, Any] = {"prompts": 12, "eval_generations": 0, "epochs": 1}
    straight = prepare(tmp_path / "straight", start, "best_of_n", **options)
    ran(straight)
    whole = straight.completions_path.read_bytes().splitlines(keepends=True)
    assert len(whole) == 12

    torn = prepare(tmp_path / "torn", start, "best_of_n", **options)
    # What was drawn before is marked, to be told from what is drawn again.
    marked = {**json.loads(whole[0]), "rewards": [7.0] * 8}
    kept = [json.dumps(marked).encode() + b"\n", *whole[1:5]]
    torn.completions_path.write_bytes(b"".join(kept) + whole[5][:40])
    ran(torn)

    after = torn.completions_path.read_bytes().splitlines(keepends=True)
    assert after[:5] == kept
    assert [drawn(line) for line in after[5:]] == [drawn(line) for line in whole[5:]]


def drawn(line: bytes) -> tuple[int, list[list[int]]]:
    """The row and the token ids; scores vary in their last digits with their neighbours."""
    found = json.loads(line)
    return found["row"], found["completions"]


def small_rounds(folder: Path, start: Start, *, save_steps: int = 100) -> RunDir:
    """Three rounds of two steps each, with a checkpoint after each round at least."""
    return prepare(
        folder,
        start,
        "online_dpo",
        rounds=3,
        prompts=8,
        epochs=2,
        save_steps=save_steps,
        eval_generations=0,
    )


def adapter_of(run_dir: RunDir) -> bytes:
    return (run_dir.adapter / "adapter_model.safetensors").read_bytes()


# Within the last round, and before it is drawn.
@pytest.mark.parametrize(("save_steps", "step"), [(1, 5), (100, 4)])
def test_rounds_that_go_on_from_a_checkpoint_end_as_they_would_have(
    tmp_path: Path, start: Start, save_steps: int, step: int
) -> None:
    run_dir = small_rounds(tmp_path / "run", start, save_steps=save_steps)
    report = ran(run_dir).report
    straight, adapter = metrics(run_dir), adapter_of(run_dir)
    drawn = run_dir.completions_path.read_bytes()
    (run_dir.checkpoints / "checkpoint-6" / "complete").unlink()
    if step == 4:
        lines = drawn.splitlines(keepends=True)
        known = [line for line in lines if json.loads(line)["round"] < 2]
        run_dir.completions_path.write_bytes(b"".join(known))
    run_dir.forget_end()

    resumed = ran(run_dir).report

    assert metrics(run_dir)[len(straight) :] == straight[step:]
    assert run_dir.completions_path.read_bytes() == drawn
    assert resumed["online_dpo"] == report["online_dpo"]
    assert adapter_of(run_dir) == adapter


def test_a_run_that_is_cancelled_while_a_later_round_is_drawn_ends_as_it_would_have(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = small_rounds(tmp_path / "straight", start)
    ran(straight)
    reward = Rewarder.reward
    calls = iter(range(100))

    def interrupted(self: Rewarder, *given: Any) -> Any:
        if next(calls) == 1:  # the second round's
            os.kill(os.getpid(), signal.SIGTERM)
        return reward(self, *given)

    monkeypatch.setattr(Rewarder, "reward", interrupted)
    run_dir = small_rounds(tmp_path / "run", start)
    assert run_here(run_dir).state is Outcome.CANCELLED
    checkpoint = run_dir.newest_checkpoint()
    assert checkpoint is not None
    assert checkpoint.name == "checkpoint-2"

    run_dir.forget_end()
    ran(run_dir)
    assert adapter_of(run_dir) == adapter_of(straight)


def test_the_policy_that_all_rounds_start_from_is_their_reference(
    tmp_path: Path, start: Start
) -> None:
    # Steps of no length: every pair's loss is that of no distance, in any round.
    run_dir = prepare(
        tmp_path / "run",
        start,
        "online_dpo",
        parent_adapter=build_adapter(start.model, tmp_path / "parent", seed=3),
        learning_rate=1e-8,
        epochs=1,
        eval_generations=0,
    )
    ran(run_dir)
    told = [m["loss"] for m in metrics(run_dir)]
    assert told == pytest.approx([math.log(2)] * len(told), abs=1e-3)


@pytest.mark.parametrize(
    ("tuning", "rate"), [(Tuning.FULL, 1e-3), (Tuning.PREFIX, 0.02), (Tuning.PROMPT, 0.1)]
)
def test_rounds_are_drawn_from_a_policy_of_every_tuning(
    tmp_path: Path, start: Start, tuning: Tuning, rate: float
) -> None:
    options: dict[str, Any] = {"tuning": tuning.value, "learning_rate": rate, "virtual_tokens": 4}
    run_dir = prepare(tmp_path / "run", start, "online_dpo", epochs=1, **options)
    result = ran(run_dir)
    assert tuning_of(run_dir.adapter) is tuning
    assert result.report["generations"]["kl_k3"] > 0
    assert len(result.report["online_dpo"]) == 2


def test_responses_that_are_all_alike_give_nothing_to_learn_from(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RewardModel, "score", lambda _, prompts, __: [1.0] * len(prompts))
    run_dir = prepare(tmp_path / "run", start, "online_dpo", missing_eos_penalty=0)
    failure = run_here(run_dir).failure
    assert failure
    assert "none of 20 prompts gave a pair" in failure.message


def phases(run_dir: RunDir) -> list[str]:
    events = EventReader(run_dir.events_path).read()
    return [e.data["name"] for e in events if e.kind == "phase"]


def test_every_round_draws_anew_from_what_the_one_before_has_made(
    trained_online_dpo: tuple[RunDir, RunResult],
) -> None:
    run_dir, result = trained_online_dpo
    first, second = result.report["online_dpo"]
    assert (first["round"], second["round"]) == (1, 2)
    assert first["prompts"] == second["prompts"] == 20
    assert first["chosen"] - first["rejected"] == pytest.approx(first["margin"])
    assert first["margin"] > 0
    # What is drawn after a round of learning scores higher than what was drawn before it.
    assert second["score"] > first["score"] + 0.3
    assert phases(run_dir) == [
        *("loading", "preparing", "generating", "training"),
        *("generating", "training", "evaluating"),
    ]


def test_the_reward_models_choices_are_learned_for_conversations_held_out(
    trained_online_dpo: tuple[RunDir, RunResult],
) -> None:
    run_dir, result = trained_online_dpo
    assert result.report["judged_pairs"]["accuracy"] > 0.7
    assert result.report["judged_pairs"]["margin"] > 0
    assert metrics(run_dir)[0]["loss"] == pytest.approx(math.log(2), abs=1e-3)
    assert "pairs" not in result.report
    held_out = {json.loads(line)["row"] for line in run_dir.completions_path.open()}
    assert len(held_out - set(run_dir.read_trained_rows())) >= result.report["data"]["held_out"] > 0


def test_a_method_that_needs_a_reward_model_does_not_start_without_one(
    tmp_path: Path, start: Start
) -> None:
    with pytest.raises(ValueError, match="needs one; train it first"):
        prepare(tmp_path / "run", start._replace(reward_model=None), "rloo")


def test_online_dpo_is_watched_across_its_rounds_and_when_it_goes_on(
    tmp_path: Path, start: Start
) -> None:
    second = second_of(start, tmp_path / "second")
    run_dir = prepare(
        tmp_path / "run", start, "online_dpo", watch_model=second, watch_steps=3, save_steps=2
    )
    result = ran(run_dir)

    straight = looks(EventReader(run_dir.events_path).read())
    last = result.report["steps"]
    assert [look.step for look in straight] == [*range(0, last, 3), last]
    assert straight[0].held_out_kl == pytest.approx(0, abs=1e-4)
    assert straight[-1].proxy_reward != pytest.approx(straight[0].proxy_reward, abs=1e-3)
    for look in straight:
        assert look.watch_reward == pytest.approx(look.proxy_reward / 2, abs=1e-4)

    before = len(EventReader(run_dir.events_path).read())
    (run_dir.checkpoints / f"checkpoint-{last}" / "complete").unlink()
    run_dir.forget_end()
    ran(run_dir)
    again = looks(EventReader(run_dir.events_path).read()[before:])
    assert again
    assert again == straight[-len(again) :]
