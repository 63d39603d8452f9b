"""The stages of the RLHF pipeline as a lead sees them. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from labeling import i18n
from labeling.cautions import Caution, Severity
from labeling.i18n import mark, say, t
from labeling.outlook import Outlook
from labeling.pipeline import STAGES, PipelineState
from labeling.ui import html, outlook
from labeling.ui.html import EMPTY, Html, el
from store.records import Run, RunState
from training.estimate import Estimate
from training.messages import Message
from training.methods import METHODS

_STATES: Mapping[RunState, tuple[str, str]] = {
    RunState.QUEUED: (mark("starting"), "accent"),
    RunState.RUNNING: (mark("at work"), "accent"),
    RunState.SUCCEEDED: (mark("done"), "good"),
    RunState.FAILED: (mark("failed"), "bad"),
    RunState.CANCELLED: (mark("cancelled"), "quiet"),
    RunState.INTERRUPTED: (mark("interrupted"), "warn"),
}


def about(state: PipelineState | None, runs: Mapping[str, Run]) -> Html:
    """What the pipeline does, and how far the last one came."""
    note = t(
        "SFT, a reward model from people's comparisons, then PPO against it: the three stages of "
        "RLHF with their presets, one run after the other. Nothing is promoted by itself."
    )
    stages = _stages(state, runs) if state is not None else EMPTY
    head = el("h3", t("RLHF pipeline"))
    return html.join([head, el("p", note, class_="wsl-note"), stages, _ending(state)])


def expected(outlooks: Sequence[Outlook], *, price_per_hour: float | None = None) -> Html:
    """What each stage would take, all of them together, and what to be warned of."""
    heads = ["", t("Rows"), t("Time"), t("Memory")]
    if price_per_hour is not None:
        heads.append(t("Money"))
    rows = [
        [
            t(METHODS[told.method].label),
            i18n.number(told.facts.rows),
            *_figures([told.estimate], price_per_hour),
        ]
        for told in outlooks
    ]
    whole = [t("All three"), "", *_figures([told.estimate for told in outlooks], price_per_hour)]
    rows.append([el("b", cell) for cell in whole])
    note = t("Estimated for this machine, while nobody else uses it.")
    return html.join(
        [
            el("h4", t("What to expect")),
            html.table(heads, rows, id="pipeline-estimates"),
            el("p", note, class_="wsl-note"),
            *_cautions(outlooks),
        ]
    )


def launch(state: PipelineState | None, why_not: Sequence[str]) -> Html:
    """The button that starts all, or stops it; beside one that cannot be pressed stands why."""
    if state is not None and state.is_active:
        stop = html.button(t("Start no further stage"), "stop-pipeline", id="pipeline-stop")
        return el("div", stop, class_="wsl-actions")
    label, is_refused = t("Start the pipeline"), bool(why_not)
    start = html.button(label, "start-pipeline", id="pipeline-start", disabled=is_refused)
    reasons = (el("p", reason, class_="wsl-note") for reason in why_not)
    return html.join([el("div", start, class_="wsl-actions"), *reasons])


def refused(refusals: Mapping[str, Message]) -> list[str]:
    """Why stages cannot be started, in words."""
    return [
        t("{whose}: {found}", whose=t(METHODS[stage].label), found=say(why))
        for stage, why in refusals.items()
    ]


def _figures(told: Sequence[Estimate | None], price_per_hour: float | None) -> list[str]:
    """Time, memory and money of one run after the other; dashes where one of them is unknown."""
    known = [estimate for estimate in told if estimate is not None]
    if len(known) < len(told):
        return ["—"] * (2 if price_per_hour is None else 3)
    shown = [
        i18n.duration(sum(estimate.seconds for estimate in known)),
        outlook.size(max(estimate.peak_mb for estimate in known)),
    ]
    if price_per_hour is not None:
        shown.append(outlook.money(sum(estimate.cost(price_per_hour) for estimate in known)))
    return shown


def _cautions(outlooks: Sequence[Outlook]) -> list[Html]:
    """The grave ones; what holds for several stages is said once."""
    found: dict[tuple[str, str], tuple[Caution, list[str]]] = {}
    for told in outlooks:
        for caution in told.cautions:
            if caution.severity is not Severity.NOTE:
                key = str(caution.found), str(caution.remedy)
                found.setdefault(key, (caution, []))[1].append(told.method)
    stages = {id(caution): of for caution, of in found.values()}
    ordered = outlook.gravest_first(caution for caution, _ in found.values())
    return [outlook.caution(caution, of=stages[id(caution)]) for caution in ordered]


def _stages(state: PipelineState, runs: Mapping[str, Run]) -> Html:
    rows = []
    for stage in STAGES:
        run = runs.get(state.run_ids.get(stage, ""))
        label, tone = _STATES[run.state] if run else (mark("to come"), "quiet")
        opener = html.button(t("Open"), "open", key=run.id) if run else EMPTY
        rows.append([t(METHODS[stage].label), html.pill(t(label), tone), opener])
    return html.table(("", "", ""), rows, id="pipeline-stages")


def _ending(state: PipelineState | None) -> Html:
    if state is None or state.is_active:
        return EMPTY
    if not state.ended:
        return html.notice("good", t("All three stages are done."), t("Promote the last policy."))
    return html.notice("warn", t("The pipeline ended early."), _why(state.ended))


def _why(ended: str) -> str:
    if ended == "stopped":
        return t("A lead stopped it; the stage that was at work went on.")
    if ended in tuple(RunState):
        return t("A stage did not succeed. Resume it, or start again.")
    return ended
