"""The Compare tab: its static markup. `assets/scripts/compare.js` brings it to life.

No Gradio events and no state: the judging path goes through plain routes beside Gradio.
"""

from __future__ import annotations

import gradio as gr

from labeling.project import Scale
from labeling.ui import judging
from labeling.ui.judging import KEY
from labeling.ui.shell import Strings, script_tag

_IDS = "ws"


def render() -> None:
    """Draw the tab."""
    gr.HTML(
        html_template=markup(Strings("en")),
        js_on_load="window.Whetstone.compare.mount(element)",
        head=script_tag(),
        apply_default_css=False,
        elem_id="ws-compare",
    )


def markup(strings: Strings) -> str:
    """The page before its script runs: readable, and of the shape that it will keep."""
    span, label = strings.span, strings.label
    verdicts = "".join(judging.verdict_buttons(strings, scale) for scale in Scale)
    return f"""
<section class="ws-compare" data-state="loading" data-unsent="0" data-scale="{Scale.PLAIN}"
  data-kind="pair" data-count="2" {label("tab.compare")}>
  <div class="ws-strip">
    <h1 class="ws-project" data-part="project" dir="auto"></h1>
    <progress class="ws-progress" data-part="bar" max="1" value="0" {label("progress.label")}
      ></progress>
    <span class="ws-count" data-part="count"></span>
    <button type="button" class="ws-small ws-guidelines" data-part="guidelines_button"
      data-act="guidelines" data-keys="page.guidelines" hidden
      >{span("guidelines.title")}{KEY}</button>
    <span class="ws-strip-gap"></span>
    {_figures(strings)}
    <span class="ws-status" data-part="status" data-state="saved"><i aria-hidden="true"></i
      ><span data-part="status_text">{strings.text("status.saved")}</span></span>
  </div>
  <div class="ws-banner ws-bad" role="alert" data-part="signed_out" hidden>
    <span data-part="signed_out_text"></span>
    <a href="/login">{span("banner.sign_in")}</a>
  </div>
  <div class="ws-banner ws-bad" role="alert" data-part="aside" hidden>
    <span data-part="aside_text" dir="auto"></span>
    <button type="button" class="ws-small" data-act="retry_aside">{span("banner.retry")}</button>
    <button type="button" class="ws-small" data-act="forget_aside">{span("banner.dismiss")}</button>
  </div>
  <div class="ws-banner" role="alert" data-part="memory_only" hidden
    >{span("status.memory_only")}</div>
  <div class="ws-banner" data-part="others" hidden></div>
  <div class="ws-banner" role="status" data-part="correcting" hidden>
    <span>{span("correct.banner")}</span>
    <button type="button" class="ws-small" data-act="keep" aria-keyshortcuts="Escape"
      >{span("correct.keep")}<kbd aria-hidden="true">Esc</kbd></button>
  </div>
  <div class="ws-stage">
    <section class="ws-conversation" data-part="conversation" {label("conversation.label")}>
      <div class="ws-conversation-text" data-part="conversation_text" tabindex="0"
        role="group" {label("conversation.label")}>
        <div data-part="messages"></div>
      </div>
      <div class="ws-conversation-foot">
        <span class="ws-quiet" data-part="turns"></span>
        <button type="button" class="ws-small" data-part="expand" data-act="expand"
          aria-expanded="false" data-keys="page.expand" hidden
          >{span("conversation.show_all")}{KEY}</button>
      </div>
    </section>
    <div class="ws-columns" data-part="columns">
      {_response(strings, 0)}
      {_response(strings, 1)}
      <ol class="ws-list" data-part="list" {label("ranking.list")} hidden></ol>
      <div class="ws-notice" data-part="notice">
        <h2 data-part="notice_title">{strings.text("waiting.title")}</h2>
        <p data-part="notice_body" dir="auto">{strings.text("waiting.loading")}</p>
      </div>
    </div>
  </div>
  {judging.notes(strings, ids=_IDS)}
  {judging.criteria(strings)}
  <div class="ws-bar">
    {_practice(strings)}
    {verdicts}
    {_submit(strings, "ranking", "not_rankable")}
    {_submit(strings, "rating")}
    <div class="ws-bar-foot">
      <span class="ws-last" data-part="last" aria-hidden="true"></span>
      <div class="ws-bar-tools">
      {judging.diff_button(strings)}
      {judging.opener(strings, "rewrite", ids=_IDS)}
      {judging.opener(strings, "why", ids=_IDS)}
      {judging.opener(strings, "flag", ids=_IDS)}
      <button type="button" class="ws-tool" data-act="later" data-needs-item aria-disabled="true"
        data-keys="page.later" {label("verdict.later_label")}
        >{span("verdict.later")}{KEY}</button>
      <button type="button" class="ws-tool" data-act="skip" data-needs-item aria-disabled="true"
        data-keys="page.skip">{span("verdict.skip")}{KEY}</button>
      <button type="button" class="ws-tool" data-act="undo" data-keys="page.undo"
        >{span("verdict.undo")}{KEY}</button>
      {judging.keys_button(strings)}
      </div>
    </div>
  </div>
  {judging.skip_dialog(strings, ids=_IDS)}
  {_keys_dialog(strings)}
  {_guidelines_dialog(strings)}
  {_pace_box(strings)}
  {_rest(strings)}
  {_tour(strings)}
</section>
"""


def _submit(strings: Strings, kind: str, *further: str) -> str:
    """What ends an item that is not a choice between two: Enter, and whatever else there is."""
    buttons = (
        '<button type="button" class="ws-verdict" data-act="submit" data-needs-item'
        ' aria-disabled="true" aria-keyshortcuts="Enter">'
        f'{strings.span(f"{kind}.submit")}<kbd aria-hidden="true">↵</kbd></button>'
    ) + "".join(
        f'<button type="button" class="ws-verdict" data-act="{act}" data-needs-item'
        f' aria-disabled="true" data-keys="list.{act}">'
        f"{strings.span(f'{kind}.{act}')}{KEY}</button>"
        for act in further
    )
    return (
        f'<div class="ws-verdicts" data-for-kind="{kind}" role="group"'
        f" {strings.label('verdict.label')}>{buttons}</div>"
    )


def _figures(strings: Strings) -> str:
    """One's own numbers, which open to say more."""
    return f"""
<progress class="ws-progress ws-own-bar" data-part="own_bar" max="1" value="0"
  {strings.label("pace.own_bar")} hidden></progress>
<button type="button" class="ws-small ws-figures" data-part="figures" popovertarget="ws-pace"
  hidden><span class="ws-figure" data-part="today"></span><span class="ws-figure-short"
  data-part="today_short"></span><span class="ws-figure ws-pace" data-part="pace"></span
  ><span class="ws-figure ws-pace" data-part="rate"></span><span class="ws-figure ws-pace"
  data-part="streak"></span></button>"""


def _pace_box(strings: Strings) -> str:
    """The numbers in full. A popover: it closes by itself, and keys go on to judge."""
    span = strings.span
    rows = "".join(
        f'<div><dt>{span(f"pace.{name}")}</dt><dd data-part="pace_{name}"></dd></div>'
        for name in ("today", "each", "sitting", "rate", "streak", "all")
    )
    return f"""
<div class="ws-popover" id="ws-pace" data-part="pace_box" popover role="dialog"
  aria-labelledby="ws-pace-title">
  <h2 id="ws-pace-title">{span("pace.title")}</h2>
  <dl>{rows}</dl>
  <label class="ws-goal">{span("pace.goal")}<input data-part="goal" type="number" min="0"
    max="5000" inputmode="numeric" placeholder="–"></label>
  <p class="ws-quiet">{span("pace.only_you")}</p>
  <button type="button" class="ws-small" data-act="tour">{span("tour.show")}</button>
</div>"""


def _rest(strings: Strings) -> str:
    span = strings.span
    return f"""
<div class="ws-rest" data-part="rest" hidden>
  <span>{span("rest.hint")}</span>
  <button type="button" class="ws-small" data-act="rested">{span("rest.dismiss")}</button>
</div>"""


def _practice(strings: Strings) -> str:
    """Which practice item this is; after the verdict, what was expected and why."""
    return f"""
<section class="ws-practice" data-part="practice" data-outcome="open"
  aria-labelledby="ws-practice-number" hidden>
  <div class="ws-practice-head">
    <h2 class="ws-chip" id="ws-practice-number" data-part="practice_number"></h2>
    <strong data-part="practice_title"></strong>
    <button type="button" class="ws-tool" data-part="practice_next" data-act="practice_next"
      aria-keyshortcuts="Enter" hidden>{strings.span("practice.next")}<kbd aria-hidden="true"
      >↵</kbd></button>
  </div>
  <div class="ws-prose" data-part="practice_text" dir="auto" hidden></div>
</section>"""


def _tour(strings: Strings) -> str:
    span = strings.span
    return f"""
<div class="ws-tour" data-part="tour" role="dialog" aria-labelledby="ws-tour-title"
  aria-describedby="ws-tour-text" hidden>
  <h2 id="ws-tour-title" data-part="tour_title"></h2>
  <p id="ws-tour-text" data-part="tour_text" aria-live="polite"></p>
  <div class="ws-tour-foot">
    <span class="ws-quiet" data-part="tour_count"></span>
    <button type="button" class="ws-tool" data-act="tour_end" aria-keyshortcuts="Escape"
      >{span("tour.end")}<kbd aria-hidden="true">Esc</kbd></button>
    <button type="button" class="ws-primary" data-act="tour_next" aria-keyshortcuts="Enter"
      >{span("tour.next")}<kbd aria-hidden="true">↵</kbd></button>
  </div>
</div>"""


def _response(strings: Strings, place: int) -> str:
    named = f'aria-labelledby="{_IDS}-response-{"ab"[place]}"'
    return f"""
<section class="ws-response" {named}>
  {judging.response_head(strings, place, ids=_IDS)}
  <div class="ws-response-body" tabindex="0" role="group" {named}></div>
  <div class="ws-response-foot"></div>
</section>"""


def _keys_dialog(strings: Strings) -> str:
    ranking = (
        judging.fixed_row(strings, "keys.move", filled='data-shift-key-list="page.down page.up"'),
        judging.fixed_row(strings, "keys.put", "1", "…", "9"),
        judging.key_row(strings, "list.rank_tie", "ranking.tie"),
        judging.key_row(strings, "list.rank_out", "ranking.out"),
        judging.fixed_row(strings, "ranking.submit", "↵"),
        judging.key_row(strings, "list.not_rankable", "ranking.not_rankable"),
    )
    page = judging.page_keys(
        strings,
        *("rewrite", "why", "flag", "criteria", "later", "skip", "undo"),
        *("down", "up", "page_down", "page_up", "expand", "raw", "diff", "guidelines", "keys"),
    )
    return judging.keys_dialog(
        strings,
        judging.verdict_keys(strings),
        judging.key_list(ranking, condition='data-for-kind="ranking"'),
        judging.key_list(page),
        ids=_IDS,
        further=(
            '<button type="button" class="ws-tool" data-act="tour">'
            f"{strings.span('tour.show')}</button>"
        ),
    )


def _guidelines_dialog(strings: Strings) -> str:
    span = strings.span
    return f"""
<dialog class="ws-dialog ws-drawer" data-part="guidelines" aria-labelledby="ws-guidelines-title">
  <div class="ws-drawer-head">
    <h2 id="ws-guidelines-title">{span("guidelines.title")}</h2>
    <span class="ws-quiet" data-part="guidelines_version"></span>
    <button type="button" class="ws-tool" data-act="close">{span("keys.close")}<kbd
      aria-hidden="true">Esc</kbd></button>
  </div>
  <div class="ws-prose" data-part="guidelines_text" dir="auto" tabindex="0" role="document"
    aria-labelledby="ws-guidelines-title"></div>
</dialog>"""
