"""What every recipe on one of TRL's trainers of rows does alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from training.loading import context_length, stop_token_ids
from training.methods.process_options import not_spread
from training.methods.trainer_options import TrainerOptions, TuningOptions
from training.tuning import LOW_RANK, Tuning
from training.worker import data, models, tracking
from training.worker.decontamination import untested
from training.worker.failures import BadData, Diverged, ModelUnusable
from training.worker.job import Job
from training.worker.models import Loaded, Trainee
from training.worker.report import Reporter

EVAL_BATCH = 16
LOOKED_AT = 100

Lengths = Callable[[Dataset], Sequence[int]]


class Fitted(NamedTuple):
    """A training that is done: what has learned, what from, and how it went."""

    trainee: Trainee
    counts: Mapping[str, int]
    metrics: Mapping[str, Any]
    steps: int
    best_step: int | None  # where early stopping went back to
    timing: Mapping[str, float | None]

    @property
    def kept_step(self) -> int:
        """The step whose weights were kept, and are measured."""
        return self.steps if self.best_step is None else self.best_step

    def report(self) -> dict[str, Any]:
        """For the run's result."""
        return {
            "data": self.counts,
            "training": self.metrics,
            "steps": self.steps,
            "best_step": self.best_step,
            "timing": self.timing,
        }


class Patience(EarlyStoppingCallback):  # type: ignore[misc]  # the library has no types
    """Ends a training that no longer gets better, and counts on where it is resumed.

    A run that was interrupted just when its patience was at an end is trained one step more; the
    best step, which is what is kept, stays what it was.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> None:
        """Count what was measured since the best, if anything was before an interruption."""
        super().on_train_begin(args, state, control, **more)
        best = state.best_global_step
        measured = [entry["step"] for entry in state.log_history if "eval_loss" in entry]
        self.early_stopping_patience_counter = sum(step > (best or 0) for step in measured)
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            control.should_training_stop = True


class WithoutCard:
    """Mixed into TRL's trainers: no model card. The run's directory says all, and writing one takes
    time at each checkpoint."""

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """Nothing."""


def read_split(job: Job, options: TrainerOptions) -> data.Split:
    """The rows of the snapshot that are learned from, by conversation, without test prompts.

    Raises `BadData`.
    """
    rows = data.read_rows(job.run_dir.path / job.spec.data, job.method.learns_from)
    if options.only_kind:
        rows = [row for row in rows if row.values["kind"] == options.only_kind]
    whole = data.split_by_conversation(rows, options.eval_share)
    if not whole.train:
        raise BadData("The snapshot holds nothing of the kind to train on.")
    return whole._replace(train=untested(job, whole.train))


def trainer_arguments(job: Job, options: TrainerOptions) -> dict[str, Any]:
    """Arguments that the configurations of all of TRL's trainers of rows take."""
    return {
        **shared_arguments(job, options),
        "weight_decay": options.weight_decay,
        "max_length": None,
        "per_device_train_batch_size": options.batch_size,
        # Without gradients: who needs small batches to train needs them here.
        "per_device_eval_batch_size": min(EVAL_BATCH, 2 * options.batch_size),
        "gradient_accumulation_steps": options.gradient_accumulation,
        "train_sampling_strategy": "sequential",
        # Its checkpoints hold the count, so that a run that goes on tells the whole.
        "include_num_input_tokens_seen": "non_padding",
        "save_steps": options.save_steps,
    }


def shared_arguments(job: Job, options: TuningOptions) -> dict[str, Any]:
    """Arguments that the configurations of all of TRL's trainers take."""
    on_gpu = torch.cuda.is_available()
    return {
        "output_dir": str(job.run_dir.checkpoints),
        "learning_rate": options.learning_rate,
        "max_grad_norm": options.max_grad_norm,
        "gradient_checkpointing": options.gradient_checkpointing,
        # All epochs are laid out in one, in an order of our own: see data.training_order.
        "num_train_epochs": 1,
        "seed": job.spec.seed,
        "use_cpu": not on_gpu,
        "bf16": on_gpu,
        "dataloader_pin_memory": on_gpu,
        "save_strategy": "steps",
        "save_total_limit": 2,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        **tracking.trainer_arguments(job, options),
    }


def lay_out(
    trainer: Any,
    options: TrainerOptions,
    job: Job,
    sources: Sequence[Sequence[int]],
    lengths: Lengths,
) -> dict[str, int]:
    """Leave out rows that are too long, lay the epochs out one after the other, and count.

    `lengths` are in tokens, one for each row of a dataset that the trainer has tokenised; `sources`
    are the rows of the snapshot behind each row to train on. Raises `BadData`.
    """
    limit = longest_row(trainer.model, options)
    found = lengths(trainer.train_dataset)
    fitting = [place for place, length in enumerate(found) if length <= limit]
    known_held_out = len(trainer.eval_dataset or ())
    held_out = _fitting(trainer.eval_dataset, limit, lengths)
    if not fitting:
        raise BadData(
            "All {rows} rows are longer than {limit} tokens.", rows=len(found), limit=limit
        )
    job.note_trained_rows([number for place in fitting for number in sources[place]])
    dropped = len(found) - len(fitting) + known_held_out - len(held_out or ())
    _warn(job, options, dropped=dropped, limit=limit, is_measured=bool(held_out))
    batch = options.batch_size * options.gradient_accumulation * trainer.args.world_size
    order = data.training_order(
        [found[place] for place in fitting],
        epochs=options.epochs,
        batch_size=batch,
        seed=job.spec.seed,
    )
    trainer.train_dataset = trainer.train_dataset.select([fitting[place] for place in order])
    trainer.eval_dataset = held_out
    schedule(trainer, options, steps=math.ceil(len(order) / batch))
    return {
        "train": len(fitting),
        "held_out": len(held_out) if held_out is not None else 0,
        "too_long": dropped,
        "seen": len(order),
    }


def fit(
    job: Job,
    trainer: Any,
    trainee: Trainee,
    counts: Mapping[str, int],
    *,
    epochs: float,
    on_checkpoint: Callable[[Path], None] = lambda _: None,
    anew: Callable[[], Trainee] | None = None,
    passes: int = 1,
) -> Fitted:
    """Train, from the newest checkpoint if there is one, and leave what was learned on disk.

    `counts` go into the report, `epochs` is how often the data are seen, `anew` gives the trainee
    as it was at the start, where that is not the policy of the spec; `passes` is how often what the
    trainer counts as tokens seen is learned from. Raises `Diverged`,
    `ModelUnusable` when nothing was learned, `SpecError` for what FSDP cannot spread, `Cancelled`.
    """
    if trainee.tuning in (Tuning.PREFIX, Tuning.PROMPT):
        refuse_spread(trainer, "tuning", trainee.tuning.value)
    checkpoint = job.run_dir.newest_checkpoint()
    reporter = Reporter(job, epochs=epochs, on_checkpoint=on_checkpoint)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(reporter)
    norm_before = trainee.norm()
    job.stop.be_patient()
    job.enter_phase("training")
    began = time.monotonic()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    job.stop.check()
    training_s = time.monotonic() - began
    if _is_spread(trainer):
        trainee = _gather(job, trainer, trainee, anew or (lambda: _policy(job)))
    trainee.model.eval()
    _check_learned(trainee, norm_before, resumed=checkpoint is not None)
    if job.is_main and not _is_spread(trainer):
        trainee.save(job.run_dir.adapter_partial)
    return Fitted(
        trainee,
        counts,
        dict(reporter.last_metrics),
        trainer.state.global_step,
        _best_step(trainer),
        {
            "first_step_at": reporter.first_step_at,
            "training_s": training_s,
            "tokens": passes * int(trainer.state.num_input_tokens_seen),
            "pairs_per_s": counts["seen"] / training_s if checkpoint is None else None,
        },
    )


def refuse_spread(trainer: Any, name: str, value: object) -> None:
    """Raises `SpecError` for an option that needs all weights in each process.

    The options refuse it where they name the configuration; accelerate may have another one.
    """
    if _is_spread(trainer):
        raise not_spread(name, value)


def _is_spread(trainer: Any) -> bool:
    """Each process holds no more than a share of the weights, as with FSDP."""
    return bool(trainer.is_fsdp_enabled)


def _policy(job: Job) -> Trainee:
    options = job.spec.options
    assert isinstance(options, TrainerOptions)
    return models.load(job.spec, options).wrapped()


def _gather(job: Job, trainer: Any, trainee: Trainee, anew: Callable[[], Trainee]) -> Trainee:
    """Leave what was learned on disk, and hold all of it in each process, as it was at the start.

    What comes after training asks models, and their parts, one by one; a model that is spread has
    none of its parts to itself.
    """
    folder = job.run_dir.adapter_partial
    weights = trainer.accelerator.get_state_dict(trainer.model)
    if job.is_main:
        trainee.save(folder, weights)
    trainer.accelerator.wait_for_everyone()
    whole = anew()
    whole.take(folder)
    return whole


def longest_row(model: Any, options: TrainerOptions) -> int:
    """The longest row, in tokens, that the options and the model's context allow."""
    return min(options.max_length, context_length(model) or options.max_length)


def warn_of_endless(job: Job, loaded: Loaded, completions: Iterable[Sequence[int]]) -> None:
    """Say so when what is trained on never ends a turn: the policy would not learn to stop."""
    stop_ids = set(stop_token_ids(loaded.tokenizer, loaded.model))
    if all(stop_ids.isdisjoint(ids) for ids in islice(completions, LOOKED_AT)):
        job.warn(
            "No response to learn from holds a token that ends a turn. The policy may not learn to "
            "stop; give the model folder a chat template that writes one."
        )


def warn_of_other_rank(job: Job, options: TuningOptions, loaded: Loaded) -> None:
    """A run that continues from an adapter keeps that one's shape, whatever the options say."""
    if loaded.fresh_adapter is not None or loaded.tuning not in LOW_RANK:
        return
    parent = loaded.model.peft_config[models.ADAPTER]
    if (parent.r, parent.lora_alpha) != (options.lora_r, options.lora_alpha):
        job.warn(
            "The parent's adapter is trained on: LoRA rank {rank} and alpha {alpha} stay as "
            "they are.",
            rank=parent.r,
            alpha=parent.lora_alpha,
        )


def _warn(
    job: Job, options: TrainerOptions, *, dropped: int, limit: int, is_measured: bool
) -> None:
    if dropped:
        job.warn(
            "{dropped} rows are longer than {limit} tokens and were left out.",
            dropped=dropped,
            limit=limit,
        )
    if not is_measured and options.eval_share > 0:
        job.warn(
            "The result is not measured: there is only one conversation, or the rows that were "
            "held out are too long."
        )


def _fitting(tokenized: Dataset | None, limit: int, lengths: Lengths) -> Dataset | None:
    """The rows within the limit."""
    if tokenized is None:
        return None
    return tokenized.select([at for at, length in enumerate(lengths(tokenized)) if length <= limit])


def schedule(trainer: Any, options: TrainerOptions, *, steps: int) -> None:
    """When the step size rises, and when the held-out rows are measured."""
    # The step size of a warm-up's first step is 0: there must be another.
    trainer.args.warmup_steps = min(math.ceil(options.warmup * steps), steps - 1)
    if not trainer.eval_dataset or not options.evaluations:
        return
    trainer.args.eval_strategy = "steps"
    trainer.args.eval_steps = math.ceil(steps / options.evaluations)
    if options.patience:
        trainer.args.save_steps = trainer.args.eval_steps
        trainer.args.load_best_model_at_end = True
        trainer.args.metric_for_best_model = "eval_loss"
        trainer.args.greater_is_better = False
        trainer.add_callback(Patience(options.patience))


def _best_step(trainer: Any) -> int | None:
    return trainer.state.best_global_step if trainer.args.load_best_model_at_end else None


def _check_learned(trainee: Trainee, norm_before: float, *, resumed: bool) -> None:
    norm = trainee.norm()
    if not norm < float("inf"):
        raise Diverged("The adapter holds weights that are no numbers.")
    if norm == norm_before and not resumed:
        raise ModelUnusable("The adapter did not change: nothing was learned.")
