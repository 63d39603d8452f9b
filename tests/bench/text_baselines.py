"""What ranks pairs of texts without reading them: their length, and their words.

A reward model that is no better than these has learned nothing else.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from itertools import pairwise
from statistics import fmean
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csr_matrix

BUCKETS = 2**18
STRENGTH = 3.0  # inverse of the regularisation, scikit-learn's C
_WORD = re.compile(r"\b\w\w+\b")


class Pair(NamedTuple):
    """Two texts, the better one first; those of one `group` are never on both sides of a split."""

    chosen: str
    rejected: str
    group: Hashable


def longer_wins(pairs: Sequence[Pair]) -> float:
    """Share of pairs whose better text has more characters; equal ones count half."""
    grown = [len(pair.chosen) - len(pair.rejected) for pair in pairs]
    return fmean(0.5 if size == 0 else float(size > 0) for size in grown)


class BagOfWords:
    """Bradley and Terry's model with a weight for each hashed word and pair of words."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        """Fit to `pairs` by logistic regression without intercept, L2-regularised."""
        difference = _differences(pairs)

        def objective(weights: np.ndarray) -> tuple[float, np.ndarray]:
            margins = difference @ weights
            chances = 1 / (1 + np.exp(margins))
            loss = np.logaddexp(0, -margins).sum() * STRENGTH + weights @ weights / 2
            return float(loss), weights - STRENGTH * (difference.T @ chances)

        self._weights = minimize(
            objective, np.zeros(BUCKETS), jac=True, method="L-BFGS-B", options={"maxiter": 200}
        ).x

    def accuracy(self, pairs: Sequence[Pair]) -> float:
        """Share of pairs that it ranks right; equal scores count half."""
        margins = _differences(pairs) @ self._weights
        return float(np.mean((margins > 0) + 0.5 * (margins == 0)))


def cross_validated(pairs: Sequence[Pair], folds: int = 5) -> list[float]:
    """The accuracy of a bag of words on each fold, learned from the others."""
    groups = list(dict.fromkeys(pair.group for pair in pairs))
    fold_of = {group: number % folds for number, group in enumerate(groups)}
    return [
        BagOfWords([pair for pair in pairs if fold_of[pair.group] != fold]).accuracy(
            [pair for pair in pairs if fold_of[pair.group] == fold]
        )
        for fold in range(folds)
    ]


def _differences(pairs: Sequence[Pair]) -> csr_matrix:
    chosen, rejected = (
        _vectors([getattr(pair, side) for pair in pairs]) for side in ("chosen", "rejected")
    )
    return chosen - rejected


def _vectors(texts: Sequence[str]) -> csr_matrix:
    """Counts of hashed terms, each row of length 1."""
    rows, columns, values = [], [], []
    for number, text in enumerate(texts):
        counts = Counter(zlib.crc32(term.encode()) % BUCKETS for term in _terms(text))
        norm = np.sqrt(sum(count**2 for count in counts.values()))
        rows += [number] * len(counts)
        columns += list(counts)
        values += [count / norm for count in counts.values()]
    return csr_matrix((values, (rows, columns)), shape=(len(texts), BUCKETS))


def _terms(text: str) -> Iterator[str]:
    words = _WORD.findall(text.lower())
    yield from words
    yield from (f"{first} {second}" for first, second in pairwise(words))
