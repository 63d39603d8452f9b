"""The Arena tab: its static markup. `assets/scripts/arena.js` brings it to life.

No Gradio events and no state, as on the Compare tab. Verdicts, and what is said beside them, are
the same there and here.
"""

from __future__ import annotations

import gradio as gr

from labeling.project import Scale
from labeling.ui import judging
from labeling.ui.judging import KEY
from labeling.ui.shell import Strings, script_tag

_IDS = "ws-arena"
_EXAMPLES = ("one", "two", "three")
MAX_MESSAGE = 20_000


def render() -> None:
    """Draw the tab."""
    gr.HTML(
        html_template=markup(Strings("en")),
        js_on_load="window.Whetstone.arena.mount(element)",
        head=script_tag(),
        apply_default_css=False,
        elem_id="ws-arena",
    )


def markup(strings: Strings) -> str:
    """The page before it is known who is here: a frame without a conversation."""
    span, label = strings.span, strings.label
    verdicts = "".join(judging.verdict_buttons(strings, scale) for scale in Scale)
    return f"""
<section class="ws-compare ws-arena" data-state="loading" data-scale="{Scale.PLAIN}"
  data-kind="pair" data-count="2" {label("tab.arena")}>
  <div class="ws-strip">
    <h1 class="ws-visually-hidden">{span("tab.arena")}</h1>
    {_tool(strings, "new")}
    {_tool(strings, "list")}
    <span class="ws-strip-gap"></span>
    {judging.keys_button(strings)}
    <span class="ws-status" data-part="status" data-state="saved"><i aria-hidden="true"></i
      ><span data-part="status_text">{strings.text("status.saved")}</span></span>
  </div>
  <div class="ws-arena-scroll" data-part="scroll" tabindex="0" role="group"
    {label("conversation.label")}>
    <div class="ws-arena-inner">
      {_empty(strings)}
      <div class="ws-arena-messages" data-part="messages"></div>
      <div class="ws-columns" data-part="columns" hidden>
        {_response(strings, 0)}
        {_response(strings, 1)}
      </div>
    </div>
  </div>
  <div class="ws-arena-note" data-part="note" hidden>
    <span data-part="note_text" dir="auto"></span>
    <button type="button" class="ws-small" data-act="undo" data-part="undo" hidden
      data-keys="page.undo">{span("verdict.undo")}{KEY}</button>
  </div>
  {judging.notes(strings, ids=_IDS)}
  {judging.criteria(strings)}
  <div class="ws-bar" data-part="bar" hidden>
    {verdicts}
    <div class="ws-bar-foot">
      <span class="ws-last" data-part="hint"></span>
      <div class="ws-bar-tools">
      {_stop(strings)}
      {_tool(strings, "again")}
      {judging.diff_button(strings)}
      {judging.opener(strings, "rewrite", ids=_IDS)}
      {judging.opener(strings, "why", ids=_IDS)}
      {judging.opener(strings, "flag", ids=_IDS)}
      <button type="button" class="ws-tool" data-act="skip" data-needs-item aria-disabled="true"
        data-keys="page.skip">{span("verdict.skip")}{KEY}</button>
      </div>
    </div>
  </div>
  <div class="ws-bar ws-arena-ask" data-part="ask" role="group" {label("arena.ask")} hidden>
    <p>{span("arena.ask")}</p>
    <div class="ws-arena-choices">
      {_choice(strings, "go_on_0", "arena.go_on_a", "1")}
      {_choice(strings, "go_on_1", "arena.go_on_b", "2")}
      <button type="button" class="ws-verdict" data-act="again" data-keys="arena.again"
        >{span("arena.try_again")}{KEY}</button>
    </div>
  </div>
  <form class="ws-composer" data-part="composer" hidden>
    <textarea data-part="text" rows="1" maxlength="{MAX_MESSAGE}" dir="auto" enterkeyhint="send"
      placeholder="{strings.text("arena.placeholder")}" data-t-placeholder="arena.placeholder"
      {label("arena.message")}></textarea>
    <button type="submit" class="ws-send" data-part="send" {label("arena.send")}
      ><span data-t="arena.send">{strings.text("arena.send")}</span><kbd aria-hidden="true">↵</kbd
      ></button>
  </form>
  {judging.skip_dialog(strings, ids=_IDS)}
  {_keys_dialog(strings)}
  {_list_dialog(strings)}
</section>
"""


def _empty(strings: Strings) -> str:
    examples = "".join(
        f'<button type="button" class="ws-example" data-example="{name}" dir="auto">'
        f"{strings.span(f'arena.example_{name}')}</button>"
        for name in _EXAMPLES
    )
    return f"""
<div class="ws-arena-empty" data-part="empty" hidden>
  <h2>{strings.span("arena.empty_title")}</h2>
  <p>{strings.span("arena.empty_body")}</p>
  <div class="ws-examples" role="group" {strings.label("arena.examples")}>{examples}</div>
</div>"""


def _response(strings: Strings, place: int) -> str:
    return f"""
<section class="ws-response" aria-labelledby="{_IDS}-response-{"ab"[place]}">
  {judging.response_head(strings, place, ids=_IDS)}
  <div class="ws-arena-body"></div>
</section>"""


def _tool(strings: Strings, act: str) -> str:
    return (
        f'<button type="button" class="ws-tool" data-act="{act}" data-keys="arena.{act}">'
        f"{strings.span(f'arena.{act}')}{KEY}</button>"
    )


def _stop(strings: Strings) -> str:
    return (
        '<button type="button" class="ws-tool" data-act="stop" aria-keyshortcuts="Escape">'
        f'{strings.span("arena.stop")}<kbd aria-hidden="true">Esc</kbd></button>'
    )


def _choice(strings: Strings, act: str, text: str, key: str) -> str:
    return (
        f'<button type="button" class="ws-verdict" data-act="{act}" aria-keyshortcuts="{key}">'
        f'{strings.span(text)}<kbd aria-hidden="true">{key}</kbd></button>'
    )


def _keys_dialog(strings: Strings) -> str:
    page = judging.page_keys(
        strings,
        *("rewrite", "why", "flag", "criteria", "skip", "undo"),
        *("down", "up", "page_down", "page_up", "raw", "diff", "keys"),
    )
    own = (
        judging.key_row(strings, "arena.again", "arena.again"),
        judging.fixed_row(strings, "arena.stop", "Esc"),
        judging.key_row(strings, "arena.new", "arena.new"),
        judging.key_row(strings, "arena.list", "arena.list"),
        judging.key_row(strings, "arena.message", "arena.message"),
    )
    lists = (judging.verdict_keys(strings), judging.key_list(own), judging.key_list(page))
    return judging.keys_dialog(strings, *lists, ids=_IDS)


def _list_dialog(strings: Strings) -> str:
    span = strings.span
    return f"""
<dialog class="ws-dialog ws-drawer" data-part="list" aria-labelledby="ws-arena-list-title">
  <div class="ws-drawer-head">
    <h2 id="ws-arena-list-title">{span("arena.list")}</h2>
    <button type="button" class="ws-tool" data-act="close">{span("keys.close")}<kbd
      aria-hidden="true">Esc</kbd></button>
  </div>
  <p class="ws-quiet" data-part="list_note" role="status"></p>
  <ol class="ws-arena-list" data-part="list_items"></ol>
</dialog>"""
