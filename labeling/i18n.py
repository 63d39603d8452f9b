"""The language of the person who asks, and everything that the server says in it.

How a new tab or message becomes bilingual:

1. Write English in the code: `t("Import a file")`, `plural("{n} row", "{n} rows", n)` in what is
   drawn for a person; plain labels on Gradio components and in `actions.static` areas, which the
   browser translates (`assets/scripts/words.js`); `BadInput("There is no run {id}.", id=id)` in
   services, which never know a language, and `Message` where a text is kept for later.
2. Put the Chinese for that very English into `assets/locales/zh.server.json`, with the same
   places; `English|context` where one English word needs two Chinese ones.
3. Draw with `actions.on_open`, so that a switch of the language draws the tab anew; handlers made
   by `guarded` and `acted` speak the person's language already.
4. What people wrote is shown by `html.written`, in a language of its own.
5. Strings of the browser's scripts have keys, in `en.json` and `zh.json`.
   `tests/unit/test_i18n.py` fails on whatever is missing, unused or of other places.

The choice lives in a cookie that the header's switch sets; without it the browser's wish counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Protocol, runtime_checkable

LOCALES = Path(__file__).resolve().parents[1] / "assets" / "locales"
LANGUAGE_COOKIE = "whetstone.language"


class Language(StrEnum):
    """A language that pages can be in."""

    EN = "en"
    ZH = "zh"

    @property
    def tag(self) -> str:
        """For `lang` attributes."""
        return "zh-Hans" if self is Language.ZH else "en"


@runtime_checkable
class Told(Protocol):
    """An English sentence with the values of its places; errors and `Message`s are."""

    @property
    def template(self) -> str: ...
    @property
    def values(self) -> Mapping[str, object]: ...


_current: ContextVar[Language] = ContextVar("language", default=Language.EN)


def language() -> Language:
    """The language that is spoken now; English unless somebody asked for another."""
    return _current.get()


def language_of(cookies: Mapping[str, str], headers: Mapping[str, str]) -> Language:
    """What the person chose, else the first language that the browser asks for, if we have it."""
    chosen = cookies.get(LANGUAGE_COOKIE)
    if chosen in set(Language):
        return Language(chosen)
    asked = headers.get("accept-language", "").strip().lower()
    return Language.ZH if asked.startswith("zh") else Language.EN


@contextmanager
def speaking(chosen: Language) -> Iterator[None]:
    """Whatever is said within is said in that language."""
    before = _current.set(chosen)
    try:
        yield
    finally:
        _current.reset(before)


def t(english: str, /, **values: object) -> str:
    """A sentence in the language spoken now. What stands behind a `|` tells equal English apart."""
    return _filled(_translated(english), values)


def mark(english: str) -> str:
    """A sentence that `t` says later; it stands where the sentence is written."""
    return english


def plural(one: str, many: str, n: int, /, **values: object) -> str:
    """A counted sentence; `{n}` is the number. Chinese has one form, looked up under `many`."""
    english = one if n == 1 and language() is Language.EN else many
    return t(english, n=n, **values)


def say(told: Told) -> str:
    """An error or a message in the language spoken now, with the messages inside it."""
    return _filled(_translated(told.template), told.values)


def number(value: int) -> str:
    """1,200"""
    return f"{value:,}"


def percent(share: float, *, digits: int = 0) -> str:
    """A share of one: 45 % in English, 45% in Chinese."""
    space = "" if language() is Language.ZH else " "
    return f"{100 * share:.{digits}f}{space}%"


def duration(seconds: float) -> str:
    """Seconds as people say them: 8 s, 2 min 5 s, 1 h 4 min."""
    if seconds < 10:
        return t("{n} s", n=f"{max(seconds, 0.0):.1f}")
    whole = round(seconds)
    if whole < 60:
        return t("{n} s", n=whole)
    if whole < 3600:
        return t("{minutes} min {seconds} s", minutes=whole // 60, seconds=whole % 60)
    return t("{hours} h {minutes} min", hours=whole // 3600, minutes=whole % 3600 // 60)


def ago(moment: datetime, now: datetime) -> str:
    """How long ago, or the day when that is more than a day."""
    passed = now - moment
    if passed < timedelta(seconds=45):
        return t("just now")
    if passed < timedelta(hours=1):
        return t("{n} min ago", n=max(1, round(passed.total_seconds() / 60)))
    if passed < timedelta(days=1):
        return t("{n} h ago", n=round(passed.total_seconds() / 3600))
    if language() is Language.ZH:
        return f"{moment.year}年{moment.month}月{moment.day}日"
    return f"{moment:%d %b %Y}"


def listed(parts: Sequence[str]) -> str:
    """Names one after the other."""
    return ("、" if language() is Language.ZH else ", ").join(parts)


@cache
def read(name: str) -> dict[str, str]:
    """A locale file, by its name without `.json`."""
    found: dict[str, str] = json.loads((LOCALES / f"{name}.json").read_text(encoding="utf-8"))
    return found


def _translated(english: str) -> str:
    if language() is Language.ZH:
        found = read("zh.server").get(english)
        if found is not None:
            return found
    return english.partition("|")[0]


def _filled(sentence: str, values: Mapping[str, object]) -> str:
    if not values:
        return sentence
    return sentence.format(**{name: _shown(value) for name, value in values.items()})


def _shown(value: object) -> object:
    if isinstance(value, Told):
        return say(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return _Counted(value)
    return value


class _Counted(int):
    """A number that is written with its thousands apart, unless its place says how."""

    def __format__(self, spec: str) -> str:
        return super().__format__(spec or ",")
