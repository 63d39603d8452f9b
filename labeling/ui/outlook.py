"""What to expect of a run, before it is launched and after it has ended. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from labeling import i18n
from labeling.cautions import Caution, Severity
from labeling.i18n import say, t
from labeling.outlook import Outlook
from labeling.ui import html
from labeling.ui.html import EMPTY, Html, el
from store.records import Run
from training.estimate import Estimate, Foretold, Memory
from training.methods import METHODS

_TONES = {Severity.NOTE: "quiet", Severity.WARN: "warn", Severity.BAD: "bad"}
_ORDER = list(_TONES)[::-1]


def outlook(told: Outlook, *, price_per_hour: float | None = None) -> Html:
    """What a run would take, what to be warned of, and what the data are good for."""
    if told.facts.rows == 0:
        return EMPTY
    return html.section(
        t("What to expect"),
        _figures(told.estimate, price_per_hour) if told.estimate else _unknown(),
        *(caution(each) for each in gravest_first(told.cautions)),
        _memory(told.estimate.memory) if told.estimate else EMPTY,
        note=t("Estimated for this machine, while nobody else uses it."),
        id="train-outlook",
    )


def gravest_first(cautions: Iterable[Caution]) -> list[Caution]:
    """In the order in which people should read them."""
    return sorted(cautions, key=lambda each: _ORDER.index(each.severity))


def caution(told: Caution, *, of: Sequence[str] = ()) -> Html:
    """A warning with what to do about it; `of` are the methods of several runs that it is about."""
    found, name = say(told.found), told.name
    if of:
        labels = " · ".join(t(METHODS[method].label) for method in of)
        found, name = t("{whose}: {found}", whose=labels, found=found), f"{name}-{'-'.join(of)}"
    return html.notice(_TONES[told.severity], found, say(told.remedy), id=f"caution-{name}")


def came_true(run: Run, foretold: Foretold) -> Html:
    """The estimate of a run that has ended beside what it took; nothing where neither is known."""
    timing: Mapping[str, Any] = ((run.result or {}).get("report") or {}).get("timing") or {}
    if not timing.get("run_s"):
        return EMPTY
    told, price_per_hour = foretold.estimate, foretold.price_per_hour
    rows: list[tuple[str, Callable[[Any], str], float | None, float | None]] = [
        (t("Time"), i18n.duration, told.seconds if told else None, timing["run_s"]),
        (t("Memory"), size, told.peak_mb if told else None, timing.get("peak_mb")),
    ]
    if timing.get("tokens"):
        rows.append((t("Tokens"), i18n.number, told.tokens if told else None, timing["tokens"]))
    if price_per_hour is not None:
        spent = timing["run_s"] / 3600 * price_per_hour
        rows.append((t("Money"), money, foretold.cost, spent))
    cells = [
        [name, shown(before) if before else "—", el("b", shown(after) if after else "—")]
        for name, shown, before, after in rows
    ]
    is_afterwards = told is not None and foretold.is_afterwards
    estimated = t("Estimated afterwards") if is_afterwards else t("Estimated")
    body = html.table(("", estimated, t("It took")), cells, id="run-came-true")
    note = (
        t("Nothing was estimated before the launch; this is estimated from the data of today.")
        if is_afterwards
        else t("Time is longer than estimated where others use the machine meanwhile.")
    )
    return html.section(t("What it took"), body, note=note)


def size(mb: float) -> str:
    """Memory as people say it, from MiB."""
    return f"{mb:,.0f} MiB" if mb < 1024 else f"{mb / 1024:.1f} GiB"


def money(amount: float) -> str:
    """An amount in the currency of the price that was set."""
    return f"{amount:,.2f}"


def _figures(told: Estimate, price_per_hour: float | None) -> Html:
    parts = [
        html.figure(
            f"≈ {i18n.duration(told.seconds)}", t("to train and measure"), id="outlook-time"
        ),
        html.figure(f"≈ {size(told.peak_mb)}", t("memory"), id="outlook-memory"),
        html.figure(f"{told.steps:,}", t("steps")),
        html.figure(f"{told.tokens:,}", t("tokens")),
    ]
    if price_per_hour is not None:
        parts.append(html.figure(f"≈ {money(told.cost(price_per_hour))}", t("at the price set")))
    return html.figures(*parts)


def _unknown() -> Html:
    return el("p", t("How long it takes and what memory it needs is not known."), class_="wsl-note")


def _memory(memory: Memory) -> Html:
    rows = [
        (t("Libraries"), memory.process),
        (t("The base model"), memory.weights),
        (t("The reference policy"), memory.reference),
        (t("The reward model"), memory.reward_model),
        (t("What learns, with its optimiser"), memory.trained),
        (t("A training step"), memory.step),
        (t("Measuring the result"), memory.evaluation),
    ]
    listed = html.definitions([(name, size(mb)) for name, mb in rows if mb >= 1])
    summary = el("summary", t("Where the memory goes"))
    return el("details", summary, listed, class_="wsl-aside")
