"""Estimates by hand: what is counted of a run, and how its options move memory and time."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from training.device import Device, DeviceKind
from training.estimate import ALONE, PLANS, Company, Estimate, Lengths, Rows, estimate
from training.machine import Machine
from training.methods import METHODS
from training.methods.dpo import DPOOptions
from training.methods.ppo import PPOOptions
from training.methods.sft import SFTOptions
from training.options import MethodOptions
from training.planned_online import PlannedPPO, held_in_turn
from training.shape import ModelShape, count_parameters, read_shape
from training.tuning import Tuning

# Llama 3 8B: 7.5 G of its 8.0 G weights multiply; embedding and head have 0.53 G each.
LLAMA_8B = ModelShape(
    parameters=8_030_261_248,
    layers=32,
    hidden=4096,
    intermediate=14336,
    kv_width=1024,
    vocabulary=128256,
    linear_layers=224,
    linear_widths=32 * (2 * (4096 + 4096) + 2 * (4096 + 1024) + 3 * (4096 + 14336)),
    linear_parameters=32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336),
)
TINY = ModelShape(
    parameters=3000,
    layers=2,
    hidden=10,
    intermediate=20,
    kv_width=10,
    vocabulary=100,
    linear_layers=14,
    linear_widths=14 * 20,
    linear_parameters=1000,
)
ROWS = Rows(1000, Lengths(100.0, 200, 60.0, 150))


def machine(kind: DeviceKind = "cpu", memory_mb: int = 16384) -> Machine:
    return Machine(Device(kind, "test", memory_mb), 1, 1e12, 1e-6)


def foretold(
    method: str = "dpo",
    *,
    rows: Rows = ROWS,
    shape: ModelShape = TINY,
    kind: DeviceKind = "cpu",
    company: Company = ALONE,
    **options: Any,
) -> Estimate:
    given = METHODS[method].options.parsed(options)
    told = estimate(method, given, rows, shape, machine(kind), company)
    assert told is not None
    return told


def alone(**more: Any) -> dict[str, Any]:
    """Options of a run that measures nothing."""
    return {"eval_share": 0.0, "evaluations": 0, "eval_generations": 0, "epochs": 1, **more}


def test_tokens_and_steps_are_counted_from_rows_batches_and_epochs() -> None:
    told = foretold("sft", **alone(epochs=2, batch_size=16, gradient_accumulation=2))

    # 8 % of padding on rows of 100 tokens; 2000 rows in 125 batches, two of them a step.
    assert told.tokens == 2 * 1000 * 108
    assert told.steps == 63


def test_an_adapters_step_is_four_flop_a_weight_and_full_tuning_six() -> None:
    """The share of attention and of the adapter itself is small at this size."""
    weights = LLAMA_8B.linear_parameters + 128256 * 4096
    lora = foretold("sft", shape=LLAMA_8B, **alone())
    full = foretold("sft", shape=LLAMA_8B, **alone(tuning="full"))

    assert lora.flops / lora.tokens / weights == pytest.approx(4, rel=0.03)
    assert full.flops / full.tokens / weights == pytest.approx(6, rel=0.03)


def test_checkpointing_adds_a_forward_pass_and_spares_activations() -> None:
    plain = foretold("sft", shape=LLAMA_8B, **alone())
    saving = foretold("sft", shape=LLAMA_8B, **alone(gradient_checkpointing=True))

    assert saving.flops / plain.flops == pytest.approx(1.5, rel=0.01)
    assert saving.memory.step < plain.memory.step / 4


def test_the_reference_of_dpo_is_asked_in_the_first_epoch_alone() -> None:
    one, two = (foretold(shape=LLAMA_8B, **alone(epochs=n)) for n in (1, 2))

    # A forward pass is half of an adapter's step: 4 and 2 the first time, 4 from then on.
    assert (two.flops - one.flops) / one.flops == pytest.approx(4 / 6, rel=0.02)


def test_lora_of_rank_16_on_eight_billion_has_42_million_weights() -> None:
    told = foretold("sft", shape=LLAMA_8B, lora_r=16)

    assert told.memory.trained * 2**20 == pytest.approx(41.9e6 * 16, rel=0.01)


def test_on_a_gpu_the_base_takes_two_bytes_a_weight_and_four_bits_under_qlora() -> None:
    lora = foretold("sft", shape=LLAMA_8B, kind="cuda")
    options = replace(SFTOptions(), tuning=Tuning.QLORA.value)
    qlora = estimate("sft", options, ROWS, LLAMA_8B, machine("cuda"))

    assert qlora is not None
    assert lora.memory.weights * 2**20 == 2 * LLAMA_8B.parameters
    # Embedding and head, a quarter of the memory, stay in 16 bits.
    assert qlora.memory.weights * 2**30 / 2**10 == pytest.approx(5.73e9, rel=0.01)


def test_full_tuning_holds_optimiser_state_of_every_weight_and_a_second_model() -> None:
    memory = foretold("dpo", shape=LLAMA_8B, tuning="full").memory

    assert memory.trained * 2**20 == 16 * LLAMA_8B.parameters
    assert memory.reference * 2**20 == 4 * LLAMA_8B.parameters
    assert memory.weights == 0


def test_only_the_longest_batch_counts_for_memory_and_no_more_than_the_limit() -> None:
    short, long, limited = (
        foretold(rows=ROWS._replace(lengths=ROWS.lengths._replace(longest=longest)), max_length=400)
        for longest in (200, 400, 4000)
    )

    assert long.memory.step > 1.9 * short.memory.step
    assert limited.memory == long.memory


def test_a_reward_model_needs_no_logits_and_answers_nothing() -> None:
    memory = foretold("reward").memory

    assert memory.evaluation == 0
    assert memory.step < foretold("dpo").memory.step


def test_what_is_general_is_measured_in_place_of_the_policys_own_answers() -> None:
    many = foretold("dpo", shape=LLAMA_8B, rows=ROWS._replace(general=1000))

    assert many.flops > foretold("dpo", shape=LLAMA_8B).flops


def test_measuring_can_be_what_takes_most_memory() -> None:
    rows = ROWS._replace(lengths=Lengths(20.0, 30, 10.0, 20))
    told = foretold("sft", rows=rows, shape=TINY._replace(vocabulary=150_000), batch_size=1)

    assert told.peak_mb == pytest.approx(
        sum((told.memory.process, told.memory.weights, told.memory.trained))
        + told.memory.evaluation
    )


def test_blocks_too_large_for_the_heap_are_not_held_after_use() -> None:
    """Eight tiles of 400 tokens by vocabulary: just within 32 MiB each, and just beyond."""
    rows = ROWS._replace(lengths=ROWS.lengths._replace(longest=400))
    within, beyond = (
        foretold("sft", rows=rows, shape=TINY._replace(vocabulary=v), **alone(batch_size=1))
        for v in (20_900, 21_000)
    )

    assert within.memory.step > 1.5 * beyond.memory.step


def test_seconds_follow_arithmetic_and_small_calls() -> None:
    options = DPOOptions()
    slow, fast = (
        estimate("dpo", options, ROWS, LLAMA_8B, replace(machine(), flops_per_s=rate))
        for rate in (1e12, 1e13)
    )
    chatty = estimate("dpo", options, ROWS, LLAMA_8B, replace(machine(), call_s=1e-3))

    assert slow is not None
    assert fast is not None
    assert chatty is not None
    assert slow.seconds / fast.seconds == pytest.approx(10, rel=0.05)
    assert chatty.seconds > slow.seconds


@pytest.mark.parametrize("method", PLANS)
def test_more_of_it_never_takes_less(method: str) -> None:
    known = {option.name for option in METHODS[method].options.described()}

    def with_options(**given: Any) -> Estimate:
        return foretold(method, **{name: given[name] for name in known & set(given)})

    few = with_options(epochs=2, iterations=2, lora_r=8, batch_size=4, micro_batch_size=4)
    more = with_options(epochs=6, iterations=6, lora_r=64, batch_size=8, micro_batch_size=8)

    assert more.seconds > few.seconds
    assert more.tokens > few.tokens
    assert more.memory.trained > few.memory.trained
    assert more.memory.step > few.memory.step


def test_a_second_reward_model_is_counted_in_tokens_but_not_in_the_steps_of_the_first() -> None:
    one, both = (foretold("reward", **alone(watch_share=share)) for share in (0.0, 0.25))
    # A quarter of the rows goes through the second model, twice as often.
    assert both.tokens == pytest.approx(1.25 * one.tokens, rel=0.01)
    assert both.steps == pytest.approx(0.75 * one.steps, abs=1)
    assert both.peak_mb == one.peak_mb


def test_every_method_can_be_estimated() -> None:
    assert set(PLANS) == set(METHODS)


def test_replay_is_learned_too_as_far_as_there_is_something_to_replay() -> None:
    given = alone(replay_share=0.2, batch_size=1)
    without, some, enough = (
        foretold("sft", rows=ROWS._replace(general=n), **given) for n in (0, 100, 1000)
    )

    # A fifth, beside 1000 rows, is 250; of 100 demonstrations 85 may be replayed.
    assert (without.steps, some.steps, enough.steps) == (1000, 1085, 1250)
    assert foretold("dpo", rows=ROWS._replace(general=1000)).steps == foretold("dpo").steps


def test_what_is_replayed_beside_pairs_takes_time_and_memory_but_no_steps() -> None:
    rows = ROWS._replace(general=1000)
    alone_, beside = (
        foretold("dpo", rows=rows, **alone(replay_share=share)) for share in (0.0, 0.2)
    )

    # 250 completions of 100 tokens, with padding, beside 1000 pairs.
    assert beside.tokens - alone_.tokens == pytest.approx(250 * 108, rel=0.01)
    assert beside.steps == alone_.steps
    assert beside.memory.step > alone_.memory.step


def test_ppo_learns_from_all_it_draws_with_policy_and_value_function() -> None:
    told = foretold(
        "ppo", iterations=10, rollouts=20, ppo_epochs=2, minibatch_size=10, max_new_tokens=50
    )

    # Prompts of 40 tokens and responses cut at 50, packed.
    assert told.steps == 10
    assert told.tokens == 2 * 2 * 10 * 20 * (40 + 50)
    assert told.memory.trained == pytest.approx(2 * foretold("sft").memory.trained)


def test_ppo_pads_its_rows_on_a_gpu_and_observes_the_policy_anew() -> None:
    options: dict[str, Any] = {"iterations": 10, "rollouts": 64, "max_new_tokens": 50}
    kinds: tuple[DeviceKind, ...] = ("cpu", "cuda")
    cpu, gpu = (foretold("ppo", kind=kind, eval_generations=0, **options) for kind in kinds)

    assert gpu.tokens == round(1.08 * cpu.tokens)
    assert gpu.flops > 1.1 * cpu.flops


def test_groups_are_padded_to_their_longest_prompt_and_response() -> None:
    told = foretold("rloo", iterations=10, prompts=8, generations=4, inner_epochs=2)

    # The longest prompt has 50 tokens, and responses end at 128.
    assert told.steps == 20
    assert told.tokens == 2 * 10 * 8 * 4 * (50 + 128)


def test_general_text_is_read_before_and_after_though_nothing_is_answered() -> None:
    known = ROWS._replace(general=1000)
    dpo, reward = (
        [foretold(method, rows=rows, **alone()).flops for rows in (ROWS, known)]
        for method in ("dpo", "reward")
    )

    assert dpo[0] < dpo[1]
    assert reward[0] == reward[1]


def test_best_of_n_learns_the_best_that_it_keeps() -> None:
    told = foretold("best_of_n", **alone(n=4, prompts=200, keep=0.25, batch_size=10))

    assert told.steps == 5
    assert told.tokens == round(50 * (40 + 60) * 1.08)
    more = foretold("best_of_n", **alone(n=8, prompts=200, keep=0.25, batch_size=10))
    assert more.tokens == told.tokens
    assert more.flops > 1.5 * told.flops


def test_a_second_reward_model_scores_what_best_of_n_has_drawn() -> None:
    one, both = (
        foretold("best_of_n", company=Company(is_scored=True, is_watched=watched), **alone())
        for watched in (False, True)
    )

    assert one.flops < both.flops
    assert one.memory.reward_model < both.memory.reward_model


def test_online_dpo_learns_both_sides_of_the_pairs_of_all_rounds() -> None:
    given = alone(prompts=50, epochs=2, batch_size=8, max_new_tokens=40)
    one, two = (foretold("online_dpo", rounds=rounds, **given) for rounds in (1, 2))

    # 50 pairs, twice, are 13 steps of 8; prompts of 40 tokens, responses cut at 40, 8 % of padding.
    assert (one.steps, two.steps) == (13, 26)
    assert one.tokens == round(2 * 2 * 50 * (40 + 40) * 1.08)
    assert two.tokens == 2 * one.tokens
    more = foretold("online_dpo", rounds=1, n=8, **given)
    assert more.tokens == one.tokens
    assert more.flops > 1.2 * one.flops


def test_what_measures_a_run_costs_time_and_a_late_reward_model_memory() -> None:
    alone, scored, beside_base = (
        foretold("dpo", shape=LLAMA_8B, kind="cuda", company=company)
        for company in (ALONE, Company(is_scored=True), Company(is_scored=True, meets_base=True))
    )

    # 2 bytes a weight, beside what answering takes.
    held = (scored.memory.evaluation - alone.memory.evaluation) * 2**20
    assert held == pytest.approx(2 * LLAMA_8B.parameters)
    assert alone.flops < scored.flops < beside_base.flops
    # Scoring reads both policies' answers once more; the base writes its own as well.
    assert beside_base.flops - scored.flops > scored.flops - alone.flops


WATCHED = Company(is_watched=True)


@pytest.mark.parametrize("method", ["ppo", "rloo", "grpo", "online_dpo"])
def test_a_second_reward_model_looks_on_every_few_steps(method: str) -> None:
    def looked(every: int, company: Company = WATCHED) -> Estimate:
        return foretold(method, shape=LLAMA_8B, company=company, watch_steps=every)

    unwatched = looked(5, ALONE)
    assert looked(0).flops == unwatched.flops
    assert looked(5).flops > looked(10).flops > unwatched.flops
    assert looked(0).memory == unwatched.memory
    added = looked(5).memory.reward_model - unwatched.memory.reward_model
    assert added * 2**20 == pytest.approx(4 * 41.9e6, rel=0.01)  # an adapter of rank 16


def test_reward_models_that_were_tuned_in_full_share_no_base() -> None:
    def held(**company: bool) -> float:
        return foretold("rloo", shape=LLAMA_8B, company=Company(**company)).memory.reward_model

    assert held(is_apart=True) < held()
    assert held(is_apart=True, is_watched=True) == 2 * held(is_apart=True)


def test_a_reward_model_has_no_reference_and_a_soft_prompt_costs_each_sequence() -> None:
    assert foretold("reward", tuning="full").memory.reference == 0
    assert foretold("dpo", tuning="full").memory.reference > 0
    for method in ("sft", "grpo"):
        few, many = (foretold(method, tuning="prompt", virtual_tokens=n) for n in (1, 64))
        assert many.flops > few.flops


def test_a_batch_leaves_most_of_the_rows_that_have_ended_behind() -> None:
    alike = ROWS._replace(lengths=Lengths(168.0, 200, 128.0, 150))
    uneven = ROWS._replace(lengths=Lengths(104.0, 200, 64.0, 150))
    plans = [PlannedPPO(PPOOptions(), rows, TINY, machine()) for rows in (alike, uneven)]
    drawn = [[*plan.drawing(64, plan.answer)][1].tokens for plan in plans]

    # Half as long on average: rows are computed for a little longer than they are written.
    assert drawn[0] == 64 * 128
    assert drawn[1] == pytest.approx(64 * 64 * 1.08)


def test_a_reward_model_of_its_own_is_a_second_base_and_ppos_an_adapter() -> None:
    memory = {
        name: foretold(name, shape=LLAMA_8B, kind="cuda").memory
        for name in ("ppo", "rloo", "grpo", "best_of_n", "online_dpo", "dpo")
    }

    assert memory["dpo"].reward_model == 0
    assert memory["ppo"].reward_model * 2**20 == pytest.approx(4 * 41.9e6, rel=0.01)
    for name in ("rloo", "grpo", "best_of_n", "online_dpo"):
        assert memory[name].reward_model > memory[name].weights


@pytest.mark.parametrize(("kind", "held"), [("cpu", 7.0), ("cuda", 4.0)])
def test_what_drawing_took_is_held_beside_a_step_on_a_cpu_alone(
    kind: DeviceKind, held: float
) -> None:
    run = PlannedPPO(PPOOptions(), ROWS, TINY, machine(kind))

    assert held_in_turn(run, 3.0, 4.0) == held


def test_the_policy_that_drew_is_asked_once_more_by_rloo_and_by_later_inner_epochs() -> None:
    flops = {
        (name, epochs): foretold(name, inner_epochs=epochs, eval_generations=0).flops
        for name in ("rloo", "grpo")
        for epochs in (1, 2)
    }

    assert flops["rloo", 1] > flops["grpo", 1]
    assert flops["rloo", 2] == flops["grpo", 2]


def test_several_processes_share_the_training_and_not_the_measuring() -> None:
    one, two = (
        foretold("sft", shape=LLAMA_8B, **alone(epochs=8, processes=n, batch_size=10))
        for n in (1, 2)
    )

    assert (one.steps, two.steps) == (800, 400)
    assert (one.tokens, two.tokens) == (two.tokens, one.tokens)
    assert two.seconds == pytest.approx(one.seconds / 2, rel=0.01)
    assert (two.memory, two.processes) == (one.memory, 2)
    measured = {
        n: foretold("sft", shape=LLAMA_8B, processes=n).seconds
        - foretold("sft", shape=LLAMA_8B, processes=n, eval_generations=0).seconds
        for n in (1, 2)
    }
    assert measured[2] == pytest.approx(measured[1])


def test_a_method_whose_work_is_unknown_and_no_rows_are_not_estimated() -> None:
    assert estimate("dream", MethodOptions(), ROWS, TINY, machine()) is None
    assert estimate("dpo", DPOOptions(), ROWS._replace(number=0), TINY, machine()) is None


def test_an_hour_costs_its_price() -> None:
    assert replace(foretold(), seconds=5400.0).cost(2.0) == 3.0


def write_model(folder: Path, config: dict[str, Any], shapes: dict[str, list[int]]) -> Path:
    """A model folder whose weights file holds a header and zeros."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    header: dict[str, Any] = {}
    end = 0
    for name, shape in shapes.items():
        size = 4
        for length in shape:
            size *= length
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    whole = struct.pack("<Q", len(text)) + text + bytes(end)
    (folder / "model.safetensors").write_bytes(whole)
    return folder


LLAMA_CONFIG = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 16,
    "vocab_size": 32,
}
LLAMA_WEIGHTS = {
    "model.embed_tokens.weight": [32, 8],
    "model.layers.0.self_attn.q_proj.weight": [8, 8],
    "model.layers.0.self_attn.k_proj.weight": [4, 8],
    "model.layers.0.mlp.up_proj.weight": [16, 8],
    "model.norm.weight": [8],
    "lm_head.weight": [32, 8],
}


def test_a_shape_is_read_off_the_config_and_the_weights(tmp_path: Path) -> None:
    folder = write_model(tmp_path, LLAMA_CONFIG, LLAMA_WEIGHTS)

    assert read_shape(folder) == ModelShape(
        parameters=2 * 256 + 64 + 32 + 128 + 8,
        layers=1,
        hidden=8,
        intermediate=16,
        kv_width=4,
        vocabulary=32,
        linear_layers=3,
        linear_widths=16 + 12 + 24,
        linear_parameters=64 + 32 + 128,
    )
    assert count_parameters(folder) == 744


def test_older_names_and_nested_configs_are_understood(tmp_path: Path) -> None:
    old = {"n_embd": 8, "n_layer": 2, "n_head": 2, "n_inner": None, "vocab_size": 32}
    gpt = read_shape(write_model(tmp_path / "gpt", old, {"h.0.attn.c_attn.weight": [8, 24]}))
    nested = read_shape(write_model(tmp_path / "n", {"text_config": LLAMA_CONFIG}, LLAMA_WEIGHTS))

    assert gpt is not None
    assert (gpt.intermediate, gpt.kv_width, gpt.layers) == (32, 8, 2)
    assert nested is not None
    assert nested.hidden == 8


@pytest.mark.parametrize("config", [{}, {"hidden_size": 8}])
def test_a_model_of_no_known_shape_has_none(tmp_path: Path, config: dict[str, Any]) -> None:
    assert read_shape(write_model(tmp_path, config, LLAMA_WEIGHTS)) is None
    assert read_shape("nobody/has-this-model") is None
