"""LaTeX in Markdown: where a formula begins and ends, and its MathML.

Knows the Markdown parser, not the page. What it gives is well formed, and still goes through the
sanitiser like everything else. All work is bounded by the length of a formula.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from html import escape, unescape
from xml.etree import ElementTree

from latex2mathml.converter import Converter
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict

MAX_FORMULA = 2000
TAGS = {
    *("math", "mrow", "mi", "mn", "mo", "mtext", "mspace", "mfrac", "msqrt", "mroot", "mstyle"),
    *("msub", "msup", "msubsup", "munder", "mover", "munderover", "mmultiscripts", "mprescripts"),
    *("mtable", "mtr", "mtd", "mpadded", "mphantom"),
}
_SPACING = {"width", "height", "depth", "lspace", "rspace", "voffset", "linethickness"}
_ATTRIBUTES = {
    *("accent", "accentunder", "columnalign", "displaystyle", "fence", "form", "largeop"),
    *("maxsize", "minsize", "movablelimits", "scriptlevel", "separator", "stretchy", "symmetric"),
}
# `math` says what stands on its own line; the rest is what a formula may ask for.
ATTRIBUTES = dict.fromkeys(TAGS, _ATTRIBUTES | _SPACING) | {"math": {"display"}}
CLASSES = {
    "mrow": {"ws-boxed"},
    "mtext": {"ws-bold", "ws-italic", "ws-monospace"},
}

_BODY = rf"(?:[^$\\`]|\\.){{1,{MAX_FORMULA}}}+"
_BRACKETED = rf"(?:[^\\]|\\[^()\[\]]){{1,{MAX_FORMULA}}}+"
_DOLLARS = rf"\$\$(?P<dollars>{_BODY})\$\$"
# `$n$th` is a formula, `$HOME/$USER` and `$5-$6` are not.
_CLOSED = r"(?:(?=(?:th|st|nd|rd|s)\b)|(?![A-Za-z0-9$]))"
_INLINE = re.compile(
    rf"{_DOLLARS}"
    rf"|(?<![A-Za-z0-9$])\$(?![\s$])(?P<dollar>{_BODY})(?<!\s)\${_CLOSED}"
    rf"|\\\((?P<parens>{_BRACKETED})\\\)"
    rf"|\\\[(?P<brackets>{_BRACKETED})\\\]",
    re.DOTALL,
)
_BLANK_LINE = re.compile(r"\n[ \t>]*\n")
_BLOCK = re.compile(
    rf"(?:{_DOLLARS}|\\\[(?P<brackets>{_BRACKETED})\\\]"
    r"|(?P<environment>\\begin\{(?P<name>(?:equation|align|gather|multline|eqnarray)\*?)\}"
    rf".{{1,{MAX_FORMULA}}}?\\end\{{(?P=name)\}}))[ \t]*(?P<stop>[.,;:]?)[ \t]*(?=\n|\Z)",
    re.DOTALL,
)
# A definition can grow without bound when it is expanded; a formula needs none.
_DEFINES = re.compile(
    r"\\(?:(?:re|provide)?newcommand|renewcommand|providecommand|(?:re)?newenvironment"
    r"|[egx]?def|let|DeclareMathOperator)\b"
)
_LENGTH = re.compile(r"[+-]?\d{0,2}(?:\.\d+)?(?:em|ex|pt|px|mu|%)?")
_TEX = re.compile(r"[\\^_={}+<>|*]")
_WORDS = re.compile(r"[A-Za-z]{2,}\W+[A-Za-z]{2,}|^\d[\d.,]*\s.*[A-Za-z]{2,}", re.DOTALL)


class _NotShown(Exception):
    """The formula cannot be drawn; it is shown as it was written."""


def formulas_plugin(markdown: MarkdownIt) -> None:
    r"""Understand `$…$`, `\(…\)`, `$$…$$`, `\[…\]` and the environments that stand alone."""
    markdown.inline.ruler.before("escape", "formula", _inline_rule)
    markdown.block.ruler.before(
        "fence", "formula_block", _block_rule, {"alt": ["paragraph", "reference", "blockquote"]}
    )
    markdown.add_render_rule("formula", _render_inline)
    markdown.add_render_rule("formula_block", _render_block)


def to_mathml(latex: str, *, display: str) -> str:
    """MathML of one formula; raises when LaTeX is broken in any way."""
    if len(latex) > MAX_FORMULA or _DEFINES.search(latex):
        raise _NotShown
    root = Converter(display=display).convert_to_element(latex)
    del root.attrib["xmlns"]
    _tidy(root)
    return ElementTree.tostring(root, encoding="unicode")


def _inline_rule(state: StateInline, silent: bool) -> bool:
    if state.src[state.pos] not in "$\\":
        return False
    found = _INLINE.match(state.src, state.pos, state.posMax)
    if not found:
        return False
    dollar = found["dollar"]
    if dollar and not _TEX.search(dollar) and _WORDS.search(dollar):
        return False  # prices
    if not silent:
        token = state.push("formula", "math", 0)
        token.content = dollar or found["parens"] or found["dollars"] or found["brackets"]
        token.markup = found[0]
        token.meta = {"display": "inline" if dollar or found["parens"] else "block"}
    state.pos = found.end()
    return True


def _block_rule(state: StateBlock, start_line: int, end_line: int, silent: bool) -> bool:
    if state.is_code_block(start_line):
        return False
    start = state.bMarks[start_line] + state.tShift[start_line]
    found = _BLOCK.match(state.src, start)
    if not found or _BLANK_LINE.search(found[0]):
        return False
    line = start_line
    while line < end_line and state.eMarks[line] < found.end():
        line += 1
        if line == end_line or state.sCount[line] < state.blkIndent:
            return False
    if silent:
        return True
    # Once more without what the lines of a quotation or a list begin with.
    written = state.getLines(start_line, line + 1, state.blkIndent, False).strip()
    found = _BLOCK.match(written)
    if not found:
        return False
    state.line = line + 1
    token = state.push("formula_block", "math", 0)
    token.content = found["dollars"] or found["brackets"] or found["environment"]
    token.markup = written
    token.info = found["stop"]
    token.map = [start_line, state.line]
    return True


def _render_inline(
    _: RendererHTML, tokens: Sequence[Token], at: int, __: OptionsDict, ___: EnvType
) -> str:
    token = tokens[at]
    display = token.meta["display"]
    mathml = _drawn(token.content, display)
    if mathml is None:
        return escape(token.markup)
    return mathml if display == "inline" else f'<span class="ws-formula">{mathml}</span>'


def _render_block(
    _: RendererHTML, tokens: Sequence[Token], at: int, __: OptionsDict, ___: EnvType
) -> str:
    token = tokens[at]
    mathml = _drawn(token.content, "block")
    if mathml is None:
        return f'<p dir="auto">{escape(token.markup)}</p>\n'
    return f'<div class="ws-formula">{mathml}</div>\n'


def _drawn(latex: str, display: str) -> str | None:
    try:
        return to_mathml(latex.strip(), display=display)
    except Exception:  # noqa: BLE001 - of broken input the converter says anything at all
        return None


def _tidy(element: ElementTree.Element) -> None:
    """Make it what browsers draw: MathML Core, whose text is text and whose lengths are small."""
    for child in list(element):
        _tidy(child)
    # The converter writes character references into text, and leaves markup as it finds it.
    element.text = unescape(element.text) if element.text else element.text
    if element.tag == "menclose":
        element.tag = "mrow"
        if element.attrib.get("notation") == "box":
            element.set("class", "ws-boxed")
    variant = element.attrib.pop("mathvariant", "")
    if variant and element.tag == "mtext":
        element.set("class", f"ws-{variant}")
    elif variant and element.text:
        element.text = "".join(_styled(letter, variant) for letter in element.text)
    for name in _SPACING & element.attrib.keys():
        if not _LENGTH.fullmatch(element.attrib[name]):
            del element.attrib[name]
    if any(child.get("linebreak") == "newline" for child in element):
        _stack_lines(element)


def _stack_lines(element: ElementTree.Element) -> None:
    """Browsers break no line inside a formula: the lines become rows."""
    children = list(element)
    table = ElementTree.Element("mtable", displaystyle="true")
    cell = ElementTree.SubElement(ElementTree.SubElement(table, "mtr"), "mtd")
    for child in children:
        element.remove(child)
        if child.get("linebreak") == "newline":
            cell = ElementTree.SubElement(ElementTree.SubElement(table, "mtr"), "mtd")
        else:
            cell.append(child)
    element.append(table)


def _styled(letter: str, variant: str) -> str:
    """The letter in a mathematical alphabet: browsers know these by character alone."""
    known = re.fullmatch(
        r"(?:LATIN|GREEK) (CAPITAL|SMALL) LETTER (\w+)", unicodedata.name(letter, "")
    )
    style = variant.upper().replace("-", " ")
    try:
        return (
            unicodedata.lookup(f"MATHEMATICAL {style} {known[1]} {known[2]}") if known else letter
        )
    except KeyError:
        return letter
