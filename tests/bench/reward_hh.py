"""A reward model on Anthropic's harmless-base pairs, beside what length and words alone would say.

The file goes the way of any import, and the reward run is one by the preset on the bundled policy,
one epoch. Pairs are split by prompt: near 0.80 they would have leaked. The texts are offensive.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from store import imports, snapshots
from store.db import Store
from store.training_data import Kind
from tests.bench.reward import STARTER, train_by_preset
from tests.bench.text_baselines import BagOfWords, Pair, cross_validated, longer_wins
from training.lengths import TokenCounter
from training.methods import LearnsFrom
from training.proportions import wilson_interval
from training.worker import data

SHARED = Path(os.environ.get("WHETSTONE_SHARED", Path(__file__).parents[3] / "shared"))
HARMLESS = SHARED / "data/hh-rlhf/harmless-base-test.jsonl.gz"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--file", type=Path, default=HARMLESS)
    parser.add_argument("--eval-share", type=float, default=0.15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only-baselines", action="store_true", help="train nothing")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """The baselines on all pairs, five folds by prompt; then all three on the run's held-out."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        snapshot = _snapshot(folder, options.file)
        pairs = [_pair(row) for row in data.read_rows(snapshot, LearnsFrom.COMPARISONS)]
        folds = cross_validated(pairs)
        found = {
            "pairs": len(pairs),
            "longer_wins": longer_wins(pairs),
            "bag_of_words": fmean(folds),
            "bag_of_words_sd": stdev(folds),
        }
        if options.only_baselines:
            return found
        return found | {"held_out": _on_held_out(folder, snapshot, options), "seed": options.seed}


def _snapshot(folder: Path, file: Path) -> Path:
    """The file's pairs as a reward run is given them."""
    store = Store(folder / "store")
    try:
        imports.import_file(store, file, created_by="bench", held_out_share=0.0)
        kind = Kind.COMPARISONS
        made = snapshots.freeze(store, folder / "snapshots", kind=kind, created_by="bench")
        return Path(made.path)
    finally:
        store.close()


def _on_held_out(folder: Path, snapshot: Path, options: argparse.Namespace) -> dict[str, Any]:
    """The reward model and both baselines on the pairs that its run held out and could read.

    No pair is kept for a second model: what the first one is compared with learns from all too.
    """
    run_dir = train_by_preset(
        folder,
        snapshot,
        seed=options.seed,
        epochs=1,
        eval_share=options.eval_share,
        watch_share=0.0,
    )
    result = run_dir.read_result()
    assert result is not None
    ranked, counts = result.report["reward_model"], result.report["data"]
    rows = data.read_rows(snapshot, LearnsFrom.COMPARISONS)
    train = [_pair(rows[number]) for number in run_dir.read_trained_rows()]
    held_out = _readable(data.split_by_conversation(rows, options.eval_share)[1])
    if len(held_out) != ranked["pairs"]:
        raise SystemExit(f"The run ranked {ranked['pairs']} pairs, and {len(held_out)} are here.")
    low, high = wilson_interval(ranked["accuracy"] * ranked["pairs"], ranked["pairs"])
    return {
        **{name: ranked[name] for name in ("pairs", "accuracy", "loss", "ece")},
        "low": low,
        "high": high,
        "longer_wins": longer_wins(held_out),
        "bag_of_words": BagOfWords(train).accuracy(held_out),
        "trained_on": counts["train"],
        "too_long": counts["too_long"],
    }


def _readable(rows: Sequence[data.Row]) -> list[Pair]:
    """Those that the bundled policy's context has room for."""
    counter, longest = TokenCounter(STARTER), 512
    sides = ("chosen", "rejected")
    return [
        _pair(row)
        for row in rows
        if max(
            counter.count(
                [(row.prompt, [row.values[side][0]["content"] for side in sides])]
            ).sequences
        )
        <= longest
    ]


def _pair(row: data.Row) -> Pair:
    chosen, rejected = (row.values[side][0]["content"] for side in ("chosen", "rejected"))
    return Pair(chosen, rejected, group="\n".join(message["content"] for message in row.prompt))
