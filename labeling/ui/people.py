"""The People tab: who may judge and who may lead."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import gradio as gr

from labeling.access import Actor
from labeling.i18n import mark, plural, t
from labeling.sessions import MIN_PASSWORD, Sessions
from labeling.ui import actions, html
from labeling.ui.guard import Action, acted, guarded
from labeling.ui.html import EMPTY, Html, el
from store.db import utc_now
from store.errors import BadInput
from store.records import Annotator, Role

_ROLES = (
    ("Annotator: judges responses", Role.ANNOTATOR),
    ("Lead: judges, trains, promotes, exports, adds people", Role.LEAD),
)


_ROLE = {
    Role.ANNOTATOR: mark("annotator"),
    Role.LEAD: mark("lead"),
    Role.SOURCE: mark("source"),
}


def render(sessions: Sessions) -> None:
    """Draw the tab."""
    PeopleTab(sessions).draw()


class PeopleTab:
    """The tab's components and what happens on them."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def draw(self) -> None:
        """Lay the tab out and connect it."""
        head = actions.static(
            "people-head", html.page_head("People", "Who may judge, and who may lead.")
        )
        self.note = actions.area("people-note")
        with gr.Row(elem_classes="wsl-split"):
            with gr.Column(scale=7, min_width=320, elem_classes="wsl-main"):
                self.list = actions.area("people-list")
            with gr.Column(scale=5, min_width=320, elem_classes="wsl-side"):
                with gr.Column(elem_classes="wsl-card", visible=False) as self.own_card:
                    self._draw_own()
                with gr.Column(elem_classes="wsl-card") as self.add_card:
                    self._draw_add()
                with gr.Column(elem_classes="wsl-card") as self.password_card:
                    self._draw_password()
        self._connect(head)

    def _draw_own(self) -> None:
        actions.static(
            "own-head",
            html.join(
                [
                    el("h3", "Your own account first"),
                    el(
                        "p",
                        "You are alone here and nobody asks who you are. Before others get "
                        "accounts, choose how you will sign in yourself; what you have judged "
                        "and done stays yours.",
                        class_="wsl-note",
                    ),
                ]
            ),
        )
        self.own_name = gr.Textbox(label="Your name", max_length=80, elem_id="own-name")
        self.own_password = _password("Your password", "own-password")
        self.own = gr.Button("That is me", variant="primary", elem_id="own-set")

    def _draw_add(self) -> None:
        actions.static("person-head", el("h3", "Add a person"))
        self.name = gr.Textbox(label="Name", max_length=80, elem_id="person-name")
        self.role = gr.Radio(
            list(_ROLES),
            value=Role.ANNOTATOR.value,
            label="Role",
            elem_id="person-role",
            elem_classes="wsl-stack",
        )
        self.password = _password("Password", "person-password")
        self.add = gr.Button("Add", variant="primary", elem_id="person-add")

    def _draw_password(self) -> None:
        actions.static("password-head", el("h3", "Set a new password"))
        self.whose = gr.Dropdown([], label="Whose", value=None, elem_id="password-whose")
        self.new_password = _password("New password", "password-new")
        self.set = gr.Button("Set password", elem_id="password-set")

    def _connect(self, head: gr.HTML) -> None:
        cards = [self.own_card, self.add_card, self.password_card]
        shown = [self.note, self.list, self.whose, *cards]
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        actions.on_open(head, guarded(self._sessions, self.open), [], shown)
        self.own.click(
            guarded(self._sessions, self.name_itself),
            [self.own_name, self.own_password],
            [*shown, self.own_password],
            **quiet,
        )
        self.add.click(
            guarded(self._sessions, self.add_person),
            [self.name, self.role, self.password],
            [*shown, self.name, self.password],
            **quiet,
        )
        self.set.click(
            guarded(self._sessions, self.set_password),
            [self.whose, self.new_password],
            [*shown, self.new_password],
            **quiet,
        )
        actions.on_action(self.list, acted(self._sessions, self.act), [], shown)

    def open(self, actor: Actor) -> dict[Any, Any]:
        """Everyone, as they are now."""
        return self._shown(actor, EMPTY)

    def name_itself(self, actor: Actor, name: str, password: str) -> dict[Any, Any]:
        """The one person on this machine can sign in from now on."""
        named = self._sessions.name_itself(actor, name or "", password or "")
        told = html.notice(
            "good",
            t("You are {name}.", name=named.name),
            t(
                "From the next start on you sign in with that name and password. Now add the "
                "others."
            ),
            id="person-named",
        )
        return self._shown(actor, told) | {self.own_password: ""}

    def add_person(self, actor: Actor, name: str, role: str, password: str) -> dict[Any, Any]:
        """A new account."""
        added = self._sessions.add_person(actor, name or "", Role(role), password or "")
        told = html.notice(
            "good",
            _welcome(added),
            self._sign_in_hint(),
            id="person-added",
        )
        return self._shown(actor, told) | {self.name: "", self.password: ""}

    def set_password(self, actor: Actor, whose: str | None, password: str) -> dict[Any, Any]:
        """Another password; the person's sessions end."""
        if not whose:
            raise BadInput("Choose whose password to set first.")
        self._sessions.set_password(actor, whose, password or "")
        told = html.notice(
            "good",
            t("The password is set."),
            t("Wherever that person was signed in, they sign in anew."),
        )
        return self._shown(actor, told) | {self.new_password: ""}

    def act(self, actor: Actor, action: Action) -> dict[Any, Any]:
        """Let somebody in, or keep them out."""
        if action.act not in ("activate", "deactivate"):
            raise BadInput("There is nothing to do that is called {act!r}.", act=action.act)
        self._sessions.set_active(actor, action.key, is_active=action.act == "activate")
        return self._shown(actor, EMPTY)

    def _shown(self, actor: Actor, told: Html) -> dict[Any, Any]:
        people = self._sessions.people(actor)
        note = single_person_note() if self._sessions.is_single_person else EMPTY
        must_name = self._sessions.must_name_itself(actor)
        return {
            self.own_card: gr.Column(visible=must_name),
            self.add_card: gr.Column(visible=not must_name),
            self.password_card: gr.Column(visible=not must_name),
            self.note: html.join([told, note]),
            self.list: people_card(people, me=actor.id, now=utc_now()),
            self.whose: gr.Dropdown(choices=[(p.name, p.id) for p in people]),
        }

    def _sign_in_hint(self) -> str:
        if self._sessions.is_single_person:
            return t("From the next start on everybody signs in.")
        return t("Give them the address of this page, their name and the password.")


def _welcome(added: Annotator) -> str:
    if added.role is Role.LEAD:
        return t("{name} can sign in as lead.", name=added.name)
    return t("{name} can sign in as annotator.", name=added.name)


def single_person_note() -> Html:
    """Why nobody is asked for a password, and what changes that."""
    return html.notice(
        "quiet",
        t("This Whetstone is open to you alone."),
        t(
            "It answers on this machine only and asks for no password. As soon as there "
            "is an account with a password, everybody signs in from the next start on."
        ),
        id="people-single",
    )


def people_card(people: Sequence[Annotator], *, me: str, now: datetime) -> Html:
    """Everyone, with what can be done about them."""
    rows = [
        [
            el("b", html.written(person.name)),
            html.pill(t(_ROLE[person.role]), "accent" if person.role is Role.LEAD else "quiet"),
            html.pill(t("active"), "good")
            if person.is_active
            else html.pill(t("kept out"), "warn"),
            html.ago(person.created_at, now),
            _switch(person, me),
        ]
        for person in people
    ]
    heads = (t("Name"), t("Role"), t("State"), t("Since"), "")
    return html.section(
        t("People"),
        html.table(heads, rows, id="people-table"),
        note=plural("{n} person", "{n} people", len(people)),
    )


def _switch(person: Annotator, me: str) -> Html:
    if person.id == me:
        return el("span", t("this is you"), class_="wsl-quiet")
    if not person.is_active:
        return html.button(t("Let in again"), "activate", key=person.id)
    return html.button(
        t("Keep out"),
        "deactivate",
        key=person.id,
        ask=t(
            "{name} is signed out everywhere and cannot sign in until you let them in "
            "again. Their judgments stay.",
            name=person.name,
        ),
        ask_title=t("Keep {name} out?", name=person.name),
    )


def _password(label: str, elem_id: str) -> gr.Textbox:
    return gr.Textbox(
        label=label,
        type="password",
        info=f"At least {MIN_PASSWORD} characters.",
        html_attributes=gr.InputHTMLAttributes(autocomplete="new-password"),
        elem_id=elem_id,
    )
