"""A policy of this process: one transformers base model, and versions loaded beside it.

Owns the models and which versions they answer as. A generation changes settings of its model for
as long as it runs, so this belongs to the host's thread alone. It does not know which version is
live, nor what an adapter is made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from store.errors import BadInput, Conflict, NotFound, PolicyUnavailable, PromptTooLong
from store.records import Message
from training import adapters
from training import device as devices
from training.generation import Output, Request, StopSignal, generate
from training.loading import (
    ModelLoadError,
    PromptOverlong,
    PromptRejected,
    check_vocabulary,
    context_length,
    load_base,
    load_tokenizer,
    render_prompt,
)
from training.policy import (
    AdapterFolder,
    Generation,
    GenerationRequest,
    SamplingParams,
    SmokeReport,
)

if TYPE_CHECKING:
    import torch

_SMOKE_PROMPTS: tuple[Message, ...] = (
    {"role": "user", "content": "Hello! What can you help me with?"},
    {"role": "user", "content": "你好，你能帮我做什么？"},
)
_SMOKE_SAMPLING = SamplingParams(max_new_tokens=32)
_SMOKE_SEED = 20260101
# A completion of one token this many times over is a loop, not an answer.
_LOOP_LENGTH = 8


@dataclass(frozen=True)
class _Loaded:
    """A version that can generate; `sha256` is None for the base."""

    model: Any
    sha256: str | None = None


class LocalPolicy:
    """A transformers base model and what runs made of it. Not thread safe."""

    def __init__(
        self,
        source: str | Path,
        *,
        base_version: str = "base",
        device: devices.Device | None = None,
    ) -> None:
        """Load the base from a folder or hub id; takes seconds. Raises PolicyUnavailable."""
        import torch

        device = device or devices.probe()
        try:
            self._tokenizer = load_tokenizer(source)
            base = load_base(source, device=device.kind, dtype=devices.choose_dtype(device))
            check_vocabulary(self._tokenizer, base)
        except ModelLoadError as error:
            raise PolicyUnavailable("{error}", error=error) from error
        if device.kind == "cpu":
            torch.set_num_threads(devices.choose_thread_count(base.num_parameters()))
        self._base = base
        self._base_version = base_version
        self._loaded = {base_version: _Loaded(base)}

    @property
    def base_version(self) -> str:
        """The version without an adapter; always loaded."""
        return self._base_version

    @property
    def loaded_versions(self) -> tuple[str, ...]:
        """Every version that can generate now, the base first."""
        return tuple(self._loaded)

    def load(self, adapter: AdapterFolder) -> None:
        """Load an adapter or a whole fine-tuned model beside the others, after checking its files.

        Raises BadInput when the files are not those that were registered or do not fit the base,
        Conflict when the version is loaded already. Whatever was loaded before stays as it was.
        """
        version = adapter.version
        if version in self._loaded:
            raise Conflict(
                "the policy {version} is loaded already; give the adapter a new name",
                version=version,
            )
        self._loaded[version] = _Loaded(adapters.load(adapter, self._base), adapter.sha256)

    def drop(self, version: str) -> None:
        """Free a version's weights. Raises NotFound; Conflict for the base."""
        if version == self._base_version:
            raise Conflict(
                "{version} is the base that every adapter needs; it cannot be dropped",
                version=version,
            )
        self._require(version)
        del self._loaded[version]

    def generate(
        self, version: str, requests: Sequence[GenerationRequest], *, stop: StopSignal | None = None
    ) -> list[Generation]:
        """Complete all requests with one version, as one batch where the context allows.

        Raises NotFound for a version that is not loaded, BadInput for a prompt that does not fit
        the model, MemoryError when the device's memory does not hold the batch, GenerationStopped.
        """
        loaded = self._require(version)
        rendered = [self._render(request, loaded.model) for request in requests]
        outputs = self._complete(loaded.model, rendered, stop=stop)
        return [
            Generation(
                text=output.text,
                policy_version=version,
                adapter_sha256=loaded.sha256,
                sampling=request.sampling,
                seed=request.seed,
                finish_reason=output.finish_reason,
                token_count=output.token_count,
            )
            for request, output in zip(requests, outputs, strict=True)
        ]

    def smoke(self, version: str, *, reference: str | None = None) -> SmokeReport:
        """Complete two fixed prompts and look at the result.

        Raises BadInput when a logit is not finite, or when every completion is empty or a loop of
        one token. The divergence from `reference` is reported, not judged: to differ is what a
        new version is for.
        """
        model = self._require(version).model
        before = None if reference in (None, version) else self._require(reference).model
        requests = [
            self._render(GenerationRequest([prompt], _SMOKE_SAMPLING, _SMOKE_SEED), model)
            for prompt in _SMOKE_PROMPTS
        ]
        outputs = self._complete(model, requests)
        divergences = []
        for request, output in zip(requests, outputs, strict=True):
            log_probs = _log_probs(model, request, output)
            if not bool(log_probs.isfinite().all()):
                raise BadInput(
                    "the policy {version} computes numbers that are not finite; its training "
                    "diverged, train again with a lower learning rate",
                    version=version,
                )
            if before is not None:
                expected = _log_probs(before, request, output)
                divergences.append((log_probs.exp() * (log_probs - expected)).sum(-1))
        if all(_is_degenerate(output) for output in outputs):
            raise BadInput(
                "the policy {version} answers nothing but {text!r}; look at the evaluation of its "
                "run and train again",
                version=version,
                text=outputs[0].text[:40],
            )
        return SmokeReport(
            version=version,
            texts=tuple(output.text for output in outputs),
            mean_kl=_mean(divergences) if divergences else None,
        )

    def _require(self, version: str) -> _Loaded:
        loaded = self._loaded.get(version)
        if loaded is None:
            raise NotFound(
                "the policy {version} is not loaded; promote or pin it first", version=version
            )
        return loaded

    def _render(self, request: GenerationRequest, model: Any) -> Request:
        sampling = request.sampling
        context = context_length(model)
        room = None if context is None else context - sampling.max_new_tokens
        if room is not None and room < 1:
            raise BadInput(
                "max_new_tokens is {max_new_tokens}, the model's whole context {context}; ask for "
                "fewer",
                max_new_tokens=sampling.max_new_tokens,
                context=context,
            )
        try:
            token_ids = render_prompt(self._tokenizer, request.messages, max_tokens=room)
        except PromptOverlong as error:
            raise PromptTooLong("{error}", error=error, limit_tokens=error.limit_tokens) from error
        except PromptRejected as error:
            raise BadInput("{error}", error=error) from error
        return Request(
            token_ids=token_ids,
            max_new_tokens=sampling.max_new_tokens,
            seed=request.seed,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            stream=request.stream,
        )

    def _complete(
        self, model: Any, requests: Sequence[Request], *, stop: StopSignal | None = None
    ) -> list[Output]:
        import torch

        try:
            return generate(
                model, self._tokenizer, requests, batch_size=len(requests) or 1, stop=stop
            )
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise MemoryError(f"no memory for a batch of {len(requests)}") from error


def _log_probs(model: Any, request: Request, output: Output) -> torch.Tensor:
    """Log probabilities at the generated tokens' places, (tokens, vocabulary), float32."""
    import torch

    ids = torch.tensor([[*request.token_ids, *output.token_ids]], device=model.device)
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=ids).logits
    # From the end: virtual tokens may have logits too, before all others.
    return logits[0, -len(output.token_ids) - 1 : -1].float().log_softmax(-1)


def _is_degenerate(output: Output) -> bool:
    is_loop = len(output.token_ids) >= _LOOP_LENGTH and len(set(output.token_ids)) == 1
    return not output.text.strip() or is_loop


def _mean(per_token: Sequence[torch.Tensor]) -> float:
    """Mean over all tokens of all completions; each tensor is (tokens,)."""
    import torch

    return float(torch.cat(list(per_token)).mean())
