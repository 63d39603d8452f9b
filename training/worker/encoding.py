"""Conversations as the token ids that a policy reads and writes, the same for every recipe.

A completion ends with the token that ends a turn, so that a policy learns to stop and a reward
model sees that it did; what a template writes after it is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from training.loading import end_of_turn_id, render_prompt, stop_token_ids

Message = Mapping[str, str]

IGNORED = -100  # a label that the loss passes over, by torch's convention


class Encoded(NamedTuple):
    """Token ids of a prompt, up to where the assistant's turn begins, and of its completion.

    `earlier` are places in the prompt where the assistant speaks, if those are learned too.
    """

    prompt_ids: list[int]
    completion_ids: list[int]
    earlier: Sequence[range] = ()

    @property
    def ids(self) -> list[int]:
        """Both, as a model reads them."""
        return self.prompt_ids + self.completion_ids

    @property
    def labels(self) -> list[int]:
        """The same ids where something is learned, `IGNORED` elsewhere."""
        labels = [IGNORED] * len(self.prompt_ids) + self.completion_ids
        for turn in self.earlier:
            labels[turn.start : turn.stop] = self.prompt_ids[turn.start : turn.stop]
        return labels


class Encoder:
    """Encodes prompts and completions with one tokenizer and its chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
        self._tokenizer = tokenizer
        self._stop_ids = stop_token_ids(tokenizer, model)
        ends = (end_of_turn_id(tokenizer), tokenizer.eos_token_id, *self._stop_ids)
        self._end = [next(id for id in ends if id is not None)] if self._stop_ids else []

    def encode(self, prompt: Sequence[Message], completion: Sequence[Message]) -> Encoded:
        """The completion as the chat template renders it behind the prompt.

        Some templates render a turn differently once it is over; then its text is taken as it is,
        with the token that ends a turn behind it.
        """
        prompt_ids = render_prompt(self._tokenizer, prompt)
        whole: list[int] = self._tokenizer.apply_chat_template(
            [*prompt, *completion], return_dict=False
        )
        if whole[: len(prompt_ids)] == prompt_ids:
            return Encoded(prompt_ids, self._up_to_stop(whole[len(prompt_ids) :]))
        text = completion[-1]["content"]
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return Encoded(prompt_ids, [*ids, *self._end])

    def encode_all_turns(self, prompt: Sequence[Message], completion: Sequence[Message]) -> Encoded:
        """The same, with what the assistant answered earlier, each time up to the end of its turn.

        A turn that the template renders differently once it is over is passed over.
        """
        whole = self.encode(prompt, completion)
        turns = []
        for place, (asked, answered) in enumerate(pairwise(prompt), start=1):
            if (asked["role"], answered["role"]) == ("user", "assistant"):
                turn = self.encode(prompt[:place], [answered])
                if whole.prompt_ids[: len(turn.ids)] == turn.ids:
                    turns.append(range(len(turn.prompt_ids), len(turn.ids)))
        return whole._replace(earlier=turns)

    def _up_to_stop(self, ids: Sequence[int]) -> list[int]:
        ends = [at for at, token in enumerate(ids) if token in self._stop_ids]
        return list(ids[: ends[0] + 1]) if ends else [*ids, *self._end]
