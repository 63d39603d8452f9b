"""The stages of the RLHF pipeline as a lead sees them. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping

from labeling.i18n import mark, t
from labeling.pipeline import STAGES, PipelineState
from labeling.ui import html
from labeling.ui.html import EMPTY, Html, el
from store.records import Run, RunState
from training.methods import METHODS

_STATES: Mapping[RunState, tuple[str, str]] = {
    RunState.QUEUED: (mark("starting"), "accent"),
    RunState.RUNNING: (mark("at work"), "accent"),
    RunState.SUCCEEDED: (mark("done"), "good"),
    RunState.FAILED: (mark("failed"), "bad"),
    RunState.CANCELLED: (mark("cancelled"), "quiet"),
    RunState.INTERRUPTED: (mark("interrupted"), "warn"),
}


def start_card(state: PipelineState | None, runs: Mapping[str, Run], *, is_busy: bool) -> Html:
    """What the pipeline does, its start button, and how far the last one came."""
    about = t(
        "SFT, a reward model from people's comparisons, then PPO against it: the three stages of "
        "RLHF with their presets, one run after the other. Nothing is promoted by itself."
    )
    is_active = state is not None and state.is_active
    button = (
        html.button(t("Start no further stage"), "stop-pipeline", id="pipeline-stop")
        if is_active
        else html.button(
            t("Start the pipeline"), "start-pipeline", id="pipeline-start", disabled=is_busy
        )
    )
    stages = _stages(state, runs) if state is not None else EMPTY
    return html.section(
        t("RLHF pipeline"),
        stages,
        _ending(state),
        el("div", button, class_="wsl-actions"),
        note=about,
    )


def _stages(state: PipelineState, runs: Mapping[str, Run]) -> Html:
    rows = []
    for stage in STAGES:
        run = runs.get(state.run_ids.get(stage, ""))
        label, tone = _STATES[run.state] if run else (mark("to come"), "quiet")
        opener = html.button(t("Open"), "open", key=run.id) if run else EMPTY
        rows.append([METHODS[stage].label, html.pill(t(label), tone), opener])
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
