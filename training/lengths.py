"""How many tokens conversations have, and whether a model could learn to end its turn from them.

Takes the tokenizer alone, no weights; importing this imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from training.loading import PromptRejected, end_of_turn_id, load_tokenizer, render_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = Sequence[Mapping[str, Any]]


class TokenCounts(NamedTuple):
    """Tokens of each sequence, a prompt with a completion, and of its completion alone."""

    sequences: list[int]
    completions: list[int]


class TokenCounter:
    """Counts as the trainer will: with the model's own tokenizer and chat template."""

    def __init__(self, source: str | Path) -> None:
        """Raises `ModelLoadError`."""
        self._tokenizer = load_tokenizer(source)

    @property
    def ends_turns(self) -> bool:
        """Whether the chat template writes a token that ends an assistant's turn."""
        return ends_turns(self._tokenizer)

    def count(self, rows: Iterable[tuple[Messages, Sequence[str]]]) -> TokenCounts:
        """Of each row's prompt with each of its completions; alone where it has none.

        A prompt that the template refuses is passed over, as the trainer refuses it too.
        """
        counts = TokenCounts([], [])
        for prompt, completions in rows:
            try:
                asked = len(render_prompt(self._tokenizer, prompt))
            except PromptRejected:
                continue
            written = [self._tokens_of(text) for text in completions] or [0]
            counts.sequences.extend(asked + tokens for tokens in written)
            counts.completions.extend(written)
        return counts

    def _tokens_of(self, text: str) -> int:
        return len(self._tokenizer(text, add_special_tokens=False)["input_ids"]) + 1


def ends_turns(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether an assistant's turn, as the chat template renders it, holds a token that ends it.

    Where none is rendered, none is trained on, and a policy learns never to stop: its loss falls,
    and its responses run on. What counts is that the token is there; each recipe takes its loss on
    the whole completion, so the marks of the template (TRL's `is_chat_template_stop_token_trained`)
    have no say here.
    """
    turns = [{"role": "user", "content": "-"}, {"role": "assistant", "content": "probe"}]
    ids: list[int] = tokenizer.apply_chat_template(turns, return_dict=False)
    asked = render_prompt(tokenizer, turns[:1])
    ends = {end_of_turn_id(tokenizer), tokenizer.eos_token_id} - {None}
    return not ends.isdisjoint(ids[len(asked) :])
