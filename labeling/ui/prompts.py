"""The Prompts tab: what there is to judge, and files that bring more."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import gradio as gr

from labeling.access import Actor
from labeling.candidates import Candidates, Supply
from labeling.exchange import Exchange, ImportWork, WorkState
from labeling.i18n import listed, mark, plural, say, t
from labeling.sessions import Sessions
from labeling.ui import actions, html
from labeling.ui.guard import Action, acted, guarded
from labeling.ui.html import EMPTY, Html, el
from store.db import utc_now
from store.errors import BadInput
from store.formats import registry
from store.formats.item import Holds
from store.import_files import RowFile
from store.imports import ImportProgress, ImportRecord, ImportReport, Use
from store.prompts import PromptCount
from store.records import Split

POLL_S = 0.5
SHOWN_REFUSALS = 50
SHOWN_IMPORTS = 10

_USES = (
    ("Everything in it: preferences where it has them, prompts elsewhere", Use.BOTH),
    ("Prompts to judge: the live policy answers them here", Use.PROMPTS),
    ("Ready preferences: pairs that the file has judged", Use.PREFERENCES),
    ("Pairs to judge here: its responses, without its verdicts", Use.PAIRS),
    ("Answers to learn from: thumbs up or down, or shown for imitation", Use.THUMBS),
    ("General demonstrations: what policies should keep knowing, replayed to them", Use.GENERAL),
)
_HOLDS = {
    Holds.PAIRS: mark("pairs"),
    Holds.THUMBS: mark("single answers"),
    Holds.SOMETIMES_THUMBS: mark("single answers, where there are any"),
}
_LANGUAGES = {"en": mark("English"), "zh": mark("Chinese")}


def render(sessions: Sessions, exchange: Exchange, candidates: Candidates) -> None:
    """Draw the tab."""
    PromptsTab(sessions, exchange, candidates).draw()


class PromptsTab:
    """The tab's components and what happens on them."""

    def __init__(self, sessions: Sessions, exchange: Exchange, candidates: Candidates) -> None:
        self._sessions = sessions
        self._exchange = exchange
        self._candidates = candidates

    def draw(self) -> None:
        """Lay the tab out and connect it."""
        head = actions.static(
            "prompts-head",
            html.page_head(
                "Prompts", "What people judge, and ready preferences from elsewhere to learn from."
            ),
        )
        with gr.Row(elem_classes="wsl-split"):
            with gr.Column(scale=6, min_width=320, elem_classes="wsl-side"):
                with gr.Column(elem_classes="wsl-card"):
                    self._draw_form()
                self.formats = actions.area("import-formats")
            with gr.Column(scale=6, min_width=320, elem_classes="wsl-main"):
                self.progress = actions.area("import-progress")
                self.cancel = actions.area("import-actions")
                self.report = actions.area("import-report")
                self.counts = actions.area("prompt-counts")
                self.past = actions.area("imports")
        self.timer = gr.Timer(POLL_S, active=False)
        self._connect(head)

    def _draw_form(self) -> None:
        actions.static("import-head", el("h3", "Import a file"))
        self.file = gr.File(
            label="File",
            file_count="single",
            type="filepath",
            elem_id="import-file",
            height=150,
        )
        self.use = gr.Radio(
            list(_USES),
            value=Use.BOTH.value,
            label="What to take from it",
            elem_id="import-use",
            elem_classes="wsl-stack",
        )
        self.start = gr.Button("Import", variant="primary", elem_id="import-start")

    def _connect(self, head: gr.HTML) -> None:
        everything = [
            *(self.progress, self.cancel, self.report, self.counts, self.past),
            *(self.start, self.timer, self.file, self.formats),
        ]
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        actions.on_open(head, guarded(self._sessions, self.open), [], everything)
        self.start.click(
            guarded(self._sessions, self.begin), [self.file, self.use], everything, **quiet
        )
        self.timer.tick(
            guarded(self._sessions, self.follow, inline=self.stop_following),
            None,
            everything,
            concurrency_id="import-progress",
            concurrency_limit=4,
            **quiet,
        )
        actions.on_action(self.cancel, acted(self._sessions, self.act), [], everything)

    def open(self, actor: Actor) -> dict[Any, Any]:
        """Everything, as it is now."""
        work = self._exchange.import_work(actor)
        is_running = work.state is WorkState.RUNNING
        return {
            self.progress: work_card(work),
            self.cancel: cancel_button() if is_running else EMPTY,
            self.report: report_card(work.report) if work.report else EMPTY,
            self.counts: counts_card(
                self._exchange.prompt_counts(actor),
                self._candidates.supply(actor),
                general=self._exchange.general_count(actor),
            ),
            self.past: past_card(self._exchange.past_imports(actor), utc_now()),
            self.start: gr.Button(interactive=not is_running),
            self.timer: gr.Timer(active=is_running),
            self.formats: formats_card(),
        }

    def begin(self, actor: Actor, file: str | None, use: str) -> dict[Any, Any]:
        """Begin to read the file that was dropped."""
        if not file:
            raise BadInput("Choose a file first: drop it on the field above, or click there.")
        self._exchange.start_import(actor, Path(file), name=Path(file).name, use=use)
        return self.open(actor) | {self.report: EMPTY, self.file: None}

    def follow(self, actor: Actor) -> dict[Any, Any]:
        """The import a moment later."""
        work = self._exchange.import_work(actor)
        if work.state is WorkState.RUNNING:
            return {self.progress: work_card(work)}
        return self.open(actor)

    def stop_following(self, message: str) -> dict[Any, Any]:
        """Why progress is no longer shown."""
        notice = html.notice("bad", t("Progress cannot be shown."), message)
        return {self.progress: notice, self.timer: gr.Timer(active=False)}

    def act(self, actor: Actor, action: Action) -> dict[Any, Any]:
        """Stop reading."""
        if action.act != "cancel":
            raise BadInput("There is nothing to do that is called {act!r}.", act=action.act)
        self._exchange.cancel_import(actor)
        return {self.cancel: el("p", t("Stopping after the rows at hand …"), class_="wsl-note")}


def cancel_button() -> Html:
    """Stops the import; what was accepted stays."""
    return html.button(
        t("Cancel the import"),
        "cancel",
        ask=t("What has been accepted so far stays; the rest of the file is not read."),
        ask_title=t("Cancel this import?"),
        id="import-cancel",
    )


def work_card(work: ImportWork) -> Html:
    """The import under way, or how the last one ended."""
    if work.state is WorkState.IDLE:
        return EMPTY
    if work.state is WorkState.FAILED:
        return html.section(
            t("Import"),
            html.notice(
                "bad",
                t("{name} was not imported.", name=work.name),
                say(work.error) if work.error else "",
                id="import-error",
            ),
        )
    is_running = work.state is WorkState.RUNNING
    was_cancelled = work.report is not None and work.report.was_cancelled
    label, tone = (
        (t("Reading"), "accent")
        if is_running
        else (t("Cancelled"), "warn")
        if was_cancelled
        else (t("Done"), "good")
    )
    head = el(
        "div",
        html.pill(label, tone, id="import-state"),
        el("span", work.name, class_="wsl-run-phase"),
        class_="wsl-run-head",
    )
    bar = EMPTY
    if is_running:
        bar = html.progress_bar(work.progress.fraction if work.progress else None, t("Import"))
    return html.section(t("Import"), head, bar, _counted(work))


def report_card(report: ImportReport) -> Html:
    """What a file brought, and every row that was refused with the reason."""
    brought = html.definitions(
        [
            (t("Read as"), report.format),
            (t("New prompts"), f"{report.prompts_added:,}"),
            (t("New preferences"), f"{report.preferences_added:,}"),
            (t("New answers to learn from"), f"{report.thumbs_added:,}"),
            (t("New pairs to judge"), f"{report.pairs_added:,}"),
            (t("Prompts with new checks"), f"{report.checks_added:,}"),
            (t("Judgments of the file"), f"{report.judgments_added:,}"),
            (t("New general demonstrations"), f"{report.general_added:,}"),
        ]
    )
    return html.section(t("What it brought"), brought, _refusals(report), id="import-brought")


def counts_card(counts: Sequence[PromptCount], supply: Supply, *, general: int) -> Html:
    """How many prompts there are, by language and split, and what comes of them.

    `general` demonstrations are there beside them.
    """
    if not counts:
        return html.section(
            t("Prompts"),
            html.empty(
                t("No prompts yet"),
                t(
                    "Import a file to give people something to judge. Any of the formats below "
                    "will do; a file with one prompt a line is the simplest."
                ),
                id="prompts-empty",
            ),
        )
    languages = list(dict.fromkeys(c.language for c in counts))
    found = {(c.language, c.split): c.prompts for c in counts}
    rows = [
        [
            t(_LANGUAGES.get(language, language or mark("unknown"))),
            f"{found.get((language, Split.TRAIN), 0):,}",
            f"{found.get((language, Split.HELD_OUT), 0):,}",
        ]
        for language in languages
    ]
    total = sum(c.prompts for c in counts)
    return html.section(
        t("Prompts"),
        html.figures(html.figure(f"{total:,}", t("in all"), id="prompts-total")),
        html.table((t("Language"), t("For training"), t("Held out")), rows),
        _passed_over(supply),
        _general(general),
        note=t("Held-out prompts are never trained on; they show whether a policy got better."),
    )


def _passed_over(supply: Supply) -> Html:
    """What nobody judges, and why."""
    lines = []
    if supply.too_long:
        said = plural(
            "{n} prompt is too long for the live policy (limit {limit} tokens), of those tried so "
            "far.",
            "{n} prompts are too long for the live policy (limit {limit} tokens), of those tried "
            "so far.",
            supply.too_long,
            limit=f"{supply.limit_tokens:,}",
        )
        lines.append(el("p", said, class_="wsl-note", id="prompts-too-long"))
    if supply.skipped_by_all:
        said = plural(
            "{n} comparison was skipped by everyone who saw it.",
            "{n} comparisons were skipped by everyone who saw them.",
            supply.skipped_by_all,
        )
        lines.append(el("p", said, class_="wsl-note", id="prompts-skipped"))
    return html.join(lines)


def _general(count: int) -> Html:
    """What was imported for policies to keep knowing."""
    if not count:
        return EMPTY
    said = plural(
        "{n} general demonstration is there for policies to keep knowing.",
        "{n} general demonstrations are there for policies to keep knowing.",
        count,
    )
    return el("p", said, class_="wsl-note", id="prompts-general")


def past_card(imports: Sequence[ImportRecord], now: datetime) -> Html:
    """The latest imports."""
    if not imports:
        return EMPTY
    rows = [
        [
            html.written(record.name),
            record.format,
            f"{record.accepted:,}",
            f"{record.known:,}",
            f"{record.refused:,}",
            html.ago(record.created_at, now),
        ]
        for record in imports[:SHOWN_IMPORTS]
    ]
    heads = (*(t("File"), t("Format"), t("Accepted"), t("Known|rows"), t("Refused"), t("When")),)
    return html.section(t("Past imports"), html.table(heads, rows, id="import-list"))


def formats_card() -> Html:
    """What can be read."""
    kinds = listed(RowFile.KINDS)
    rows = [[el("b", f.name), t(f.columns), t(_HOLDS[f.holds])] for f in registry.FORMATS]
    body = el(
        "details",
        el(
            "summary",
            t(
                "{n} formats, recognised by their columns",
                n=len(registry.FORMATS),
            ),
        ),
        html.table((t("Format"), t("Columns"), t("Holds")), rows),
        class_="wsl-formats",
    )
    note = t(
        "Files of the kinds {kinds}, each also gzipped (.gz). Importing one twice adds nothing.",
        kinds=kinds,
    )
    return html.section(t("What can be read"), body, note=note)


def _counted(work: ImportWork) -> Html:
    seen: ImportProgress | ImportReport | None = work.report or work.progress
    if seen is None:
        return el("p", t("Opening the file …"), class_="wsl-note")
    rows = seen.accepted + seen.known + seen.refused
    return html.figures(
        html.figure(f"{rows:,}", t("rows read"), id="import-rows"),
        html.figure(f"{seen.accepted:,}", t("accepted"), id="import-accepted"),
        html.figure(f"{seen.known:,}", t("known already")),
        html.figure(f"{seen.refused:,}", t("refused"), id="import-refused"),
    )


def _refusals(report: ImportReport) -> Html:
    if not report.refused:
        return EMPTY
    rows = [
        [r.file, f"{r.line:,}", el("code", r.field) if r.field else t("the row"), say(r.reason)]
        for r in report.refusals[:SHOWN_REFUSALS]
    ]
    more = report.refused - len(rows)
    rest = el("p", t("and {more} more", more=more), class_="wsl-note") if more > 0 else EMPTY
    heads = (t("File"), t("Line"), t("Field"), t("Problem"))
    return html.join(
        [
            el(
                "h4",
                plural(
                    "{n} row refused; the others were kept",
                    "{n} rows refused; the others were kept",
                    report.refused,
                ),
            ),
            html.table(heads, rows, id="import-refusals"),
            rest,
        ]
    )
