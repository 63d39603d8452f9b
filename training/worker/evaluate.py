"""Old and new policy measured on pairs and completions that training never saw, by likelihood.

The log-probabilities are those of the whole completion given its prompt, in nats. What the policies
themselves write is compared in `answers`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from training.worker.job import StopRequest
from training.worker.models import Trainee

TOKENS_PER_BATCH = 4096
SIDE_BY_SIDE = 12


class Scored(NamedTuple):
    """Token ids of a prompt with a completion; the completion begins at `start`."""

    ids: Sequence[int]
    start: int


@dataclass(frozen=True)
class PairReport:
    """How a policy ranks held-out pairs by its implicit reward, beta * log(policy / reference).

    `accuracy` is the share of pairs whose chosen side gets the higher reward, ties counting half;
    `margin` the mean reward of chosen minus rejected; `loss` the mean DPO loss (ln 2 before any
    training).
    """

    pairs: int
    accuracy: float
    margin: float
    loss: float


def dpo_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    *,
    beta: float,
) -> Tensor:
    """-log sigmoid(beta * ((pc - rc) - (pr - rr))) of each pair; Rafailov et al. 2023, eq. 7.

    All four are log-probabilities of completions, of shape (pairs,), in nats.
    """
    chosen, rejected = policy_chosen - reference_chosen, policy_rejected - reference_rejected
    return -F.logsigmoid(beta * (chosen - rejected))


def kl_estimates(policy: Tensor, reference: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """KL(policy || reference) of each sampled row, in nats: Schulman's estimators k1 and k3.

    `policy` and `reference` are per-token log-probabilities of tokens drawn from the policy, shape
    (rows, tokens); `mask` is 1 where a token counts. k1 = -log r, k3 = (r - 1) - log r with
    r = reference / policy, each summed over a row's tokens.
    """
    log_ratio = (reference - policy) * mask
    return -log_ratio.sum(dim=1), (log_ratio.exp() - 1 - log_ratio).sum(dim=1)


def compare_pairs(
    trainee: Trainee, pairs: Sequence[Mapping[str, Any]], *, beta: float, stop: StopRequest
) -> PairReport | None:
    """The trained policy on held-out pairs (TRL's prompt_ids, chosen_ids, rejected_ids)."""
    if not pairs:
        return None
    sides = [
        torch.stack(list(completion_log_probs(trainee, [_scored(p, side) for p in pairs], stop)))
        for side in ("chosen_ids", "rejected_ids")
    ]
    # Both sides hold (policy, reference) a row.
    (policy_chosen, reference_chosen), (policy_rejected, reference_rejected) = (s.T for s in sides)
    margins = beta * ((policy_chosen - reference_chosen) - (policy_rejected - reference_rejected))
    losses = dpo_loss(
        policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta=beta
    )
    wins = (margins > 0).double() + 0.5 * (margins == 0).double()
    return PairReport(len(pairs), float(wins.mean()), float(margins.mean()), float(losses.mean()))


class Likelihood(NamedTuple):
    """How likely held-out completions are, before and after: mean loss of a token, in nats."""

    rows: int
    tokens: int
    loss_before: float
    loss_after: float


def compare_likelihoods(
    trainee: Trainee, rows: Sequence[Scored], stop: StopRequest
) -> Likelihood | None:
    """The loss that supervised fine-tuning lowers, on rows that it did not see."""
    if not rows:
        return None
    tokens = sum(len(row.ids) - row.start for row in rows)
    after, before = torch.stack(list(completion_log_probs(trainee, rows, stop))).sum(dim=0)
    return Likelihood(len(rows), tokens, float(-before) / tokens, float(-after) / tokens)


def mean_kl(trainee: Trainee, rows: Sequence[Scored], stop: StopRequest) -> tuple[float, float]:
    """KL(policy || reference) of a response, in nats, on rows drawn from the policy: k1 and k3."""
    estimates = [kl_estimates(p, r, mask) for _, p, r, mask in _score(trainee, rows, stop)]
    k1, k3 = (torch.cat(kind) for kind in zip(*estimates, strict=True))
    return float(k1.mean()), float(k3.mean())


def completion_log_probs(
    trainee: Trainee, rows: Sequence[Scored], stop: StopRequest
) -> Iterator[Tensor]:
    """Log-probability of each completion, (2,): under the policy and under the reference."""
    found: dict[int, Tensor] = {}
    for numbers, policy, frozen, mask in _score(trainee, rows, stop):
        both = torch.stack([(policy * mask).sum(dim=1), (frozen * mask).sum(dim=1)], dim=1)
        found.update(zip(numbers, both.double(), strict=True))
    return (found[number] for number in range(len(rows)))


class _Batch(NamedTuple):
    """Row numbers, and three tensors (rows, tokens - 1): log-probs of both, completion mask."""

    numbers: Sequence[int]
    policy: Tensor
    reference: Tensor
    mask: Tensor


@torch.no_grad()
def _score(trainee: Trainee, rows: Sequence[Scored], stop: StopRequest) -> Iterator[_Batch]:
    """Score every row under both policies, in batches of like length."""
    for numbers in _batches([len(row.ids) for row in rows]):
        stop.check()
        ids, attention, mask = _padded([rows[n] for n in numbers], trainee.model.device)
        policy = token_log_probs(trainee.model, ids, attention)
        with trainee.reference() as model:
            frozen = token_log_probs(model, ids, attention)
        yield _Batch(numbers, policy, frozen, mask)


def token_log_probs(model: Any, ids: Tensor, attention: Tensor) -> Tensor:
    """log p(token t+1 | tokens to t), (rows, tokens - 1), from right-padded ids (rows, tokens)."""
    logits = model(input_ids=ids, attention_mask=attention, use_cache=False).logits
    # A soft prompt's virtual tokens have logits too, in front of the others.
    logits = logits[:, -ids.shape[1] : -1].float()
    chosen: Tensor = logits.gather(2, ids[:, 1:, None]).squeeze(2)
    normalizer: Tensor = logits.logsumexp(dim=2)
    return chosen - normalizer


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    batch: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda n: lengths[n]):
        if batch and (len(batch) + 1) * lengths[number] > TOKENS_PER_BATCH:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def _padded(rows: Sequence[Scored], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    longest = max(len(row.ids) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    attention = torch.zeros_like(ids)
    mask = torch.zeros(len(rows), longest - 1)
    for at, row in enumerate(rows):
        ids[at, : len(row.ids)] = torch.tensor(row.ids)
        attention[at, : len(row.ids)] = 1
        mask[at, row.start - 1 : len(row.ids) - 1] = 1
    return ids.to(device), attention.to(device), mask.to(device)


def _scored(pair: Mapping[str, Any], side: str) -> Scored:
    return Scored([*pair["prompt_ids"], *pair[side]], len(pair["prompt_ids"]))
