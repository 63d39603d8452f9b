"""Areas of our own HTML on a Gradio page, whose buttons are events: no redraw of the whole page.

A button (`html.button`) names what it does and to which thing; `assets/scripts/leads.js` asks first
where the button says so, and sends both. The handler is made by `guard.acted`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from labeling.ui.html import EMPTY, Html
from labeling.ui.shell import asset_url


def script_tag() -> str:
    """Loads the script of the areas; it stands in the page's head, to be there from the start."""
    return f'<script src="{asset_url("scripts/leads.js")}"></script>'


def area(elem_id: str, value: Html = EMPTY) -> gr.HTML:
    """A place for our HTML; its copy buttons work by themselves."""
    return gr.HTML(
        value,
        js_on_load="window.WhetstoneLeads.mount(element, trigger)",
        apply_default_css=False,
        elem_id=elem_id,
        elem_classes="wsl-area",
    )


def static(elem_id: str, value: Html) -> gr.HTML:
    """English that is the same for everybody; the browser shows it in the person's language."""
    return gr.HTML(
        value,
        js_on_load="window.WhetstoneLeads.mountStatic(element, trigger)",
        apply_default_css=False,
        elem_id=elem_id,
        elem_classes="wsl-area wsl-static",
    )


def on_open(
    head: gr.HTML,
    handler: Callable[..., Any],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    *,
    redrawn: Callable[..., Any] | None = None,
) -> gr.events.Dependency:
    """Call `handler` when the tab of `head`, a static area, comes to the front.

    Also, or `redrawn` then, when the person switches the language while it is there.
    """
    shared: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    head.click(redrawn or handler, list(inputs), list(outputs), **shared)
    opened: gr.events.Dependency = head.parent.select(
        handler, list(inputs), list(outputs), **shared
    )
    return opened


def on_action(
    place: gr.HTML,
    handler: Callable[..., Any],
    inputs: Sequence[Any],
    outputs: Sequence[Any],
) -> None:
    """Call `handler` when a button of `place` was pressed, then free its buttons again.

    Presses are answered in turn. By itself Gradio drops one that comes while the answer to the last
    is still on its way, which it also is for a moment after the page has shown it.
    """
    place.click(
        handler,
        list(inputs),
        list(outputs),
        trigger_mode="multiple",
        show_progress="hidden",
        api_visibility="private",
    ).then(None, js="() => window.WhetstoneLeads.settle()")
