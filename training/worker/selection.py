"""What choosing the best of several scored samples gains and costs: pure functions of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence


def expected_best(scores: Sequence[float], n: int) -> float:
    """Mean over all choices of `n` of the scores of the best one among them.

    Unbiased for the best of `n` samples: sum_k s_(k) C(k-1, n-1) / C(N, n), with s_(k) the k-th
    smallest of N scores (Nakano et al. 2021; Gao et al. 2022). Raises ValueError for `n` beyond N.
    """
    if not 1 <= n <= len(scores):
        raise ValueError(f"n is {n}; with {len(scores)} scores it must lie between 1 and that")
    ways = sum(score * math.comb(k, n - 1) for k, score in enumerate(sorted(scores)))
    return ways / math.comb(len(scores), n)


def best_of_n_kl(n: int) -> float:
    """KL of the best of `n` samples to a sample, in nats: log n - (n - 1) / n, an upper bound.

    Stiennon et al. 2020; that it is a bound: Beirami et al. 2024.
    """
    return math.log(n) - (n - 1) / n


def doublings(n: int) -> list[int]:
    """1, 2, 4, ... and `n` itself."""
    powers = [2**power for power in range(n.bit_length())]
    return [p for p in powers if p < n] + [n]
