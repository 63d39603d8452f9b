"""The My work tab: what one has at hand, has begun and has judged. Thin; the script fills it."""

from __future__ import annotations

import gradio as gr

from labeling.ui.shell import Strings, script_tag


def render() -> None:
    """Draw the tab."""
    gr.HTML(
        html_template=markup(Strings("en")),
        js_on_load="window.Whetstone.myWork.mount(element)",
        head=script_tag(),
        apply_default_css=False,
        elem_id="ws-my-work",
    )


def markup(strings: Strings) -> str:
    """The frame of the list."""
    span = strings.span
    return f"""
<section class="ws-work" aria-labelledby="ws-work-title">
  <div class="ws-work-title">
    <h2 id="ws-work-title">{span("work.title")}</h2>
    <div class="ws-work-views" role="group" {strings.label("work.views")}>
      {_view(strings, "submitted")}{_view(strings, "drafts")}{_view(strings, "pending")}
    </div>
    <span class="ws-work-gap"></span>
    <button type="button" class="ws-tool" data-act="refresh">{span("work.refresh")}</button>
  </div>
  <p class="ws-quiet">{span("work.hint")}</p>
  <p class="ws-quiet" data-part="note" role="status"></p>
  <ol class="ws-work-list" data-part="list"></ol>
</section>
"""


def _view(strings: Strings, name: str) -> str:
    return (
        f'<button type="button" class="ws-tool" data-view="{name}" aria-pressed="false">'
        f'{strings.span(f"work.{name}")}<span class="ws-count" data-part="count"></span></button>'
    )
