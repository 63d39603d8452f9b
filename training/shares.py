"""What shares of counted things say of a run: wins, regressions, instructions, held-out pairs.

Each is taken for what it surely is: for the end of its 95 % interval, not for its middle. Pure
functions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

from training.findings import Curve, Finding, Severity, Verdict
from training.messages import Message
from training.proportions import COIN, wilson_interval

# Without any training: two draws of one policy differ by a standard deviation of the scores or more
# in 24 % of the prompts (normal scores, of which no prompt explains any), and at most in a quarter
# of them only the second draw has an end (p (1 - p)).
REGRESSIONS_BY_CHANCE = 0.25


class Share(NamedTuple):
    """A share of `n` counted things with its 95 % interval; `n` is 0 where nobody told it."""

    share: float
    low: float
    high: float
    n: int = 0

    @classmethod
    def of(cls, share: float, n: int) -> Self:
        """With its Wilson interval; `n` > 0."""
        return cls(share, *wilson_interval(share * n, n), n)


class Kept(NamedTuple):
    """The share of checks that held before training, and after."""

    before: Share
    after: Share

    @property
    def has_fallen(self) -> bool:
        """Surely: the intervals do not meet."""
        return self.after.high < self.before.low


@dataclass(frozen=True)
class Shares:
    """Those that a run's report holds; None where it measured none.

    `won` and `won_over_base` are by a reward model, `regressions` by what `found_worse` says;
    `ranked` are held-out pairs that a policy ranks as they were judged.
    """

    won: Share | None = None
    won_over_base: Share | None = None
    regressions: Share | None = None
    found_worse: str = "reward_model"
    instructions: Kept | None = None
    format: Kept | None = None
    ranked: Share | None = None

    @classmethod
    def of(cls, report: Mapping[str, Any]) -> Self:
        """From a result's report."""
        pairs, worse = report.get("pairs"), report.get("regressions")
        return cls(
            won=_won(report.get("win_rate")),
            won_over_base=_won(report.get("win_rate_over_base")),
            regressions=Share(worse["share"], worse["low"], worse["high"]) if worse else None,
            found_worse=worse["by"] if worse else "reward_model",
            instructions=_kept(report.get("instructions")),
            format=_kept(report.get("format")),
            ranked=Share.of(pairs["accuracy"], int(pairs["pairs"])) if pairs else None,
        )


def _won(told: Mapping[str, Any] | None) -> Share | None:
    if not told or told["rate"] is None:
        return None
    return Share(told["rate"], told["low"], told["high"], int(told["n"]))


def _kept(told: Mapping[str, Any] | None) -> Kept | None:
    if not told:
        return None
    checks = int(told["checks"])
    return Kept(Share.of(told["before"], checks), Share.of(told["after"], checks))


def judge_shares(shares: Shares) -> Iterator[Verdict]:
    """What is surely worse than it was, or than guessing."""
    if shares.won and shares.won.high < COIN:
        yield _loses(shares.won)
    if shares.won_over_base and shares.won_over_base.high < COIN:
        yield _loses_to_base(shares.won_over_base)
    if shares.regressions and shares.regressions.low > REGRESSIONS_BY_CHANCE:
        yield _regressed(shares.regressions, shares.found_worse)
    yield from _unheeding(shares)
    if shares.ranked and shares.ranked.high < COIN:
        yield _contrary(shares.ranked)


def _loses(won: Share) -> Verdict:
    return Verdict(
        Finding.LOSING,
        Severity.BAD,
        Message("It loses to the policy before"),
        Message(
            "By the reward model it wins {share:.0%} of the test prompts against the policy before "
            "(95 % interval {low:.0%} to {high:.0%}, prompts: {n}); its equal would win 50 %.",
            won._asdict(),
        ),
        Message(
            "Do not promote it before you have read the responses side by side. A lower learning "
            "rate, fewer epochs or a higher beta change less of what was good."
        ),
    )


def _loses_to_base(won: Share) -> Verdict:
    return Verdict(
        Finding.LOSING,
        Severity.BAD,
        Message("It loses to the base model"),
        Message(
            "By the reward model it wins {share:.0%} of the test prompts against the base model "
            "(95 % interval {low:.0%} to {high:.0%}, prompts: {n}); its equal would win 50 %.",
            won._asdict(),
        ),
        Message(
            "Do not promote it before you have read the responses side by side. If they are worse, "
            "start the next run from the base model, or from the last version that beat it."
        ),
    )


def _regressed(worse: Share, found_worse: str) -> Verdict:
    shown = {"share": worse.share, "low": worse.low, "high": worse.high}
    shown["bound"] = REGRESSIONS_BY_CHANCE
    evidence = (
        Message(
            "By the reward model {share:.0%} of the test prompts got a clearly worse response (95 "
            "% interval {low:.0%} to {high:.0%}); chance alone explains {bound:.0%} at most.",
            shown,
        )
        if found_worse == "reward_model"
        else Message(
            "Of the test prompts {share:.0%} got a response that fell apart, unlike the one before "
            "(95 % interval {low:.0%} to {high:.0%}); chance alone explains {bound:.0%} at most.",
            shown,
        )
    )
    return Verdict(
        Finding.REGRESSED,
        Severity.BAD,
        Message("Many prompts get a worse response than before"),
        evidence,
        Message(
            "Do not promote it before you have read the responses side by side. Judge more pairs "
            "on prompts like those that lost, and train for fewer epochs or with a higher beta."
        ),
    )


def _unheeding(shares: Shares) -> Iterator[Verdict]:
    """Where all checks ask for a format, only that is told."""
    is_same = shares.instructions == shares.format
    if shares.format and shares.format.has_fallen:
        title = Message("It keeps less to the format that prompts ask for")
        yield _heeds_less(title, shares.format)
    if shares.instructions and shares.instructions.has_fallen and not is_same:
        yield _heeds_less(Message("It follows prompts' instructions less"), shares.instructions)


def _heeds_less(title: Message, kept: Kept) -> Verdict:
    shown = {
        "n": kept.after.n,
        "before": kept.before.share,
        "low": kept.after.low,
        "high": kept.after.high,
        "after": kept.after.share,
    }
    return Verdict(
        Finding.UNHEEDING,
        Severity.BAD,
        title,
        Message(
            "Of {n} checks {before:.0%} held before training and {after:.0%} after it (95 % "
            "interval {low:.0%} to {high:.0%}).",
            shown,
        ),
        Message(
            "Do not promote it where that matters. Judge pairs, or write demonstrations, for "
            "prompts that ask for it; fewer epochs or a higher beta cost less of what it could."
        ),
    )


def _contrary(ranked: Share) -> Verdict:
    return Verdict(
        Finding.CONTRARY,
        Severity.BAD,
        Message("It likes what people liked less"),
        Message(
            "Of {n} held-out pairs it ranked {share:.0%} as people did (95 % interval {low:.0%} to "
            "{high:.0%}); a coin gets 50 %.",
            ranked._asdict(),
        ),
        Message(
            "Do not promote it. See whether imported pairs have the better response in the right "
            "column, and look at the agreement in the Quality tab; then start a new run."
        ),
        Curve("accuracy"),
    )
