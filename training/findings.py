"""What can be found out about a run, how grave it is, and what a verdict says of it.

What a finding is drawn from is for `training/verdicts.py` and `training/blind.py` to know.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple, Self

from training.messages import Message


class Finding(StrEnum):
    """What a verdict is about.

    OVERFITTING     held-out loss rises while the training loss falls, or held-out pairs are
                    ranked far worse than trained ones
    STOPPED_EARLY   the same, and the best step was kept
    UNSTABLE        the training loss rises
    UNDERFITTING    hardly anything was learned
    SHORTER, LONGER, UNENDED, REPETITIVE, DRIFTED, FORGETFUL
                    degradation: what the policy writes changed in a way that nobody asked for
    EXPLOITED       over-optimisation: the reward rose, and a second reward model's fell
    UNJUDGED        the reward is beyond that of nearly all responses that people judged
    PARTED          over-optimisation: people find it worse than the reward model did
    DISLIKED        people like the policy that it met better
    LOSING          by the reward model, the policy before or the base model is better
    REGRESSED       more prompts than chance explains get a clearly worse response
    UNHEEDING       it follows instructions, or keeps to a format, less than before
    CONTRARY        it ranks held-out pairs worse than a coin
    UNRELIABLE      a reward model that ranks held-out pairs no better than a coin, or than length
    MANNERED        a habit grew that accuracy does not show
    FINE            none of these
    NOT_MEASURED    there is nothing to tell it by, or too little
    """

    OVERFITTING = "overfitting"
    STOPPED_EARLY = "stopped_early"
    UNSTABLE = "unstable"
    UNDERFITTING = "underfitting"
    SHORTER = "shorter"
    LONGER = "longer"
    UNENDED = "unended"
    REPETITIVE = "repetitive"
    DRIFTED = "drifted"
    FORGETFUL = "forgetful"
    EXPLOITED = "exploited"
    UNJUDGED = "unjudged"
    PARTED = "parted"
    DISLIKED = "disliked"
    LOSING = "losing"
    REGRESSED = "regressed"
    UNHEEDING = "unheeding"
    CONTRARY = "contrary"
    UNRELIABLE = "unreliable"
    MANNERED = "mannered"
    FINE = "fine"
    NOT_MEASURED = "not_measured"


class Severity(StrEnum):
    """GOOD and QUIET need nothing; WARN wants a look; BAD should not go live."""

    GOOD = "good"
    QUIET = "quiet"
    WARN = "warn"
    BAD = "bad"


# Stands for a metric: rewards by both reward models, over the distance to the reference.
WATCH = "watch"


class Curve(NamedTuple):
    """The curve that shows a finding: of a metric, trained and held out, or of the `WATCH`.

    `turn` is the step at which it turned, where it did.
    """

    metric: str
    turn: float | None = None


class Verdict(NamedTuple):
    """A finding with its name for people, the curve or count that shows it, and what to do next."""

    finding: Finding
    severity: Severity
    title: Message
    evidence: Message
    advice: Message
    curve: Curve | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; `from_json` turns it back."""
        said = {name: getattr(self, name).to_json() for name in ("title", "evidence", "advice")}
        curve = {"curve": self.curve._asdict()} if self.curve else {}
        return {"finding": self.finding.value, "severity": self.severity.value, **said, **curve}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Raises `ValueError` for a finding that this version does not know."""
        said = {name: Message.from_json(values[name]) for name in ("title", "evidence", "advice")}
        curve = Curve(**values["curve"]) if values.get("curve") else None
        return cls(Finding(values["finding"]), Severity(values["severity"]), curve=curve, **said)


def each_with_curve(found: Sequence[Verdict]) -> Iterator[tuple[Verdict, Curve | None]]:
    """Verdicts, each with the curve to draw under it: the same one only under the first."""
    drawn: set[str] = set()
    for verdict in found:
        curve = verdict.curve
        is_new = curve is not None and curve.metric not in drawn
        yield verdict, curve if is_new else None
        drawn |= {curve.metric} if curve else set()
