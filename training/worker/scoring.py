"""Reward models: a base model, tuned in any way, with a scalar head; and scores of token ids.

The head says a number of each token of a row, and the score is what it says of the completion's
last token, which is the one that ends a turn, or the mean of what it says of the completion's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel, set_seed

from training.loading import context_length
from training.methods.reward import Pooling
from training.tuning import LOW_RANK, holds_whole_model, tuning_of
from training.worker.failures import ModelUnusable

SCALE_FILE = "scores.json"
PADDING = 0  # any id: what is padding is told by the attention mask
HEAD = "score"  # what the library calls it
FIRST, SECOND = "default", "second"
TOKENS_PER_BATCH = 8192


class Score(Protocol):
    """What a reward model that is in memory says of completions."""

    def __call__(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
    ) -> Sequence[float]:
        """Standardised scores, one a row, from the token ids. Raises `ModelUnusable`."""


class Scale(NamedTuple):
    """How a trained reward model's scores are read, and their mean and standard deviation on
    held-out responses."""

    mean: float
    sd: float
    pooling: Pooling

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Of a reward run's adapter. Raises `OSError`, `ValueError`, `KeyError`."""
        told = json.loads((folder / SCALE_FILE).read_text(encoding="utf-8"))
        # The first reward runs read the last token, and did not say so.
        pooling = Pooling(told.get("pooling", Pooling.LAST))
        return cls(told["mean"] or 0.0, told["sd"] or 1.0, pooling)

    @staticmethod
    def write(folder: Path, mean: float | None, sd: float | None, pooling: Pooling) -> None:
        """Beside an adapter; nothing is known of scores where no response was held out."""
        told = {"mean": mean, "sd": sd, "pooling": pooling.value}
        (folder / SCALE_FILE).write_text(json.dumps(told), encoding="utf-8")


class RewardModel(NamedTuple):
    """A trained reward model; `adapter` is its name on the base, which several may share, and
    None for one that was tuned in full."""

    model: Any
    scale: Scale
    adapter: str | None

    def score(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
    ) -> list[float]:
        """Standardised scores of completions to prompts, one a row, from their token ids.

        Of a row that is longer than the model reads, the beginning is left out: virtual tokens
        leave less room than the policy has.
        """
        if self.adapter is not None:
            self.model.set_adapter(self.adapter)
        context = context_length(self.model)
        if context is not None:
            ends = [_last(context, *row) for row in zip(prompts, completions, strict=True)]
            prompts, completions = [p for p, _ in ends], [c for _, c in ends]
        mean, sd, pooling = self.scale
        return [(s - mean) / sd for s in score(self.model, prompts, completions, pooling)]


def _last(
    count: int, prompt: Sequence[int], completion: Sequence[int]
) -> tuple[Sequence[int], Sequence[int]]:
    """The same row without its first tokens, where it has more than `count`."""
    kept = completion[-count:]
    return prompt[max(0, len(prompt) + len(kept) - count) :], kept


def load_reward_model(base_model: str, folder: str) -> RewardModel:
    """What a reward run left, on the base that it was trained on. Raises `ModelUnusable`."""
    with _readable(folder):
        scale = Scale.read(Path(folder))
        if holds_whole_model(Path(folder)):
            return RewardModel(_read_classifier(folder), scale, None)
        base = load_classifier(base_model, seed=0)
        model = PeftModel.from_pretrained(base, folder, adapter_name=FIRST).eval()
        return RewardModel(model, scale, FIRST)


def load_second(first: RewardModel, base_model: str, folder: str) -> RewardModel:
    """Another reward model, on the first one's base where it can be. Raises `ModelUnusable`."""
    with _readable(folder):
        # Virtual tokens cannot stand beside an adapter of another kind.
        if first.adapter is None or tuning_of(Path(folder)) not in LOW_RANK:
            return load_reward_model(base_model, folder)
        first.model.load_adapter(folder, adapter_name=SECOND)
        first.model.eval()
        return RewardModel(first.model, Scale.read(Path(folder)), SECOND)


@contextmanager
def _readable(folder: str) -> Iterator[None]:
    """Inside, what is wrong with the files of an adapter becomes `ModelUnusable`."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise  # a RuntimeError too, and not the files'
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelUnusable(
            "{folder} cannot be loaded: {error}", folder=folder, error=error
        ) from error


def load_classifier(base_model: str, *, seed: int, quantization: Any = None) -> PreTrainedModel:
    """The base with a fresh head of one output. Raises `ModelUnusable`.

    `quantization` is a config of transformers for weights of fewer bits.
    """
    set_seed(seed)
    with _readable(base_model):
        return _read_classifier(base_model, is_headless=True, quantization=quantization)


def _read_classifier(
    folder: str, *, is_headless: bool = False, quantization: Any = None
) -> PreTrainedModel:
    """On this machine's device, in evaluation mode; `is_headless` lets the head be drawn.

    Raises what the library does, and `ValueError` for other weights that are missing.
    """
    on_gpu = torch.cuda.is_available()
    more = {} if quantization is None else {"quantization_config": quantization}
    model, found = AutoModelForSequenceClassification.from_pretrained(
        folder,
        num_labels=1,
        dtype=torch.bfloat16 if on_gpu else torch.float32,
        output_loading_info=True,
        **more,
    )
    drawn = {f"{HEAD}.weight"} if is_headless else set()
    if missing := set(found["missing_keys"]) - drawn:
        raise ValueError(f"{len(missing)} weights are missing ({min(missing)})")
    model.config.get_text_config().pad_token_id = PADDING  # which the library insists on
    head_of(model).float()  # its steps are smaller than bfloat16 can tell
    # The quantising library has placed the weights already, and refuses to have them moved.
    return (model if more else model.to("cuda" if on_gpu else "cpu")).eval()


@torch.no_grad()
def score(
    model: Any,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    pooling: Pooling,
) -> list[float]:
    """One score a row, in the rows' order."""
    found: dict[int, float] = {}
    lengths = [len(p) + len(c) for p, c in zip(prompts, completions, strict=True)]
    order = sorted(range(len(lengths)), key=lambda n: lengths[n])
    while order:
        size = max(1, TOKENS_PER_BATCH // max(1, lengths[order[-1]]))
        batch, order = order[-size:], order[:-size]
        padded = Padded.of([prompts[n] for n in batch], [completions[n] for n in batch])
        scores = forward(model, padded.to(model.device), pooling)
        found.update(zip(batch, scores.tolist(), strict=True))
    return [found[n] for n in range(len(lengths))]


def forward(model: Any, rows: Padded, pooling: Pooling) -> Tensor:
    """A classifier's score of each completion, (rows,), with a gradient where one is wanted."""
    weights = pooling_weights(rows.mask, pooling)[:, :, None]

    def pool(_: nn.Module, __: Any, said: Tensor) -> Tensor:
        # A soft prompt's virtual tokens come first, and what is said of them does not count.
        pooled = (said[:, -weights.shape[1] :].float() * weights).sum(dim=1, keepdim=True)
        # The library reads one token, and finds the same there whichever it is.
        return pooled.expand_as(said)

    head = head_of(model)
    dtype = next(head.parameters()).dtype

    def read(_: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
        return (given[0].to(dtype),)

    with head.register_forward_pre_hook(read), head.register_forward_hook(pool):
        logits: Tensor = model(
            input_ids=rows.ids, attention_mask=rows.attention, use_cache=False
        ).logits
    return logits.squeeze(1)


def head_of(model: Any) -> nn.Module:
    """What gives a score of a hidden state; with an adapter, what chooses between the heads."""
    heads = (m for name, m in model.named_modules() if name.rpartition(".")[2] == HEAD)
    head: nn.Module = next(heads)  # with an adapter, what chooses between the heads comes first
    return head


def pooling_weights(mask: Tensor, pooling: Pooling) -> Tensor:
    """How much each token counts for its row's score, (rows, tokens), 1 a row together.

    `mask` is 1 at the completion's tokens; at least one in each row.
    """
    if pooling is Pooling.MEAN:
        return mask / mask.sum(dim=1, keepdim=True)
    columns = torch.arange(mask.shape[1], device=mask.device)
    last = (columns * mask).argmax(dim=1)
    return F.one_hot(last, mask.shape[1]).to(mask)


class Padded(NamedTuple):
    """Prompts with their completions, padded on the right, all (rows, longest row).

    `mask` is 1 at the completions' tokens, `attention` at those of both.
    """

    ids: Tensor
    attention: Tensor
    mask: Tensor

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]) -> Self:
        """From their token ids; no completion may be empty."""
        lengths = [len(p) + len(c) for p, c in zip(prompts, completions, strict=True)]
        ids = torch.full((len(lengths), max(lengths)), PADDING)
        attention, mask = torch.zeros_like(ids), torch.zeros(ids.shape)
        for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            ids[row, : lengths[row]] = torch.tensor([*prompt, *completion])
            attention[row, : lengths[row]] = 1
            mask[row, len(prompt) : lengths[row]] = 1
        return cls(ids, attention, mask)

    def to(self, device: torch.device) -> Padded:
        """The same on a device."""
        return Padded(*(part.to(device) for part in self))
