"""What a response holds, as people see it: formulas, code, tables, and text that runs leftwards."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from playwright.sync_api import FloatRect, Locator, Page, expect

from tests.e2e.conftest import (
    PEOPLE,
    NewVisitor,
    Pair,
    RunningApp,
    Snap,
    fill_store,
)

_ACCOUNTS = count()
CODE = "def softmax(x):\n    # " + "a long line " * 20 + "\n    return exp(x) / exp(x).sum()"
TECHNICAL = Pair(
    "What is the softmax of $x$?",
    "Each $x_i$ becomes\n\n$$\\frac{e^{x_i}}{\\sum_{j=1}^{n} e^{x_j}}$$\n\n"
    f"In code:\n\n```python\n{CODE}\n```\n\n"
    "| " + " | ".join(f"a long heading {i}" for i in range(8)) + " |\n" + "|---" * 8 + "|\n"
    "| " + " | ".join("1" * 8) + " |",
    "It costs $5 and $10. Broken: $\\frac{1}{$. A long sum is $"
    + "+".join(f"a_{{{i}}}" for i in range(60))
    + "$ in one line.",
)
ARABIC = Pair(
    "كيف أدخل إلى حسابي C41؟ إنه عاجل!",
    "مرحبا بك، هذه إجابة مع كلمة Python داخل الجملة.\n\n1. افتح صفحة الدخول.\n"
    "2. Enter the code `C41` هنا.\n\n> اقتباس قصير.\n\n```python\nx = 1  # تعليق\n```\n\n"
    "| الاسم | القيمة |\n|---|---|\n| س | 1 |\n\nThis paragraph is English.",
    "שלום, זו תשובה בעברית עם $x^2$.\n\n- אחד\n- שתיים",
    "ar",
)


@pytest.fixture(scope="module")
def technical(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[RunningApp]:
    yield from _serving(tmp_path_factory, tiny_model, TECHNICAL)


@pytest.fixture(scope="module")
def arabic(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[RunningApp]:
    yield from _serving(tmp_path_factory, tiny_model, ARABIC)


def _serving(folders: pytest.TempPathFactory, model: Path, pair: Pair) -> Iterator[RunningApp]:
    """A server on which every person sees this pair, one copy each."""
    data = folders.mktemp("prose") / "data"
    fill_store(data, [pair] * 60, PEOPLE)
    running = RunningApp(data, model, writes_ahead=False)
    yield running
    running.stop()


def sign_in(
    app: RunningApp, new_visitor: NewVisitor, *, width: int = 1280, scheme: str = "light"
) -> Page:
    visitor = new_visitor(
        app.url,
        viewport={"width": width, "height": 800},
        color_scheme=scheme,
        permissions=["clipboard-read", "clipboard-write"],
    )
    return visitor.sign_in(PEOPLE[next(_ACCOUNTS) % len(PEOPLE)])


def box(found: Locator) -> FloatRect:
    rect = found.bounding_box()
    assert rect is not None
    return rect


def test_formulas_are_drawn_as_mathml(technical: RunningApp, new_visitor: NewVisitor) -> None:
    page = sign_in(technical, new_visitor)

    fraction = page.locator(".ws-response-body mfrac")
    above, below = fraction.locator("> *").all()

    assert fraction.evaluate("node => node.namespaceURI") == "http://www.w3.org/1998/Math/MathML"
    assert box(above)["y"] + box(above)["height"] <= box(below)["y"] + 1
    assert box(fraction)["height"] > 25
    index = page.locator(".ws-response-body p msub > :last-child").first
    assert box(index)["height"] < box(page.locator(".ws-response-body p").first)["height"]
    text = " ".join(page.locator(".ws-response-body").all_inner_texts())
    assert "It costs $5 and $10. Broken: $\\frac{1}{$." in text


def test_a_code_block_is_copied_from_the_keyboard(
    technical: RunningApp, new_visitor: NewVisitor
) -> None:
    page = sign_in(technical, new_visitor)
    asked = page.locator(".ws-turn .ws-prose").inner_text()
    page.locator(".ws-response:has(.ws-code) .ws-response-body").focus()

    page.keyboard.press("Tab")
    button = page.locator(":focus")
    expect(button).to_have_accessible_name("Copy this code")
    page.keyboard.press("Enter")

    expect(button).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == f"{CODE}\n"
    assert page.locator(".ws-turn .ws-prose").inner_text() == asked, "Enter judged the item"
    expect(button).to_have_text("Copy")
    page.click("[data-act=language]")
    button = page.locator(".ws-code button")
    expect(button).to_have_text("复制")
    expect(button).to_have_accessible_name("复制这段代码")


def test_code_is_coloured_in_light_and_dark(technical: RunningApp, new_visitor: NewVisitor) -> None:
    colours = set()
    for scheme in ("light", "dark"):
        page = sign_in(technical, new_visitor, scheme=scheme)
        for kind in ("keyword", "comment"):
            found = page.locator(f".ws-code-{kind}").first
            colours.add(found.evaluate("node => getComputedStyle(node).color"))
    assert len(colours) == 4


@pytest.mark.parametrize("width", [1280, 360])
def test_what_is_wide_scrolls_in_its_own_box(
    technical: RunningApp, new_visitor: NewVisitor, snap: Snap, width: int
) -> None:
    page = sign_in(technical, new_visitor, width=width)

    snap(page, f"prose-{width}")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for body in page.locator(".ws-response-body").all():
        assert body.evaluate("node => node.scrollWidth <= node.clientWidth")
    for name in ("Code", "Table", "Formula"):
        wide = page.get_by_role("group", name=name, exact=True).first
        expect(wide).to_have_attribute("tabindex", "0")
        wide.focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_function("document.activeElement.scrollLeft > 0", timeout=10_000)


@pytest.mark.parametrize("width", [1280, 360])
def test_arabic_runs_leftwards_and_nothing_else_moves(
    arabic: RunningApp, new_visitor: NewVisitor, snap: Snap, width: int
) -> None:
    page = sign_in(arabic, new_visitor, width=width)
    snap(page, f"arabic-{width}")

    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("getComputedStyle(document.documentElement).direction") == "ltr"
    first, second = page.locator(".ws-response").all()
    expect(first.get_by_role("heading", name="Response A")).to_be_visible()
    verdicts = [box(page.locator(f".ws-verdict:visible[data-act={act}]")) for act in ("a", "b")]
    assert verdicts[0]["x"] < verdicts[1]["x"]
    if width > 720:
        assert box(first)["x"] + box(first)["width"] <= box(second)["x"]

    answer = page.locator(".ws-response-body", has_text="مرحبا")
    edges = {name: _text_edges(answer, selector) for name, selector in _PARTS.items()}
    inner = _inner_edges(answer)
    for name in ("arabic", "item", "quotation"):
        assert abs(edges[name][1] - inner[1]) < 45, f"{name} is not at the right: {edges[name]}"
    assert abs(edges["mixed item"][1] - inner[1]) < 45
    for name in ("english", "code"):
        assert abs(edges[name][0] - inner[0]) < 20, f"{name} is not at the left: {edges[name]}"
    line = answer.locator("blockquote").evaluate("node => getComputedStyle(node).borderRightWidth")
    assert line == "3px", "the line of a quotation is at the wrong side"
    asked = page.locator(".ws-turn .ws-prose")
    assert abs(_text_edges(asked, "p")[1] - _inner_edges(asked)[1]) < 5


_PARTS = {
    "arabic": "p >> nth=0",
    "item": "li >> nth=0",
    "mixed item": "li >> nth=1",
    "quotation": "blockquote",
    "english": "p >> nth=-1",
    "code": "pre",
}


def _text_edges(within: Locator, selector: str) -> tuple[float, float]:
    """Left and right of the letters, not of the box that holds them."""
    found: list[float] = within.locator(selector).evaluate(
        """node => {
          const range = document.createRange();
          range.selectNodeContents(node);
          const lines = [...range.getClientRects()].filter((line) => line.width > 1);
          return [Math.min(...lines.map((x) => x.left)), Math.max(...lines.map((x) => x.right))];
        }"""
    )
    return found[0], found[1]


def _inner_edges(body: Locator) -> tuple[float, float]:
    found: list[float] = body.evaluate(
        """node => {
          const [box, style] = [node.getBoundingClientRect(), getComputedStyle(node)];
          const bar = node.offsetWidth - node.clientWidth;
          return [box.left + parseFloat(style.paddingLeft),
                  box.right - parseFloat(style.paddingRight) - bar];
        }"""
    )
    return found[0], found[1]
