"""Direct Preference Optimisation (Rafailov et al. 2023) of a LoRA adapter, with TRL's trainer.

    python -m training.worker RUN_DIR        # spec.json says method "dpo"

It does not judge whether the result is good enough to serve: it measures, and people decide.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import torch
from datasets import Dataset
from peft import LoraConfig
from torch import Tensor
from transformers import PreTrainedModel, PrinterCallback
from trl import DPOConfig, DPOTrainer

from training.config import DPOOptions
from training.events import EventKind
from training.loading import context_length
from training.worker import data, evaluate, models
from training.worker.failures import BadData, Diverged, ModelUnusable
from training.worker.job import Job
from training.worker.report import Reporter

REFERENCE_FILE = "reference.json"
EVAL_BATCH = 16


def train(job: Job) -> Mapping[str, Any]:
    """Train, measure, and leave the adapter in `adapter.partial`; returns the result's report.

    Raises `WorkerError` for what a person can act on, `Cancelled` when asked to stop.
    """
    began = time.monotonic()
    options = job.spec.options
    assert isinstance(options, DPOOptions)
    job.enter_phase("loading")
    loaded = models.load(job.spec, lora_r=options.lora_r, lora_alpha=options.lora_alpha)
    if loaded.fresh_adapter is None:
        _warn_of_other_rank(job, options, loaded.model.peft_config[models.ADAPTER])

    job.enter_phase("preparing")
    rows = data.read_preferences(job.run_dir.path / job.spec.preferences)
    split = data.split_by_conversation(rows, options.eval_share)
    checkpoint = job.run_dir.newest_checkpoint()
    known = ReferenceLogProbs.of(checkpoint)
    reporter = Reporter(job, epochs=options.epochs, on_checkpoint=known.save)
    trainer = _build_trainer(job, options, loaded, split, known)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(reporter)
    models.check_trainable(trainer.model)
    counts = _keep_fitting(trainer, options, job, split)
    norm_before = models.adapter_norm(trainer.model)

    job.stop.be_patient()
    job.enter_phase("training")
    training_began = time.monotonic()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    job.stop.check()
    training_s = time.monotonic() - training_began
    trainer.model.eval()
    _check_learned(trainer, norm_before, resumed=checkpoint is not None)
    models.save_adapter(trainer.model, job.run_dir.adapter_partial)

    job.enter_phase("evaluating")
    evaluation = _evaluate(job, options, trainer)
    return {
        "data": counts,
        "training": dict(reporter.last_metrics),
        "steps": trainer.state.global_step,
        **evaluation,
        "timing": {
            "first_step_at": reporter.first_step_at,
            "training_s": training_s,
            "pairs_per_s": counts["seen"] / training_s if checkpoint is None else None,
            "total_s": time.monotonic() - began,
        },
    }


class ReferenceLogProbs:
    """The reference policy's log-probability of each pair, computed once and kept.

    The reference never changes, so from the second epoch on a forward pass is saved; it goes into
    checkpoints, so that a resumed run computes with the very same numbers.
    """

    def __init__(self, known: Mapping[str, tuple[float, float]]) -> None:
        self._known = dict(known)

    @classmethod
    def of(cls, checkpoint: Path | None) -> Self:
        """What a checkpoint knew; nothing without one."""
        if checkpoint is None:
            return cls({})
        known = json.loads((checkpoint / REFERENCE_FILE).read_text())
        return cls({key: (chosen, rejected) for key, (chosen, rejected) in known.items()})

    def keys(self, inputs: Mapping[str, Tensor]) -> list[str]:
        """A digest of each pair of a TRL batch: chosen rows first, rejected rows after."""
        ids, attention = inputs["input_ids"], inputs["attention_mask"]
        rows = [
            hashlib.blake2b(row[keep.bool()].cpu().numpy().tobytes(), digest_size=16)
            for row, keep in zip(ids, attention, strict=True)
        ]
        half = len(rows) // 2
        return [
            chosen.hexdigest() + rejected.hexdigest()
            for chosen, rejected in zip(rows[:half], rows[half:], strict=True)
        ]

    def look_up(self, keys: list[str]) -> Tensor | None:
        """(2, pairs): chosen and rejected; None unless every pair is known."""
        if not all(key in self._known for key in keys):
            return None
        return torch.tensor([self._known[key] for key in keys]).T

    def remember(self, keys: list[str], chosen: Tensor, rejected: Tensor) -> None:
        """Keep both of each pair, exactly."""
        values = zip(chosen.tolist(), rejected.tolist(), strict=True)
        self._known.update(zip(keys, values, strict=True))

    def save(self, checkpoint: Path) -> None:
        """Put what is known into a checkpoint."""
        (checkpoint / REFERENCE_FILE).write_text(json.dumps(self._known))


class ReferenceOnceTrainer(DPOTrainer):  # type: ignore[misc]  # the library has no types
    """TRL's trainer, asking the reference policy about each pair once.

    TRL's own `precompute_ref_log_probs` would do so before the first step, and keep people waiting.
    """

    def __init__(self, *, reference: ReferenceLogProbs, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.reference = reference
        self.precompute_ref_logps = True

    def compute_loss(self, model: Any, inputs: dict[str, Any], *rest: Any, **more: Any) -> Any:
        """TRL's loss, with the reference's log-probabilities put into the batch first."""
        keys = self.reference.keys(inputs)
        known = self.reference.look_up(keys)
        if known is None:
            chosen, rejected = self.compute_ref_log_probs(model, inputs)
            self.reference.remember(keys, chosen, rejected)
        else:
            chosen, rejected = known.to(inputs["input_ids"].device)
        both = {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
        return super().compute_loss(model, {**inputs, **both}, *rest, **more)

    def create_model_card(self, *_: Any, **__: Any) -> None:
        """No card: the run's directory says all, and writing one takes time at each checkpoint."""


def _build_trainer(
    job: Job,
    options: DPOOptions,
    loaded: models.Loaded,
    split: data.Split,
    known: ReferenceLogProbs,
) -> ReferenceOnceTrainer:
    if not split.train:
        raise BadData("The snapshot holds no pair to train on.")
    is_mixed = options.sft_weight > 0
    arguments = DPOConfig(
        output_dir=str(job.run_dir.checkpoints),
        loss_type=[options.loss_type, "sft"] if is_mixed else [options.loss_type],
        loss_weights=[1.0, options.sft_weight] if is_mixed else None,
        beta=options.beta,
        label_smoothing=options.label_smoothing,
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        max_length=None,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=EVAL_BATCH,
        gradient_accumulation_steps=options.gradient_accumulation,
        gradient_checkpointing=options.gradient_checkpointing,
        # All epochs are laid out in one, in an order of our own: see data.training_order.
        num_train_epochs=1,
        train_sampling_strategy="sequential",
        seed=job.spec.seed,
        use_cpu=not torch.cuda.is_available(),
        bf16=torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
        save_strategy="steps",
        save_steps=options.save_steps,
        save_total_limit=2,
        logging_steps=1,
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
    )
    return ReferenceOnceTrainer(
        model=loaded.model,
        args=arguments,
        train_dataset=data.to_dataset(split.train),
        eval_dataset=data.to_dataset(split.held_out) if split.held_out else None,
        processing_class=loaded.tokenizer,
        peft_config=loaded.fresh_adapter,
        reference=known,
    )


def _keep_fitting(
    trainer: ReferenceOnceTrainer, options: DPOOptions, job: Job, split: data.Split
) -> dict[str, int]:
    """Leave out pairs that are too long, lay the epochs out, and count. Raises `BadData`."""
    context = context_length(trainer.model) or options.max_length
    limit = min(options.max_length, context)
    lengths = data.pair_lengths(trainer.train_dataset)
    fitting = [place for place, length in enumerate(lengths) if length <= limit]
    held_out = _fitting(trainer.eval_dataset, limit)
    if not fitting:
        raise BadData(
            "All {pairs} pairs are longer than {limit} tokens.",
            pairs=len(lengths),
            limit=limit,
        )
    job.run_dir.write_trained_rows([split.train[place].number for place in fitting])
    if dropped := len(lengths) - len(fitting) + len(split.held_out) - len(held_out or ()):
        job.warn(
            "{dropped} pairs are longer than {limit} tokens and were left out.",
            dropped=dropped,
            limit=limit,
        )
    if not held_out and options.eval_share > 0:
        job.warn(
            "The result is not measured: there is only one conversation, or the pairs that were "
            "held out are too long."
        )
    order = data.training_order(
        [lengths[place] for place in fitting],
        epochs=options.epochs,
        batch_size=options.batch_size * options.gradient_accumulation,
        seed=job.spec.seed,
    )
    trainer.train_dataset = trainer.train_dataset.select([fitting[place] for place in order])
    # The step size of a warm-up's first step is 0: there must be another.
    steps = math.ceil(len(order) / (options.batch_size * options.gradient_accumulation))
    trainer.args.warmup_steps = min(math.ceil(options.warmup * steps), steps - 1)
    trainer.eval_dataset = held_out
    return {
        "train": len(fitting),
        "held_out": len(held_out) if held_out is not None else 0,
        "too_long": dropped,
        "seen": len(order),
    }


def _fitting(tokenized: Dataset | None, limit: int) -> Dataset | None:
    """The pairs within the limit."""
    if tokenized is None:
        return None
    lengths = data.pair_lengths(tokenized)
    return tokenized.select([place for place, length in enumerate(lengths) if length <= limit])


def _warn_of_other_rank(job: Job, options: DPOOptions, parent: LoraConfig) -> None:
    if (parent.r, parent.lora_alpha) != (options.lora_r, options.lora_alpha):
        job.warn(
            "The parent's adapter is trained on: LoRA rank {rank} and alpha {alpha} stay as "
            "they are.",
            rank=parent.r,
            alpha=parent.lora_alpha,
        )


def _check_learned(trainer: ReferenceOnceTrainer, norm_before: float, *, resumed: bool) -> None:
    norm = models.adapter_norm(trainer.model)
    if not norm < float("inf"):
        raise Diverged("The adapter holds weights that are no numbers.")
    if norm == norm_before and not resumed:
        raise ModelUnusable("The adapter did not change: nothing was learned.")


def _evaluate(job: Job, options: DPOOptions, trainer: ReferenceOnceTrainer) -> dict[str, Any]:
    model: PreTrainedModel = trainer.model
    pairs = list(trainer.eval_dataset) if trainer.eval_dataset is not None else []
    ranked = evaluate.compare_pairs(model, pairs, beta=options.beta, stop=job.stop)
    prompts = data.read_eval_prompts(job.run_dir.path / job.spec.eval_prompts)
    answered = evaluate.compare_generations(
        model,
        trainer.processing_class,
        prompts[: options.eval_generations],
        max_new_tokens=options.sample_tokens,
        seed=job.spec.seed,
        stop=job.stop,
    )
    if ranked:
        job.events.write(
            EventKind.METRICS,
            step=trainer.state.global_step,
            held_out_accuracy=ranked.accuracy,
            held_out_margin=ranked.margin,
            held_out_loss=ranked.loss,
        )
    for sample in answered.samples if answered else ():
        job.events.write(EventKind.SAMPLE, **sample)
    return {
        "pairs": asdict(ranked) if ranked else None,
        "generations": asdict(answered) if answered else None,
    }
