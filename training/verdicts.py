"""What a run's numbers say about it, in names that a person can act on. Pure functions.

A verdict is drawn from curves and before/after counts alone; whether people like the new policy
better is for their blind comparison to say (`training/blind.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from statistics import fmean, pvariance
from typing import Any, NamedTuple, Self

from training.artefacts import Artefact, Change
from training.events import Told, series
from training.findings import WATCH, Curve, Finding, Severity, Verdict
from training.messages import Message
from training.overoptimization import UNJUDGED, Look, alarm, looks, unjudged
from training.proportions import COIN
from training.shares import Share, Shares, judge_shares

# Held-out loss above its minimum that the noise of few held-out rows does not explain: in nats, and
# as a share of the minimum for losses of another scale (IPO's squares, the likelihood of words).
OVERFITTING_RISE = 0.05
OVERFITTING_RISE_SHARE = 0.1
# Of pairs ranked right, trained over held-out. Where people agree in seven of ten, a run that did
# well still has 0.1 to 0.2.
OVERFITTING_GAP = 0.25
# DPO starts at ln 2; 5 % below it the pairs are hardly apart (a margin of 0.07). A loss that rises
# by as much is no noise either.
CLEAR_CHANGE_SHARE = 0.05
# Of the pairs that were trained on; 0.5 is a coin, and a fitted policy exceeds 0.7.
UNDERFITTING_ACCURACY = 0.6
# Two standard errors: one curve in twenty strays that far by chance.
SURE = 2.0
# Share of a curve that counts as its beginning, and as its end.
END_SHARE = 0.2
FEWEST_POINTS = 4
# The accuracy of fewer pairs is uncertain by more than 0.1, and their loss by as much as it moves.
FEWEST_HELD_OUT = 20
# A sixth: readers notice it, and two samples of one policy rarely differ by as much.
LENGTH_DRIFT = 0.15
# Nats a response. Measured on the bundled model: fluent at 7, degenerate at 20 to 30.
KL_WARN = 10.0
KL_STOP = 20.0
# Of the loss before: what a narrow training may cost on text that it never touched.
FORGETTING_SHARE = 0.05

Series = Sequence[tuple[float, float]]


class Ranking(NamedTuple):
    """How a reward model ranked held-out pairs, and how often the longer response was chosen.

    The pairs are of so many `comparisons`: those of one ranking are not independent.
    """

    pairs: int
    accuracy: float
    longer_wins: float
    comparisons: int

    @property
    def ranked(self) -> Share:
        """How surely."""
        of_comparisons = Share.of(self.accuracy, self.comparisons)
        return of_comparisons._replace(n=self.pairs)


@dataclass(frozen=True)
class Evidence:
    """What a run left to judge it by; (step, value) in order of step, nothing where unmeasured.

    `kl` is in nats a response, the losses of general text in nats a token, `best_step` where early
    stopping went back to. With `is_redrawn` pairs, those of each round are new, and their loss and
    accuracy tell nothing over time.
    """

    loss: Series = ()
    held_out_loss: Series = ()
    accuracy: Series = ()
    score: Series = ()
    best_step: int | None = None
    kl: float | None = None
    changes: Mapping[Artefact, Change] = field(default_factory=dict)
    general_loss_before: float | None = None
    general_loss_after: float | None = None
    ranking: Ranking | None = None
    looks: Sequence[Look] = ()
    is_redrawn: bool = False
    shares: Shares = field(default_factory=Shares)

    @property
    def ranked(self) -> Share | None:
        """The held-out pairs that the trained model, whichever it is, ranked as people did."""
        return self.ranking.ranked if self.ranking else self.shares.ranked

    @classmethod
    def of(cls, events: Sequence[Told], report: Mapping[str, Any]) -> Self:
        """From a run's events and its result's report."""
        generations = report.get("generations") or {}
        forgetting = report.get("forgetting") or {}
        if forgetting.get("on") != "general":
            forgetting = {}
        changes = [Change.from_json(values) for values in report.get("artefacts") or ()]
        score = series(events, "score")
        return cls(
            # Where a score is pursued, the loss is around 0 whether anything is learned or not.
            loss=() if score else series(events, "loss"),
            held_out_loss=series(events, "held_out_loss"),
            accuracy=series(events, "accuracy"),
            score=score,
            best_step=report.get("best_step"),
            kl=generations.get("kl_k1"),
            changes={change.artefact: change for change in changes},
            general_loss_before=forgetting.get("loss_before"),
            general_loss_after=forgetting.get("loss_after"),
            ranking=_ranking(report.get("reward_model")),
            looks=looks(events),
            is_redrawn="online_dpo" in report,
            shares=Shares.of(report),
        )


def _ranking(told: Mapping[str, Any] | None) -> Ranking | None:
    if not told:
        return None
    pairs = int(told["pairs"])
    comparisons = int(told.get("comparisons") or pairs)
    return Ranking(pairs, float(told["accuracy"]), float(told["longer_wins"]), comparisons)


def judge(evidence: Evidence) -> list[Verdict]:
    """All that can be said, the worst first; one verdict at least."""
    found = [
        *_on_fit(evidence),
        *_on_watch(evidence.looks),
        *_on_distance(evidence),
        *_on_responses(evidence.changes),
        *_on_forgetting(evidence),
        *_on_ranking(evidence.ranking),
        *judge_shares(evidence.shares),
    ]
    if any(verdict.severity in (Severity.WARN, Severity.BAD) for verdict in found):
        return sorted(found, key=lambda verdict: verdict.severity is not Severity.BAD)
    if not _is_measured(evidence):
        return [*found, _not_measured()]
    ranked = evidence.shares.ranked
    if ranked is not None and ranked.n < FEWEST_HELD_OUT:
        return [*found, _too_few(ranked.n)]
    return [*found, _fine(evidence)]


def _is_measured(evidence: Evidence) -> bool:
    return bool(evidence.held_out_loss or evidence.changes)


def _on_fit(evidence: Evidence) -> list[Verdict]:
    ways = (
        (_stopped_early, _unmoved_rounds)
        if evidence.is_redrawn
        else (_instability, _gap, _stopped_early, _overfitting, _underfitting)
    )
    return list(islice(filter(None, (way(evidence) for way in ways)), 1))


def _stopped_early(evidence: Evidence) -> Verdict | None:
    last_step = evidence.held_out_loss[-1][0] if evidence.held_out_loss else 0.0
    if evidence.best_step is None or evidence.best_step >= last_step:
        return None
    return Verdict(
        Finding.STOPPED_EARLY,
        Severity.QUIET,
        Message("Stopped before it began to memorise"),
        Message(
            "The held-out loss was lowest at step {best} of {last}; the policy of that step was "
            "kept.",
            {"best": evidence.best_step, "last": int(last_step)},
        ),
        Message("Nothing to do. More preferences on new prompts would let it learn longer."),
        Curve("loss", evidence.best_step),
    )


def _overfitting(evidence: Evidence) -> Verdict | None:
    if len(evidence.held_out_loss) < 2:
        return None
    step, lowest = min(evidence.held_out_loss, key=lambda point: point[1])
    last = evidence.held_out_loss[-1][1]
    if last - lowest <= max(OVERFITTING_RISE, OVERFITTING_RISE_SHARE * abs(lowest)):
        return None
    shown = {"low": lowest, "last": last, "step": int(step)}
    if _rises(evidence.loss, since=step):
        return _unstable(
            Message(
                "After step {step} both losses rise; the held-out loss went from {low:.3g} to "
                "{last:.3g}.",
                shown,
            ),
            turn=step,
        )
    return _memorises(
        Message(
            "The held-out loss rises from {low:.3g} at step {step} to {last:.3g}, while the "
            "training loss goes on falling.",
            shown,
        ),
        Curve("loss", step),
    )


def _gap(evidence: Evidence) -> Verdict | None:
    """Far more of the trained pairs are ranked right than of those held out, surely."""
    kept = [point for point in evidence.accuracy if point[0] <= (evidence.best_step or math.inf)]
    ranked = evidence.ranked
    if ranked is None or ranked.n < FEWEST_HELD_OUT or len(kept) < FEWEST_POINTS:
        return None
    _, last = _ends(kept)
    is_sure = last.mean - SURE * last.error > ranked.high
    if not is_sure or last.mean - ranked.share < OVERFITTING_GAP:
        return None
    return _memorises(
        Message(
            "At the end {trained:.0%} of the trained pairs were ranked as people did, but of {n} "
            "held-out pairs {share:.0%} (95 % interval {low:.0%} to {high:.0%}).",
            {"trained": last.mean, **ranked._asdict()},
        ),
        Curve("accuracy"),
    )


def _memorises(evidence: Message, curve: Curve) -> Verdict:
    return Verdict(
        Finding.OVERFITTING,
        Severity.WARN,
        Message("It memorises: over-fitting"),
        evidence,
        Message(
            "Train for fewer epochs, or set a patience to stop early and keep the best step. A "
            "higher beta, a lower learning rate and preferences on more different prompts help "
            "too."
        ),
        curve,
    )


def _instability(evidence: Evidence) -> Verdict | None:
    if len(evidence.loss) < FEWEST_POINTS:
        return None
    first, last = _ends(evidence.loss)
    rise = last.mean - first.mean
    by_chance = SURE * math.hypot(first.error, last.error)
    if rise <= max(by_chance, CLEAR_CHANGE_SHARE * abs(first.mean)):
        return None
    shown = {"first": first.mean, "last": last.mean}
    return _unstable(
        Message("The training loss rose from {first:.3g} to {last:.3g}.", shown),
        turn=_turn(evidence.loss),
    )


def _unstable(evidence: Message, *, turn: float | None) -> Verdict:
    return Verdict(
        Finding.UNSTABLE,
        Severity.BAD,
        Message("Training became unstable"),
        evidence,
        Message("Halve the learning rate, or lengthen the warm-up, and start again."),
        Curve("loss", turn),
    )


def _underfitting(evidence: Evidence) -> Verdict | None:
    ways = {
        "loss": _unmoved_loss(evidence.loss),
        "accuracy": _coin_accuracy(evidence.accuracy),
        "score": _unmoved_score(evidence),
    }
    return next((_underfit(shown, metric) for metric, shown in ways.items() if shown), None)


def _unmoved_rounds(evidence: Evidence) -> Verdict | None:
    """By what the rounds' responses score: their pairs are as hard to tell apart in each."""
    shown = _unmoved_score(evidence)
    return _underfit(shown, "score") if shown else None


def _underfit(shown: Message, metric: str) -> Verdict:
    return Verdict(
        Finding.UNDERFITTING,
        Severity.WARN,
        Message("It has hardly learned anything: under-fitting"),
        shown,
        Message(
            "Raise the learning rate or the number of epochs, or lower beta. If that does not "
            "help, the data contradict each other: look at the agreement in the Quality tab."
        ),
        Curve(metric),
    )


def _unmoved_loss(loss: Series) -> Message | None:
    if len(loss) < FEWEST_POINTS:
        return None
    first, last = _ends(loss)
    if first.mean - last.mean >= CLEAR_CHANGE_SHARE * abs(first.mean):
        return None
    shown = {"first": first.mean, "last": last.mean}
    return Message("The training loss went from {first:.3g} to {last:.3g} only.", shown)


def _coin_accuracy(accuracy: Series) -> Message | None:
    if len(accuracy) < FEWEST_POINTS:
        return None
    _, last = _ends(accuracy)
    if last.mean >= UNDERFITTING_ACCURACY:
        return None
    return Message(
        "At the end {share:.0%} of the trained pairs were ranked as people did; a coin gets 50 %.",
        {"share": last.mean},
    )


def _unmoved_score(evidence: Evidence) -> Message | None:
    """Unless the test prompts' answers surely beat those before: the scores of a step's few
    responses vary more than that."""
    score, won = evidence.score, evidence.shares.won
    if len(score) < FEWEST_POINTS or (won is not None and won.low > COIN):
        return None
    first, last = _ends(score)
    if last.mean - first.mean > SURE * math.hypot(first.error, last.error):
        return None
    shown = {"first": first.mean, "last": last.mean}
    return Message("The reward went from {first:.3g} to {last:.3g}, no more than chance.", shown)


def _on_watch(seen: Sequence[Look]) -> list[Verdict]:
    found = alarm(seen)
    if found is not None:
        return [_exploited(found.peak, seen[-1])]
    left = unjudged(seen)
    return [_unjudged(left, seen[-1])] if left is not None else []


def _exploited(peak: Look, last: Look) -> Verdict:
    return Verdict(
        Finding.EXPLOITED,
        Severity.BAD,
        Message("It exploits the reward model: over-optimisation"),
        Message(
            "Since step {step} (KL {kl:.3g}) the reward rose from {low:.2f} to {high:.2f}; "
            "that of a second model, which it does not learn from, fell from {peak:.2f} to "
            "{now:.2f}.",
            {
                "step": int(peak.step),
                "kl": peak.held_out_kl,
                "low": peak.proxy_reward,
                "high": last.proxy_reward,
                "peak": peak.watch_reward,
                "now": last.watch_reward,
            },
        ),
        Message(
            "Do not promote it. Raise the KL coefficient, or stop near that step; then judge "
            "responses of the new policy, and train a new reward model on them too."
        ),
        Curve(WATCH, peak.step),
    )


def _unjudged(left: Look, last: Look) -> Verdict:
    return Verdict(
        Finding.UNJUDGED,
        Severity.WARN,
        Message("It has left what people judged"),
        Message(
            "At the end (KL {kl:.3g}) the average response scored {reward:.2f} standard deviations "
            "above those that people judged, and since step {step} more than {limit:.2f}. Of such "
            "responses the reward models know little, and both may be wrong in the same way.",
            {
                "step": int(left.step),
                "kl": last.held_out_kl,
                "reward": last.proxy_reward,
                "limit": UNJUDGED,
            },
        ),
        Message(
            "Read the responses side by side, and let people compare before you promote it. Then "
            "train a new reward model on judgments of the new policy's responses."
        ),
        Curve(WATCH, left.step),
    )


def _on_distance(evidence: Evidence) -> list[Verdict]:
    if evidence.kl is None or evidence.kl <= KL_WARN:
        return []
    is_far = evidence.kl > KL_STOP
    title = (
        Message("Too far from where it started")
        if is_far
        else Message("Rather far from where it started")
    )
    return [
        Verdict(
            Finding.DRIFTED,
            Severity.BAD if is_far else Severity.WARN,
            title,
            Message(
                "The KL to the policy before is {kl:.3g} nats a response; above {warn:.3g} wants a "
                "look, above {stop:.3g} text usually falls apart.",
                {"kl": evidence.kl, "warn": KL_WARN, "stop": KL_STOP},
            ),
            Message("Raise beta, or train for fewer steps, and read the responses side by side."),
            Curve("kl"),
        )
    ]


class _Words(NamedTuple):
    finding: Finding
    title: Message
    advice: Message


_FALLEN_APART: Mapping[Artefact, _Words] = {
    Artefact.UNFINISHED: _Words(
        Finding.UNENDED,
        Message("Fewer responses end by themselves"),
        Message(
            "Do not promote it before you have read the responses side by side. Fewer epochs or a "
            "higher beta usually cure it."
        ),
    ),
    Artefact.REPETITION: _Words(
        Finding.REPETITIVE,
        Message("More responses repeat themselves"),
        Message(
            "Do not promote it before you have read the responses side by side. Fewer epochs or a "
            "higher beta usually cure it."
        ),
    ),
}
_TAUGHT = Message(
    "If people did not mean to teach that, say so in the guidelines and judge more pairs that "
    "differ in it; the ranking accuracy does not show it."
)
_HABITS: Mapping[Artefact, Message] = {
    Artefact.APOLOGIES: Message("It apologises much more"),
    Artefact.EXCESS_APOLOGY: Message("It apologises again and again in one response"),
    Artefact.HEDGES: Message("It hedges much more"),
    Artefact.AI_MENTION: Message("It speaks much more of being an AI"),
    Artefact.REFUSAL: Message("It refuses much more"),
    Artefact.LIST_AND_SUMMARY: Message("It lists and sums up much more"),
}


def _on_responses(changes: Mapping[Artefact, Change]) -> list[Verdict]:
    found = [v for v in (_length_drift(changes.get(Artefact.LENGTH)),) if v]
    for artefact, words in _FALLEN_APART.items():
        if _alarms(changes, artefact):
            shown = _counted(changes[artefact])
            found.append(Verdict(words.finding, Severity.BAD, words.title, shown, words.advice))
    for artefact, title in _HABITS.items():
        if _alarms(changes, artefact):
            shown = _counted(changes[artefact])
            found.append(Verdict(Finding.MANNERED, Severity.WARN, title, shown, _TAUGHT))
    return found


def _alarms(changes: Mapping[Artefact, Change], artefact: Artefact) -> bool:
    return artefact in changes and changes[artefact].is_alarming


def _counted(change: Change) -> Message:
    return Message(
        "{what}: {before:.3g} before, {after:.3g} after.",
        {"what": change.artefact.label, "before": change.before, "after": change.after},
    )


def _length_drift(change: Change | None) -> Verdict | None:
    if change is None or not (change.is_alarming or _has_drifted(change)):
        return None
    is_longer = change.growth > 0
    return Verdict(
        Finding.LONGER if is_longer else Finding.SHORTER,
        Severity.WARN,
        Message("Responses became longer") if is_longer else Message("Responses became shorter"),
        _counted(change),
        Message(
            "Read the responses side by side. If that is not what people want, judge pairs in "
            "which the better response is the one of the other length, or choose the loss "
            "sigmoid_norm."
        ),
        Curve("length"),
    )


def _has_drifted(change: Change) -> bool:
    is_sure = not change.low <= 0 <= change.high
    return is_sure and abs(change.growth) > LENGTH_DRIFT


def _on_forgetting(evidence: Evidence) -> list[Verdict]:
    before, after = evidence.general_loss_before, evidence.general_loss_after
    if before is None or after is None or after <= before * (1 + FORGETTING_SHARE):
        return []
    return [
        Verdict(
            Finding.FORGETFUL,
            Severity.WARN,
            Message("It forgets what it knew"),
            Message(
                "The loss on general text rose from {before:.3g} to {after:.3g} nats a token.",
                {"before": before, "after": after},
            ),
            Message(
                "Lower the learning rate or train for fewer epochs; where a method replays general "
                "demonstrations, replay more of them."
            ),
        )
    ]


def _on_ranking(ranking: Ranking | None) -> list[Verdict]:
    """Nothing learned from a reward model is better than its ranking of pairs that it never saw."""
    if ranking is None:
        return []
    ranked = ranking.ranked
    if ranked.low <= COIN:
        evidence = Message(
            "Of {n} held-out pairs it ranked {share:.0%} as people did (95 % interval {low:.0%} to "
            "{high:.0%}); a coin gets 50 %.",
            ranked._asdict(),
        )
    elif ranking.accuracy <= ranking.longer_wins:
        evidence = Message(
            "It ranked {share:.0%} of the held-out pairs as people did; the longer response would "
            "have been right in {longer:.0%}.",
            {"share": ranking.accuracy, "longer": ranking.longer_wins},
        )
    else:
        return []
    return [
        Verdict(
            Finding.UNRELIABLE,
            Severity.WARN,
            Message("Its scores cannot be relied on"),
            evidence,
            Message(
                "Judge more pairs, on more different prompts, before anything learns from it: what "
                "it cannot rank, PPO will exploit."
            ),
            Curve("accuracy"),
        )
    ]


def _fine(evidence: Evidence) -> Verdict:
    advice = (
        Message("Promote it, and let the blind comparison tell whether people like it better.")
        if evidence.ranking is None
        else Message("Let PPO, RLOO, GRPO, best of n or online DPO learn from it; watch the KL.")
    )
    return Verdict(
        Finding.FINE,
        Severity.GOOD,
        Message("The numbers look fine"),
        Message("No curve and no count shows over-fitting, under-fitting or degradation."),
        advice,
    )


def _too_few(pairs: int) -> Verdict:
    return Verdict(
        Finding.NOT_MEASURED,
        Severity.QUIET,
        Message("Too few held-out pairs to tell"),
        Message(
            "{n} were held out: so few show neither over-fitting nor its absence.", {"n": pairs}
        ),
        Message("Promote it, and let the blind comparison tell whether people like it better."),
    )


def _not_measured() -> Verdict:
    return Verdict(
        Finding.NOT_MEASURED,
        Severity.QUIET,
        Message("Not measured"),
        Message("No row was held out, and no test prompt was answered."),
        Message(
            "Set a held-out share above 0 and import held-out prompts, then start a new run; or "
            "promote it and let people compare."
        ),
    )


class _End(NamedTuple):
    """Mean of a stretch of a curve, and its standard error."""

    mean: float
    error: float


def _ends(points: Series) -> tuple[_End, _End]:
    size = max(1, math.ceil(END_SHARE * len(points)))
    values = [value for _, value in points]
    return _end(values[:size]), _end(values[-size:])


def _end(values: Sequence[float]) -> _End:
    if len(values) < 2:
        return _End(values[0], 0.0)
    return _End(fmean(values), math.sqrt(pvariance(values) / (len(values) - 1)))


def _turn(points: Series) -> float | None:
    """The step in the middle of the lowest stretch of a noisy curve; None where it begins so."""
    size = max(1, math.ceil(END_SHARE * len(points)))
    means = [fmean(v for _, v in points[at : at + size]) for at in range(len(points) - size + 1)]
    lowest = min(range(len(means)), key=means.__getitem__)
    return points[lowest + size // 2][0] if lowest else None


def _rises(points: Series, *, since: float) -> bool:
    """Whether a noisy curve ends higher than it was around a step."""
    earlier = [value for step, value in points if step <= since]
    later = [value for step, value in points if step > since]
    size = max(1, math.ceil(END_SHARE * len(points)))
    if len(earlier) < 2 or len(later) < 2:
        return False
    before, after = _end(earlier[-size:]), _end(later[-size:])
    return after.mean - before.mean > SURE * math.hypot(before.error, after.error)
