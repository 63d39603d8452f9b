"""The leads' page in Chinese: nothing is left in English, and the header's button switches it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from labeling.verdicts import FlagKind
from store.db import Store
from store.records import Flag
from tests.builders import make_annotator, make_comparison
from tests.e2e.axe import NARROW, assert_accessible
from tests.e2e.conftest import NewVisitor, RunningApp, Snap
from tests.e2e.lead_page import (
    RUN_TIMEOUT_MS,
    fill_with_preferences,
    flag,
    open_tab,
    serving,
    start_run,
)

TABS = ("prompts", "quality", "train", "policies", "export", "project", "people")
# Names, which are the same in every language; code and what people wrote are not looked at.
NAMES = re.compile(
    r"DPO|KTO|SFT|PPO|RLOO|GRPO|KL|Beta|beta × KL|LoRA alpha"
    r"|JSON Lines|Parquet|Whetstone|SHA-256|you|en|.* (UTC|KB)"
    r"|\w+(, \w+)+( …)?"
)
# All that can be read, piece by piece, but for code and for texts in a language of their own.
READABLE = """(root) => {
  // Gradio keeps the words of a progress sign in the page while it is hidden, at opacity 0.
  const ELSEWHERE = "code, pre, script, style, [lang=''], [aria-hidden=true]," +
    "[data-testid=status-tracker].hide, .wsl-flagged-text [lang], #export-preview th," +
    "#import-formats td b";
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) {
    const parent = walker.currentNode.parentElement;
    if (!parent.closest(ELSEWHERE) && parent.checkVisibility()) {
      found.push(walker.currentNode.data.trim());
    }
  }
  for (const name of ["placeholder", "aria-label", "title"]) {
    for (const node of root.querySelectorAll(`[${name}]`)) {
      if (!node.closest(ELSEWHERE) && node.checkVisibility()) found.push(node.getAttribute(name));
    }
  }
  for (const node of root.querySelectorAll("[role=listbox], input[role=listbox]")) {
    found.push(node.value ?? "");
  }
  return found.filter(Boolean);
}"""


@pytest.fixture(scope="module")
def led(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[RunningApp]:
    """A server for one person, with enough preferences for a small run and a flag to decide."""
    data = tmp_path_factory.mktemp("languages") / "data"
    fill_with_preferences(data, 40)
    fill_with_a_flag(data)
    with serving(data, tiny_model) as running:
        yield running


def fill_with_a_flag(data: Path) -> None:
    """A comparison that two people judged, flagged in every way, with a note of one of them."""
    store = Store(data)
    try:
        ana, bo = (make_annotator(store, name) for name in ("Ana", "Bo"))
        comparison = make_comparison(store, prompt="Who am I?")
        about = comparison.completion_ids[0]
        kinds = [Flag(kind.value, about) for kind in FlagKind]
        flag(store, comparison, kinds, annotator_id=ana.id, rationale="It tells a name.")
        flag(store, comparison, [Flag("off_topic")], annotator_id=bo.id)
    finally:
        store.close()


def open_page(new_visitor: NewVisitor, url: str, *, locale: str) -> Page:
    page = new_visitor(url, viewport={"width": 1400, "height": 900}, locale=locale).open_page()
    page.set_default_timeout(60_000)
    page.goto(f"{url}/lead/")
    page.wait_for_function("window.Whetstone?.me")
    return page


def english_on(page: Page) -> list[str]:
    """Pieces with words of Latin letters and no Chinese, which are no names, versions or files."""
    words = r"[A-Za-z]{2,}"
    known = (
        r"[\w./-]*[\d_.][\w./-]*|starter|prompts|trl|model|tiny|sigmoid|lora|prompt|chosen|rejected"
        r"|tensorboard|[MG]iB"
    )
    return [
        text
        for text in page.evaluate(f"({READABLE})(document.body)")
        if re.search(words, text)
        and not re.search("[\u4e00-\u9fff]", text)
        and not NAMES.fullmatch(text)
        and not all(re.fullmatch(known, word) for word in re.split(r"[\s,:|→·≈()]+", text) if word)
    ]


def unfold(page: Page, tab: str) -> None:
    """Open all that is folded."""
    for fold in page.locator(f"#tab-{tab} button.label-wrap").all():
        if "open" not in (fold.get_attribute("class") or "").split():
            fold.click()
    page.evaluate("for (const node of document.querySelectorAll('details')) node.open = true")


def make_history(page: Page, tmp_path: Path) -> None:
    """A run, a promotion, an import with a bad row and an export, so that no card is empty."""
    open_tab(page, "train")
    start_run(page, epochs=1)
    expect(page.locator("#run-state")).to_have_text("已完成", timeout=RUN_TIMEOUT_MS)
    page.click("#run-log-button")
    expect(page.locator("#run-log pre")).to_be_visible()
    page.click("#run-promote")
    expect(page.locator("#run-promoted")).to_be_visible()
    open_tab(page, "prompts")
    file = tmp_path / "asked.jsonl"
    file.write_text('{"prompt": "Where is my parcel?"}\nno JSON\n', encoding="utf-8")
    page.set_input_files("#import-file input[type=file]", file)
    expect(page.locator("#import-file .filename")).to_have_attribute("aria-label", file.name)
    page.click("#import-start")
    expect(page.locator("#import-state")).to_have_text("完成", timeout=60_000)
    open_tab(page, "export")
    page.click("#export-start")
    expect(page.locator("#export-ready")).to_be_visible()


def test_no_english_is_left_on_the_leads_tabs_in_chinese(
    led: RunningApp, new_visitor: NewVisitor, tmp_path: Path, snap: Snap
) -> None:
    page = open_page(new_visitor, led.url, locale="zh-CN")
    make_history(page, tmp_path)

    left = {}
    for tab in TABS:
        open_tab(page, tab)
        unfold(page, tab)
        left[tab] = english_on(page)
        snap(page, f"zh-{tab}")
        assert_accessible(page)

    assert not any(left.values()), left
    expect(page.locator("html")).to_have_attribute("lang", "zh-Hans")


def test_the_pages_of_annotators_are_accessible_in_chinese(
    led: RunningApp, new_visitor: NewVisitor
) -> None:
    page = open_page(new_visitor, led.url, locale="zh-CN")
    for tab in ("compare", "arena", "my-work"):
        page.click(f"#tab-{tab}-button")
        page.locator(f"#tab-{tab}").wait_for()
        assert_accessible(page)


def test_an_address_opens_its_tab_on_a_narrow_page_too(
    led: RunningApp, new_visitor: NewVisitor
) -> None:
    page = new_visitor(led.url, viewport=NARROW, locale="en-US").open_page()
    page.goto(f"{led.url}/lead/#project")
    expect(page.locator("#project-save")).to_be_visible(timeout=30_000)


def test_decided_flags_are_told_in_chinese_and_switch_with_the_tab(
    led: RunningApp, new_visitor: NewVisitor, snap: Snap
) -> None:
    page = open_page(new_visitor, led.url, locale="zh-CN")
    open_tab(page, "quality")
    item = page.locator(".wsl-flagged", has_text="Who am I?")
    expect(item.locator(".wsl-flagged-by")).to_contain_text("Ana · 不安全、跑题")
    item.get_by_role("button", name="撤下").click()
    expect(page.locator("#quality-decided")).to_contain_text("不再用于训练和导出")
    page.click("#quality-show-withdrawn")
    expect(item.locator(".wsl-decided")).to_contain_text("已撤下")
    left = english_on(page)
    snap(page, "zh-quality-withdrawn")

    page.click("[data-act=language]")

    expect(page.locator("#quality-show-open")).to_have_text("To decide")
    expect(page.locator("#quality-head h2")).to_have_text("Quality")
    assert left == []


def test_the_button_switches_the_open_tab_and_keeps_what_is_typed(
    led: RunningApp, new_visitor: NewVisitor
) -> None:
    page = open_page(new_visitor, led.url, locale="en-US")
    open_tab(page, "project")
    expect(page.locator("#project-head h2")).to_have_text("Project")
    expect(page.locator("#project-about h3")).to_have_text("What it becomes")
    page.fill("#guidelines-text textarea", "Prefer the short one.")

    page.click("[data-act=language]")

    expect(page.locator("#project-head h2")).to_have_text("项目")
    expect(page.locator("#project-name [data-testid=block-info]")).to_have_text("项目名称")
    expect(page.locator("#project-about h3")).to_have_text("如何用于训练")
    expect(page.locator("#project-criterion-scale-0 input")).to_have_value("A、一样好或 B")
    expect(page.locator("html")).to_have_attribute("lang", "zh-Hans")
    expect(page.locator("#guidelines-text textarea")).to_have_value("Prefer the short one.")
    page.click("[data-act=language]")
    expect(page.locator("#project-head h2")).to_have_text("Project")
    expect(page.locator("#project-save")).to_have_text("Save")
    expect(page.locator("#project-about h3")).to_have_text("What it becomes")
    expect(page.locator("#guidelines-text textarea")).to_have_value("Prefer the short one.")


def test_the_choice_outlives_the_page_and_counts_before_the_browsers(
    led: RunningApp, new_visitor: NewVisitor
) -> None:
    page = open_page(new_visitor, led.url, locale="zh-CN")
    page.click("[data-act=language]")
    expect(page.locator("html")).to_have_attribute("lang", "en")

    page.reload()
    open_tab(page, "people")

    expect(page.locator("#people-table th").first).to_have_text("Name")
    open_tab(page, "prompts")
    expect(page.locator("[data-testid=upload-text]")).to_contain_text("Drop a file here")


def test_what_was_refused_is_told_in_chinese(led: RunningApp, new_visitor: NewVisitor) -> None:
    page = open_page(new_visitor, led.url, locale="zh-CN")
    open_tab(page, "prompts")

    page.click("#import-start")

    expect(page.get_by_test_id("toast-text")).to_contain_text("请先选择文件")
    expect(page.locator(".toast-title")).to_have_text(re.compile("未执行"))
