"""The arithmetic of PPO for language models: pure functions of tensors, each with its source.

Per-token tensors have the shape (rows, tokens), a row being one completion; `mask` is 1 where a
token counts, and what lies elsewhere has no influence. Logarithms are natural. Knows no model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


def k1(log_probs: Tensor, reference: Tensor) -> Tensor:
    """-log r with r = reference / policy: unbiased for KL(policy || reference), and of any sign.

    Schulman, "Approximating KL Divergence" (2020); for tokens drawn from the policy, in nats.
    """
    return log_probs - reference


def k2(log_probs: Tensor, reference: Tensor) -> Tensor:
    """(log r)^2 / 2: biased, low in variance, never negative. Source and terms as for `k1`."""
    return (reference - log_probs).square() / 2


def k3(log_probs: Tensor, reference: Tensor) -> Tensor:
    """(r - 1) - log r: unbiased and never negative. Source and terms as for `k1`."""
    log_ratio = reference - log_probs
    return log_ratio.exp() - 1 - log_ratio


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, *, kl_coef: float) -> Tensor:
    """-kl_coef * kl at every token, and the completion's score on top at its last one.

    `scores` is (rows,), `kl` the k1 of each token. Ziegler et al. 2019, eq. 2.
    """
    rewards = -kl_coef * kl * mask
    last = mask.sum(dim=1).long() - 1
    return rewards.scatter_add(1, last[:, None], scores[:, None])


class Estimates(NamedTuple):
    """Advantage of each token, and the return that the value function should predict there."""

    advantages: Tensor
    returns: Tensor


def generalized_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, lam: float
) -> Estimates:
    """A_t = sum_l (gamma lam)^l delta_(t+l), delta_t = r_t + gamma V_(t+1) - V_t; R_t = A_t + V_t.

    V is 0 after the last token of a row. Schulman et al. 2016, eq. 16 (GAE).
    """
    rewards, values = rewards * mask, values * mask
    advantages = torch.zeros_like(rewards)
    following = torch.zeros_like(rewards[:, 0])
    value_after = torch.zeros_like(following)
    for at in reversed(range(rewards.shape[1])):
        delta = rewards[:, at] + gamma * value_after - values[:, at]
        following = delta + gamma * lam * following
        advantages[:, at], value_after = following, values[:, at]
    return Estimates(advantages * mask, (advantages + values) * mask)


class Moments(NamedTuple):
    """Mean and biased variance."""

    mean: Tensor
    variance: Tensor


Total = Callable[[Tensor], Tensor]
"""Adds a tensor up over all processes that hold a share of the rows."""


def alone(part: Tensor) -> Tensor:
    """The `Total` of a single process."""
    return part


def moments(values: Tensor, mask: Tensor, *, total: Total = alone) -> Moments:
    """Of all tokens together."""
    count, added = total(torch.stack([mask.sum(), (values * mask).sum()]))
    mean = added / count
    return Moments(mean, total(((values - mean).square() * mask).sum()) / count)


def whiten(
    values: Tensor, mask: Tensor, *, shift_mean: bool = True, total: Total = alone
) -> Tensor:
    """`values` at variance 1, and at mean 0 unless their mean is to stay.

    After OpenAI's lm-human-preferences (`utils.core`).
    """
    mean, variance = moments(values, mask, total=total)
    whitened = (values - mean) * torch.rsqrt(variance + 1e-8)
    return (whitened if shift_mean else whitened + mean) * mask


def explained_variance(
    values: Tensor, returns: Tensor, mask: Tensor, *, total: Total = alone
) -> Tensor:
    """1 - Var(R - V) / Var(R): 1 for a perfect value function, 0 for a constant one."""
    left = moments(returns - values, mask, total=total).variance
    return 1 - left / moments(returns, mask, total=total).variance.clamp(min=1e-8)


class Clipped(NamedTuple):
    """A loss of each token, to be minimised, and where its clipped branch is what counts."""

    loss: Tensor
    is_clipped: Tensor


def policy_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, *, clip_range: float
) -> Clipped:
    """max(-A rho, -A clip(rho, 1 - e, 1 + e)), rho = policy / old policy, e = `clip_range`.

    Schulman et al. 2017, eq. 7, with its sign turned.
    """
    ratio = (log_probs - old_log_probs).exp()
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip_range, 1 + clip_range)
    return Clipped(torch.maximum(plain, clipped), clipped > plain)


def value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, *, clip_range: float
) -> Clipped:
    """max((V - R)^2, (clip(V, V_old - e, V_old + e) - R)^2) / 2, with e = `clip_range`.

    OpenAI's baselines (`ppo2/model.py`) and lm-human-preferences.
    """
    near = torch.clamp(values, old_values - clip_range, old_values + clip_range)
    plain, clipped = (values - returns).square() / 2, (near - returns).square() / 2
    return Clipped(torch.maximum(plain, clipped), clipped > plain)


def next_kl_coef(kl_coef: float, kl: float, *, target: float, rollouts: int, horizon: int) -> float:
    """kl_coef * (1 + clip(kl / target - 1, -0.2, 0.2) * rollouts / horizon).

    `kl` is the mean per completion, in nats. Ziegler et al. 2019, section 2.2.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return kl_coef * (1 + error * rollouts / horizon)
