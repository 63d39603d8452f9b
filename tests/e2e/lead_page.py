"""The leads' page as tests use it: tabs, a store worth leading, a run that is over in seconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from playwright.sync_api import Page, expect

from store import judgments
from store.db import Store
from store.records import Comparison, Flag
from tests.builders import keep, make_evidence, make_judgment, make_preferences, new_store
from tests.e2e.conftest import NewVisitor, RunningApp

RUN_TIMEOUT_MS = 180_000
QUICK = {"eval_generations": "4", "sample_tokens": "16"}


@contextmanager
def serving(data: Path, model: Path, *, writes_ahead: bool = False) -> Iterator[RunningApp]:
    """A server on a store that a test has filled, stopped at the end."""
    running = RunningApp(data, model, writes_ahead=writes_ahead)
    try:
        yield running
    finally:
        running.stop()


def fill_with_preferences(data: Path, number: int) -> None:
    """A store whose people preferred the polite response `number` times, one prompt each."""
    store = new_store(data)
    try:
        make_preferences(
            store,
            [
                (f"I cannot log in, case {i}.", f"Please tap the link. {i}", f"User: hello {i}")
                for i in range(number)
            ],
        )
    finally:
        store.close()


def fill_with_comparisons(data: Path, number: int) -> None:
    """A store with comparisons that wait to be judged; no policy wrote them."""
    store = new_store(data)
    try:
        evidence = [
            make_evidence(
                (f"Please tap the link. {i}", f"User: hello {i}"),
                prompt=f"I cannot log in, case {i}.",
            )
            for i in range(number)
        ]
        keep(store, evidence)
    finally:
        store.close()


def flag(
    store: Store,
    comparison: Comparison,
    flags: Sequence[Flag],
    *,
    annotator_id: str,
    rationale: str | None = None,
) -> None:
    """Somebody prefers the second response and flags something."""
    said = make_judgment(comparison, 1, annotator_id=annotator_id)
    judgments.record(store, replace(said, flags=tuple(flags), rationale=rationale))


def open_lead_page(new_visitor: NewVisitor, url: str, tab: str | None = None) -> Page:
    """The page of the one person on this machine, with a tab in front."""
    page = new_visitor(url, viewport={"width": 1400, "height": 900}).open_page()
    page.set_default_timeout(60_000)
    page.goto(f"{url}/lead/")
    if tab:
        open_tab(page, tab)
    return page


def open_tab(page: Page, name: str) -> None:
    """Bring a tab to the front and wait until the server has filled it."""
    page.click(f"#tab-{name}-button")
    filled = {
        "my-work": ".ws-work-row",
        "prompts": "#prompts-total, #prompts-empty",
        "train": "#train-data .wsl-card",
        "policies": "#policy-live",
        "export": "#export-ready, #export-none",
        "people": "#people-table",
        "quality": "#flags",
        "project": "#project-save",
    }
    if name in filled:
        page.locator(filled[name]).first.wait_for()


def start_run(
    page: Page, *, epochs: int, batch_size: int = 8, learning_rate: float | None = None
) -> None:
    """Press Train with options that suit a test."""
    page.fill("#option-dpo-epochs input", str(epochs))
    if learning_rate is not None:
        page.fill("#option-dpo-learning_rate input", str(learning_rate))
    page.click("#advanced-options button.label-wrap")
    for name, value in {**QUICK, "batch_size": str(batch_size)}.items():
        page.fill(f"#option-dpo-{name} input", value)
    page.click("#train-start")
    page.wait_for_selector("#run-state")


def wait_for_state(page: Page, state: str) -> None:
    """Until the run that is shown is in that state."""
    expect(page.locator("#run-state")).to_have_text(state, timeout=RUN_TIMEOUT_MS)
