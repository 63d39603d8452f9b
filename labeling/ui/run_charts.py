"""The curves of a run: which metrics share a chart, and what each chart tells. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from labeling.i18n import mark, t
from labeling.ui import html
from labeling.ui.html import EMPTY, Html, Line, el
from store.records import Run, RunEvent
from training.blind import Standing, by_distance
from training.events import EventKind, series
from training.findings import WATCH, Curve
from training.methods import METHODS, LearnsFrom
from training.methods.dpo import LossType
from training.overoptimization import looks
from training.proportions import COIN

_LN_2 = math.log(2)
_FROM_LN_2 = (LossType.SIGMOID, LossType.SIGMOID_NORM, LossType.ROBUST)


def curves(run: Run, events: Sequence[RunEvent], standings: Sequence[Standing] = ()) -> Html:
    """What the run measured, over its steps: each chart that has something to show.

    `standings` are those of its policy and of others that were trained from the same one.
    """
    if run.state.is_final and not any(event.kind == EventKind.METRICS for event in events):
        return EMPTY
    first, *others = _charts(run.method, run.spec.get("options") or {})
    drawn = [chart.draw(events) for chart in others if chart.tells(events)]
    return el(
        "div",
        first.draw(events),
        _watch(events),
        _by_people(standings, run.parent_version),
        *drawn,
        class_="wsl-charts",
        id="run-curves-charts",
    )


def shown_by(run: Run, events: Sequence[RunEvent], curve: Curve) -> Html:
    """The chart that shows a verdict, with the step at which it turned; nothing where too little
    was measured to make a curve."""
    if curve.metric == WATCH:
        return _watch(events, turn=curve.turn)
    known = (*_charts(run.method, run.spec.get("options") or {}), *_UNCHARTED)
    charts = (chart for chart in known if chart.is_of(curve.metric, events))
    return next((chart.draw(events, turn=curve.turn) for chart in charts), EMPTY)


class _Curve(NamedTuple):
    """One metric of a chart. Held-out ones are few, and drawn with dots."""

    metric: str
    label: str
    tone: str = "accent"

    def line(self, events: Sequence[RunEvent]) -> Line:
        is_held_out = self.metric.startswith("held_out_")
        return Line(t(self.label), series(events, self.metric), self.tone, dots=is_held_out)


class _Chart(NamedTuple):
    """A chart over the steps. `guide` is a value that something means; `bounds` are of the axis."""

    title: str
    note: str
    curves: tuple[_Curve, ...]
    guide: float | None = None
    bounds: tuple[float, float] | None = None

    def tells(self, events: Sequence[RunEvent]) -> bool:
        """Whether any of its metrics was measured."""
        return any(series(events, curve.metric) for curve in self.curves)

    def is_of(self, metric: str, events: Sequence[RunEvent]) -> bool:
        """Whether it draws a metric, and any of its lines has two points."""
        has_line = any(len(series(events, curve.metric)) > 1 for curve in self.curves)
        return has_line and any(curve.metric == metric for curve in self.curves)

    def draw(self, events: Sequence[RunEvent], *, turn: float | None = None) -> Html:
        return html.line_chart(
            t(self.title),
            [curve.line(events) for curve in self.curves],
            note=t(self.note),
            guide=self.guide,
            bounds=self.bounds,
            turn=None if turn is None else html.Turn(turn, _step(turn)),
        )


def _step(step: float) -> str:
    return t("step {left:g}", left=step)


def _trained_and_held_out(metric: str) -> tuple[_Curve, ...]:
    return (
        _Curve(metric, mark("training")),
        _Curve(f"held_out_{metric}", mark("held-out"), "warn"),
    )


_LOSS_NOTES = {
    "sft": mark("How surprised the policy is by each word of what people wrote, in nats."),
    "reward": mark("How surprised the model is by people's choices; ln 2 before any training."),
    "online_dpo": mark(
        "How surprised the policy is by the reward model's choices. Each round's pairs are new to "
        "it, so that the loss need not fall."
    ),
}
_OBJECTIVE = _Chart(
    mark("Reward and its price"),
    mark(
        "What is maximised is the reward minus beta times the KL to the reference. When the reward "
        "rises and people like the responses less, it is being exploited."
    ),
    (
        _Curve("reward", mark("reward"), "good"),
        _Curve("kl_penalty", mark("beta × KL"), "bad"),
        _Curve("objective", mark("reward − beta × KL")),
    ),
    guide=0.0,
)
_SCORES = _Chart(
    mark("Reward of each round's responses"),
    mark(
        "By the reward model: of all responses, and of the best and the worst to each prompt. When "
        "it rises and people like the responses less, it is being exploited."
    ),
    (
        _Curve("score", mark("reward")),
        _Curve("score_chosen", mark("chosen"), "good"),
        _Curve("score_rejected", mark("rejected"), "bad"),
    ),
)
_RANKS = _Chart(
    mark("Ranks as people did"),
    mark("Share of pairs whose chosen response has come to be liked better."),
    _trained_and_held_out("accuracy"),
    guide=0.5,
    bounds=(0.0, 1.0),
)
_RANKS_AS_MODEL = _RANKS._replace(title=mark("Ranks as the reward model did"))
_SHARED = (
    _Chart(
        mark("Reward margin"),
        mark("Reward of the chosen response minus that of the rejected one."),
        _trained_and_held_out("margin"),
        guide=0.0,
    ),
    _Chart(
        mark("KL to the reference"),
        mark("How far the policy has moved away from the reference, in nats a response."),
        (_Curve("kl", "KL"),),
        guide=0.0,
    ),
    _Chart(
        mark("Rewards"),
        mark(
            "Implicit reward of each side. Both falling together is usual; chosen should stay up."
        ),
        (
            _Curve("reward_chosen", mark("chosen"), "good"),
            _Curve("reward_rejected", mark("rejected"), "bad"),
        ),
        guide=0.0,
    ),
    _Chart(
        mark("Response length"),
        mark("Tokens of a response. A reward that likes length drives it up."),
        (_Curve("length", mark("tokens")),),
    ),
    _Chart(
        mark("Entropy"),
        mark("How open each next word is, in nats. Near 0 the policy says one thing only."),
        (_Curve("entropy", mark("entropy")),),
        guide=0.0,
    ),
    _Chart(
        mark("Value estimate"),
        mark("How wrong the critic is about the reward that is to come."),
        (_Curve("value_loss", mark("value loss")),),
        guide=0.0,
    ),
    _Chart(
        mark("Clipped steps"),
        mark("Share of tokens whose probability moved as far as one step may move it."),
        (_Curve("clip_fraction", mark("clipped")),),
        bounds=(0.0, 1.0),
    ),
)


# What verdicts are drawn from although no chart of a method's own shows it.
_UNCHARTED = (
    _Chart(mark("Loss"), "", _trained_and_held_out("loss")),
    _RANKS,
    _Chart(mark("Score by the reward model"), "", (_Curve("score", mark("reward")),)),
)


def _watch(events: Sequence[RunEvent], *, turn: float | None = None) -> Html:
    """What both reward models make of the policy, over its distance to the reference."""
    seen = looks(events)
    if not seen:
        return EMPTY
    turned = [html.Turn(look.distance, _step(look.step)) for look in seen if look.step == turn]
    return html.line_chart(
        t("Over-optimisation watch"),
        [
            Line(t("reward"), [(look.distance, look.proxy_reward) for look in seen], "good"),
            Line(t("second model"), [(look.distance, look.watch_reward) for look in seen], "warn"),
        ],
        note=t(
            "Reward of responses to test prompts, over the root of the KL to the reference. No "
            "policy learns from the second model: where it falls and the reward rises, the reward "
            "is being exploited."
        ),
        axis="√KL",
        turn=turned[0] if turned else None,
    )


def _by_people(standings: Sequence[Standing], parent: str) -> Html:
    """What people make of policies beside what their reward models did, over the distance."""
    found = by_distance(standings)
    if not found:
        return EMPTY
    judged = [s for s in found if s.by_people.rate is not None]
    people = [(s.distance, s.by_people.rate or 0.0) for s in judged]
    scored = [(s.distance, s.by_reward) for s in found if s.by_reward is not None]
    return html.line_chart(
        t("People and reward model"),
        [
            Line(t("by the reward model"), scored if len(scored) > 1 else [], "good"),
            Line(
                t("by people"),
                people,
                "warn",
                bars=[(s.distance, s.by_people.low, s.by_people.high) for s in judged],
            ),
        ],
        note=t(
            "How often policies trained from {parent} win against it, over the root of their KL: "
            "by the reward model, and by people who did not know which was which, with 95 % "
            "intervals. Where people's share falls and the other rises, the reward is being "
            "exploited.",
            parent=parent,
        ),
        guide=COIN,
        bounds=(0.0, 1.0),
        axis="√KL",
    )


def _start_of(options: Mapping[str, Any]) -> float | None:
    """The loss of a policy that is still its reference, where that is worth a line."""
    is_plain = options.get("loss_type", LossType.SIGMOID) in _FROM_LN_2
    return _LN_2 if is_plain and not options.get("sft_weight") else None


def _charts(method: str, options: Mapping[str, Any]) -> tuple[_Chart, ...]:
    if method == "online_dpo":
        guide = _start_of(options)
        loss = _Chart(mark("Loss"), _LOSS_NOTES[method], _trained_and_held_out("loss"), guide)
        return (_SCORES, loss, _RANKS_AS_MODEL, *_SHARED)
    if method in METHODS and METHODS[method].learns_from is LearnsFrom.PROMPTS:
        return (_OBJECTIVE, *_SHARED)
    note = _LOSS_NOTES.get(method, mark("How surprised the policy is by people's choices."))
    guide = _LN_2 if method == "reward" else _start_of(options) if method == "dpo" else None
    return (_Chart(mark("Loss"), note, _trained_and_held_out("loss"), guide), _RANKS, *_SHARED)
