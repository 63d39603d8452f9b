"""How well stated probabilities agree with what happened: pure functions of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

BINS = 10


def expected_calibration_error(
    probabilities: Sequence[float], happened: Sequence[bool], *, bins: int = BINS
) -> float:
    """Mean distance of confidence and accuracy over bins of equal width, weighted by their size.

    A probability below one half counts as its complement on the other outcome, so that confidence
    lies in [0.5, 1] (Guo et al. 2017, eq. 3, for two classes).
    """
    binned: dict[int, list[tuple[float, bool]]] = {}
    for p, did in zip(probabilities, happened, strict=True):
        confidence, is_right = (p, did) if p >= 0.5 else (1 - p, not did)
        # Less one half afterwards: 0.6 - 0.5 is a little below a tenth.
        place = min(int(confidence * 2 * bins) - bins, bins - 1)
        binned.setdefault(place, []).append((confidence, is_right))
    gaps = (
        len(found) * abs(fmean(c for c, _ in found) - fmean(right for _, right in found))
        for found in binned.values()
    )
    return sum(gaps) / len(probabilities)


def brier_score(probabilities: Sequence[float], happened: Sequence[bool]) -> float:
    """Mean squared distance of probability and outcome (Brier 1950, for one of two outcomes)."""
    return fmean((p - did) ** 2 for p, did in zip(probabilities, happened, strict=True))
