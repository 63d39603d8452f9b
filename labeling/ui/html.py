"""Small pure pieces of HTML for the leads' tabs, escaped by construction.

Plain text is escaped wherever it is put into an element; only `Html` goes in as it stands, and only
this module makes any. Knows no service and no Gradio.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape
from typing import NamedTuple

from labeling import i18n
from labeling.i18n import t

MAX_POINTS = 400
ROOM = 0.08
VOID_TAGS = {"br", "hr", "input", "img", "path", "line", "rect", "circle"}


class Html(str):
    """Markup that is safe to show as it stands."""

    __slots__ = ()


EMPTY = Html("")


def html(text: str) -> Html:
    """Text as HTML: escaped, unless it is `Html` already."""
    return text if isinstance(text, Html) else Html(escape(text))


def written(text: str) -> Html:
    """What a person or a model wrote: in a language and a direction of its own."""
    return el("span", text, dir="auto", lang="")


def join(parts: Iterable[str], separator: str = "") -> Html:
    """One piece out of many, each escaped unless it is `Html`."""
    return Html(html(separator).join(html(part) for part in parts))


def el(tag: str, /, *children: str, **attributes: str | int | float | bool | None) -> Html:
    """An element. `class_` and `for_` lose their underscore, `data_id` becomes `data-id`.

    Attributes that are None or False are left out; True gives a bare one.
    """
    names = {name: name.rstrip("_").replace("_", "-") for name in attributes}
    written = "".join(
        f" {names[name]}" if value is True else f' {names[name]}="{escape(str(value))}"'
        for name, value in attributes.items()
        if value is not None and value is not False
    )
    if tag in VOID_TAGS:
        return Html(f"<{tag}{written}/>")
    return Html(f"<{tag}{written}>{join(children)}</{tag}>")


def section(title: str, *body: str, note: str = "", aside: str = "", id: str | None = None) -> Html:
    """A card: a heading, a quiet line that explains it, and what it holds."""
    head = el("div", el("h3", title), aside, class_="wsl-card-head")
    quiet = el("p", note, class_="wsl-note") if note else EMPTY
    return el("section", head, quiet, *body, class_="wsl-card", id=id)


def page_head(title: str, note: str) -> Html:
    """The heading of a tab and one sentence on what it is for."""
    return el("header", el("h2", title), el("p", note), class_="wsl-head")


def pill(text: str, tone: str = "quiet", *, id: str | None = None) -> Html:
    """A short state. Tones: quiet, accent, good, warn, bad."""
    return el("span", text, class_=f"wsl-pill wsl-{tone}", id=id)


def notice(tone: str, title: str, *body: str, shown: Html = EMPTY, id: str | None = None) -> Html:
    """Something a person should read, with what to do about it, and a drawing that shows it."""
    role = "alert" if tone == "bad" else "status"
    parts = [el("strong", title), *(el("p", part) for part in body if part), shown]
    return el("div", *parts, class_=f"wsl-notice wsl-{tone}", role=role, id=id)


def empty(title: str, body: str, *, id: str | None = None) -> Html:
    """What stands where there is nothing yet, and how something gets there."""
    return el("div", el("strong", title), el("p", body), class_="wsl-empty", id=id)


def figure(value: str, label: str, *, id: str | None = None) -> Html:
    """A number with what it counts."""
    return el(
        "div",
        el("span", value, class_="wsl-figure-value", id=id),
        el("span", label, class_="wsl-figure-label"),
        class_="wsl-figure",
    )


def figures(*parts: str) -> Html:
    """Numbers side by side."""
    return el("div", *parts, class_="wsl-figures")


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], *, id: str | None = None) -> Html:
    """A table; on a narrow screen each row becomes a block whose cells carry their heading."""
    head = el("thead", el("tr", *(el("th", text, scope="col") for text in heads)))
    body = el(
        "tbody",
        *(
            el("tr", *(el("td", cell, data_head=h) for h, cell in zip(heads, row, strict=True)))
            for row in rows
        ),
    )
    drawn = el("table", head, body, class_="wsl-table", id=id)
    # What scrolls must be in reach of the keyboard.
    return el("div", drawn, class_="wsl-scroll", tabindex=0)


def definitions(rows: Sequence[tuple[str, str]]) -> Html:
    """Names with their values, one a line."""
    lines = (el("div", el("dt", name), el("dd", value)) for name, value in rows)
    return el("dl", *lines, class_="wsl-defs")


def button(
    text: str,
    act: str,
    *,
    key: str = "",
    ask: str = "",
    ask_title: str = "",
    tone: str = "",
    id: str | None = None,
    disabled: bool = False,
    title: str | None = None,
    field: str | None = None,
) -> Html:
    """A button of an action area (see `actions.py`). With `ask`, the page asks that first.

    What stands in the element with the id `field` is sent along.
    """
    return el(
        "button",
        text,
        type="button",
        class_=f"wsl-button wsl-button-{tone}" if tone else "wsl-button",
        data_act=act,
        data_key=key or None,
        data_ask=ask or None,
        data_ask_title=ask_title or None,
        data_ask_yes=text if ask else None,
        data_field=field,
        id=id,
        disabled=disabled,
        title=title,
    )


def short_hash(sha256: str | None) -> Html:
    """The first characters of a hash; the whole of it on hover, and copied by a click."""
    if not sha256:
        return Html("—")
    return el(
        "button",
        el("code", sha256[:10]),
        type="button",
        class_="wsl-hash",
        data_copy=sha256,
        title=t("{sha256} (click to copy)", sha256=sha256),
    )


def code_block(text: str) -> Html:
    """Lines of code with a button that copies them."""
    copy = el("button", t("Copy"), type="button", class_="wsl-button wsl-copy", data_copy=text)
    return el("div", el("pre", el("code", text), tabindex=0), copy, class_="wsl-code")


def progress_bar(share: float | None, label: str, *, id: str | None = None) -> Html:
    """A bar filled to `share`, 0 to 1; None is work of unknown length."""
    width = None if share is None else f"width: {100 * min(max(share, 0.0), 1.0):.1f}%"
    return el(
        "div",
        el("i", style=width),
        class_="wsl-bar" if share is not None else "wsl-bar wsl-bar-unknown",
        role="progressbar",
        aria_label=label,
        aria_valuemin=0,
        aria_valuemax=100,
        aria_valuenow=None if share is None else round(100 * share),
        id=id,
    )


def interval_meter(rate: float | None, low: float, high: float, label: str) -> Html:
    """A share between 0 and 1 with its interval; the middle of the track is one half."""
    parts = [
        el("i", class_="wsl-meter-half"),
        el(
            "i",
            class_="wsl-meter-band",
            style=f"left: {100 * low:.1f}%; width: {100 * (high - low):.1f}%",
        ),
    ]
    if rate is not None:
        parts.append(el("i", class_="wsl-meter-dot", style=f"left: {100 * rate:.1f}%"))
    return el("span", *parts, class_="wsl-meter", role="img", aria_label=label, title=label)


class Line(NamedTuple):
    """One curve of a chart: (x, y) points in order of x. `dots` draws them unconnected.

    `bars` are intervals of y at an x, (x, low, high).
    """

    name: str
    points: Sequence[tuple[float, float]]
    tone: str = "accent"
    dots: bool = False
    bars: Sequence[tuple[float, float, float]] = ()


class Turn(NamedTuple):
    """Where on the axis of a chart something turned."""

    x: float
    label: str


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    note: str = "",
    guide: float | None = None,
    bounds: tuple[float, float] | None = None,
    axis: str = "",
    turn: Turn | None = None,
) -> Html:
    """Curves over steps; a faint line shows every point, a strong one their running mean.

    Non-finite points are left out. `guide` is a value worth comparing with; `bounds` are the lowest
    and highest value that there can be, otherwise what is shown decides. `axis` says what the
    curves are over where that is not steps. An upright line marks the `turn`.
    """
    drawn = [line._replace(points=_finite(line.points)) for line in lines]
    drawn = [line for line in drawn if line.points]
    caption = _chart_caption(title, drawn, note)
    if not drawn:
        body = el("div", t("no numbers yet"), class_="wsl-plot wsl-plot-empty")
        return el("figure", caption, body, class_="wsl-chart")
    frame = _frame_of(drawn, guide, bounds)
    shapes = [_guide_line(frame, guide)] if guide is not None else []
    shapes += [_turn_line(frame, turn)] if turn else []
    shapes += [_bars(frame, line) for line in drawn if line.bars]
    shapes += [_curve(frame, line) for line in drawn]
    svg = el(
        "svg",
        *shapes,
        viewBox="0 0 100 100",
        preserveAspectRatio="none",
        role="img",
        aria_label=_chart_summary(title, drawn),
    )
    plot = el(
        "div",
        svg,
        el("span", _edge(frame.high), class_="wsl-tick-top"),
        el("span", _edge(frame.low), class_="wsl-tick-bottom"),
        _turn_label(frame, turn) if turn else EMPTY,
        class_="wsl-plot",
    )
    steps = el(
        "div",
        el("span", f"{axis} {frame.left:.3g}" if axis else t("step {left:g}", left=frame.left)),
        el("span", f"{frame.right:.3g}" if axis else f"{frame.right:g}"),
        class_="wsl-x",
    )
    return el("figure", caption, plot, steps, class_="wsl-chart")


def downsampled(
    points: Sequence[tuple[float, float]], limit: int = MAX_POINTS
) -> list[tuple[float, float]]:
    """At most `limit` points that keep the extremes: the lowest and highest of each stretch."""
    if len(points) <= limit:
        return list(points)
    kept: list[tuple[float, float]] = []
    buckets = max(1, limit // 2)
    for number in range(buckets):
        start, end = number * len(points) // buckets, (number + 1) * len(points) // buckets
        stretch = points[start:end]
        extremes = {min(stretch, key=lambda p: p[1]), max(stretch, key=lambda p: p[1])}
        kept.extend(sorted(extremes))
    return kept


def running_mean(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """An exponential mean over about a tenth of the points, unbiased at the start."""
    keep = 1 - 1 / max(1.0, len(points) / 10)
    total = weight = 0.0
    smooth = []
    for x, y in points:
        total, weight = keep * total + (1 - keep) * y, keep * weight + (1 - keep)
        smooth.append((x, total / weight))
    return smooth


def ago(moment: datetime, now: datetime) -> Html:
    """How long ago, with the exact time on hover."""
    exact = moment.strftime("%Y-%m-%d %H:%M:%S UTC")
    return el("time", i18n.ago(moment, now), datetime=moment.isoformat(), title=exact)


class _Frame(NamedTuple):
    """The extremes that a plot shows, with some room above and below."""

    left: float
    right: float
    low: float
    high: float

    def place(self, x: float, y: float) -> tuple[float, float]:
        width = self.right - self.left or 1.0
        share = (self.high - y) / (self.high - self.low)
        return 100 * (x - self.left) / width, 100 * (ROOM + (1 - 2 * ROOM) * share)


def _finite(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _frame_of(
    lines: Sequence[Line], guide: float | None, bounds: tuple[float, float] | None
) -> _Frame:
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    ys += [y for line in lines for _, *ends in line.bars for y in ends]
    ys += [guide] if guide is not None else []
    low, high = bounds or (min(ys), max(ys))
    if high - low < (room := max(0.01, abs(high) / 100)):
        low, high = (low + high) / 2 - room, (low + high) / 2 + room
    return _Frame(min(xs), max(xs), low, high)


def _curve(frame: _Frame, line: Line) -> Html:
    if line.dots or len(line.points) == 1:
        path = "".join(_move(frame, x, y) + "h0" for x, y in downsampled(line.points))
        return el("path", d=path, class_=f"wsl-dots wsl-line-{line.tone}")
    strong = el("path", d=_path(frame, running_mean(line.points)), class_=f"wsl-line-{line.tone}")
    if len(line.points) < 10:
        return el("path", d=_path(frame, line.points), class_=f"wsl-line-{line.tone}")
    faint = el("path", d=_path(frame, line.points), class_=f"wsl-faint wsl-line-{line.tone}")
    return join([faint, strong])


def _bars(frame: _Frame, line: Line) -> Html:
    path = ""
    for x, low, high in line.bars:
        _, top = frame.place(x, high)
        path += f"{_move(frame, x, low)}V{top:.2f}"
    return el("path", d=path, class_=f"wsl-faint wsl-line-{line.tone}")


def _path(frame: _Frame, points: Sequence[tuple[float, float]]) -> str:
    first, *rest = downsampled(points)
    lines = (frame.place(x, y) for x, y in rest)
    return _move(frame, *first) + "".join(f"L{x:.2f} {y:.2f}" for x, y in lines)


def _move(frame: _Frame, x: float, y: float) -> str:
    across, down = frame.place(x, y)
    return f"M{across:.2f} {down:.2f}"


def _guide_line(frame: _Frame, guide: float) -> Html:
    _, down = frame.place(frame.left, guide)
    return el("path", d=f"M0 {down:.2f}H100", class_="wsl-guide")


def _turn_line(frame: _Frame, turn: Turn) -> Html:
    across, _ = frame.place(turn.x, frame.low)
    return el("path", d=f"M{across:.2f} 0V100", class_="wsl-turn-line")


def _turn_label(frame: _Frame, turn: Turn) -> Html:
    """On the side of the line where there is more room."""
    across, _ = frame.place(turn.x, frame.low)
    place = f"left: {across:.2f}%" if across < 50 else f"right: {100 - across:.2f}%"
    return el("span", turn.label, class_="wsl-turn", style=place)


def _chart_caption(title: str, lines: Sequence[Line], note: str) -> Html:
    latest = [
        el(
            "span",
            el("i", class_=f"wsl-key wsl-key-{line.tone}") if len(lines) > 1 else EMPTY,
            f"{line.name} " if len(lines) > 1 else "",
            el("b", _tick((line.points if line.dots else running_mean(line.points))[-1][1])),
        )
        for line in lines
    ]
    return el(
        "figcaption",
        el("span", title, class_="wsl-chart-title", title=note or None),
        el("span", *latest, class_="wsl-chart-now"),
    )


def _chart_summary(title: str, lines: Sequence[Line]) -> str:
    told = [
        t(
            "{line} from {first} to {last}",
            line=line.name,
            first=_tick(line.points[0][1]),
            last=_tick(line.points[-1][1]),
        )
        for line in lines
    ]
    return f"{title}: {'; '.join(told)}"


def _tick(value: float) -> str:
    return "0" if abs(value) < 1e-12 else f"{value:.3g}"


def _edge(value: float) -> str:
    """A number short enough for the margin of a plot."""
    return _tick(round(value, 2)) if abs(value) < 1000 else f"{value:.1e}"
