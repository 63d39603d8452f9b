"""A row as it stands in a file, and the items that a format makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from store.errors import BadRow
from store.records import Message, Split, Verdict

_SPLITS = {
    "train": Split.TRAIN,
    "training": Split.TRAIN,
    "held_out": Split.HELD_OUT,
    "heldout": Split.HELD_OUT,
    "held-out": Split.HELD_OUT,
    "test": Split.HELD_OUT,
    "validation": Split.HELD_OUT,
    "eval": Split.HELD_OUT,
}


@dataclass(frozen=True)
class SourceRow:
    """One row of a file; `line` counts from 1 (rows of a Parquet file, which has no lines)."""

    file: str
    line: int
    values: Mapping[str, Any]

    def refuse(self, field: str, problem: str, /, **values: object) -> BadRow:
        """The error that names this row; `values` fill the places of `problem`."""
        return BadRow(self.file, self.line, field, problem, **values)

    def string(self, field: str) -> str:
        """The field's text, which may be empty. Raises `BadRow` when it is missing or no text."""
        value = self.values.get(field)
        if value is None:
            raise self.refuse(field, "is missing")
        if not isinstance(value, str):
            raise self.refuse(
                field, "should be text, but is {described}", described=_described(value)
            )
        return value

    def text(self, field: str) -> str:
        """The field's text, which must hold more than white space. Raises `BadRow`."""
        value = self.string(field)
        if not value.strip():
            raise self.refuse(field, "is empty")
        return value

    def optional(self, field: str) -> str | None:
        """The field's text; None when it is missing or blank. Raises `BadRow` for a non-text."""
        if self.values.get(field) is None:
            return None
        value = self.string(field)
        return value if value.strip() else None

    def split(self) -> Split | None:
        """What the row's own `split` column says, if it says anything. Raises `BadRow`."""
        name = self.optional("split")
        if name is None:
            return None
        if name.strip().lower() not in _SPLITS:
            raise self.refuse("split", "{name!r} is neither 'train' nor 'held_out'", name=name)
        return _SPLITS[name.strip().lower()]


class Response(NamedTuple):
    """A text to compare, and the model that the file names as its writer."""

    text: str
    author: str | None = None


class Thumb(NamedTuple):
    """A single response that a file calls good or bad; what is shown for imitation is good."""

    text: str
    is_liked: bool


class ImportedVerdict(NamedTuple):
    """What one annotator of the file said of an item's two responses (0 and 1).

    `annotator` is empty when the file names none. `displayed` is the order that the annotator
    saw; None when the file does not tell.
    """

    annotator: str
    verdict: Verdict
    preferred: int | None = None
    strength: int | None = None
    displayed: tuple[int, int] | None = None

    @classmethod
    def of(
        cls,
        annotator: str,
        preferred: int | None,
        *,
        strength: int = 1,
        displayed: tuple[int, int] | None = None,
    ) -> ImportedVerdict:
        """Response number `preferred` wins; None is a tie."""
        if preferred is None:
            return cls(annotator, Verdict.TIE, displayed=displayed)
        return cls(annotator, Verdict.PREFERRED, preferred, strength, displayed)


class Item(NamedTuple):
    """A prompt and, unless it stands alone, two responses with what was said of them, or one.

    `language` and `split` are None when the file leaves them to us.
    """

    messages: tuple[Message, ...]
    language: str | None = None
    split: Split | None = None
    responses: tuple[Response, Response] | None = None
    verdicts: tuple[ImportedVerdict, ...] = ()
    thumb: Thumb | None = None


Parser = Callable[[SourceRow], list[Item]]


class Holds(StrEnum):
    """What rows of a format hold beside prompts."""

    PAIRS = "pairs"
    THUMBS = "thumbs"
    SOMETIMES_THUMBS = "sometimes thumbs"


class Format(NamedTuple):
    """A named shape of rows. `parser` is given the file, for what may lie beside it."""

    name: str
    columns: str
    holds: Holds
    matches: Callable[[Mapping[str, Any]], bool]
    parser: Callable[[Path], Parser]


def alone(parse: Parser) -> Callable[[Path], Parser]:
    """For formats that need nothing but the row."""
    return lambda _path: parse


def _described(value: object) -> str:
    shown = json.dumps(value, ensure_ascii=False, default=repr)
    return f"{shown[:40]}{'…' if len(shown) > 40 else ''}"
