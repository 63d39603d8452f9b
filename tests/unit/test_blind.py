"""When people and a reward model have parted over a policy."""

from __future__ import annotations

from typing import Any

import pytest

from training.blind import Blind, Standing, all_verdicts, by_distance, judge_by_people
from training.findings import Finding, Severity
from training.proportions import UNKNOWN, WinRate, win_rate
from training.verdicts import Evidence, judge

PARENT, BASE = "pol-000003", "pol-000000"
FINE = [v.to_json() for v in judge(Evidence(held_out_loss=[(1.0, 0.6), (2.0, 0.5)]))]


def report(*, over_parent: WinRate | None = None, over_base: WinRate | None = None) -> Any:
    def told(won: WinRate | None) -> Any:
        return won and won._asdict()

    return {
        "verdicts": FINE,
        "win_rate": told(over_parent),
        "win_rate_over_base": told(over_base),
    }


def found(promised: Any, opponent: str, won: WinRate) -> list[tuple[Finding, Severity]]:
    verdicts = judge_by_people(promised, [Blind(opponent, won)], parent=PARENT)
    return [(verdict.finding, verdict.severity) for verdict in verdicts]


@pytest.mark.parametrize(
    ("promised", "said", "expected"),
    [
        (win_rate(90, 10, 0), win_rate(60, 40, 0), [(Finding.PARTED, Severity.WARN)]),
        (win_rate(90, 10, 0), win_rate(20, 80, 0), [(Finding.PARTED, Severity.BAD)]),
        (win_rate(90, 10, 0), win_rate(6, 4, 0), []),  # so few may say so by chance
        (win_rate(90, 10, 0), win_rate(85, 15, 0), []),
        (win_rate(60, 40, 0), win_rate(90, 10, 0), []),  # they like it even better
        (win_rate(30, 70, 0), win_rate(25, 75, 0), [(Finding.DISLIKED, Severity.BAD)]),
        (None, win_rate(25, 75, 0), [(Finding.DISLIKED, Severity.BAD)]),
        (None, win_rate(45, 55, 0), []),
        (win_rate(90, 10, 0), win_rate(0, 0, 0), []),
    ],
)
def test_they_part_where_the_whole_intervals_do(
    promised: WinRate | None, said: WinRate, expected: list[tuple[Finding, Severity]]
) -> None:
    assert found(report(over_parent=promised), PARENT, said) == expected


def test_each_opponent_is_held_against_what_was_promised_of_it() -> None:
    promised = report(over_parent=win_rate(50, 50, 0), over_base=win_rate(95, 5, 0))
    said = win_rate(55, 45, 0)
    assert found(promised, PARENT, said) == []
    assert found(promised, BASE, said) == [(Finding.PARTED, Severity.WARN)]


def test_what_looks_fine_to_the_machine_is_not_told_beside_people_who_say_otherwise() -> None:
    told = report(over_parent=win_rate(90, 10, 0))
    (alone,) = all_verdicts(told, [], parent=PARENT)
    (heard,) = all_verdicts(told, [Blind(PARENT, win_rate(20, 80, 0))], parent=PARENT)
    assert alone.finding is Finding.FINE
    assert heard.finding is Finding.PARTED
    assert "wins 90% by the reward model, and 20% by people" in str(heard.evidence)


def standing(kl: Any, said: WinRate, promised: float | None = 0.9) -> Standing | None:
    told = promised and {"rate": promised}
    return Standing.of("pol-000001", {"generations": {"kl_k1": kl}, "win_rate": told}, said)


def test_policies_stand_by_their_distance_behind_the_one_they_come_from() -> None:
    far, near = standing(9.0, win_rate(3, 7, 0)), standing(4.0, UNKNOWN, None)
    assert far is not None
    assert near is not None
    start, *others = by_distance([far, near])
    assert others == [near, far]
    assert [s.distance for s in (start, *others)] == [0.0, 2.0, 3.0]
    assert [s.by_reward for s in (start, *others)] == [0.5, None, 0.9]
    assert [s.by_people.rate for s in (start, *others)] == [0.5, None, 0.3]


def test_nothing_stands_while_people_have_said_nothing() -> None:
    near = standing(4.0, UNKNOWN)
    assert near is not None
    assert by_distance([near]) == []


@pytest.mark.parametrize("kl", [None, float("nan")])
def test_a_policy_of_unknown_distance_stands_nowhere(kl: Any) -> None:
    assert standing(kl, win_rate(3, 7, 0)) is None


def test_an_estimate_below_zero_is_no_distance() -> None:
    found = standing(-0.01, win_rate(3, 7, 0))
    assert found is not None
    assert found.distance == 0
