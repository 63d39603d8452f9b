"""Following one completion while it is written, and ending it early.

Knows token ids and text; nothing of batches, versions or threads but that two of them meet here.
Importing this imports no torch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# What a decoder puts where bytes are no whole character.
_REPLACEMENT = "\ufffd"


class Stream:
    """One completion in the making: fed by the thread that generates, read by any other.

    `on_change` is called by the generating thread after each piece, so it must return at once.
    Setting `stop` ends this completion at its next token; its neighbours in the batch go on.
    """

    def __init__(self, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self.stop = threading.Event()
        self.text = ""

    def begin(self) -> None:
        """It is written from the start; a batch without memory is tried again, for one."""
        self.text = ""

    def add(self, piece: str) -> None:
        """More text."""
        if piece:
            self.text += piece
            self._on_change()


class TextPieces:
    """Turns token ids, one at a time, into text that never ends inside a character.

    A character may take several tokens, and a token's text depends on those before it. So each
    piece is what one more token adds to the text of the last few, held back while it is torn.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._context = 0  # ids from here on are decoded again, for the ones behind `_told`
        self._told = 0  # ids before this one are in the pieces

    def add(self, token_id: int) -> str:
        """The text that is whole now and was not before; often a word, sometimes nothing."""
        self._ids.append(token_id)
        before = self._text(self._ids[self._context : self._told])
        now = self._text(self._ids[self._context :])
        if len(now) <= len(before) or now.endswith(_REPLACEMENT):
            return ""
        self._context, self._told = self._told, len(self._ids)
        return now[len(before) :]

    def _text(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text
