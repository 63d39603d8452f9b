"""The whole loop in the browser, on the bundled policy: judge, train, reload, promote, judge again.

With WHETSTONE_SCREENSHOTS set it leaves the README's pictures there, one for each tab.
"""

from __future__ import annotations

import json
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.e2e.conftest import NewVisitor, Snap, wait_for_item
from tests.e2e.lead_page import (
    open_lead_page,
    open_tab,
    serving,
    start_run,
    wait_for_state,
)

STARTER = Path(__file__).resolve().parents[2] / "assets" / "starter"
TABS = ("my-work", "prompts", "train", "policies", "export", "project", "people")
JUDGED = 20
PER_ROUND = 6
NEXT_ITEM = """before => {
  const shown = [...document.querySelectorAll(".ws-compare .ws-response-body")];
  return shown.length === 2 && shown.some((body, i) => body.innerText !== before[i]);
}"""
MAX_ROUNDS = 12  # a slow machine has more to give out that was made before


def judge(page: Page, number: int) -> None:
    """Give that many verdicts with the keyboard alone, and wait until they are saved."""
    for _ in range(number):
        wait_for_item(page)
        first, second = page.locator(".ws-response-body").all()
        before = [first.inner_text(), second.inner_text()]
        page.keyboard.press("1" if len(before[0]) < len(before[1]) else "2")
        # The same question may come twice in a row, with other responses.
        page.wait_for_function(NEXT_ITEM, arg=before)
    page.wait_for_selector('.ws-compare[data-unsent="0"]')


def exported_judgments(page: Page, folder: Path, *, rows: int) -> list[dict[str, object]]:
    """What the Export tab gives out about every judgment, once there are that many."""
    open_tab(page, "export")
    page.locator("#export-what").get_by_text("Raw judgments").click()
    held_out = page.locator("#export-held-out input")
    if not held_out.is_visible():
        page.locator("#tab-export button.label-wrap").click()
    held_out.check()
    page.click("#export-start")
    page.locator("#export-download", has_text="judgments-").wait_for()
    expect(page.locator("#export-rows")).to_have_text(str(rows))
    with page.expect_download() as waiting:
        page.click("#export-download")
    file = folder / waiting.value.suggested_filename
    waiting.value.save_as(file)
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def written_by(judgment: dict[str, object]) -> set[str]:
    """The policy versions whose responses were judged."""
    responses = judgment["displayed_responses"]
    assert isinstance(responses, list)
    return {response["policy_version"] for response in responses if response["policy_version"]}


def test_twenty_judgments_make_a_new_policy_whose_responses_are_judged_next(
    tmp_path: Path, new_visitor: NewVisitor, snap: Snap
) -> None:
    with serving(tmp_path / "data", STARTER, writes_ahead=True) as app:
        page = open_lead_page(new_visitor, app.url)
        judge(page, JUDGED)
        wait_for_item(page)
        snap(page, "compare")

        open_tab(page, "train")
        expect(page.locator("#train-count")).to_have_text(str(JUDGED))
        # Long enough to be reloaded in the middle, gentle enough for so few pairs.
        start_run(page, epochs=12, batch_size=4, learning_rate=6e-4)
        run = page.locator("#run-view .wsl-run-head code").inner_text()
        curve = page.locator("#run-curves-charts path[class^=wsl-line]").first
        curve.wait_for(state="attached", timeout=90_000)

        page.reload()
        open_tab(page, "train")
        curve.wait_for(state="attached")
        expect(page.locator("#run-view .wsl-run-head code")).to_have_text(run)

        wait_for_state(page, "Succeeded")
        version = page.locator("#run-version").inner_text()
        page.click("#run-promote")
        expect(page.locator("#run-promoted")).to_contain_text(f"{version} is live.")

        newest: list[dict[str, object]] = []
        rounds = 0
        while not newest:
            # What the page had fetched before the promotion comes first.
            assert rounds < MAX_ROUNDS, "no response of the new version came to be judged"
            open_tab(page, "compare")
            judge(page, PER_ROUND)
            rounds += 1
            judged = JUDGED + rounds * PER_ROUND
            judgments = exported_judgments(page, tmp_path, rows=judged)
            newest = [j for j in judgments if version in written_by(j)]

        page.reload()
        for tab in TABS:
            open_tab(page, tab)
            snap(page, tab)

    assert all(j["counts"] for j in newest)
