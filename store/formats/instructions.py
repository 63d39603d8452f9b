"""Instructions with an optional input: Alpaca, its preference form, and PandaLM's judged pairs."""

from __future__ import annotations

from store.formats.conversations import pair_of, prompt_of
from store.formats.item import (
    Format,
    Holds,
    ImportedVerdict,
    Item,
    Response,
    SourceRow,
    Thumb,
    alone,
)
from store.records import Message

_PANDALM_WINNER = {0: None, 1: 0, 2: 1}


def parse_alpaca(row: SourceRow) -> list[Item]:
    """A demonstration: its `output` was written for imitation, not for comparing."""
    prompt = prompt_of(row, "instruction", _asked(row))
    answer = row.optional("output")
    thumb = Thumb(answer, is_liked=True) if answer else None
    return [Item(prompt, row.optional("language"), row.split(), thumb=thumb)]


def parse_alpaca_pair(row: SourceRow) -> list[Item]:
    """LLaMA-Factory's ranking form of Alpaca."""
    return [pair_of(row, _asked(row), row.text("chosen"), row.text("rejected"))]


def parse_pandalm(row: SourceRow) -> list[Item]:
    """Two responses and a column per annotator: 1 or 2 won, 0 is a tie.

    `cmp_key` names both models, the first one's response first. A response may be empty.
    """
    names = (row.optional("cmp_key") or "").split("_")
    first, second = names if len(names) == 2 else (None, None)
    responses = (
        Response(row.string("response1"), first),
        Response(row.string("response2"), second),
    )
    columns = sorted(c for c in row.values if c.startswith("annotator"))
    verdicts = tuple(_verdict(row, column) for column in columns)
    prompt = prompt_of(row, "instruction", _asked(row))
    return [Item(prompt, row.optional("language"), row.split(), responses, verdicts)]


def _asked(row: SourceRow) -> list[Message]:
    parts = [part for part in (row.optional("instruction"), row.optional("input")) if part]
    messages: list[Message] = [{"role": "user", "content": "\n".join(parts)}]
    for turn in reversed(row.values.get("history") or []):
        if not (isinstance(turn, list) and [type(text) for text in turn] == [str, str]):
            raise row.refuse("history", "should be a list of pairs of texts")
        messages.insert(0, {"role": "assistant", "content": turn[1]})
        messages.insert(0, {"role": "user", "content": turn[0]})
    system = row.optional("system")
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return messages


def _verdict(row: SourceRow, column: str) -> ImportedVerdict:
    said = row.values[column]
    if str(said) not in ("0", "1", "2"):
        raise row.refuse(column, "should be 1, 2 or 0 for a tie, but is {said!r}", said=said)
    return ImportedVerdict.of(f"pandalm:{column}", _PANDALM_WINNER[int(said)])


FORMATS = (
    Format(
        "pandalm",
        "instruction, input, response1, response2, annotator1 …",
        Holds.PAIRS,
        lambda v: {"instruction", "response1", "response2", "annotator1"} <= v.keys(),
        alone(parse_pandalm),
    ),
    Format(
        "alpaca-preference",
        "instruction, input, chosen, rejected",
        Holds.PAIRS,
        lambda v: {"instruction", "chosen", "rejected"} <= v.keys(),
        alone(parse_alpaca_pair),
    ),
    Format(
        "alpaca",
        "instruction, input, output",
        Holds.THUMBS,
        lambda v: {"instruction", "output"} <= v.keys(),
        alone(parse_alpaca),
    ),
)
