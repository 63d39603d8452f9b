"""The Export tab: preferences and judgments as files for other tools, each with a manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

import gradio as gr

from labeling.access import Actor
from labeling.exchange import Exchange
from labeling.i18n import mark, t
from labeling.sessions import Sessions
from labeling.ui import actions, html
from labeling.ui.guard import guarded
from labeling.ui.html import EMPTY, Html, el
from store.db import utc_now
from store.export_files import ExportFile
from store.exports import Format, Names, What

DOWNLOADS = "/exports"
PREVIEW_ROWS = 3
LONGEST_CELL = 160
SHOWN_EXPORTS = 20

_WHAT = (
    ("Preferences, as conversations (TRL: prompt, chosen, rejected)", What.PREFERENCES),
    ("Preferences, as plain text (prompt, chosen, rejected)", What.PREFERENCES_STANDARD),
    ("Preferences under each criterion (prompt, chosen, rejected)", What.CRITERIA_PREFERENCES),
    ("Rankings of three or more responses, as given (responses, ranks)", What.RANKINGS),
    ("Rated responses for KTO (prompt, completion, label)", What.RATINGS),
    ("Demonstrations: what people wrote, for SFT (prompt, completion)", What.DEMONSTRATIONS),
    ("Raw judgments, one row each, with all that led to them", What.JUDGMENTS),
    ("Arena battles (model_a, model_b, winner)", What.ARENA),
)
_FORMATS = (("JSON Lines", Format.JSONL), ("Parquet", Format.PARQUET))
_LOADERS = {Format.JSONL.value: "json", Format.PARQUET.value: "parquet"}
_FIRST_COLUMNS = (
    *("prompt", "chosen", "rejected", "completion", "label", "rating", "responses", "ranks"),
    *("criterion", "margin", "winner", "verdict", "annotator"),
)
# What a column means, in every export that has it.
_COLUMNS = {
    "prompt": mark("The conversation up to where the responses begin."),
    "chosen": mark("The better response."),
    "rejected": mark("The worse response."),
    "margin": mark(
        "How much better, as the mean of all who judged: 1 slightly to 3 much; in a ranking "
        "the distance in ranks, at most 3; under a rated criterion the distance in points."
    ),
    "completion": mark("The response."),
    "label": mark("Whether it is desirable: rated above the middle."),
    "rating": mark("The mean of its ratings, from 0 (worst) to 1 (best); exactly 0.5 is left out."),
    "original": mark("What the person rewrote; null where it was written anew."),
    "responses": mark("The responses in the order in which the person saw them."),
    "ranks": mark(
        "The rank of each response in that order: 1 is best, equal ranks are a tie, null was "
        "left out."
    ),
    "ratings": mark("The rating of each response in that order, null where there is none."),
    "rating_scale": mark("thumbs: 0 is down, 1 is up; five_point: 1 is bad, 5 is excellent."),
    "criterion": mark("The criterion under which the chosen one is better."),
    "scale": mark("The scale of that criterion."),
    "criteria": mark(
        "Answers under each criterion: the preferred response with its strength (neither "
        "for equal), or ratings."
    ),
    "reasons": mark("The reasons that were picked."),
    "rationale": mark("Why, in the person's words."),
    "flags": mark("What was flagged; without a completion_id it is the prompt."),
    "rewrite": mark("The response that the person wrote."),
    "rewritten": mark("The response that this was made from."),
    "verdict": mark(
        "preferred, tie and both_bad are of two responses, ranked and not_rankable of more, "
        "rated of each by itself; skipped: could not judge; retracted: an undo."
    ),
    "preferred_place": mark("Where the preferred response stood, counted from 1."),
    "strength": mark("1 slightly better, 2 better, 3 much better."),
    "reason": mark("Why it was skipped."),
    "counts": mark("False for what was superseded or undone, and for what a lead has withdrawn."),
    "displayed_responses": mark(
        "The responses in the order in which the person saw them, with the "
        "policy version and the settings that wrote each."
    ),
    "annotator": mark("Who judged, by a pseudonym unless names are included."),
    "split": mark("held_out rows are never trained on here."),
    "judgment_ids": mark("The judgments that the row is made of."),
    "snapshot_ids": mark("The frozen data that hold the judgment."),
    "run_ids": mark("The runs that learned from it."),
    "trained_policy_versions": mark("The policies that learned from it."),
    "winner": mark("model_a is what stood first."),
}


def render(sessions: Sessions, exchange: Exchange) -> None:
    """Draw the tab."""
    ExportTab(sessions, exchange).draw()


class ExportTab:
    """The tab's components and what happens on them."""

    def __init__(self, sessions: Sessions, exchange: Exchange) -> None:
        self._sessions = sessions
        self._exchange = exchange

    def draw(self) -> None:
        """Lay the tab out and connect it."""
        head = actions.static(
            "export-head",
            html.page_head(
                "Export", "Take the data elsewhere, with a manifest that says what it is made of."
            ),
        )
        with gr.Row(elem_classes="wsl-split"):
            with (
                gr.Column(scale=5, min_width=320, elem_classes="wsl-side"),
                gr.Column(elem_classes="wsl-card"),
            ):
                self._draw_form()
            with gr.Column(scale=7, min_width=320, elem_classes="wsl-main"):
                self.made = actions.area("export-made")
        self.past = actions.area("exports")
        actions.on_open(head, guarded(self._sessions, self.open), [], [self.made, self.past])
        self.start.click(
            guarded(self._sessions, self.export),
            [self.what, self.format, self.held_out, self.names],
            [self.made, self.past],
            show_progress="minimal",
            api_visibility="private",
        )

    def _draw_form(self) -> None:
        actions.static("export-form-head", el("h3", "New export"))
        self.what = gr.Radio(
            list(_WHAT),
            value=What.PREFERENCES.value,
            label="What",
            elem_id="export-what",
            elem_classes="wsl-stack",
        )
        self.format = gr.Radio(
            list(_FORMATS), value=Format.JSONL.value, label="Format", elem_id="export-format"
        )
        with gr.Accordion("More", open=False):
            self.held_out = gr.Checkbox(
                value=False,
                label="Include held-out prompts",
                info="Their split column says so. Do not train on them.",
                elem_id="export-held-out",
            )
            self.names = gr.Checkbox(
                value=False,
                label="Include people's names",
                info="Otherwise each person is a pseudonym, the same in every export.",
                elem_id="export-names",
            )
        self.start = gr.Button("Export", variant="primary", elem_id="export-start")

    def open(self, actor: Actor) -> dict[Any, Any]:
        """Past exports; the newest one is shown."""
        past = self._exchange.past_exports(actor)
        return self._shown(actor, past, past[0] if past else None)

    def export(
        self, actor: Actor, what: str, format: str, held_out: bool, names: bool
    ) -> dict[Any, Any]:
        """Write a file and show what is in it."""
        made = self._exchange.export(
            actor,
            what=what,
            format=format,
            include_held_out=held_out,
            names=Names.NAME if names else Names.PSEUDONYM,
        )
        past = self._exchange.past_exports(actor)
        return self._shown(actor, past, next(f for f in past if f.path == made.path))

    def _shown(
        self, actor: Actor, past: Sequence[ExportFile], file: ExportFile | None
    ) -> dict[Any, Any]:
        names = {person.id: person.name for person in self._sessions.people(actor)}
        rows = self._exchange.preview(actor, file, rows=PREVIEW_ROWS) if file else []
        return {
            self.made: made_card(file, rows) if file else nothing_yet(),
            self.past: past_card(past, names, utc_now()),
        }


def made_card(file: ExportFile, rows: Sequence[Mapping[str, Any]]) -> Html:
    """An export: its files, its first rows, and how to load it."""
    links = el(
        "div",
        _link(
            file.path.name,
            t("Download {name}", name=file.path.name),
            primary=True,
            id="export-download",
        ),
        _link(file.manifest_path.name, t("Manifest"), id="export-manifest"),
        class_="wsl-actions",
    )
    head = html.figures(
        html.figure(f"{file.rows:,}", t("rows"), id="export-rows"),
        html.figure(size(file.size_bytes), t("size")),
        el(
            "div",
            html.short_hash(file.sha256),
            el("span", "SHA-256", class_="wsl-figure-label"),
            class_="wsl-figure",
        ),
    )
    return html.section(
        t("Ready|export"),
        head,
        links,
        el("h4", t("How to load it")),
        html.code_block(loading_code(file)),
        el("h4", t("First rows")),
        preview_table(rows),
        columns_list(rows),
        id="export-ready",
    )


def loading_code(file: ExportFile) -> str:
    """Python that loads the file."""
    loader = _LOADERS.get(file.format, file.format)
    return (
        "from datasets import load_dataset\n\n"
        f'dataset = load_dataset("{loader}", data_files="{file.path.name}", split="train")'
    )


def preview_table(rows: Sequence[Mapping[str, Any]]) -> Html:
    """The columns that people look for first, then the others, each cell cut to a few words."""
    if not rows:
        return el("p", t("No rows."), class_="wsl-note")
    names = sorted(rows[0], key=_place)
    cells = [[html.written(cell_text(row[name])) for name in names] for row in rows]
    return el("div", html.table(names, cells, id="export-preview"), class_="wsl-preview")


def columns_list(rows: Sequence[Mapping[str, Any]]) -> Html:
    """What the columns mean, where their names do not tell."""
    names = [name for name in sorted(rows[0], key=_place) if name in _COLUMNS] if rows else []
    if not names:
        return EMPTY
    table = html.table(
        (t("Column"), t("Meaning")), [[el("code", n), t(_COLUMNS[n])] for n in names]
    )
    return el(
        "details",
        el("summary", t("What the columns mean")),
        table,
        class_="wsl-formats",
        id="export-columns",
    )


def cell_text(value: Any) -> str:
    """A value of a row as short text; a conversation as its turns."""
    if isinstance(value, list) and value and isinstance(value[0], dict) and "content" in value[0]:
        value = " · ".join(f"{turn.get('role')}: {turn['content']}" for turn in value)
    if isinstance(value, datetime):
        text = value.isoformat()
    elif isinstance(value, list | dict | bool | None):
        text = json.dumps(value, default=str, ensure_ascii=False)
    else:
        text = str(value)
    return text if len(text) <= LONGEST_CELL else text[:LONGEST_CELL] + "…"


def nothing_yet() -> Html:
    """What stands where an export will be."""
    return html.section(
        t("Ready|export"),
        html.empty(
            t("No export yet"),
            t(
                "Choose what to take and press Export. The file, its manifest, the first rows "
                "and the line of code that loads it appear here."
            ),
            id="export-none",
        ),
    )


def past_card(files: Sequence[ExportFile], names: Mapping[str, str], now: datetime) -> Html:
    """Exports that can still be downloaded."""
    if not files:
        return EMPTY
    rows = [
        [
            _link(file.path.name, file.path.name),
            f"{file.rows:,}",
            size(file.size_bytes),
            html.written(names.get(file.created_by, file.created_by)),
            html.ago(datetime.fromisoformat(file.created_at), now),
            _link(file.manifest_path.name, t("manifest")),
        ]
        for file in files[:SHOWN_EXPORTS]
    ]
    heads = (t("File"), t("Rows"), t("Size"), t("By"), t("When"), "")
    return html.section(t("Exports"), html.table(heads, rows, id="export-list"))


def size(count: int) -> str:
    """Bytes as people say them."""
    value = float(count)
    for unit in ("B", "KB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} GB"


def _link(name: str, text: str, *, primary: bool = False, id: str | None = None) -> Html:
    classes = "wsl-button wsl-button-primary" if primary else "wsl-link" if not id else "wsl-button"
    return el("a", text, href=f"{DOWNLOADS}/{quote(name)}", download=name, class_=classes, id=id)


def _place(name: str) -> int:
    return _FIRST_COLUMNS.index(name) if name in _FIRST_COLUMNS else len(_FIRST_COLUMNS)
