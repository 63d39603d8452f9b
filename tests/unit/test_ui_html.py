"""The leads' HTML: hostile text stays text, and charts and numbers are what they say."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from labeling import i18n
from labeling.duels import Duel
from labeling.exchange import ImportWork, WorkState
from labeling.launching import RunView
from labeling.promoting import VersionRow
from labeling.ui import export, html, policies, project, prompts, run_charts, run_view, train
from labeling.ui.html import Html, Line, el
from store.errors import BadInput, BadRow
from store.guidelines import Guidelines
from store.imports import ImportReport
from store.preferences import PreferenceCounts
from store.records import Policy, Run, RunEvent, RunState
from store.training_data import KindCount
from training.artefacts import Response, compare
from training.blind import Standing
from training.events import series
from training.findings import WATCH, Curve
from training.messages import Message
from training.overoptimization import Look
from training.proportions import UNKNOWN, win_rate
from training.runs import DIED, DIED_AGAIN
from training.shortages import LESS_MEMORY
from training.verdicts import Evidence, judge

PAIRS = {"pairs": 30, "accuracy": 0.75, "margin": 1.5, "loss": 0.4}
HOSTILE = (
    '</div><img src=x onerror="alert(1)"><script>alert(2)</script>`${alert(3)}` {{value}} \' &amp;'
)
NOW = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)


def make_run(state: RunState = RunState.RUNNING, **changes: Any) -> Run:
    run = Run(
        id="run-1",
        method="dpo",
        spec={},
        snapshot_id="5" * 64,
        parent_version="pol-000000",
        state=state,
        folder="/nowhere",
        created_by="ana",
        created_at=NOW - timedelta(minutes=5),
        started_at=NOW - timedelta(minutes=5),
    )
    return replace(run, **changes)


def make_events(*told: tuple[str, Mapping[str, Any]], every_s: float = 1.0) -> list[RunEvent]:
    start = NOW.timestamp() - every_s * len(told)
    return [
        RunEvent("run-1", seq, start + every_s * (seq + 1), kind, data)
        for seq, (kind, data) in enumerate(told)
    ]


def assert_harmless(markup: str) -> None:
    """Nothing of the hostile text became an element or left an attribute."""
    assert "<img" not in markup
    assert "<script" not in markup
    assert "onerror=&quot;" in markup or "onerror" not in markup


def test_text_is_escaped_wherever_it_is_put() -> None:
    made = el("div", HOSTILE, title=HOSTILE, data_key=HOSTILE)

    assert_harmless(made)
    assert made.count("<") == 2


def test_html_of_ours_goes_in_as_it_stands() -> None:
    assert el("p", el("b", "a < b")) == "<p><b>a &lt; b</b></p>"


def test_a_joined_list_escapes_the_parts_and_the_separator() -> None:
    assert html.join(["<a>", el("i", "b")], " & ") == "&lt;a&gt; &amp; <i>b</i>"


def test_attributes_that_are_false_or_none_are_left_out() -> None:
    made = el("button", "x", disabled=True, hidden=False, title=None, class_="c", data_act="go")

    assert made == '<button disabled class="c" data-act="go">x</button>'


@pytest.mark.parametrize(
    "piece",
    [
        html.section(HOSTILE, HOSTILE, note=HOSTILE),
        html.pill(HOSTILE),
        html.notice("bad", HOSTILE, HOSTILE),
        html.empty(HOSTILE, HOSTILE),
        html.table([HOSTILE], [[HOSTILE]]),
        html.definitions([(HOSTILE, HOSTILE)]),
        html.button(HOSTILE, "act", key=HOSTILE, ask=HOSTILE, title=HOSTILE),
        html.short_hash(HOSTILE),
        html.code_block(HOSTILE),
        html.progress_bar(0.5, HOSTILE),
        html.interval_meter(0.5, 0.4, 0.6, HOSTILE),
        html.line_chart(HOSTILE, [Line(HOSTILE, [(1, 1), (2, 2)])], note=HOSTILE),
        run_view.log_tail(HOSTILE),
        export.preview_table([{"prompt": [{"role": "user", "content": HOSTILE}], "n": HOSTILE}]),
        prompts.work_card(ImportWork(WorkState.FAILED, HOSTILE, error=BadInput(HOSTILE))),
    ],
)
def test_no_piece_lets_hostile_text_through(piece: Html) -> None:
    assert_harmless(piece)


def test_hostile_responses_are_shown_as_text() -> None:
    sample = {
        "messages": [{"role": "user", "content": HOSTILE}],
        "before": HOSTILE,
        "after": HOSTILE,
    }
    generations = {
        "ended_before": 1.0,
        "ended_after": 1.0,
        "length_before": 10.0,
        "length_after": 12.0,
        "kl_k1": 0.5,
        "samples": [sample],
    }
    report = {"report": {"generations": generations}}

    shown = result_of(RunView(make_run(RunState.SUCCEEDED, result=report), [], None))

    assert_harmless(shown)
    assert shown.count("alert(3)") == 3


def result_of(view: RunView, *, is_live: bool = False) -> str:
    """What the run left, as it is drawn."""
    return run_view.result(view, is_live=is_live)


def test_a_result_shows_verdicts_habits_and_intervals() -> None:
    before = [Response(f"Open item {n}.", True) for n in range(12)]
    after = [Response(f"Sorry. Open item {n}.", True) for n in range(12)]
    report: dict[str, Any] = {
        "artefacts": [asdict(change) for change in compare(before, after)],
        "win_rate": {"rate": 0.6, "low": 0.502, "high": 0.691, "n": 100},
    }
    verdicts = [verdict.to_json() for verdict in judge(Evidence.of([], report))]

    run = make_run(RunState.SUCCEEDED, result={"report": {**report, "verdicts": verdicts}})

    shown = result_of(RunView(run, [], None))

    assert_harmless(shown)
    assert 'wsl-notice wsl-warn" role="status"><strong>It apologises much more</strong>' in shown
    assert "grew much" in shown
    assert "60.0 %</b><span" in shown
    assert "95 % interval: 50.2 % to 69.1 %" in shown
    # What neither policy does has no row.
    assert "Sentences that hedge" not in shown


def test_a_result_says_who_scored_in_the_language_of_the_reader() -> None:
    why = Message("No reward model has scored the responses: {error}", {"error": "gone"}).to_json()
    report = {"win_rate": None, "unscored": why, "pairs": PAIRS}
    view = RunView(make_run(RunState.SUCCEEDED, result={"report": report}), [], None)

    assert "No reward model has scored the responses: gone" in result_of(view)
    with i18n.speaking(i18n.Language.ZH):
        assert "没有奖励模型为回复打分：gone" in result_of(view)


def test_a_result_shows_people_apart_from_the_machine_and_says_where_none_has_judged() -> None:
    run = make_run(RunState.SUCCEEDED, result={"report": {"pairs": PAIRS}})
    policy = make_version(0, 0).policy
    duel = Duel("pol-000001", win_rate(40, 10, 0), 3)

    assert "By people" not in result_of(RunView(run, [], None))
    assert "they begin when it is promoted" in result_of(RunView(run, [], policy))
    assert "the first are being written" in result_of(RunView(run, [], policy), is_live=True)
    judged = result_of(RunView(run, [], policy, (duel,)))
    assert "Blind against pol-000001: better (67 to 89 %)" in judged


def test_people_who_like_it_less_than_the_reward_model_did_are_heard_before_the_machine() -> None:
    fine = [verdict.to_json() for verdict in judge(Evidence(held_out_loss=[(1, 0.6), (2, 0.5)]))]
    report = {"verdicts": fine, "win_rate": win_rate(90, 10, 0)._asdict()}
    run = make_run(RunState.SUCCEEDED, result={"report": report})
    policy = make_version(0, 0).policy
    duel = Duel(run.parent_version, win_rate(10, 40, 0), 0)

    alone, heard = (result_of(RunView(run, [], policy, met)) for met in ((), (duel,)))

    assert "The numbers look fine" in alone
    assert "The numbers look fine" not in heard
    assert "by the reward model, and 20% by people" in heard


OVERFIT = [
    *(("metrics", {"step": n, "loss": 0.7 - n / 40}) for n in range(1, 21)),
    *(
        ("metrics", {"step": 5 * n, "held_out_loss": loss})
        for n, loss in ((1, 0.6), (2, 0.5), (3, 0.6), (4, 0.7))
    ),
]


def of_overfit_run(**without: Any) -> str:
    events = make_events(*OVERFIT)
    (verdict,) = judge(Evidence.of(events, {}))
    told = {name: value for name, value in verdict.to_json().items() if name not in without}
    run = make_run(RunState.SUCCEEDED, result={"report": {"verdicts": [told]}})
    return result_of(RunView(run, events, None))


def test_a_verdict_has_its_curve_under_its_words_with_the_step_at_which_it_turned() -> None:
    words, _, drawing = of_overfit_run().partition("<figure")

    assert "over-fitting" in words
    assert "held-out from 0.6 to 0.7" in drawing
    # Of the steps 1 to 20.
    assert "M47.37 0V100" in drawing
    assert 'class="wsl-turn" style="left: 47.37%">step 10<' in drawing


def test_a_verdict_of_an_older_version_is_shown_without_a_curve() -> None:
    shown = of_overfit_run(curve=None)

    assert "over-fitting" in shown
    assert "<figure" not in shown


def test_a_verdict_on_a_curve_of_one_point_has_no_drawing() -> None:
    run, events = make_run(RunState.SUCCEEDED), make_events(("metrics", {"step": 1, "kl": 30.0}))

    assert run_charts.shown_by(run, events, Curve("kl")) == ""
    assert run_charts.shown_by(run, events, Curve("unheard_of")) == ""


@pytest.mark.parametrize("method", ["ppo", "online_dpo", "best_of_n", "dpo", "reward", "sft"])
@pytest.mark.parametrize("metric", ["loss", "score", "kl", "length", "accuracy"])
def test_what_a_verdict_is_drawn_from_has_a_chart_with_every_method(
    method: str, metric: str
) -> None:
    run = make_run(RunState.SUCCEEDED, method=method)
    events = make_events(*(("metrics", {"step": n, metric: n / 2}) for n in range(3)))

    assert "<figure" in run_charts.shown_by(run, events, Curve(metric))


def test_the_watch_is_marked_at_the_distance_of_the_step_at_which_it_turned() -> None:
    watched = [Look(5 * n, n * 4.0, n, 0.1, 1.0, 0.1) for n in range(5)]
    events = make_events(*(("metrics", look._asdict()) for look in watched))

    drawn = run_charts.shown_by(make_run(), events, Curve(WATCH, 5))

    assert "M50.00 0V100" in drawn
    assert ">step 5<" in drawn


@pytest.mark.parametrize(
    ("options", "is_drawn"),
    [
        ({}, True),
        ({"loss_type": "robust"}, True),
        ({"loss_type": "ipo"}, False),
        ({"loss_type": "hinge"}, False),
        ({"loss_type": "sigmoid", "sft_weight": 0.5}, False),
    ],
)
def test_ln_2_is_drawn_where_the_loss_begins_there(options: dict[str, Any], is_drawn: bool) -> None:
    run = replace(make_run(RunState.RUNNING), method="dpo", spec={"options": options})
    points = [RunEvent("run-1", n, 1.0, "metrics", {"step": n, "loss": 2.0 - n}) for n in (0, 1)]
    parts = run_charts.curves(run, points).split("wsl-guide")
    assert len(parts) == 1 + is_drawn


def test_people_s_share_is_drawn_with_its_interval_over_the_distance() -> None:
    run = make_run(RunState.SUCCEEDED)
    told = make_events(("metrics", {"step": 1, "loss": 0.5}))
    judged = Standing("pol-000001", 2.0, 0.9, win_rate(30, 70, 0))
    unmet = Standing("pol-000002", 4.0, 0.95, UNKNOWN)

    def drawn(*standings: Standing) -> str:
        return run_charts.curves(run, told, standings)

    assert "People and reward model" not in drawn(unmet)
    found = drawn(unmet, judged)
    assert "by the reward model from 0.5 to 0.95; by people from 0.5 to 0.3" in found
    assert "win against it" in found
    bar = re.search(r"M50\.00 ([\d.]+)V([\d.]+)", found)
    assert bar
    bottom, top = map(float, bar.groups())
    # Of a chart that shows 0 to 1 with some room, as the interval 0.219 to 0.396.
    assert (bottom - top) / 100 == pytest.approx((0.396 - 0.219) * (1 - 2 * html.ROOM), abs=0.002)


def test_without_a_reward_model_people_stand_alone() -> None:
    told = make_events(("metrics", {"step": 1, "loss": 0.5}))
    judged = Standing("pol-000001", 2.0, None, win_rate(30, 70, 0))
    found = run_charts.curves(make_run(RunState.SUCCEEDED), told, [judged])
    assert "by people from 0.5 to 0.3" in found
    assert "by the reward model" not in found.replace("by the reward model, and", "")


def test_a_run_with_a_page_links_to_it_and_an_older_one_does_not() -> None:
    def drawn(report: dict[str, Any]) -> str:
        run = make_run(RunState.SUCCEEDED, result={"report": report})
        return run_view.actions(RunView(run, [], None), is_live=False, is_log_shown=False)

    assert 'href="/api/runs/run-1/report"' in drawn({"verdicts": []})
    assert "/report" not in drawn({"pairs": None})


def test_a_refusal_of_an_import_is_shown_as_text() -> None:
    report = ImportReport(
        import_id="i",
        format="trl",
        accepted=1,
        known=0,
        refused=1,
        refusals=(BadRow(HOSTILE, 3, HOSTILE, HOSTILE),),
        prompts_added=1,
        preferences_added=0,
        thumbs_added=0,
        pairs_added=0,
        general_added=0,
        judgments_added=0,
        was_cancelled=False,
    )

    assert_harmless(prompts.report_card(report))


def test_a_chart_without_points_says_so() -> None:
    assert "no numbers yet" in html.line_chart("Loss", [Line("loss", [])])


def test_a_chart_of_one_point_is_a_dot() -> None:
    chart = html.line_chart("Loss", [Line("loss", [(1, 0.5)])])

    assert "wsl-dots" in chart
    assert "nan" not in chart.lower()


def test_a_chart_of_equal_points_lies_in_the_middle() -> None:
    chart = html.line_chart("Loss", [Line("loss", [(1, 2.0), (2, 2.0)])])

    assert 'd="M0.00 50.00L100.00 50.00"' in chart


def test_a_chart_spans_its_extremes() -> None:
    chart = html.line_chart("Loss", [Line("loss", [(0, 0.0), (10, 1.0)])])

    # 8 % of room above and below: the lowest point at 92, the highest at 8.
    assert 'd="M0.00 92.00L100.00 8.00"' in chart


def test_the_labels_at_the_edges_of_a_chart_are_short() -> None:
    chart = html.line_chart("Margin", [Line("margin", [(1, -0.000652), (2, 123456.0)])])

    assert 'wsl-tick-bottom">0<' in chart
    assert 'wsl-tick-top">1.2e+05<' in chart


def test_points_that_are_no_numbers_are_left_out() -> None:
    points = [(1.0, 1.0), (2.0, math.nan), (3.0, math.inf), (4.0, 2.0)]

    chart = html.line_chart("Loss", [Line("loss", points)])

    assert not re.search(r"nan|inf\b", chart)


def test_downsampling_keeps_order_ends_and_extremes() -> None:
    points = [(float(x), math.sin(x / 50)) for x in range(10_000)]
    points[6789] = (6789.0, 9.0)

    kept = html.downsampled(points)

    assert len(kept) <= html.MAX_POINTS
    assert kept == sorted(kept)
    assert (6789.0, 9.0) in kept
    assert kept[-1][0] > 9_900


def test_few_points_are_not_downsampled() -> None:
    assert html.downsampled([(1, 2), (2, 3)]) == [(1, 2), (2, 3)]


def test_the_running_mean_of_a_constant_is_that_constant() -> None:
    smooth = html.running_mean([(x, 3.0) for x in range(100)])

    assert all(math.isclose(y, 3.0) for _, y in smooth)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.04, "0.0 s"),
        (8.34, "8.3 s"),
        (59.6, "1 min 0 s"),
        (125, "2 min 5 s"),
        (3840, "1 h 4 min"),
    ],
)
def test_durations_read_as_people_say_them(seconds: float, said: str) -> None:
    assert i18n.duration(seconds) == said


def test_the_state_and_the_steps_of_a_run_are_told() -> None:
    events = make_events(
        ("phase", {"name": "training"}),
        ("progress", {"step": 1, "total": 10, "first_step": True}),
        ("progress", {"step": 5, "total": 10, "first_step": False}),
        every_s=4.0,
    )

    shown = run_view.status(RunView(make_run(), events, None), NOW)

    assert "Running" in shown
    assert "5 / 10" in shown
    assert 'aria-valuenow="50"' in shown


def test_the_time_left_follows_the_pace_of_this_process() -> None:
    # Before the resume 100 s a step, after it 2 s a step; 5 steps are left.
    slow = RunEvent("run-1", 0, 0.0, "progress", {"step": 1, "total": 10, "first_step": True})
    resumed = [
        RunEvent("run-1", 1, 100.0, "progress", {"step": 3, "total": 10, "first_step": True}),
        RunEvent("run-1", 2, 104.0, "progress", {"step": 5, "total": 10, "first_step": False}),
    ]

    left = run_view.remaining_s([slow, *resumed], datetime.fromtimestamp(104.0, UTC))

    assert left == pytest.approx(10.0)


def test_responses_drawn_between_steps_are_no_steps() -> None:
    events = [
        RunEvent("run-1", 0, 0.0, "phase", {"name": "generating"}),
        RunEvent("run-1", 1, 50.0, "progress", {"step": 1, "total": 9, "first_step": True}),
        RunEvent("run-1", 2, 100.0, "phase", {"name": "training"}),
        RunEvent("run-1", 3, 100.0, "progress", {"step": 3, "total": 10, "first_step": False}),
        RunEvent("run-1", 4, 104.0, "progress", {"step": 5, "total": 10, "first_step": False}),
    ]

    left = run_view.remaining_s(events, datetime.fromtimestamp(104.0, UTC))

    assert left == pytest.approx(10.0)


def test_no_time_left_is_told_before_the_second_step() -> None:
    events = make_events(("progress", {"step": 1, "total": 10, "first_step": True}))

    assert run_view.remaining_s(events, NOW) is None


def test_a_resumed_step_replaces_the_one_before() -> None:
    events = make_events(
        ("metrics", {"step": 2, "loss": 0.5}),
        ("metrics", {"step": 1, "loss": 0.7}),
        ("metrics", {"step": 2, "loss": 0.4}),
        ("metrics", {"step": 3, "loss": None}),
    )

    assert series(events, "loss") == [(1.0, 0.7), (2.0, 0.4)]


def test_a_failed_run_says_what_to_do() -> None:
    failure = {"name": "nan_loss", "message": "The loss became nan.", "advice": "Halve the rate."}
    run = make_run(RunState.FAILED, result={"failure": failure}, finished_at=NOW)

    shown = run_view.status(RunView(run, [], None), NOW)

    assert "The loss became nan." in shown
    assert "Halve the rate." in shown


def test_a_run_that_died_says_what_takes_less_memory_in_the_language_of_who_reads() -> None:
    error = f"{DIED} {DIED_AGAIN} {LESS_MEMORY} the end of the log"
    view = RunView(make_run(RunState.INTERRUPTED, error=error, finished_at=NOW), [], None)

    with i18n.speaking(i18n.Language.ZH):
        shown = run_view.status(view, NOW)
        said = [i18n.t(text) for text in (DIED, DIED_AGAIN, LESS_MEMORY)]

    assert all(text in shown for text in (*said, "the end of the log"))
    assert LESS_MEMORY not in shown


@pytest.mark.parametrize(
    ("state", "offered", "not_offered"),
    [
        (RunState.RUNNING, "train-cancel", "train-resume"),
        (RunState.INTERRUPTED, "train-resume", "train-cancel"),
        (RunState.FAILED, "train-resume", "train-cancel"),
        (RunState.CANCELLED, "run-log-button", "train-resume"),
    ],
)
def test_a_run_offers_what_its_state_allows(
    state: RunState, offered: str, not_offered: str
) -> None:
    shown = run_view.actions(RunView(make_run(state), [], None), is_live=False, is_log_shown=False)

    assert offered in shown
    assert not_offered not in shown


def test_train_says_why_it_cannot_be_pressed() -> None:
    some, none = KindCount(60, 60), KindCount(0, 0)

    def why(amount: KindCount, *, active: str | None = None, lacks: bool = False) -> str:
        return train.why_not(amount, active_run=active, lacks_reward_model=lacks) or ""

    assert not why(some)
    assert "run-7" in why(some, active="run-7")
    assert "nothing to train on" in why(none)
    assert "reward model" in why(some, lacks=True)


@pytest.mark.parametrize(
    ("method", "rows", "said"),
    [
        ("dpo", 49, "It is 1 short of the next size"),
        ("reward", 60, "hardly better than chance"),
        ("ppo", 1000, "Plenty of prompts"),
    ],
)
def test_what_an_amount_is_good_for_depends_on_the_method(
    method: str, rows: int, said: str
) -> None:
    card = train.data_card(method, KindCount(rows, rows), PreferenceCounts(rows, 0, 0, 0, rows))
    assert said in card


def test_what_is_set_aside_is_told_with_its_reason() -> None:
    card = train.data_card("dpo", KindCount(60, 55), PreferenceCounts(60, 7, 5, 3, 55, 2))

    for reason in ("Held out", "Blind comparisons", "the same text", "A response is empty"):
        assert reason in card


def make_version(wins: int, losses: int, waiting: int = 0) -> VersionRow:
    policy = Policy("pol-000002", "starter", "pol-000001", "/a", "ab" * 32, "run-1", "cd" * 32, NOW)
    duel = Duel("pol-000001", win_rate(wins, losses, 0), waiting)
    return VersionRow(policy, False, (duel,))


@pytest.mark.parametrize(
    ("wins", "losses", "said"),
    [(40, 10, "better"), (10, 40, "worse"), (6, 5, "not decided yet")],
)
def test_a_version_is_called_better_only_when_its_interval_says_so(
    wins: int, losses: int, said: str
) -> None:
    assert f": {said} (" in policies.verdict(make_version(wins, losses))


def test_without_verdicts_nothing_is_claimed() -> None:
    shown = policies.verdict(make_version(0, 0, waiting=12))

    assert "12 comparisons waiting" in shown
    unmet = replace(make_version(0, 0), is_live=True, duels=())
    assert "being written" in policies.verdict(unmet)
    assert "%" not in shown


def test_the_guidelines_say_which_version_is_in_force_and_since_when() -> None:
    assert "None yet" in project.guidelines_head(None, NOW)
    written = Guidelines(3, HOSTILE, "lea", NOW - timedelta(hours=2))
    head = project.guidelines_head(written, NOW)
    assert "Version 3, published: <time" in head
    assert "&lt;time" not in head
