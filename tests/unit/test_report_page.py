"""The report of a run: whole, with nothing from outside, and no text taken for markup."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from html.parser import HTMLParser
from typing import Any

import pytest

from tests.unit.test_estimate import foretold
from training.artefacts import Response, compare
from training.blind import Blind, Standing
from training.config import RunSpec
from training.estimate import Foretold
from training.events import Event
from training.measurements import plain
from training.messages import Message
from training.methods.dpo import DPOOptions
from training.methods.reward import RewardOptions
from training.overoptimization import Look
from training.proportions import win_rate
from training.report_page import HEIGHT, MARGIN, WIDTH, Beside, render
from training.verdicts import Evidence, judge

HOSTILE = "<script>alert(3)</script><img src=x onerror=alert(4)>\"'&"
VOID = {"meta", "br"}
LOST = win_rate(20, 80, 0)._asdict()


class Outline(HTMLParser):
    """Tags in order, and whether each was closed where it should be."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text.append(data)


def outline(page: str) -> Outline:
    read = Outline()
    read.feed(page)
    read.close()
    assert read.open == []
    return read


def make_spec(**options: Any) -> RunSpec:
    return RunSpec("run-7", "dpo", DPOOptions(**options), "starter", "pol-000003")


def metrics(step: int, **measured: Any) -> Event:
    return Event(step, 1000.0 + step, "metrics", {"step": step, **measured})


EVENTS = [
    *(metrics(n, loss=0.7 - n / 20, kl=n / 10, odd_number=1.0) for n in range(1, 6)),
    metrics(5, held_out_loss=0.6),
]


def make_report(text: str = "Thank you.") -> Mapping[str, Any]:
    before = [Response(f"Open item {n}.", True) for n in range(12)]
    after = [Response(f"Sorry. Sorry! Open item {n}.", True) for n in range(12)]
    changes = [asdict(change) for change in compare(before, after)]
    sample = {"messages": [{"role": "user", "content": text}], "before": text, "after": text}
    report: dict[str, Any] = {
        "data": {"train": 170, "held_out": 30, "seen": 510},
        "steps": 5,
        "timing": {"training_s": 12.5, "run_s": 20.25},
        "pairs": {"pairs": 30, "accuracy": 0.75, "margin": 1.5, "loss": 0.4},
        "generations": {
            "ended_before": 1.0,
            "ended_after": 0.5,
            "length_before": 20.0,
            "length_after": 30.0,
            "kl_k1": 2.5,
            "samples": [sample],
        },
        "artefacts": changes,
        "win_rate": {"rate": 0.6, "low": 0.502, "high": 0.691, "n": 100},
        "environment": {"python": "3.11.7", "snapshot": "abc", "versions": {"trl": "1.16.0"}},
    }
    verdicts = [verdict.to_json() for verdict in judge(Evidence.of(EVENTS, report))]
    return {**report, "verdicts": verdicts}


def test_the_page_is_whole_and_tells_all_in_its_order() -> None:
    read = outline(render(make_spec(), EVENTS, make_report()))

    told = " ".join(read.text)
    heads = ["DPO from pol-000003", "What the numbers say", "What was asked", "Before and after"]
    heads += ["Habits", "Curves", "Side by side", "What it took", "Made with"]
    places = [told.index(head) for head in heads]
    assert places == sorted(places)
    assert read.tags[:2] == ["html", "head"]
    assert {"svg", "polyline", "table", "details"} <= set(read.tags)


def test_what_was_estimated_and_what_people_said_stand_beside_what_the_trainer_knows() -> None:
    told = foretold()
    beside = Beside([Blind("pol-000003", win_rate(3, 1, 0))], Foretold(told, 3600.0))
    text = " ".join(outline(render(make_spec(), EVENTS, make_report(), beside)).text)

    assert f"seconds {plain(told.seconds)} 20.2" in text
    assert f"Tokens trained on {plain(told.tokens)} —" in text
    assert f"Money {plain(told.seconds)} 20.2" in text
    assert "pol-000003 75.0% (30.1% to 95.4%) 3 won, 1 lost, 0 drawn" in text
    alone = " ".join(outline(render(make_spec(), EVENTS, make_report())).text)
    assert "seconds — 20.2" in alone
    assert "Money" not in alone


def test_an_estimate_made_after_the_run_is_called_so() -> None:
    before, after = (
        render(
            make_spec(), EVENTS, make_report(), Beside(foretold=Foretold(foretold(), None, late))
        )
        for late in (False, True)
    )
    assert "Estimated afterwards" in after
    assert "Estimated afterwards" not in before


def test_people_and_the_reward_model_are_drawn_over_the_root_of_the_kl() -> None:
    near = Standing("pol-000004", 1.5, 0.7, win_rate(6, 4, 0))
    far = Standing("pol-000005", 2.5, 0.9, win_rate(2, 8, 0))
    page = render(make_spec(), EVENTS, make_report(), Beside(standings=[far, near]))

    told = " ".join(outline(page).text)
    assert "by the reward model 0.5 → 0.9 by people 0.5 → 0.2" in told
    assert "√KL 2.5" in told
    assert "by people" not in render(make_spec(), EVENTS, make_report())


def test_the_watch_is_one_drawing_over_the_root_of_the_kl() -> None:
    seen = [metrics(step=5 * n, **look) for n, look in enumerate((look_at(0.0), look_at(6.25)))]
    read = outline(render(make_spec(), [*EVENTS, *seen], make_report()))

    told = " ".join(read.text)
    assert "Over-optimisation watch" in told
    assert "reward 0 → 6.25 second model 1 → 0" in told
    assert "√KL 2.5" in told
    assert "Proxy reward" not in told


def look_at(kl: float) -> dict[str, float]:
    looked = Look(0, kl, kl, 0.1, 1.0 - bool(kl), 0.1)._asdict()
    return {name: value for name, value in looked.items() if name != "step"}


def drawn_under_verdicts(events: Sequence[Event], report: Mapping[str, Any]) -> str:
    """The section of the verdicts alone."""
    verdicts = [verdict.to_json() for verdict in judge(Evidence.of(events, report))]
    page = render(make_spec(), events, {**report, "verdicts": verdicts})
    return page[page.index("What the numbers say") : page.index("What was asked")]


OVERFIT = [
    *(metrics(n, loss=0.7 - n / 40) for n in range(1, 21)),
    *(metrics(5 * n, held_out_loss=loss) for n, loss in ((1, 0.6), (2, 0.5), (3, 0.6), (4, 0.7))),
]


def test_a_verdict_has_its_curve_under_its_words_with_the_step_at_which_it_turned() -> None:
    found = drawn_under_verdicts(OVERFIT, {})

    words, _, drawing = found.partition("<figure>")
    assert "over-fitting" in words
    assert 'aria-label="Loss: training 0.675 → 0.2; held-out 0.6 → 0.7"' in drawing
    assert ">step 10</text>" in drawing
    marked = re.search(r'<line x1="([\d.]+)"', drawing)
    assert marked
    # Of the steps 1 to 20, within the margins.
    across = MARGIN + (WIDTH - 2 * MARGIN) * (10 - 1) / (20 - 1)
    assert float(marked[1]) == pytest.approx(across, abs=0.1)


def test_the_watch_is_marked_at_the_distance_of_the_step_at_which_it_turned() -> None:
    watched = [Look(5 * n, n * 4.0, n, 0.1, w, 0.1) for n, w in enumerate((0, 1, 0.5, 0.25))]
    events = [metrics(**look._asdict()) for look in watched]

    drawing = drawn_under_verdicts(events, {})

    marked = re.search(r'<line x1="([\d.]+)"', drawing)
    assert marked
    across = MARGIN + (WIDTH - 2 * MARGIN) * math.sqrt(4 / 12)
    assert float(marked[1]) == pytest.approx(across, abs=0.1)
    assert ">step 5</text>" in drawing


@pytest.mark.parametrize(
    "report", [make_report(), {"generations": {"kl_k1": 30.0}}, {"win_rate": LOST}]
)
def test_a_verdict_that_no_curve_shows_has_none(report: Mapping[str, Any]) -> None:
    alone = metrics(5, kl=30.0)  # One point is no curve.

    assert "<figure>" not in drawn_under_verdicts([alone], report)


def test_the_page_needs_nothing_from_outside() -> None:
    page = render(make_spec(), EVENTS, make_report())
    read = outline(page)

    assert {"script", "link", "img", "iframe", "form"}.isdisjoint(read.tags)
    assert not re.search(r"https?:|//|url\(|@import", page)
    assert not [name for name, _ in read.attributes if name.startswith("on") or name == "src"]


def test_what_a_policy_wrote_is_text() -> None:
    page = render(make_spec(), EVENTS, make_report(HOSTILE))
    read = outline(page)

    assert "script" not in read.tags
    assert "img" not in read.tags
    assert "".join(read.text).count(HOSTILE) == 3


def test_figures_are_told_with_their_intervals() -> None:
    told = " ".join(outline(render(make_spec(), EVENTS, make_report())).text)

    assert "60.0\u00a0% (50.2\u00a0% to 69.1\u00a0%)" in told
    assert "Ranks as people did (held-out pairs: 30)" in told
    assert "It apologises much more" in told


SCORER = {
    "run_id": "run-5",
    "accuracy": 0.7,
    "pairs": 100,
    "left_out": 0,
    "is_learned_from": False,
}


def told_of_scoring(**report: Any) -> str:
    return " ".join(outline(render(make_spec(), EVENTS, {**make_report(), **report})).text)


def test_who_scored_is_told_with_how_sure_that_is() -> None:
    told = told_of_scoring(scored_by=SCORER, unscored=None)

    assert "by the reward model of run-5, not by people" in told
    assert "70% of 100 held-out pairs" in told
    assert "60% to 78%" in told
    assert "learned from the same" not in told
    assert "did not count" not in told
    # Two pairs to each ranking.
    of_rankings = told_of_scoring(scored_by={**SCORER, "comparisons": 50}, unscored=None)
    assert "56% to 81%" in of_rankings


def test_what_makes_a_win_rate_doubtful_is_told() -> None:
    doubtful = {**SCORER, "pairs": None, "accuracy": None, "left_out": 3, "is_learned_from": True}
    told = told_of_scoring(scored_by=doubtful, unscored=None)

    assert "was not measured" in told
    assert "learned from the same reward model" in told
    assert "Of the test prompts 3 did not count" in told
    unknown = told_of_scoring(scored_by={**SCORER, "left_out": None}, unscored=None)
    assert "trained on test prompts is not known" in unknown


def test_why_nobody_scored_is_told() -> None:
    why = Message("No reward model was there.").to_json()
    told = told_of_scoring(win_rate=None, scored_by=None, unscored=why)

    assert "No reward model was there." in told


def test_wins_over_the_base_are_told_beside_those_of_the_policy_before() -> None:
    won = {"rate": 0.8, "low": 0.71, "high": 0.87, "n": 100, "rate_before": 0.55}
    told = told_of_scoring(win_rate_over_base=won)

    assert "Wins over the base model, by the reward model (prompts: 100)" in told
    assert "55.0\u00a0% 80.0\u00a0% (71.0\u00a0% to 87.0\u00a0%)" in told


def test_only_options_that_differ_from_the_preset_are_told() -> None:
    usual = DPOOptions.preset(200, parameters=None, tuning="lora")
    page = render(make_spec(**{**asdict(usual), "beta": 0.5}), EVENTS, make_report())

    told = outline(page).text
    assert "0.5 (preset: 0.1)" in told
    assert sum("(preset: " in text for text in told) == 1


def test_the_preset_of_a_divided_reward_run_is_that_of_all_its_rows() -> None:
    usual = RewardOptions.preset(1100, parameters=None, tuning="lora")
    counts = {"train": 250, "held_out": 50, "second_model": 250, "pairs": 1100}
    spec = replace(make_spec(), method="reward", options=usual)
    page = render(spec, EVENTS, {**make_report(), "data": counts})

    assert sum("(preset: " in text for text in outline(page).text) == 0


def test_a_curve_stays_within_its_frame_and_a_level_one_lies_in_the_middle() -> None:
    page = render(make_spec(), EVENTS, make_report())

    curves = re.findall(r'polyline points="([^"]+)"', page)
    places = [tuple(map(float, place.split(","))) for curve in curves for place in curve.split()]
    assert all(0 < x < WIDTH and 0 < y < HEIGHT for x, y in places)
    assert {y for _, y in places[-5:]} == {HEIGHT / 2}


def test_every_metric_has_a_curve_also_one_that_nobody_named() -> None:
    told = outline(render(make_spec(), EVENTS, make_report())).text

    assert {"Loss", "KL to the reference, nats a response", "Odd number"} <= set(told)
    assert {"training 0.65 → 0.45", "held-out 0.6 → 0.6"} <= set(told)


def test_curves_of_one_drawing_are_told_apart_by_their_colours() -> None:
    page = render(make_spec(), EVENTS, make_report())

    assert '<i class="key training"></i>training 0.65 → 0.45' in page
    assert '<i class="key held-out"></i>held-out 0.6 → 0.6' in page


@pytest.mark.parametrize("report", [{}, {"generations": None, "pairs": None, "artefacts": []}])
def test_a_run_that_measured_nothing_has_a_page_too(report: Mapping[str, Any]) -> None:
    read = outline(render(make_spec(), [], report))

    told = " ".join(read.text)
    assert "What was asked" in told
    assert "Habits" not in told
    assert "Curves" not in told
    assert "Made with" not in told


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.12345, "0.123"),
        (61.08, "61.1"),
        (999.4, "999"),
        (999.6, "1,000"),
        (2523.4, "2,523"),
        (-1640, "-1,640"),
        (0.00001, "1e-05"),
        (3e12, "3e+12"),
    ],
)
def test_large_figures_are_written_out(value: float, text: str) -> None:
    assert plain(value) == text
