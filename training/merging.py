"""A policy as one ordinary model: the adapter merged into its base, checked before it is offered.

    python -m training.merging BASE ADAPTER FOLDER

Merging has gone wrong elsewhere without a word, so the merged model is read back from disk and has
to give the logits of base and adapter on fixed prompts; otherwise nothing is left behind.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.loading import ModelLoadError, load_base, load_tokenizer, render_prompt
from training.shortages import is_disk_full
from training.tuning import VIRTUAL_TOKENS, Tuning, tuning_of

if TYPE_CHECKING:
    import torch

PROMPTS = ("Hello! What can you help me with?", "你好，你能帮我做什么？")
TOLERANCE = 5e-3  # nats; rounding in float32 came to 3e-4 on a model of random weights
REPORT_FILE = "merge.json"


class MergeFailed(ModelLoadError):
    """The merged model is not the same policy, or not written; nothing was left behind."""


@dataclass(frozen=True)
class MergeReport:
    """How far the merged model's log-probabilities are from those of base and adapter, in nats."""

    largest_difference: float
    tokens: int


def merge(base_model: str, adapter: Path, folder: Path) -> MergeReport:
    """Write base and adapter as one model with its tokenizer to `folder`, which must not exist.

    In float32, on the CPU. Raises `ModelLoadError` for what cannot be read, `MergeFailed` for
    virtual tokens, which no weight can hold, where the logits differ, and where the disk is full.
    """
    if tuning_of(adapter) in VIRTUAL_TOKENS:
        raise MergeFailed(
            "virtual tokens cannot be merged into a model; export the adapter as it is"
        )
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    tokenizer = load_tokenizer(base_model)
    rows = [render_prompt(tokenizer, [{"role": "user", "content": text}]) for text in PROMPTS]
    model = _with_adapter(base_model, adapter)
    expected = _log_probs(model, rows)
    merged = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
    with _removed_on_failure(partial):
        merged.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        report = _compare(expected, _log_probs(load_base(partial), rows))
        (partial / REPORT_FILE).write_text(json.dumps(asdict(report)), encoding="utf-8")
        partial.rename(folder)
    return report


@contextmanager
def _removed_on_failure(folder: Path) -> Iterator[None]:
    """Leave no half-written model. Raises `MergeFailed` where the disk is full."""
    try:
        yield
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if not is_disk_full(error):
            raise
        raise MergeFailed(
            "the disk is full, and nothing was exported: {error}; free some space, and merge again",
            error=error,
        ) from error


def _with_adapter(base_model: str, adapter: Path) -> Any:
    """Raises `ModelLoadError`."""
    from peft import PeftModel

    if tuning_of(adapter) is Tuning.FULL:
        return load_base(adapter)
    base = load_base(base_model)
    try:
        return PeftModel.from_pretrained(base, adapter).eval()
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelLoadError(
            "the adapter in {folder} cannot be read: {error}; choose what a run left",
            folder=adapter,
            error=error,
        ) from error


def _log_probs(model: Any, rows: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """Log-probabilities after each token of each row, (tokens, vocabulary)."""
    import torch

    with torch.no_grad():
        logits = [model(input_ids=torch.tensor([list(row)])).logits[0].float() for row in rows]
    return [values.log_softmax(dim=-1) for values in logits]


def _compare(expected: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> MergeReport:
    """Raises `MergeFailed`."""
    pairs = list(zip(expected, found, strict=True))
    largest = max(float((one - other).abs().max()) for one, other in pairs)
    if not largest <= TOLERANCE:
        raise MergeFailed(
            "the merged model differs from its adapter by {difference:.3g} nats; nothing was "
            "exported, use the adapter as it is",
            difference=largest,
        )
    return MergeReport(largest, sum(len(one) for one, _ in pairs))


def main(arguments: Sequence[str]) -> int:
    """Merge from the command line; exit code 2 for what cannot be merged."""
    parser = argparse.ArgumentParser(prog="python -m training.merging", description=__doc__)
    parser.add_argument("base_model", help="a folder or hub id")
    parser.add_argument("adapter", type=Path, help="what a run left in its folder `adapter`")
    parser.add_argument("folder", type=Path, help="where the model goes; must not exist")
    given = parser.parse_args(arguments)
    if given.folder.exists():
        parser.error(f"{given.folder} exists already; choose another folder")
    try:
        report = merge(given.base_model, given.adapter, given.folder)
    except ModelLoadError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{json.dumps(asdict(report))}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
