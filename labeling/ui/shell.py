"""What all pages share: theme, head tags, header bar, tabs, and how a page is mounted.

Knows no service. A tab module has a `render(...)` that draws its components; the application
binds the services and hands `Tab`s over.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import NamedTuple

import gradio as gr
from fastapi import FastAPI, Request, Response

ASSETS = Path(__file__).resolve().parents[2] / "assets"
PRODUCT = "Whetstone"
# Gradio looks a thousand times a second whether somebody asks for something: 4 % of a core at rest.
QUEUE_LOOK_EVERY_S = 0.02
# In this order: each uses, while it is read, only those before it.
_SCRIPTS = (
    *("tools", "locale", "theme", "server", "clipboard", "prose", "outbox", "supply"),
    *("guidelines", "drafts", "judging", "keys", "key_list", "diff", "reading"),
    *("answers", "ranking", "notes", "skip"),
    *("practice", "pace", "tour", "compare", "arena", "my_work", "words", "header"),
)

AuthDependency = Callable[[Request], str | Awaitable[str | None] | None]


class Tab(NamedTuple):
    """One tab of a page. `name` is the noun in ids and locale keys, `render` draws the content."""

    name: str
    render: Callable[[], None]


class Strings:
    """The strings of one language, ready for markup that the page's script can translate."""

    def __init__(self, language: str) -> None:
        path = ASSETS / "locales" / f"{language}.json"
        self._strings: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))

    def text(self, key: str) -> str:
        """The plain string. Raises `KeyError` for an unknown key, at build time."""
        return self._strings[key]

    def span(self, key: str) -> str:
        """An element that shows the string."""
        return f'<span data-t="{key}">{escape(self._strings[key])}</span>'

    def label(self, key: str) -> str:
        """Attributes that give an element its accessible name."""
        return f'data-t-label="{key}" aria-label="{escape(self._strings[key])}"'


def asset_url(name: str) -> str:
    """Where the browser finds an asset; the address changes with the content."""
    return f"/assets/{name}?v={_fingerprint()}"


def script_tag() -> str:
    """Loads the page's scripts once, before `js_on_load` of the component that asks for them."""
    return "".join(
        f'<script src="{asset_url(f"scripts/{name}.js")}"></script>' for name in _SCRIPTS
    )


def build_page(title: str, tabs: Sequence[Tab]) -> gr.Blocks:
    """A page with the header bar and the given tabs, the first one in front."""
    strings = Strings("en")
    with gr.Blocks(title=title, analytics_enabled=False, fill_width=True) as page:
        gr.HTML(
            html_template=header(strings),
            js_on_load="window.Whetstone.mountHeader(element)",
            head=script_tag(),
            apply_default_css=False,
            elem_id="ws-header",
        )
        with gr.Tabs(elem_id="ws-tabs"):
            for tab in tabs:
                label = strings.text(f"tab.{tab.name}")
                elem_id = f"tab-{tab.name.replace('_', '-')}"
                with gr.Tab(label, id=tab.name, elem_id=elem_id, elem_classes="ws-tab"):
                    tab.render()
    return page


def mount(
    app: FastAPI, page: gr.Blocks, path: str, auth_dependency: AuthDependency, *, head: str = ""
) -> None:
    """Mount a page at `path`, for those whom `auth_dependency` knows by name.

    `head` are tags of this page alone.
    """
    _serve_icon(app)
    page.queue(api_open=False)
    page._queue.sleep_when_free = QUEUE_LOOK_EVERY_S
    gr.mount_gradio_app(
        app,
        page,
        path=path,
        auth_dependency=auth_dependency,
        theme=build_theme(),
        head=head_tags() + presses_tag() + head,
        footer_links=[],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
    )


def head_tags() -> str:
    """Our style sheet and icon, for Gradio's pages and plain ones."""
    return (
        f'<link rel="stylesheet" href="{asset_url("style.css")}">'
        f'<link rel="stylesheet" href="{asset_url("judging.css")}">'
        f'<link rel="stylesheet" href="{asset_url("flow.css")}">'
        f'<link rel="stylesheet" href="{asset_url("arena.css")}">'
        f'<link rel="stylesheet" href="{asset_url("leads.css")}">'
        '<link rel="icon" type="image/svg+xml" href="/favicon.ico">'
    )


def presses_tag() -> str:
    """Loads what notes presses of tabs; it stands in the head, to be there before the tabs."""
    return f'<script src="{asset_url("scripts/presses.js")}"></script>'


def build_theme() -> gr.themes.Base:
    """Gradio's variables in our tokens; `assets/style.css` holds the values and the rest.

    System fonts only, so that nothing is fetched and Chinese falls to the reader's own font.
    """
    font = ("var(--ws-font)",)
    theme = gr.themes.Base(
        primary_hue=_hue("accent"),
        secondary_hue=_hue("accent"),
        neutral_hue=_hue("neutral"),
        spacing_size=gr.themes.sizes.spacing_md,
        radius_size=gr.themes.sizes.radius_md,
        text_size=gr.themes.sizes.text_md,
        font=font,
        font_mono=("var(--ws-font-mono)",),
    )
    return theme.set(
        **_both(
            body_background_fill="var(--ws-ground)",
            body_text_color="var(--ws-ink)",
            body_text_color_subdued="var(--ws-ink-quiet)",
            background_fill_primary="var(--ws-surface)",
            background_fill_secondary="var(--ws-surface-quiet)",
            block_background_fill="transparent",
            block_border_color="var(--ws-line)",
            block_label_background_fill="var(--ws-surface)",
            block_label_text_color="var(--ws-ink-quiet)",
            block_title_text_color="var(--ws-ink)",
            block_info_text_color="var(--ws-ink-quiet)",
            block_shadow="none",
            border_color_primary="var(--ws-line)",
            border_color_accent="var(--ws-accent)",
            panel_background_fill="var(--ws-surface-quiet)",
            color_accent_soft="var(--ws-accent-soft)",
            link_text_color="var(--ws-accent-ink)",
            link_text_color_hover="var(--ws-accent-ink)",
            link_text_color_visited="var(--ws-accent-ink)",
            link_text_color_active="var(--ws-accent-ink)",
            input_background_fill="var(--ws-field)",
            input_border_color="var(--ws-line-strong)",
            input_border_color_focus="var(--ws-accent)",
            input_placeholder_color="var(--ws-ink-quiet)",
            block_border_width="0px",
            block_padding="0px",
            input_border_width="1px",
            input_padding="9px 12px",
            form_gap_width="16px",
            input_shadow="none",
            input_shadow_focus="none",
            button_primary_background_fill="var(--ws-accent)",
            button_primary_background_fill_hover="var(--ws-accent-strong)",
            button_primary_text_color="var(--ws-on-accent)",
            button_primary_border_color="transparent",
            button_secondary_background_fill="var(--ws-surface)",
            button_secondary_background_fill_hover="var(--ws-surface-quiet)",
            button_secondary_text_color="var(--ws-ink)",
            button_secondary_border_color="var(--ws-line-strong)",
            button_cancel_background_fill="var(--ws-surface)",
            button_cancel_background_fill_hover="var(--ws-bad-soft)",
            button_cancel_text_color="var(--ws-bad)",
            button_cancel_border_color="var(--ws-bad)",
            checkbox_background_color="var(--ws-field)",
            checkbox_background_color_selected="var(--ws-accent)",
            checkbox_border_color="var(--ws-line-strong)",
            checkbox_border_color_selected="var(--ws-accent)",
            checkbox_label_background_fill="var(--ws-surface)",
            checkbox_label_background_fill_selected="var(--ws-accent-soft)",
            checkbox_label_text_color="var(--ws-ink)",
            checkbox_label_text_color_selected="var(--ws-ink)",
            slider_color="var(--ws-accent)",
            block_label_border_width="0px",
            table_even_background_fill="var(--ws-surface)",
            table_odd_background_fill="var(--ws-surface)",
            table_row_focus="var(--ws-accent-soft)",
            table_border_color="var(--ws-line)",
            table_text_color="var(--ws-ink)",
            code_background_fill="var(--ws-surface-quiet)",
            error_background_fill="var(--ws-bad-soft)",
            error_border_color="var(--ws-bad)",
            error_text_color="var(--ws-bad)",
        ),
        button_large_radius="var(--ws-radius)",
        button_small_radius="var(--ws-radius)",
        button_medium_radius="var(--ws-radius)",
    )


def _serve_icon(app: FastAPI) -> None:
    """Answer what every browser asks for by itself. A second route of that path is harmless."""

    @app.get("/favicon.ico", include_in_schema=False)
    def icon() -> Response:
        return Response(
            _ICON, media_type="image/svg+xml", headers={"Cache-Control": "max-age=86400"}
        )


def _both(**values: str) -> dict[str, str]:
    """One value for light and dark: the tokens themselves change with the mode."""
    theme = gr.themes.Base()
    dark = {
        f"{name}_dark": value for name, value in values.items() if hasattr(theme, f"{name}_dark")
    }
    return values | dark


def _hue(token: str) -> gr.themes.Color:
    steps = ("50", "100", "200", "300", "400", "500", "600", "700", "800", "900", "950")
    return gr.themes.Color(
        name=f"ws-{token}", **{f"c{step}": f"var(--ws-{token}-{step})" for step in steps}
    )


@cache
def _fingerprint() -> str:
    digest = hashlib.sha256()
    for pattern in ("scripts/*.js", "*.css", "locales/*.json"):
        for path in sorted(ASSETS.glob(pattern)):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


MARK = (
    '<svg class="ws-mark" viewBox="0 0 24 24" width="22" height="22" aria-hidden="true">'
    '<path d="M3 15.5 14.8 6.2a1.6 1.6 0 0 1 2-.01l3.6 2.8a1.6 1.6 0 0 1 0 2.5L9.6 20.1"'
    ' fill="none" stroke="currentColor" stroke-width="1.8" stroke-linejoin="round"'
    ' stroke-linecap="round"/><path d="M3 15.5 9.6 20.1" fill="none" stroke="currentColor"'
    ' stroke-width="3.2" stroke-linecap="round"/></svg>'
)
_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24">'
    '<rect width="24" height="24" rx="5" fill="#175e73"/>'
    '<path d="M5 14.5 14 7.4a1.3 1.3 0 0 1 1.6 0l2.8 2.2a1.3 1.3 0 0 1 0 2L10 18" fill="none"'
    ' stroke="white" stroke-width="1.6" stroke-linecap="round"/>'
    '<path d="M5 14.5 10 18" stroke="white" stroke-width="2.8" stroke-linecap="round"/></svg>'
)


def header(strings: Strings) -> str:
    """The bar above the tabs."""
    return f"""
<header class="ws-header" role="banner">
  <a class="ws-brand" href="/" aria-label="{PRODUCT}">{MARK}<span>{PRODUCT}</span></a>
  <div class="ws-header-tools">
    <button type="button" class="ws-tool" data-act="language" {strings.label("header.language")}
      ><span lang="en">en</span><span aria-hidden="true">/</span><span lang="zh">中</span></button>
    <button type="button" class="ws-tool" data-act="theme" {strings.label("header.theme")}
      ><svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true"><circle cx="8" cy="8"
      r="6.2" fill="none" stroke="currentColor" stroke-width="1.5"/><path d="M8 1.8a6.2 6.2 0 0 1 0
      12.4z" fill="currentColor"/></svg></button>
    <span class="ws-name" data-part="name" dir="auto"></span>
    <form method="post" action="/logout" data-part="sign_out" hidden>
      <button type="submit" class="ws-tool">{strings.span("header.sign_out")}</button>
    </form>
  </div>
</header>
<div id="ws-live" class="ws-visually-hidden" role="status" aria-live="polite"></div>
"""
