"""Prompts to train on, as the token ids that the model is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from training.loading import PromptRejected, render_prompt


class Prompt(NamedTuple):
    """A conversation that waits for the assistant, and its token ids."""

    messages: Sequence[Mapping[str, Any]]
    ids: Sequence[int]


def render(
    conversations: Sequence[Sequence[Mapping[str, Any]]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_tokens: int | None,
) -> list[Prompt | None]:
    """Each conversation, without its oldest turns where it is long; None where it cannot be cut."""
    return [_render(messages, tokenizer, max_tokens) for messages in conversations]


def _render(
    messages: Sequence[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int | None,
) -> Prompt | None:
    try:
        return Prompt(messages, render_prompt(tokenizer, messages, max_tokens=max_tokens))
    except PromptRejected:
        return None
