"""Direct Preference Optimisation (Rafailov et al. 2023), with TRL's trainer.

    python -m training.worker RUN_DIR        # spec.json says method "dpo"

It does not judge whether the result is good enough to serve: it measures, and people decide.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import torch
from datasets import Dataset
from torch import Tensor
from trl import DPOConfig, DPOTrainer

from training.events import EventKind
from training.methods.dpo import DPOOptions, LossType, PairOptions
from training.worker import answers, data, evaluate, fitting, models, rehearsal
from training.worker.evaluate import PairReport
from training.worker.job import Job
from training.worker.rehearsal import Rehearsing

REFERENCE_FILE = "reference.json"


def train(job: Job) -> Mapping[str, Any]:
    """Train, measure, and leave the adapter in `adapter.partial`; returns the result's report.

    Raises `WorkerError` for what a person can act on, `Cancelled` when asked to stop.
    """
    options = job.spec.options
    assert isinstance(options, DPOOptions)
    job.enter_phase("loading")
    loaded = models.load(job.spec, options)
    fitting.warn_of_other_rank(job, options, loaded)

    job.enter_phase("preparing")
    split = fitting.read_split(job, options)
    known = ReferenceLogProbs.of(job.run_dir.newest_checkpoint())
    trainer = _build_trainer(job, options, loaded, split, known)
    trainee = loaded.trainee(trainer.model)
    fitting.warn_of_endless(job, loaded, trainer.train_dataset["chosen_ids"])
    counts = fitting.lay_out(trainer, options, job, split.sources, pair_lengths)
    counts |= rehearsal.prepare(job, options, loaded, trainer, counts)
    fitted = fitting.fit(
        job, trainer, trainee, counts, epochs=options.epochs, on_checkpoint=known.save
    )
    trainee = fitted.trainee

    job.enter_phase("evaluating")
    ranked = rank_held_out(job, options, trainee, trainer.eval_dataset, fitted.kept_step)
    return {
        **fitted.report(),
        "pairs": asdict(ranked) if ranked else None,
        **answers.answer_held_out(job, options, trainee),
    }


def pair_lengths(tokenized: Dataset) -> list[int]:
    """Tokens of the longer side of each pair that TRL has tokenised, prompt included."""
    columns = (tokenized["prompt_ids"], tokenized["chosen_ids"], tokenized["rejected_ids"])
    return [len(p) + max(len(c), len(r)) for p, c, r in zip(*columns, strict=True)]


def trainer_arguments(job: Job, options: PairOptions) -> dict[str, Any]:
    """Arguments of TRL's configuration, the loss among them."""
    is_mixed = options.sft_weight > 0
    return {
        **fitting.trainer_arguments(job, options),
        "loss_type": [options.loss_type, "sft"] if is_mixed else [options.loss_type],
        "loss_weights": [1.0, options.sft_weight] if is_mixed else None,
        "beta": options.beta,
        "label_smoothing": options.label_smoothing,
    }


def rank_held_out(
    job: Job, options: PairOptions, trainee: models.Trainee, held_out: Dataset | None, step: int
) -> PairReport | None:
    """How the trained policy ranks held-out pairs, told and for the report; None without any."""
    pairs = list(held_out) if held_out is not None else []
    ranked = evaluate.compare_pairs(trainee, pairs, beta=options.beta, stop=job.stop)
    if ranked:
        told = {"held_out_accuracy": ranked.accuracy, "held_out_margin": ranked.margin}
        if is_plain(options):
            told["held_out_loss"] = ranked.loss
        job.events.write(EventKind.METRICS, step=step, **told)
    return ranked


def is_plain(options: PairOptions) -> bool:
    """The loss that is trained is the one by which pairs are ranked, and both make one curve."""
    is_changed = options.sft_weight > 0 or options.label_smoothing > 0
    return options.loss_type == LossType.SIGMOID and not is_changed


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


class ReferenceOnceTrainer(Rehearsing, fitting.WithoutCard, DPOTrainer):  # type: ignore[misc]  # the library has no types
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
        # Where the model is spread, all processes have to ask it together, or none of them would
        # get an answer; which pairs each of them has met differs.
        known = None if self.is_fsdp_enabled else self.reference.look_up(keys)
        if known is None:
            # A model of its own with full tuning; with an adapter the policy's, that adapter aside.
            chosen, rejected = self.compute_ref_log_probs(self.ref_model or model, inputs)
            self.reference.remember(keys, chosen, rejected)
        else:
            chosen, rejected = known.to(inputs["input_ids"].device)
        both = {"ref_chosen_logps": chosen, "ref_rejected_logps": rejected}
        return super().compute_loss(model, {**inputs, **both}, *rest, **more)


def _build_trainer(
    job: Job,
    options: DPOOptions,
    loaded: models.Loaded,
    split: data.Split,
    known: ReferenceLogProbs,
) -> ReferenceOnceTrainer:
    columns = ("chosen", "rejected")
    return ReferenceOnceTrainer(
        model=loaded.model,
        ref_model=loaded.frozen,
        args=DPOConfig(**trainer_arguments(job, options)),
        train_dataset=data.to_dataset(split.train, columns),
        eval_dataset=data.to_dataset(split.held_out, columns) if split.held_out else None,
        processing_class=loaded.tokenizer,
        peft_config=loaded.fresh_adapter,
        reference=known,
    )
