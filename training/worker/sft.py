"""Supervised fine-tuning on the assistant's tokens alone, with TRL's trainer.

python -m training.worker RUN_DIR        # spec.json says method "sft"
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from training.events import EventKind
from training.methods.sft import LearnFrom, SFTOptions
from training.worker import data, evaluate, fitting, models
from training.worker.encoding import Encoder
from training.worker.job import Job

IGNORED = -100  # what the loss passes over, by torch's convention


def train(job: Job) -> Mapping[str, Any]:
    """Train, measure, and leave the adapter in `adapter.partial`; returns the result's report.

    Raises `WorkerError` for what a person can act on, `Cancelled` when asked to stop.
    """
    began = time.monotonic()
    options = job.spec.options
    assert isinstance(options, SFTOptions)
    job.enter_phase("loading")
    loaded = models.load(job.spec, options)
    fitting.warn_of_other_rank(job, options, loaded)

    job.enter_phase("preparing")
    split = fitting.read_split(job, options, keep=lambda row: _is_learned(row, options))
    trainer = _build_trainer(job, options, loaded, split)
    trainee = loaded.trainee(trainer.model)
    fitting.warn_of_endless(job, loaded, trainer.train_dataset["labels"])
    counts = fitting.lay_out(trainer, options, job, split.sources, row_lengths)
    fitted = fitting.fit(job, options, trainer, trainee, counts)

    job.enter_phase("evaluating")
    held_out = list(trainer.eval_dataset) if trainer.eval_dataset is not None else []
    likelihood = evaluate.compare_likelihoods(trainee, [_scored(row) for row in held_out], job.stop)
    if likelihood:
        job.events.write(EventKind.METRICS, step=fitted.steps, held_out_loss=likelihood.loss_after)
    return {
        **fitted.report(began),
        "likelihood": likelihood._asdict() if likelihood else None,
        **evaluate.answer_held_out(job, options, trainee),
    }


def row_lengths(tokenized: Dataset) -> list[int]:
    """Tokens of each row."""
    return [len(ids) for ids in tokenized["input_ids"]]


class QuietSFTTrainer(SFTTrainer):  # type: ignore[misc]  # the library has no types
    """TRL's trainer without its model card: the run's directory says all."""

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Nothing."""


def _is_learned(row: data.Row, options: SFTOptions) -> bool:
    return options.learn_from == LearnFrom.ALL or row.values["kind"] == "demonstration"


def _build_trainer(
    job: Job, options: SFTOptions, loaded: models.Loaded, split: data.Split
) -> QuietSFTTrainer:
    encoder = Encoder(loaded.tokenizer, loaded.model)
    return QuietSFTTrainer(
        model=loaded.model,
        args=SFTConfig(**fitting.trainer_arguments(job, options)),
        train_dataset=_encode(encoder, split.train),
        eval_dataset=_encode(encoder, split.held_out) if split.held_out else None,
        processing_class=loaded.tokenizer,
        peft_config=loaded.fresh_adapter,
    )


def _encode(encoder: Encoder, rows: list[data.Row]) -> Dataset:
    """Token ids, and the same as labels where the assistant speaks."""
    encoded = [encoder.encode(row.prompt, row.values["completion"]) for row in rows]
    labels = [[IGNORED] * len(e.prompt_ids) + e.completion_ids for e in encoded]
    return Dataset.from_dict({"input_ids": [e.ids for e in encoded], "labels": labels})


def _scored(row: Mapping[str, Any]) -> evaluate.Scored:
    ids, labels = row["input_ids"], row["labels"]
    return evaluate.Scored(ids, sum(label == IGNORED for label in labels))
