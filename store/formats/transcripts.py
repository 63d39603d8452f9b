"""Transcripts in one string, as in Anthropic's hh-rlhf: `\\n\\nHuman: … \\n\\nAssistant: …`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from store.formats.conversations import messages_of, pair_of
from store.formats.item import Format, Holds, Item, SourceRow, alone
from store.records import Message

_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):[ \t]*")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def parse_transcripts(row: SourceRow) -> list[Item]:
    """Two transcripts that differ in their last reply alone.

    Neighbouring turns of one speaker are one turn, a question nobody answered is left out at the
    end, and an empty last reply is a reply: the model said nothing. Raises `BadRow` when they
    part earlier, since then they do not answer the same prompt.
    """
    chosen, rejected = _turns(row, "chosen"), _turns(row, "rejected")
    if chosen[:-1] != rejected[:-1]:
        common = sum(1 for a, b in zip(chosen, rejected, strict=False) if a == b)
        raise row.refuse(
            "rejected",
            "parts from 'chosen' before the last reply (near turn {common})",
            common=common + 1,
        )
    return [pair_of(row, chosen[:-1], chosen[-1]["content"], rejected[-1]["content"])]


def _turns(row: SourceRow, field: str) -> list[Message]:
    parts = _TURN.split(row.text(field).strip())
    if parts[0].strip():
        raise row.refuse(field, "does not begin with 'Human:'")
    spoken = [
        {"role": _ROLES[speaker], "content": text.strip()}
        for speaker, text in zip(parts[1::2], parts[2::2], strict=True)
    ]
    turns = messages_of(row, field, spoken)
    if turns and turns[-1]["role"] == "user":
        turns.pop()
    if not turns:
        raise row.refuse(field, "holds no reply of the assistant")
    return turns


def _is_transcript(values: Mapping[str, Any]) -> bool:
    return "prompt" not in values and all(
        isinstance(values.get(field), str) and _TURN.match(values[field].strip())
        for field in ("chosen", "rejected")
    )


FORMATS = (
    Format("hh-rlhf", "chosen, rejected", Holds.PAIRS, _is_transcript, alone(parse_transcripts)),
)
