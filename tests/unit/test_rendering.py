"""Model output is hostile until sanitised."""

from __future__ import annotations

import re
from html import unescape
from time import thread_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labeling.highlighting import highlight
from labeling.rendering import render_markdown

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![x](https://elsewhere.example/pixel.png)",
    "[click](javascript:alert(1))",
    "<iframe srcdoc='<script>1</script>'></iframe>",
    "[x](data:text/html;base64,PHNjcmlwdD4=)",
    "<style>body{display:none}</style>",
    '<a href="https://x.example" onclick="steal()">x</a>',
    "`<svg/onload=alert(1)>`",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_becomes_harmless(text: str) -> None:
    html = render_markdown(text)
    tags = set(re.findall(r"<\s*([a-z0-9]+)", html))
    assert tags <= {"p", "a", "code", "pre", "br"}
    assert not re.search(r"<[^>]*\son\w+\s*=", html)
    assert not re.search(r'(href|src)\s*=\s*"(javascript|data):', html)


@given(st.text(max_size=200))
def test_no_text_gives_a_tag_that_was_not_allowed(text: str) -> None:
    tags = set(re.findall(r"<\s*/?\s*([a-zA-Z0-9]+)", render_markdown(text)))
    assert not tags & {"script", "img", "style", "iframe", "svg", "object", "form", "input"}


def test_markdown_is_rendered() -> None:
    html = render_markdown("**bold** and `code`\n\n- one\n- two\n\n| a | b |\n|---|---|\n| 1 | 2 |")
    for tag in ("<strong>", "<code>", "<li>", "<table>"):
        assert tag in html


def test_a_link_tells_nothing_to_the_page_it_opens() -> None:
    html = render_markdown("[docs](https://example.org)")
    assert 'rel="noopener noreferrer nofollow"' in html
    assert 'target="_blank"' in html


@pytest.mark.parametrize(
    "text", [r"so $x^2$ is", r"so \(x^2\) is", "$$x^2$$", r"\[x^2\]", r"所以$x^2$是", r"the $x^2$s"]
)
def test_a_formula_becomes_mathml_that_the_browser_draws(text: str) -> None:
    html = render_markdown(text)
    assert "<msup><mi>x</mi><mn>2</mn></msup>" in html
    assert not re.search(r"[$\\]", html)


@pytest.mark.parametrize(
    "text",
    [
        "It costs $5 and $10, or $20-$30 ($4.50 net).",
        "Between $5 to 10$ each, in $AUD, not US$.",
        "echo $HOME/$USER and ${PATH}",
        r"\$5 and \$6",
        "**$5**, **$6**",
    ],
)
def test_prices_and_variables_stay_text(text: str) -> None:
    html = render_markdown(text)
    assert "<math" not in html
    assert html.count("$") == text.count("$")


def test_a_dollar_in_code_is_no_formula() -> None:
    assert "<math" not in render_markdown("`$x$` and pay $5 `a$`\n\n```\n$$x$$\n```")


@pytest.mark.parametrize(
    "text",
    ["> $$\n> a\n> - b\n> $$", "- so\n  $$\n  a\n  - b\n  $$", "So:\n\\[\na\n- b\n\\]\nthen"],
)
def test_a_formula_on_lines_of_its_own_is_one_formula_wherever_it_stands(text: str) -> None:
    assert "<mi>a</mi><mo>−</mo><mi>b</mi>" in render_markdown(text)


@pytest.mark.parametrize(
    "latex", [r"\frac{1}{", r"x^2^3", r"\left( x", "{" * 900, r"\begin{align} a", r"\def\a{\a\a}\a"]
)
@pytest.mark.parametrize("form", ["so ${}$ is", "$${}$$"])
def test_broken_latex_is_shown_as_it_was_written(latex: str, form: str) -> None:
    text = form.replace("{}", latex)
    html = render_markdown(text)
    assert "<math" not in html
    assert unescape(re.sub(r"<[^>]*>", "", html)).strip() == text


@pytest.mark.parametrize(
    "latex",
    [
        r"\text{<img src=x onerror=alert(1)>}",
        r"\href{javascript:alert(1)}{x}",
        r"\style{position:fixed}{x}",
        r"\unicode{x3c}script\unicode{x3e}",
        r"\color{white} x",
        r"\class{ws-dialog}{x}",
    ],
)
def test_a_formula_brings_no_markup_of_its_own(latex: str) -> None:
    html = render_markdown(f"$${latex}$$")
    tags = set(re.findall(r"<\s*([a-z0-9]+)", html))
    assert tags <= {"div", "math", "mrow", "mi", "mo", "mn", "mtext", "mstyle"}
    assert not re.search(r"<[^>]*\s(style|href|on\w+|mathcolor|src)\s*=", html)
    assert set(re.findall(r'class="([^"]+)"', html)) <= {"ws-formula"}


def test_no_formula_can_push_the_page_aside() -> None:
    assert 'width="2em"' in render_markdown(r"$a\hspace{2em}b$")
    assert "width" not in render_markdown(r"$a\hspace{5000em}b$")


def test_code_is_marked_by_the_language_of_its_fence_and_by_classes_alone() -> None:
    html = render_markdown("```python\ndef f(): return '<b>'  # why\n```")
    assert '<span class="ws-code-keyword">def</span>' in html
    assert "<span class=\"ws-code-string\">'&lt;b&gt;'</span>" in html
    assert '<span class="ws-code-comment"># why</span>' in html
    assert "style" not in html
    assert "<button" not in html


@pytest.mark.parametrize("language", ["", "text", "no-such-language", '"><script>'])
def test_no_language_is_guessed(language: str) -> None:
    html = render_markdown(f"```{language}\ndef f(): return 1\n```")
    assert "<span" not in html
    assert "def f(): return 1" in html
    assert "<script" not in html


@given(st.text(alphabet="ab c\n\"'#<>(){}=\\$&", max_size=80), st.sampled_from(["python", "html"]))
def test_marking_code_changes_no_letter_of_it(code: str, language: str) -> None:
    assert unescape(re.sub(r"<[^>]*>", "", highlight(code, language))) == code


@pytest.mark.parametrize(
    "block", ["مرحبا", "# مرحبا", "- واحد\n- one", "1. واحد", "> اقتباس", "| أ |\n|---|\n| ب |"]
)
def test_every_block_runs_in_its_own_direction(block: str) -> None:
    html = render_markdown(f"Hello\n\n{block}\n\nGood bye")
    assert html.count('dir="auto"') == 3


def test_code_runs_from_left_to_right_in_any_text() -> None:
    html = render_markdown("مرحبا\n\n```python\nx = 1  # تعليق\n```")
    assert '<pre dir="ltr">' in html


# Of each a browser or a parser has hung somewhere; the grammars of Java and C are quadratic.
PATHOLOGICAL = {
    "deep quotes": "> " * 24_900,
    "deep lists": "- " * 24_900,
    "open brackets": "[" * 49_000,
    "images": "![" * 24_000,
    "emphasis": "*a_ " * 12_000,
    "open formulas": "$$a$ " * 9_900,
    "formula lines": "$$a\n" * 12_000,
    "environments": "\\begin{align}\n" * 3_500,
    "small formulas": "$x$ " * 12_000,
    "braces": "$" + "{" * 40_000 + "$",
    "empty java": "```java\n" + "\n" * 19_900 + "x\n```",
    "words of java": "```java\n" + "a " * 9_900 + "\n```",
    "empty c": "```c\n" + "\n" * 19_900 + "x\n```",
    "plain": "word " * 40_000,
}


@pytest.mark.parametrize("name", PATHOLOGICAL)
def test_no_text_keeps_the_page_waiting(name: str) -> None:
    start = thread_time()
    html = render_markdown(PATHOLOGICAL[name])
    assert thread_time() - start < 4  # unbounded, the slowest take 8 to 14 s
    assert html


def test_very_long_text_stays_plain_and_whole() -> None:
    text = "**bold** <b>\n" * 8_000
    html = render_markdown(text)
    assert len(text) > 100_000
    assert "<strong>" not in html
    assert unescape(re.sub(r"<[^>]*>", "", html)) == text
