"""When people and a reward model have parted over a policy."""

from __future__ import annotations

from typing import Any

import pytest

from training.blind import Blind, all_verdicts, judge_by_people
from training.proportions import WinRate, win_rate
from training.verdicts import Evidence, Finding, Severity, judge

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
