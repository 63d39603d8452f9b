"""The over-optimisation alarm: what it takes for reward and second model to have parted."""

from __future__ import annotations

import math
from typing import Any

import pytest

from training.events import Event
from training.overoptimization import Look, alarm, looks, reshaped, unjudged

ERROR = 0.1  # so that 2 * hypot(ERROR, ERROR) = 0.28 is the smallest sure difference


def seen(proxy: list[float], watch: list[float]) -> list[Look]:
    """Looks at steps 0, 5, 10, ..., ever further from the reference."""
    return [
        Look(5 * n, float(n * n), p, ERROR, w, ERROR)
        for n, (p, w) in enumerate(zip(proxy, watch, strict=True))
    ]


def test_a_second_model_that_falls_for_two_looks_while_the_reward_rises_alarms() -> None:
    found = alarm(seen([0, 1, 2, 3], [0, 1, 0.6, 0.5]))
    assert found is not None
    assert (found.peak.step, found.seen.step) == (5, 15)


@pytest.mark.parametrize(
    ("proxy", "watch"),
    [
        ([0, 1, 2, 3], [0, 1, 2, 3]),  # both rise
        ([0, 1, 2, 3], [0, 1, 1, 0.9]),  # the second one has stopped rising
        ([0, 1, 2, 3], [0, 1, 0.8, 0.75]),  # within its errors
        ([0, 1, 2, 3], [0, 1, 0.9, 0.5]),  # for one look so far
        ([0, 1, 2, 3, 4], [0, 1, 0.5, 0.9, 0.5]),  # never twice in a row
        ([0, 1, 0.5, 0.5], [0, 1, 0.5, 0.4]),  # training went wrong: the reward falls as well
        ([0, 1, 1.2, 1.2], [0, 1, 0.5, 0.4]),  # the reward stays within its errors
        ([5, 5, 1], [0, 0, 1]),  # before the peak
        ([], []),
        ([1], [1]),
    ],
)
def test_nothing_else_alarms(proxy: list[float], watch: list[float]) -> None:
    assert alarm(seen(proxy, watch)) is None


def test_a_new_peak_takes_the_alarm_back_and_a_last_look_within_the_errors_does_not() -> None:
    fallen = seen([0, 1, 2, 3, 4], [0, 1, 0.5, 0.5, 0.9])
    assert alarm(fallen) is not None
    assert alarm([*fallen, Look(25, 25.0, 5, ERROR, 1.1, ERROR)]) is None


# PPO at a KL coefficient of 0.05 (README): gold was best at the third of these, and then fell to a
# tenth; the second model shared the first one's liking for short responses.
SHARED_MISTAKE = (
    [0.19, 0.34, 0.96, 1.26, 1.53, 1.63, 1.81, 2.11, 2.18, 2.49, 2.56, 2.61],
    [0.13, 0.39, 0.92, 1.13, 1.43, 1.5, 1.7, 1.82, 1.89, 2.0, 2.0, 1.96],
)


def test_a_mistake_that_both_models_share_is_seen_by_how_far_their_scores_have_gone() -> None:
    course = seen(*SHARED_MISTAKE)
    assert alarm(course) is None
    found = unjudged(course)
    assert found is not None
    assert found.step == 30
    assert unjudged(course[:8]) == found  # 1.81, then 2.11
    assert unjudged(course[:7]) is None


@pytest.mark.parametrize(
    "proxy",
    [
        [0, 1, 1.5, 1.6],  # people judged such responses
        [0, 1, 1.5, 3],  # for one look so far
        [0, 3, 3, 1.5],  # it came back
        [3, 1, 3],
        [3],
        [],
    ],
)
def test_rewards_like_those_of_judged_responses_are_no_guess(proxy: list[float]) -> None:
    assert unjudged(seen(proxy, proxy)) is None


def of_lengths(*lengths: float, error: float = 1.0) -> list[Look]:
    level = [0.0] * len(lengths)
    return [
        look._replace(held_out_length=length, held_out_length_error=error)
        for look, length in zip(seen(level, level), lengths, strict=True)
    ]


@pytest.mark.parametrize(
    ("lengths", "since"),
    [
        ((56, 53, 37, 36), 10),
        ((56, 53, 76, 75), 10),
        ((56, 37, 53, 37, 36, 30), 15),  # it had come back in between
        ((56, 53, 41, 38), None),  # by less than a third
        ((56, 53, 41, 36), None),  # for one look so far
        ((56, 36, 36, 53), None),  # it came back
        ((56,), None),
        ((), None),
        ((math.nan, math.nan, math.nan), None),  # an older version looked
        ((math.nan, 36, 36), None),
    ],
)
def test_responses_of_another_length_than_at_first_are_seen_once_it_lasts(
    lengths: tuple[float, ...], since: int | None
) -> None:
    found = reshaped(of_lengths(*lengths))
    assert (found and found.step) == since


def test_a_length_that_may_differ_by_chance_is_not() -> None:
    assert reshaped(of_lengths(56, 36, 35, error=6.0)) is not None
    assert reshaped(of_lengths(56, 36, 35, error=8.0)) is None


def test_the_distance_is_the_root_of_the_kl_and_never_of_a_negative_estimate() -> None:
    assert Look(1, 9.0, 0, 0, 0, 0).distance == 3.0
    assert Look(0, -0.01, 0, 0, 0, 0).distance == 0.0


def test_looks_are_read_off_events_among_others_and_the_later_of_a_step_counts() -> None:
    def metrics(**told: Any) -> Event:
        return Event(0, 0.0, "metrics", told)

    first, again, last = seen([0, 1, 2], [0, 1, 2])
    told = [
        metrics(step=1, kl=0.5, score=1.0),
        metrics(**last._replace(step=5)._asdict()),
        metrics(**first._asdict()),
        metrics(**again._asdict()),
        metrics(step=10, held_out_loss=0.3),
    ]
    assert looks(told) == [first, again]
