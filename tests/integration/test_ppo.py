from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain, combinations, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.models import build_adapter, build_model
from tests.ppo import (
    LENGTH,
    ProgrammedScorer,
    build_reward_model,
    build_trainer,
    classifier_scores,
    mean_of_classifier_scores,
    share_base,
)
from training.tuning import Tuning
from training.worker.failures import Cancelled, Diverged, ModelUnusable
from training.worker.job import StopRequest
from training.worker.ppo.learner import Learner
from training.worker.ppo.model import POLICY, VALUE, SharedBase
from training.worker.ppo.processes import Processes
from training.worker.ppo.rollout import PromptOrder
from training.worker.ppo.tokens import Tokens, cut
from training.worker.scoring import load_reward_model

PROMPTS = [[5, 9, 30, 31, 60], [7, 8], [9, 40, 41, 42]]
COMPLETIONS = [[32, 33, 34], [50, 51, 52, 53, 54, 2], [60]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def reward(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    return build_reward_model(base, tmp_path_factory.mktemp("rewards") / "adapter")


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    return build_adapter(base, tmp_path_factory.mktemp("parents") / "adapter", seed=3)


def tokens() -> Tokens:
    return Tokens.padded(PROMPTS, COMPLETIONS, torch.device("cpu"))


def alone(row: int) -> Tokens:
    return Tokens.padded([PROMPTS[row]], [COMPLETIONS[row]], torch.device("cpu"))


def weights(shared: SharedBase) -> dict[str, Tensor]:
    return shared.state()


def test_prompts_end_and_completions_begin_at_one_column() -> None:
    found = tokens()
    assert found.ids.tolist() == [
        [5, 9, 30, 31, 60, 32, 33, 34, 0, 0, 0],
        [0, 0, 0, 7, 8, 50, 51, 52, 53, 54, 2],
        [0, 9, 40, 41, 42, 60, 0, 0, 0, 0, 0],
    ]
    assert found.mask.sum(dim=1).tolist() == [3, 6, 1]


def test_models_read_a_completion_right_after_its_prompt_and_no_padding_before() -> None:
    closed = tokens().close_up()
    assert closed.ids.tolist() == [
        [5, 9, 30, 31, 60, 32, 33, 34],
        [7, 8, 50, 51, 52, 53, 54, 2],
        [9, 40, 41, 42, 60, 0, 0, 0],
    ]
    assert closed.row_lengths == [8, 8, 5]
    assert closed.places.tolist() == [5, 6, 7, 8 + 2, 11, 12, 13, 14, 15, 16 + 4]


def test_packed_rows_follow_one_another() -> None:
    packed = tokens().pack()
    assert packed.ids.tolist() == [
        [5, 9, 30, 31, 60, 32, 33, 34, 7, 8, 50, 51, 52, 53, 54, 2, 9, 40, 41, 42, 60]
    ]
    assert packed.row_lengths == [8, 8, 5]
    assert packed.places.tolist() == [5, 6, 7, 8 + 2, 11, 12, 13, 14, 15, 16 + 4]


def test_what_is_known_of_completions_is_lined_up_again() -> None:
    found = tokens().spread(torch.arange(1.0, 11.0))
    assert found.tolist() == [[1, 2, 3, 0, 0, 0], [4, 5, 6, 7, 8, 9], [10, 0, 0, 0, 0, 0]]


def test_some_rows_of_a_batch_come_without_the_others_padding() -> None:
    part = tokens().rows([2, 0])
    assert part.ids.tolist() == [[0, 9, 40, 41, 42, 60, 0, 0], [5, 9, 30, 31, 60, 32, 33, 34]]
    assert part.mask.tolist() == [[1, 0, 0], [1, 1, 1]]
    assert tokens().rows([2]).ids.tolist() == [[9, 40, 41, 42, 60]]


def test_rows_of_like_length_are_computed_together() -> None:
    assert tokens().batches([0, 1, 2], 2) == [[2], [0, 1]]
    assert tokens().batches([1, 0], 2) == [[1, 0]]


def test_rows_that_are_packed_are_shared_out_evenly() -> None:
    rows = Tokens.padded([[5]] * 5, [[7] * n for n in (9, 1, 5, 3, 7)], torch.device("cpu"))
    assert rows.even_batches([0, 1, 2, 3, 4], 2) == [[1, 4], [3, 0], [2]]
    assert rows.even_batches([4, 0, 1], 3) == [[1, 4, 0]]


def _computed(lengths: Sequence[int], ends: Sequence[int], beside: int) -> int:
    batches = [lengths[start:end] for start, end in pairwise([0, *ends])]
    return sum(len(batch) * batch[-1] + beside for batch in batches)


@given(
    lengths=st.lists(st.integers(1, 50), min_size=1, max_size=8).map(sorted),
    size=st.integers(1, 8),
    beside=st.sampled_from([0, 10, 100, 10_000]),
)
def test_batches_are_cut_where_least_is_computed(
    lengths: list[int], size: int, beside: int
) -> None:
    ends = cut(lengths, size, beside=beside)
    inner = range(1, len(lengths))
    ways = chain.from_iterable(combinations(inner, n) for n in range(len(lengths)))
    allowed = [
        [*way, len(lengths)]
        for way in ways
        if all(b - a <= size for a, b in pairwise([0, *way, len(lengths)]))
    ]
    assert ends in allowed
    assert _computed(lengths, ends, beside) == min(_computed(lengths, w, beside) for w in allowed)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen3"])
@pytest.mark.parametrize("pooling", ["mean", "last", None])
def test_rewards_are_those_of_the_library_s_classifier(
    tmp_path: Path, architecture: str, pooling: str | None
) -> None:
    base = build_model(tmp_path / "model", architecture)
    folder = build_reward_model(base, tmp_path / "reward", pooling=pooling)
    if pooling == "mean":
        expected = mean_of_classifier_scores(base, folder, PROMPTS, COMPLETIONS)
    else:
        rows = [[*p, *c] for p, c in zip(PROMPTS, COMPLETIONS, strict=True)]
        expected = classifier_scores(base, folder, rows)

    shared = share_base(base, reward=folder)
    alone = load_reward_model(str(base), str(folder))
    assert shared.rewards(tokens()).tolist() == pytest.approx(expected, abs=1e-5)
    assert alone.score(PROMPTS, COMPLETIONS) == pytest.approx(expected, abs=1e-5)
    assert max(expected) - min(expected) > 0.1


def test_a_reward_model_by_dora_is_read_and_begins_the_values(base: Path, tmp_path: Path) -> None:
    folder = build_reward_model(base, tmp_path / "reward", tuning=Tuning.DORA)
    shared = share_base(base, reward=folder)
    found = shared.rewards(tokens())
    expected = load_reward_model(str(base), str(folder)).score(PROMPTS, COMPLETIONS)
    assert found.tolist() == pytest.approx(expected, abs=1e-5)

    values = shared.values(tokens())
    build_trainer(base, shared, LENGTH).run_iteration()
    assert torch.equal(shared.rewards(tokens()), found)
    assert not torch.allclose(shared.values(tokens()), values)


def test_scores_are_in_standard_deviations_of_the_reward_run(base: Path, tmp_path: Path) -> None:
    plain = build_reward_model(base, tmp_path / "plain")
    scaled = build_reward_model(base, tmp_path / "scaled", mean=3.0, sd=2.0)
    raw = share_base(base, reward=plain).rewards(tokens())
    standard = share_base(base, reward=scaled).rewards(tokens())
    assert torch.allclose(standard, (raw - 3) / 2, atol=1e-5)


def test_the_value_function_starts_as_the_reward_model(base: Path, reward: Path) -> None:
    shared = share_base(base, reward=reward)
    values = shared.values(tokens())
    for at in range(1, 6):
        # The value before a token is what the reward model says of all that stands before it.
        cut = Tokens.padded([PROMPTS[1]], [COMPLETIONS[1][:at]], torch.device("cpu"))
        assert values[1, at].item() == pytest.approx(shared.rewards(cut).item(), abs=1e-5)


def test_the_value_function_moves_without_the_reward_model(base: Path, reward: Path) -> None:
    shared = share_base(base, reward=reward)
    before, values = shared.rewards(tokens()), shared.values(tokens())
    build_trainer(base, shared, LENGTH).run_iteration()
    assert torch.equal(shared.rewards(tokens()), before)
    assert not torch.allclose(shared.values(tokens()), values)


def test_a_folder_without_a_score_head_is_no_reward_model(base: Path, parent: Path) -> None:
    (parent / "scores.json").write_text('{"mean": 0, "sd": 1}')
    with pytest.raises(ModelUnusable, match="no reward model"):
        share_base(base, reward=parent)


def test_a_reward_model_of_another_base_is_refused(tmp_path: Path, base: Path) -> None:
    other = build_model(tmp_path / "model", "gpt2")
    folder = build_reward_model(other, tmp_path / "reward")
    with pytest.raises(ModelUnusable):
        share_base(base, reward=folder)


@pytest.mark.parametrize("packs", [True, False])
def test_neighbours_change_no_number(base: Path, parent: Path, reward: Path, packs: bool) -> None:
    shared = share_base(base, parent=parent, reward=reward)
    assert shared.packs
    shared.packs = packs
    together = shared.policy_log_probs(tokens())
    values, rewards = shared.values(tokens()), shared.rewards(tokens())
    for row, completion in enumerate(COMPLETIONS):
        width = len(completion)
        assert torch.allclose(
            together[row, :width], shared.policy_log_probs(alone(row))[0], atol=1e-4
        )
        assert torch.allclose(values[row, :width], shared.values(alone(row))[0], atol=1e-4)
        assert rewards[row].item() == pytest.approx(shared.rewards(alone(row)).item(), abs=1e-4)
        assert not together[row, width:].any()


def test_only_completions_are_scored_over_the_vocabulary(base: Path) -> None:
    shared = share_base(base)
    uneven = Tokens.padded([[5] * 90, [7], [9, 8]], [[30, 31], [50, 51, 2], [60]], shared.device)
    counts: list[int] = []
    head = shared.model.get_base_model().get_output_embeddings()

    with head.register_forward_hook(lambda _, given, __: counts.append(given[0][..., 0].numel())):
        for shared.packs in (True, False):
            shared.policy_log_probs(uneven)

    assert counts == [6, 6]


def test_log_probabilities_are_the_model_s_own(base: Path, parent: Path) -> None:
    shared = share_base(base, parent=parent)
    with torch.no_grad():
        logits = shared.model(input_ids=torch.tensor([[*PROMPTS[0], *COMPLETIONS[0]]])).logits[0]
    expected = [
        logits[4 + at].log_softmax(dim=0)[token].item() for at, token in enumerate(COMPLETIONS[0])
    ]
    scores = shared.observe_policy(alone(0))
    assert scores.log_probs[0].tolist() == pytest.approx(expected, abs=1e-5)
    probabilities = logits[4].softmax(dim=0)
    entropy = -(probabilities * probabilities.log()).sum().item()
    assert scores.entropy[0, 0].item() == pytest.approx(entropy, abs=1e-4)


@pytest.mark.parametrize("continues", [False, True])
def test_a_policy_starts_at_no_distance_from_its_reference(
    base: Path, parent: Path, continues: bool
) -> None:
    shared = share_base(base, parent=parent if continues else None)
    trainer = build_trainer(base, shared, LENGTH)
    first = trainer.run_iteration()
    # Drawn one token at a time and read all at once: the same but for the rounding.
    assert (first.kl, first.kl_k3) == pytest.approx((0.0, 0.0), abs=1e-5)
    assert trainer.run_iteration().kl_k3 > 1e-4


@pytest.mark.parametrize("is_exact", [True, False])
def test_the_policy_is_known_as_it_drew_its_completions(
    base: Path, parent: Path, is_exact: bool
) -> None:
    shared = share_base(base, parent=parent)
    assert shared.is_exact
    shared.is_exact = is_exact
    seen = build_trainer(base, shared, LENGTH).collector.collect(0)
    assert any(rollout.output.drawn for rollout in seen.rollouts) == is_exact
    expected = shared.observe_policy(seen.tokens)
    assert torch.allclose(seen.log_probs, expected.log_probs, atol=1e-5)
    assert torch.allclose(seen.entropy, expected.entropy, atol=1e-5)
    assert bool(((seen.log_probs != 0) == seen.tokens.mask.bool()).all())


def test_packing_changes_no_weight(base: Path, reward: Path) -> None:
    ends = []
    for packs, checkpoints in ((True, False), (True, True), (False, False)):
        shared = share_base(base, reward=reward, gradient_checkpointing=checkpoints)
        shared.packs = packs
        build_trainer(base, shared, LENGTH).run_iteration()
        ends.append(weights(shared))
    for name, weight in ends[0].items():
        for other in ends[1:]:
            assert torch.allclose(weight, other[name], atol=1e-6), name


def test_the_reference_of_a_policy_that_continues_is_its_parent(base: Path, parent: Path) -> None:
    shared = share_base(base, parent=parent)
    before = shared.policy_log_probs(tokens())
    build_trainer(base, shared, LENGTH).run_iteration()
    assert torch.equal(shared.reference_log_probs(tokens()), before)
    assert not torch.allclose(shared.policy_log_probs(tokens()), before)
    fresh = share_base(base).policy_log_probs(tokens())
    assert not torch.allclose(before, fresh)


def test_before_the_first_step_nothing_has_moved(base: Path) -> None:
    trainer = build_trainer(base, share_base(base), LENGTH, minibatch_size=8, ppo_epochs=1)
    trainer.run_iteration()
    second = trainer.run_iteration()
    assert second.first_ratio == pytest.approx(1.0, abs=1e-5)
    assert second.approx_kl == pytest.approx(0.0, abs=1e-8)
    assert second.clip_fraction == 0


def test_further_steps_of_an_iteration_move_away(base: Path) -> None:
    trainer = build_trainer(base, share_base(base), LENGTH, ppo_epochs=3)
    assert trainer.run_iteration().approx_kl > 1e-5


def test_a_policy_that_went_too_far_takes_no_further_step(base: Path) -> None:
    metrics = build_trainer(
        base,
        share_base(base),
        LENGTH,
        learning_rate=0.05,
        target_approx_kl=1e-3,
        ppo_epochs=3,
        minibatch_size=4,
    ).run_iteration()
    assert metrics.policy_steps == 1
    assert metrics.approx_kl > 1e-3  # of what it took no further step for


def test_a_policy_that_is_too_far_from_the_first_takes_no_step_and_tells_what_it_saw(
    base: Path,
) -> None:
    shared = share_base(base)
    start = [parameter.detach().clone() for parameter in shared.policy_parameters()]
    # Two ways to compute the same differ by more, in the last digits.
    metrics = build_trainer(base, shared, LENGTH, target_approx_kl=1e-20).run_iteration()
    assert metrics.policy_steps == 0
    assert metrics.approx_kl > 1e-20
    assert metrics.first_ratio == pytest.approx(1.0, abs=1e-4)
    assert metrics.grad_norm > 0
    assert all(map(torch.equal, shared.policy_parameters(), start))


def test_a_completion_without_an_end_loses_the_penalty(base: Path) -> None:
    scorer = ProgrammedScorer(lambda _prompt, _completion: 0.75)
    metrics = build_trainer(
        base, share_base(base), scorer, missing_eos_penalty=2.0, max_new_tokens=1
    ).run_iteration()
    assert metrics.score == 0.75
    assert metrics.ended < 1
    assert metrics.reward == pytest.approx(0.75 - 2 * (1 - metrics.ended))
    assert metrics.objective == pytest.approx(metrics.reward)


def test_the_objective_pays_for_the_distance_to_the_reference(base: Path) -> None:
    trainer = build_trainer(base, share_base(base), LENGTH, kl_coef=0.5)
    trainer.run_iteration()
    second = trainer.run_iteration()
    assert second.objective == pytest.approx(second.reward - 0.5 * second.kl)
    assert second.kl != 0


def test_the_kl_coefficient_follows_the_target_or_stays(base: Path) -> None:
    steered = build_trainer(base, share_base(base), LENGTH, kl_target=6.0, kl_horizon=16)
    fixed = build_trainer(base, share_base(base), LENGTH)
    assert [steered.run_iteration().kl_coef for _ in range(2)] == [
        0.05,
        pytest.approx(0.05 * (1 - 0.2 * 8 / 16)),
    ]
    assert [fixed.run_iteration().kl_coef for _ in range(2)] == [0.05, 0.05]


def test_the_learning_rate_falls_to_nothing_in_a_straight_line(base: Path) -> None:
    trainer = build_trainer(base, share_base(base), LENGTH, learning_rate=4e-3)
    rates = [trainer.run_iteration().learning_rate for _ in range(4)]
    assert rates == pytest.approx([4e-3, 3e-3, 2e-3, 1e-3])


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_gradient_checkpointing_changes_no_weight(tmp_path: Path, architecture: str) -> None:
    base = build_model(tmp_path / "model", architecture)
    reward = build_reward_model(base, tmp_path / "reward")
    ends = []
    for is_on in (False, True):
        shared = share_base(base, reward=reward, gradient_checkpointing=is_on)
        build_trainer(base, shared, LENGTH).run_iteration()
        ends.append(weights(shared))
    for name, weight in ends[0].items():
        assert torch.allclose(weight, ends[1][name], atol=1e-6), name


def test_gradient_checkpointing_recomputes_layers(base: Path) -> None:
    shared = share_base(base, gradient_checkpointing=True)
    passes = 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    shared.model.get_base_model().model.layers[0].mlp.register_forward_pre_hook(count)
    for name in (POLICY, VALUE):
        passes = 0
        with shared.learning(name):
            found = (
                shared.policy_log_probs(tokens())
                if name == POLICY
                else shared.active_values(tokens())
            )
            found.sum().backward()  # type: ignore[no-untyped-call]
        assert passes == 2, name


def test_micro_batches_change_no_weight_but_by_rounding(base: Path, reward: Path) -> None:
    ends = []
    for size in (8, 2):
        shared = share_base(base, reward=reward)
        build_trainer(base, shared, LENGTH, micro_batch_size=size).run_iteration()
        ends.append(weights(shared))
    for name, weight in ends[0].items():
        assert torch.allclose(weight, ends[1][name], atol=2e-3), name


def test_only_the_policy_and_the_value_function_move(
    base: Path, parent: Path, reward: Path
) -> None:
    shared = share_base(base, parent=parent, reward=reward)
    before = {name: p.clone() for name, p in shared.model.named_parameters()}
    build_trainer(base, shared, LENGTH).run_iteration()
    moved = {n for n, p in shared.model.named_parameters() if not torch.equal(p, before[n])}
    assert moved
    assert {n.split(".")[-2] for n in moved} == {POLICY, VALUE}


def test_going_on_from_a_state_is_going_on(base: Path, reward: Path) -> None:
    options: dict[str, Any] = {"kl_target": 6.0, "kl_horizon": 16, "max_new_tokens": 6}
    straight = build_trainer(base, share_base(base, reward=reward), LENGTH, **options)
    expected = [straight.run_iteration() for _ in range(4)]
    first = build_trainer(base, share_base(base, reward=reward), LENGTH, **options)
    for _ in range(2):
        first.run_iteration()
    state = first.state()
    torch.manual_seed(99)
    second = build_trainer(base, share_base(base, reward=reward), LENGTH, **options)
    second.load_state(state)
    assert [second.run_iteration() for _ in range(2)] == expected[2:]


def test_another_seed_draws_other_completions(base: Path) -> None:
    first, second = (
        build_trainer(base, share_base(base), LENGTH, prompts=["Hello"], seed=seed).run_iteration()
        for seed in (0, 1)
    )
    assert first.score != second.score


def test_a_step_follows_the_mean_over_all_tokens_of_a_minibatch() -> None:
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    learner = Learner([weight], learning_rate=0.1, max_grad_norm=100.0, processes=Processes())
    # Two micro-batches of 1 and 3 tokens, with losses 2w and 10w in all.
    parts = (
        torch.stack([torch.tensor(tokens), factor * weight.sum(), torch.tensor(5.0)])
        for tokens, factor in ((1.0, 2.0), (3.0, 10.0))
    )
    count, loss, other = learner.differentiate(parts).tolist()
    assert (count, loss, other) == (1.0, -3.0, 2.5)
    assert weight.grad is not None
    assert weight.grad.tolist() == [3.0, 3.0]
    assert learner.step() == pytest.approx(math.sqrt(18))


def test_every_prompt_comes_once_a_lap() -> None:
    order = PromptOrder(5, seed=1)
    laps = [[order.at(lap * 5 + n) for n in range(5)] for lap in range(3)]
    assert [sorted(lap) for lap in laps] == [list(range(5))] * 3
    assert laps[0] != laps[1]


def test_a_score_that_is_no_number_is_told_as_such(base: Path) -> None:
    scorer = ProgrammedScorer(lambda _prompt, _completion: math.nan)
    with pytest.raises(Diverged):
        build_trainer(base, share_base(base), scorer).run_iteration()


def test_a_wish_to_stop_is_granted_within_an_iteration(base: Path) -> None:
    stop = StopRequest()

    def scored(_prompt: str, _completion: str) -> float:
        stop.signal.set()
        return 0.0

    shared = share_base(base)
    before = weights(shared)
    trainer = build_trainer(base, shared, ProgrammedScorer(scored), stop=stop)
    with pytest.raises(Cancelled):
        trainer.run_iteration()
    assert all(torch.equal(weight, before[name]) for name, weight in weights(shared).items())
    with pytest.raises(Cancelled):
        trainer.run_iteration()
