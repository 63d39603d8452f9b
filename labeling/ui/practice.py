"""The practice section of the Project tab: items with a known verdict, and how people did."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from labeling.access import Actor
from labeling.i18n import mark, plural, say, t
from labeling.practice import (
    MAX_EXPLANATION,
    MAX_TEXT,
    Better,
    Draft,
    Listed,
    Loaded,
    Practice,
    Result,
)
from labeling.sessions import Sessions
from labeling.ui import actions, html
from labeling.ui.guard import Action, acted, guarded
from labeling.ui.html import EMPTY, Html, el
from store.errors import BadInput

SHOWN_REFUSALS = 20
_VERDICTS = {
    Better.A: mark("A is better"),
    Better.B: mark("B is better"),
    Better.TIE: mark("Tie"),
}
_EXAMPLE = (
    '{"prompt": "…", "response_a": "…", "response_b": "…", "better": "a", "explanation": "…"}'
)


class PracticeSection:
    """The section's components and what happens on them."""

    def __init__(self, sessions: Sessions, practice: Practice) -> None:
        self._sessions = sessions
        self._practice = practice

    def draw(self) -> None:
        """Lay the section out."""
        actions.static("practice-head", head())
        self.note = actions.area("practice-note")
        self.items = actions.area("practice-items")
        self.results = actions.area("practice-results")
        with gr.Accordion("Write an item", open=False, elem_id="practice-write"):
            self._draw_form()
        with gr.Accordion("Items from a file", open=False, elem_id="practice-import"):
            self.format = actions.area("practice-format")
            self.file = gr.File(
                label="File",
                file_count="single",
                type="filepath",
                elem_id="practice-file",
                height=120,
            )
            self.load = gr.Button("Import", elem_id="practice-load")

    def _draw_form(self) -> None:
        self.prompt = gr.Textbox(
            label="Prompt", lines=2, max_length=MAX_TEXT, elem_id="practice-prompt"
        )
        with gr.Row():
            self.response_a = gr.Textbox(
                label="Response A", lines=4, max_length=MAX_TEXT, elem_id="practice-a"
            )
            self.response_b = gr.Textbox(
                label="Response B", lines=4, max_length=MAX_TEXT, elem_id="practice-b"
            )
        self.better = gr.Radio(
            [(text, verdict.value) for verdict, text in _VERDICTS.items()],
            label="Expected verdict",
            info="Sides are drawn anew for each person; A is the response written first here.",
            elem_id="practice-better",
        )
        self.explanation = gr.Textbox(
            label="Explanation, in Markdown",
            info="Shown at once after the verdict, whatever it was.",
            lines=3,
            max_length=MAX_EXPLANATION,
            elem_id="practice-explanation",
        )
        self.add = gr.Button("Add", elem_id="practice-add")

    def connect(self, head: gr.HTML) -> None:
        """Connect it, to be filled when the tab of `head` comes to the front."""
        form = [self.prompt, self.response_a, self.response_b, self.better, self.explanation]
        shown = [self.note, self.items, self.results, self.format, self.file, *form]
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        actions.on_open(head, guarded(self._sessions, self.open), [], shown)
        self.add.click(guarded(self._sessions, self.write), form, shown, **quiet)
        self.load.click(guarded(self._sessions, self.read), [self.file], shown, **quiet)
        actions.on_action(self.items, acted(self._sessions, self.act), [], shown)

    def open(self, actor: Actor) -> dict[Any, Any]:
        """What there is now."""
        return self._shown(actor, EMPTY)

    def write(self, actor: Actor, *given: str | None) -> dict[Any, Any]:
        """One more item."""
        self._practice.add(actor, Draft(*(text or "" for text in given)))
        told = html.notice(
            "good", t("Added."), t("Everybody gets it once, before other comparisons.")
        )
        emptied = dict.fromkeys((self.prompt, self.response_a, self.response_b), "")
        return self._shown(actor, told) | emptied | {self.better: None, self.explanation: ""}

    def read(self, actor: Actor, file: str | None) -> dict[Any, Any]:
        """The items of a file."""
        if not file:
            raise BadInput("Choose a file first: drop it on the field above, or click there.")
        loaded = self._practice.load(actor, Path(file))
        return self._shown(actor, loaded_note(loaded)) | {self.file: None}

    def act(self, actor: Actor, action: Action) -> dict[Any, Any]:
        """Give an item to people, or no longer."""
        if action.act not in ("give", "rest"):
            raise BadInput("There is nothing to do that is called {act!r}.", act=action.act)
        self._practice.set_active(actor, action.key, action.act == "give")
        return self._shown(actor, EMPTY)

    def _shown(self, actor: Actor, told: Html) -> dict[Any, Any]:
        return {
            self.note: told,
            self.items: items_table(self._practice.listed(actor)),
            self.results: results_table(self._practice.results(actor)),
            self.format: format_note(),
        }


def head() -> Html:
    """What practice is."""
    return html.join(
        [
            el("h3", "Practice"),
            el(
                "p",
                "Comparisons whose right verdict you know. Everybody judges each once, before all "
                "others, and is told at once whether you agree and why. They count nowhere and "
                "nothing is trained on them.",
                class_="wsl-note",
            ),
        ]
    )


def format_note() -> Html:
    """What a file has to hold."""
    said = t("One item a line, as JSON. The verdict is a, b or tie; the explanation is Markdown.")
    return el("p", said, el("br"), el("code", _EXAMPLE), class_="wsl-note")


def items_table(items: Sequence[Listed]) -> Html:
    """Every item, each with a button that gives it to people or no longer."""
    if not items:
        said = t("Write an item below, or import a file.")
        return html.empty(t("No practice yet"), said, id="practice-none")
    rows = [
        (
            html.written(_start(item.prompt)),
            t(_VERDICTS[item.better]),
            html.written(_start(item.explanation)),
            html.button(t("Pause"), "rest", key=item.id, title=t("Give it to nobody any more"))
            if item.is_active
            else html.button(t("Give again"), "give", key=item.id),
        )
        for item in items
    ]
    heads = (t("Prompt"), t("Expected verdict"), t("Explanation"), "")
    return html.table(heads, rows, id="practice-table")


def results_table(results: Sequence[Result]) -> Html:
    """How many of their answers agreed, person by person."""
    if not results:
        return EMPTY
    rows = [
        (
            html.written(r.name),
            str(r.answered),
            t("{agreed} of {answered}", agreed=r.agreed, answered=r.answered),
        )
        for r in results
    ]
    heads = (t("Person"), t("Answered"), t("As expected"))
    return html.join([el("h4", t("How people did")), html.table(heads, rows, id="practice-people")])


def loaded_note(loaded: Loaded) -> Html:
    """What became of a file."""
    added = plural("{n} item added.", "{n} items added.", loaded.added)
    if not loaded.refused:
        return html.notice("good", added, id="practice-loaded")
    told = [say(bad) for bad in loaded.refused[:SHOWN_REFUSALS]]
    if more := len(loaded.refused) - len(told):
        told.append(t("and {more} more", more=more))
    refused = plural("{n} row was refused:", "{n} rows were refused:", len(loaded.refused))
    return html.notice("warn", f"{added} {refused}", *told, id="practice-loaded")


def _start(text: str, most: int = 120) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
