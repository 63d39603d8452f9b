"""The policy to train and the reference policy beside it.

With an adapter they are one model: a fresh adapter starts as no change at all, so the reference is
the base with adapters switched off; a run that continues from a parent's adapter trains it, against
a frozen copy named `ref`. With full tuning the reference is a second model.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import (
    LoraConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
    set_peft_model_state_dict,
)
from peft.utils.save_and_load import load_peft_weights
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from training import loading
from training.config import RunSpec
from training.methods.trainer_options import TuningOptions
from training.tuning import Tuning, tuning_of
from training.worker.failures import ModelUnusable

ADAPTER = "default"
REFERENCE = "ref"


@dataclass(frozen=True)
class Trainee:
    """The policy in training. `frozen` is its reference where no adapter can be switched off."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    tuning: Tuning
    frozen: PreTrainedModel | None = None

    @contextmanager
    def reference(self) -> Iterator[Any]:
        """Inside, what is given answers as the reference policy."""
        if self.frozen is not None:
            yield self.frozen
        elif REFERENCE in self.model.peft_config:
            self.model.set_adapter(REFERENCE)
            try:
                yield self.model
            finally:
                self.model.set_adapter(ADAPTER)
        else:
            with self.model.disable_adapter():
                yield self.model

    @contextmanager
    def base(self, folder: str) -> Iterator[Any]:
        """Inside, what is given answers as the base model in `folder`. Raises `ModelUnusable`."""
        if self.frozen is not None:
            yield load_base(folder)
        else:
            with self.model.disable_adapter():
                yield self.model

    def check_trainable(self) -> None:
        """Exactly what the tuning names learns. Raises `ModelUnusable`."""
        trainable = [name for name, p in self.model.named_parameters() if p.requires_grad]
        strangers = [name for name in trainable if f".{ADAPTER}" not in name]
        if not trainable:
            raise _not_set_up("nothing would be trained")
        if strangers and self.tuning is not Tuning.FULL:
            raise _not_set_up(f"{strangers[0]} would be trained too")

    def norm(self) -> float:
        """Sum of the absolute values of what is trained; two equal ones mean no change."""
        trainable = (p.detach().double() for p in self.model.parameters() if p.requires_grad)
        return sum(float(p.abs().sum()) for p in trainable)

    def save(self, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
        """Write what was trained alone, in place of whatever a torn attempt left there.

        `weights` are all of the model's, where it holds no more than a share of them itself.
        """
        shutil.rmtree(folder, ignore_errors=True)
        only = {} if self.tuning is Tuning.FULL else {"selected_adapters": [ADAPTER]}
        self.model.save_pretrained(folder, state_dict=weights, **only)

    def take(self, folder: Path) -> None:
        """Become what `save` has written there."""
        if self.tuning is Tuning.FULL:
            whole, found = type(self.model).from_pretrained(
                folder, dtype=self.model.dtype, output_loading_info=True
            )
            if missing := found["missing_keys"]:
                raise _not_set_up(f"{min(missing)} is missing")
            self.model.load_state_dict(whole.state_dict())
        else:
            weights = load_peft_weights(str(folder), device=str(self.model.device))
            set_peft_model_state_dict(self.model, weights, adapter_name=ADAPTER)


class Loaded(NamedTuple):
    """What a trainer is built from.

    `model` is the base, to be wrapped with `fresh_adapter`, or, when that is None, the base with
    the parent's adapter on it, or, with full tuning, all there is.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    tuning: Tuning
    fresh_adapter: PeftConfig | None = None
    frozen: PreTrainedModel | None = None

    @property
    def context(self) -> int | None:
        """How many tokens the policy reads beside its virtual ones; None where there is no end."""
        context = loading.context_length(self.model)
        taken = getattr(self.fresh_adapter, "num_virtual_tokens", None) or 0
        return None if context is None else context - taken

    def wrapped(self) -> Trainee:
        """The policy where no trainer of a library sets it up. Raises `ModelUnusable`."""
        if self.fresh_adapter is None:
            return self.trainee(self.model)
        return self.trainee(get_peft_model(self.model, self.fresh_adapter))

    def trainee(self, model: Any) -> Trainee:
        """The policy as the trainer has set it up. Raises `ModelUnusable` where that is wrong."""
        continues = self.tuning is not Tuning.FULL and self.fresh_adapter is None
        if continues and REFERENCE not in model.peft_config:
            _add_reference(model)
        for name, parameter in model.named_parameters():
            if f".{REFERENCE}" in name:
                parameter.requires_grad_(False)
        trainee = Trainee(model, self.tokenizer, self.tuning, self.frozen)
        trainee.check_trainable()
        return trainee


def load(spec: RunSpec, options: TuningOptions) -> Loaded:
    """The policy that a run starts from, for its tuning. Raises `ModelUnusable`."""
    tuning = Tuning(options.tuning)
    tokenizer = _load(lambda: loading.load_tokenizer(spec.base_model), spec.base_model)
    if tuning is Tuning.FULL:
        model = _whole(spec)
        frozen = copy.deepcopy(model).requires_grad_(False)
        return Loaded(model, tokenizer, tuning, frozen=frozen)
    base = load_base(spec.base_model, tuning)
    if spec.parent_adapter is None:
        return Loaded(base, tokenizer, tuning, fresh_adapter(options))
    return Loaded(with_adapter(base, spec.parent_adapter), tokenizer, tuning)


def load_base(folder: str, tuning: Tuning = Tuning.LORA) -> PreTrainedModel:
    """The base model on this machine's device. Raises `ModelUnusable`."""
    device, dtype = ("cuda", "bfloat16") if torch.cuda.is_available() else ("cpu", "float32")
    quantization = four_bits() if tuning is Tuning.QLORA else None
    model: PreTrainedModel = _load(
        lambda: loading.load_base(folder, device=device, dtype=dtype, quantization=quantization),
        folder,
    )
    if quantization is not None:
        keep_differentiable(model)
    return model


def with_adapter(base: PreTrainedModel, folder: str) -> PeftModel:
    """The base with an adapter named `default` on it, to be trained. Raises `ModelUnusable`.

    The weights are put into a fresh adapter: PEFT itself loads virtual tokens for use only.
    """

    def read() -> PeftModel:
        config = PeftConfig.from_pretrained(folder)
        config.inference_mode = False
        model = get_peft_model(base, config, adapter_name=ADAPTER)
        weights = load_peft_weights(folder, device=str(base.device))
        set_peft_model_state_dict(model, weights, adapter_name=ADAPTER)
        return model

    return _load(read, folder)


def fresh_adapter(options: TuningOptions, task_type: str = "CAUSAL_LM") -> PeftConfig:
    """An adapter that starts as no change at all, or nearly so for virtual tokens."""
    tuning = Tuning(options.tuning)
    if tuning is Tuning.PREFIX:
        return PrefixTuningConfig(num_virtual_tokens=options.virtual_tokens, task_type=task_type)
    if tuning is Tuning.PROMPT:
        return PromptTuningConfig(num_virtual_tokens=options.virtual_tokens, task_type=task_type)
    return fresh_lora(options, task_type)


def fresh_lora(options: TuningOptions, task_type: str = "CAUSAL_LM") -> LoraConfig:
    """Low-rank updates of every linear layer but the output head, whatever its name is."""
    tuning = Tuning(options.tuning)
    return LoraConfig(
        r=options.lora_r,
        lora_alpha=options.lora_alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        use_dora=tuning is Tuning.DORA,
        use_rslora=tuning is Tuning.RSLORA,
        task_type=task_type,
    )


def _whole(spec: RunSpec) -> PreTrainedModel:
    """The policy with all its weights in one model, every one of them to be trained.

    Trained in float32 on any device: steps of full tuning are smaller than bfloat16 can tell.
    """
    parent = spec.parent_adapter
    if parent is not None and tuning_of(Path(parent)) is Tuning.FULL:
        return load_base(parent).float().requires_grad_(True)
    base = load_base(spec.base_model).float()
    if parent is not None:
        base = with_adapter(base, parent).merge_and_unload()
    return base.requires_grad_(True)


def _add_reference(model: PeftModel) -> None:
    """A copy of the adapter that is about to be trained, as TRL's preference trainers make one."""
    model.add_adapter(REFERENCE, model.peft_config[ADAPTER])
    for name, parameter in model.named_parameters():
        if f".{ADAPTER}." in name:
            copied = model.get_parameter(name.replace(f".{ADAPTER}.", f".{REFERENCE}."))
            copied.data.copy_(parameter.data)
    model.set_adapter(ADAPTER)


def four_bits(*unquantized: str) -> Any:
    """QLoRA's quantisation (Dettmers et al. 2023), of all linear layers but those so named."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
        llm_int8_skip_modules=list(unquantized) or None,
    )


def keep_differentiable(quantized: PreTrainedModel) -> None:
    """Have a base in four bits pass on gradients also after it has been used without any.

    On a processor with AVX-512 BF16, bitsandbytes lays a layer's weights out anew the first time
    that it is used so, for an operation that has no gradient, and never lays them back: layers
    below would learn next to nothing right from then on.
    """
    for module in quantized.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _load(read: Any, folder: str) -> Any:
    try:
        return read()
    except torch.OutOfMemoryError:
        raise  # a RuntimeError too, and not the files'
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelUnusable(
            "{folder} cannot be loaded: {error}", folder=folder, error=error
        ) from error


def _not_set_up(what: str) -> ModelUnusable:
    return ModelUnusable("The adapter is not set up: {what}.", what=what)
