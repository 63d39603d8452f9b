"""Pairs of responses that nobody has judged yet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from store.formats.conversations import messages_of, prompt_of
from store.formats.item import Format, Holds, Item, Response, SourceRow, alone

_COLUMNS = (
    ("response_a", "response_b"),
    ("response1", "response2"),
    ("completion_a", "completion_b"),
    ("answer1", "answer2"),
)


def parse_pair(row: SourceRow) -> list[Item]:
    """A prompt and two responses; `model_a` and `model_b` may name who wrote them."""
    first, second = _columns(row.values) or _COLUMNS[0]
    asked = "prompt" if row.values.get("prompt") is not None else "instruction"
    if row.values.get(asked) is None:
        raise row.refuse("prompt", "is missing")
    prompt = prompt_of(row, asked, messages_of(row, asked, row.values[asked]))
    responses = (
        Response(row.text(first), row.optional("model_a")),
        Response(row.text(second), row.optional("model_b")),
    )
    return [Item(prompt, row.optional("language"), row.split(), responses)]


def _columns(values: Mapping[str, Any]) -> tuple[str, str] | None:
    return next((both for both in _COLUMNS if both[0] in values and both[1] in values), None)


FORMATS = (
    Format(
        "pairs",
        "prompt, response_a, response_b",
        Holds.PAIRS,
        lambda v: ("prompt" in v or "instruction" in v) and _columns(v) is not None,
        alone(parse_pair),
    ),
)
