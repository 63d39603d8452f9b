"""What people say of a policy who did not know it, beside what its reward model promised.

A reward model stands in for people while a policy learns; once they have met the policy, they are
the ones to tell whether the two have parted. Pure functions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

from training.findings import Finding, Severity, Verdict
from training.messages import Message
from training.proportions import COIN, WinRate

_ASKS_PEOPLE = (Finding.FINE, Finding.NOT_MEASURED)


class Blind(NamedTuple):
    """People's verdicts on a policy against `opponent`, who did not know which was which."""

    opponent: str
    won: WinRate


class Standing(NamedTuple):
    """A policy against the one that it was trained from: how far away it is, and how often it wins.

    `distance` is sqrt(KL), over which win rates rise and fall in a simple form (Gao et al. 2022);
    `by_reward` is the share by the reward model, None where there is none.
    """

    version: str
    distance: float
    by_reward: float | None
    by_people: WinRate

    @classmethod
    def of(cls, version: str, report: Mapping[str, Any], by_people: WinRate) -> Self | None:
        """From the report of the policy's run; None where that measured no distance."""
        kl = (report.get("generations") or {}).get("kl_k1")
        if kl is None or not math.isfinite(kl):
            return None
        told = report.get("win_rate") or {}
        return cls(version, math.sqrt(max(kl, 0.0)), told.get("rate"), by_people)


def by_distance(standings: Sequence[Standing]) -> list[Standing]:
    """The nearest first, behind the policy that all were trained from; empty while people have said
    nothing of any."""
    if not any(standing.by_people.n for standing in standings):
        return []
    start = Standing("", 0.0, COIN, WinRate(COIN, COIN, COIN, 0, 0, 0, 0))
    return [start, *sorted(standings, key=lambda standing: standing.distance)]


def judge_by_people(
    report: Mapping[str, Any], blind: Sequence[Blind], *, parent: str
) -> list[Verdict]:
    """Where people surely say less good of the policy than its report does, opponent by opponent.

    `parent` is the policy that it was trained from; any other opponent is the base model.
    """
    found = []
    for opponent, won in blind:
        told = report.get("win_rate" if opponent == parent else "win_rate_over_base")
        if told and told["rate"] is not None and told["low"] > won.high:
            found.append(_parted(opponent, told, won))
        elif won.high < COIN:
            found.append(_disliked(opponent, won))
    return found


def all_verdicts(
    report: Mapping[str, Any], blind: Sequence[Blind], *, parent: str
) -> list[Verdict]:
    """Those of people, then those of the report, without advice to let people compare."""
    by_people = judge_by_people(report, blind, parent=parent)
    found = [Verdict.from_json(values) for values in report.get("verdicts") or ()]
    if by_people:
        found = [verdict for verdict in found if verdict.finding not in _ASKS_PEOPLE]
    return [*by_people, *found]


def _parted(opponent: str, told: Mapping[str, Any], won: WinRate) -> Verdict:
    """The reward model's whole interval is above people's."""
    return Verdict(
        Finding.PARTED,
        Severity.BAD if won.high < COIN else Severity.WARN,
        Message("People do not see what the reward model saw: over-optimisation"),
        Message(
            "Against {opponent} it wins {reward:.0%} by the reward model, and {people:.0%} by "
            "people who did not know which was which (95 % interval {low:.0%} to {high:.0%}, "
            "verdicts: {n}).",
            {"opponent": opponent, "reward": told["rate"], **_counted(won)},
        ),
        Message(
            "Roll back if people like the other better. Let people judge responses of this policy "
            "to the prompts of training too, and train a new reward model on them. A higher KL "
            "coefficient keeps the next policy nearer to what was judged."
        ),
    )


def _disliked(opponent: str, won: WinRate) -> Verdict:
    return Verdict(
        Finding.DISLIKED,
        Severity.BAD,
        Message("People like the other better"),
        Message(
            "Against {opponent} it wins {people:.0%} by people who did not know which was which "
            "(95 % interval {low:.0%} to {high:.0%}, verdicts: {n}).",
            {"opponent": opponent, **_counted(won)},
        ),
        Message("Roll back to the other. Judge more pairs before you train again."),
    )


def _counted(won: WinRate) -> dict[str, Any]:
    return {"people": won.rate, "low": won.low, "high": won.high, "n": won.n}
