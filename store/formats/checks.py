"""The column `checks` of any format: instructions whose following a program can look at.

A list of objects with `kind` and, but for JSON, `value`: `max_words` a number, `contains` a text,
`json` nothing, `language` `en` or `zh`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from store.checks import Check, Checks
from store.formats.item import SourceRow

FIELD = "checks"
KINDS = "max_words, contains, json, language"


def checks_of(row: SourceRow) -> Checks:
    """The row's checks; none where it has no such column. Raises `BadRow`."""
    value = row.values.get(FIELD)
    if value in (None, ""):
        return ()
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise row.refuse(FIELD, "should be a list of objects with 'kind' and 'value'")
    return tuple(_check(row, f"{FIELD}.{place}", told) for place, told in enumerate(value))


def _check(row: SourceRow, field: str, told: Any) -> Check:
    if not isinstance(told, Mapping):
        raise row.refuse(field, "should be an object with 'kind' and 'value'")
    kind, value = told.get("kind"), told.get("value")
    match kind:
        case "max_words":
            return Check(kind, _count(row, field, value))
        case "contains":
            if not isinstance(value, str) or not value.strip():
                raise row.refuse(field, "contains needs a text as its value")
            return Check(kind, value)
        case "json":
            if value not in (None, ""):
                raise row.refuse(field, "json takes no value")
            return Check(kind)
        case "language":
            if value not in ("en", "zh"):
                raise row.refuse(field, "language needs 'en' or 'zh' as its value")
            return Check(kind, value)
    raise row.refuse(field, "has the kind {kind!r}; known are {kinds}", kind=kind, kinds=KINDS)


def _count(row: SourceRow, field: str, value: Any) -> int:
    """Columns of one type, as Parquet has them, hold numbers as text beside texts."""
    number = int(value) if isinstance(value, str) and value.isdecimal() else value
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise row.refuse(field, "max_words needs a whole number above 0 as its value")
    return number
