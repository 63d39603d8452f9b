"""PPO's arithmetic, against numbers worked out by hand or given with the papers' code."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from training.worker.ppo import formulas


def row(*values: float) -> Tensor:
    return torch.tensor([values])


def test_the_three_kl_estimators_of_one_token() -> None:
    log_probs, reference = row(-1.0), row(-2.0)
    assert formulas.k1(log_probs, reference).item() == pytest.approx(1.0)
    assert formulas.k2(log_probs, reference).item() == pytest.approx(0.5)
    assert formulas.k3(log_probs, reference).item() == pytest.approx(0.367879, abs=1e-6)


def test_a_token_pays_for_its_distance_and_the_last_one_gets_the_score() -> None:
    kl = formulas.k1(row(-1.0, -2.0, -0.5), row(-1.2, -1.5, -0.7))
    rewards = formulas.token_rewards(torch.tensor([1.0]), kl, torch.ones(1, 3), kl_coef=0.05)
    assert rewards[0].tolist() == pytest.approx([-0.01, 0.025, 0.99])
    assert kl.sum().item() == pytest.approx(-0.1)


def test_the_score_stands_at_the_last_token_of_each_row_and_padding_earns_nothing() -> None:
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1.0]])
    rewards = formulas.token_rewards(
        torch.tensor([2.0, 3.0]), torch.full((2, 3), 10.0), mask, kl_coef=0.1
    )
    assert rewards.tolist() == [[-1.0, 1.0, 0.0], [-1.0, -1.0, 2.0]]


def test_advantages_and_returns_of_a_reward_at_the_end() -> None:
    found = formulas.generalized_advantages(
        row(0.0, 0.0, 1.0), row(0.5, 0.5, 0.5), torch.ones(1, 3), gamma=1.0, lam=0.95
    )
    assert found.advantages[0].tolist() == pytest.approx([0.45125, 0.475, 0.5])
    assert found.returns[0].tolist() == pytest.approx([0.95125, 0.975, 1.0])


def test_what_stands_in_the_padding_changes_no_advantage() -> None:
    mask = row(1.0, 1.0, 0.0)
    clean = formulas.generalized_advantages(
        row(0.0, 1.0, 0.0), row(0.5, 0.2, 0.0), mask, gamma=0.9, lam=0.8
    )
    dirty = formulas.generalized_advantages(
        row(0.0, 1.0, 7.0), row(0.5, 0.2, -9.0), mask, gamma=0.9, lam=0.8
    )
    assert torch.equal(clean.advantages, dirty.advantages)
    assert torch.equal(clean.returns, dirty.returns)
    # delta_1 = 1 - 0.2, delta_0 = 0.9 * 0.2 - 0.5
    assert clean.advantages[0].tolist() == pytest.approx([-0.32 + 0.72 * 0.8, 0.8, 0.0])


@pytest.mark.parametrize(
    ("advantage", "ratio", "loss"),
    [(1.0, 1.5, -1.2), (1.0, 0.5, -0.5), (-1.0, 1.5, 1.5), (-1.0, 0.5, 0.8)],
)
def test_the_clipped_policy_loss(advantage: float, ratio: float, loss: float) -> None:
    old = row(-2.0)
    found = formulas.policy_loss(old + math.log(ratio), old, row(advantage), clip_range=0.2)
    assert found.loss.item() == pytest.approx(loss)
    assert found.is_clipped.item() == (loss in (-1.2, 0.8))


def test_a_clipped_policy_takes_no_gradient() -> None:
    log_probs = row(-2.0 + math.log(1.5), -2.0 + math.log(1.5)).requires_grad_()
    loss = formulas.policy_loss(log_probs, row(-2.0, -2.0), row(1.0, -1.0), clip_range=0.2).loss
    loss.sum().backward()  # type: ignore[no-untyped-call]
    assert log_probs.grad is not None
    assert log_probs.grad[0].tolist() == pytest.approx([0.0, 1.5])


def test_the_clipped_value_loss() -> None:
    found = formulas.value_loss(row(1.0), row(0.5), row(1.2), clip_range=0.2)
    assert found.loss.item() == pytest.approx(0.125)
    assert found.is_clipped.item()


def test_whitening_keeps_the_mean_where_it_is_told_to() -> None:
    values = torch.tensor([[1.2, 1.3, 1.4], [1.5, 1.6, 1.7], [1.8, 1.9, 2.0]])
    kept = formulas.whiten(values, torch.ones(3, 3), shift_mean=False)
    assert kept[0].tolist() == pytest.approx([0.0508, 0.4381, 0.8254], abs=1e-4)
    moved = formulas.whiten(values, torch.ones(3, 3))
    assert moved.mean().item() == pytest.approx(0.0, abs=1e-6)
    assert moved.var(correction=0).item() == pytest.approx(1.0, abs=1e-5)


def test_whitening_looks_at_the_masked_tokens_alone() -> None:
    values, mask = row(1.0, 2.0, 3.0, 900.0), row(1.0, 1.0, 1.0, 0.0)
    whitened = formulas.whiten(values, mask)
    assert whitened[0, :3].tolist() == pytest.approx(
        formulas.whiten(values[:, :3], mask[:, :3])[0].tolist()
    )
    assert whitened[0, 3] == 0


def test_whitening_in_two_halves_is_whitening_the_whole() -> None:
    values, mask = torch.arange(12.0).reshape(4, 3).square(), torch.ones(4, 3)
    halves = [(values[:1], mask[:1]), (values[1:], mask[1:])]
    sums: list[Tensor] = []
    for share, its_mask in halves:
        mean = values.mean()
        sums.append(((share - mean).square() * its_mask).sum())
    answers = iter([torch.tensor([12.0, float(values.sum())]), sums[0] + sums[1]])
    part = formulas.whiten(*halves[0], total=lambda _: next(answers))
    assert torch.allclose(part, formulas.whiten(values, mask)[:1])


def test_the_kl_coefficient_rises_above_the_target_and_falls_below_it() -> None:
    far = formulas.next_kl_coef(0.15, 12.0, target=6.0, rollouts=64, horizon=10_000)
    assert far == pytest.approx(0.150192, abs=1e-7)
    near = formulas.next_kl_coef(0.15, 5.7, target=6.0, rollouts=64, horizon=10_000)
    assert near == pytest.approx(0.15 * (1 - 0.05 * 0.0064))
    assert formulas.next_kl_coef(0.15, 6.0, target=6.0, rollouts=64, horizon=10_000) == 0.15


def test_a_perfect_value_function_explains_all_and_a_constant_one_nothing() -> None:
    returns, mask = row(1.0, 2.0, 4.0, 50.0), row(1.0, 1.0, 1.0, 0.0)
    assert formulas.explained_variance(returns, returns, mask).item() == pytest.approx(1.0)
    constant = torch.full_like(returns, 3.0)
    assert formulas.explained_variance(constant, returns, mask).item() == pytest.approx(0.0)
