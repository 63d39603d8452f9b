"""A training run as a lead sees it, drawn from what the store knows of it. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any
from urllib.parse import quote

from labeling import i18n
from labeling.duels import judged
from labeling.i18n import mark, say, t
from labeling.launching import RunView
from labeling.reward_models import made_reward_model
from labeling.ui import duels, html, run_charts, run_report
from labeling.ui.html import EMPTY, Html, el
from store.records import Policy, Run, RunEvent, RunState, last_user_message
from training.blind import all_verdicts
from training.events import EventKind
from training.messages import Message
from training.methods import METHODS, LearnsFrom
from training.runs import DIED, DIED_AGAIN, STOPPED_ELSEWHERE
from training.shortages import LESS_MEMORY

OPEN_SAMPLES = 3
LONGEST_PROMPT = 400

_STATES = {
    RunState.QUEUED: (mark("Waiting"), "quiet"),
    RunState.RUNNING: (mark("Running"), "accent"),
    RunState.SUCCEEDED: (mark("Succeeded"), "good"),
    RunState.FAILED: (mark("Failed"), "bad"),
    RunState.CANCELLED: (mark("Cancelled"), "quiet"),
    RunState.INTERRUPTED: (mark("Interrupted"), "warn"),
}
_PHASES = {
    "loading": mark("Loading the model"),
    "preparing": mark("Preparing the data"),
    "generating": mark("Writing responses to learn from"),
    "training": mark("Training"),
    "watch": mark("Training the second model, for the watch"),
    "evaluating": mark("Measuring the result on held-out prompts"),
}

_LEARNED = {
    LearnsFrom.PREFERENCES: mark("pairs"),
    LearnsFrom.COMPARISONS: mark("pairs"),
    LearnsFrom.DEMONSTRATIONS: mark("responses"),
    LearnsFrom.RATINGS: mark("ratings"),
    LearnsFrom.PROMPTS: mark("prompts"),
}

# Phases after the steps that progress is counted in.
_UNCOUNTED = ("evaluating", "watch")


def status(view: RunView, now: datetime) -> Html:
    """State, phase, how far, how long still, and what a person should know."""
    run = view.run
    label, tone = _STATES[run.state]
    head = el(
        "div",
        html.pill(t(label), tone, id="run-state"),
        el("span", _doing(view), class_="wsl-run-phase", id="run-phase"),
        el("code", run.id, class_="wsl-quiet"),
        class_="wsl-run-head",
    )
    parts = [head]
    if not run.state.is_final:
        parts.append(html.progress_bar(_share(view.events), t("Progress"), id="run-progress"))
    parts.append(html.figures(*_times(view, now)))
    parts += [html.notice("warn", t("Note"), text) for text in _warnings(view.events)]
    if run.state in (RunState.FAILED, RunState.INTERRUPTED):
        parts.append(_trouble(run))
    return html.join(parts)


def actions(view: RunView, *, is_live: bool, is_log_shown: bool) -> Html:
    """What can be done with the run now."""
    run, policy = view.run, view.policy
    buttons = []
    if policy is not None and is_live:
        buttons.append(
            html.pill(t("{version} is live", version=policy.version), "good", id="run-is-live")
        )
    elif made_reward_model(run):
        buttons.append(html.pill(t("Ready to score responses"), "good", id="run-reward-model"))
    elif policy is not None:
        buttons.append(
            html.button(
                t("Promote {version}", version=policy.version),
                "promote",
                key=policy.version,
                tone="primary",
                id="run-promote",
            )
        )
    if not run.state.is_final:
        buttons.append(
            html.button(
                t("Cancel the run"),
                "cancel",
                key=run.id,
                ask=t(
                    "The trainer stops at its next step. What it has learned so far is not kept; "
                    "your judgments are."
                ),
                ask_title=t("Cancel this run?"),
                id="train-cancel",
            )
        )
    if run.state in (RunState.FAILED, RunState.INTERRUPTED):
        buttons.append(
            html.button(t("Resume"), "resume", key=run.id, tone="primary", id="train-resume")
        )
    if "verdicts" in _report(run):
        buttons.append(_report_link(run))
    act, text = ("hide-log", t("Hide the log")) if is_log_shown else ("log", t("Show the log"))
    buttons.append(html.button(text, act, key=run.id, id="run-log-button"))
    return el("div", *buttons, class_="wsl-actions")


def result(view: RunView, *, is_live: bool) -> Html:
    """Verdicts, figures before and after, people's own, habits, then responses side by side."""
    report = _report(view.run)
    if not report:
        return EMPTY
    by_people = _by_people(view, is_live=is_live)
    found = all_verdicts(report, judged(view.duels), parent=view.run.parent_version)
    draw = partial(run_charts.shown_by, view.run, view.events)
    measured = (run_report.verdicts(found, draw), run_report.measured(report), by_people)
    return html.join([*measured, run_report.habits(report), _samples(report)])


def log_tail(text: str) -> Html:
    """The end of the trainer's log."""
    body = el(
        "pre", text or t("The trainer has written nothing yet."), class_="wsl-log", tabindex=0
    )
    return html.section(t("Log"), body, note=t("The last lines that the trainer wrote."))


def run_list(
    runs: Sequence[Run],
    *,
    shown: str,
    policies: Mapping[str, Policy],
    names: Mapping[str, str],
    now: datetime,
) -> Html:
    """Every run, newest first, each of which can be opened. `policies` are by run id."""
    if not runs:
        return EMPTY
    rows = [
        [
            _state(run),
            join_lines(_method(run), el("code", run.id, class_="wsl-quiet")),
            f"{run.parent_version} → {_made(run, policies)}",
            _pairs(run),
            join_lines(html.ago(run.created_at, now), _who(names, run.created_by)),
            html.pill(t("shown above"), "quiet")
            if run.id == shown
            else html.button(t("Open"), "open", key=run.id, title=t("Show {id} above", id=run.id)),
        ]
        for run in runs
    ]
    heads = (t("State"), t("Method"), t("From → made"), t("Rows"), t("Started"), "")
    return html.section(t("Runs"), html.table(heads, rows, id="run-list"))


def _made(run: Run, policies: Mapping[str, Policy]) -> str:
    if made_reward_model(run):
        return t("reward model")
    return policies[run.id].version if run.id in policies else "—"


def join_lines(*lines: str) -> Html:
    """Lines within a cell."""
    return html.join(el("div", line) for line in lines if line)


def _doing(view: RunView) -> str:
    if view.run.state is RunState.QUEUED:
        return t("The trainer is starting")
    if view.run.state is not RunState.RUNNING:
        return _method(view.run)
    phases = [e.data.get("name", "") for e in view.events if e.kind == EventKind.PHASE]
    return t(_PHASES.get(phases[-1], str(phases[-1])) if phases else "The trainer is starting")


def _share(events: Sequence[RunEvent]) -> float | None:
    """How much of the steps is done; None while nobody knows, or while it is being measured."""
    progress, phase = _latest(events, EventKind.PROGRESS), _latest(events, EventKind.PHASE)
    if progress is None or (phase and phase.data.get("name") in _UNCOUNTED):
        return None
    return float(progress.data["step"]) / max(1, int(progress.data["total"]))


def _times(view: RunView, now: datetime) -> list[Html]:
    run, progress = view.run, _latest(view.events, EventKind.PROGRESS)
    began = run.started_at or run.created_at
    ended = run.finished_at or now
    shown = []
    if progress is not None:
        steps = f"{progress.data['step']} / {progress.data['total']}"
        shown.append(html.figure(steps, t("steps"), id="run-steps"))
    shown.append(html.figure(i18n.duration((ended - began).total_seconds()), t("elapsed")))
    left = None if run.state.is_final else remaining_s(view.events, now)
    if left is not None:
        shown.append(html.figure(f"≈ {i18n.duration(left)}", t("of training left")))
    if _report(run).get("data"):
        shown.append(html.figure(_pairs(run), _what_is_learned(run)))
    if replayed := (_report(run).get("data") or {}).get("replayed"):
        shown.append(html.figure(f"{int(replayed):,}", t("replayed"), id="run-replayed"))
    shown.append(html.figure(run.parent_version, t("trained from")))
    if view.policy is not None:
        shown.append(html.figure(view.policy.version, t("made"), id="run-version"))
    return shown


def remaining_s(events: Sequence[RunEvent], now: datetime) -> float | None:
    """Seconds of training left at the pace since its first step; None before the second one.

    A method may draw responses between steps: each phase is paced by itself.
    """
    steps: list[RunEvent] = []
    for event in events:
        if event.kind == EventKind.PHASE:
            steps = []
        elif event.kind == EventKind.PROGRESS:
            steps = [event] if event.data.get("first_step") else [*steps, event]
    if len(steps) < 2:
        return None
    first, last = steps[0], steps[-1]
    done = int(last.data["step"]) - int(first.data["step"])
    if done <= 0:
        return None
    pace_s = (last.at - first.at) / done
    left = pace_s * (int(last.data["total"]) - int(last.data["step"]))
    since_s = max(0.0, now.timestamp() - last.at)
    return max(0.0, left - since_s) if left > 0 else None


def _warnings(events: Sequence[RunEvent]) -> list[str]:
    told = [_said(e.data) for e in events if e.kind == EventKind.WARNING]
    return list(dict.fromkeys(text for text in told if text))


def _trouble(run: Run) -> Html:
    failure = (run.result or {}).get("failure") or {}
    if failure:
        message, advice = _said(failure), t(str(failure.get("advice", "")))
        return html.notice("bad", message or t("The run failed."), advice, id="run-error")
    is_failed = run.state is RunState.FAILED
    title = t("The run failed.") if is_failed else t("The run was interrupted.")
    return html.notice("bad", title, *_why(run.error or ""), id="run-error")


def _why(error: str) -> list[str]:
    """What the run service noted, in the person's language, and the end of the trainer's log."""
    said = []
    for known in (DIED, DIED_AGAIN, LESS_MEMORY, STOPPED_ELSEWHERE):
        if error.startswith(known):
            said.append(t(known))
            error = error.removeprefix(known).strip()
    return [*said, error]


def _said(told: Mapping[str, Any]) -> str:
    """A message of the trainer; older runs wrote down its English alone."""
    said = told.get("said")
    return say(Message.from_json(said)) if said else str(told.get("message", ""))


def _by_people(view: RunView, *, is_live: bool) -> Html:
    """Win rates against the policy before and the base; nothing for what is no policy."""
    if view.policy is None:
        return EMPTY
    title = t("By people, who do not know which is which")
    if not view.duels:
        return html.section(title, duels.none_yet(is_live=is_live), id="run-by-people")
    meters = el("div", *map(duels.meter, view.duels), class_="wsl-duels")
    return html.section(title, meters, id="run-by-people")


def _report_link(run: Run) -> Html:
    return el(
        "a",
        t("Report"),
        href=f"/api/runs/{quote(run.id)}/report",
        target="_blank",
        class_="wsl-button",
        id="run-report",
    )


def _samples(report: Mapping[str, Any]) -> Html:
    samples = (report.get("generations") or {}).get("samples") or ()
    if not samples:
        return EMPTY
    pairs = [_sample(number, sample) for number, sample in enumerate(samples)]
    body = el("div", *pairs, class_="wsl-samples", id="run-samples")
    note = t("The same held-out prompts, the same seeds, before and after this run.")
    return html.section(t("Side by side"), body, note=note)


def _sample(number: int, sample: Mapping[str, Any]) -> Html:
    asked = last_user_message(sample.get("messages") or ())
    short = asked if len(asked) <= LONGEST_PROMPT else asked[:LONGEST_PROMPT] + "…"
    columns = el(
        "div",
        _response(t("Before"), str(sample.get("before", ""))),
        _response(t("After"), str(sample.get("after", ""))),
        class_="wsl-pair",
    )
    summary = el("summary", html.written(short))
    return el("details", summary, columns, class_="wsl-sample", open=number < OPEN_SAMPLES)


def _response(title: str, text: str) -> Html:
    shown = (
        el("div", text.strip(), class_="wsl-said", dir="auto", lang="")
        if text.strip()
        else el("div", el("i", t("(an empty response)")), class_="wsl-said")
    )
    return el("div", el("h4", title), shown)


def _report(run: Run) -> Mapping[str, Any]:
    found: Mapping[str, Any] = (run.result or {}).get("report") or {}
    return found


def _pairs(run: Run) -> str:
    counted = _report(run).get("data") or {}
    return f"{int(counted['train']):,}" if "train" in counted else "—"


def _what_is_learned(run: Run) -> str:
    method = METHODS.get(run.method)
    return t(_LEARNED[method.learns_from]) if method else t("rows")


def _state(run: Run) -> Html:
    label, tone = _STATES[run.state]
    return html.pill(t(label), tone)


def _method(run: Run) -> str:
    return METHODS[run.method].label if run.method in METHODS else run.method


def _who(names: Mapping[str, str], annotator_id: str) -> Html:
    return el(
        "span", t("by {name}", name=names.get(annotator_id, annotator_id)), class_="wsl-quiet"
    )


def _latest(events: Sequence[RunEvent], kind: EventKind) -> RunEvent | None:
    return next((e for e in reversed(events) if e.kind == kind), None)
