"""Kahneman-Tversky Optimisation (Ethayarajh et al. 2024), with TRL's trainer.

python -m training.worker RUN_DIR        # spec.json says method "kto"
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datasets import Dataset
from trl import KTOConfig, KTOTrainer

from training.methods.kto import KTOOptions
from training.worker import answers, data, fitting, models, rehearsal
from training.worker.failures import BadData
from training.worker.job import Job
from training.worker.rehearsal import Rehearsing


def train(job: Job) -> Mapping[str, Any]:
    """Train, measure, and leave the adapter in `adapter.partial`; returns the result's report.

    Raises `WorkerError` for what a person can act on, `Cancelled` when asked to stop.
    """
    options = job.spec.options
    assert isinstance(options, KTOOptions)
    job.enter_phase("loading")
    loaded = models.load(job.spec, options)
    fitting.warn_of_other_rank(job, options, loaded)

    job.enter_phase("preparing")
    split = fitting.read_split(job, options)
    liked = sum(row.values["label"] for row in split.train)
    _check_balance(job, options, liked=liked, disliked=len(split.train) - liked)
    trainer = _build_trainer(job, options, loaded, split)
    trainee = loaded.trainee(trainer.model)
    fitting.warn_of_endless(job, loaded, trainer.train_dataset["completion_ids"])
    counts = fitting.lay_out(trainer, options, job, split.sources, row_lengths)
    counts |= rehearsal.prepare(job, options, loaded, trainer, counts)
    limit = fitting.longest_row(trainer.model, options)
    trainer.train_dataset = cut_to(limit, mismatched(trainer.train_dataset, options.batch_size))
    if trainer.eval_dataset is not None:
        trainer.eval_dataset = cut_to(limit, trainer.eval_dataset)
    fitted = fitting.fit(job, trainer, trainee, counts, epochs=options.epochs)
    trainee = fitted.trainee

    job.enter_phase("evaluating")
    return {
        **fitted.report(),
        "thumbs": {"liked": liked, "disliked": len(split.train) - liked},
        **answers.answer_held_out(job, options, trainee),
    }


def row_lengths(tokenized: Dataset) -> list[int]:
    """Tokens of each row, prompt included."""
    columns = (tokenized["prompt_ids"], tokenized["completion_ids"])
    return [len(prompt) + len(completion) for prompt, completion in zip(*columns, strict=True)]


def mismatched(rows: Dataset, batch_size: int) -> Dataset:
    """Beside each prompt the completion of the row before it in its batch, in a circle.

    The reference point is estimated from such pairs (section 3.2 of the paper). TRL makes them
    before the rows are in their order, and those would no longer be of the same batch.
    """
    completions = rows["completion_ids"]
    others: list[list[int]] = []
    for start in range(0, len(completions), batch_size):
        batch = list(completions[start : start + batch_size])
        # Who is alone in the last batch would be paired with itself.
        first = batch[-1] if len(batch) > 1 else completions[start - 1]
        others += [first, *batch[:-1]]
    return rows.remove_columns("KL_completion_ids").add_column("KL_completion_ids", others)


def cut_to(limit: int, rows: Dataset) -> Dataset:
    """With the mismatched completions cut to what their prompts leave of so many tokens."""
    columns = (rows["prompt_ids"], rows["KL_completion_ids"])
    cut = [
        completion[: max(1, limit - len(prompt))]
        for prompt, completion in zip(*columns, strict=True)
    ]
    return rows.remove_columns("KL_completion_ids").add_column("KL_completion_ids", cut)


class RehearsingKTOTrainer(Rehearsing, fitting.WithoutCard, KTOTrainer):  # type: ignore[misc]  # the library has no types
    """TRL's trainer, imitating demonstrations beside its rows where it is given some."""

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """What TRL calls `kl` is the reference point, of other prompts' completions."""
        measured = self._metrics["train" if self.model.training else "eval"]
        if "kl" in measured:
            measured["reference_point"] = measured.pop("kl")
        super().log(logs, start_time)


def _check_balance(job: Job, options: KTOOptions, *, liked: int, disliked: int) -> None:
    """Raises `BadData` when all thumbs point one way."""
    if not liked or not disliked:
        raise BadData(
            "There are {liked} liked and {disliked} disliked responses; KTO needs both.",
            liked=liked,
            disliked=disliked,
        )
    if not options.is_balanced(liked, disliked):
        job.warn(
            "There are {liked} liked and {disliked} disliked responses. Set the weights so that "
            "weight times number is alike for both.",
            liked=liked,
            disliked=disliked,
        )


def _build_trainer(
    job: Job, options: KTOOptions, loaded: models.Loaded, split: data.Split
) -> RehearsingKTOTrainer:
    columns = ("completion", "label")
    return RehearsingKTOTrainer(
        model=loaded.model,
        ref_model=loaded.frozen,
        args=KTOConfig(
            **fitting.trainer_arguments(job, options),
            beta=options.beta,
            desirable_weight=options.desirable_weight,
            undesirable_weight=options.undesirable_weight,
        ),
        train_dataset=data.to_dataset(split.train, columns),
        eval_dataset=data.to_dataset(split.held_out, columns) if split.held_out else None,
        processing_class=loaded.tokenizer,
        peft_config=loaded.fresh_adapter,
    )
