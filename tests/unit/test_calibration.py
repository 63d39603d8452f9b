"""Calibration errors against numbers worked out by hand."""

from __future__ import annotations

import pytest

from training.worker.calibration import brier_score, expected_calibration_error

PROBABILITIES = [0.95, 0.9, 0.85, 0.6, 0.55, 0.52]
HAPPENED = [True, True, False, True, False, True]


def test_the_calibration_error_of_six_probabilities_in_five_bins() -> None:
    # A bin holds its lower edge: {.52, .55}, {.6}, {.85}, {.9, .95}.
    # (|1.07 - 1| + |.6 - 1| + |.85 - 0| + |1.85 - 2|) / 6
    error = expected_calibration_error(PROBABILITIES, HAPPENED, bins=5)
    assert error == pytest.approx(0.245, abs=1e-9)


def test_the_brier_score_of_six_probabilities() -> None:
    # (.0025 + .01 + .7225 + .16 + .3025 + .2304) / 6
    assert brier_score(PROBABILITIES, HAPPENED) == pytest.approx(0.237983, abs=1e-6)


def test_the_calibration_error_does_not_depend_on_which_outcome_is_asked_about() -> None:
    told_backwards = [1 - p for p in PROBABILITIES]
    opposite = [not did for did in HAPPENED]
    assert expected_calibration_error(told_backwards, opposite, bins=5) == pytest.approx(0.245)


def test_a_bin_counts_by_how_many_fell_into_it() -> None:
    # Three that are certain and wrong, one that says .5 and is right: (3 * 1 + .5) / 4.
    error = expected_calibration_error([1.0, 1.0, 1.0, 0.5], [False, False, False, True])
    assert error == pytest.approx(0.875)


def test_errors_of_opposite_sign_cancel_within_a_bin_only() -> None:
    # Half of those that say .75 are wrong; between them the bin is .25 off.
    assert expected_calibration_error([0.75, 0.75], [True, False]) == pytest.approx(0.25)
    # In bins of their own: .6 and right is .4 off, .8 and wrong is .8 off.
    assert expected_calibration_error([0.6, 0.8], [True, False]) == pytest.approx(0.6)


def test_certainty_that_is_right_has_no_error() -> None:
    assert expected_calibration_error([1.0, 0.0], [True, False]) == 0
    assert brier_score([1.0, 0.0], [True, False]) == 0
