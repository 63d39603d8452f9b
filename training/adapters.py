"""Adapters as models: what the folder that a run produced makes of the base model.

Every version gets a module tree of its own, so none sees the layers, switches or hooks of another;
the base's weights are shared by all, but for a model that was fine-tuned as a whole. Does not know
what else is loaded, nor what is live.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from store.errors import BadInput
from training.loading import ModelLoadError, load_fine_tuned
from training.policy import AdapterFolder, adapter_sha256
from training.tuning import holds_whole_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# PEFT's names of the methods that need nothing but the text to answer; each is tested. Left out,
# too, is what compiles code as it loads.
SERVED_TYPES = frozenset(
    {
        "ADALORA",
        "FOURIERFT",
        "HRA",
        "IA3",
        "LN_TUNING",
        "LOHA",
        "LOKR",
        "LORA",
        "MISS",
        "OFT",
        "PEANUT",
        "PREFIX_TUNING",
        "PROMPT_TUNING",
        "P_TUNING",
        "VERA",
    }
)


def load(adapter: AdapterFolder, base: PreTrainedModel) -> Any:
    """The model that an adapter makes of `base`: on its device, in evaluation mode.

    A PEFT model, or a transformers model where the folder holds a whole one. `base` is not changed.
    Raises BadInput for files that are not those that were registered, that are of a kind that
    cannot be served, that lack weights or do not fit, or for which the device has no memory.
    """
    import torch

    _check_identity(adapter)
    try:
        if holds_whole_model(adapter.path):
            return load_fine_tuned(adapter.path, base)
        return _adapted(base, _read_config(adapter), adapter.path)
    except torch.OutOfMemoryError as error:
        raise BadInput(
            "the device has no memory for {version} from {path} beside what is loaded; free some, "
            "or train an adapter in place of a whole model",
            version=adapter.version,
            path=adapter.path,
        ) from error
    except ModelLoadError as error:
        raise BadInput(
            "{version} cannot be served: {error}", version=adapter.version, error=error
        ) from error
    except _misfits() as error:
        raise BadInput(
            "the adapter of {version} in {path} does not fit this base model: {error}; choose "
            "one that was trained from it",
            version=adapter.version,
            path=adapter.path,
            error=_first_line(error),
        ) from error


def _check_identity(adapter: AdapterFolder) -> None:
    found = adapter_sha256(adapter.path)
    if found != adapter.sha256:
        raise BadInput(
            "the adapter of {version} in {path} was changed since it was registered (sha256 "
            "{found}, expected {sha256}); restore its files or train again",
            version=adapter.version,
            path=adapter.path,
            found=found[:12],
            sha256=adapter.sha256[:12],
        )


def _adapted(base: PreTrainedModel, config: Any, folder: Path) -> Any:
    """A PEFT model over the base's weights; raises `_misfits`."""
    from peft import PeftModelForCausalLM

    model = PeftModelForCausalLM(_twin(base), config, autocast_adapter_dtype=False)
    model.load_adapter(
        folder,
        model.active_adapter,
        autocast_adapter_dtype=False,
        torch_device=str(base.device),
    )
    _check_weights(model, folder)
    return model.eval()


def _twin(base: PreTrainedModel) -> PreTrainedModel:
    """A copy of the modules over the very weights of `base`.

    Its parameters are objects of their own: some methods replace weights as they are loaded.
    """
    import torch

    shared: dict[int, Any] = {
        id(weight): torch.nn.Parameter(weight.detach(), requires_grad=False)
        for weight in base.parameters()
    }
    shared |= {id(buffer): buffer for buffer in base.buffers()}
    return copy.deepcopy(base, shared)


def _read_config(adapter: AdapterFolder) -> Any:
    from peft import PeftConfig

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
    if config.peft_type not in SERVED_TYPES or config.task_type not in (None, "CAUSAL_LM"):
        raise BadInput(
            "the adapter of {version} is {peft_type} for {task_type}; only a language model's "
            "adapters can be served, of these kinds: {served}",
            version=adapter.version,
            peft_type=config.peft_type.value,
            task_type=config.task_type,
            served=", ".join(sorted(SERVED_TYPES)),
        )
    config.inference_mode = True
    return config


def _check_weights(model: Any, folder: Path) -> None:
    """The file's weights are exactly those that the config asks for; PEFT only warns. ValueError"""
    from peft import get_peft_model_state_dict
    from peft.utils.save_and_load import load_peft_weights

    # By default PEFT would ask the hub whether the base has another vocabulary.
    expected = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    found = set(load_peft_weights(str(folder), device="cpu"))
    if expected != found:
        strange = ", ".join(sorted(expected ^ found)[:2])
        raise ValueError(f"{len(expected ^ found)} weights are missing or unknown ({strange})")


def _misfits() -> tuple[type[Exception], ...]:
    from safetensors import SafetensorError

    # What PEFT raises for files that are torn, and for weights or layers that the base lacks.
    return (
        OSError,
        ValueError,
        RuntimeError,
        KeyError,
        TypeError,
        AttributeError,
        SafetensorError,
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
