"""What choosing the best of several scored samples gains and costs: pure functions of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from statistics import fmean


def expected_best(scores: Sequence[float], n: int, values: Sequence[float] | None = None) -> float:
    """Mean over all choices of `n` of the score of the best one among them, or of its value.

    Unbiased for the best of `n` samples: sum_k v_(k) C(k-1, n-1) / C(N, n), with v_(k) the value of
    the k-th smallest of N scores (Nakano et al. 2021; Gao et al. 2022); of those that score the
    same, each is as likely taken. Raises ValueError for `n` beyond N.
    """
    if not 1 <= n <= len(scores):
        raise ValueError(f"n is {n}; with {len(scores)} scores it must lie between 1 and that")
    ranked = sorted(zip(scores, scores if values is None else values, strict=True))
    total, k = 0.0, 0
    for _, tied in groupby(ranked, key=itemgetter(0)):
        worth = [value for _, value in tied]
        ways = sum(math.comb(k + at, n - 1) for at in range(len(worth)))
        total, k = total + ways * fmean(worth), k + len(worth)
    return total / math.comb(len(scores), n)


def best_of_n_kl(n: int) -> float:
    """KL of the best of `n` samples to a sample, in nats: log n - (n - 1) / n, an upper bound.

    Stiennon et al. 2020; that it is a bound: Beirami et al. 2024.
    """
    return math.log(n) - (n - 1) / n


def doublings(n: int) -> list[int]:
    """1, 2, 4, ... and `n` itself."""
    powers = [2**power for power in range(n.bit_length())]
    return [p for p in powers if p < n] + [n]
