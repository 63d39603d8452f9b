"""What the pages on which people judge have in common: markup for the scripts that share it.

`ids` begins the ids of a page's elements, which are the page's alone.
"""

from __future__ import annotations

from collections.abc import Iterable

from labeling.project import Scale
from labeling.ui.shell import Strings

# Which key does what is in `assets/scripts/keys.js`, which prints it on all that says `data-keys`.
KEY = '<kbd aria-hidden="true"></kbd>'
_REASONS = ("too_long", "off_topic", "not_my_language", "need_expertise", "broken", "other")
_VERDICTS = {
    Scale.PLAIN: ("a", "b", "tie", "both_bad"),
    Scale.SEVEN_POINT: ("a3", "a", "a1", "tie", "b1", "b", "b3", "both_bad"),
}
_ACTIONS = {
    "rewrite": "notes.rewrite_label",
    "why": "notes.why_label",
    "flag": "notes.flag_label",
    "criteria": "keys.criteria",
    "later": "verdict.later_label",
    "skip": "verdict.skip",
    "undo": "verdict.undo",
    "down": "keys.down",
    "up": "keys.up",
    "page_down": "keys.page_down",
    "page_up": "keys.page_up",
    "expand": "keys.expand",
    "raw": "keys.raw",
    "diff": "keys.diff",
    "guidelines": "guidelines.title",
    "keys": "keys.help",
}


def verdict_buttons(strings: Strings, scale: Scale) -> str:
    """The buttons of a choice between two on that scale; the style sheet shows one scale's."""
    named = "verdict" if scale is Scale.PLAIN else "scale"
    buttons = "".join(
        f'<button type="button" class="ws-verdict" data-act="{act}" data-needs-item'
        f' aria-disabled="true" data-keys="{scale}.{act}">'
        f"{strings.span(f'{named}.{act}')}{KEY}</button>"
        for act in _VERDICTS[scale]
    )
    return (
        f'<div class="ws-verdicts" data-for-kind="pair" data-for-scale="{scale}" role="group"'
        f" {strings.label('verdict.label')}>{buttons}</div>"
    )


def response_head(strings: Strings, place: int, *, ids: str) -> str:
    """Which response it is, with what can be done with its text."""
    letter = "ab"[place]
    span, label = strings.span, strings.label
    return f"""
<div class="ws-response-head">
  <h2 id="{ids}-response-{letter}">{span(f"response.{letter}")}</h2>
  <button type="button" class="ws-small" data-act="copy_{place}" data-needs-item
    aria-disabled="true" {label(f"response.copy_{letter}")}>{span("response.copy")}</button>
  <button type="button" class="ws-small" data-act="raw" aria-pressed="false"
    data-keys="page.raw" {label("response.raw_label")}
    >{span("response.raw")}{KEY}</button>
</div>"""


def diff_button(strings: Strings) -> str:
    """Marks the words in which two responses differ, until it is pressed again."""
    return (
        '<button type="button" class="ws-tool" data-act="diff" aria-pressed="false"'
        f' data-keys="page.diff" {strings.label("diff.label")}>{strings.span("diff.title")}{KEY}'
        "</button>"
    )


def keys_button(strings: Strings) -> str:
    """Opens the list of keys."""
    return (
        '<button type="button" class="ws-tool ws-keys-button" data-act="keys"'
        f' data-keys="page.keys">{strings.span("verdict.keys")}{KEY}</button>'
    )


def criteria(strings: Strings) -> str:
    """Where the project's criteria are answered; drawn for each item."""
    return (
        '<div class="ws-criteria" data-part="criteria" role="group"'
        f" {strings.label('criteria.label')} hidden></div>"
    )


def opener(strings: Strings, name: str, *, ids: str) -> str:
    """The button that opens a panel of `notes`."""
    return (
        f'<button type="button" class="ws-tool" data-act="{name}" data-needs-item'
        f' aria-disabled="true" aria-expanded="false" aria-controls="{ids}-notes-{name}"'
        f' data-keys="page.{name}" {strings.label(f"notes.{name}_label")}>'
        f"{strings.span(f'notes.{name}')}{KEY}</button>"
    )


def notes(strings: Strings, *, ids: str) -> str:
    """What is said beside a verdict: why, flags, a rewrite; a panel for each."""
    span, label = strings.span, strings.label
    return f"""
<div class="ws-notes" data-part="notes" hidden>
  <section id="{ids}-notes-why" data-part="why_panel" {label("notes.why_label")} hidden>
    <div class="ws-chips" data-part="why_reasons" role="group" {label("why.reasons")}></div>
    <textarea data-part="why_text" rows="3" maxlength="5000" dir="auto"
      {label("why.text")}></textarea>
  </section>
  <section id="{ids}-notes-flag" data-part="flag_panel" {label("notes.flag_label")} hidden>
    <p class="ws-quiet">{span("flag.hint")}</p>
    <div class="ws-flags" data-part="flag_rows"></div>
  </section>
  <section id="{ids}-notes-rewrite" data-part="rewrite_panel" {label("notes.rewrite_label")} hidden>
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


def skip_dialog(strings: Strings, *, ids: str) -> str:
    """Asks why something cannot be judged."""
    span = strings.span
    reasons = "".join(
        f'<button type="button" class="ws-choice" data-reason="{reason}"'
        f' aria-keyshortcuts="{n}"><kbd aria-hidden="true">{n}</kbd>{span(f"skip.{reason}")}'
        "</button>"
        for n, reason in enumerate(_REASONS, start=1)
    )
    return f"""
<dialog class="ws-dialog" data-part="skip" aria-labelledby="{ids}-skip-title">
  <h2 id="{ids}-skip-title">{span("skip.title")}</h2>
  <p class="ws-quiet">{span("skip.hint")}</p>
  <div class="ws-choices">{reasons}</div>
  <form data-part="skip_form" hidden>
    <label for="{ids}-skip-text">{span("skip.other_label")}</label>
    <input id="{ids}-skip-text" data-part="skip_text" type="text" maxlength="500" autocomplete="off"
      dir="auto">
    <button type="submit" class="ws-primary">{span("skip.send")}<kbd aria-hidden="true">↵</kbd
      ></button>
  </form>
  <button type="button" class="ws-tool" data-act="close">{span("skip.cancel")}<kbd
    aria-hidden="true">Esc</kbd></button>
</dialog>"""


def keys_dialog(strings: Strings, *lists: str, ids: str, further: str = "") -> str:
    """The list of keys, in which they can be changed; `further` are buttons below it."""
    span = strings.span
    return f"""
<dialog class="ws-dialog ws-keys-dialog" data-part="keys" aria-labelledby="{ids}-keys-title">
  <h2 id="{ids}-keys-title">{span("keys.title")}</h2>
  <p class="ws-quiet">{span("keys.note")}</p>
  {"".join(lists)}
  <div class="ws-keys-foot">
    <p role="status" data-part="keys_said"></p>
    {further}
    <button type="button" class="ws-tool" data-part="keys_reset" hidden
      >{span("keys.reset")}</button>
    <button type="button" class="ws-tool" data-act="close">{span("keys.close")}<kbd
      aria-hidden="true">Esc</kbd></button>
  </div>
</dialog>"""


def key_list(rows: Iterable[str], *, condition: str = "") -> str:
    """Rows of keys that belong together, and the attribute that says when they are shown."""
    return f'<dl class="ws-keys" {condition}>{"".join(rows)}</dl>'


def verdict_keys(strings: Strings) -> str:
    """The keys of a choice between two, on whichever scale there is."""
    rows = (
        key_row(strings, f"{scale}.{act}", f"verdict.{act}", scale)
        for scale in Scale
        for act in _VERDICTS[scale]
    )
    return key_list(rows, condition='data-for-kind="pair"')


def page_keys(strings: Strings, *actions: str) -> list[str]:
    """A row for each of a page's actions."""
    return [key_row(strings, f"page.{act}", _ACTIONS[act]) for act in actions]


def key_row(strings: Strings, action: str, what: str, scale: Scale | None = None) -> str:
    """An action with its keys, the first of which can be changed."""
    condition = f' data-for-scale="{scale}"' if scale else ""
    return (
        f'<div{condition}><dt data-key-list="{action}"></dt><dd>{strings.span(what)}'
        f'<button type="button" class="ws-small" data-rebind="{action}" aria-pressed="false"'
        f">{strings.span('keys.change')}</button></dd></div>"
    )


def fixed_row(strings: Strings, what: str, *keys: str, filled: str = "") -> str:
    """Keys that stay as they are or, with what the page fills in, follow those of other actions."""
    printed = "".join(f"<kbd>{key}</kbd>" for key in keys)
    return f"<div><dt {filled}>{printed}</dt><dd>{strings.span(what)}</dd></div>"
