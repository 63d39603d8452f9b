"""A policy of this process: one transformers base model with LoRA adapters side by side.

Owns the model and which adapter is active, a state that the whole model shares: another thread
that used it during a generation would corrupt the text without any error. So it belongs to the
host's thread alone. It does not know which version is live.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from store.errors import BadInput, Conflict, NotFound, PolicyUnavailable, PromptTooLong
from store.records import Message
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
    adapter_sha256,
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

_LORA_PREFIX = "lora_"


@dataclass(frozen=True)
class _LoadedAdapter:
    """`name` is what PEFT calls it: of fixed width, since PEFT matches names by substring."""

    name: str
    sha256: str


class LocalPolicy:
    """Transformers base model + PEFT LoRA adapters. Not thread safe."""

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
            self._base = load_base(source, device=device.kind, dtype=devices.choose_dtype(device))
            check_vocabulary(self._tokenizer, self._base)
        except ModelLoadError as error:
            raise PolicyUnavailable("{error}", error=error) from error
        if device.kind == "cpu":
            torch.set_num_threads(devices.choose_thread_count(self._base.num_parameters()))
        self._base_version = base_version
        self._context = context_length(self._base)
        self._peft: Any = None
        self._adapters: dict[str, _LoadedAdapter] = {}
        self._adapters_seen = 0
        self._active: str | None = None

    @property
    def base_version(self) -> str:
        """The version without an adapter; always loaded."""
        return self._base_version

    @property
    def loaded_versions(self) -> tuple[str, ...]:
        """Every version that can generate now, the base first."""
        return (self._base_version, *self._adapters)

    def load(self, adapter: AdapterFolder) -> None:
        """Load a LoRA adapter beside the others, after checking its bytes and its shape.

        Raises BadInput when the files are not those that were registered or do not fit the base,
        Conflict when the version is loaded already. Whatever was loaded before stays as it was.
        """
        version = adapter.version
        if version in self.loaded_versions:
            raise Conflict(
                "the policy {version} is loaded already; give the adapter a new name",
                version=version,
            )
        found = adapter_sha256(adapter.path)
        if found != adapter.sha256:
            raise BadInput(
                "the adapter of {version} in {path} was changed since it was registered (sha256 "
                "{found}, expected {sha256}); restore its files or train again",
                version=version,
                path=adapter.path,
                found=found[:12],
                sha256=adapter.sha256[:12],
            )
        config = _read_config(adapter)
        self._adapters_seen += 1
        name = f"serving-{self._adapters_seen:06d}"
        self._active = None
        try:
            self._insert(name, adapter.path, config)
        except _adapter_failures() as error:
            self._remove(name)
            raise BadInput(
                "the adapter of {version} in {path} does not fit this base model: {error}; choose "
                "one that was trained from it",
                version=version,
                path=adapter.path,
                error=_first_line(error),
            ) from error
        self._adapters[version] = _LoadedAdapter(name, adapter.sha256)

    def drop(self, version: str) -> None:
        """Free an adapter's weights. Raises NotFound; Conflict for the base."""
        if version == self._base_version:
            raise Conflict(
                "{version} is the base that every adapter needs; it cannot be dropped",
                version=version,
            )
        if version not in self._adapters:
            raise _not_loaded(version)
        self._active = None
        self._remove(self._adapters.pop(version).name)

    def generate(
        self, version: str, requests: Sequence[GenerationRequest], *, stop: StopSignal | None = None
    ) -> list[Generation]:
        """Complete all requests with one version, as one batch where the context allows.

        Raises NotFound for a version that is not loaded, BadInput for a prompt that does not fit
        the model, MemoryError when the device's memory does not hold the batch, GenerationStopped.
        """
        rendered = [self._render(request) for request in requests]
        outputs = self._complete(version, rendered, stop=stop)
        adapter = self._adapters.get(version)
        return [
            Generation(
                text=output.text,
                policy_version=version,
                adapter_sha256=adapter.sha256 if adapter else None,
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
        requests = [
            self._render(GenerationRequest([prompt], _SMOKE_SAMPLING, _SMOKE_SEED))
            for prompt in _SMOKE_PROMPTS
        ]
        outputs = self._complete(version, requests)
        divergences = []
        for request, output in zip(requests, outputs, strict=True):
            log_probs = self._log_probs(version, request, output)
            if not bool(log_probs.isfinite().all()):
                raise BadInput(
                    "the policy {version} computes numbers that are not finite; its training "
                    "diverged, train again with a lower learning rate",
                    version=version,
                )
            if reference is not None and reference != version:
                expected = self._log_probs(reference, request, output)
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

    def _render(self, request: GenerationRequest) -> Request:
        sampling = request.sampling
        room = None if self._context is None else self._context - sampling.max_new_tokens
        if room is not None and room < 1:
            raise BadInput(
                "max_new_tokens is {max_new_tokens}, the model's whole context {context}; ask for "
                "fewer",
                max_new_tokens=sampling.max_new_tokens,
                context=self._context,
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
        self, version: str, requests: Sequence[Request], *, stop: StopSignal | None = None
    ) -> list[Output]:
        import torch

        self._activate(version)
        try:
            return generate(
                self._base, self._tokenizer, requests, batch_size=len(requests) or 1, stop=stop
            )
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise MemoryError(f"no memory for a batch of {len(requests)}") from error

    def _log_probs(self, version: str, request: Request, output: Output) -> torch.Tensor:
        """Log probabilities at the generated tokens' places, (tokens, vocabulary), float32."""
        import torch

        self._activate(version)
        ids = torch.tensor([[*request.token_ids, *output.token_ids]], device=self._base.device)
        with torch.no_grad():
            logits: torch.Tensor = self._base(input_ids=ids).logits
        return logits[0, len(request.token_ids) - 1 : -1].float().log_softmax(-1)

    def _activate(self, version: str) -> None:
        if version not in self.loaded_versions:
            raise _not_loaded(version)
        if version == self._active or self._peft is None:
            return
        if version == self._base_version:
            self._peft.base_model.disable_adapter_layers()
        else:
            self._peft.base_model.enable_adapter_layers()
            self._peft.set_adapter(self._adapters[version].name, inference_mode=True)
        self._active = version

    def _insert(self, name: str, folder: Path, config: Any) -> None:
        """Put the adapter's layers into the base and fill them; raises `_adapter_failures`."""
        from peft import PeftModel

        if self._peft is None:
            wrapped = PeftModel(self._base, config, adapter_name=name, autocast_adapter_dtype=False)
            wrapped.load_adapter(folder, name, **self._load_options())
            _check_weights(wrapped, name, folder)
            self._peft = wrapped
            return
        self._peft.load_adapter(folder, name, **self._load_options())
        _check_weights(self._peft, name, folder)

    def _load_options(self) -> dict[str, Any]:
        return {"autocast_adapter_dtype": False, "torch_device": str(self._base.device)}

    def _remove(self, name: str) -> None:
        from peft.tuners.tuners_utils import delete_adapter

        if self._peft is None:
            # The first adapter failed: its layers are in the base already, and have to go.
            delete_adapter(self._base, name, prefix=_LORA_PREFIX)
            vars(self._base).pop("peft_config", None)
            return
        if self._adapters:
            # PEFT warns when what it deletes is active.
            self._peft.set_adapter(next(iter(self._adapters.values())).name, inference_mode=True)
        if name in self._peft.peft_config:
            self._peft.delete_adapter(name)


def _read_config(adapter: AdapterFolder) -> Any:
    from peft import PeftConfig, PeftType

    try:
        config = PeftConfig.from_pretrained(adapter.path)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            "the adapter of {version} in {path} cannot be read: {error}; choose the folder "
            "that a run produced",
            version=adapter.version,
            path=adapter.path,
            error=_first_line(error),
        ) from error
    if config.peft_type != PeftType.LORA or config.task_type not in (None, "CAUSAL_LM"):
        raise BadInput(
            "the adapter of {version} is {peft_type} for {task_type}; only a LoRA adapter of "
            "a language model can be served beside others",
            version=adapter.version,
            peft_type=config.peft_type,
            task_type=config.task_type,
        )
    config.inference_mode = True
    return config


def _check_weights(wrapped: Any, name: str, folder: Path) -> None:
    """The file's weights are exactly those that the config asks for; PEFT only warns. ValueError"""
    from peft import get_peft_model_state_dict
    from peft.utils.save_and_load import load_peft_weights

    # By default PEFT would ask the hub whether the base has another vocabulary.
    state = get_peft_model_state_dict(wrapped, adapter_name=name, save_embedding_layers=False)
    expected = set(state)
    found = set(load_peft_weights(str(folder), device="cpu"))
    if expected != found:
        strange = ", ".join(sorted(expected ^ found)[:2])
        raise ValueError(f"{len(expected ^ found)} weights are missing or unknown ({strange})")


def _adapter_failures() -> tuple[type[Exception], ...]:
    from safetensors import SafetensorError

    return (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError)


def _is_degenerate(output: Output) -> bool:
    is_loop = len(output.token_ids) >= _LOOP_LENGTH and len(set(output.token_ids)) == 1
    return not output.text.strip() or is_loop


def _mean(per_token: Sequence[torch.Tensor]) -> float:
    """Mean over all tokens of all completions; each tensor is (tokens,)."""
    import torch

    return float(torch.cat(list(per_token)).mean())


def _not_loaded(version: str) -> NotFound:
    return NotFound("the policy {version} is not loaded; promote or pin it first", version=version)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
