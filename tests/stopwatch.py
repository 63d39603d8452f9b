"""A stopwatch inside the compare page: from a key press until the next item is there.

It runs in the page, so that what drives the browser is not measured along.
"""

from __future__ import annotations

from typing import NamedTuple

from playwright.sync_api import Page

# A press that brings no item is not forgotten: its time runs on until one is there.
_START = """() => {
  window.felt = [];
  let since = null;
  const page = document.querySelector(".ws-compare");
  addEventListener("keydown", (event) => { since ??= event.timeStamp; }, { capture: true });
  new MutationObserver(() => {
    if (since === null || page.dataset.state !== "ready") return;
    const at = since;
    since = null;
    const entry = { dom: performance.now() - at, painted: null };
    window.felt.push(entry);
    requestAnimationFrame(() => requestAnimationFrame(() => {
      entry.painted = performance.now() - at;
    }));
  }).observe(document.querySelector("[data-part=messages]"), { childList: true });
}"""
_TAKE = "() => window.felt.splice(0).map((x) => [x.dom, x.painted])"
_ALL_PAINTED = "() => window.felt.every((x) => x.painted !== null)"


class Felt(NamedTuple):
    """What one press took until the next texts were in the DOM, and until they were painted."""

    dom_ms: float
    painted_ms: float


def start(page: Page) -> None:
    """Measure every press on this page from now on."""
    page.evaluate(_START)


def take(page: Page) -> list[Felt]:
    """What was measured since `start`, or since it was taken last."""
    page.wait_for_function(_ALL_PAINTED)
    return [Felt(*both) for both in page.evaluate(_TAKE)]
