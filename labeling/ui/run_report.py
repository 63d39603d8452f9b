"""What a run's result says: verdicts, figures before and after, and habits. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from labeling import i18n
from labeling.i18n import say, t
from labeling.ui import html
from labeling.ui.html import EMPTY, Html, el
from training.artefacts import Artefact, Change
from training.findings import Curve, Verdict, each_with_curve
from training.measurements import Measurement, Unit, measurements, notes, plain


def verdicts(found: Sequence[Verdict], draw: Callable[[Curve], Html]) -> Html:
    """What people and the numbers say, each with what to do next and the curve that shows it."""
    notices = (
        html.notice(
            v.severity.value,
            *(say(v.title), say(v.evidence), say(v.advice)),
            shown=draw(curve) if curve else EMPTY,
        )
        for v, curve in each_with_curve(found)
    )
    return el("div", *notices, id="run-verdicts") if found else EMPTY


def measured(report: Mapping[str, Any]) -> Html:
    """Figures before and after; says so where nothing was measured."""
    found = measurements(report)
    if not found:
        why = t("No pair could be held out of training, so nothing could be measured.")
        return html.section(t("Before and after"), html.empty(t("Not measured"), why))
    cells = [[say(m.label), el("span", _figure(m.before, m.unit)), _after(m)] for m in found]
    note = t(
        "Measured by the machine on prompts that training never saw. Whether people like it "
        "better, only the blind comparison after a promotion can tell."
    )
    body = html.table(("", t("Before"), t("After")), cells, id="run-metrics")
    scored = [el("p", say(told), class_="wsl-note") for told in notes(report)]
    return html.section(t("Before and after"), body, *scored, note=note)


def habits(report: Mapping[str, Any]) -> Html:
    """What the responses have taken to: apologies, hedges, repetitions and the like."""
    changes = [Change.from_json(values) for values in report.get("artefacts") or ()]
    shown = [change for change in changes if _is_worth_a_row(change)]
    if not shown:
        return EMPTY
    rows = [
        [
            el("span", say(c.artefact.label), _alarm(c)),
            f"{c.before:.1f}",
            el("b", f"{c.after:.1f}"),
            t("{low:+.1f} to {high:+.1f}", low=c.low, high=c.high),
        ]
        for c in shown
    ]
    heads = ("", t("Before"), t("After"), t("Difference, 95 % interval"))
    note = t(
        "Counted in the text of all test responses. The ranking accuracy does not show what people "
        "teach a policy by the way; these counts do."
    )
    return html.section(t("Habits"), html.table(heads, rows, id="run-habits"), note=note)


def _after(m: Measurement) -> Html:
    """The figure after training, with its interval where it has one."""
    after = el("b", _figure(m.after, m.unit))
    if m.low is None or m.high is None:
        return after
    low, high = _figure(m.low, m.unit), _figure(m.high, m.unit)
    interval = t("95 % interval: {low} to {high}", low=low, high=high)
    return html.join([after, el("span", f" ({interval})", class_="wsl-quiet")])


def _is_worth_a_row(change: Change) -> bool:
    """What neither policy ever does is left out."""
    return change.artefact is Artefact.LENGTH or bool(change.before or change.after)


def _alarm(change: Change) -> Html:
    if not change.is_alarming:
        return EMPTY
    return html.join([" ", html.pill(t("grew much"), "warn")])


def _figure(value: float | None, unit: Unit) -> str:
    if value is None:
        return "—"
    return i18n.percent(value, digits=1) if unit is Unit.SHARE else plain(value)
