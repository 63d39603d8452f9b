"""Open-Assistant conversation trees: every ranked pair of sibling replies is a preference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any

from store.formats.conversations import prompt_of
from store.formats.item import Format, Holds, ImportedVerdict, Item, Response, SourceRow, alone
from store.records import Message


def parse_tree(row: SourceRow) -> list[Item]:
    """Each message of a prompter is a prompt; of two ranked replies the lower rank is better.

    Deleted messages, those that reviewers turned down and all below them are left out.
    """
    field = "prompt" if "prompt" in row.values else ""
    root = row.values["prompt"] if field else row.values
    if not isinstance(root, Mapping) or root.get("role") != "prompter":
        raise row.refuse(field, "should be a message of a prompter with its replies")
    return list(_items(row, root, (), field))


def _items(
    row: SourceRow, node: Mapping[str, Any], before: tuple[Message, ...], field: str
) -> Iterator[Item]:
    path = (*before, _message(row, node, field))
    replies = _kept_replies(row, node, field)
    if node["role"] == "prompter":
        yield from _pairs(row, node, prompt_of(row, field, path), replies)
    for place, reply in replies:
        yield from _items(row, reply, path, place)


def _pairs(
    row: SourceRow,
    node: Mapping[str, Any],
    prompt: tuple[Message, ...],
    replies: list[tuple[str, Mapping[str, Any]]],
) -> Iterator[Item]:
    language = node.get("lang")
    yield Item(prompt, language)
    ranked = [(place, reply) for place, reply in replies if isinstance(reply.get("rank"), int)]
    ranked.sort(key=lambda found: found[1]["rank"])
    for (place, better), (other, worse) in combinations(ranked, 2):
        if better["rank"] == worse["rank"]:
            continue
        responses = (_response(row, better, place), _response(row, worse, other))
        if responses[0].text.strip() == responses[1].text.strip():
            continue
        yield Item(prompt, language, None, responses, (ImportedVerdict.of("", 0),))


def _kept_replies(
    row: SourceRow, node: Mapping[str, Any], field: str
) -> list[tuple[str, Mapping[str, Any]]]:
    replies = node.get("replies") or []
    if not isinstance(replies, list) or not all(isinstance(r, Mapping) for r in replies):
        raise row.refuse(f"{field}.replies".lstrip("."), "should be a list of messages")
    return [
        (f"{field}.replies.{i}".lstrip("."), reply)
        for i, reply in enumerate(replies)
        if not reply.get("deleted") and reply.get("review_result") is not False
    ]


def _message(row: SourceRow, node: Mapping[str, Any], field: str) -> Message:
    role = {"prompter": "user", "assistant": "assistant"}.get(str(node.get("role")))
    if role is None:
        raise row.refuse(
            f"{field}.role".lstrip("."), "{role!r} is no known role", role=node.get("role")
        )
    text = node.get("text")
    if not isinstance(text, str) or not text.strip():
        raise row.refuse(f"{field}.text".lstrip("."), "is empty")
    return {"role": role, "content": text}


def _response(row: SourceRow, node: Mapping[str, Any], field: str) -> Response:
    return Response(_message(row, node, field)["content"], node.get("model_name"))


def _is_tree(values: Mapping[str, Any]) -> bool:
    root = values.get("prompt", values)
    return isinstance(root, Mapping) and "replies" in root and "role" in root and "text" in root


FORMATS = (
    Format(
        "oasst",
        "prompt with replies and their ranks, or message with replies",
        Holds.PAIRS,
        _is_tree,
        alone(parse_tree),
    ),
)
