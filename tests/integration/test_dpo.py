from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from store import imports, prompts
from store.db import Store
from store.records import Split
from tests.models import build_adapter, build_model
from tests.rundirs import losses, make_run_dir, preference_rows, run_here
from training.events import EventReader
from training.methods.dpo import DPOOptions
from training.rundir import Outcome, RunDir, RunResult
from training.worker.data import (
    MAX_HELD_OUT_CONVERSATIONS,
    Row,
    divided_for_watch,
    split_by_conversation,
)

LN_2 = math.log(2)
# What published figures were measured on must stay where it is.
HELD_OUT_OF_A_HUNDRED = [2, 19, 22, 35, 41, 43, 61, 81, 86, 92, 96]
WATCHED_OF_A_HUNDRED = [1, 11, 17, 28, 29, 31, 32, 34, 39, 41, 47, 56, 59, 81, 88, 90, 99]

Divided = Callable[[Sequence[Row], float], Sequence[Sequence[Row]]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, model: Path) -> tuple[RunDir, RunResult]:
    """One run, looked at from many sides."""
    run_dir = make_run_dir(tmp_path_factory.mktemp("runs") / "run-1", model)
    return run_dir, run_here(run_dir)


def test_a_run_says_which_pairs_it_was_trained_on(trained: tuple[RunDir, RunResult]) -> None:
    run_dir, result = trained
    rows = preference_rows()
    split = split_by_conversation(
        [Row(number, row["prompt"]) for number, row in enumerate(rows)],
        DPOOptions().eval_share,
    )
    assert run_dir.read_trained_rows() == [row.number for row in split.train]
    assert result.report["data"]["train"] == len(split.train)


def test_a_pair_that_is_too_long_is_not_said_to_be_trained_on(tmp_path: Path, model: Path) -> None:
    rows = preference_rows(6)
    rows[2]["chosen"][0]["content"] = "Thank you. " * 60
    run_dir = make_run_dir(tmp_path / "run-1", model, rows=rows, max_length=64, eval_share=0.0)
    run_here(run_dir)
    assert run_dir.read_trained_rows() == [0, 1, 3, 4, 5]


def test_a_single_step_moves_the_adapter(tmp_path: Path, model: Path) -> None:
    run_dir = make_run_dir(tmp_path / "run-1", model, rows=preference_rows(6), epochs=1)
    result = run_here(run_dir)
    assert (result.state, result.report["steps"]) == (Outcome.SUCCEEDED, 1)


def test_the_loss_and_its_parts_have_the_values_worked_out_by_hand() -> None:
    import torch

    from training.worker.evaluate import dpo_loss, kl_estimates

    pc, pr, rc, rr = (torch.tensor([x]) for x in (-10.0, -12.0, -11.0, -11.0))
    assert dpo_loss(pc, pr, rc, rr, beta=0.1).item() == pytest.approx(0.598139, abs=1e-6)
    assert dpo_loss(pc, pr, pc, pr, beta=0.1).item() == pytest.approx(LN_2, abs=1e-6)
    policy, reference = torch.tensor([[-1.0, -9.0]]), torch.tensor([[-2.0, -1.0]])
    k1, k3 = kl_estimates(policy, reference, torch.tensor([[1.0, 0.0]]))
    assert k1.item() == pytest.approx(1.0)
    assert k3.item() == pytest.approx(0.367879, abs=1e-6)


def test_a_completion_is_scored_without_its_prompt_and_without_padding(
    tmp_path: Path, model: Path
) -> None:
    import torch
    from peft import PeftModel

    from training.loading import load_base, load_tokenizer
    from training.tuning import Tuning
    from training.worker.evaluate import Scored, completion_log_probs
    from training.worker.job import StopRequest
    from training.worker.models import Trainee

    adapter = build_adapter(model, tmp_path / "adapter", seed=5)
    policy = PeftModel.from_pretrained(load_base(model), adapter)
    trainee = Trainee(policy, load_tokenizer(model), Tuning.LORA)
    rows = [Scored([5, 9, 30, 31, 32, 33, 34, 35], 2), Scored([7, 8, 9, 40], 3)]
    found = list(completion_log_probs(trainee, rows, StopRequest()))

    def alone(row: Scored) -> float:
        with torch.no_grad():
            scores = policy(input_ids=torch.tensor([row.ids])).logits[0].log_softmax(dim=-1)
        return sum(float(scores[t - 1, row.ids[t]]) for t in range(row.start, len(row.ids)))

    assert [both[0].item() for both in found] == pytest.approx([alone(r) for r in rows], abs=1e-3)
    with policy.disable_adapter():
        assert [both[1].item() for both in found] == pytest.approx(
            [alone(row) for row in rows], abs=1e-3
        )


def test_the_first_loss_is_ln_2(trained: tuple[RunDir, RunResult]) -> None:
    assert losses(trained[0])[1] == pytest.approx(LN_2, abs=1e-6)


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_the_reference_stays_where_it_was_from_the_first_step_on(
    tmp_path: Path, model: Path, tuning: str
) -> None:
    """Were it the policy itself, each pair that is new would begin at ln 2."""
    run_dir = make_run_dir(
        tmp_path / "run", model, tuning=tuning, epochs=1, batch_size=4, eval_generations=0
    )
    assert run_here(run_dir).state is Outcome.SUCCEEDED
    curve = losses(run_dir)
    assert len(curve) == 10
    assert all(loss < LN_2 / 2 for step, loss in curve.items() if step > 3)


def test_a_clear_preference_is_learned_for_prompts_never_trained_on(
    trained: tuple[RunDir, RunResult],
) -> None:
    _, result = trained
    assert result.state is Outcome.SUCCEEDED, result.failure
    pairs = result.report["pairs"]
    assert pairs["pairs"] == 8
    assert pairs["accuracy"] > 0.9
    assert pairs["margin"] > 1
    assert pairs["loss"] < 0.5


def test_the_result_shows_both_policies_on_the_held_out_prompts(
    trained: tuple[RunDir, RunResult],
) -> None:
    shown = trained[1].report["generations"]
    assert shown["prompts"] == len(shown["samples"]) == 4
    assert any(sample["before"] != sample["after"] for sample in shown["samples"])
    assert shown["kl_k3"] > 0
    assert 0 < shown["length_after"] <= 12
    assert 0 <= shown["ended_before"] <= 1


def test_the_events_tell_the_whole_story_in_order(trained: tuple[RunDir, RunResult]) -> None:
    events = EventReader(trained[0].events_path).read()
    assert [e.seq for e in events] == list(range(len(events)))
    phases = [e.data["name"] for e in events if e.kind == "phase"]
    assert phases == ["loading", "preparing", "training", "evaluating"]
    progress = [e.data for e in events if e.kind == "progress"]
    assert progress[0]["first_step"]
    assert progress[-1]["step"] == progress[-1]["total"] == trained[1].report["steps"]
    assert events[-1].kind == "done"


def test_only_the_trained_adapter_is_left_and_it_loads(
    trained: tuple[RunDir, RunResult], model: Path
) -> None:
    from peft import PeftModel

    from training.loading import load_base

    run_dir, _ = trained
    assert not list(run_dir.adapter.glob("*/"))
    adapted = PeftModel.from_pretrained(load_base(model), run_dir.adapter)
    b_weights = [p for name, p in adapted.named_parameters() if "lora_B" in name]
    assert b_weights
    assert all(p.abs().sum() > 0 for p in b_weights)


@pytest.mark.parametrize("architecture", ["gpt2", "qwen3"])
def test_other_architectures_are_trained_the_same_way(tmp_path: Path, architecture: str) -> None:
    model = build_model(tmp_path / "model", architecture, chat_template=False, pad_is_eos=True)
    run_dir = make_run_dir(tmp_path / "run", model)
    result = run_here(run_dir)
    assert result.state is Outcome.SUCCEEDED, result.failure
    assert losses(run_dir)[1] == pytest.approx(LN_2, abs=1e-6)
    assert result.report["pairs"]["accuracy"] > 0.9


def test_a_run_that_continues_from_an_adapter_starts_at_no_distance_from_it(
    tmp_path: Path, model: Path
) -> None:
    parent = build_adapter(model, tmp_path / "parent", seed=3)
    # A step of no length: whatever distance there is was there before.
    run_dir = make_run_dir(
        tmp_path / "run", model, parent_adapter=parent, learning_rate=1e-7, epochs=1
    )
    result = run_here(run_dir)
    assert result.state is Outcome.SUCCEEDED, result.failure
    assert losses(run_dir)[1] == pytest.approx(LN_2, abs=1e-6)
    shown = result.report["generations"]
    assert shown["kl_k1"] == pytest.approx(0, abs=1e-3)
    assert [s["before"] for s in shown["samples"]] == [s["after"] for s in shown["samples"]]
    assert not [path for path in run_dir.adapter.iterdir() if path.is_dir()]
    from peft import LoraConfig

    assert LoraConfig.from_pretrained(run_dir.adapter).r == 4


def test_the_parent_is_the_reference_and_not_the_base(tmp_path: Path, model: Path) -> None:
    parent = build_adapter(model, tmp_path / "parent", seed=3)
    run_dir = make_run_dir(tmp_path / "run", model, parent_adapter=parent)
    result = run_here(run_dir)
    from peft import PeftModel

    from training.generation import Request, generate
    from training.loading import load_base, load_tokenizer, render_prompt

    tokenizer = load_tokenizer(model)
    alone = PeftModel.from_pretrained(load_base(model), parent)
    sample = result.report["generations"]["samples"][0]
    ids = render_prompt(tokenizer, sample["messages"])
    (output,) = generate(alone, tokenizer, [Request(ids, 12, seed=0)])
    assert output.text == sample["before"]
    assert sample["before"] != sample["after"]


def test_pairs_that_are_too_long_are_left_out_and_counted(tmp_path: Path, model: Path) -> None:
    rows = preference_rows()
    rows[5]["chosen"][0]["content"] = "Thank you. " * 60
    run_dir = make_run_dir(tmp_path / "run", model, rows=rows, epochs=1, max_length=120)
    result = run_here(run_dir)
    assert result.report["data"]["too_long"] == 1
    counts = result.report["data"]
    assert counts["train"] + counts["held_out"] == len(rows) - 1
    warnings = [e for e in EventReader(run_dir.events_path).read() if e.kind == "warning"]
    assert any("longer than 120" in e.data["message"] for e in warnings)


def test_a_result_that_is_not_measured_says_so(tmp_path: Path, model: Path) -> None:
    rows = preference_rows(4)
    split = split_by_conversation(rows_of(*(row["prompt"] for row in rows)), 0.15)
    for row in rows:
        if row["prompt"] in [held_out.prompt for held_out in split.held_out]:
            row["rejected"][0]["content"] = "No idea. " * 60
    run_dir = make_run_dir(tmp_path / "run", model, rows=rows, batch_size=1, max_length=120)
    result = run_here(run_dir)
    assert result.state is Outcome.SUCCEEDED, result.failure
    assert result.report["pairs"] is None
    warnings = [e for e in EventReader(run_dir.events_path).read() if e.kind == "warning"]
    assert any("The result is not measured" in e.data["message"] for e in warnings)


def rows_of(*prompts: list[dict[str, str]]) -> list[Row]:
    return [Row(number, prompt) for number, prompt in enumerate(prompts)]


def asked(*numbers: int) -> list[Row]:
    """A pair for the prompt of each number."""
    return rows_of(*([{"role": "user", "content": f"Question {n}?"}] for n in numbers))


def prompts_in(rows: Sequence[Row]) -> set[str]:
    return {json.dumps(row.prompt) for row in rows}


def test_no_prompt_is_both_trained_on_and_measured_on() -> None:
    rows = asked(*range(1000)) * 3
    train, held_out = split_by_conversation(rows, 0.15)
    assert prompts_in(train).isdisjoint(prompts_in(held_out))
    assert len(train) + len(held_out) == len(rows)
    assert 0.12 < len(held_out) / len(rows) < 0.18


def test_growing_data_leaves_every_pair_on_its_side() -> None:
    sizes = (40, 300, 400, 1000, 2000)
    splits = [split_by_conversation(asked(*range(2000 - n, 2000)), 0.15) for n in sizes]
    for before, after in pairwise(splits):
        assert prompts_in(before.train) < prompts_in(after.train)
        assert prompts_in(before.held_out) < prompts_in(after.held_out)


def test_what_was_trained_on_is_never_measured_on_however_much_comes() -> None:
    before, after = (split_by_conversation(asked(*range(n)), 0.15) for n in (2000, 6000))
    assert len(after.held_out) == MAX_HELD_OUT_CONVERSATIONS
    assert prompts_in(before.train).isdisjoint(prompts_in(after.held_out))


def with_twins(count: int) -> list[Row]:
    """Questions, each of them once more in other capitals and blanks."""
    texts = [f"Question {n}?" for n in range(count)]
    said = [*texts, *(f"  {text.upper()}\n" for text in texts)]
    return rows_of(*([{"role": "user", "content": text}] for text in said))


@pytest.mark.parametrize("divided", [split_by_conversation, divided_for_watch])
def test_twins_in_other_capitals_or_blanks_fall_on_one_side(divided: Divided) -> None:
    sides = [{row.number % 200 for row in side} for side in divided(with_twins(200), 0.4)]
    assert sides[0].isdisjoint(sides[1])
    assert all(sides)


@pytest.mark.parametrize(
    ("divided", "expected"),
    [
        (split_by_conversation, HELD_OUT_OF_A_HUNDRED),
        (divided_for_watch, WATCHED_OF_A_HUNDRED),
    ],
)
def test_data_without_twins_are_divided_as_they_always_were(
    divided: Divided, expected: list[int]
) -> None:
    assert [row.number for row in divided(asked(*range(100)), 0.15)[1]] == expected


def test_a_twin_that_comes_later_takes_nothing_that_was_trained_on_to_the_other_side() -> None:
    rows = with_twins(200)
    before, after = (split_by_conversation(known, 0.4) for known in (rows[:200], rows))
    assert {row.number for row in before.train}.isdisjoint(
        row.number % 200 for row in after.held_out
    )


def test_all_turns_of_a_conversation_fall_on_one_side() -> None:
    system = {"role": "system", "content": "Be brief."}
    openings = [[system, {"role": "user", "content": f"Question {n}?"}] for n in range(60)]
    more = [{"role": "assistant", "content": "Yes?"}, {"role": "user", "content": "And then?"}]
    split = split_by_conversation(rows_of(*openings, *(o + more for o in openings)), 0.5)
    sides = [{row.prompt[1]["content"] for row in side} for side in split]
    assert sides[0].isdisjoint(sides[1])
    assert all(sides)


@pytest.mark.parametrize("share", [0.01, 0.5])
@pytest.mark.parametrize("count", range(2, 8))
def test_of_two_conversations_or_more_one_is_on_each_side(count: int, share: float) -> None:
    for start in range(30):
        split = split_by_conversation(asked(*range(start, start + count)), share)
        assert all(split)


@pytest.mark.parametrize(("count", "share"), [(1, 0.5), (50, 0.0)])
def test_a_single_conversation_or_no_share_is_trained_on_whole(count: int, share: float) -> None:
    assert split_by_conversation(asked(*range(count)), share) == (asked(*range(count)), [])


def test_what_an_import_holds_out_does_not_thin_what_a_run_holds_out(
    store: Store, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"Question {n}?"}) + "\n" for n in range(1000)))
    imports.import_file(store, path, created_by="lea")
    found = prompts.sample(store, 1000, split=Split.TRAIN, seed=0)
    rows = rows_of(
        *([{"role": m["role"], "content": m["content"]} for m in p.messages] for p in found)
    )
    assert 0.12 < len(split_by_conversation(rows, 0.15).held_out) / len(rows) < 0.18


def test_every_epoch_sees_every_pair_in_batches_of_like_length() -> None:
    from training.worker.data import training_order

    lengths = [10 * (n % 7) + n for n in range(100)]
    order = training_order(lengths, epochs=3, batch_size=8, seed=0)
    assert sorted(order) == sorted(list(range(100)) * 3)
    batches = [order[i : i + 8] for i in range(0, len(order), 8)]
    padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
    assert padded < 1.15 * sum(lengths) * 3
    assert order == training_order(lengths, epochs=3, batch_size=8, seed=0)
