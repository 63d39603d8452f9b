"""Text from a causal language model: a batch of token ids in, a completion for each row out.

Knows token ids, sampling and seeds; nothing of chat messages, adapters, versions or threads. The
trainer process uses it too, so it knows nothing of the store; importing it imports no torch.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from inspect import signature
from typing import TYPE_CHECKING, Any, NamedTuple

from training.loading import context_length, stop_token_ids
from training.sampling import Drawn, RowSampler
from training.streaming import Stream, TextPieces
from training.virtual_tokens import VirtualTokens

if TYPE_CHECKING:
    import torch
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

# Set by another thread, it ends a generation at its next token.
StopSignal = threading.Event
# Of the rows of a batch: once so many have ended, it goes on without them. A smaller share computes
# less that nobody wants, and begins anew more often.
PAUSE_SHARE = 0.25


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
    """What a request got. `token_ids` end with the stop token if there was one, `text` does not.

    `drawn` is of each of the `token_ids` where the drawing was watched, and empty elsewhere.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    drawn: tuple[Drawn, ...] = ()

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
    is_watched: bool = False,
) -> list[Output]:
    """Complete every request, in batches of like prompt length; outputs in the requests' order.

    A completion depends on its own request alone, not on its neighbours in the batch, up to the
    rounding of the model's arithmetic. The model's own generation defaults (a repetition penalty,
    a temperature) are ignored, its end-of-text ids are not. A completion never outgrows the model's
    context. `is_watched` asks for `Output.drawn`. Raises ValueError for a request that cannot be
    served, GenerationStopped.
    """
    context = context_length(model)
    for request in requests:
        _check(request, context)
    stop_ids = stop_token_ids(tokenizer, model)
    outputs: dict[int, Output] = {}
    for rows in _batches(requests, batch_size, context):
        batch = [requests[row] for row in rows]
        limits = [_new_token_limit(request, context) for request in batch]
        generated = _generate_batch(model, tokenizer, batch, limits, stop_ids, stop, is_watched)
        outputs.update(zip(rows, generated, strict=True))
    return [outputs[row] for row in range(len(requests))]


class _Ends:
    """A stopping criterion: a row ends at a stop token, its own limit or signal, every row at the
    common one; and all pause once enough of them have ended, to go on without those."""

    def __init__(
        self,
        rows: Sequence[int],
        plan: _Plan,
        *,
        prompt_length: int,
        may_pause: bool,
        stop: StopSignal | None,
        following: _Following,
    ) -> None:
        import torch

        limits = [plan.limits[row] for row in rows]
        self._rows = rows
        self._final_length = torch.tensor(limits, device=plan.device) + prompt_length
        self._stop_ids = torch.tensor(plan.stop_ids, device=plan.device, dtype=torch.long)
        self._has_ended = torch.zeros(len(rows), dtype=torch.bool, device=plan.device)
        self._pause_at = max(1, int(len(rows) * PAUSE_SHARE)) if may_pause else len(rows)
        self._prompt_length = prompt_length
        self._stop = stop
        self._following = following

    def __call__(self, input_ids: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        """Whether each row of `input_ids` (rows, tokens so far) is done for now."""
        import torch

        if self._stop is not None and self._stop.is_set():
            return self._final_length > 0
        last = input_ids[:, -1]
        self._has_ended |= torch.isin(last, self._stop_ids)
        self._has_ended |= self._final_length <= input_ids.shape[1]
        if self._following.rows:
            step = input_ids.shape[1] - self._prompt_length
            self._following.tell(dict(zip(self._rows, last.tolist(), strict=True)), step)
            for at, row in enumerate(self._rows):
                if row in self._following.stopped_at:
                    self._has_ended[at] = True
        if self._has_ended.sum() >= self._pause_at:
            return torch.ones_like(self._has_ended)
        return self._has_ended.clone()


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

    def tell(self, drawn: Mapping[int, int], step: int) -> None:
        """`drawn` are the tokens of this step, which counts from 1, by row."""
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


@dataclass(frozen=True)
class _Plan:
    """What a batch is to become: each row's limit of new tokens, and what ends a row before."""

    requests: Sequence[Request]
    limits: Sequence[int]
    stop_ids: Sequence[int]
    pad_id: int
    device: torch.device
    is_watched: bool

    def outcome(self, row: int, drawn: list[int], stopped_at: int | None) -> _Outcome | None:
        """What a row has become with those tokens; None while it may go on."""
        if stopped_at is not None:
            return _Outcome(drawn[:stopped_at], FinishReason.STOPPED)
        for at, token_id in enumerate(drawn[: self.limits[row]]):
            if token_id in self.stop_ids:
                return _Outcome(drawn[: at + 1], FinishReason.STOP)
        if len(drawn) >= self.limits[row]:
            return _Outcome(drawn[: self.limits[row]], FinishReason.LENGTH)
        return None


class _Outcome(NamedTuple):
    token_ids: list[int]
    reason: FinishReason
    drawn: tuple[Drawn, ...] = ()


def _generate_batch(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[Request],
    limits: Sequence[int],
    stop_ids: Sequence[int],
    stop: StopSignal | None,
    is_watched: bool,
) -> list[Output]:
    import torch

    pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    plan = _Plan(requests, limits, stop_ids, pad_id, model.device, is_watched)
    following = _Following(tokenizer, requests, limits, stop_ids)
    with torch.no_grad(), _without_own_defaults(model):
        outcomes = _write(model, plan, following, stop)
    texts = tokenizer.batch_decode(
        [ids[:-1] if reason is FinishReason.STOP else ids for ids, reason, _ in outcomes],
        skip_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )
    return [
        Output(text=text, token_ids=tuple(ids), finish_reason=reason, drawn=drawn)
        for text, (ids, reason, drawn) in zip(texts, outcomes, strict=True)
    ]


def _write(
    model: PreTrainedModel, plan: _Plan, following: _Following, stop: StopSignal | None
) -> list[_Outcome]:
    """Write all rows to their ends, dropping those that have ended from the batch as it goes.

    The library would go on computing them until the last one ends, which costs as much as what is
    wanted where lengths differ; so it is stopped, and called again with the others and what it
    remembers of them.
    """
    import torch

    from training.growing_cache import growing_cache

    ids, mask = _left_padded([request.token_ids for request in plan.requests], plan.pad_id)
    prompt_length = ids.shape[1]
    generator, inputs = _prompted(model, ids.to(plan.device), mask.to(plan.device))
    may_pause = _can_drop_rows(model)
    if may_pause:
        inputs["past_key_values"] = growing_cache(model)
    rows = list(range(len(plan.requests)))
    ids_of: list[list[int]] = [[] for _ in rows]
    drawn_of: list[list[Drawn]] = [[] for _ in rows]
    outcomes: dict[int, _Outcome] = {}
    while True:
        already = inputs["input_ids"].shape[1] - prompt_length
        left = max(plan.limits[row] for row in rows) - already
        sampler = RowSampler(
            [plan.requests[row] for row in rows],
            left,
            plan.device,
            first=already,
            is_watched=plan.is_watched,
        )
        written = generator.generate(
            **inputs,
            generation_config=_library_settings(plan, left),
            logits_processor=[sampler],
            stopping_criteria=[
                _Ends(
                    rows,
                    plan,
                    prompt_length=prompt_length,
                    may_pause=may_pause,
                    stop=stop,
                    following=following,
                )
            ],
        )
        if stop is not None and stop.is_set():
            raise GenerationStopped("generation was stopped before it was done")
        new = written.sequences[:, prompt_length + already :]
        if plan.is_watched:
            for row, drawn in zip(rows, sampler.drawn(), strict=True):
                drawn_of[row] += drawn
        for row, tokens in zip(rows, new.tolist(), strict=True):
            ids_of[row] += tokens
            outcome = plan.outcome(row, ids_of[row], following.stopped_at.get(row))
            if outcome:
                seen = tuple(drawn_of[row][: len(outcome.token_ids)])
                outcomes[row] = outcome._replace(drawn=seen)
        places = [at for at, row in enumerate(rows) if row not in outcomes]
        if not places:
            return [outcomes[row] for row in range(len(plan.requests))]
        rows = [rows[at] for at in places]
        inputs = _going_on(inputs, written, torch.tensor(places, device=plan.device))


def _going_on(inputs: dict[str, Any], written: Any, places: torch.Tensor) -> dict[str, Any]:
    """What those rows at `places` of what was written are continued from."""
    import torch

    cache = written.past_key_values
    cache.batch_select_indices(places)
    seen = inputs["attention_mask"]
    new = seen.new_ones(len(seen), written.sequences.shape[1] - inputs["input_ids"].shape[1])
    return {
        "input_ids": written.sequences[places],
        "attention_mask": torch.cat([seen, new], dim=1)[places],
        "past_key_values": cache,
    }


def _library_settings(plan: _Plan, new_tokens: int) -> GenerationConfig:
    from transformers import GenerationConfig

    return GenerationConfig(
        do_sample=False,
        max_new_tokens=new_tokens,
        eos_token_id=list(plan.stop_ids) or None,
        pad_token_id=plan.pad_id,
        return_dict_in_generate=True,
    )


def _can_drop_rows(model: Any) -> bool:
    """Whether what the library remembers of a batch can be cut down to some of its rows.

    What a recurrent layer remembers cannot, even where it has attention beside it; and some models
    take nothing that was remembered.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import LinearAttentionCacheLayerMixin

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    takes_cache = "past_key_values" in signature(base.forward).parameters
    if VirtualTokens.of(model) is not None or not takes_cache:
        return False
    if not base._supports_default_dynamic_cache():
        return False
    cache = DynamicCache(config=base.config.get_text_config(decoder=True))
    return all(
        hasattr(layer, "batch_select_indices")
        and not isinstance(layer, LinearAttentionCacheLayerMixin)
        for layer in cache.layers
    )


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

    A row that is done may take part in some steps more, so the longest prompt and the largest limit
    of a batch must fit together even where no single row has both: a model with absolute positions
    has none beyond its context.
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
