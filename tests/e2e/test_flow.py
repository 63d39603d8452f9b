"""What accompanies judging: keys of one's own, the tour, one's pace, and practice."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, Response, expect

from labeling.access import Actor
from labeling.practice import Draft, Practice
from labeling.project import Project
from store.records import Role
from tests.builders import keep, make_evidence, new_store
from tests.e2e.conftest import (
    PEOPLE,
    Launch,
    NewVisitor,
    RunningApp,
    Snap,
    Visitor,
    support_pairs,
    wait_for_item,
)
from tests.e2e.lead_page import open_lead_page

_ACCOUNTS = count()
LEA = Actor("lea", "Lea", Role.LEAD)
NOW = datetime(2026, 3, 2, 9, 0)
TOUCH: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "has_touch": True}
SECRET = "It takes the next step itself."
STEPS = Draft("My parcel never came.", "I will look for it today.", "Hm.", "a", f"**{SECRET}**")
SAME = Draft("How do I log in?", "Tap Forgot.", "Tap *Forgot*.", "tie", "Both say the same.")


class Served:
    """A server of one's own, and somebody on it."""

    def __init__(self, running: RunningApp, visitor: Visitor) -> None:
        self.running = running
        self.visitor = visitor

    def open(self) -> Page:
        """The first item on the page."""
        page = self.visitor.open_page()
        page.goto(f"{self.running.url}/label/")
        wait_for_item(page)
        return page


Serve = Callable[..., Served]


@pytest.fixture
def serve(tmp_path: Path, tiny_model: Path, new_visitor: NewVisitor) -> Iterator[Serve]:
    """`serve(responses=..., practice=..., settings=..., **visitor options)`."""
    started: list[RunningApp] = []

    def start(
        *,
        responses: int = 2,
        practice: Sequence[Draft] = (),
        settings: dict[str, Any] | None = None,
        **options: Any,
    ) -> Served:
        store = new_store(tmp_path / "data")
        evidence = [
            make_evidence(
                [f"Response {i} of {k}" for k in range(responses)], prompt=f"Question {i}?"
            )
            for i in range(60)
        ]
        keep(store, evidence)
        for draft in practice:
            Practice(store, rng=random.Random(1)).add(LEA, draft)
        Project(store).write_guidelines(LEA, "Prefer what helps.")
        Project(store).change(LEA, **(settings or {}))
        store.close()
        started.append(RunningApp(tmp_path / "data", tiny_model, writes_ahead=False))
        return Served(started[0], new_visitor(started[0].url, **options))

    yield start
    for running in started:
        running.stop()


Arrive = Callable[..., Page]


@pytest.fixture
def arrive(app: RunningApp, new_visitor: NewVisitor) -> Arrive:
    """`arrive(minutes=..., **visitor options)`: the next of `PEOPLE`, at the first item."""

    def start(*, minutes: float | None = None, **options: Any) -> Page:
        visitor = new_visitor(app.url, **options)
        if minutes is not None:
            visitor.context.clock.set_fixed_time(NOW + timedelta(minutes=minutes))
        return visitor.sign_in(PEOPLE[next(_ACCOUNTS) % len(PEOPLE)])

    return start


def question(page: Page) -> Locator:
    return page.locator(".ws-turn:last-child .ws-prose")


def next_after(page: Page, action: Callable[[], None]) -> None:
    before = question(page).inner_text()
    action()
    expect(question(page)).not_to_have_text(before)


def press(page: Page, key: str) -> None:
    """Judge by a key, and wait for the next item."""
    next_after(page, lambda: page.keyboard.press(key))


def judged(page: Page) -> list[dict[str, Any]]:
    page.wait_for_selector('.ws-compare[data-unsent="0"]', timeout=20_000)
    found = page.evaluate("fetch('/api/judging/history?limit=100').then(r => r.json())")
    rows: list[dict[str, Any]] = found["judgments"]
    return rows


def rebind(page: Page, action: str, key: str) -> str:
    """Give an action another key in the list of keys; returns what is said."""
    page.locator(f"[data-rebind='{action}']").click()
    page.keyboard.press(key)
    return page.locator("[data-part=keys_said]").inner_text()


def printed(page: Page, action: str) -> list[str]:
    return page.locator(f"[data-key-list='{action}'] kbd").all_inner_texts()


# Keys


def test_a_key_of_ones_own_judges_and_is_printed_everywhere(arrive: Arrive, snap: Snap) -> None:
    page = arrive()
    page.keyboard.press("?")
    assert rebind(page, "plain.a", "q") == "“A is better” is now q."
    assert printed(page, "plain.a") == ["q", "←"]
    snap(page, "keys")
    page.keyboard.press("Escape")

    button = page.locator(".ws-verdict:visible").first
    expect(button.locator("kbd")).to_have_text("q")
    expect(button).to_have_attribute("aria-keyshortcuts", "q ArrowLeft")
    before = question(page).inner_text()
    page.keyboard.press("1")
    expect(question(page)).to_have_text(before)
    press(page, "q")
    page.reload()
    wait_for_item(page)
    press(page, "q")
    press(page, "ArrowLeft")
    assert [row["place"] for row in judged(page)[:3]] == [0, 0, 0]

    page.keyboard.press("?")
    page.get_by_role("button", name="Back to defaults").click()
    assert printed(page, "plain.a") == ["1", "←"]
    page.keyboard.press("Escape")
    press(page, "1")


def test_a_taken_key_is_swapped_or_refused_and_the_page_says_which(arrive: Arrive) -> None:
    page = arrive()
    page.keyboard.press("?")

    said = rebind(page, "page.flag", "w")
    assert said == "Swapped: “Flag for the leads” is now w, and “Say why” is f."
    assert (printed(page, "page.flag"), printed(page, "page.why")) == (["w"], ["f"])

    for action, key, why in [
        ("page.flag", "1", "Numbers answer criteria"),
        ("page.flag", "Enter", "cannot be given away"),
        ("page.flag", "Control+k", "belong to the browser"),
        ("plain.a", "s", "“Can't judge”, and the two cannot be swapped"),
        ("plain.a", "Escape", "Left as it is"),
    ]:
        assert why in rebind(page, action, key)
    assert (printed(page, "page.flag"), printed(page, "plain.a")) == (["w"], ["1", "←"])
    expect(page.locator("[data-part=keys]")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("w")
    expect(page.locator("[data-part=flag_panel]")).to_be_visible()


def test_keys_are_each_persons_own(launch: Launch, new_visitor: NewVisitor) -> None:
    visitor = new_visitor(launch(support_pairs(20), ["ana", "ben"]).url)
    page = visitor.sign_in("ana")
    page.keyboard.press("?")
    rebind(page, "plain.a", "q")
    page.close()
    visitor.context.clear_cookies()

    page = visitor.sign_in("ben")

    expect(page.locator(".ws-verdict:visible kbd").first).to_have_text("1")


def test_keys_of_the_seven_point_scale_and_of_rankings_can_be_changed(serve: Serve) -> None:
    page = serve(settings={"scale": "seven_point"}).open()
    page.keyboard.press("?")
    assert "“A is much better” is now q" in rebind(page, "seven_point.a3", "q")
    page.keyboard.press("Escape")
    press(page, "q")
    (row,) = judged(page)
    assert (row["place"], row["strength"]) == (0, 3)


def test_the_keys_of_a_ranking_can_be_changed(serve: Serve) -> None:
    page = serve(responses=4).open()
    page.keyboard.press("?")
    assert "“Tie” is now q" in rebind(page, "list.rank_tie", "q")
    assert "“Scroll down, or to the next response” is now b" in rebind(page, "page.down", "b")
    page.keyboard.press("Escape")
    expect(page.locator(".ws-card [data-rank-act=tie] kbd").first).to_have_text("q")

    for key in ("b", "t", "q"):
        page.keyboard.press(key)

    expect(page.locator(".ws-card .ws-rank")).to_have_text(["1", "1", "2", "3"])
    press(page, "Enter")
    assert sorted(judged(page)[0]["ranks"]) == [1, 1, 2, 3]


KEYDOWN = """([key, code, more]) => document.dispatchEvent(
    new KeyboardEvent("keydown", {key, code, bubbles: true, cancelable: true, ...more}))"""


def test_digits_and_letters_are_found_on_every_keyboard(arrive: Arrive) -> None:
    page = arrive()
    for key, code, place in [
        ("&", "Digit1", 0),
        ("\u0661", "Digit1", 0),
        ("é", "Digit2", 1),
        ("2", "Numpad2", 1),
    ]:
        before = question(page).inner_text()
        page.evaluate(KEYDOWN, [key, code, {}])
        expect(question(page)).not_to_have_text(before)
        assert judged(page)[0]["place"] == place
    dialog = page.locator("[data-part=skip]")
    for key, code, more in [
        ("Process", "KeyS", {"keyCode": 229}),  # an input method is at work
        ("ы", "KeyS", {"isComposing": True}),
        (",", "KeyS", {}),  # a Latin letter is elsewhere there
    ]:
        page.evaluate(KEYDOWN, [key, code, more])
        expect(dialog).to_be_hidden()

    page.evaluate(KEYDOWN, ["ы", "KeyS", {}])

    expect(dialog).to_be_visible()


# The tour


def test_whoever_comes_first_is_shown_around_once(arrive: Arrive, snap: Snap) -> None:
    page = arrive(is_new=True)
    tour = page.locator(".ws-tour")
    expect(tour).to_be_visible()
    expect(page.locator("[data-act=tour_next]")).to_be_focused()
    titles = []
    for n in range(5):
        expect(page.locator("[data-part=tour_count]")).to_have_text(f"{n + 1} of 5")
        expect(page.locator("[data-toured]")).to_have_count(1)
        titles.append(page.locator("[data-part=tour_title]").inner_text())
        snap(page, f"tour-{n + 1}")
        page.keyboard.press("Enter")

    expect(tour).to_be_hidden()
    expect(page.locator("[data-toured]")).to_have_count(0)
    assert len(set(titles)) == 5
    assert page.evaluate("document.activeElement === document.body")
    reload(page)
    expect(tour).to_be_hidden()
    page.keyboard.press("?")
    page.get_by_role("button", name="Show the tour").click()
    expect(tour).to_be_visible()
    page.locator(".ws-project").click()  # the focus is elsewhere; keys are the tour's all the same
    page.keyboard.press("Enter")
    expect(page.locator("[data-part=tour_count]")).to_have_text("2 of 5")
    page.click("[data-act=language]")
    expect(page.locator("[data-part=tour_title]")).to_have_text("按一下就能判断")
    page.keyboard.press("Escape")
    expect(tour).to_be_hidden()


def reload(page: Page) -> None:
    """Until the page had every chance to show the tour."""
    page.reload()
    expect(page.locator("[data-part=figures]")).to_be_visible()
    page.evaluate(
        "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() =>"
        " setTimeout(done))))"
    )


@pytest.mark.parametrize("is_touch", [False, True], ids=["keyboard", "touch"])
def test_a_verdict_ends_the_tour_and_judges(arrive: Arrive, snap: Snap, is_touch: bool) -> None:
    page = arrive(is_new=True, **(TOUCH if is_touch else {}))
    tour = page.locator(".ws-tour")
    expect(tour).to_be_visible()

    for _ in range(3 if is_touch else 0):  # beside each part of the bar the verdicts stay free
        page.locator("[data-act=tour_next]").tap()
        expect(page.locator(".ws-verdict:visible").first).to_be_visible()
    snap(page, f"tour-{'touch' if is_touch else 'wide'}")
    if is_touch:
        next_after(page, lambda: page.locator(".ws-verdict:visible").last.tap())
    else:
        press(page, "0")

    expect(tour).to_be_hidden()
    assert judged(page)[0]["verdict"] == "both_bad"
    reload(page)
    expect(tour).to_be_hidden()


# Pace


def at(page: Page, *, minutes: float) -> None:
    """Let the browser's clock say so."""
    page.clock.set_fixed_time(NOW + timedelta(minutes=minutes))


def test_the_pace_of_a_sitting_is_told_from_ten_items_on(arrive: Arrive, snap: Snap) -> None:
    page = arrive(minutes=0)
    before = len(judged(page))
    rate = page.locator("[data-part=rate]")

    for n in range(9):
        at(page, minutes=n)
        press(page, "1")
    expect(page.locator("[data-part=today]")).to_have_text(f"yours today {before + 9}")
    expect(rate).to_have_text("")
    at(page, minutes=9)
    press(page, "2")
    expect(rate).to_have_text(re.compile(r"6[67] an hour"))

    page.click("[data-part=figures]")
    box = page.locator("[data-part=pace_box]")
    expect(box).to_contain_text("Only you see this")
    expect(box.locator("[data-part=pace_sitting]")).to_have_text("10 in 9 min")
    expect(box.locator("[data-part=pace_streak]")).to_have_text("1 day")
    snap(page, "pace")
    press(page, "3")  # the numbers are in nobody's way
    page.keyboard.press("Escape")
    expect(box).to_be_hidden()

    at(page, minutes=26)  # the sitting has ended
    press(page, "1")
    expect(rate).to_have_text("")


def test_an_undone_judgment_leaves_the_sitting(arrive: Arrive) -> None:
    page = arrive()
    for _ in range(2):
        press(page, "1")
    judged(page)

    page.keyboard.press("u")

    page.click("[data-part=figures]")
    expect(page.locator("[data-part=pace_sitting]")).to_have_text("1 in 0 min")


def test_a_rest_is_offered_after_fifty_minutes_and_at_most_once_an_hour(
    arrive: Arrive, snap: Snap
) -> None:
    page = arrive(minutes=0)
    hint = page.locator("[data-part=rest]")
    seen = []

    minutes = [4.5 * n for n in range(26)]  # up to 112.5, never five minutes apart
    for minute in minutes:
        at(page, minutes=minute)
        press(page, "1")
        judged(page)
        if hint.is_visible():
            seen.append(minute)
            snap(page, "rest")
            press(page, "2")  # it is in nobody's way
            hint.get_by_role("button").click()
            expect(hint).to_be_hidden()

    assert seen == [54.0]
    at(page, minutes=114.5)
    press(page, "1")
    expect(hint).to_be_visible()
    at(page, minutes=121)  # a rest was taken
    press(page, "1")
    expect(hint).to_be_hidden()


def test_a_goal_of_ones_own_has_a_bar(arrive: Arrive) -> None:
    page = arrive()
    before = len(judged(page))
    bar = page.locator("[data-part=own_bar]")
    press(page, "1")
    expect(bar).to_be_hidden()

    page.click("[data-part=figures]")
    page.fill("[data-part=goal]", "20")
    page.keyboard.press("Tab")

    expect(page.locator("[data-part=pace_today]")).to_have_text(f"{before + 1} of 20")
    page.reload()
    wait_for_item(page)
    expect(bar).to_be_visible()
    press(page, "1")
    expect(bar).to_have_js_property("value", before + 2)
    expect(bar).to_have_js_property("max", 20)


# Practice


@pytest.mark.parametrize("is_touch", [False, True], ids=["keyboard", "touch"])
def test_practice_comes_first_and_says_at_once_what_was_expected(
    serve: Serve, snap: Snap, is_touch: bool
) -> None:
    served = serve(practice=[STEPS, SAME], **(TOUCH if is_touch else {}))
    bodies: list[str] = []

    def note(reply: Response) -> None:
        if "/api/" in reply.url:
            bodies.append(reply.text())

    served.visitor.context.on("response", note)
    page = served.open()
    mark, title = (
        page.locator("[data-part=practice_number]"),
        page.locator("[data-part=practice_title]"),
    )
    expect(mark).to_have_text("Practice 1 of 2")
    snap(page, f"practice-open-{is_touch}")
    page.wait_for_load_state("networkidle")
    assert bodies
    assert not any(SECRET in body or "expected" in body or "agrees" in body for body in bodies)

    shown = page.locator(".ws-response-body").all_inner_texts()
    better = shown.index(STEPS.response_a)
    verdicts = page.locator(".ws-verdict:visible")
    if is_touch:
        verdicts.nth(better).tap()
    else:
        page.keyboard.press("12"[better])
    expect(title).to_have_text(f"As expected: {'AB'[better]} is better.")
    expect(page.locator("[data-part=practice_text] strong")).to_have_text(SECRET)
    expect(question(page)).to_have_text(STEPS.prompt)
    snap(page, f"practice-told-{is_touch}")
    if is_touch:
        expect(page.locator("[data-part=practice]")).to_be_in_viewport(ratio=1)
        next_after(page, lambda: page.locator("[data-act=practice_next]").tap())
    else:
        page.keyboard.press("u")
        expect(page.locator("[data-part=last]")).to_have_text("A practice item is answered once.")
        expect(question(page)).to_have_text(STEPS.prompt)
        press(page, "Enter")

    expect(mark).to_have_text("Practice 2 of 2")
    if is_touch:
        verdicts.first.tap()
    else:
        page.keyboard.press("1")
    expect(title).to_have_text("Expected: Tie.")
    next_after(page, verdicts.nth(2).tap if is_touch else lambda: page.keyboard.press("3"))

    expect(page.locator("[data-part=practice]")).to_be_hidden()
    rows = judged(page)
    assert [(row["is_practice"], row["verdict"]) for row in rows] == [(True, "preferred")] * 2
    figures = page.evaluate(
        "fetch('/api/judging/items', {method: 'POST', headers: {'Content-Type':"
        " 'application/json'}, body: '{\"want\": 0}'}).then(r => r.json())"
    )["progress"]
    assert (figures["judged"], figures["judged_by_me_today"], figures["streak_days"]) == (0, 0, 0)


def test_practice_is_given_once_and_my_work_marks_it(serve: Serve) -> None:
    page = serve(practice=[STEPS]).open()
    page.keyboard.press("1")
    expect(page.locator("[data-part=practice_next]")).to_be_visible()
    judged(page)

    page.reload()
    wait_for_item(page)

    expect(page.locator("[data-part=practice]")).to_be_hidden()
    page.keyboard.press("u")
    expect(page.locator("[data-part=last]")).to_have_text("A practice item is answered once.")
    press(page, "3")
    page.click("#tab-my-work-button")
    row = page.locator(".ws-work-row").filter(has_text=STEPS.prompt)
    expect(row.locator(".ws-chip").nth(1)).to_have_text("Practice")
    expect(row.get_by_role("button")).to_have_count(0)


def test_practice_waits_for_nobody_when_the_server_is_away(serve: Serve) -> None:
    page = serve(practice=[STEPS, SAME]).open()
    page.context.set_offline(True)
    page.keyboard.press("3")
    title = page.locator("[data-part=practice_title]")
    expect(title).to_contain_text("once the server can be reached")

    press(page, "Enter")
    page.keyboard.press("3")
    page.context.set_offline(False)

    expect(title).to_have_text("As expected: Tie.")
    assert [row["is_practice"] for row in judged(page)] == [True, True]


def test_leads_write_practice_and_see_how_people_did(
    serve: Serve, new_visitor: NewVisitor, tmp_path: Path, snap: Snap
) -> None:
    served = serve()
    lead = open_lead_page(new_visitor, served.running.url, "project")
    expect(lead.locator("#practice-none")).to_be_visible()

    lead.click("#practice-write button.label-wrap")
    lead.fill("#practice-prompt textarea", STEPS.prompt)
    lead.fill("#practice-a textarea", STEPS.response_a)
    lead.fill("#practice-b textarea", STEPS.response_b)
    lead.locator("#practice-better").get_by_text("A is better").click()
    lead.fill("#practice-explanation textarea", STEPS.explanation)
    lead.click("#practice-add")
    rows = lead.locator("#practice-table tbody tr")
    expect(rows).to_have_count(1)
    expect(lead.locator("#practice-prompt textarea")).to_have_value("")
    file = tmp_path / "practice.jsonl"
    file.write_text("\n".join(map(json.dumps, [SAME._asdict(), {"prompt": "?", "better": "a"}])))
    lead.click("#practice-import button.label-wrap")
    lead.set_input_files("#practice-file input[type=file]", file)
    expect(lead.locator("#practice-file .filename")).to_have_attribute("aria-label", file.name)
    lead.click("#practice-load")
    expect(lead.locator("#practice-loaded")).to_contain_text("1 item added. 1 row was refused")
    expect(lead.locator("#practice-loaded")).to_contain_text("line 2, field 'response_a'")
    expect(rows).to_have_count(2)
    rows.nth(1).get_by_role("button", name="Pause").click()
    expect(rows.nth(1).get_by_role("button")).to_have_text("Give again")
    snap(lead, "practice-lead")

    page = served.open()
    expect(page.locator("[data-part=practice_number]")).to_have_text("Practice 1 of 1")
    shown = page.locator(".ws-response-body").all_inner_texts()
    page.keyboard.press("12"[shown.index(STEPS.response_a)])
    expect(page.locator("[data-part=practice_title]")).to_contain_text("As expected")
    press(page, "Enter")
    expect(page.locator("[data-part=practice]")).to_be_hidden()

    lead.reload()
    lead.click("#tab-project-button")
    told = lead.locator("#practice-people tbody tr")
    expect(told).to_have_count(1)
    expect(told.locator("td")).to_have_text(["you", "1", "1 of 1"])
