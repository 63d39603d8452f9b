"""Text from a causal language model: a batch of token ids in, a completion for each row out.

Knows token ids, sampling and seeds; nothing of chat messages, adapters, versions or threads. The
trainer process uses it too, so it knows nothing of the store; importing it imports no torch.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from training.loading import context_length, stop_token_ids
from training.sampling import RowSampler
from training.streaming import Stream, TextPieces
from training.virtual_tokens import VirtualTokens

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Set by another thread, it ends a generation at its next token.
StopSignal = threading.Event


class FinishReason(StrEnum):
    """Why a completion ended: by the model, the token limit, or whoever asked for it."""

    STOP = "stop"
    LENGTH = "length"
    STOPPED = "stopped"


class GenerationStopped(RuntimeError):
    """The stop signal was set before the batch was done; nothing of it is kept."""


@dataclass(frozen=True)
class Request:
    """One row of a batch.

    `temperature` 0 means greedy; `top_k` 0 and `top_p` 1 mean every token may be drawn. `stream`
    follows the text as it comes and can end it.
    """

    token_ids: Sequence[int]
    max_new_tokens: int
    seed: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stream: Stream | None = None

    @property
    def is_greedy(self) -> bool:
        """The likeliest token is taken each time, and the seed has no say."""
        return self.temperature == 0


@dataclass(frozen=True)
class Output:
    """What a request got. `token_ids` end with the stop token if there was one, `text` does not."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason

    @property
    def token_count(self) -> int:
        """Generated tokens, the stop token included."""
        return len(self.token_ids)


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[Request],
    *,
    batch_size: int = 64,
    stop: StopSignal | None = None,
) -> list[Output]:
    """Complete every request, in batches of like prompt length; outputs in the requests' order.

    A completion depends on its own request alone, not on its neighbours in the batch, up to the
    rounding of the model's arithmetic. The model's own generation defaults (a repetition penalty,
    a temperature) are ignored, its end-of-text ids are not. A completion never outgrows the model's
    context. Raises ValueError for a request that cannot be served, GenerationStopped.
    """
    context = context_length(model)
    for request in requests:
        _check(request, context)
    stop_ids = stop_token_ids(tokenizer, model)
    outputs: dict[int, Output] = {}
    for rows in _batches(requests, batch_size, context):
        batch = [requests[row] for row in rows]
        limits = [_new_token_limit(request, context) for request in batch]
        generated = _generate_batch(model, tokenizer, batch, limits, stop_ids, stop)
        outputs.update(zip(rows, generated, strict=True))
    return [outputs[row] for row in range(len(requests))]


class _RowLimits:
    """A stopping criterion: a row ends at its own limit or signal, every row at the common one."""

    def __init__(
        self,
        limits: Sequence[int],
        prompt_length: int,
        device: torch.device,
        stop: StopSignal | None,
        following: _Following,
    ) -> None:
        import torch

        self._final_length = torch.tensor(limits, device=device) + prompt_length
        self._prompt_length = prompt_length
        self._stop = stop
        self._following = following

    def __call__(self, input_ids: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        """Whether each row of `input_ids` (rows, tokens so far) is done."""
        if self._stop is not None and self._stop.is_set():
            return self._final_length > 0
        done = self._final_length <= input_ids.shape[1]
        if self._following.rows:
            self._following.tell(
                input_ids[:, -1].tolist(), input_ids.shape[1] - self._prompt_length
            )
            for row in self._following.stopped_at:
                done[row] = True
        return done


class _Following:
    """Tells the streams of a batch what was drawn, and notes which of them want no more."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        requests: Sequence[Request],
        limits: Sequence[int],
        stop_ids: Sequence[int],
    ) -> None:
        self._streams = {row: r.stream for row, r in enumerate(requests) if r.stream is not None}
        self._pieces = {row: TextPieces(tokenizer) for row in self._streams}
        self._limits = limits
        self._stop_ids = frozenset(stop_ids)
        self.rows = set(self._streams)  # those that are still written
        self.stopped_at: dict[int, int] = {}  # row -> tokens drawn until then
        for stream in self._streams.values():
            stream.begin()

    def tell(self, drawn: Sequence[int], step: int) -> None:
        """`drawn` are the tokens (rows,) of this step, which counts from 1."""
        for row in list(self.rows):
            stream = self._streams[row]
            if drawn[row] in self._stop_ids:
                self.rows.discard(row)
                continue
            stream.add(self._pieces[row].add(drawn[row]))
            if stream.stop.is_set() and step < self._limits[row]:
                self.stopped_at[row] = step
            if stream.stop.is_set() or step >= self._limits[row]:
                self.rows.discard(row)


def _generate_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[Request],
    limits: Sequence[int],
    stop_ids: Sequence[int],
    stop: StopSignal | None,
) -> list[Output]:
    import torch
    from transformers import GenerationConfig

    device = model.device
    steps = max(limits)
    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    input_ids, attention_mask = _left_padded([request.token_ids for request in requests], pad_id)
    following = _Following(tokenizer, requests, limits, stop_ids)
    with torch.no_grad(), _without_own_defaults(model):
        generator, inputs = _prompted(model, input_ids.to(device), attention_mask.to(device))
        sequences = generator.generate(
            **inputs,
            generation_config=GenerationConfig(
                do_sample=False,
                max_new_tokens=steps,
                eos_token_id=list(stop_ids) or None,
                pad_token_id=pad_id,
            ),
            logits_processor=[RowSampler(requests, steps, device)],
            stopping_criteria=[_RowLimits(limits, input_ids.shape[1], device, stop, following)],
        )
    if stop is not None and stop.is_set():
        raise GenerationStopped("generation was stopped before it was done")
    rows = sequences[:, input_ids.shape[1] :].tolist()
    kept = [
        _finished(tokens[:limit], stop_ids, following.stopped_at.get(row))
        for row, (tokens, limit) in enumerate(zip(rows, limits, strict=True))
    ]
    texts = tokenizer.batch_decode(
        [ids[:-1] if reason is FinishReason.STOP else ids for ids, reason in kept],
        skip_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )
    return [
        Output(text=text, token_ids=tuple(ids), finish_reason=reason)
        for text, (ids, reason) in zip(texts, kept, strict=True)
    ]


def _finished(
    row: list[int], stop_ids: Sequence[int], stopped_at: int | None
) -> tuple[list[int], FinishReason]:
    if stopped_at is not None:
        return row[:stopped_at], FinishReason.STOPPED
    for at, token_id in enumerate(row):
        if token_id in stop_ids:
            return row[: at + 1], FinishReason.STOP
    return row, FinishReason.LENGTH


def _prompted(
    model: PreTrainedModel, input_ids: torch.Tensor, attention_mask: torch.Tensor
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The model that generates, and what it is given of the prompts."""
    virtual = VirtualTokens.of(model)
    if virtual is None:
        return model, {"input_ids": input_ids, "attention_mask": attention_mask}
    return virtual.base, virtual.before(input_ids, attention_mask)


def _left_padded(
    prompts: Sequence[Sequence[int]], pad_id: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, both (rows, longest prompt)."""
    import torch

    longest = max(len(prompt) for prompt in prompts)
    ids = [[pad_id] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids), torch.tensor(mask)


def _batches(
    requests: Sequence[Request], batch_size: int, context: int | None
) -> Iterator[list[int]]:
    """Row indices, shortest prompts first, in batches that fit the context.

    A row that is done still takes part in its batch's steps, so the longest prompt and the largest
    limit of a batch must fit together even where no single row has both: a model with absolute
    positions has none beyond its context.
    """
    batch: list[int] = []
    most_new = 0
    for row in sorted(range(len(requests)), key=lambda row: len(requests[row].token_ids)):
        new = _new_token_limit(requests[row], context)
        longest = len(requests[row].token_ids)
        overflows = context is not None and longest + max(most_new, new) > context
        if batch and (len(batch) == batch_size or overflows):
            yield batch
            batch, most_new = [], 0
        batch.append(row)
        most_new = max(most_new, new)
    if batch:
        yield batch


def _new_token_limit(request: Request, context: int | None) -> int:
    if context is None:
        return request.max_new_tokens
    return min(request.max_new_tokens, context - len(request.token_ids))


def _check(request: Request, context: int | None) -> None:
    if not request.token_ids:
        raise ValueError("a prompt of no tokens cannot be completed; give it a message")
    if request.max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {request.max_new_tokens}; it must be at least 1")
    if context is not None and len(request.token_ids) >= context:
        raise ValueError(
            f"a prompt of {len(request.token_ids)} tokens leaves no room in a context of {context};"
            " shorten it"
        )


@contextmanager
def _without_own_defaults(model: Any) -> Iterator[None]:
    """Hide what `generation_config.json` would add to every call, a repetition penalty for one."""
    from transformers import GenerationConfig

    # A PEFT wrapper copies its own onto the model that it wraps.
    holders = [model, model.get_base_model()] if hasattr(model, "get_base_model") else [model]
    own = [holder.generation_config for holder in holders]
    for holder in holders:
        holder.generation_config = GenerationConfig()
    try:
        yield
    finally:
        for holder, config in zip(holders, own, strict=True):
            holder.generation_config = config
