"""Conversations as lists of messages: TRL, ShareGPT, KTO, prompt-only.

Column names: TRL `docs/source/dataset_formats.md`; LLaMA-Factory `data/README.md`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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

_ROLES = {
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "system": "system",
}


def messages_of(row: SourceRow, field: str, value: Any) -> list[Message]:
    """Messages in OpenAI's (`role`, `content`) or ShareGPT's (`from`, `value`) keys.

    Neighbours of the same role become one message. Raises `BadRow`.
    """
    if isinstance(value, str):
        return [{"role": "user", "content": value}] if value.strip() else []
    if not isinstance(value, Sequence):
        raise row.refuse(field, "should be text or a list of messages")
    found: list[Message] = []
    for i, turn in enumerate(value):
        message = _message(row, f"{field}.{i}", turn)
        if found and found[-1]["role"] == message["role"]:
            joined = f"{found[-1]['content']}\n\n{message['content']}"
            found[-1] = {"role": message["role"], "content": joined}
        else:
            found.append(message)
    return found


def prompt_of(row: SourceRow, field: str, messages: Sequence[Message]) -> tuple[Message, ...]:
    """The messages as a prompt: ending with the user, nothing empty. Raises `BadRow`."""
    for i, message in enumerate(messages):
        if not message["content"].strip():
            raise row.refuse(f"{field}.{i}", "is empty")
    if not messages:
        raise row.refuse(field, "is empty")
    if messages[-1]["role"] != "user":
        raise row.refuse(field, "should end with a message of the user")
    roles = [m["role"] for m in messages]
    if "system" in roles[1:]:
        raise row.refuse(field, "has a system message that is not the first")
    if roles[roles[0] == "system"] != "user":
        raise row.refuse(field, "should begin with a message of the user")
    return tuple(messages)


def without_reply(messages: Sequence[Message]) -> Sequence[Message]:
    """The messages up to the user's last one."""
    return messages[:-1] if messages and messages[-1]["role"] == "assistant" else messages


def pair_of(row: SourceRow, prompt: Sequence[Message], chosen: str, rejected: str) -> Item:
    """A pair of which the file says which was chosen."""
    return Item(
        prompt_of(row, "prompt", prompt),
        row.optional("language"),
        row.split(),
        (Response(chosen), Response(rejected)),
        (ImportedVerdict.of("", 0, strength=_strength(row)),),
    )


def parse_trl(row: SourceRow) -> list[Item]:
    """TRL preferences: text or messages, with the prompt in its own column or as a common start."""
    prompt, chosen, rejected = (row.values.get(f) for f in ("prompt", "chosen", "rejected"))
    if isinstance(chosen, str) and isinstance(rejected, str):
        if prompt is None:
            return [_from_common_text(row, chosen, rejected)]
        asked = messages_of(row, "prompt", prompt)
        return [pair_of(row, asked, row.text("chosen"), row.text("rejected"))]
    if isinstance(chosen, str) or isinstance(rejected, str):
        raise row.refuse("rejected", "should be of the same kind as 'chosen' (text or messages)")
    asked = messages_of(row, "prompt", prompt or [])
    return [_from_messages(row, asked, _turns(row, "chosen"), _turns(row, "rejected"))]


def parse_sharegpt(row: SourceRow) -> list[Item]:
    """LLaMA-Factory's `conversations`, `chosen`, `rejected` in `from`/`value`."""
    prompt = messages_of(row, "conversations", row.values.get("conversations"))
    system = row.optional("system")
    if system is not None:
        prompt.insert(0, {"role": "system", "content": system})
    chosen, rejected = (_one_reply(row, field) for field in ("chosen", "rejected"))
    return [pair_of(row, prompt, chosen, rejected)]


def parse_kto(row: SourceRow) -> list[Item]:
    """TRL's unpaired thumbs: a completion, or the last turn of `messages`, and a label."""
    is_liked = _label(row)
    if row.values.get("prompt") is None:
        item = _prompt_item(row, "messages")
        return [item._replace(thumb=item.thumb and item.thumb._replace(is_liked=is_liked))]
    said = messages_of(row, "completion", row.values.get("completion") or "")
    item = _prompt_item(row, "prompt")
    if not said or not said[-1]["content"].strip():
        raise row.refuse("completion", "is empty")
    return [item._replace(thumb=Thumb(said[-1]["content"], is_liked))]


def parse_prompt(row: SourceRow) -> list[Item]:
    """A prompt alone; a reply at the end of `messages` is there to be imitated."""
    fields = ("prompt", "messages", "conversations")
    field = next((f for f in fields if row.values.get(f) is not None), "prompt")
    if row.values.get(field) is None:
        raise row.refuse(field, "is missing")
    return [_prompt_item(row, field)]


def _prompt_item(row: SourceRow, field: str) -> Item:
    turns = messages_of(row, field, row.values[field])
    messages = without_reply(turns)
    reply = turns[-1]["content"] if len(turns) > len(messages) else ""
    return Item(
        prompt_of(row, field, messages),
        row.optional("language"),
        row.split(),
        thumb=Thumb(reply, is_liked=True) if reply.strip() else None,
    )


def _message(row: SourceRow, field: str, turn: Any) -> Message:
    if not isinstance(turn, Mapping):
        raise row.refuse(field, "should be a message with 'role' and 'content'")
    role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
    if role not in _ROLES:
        raise row.refuse(
            field, "has the role {role!r}; known are user, assistant and system", role=role
        )
    if not isinstance(content, str):
        raise row.refuse(field, "has no text in 'content'")
    return {"role": _ROLES[role], "content": content}


def _turns(row: SourceRow, field: str) -> list[Message]:
    value = row.values.get(field)
    if value is None:
        raise row.refuse(field, "is missing")
    turns = messages_of(row, field, [value] if isinstance(value, Mapping) else value)
    if not turns or turns[-1]["role"] != "assistant":
        raise row.refuse(field, "should end with a message of the assistant")
    return turns


def _one_reply(row: SourceRow, field: str) -> str:
    if isinstance(row.values.get(field), str):
        return row.text(field)
    turns = _turns(row, field)
    if len(turns) != 1 or not turns[0]["content"].strip():
        raise row.refuse(field, "should be one message of the assistant, and not empty")
    return turns[0]["content"]


def _from_messages(
    row: SourceRow, prompt: list[Message], chosen: list[Message], rejected: list[Message]
) -> Item:
    """The last message of each is compared; what stands before it must be the same in both."""
    if chosen[:-1] != rejected[:-1]:
        raise row.refuse("rejected", "parts from 'chosen' before the last message")
    shared = chosen[:-1]
    if shared[: len(prompt)] != prompt:
        shared = [*prompt, *shared]
    for field, turns in (("chosen", chosen), ("rejected", rejected)):
        if not turns[-1]["content"].strip():
            raise row.refuse(field, "is empty")
    return pair_of(row, shared, chosen[-1]["content"], rejected[-1]["content"])


def _from_common_text(row: SourceRow, chosen: str, rejected: str) -> Item:
    """TRL's `extract_prompt`: the prompt is what both begin with, without the space before."""
    length = _common_length(chosen, rejected)
    if length and chosen[length - 1] == " ":
        length -= 1
    if not chosen[:length].strip():
        raise row.refuse("prompt", "is missing, and 'chosen' and 'rejected' begin differently")
    replies = chosen[length:], rejected[length:]
    for field, reply in zip(("chosen", "rejected"), replies, strict=True):
        if not reply.strip():
            raise row.refuse(field, "holds nothing after what both begin with")
    return pair_of(row, [{"role": "user", "content": chosen[:length]}], *replies)


def _common_length(a: str, b: str) -> int:
    pairs = enumerate(zip(a, b, strict=False))
    return next((i for i, (x, y) in pairs if x != y), min(len(a), len(b)))


def _label(row: SourceRow) -> bool:
    value = row.values.get("label")
    if value in (None, ""):
        raise row.refuse("label", "is missing")
    known = {"true": True, "false": False, "1": True, "0": False}
    if str(value).lower() not in known:
        raise row.refuse("label", "should be true or false, but is {value!r}", value=value)
    return known[str(value).lower()]


def _strength(row: SourceRow) -> int:
    value = row.values.get("strength")
    if value in (None, ""):
        return 1
    if str(value) not in ("1", "2", "3"):
        raise row.refuse("strength", "should be 1 (slightly), 2 (better) or 3 (much better)")
    return int(value)


FORMATS = (
    Format(
        "sharegpt",
        "conversations, chosen, rejected",
        Holds.PAIRS,
        lambda v: {"conversations", "chosen", "rejected"} <= v.keys(),
        alone(parse_sharegpt),
    ),
    Format(
        "trl",
        "prompt (optional), chosen, rejected",
        Holds.PAIRS,
        lambda v: {"chosen", "rejected"} <= v.keys(),
        alone(parse_trl),
    ),
    Format(
        "kto",
        "prompt, completion, label or messages, label",
        Holds.THUMBS,
        lambda v: "label" in v and ({"prompt", "completion"} <= v.keys() or "messages" in v),
        alone(parse_kto),
    ),
    Format(
        "prompts",
        "prompt or messages, optionally language, split and checks",
        Holds.SOMETIMES_THUMBS,
        lambda v: bool({"prompt", "messages", "conversations"} & v.keys()),
        alone(parse_prompt),
    ),
)
