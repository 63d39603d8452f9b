"""WCAG 2.2 AA by axe-core, for every page and state, in light and dark, wide and 360 px."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, Page, Route, ViewportSize, expect

from labeling.sessions import add_person
from store import guidelines
from store.records import Role
from tests.builders import make_comparison, make_preferences, make_prompt, new_store
from tests.e2e.axe import NARROW, WIDE, assert_accessible
from tests.e2e.conftest import PASSWORD, TOUR_SEEN, RunningApp, wait_for_item
from tests.e2e.lead_page import open_tab
from tests.e2e.test_prose import ARABIC, TECHNICAL

ME = "**/api/me"
ITEMS = "**/api/judging/items"
JUDGMENTS = "**/api/judging/judgments"
LEAD_TABS = ("prompts", "train", "policies", "export", "project", "people")


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[RunningApp]:
    """A server with a lead, something to judge, and something to train on."""
    data = tmp_path_factory.mktemp("accessible") / "data"
    store = new_store(data)
    try:
        lead = add_person(store, "lea", Role.LEAD, PASSWORD)
        guidelines.add(
            store, "# Be kind\n\n- and **short**\n\n```py\nx = 1\n```", created_by=lead.id
        )
        for pair in (TECHNICAL, ARABIC) * 4:
            prompt = make_prompt(pair.question, language=pair.language)
            make_comparison(store, (pair.first, pair.second), prompt=prompt)
        make_preferences(
            store, [(f"I cannot log in, case {i}.", f"Tap it. {i}", f"No. {i}") for i in range(40)]
        )
    finally:
        store.close()
    running = RunningApp(data, tiny_model, writes_ahead=False)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def page(app: RunningApp, browser: Browser) -> Iterator[Page]:
    """One page for all states: opening Gradio's takes seconds."""
    context = browser.new_context(
        viewport=WIDE, locale="en-US", color_scheme="light", reduced_motion="reduce"
    )
    context.add_init_script(TOUR_SEEN)
    page = context.new_page()
    page.set_default_timeout(20_000)
    page.goto(f"{app.url}/login")
    yield page
    context.close()


@pytest.fixture
def judging(page: Page) -> Iterator[Page]:
    """The compare page of the lead, with an item and nothing open above it."""
    if page.url.endswith("/login"):
        page.fill("#name", "lea")
        page.fill("#password", PASSWORD)
        page.click("button[type=submit]")
    page.evaluate("document.querySelectorAll('dialog[open]').forEach((dialog) => dialog.close())")
    page.click("#tab-compare-button")
    wait_for_item(page)
    yield page
    page.unroute_all()


def test_sign_in(page: Page, app: RunningApp) -> None:
    assert_accessible(page)
    page.fill("#name", "nobody")
    page.fill("#password", "wrong")
    page.click("button[type=submit]")
    expect(page.get_by_role("alert")).to_be_visible()
    assert_accessible(page)
    page.goto(f"{app.url}/login")


def test_a_comparison(judging: Page) -> None:
    assert_accessible(judging)


def in_a_project(page: Page, **settings: Any) -> None:
    """Load the page again as if the project were set so; the next load is as before."""

    def change(route: Route) -> None:
        route.fulfill(json={**route.fetch().json(), **settings})

    page.route(ME, change)
    page.reload()
    wait_for_item(page)
    page.unroute(ME)


def test_seven_points(judging: Page) -> None:
    in_a_project(judging, scale="seven_point")
    assert_accessible(judging)


@pytest.mark.parametrize("scale", ["five_point", "thumbs"])
def test_ratings(judging: Page, scale: str) -> None:
    in_a_project(judging, task="rate", rating_scale=scale)
    assert_accessible(judging)


def test_criteria(judging: Page) -> None:
    scales = ("plain", "seven_point", "five_point", "thumbs")
    criteria = [{"name": f"Kind, {x}", "scale": x, "is_required": x == "plain"} for x in scales]
    in_a_project(judging, criteria=criteria)
    judging.keyboard.press("c")
    judging.keyboard.press("1")
    expect(judging.locator("[data-part=criteria]")).to_be_visible()
    assert_accessible(judging)


def test_a_ranking(judging: Page) -> None:
    def add_third(route: Route) -> None:
        reply = route.fetch().json()
        for item in reply["items"]:
            item["responses"].append({"html": "<p>Gamma</p>", "text": "Gamma"})
        route.fulfill(json=reply)

    judging.route(ITEMS, add_third)
    in_a_project(judging)
    expect(judging.locator(".ws-card")).to_have_count(3)
    judging.keyboard.press("x")
    assert_accessible(judging)
    judging.reload()


def test_notes(judging: Page) -> None:
    in_a_project(judging, reasons=["clear", "wrong"])
    for panel in ("why", "flag", "rewrite"):
        judging.click(f".ws-bar [data-act={panel}]")
        expect(judging.locator(f"#ws-notes-{panel}")).to_be_visible()
        if panel == "rewrite":
            judging.locator("[data-part=rewrite_from] button").first.click()
        assert_accessible(judging)


def test_dialogs(judging: Page) -> None:
    for keys in ("?", "s", "s6"):
        for key in keys:
            judging.keyboard.press(key)
        expect(judging.locator("dialog[open]")).to_be_visible()
        assert_accessible(judging)
        judging.keyboard.press("Escape")


def test_changing_a_key(judging: Page) -> None:
    judging.keyboard.press("?")
    judging.locator("[data-rebind='page.flag']").click()
    assert_accessible(judging)
    judging.keyboard.press("q")
    expect(judging.locator("[data-part=keys_said]")).to_contain_text("is now q")
    assert_accessible(judging)
    judging.locator("[data-part=keys_reset]").click()
    judging.keyboard.press("Escape")


def test_the_tour(judging: Page) -> None:
    judging.keyboard.press("?")
    judging.locator("[data-part=keys] [data-act=tour]").click()
    for n in range(5):
        expect(judging.locator("[data-part=tour_count]")).to_have_text(f"{n + 1} of 5")
        assert_accessible(judging)
        judging.keyboard.press("Enter")
    expect(judging.locator(".ws-tour")).to_be_hidden()


def test_ones_own_pace(judging: Page) -> None:
    judging.click("[data-part=figures]")
    judging.evaluate("document.querySelector('[data-part=rest]').hidden = false")
    expect(judging.locator("[data-part=pace_box]")).to_be_visible()
    assert_accessible(judging)
    judging.keyboard.press("Escape")
    judging.click("[data-part=rest] button")


def test_practice(judging: Page) -> None:
    def number(route: Route) -> None:
        reply = route.fetch().json()
        for item in reply["items"]:
            item["practice"] = {"number": 1, "total": 2}
        route.fulfill(json=reply)

    told = {"agrees": False, "expected_place": 1, "explanation": "<p>It is <b>kind</b>.</p>"}
    judging.route(ITEMS, number)
    judging.route(
        JUDGMENTS, lambda route: route.fulfill(json={**route.fetch().json(), "practice": told})
    )
    in_a_project(judging)
    assert_accessible(judging)
    judging.keyboard.press("1")
    expect(judging.locator("[data-part=practice]")).to_have_attribute("data-outcome", "differs")
    assert_accessible(judging)
    judging.unroute_all()
    judging.reload()


def test_raw_and_diff(judging: Page) -> None:
    for key in "rd":
        judging.keyboard.press(key)
        assert_accessible(judging)
        judging.keyboard.press(key)


def test_the_arena(judging: Page) -> None:
    judging.click("#tab-arena-button")
    arena = judging.locator("#ws-arena .ws-arena")
    expect(arena).to_have_attribute("data-state", "empty")
    assert_accessible(judging)
    judging.locator("#ws-arena .ws-example").first.click()
    expect(arena).to_have_attribute("data-state", "ready", timeout=60_000)
    assert_accessible(judging)
    for key, state in (("0", "asking"), ("1", "judged")):
        judging.keyboard.press(key)
        expect(arena).to_have_attribute("data-state", state)
        assert_accessible(judging)
    judging.locator("#ws-arena [data-act=list]").click()
    expect(judging.locator("#ws-arena .ws-arena-list button")).to_have_count(1)
    assert_accessible(judging)


def test_my_work(judging: Page) -> None:
    in_a_project(judging)
    judging.keyboard.press("0")
    judging.wait_for_selector('.ws-compare[data-unsent="0"]')
    open_tab(judging, "my-work")
    for view in judging.locator(".ws-work [data-view]").all():
        view.click()
        assert_accessible(judging)


@pytest.mark.parametrize("tab", LEAD_TABS)
def test_a_tab_of_the_leads(judging: Page, tab: str) -> None:
    open_tab(judging, tab)
    assert_accessible(judging)


def test_the_guidelines(judging: Page) -> None:
    judging.keyboard.press("g")
    expect(judging.locator("[data-part=guidelines_text] .ws-code")).to_be_visible()
    assert_accessible(judging)


@pytest.mark.parametrize("waiting", [None, {"reason": "Soon.", "is_stuck": False, "retry_s": 9}])
def test_nothing_to_judge(judging: Page, waiting: dict[str, Any] | None) -> None:
    progress = dict.fromkeys(("judged", "judged_by_me", "judged_by_me_today"), 0)
    answer: dict[str, Any] = {
        "items": [],
        "gone": [],
        "waiting": waiting,
        "progress": {**progress, "goal": 50, "median_duration_s": None},
    }
    judging.route(ITEMS, lambda route: route.fulfill(json=answer))
    judging.reload()
    judging.wait_for_selector(f".ws-compare[data-state={'waiting' if waiting else 'empty'}]")
    assert_accessible(judging)
    judging.reload()


@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_focus_goes_through_the_page_in_order_and_is_seen(
    judging: Page, viewport: ViewportSize, scheme: Literal["light", "dark"]
) -> None:
    judging.set_viewport_size(viewport)
    judging.emulate_media(color_scheme=scheme)
    judging.keyboard.press("Tab")  # from now on the browser shows where the focus is
    judging.focus(".ws-brand")
    stops: list[dict[str, Any]] = [judging.evaluate(FOCUSED)]
    while stops[-1]["area"] and len(stops) < 80:
        judging.keyboard.press("Tab")
        stops.append(judging.evaluate(FOCUSED))
    judging.set_viewport_size(WIDE)
    judging.emulate_media(color_scheme="light")

    areas = [area for area, _ in groupby(stop["area"] for stop in stops)]
    assert areas == ["header", "tabs", "strip", "conversation", "A", "B", "bar", ""]
    for stop in stops[:-1]:
        assert min(stop["width"], stop["height"]) >= 24, stop
        assert stop["ring_px"] >= 2, stop
        assert stop["ring_contrast"] >= 3, stop


# What has the focus: where it is, how large, and how its ring stands out from what is behind it.
FOCUSED = """() => {
  const node = document.activeElement;
  const areas = {
    header: ".ws-header", tabs: "#ws-tabs > .tab-wrapper", strip: ".ws-strip",
    conversation: ".ws-conversation", A: ".ws-response:nth-child(1)",
    B: ".ws-response:nth-child(2)", bar: ".ws-bar",
  };
  const area = Object.keys(areas).find((name) => node.closest(areas[name])) ?? "";
  const pixel = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const paint = (colours) => {
    pixel.clearRect(0, 0, 1, 1);
    for (const colour of colours) { pixel.fillStyle = colour; pixel.fillRect(0, 0, 1, 1); }
    return [...pixel.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => {
    const [r, g, b] = rgb.map((x) => x / 255)
      .map((x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = [];
  for (let at = node.parentElement; at; at = at.parentElement) {
    behind.unshift(getComputedStyle(at).backgroundColor);
  }
  const style = getComputedStyle(node);
  const [a, b] = [light(paint([...behind, style.outlineColor])), light(paint(behind))];
  const box = node.getBoundingClientRect();
  return {
    area, name: node.getAttribute("aria-label") ?? node.textContent.slice(0, 40),
    width: box.width, height: box.height,
    ring_px: style.outlineStyle === "solid" ? parseFloat(style.outlineWidth) : 0,
    ring_contrast: (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05),
  };
}"""
