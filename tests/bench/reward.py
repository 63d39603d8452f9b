"""A reward model from noisy judgments of the gold preference: how it ranks what it never saw.

The bundled policy answers its own sample prompts twice, a simulated annotator judges, and a reward
run learns by the preset. On held-out judgments the annotator's noise bounds the accuracy; on new
pairs, in the order of the gold preference itself, nothing does.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import cycle, islice
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import pyarrow.parquet  # type: ignore[import-untyped]

import app
from labeling.candidates import DEFAULT_SAMPLING
from tests.gold import Choice, SimulatedAnnotator, score
from tests.rundirs import run_here, write_rows
from training.config import RunSpec
from training.generation import Output, Request, generate
from training.loading import load_base, load_tokenizer, render_prompt
from training.methods import method_named
from training.proportions import win_rate
from training.rundir import Outcome, RunDir

STARTER = app.ASSETS / "starter"
PROMPTS = STARTER / "prompts.jsonl"
ASKED_AT_ONCE = 64


class Pair(NamedTuple):
    """Two responses to a prompt."""

    asked: str
    a: Output
    b: Output

    @property
    def gold_difference(self) -> float:
        """Above 0 when the gold preference likes the first one better."""
        return score(self.asked, self.a.text).total - score(self.asked, self.b.text).total


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--judgments", type=int, default=3000)
    parser.add_argument("--new-pairs", type=int, default=300, help="to rank in gold order")
    parser.add_argument("--noise", type=float, default=1.0, help="gold points that blur a verdict")
    parser.add_argument(
        "--watch-share", type=float, default=0.5, help="of the conversations, for a second model"
    )
    parser.add_argument("--seed", type=int, default=0)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """The run's own figures on held-out judgments, and those on new pairs."""
    import torch

    torch.set_num_threads(1)
    train, held_out = (_prompts(split) for split in ("train", "held_out"))
    judged = _write_pairs(train, options.judgments, seed=options.seed)
    fresh = _write_pairs(held_out, options.new_pairs, seed=options.seed + 1)
    annotator = SimulatedAnnotator(noise=options.noise, seed=options.seed)
    with tempfile.TemporaryDirectory() as folder:
        data = write_rows(Path(folder) / "rows.parquet", list(_rows(judged, annotator)))
        run_dir = train_by_preset(
            Path(folder), data, seed=options.seed, watch_share=options.watch_share
        )
        result = run_dir.read_result()
        assert result is not None
        return {
            "judgments": options.judgments,
            "watch_share": options.watch_share,
            "seed": options.seed,
            "held_out": result.report["reward_model"],
            "data": result.report["data"],
            "new_pairs": _rank(run_dir.adapter, fresh),
            "cpu_s": round(result.report["usage"]["cpu_s"], 1)
            if "usage" in result.report
            else None,
            "load": os.getloadavg()[0],
        }


def _prompts(split: str) -> list[str]:
    rows = map(json.loads, PROMPTS.read_text(encoding="utf-8").splitlines())
    return [row["messages"][-1]["content"] for row in rows if row["split"] == split]


def _write_pairs(prompts: Sequence[str], count: int, *, seed: int) -> list[Pair]:
    """Two sampled responses to each of `count` prompts, over and over where there are fewer."""
    asked = list(islice(cycle(prompts), count))
    first, second = (_answer(asked, seed=2 * seed + side) for side in (0, 1))
    return [Pair(*pair) for pair in zip(asked, first, second, strict=True)]


def _answer(asked: Sequence[str], *, seed: int) -> list[Output]:
    model, tokenizer = load_base(STARTER), load_tokenizer(STARTER)
    requests = [
        Request(
            render_prompt(tokenizer, [{"role": "user", "content": text}]),
            DEFAULT_SAMPLING.max_new_tokens,
            temperature=DEFAULT_SAMPLING.temperature,
            top_p=DEFAULT_SAMPLING.top_p,
            seed=1_000_003 * seed + place,
        )
        for place, text in enumerate(asked)
    ]
    batches = (requests[at : at + ASKED_AT_ONCE] for at in range(0, len(requests), ASKED_AT_ONCE))
    return [output for batch in batches for output in generate(model, tokenizer, batch)]


def _rows(pairs: Sequence[Pair], annotator: SimulatedAnnotator) -> Iterator[dict[str, Any]]:
    """Comparisons as a snapshot holds them, without equal texts and empty ones."""
    for number, pair in enumerate(pairs):
        if pair.a.text == pair.b.text or not (pair.a.text.strip() and pair.b.text.strip()):
            continue
        choice, strength = annotator.compare(pair.asked, pair.a.text, pair.b.text)
        chosen, rejected = (pair.b, pair.a) if choice is Choice.B else (pair.a, pair.b)
        yield {
            "prompt": [{"role": "user", "content": pair.asked}],
            "chosen": [{"role": "assistant", "content": chosen.text}],
            "rejected": [{"role": "assistant", "content": rejected.text}],
            "margin": float(strength),
            "is_tie": choice is Choice.TIE,
            "comparison_id": f"c{number}",
        }


def train_by_preset(folder: Path, data: Path, *, seed: int, **given: Any) -> RunDir:
    """A reward run on the bundled policy, in this process; `given` replace the preset's options."""
    method = method_named("reward")
    rows = pyarrow.parquet.read_metadata(data).num_rows
    parameters = sum(weight.numel() for weight in load_base(STARTER).parameters())
    preset = method.options.preset(rows, parameters=parameters, tuning="lora")
    spec = RunSpec(
        run_id="reward",
        method="reward",
        options=method.options.parsed({**asdict(preset), **given}),
        base_model=str(STARTER),
        parent_version="pol-000000",
        seed=seed,
    )
    run_dir = RunDir.create(folder / "reward", spec, data=data, eval_prompts=[])
    result = run_here(run_dir)
    assert result.state is Outcome.SUCCEEDED, result.failure
    return run_dir


def _rank(adapter: Path, pairs: Sequence[Pair]) -> dict[str, Any]:
    """How often the reward model, and length, put new pairs in the order of the gold preference."""
    from training.worker.scoring import load_reward_model

    told_apart = [pair for pair in pairs if pair.gold_difference != 0]
    tokenizer = load_tokenizer(STARTER)
    model = load_reward_model(str(STARTER), str(adapter))
    prompts = [
        render_prompt(tokenizer, [{"role": "user", "content": pair.asked}]) for pair in told_apart
    ]

    def scores(side: str) -> list[float]:
        return model.score(prompts, [getattr(pair, side).token_ids for pair in told_apart])

    differences = [a - b for a, b in zip(scores("a"), scores("b"), strict=True)]
    right = [d * p.gold_difference > 0 for d, p in zip(differences, told_apart, strict=True)]
    found = win_rate(sum(right), len(right) - sum(right), 0)
    return {
        "pairs": found.n,
        "accuracy": found.rate,
        "low": found.low,
        "high": found.high,
        "longer_wins": fmean(_longer_wins(pair) for pair in told_apart),
    }


def _longer_wins(pair: Pair) -> float:
    """1 if the gold preference likes the longer one better, 0 if not, 0.5 for equal lengths."""
    grown = pair.a.token_count - pair.b.token_count
    return 0.5 if grown == 0 else float(grown * pair.gold_difference > 0)
