"""Markdown to HTML that is safe to show: model output is hostile until sanitised."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from html import escape

import nh3
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict

from labeling import formulas, highlighting

MAX_MARKDOWN = 50_000
_TAGS = {
    *("p", "br", "hr", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "li", "blockquote"),
    *("pre", "code", "em", "strong", "s", "a", "table", "thead", "tbody", "tr", "th", "td"),
    *("div", "span", *formulas.TAGS),
}
_ATTRIBUTES = {
    "*": {"dir"},
    "a": {"href"},
    "code": {"class"},
    "ol": {"start"},
    **formulas.ATTRIBUTES,
}
_CLASSES = {
    "div": {"ws-formula", "ws-plain", "ws-table"},
    "span": {"ws-formula", *highlighting.CLASSES},
    **formulas.CLASSES,
}


@lru_cache(maxsize=4096)
def render_markdown(text: str) -> str:
    """Sanitised HTML. No images, no styles, no scripts; links open elsewhere, without referrer.

    Very long text stays plain, so that no text keeps the page waiting.
    """
    if len(text) > MAX_MARKDOWN:
        return f'<div class="ws-plain" dir="auto">{escape(text)}</div>'
    return nh3.clean(
        _MARKDOWN.render(text),
        tags=_TAGS,
        attributes=_ATTRIBUTES,
        allowed_classes=_CLASSES,
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow",
        set_tag_attribute_values={"a": {"target": "_blank"}},
    )


class _Renderer(RendererHTML):
    """Every block runs in the direction of its own first letter; what is wide gets a box."""

    def render(self, tokens: Sequence[Token], options: OptionsDict, env: EnvType) -> str:
        for token in tokens:
            if token.level == 0 and token.nesting == 1 and token.type != "table_open":
                token.attrSet("dir", "auto")
        return super().render(tokens, options, env)

    def table_open(self, tokens: Sequence[Token], at: int, options: OptionsDict, _: EnvType) -> str:
        return '<div class="ws-table" dir="auto">' + self.renderToken(tokens, at, options, _)

    def table_close(
        self, tokens: Sequence[Token], at: int, options: OptionsDict, _: EnvType
    ) -> str:
        return self.renderToken(tokens, at, options, _) + "</div>"

    def fence(self, tokens: Sequence[Token], at: int, _: OptionsDict, __: EnvType) -> str:
        code = tokens[at].content
        language = tokens[at].info.strip().split(maxsplit=1)[0:1]
        if not language:
            return f'<pre dir="auto"><code>{escape(code)}</code></pre>\n'
        name = escape(language[0])
        marked = highlighting.highlight(code, language[0])
        return f'<pre dir="ltr"><code class="language-{name}">{marked}</code></pre>\n'


_MARKDOWN = MarkdownIt(
    "commonmark", {"html": False, "breaks": True}, renderer_cls=_Renderer
).enable(["table", "strikethrough"])
_MARKDOWN.use(formulas.formulas_plugin)
