"""Every method with every tuning that suits it."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

import app
from tests.models import build_adapter, build_model
from tests.rundirs import (
    demonstration_rows,
    general_rows,
    losses,
    make_run_dir,
    preference_rows,
    rated_rows,
    run_as_launched,
    run_here,
)
from training.events import EventReader, series
from training.loading import load_base, load_tokenizer, stop_token_ids
from training.methods import METHODS, Product
from training.rundir import Failure, Outcome, RunDir, RunResult
from training.tuning import Tuning, tuning_of
from training.worker import dpo
from training.worker.encoding import IGNORED, Encoded, Encoder
from training.worker.failures import Cancelled
from training.worker.job import Job
from training.worker.kto import cut_to, mismatched
from training.worker.report import Reporter

STARTER = app.ASSETS / "starter"
# Virtual tokens of a tiny model hardly reach its output: their steps are longer.
RATES = {Tuning.FULL: 2e-3, Tuning.PREFIX: 0.1, Tuning.PROMPT: 0.1}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model(tmp_path_factory.mktemp("models") / "tiny")


def ran(folder: Path, model: Path, **given: Any) -> tuple[RunDir, RunResult]:
    run_dir = make_run_dir(folder, model, **given)
    result = run_here(run_dir)
    assert result.state is Outcome.SUCCEEDED, (result.failure, run_dir.log_tail(40))
    return run_dir, result


def fitting_tunings() -> list[tuple[str, str]]:
    """Every method that makes a policy out of rows, with all that it can tune here."""
    return [
        (name, tuning)
        for name, method in METHODS.items()
        for option in method.options.described()
        if option.name == "tuning"
        for tuning in option.choices
        if tuning != Tuning.QLORA and not method.needs_reward_model
    ]


@pytest.mark.parametrize(("method", "tuning"), fitting_tunings())
def test_it_learns_and_leaves_what_it_learned(
    tmp_path: Path, model: Path, method: str, tuning: str
) -> None:
    rate = RATES.get(Tuning(tuning), 5e-3)
    run_dir, result = ran(
        tmp_path / "run",
        model,
        method=method,
        tuning=tuning,
        learning_rate=rate,
        eval_generations=2,
        virtual_tokens=4,
    )
    curve = losses(run_dir)
    assert curve[max(curve)] < curve[1]
    assert tuning_of(run_dir.adapter) is Tuning(tuning)
    assert result.report["data"]["held_out"] > 0
    if METHODS[method].makes is Product.POLICY:
        assert result.report["generations"]["kl_k3"] > 0


@pytest.mark.parametrize(
    ("method", "tuning"),
    [
        ("dpo", Tuning.LORA),
        ("sft", Tuning.PREFIX),
        ("kto", Tuning.FULL),
        *(
            pytest.param(method, tuning, marks=pytest.mark.nightly)
            for method in ("sft", "dpo", "kto")
            for tuning in (Tuning.LORA, Tuning.PREFIX, Tuning.PROMPT, Tuning.FULL)
        ),
    ],
)
def test_a_run_goes_on_from_its_like_at_no_distance_from_it(
    tmp_path: Path, model: Path, method: str, tuning: Tuning
) -> None:
    more = {"tuning": tuning.value, "virtual_tokens": 4, "epochs": 1, "eval_generations": 2}
    rate = RATES.get(tuning, 5e-3)
    parent, _ = ran(tmp_path / "parent", model, method="dpo", learning_rate=rate, **more)
    # A step of no length: whatever distance there is was there before.
    run_dir, result = ran(
        tmp_path / "run",
        model,
        method=method,
        parent_adapter=parent.adapter,
        learning_rate=1e-8,
        **more,
    )
    shown = result.report["generations"]
    assert shown["kl_k1"] == pytest.approx(0, abs=2e-3)
    assert [s["before"] for s in shown["samples"]] == [s["after"] for s in shown["samples"]]
    assert tuning_of(run_dir.adapter) is tuning


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("method", "more"),
    [
        *((method, {}) for method in ("dpo", "sft", "reward", "kto")),
        ("dpo", {"replay_share": 0.4, "general": general_rows()}),
    ],
)
def test_two_processes_learn_what_one_does(
    tmp_path: Path, model: Path, method: str, more: dict[str, Any]
) -> None:
    shape: dict[str, Any] = {"epochs": 2, "eval_generations": 0, "eval_share": 0.0, **more}
    alone, together = (
        make_run_dir(
            tmp_path / name, model, method=method, batch_size=16 // count, processes=count, **shape
        )
        for name, count in (("alone", 1), ("together", 2))
    )
    result = run_as_launched(together)
    assert result.state is Outcome.SUCCEEDED, (result.failure, together.log_tail(40))
    assert run_here(alone).state is Outcome.SUCCEEDED
    assert losses(together).keys() == losses(alone).keys()
    found, expected = (learned(run_dir) for run_dir in (together, alone))
    apart = sum(float((found[name] - w).norm() ** 2) for name, w in expected.items()) ** 0.5
    assert apart < 0.05 * sum(float(w.norm() ** 2) for w in expected.values()) ** 0.5


@pytest.mark.nightly
def test_several_processes_say_why_they_all_failed(tmp_path: Path, model: Path) -> None:
    rows = preference_rows()
    rows[2]["rejected"][0]["content"] = " "
    failure = run_as_launched(make_run_dir(tmp_path / "run", model, rows=rows, processes=2)).failure
    assert failure is not None
    assert "row 3: rejected is empty" in failure.message


@pytest.mark.nightly
def test_several_processes_say_why_one_of_them_failed(tmp_path: Path, model: Path) -> None:
    run_dir = make_run_dir(tmp_path / "run", model, processes=2, epochs=50)
    failure = run_as_launched(run_dir, "tests.second_fails").failure
    assert failure is not None
    assert (failure.name, failure.message) == ("out_of_memory", "Memory ran out: no room")


OF_ANOTHER = Failure("out_of_memory", "Memory ran out.", "Take less.")


@pytest.mark.parametrize("ended_by", [RuntimeError("Connection closed by peer"), Cancelled()])
def test_a_process_that_meets_what_came_of_another_s_failure_tells_that_one(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, ended_by: BaseException
) -> None:
    run_dir = make_run_dir(tmp_path / "run", model)

    def end(_: Job) -> None:
        run_dir.write_failure_beside(1, OF_ANOTHER)
        raise ended_by

    monkeypatch.setattr(dpo, "train", end)
    result = run_here(run_dir)
    assert (result.state, result.failure) == (Outcome.FAILED, OF_ANOTHER)


def test_a_process_that_knows_why_it_failed_tells_its_own(tmp_path: Path, model: Path) -> None:
    rows = preference_rows()
    rows[2]["rejected"][0]["content"] = " "
    run_dir = make_run_dir(tmp_path / "run", model, rows=rows)
    run_dir.write_failure_beside(1, OF_ANOTHER)
    failure = run_here(run_dir).failure
    assert failure is not None
    assert failure.name == "bad_data"


def learned(run_dir: RunDir) -> dict[str, Any]:
    """The weights that were all 0 before training."""
    from safetensors.torch import load_file

    weights = load_file(run_dir.adapter / "adapter_model.safetensors")
    return {name: weight for name, weight in weights.items() if "lora_B" in name}


def test_sft_teaches_what_was_shown_and_only_the_answer(tmp_path: Path, model: Path) -> None:
    _, result = ran(tmp_path / "run", model, method="sft", epochs=4)
    likelihood = result.report["likelihood"]
    assert likelihood["loss_after"] < 0.5 * likelihood["loss_before"]
    # Each completion is some words and the token that ends a turn; prompts are longer.
    assert likelihood["tokens"] < 30 * likelihood["rows"]


def test_sft_leaves_out_what_people_did_not_write_where_asked(tmp_path: Path, model: Path) -> None:
    run_dir, _ = ran(tmp_path / "run", model, method="sft", learn_from="demonstrations", epochs=1)
    assert run_dir.read_trained_rows()
    assert all(number % 3 for number in run_dir.read_trained_rows())


@pytest.mark.parametrize("base", ["tiny", "starter"])
def test_all_turns_of_the_assistant_are_learned_where_asked(model: Path, base: str) -> None:
    folder = model if base == "tiny" else STARTER
    tokenizer = load_tokenizer(folder)
    encoder = Encoder(tokenizer, load_base(folder))
    said = ["Is it late?", "No.", "When is it here?", "On Monday.", "Thanks.", "Good day."]
    roles = ("user", "assistant") * 3
    *prompt, answer = [
        {"role": role, "content": text} for role, text in zip(roles, said, strict=True)
    ]

    def learned_text(row: Encoded) -> str:
        assert len(row.labels) == len(row.ids)
        ids = [label for label in row.labels if label != IGNORED]
        return " ".join(str(tokenizer.decode(ids, skip_special_tokens=True)).split())

    assert learned_text(encoder.encode(prompt, [answer])) == "Good day."
    all_turns = encoder.encode_all_turns(prompt, [answer])
    assert all_turns.ids == encoder.encode(prompt, [answer]).ids
    assert "".join(learned_text(all_turns).split()) == "No.OnMonday.Goodday."
    # Each turn teaches to stop.
    stops = set(stop_token_ids(tokenizer, load_base(folder)))
    assert sum(label in stops for label in all_turns.labels) == 3


def test_sft_learns_earlier_turns(tmp_path: Path, model: Path) -> None:
    rows = demonstration_rows()
    for row in rows:
        row["prompt"] = [*row["prompt"], *row["completion"], {"role": "user", "content": "More?"}]
    first_losses = []
    for earlier_turns in (False, True):
        run_dir, result = ran(
            tmp_path / f"{earlier_turns}",
            model,
            method="sft",
            rows=rows,
            epochs=1,
            eval_generations=0,
            earlier_turns=earlier_turns,
        )
        first_losses.append(losses(run_dir)[1])
        assert result.report["likelihood"]["rows"] > 0
    # The starts are the same: what differs is what the loss is the mean of.
    assert first_losses[0] != first_losses[1]


def test_kto_needs_thumbs_of_both_kinds(tmp_path: Path, model: Path) -> None:
    rows = [row for row in rated_rows() if row["label"]]
    run_dir = make_run_dir(tmp_path / "run", model, method="kto", rows=rows)
    failure = run_here(run_dir).failure
    assert failure
    assert failure.name == "bad_data"
    assert "KTO needs both" in failure.message


HABITS: dict[str, Any] = {"epochs": 30, "learning_rate": 0.01, "evaluations": 30, "patience": 2}


def muddled_rows() -> list[dict[str, Any]]:
    """Half of the judgments say the opposite of the rest: what is learned is soon memorised."""
    rows = preference_rows()
    for row in rows[::2]:
        row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    return rows


def held_out_losses(run_dir: RunDir) -> dict[int, float]:
    events = EventReader(run_dir.events_path).read()
    return {int(step): value for step, value in series(events, "held_out_loss")}


def test_early_stopping_keeps_the_best_of_what_was_measured(tmp_path: Path, model: Path) -> None:
    run_dir, result = ran(
        tmp_path / "run", model, rows=muddled_rows(), eval_generations=0, **HABITS
    )
    report = result.report
    steps, best = report["steps"], report["best_step"]
    events = EventReader(run_dir.events_path).read()
    planned = next(e.data["total"] for e in events if e.kind == "progress")
    measured = held_out_losses(run_dir)
    assert best < steps < planned
    assert report["pairs"]["loss"] == pytest.approx(measured[best], abs=1e-3)
    # What was taken back stands in the curve as it was.
    assert max(measured) == steps
    assert measured[steps] > measured[best] + 1e-3


def test_a_resumed_run_is_as_patient_as_it_would_have_been(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {"rows": muddled_rows(), "eval_generations": 0, **HABITS}
    _, straight = ran(tmp_path / "straight", model, **given)
    best, steps = straight.report["best_step"], straight.report["steps"]
    run_dir = make_run_dir(tmp_path / "interrupted", model, **given)
    on_step_end = Reporter.on_step_end

    def interrupted(self: Reporter, args: Any, state: Any, control: Any, **more: Any) -> None:
        if state.global_step == (best + steps) // 2:  # one of two measurements after the best
            os.kill(os.getpid(), signal.SIGTERM)
        on_step_end(self, args, state, control, **more)

    monkeypatch.setattr(Reporter, "on_step_end", interrupted)
    assert run_here(run_dir).state is Outcome.CANCELLED
    monkeypatch.undo()
    run_dir.forget_end()
    resumed = run_here(run_dir).report
    assert (resumed["best_step"], resumed["steps"]) == (best, steps)


def test_a_lora_policy_can_be_tuned_in_full_from_there(tmp_path: Path, model: Path) -> None:
    parent = build_adapter(model, tmp_path / "parent", seed=3)
    _, result = ran(
        tmp_path / "run",
        model,
        method="sft",
        tuning="full",
        parent_adapter=parent,
        learning_rate=1e-8,
        epochs=1,
        eval_generations=2,
    )
    assert result.report["generations"]["kl_k1"] == pytest.approx(0, abs=2e-3)


def held_out(run_dir: RunDir, metric: str) -> list[float]:
    events = EventReader(run_dir.events_path).read()
    return [e.data[f"held_out_{metric}"] for e in events if f"held_out_{metric}" in e.data]


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("dpo", {"loss_type": "ipo"}),
        ("dpo", {"sft_weight": 1.0}),
        ("reward", {"margin_weight": 1.0}),
    ],
)
def test_a_curve_of_held_out_losses_is_of_one_loss(
    tmp_path: Path, model: Path, method: str, options: dict[str, Any]
) -> None:
    """The last of them would be another one, and look like a fall or a rise."""
    run_dir, result = ran(tmp_path / "run", model, method=method, eval_generations=0, **options)
    ranked = result.report["pairs"] if method == "dpo" else result.report["reward_model"]
    assert held_out(run_dir, "accuracy")[-1] == ranked["accuracy"]
    assert held_out(run_dir, "loss")
    assert ranked["loss"] not in held_out(run_dir, "loss")


def test_a_plain_curve_ends_with_what_the_result_was_measured_to_be(
    tmp_path: Path, model: Path
) -> None:
    run_dir, result = ran(tmp_path / "run", model, method="dpo", eval_generations=0)
    assert held_out(run_dir, "loss")[-1] == result.report["pairs"]["loss"]


def test_a_reward_run_tells_how_it_ranks_while_it_trains(tmp_path: Path, model: Path) -> None:
    run_dir, _ = ran(tmp_path / "run", model, method="reward")
    told = [e.data for e in EventReader(run_dir.events_path).read() if "loss" in e.data]
    assert all({"accuracy", "margin"} <= data.keys() for data in told)


def test_kto_takes_its_reference_point_for_no_distance_and_cuts_what_it_is_taken_from(
    tmp_path: Path,
) -> None:
    limit = 96
    model = build_model(tmp_path / "model", "gpt2", context=limit)
    rows = [
        {
            "prompt": [{"role": "user", "content": "Where is it? " * (n % 2 or 7)}],
            "completion": [{"role": "assistant", "content": "Thank you. " * (8 if n % 2 else 1)}],
            "label": n % 4 < 2,
            "kind": "rating",
        }
        for n in range(40)
    ]
    run_dir, _ = ran(tmp_path / "run", model, method="kto", rows=rows, eval_generations=0)
    told = [e.data for e in EventReader(run_dir.events_path).read() if e.kind == "metrics"]
    assert told
    assert not any("kl" in data or "held_out_kl" in data for data in told)


def test_mismatched_completions_fit_behind_their_prompts() -> None:
    rows = Dataset.from_dict(
        {
            "prompt_ids": [[1] * 9, [2], [3] * 4],
            "KL_completion_ids": [[4] * 5, [5] * 30, [6] * 2],
        }
    )
    assert list(cut_to(10, rows)["KL_completion_ids"]) == [[4], [5] * 9, [6] * 2]


def test_no_completion_is_paired_with_its_own_prompt() -> None:
    rows = Dataset.from_dict(
        {"completion_ids": [[n] for n in range(5)], "KL_completion_ids": [[0]] * 5}
    )
    assert list(mismatched(rows, 2)["KL_completion_ids"]) == [[1], [0], [3], [2], [3]]
