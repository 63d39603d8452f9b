"""The leads' page as a team lead meets it: import, train, promote, roll back, export, people."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from store.db import Store
from store.records import Role
from tests.e2e.conftest import PASSWORD, Launch, NewVisitor, RunningApp, Snap
from tests.e2e.lead_page import (
    RUN_TIMEOUT_MS,
    fill_with_comparisons,
    fill_with_preferences,
    open_lead_page,
    open_tab,
    serving,
    start_run,
    wait_for_state,
)

PREFERENCES = 40
HOSTILE = '<img src=x onerror="document.title=1"> ${document.title=2} {{value}}'


@pytest.fixture(scope="module")
def led(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[RunningApp]:
    """A server for one person, with enough preferences for a small run."""
    data = tmp_path_factory.mktemp("led") / "data"
    fill_with_preferences(data, PREFERENCES)
    with serving(data, tiny_model) as running:
        yield running


def write_transcripts(path: Path, rows: int) -> Path:
    """A file in the shape of Anthropic's helpful and harmless comparisons, with two bad rows."""
    good = [
        {
            "chosen": f"\n\nHuman: Question {i}?\n\nAssistant: Gladly, here is answer {i}.",
            "rejected": f"\n\nHuman: Question {i}?\n\nAssistant: No. {HOSTILE}",
        }
        for i in range(rows)
    ]
    lines = [json.dumps(row) for row in good]
    lines.insert(2, '{"chosen": "no transcript at all", "rejected": "neither"}')
    lines.insert(4, "this is not JSON")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_an_empty_train_tab_says_what_to_do(
    launch: Launch, new_visitor: NewVisitor, snap: Snap
) -> None:
    app = launch([], [])

    page = open_lead_page(new_visitor, app.url, "train")

    expect(page.locator("#train-empty")).to_contain_text("Compare tab")
    expect(page.locator("#train-start")).to_be_disabled()
    expect(page.locator("#train-why-not")).to_contain_text("nothing to train on")
    expect(page.locator("#run-none")).to_be_visible()
    snap(page, "train-empty")


def test_a_file_is_imported_and_its_bad_rows_are_named(
    led: RunningApp, new_visitor: NewVisitor, tmp_path: Path, snap: Snap
) -> None:
    file = write_transcripts(tmp_path / "harmless.jsonl", rows=700)
    page = open_lead_page(new_visitor, led.url, "prompts")

    choose_file(page, file)
    page.click("#import-start")

    expect(page.locator("#import-state")).to_have_text("Done", timeout=60_000)
    expect(page.locator("#import-rows")).to_have_text("702")
    expect(page.locator("#import-accepted")).to_have_text("700")
    expect(page.locator("#import-refused")).to_have_text("2")
    refusals = page.locator("#import-refusals tbody tr")
    expect(refusals).to_have_count(2)
    expect(refusals.nth(0)).to_contain_text("harmless.jsonl")
    expect(refusals.nth(0).locator("td").nth(1)).to_have_text("3")
    expect(refusals.nth(1).locator("td").nth(1)).to_have_text("5")
    snap(page, "prompts")


def choose_file(page: Page, file: Path) -> None:
    """Choose it, and wait for the row that stays (the name during the upload soon goes away)."""
    page.set_input_files("#import-file input[type=file]", file)
    expect(page.locator("#import-file .filename")).to_have_attribute("aria-label", file.name)


def test_importing_without_a_file_says_to_choose_one(
    led: RunningApp, new_visitor: NewVisitor
) -> None:
    page = open_lead_page(new_visitor, led.url, "prompts")

    page.click("#import-start")

    expect(page.get_by_test_id("toast-body")).to_contain_text("Choose a file first")


@pytest.mark.parametrize(("format", "loader"), [("JSON Lines", "json"), ("Parquet", "parquet")])
def test_an_export_loads_with_datasets(
    led: RunningApp,
    new_visitor: NewVisitor,
    tmp_path: Path,
    snap: Snap,
    format: str,
    loader: str,
) -> None:
    from datasets import load_dataset

    page = open_lead_page(new_visitor, led.url, "export")

    page.locator("#export-format").get_by_text(format, exact=True).click()
    page.click("#export-start")
    expect(page.locator("#export-ready")).to_contain_text(f'load_dataset("{loader}"')
    file = download(page, "#export-download", tmp_path)
    manifest = json.loads(download(page, "#export-manifest", tmp_path).read_text())

    loaded: Any = load_dataset(loader, data_files=str(file), split="train", cache_dir=tmp_path)
    assert {"prompt", "chosen", "rejected", "margin"} <= set(loaded.column_names)
    assert loaded.num_rows == manifest["rows"] >= PREFERENCES
    assert loaded[0]["chosen"][0]["role"] == "assistant"
    snap(page, f"export-{loader}")


def download(page: Page, link: str, folder: Path) -> Path:
    """What a link leads to, under its own name."""
    with page.expect_download() as waiting:
        page.click(link)
    target = folder / waiting.value.suggested_filename
    waiting.value.save_as(target)
    return target


def test_hostile_text_is_shown_and_never_run(
    launch: Launch, new_visitor: NewVisitor, tmp_path: Path
) -> None:
    app = launch([], [])
    file = write_transcripts(tmp_path / "a<b>{{x}}.jsonl", rows=30)
    page = open_lead_page(new_visitor, app.url, "prompts")
    title = page.title()

    choose_file(page, file)
    page.click("#import-start")
    expect(page.locator("#import-state")).to_have_text("Done", timeout=60_000)
    open_tab(page, "export")
    page.click("#export-start")

    expect(page.locator("#export-preview")).to_contain_text(HOSTILE)
    assert page.title() == title
    assert page.locator("#export-preview img").count() == 0


def test_a_run_is_trained_promoted_and_rolled_back(
    led: RunningApp, new_visitor: NewVisitor, snap: Snap
) -> None:
    page = open_lead_page(new_visitor, led.url, "train")

    start_run(page, epochs=2)
    expect(page.locator("#train-start")).to_be_disabled()
    expect(page.locator("#train-why-not")).to_contain_text("is training")
    wait_for_state(page, "Succeeded")
    expect(page.locator("#run-metrics")).to_contain_text("Ranks as people did")
    expect(page.locator("#run-samples details").first).to_be_visible()
    version = page.locator("#run-version").inner_text()
    page.click("#run-promote")
    expect(page.locator("#run-promoted")).to_contain_text(f"{version} is live.")
    expect(page.locator("#run-is-live")).to_be_visible()
    snap(page, "train")

    open_tab(page, "policies")
    expect(page.locator("#policy-live")).to_have_text(version)
    snap(page, "policies")
    page.click("#policy-roll-back")
    page.click("#wsl-ask-yes")
    expect(page.locator("#policy-live")).to_have_text("pol-000000")
    expect(page.locator("#policy-history tbody tr").first).to_contain_text("Rolled back to")
    expect(page.locator("#train-start")).not_to_be_visible()


def test_a_run_is_cancelled_only_after_a_yes(led: RunningApp, new_visitor: NewVisitor) -> None:
    page = open_lead_page(new_visitor, led.url, "train")
    start_run(page, epochs=50, batch_size=1)
    wait_for_state(page, "Running")  # with which the buttons are drawn again

    page.click("#train-cancel")
    expect(page.locator("#wsl-ask")).to_contain_text("Cancel this run?")
    page.keyboard.press("Escape")
    expect(page.locator("#wsl-ask")).to_have_count(0)
    expect(page.locator("#run-state")).to_have_text("Running")
    page.click("#train-cancel")
    page.click("#wsl-ask-yes")

    wait_for_state(page, "Cancelled")
    expect(page.locator("#train-start")).to_be_enabled()


def test_options_that_do_not_go_together_are_refused_by_name(
    led: RunningApp, new_visitor: NewVisitor
) -> None:
    page = open_lead_page(new_visitor, led.url, "train")
    runs = page.locator("#run-list tbody tr").count()

    page.fill("#option-dpo-beta input", "-3")
    page.click("#train-start")

    expect(page.get_by_test_id("toast-body")).to_contain_text("beta")
    expect(page.locator("#train-start")).to_be_enabled()
    assert page.locator("#run-list tbody tr").count() == runs


def test_a_person_is_added_and_must_sign_in_after_a_restart(
    tmp_path: Path, tiny_model: Path, new_visitor: NewVisitor, snap: Snap
) -> None:
    data = tmp_path / "data"
    with serving(data, tiny_model) as app:
        page = open_lead_page(new_visitor, app.url, "people")
        expect(page.locator("#people-single")).to_contain_text("next start")
        page.fill("#own-name input, #own-name textarea", "max")
        page.fill("#own-password input", PASSWORD)
        page.click("#own-set")
        expect(page.locator("#person-named")).to_contain_text("You are max")
        page.fill("#person-name input, #person-name textarea", "lea")
        page.locator("#person-role").get_by_text("Lead").click()
        page.fill("#person-password input", PASSWORD)
        page.click("#person-add")
        expect(page.locator("#person-added")).to_contain_text("lea can sign in as lead")
        expect(page.locator("#people-table")).to_contain_text("lea")
        snap(page, "people")

    with serving(data, tiny_model) as app:
        page = new_visitor(app.url).open_page()
        page.goto(f"{app.url}/lead/")
        assert page.url.endswith("/login")
        page.fill("#name", "lea")
        page.fill("#password", PASSWORD)
        page.click("button[type=submit]")
        page.wait_for_url("**/lead/", wait_until="commit")
        page.locator("#tab-people-button").wait_for(timeout=60_000)


def test_a_short_password_is_refused_and_the_name_is_kept(
    led: RunningApp, new_visitor: NewVisitor
) -> None:
    page = open_lead_page(new_visitor, led.url, "people")

    page.fill("#own-name input, #own-name textarea", "max")
    page.fill("#own-password input", "short")
    page.click("#own-set")

    expect(page.get_by_test_id("toast-body")).to_contain_text("at least 8 characters")
    expect(page.locator("#own-name input, #own-name textarea")).to_have_value("max")
    expect(page.locator("#people-table")).not_to_contain_text("max")


def test_what_is_shown_and_how_often_is_set_in_the_project_tab(
    led: RunningApp, new_visitor: NewVisitor, snap: Snap
) -> None:
    page = open_lead_page(new_visitor, led.url, "project")
    fields = {"responses": "3", "share-live": "50", "share-previous": "30", "min-submitted": "2"}
    expect(page.locator("#project-share-live input")).to_have_value("100")

    for name, value in {**fields, "share-base": "30"}.items():
        page.fill(f"#project-{name} input", value)
    page.click("#project-save")
    expect(page.get_by_test_id("toast-body")).to_contain_text("add up to 110 %, not to 100 %")
    page.fill("#project-share-base input", "20")
    page.uncheck("#project-writes input")
    snap(page, "project-shown")
    page.click("#project-save")
    expect(page.locator("#project-saved")).to_be_visible()
    expect(page.locator("#project-diverted-note")).to_contain_text("live against the")
    snap(page, "project-shares")

    page.reload()
    open_tab(page, "project")
    for name, value in {**fields, "share-base": "20"}.items():
        expect(page.locator(f"#project-{name} input")).to_have_value(value)
    expect(page.locator("#project-writes input")).not_to_be_checked()
    page.check("#project-writes input")
    page.click("#project-save")
    expect(page.locator("#project-saved")).to_be_visible()


def test_what_everyone_skipped_is_told_in_the_prompts_tab(
    tmp_path: Path, tiny_model: Path, new_visitor: NewVisitor
) -> None:
    data = tmp_path / "data"
    fill_with_comparisons(data, 2)
    with serving(data, tiny_model) as app:
        page = open_lead_page(new_visitor, app.url)
        api = f"{app.url}/api/judging"
        (item,) = page.request.post(f"{api}/items", data={"want": 1}).json()["items"]
        said = {"lease_id": item["lease_id"], "verdict": "skipped", "reason": "unsure"}
        assert page.request.post(f"{api}/judgments", data={"id": "one", **said}).ok
        open_tab(page, "prompts")
        expect(page.locator("#prompts-skipped")).to_have_text(
            "1 comparison was skipped by everyone who saw it."
        )


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[RunningApp]:
    """A server where a lead and an annotator sign in."""
    from labeling.sessions import add_person

    data = tmp_path_factory.mktemp("shared") / "data"
    fill_with_preferences(data, 3)
    store = Store(data)
    add_person(store, "lea", Role.LEAD, PASSWORD)
    add_person(store, "ana", Role.ANNOTATOR, PASSWORD)
    store.close()
    with serving(data, tiny_model) as running:
        yield running


def signed_in(new_visitor: NewVisitor, url: str, name: str) -> Page:
    page = new_visitor(url).open_page()
    page.goto(f"{url}/login")
    page.fill("#name", name)
    page.fill("#password", PASSWORD)
    page.click("button[type=submit]")
    expect(page.locator("#ws-header [data-part=name]")).to_have_text(name, timeout=60_000)
    return page


def event_of(fn_index: int) -> dict[str, Any]:
    return {"data": [], "fn_index": fn_index, "session_hash": "x", "event_data": None}


LEAD_ADDRESSES = (
    ("GET", "/lead/config"),
    ("GET", "/lead/gradio_api/info"),
    ("GET", "/lead/gradio_api/startup-events"),
    ("POST", "/lead/gradio_api/run/predict"),
    ("POST", "/lead/gradio_api/queue/join"),
    ("POST", "/lead/gradio_api/call/open"),
    ("GET", "/exports/anything.jsonl"),
)


@pytest.mark.parametrize(("method", "address"), LEAD_ADDRESSES)
def test_an_annotator_cannot_reach_what_is_for_leads(
    shared: RunningApp, new_visitor: NewVisitor, method: str, address: str
) -> None:
    context = new_visitor(shared.url).context
    context.request.post(f"{shared.url}/login", form={"name": "ana", "password": PASSWORD})
    assert context.request.get(f"{shared.url}/api/me").ok

    answer = context.request.fetch(
        shared.url + address, method=method, data=event_of(0) if method == "POST" else None
    )

    if address.endswith("startup-events"):
        assert "train-start" not in answer.text()
    else:
        assert answer.status == 403, answer.text()


@pytest.mark.parametrize(("method", "address"), LEAD_ADDRESSES)
def test_nobody_signed_in_reaches_anything(
    shared: RunningApp, new_visitor: NewVisitor, method: str, address: str
) -> None:
    context = new_visitor(shared.url).context

    answer = context.request.fetch(
        shared.url + address, method=method, data={} if method == "POST" else None
    )

    if address.endswith("startup-events"):
        assert "train-start" not in answer.text()
    else:
        assert answer.status == 401, answer.text()


def test_every_handler_of_the_leads_page_refuses_an_annotator(
    shared: RunningApp, new_visitor: NewVisitor
) -> None:
    lead = signed_in(new_visitor, shared.url, "lea")
    handlers = len(lead.context.request.get(f"{shared.url}/lead/config").json()["dependencies"])
    annotator = signed_in(new_visitor, shared.url, "ana")

    statuses = {
        annotator.context.request.post(
            f"{shared.url}/lead/gradio_api/queue/join", data=event_of(number)
        ).status
        for number in range(handlers)
    }

    assert handlers > 20
    assert statuses == {403}


def test_the_annotators_page_holds_nothing_of_the_leads(
    shared: RunningApp, new_visitor: NewVisitor
) -> None:
    page = signed_in(new_visitor, shared.url, "ana")

    config = page.context.request.get(f"{shared.url}/label/config").text()

    assert page.url.endswith("/label/")
    for name in ("train-start", "export-start", "person-add", "import-start", "policies"):
        assert name not in config


def test_an_annotator_who_opens_the_leads_page_is_led_to_their_own(
    shared: RunningApp, new_visitor: NewVisitor
) -> None:
    page = signed_in(new_visitor, shared.url, "ana")

    page.goto(f"{shared.url}/lead/")

    assert page.url.endswith("/label/")


def test_a_session_that_has_ended_says_so_and_leads_to_the_sign_in_page(
    shared: RunningApp, new_visitor: NewVisitor
) -> None:
    page = signed_in(new_visitor, shared.url, "lea")
    page.context.clear_cookies()

    page.click("#tab-people-button")

    expect(page.locator("#wsl-ended")).to_contain_text("You are signed out")
    page.click("#wsl-ended a")
    expect(page.locator("#password")).to_be_visible()


def test_a_lead_keeps_a_person_out_and_lets_them_in_again(
    shared: RunningApp, new_visitor: NewVisitor
) -> None:
    annotator = signed_in(new_visitor, shared.url, "ana")
    lead = signed_in(new_visitor, shared.url, "lea")
    open_tab(lead, "people")
    row = lead.locator("#people-table tr", has_text="ana")

    row.get_by_text("Keep out").click()
    lead.click("#wsl-ask-yes")
    expect(row).to_contain_text("kept out")
    assert annotator.context.request.get(f"{shared.url}/api/me").status == 401
    row.get_by_text("Let in again").click()

    expect(row).to_contain_text("active")
    assert signed_in(new_visitor, shared.url, "ana").url.endswith("/label/")


def keep_out_ana(shared: RunningApp, new_visitor: NewVisitor) -> Locator:
    """A button that asks first, on a lead's page."""
    lead = signed_in(new_visitor, shared.url, "lea")
    open_tab(lead, "people")
    return lead.locator("#people-table tr", has_text="ana").get_by_text("Keep out")


@pytest.mark.parametrize(
    "change",
    [
        "held => held.replaceWith(held.cloneNode(true))",
        "held => { held.closest('section').style.marginTop = '300px' }",
    ],
    ids=["is_drawn_anew", "moves_away"],
)
def test_a_button_works_though_while_it_is_held_down_it(
    shared: RunningApp, new_visitor: NewVisitor, change: str
) -> None:
    button = keep_out_ana(shared, new_visitor)
    button.hover()
    button.page.mouse.down()
    button.evaluate(change)
    button.page.mouse.up()
    expect(button.page.locator("#wsl-ask")).to_contain_text("ana")


def test_a_press_that_was_dragged_away_does_nothing(
    shared: RunningApp, new_visitor: NewVisitor
) -> None:
    button = keep_out_ana(shared, new_visitor)
    button.hover()
    button.page.mouse.down()
    button.page.mouse.move(5, 5)
    button.page.mouse.up()
    assert button.page.locator("#wsl-ask").count() == 0  # it would be there at once
    button.click()
    expect(button.page.locator("#wsl-ask")).to_have_count(1)


def test_the_keyboard_goes_on_where_it_was_when_a_button_is_drawn_anew(
    shared: RunningApp, new_visitor: NewVisitor
) -> None:
    button = keep_out_ana(shared, new_visitor)
    button.focus()
    button.evaluate("held => held.replaceWith(held.cloneNode(true))")
    expect(button).to_be_focused()

    button.evaluate("held => held.remove()")
    expect(button.page.locator(".wsl-area:focus")).to_have_count(1)


def test_who_watches_the_pipeline_sees_each_stage_follow_without_a_reload(
    tmp_path: Path, tiny_model: Path, new_visitor: NewVisitor, snap: Snap
) -> None:
    fill_with_preferences(tmp_path / "data", 40)
    with serving(tmp_path / "data", tiny_model) as running:
        page = open_lead_page(new_visitor, running.url, "train")
        told = page.locator("#pipeline-estimates tbody tr")
        expect(told.last).to_contain_text("All three", timeout=RUN_TIMEOUT_MS)
        for stage, row in zip(("SFT", "Reward model", "PPO"), told.all()[:3], strict=True):
            expect(row).to_contain_text(re.compile(rf"{stage}.*\d s.*\d MiB"))
        snap(page, "pipeline-before")
        page.click("#pipeline-start")
        expect(page.locator("#run-phase")).to_be_visible()
        stages = page.locator("#pipeline-stages tbody tr")
        expect(stages.nth(0)).to_contain_text("done", timeout=RUN_TIMEOUT_MS)
        expect(stages.nth(1)).to_contain_text("done", timeout=RUN_TIMEOUT_MS)
        expect(stages.nth(2)).to_contain_text("at work", timeout=RUN_TIMEOUT_MS)
        snap(page, "pipeline")
        assert len(list((tmp_path / "data" / "runs").glob("*/estimate.json"))) == 3
        page.click("#train-cancel")
        page.click("#wsl-ask-yes")
        expect(page.locator("#train-pipeline")).to_contain_text(
            "The pipeline ended early", timeout=RUN_TIMEOUT_MS
        )
