"""The product's trainers against TRL's bare ones, and how soon a run takes its first step.

Both train in this process, one after the other, on the same rows in the same batches, with LoRA on
the starter policy. What counts is the processor time of `Trainer.train` for each step: one thread's
clock stops while others use the machine, and interleaving spreads what is left over both.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import app
from tests.bench.estimate import write_of_grammar
from tests.rundirs import run_here, write_rows
from tests.services import Lab, open_lab
from training.config import RunSpec
from training.lengths import TokenCounter
from training.methods import method_named
from training.methods.trainer_options import TrainerOptions
from training.rundir import Outcome, RunDir
from training.worker.data import COLUMNS, training_order

METHODS = ("sft", "dpo", "reward", "kto")
STARTER = app.ASSETS / "starter"
# Nothing but training: no held-out rows, no test prompts, no checkpoint before the end.
ALONE = {"eval_share": 0.0, "evaluations": 0, "eval_generations": 0, "save_steps": 100000}

Row = Mapping[str, Any]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=METHODS)
    parser.add_argument("--starts", type=int, default=5, help="launches to time, of each kind")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Processor time of a step of ours over that of a bare one, by method, and seconds from
    pressing Train to the first step.

    `first_step_s` is with a trainer that stands by, as one does while a lead looks at the Train
    tab; `first_step_cold_s` where it is pressed before any import was made. `steps` tells how the
    ratios came about.
    """
    import torch

    torch.set_num_threads(1)
    say: Callable[[object], None] = (
        (lambda _: None) if options.json else lambda told: print(told, file=sys.stderr, flush=True)
    )
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for method in options.methods:
            found[method] = _compare(Path(folder), method, options)
            say({method: found[method]})
    prepared, cold = (_first_steps(options.starts, is_prepared=is_one) for is_one in (True, False))
    say({"prepared": prepared, "cold": cold})
    return {
        "overhead": {method: compared["ratio"] for method, compared in found.items()},
        "first_step_s": median(prepared) if prepared else None,
        "first_step_cold_s": median(cold) if cold else None,
        "steps": found,
        "first_steps_s": {"prepared": prepared, "cold": cold},
        "load": os.getloadavg()[0],
    }


def _compare(folder: Path, method: str, options: argparse.Namespace) -> dict[str, Any]:
    """Medians over the repeats; `spread` are the lowest and the highest ratio."""
    chosen = method_named(method).options.parsed({"batch_size": options.batch_size, "epochs": 1})
    assert isinstance(chosen, TrainerOptions)
    ours, bare = [], []
    for repeat in range(options.repeats):
        rows = write_of_grammar(options.rows, method_named(method).learns_from, repeat)
        at = folder / f"{method}-{repeat}"
        # Whoever goes second finds warm caches: take turns.
        if repeat % 2:
            bare.append(_bare(at.with_suffix(".bare"), method, chosen, rows, seed=0))
        ours.append(_ours(at, method, chosen, rows))
        if not repeat % 2:
            bare.append(_bare(at.with_suffix(".bare"), method, chosen, rows, seed=0))
    ratios = [one / other for one, other in zip(ours, bare, strict=True)]
    return {
        "step_s": round(median(ours), 4),
        "bare_step_s": round(median(bare), 4),
        "ratio": round(median(ratios), 3),
        "spread": [round(min(ratios), 3), round(max(ratios), 3)],
        "repeats": options.repeats,
    }


def _ours(folder: Path, method: str, options: TrainerOptions, rows: list[dict[str, Any]]) -> float:
    """Processor seconds of a step of a run of ours."""
    spec = RunSpec(
        run_id=folder.name,
        method=method,
        options=method_named(method).options.parsed({**asdict(options), **ALONE}),
        base_model=str(STARTER),
        parent_version="pol-000000",
    )
    data = write_rows(folder.with_suffix(".parquet"), rows)
    run_dir = RunDir.create(folder, spec, data=data, eval_prompts=[])
    with _timed_training() as timed:
        result = run_here(run_dir)
    assert result.state is Outcome.SUCCEEDED, result.failure
    return sum(timed) / int(result.report["steps"])


def _bare(
    folder: Path, method: str, options: TrainerOptions, rows: Sequence[Row], *, seed: int
) -> float:
    """Processor seconds of a step of TRL's trainer as its documentation shows it."""
    from transformers import PrinterCallback

    trainer = _bare_trainer(folder, method, options, _in_our_order(rows, method, options, seed))
    trainer.remove_callback(PrinterCallback)
    with _timed_training() as timed:
        trainer.train()
    return sum(timed) / int(trainer.state.global_step)


def _bare_trainer(folder: Path, method: str, options: TrainerOptions, rows: Sequence[Row]) -> Any:
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
    from trl import (
        DPOConfig,
        DPOTrainer,
        KTOConfig,
        KTOTrainer,
        RewardConfig,
        RewardTrainer,
        SFTConfig,
        SFTTrainer,
    )

    from training.loading import load_tokenizer

    trainers = {
        "sft": (SFTTrainer, SFTConfig),
        "dpo": (DPOTrainer, DPOConfig),
        "kto": (KTOTrainer, KTOConfig),
        "reward": (RewardTrainer, RewardConfig),
    }
    trainer, config = trainers[method]
    tokenizer = load_tokenizer(STARTER)
    if method == "reward":
        model = AutoModelForSequenceClassification.from_pretrained(
            STARTER, num_labels=1, dtype="float32"
        )
        model.config.pad_token_id = tokenizer.pad_token_id
    else:
        model = AutoModelForCausalLM.from_pretrained(STARTER, dtype="float32")
    given = set(COLUMNS[method_named(method).learns_from].names) & {
        *("prompt", "chosen", "rejected", "completion", "label")
    }
    return trainer(
        model=model,
        args=config(
            output_dir=str(folder),
            learning_rate=options.learning_rate,
            per_device_train_batch_size=options.batch_size,
            num_train_epochs=1,
            train_sampling_strategy="sequential",
            gradient_checkpointing=False,
            use_cpu=True,
            bf16=False,
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list([{name: row[name] for name in given} for row in rows]),
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=options.lora_r,
            lora_alpha=options.lora_alpha,
            target_modules="all-linear",
            task_type="SEQ_CLS" if method == "reward" else "CAUSAL_LM",
        ),
    )


def _in_our_order(
    rows: Sequence[Row], method: str, options: TrainerOptions, seed: int
) -> list[Row]:
    """Rows of like length in a batch, as a run of ours lays them out."""
    counter = TokenCounter(STARTER)
    sides = ("chosen", "rejected") if method in ("dpo", "reward") else ("completion",)
    lengths = [
        max(counter.count([(row["prompt"], [row[side][0]["content"] for side in sides])]).sequences)
        for row in rows
    ]
    order = training_order(lengths, epochs=1, batch_size=options.batch_size, seed=seed)
    return [rows[place] for place in order]


@contextmanager
def _timed_training() -> Iterator[list[float]]:
    """Inside, each `Trainer.train` adds its processor seconds to the list."""
    from transformers import Trainer

    train = Trainer.train
    spent: list[float] = []

    def timed(self: Any, *given: Any, **named: Any) -> Any:
        began = time.process_time()
        try:
            return train(self, *given, **named)
        finally:
            spent.append(time.process_time() - began)

    Trainer.train = timed
    try:
        yield spent
    finally:
        Trainer.train = train


def _first_steps(count: int, *, is_prepared: bool) -> list[float]:
    """Wall-clock seconds from pressing Train to the first optimiser step, of each launch."""
    if not count:
        return []
    with tempfile.TemporaryDirectory() as folder, open_lab(Path(folder), STARTER, pairs=64) as lab:
        return [round(_first_step(lab, is_prepared=is_prepared), 2) for _ in range(count)]


def _first_step(lab: Lab, *, is_prepared: bool) -> float:
    if is_prepared:
        lab.service.prepare()
        lab.service.wait_prepared(120)
    pressed_at = time.time()
    run = lab.launch(epochs=5)
    lab.wait_for_step(run, 1)
    first = next(event for event in lab.events(run, "metrics"))
    lab.service.cancel(run.id)
    lab.wait(run)
    return first.at - pressed_at
