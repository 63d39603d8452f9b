"""The Quality tab: what people flagged, for leads to decide, and how well people judge."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from labeling import i18n
from labeling.access import Actor
from labeling.i18n import mark, percent, plural, t
from labeling.reviewing import (
    MAX_NOTE,
    FlaggedResponse,
    Reviewing,
    ReviewItem,
    ReviewPage,
    SharedAgreement,
    SideShare,
)
from labeling.sessions import Sessions
from labeling.ui import actions, html
from labeling.ui.guard import Action, acted, guarded
from labeling.ui.html import EMPTY, Html, el
from labeling.verdicts import FlagKind
from store.db import utc_now
from store.errors import BadInput
from store.records import Decision, Message
from store.reviews import FlaggedJudgment, Stage

SHOWN_CHARACTERS = 4000
HARDLY_SHARED = 30
USUAL_ALPHA = 0.25
POOR_ALPHA = 0.10

_KINDS = {
    FlagKind.UNSAFE.value: mark("Unsafe"),
    FlagKind.OFF_TOPIC.value: mark("Off topic"),
    FlagKind.WRONG_LANGUAGE.value: mark("Wrong language"),
    FlagKind.PERSONAL_DATA.value: mark("Personal data"),
}
_STAGES = {
    Stage.OPEN: mark("To decide"),
    Stage.WITHDRAWN: mark("Withdrawn"),
    Stage.KEPT: mark("Kept"),
}
_EMPTY = {
    Stage.OPEN: (
        mark("No flags to decide"),
        mark(
            "While they judge, people can flag a response or a prompt as unsafe, off topic, in the "
            "wrong language, or as holding personal data. What they flag waits here until a lead "
            "keeps it or withdraws it."
        ),
    ),
    Stage.WITHDRAWN: (
        mark("Nothing is withdrawn"),
        mark(
            "From a withdrawn comparison nothing is learnt or exported, and nobody is asked to "
            "judge it. That can be changed here at any time."
        ),
    ),
    Stage.KEPT: (
        mark("Nothing has been kept yet"),
        mark(
            "What a lead found fine although it was flagged stands here, and can still be "
            "withdrawn."
        ),
    ),
}
_DECIDED = {
    Decision.KEPT: (
        mark("Kept"),
        "good",
        mark("It counts as before. New flags bring it back to the queue."),
    ),
    Decision.WITHDRAWN: (
        mark("Withdrawn"),
        "warn",
        mark("Nothing is learnt or exported from it any more, and nobody is asked to judge it."),
    ),
}
_ROLES = {
    "user": mark("User"),
    "assistant": mark("Assistant"),
    "system": mark("System"),
    "tool": mark("Tool"),
}


def render(sessions: Sessions, reviewing: Reviewing) -> None:
    """Draw the tab."""
    QualityTab(sessions, reviewing).draw()


class QualityTab:
    """The tab's components and what happens on them.

    Which stage and page are shown goes with each button, so nothing is kept for a page.
    """

    def __init__(self, sessions: Sessions, reviewing: Reviewing) -> None:
        self._sessions = sessions
        self._reviewing = reviewing

    def draw(self) -> None:
        """Lay the tab out and connect it."""
        head = actions.static(
            "quality-head",
            html.page_head(
                "Quality", "What people flagged, for you to decide, and how well they agree."
            ),
        )
        self.told = actions.area("quality-told")
        self.queue = actions.area("quality-queue")
        self.figures = actions.area("quality-figures")
        shown = [self.told, self.queue, self.figures]
        actions.on_open(head, guarded(self._sessions, self.open), [], shown)
        actions.on_action(self.queue, acted(self._sessions, self.act), [], shown[:2])

    def open(self, actor: Actor) -> dict[Any, Any]:
        """What waits for a decision, and the figures."""
        return self._shown(actor, Stage.OPEN, 1, EMPTY) | {
            self.figures: html.join(
                [
                    agreement_card(self._reviewing.agreement(actor)),
                    sides_card(self._reviewing.sides(actor)),
                ]
            )
        }

    def act(self, actor: Actor, action: Action) -> dict[Any, Any]:
        """Show another stage or page, or decide."""
        if action.act == "show":
            stage, number = _shown_by(action.key)
            return self._shown(actor, stage, number, EMPTY)
        decision = {"keep": Decision.KEPT, "withdraw": Decision.WITHDRAWN}.get(action.act)
        if decision is None:
            raise BadInput("There is nothing to do that is called {act!r}.", act=action.act)
        place, _, rest = action.key.partition("|")
        seen, _, comparison_id = rest.partition("|")
        if not seen.isdecimal():
            raise BadInput("This page is too old to decide on; open the tab again.")
        self._reviewing.decide(actor, comparison_id, decision, seen_seq=int(seen), note=action.text)
        return self._shown(actor, *_shown_by(place), told(decision))

    def _shown(self, actor: Actor, stage: Stage, number: int, said: Html) -> dict[Any, Any]:
        page = self._reviewing.page(actor, stage, number=number)
        return {self.told: said, self.queue: queue_card(page, stage, utc_now())}


def told(decision: Decision) -> Html:
    """What a decision has changed."""
    title, _, consequence = _DECIDED[decision]
    return html.notice("good", t(title), t(consequence), id="quality-decided")


def queue_card(page: ReviewPage, stage: Stage, now: datetime) -> Html:
    """The numbers, the stages to choose from, and a page of the one that is shown."""
    counts = page.counts
    numbers = html.figures(
        html.figure(f"{counts[Stage.OPEN]:,}", t("to decide"), id="quality-open"),
        html.figure(f"{counts[Stage.WITHDRAWN]:,}", t("withdrawn"), id="quality-withdrawn"),
        html.figure(f"{counts[Stage.KEPT]:,}", t("kept"), id="quality-kept"),
    )
    stages = el(
        "div",
        *(_stage_button(each, is_shown=each is stage) for each in _STAGES),
        class_="wsl-stages",
        role="group",
        aria_label=t("Which flagged comparisons to show"),
    )
    if not page.items:
        title, body = _EMPTY[stage]
        return html.section(
            t("Flags"),
            numbers,
            stages,
            html.empty(t(title), t(body), id="quality-empty"),
            id="flags",
        )
    cards = (_item(item, f"{stage} {page.number}", now) for item in page.items)
    return html.join(
        [
            html.section(t("Flags"), numbers, stages, id="flags"),
            el("div", *cards, class_="wsl-flagged-list", id="flagged"),
            _turning(page, stage),
        ]
    )


def agreement_card(shared: SharedAgreement) -> Html:
    """How far people agree where they judged the same."""
    found = shared.agreement
    if found.raw is None:
        return html.section(
            t("Agreement"),
            html.empty(
                t("Nothing was judged by two people yet"),
                t(
                    "Where several people judge the same responses, this tells how often they "
                    "agree on the better one."
                ),
                id="agreement-empty",
            ),
            id="agreement",
        )
    alpha = "—" if found.alpha is None else f"{found.alpha:.2f}"
    pairs = EMPTY
    if found.units > shared.comparisons:
        pairs = html.figure(i18n.number(found.units), t("pairs of responses in them"))
    return html.section(
        t("Agreement"),
        html.figures(
            html.figure(percent(found.raw), t("agree"), id="agreement-raw"),
            html.figure(alpha, t("Krippendorff's alpha"), id="agreement-alpha"),
            html.figure(
                i18n.number(shared.comparisons), t("comparisons shared"), id="agreement-shared"
            ),
            pairs,
        ),
        el("p", _alpha_says(shared), class_="wsl-note"),
        note=t(
            "Of two people who judged the same two responses, how many said the same: one, the "
            "other, or neither is better. Alpha is 0 for what chance gives and 1 for perfect "
            "agreement."
        ),
        id="agreement",
    )


def _alpha_says(shared: SharedAgreement) -> str:
    alpha = shared.agreement.alpha
    if alpha is None:
        return t("Alpha cannot be told while everybody gives the same answer.")
    if shared.comparisons < HARDLY_SHARED:
        return t("With fewer than {n} shared comparisons alpha says little.", n=HARDLY_SHARED)
    if alpha < POOR_ALPHA:
        return t("This alpha is hardly more than chance: talk about examples, and write them down.")
    if alpha < USUAL_ALPHA:
        return t(
            "This alpha is less than is usual for open conversations, about {usual}.",
            usual=USUAL_ALPHA,
        )
    return t("For open conversations an alpha of about {usual} is usual.", usual=USUAL_ALPHA)


def sides_card(sides: SideShare) -> Html:
    """Whether the response that stands first is chosen more often than by chance."""
    note = t("Sides are drawn at random, so each should win about half of the decided comparisons.")
    if sides.share is None:
        body = html.empty(
            t("Nothing decided yet"),
            t("As soon as people prefer one of two responses, this tells how often it was A."),
            id="sides-empty",
        )
        return html.section(t("Sides"), body, note=note, id="sides")
    share = percent(sides.share, digits=1)
    interval = t(
        "95 % interval {low} to {high}",
        low=percent(sides.low, digits=1),
        high=percent(sides.high, digits=1),
    )
    told = t("A was chosen in {share}", share=share)
    line = el(
        "div",
        html.interval_meter(sides.share, sides.low, sides.high, f"{told} · {interval}"),
        el("b", share, id="sides-share"),
        class_="wsl-verdict-line",
    )
    counted = plural("{n} decided judgment", "{n} decided judgments", sides.decided)
    text = f"{_sides_say(sides)} · {interval} · {counted}"
    return html.section(t("Sides"), line, el("p", text, class_="wsl-note"), note=note, id="sides")


def _sides_say(sides: SideShare) -> str:
    if sides.low > 0.5:
        return t("A was chosen more often than chance gives: some may not read B")
    if sides.high < 0.5:
        return t("A was chosen less often than chance gives: some may not read A")
    return t("A was chosen as often as chance may give")


def _stage_button(stage: Stage, *, is_shown: bool) -> Html:
    return el(
        "button",
        t(_STAGES[stage]),
        type="button",
        class_="wsl-button",
        data_act="show",
        data_key=f"{stage} 1",
        aria_pressed="true" if is_shown else "false",
        id=f"quality-show-{stage}",
    )


def _turning(page: ReviewPage, stage: Stage) -> Html:
    """Buttons to the pages before and after."""
    if page.pages == 1:
        return EMPTY
    before, after = page.number - 1, page.number + 1
    return el(
        "nav",
        html.button(t("Back|page"), "show", key=f"{stage} {before}", disabled=before < 1),
        el(
            "span",
            t("Page {number} of {pages}", number=page.number, pages=page.pages),
            class_="wsl-quiet",
            id="quality-page",
        ),
        html.button(
            t("Next|page"),
            "show",
            key=f"{stage} {after}",
            disabled=after > page.pages,
            id="quality-next",
        ),
        class_="wsl-actions",
        aria_label=t("Pages"),
    )


def _item(item: ReviewItem, place: str, now: datetime) -> Html:
    """A flagged comparison as a card."""
    id = f"flagged-{item.comparison_id}"
    head = el(
        "div",
        el("h4", t("Prompt"), id=id),
        _flagged_as(item.prompt_kinds, item.prompt_flagged_by),
        class_="wsl-card-head",
    )
    responses = [
        _response(number, response, item.language)
        for number, response in enumerate(item.responses, start=1)
    ]
    return el(
        "article",
        head,
        *(_turn(message, item.language, len(item.messages) > 1) for message in item.messages),
        el("div", *responses, class_="wsl-flagged-responses"),
        el("ul", *(_said(judgment, now) for judgment in item.flagged), class_="wsl-flagged-by"),
        _decision(item, now),
        _deciding(item, place),
        class_="wsl-card wsl-flagged",
        aria_labelledby=id,
        data_comparison=item.comparison_id,
    )


def _response(number: int, response: FlaggedResponse, language: str) -> Html:
    name = t("Response {n}", n=number)
    head = el(
        "div",
        el("h4", name),
        _flagged_as(response.kinds, response.flagged_by),
        class_="wsl-card-head",
    )
    classes = "wsl-flagged-response" + (" wsl-is-flagged" if response.kinds else "")
    return el("section", head, _text(response.text, language, name), class_=classes)


def _turn(message: Message, language: str, is_one_of_many: bool) -> Html:
    role = t(_ROLES[message["role"]]) if message["role"] in _ROLES else message["role"]
    name = el("span", role, class_="wsl-quiet") if is_one_of_many else EMPTY
    return html.join([name, _text(message["content"], language, t("Prompt, {role}", role=role))])


def _text(text: str, language: str, name: str) -> Html:
    """What was written, as it stands; scrolls by itself, also with the keyboard."""
    more = len(text) - SHOWN_CHARACTERS
    cut = text if more <= 0 else f"{text[:SHOWN_CHARACTERS]}…"
    rest = EMPTY
    if more > 0:
        told = plural("and {n} more character", "and {n} more characters", more)
        rest = el("p", told, class_="wsl-note")
    body = el(
        "div",
        el("div", cut, dir="auto", lang=language) if text else t("(no text)"),
        class_="wsl-flagged-text" if text else "wsl-flagged-text wsl-quiet",
        tabindex=0,
        role="group",
        aria_label=name,
    )
    return html.join([body, rest])


def _flagged_as(kinds: Sequence[str], people: int) -> Html:
    """Which kinds, by how many people."""
    if not kinds:
        return EMPTY
    pills = [html.pill(_kind(kind), "bad") for kind in kinds]
    by = el("span", plural("by {n} person", "by {n} people", people), class_="wsl-quiet")
    return el("span", *pills, by, class_="wsl-pills")


def _kind(name: str) -> str:
    return t(_KINDS[name]) if name in _KINDS else name


def _said(judgment: FlaggedJudgment, now: datetime) -> Html:
    """Who flagged, when, and what they wrote about it."""
    kinds = i18n.listed(list(dict.fromkeys(_kind(flag.kind) for flag in judgment.flags)))
    line = el(
        "span",
        el("b", html.written(judgment.annotator)),
        f" · {kinds} · ",
        html.ago(judgment.recorded_at, now),
        class_="wsl-note",
    )
    why = el("q", judgment.rationale, dir="auto", lang="") if judgment.rationale else EMPTY
    return el("li", line, why)


def _decision(item: ReviewItem, now: datetime) -> Html:
    """What was decided before, and that it no longer covers all flags."""
    review = item.review
    if review is None:
        return EMPTY
    title, tone, _ = _DECIDED[review.decision]
    reviewer = html.written(item.reviewer) if item.reviewer else t("somebody who left")
    parts = [
        html.pill(t(title), tone),
        el("span", t("by|decided"), " ", el("b", reviewer)),
        html.ago(review.recorded_at, now),
    ]
    if item.stage is Stage.OPEN:
        parts.append(el("span", t("and flagged again since")))
    line = el("div", *parts, class_="wsl-pills wsl-note")
    note = el("q", review.note, dir="auto", lang="") if review.note else EMPTY
    return el("div", line, note, class_="wsl-decided")


def _deciding(item: ReviewItem, place: str) -> Html:
    """A note, and the decisions that change something."""
    field = f"note-{item.comparison_id}"
    key = f"{place}|{item.newest_seq}|{item.comparison_id}"
    note = el(
        "label",
        el("span", t("Note (optional)"), class_="wsl-note"),
        el("textarea", id=field, rows=1, maxlength=MAX_NOTE),
        class_="wsl-deciding-note",
    )
    is_decided = item.stage is not Stage.OPEN
    keep = html.button(
        t("Keep after all") if is_decided else t("Keep"), "keep", key=key, field=field
    )
    withdraw = html.button(
        t("Withdraw after all") if is_decided else t("Withdraw"),
        "withdraw",
        key=key,
        field=field,
        title=t("Nothing is learnt from it any more, and nobody is asked to judge it."),
    )
    choices = {Stage.KEPT: [withdraw], Stage.WITHDRAWN: [keep]}.get(item.stage, [keep, withdraw])
    return el("div", note, *choices, class_="wsl-deciding")


def _shown_by(place: str) -> tuple[Stage, int]:
    """The stage and the page that a button goes with."""
    stage, _, number = place.partition(" ")
    if stage not in list(Stage) or not number.isdecimal():
        raise BadInput("This page is too old; open the tab again.")
    return Stage(stage), int(number)
