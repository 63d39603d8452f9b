"""WCAG 2.2 AA by axe-core: one call looks at a page in light and dark, wide and at 360 px."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Page, ViewportSize

LEVELS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
WIDE: ViewportSize = {"width": 1280, "height": 900}
NARROW: ViewportSize = {"width": 360, "height": 740}

# Until what a page does on a change of its width is laid out.
NEXT_FRAMES = "() => new Promise(go => requestAnimationFrame(() => requestAnimationFrame(go)))"


def assert_accessible(page: Page) -> None:
    """No rule of WCAG 2.2 AA is broken at either width, nor a colour in either mode."""
    found = [*_broken(page, "wide, light", {"type": "tag", "values": LEVELS})]
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("!document.querySelector('#ws-tabs') || document.body.matches('.dark')")
    found += _broken(page, "wide, dark", {"type": "rule", "values": ["color-contrast"]})
    page.emulate_media(color_scheme="light")
    page.wait_for_function("!document.body.matches('.dark')")
    page.set_viewport_size(NARROW)
    page.evaluate(NEXT_FRAMES)
    found += _broken(page, "narrow, light", {"type": "tag", "values": LEVELS})
    page.set_viewport_size(WIDE)
    assert not found, "\n".join(found)


def _broken(page: Page, where: str, rules: dict[str, Any]) -> Iterator[str]:
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE_SCRIPT)
        # A colour on its way from one mode to the other belongs to neither.
        page.add_style_tag(content="*, ::before, ::after { transition: none !important }")
    found: list[str] = page.evaluate(
        """async (runOnly) => {
          const { violations } = await axe.run(document, { runOnly, resultTypes: ["violations"] });
          return violations.flatMap(({ id, nodes }) => nodes
            .map(({ target, failureSummary, html }) =>
              `${id} at ${target}: ${failureSummary} ${html.slice(0, 200)}`));
        }""",
        rules,
    )
    for violation in found:
        yield f"{where}: {violation}"
