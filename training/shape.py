"""The shape of a model, read off its folder: what its memory and its arithmetic follow from.

Reads config.json and the headers of the weights; imports no ML library that takes seconds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

# Names under which architectures keep the same number, most usual first.
_NAMES = {
    "hidden": ("hidden_size", "n_embd", "d_model"),
    "layers": ("num_hidden_layers", "n_layer", "num_layers"),
    "heads": ("num_attention_heads", "n_head"),
    "intermediate": ("intermediate_size", "n_inner", "ffn_dim"),
    "vocabulary": ("vocab_size",),
}
_CONTEXT = ("max_position_embeddings", "n_positions")
_EMBEDDINGS = ("embed", "wte", "wpe", "lm_head", "score")


class ModelShape(NamedTuple):
    """Sizes of a decoder.

    `parameters` counts tied embeddings once. `kv_width` is the width of a token's keys, and of its
    values, in one layer. `linear_widths` is the sum of inputs and outputs over all linear layers
    but the output head, which is what low-rank tuning wraps; `linear_layers` is their number.
    `context` is how many tokens it has positions for; None where that is not limited, or not told.
    """

    parameters: int
    layers: int
    hidden: int
    intermediate: int
    kv_width: int
    vocabulary: int
    linear_layers: int
    linear_widths: int
    linear_parameters: int
    context: int | None = None


def read_shape(source: str | Path) -> ModelShape | None:
    """The shape of a model folder, or of a hub id in the local cache; None where it is not known.

    Weights in another format than safetensors are not known.
    """
    folder = model_folder(source)
    if folder is None:
        return None
    matrices = list(_matrices(folder))
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config = config.get("text_config", config)
        sizes = _sizes(config)
    except (OSError, ValueError, KeyError):
        return None
    if not matrices:
        return None
    linear = [shape for name, shape in matrices if _is_linear(name, shape)]
    return ModelShape(
        parameters=sum(math.prod(shape) for _, shape in matrices),
        layers=sizes["layers"],
        hidden=sizes["hidden"],
        intermediate=sizes["intermediate"],
        kv_width=sizes["kv_width"],
        vocabulary=sizes["vocabulary"],
        linear_layers=len(linear),
        linear_widths=sum(map(sum, linear)),
        linear_parameters=sum(map(math.prod, linear)),
        context=next((config[name] for name in _CONTEXT if config.get(name)), None),
    )


def count_parameters(source: str | Path) -> int | None:
    """How many weights a model holds; None where that cannot be told."""
    folder = model_folder(source)
    return sum(math.prod(shape) for _, shape in _matrices(folder)) or None if folder else None


def model_folder(source: str | Path) -> Path | None:
    """Where the files of a model are on this machine; None for a hub id that is not cached."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    if Path(source).is_dir():
        return Path(source)
    try:
        return Path(snapshot_download(str(source), local_files_only=True))
    except (LocalEntryNotFoundError, ValueError):
        return None


def _matrices(folder: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and shape of every weight, off the headers of the files."""
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="np") as weights:
            for name in weights.keys():  # noqa: SIM118
                yield name, tuple(weights.get_slice(name).get_shape())


def _is_linear(name: str, shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and not any(part in name for part in _EMBEDDINGS)


def _sizes(config: Mapping[str, Any]) -> dict[str, int]:
    """Raises `KeyError` for an architecture that says none of the usual names."""
    known = {
        size: next((config[name] for name in names if config.get(name)), None)
        for size, names in _NAMES.items()
    }
    known["intermediate"] = known["intermediate"] or 4 * (known["hidden"] or 0)
    if missing := [size for size, value in known.items() if not value]:
        raise KeyError(*missing)
    heads = int(known["heads"] or 1)
    width = config.get("head_dim") or int(known["hidden"] or 0) // heads
    known["kv_width"] = (config.get("num_key_value_heads") or heads) * width
    return {size: int(value or 0) for size, value in known.items()}
