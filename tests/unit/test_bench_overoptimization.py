"""The arithmetic of the over-optimisation benchmark, and its drawing."""

from __future__ import annotations

import math
from xml.etree.ElementTree import fromstring

import pytest

from tests.bench.overoptimization import Iteration, best_of, figures, stretches
from tests.bench.panels import Curve, Panel, draw
from training.worker.selection import expected_best


def course(proxy: list[float], watch: list[float], gold: list[float]) -> list[Iteration]:
    """Five equal iterations for each value."""
    return [
        Iteration(float(at), p, 0.1, w, 0.1, g, 50.0 - 10 * at, 1.0)
        for at, (p, w, g) in enumerate(zip(proxy, watch, gold, strict=True))
        for _ in range(5)
    ]


def test_stretches_are_counted_from_the_end() -> None:
    told = stretches([Iteration(float(n), 0, 0, 0, 0, 0, 0, 0) for n in range(12)])
    assert [stretch.kl for stretch in told] == [0.5, 4.0, 9.0]


def test_peak_and_end_are_told_of_both_coefficients_and_when_the_alarm_would_sound() -> None:
    exploited = course([0, 1, 2, 3, 4], [0, 1, 0.5, 0.4, 0.3], [0, 0.5, 0.75, 0.25, -0.25])
    held = course([0, 1, 1, 1, 1], [0, 1, 1, 1, 1], [0, 0.5, 0.5, 0.5, 0.25])
    found = figures(exploited, held)

    assert (found["proxy_end"], found["gold_peak"], found["gold_end"]) == (4, 0.75, -0.25)
    assert (found["gold_end_held"], found["gold_peak_kl"]) == (0.25, 2.0)
    assert (found["alarm_at_iteration"], found["alarm_at_iteration_held"]) == (15, None)
    assert (found["unjudged_at_iteration"], found["unjudged_at_iteration_held"]) == (15, None)
    assert (found["reshaped_at_iteration"], found["length_end"]) == (15, 10)
    assert found["proxy_largest_fall"] == 0


@pytest.mark.parametrize("n", [1, 2, 4])
def test_choosing_by_the_proxy_gains_what_the_estimator_says_and_gold_only_by_the_way(
    n: int,
) -> None:
    proxies, golds = [0.0, 1.0, 2.0, 3.0], [4.0, 4.0, 1.0, 0.0]
    told = best_of(n, [list(zip(proxies, golds, strict=True))])
    assert told["proxy"] == pytest.approx(expected_best(proxies, n), abs=1e-3)
    assert told["gold"] == pytest.approx({1: 9 / 4, 2: 1, 4: 0}[n], abs=1e-3)


def test_how_sure_the_gold_of_a_choice_is_follows_from_how_prompts_differ() -> None:
    told = best_of(1, [[(0.0, 1.0)], [(0.0, 3.0)], [(0.0, 5.0)]])
    assert told["gold"] == 3
    assert told["gold_error"] == pytest.approx(2 / math.sqrt(3), abs=1e-3)


def test_the_plot_is_whole_and_leaves_empty_panels_out() -> None:
    line = [(0.0, -1.0), (1.0, 2.5)]
    svg = fromstring(
        draw([Panel("A < B", "√KL", [Curve("gold", line)]), Panel("none", "x", [Curve("n", [])])])
    )
    lines = [shape for shape in svg.iter() if shape.tag.endswith("polyline")]
    assert len(lines) == 1
    places = [tuple(map(float, p.split(","))) for p in lines[0].attrib["points"].split()]
    assert places[0][0] < places[1][0]
    assert places[0][1] > places[1][1]
    assert "A < B" in " ".join(svg.itertext())
    assert all(math.isfinite(value) for place in places for value in place)
