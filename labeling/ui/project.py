"""The Project tab: what annotators are asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from datetime import datetime
from typing import Any

import gradio as gr

from labeling.access import Actor
from labeling.candidates import Candidates, Diverted, Rival, WhyNot
from labeling.i18n import mark, t
from labeling.practice import Practice
from labeling.project import MAX_GUIDELINES, MAX_NAME, Criterion, Project, Scale, Shares, Task
from labeling.sessions import Sessions
from labeling.ui import actions, html
from labeling.ui.guard import guarded
from labeling.ui.html import EMPTY, Html, el
from labeling.ui.practice import PracticeSection
from store.db import utc_now
from store.guidelines import Guidelines
from store.records import RatingScale

_SCALES = (
    ("Plain: A is better, tie, B is better", Scale.PLAIN.value),
    ("Seven points: much better, better, slightly, equal, and the same for B", "seven_point"),
)
_TASKS = (
    ("Compare: choose between two responses, rank three or more", Task.COMPARE.value),
    ("Rate: each response by itself, for KTO", Task.RATE.value),
)
_RATINGS = (
    ("Five points, from bad to excellent", RatingScale.FIVE_POINT.value),
    ("Thumbs: bad or good", RatingScale.THUMBS.value),
)
_CRITERION_SCALES = (
    (mark("A, equal or B"), Scale.PLAIN.value),
    (mark("Seven points from A to B"), Scale.SEVEN_POINT.value),
    (mark("Bad or good, each response"), RatingScale.THUMBS.value),
    (mark("1 to 5, each response"), RatingScale.FIVE_POINT.value),
)
_CRITERION_ROWS = 6
_RIVALS = {Rival.PREVIOUS: mark("the one before"), Rival.BASE: mark("the base")}
_WHY_NOT = {
    WhyNot.NONE_BEFORE: mark("no policy was live before the one that is live now"),
    WhyNot.SAME: mark("the live policy is the base itself"),
    WhyNot.NOT_LOADED: mark("it is not loaded"),
}
_STRENGTHS = (
    (mark("much better"), 3),
    (mark("better"), 2),
    (mark("slightly better"), 1),
    (mark("equal"), 0),
)


def render(
    sessions: Sessions, project: Project, candidates: Candidates, practice: Practice
) -> None:
    """Draw the tab."""
    ProjectTab(sessions, project, candidates, practice).draw()


class ProjectTab:
    """The tab's components and what happens on them."""

    def __init__(
        self, sessions: Sessions, project: Project, candidates: Candidates, practice: Practice
    ) -> None:
        self._sessions = sessions
        self._project = project
        self._candidates = candidates
        self._practice = PracticeSection(sessions, practice)

    def draw(self) -> None:
        """Lay the tab out and connect it."""
        head = actions.static(
            "project-head", html.page_head("Project", "What annotators see and are asked.")
        )
        with gr.Row(elem_classes="wsl-split"):
            with gr.Column(scale=7, min_width=320, elem_classes="wsl-main"):
                with gr.Column(elem_classes="wsl-card"):
                    self._draw_form()
                with gr.Column(elem_classes="wsl-card"):
                    self._draw_guidelines()
                with gr.Column(elem_classes="wsl-card"):
                    self._practice.draw()
            with gr.Column(scale=5, min_width=320, elem_classes="wsl-side"):
                self.about = actions.area("project-about")
        self._connect(head)
        self._practice.connect(head)

    def _draw_form(self) -> None:
        actions.static("project-form-head", el("h3", "Judging"))
        self.name = gr.Textbox(label="Project name", max_length=MAX_NAME, elem_id="project-name")
        self._draw_shown()
        self._draw_judged()
        self._draw_often()
        self.save = gr.Button("Save", variant="primary", elem_id="project-save")
        self.saved = actions.area("project-note")

    def _draw_shown(self) -> None:
        _heading("What is shown")
        self.task = _radio("What annotators do", _TASKS, "project-task")
        with gr.Row(elem_classes="wsl-options"):
            self.responses = _number(
                "Responses to a prompt",
                "2 to 9, all different; 1 can be rated. Fewer where the policy has no more to say.",
                "project-responses",
            )
        self.writes = gr.Checkbox(
            label="The policy writes comparisons",
            info="Without it only what is imported in the Prompts tab is judged, and what waits "
            "already; no new policy meets the one before it.",
            elem_id="project-writes",
        )
        with gr.Row(elem_classes="wsl-options"):
            self.shares = (
                _number(
                    "Live policy alone, %",
                    "Its own responses, drawn with different seeds.",
                    "project-share-live",
                ),
                _number(
                    "Live against the one before, %",
                    "The policy that was live before it.",
                    "project-share-previous",
                ),
                _number(
                    "Live against the base, %",
                    "The model that training began with.",
                    "project-share-base",
                ),
            )
        self.diverted = actions.area("project-diverted")

    def _draw_judged(self) -> None:
        _heading("How it is judged")
        self.scale = _radio("Scale of a comparison", _SCALES, "project-scale")
        self.rating_scale = _radio("Scale of a rating", _RATINGS, "project-rating-scale")
        actions.static(
            "project-criteria-head",
            el(
                "p",
                "Criteria are judged beside the verdict, each on a scale of its own, and may "
                "disagree with it. The verdict waits for those that are needed.",
                class_="wsl-note",
            ),
        )
        self.criteria = [self._draw_criterion(i) for i in range(_CRITERION_ROWS)]
        self.reasons = gr.Textbox(
            label="Reasons to choose from, one a line",
            info="Offered beside the free text when somebody says why.",
            lines=3,
            max_lines=12,
            elem_id="project-reasons",
        )
        self.reveals = gr.Checkbox(
            label="Tell which policy wrote which response, after the verdict",
            elem_id="project-reveals",
        )

    def _draw_often(self) -> None:
        _heading("How often")
        with gr.Row(elem_classes="wsl-options"):
            self.min_submitted = _number(
                "People who judge each comparison",
                "1 to 20. Takes effect at once, also on what is done or waits.",
                "project-min-submitted",
            )

    def _draw_criterion(self, i: int) -> tuple[gr.Textbox, gr.Dropdown, gr.Checkbox]:
        with gr.Row(elem_classes="wsl-criterion-row"):
            return (
                gr.Textbox(
                    label=f"Criterion {i + 1}",
                    max_length=MAX_NAME,
                    scale=4,
                    min_width=120,
                    elem_id=f"project-criterion-{i}",
                ),
                gr.Dropdown(
                    list(_CRITERION_SCALES),
                    value=Scale.PLAIN.value,
                    label="Scale",
                    scale=4,
                    min_width=140,
                    elem_id=f"project-criterion-scale-{i}",
                ),
                gr.Checkbox(
                    label="Needed",
                    scale=1,
                    min_width=104,
                    elem_id=f"project-criterion-needed-{i}",
                ),
            )

    def _draw_guidelines(self) -> None:
        self.in_force = actions.area("guidelines-head")
        self.guidelines = gr.Textbox(
            label="Text, in Markdown",
            lines=12,
            max_lines=30,
            max_length=MAX_GUIDELINES,
            placeholder="What makes a response better here? Say what to weigh, with examples.",
            elem_id="guidelines-text",
        )
        self.publish = gr.Button("Publish", variant="primary", elem_id="guidelines-publish")
        self.published = actions.area("guidelines-note")

    def _connect(self, head: gr.HTML) -> None:
        fields = [self.name, self.task, self.responses, self.writes, *self.shares]
        fields += [self.scale, self.rating_scale, self.reasons, self.reveals, self.min_submitted]
        rows = [component for row in self.criteria for component in row]
        shown = [*fields, *rows, self.saved, self.diverted, self.about]
        shown += [self.in_force, self.guidelines, self.published]
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        actions.on_open(
            head,
            guarded(self._sessions, self.open),
            [],
            shown,
            redrawn=guarded(self._sessions, self.redraw),
        )
        self.save.click(guarded(self._sessions, self.change), [*fields, *rows], shown, **quiet)
        self.publish.click(
            guarded(self._sessions, self.write_guidelines), [self.guidelines], shown, **quiet
        )

    def open(self, actor: Actor) -> dict[Any, Any]:
        """What is set now."""
        return self._head() | self._settings_shown(actor) | self._guidelines_shown()

    def redraw(self, actor: Actor) -> dict[Any, Any]:
        """The same in another language; what is typed and not saved yet stays."""
        diverted = diverted_note(self._candidates.supply(actor).diverted)
        return (
            self._head()
            | {self.diverted: diverted}
            | {scale: gr.Dropdown(choices=_criterion_scales()) for _, scale, _ in self.criteria}
        )

    def change(
        self,
        actor: Actor,
        name: str | None,
        task: str | None,
        responses: Any,
        writes: bool | None,
        live: Any,
        previous: Any,
        base: Any,
        scale: str | None,
        rating_scale: str | None,
        reasons: str | None,
        reveals: bool | None,
        min_submitted: Any,
        *criteria: Any,
    ) -> dict[Any, Any]:
        """Set it for everybody; guidelines that are being written stay as they are."""
        self._project.change(
            actor,
            name=name or "",
            task=task or "",
            scale=scale or "",
            rating_scale=rating_scale or "",
            criteria=_criteria(criteria),
            reasons=tuple(line for line in (reasons or "").splitlines() if line.strip()),
            reveals_policies=bool(reveals),
            responses=responses,
            writes_comparisons=bool(writes),
            shares=Shares(live, previous, base),
            min_submitted=min_submitted,
        )
        told = html.notice(
            "good",
            t("Saved."),
            t(
                "Pages that are open follow at their next load. Comparisons that wait already are "
                "given out first; what was judged stays as it is."
            ),
            id="project-saved",
        )
        return self._settings_shown(actor) | {self.saved: told, self.published: EMPTY}

    def write_guidelines(self, actor: Actor, text: str | None) -> dict[Any, Any]:
        """The next version, for everybody; settings that are being changed stay as they are."""
        written = self._project.write_guidelines(actor, text or "")
        told = html.notice(
            "good",
            t("Version {n} is in force.", n=written.version),
            t(
                "Open pages say so beside the next comparison. Every judgment records the version "
                "that it was made under."
            ),
            id="guidelines-published",
        )
        head = guidelines_head(written, utc_now())
        return self._guidelines_shown() | {
            self.in_force: head,
            self.published: told,
            self.saved: EMPTY,
        }

    def _criteria_shown(self, criteria: Sequence[Criterion]) -> dict[Any, Any]:
        shown: dict[Any, Any] = {}
        blank = Criterion("", Scale.PLAIN)
        for i, (name, scale, needed) in enumerate(self.criteria):
            criterion = criteria[i] if i < len(criteria) else blank
            shown[name] = criterion.name
            shown[scale] = gr.Dropdown(choices=_criterion_scales(), value=criterion.scale.value)
            shown[needed] = criterion.is_required
        return shown

    def _settings_shown(self, actor: Actor) -> dict[Any, Any]:
        now = self._project.settings
        return {
            self.name: now.name,
            self.task: now.task.value,
            self.responses: now.responses,
            self.writes: now.writes_comparisons,
            **dict(zip(self.shares, astuple(now.shares), strict=True)),
            self.diverted: diverted_note(self._candidates.supply(actor).diverted),
            self.min_submitted: now.min_submitted,
            self.scale: now.scale.value,
            self.rating_scale: now.rating_scale.value,
            self.reasons: "\n".join(now.reasons),
            self.reveals: now.reveals_policies,
            **self._criteria_shown(now.criteria),
        }

    def _guidelines_shown(self) -> dict[Any, Any]:
        written = self._project.guidelines
        return {self.guidelines: written.text if written else ""}

    def _head(self) -> dict[Any, Any]:
        """What is said in words, and no notice of what was done before."""
        return {
            self.saved: EMPTY,
            self.published: EMPTY,
            self.in_force: guidelines_head(self._project.guidelines, utc_now()),
            self.about: about_scales(),
        }


def _criterion_scales() -> list[tuple[str, str]]:
    """In the person's language: a dropdown's choices are no labels that the browser translates."""
    return [(t(label), value) for label, value in _CRITERION_SCALES]


def _radio(label: str, choices: Sequence[tuple[str, str]], elem_id: str) -> gr.Radio:
    return gr.Radio(list(choices), label=label, elem_id=elem_id, elem_classes="wsl-stack")


def _heading(text: str) -> None:
    area_id = f"project-{text.lower().replace(' ', '-')}"
    actions.static(area_id, el("h4", text, class_="wsl-form-section"))


def _number(label: str, info: str, elem_id: str) -> gr.Number:
    return gr.Number(
        label=label,
        info=info,
        step=1,
        min_width=180,
        interactive=True,
        elem_id=elem_id,
        elem_classes="wsl-option",
    )


def _criteria(values: Sequence[Any]) -> tuple[Criterion, ...]:
    """The rows of the form that have a name; three values each."""
    rows = [values[i : i + 3] for i in range(0, len(values), 3)]
    return tuple(
        Criterion(name, scale or Scale.PLAIN, bool(needed))
        for name, scale, needed in rows
        if (name or "").strip()
    )


def diverted_note(diverted: Sequence[Diverted]) -> Html:
    """Which shares cannot be served now, and what comes instead."""
    if not diverted:
        return EMPTY
    lines = (
        t(
            "{n} % live against {rival}: {why}.",
            n=share.percent,
            rival=t(_RIVALS[share.rival]),
            why=t(_WHY_NOT[share.why]),
        )
        for share in diverted
    )
    return html.notice(
        "warn",
        t("Not possible now; the live policy writes these alone."),
        *lines,
        id="project-diverted-note",
    )


def guidelines_head(written: Guidelines | None, now: datetime) -> Html:
    """Which version is in force."""
    said: list[Html | str] = [
        t("None yet. Annotators see them in a drawer beside the comparison, in Markdown.")
    ]
    if written is not None:
        published = html.ago(written.created_at, now)
        said = [t("Version {n}, published:", n=written.version), " ", published]
    return html.join([el("h3", t("Guidelines")), el("p", *said, class_="wsl-note")])


def about_scales() -> Html:
    """What a strength becomes in the data."""
    rows = [(t(name), t("strength {n}", n=strength)) for name, strength in _STRENGTHS]
    return html.section(
        t("What it becomes"),
        el(
            "p",
            t(
                "A judgment's strength becomes the margin of its preference: 3 for much better, 2 "
                "for better, 1 for slightly. On the plain scale every choice is 2. A finer scale "
                "tells more about each pair and takes a little longer; it can be changed at any "
                "time."
            ),
            class_="wsl-note",
        ),
        html.definitions(rows),
    )
