"""How often people prefer a policy version to another, as a lead sees it. Pure functions."""

from __future__ import annotations

from labeling import i18n
from labeling.duels import Duel
from labeling.i18n import plural, t
from labeling.ui import html
from labeling.ui.html import Html, el


def none_yet(*, is_live: bool) -> Html:
    """Why there is nothing to tell of a version so far."""
    said = (
        t("No blind verdicts yet: the first are being written.")
        if is_live
        else t("No blind verdicts yet: they begin when it is promoted.")
    )
    return el("p", said, class_="wsl-note")


def meter(duel: Duel) -> Html:
    """The win rate against one opponent with its interval, and what it is made of."""
    told = duel.won
    waiting = (
        plural("{n} comparison waiting", "{n} comparisons waiting", duel.waiting)
        if duel.waiting
        else ""
    )
    if told.rate is None:
        said = t(
            "No blind verdicts against {opponent} yet: {waiting}.",
            opponent=duel.opponent,
            waiting=waiting,
        )
        return el("p", said, class_="wsl-note")
    rate = i18n.percent(told.rate)
    low, high = f"{100 * told.low:.0f}", i18n.percent(told.high)
    line = el(
        "div",
        html.interval_meter(
            told.rate,
            told.low,
            told.high,
            t("Win rate {rate}, 95 % interval {low} to {high}", rate=rate, low=low, high=high),
        ),
        el("b", rate),
        class_="wsl-verdict-line",
    )
    counted = t(
        "{wins} won, {losses} lost, {draws} drawn",
        wins=told.wins,
        losses=told.losses,
        draws=told.draws,
    )
    said = (
        t("better") if told.low > 0.5 else t("worse") if told.high < 0.5 else t("not decided yet")
    )
    against = t(
        "Blind against {opponent}: {said} ({low} to {high})",
        opponent=duel.opponent,
        said=said,
        low=low,
        high=high,
    )
    parts = [against, counted]
    parts += [waiting] if waiting else []
    return el("div", line, el("p", " · ".join(parts), class_="wsl-note"), class_="wsl-blind")
