"""Over-optimisation in miniature: PPO and best-of-n against a reward model of noisy judgments.

After Gao et al. 2022, with the gold preference in place of people: it judges pairs of the starter's
responses, a reward run learns from them and keeps its second model, PPO and best-of-n maximise the
first one's scores, and all three look at every response. What is told of PPO is of the responses
that it draws while it trains. A proxy "of n judgments" has learned from about n; more are given,
since a reward run holds some out and leaves some to the second model.

`--folder` keeps the parts, and a later call goes on from them.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

from tests.bench import panels
from tests.bench.panels import Curve, Panel
from training.overoptimization import Look, alarm, reshaped, unjudged

# Iterations that are told as one, and that stand between two looks of the product's watch.
STRETCH = 5


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--judgments", type=int, default=1000, help="that teach PPO's proxy")
    parser.add_argument(
        "--others", type=int, nargs="*", default=[300, 3000], help="that teach other proxies"
    )
    parser.add_argument("--noise", type=float, default=1.0, help="gold points that blur a verdict")
    parser.add_argument("--small", type=float, default=0.02, help="KL coefficient")
    parser.add_argument("--large", type=float, default=0.3, help="KL coefficient")
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--best-of", type=int, default=64)
    parser.add_argument("--best-of-prompts", type=int, default=40, help="0 leaves best-of-n out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", type=Path, help="an SVG file to draw into")
    parser.add_argument("--folder", type=Path, help="where to keep the parts")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Proxy and gold at their peaks and ends, at both coefficients; at the small one by proxies of
    fewer and of more judgments too; and best-of-n's curves."""
    from tests.bench.pursuit import Pursuit

    with tempfile.TemporaryDirectory() as folder:
        pursuit = Pursuit(options.folder or Path(folder), options)
        small, large = (pursuit.course(kl_coef) for kl_coef in (options.small, options.large))
        by_judgments = {options.judgments: small} | {
            size: pursuit.course(options.small, judgments=size) for size in options.others
        }
        curves = pursuit.best_of_n() if options.best_of_prompts else {}
    if options.plot:
        options.plot.write_text(panels.draw(_panels(by_judgments, large, curves, options)))
    return {
        **figures(small, large),
        "by_judgments": {size: summary(of) for size, of in sorted(by_judgments.items())},
        "best_of_n": curves,
        **_settings(options),
    }


class Iteration(NamedTuple):
    """Means over the responses of one PPO iteration; errors are standard errors of means."""

    kl: float
    proxy: float
    proxy_error: float
    watch: float
    watch_error: float
    gold: float
    length: float
    length_error: float


def best_of(n: int, ranked: Sequence[Sequence[tuple[float, float]]]) -> dict[str, float]:
    """The best of `n` by the proxy, on average over the choices of `n` and over prompts.

    `ranked` are (proxy, gold) of each prompt's responses, the lowest proxy first; for the estimator
    see `training.worker.selection.expected_best`. `gold_error` is the standard error over prompts.
    """
    ways = [math.comb(k, n - 1) / math.comb(len(ranked[0]), n) for k in range(len(ranked[0]))]
    proxies, golds = (
        [sum(way * r[which] for way, r in zip(ways, one, strict=True)) for one in ranked]
        for which in (0, 1)
    )
    return {
        "n": n,
        "proxy": round(fmean(proxies), 3),
        "gold": round(fmean(golds), 3),
        "gold_error": round(standard_error(golds), 3),
    }


def standard_error(values: Sequence[float]) -> float:
    """Of the mean; that of a single value is not known, and taken for 0."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0


def stretches(course: Sequence[Iteration]) -> list[Iteration]:
    """Means of `STRETCH` iterations after one another; what is left at the start is one too."""
    first = len(course) % STRETCH
    starts = [*([0] if first else []), *range(first, len(course), STRETCH)]
    ends = [*starts[1:], len(course)]
    return [
        Iteration(*(fmean(column) for column in zip(*course[start:end], strict=True)))
        for start, end in zip(starts, ends, strict=True)
    ]


def figures(small: Sequence[Iteration], large: Sequence[Iteration]) -> dict[str, Any]:
    """Those of the small coefficient, and of the larger one what tells whether gold is held."""
    held = stretches(large)
    held_ends = held[-1]
    return {
        **summary(small),
        "proxy_end_held": round(held_ends.proxy, 3),
        "gold_peak_held": round(max(s.gold for s in held), 3),
        "gold_end_held": round(held_ends.gold, 3),
        "kl_end_held": round(held_ends.kl, 2),
        "alarm_at_iteration_held": _first_heard(alarm, large),
        "reshaped_at_iteration_held": _first_heard(reshaped, large),
        "unjudged_at_iteration_held": _first_heard(unjudged, large),
    }


def summary(course: Sequence[Iteration]) -> dict[str, Any]:
    """All of stretches, so that no single iteration decides."""
    told = stretches(course)
    peak, ends = max(told, key=lambda stretch: stretch.gold), told[-1]
    return {
        "proxy_start": round(told[0].proxy, 3),
        "proxy_end": round(ends.proxy, 3),
        "proxy_largest_fall": round(_largest_fall([s.proxy for s in told]), 3),
        "gold_start": round(told[0].gold, 3),
        "gold_peak": round(peak.gold, 3),
        "gold_peak_kl": round(peak.kl, 2),
        "gold_end": round(ends.gold, 3),
        "kl_end": round(ends.kl, 2),
        "length_start": round(told[0].length, 1),
        "length_end": round(ends.length, 1),
        "watch_peak": round(max(s.watch for s in told), 3),
        "watch_end": round(ends.watch, 3),
        "alarm_at_iteration": _first_heard(alarm, course),
        "reshaped_at_iteration": _first_heard(reshaped, course),
        "unjudged_at_iteration": _first_heard(unjudged, course),
    }


def _largest_fall(values: Sequence[float]) -> float:
    """From the highest value so far; 0 for values that never fall."""
    return max(max(values[: at + 1]) - value for at, value in enumerate(values))


def _first_heard(
    sign: Callable[[Sequence[Look]], object], course: Sequence[Iteration]
) -> int | None:
    """When the product would see the sign, were it to look at the responses of every fifth."""
    looks = [
        Look(at, *one[:5], one.length, one.length_error)
        for at, one in enumerate(course)
        if at % STRETCH == 0
    ]
    heard = (at for at in range(len(looks)) if sign(looks[: at + 1]))
    return next((int(looks[at].step) for at in heard), None)


def _panels(
    by_judgments: dict[int, list[Iteration]],
    large: Sequence[Iteration],
    curves: dict[str, list[dict[str, float]]],
    options: argparse.Namespace,
) -> list[Panel]:
    return [
        _course_panel(f"PPO, KL coefficient {options.small:g}", by_judgments[options.judgments]),
        _course_panel(f"PPO, KL coefficient {options.large:g}", large),
        Panel(
            f"PPO, KL coefficient {options.small:g}: gold",
            "√KL",
            [
                Curve(f"proxy of {size} judgments", _over_distance(course, lambda s: s.gold))
                for size, course in sorted(by_judgments.items())
            ],
        ),
        Panel(
            f"Best of 1 to {options.best_of}: gold",
            "√KL",
            [
                Curve(
                    f"proxy of {size} judgments", [(math.sqrt(p["kl"]), p["gold"]) for p in curve]
                )
                for size, curve in curves.items()
            ],
        ),
    ]


def _course_panel(title: str, course: Sequence[Iteration]) -> Panel:
    return Panel(
        title,
        "√KL",
        [
            Curve("reward (proxy), SD", _over_distance(course, lambda s: s.proxy)),
            Curve("gold, points", _over_distance(course, lambda s: s.gold)),
            Curve("second model (watch), SD", _over_distance(course, lambda s: s.watch)),
        ],
    )


def _over_distance(
    course: Sequence[Iteration], read: Callable[[Iteration], float]
) -> list[tuple[float, float]]:
    return [(math.sqrt(max(s.kl, 0.0)), read(s)) for s in stretches(course)]


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    names = ("judgments", "others", "noise", "small", "large", "iterations", "best_of", "seed")
    return {name: getattr(options, name) for name in names}
