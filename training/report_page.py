"""The report that a run leaves: one HTML file that explains itself wherever it is taken.

A pure function of the spec, the events, the result's report, and of what only the product knows:
what was estimated, and what people have said since. The file holds its own style and drawings, no
script, and refers to nothing outside; whatever people or policies wrote is text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, NamedTuple, Self
from xml.etree.ElementTree import Element, tostring

from training.artefacts import Change
from training.blind import Blind, Standing, all_verdicts, by_distance
from training.config import RunSpec
from training.estimate import Foretold
from training.events import Event, EventKind, series
from training.findings import WATCH, Curve, Verdict, each_with_curve
from training.measurements import Measurement, Unit, measurements, notes, plain, rows_given
from training.methods import method_named
from training.overoptimization import Look, looks

WIDTH, HEIGHT = 320, 140
MARGIN = 14  # for the figures at the edges
# A curve of more points than pixels across cannot be told from one with fewer.
MAX_POINTS = 300

_HELD_OUT = "held_out_"
_CURVES = {
    "loss": "Loss",
    "accuracy": "Ranks as people did",
    "margin": "Reward margin",
    "score": "Score by the reward model",
    "reward": "Reward: the score, less what responses without an end cost",
    "kl_penalty": "Beta times KL",
    "objective": "Reward minus beta times KL",
    "kl": "KL to the reference, nats a response",
    "reward_chosen": "Reward of the chosen response",
    "reward_rejected": "Reward of the rejected response",
    "length": "Response length, tokens",
    "entropy": "Entropy, nats",
    "grad_norm": "Length of the gradient",
    "learning_rate": "Step size",
}
_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --quiet: #60646c; --line: #d9d9e0;
  --paper: #fff; --card: #f7f7f9; --accent: #3e63dd; --other: #c2410c; --good: #18794e;
  --warn: #a35200; --bad: #c62a2f; }
@media (prefers-color-scheme: dark) { :root { --ink: #edeef0; --quiet: #b0b4ba; --line: #43484e;
  --paper: #18191b; --card: #212225; --accent: #9eb1ff; --other: #ffa057; --good: #3dd68c;
  --warn: #ffca16; --bad: #ff9592; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 60rem; margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 0; } p { margin: .25rem 0; } code { font-size: .9em; }
.quiet { color: var(--quiet); }
.verdict { border-left: 4px solid var(--quiet); background: var(--card); padding: .6rem 1rem;
  margin: .6rem 0; }
.good { border-color: var(--good); } .warn { border-color: var(--warn); }
.bad { border-color: var(--bad); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; } th, td { text-align: left; padding: .3rem .6rem;
  border-bottom: 1px solid var(--line); vertical-align: top; } tr.alarm td { color: var(--warn);
  font-weight: 600; }
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1rem; }
figure { margin: 0; background: var(--card); padding: .6rem; }
figcaption { font-size: .9rem; display: flex; flex-wrap: wrap; column-gap: .8rem;
  margin-bottom: .2rem; }
figcaption strong { width: 100%; }
.key { display: inline-block; width: .6rem; height: .6rem; margin-right: .35rem; }
i.training { background: var(--accent); } i.held-out { background: var(--other); }
svg { width: 100%; height: auto; display: block; }
.training { stroke: var(--accent); } .held-out { stroke: var(--other); }
circle.training { fill: var(--accent); } circle.held-out { fill: var(--other); }
.verdict figure { max-width: 24rem; padding: .4rem 0 0; }
line.turn { stroke: var(--quiet); stroke-dasharray: 3 3; }
svg text.turn { fill: var(--ink); font-weight: 600; }
polyline { fill: none; stroke-width: 1.5; } svg text { fill: var(--quiet); font-size: 10px; }
details { border: 1px solid var(--line); padding: .5rem .8rem; margin: .5rem 0; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(16rem, 1fr)); gap: 1rem; }
.said { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--card); padding: .6rem; }
"""


class Beside(NamedTuple):
    """What the trainer does not find out: people's blind verdicts, what the run was estimated to
    take, and how the policy and others that were trained from the same one stand."""

    blind: Sequence[Blind] = ()
    foretold: Foretold = Foretold()
    standings: Sequence[Standing] = ()


NOTHING = Beside()


def render(
    spec: RunSpec,
    events: Sequence[Event],
    report: Mapping[str, Any],
    beside: Beside = NOTHING,
) -> str:
    """The whole file. `report` is that of the result, with verdicts and environment."""
    verdicts = all_verdicts(report, beside.blind, parent=spec.parent_version)
    body = el(
        "body",
        _head(spec, events),
        *_section("What the numbers say", _verdicts(verdicts, events)),
        *_section("What was asked", _pairs(_asked(spec, report))),
        *_section("Before and after", _measured(report)),
        *_section("By people, who did not know which was which", _by_people(beside)),
        *_section("Habits", _artefacts(report)),
        *_section("Curves", _curves(events)),
        *_section("Side by side", _samples(report)),
        *_section("What it took", _costs(report, beside)),
        *_section("Made with", _pairs(_environment(report))),
    )
    return "<!DOCTYPE html>\n" + tostring(
        el("html", _meta(spec), body, lang="en"), encoding="unicode", method="html"
    )


def el(tag: str, /, *children: Element | str, **attributes: str) -> Element:
    """An element with text and elements in it; `class_` loses its underscore."""
    made = Element(tag, {name.rstrip("_").replace("_", "-"): v for name, v in attributes.items()})
    for child in children:
        if isinstance(child, Element):
            made.append(child)
        elif len(made):
            made[-1].tail = (made[-1].tail or "") + child
        else:
            made.text = (made.text or "") + child
    return made


def _meta(spec: RunSpec) -> Element:
    return el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("title", f"{spec.run_id} · Whetstone"),
        el("style", _STYLE),
    )


def _section(title: str, found: Sequence[Element]) -> list[Element]:
    """A heading with what stands under it; nothing where there is nothing."""
    return [el("section", el("h2", title), *found)] if found else []


def _head(spec: RunSpec, events: Sequence[Event]) -> Element:
    began = datetime.fromtimestamp(events[0].at, UTC) if events else None
    when = f" · {began:%Y-%m-%d %H:%M} UTC" if began else ""
    method = method_named(spec.method).label
    return el(
        "header",
        el("h1", f"{method} from {spec.parent_version}"),
        el("p", el("code", spec.run_id), when, class_="quiet"),
    )


def _verdicts(verdicts: Sequence[Verdict], events: Sequence[Event]) -> list[Element]:
    return [
        el(
            "div",
            el("h3", str(verdict.title)),
            el("p", str(verdict.evidence)),
            el("p", str(verdict.advice), class_="quiet"),
            *(_shown_by(curve, events) if curve else ()),
            class_=f"verdict {verdict.severity.value}",
        )
        for verdict, curve in each_with_curve(verdicts)
    ]


def _shown_by(curve: Curve, events: Sequence[Event]) -> list[Element]:
    """The drawing of a verdict's curve; nothing where too little was measured to make one."""
    if curve.metric == WATCH:
        drawn = _watch_chart(events, turn=curve.turn)
    elif max(len(series(events, start + curve.metric)) for start in ("", _HELD_OUT)) > 1:
        drawn = _chart(curve.metric, events, turn=curve.turn)
    else:
        drawn = None
    return [drawn] if drawn is not None else []


def _asked(spec: RunSpec, report: Mapping[str, Any]) -> list[tuple[str, str]]:
    counts = report.get("data") or {}
    return [
        ("Method", method_named(spec.method).label),
        ("Trained from", spec.parent_version),
        ("Base model", spec.base_model),
        ("Reward model", spec.reward_model or "none"),
        ("Seed", str(spec.seed)),
        ("Snapshot", str((report.get("environment") or {}).get("snapshot", "unknown"))),
        *((f"Data: {name.replace('_', ' ')}", f"{value:,}") for name, value in counts.items()),
        *_own_options(spec, report),
    ]


def _own_options(spec: RunSpec, report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Options that are not those of the preset for this much data."""
    given = asdict(spec.options)
    usual = asdict(
        spec.options.preset(
            rows_given(report),
            parameters=(report.get("environment") or {}).get("parameters"),
            tuning=str(given.get("tuning")),
        )
    )
    for option in spec.options.described():
        if given[option.name] != usual[option.name]:
            shown = f"{given[option.name]} (preset: {usual[option.name]})"
            yield option.label, shown


def _measured(report: Mapping[str, Any]) -> list[Element]:
    rows = [
        (str(m.label), _figure(m.before, m.unit), _with_interval(m)) for m in measurements(report)
    ]
    note = el(
        "p",
        "Measured by the machine on prompts that training never saw. Whether people like it "
        "better, only the blind comparison after a promotion can tell.",
        class_="quiet",
    )
    scored = [el("p", str(told), class_="quiet") for told in notes(report)]
    return [note, _table(("", "Before", "After"), rows), *scored] if rows else []


def _by_people(beside: Beside) -> list[Element]:
    rows = [
        (
            opponent,
            f"{won.rate:.1%} ({won.low:.1%} to {won.high:.1%})",
            f"{won.wins} won, {won.losses} lost, {won.draws} drawn",
        )
        for opponent, won in beside.blind
        if won.rate is not None
    ]
    said = [_table(("Against", "Wins (95 % interval)", "Verdicts"), rows)] if rows else []
    chart = _standings_chart(by_distance(beside.standings))
    return [*said, el("div", chart, class_="curves")] if chart is not None else said


def _artefacts(report: Mapping[str, Any]) -> list[Element]:
    changes = [Change.from_json(values) for values in report.get("artefacts") or ()]
    if not changes:
        return []
    heads = ("", "Before", "After", "Difference, with its 95 % interval")
    rows = [
        (
            str(change.artefact.label),
            f"{change.before:.1f}",
            f"{change.after:.1f}",
            f"{change.after - change.before:+.1f} ({change.low:+.1f} to {change.high:+.1f})",
        )
        for change in changes
    ]
    alarms = [number for number, change in enumerate(changes) if change.is_alarming]
    note = "Marked rows grew by much, and by more than chance would let them."
    return [el("p", note, class_="quiet"), _table(heads, rows, alarms=alarms)]


def _curves(events: Sequence[Event]) -> list[Element]:
    measured = {name for e in events if e.kind == EventKind.METRICS for name in e.data}
    names = {name.removeprefix(_HELD_OUT) for name in measured - set(Look._fields)}
    order = [*(n for n in _CURVES if n in names), *sorted(names - set(_CURVES))]
    drawn = (_watch_chart(events), *(_chart(name, events) for name in order))
    charts = [chart for chart in drawn if chart is not None]
    return [el("div", *charts, class_="curves")] if charts else []


class _Frame(NamedTuple):
    """The extremes of a drawing; what is all the same lies in the middle."""

    left: float
    right: float
    low: float
    high: float

    def place(self, x: float, y: float) -> str:
        width, height = self.right - self.left, self.high - self.low
        across = (x - self.left) / width if width else 0.5
        down = (self.high - y) / height if height else 0.5
        return (
            f"{MARGIN + (WIDTH - 2 * MARGIN) * across:.1f},"
            f"{MARGIN + (HEIGHT - 2 * MARGIN) * down:.1f}"
        )


class _Turn(NamedTuple):
    """Where on the axis of a chart something turned."""

    x: float
    label: str

    @classmethod
    def at(cls, step: float | None) -> Self | None:
        """Of a chart over steps."""
        return None if step is None else cls(step, f"step {step:g}")


class _Curve(NamedTuple):
    """A line of a chart; `kind` is its style."""

    name: str
    kind: str
    points: Sequence[tuple[float, float]]


def _chart(name: str, events: Sequence[Event], *, turn: float | None = None) -> Element | None:
    return _figure_of(
        _CURVES.get(name, name.replace("_", " ").capitalize()),
        (
            _Curve("training", "training", series(events, name)),
            _Curve("held-out", "held-out", series(events, _HELD_OUT + name)),
        ),
        turn=_Turn.at(turn),
    )


def _watch_chart(events: Sequence[Event], *, turn: float | None = None) -> Element | None:
    seen = looks(events)
    turned = [_Turn(look.distance, f"step {turn:g}") for look in seen if look.step == turn]
    return _figure_of(
        "Over-optimisation watch",
        (
            _Curve("reward", "training", [(look.distance, look.proxy_reward) for look in seen]),
            _Curve(
                "second model", "held-out", [(look.distance, look.watch_reward) for look in seen]
            ),
        ),
        axis="√KL",
        turn=turned[0] if turned else None,
    )


def _standings_chart(standings: Sequence[Standing]) -> Element | None:
    """The policies that were trained from the same one, over their distance to it."""
    scored = [(s.distance, s.by_reward) for s in standings if s.by_reward is not None]
    people = [(s.distance, s.by_people.rate) for s in standings if s.by_people.rate is not None]
    return _figure_of(
        "Share of comparisons won by policies trained from the same one",
        (
            _Curve("by the reward model", "training", scored if len(scored) > 1 else []),
            _Curve("by people", "held-out", people),
        ),
        axis="√KL",
    )


def _figure_of(
    title: str, curves: Sequence[_Curve], *, axis: str = "step", turn: _Turn | None = None
) -> Element | None:
    """A drawing with a caption; None where no curve has a point."""
    points = [point for curve in curves for point in curve.points]
    if not points:
        return None
    xs, ys = [x for x, _ in points], [y for _, y in points]
    frame = _Frame(min(xs), max(xs), min(ys), max(ys))
    drawn = [shape for curve in curves for shape in _line(curve.kind, curve.points, frame)]
    measured = [curve for curve in curves if curve.points]
    return el(
        "figure",
        el("figcaption", el("strong", title), *map(_key, measured)),
        el(
            "svg",
            *(_mark(turn, frame) if turn else ()),
            *drawn,
            el("text", f"{frame.high:.3g}", x="2", y="10"),
            el("text", f"{frame.low:.3g}", x="2", y=f"{HEIGHT - 3}"),
            el(
                "text",
                f"{axis} {_edge(frame.right)}",
                x=f"{WIDTH}",
                y=f"{HEIGHT - 3}",
                text_anchor="end",
            ),
            viewBox=f"0 0 {WIDTH} {HEIGHT}",
            role="img",
            aria_label=f"{title}: {'; '.join(map(_ends, measured))}",
        ),
    )


def _key(curve: _Curve) -> Element:
    """The colour of a curve, and what it is of."""
    return el("span", el("i", class_=f"key {curve.kind}"), _ends(curve), class_="quiet")


def _ends(curve: _Curve) -> str:
    return f"{curve.name} {curve.points[0][1]:.3g} → {curve.points[-1][1]:.3g}"


def _mark(turn: _Turn, frame: _Frame) -> list[Element]:
    """An upright line with its label on the side where there is more room."""
    across = frame.place(turn.x, frame.low).partition(",")[0]
    is_left = float(across) < WIDTH / 2
    beside = float(across) + (4 if is_left else -4)
    anchor = "start" if is_left else "end"
    return [
        el("line", x1=across, x2=across, y1="0", y2=f"{HEIGHT}", class_="turn"),
        el("text", turn.label, x=f"{beside:.1f}", y="10", text_anchor=anchor, class_="turn"),
    ]


def _line(kind: str, points: Sequence[tuple[float, float]], frame: _Frame) -> list[Element]:
    every = max(1, len(points) // MAX_POINTS)
    path = " ".join(frame.place(x, y) for x, y in points[::every])
    if not path:
        return []
    line = el("polyline", points=path, class_=kind)
    dots = [
        el("circle", cx=place.partition(",")[0], cy=place.partition(",")[2], r="2.5", class_=kind)
        for place in path.split()
    ]
    return [line, *dots] if len(dots) < 10 else [line]


def _edge(value: float) -> str:
    """A step in full, a distance by three digits."""
    return f"{value:g}" if value.is_integer() else f"{value:.3g}"


def _samples(report: Mapping[str, Any]) -> list[Element]:
    samples = (report.get("generations") or {}).get("samples") or ()
    return [
        el(
            "details",
            el("summary", str(sample["messages"][-1]["content"]), dir="auto", lang=""),
            el(
                "div",
                el("div", el("h3", "Before"), _said(sample["before"])),
                el("div", el("h3", "After"), _said(sample["after"])),
                class_="pair",
            ),
            open="",
        )
        for sample in samples
    ]


def _said(text: str) -> Element:
    return el("div", text.strip() or "(an empty response)", class_="said", dir="auto", lang="")


def _costs(report: Mapping[str, Any], beside: Beside) -> list[Element]:
    timing, told, price = (
        report.get("timing") or {},
        beside.foretold.estimate,
        beside.foretold.price_per_hour,
    )
    run_s: float | None = timing.get("run_s")
    costs: list[tuple[str, float | None, float | None]] = [
        ("Time with loading and measuring, seconds", told.seconds if told else None, run_s),
        ("Training alone, seconds", None, timing.get("training_s")),
        ("Largest memory, MiB", told.peak_mb if told else None, timing.get("peak_mb")),
        ("Tokens trained on", told.tokens if told else None, timing.get("tokens")),
        ("Steps", told.steps if told else None, report.get("steps")),
    ]
    if price is not None:
        spent = run_s / 3600 * price if run_s else None
        costs.append(("Money", beside.foretold.cost, spent))
    rows = [
        (name, _figure(expected, Unit.NUMBER), _figure(actual, Unit.NUMBER))
        for name, expected, actual in costs
        if expected or actual
    ]
    is_afterwards = told is not None and beside.foretold.is_afterwards
    estimated = "Estimated afterwards" if is_afterwards else "Estimated"
    return [_table(("", estimated, "It took"), rows)] if rows else []


def _environment(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    environment = report.get("environment") or {}
    versions = environment.get("versions") or {}
    known = [
        (name, str(environment[name])) for name in ("python", "platform") if name in environment
    ]
    return [*known, *((name, str(version)) for name, version in versions.items())]


def _with_interval(m: Measurement) -> str:
    shown = _figure(m.after, m.unit)
    if m.low is None or m.high is None:
        return shown
    return f"{shown} ({_figure(m.low, m.unit)} to {_figure(m.high, m.unit)})"


def _figure(value: float | None, unit: Unit) -> str:
    if value is None:
        return "—"
    return f"{100 * value:.1f}\u00a0%" if unit is Unit.SHARE else plain(value)


def _pairs(rows: Sequence[tuple[str, str]]) -> list[Element]:
    """Names with their values; nothing where there are none."""
    return [_table(("", ""), rows)] if rows else []


def _table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], *, alarms: Sequence[int] = ()
) -> Element:
    """Rows of text; those numbered in `alarms` stand out."""
    head = [el("thead", el("tr", *(el("th", text, scope="col") for text in heads)))]
    body = [
        el("tr", *(el("td", cell) for cell in row), class_="alarm" if number in alarms else "")
        for number, row in enumerate(rows)
    ]
    return el(
        "div", el("table", *(head if any(heads) else []), el("tbody", *body)), class_="scroll"
    )
