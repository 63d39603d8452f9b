"""Tuning: which weights a method may change, from a few virtual tokens to all of them.

Vocabulary and rules only; `training.worker.models` builds what they name.
"""

from __future__ import annotations

import json
import math
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path

from training.options import SpecError


class Tuning(StrEnum):
    """Ways to tune a model.

    LORA    low-rank updates of every linear layer (Hu et al. 2021)
    DORA    LoRA with direction and magnitude apart (Liu et al. 2024)
    RSLORA  LoRA scaled by alpha / sqrt(rank) (Kalajdzievski 2023)
    QLORA   LoRA on a base in 4 bits (Dettmers et al. 2023)
    PREFIX  keys and values of virtual tokens in every layer (Li & Liang 2021)
    PROMPT  embeddings of virtual tokens before the prompt (Lester et al. 2021)
    FULL    every weight
    """

    LORA = "lora"
    DORA = "dora"
    RSLORA = "rslora"
    QLORA = "qlora"
    PREFIX = "prefix"
    PROMPT = "prompt"
    FULL = "full"


LOW_RANK = (Tuning.LORA, Tuning.DORA, Tuning.RSLORA, Tuning.QLORA)
VIRTUAL_TOKENS = (Tuning.PREFIX, Tuning.PROMPT)

_PEFT_TYPES = {"PREFIX_TUNING": Tuning.PREFIX, "PROMPT_TUNING": Tuning.PROMPT}

# How much larger or smaller a step is than LoRA's: full tuning moves every weight at once, virtual
# tokens are few and far from the loss.
_RATE_FACTORS = {Tuning.FULL: 0.2, Tuning.PREFIX: 3.0, Tuning.PROMPT: 10.0}


def tuning_of(folder: Path) -> Tuning:
    """How the policy in an adapter's folder was tuned; a folder with a whole model is FULL.

    QLoRA leaves an ordinary LoRA adapter. Raises `SpecError` for a kind that no run makes.
    """
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Tuning.FULL
    kind = config.get("peft_type")
    if kind == "LORA":
        variants = {"use_dora": Tuning.DORA, "use_rslora": Tuning.RSLORA}
        return next((t for flag, t in variants.items() if config.get(flag)), Tuning.LORA)
    if kind not in _PEFT_TYPES:
        raise SpecError("parent_adapter", kind, "choose a policy that a run here has made")
    return _PEFT_TYPES[kind]


def holds_whole_model(folder: Path) -> bool:
    """A folder has a model with all its weights in it, and no adapter."""
    return (folder / "config.json").exists() and not (folder / "adapter_config.json").exists()


def check_continues(parent: Tuning, tuning: Tuning) -> None:
    """Refuse to train on from a policy in a way that could not be served. Raises `SpecError`."""
    if tuning == parent or (tuning in LOW_RANK and parent in LOW_RANK):
        return
    if tuning is Tuning.FULL and parent in LOW_RANK:
        return
    raise SpecError(
        "tuning",
        tuning.value,
        "does not go on from a policy made by {parent} tuning; choose {parent}, or start from the "
        "base model",
        parent=parent.value,
    )


def is_quantization_installed() -> bool:
    """Whether the library that QLoRA needs is there, with kernels for CUDA, and for CPUs."""
    return find_spec("bitsandbytes") is not None


def suggested_learning_rate(parameters: int | None, tuning: str = Tuning.LORA) -> float:
    """Peak step size of AdamW on a model of that many parameters; None where it is not known.

    For LoRA a power law through two points: 3e-3, measured on the bundled model of 2.6 M (1e-3
    hardly moves it, 1e-2 wrecks it), and 2e-5, usual for 7 B.
    """
    factor = _RATE_FACTORS.get(Tuning(tuning), 1.0)
    if parameters is None:
        return rounded(5e-5 * factor)
    slope = math.log(3e-3 / 2e-5) / math.log(7e9 / 2.6e6)
    return rounded(factor * min(3e-3, 3e-3 * (parameters / 2.6e6) ** -slope))


def rounded(rate: float) -> float:
    """Two significant digits, as a person would write it."""
    return float(f"{rate:.1e}")
