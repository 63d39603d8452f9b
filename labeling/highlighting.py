"""Code with its words marked by kind. Knows the languages, not the colours."""

from __future__ import annotations

from functools import cache
from html import escape
from time import thread_time

from pygments.lexer import Lexer
from pygments.lexers import get_all_lexers, get_lexer_by_name
from pygments.token import Comment, Generic, Keyword, Name, Number, Operator, String, _TokenType

MAX_CODE = 20_000
MAX_WORK_S = 0.1  # of this thread's own processor time: some grammars are quadratic
_CLASSES = {
    Comment.Preproc: "ws-code-keyword",
    Comment: "ws-code-comment",
    Generic.Deleted: "ws-code-deleted",
    Generic.Heading: "ws-code-name",
    Generic.Inserted: "ws-code-inserted",
    Generic.Subheading: "ws-code-name",
    Keyword.Constant: "ws-code-number",
    Keyword: "ws-code-keyword",
    Name.Attribute: "ws-code-name",
    Name.Builtin: "ws-code-name",
    Name.Class: "ws-code-name",
    Name.Decorator: "ws-code-name",
    Name.Exception: "ws-code-name",
    Name.Function: "ws-code-name",
    Name.Tag: "ws-code-keyword",
    Number: "ws-code-number",
    Operator.Word: "ws-code-keyword",
    String: "ws-code-string",
}
CLASSES = frozenset(_CLASSES.values())


def highlight(code: str, language: str) -> str:
    """HTML of the code; plain when the language is not known or the code is too much work."""
    lexer = _lexer(_known_languages().get(language.lower(), ""))
    if lexer is None or len(code) > MAX_CODE:
        return escape(code)
    end = thread_time() + MAX_WORK_S
    pieces: list[str] = []
    kind, run = "", ""
    for token, text in lexer.get_tokens(code):
        found = _class_of(token)
        if found != kind:
            pieces.append(_marked(run, kind))
            kind, run = found, ""
        if thread_time() > end:
            return escape(code)
        run += text
    return "".join([*pieces, _marked(run, kind)])


def _marked(text: str, kind: str) -> str:
    return f'<span class="{kind}">{escape(text)}</span>' if kind and text else escape(text)


@cache
def _class_of(token: _TokenType) -> str:
    """Of the nearest ancestor that has one."""
    kind: _TokenType | None = token
    while kind is not None and kind not in _CLASSES:
        kind = kind.parent
    return _CLASSES[kind] if kind is not None else ""


@cache
def _known_languages() -> dict[str, str]:
    """From every alias to the one name; asking Pygments for an unknown one reads all packages."""
    return {
        alias: aliases[0] for _, aliases, _, _ in get_all_lexers(plugins=False) for alias in aliases
    }


@cache
def _lexer(name: str) -> Lexer | None:
    if name in ("", "text"):
        return None
    return get_lexer_by_name(name, stripnl=False, ensurenl=False)
