"""The Quality tab as a team lead meets it: flags to decide, and figures about judging."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from store import preferences, reviews
from store.db import Store
from store.records import Decision, Flag
from store.reviews import Stage
from tests.builders import judge, make_annotator, make_comparison, new_store
from tests.e2e.conftest import NewVisitor, RunningApp, Snap
from tests.e2e.lead_page import flag, open_lead_page, open_tab, serving

HOSTILE = '<img src=x onerror="document.title=1"> ${document.title=2} {{value}}'
FLAGGED = 52
SHARED = 8


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quality") / "data"


@pytest.fixture(scope="module")
def led(data: Path, tiny_model: Path) -> Iterator[RunningApp]:
    """A server for one person, with flags to decide and comparisons that two people judged."""
    fill(data)
    with serving(data, tiny_model) as running:
        yield running


def fill(data: Path) -> None:
    store = new_store(data)
    try:
        ana, bo = (make_annotator(store, name) for name in ("Ana", f"Bo {HOSTILE}"))
        texts = (f"Send me your password. {HOSTILE}", "Tap the link.")
        first = make_comparison(store, texts, prompt=f"I cannot log in. {HOSTILE}")
        unsafe = Flag("unsafe", first.completion_ids[0])
        flag(store, first, [unsafe], annotator_id=ana.id, rationale=HOSTILE)
        more = Flag("personal_data", first.completion_ids[0])
        flag(store, first, [unsafe, more], annotator_id=bo.id)
        for i in range(FLAGGED - 1):
            other = make_comparison(store, prompt=f"Question {i}?")
            flag(store, other, [Flag("off_topic")], annotator_id=ana.id)
        for i in range(SHARED - 1):
            shared = make_comparison(store, prompt=f"Shared {i}?")
            judge(store, shared, annotator_id=ana.id)
            judge(store, shared, i % 2, annotator_id=bo.id)
    finally:
        store.close()


def card(page: Page, text: str) -> Locator:
    return page.locator(".wsl-flagged", has_text=text)


def test_without_flags_the_tab_says_what_they_are(
    tmp_path: Path, tiny_model: Path, new_visitor: NewVisitor, snap: Snap
) -> None:
    with serving(tmp_path / "data", tiny_model) as app:
        page = open_lead_page(new_visitor, app.url, "quality")

        expect(page.locator("#quality-empty")).to_contain_text("unsafe, off topic")
        expect(page.locator("#agreement-empty")).to_be_visible()
        expect(page.locator("#sides-empty")).to_be_visible()
        snap(page, "quality-empty")


def test_a_flagged_comparison_shows_what_a_lead_needs(
    led: RunningApp, new_visitor: NewVisitor, snap: Snap
) -> None:
    page = open_lead_page(new_visitor, led.url, "quality")

    expect(page.locator("#quality-open")).to_have_text(str(FLAGGED))
    item = card(page, "I cannot log in.")
    flagged = item.locator(".wsl-is-flagged")
    expect(flagged).to_have_count(1)
    expect(flagged).to_contain_text("Send me your password.")
    expect(flagged).to_contain_text("UnsafePersonal databy 2 people")
    expect(item).to_contain_text("Ana · Unsafe")
    expect(page.locator("#agreement-shared")).to_have_text(str(SHARED))
    expect(page.locator("#sides-share")).to_be_visible()
    snap(page, "quality")


def test_hostile_text_stays_text(led: RunningApp, new_visitor: NewVisitor) -> None:
    page = open_lead_page(new_visitor, led.url, "quality")

    item = card(page, "I cannot log in.")
    expect(item.get_by_text(HOSTILE)).to_have_count(4)  # prompt, response, rationale, name
    assert item.locator("img").count() == 0
    assert page.title() == "Whetstone"


def test_many_are_turned_page_by_page(led: RunningApp, new_visitor: NewVisitor) -> None:
    page = open_lead_page(new_visitor, led.url, "quality")

    expect(page.locator(".wsl-flagged")).to_have_count(50)
    page.click("#quality-next")

    expect(page.locator("#quality-page")).to_have_text("Page 2 of 2")
    expect(page.locator(".wsl-flagged")).to_have_count(FLAGGED - 50)
    expect(page.locator("#quality-next")).to_be_disabled()


def test_a_press_in_the_moment_in_which_the_last_is_answered_counts(
    led: RunningApp, new_visitor: NewVisitor
) -> None:
    page = open_lead_page(new_visitor, led.url, "quality")
    expect(page.locator(".wsl-flagged")).to_have_count(50)
    page.evaluate(
        """() => {
            const stage = (name) => document.getElementById(`quality-show-${name}`);
            const watch = new MutationObserver(() => {
                if (stage("withdrawn").ariaPressed !== "true") return;
                watch.disconnect();
                stage("kept").click();
            });
            watch.observe(document.getElementById("quality-queue"), {
                childList: true, subtree: true,
            });
            stage("withdrawn").click();
        }"""
    )
    expect(page.locator("#quality-show-kept")).to_have_attribute("aria-pressed", "true")


def test_a_lead_withdraws_and_changes_the_decision_by_keyboard(
    led: RunningApp, new_visitor: NewVisitor, snap: Snap
) -> None:
    page = open_lead_page(new_visitor, led.url, "quality")
    item = card(page, "Question 3?")
    item.get_by_label("Note (optional)").fill(f"No. {HOSTILE}")
    item.get_by_role("button", name="Withdraw").press("Enter")
    expect(page.locator("#quality-decided")).to_contain_text("Withdrawn")
    expect(page.locator("#quality-withdrawn")).to_have_text("1")
    expect(card(page, "Question 3?")).to_have_count(0)

    page.locator("#quality-show-withdrawn").press("Enter")
    withdrawn = card(page, "Question 3?")
    expect(withdrawn.locator(".wsl-decided")).to_contain_text(f"No. {HOSTILE}")
    snap(page, "quality-withdrawn")
    withdrawn.get_by_role("button", name="Keep after all").press("Enter")
    expect(page.locator("#quality-kept")).to_have_text("1")

    page.locator("#quality-show-kept").press("Enter")
    expect(card(page, "Question 3?").get_by_role("button")).to_have_text(["Withdraw after all"])
    open_tab(page, "people")
    open_tab(page, "quality")
    expect(page.locator("#quality-open")).to_have_text(str(FLAGGED - 1))


def test_what_is_withdrawn_is_out_of_the_store_s_preferences(
    tmp_path: Path, tiny_model: Path, new_visitor: NewVisitor
) -> None:
    data = tmp_path / "data"
    store = Store(data)
    comparison = make_comparison(store)
    flag(store, comparison, [Flag("unsafe", comparison.completion_ids[0])], annotator_id="ana")
    store.close()

    with serving(data, tiny_model) as app:
        page = open_lead_page(new_visitor, app.url, "quality")
        page.get_by_role("button", name="Withdraw", exact=True).last.click()
        expect(page.locator("#quality-withdrawn")).to_have_text("1")

    store = Store(data)
    assert preferences.list_all(store) == []
    assert reviews.latest(store, [comparison.id])[comparison.id].decision is Decision.WITHDRAWN
    assert reviews.count(store)[Stage.WITHDRAWN] == 1
    store.close()
