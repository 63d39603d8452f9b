"""Panels of curves side by side, as one SVG file that refers to nothing outside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from xml.etree.ElementTree import Element, tostring

from training.report_page import el

WIDTH, HEIGHT = 340, 260
LEFT, RIGHT, TOP, BOTTOM = 40, 12, 34, 44
LINE_HEIGHT = 14
PALETTE = ("#3e63dd", "#18794e", "#c2410c", "#8e4ec6", "#60646c")


class Curve(NamedTuple):
    """A named line through (x, y), in the order that it was walked."""

    name: str
    points: Sequence[tuple[float, float]]


class Panel(NamedTuple):
    """Curves that share both axes."""

    title: str
    across: str
    curves: Sequence[Curve]


class _Frame(NamedTuple):
    """What a panel shows, and where it stands."""

    left: float
    right: float
    low: float
    high: float
    at: int

    def place(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.left) / ((self.right - self.left) or 1)
        down = (self.high - y) / ((self.high - self.low) or 1)
        return (
            round(self.at + LEFT + (WIDTH - LEFT - RIGHT) * across, 1),
            round(TOP + (HEIGHT - TOP - BOTTOM) * down, 1),
        )


def draw(panels: Sequence[Panel]) -> str:
    """The file's text. Panels without a point are left out."""
    shown = [panel for panel in panels if any(curve.points for curve in panel.curves)]
    rows = max((len(panel.curves) for panel in shown), default=0)
    height = HEIGHT + LINE_HEIGHT * rows
    return tostring(
        el(
            "svg",
            el("rect", width="100%", height="100%", fill="#fff"),
            *(shape for n, panel in enumerate(shown) for shape in _panel(panel, n * WIDTH)),
            xmlns="http://www.w3.org/2000/svg",
            viewBox=f"0 0 {WIDTH * len(shown)} {height}",
            font_family="system-ui, sans-serif",
            font_size="11",
        ),
        encoding="unicode",
    )


def _panel(panel: Panel, at: int) -> list[Element]:
    points = [point for curve in panel.curves for point in curve.points]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    frame = _Frame(min(0.0, *xs), max(xs), min(ys), max(ys), at)
    foot = HEIGHT - BOTTOM
    edges = ((frame.high, TOP + 4), (frame.low, foot))
    return [
        el("text", panel.title, x=f"{at + LEFT}", y="18", font_weight="600"),
        el("path", d=f"M{at + LEFT} {TOP}V{foot}H{at + WIDTH - RIGHT}", fill="none", stroke="#999"),
        *(
            el("text", f"{edge:.2f}", x=f"{at + LEFT - 4}", y=f"{y}", text_anchor="end")
            for edge, y in edges
        ),
        el("text", f"{frame.left:.3g}", x=f"{at + LEFT}", y=f"{foot + 14}"),
        el(
            "text",
            f"{panel.across} {frame.right:.3g}",
            x=f"{at + WIDTH - RIGHT}",
            y=f"{foot + 14}",
            text_anchor="end",
        ),
        *(shape for n, curve in enumerate(panel.curves) for shape in _curve(curve, n, frame)),
    ]


def _curve(curve: Curve, number: int, frame: _Frame) -> list[Element]:
    color = PALETTE[number % len(PALETTE)]
    path = " ".join("{},{}".format(*frame.place(x, y)) for x, y in curve.points)
    y = HEIGHT - BOTTOM + 32 + LINE_HEIGHT * number
    return [
        el("polyline", points=path, fill="none", stroke=color, stroke_width="1.6"),
        el("rect", x=f"{frame.at + LEFT}", y=f"{y - 6}", width="14", height="3", fill=color),
        el("text", curve.name, x=f"{frame.at + LEFT + 20}", y=f"{y}"),
    ]
