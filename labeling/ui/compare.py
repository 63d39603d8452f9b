"""The Compare tab: its static markup. `assets/scripts/compare.js` brings it to life.

No Gradio events and no state: the judging path goes through plain routes beside Gradio.
"""

from __future__ import annotations

import gradio as gr

from labeling.project import Scale
from labeling.ui.shell import Strings, script_tag

_REASONS = ("too_long", "off_topic", "not_my_language", "need_expertise", "broken", "other")
# Which key does what is in `assets/scripts/keys.js`, which prints it on all that says `data-keys`.
_VERDICTS = {
    Scale.PLAIN: ("a", "b", "tie", "both_bad"),
    Scale.SEVEN_POINT: ("a3", "a", "a1", "tie", "b1", "b", "b3", "both_bad"),
}
_KEY = '<kbd aria-hidden="true"></kbd>'


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
    verdicts = "".join(verdict_buttons(strings, scale) for scale in Scale)
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
      >{span("guidelines.title")}{_KEY}</button>
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
          >{span("conversation.show_all")}{_KEY}</button>
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
  {_notes(strings)}
  <div class="ws-criteria" data-part="criteria" role="group" {label("criteria.label")} hidden></div>
  <div class="ws-bar">
    {_practice(strings)}
    {verdicts}
    {_submit(strings, "ranking", "not_rankable")}
    {_submit(strings, "rating")}
    <div class="ws-bar-foot">
      <span class="ws-last" data-part="last" aria-hidden="true"></span>
      <div class="ws-bar-tools">
      <button type="button" class="ws-tool" data-act="diff" aria-pressed="false"
        data-keys="page.diff" {label("diff.label")}>{span("diff.title")}{_KEY}</button>
      {_opener(strings, "rewrite")}
      {_opener(strings, "why")}
      {_opener(strings, "flag")}
      <button type="button" class="ws-tool" data-act="later" data-needs-item aria-disabled="true"
        data-keys="page.later" {label("verdict.later_label")}
        >{span("verdict.later")}{_KEY}</button>
      <button type="button" class="ws-tool" data-act="skip" data-needs-item aria-disabled="true"
        data-keys="page.skip">{span("verdict.skip")}{_KEY}</button>
      <button type="button" class="ws-tool" data-act="undo" data-keys="page.undo"
        >{span("verdict.undo")}{_KEY}</button>
      <button type="button" class="ws-tool ws-keys-button" data-act="keys" data-keys="page.keys"
        >{span("verdict.keys")}{_KEY}</button>
      </div>
    </div>
  </div>
  {skip_dialog(strings)}
  {_keys_dialog(strings)}
  {_guidelines_dialog(strings)}
  {_pace_box(strings)}
  {_rest(strings)}
  {_tour(strings)}
</section>
"""


def verdict_buttons(strings: Strings, scale: Scale) -> str:
    """The buttons of a choice between two on that scale; the style sheet shows one scale's."""
    named = "verdict" if scale is Scale.PLAIN else "scale"
    buttons = "".join(
        f'<button type="button" class="ws-verdict" data-act="{act}" data-needs-item'
        f' aria-disabled="true" data-keys="{scale}.{act}">'
        f"{strings.span(f'{named}.{act}')}{_KEY}</button>"
        for act in _VERDICTS[scale]
    )
    return (
        f'<div class="ws-verdicts" data-for-kind="pair" data-for-scale="{scale}" role="group"'
        f" {strings.label('verdict.label')}>{buttons}</div>"
    )


def _submit(strings: Strings, kind: str, *further: str) -> str:
    """What ends an item that is not a choice between two: Enter, and whatever else there is."""
    buttons = (
        '<button type="button" class="ws-verdict" data-act="submit" data-needs-item'
        ' aria-disabled="true" aria-keyshortcuts="Enter">'
        f'{strings.span(f"{kind}.submit")}<kbd aria-hidden="true">↵</kbd></button>'
    ) + "".join(
        f'<button type="button" class="ws-verdict" data-act="{act}" data-needs-item'
        f' aria-disabled="true" data-keys="list.{act}">'
        f"{strings.span(f'{kind}.{act}')}{_KEY}</button>"
        for act in further
    )
    return (
        f'<div class="ws-verdicts" data-for-kind="{kind}" role="group"'
        f" {strings.label('verdict.label')}>{buttons}</div>"
    )


def _opener(strings: Strings, name: str) -> str:
    return (
        f'<button type="button" class="ws-tool" data-act="{name}" data-needs-item'
        f' aria-disabled="true" aria-expanded="false" aria-controls="ws-notes-{name}"'
        f' data-keys="page.{name}" {strings.label(f"notes.{name}_label")}>'
        f"{strings.span(f'notes.{name}')}{_KEY}</button>"
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


def _notes(strings: Strings) -> str:
    span, label = strings.span, strings.label
    return f"""
<div class="ws-notes" data-part="notes" hidden>
  <section id="ws-notes-why" data-part="why_panel" {label("notes.why_label")} hidden>
    <div class="ws-chips" data-part="why_reasons" role="group" {label("why.reasons")}></div>
    <textarea data-part="why_text" rows="3" maxlength="5000" dir="auto"
      {label("why.text")}></textarea>
  </section>
  <section id="ws-notes-flag" data-part="flag_panel" {label("notes.flag_label")} hidden>
    <p class="ws-quiet">{span("flag.hint")}</p>
    <div class="ws-flags" data-part="flag_rows"></div>
  </section>
  <section id="ws-notes-rewrite" data-part="rewrite_panel" {label("notes.rewrite_label")} hidden>
    <div class="ws-chips">
      <div class="ws-chips" data-part="rewrite_from" role="group" {label("rewrite.source")}></div>
      <button type="button" class="ws-small" data-part="rewrite_drop" data-act="drop_rewrite"
        hidden>{span("rewrite.drop")}</button>
    </div>
    <div class="ws-rewrite" data-part="rewrite_edit" hidden>
      <textarea data-part="rewrite_text" rows="6" maxlength="50000" dir="auto"
        {label("rewrite.text")}></textarea>
      <div class="ws-rewrite-diff" data-part="rewrite_diff" dir="auto" tabindex="0" role="group"
        {label("rewrite.diff")} hidden></div>
    </div>
  </section>
  <div class="ws-notes-foot">
    <span class="ws-quiet">{span("notes.hint")}</span>
    <button type="button" class="ws-small" data-act="close_notes">{span("notes.done")}<kbd
      aria-hidden="true">Esc</kbd></button>
  </div>
</div>"""


def _response(strings: Strings, place: int) -> str:
    letter = "ab"[place]
    span, label = strings.span, strings.label
    return f"""
<section class="ws-response" aria-labelledby="ws-response-{letter}">
  <div class="ws-response-head">
    <h2 id="ws-response-{letter}">{span(f"response.{letter}")}</h2>
    <button type="button" class="ws-small" data-act="copy_{place}" data-needs-item
      aria-disabled="true" {label(f"response.copy_{letter}")}>{span("response.copy")}</button>
    <button type="button" class="ws-small" data-act="raw" aria-pressed="false"
      data-keys="page.raw" {label("response.raw_label")}
      >{span("response.raw")}{_KEY}</button>
  </div>
  <div class="ws-response-body" tabindex="0" role="group" aria-labelledby="ws-response-{letter}"
    ></div>
  <div class="ws-response-foot"></div>
</section>"""


def skip_dialog(strings: Strings, name: str = "ws-skip") -> str:
    """Asks why something cannot be judged; `name` begins its ids."""
    span = strings.span
    reasons = "".join(
        f'<button type="button" class="ws-choice" data-reason="{reason}"'
        f' aria-keyshortcuts="{n}"><kbd aria-hidden="true">{n}</kbd>{span(f"skip.{reason}")}'
        "</button>"
        for n, reason in enumerate(_REASONS, start=1)
    )
    return f"""
<dialog class="ws-dialog" data-part="skip" aria-labelledby="{name}-title">
  <h2 id="{name}-title">{span("skip.title")}</h2>
  <p class="ws-quiet">{span("skip.hint")}</p>
  <div class="ws-choices">{reasons}</div>
  <form data-part="skip_form" hidden>
    <label for="{name}-text">{span("skip.other_label")}</label>
    <input id="{name}-text" data-part="skip_text" type="text" maxlength="500" autocomplete="off"
      dir="auto">
    <button type="submit" class="ws-primary">{span("skip.send")}<kbd aria-hidden="true">↵</kbd
      ></button>
  </form>
  <button type="button" class="ws-tool" data-act="close">{span("skip.cancel")}<kbd
    aria-hidden="true">Esc</kbd></button>
</dialog>"""


def _keys_dialog(strings: Strings) -> str:
    span = strings.span
    verdicts = "".join(
        _key_row(strings, f"{scale}.{act}", f"verdict.{act}", scale)
        for scale in Scale
        for act in _VERDICTS[scale]
    )
    ranking = "".join(
        (
            _fixed_row(strings, "keys.move", 'data-shift-key-list="page.down page.up"'),
            _fixed_row(strings, "keys.put", "", "1", "…", "9"),
            _key_row(strings, "list.rank_tie", "ranking.tie"),
            _key_row(strings, "list.rank_out", "ranking.out"),
            _fixed_row(strings, "ranking.submit", "", "↵"),
            _key_row(strings, "list.not_rankable", "ranking.not_rankable"),
        )
    )
    rows = (
        ("rewrite", "notes.rewrite_label"),
        ("why", "notes.why_label"),
        ("flag", "notes.flag_label"),
        ("criteria", "keys.criteria"),
        ("later", "verdict.later_label"),
        ("skip", "verdict.skip"),
        ("undo", "verdict.undo"),
        ("down", "keys.down"),
        ("up", "keys.up"),
        ("page_down", "keys.page_down"),
        ("page_up", "keys.page_up"),
        ("expand", "keys.expand"),
        ("raw", "keys.raw"),
        ("diff", "keys.diff"),
        ("guidelines", "guidelines.title"),
        ("keys", "keys.help"),
    )
    lines = "".join(_key_row(strings, f"page.{act}", what) for act, what in rows)
    return f"""
<dialog class="ws-dialog ws-keys-dialog" data-part="keys" aria-labelledby="ws-keys-title">
  <h2 id="ws-keys-title">{span("keys.title")}</h2>
  <p class="ws-quiet">{span("keys.note")}</p>
  <dl class="ws-keys" data-for-kind="pair">{verdicts}</dl>
  <dl class="ws-keys" data-for-kind="ranking">{ranking}</dl>
  <dl class="ws-keys">{lines}</dl>
  <div class="ws-keys-foot">
    <p role="status" data-part="keys_said"></p>
    <button type="button" class="ws-tool" data-act="tour">{span("tour.show")}</button>
    <button type="button" class="ws-tool" data-part="keys_reset" hidden
      >{span("keys.reset")}</button>
    <button type="button" class="ws-tool" data-act="close">{span("keys.close")}<kbd
      aria-hidden="true">Esc</kbd></button>
  </div>
</dialog>"""


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


def _key_row(strings: Strings, action: str, what: str, scale: Scale | None = None) -> str:
    """An action with its keys, the first of which can be changed."""
    condition = f' data-for-scale="{scale}"' if scale else ""
    return (
        f'<div{condition}><dt data-key-list="{action}"></dt><dd>{strings.span(what)}'
        f'<button type="button" class="ws-small" data-rebind="{action}" aria-pressed="false"'
        f">{strings.span('keys.change')}</button></dd></div>"
    )


def _fixed_row(strings: Strings, what: str, filled: str, *keys: str) -> str:
    """Keys that stay as they are, or follow those of other actions."""
    printed = "".join(f"<kbd>{key}</kbd>" for key in keys)
    return f"<div><dt {filled}>{printed}</dt><dd>{strings.span(what)}</dd></div>"
