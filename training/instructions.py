"""Instructions whose following a program can check: at most so many words, JSON, a language.

A test prompt may carry some as `checks`, each with its `kind` and, but for JSON, its `value`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple, Self

# A Chinese character counts as a word: there are no blanks between words.
_WORD = re.compile(r"[\u4e00-\u9fff]|[^\W\u4e00-\u9fff]+")
_CHINESE = re.compile(r"[\u4e00-\u9fff]")
_FENCE = re.compile(r"\A```\w*\n(.*?)\n?```\Z", re.DOTALL)


class CheckKind(StrEnum):
    """What is asked of a response.

    MAX_WORDS  at most `value` words
    CONTAINS   the text `value`, whatever its capitals
    JSON       JSON and nothing else, but for a code fence around it
    LANGUAGE   `value` is `zh`: more Chinese characters than other words, or `en`: not so
    """

    MAX_WORDS = "max_words"
    CONTAINS = "contains"
    JSON = "json"
    LANGUAGE = "language"


class Check(NamedTuple):
    """One instruction of a prompt."""

    kind: CheckKind
    value: str | int = ""

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Raises `ValueError` saying what would do."""
        kind, value = CheckKind(str(values.get("kind"))), values.get("value", "")
        if kind is CheckKind.MAX_WORDS and not (isinstance(value, int) and value > 0):
            raise ValueError("max_words needs a whole number above 0")
        if kind is CheckKind.CONTAINS and not value:
            raise ValueError("contains needs a text")
        if kind is CheckKind.LANGUAGE and value not in ("en", "zh"):
            raise ValueError("language needs en or zh")
        return cls(kind, value)

    def holds(self, text: str) -> bool:
        """Whether a response does what was asked."""
        match self.kind:
            case CheckKind.MAX_WORDS:
                return len(_WORD.findall(text)) <= int(self.value)
            case CheckKind.CONTAINS:
                return str(self.value).casefold() in text.casefold()
            case CheckKind.JSON:
                return _is_json(text)
            case CheckKind.LANGUAGE:
                return _is_chinese(text) == (self.value == "zh")


def _is_json(text: str) -> bool:
    fenced = _FENCE.match(text.strip())
    try:
        json.loads(fenced.group(1) if fenced else text)
    except ValueError:
        return False
    return True


def _is_chinese(text: str) -> bool:
    """More Chinese characters than other words."""
    return 2 * len(_CHINESE.findall(text)) > len(_WORD.findall(text))
