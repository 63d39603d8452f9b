"""What a run measures on both policies' answers, and what it makes of that."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest
import torch
from peft import get_peft_model

from tests.models import END_OF_TURN, build_model
from tests.rundirs import eval_prompts, make_run_dir, run_here
from training.artefacts import Artefact
from training.events import EventReader, EventWriter
from training.findings import Finding
from training.generation import FinishReason, Output, Request
from training.loading import load_base, load_tokenizer, render_prompt
from training.messages import Message
from training.methods.dpo import DPOOptions
from training.rundir import Outcome, RunDir, RunResult
from training.tuning import Tuning
from training.worker import asking
from training.worker.answers import tell_answers
from training.worker.asking import Answers, answer, respond
from training.worker.job import Job, StopRequest
from training.worker.models import Trainee, fresh_adapter, load

PROMPTS = 24


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def taste(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """A reward model that likes thanks and not people who have no idea."""
    run_dir = make_run_dir(tmp_path_factory.mktemp("runs") / "reward", model, method="reward")
    result = run_here(run_dir)
    assert result.report["reward_model"]["accuracy"] == 1
    return run_dir.adapter


@pytest.fixture(scope="module")
def judged(
    tmp_path_factory: pytest.TempPathFactory, model: Path, taste: Path
) -> tuple[RunDir, RunResult]:
    """A DPO run with all that can be told of it."""
    prompts = eval_prompts(PROMPTS)
    prompts[0]["checks"] = [{"kind": "max_words", "value": 500}, {"kind": "rhymes"}]
    run_dir = make_run_dir(
        tmp_path_factory.mktemp("runs") / "run",
        model,
        reward_model=taste,
        test_prompts=prompts,
        general=general_rows("No idea, sorry."),
        eval_generations=PROMPTS,
    )
    return run_dir, run_here(run_dir)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, model: Path) -> tuple[RunDir, RunResult]:
    """The same with nothing beside it, and steps of no length."""
    run_dir = make_run_dir(
        tmp_path_factory.mktemp("runs") / "run", model, learning_rate=1e-8, epochs=1
    )
    return run_dir, run_here(run_dir)


def general_rows(text: str) -> list[dict[str, Any]]:
    """Greetings that are answered so, every other one of them too long for the model."""
    return [
        {
            "prompt": [{"role": "user", "content": f"Hello {n}"}],
            "completion": [{"role": "assistant", "content": text + " And on." * 400 * (n % 2)}],
        }
        for n in range(80)
    ]


def report_of(ran: tuple[RunDir, RunResult]) -> Any:
    run_dir, result = ran
    assert result.state is Outcome.SUCCEEDED, (result.failure, run_dir.log_tail(40))
    return result.report


def answers_of(model: Path, before: str, after: str) -> Answers:
    """Both policies say the same thing to every prompt, and end it."""
    tokenizer = load_tokenizer(model)
    requests = [
        Request(render_prompt(tokenizer, prompt["messages"]), 16) for prompt in eval_prompts()
    ]

    def said(text: str) -> list[Output]:
        ids = (*tokenizer(text)["input_ids"], tokenizer.convert_tokens_to_ids(END_OF_TURN))
        return [Output(text, ids, FinishReason.STOP) for _ in requests]

    return Answers(eval_prompts(), requests, said(before), said(after), 1.0, 1.0, [0.1], [0.1])


def job_of(run_dir: RunDir) -> Job:
    return Job(run_dir.read_spec(), run_dir, EventWriter(run_dir.events_path), StopRequest())


def fresh_trainee(model: Path) -> Trainee:
    policy = get_peft_model(load_base(model), fresh_adapter(DPOOptions()))
    return Trainee(policy, load_tokenizer(model), Tuning.LORA)


WORST, BEST = "No idea, sorry, sorry, sorry.", "Thank you for waiting for waiting."


@pytest.mark.parametrize(
    ("before", "after", "rate", "worse"),
    [
        (WORST, BEST, 1, 0),
        (BEST, WORST, 0, 1),
        ("Thank you.", "Thank you.", 0.5, 0),
    ],
)
def test_a_reward_model_tells_who_wins_and_who_got_worse(
    tmp_path: Path,
    model: Path,
    taste: Path,
    before: str,
    after: str,
    rate: float,
    worse: float,
) -> None:
    job = job_of(make_run_dir(tmp_path / "run", model, reward_model=taste))

    told = tell_answers(job, fresh_trainee(model), answers_of(model, before, after))

    assert told["win_rate"]["rate"] == rate
    assert told["win_rate"]["low"] <= rate <= told["win_rate"]["high"]
    assert (told["regressions"]["by"], told["regressions"]["share"]) == ("reward_model", worse)
    assert told["generations"]["kl_k1"] == pytest.approx(0, abs=1e-4)


def test_a_run_that_knows_a_reward_model_asks_it_about_every_prompt(
    judged: tuple[RunDir, RunResult],
) -> None:
    won = report_of(judged)["win_rate"]

    assert won["n"] == won["wins"] + won["losses"] + won["draws"] == PROMPTS


def test_the_result_says_which_reward_model_scored_and_how_good_it_is(
    judged: tuple[RunDir, RunResult],
) -> None:
    told = report_of(judged)["scored_by"]
    assert 0 < told["comparisons"] <= told["pairs"]
    assert told == {
        "run_id": "reward",
        "accuracy": 1.0,
        "pairs": told["pairs"],
        "comparisons": told["comparisons"],
        "left_out": 0,
        "is_learned_from": False,
    }


def test_without_a_reward_model_only_the_text_tells_who_is_worse_and_why_is_said(
    alone: tuple[RunDir, RunResult],
) -> None:
    report = report_of(alone)

    assert (report["win_rate"], report["scored_by"]) == (None, None)
    assert "none of this base model was there" in report["unscored"]["template"]
    assert (report["regressions"]["by"], report["regressions"]["share"]) == ("text", 0)


def test_a_reward_model_that_is_gone_costs_the_run_only_its_win_rate(
    tmp_path: Path, model: Path
) -> None:
    job = job_of(make_run_dir(tmp_path / "run", model, reward_model=tmp_path / "gone"))

    told = tell_answers(job, fresh_trainee(model), answers_of(model, "Yes.", "No."))

    assert told["win_rate"] is None
    assert "gone" in str(Message.from_json(told["unscored"]))


@pytest.mark.parametrize(("known", "left"), [(1, 3), (4, 0)])
def test_prompts_that_the_reward_model_was_trained_on_do_not_count(
    tmp_path: Path, model: Path, taste: Path, known: int, left: int
) -> None:
    run_dir = RunDir(taste.parent)
    trained = pq.read_table(run_dir.path / "data/rows.parquet", columns=["prompt"]).to_pylist()
    met = [trained[row]["prompt"] for row in run_dir.read_trained_rows()[::3][:known]]
    prompts = [{"messages": prompt} for prompt in met] + eval_prompts()[known:]
    job = job_of(make_run_dir(tmp_path / "run", model, reward_model=taste))
    answered = answers_of(model, "No idea, sorry.", "Thank you.")._replace(prompts=prompts)

    told = tell_answers(job, fresh_trainee(model), answered)

    if left:
        assert (told["win_rate"]["n"], told["scored_by"]["left_out"]) == (left, known)
    else:
        assert "trained on all the test prompts" in told["unscored"]["template"]


def test_a_policy_that_continues_from_another_is_measured_against_the_base_as_well(
    tmp_path: Path, model: Path, taste: Path
) -> None:
    """The adapter's reference is the base here, so that both win rates must be the same."""
    run_dir = make_run_dir(tmp_path / "run", model, reward_model=taste, parent_adapter=tmp_path)
    trainee = fresh_trainee(model)
    for name, weight in trainee.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5, generator=torch.Generator().manual_seed(0))
    answered = answer(trainee, eval_prompts(8), max_new_tokens=8, seed=0, stop=StopRequest())
    assert answered is not None
    assert answered.before != answered.after

    told = tell_answers(job_of(run_dir), trainee, answered)

    assert told["win_rate_over_base"] == {**told["win_rate"], "rate_before": 0.5}


def test_a_policy_that_did_not_move_has_no_new_habits_and_forgets_nothing(
    alone: tuple[RunDir, RunResult],
) -> None:
    report = report_of(alone)

    assert [c["artefact"] for c in report["artefacts"]] == [a.value for a in Artefact]
    assert all(c["before"] == c["after"] and not c["is_alarming"] for c in report["artefacts"])
    told = report["forgetting"]
    assert told["on"] == "own"
    assert told["tokens"] == report["generations"]["length_before"] * 4
    assert told["loss_after"] == pytest.approx(told["loss_before"], abs=1e-4)


def test_forgetting_is_measured_on_general_text_where_there_is_some(
    judged: tuple[RunDir, RunResult],
) -> None:
    told = report_of(judged)["forgetting"]

    # The text that is longer than the model's context is left out.
    assert (told["on"], told["rows"]) == ("general", 3)
    assert told["loss_after"] > told["loss_before"] + 0.1


@pytest.mark.parametrize("method", ["dpo", "best_of_n"])
def test_forgetting_is_measured_on_general_text_though_nothing_is_answered(
    tmp_path: Path, model: Path, taste: Path, method: str
) -> None:
    drawing: dict[str, Any] = {"n": 8, "prompts": 24, "max_new_tokens": 40}
    run_dir = make_run_dir(
        tmp_path / "run",
        model,
        method=method,
        reward_model=taste,
        general=general_rows("No idea, sorry."),
        eval_generations=0,
        **(drawing if method == "best_of_n" else {}),
    )

    report = report_of((run_dir, run_here(run_dir)))

    assert report["generations"] is None
    assert (report["forgetting"]["on"], report["forgetting"]["rows"]) == ("general", 3)
    assert report["forgetting"]["loss_after"] != report["forgetting"]["loss_before"]


def test_a_reward_model_in_memory_is_asked_and_none_is_loaded(tmp_path: Path, model: Path) -> None:
    gone = tmp_path / "gone" / "adapter"
    run_dir = make_run_dir(tmp_path / "run", model, reward_model=gone, parent_adapter=tmp_path)

    def likes_long_ones(
        prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
    ) -> list[float]:
        return [len(c) / len(p) for p, c in zip(prompts, completions, strict=True)]

    answered = answers_of(model, "No.", "Nobody here knows anything at all about that. " * 4)
    told = tell_answers(job_of(run_dir), fresh_trainee(model), answered, likes_long_ones)

    assert (told["win_rate"]["rate"], told["regressions"]["by"]) == (1, "reward_model")
    assert told["win_rate_over_base"]["n"] == len(answered.prompts)
    assert told["scored_by"]["run_id"] == "gone"


@pytest.mark.parametrize("tuning", [Tuning.LORA, Tuning.PREFIX, Tuning.FULL])
def test_the_base_can_be_asked_whatever_is_tuned(
    tmp_path: Path, model: Path, tuning: Tuning
) -> None:
    run_dir = make_run_dir(tmp_path / "run", model, tuning=tuning.value)
    spec = run_dir.read_spec()
    trainee = load(spec, DPOOptions(tuning=tuning.value)).wrapped()
    learned = [w for w in trainee.model.parameters() if w.requires_grad]
    of_parent = list(trainee.frozen.parameters()) if trainee.frozen is not None else []
    with torch.no_grad():
        for weight in learned + of_parent:
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    ids = render_prompt(trainee.tokenizer, eval_prompts()[0]["messages"])

    def said(policy: Any) -> list[Output]:
        return respond(policy, trainee.tokenizer, [Request(ids, 8)], StopRequest())

    tuned = said(trainee.model)
    with trainee.base(spec.base_model) as base:
        found = said(base)

    assert found == said(load_base(model)) != tuned
    assert said(trainee.model) == tuned


def test_the_first_few_prompts_are_also_answered_alone_as_by_a_person_who_waits(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []

    def noting(policy: Any, tokenizer: Any, requests: Any, stop: StopRequest) -> list[Output]:
        batches.append(len(requests))
        return respond(policy, tokenizer, requests, stop)

    monkeypatch.setattr(asking, "respond", noting)
    found = answer(
        fresh_trainee(model), eval_prompts(5), max_new_tokens=8, seed=0, stop=StopRequest()
    )

    assert batches == [5, 1, 1, 1] * 2
    assert found is not None
    assert len(found.before_alone_s) == len(found.after_alone_s) == 3
    assert min(*found.before_alone_s, *found.after_alone_s) > 0


def test_checks_of_the_prompts_are_looked_at_and_a_senseless_one_is_told(
    judged: tuple[RunDir, RunResult],
) -> None:
    followed = report_of(judged)["instructions"]
    warnings = [e for e in EventReader(judged[0].events_path).read() if e.kind == "warning"]

    assert followed == {"checks": 1, "before": 1.0, "after": 1.0}
    assert any("check of a test prompt was left out" in e.data["message"] for e in warnings)


def test_all_test_responses_count_and_few_are_shown(judged: tuple[RunDir, RunResult]) -> None:
    shown = report_of(judged)["generations"]

    assert (shown["prompts"], len(shown["samples"])) == (PROMPTS, 12)
    assert shown["tokens_per_s_before"] > 0
    assert shown["tokens_per_s_after"] > 0
    assert shown["latency_s_before"] > 0
    assert shown["latency_s_after"] > 0


def test_the_result_says_what_the_numbers_mean(
    judged: tuple[RunDir, RunResult], alone: tuple[RunDir, RunResult]
) -> None:
    found = {verdict["finding"] for verdict in report_of(judged)["verdicts"]}
    unmoved = {verdict["finding"] for verdict in report_of(alone)["verdicts"]}

    assert Finding.FORGETFUL in found
    assert unmoved == {Finding.UNDERFITTING}


def test_a_page_is_left_and_the_environment_is_told(judged: tuple[RunDir, RunResult]) -> None:
    run_dir, result = judged

    page = run_dir.report_path.read_text(encoding="utf-8")

    assert "Wins over the policy before, by the reward model" in page
    assert result.report["environment"]["snapshot"] in page
    assert "<script" not in page


def test_a_page_that_cannot_be_written_costs_nothing_else(tmp_path: Path, model: Path) -> None:
    run_dir = make_run_dir(tmp_path / "run", model, epochs=1, eval_generations=0)
    run_dir.report_path.mkdir()

    result = run_here(run_dir)

    assert result.state is Outcome.SUCCEEDED
    assert result.report["verdicts"]
    assert run_dir.adapter.is_dir()
