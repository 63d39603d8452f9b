"""Shares of counted things, how sure they are, and how often one policy wins. Pure functions."""

from __future__ import annotations

from math import sqrt
from typing import NamedTuple

Z_95 = 1.959963984540054
# The share that is right by guessing between two.
COIN = 0.5


class WinRate(NamedTuple):
    """Share of wins with its 95 % Wilson interval, each 0 to 1; a draw is half a win.

    With `n` 0 nothing is known: `rate` is None and the interval is 0 to 1.
    """

    rate: float | None
    low: float
    high: float
    n: int
    wins: int
    losses: int
    draws: int


# Of which nothing is known.
UNKNOWN = WinRate(None, 0.0, 1.0, 0, 0, 0, 0)


def win_rate(wins: int, losses: int, draws: int) -> WinRate:
    """Win rate with draws as half a win (approximate then: a half is not a binomial outcome)."""
    n = wins + losses + draws
    if n == 0:
        return UNKNOWN
    low, high = wilson_interval(wins + draws / 2, n)
    return WinRate((wins + draws / 2) / n, low, high, n, wins, losses, draws)


def wilson_interval(successes: float, n: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson score interval of a proportion (Wilson 1927); `n` > 0."""
    p = successes / n
    centre = p + z * z / (2 * n)
    spread = z * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)
