"""Supervised fine-tuning on the assistant's tokens alone, with TRL's trainer.

python -m training.worker RUN_DIR        # spec.json says method "sft"
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from datasets import Dataset
from transformers import set_seed
from trl import SFTConfig, SFTTrainer

from training.events import EventKind
from training.methods.sft import SFTOptions
from training.methods.trainer_options import ImitationOptions
from training.worker import answers, data, evaluate, fitting, general, models
from training.worker.encoding import IGNORED, Encoded, Encoder
from training.worker.general import Replay
from training.worker.job import Job
from training.worker.start import PullToStart


def train(job: Job) -> Mapping[str, Any]:
    """Train, measure, and leave the adapter in `adapter.partial`; returns the result's report.

    Raises `WorkerError` for what a person can act on, `Cancelled` when asked to stop.
    """
    options = job.spec.options
    assert isinstance(options, SFTOptions)
    job.enter_phase("loading")
    loaded = models.load(job.spec, options)
    fitting.warn_of_other_rank(job, options, loaded)

    job.enter_phase("preparing")
    split = fitting.read_split(job, options)
    taught = teach(job, options, loaded, _lessons(loaded, options, split))
    return {**taught.report(), **answers.answer_held_out(job, options, taught.trainee)}


class Lessons(NamedTuple):
    """Completions to imitate, others to measure on, and the rows of the snapshot behind each."""

    train: list[Encoded]
    held_out: list[Encoded]
    sources: list[list[int]]

    def with_replay(self, replay: Replay) -> Lessons:
        """The same, with what is replayed among what is to be imitated."""
        behind: list[list[int]] = [[] for _ in replay.rows]
        return Lessons([*self.train, *replay.rows], self.held_out, [*self.sources, *behind])


class Taught(NamedTuple):
    """A policy that has learned its lessons, and how likely it finds those that it has not seen."""

    trainee: models.Trainee
    fitted: fitting.Fitted
    likelihood: evaluate.Likelihood | None

    def report(self) -> dict[str, Any]:
        """For the run's result."""
        likelihood = self.likelihood._asdict() if self.likelihood else None
        return {**self.fitted.report(), "likelihood": likelihood}


def teach(job: Job, options: ImitationOptions, loaded: models.Loaded, lessons: Lessons) -> Taught:
    """Train on the lessons, save, and enter the phase of evaluating with their likelihood."""
    replay = general.draw_replay(job, options, loaded, learned=len(lessons.train))
    lessons = lessons.with_replay(replay)
    # A run that goes on must find the same start, and a fresh adapter is drawn at random.
    set_seed(job.spec.seed)
    trainer = _build_trainer(job, options, loaded, lessons)
    trainee = loaded.trainee(trainer.model)
    fitting.warn_of_endless(job, loaded, trainer.train_dataset["labels"])
    if options.l2_to_start:
        fitting.refuse_spread(trainer, "l2_to_start", options.l2_to_start)
        trainer.add_callback(PullToStart(trainee.model, options.l2_to_start))
    laid_out = fitting.lay_out(trainer, options, job, lessons.sources, row_lengths)
    job.note_replayed_rows(replay.numbers)
    counts = _apart(laid_out, replay)
    fitted = fitting.fit(job, trainer, trainee, counts, epochs=options.epochs)
    trainee = fitted.trainee

    job.enter_phase("evaluating")
    held_out = list(trainer.eval_dataset) if trainer.eval_dataset is not None else []
    likelihood = evaluate.compare_likelihoods(trainee, [_scored(row) for row in held_out], job.stop)
    if likelihood:
        loss = likelihood.loss_after
        job.events.write(EventKind.METRICS, step=fitted.kept_step, held_out_loss=loss)
    return Taught(trainee, fitted, likelihood)


def row_lengths(tokenized: Dataset) -> list[int]:
    """Tokens of each row."""
    return [len(ids) for ids in tokenized["input_ids"]]


class QuietSFTTrainer(fitting.WithoutCard, SFTTrainer):  # type: ignore[misc]  # the library has no types
    """TRL's trainer."""


def _apart(counts: Mapping[str, int], replay: Replay) -> dict[str, int]:
    """What is replayed is counted by itself; all of it fits, so none was left out."""
    replayed = len(replay.rows)
    return {**counts, "train": counts["train"] - replayed, "replayed": replayed}


def _lessons(loaded: models.Loaded, options: SFTOptions, split: data.Split) -> Lessons:
    encoder = Encoder(loaded.tokenizer, loaded.model)
    encode = encoder.encode_all_turns if options.earlier_turns else encoder.encode
    # Measured is always the answer to the whole prompt, so that runs compare.
    train = [encode(row.prompt, row.values["completion"]) for row in split.train]
    held_out = [encoder.encode(row.prompt, row.values["completion"]) for row in split.held_out]
    return Lessons(train, held_out, split.sources)


def _build_trainer(
    job: Job, options: ImitationOptions, loaded: models.Loaded, lessons: Lessons
) -> QuietSFTTrainer:
    return QuietSFTTrainer(
        model=loaded.model,
        args=SFTConfig(**fitting.trainer_arguments(job, options)),
        train_dataset=_to_dataset(lessons.train),
        eval_dataset=_to_dataset(lessons.held_out) if lessons.held_out else None,
        processing_class=loaded.tokenizer,
        peft_config=loaded.fresh_adapter,
    )


def _to_dataset(encoded: Sequence[Encoded]) -> Dataset:
    """Token ids, and the same as labels where the assistant is imitated."""
    return Dataset.from_dict(
        {"input_ids": [e.ids for e in encoded], "labels": [e.labels for e in encoded]}
    )


def _scored(row: Mapping[str, Any]) -> evaluate.Scored:
    ids, labels = row["input_ids"], row["labels"]
    return evaluate.Scored(ids, sum(label == IGNORED for label in labels))
