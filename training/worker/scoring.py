"""Reward models: a base model with a scalar head, and scores of token ids.

A score is read at a row's last token, which is the one that ends a turn; no padding may be taken
for it, so padding is an id that ends no turn.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from peft import PeftModel
from torch import Tensor
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    set_seed,
)

from training import loading
from training.worker.failures import ModelUnusable

SCALE_FILE = "scores.json"
FIRST, SECOND = "default", "second"
TOKENS_PER_BATCH = 8192


class Score(Protocol):
    """What a reward model that is in memory says of completions."""

    def __call__(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
    ) -> Sequence[float]:
        """Standardised scores, one a row, from the token ids. Raises `ModelUnusable`."""


class RewardModel(NamedTuple):
    """A trained reward model. `mean` and `sd` are those of its scores on held-out responses.

    `adapter` is its name, where several share a base.
    """

    model: Any
    pad_id: int
    mean: float
    sd: float
    adapter: str | None = None

    def score(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
    ) -> list[float]:
        """Standardised scores of completions to prompts, one a row, from their token ids."""
        if self.adapter is not None:
            self.model.set_adapter(self.adapter)
        rows = [[*p, *c] for p, c in zip(prompts, completions, strict=True)]
        return [(s - self.mean) / self.sd for s in score(self.model, rows, self.pad_id)]


def load_reward_model(
    base_model: str, adapter: str, tokenizer: PreTrainedTokenizerBase
) -> RewardModel:
    """What a reward run left, on the base that it was trained on. Raises `ModelUnusable`."""
    base = load_classifier(base_model, tokenizer, seed=0)
    with _readable(adapter):
        model = PeftModel.from_pretrained(base, adapter, adapter_name=FIRST).eval()
        return _scaled(model, base.config.pad_token_id, adapter, FIRST)


def load_second(first: RewardModel, adapter: str) -> RewardModel:
    """Another reward model, on the same base as the first. Raises `ModelUnusable`."""
    with _readable(adapter):
        first.model.load_adapter(adapter, adapter_name=SECOND)
        first.model.eval()
        return _scaled(first.model, first.pad_id, adapter, SECOND)


def _scaled(model: Any, pad_id: int, folder: str, adapter: str) -> RewardModel:
    scale = json.loads((Path(folder) / SCALE_FILE).read_text(encoding="utf-8"))
    return RewardModel(model, pad_id, scale["mean"] or 0.0, scale["sd"] or 1.0, adapter)


@contextmanager
def _readable(folder: str) -> Iterator[None]:
    """Inside, what is wrong with the files of an adapter becomes `ModelUnusable`."""
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelUnusable(
            "{folder} cannot be loaded: {error}", folder=folder, error=error
        ) from error


def load_classifier(
    base_model: str, tokenizer: PreTrainedTokenizerBase, *, seed: int
) -> PreTrainedModel:
    """The base with a fresh head of one output. Raises `ModelUnusable`."""
    on_gpu = torch.cuda.is_available()
    set_seed(seed)
    try:
        model = AutoModelForSequenceClassification.from_pretrained(
            base_model, num_labels=1, dtype=torch.bfloat16 if on_gpu else torch.float32
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelUnusable(
            "{base_model} cannot be loaded: {error}", base_model=base_model, error=error
        ) from error
    model.config.get_text_config().pad_token_id = padding_id(tokenizer, model)
    return model.to("cuda" if on_gpu else "cpu").eval()


def padding_id(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> int:
    """A token id that ends no turn."""
    stop_ids = loading.stop_token_ids(tokenizer, model)
    own = tokenizer.pad_token_id
    if own is not None and own not in stop_ids:
        return int(own)
    return next(id for id in range(len(stop_ids) + 1) if id not in stop_ids)


@torch.no_grad()
def score(model: Any, rows: Sequence[Sequence[int]], pad_id: int) -> list[float]:
    """One score a row, in the rows' order."""
    found: dict[int, float] = {}
    order = sorted(range(len(rows)), key=lambda n: len(rows[n]))
    while order:
        longest = len(rows[order[-1]])
        size = max(1, TOKENS_PER_BATCH // max(1, longest))
        batch, order = order[-size:], order[:-size]
        ids, attention = right_padded([rows[n] for n in batch], pad_id)
        inputs = {"input_ids": ids.to(model.device), "attention_mask": attention.to(model.device)}
        scores = model(**inputs, use_cache=False).logits.squeeze(-1).float()
        found.update(zip(batch, scores.tolist(), strict=True))
    return [found[n] for n in range(len(rows))]


def right_padded(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask, both (rows, longest row)."""
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), pad_id)
    attention = torch.zeros_like(ids)
    for at, row in enumerate(rows):
        ids[at, : len(row)] = torch.tensor(row)
        attention[at, : len(row)] = 1
    return ids, attention
