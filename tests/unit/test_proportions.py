"""Win rates and how sure they are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from training.proportions import wilson_interval, win_rate


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"), [(60, 100, 0.5020, 0.6906), (0, 10, 0.0, 0.2775)]
)
def test_wilson_interval_matches_published_numbers(
    successes: int, n: int, low: float, high: float
) -> None:
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_agrees_with_scipy(case: tuple[int, int]) -> None:
    successes, n = case
    expected = binomtest(successes, n).proportion_ci(method="wilson")
    assert wilson_interval(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_a_draw_is_half_a_win() -> None:
    assert win_rate(3, 1, 2).rate == pytest.approx(4 / 6)


def test_without_verdicts_nothing_is_known() -> None:
    known = win_rate(0, 0, 0)
    assert (known.rate, known.low, known.high) == (None, 0.0, 1.0)
