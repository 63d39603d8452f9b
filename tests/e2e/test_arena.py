"""The arena on the bundled policy: three turns by keyboard, two by touch on a phone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, Route, expect

from labeling.access import Actor
from labeling.project import Criterion, Project, Scale
from store import annotators, comparisons, completions, exports, judgments, prompts
from store.db import Store
from store.records import CriterionJudgment, Flag, RatingScale, Role, Verdict
from tests.e2e.axe import assert_accessible
from tests.e2e.conftest import NewVisitor, RunningApp, Snap
from tests.e2e.lead_page import serving

STARTER = Path(__file__).resolve().parents[2] / "assets" / "starter"
ARENA = "#ws-arena .ws-arena"
ANSWER_MS = 60_000
# Presses a key when both responses have some words and differ; keeps what was on the page by then.
# Where a fast policy was finished before that, it has both written again.
JUDGE_EARLY = """key => {
  const root = document.querySelector("#ws-arena .ws-arena");
  const press = (key) =>
    document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  const look = () => {
    const [a, b] = [...root.querySelectorAll(".ws-arena-body")].map((body) => body.textContent);
    if (root.dataset.state === "ready") press("a");
    if (root.dataset.state !== "writing" || a.length < 12 || b.length < 12 || a === b) return;
    observer.disconnect();
    window.seenEarly = [a, b];
    press(key);
  };
  const observer = new MutationObserver(look);
  observer.observe(root, { subtree: true, childList: true, characterData: true, attributes: true });
}"""


@pytest.fixture
def app(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[RunningApp]:
    """A server whose policy answers in the arena alone, or writes comparisons beside it too."""
    writes_ahead = getattr(request, "param", False)
    with serving(tmp_path / "data", STARTER, writes_ahead=writes_ahead) as running:
        yield running


def open_arena(page: Page, url: str) -> None:
    page.goto(f"{url}/label/#arena")
    page.wait_for_selector(f"{ARENA}[data-state=empty]", timeout=ANSWER_MS)


def wait_for(page: Page, state: str) -> None:
    expect(page.locator(ARENA)).to_have_attribute("data-state", state, timeout=ANSWER_MS)


def composer(page: Page) -> Locator:
    return page.locator("#ws-arena [data-part=text]")


def ask(page: Page, text: str) -> None:
    composer(page).fill(text)
    page.keyboard.press("Enter")


def shown(page: Page) -> list[str]:
    return page.locator("#ws-arena .ws-arena-body").all_inner_texts()


def said_by_assistant(page: Page) -> list[str]:
    return page.locator("#ws-arena .ws-turn[data-role=assistant] .ws-prose").all_inner_texts()


def wait_until_saved(page: Page) -> None:
    page.wait_for_selector(f'{ARENA}[data-unsent="0"]', timeout=20_000)


class Told:
    """One judgment with all that it is about."""

    def __init__(self, store: Store, judgment: Any) -> None:
        found = completions.get_many(store, judgment.displayed_completion_ids)
        self.verdict = judgment.verdict
        self.completions = [found[id] for id in judgment.displayed_completion_ids]
        self.texts = [completion.text for completion in self.completions]
        preferred = judgment.preferred_completion_id
        self.chosen = found[preferred].text if preferred else None
        # Nobody learns to write as something that was cut short.
        self.is_learnt = bool(preferred) and found[preferred].finish_reason != "stopped"
        comparison = comparisons.get(store, judgment.comparison_id)
        self.prompt = prompts.get(store, comparison.prompt_id)
        self.asked = [message["content"] for message in self.prompt.messages]


def told_of(store: Store) -> list[Told]:
    """The judgments of the one person, oldest first."""
    person = annotators.find(store, "you")
    assert person is not None
    rows = judgments.of_annotator(store, person.id, limit=50)
    return [Told(store, row) for row in reversed(rows)]


def exported(store: Store, folder: Path) -> list[dict[str, Any]]:
    written = exports.export(store, folder / "out", created_by="you", include_held_out=True)
    lines = written.path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("app", [True], ids=["writes_ahead"], indirect=True)
def test_three_turns_by_keyboard_judged_early_regenerated_and_reloaded(
    app: RunningApp, new_visitor: NewVisitor, snap: Snap, tmp_path: Path
) -> None:
    visitor = new_visitor(app.url)
    page = visitor.open_page()
    open_arena(page, app.url)
    snap(page, "arena-empty")
    composer(page).fill("I cannot log in to")
    composer(page).dispatch_event("keydown", {"key": "Enter", "isComposing": True})
    page.keyboard.press("Shift+Enter")
    page.reload()
    wait_for(page, "empty")
    expect(composer(page)).to_have_value("I cannot log in to\n")

    ask(page, "I cannot log in to my account, it is urgent!")
    wait_for(page, "ready")
    snap(page, "arena")
    first = shown(page)
    page.keyboard.press("1")
    wait_for(page, "judged")
    assert said_by_assistant(page) == [first[0]]
    expect(composer(page)).to_be_focused()

    page.evaluate(JUDGE_EARLY, "2")
    ask(page, "And what if that does not work?")
    page.wait_for_function("window.seenEarly", timeout=ANSWER_MS)
    page.wait_for_function("document.querySelectorAll('#ws-arena .ws-turn').length === 4")
    early: list[str] = page.evaluate("window.seenEarly")

    ask(page, "How long does it take?")
    wait_for(page, "writing")
    page.reload()
    wait_for(page, "ready")
    before = shown(page)
    page.keyboard.press("a")
    page.wait_for_function(
        "before => [...document.querySelectorAll('#ws-arena .ws-arena-body')]"
        ".every((body, i) => body.innerText !== before[i])",
        arg=before,
    )
    wait_for(page, "ready")
    third = shown(page)
    page.keyboard.press("2")
    wait_for(page, "judged")
    wait_until_saved(page)
    conversation = said_by_assistant(page)
    page.reload()
    wait_for(page, "judged")
    assert said_by_assistant(page) == conversation
    assert visitor.console_errors == []
    assert visitor.foreign_requests == []
    app.stop()

    store = Store(app.data)
    try:
        told = told_of(store)
        rows = exported(store, tmp_path)
    finally:
        store.close()
    assert [row.verdict for row in told] == [Verdict.PREFERRED] * 3
    assert [len(row.asked) for row in told] == [1, 3, 5]
    assert told[0].chosen == told[0].texts[0]
    assert told[1].texts == early
    assert {c.finish_reason for c in told[1].completions} & {"stopped"}
    assert told[1].asked[1] == told[0].chosen
    assert told[2].asked[1] == told[0].chosen
    assert told[2].asked[3] == told[1].chosen == early[1]
    assert [" ".join(text.split()) for text in told[2].texts] == [
        " ".join(text.split()) for text in third
    ]
    assert [turn.is_learnt for turn in (told[0], told[2])] == [True, True]
    assert [[m["content"] for m in row["prompt"]] for row in rows] == [
        turn.asked for turn in told if turn.is_learnt
    ]
    assert {m["role"] for m in rows[-1]["prompt"][1::2]} == {"assistant"}


@pytest.fixture
def demanding(tmp_path: Path) -> Iterator[RunningApp]:
    """A project with criteria, reasons and a scale of its own."""
    data = tmp_path / "demanding"
    store = Store(data)
    Project(store).change(
        Actor("lea", "Lea", Role.LEAD),
        scale=Scale.SEVEN_POINT,
        criteria=(
            Criterion("Helpful", Scale.PLAIN, is_required=True),
            Criterion("Harmless", RatingScale.THUMBS),
        ),
        reasons=("clearer", "more polite"),
    )
    store.close()
    with serving(data, STARTER) as running:
        yield running


# What a slow browser does with Gradio's page.
LOSE_FIRST_CLICK = """
addEventListener("DOMContentLoaded", () => document.body.addEventListener("click", (event) => {
  const button = event.target.closest("[role=tab], .overflow-dropdown button");
  if (window.isSlow || !["Arena", "Export"].includes(button?.textContent.trim())) return;
  window.isSlow = true;
  event.stopImmediatePropagation();
}, true));
"""
PRESSED_LONG_AGO_MS = 1500
DRAW_TABS_LATE = """
const find = Document.prototype.querySelector;
Document.prototype.querySelector = function (selector) {
  if (selector !== "[role=tablist]" || window.isSlow) return find.call(this, selector);
  window.isSlow = true;
  return null;
};
"""


@pytest.mark.parametrize("slowness", [LOSE_FIRST_CLICK, DRAW_TABS_LATE], ids=["click", "tabs"])
def test_the_tab_that_the_address_names_comes_to_the_front_of_a_slow_page(
    app: RunningApp, new_visitor: NewVisitor, slowness: str
) -> None:
    visitor = new_visitor(app.url)
    visitor.context.add_init_script(slowness)
    page = visitor.open_page()

    page.goto(f"{app.url}/label/#arena")

    expect(page.locator(ARENA)).to_be_visible()
    assert page.evaluate("window.isSlow")


@pytest.mark.parametrize("when", ["drawn", "listening", "in the menu"])
def test_a_tab_pressed_while_a_slow_page_opens_is_the_one_that_stays(
    app: RunningApp, new_visitor: NewVisitor, when: str
) -> None:
    name = "export" if when == "in the menu" else "arena"
    width = 360 if when == "in the menu" else 1280
    visitor = new_visitor(app.url, viewport={"width": width, "height": 800})
    visitor.context.add_init_script(LOSE_FIRST_CLICK)
    page = visitor.open_page()
    held_back: list[Route] = []
    if when == "drawn":
        page.route("**/scripts/header.js*", lambda route: held_back.append(route))

    page.goto(f"{app.url}/lead/#my-work", wait_until="commit")
    if when == "in the menu":
        page.locator("#ws-my-work .ws-work").wait_for()  # the menu opens from now on
        page.locator("#ws-tabs .overflow-menu > button").click()
        page.locator("#ws-tabs .overflow-dropdown").get_by_text("Export").click()
    else:
        page.locator("#tab-arena-button").click()
    for route in held_back:
        route.continue_()

    expect(page.locator(f"#tab-{name}")).to_be_visible()
    assert page.evaluate("window.isSlow")
    page.wait_for_timeout(PRESSED_LONG_AGO_MS)
    expect(page.locator(f"#tab-{name}")).to_be_visible()
    assert page.url.endswith(f"#{name}")


def test_what_the_project_asks_is_said_by_keyboard_beside_the_verdict(
    demanding: RunningApp, new_visitor: NewVisitor, snap: Snap
) -> None:
    visitor = new_visitor(demanding.url)
    page = visitor.open_page()
    open_arena(page, demanding.url)
    ask(page, "Where is my parcel?")
    wait_for(page, "ready")
    responses = shown(page)
    arena = page.locator(ARENA)
    page.keyboard.press("?")
    expect(arena.locator("[data-part=keys]")).to_contain_text("Regenerate")
    snap(page, "arena-keys")
    assert_accessible(page)
    arena.locator("[data-rebind='arena.list']").click()
    page.keyboard.press("y")
    expect(arena.locator("[data-part=keys_said]")).to_have_text("“Conversations” is now y.")
    arena.locator("[data-rebind='page.keys']").click()
    page.keyboard.press("n")
    said = arena.locator("[data-part=keys_said]")
    expect(said).to_have_text("Swapped: “This list” is now n, and “New conversation” is ?.")
    page.keyboard.press("Escape")
    expect(arena.locator(".ws-strip [data-act=new] kbd")).to_have_text("?")
    page.keyboard.press("y")
    expect(arena.locator("[data-part=list]")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("n")
    arena.locator("[data-part=keys_reset]").click()
    page.keyboard.press("Escape")
    page.keyboard.press("r")
    expect(arena.locator(".ws-raw")).to_have_text(responses)
    page.keyboard.press("r")
    page.keyboard.press("d")
    expect(arena.locator(".ws-diff")).to_have_count(2)
    page.keyboard.press("d")

    arena.locator("[data-act=a3]").click()
    expect(arena.locator("[data-part=hint]")).to_have_text("First: Helpful")
    page.keyboard.press("3")  # B is more helpful
    expect(arena.locator("[data-part=hint]")).to_be_empty()
    for key in ("c", "c", "2"):  # past what is answered; A is harmless
        page.keyboard.press(key)
    for key in ("w", "Tab", "Enter", "Tab"):  # the second reason, then the text
        page.keyboard.press(key)
    page.keyboard.type("It greets. 1 2 3")
    snap(page, "arena-why")
    assert_accessible(page)
    page.locator("#ws-arena [data-part=why_text]").press("Escape")
    page.keyboard.press("f")
    page.keyboard.press("Enter")  # the prompt is unsafe
    assert_accessible(page)
    page.keyboard.press("Escape")
    snap(page, "arena-criteria")
    page.keyboard.press("7")
    wait_for(page, "judged")
    wait_until_saved(page)

    page.reload()
    wait_for(page, "judged")
    page.locator("#ws-arena [data-part=undo]").click()
    wait_for(page, "ready")
    expect(arena.get_by_role("radio", checked=True)).to_have_count(2)
    page.keyboard.press("1")
    wait_for(page, "judged")
    wait_until_saved(page)
    assert visitor.console_errors == []
    demanding.stop()

    store = Store(demanding.data)
    try:
        person = annotators.find(store, "you")
        assert person is not None
        (row,) = judgments.of_annotator(store, person.id, limit=5)
    finally:
        store.close()
    one, other = row.displayed_completion_ids
    assert (row.preferred_completion_id, row.strength) == (one, 3)
    assert row.criteria == (
        CriterionJudgment("Helpful", "plain", other, 2),
        CriterionJudgment("Harmless", "thumbs", ratings=(1, None)),
    )
    assert (row.reasons, row.rationale) == (("more polite",), "It greets. 1 2 3")
    assert row.flags == (Flag("unsafe", None),)


def test_by_touch_on_a_phone_both_bad_asks_how_to_go_on(
    app: RunningApp, new_visitor: NewVisitor, snap: Snap
) -> None:
    phone = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
    visitor = new_visitor(app.url, **phone)
    page = visitor.open_page()
    open_arena(page, app.url)
    page.locator("#ws-arena .ws-example").nth(1).tap()
    wait_for(page, "ready")
    snap(page, "arena-phone")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    first = shown(page)
    page.locator("#ws-arena .ws-verdict:visible", has_text="Both are bad").tap()
    wait_for(page, "asking")
    page.locator("#ws-arena [data-act=go_on_1]").tap()
    wait_for(page, "judged")
    page.reload()
    wait_for(page, "judged")
    assert said_by_assistant(page) == [first[1]]

    composer(page).tap()
    composer(page).fill("Thank you, and the refund?")
    page.locator("#ws-arena .ws-send").tap()
    wait_for(page, "ready")
    second = shown(page)
    page.locator("#ws-arena .ws-verdict:visible", has_text="A is better").tap()
    wait_for(page, "judged")
    page.locator("#ws-arena [data-part=undo]").tap()
    wait_for(page, "ready")
    assert shown(page) == second
    page.locator("#ws-arena .ws-verdict:visible", has_text="B is better").tap()
    wait_for(page, "judged")
    wait_until_saved(page)
    assert said_by_assistant(page) == [first[1], second[1]]

    page.locator("#ws-arena [data-act=new]").tap()
    wait_for(page, "empty")
    page.locator("#ws-arena [data-act=list]").tap()
    page.locator("#ws-arena .ws-arena-list button").tap()
    wait_for(page, "judged")
    assert said_by_assistant(page) == [first[1], second[1]]
    page.locator("#tab-my-work-button").tap()
    expect(page.locator(".ws-work-row")).to_have_count(2)
    assert visitor.console_errors == []
    app.stop()

    store = Store(app.data)
    try:
        told = told_of(store)
    finally:
        store.close()
    assert [row.verdict for row in told] == [Verdict.BOTH_BAD, Verdict.PREFERRED]
    assert told[1].chosen == told[1].texts[1]
    assert told[1].asked[1] == told[0].texts[1]


def test_a_message_that_the_policy_cannot_take_comes_back_with_the_limit(
    app: RunningApp, new_visitor: NewVisitor
) -> None:
    page = new_visitor(app.url).open_page()
    open_arena(page, app.url)
    long = "My parcel is late and nobody answers the telephone. " * 40
    ask(page, long)
    note = page.locator("#ws-arena [data-part=note_text]")
    expect(note).to_contain_text("the policy has room for 352 tokens")
    wait_for(page, "empty")
    expect(composer(page)).to_have_value(long.strip())
    ask(page, "My parcel is late.")
    wait_for(page, "ready")


def test_a_server_that_dies_while_it_writes_gives_the_message_back(
    app: RunningApp, new_visitor: NewVisitor
) -> None:
    page = new_visitor(app.url).open_page()
    open_arena(page, app.url)

    def die(route: Route) -> None:
        reply = route.fetch()
        app.process.kill()
        route.fulfill(response=reply)

    page.route("**/api/arena/turns", die)
    ask(page, "Where is my parcel?")
    wait_for(page, "writing")
    note = page.locator("#ws-arena [data-part=note_text]")
    expect(note).to_have_text("The connection broke. Trying again by itself.")
    page.unroute_all()
    port = app.url.rsplit(":", 1)[1]
    again = RunningApp(app.data, STARTER, "--port", port, writes_ahead=False)
    try:
        wait_for(page, "empty")
        expect(note).to_have_text("There was no response to your last message; it is back below.")
        expect(composer(page)).to_have_value("Where is my parcel?")
        composer(page).press("Enter")
        wait_for(page, "ready")
    finally:
        again.stop()


def test_a_verdict_given_while_the_server_cannot_be_reached_is_kept_over_a_reload(
    app: RunningApp, new_visitor: NewVisitor
) -> None:
    page = new_visitor(app.url).open_page()
    open_arena(page, app.url)
    settle = "**/api/arena/turns/*/settle"
    page.route(settle, lambda route: route.abort())
    page.evaluate(JUDGE_EARLY, "1")
    ask(page, "Where is my parcel?")
    wait_for(page, "settling")
    seen: list[str] = page.evaluate("window.seenEarly")
    note = page.locator("#ws-arena [data-part=note_text]")
    expect(note).to_contain_text("Your verdict is kept in this browser")
    page.unroute(settle)
    page.reload()
    wait_for(page, "judged")
    wait_until_saved(page)
    assert said_by_assistant(page) == [seen[0].strip()]


def test_the_page_says_that_a_response_is_written_again_and_gives_up_with_the_message_kept(
    app: RunningApp, new_visitor: NewVisitor
) -> None:
    page = new_visitor(app.url).open_page()
    open_arena(page, app.url)
    told: list[dict[str, Any]] = [
        {"place": 0, "text": "One half"},
        {"place": 1, "text": "Another"},
        {"place": 1, "again": True},
    ]
    body = "".join(json.dumps(line) + "\n" for line in told)
    page.route("**/stream", lambda route: route.fulfill(body=body))
    ask(page, "Where is my parcel?")
    note = page.locator("#ws-arena [data-part=note_text]")
    expect(note).to_have_text("Response B is written again.")
    assert [text.strip() for text in shown(page)] == ["One half", ""]
    # What is routed last comes first: at no moment may the page reach the server's own stream.
    problem = json.dumps({"problem": "failed", "text": ""}) + "\n"
    page.route("**/api/arena/conversations/*", lambda route: route.fulfill(status=404, json={}))
    page.route("**/stream", lambda route: route.fulfill(body=problem))
    wait_for(page, "empty")
    expect(note).to_contain_text("No two responses could be written")
    expect(composer(page)).to_have_value("Where is my parcel?")
