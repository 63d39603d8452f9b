"""The policy to train and the reference policy beside it: one base model, adapters on top.

A fresh adapter starts as no change at all, so the reference is the base with adapters switched
off. A run that continues from a parent's adapter trains it, against a frozen copy named `ref`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from training import loading
from training.config import RunSpec
from training.worker.failures import ModelUnusable

ADAPTER = "default"
REFERENCE = "ref"


class Loaded(NamedTuple):
    """What a TRL trainer is built from.

    `model` is the base, to be wrapped with `fresh_adapter`, or, when that is None, the base with
    the parent's adapter, trainable and named `default`.
    """

    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    fresh_adapter: LoraConfig | None


def load(spec: RunSpec, *, lora_r: int, lora_alpha: int) -> Loaded:
    """The base model with the parent's adapter, or with a fresh one. Raises `ModelUnusable`."""
    device, dtype = ("cuda", "bfloat16") if torch.cuda.is_available() else ("cpu", "float32")
    try:
        tokenizer = loading.load_tokenizer(spec.base_model)
        base = loading.load_base(spec.base_model, device=device, dtype=dtype)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelUnusable(
            "{base_model} cannot be loaded: {error}", base_model=spec.base_model, error=error
        ) from error
    if spec.parent_adapter is None:
        return Loaded(base, tokenizer, _fresh_adapter(lora_r, lora_alpha))
    return Loaded(_with_parent(base, spec.parent_adapter), tokenizer, None)


def check_trainable(model: PeftModel) -> None:
    """Exactly the adapter named `default` learns. Raises `ModelUnusable`."""
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    strangers = [name for name in trainable if f".{ADAPTER}" not in name]
    if strangers or not trainable:
        what = f"{strangers[0]} would be trained too" if strangers else "nothing would be trained"
        raise ModelUnusable("The adapter is not set up: {what}.", what=what)


@contextmanager
def reference(model: Any) -> Iterator[None]:
    """Inside, the model answers as the reference policy."""
    if REFERENCE not in model.peft_config:
        with model.disable_adapter():
            yield
        return
    model.set_adapter(REFERENCE)
    try:
        yield
    finally:
        model.set_adapter(ADAPTER)


def adapter_norm(model: PeftModel) -> float:
    """Sum of the absolute values of all that is being trained; two equal ones mean no change."""
    trainable = (p.detach().double() for p in model.parameters() if p.requires_grad)
    return sum(float(p.abs().sum()) for p in trainable)


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Write the trained adapter alone, in place of whatever a torn attempt left there."""
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder, selected_adapters=[ADAPTER])


def _fresh_adapter(r: int, alpha: int) -> LoraConfig:
    """LoRA on every linear layer but the output head, whatever the architecture calls them."""
    return LoraConfig(
        r=r,
        lora_alpha=alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def _with_parent(base: PreTrainedModel, folder: str) -> PeftModel:
    try:
        return PeftModel.from_pretrained(base, folder, adapter_name=ADAPTER, is_trainable=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelUnusable(
            "{folder} cannot be loaded: {error}", folder=folder, error=error
        ) from error
