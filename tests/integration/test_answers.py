"""What a run measures on both policies' answers, and what it makes of that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from peft import get_peft_model

from tests.models import END_OF_TURN, build_model
from tests.rundirs import eval_prompts, make_run_dir, run_here
from training.artefacts import Artefact
from training.events import EventReader, EventWriter
from training.generation import FinishReason, Output, Request
from training.loading import load_base, load_tokenizer, render_prompt
from training.methods.dpo import DPOOptions
from training.rundir import Outcome, RunDir, RunResult
from training.tuning import Tuning
from training.verdicts import Finding
from training.worker.answers import Answers, judge, tell_answers
from training.worker.job import Job, StopRequest
from training.worker.models import Trainee, fresh_adapter

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

    return Answers(eval_prompts(), requests, said(before), said(after), 1.0, 1.0)


@pytest.mark.parametrize(
    ("before", "after", "rate", "worse"),
    [
        ("No idea, sorry.", "Thank you for waiting.", 1, 0),
        ("Thank you for waiting.", "No idea, sorry.", 0, 1),
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
    run_dir = make_run_dir(tmp_path / "run", model, reward_model=taste)
    spec = run_dir.read_spec()
    job = Job(spec, run_dir, EventWriter(run_dir.events_path), StopRequest())
    policy = get_peft_model(load_base(model), fresh_adapter(DPOOptions()))
    trainee = Trainee(policy, load_tokenizer(model), Tuning.LORA)

    answered = answers_of(model, before, after)
    told = tell_answers(job, trainee, answered, judge(job, trainee, answered))

    assert told["win_rate"]["rate"] == rate
    assert told["win_rate"]["low"] <= rate <= told["win_rate"]["high"]
    assert (told["regressions"]["by"], told["regressions"]["share"]) == ("reward_model", worse)
    assert told["generations"]["kl_k1"] == pytest.approx(0, abs=1e-4)


def test_a_run_that_knows_a_reward_model_asks_it_about_every_prompt(
    judged: tuple[RunDir, RunResult],
) -> None:
    won = report_of(judged)["win_rate"]

    assert won["n"] == won["wins"] + won["losses"] + won["draws"] == PROMPTS


def test_without_a_reward_model_only_the_text_tells_who_is_worse(
    alone: tuple[RunDir, RunResult],
) -> None:
    report = report_of(alone)

    assert report["win_rate"] is None
    assert (report["regressions"]["by"], report["regressions"]["share"]) == ("text", 0)


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
