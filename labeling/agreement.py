"""How far people agree on what they judged in common."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from store import verdict_counts
from store.db import Store


class Unit(NamedTuple):
    """How many people gave each answer about one thing, and how many things were answered so."""

    answers: Sequence[int]
    times: int = 1


class Agreement(NamedTuple):
    """`raw` is the share of pairs of people who gave the same answer, 0 to 1.

    `alpha` is 1 for perfect agreement, 0 for what chance gives, below 0 for less than that. Either
    is None where nothing is known of it: nothing shared, or, for `alpha`, one answer alone given.
    """

    raw: float | None
    alpha: float | None
    units: int


def preference_agreement(store: Store) -> Agreement:
    """Of those who preferred one of two responses, how many preferred the same: that is what can be
    held beside the accuracy of a model, which must prefer one."""
    shared = verdict_counts.shared(store)
    return agreement(Unit((s.one, s.other), s.pairs) for s in shared)


def agreement(units: Iterable[Unit]) -> Agreement:
    """Raw agreement and Krippendorff's alpha for nominal answers, of any number of people.

    Units with fewer than two answers say nothing. Source of the formula: K. Krippendorff,
    "Computing Krippendorff's Alpha-Reliability" (2011), section C.
    """
    shared = [unit for unit in units if sum(unit.answers) > 1]
    if not shared:
        return Agreement(None, None, 0)
    count = sum(unit.times for unit in shared)
    pairs = sum(unit.times * _pairs(unit.answers) for unit in shared)
    equal = sum(unit.times * _equal_pairs(unit.answers) for unit in shared)
    return Agreement(equal / pairs, _alpha(shared), count)


def _alpha(shared: Sequence[Unit]) -> float | None:
    """1 - observed / expected disagreement, both as sums over the coincidence matrix."""
    totals = [
        sum(unit.times * unit.answers[k] for unit in shared) for k in range(len(shared[0].answers))
    ]
    expected = _pairs(totals) - _equal_pairs(totals)
    if expected == 0:
        return None
    observed = sum(
        unit.times * (_pairs(unit.answers) - _equal_pairs(unit.answers)) / (sum(unit.answers) - 1)
        for unit in shared
    )
    return 1 - (sum(totals) - 1) * observed / expected


def _pairs(answers: Sequence[int]) -> int:
    """Ordered pairs of different people."""
    return sum(answers) * (sum(answers) - 1)


def _equal_pairs(answers: Sequence[int]) -> int:
    return sum(n * (n - 1) for n in answers)
