"""A reward model from people's comparisons (Stiennon et al. 2020), with TRL's trainer.

    python -m training.worker RUN_DIR        # spec.json says method "reward"

What TRL's trainer lacks is here: all pairs of a ranking in one batch element, so that each
response is read once and each comparison weighs the same (Ouyang et al. 2022, section 3.5),
margins by how strongly people felt, and ties. It does not judge whether the model is good enough to
be learned from: it measures, beside what the longer response would have won.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from statistics import fmean, pstdev
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from datasets import Dataset
from peft import get_peft_model
from torch import Tensor
from trl import RewardConfig, RewardTrainer

from training import loading
from training.events import EventKind
from training.methods.reward import RewardOptions
from training.tuning import Tuning
from training.worker import data, fitting, models, scoring
from training.worker.calibration import brier_score, expected_calibration_error
from training.worker.encoding import Encoder
from training.worker.job import Job
from training.worker.models import Loaded

SIDES = ("chosen", "rejected")
COLUMNS = ("completions", "lengths", "pairs", "margins", "ties")


def train(job: Job) -> Mapping[str, Any]:
    """Train, measure, and leave the adapter with its head; returns the result's report.

    Raises `WorkerError` for what a person can act on, `Cancelled` when asked to stop.
    """
    options = job.spec.options
    assert isinstance(options, RewardOptions)
    job.enter_phase("loading")
    loaded = _load(job, options)

    job.enter_phase("preparing")
    split = fitting.read_split(job, options)
    encoder = Encoder(loaded.tokenizer, loaded.model)
    trainer = _build_trainer(job, options, loaded, encoder, split)
    trainee = loaded.trainee(trainer.model)
    sources = [[row.number for row in rows] for rows in _by_comparison(split.train)]
    counts = fitting.lay_out(trainer, options, job, sources, group_lengths)
    fitted = fitting.fit(job, trainer, trainee, counts, epochs=options.epochs)

    job.enter_phase("evaluating")
    ranked = _rank(trainer, options)
    if ranked:
        told = {"held_out_accuracy": ranked["accuracy"], "held_out_loss": ranked["loss"]}
        job.events.write(EventKind.METRICS, step=fitted.steps, **told)
    if job.is_main:
        _write_scale(job, ranked)
    return {**fitted.report(), "reward_model": ranked}


class Group(NamedTuple):
    """A comparison: token ids of its distinct responses, and the pairs among them.

    `pairs` are (better, worse) places in `completions`; `margins` are in steps of people's
    strength; in a tie neither is better.
    """

    completions: list[list[int]]
    lengths: list[int]
    pairs: list[list[int]]
    margins: list[float]
    ties: list[bool]


def pair_losses(
    difference: Tensor, margin: Tensor, is_tie: Tensor, *, options: RewardOptions
) -> Tensor:
    """The loss of each pair, (pairs,), from the better score minus the worse.

    Decided: -log sigmoid(difference - margin), Touvron et al. 2023, eq. 2. Tie: the cross entropy
    of Bradley and Terry's probability with one half, weighted.
    """
    decided = -F.logsigmoid(difference - options.margin_weight * margin)
    tied = -0.5 * (F.logsigmoid(difference) + F.logsigmoid(-difference))
    return torch.where(is_tie, options.tie_weight * tied, decided)


class ComparisonTrainer(fitting.WithoutCard, RewardTrainer):  # type: ignore[misc]  # the library has no types
    """TRL's trainer over whole comparisons instead of pairs."""

    def __init__(self, *, options: RewardOptions, **arguments: Any) -> None:
        self.options = options
        super().__init__(**arguments)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,  # noqa: ARG002
    ) -> Any:
        """Mean over comparisons of the mean over each one's pairs, with centring."""
        rows = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        scores = model(**rows, use_cache=False).logits.squeeze(-1).float()
        better, worse = scores[inputs["pairs"][:, 0]], scores[inputs["pairs"][:, 1]]
        difference, is_tie = better - worse, inputs["ties"]
        losses = pair_losses(difference, inputs["margins"], is_tie, options=self.options)
        centred = losses + self.options.centering * (better + worse) ** 2
        loss = (centred * inputs["weights"]).sum() / inputs["weights"].sum()
        self._note(difference.detach()[~is_tie])
        return (loss, {"logits": difference, "is_tie": is_tie}) if return_outputs else loss

    def _note(self, decided: Tensor) -> None:
        mode = "train" if self.model.training else "eval"
        if len(decided):
            self._metrics[mode]["accuracy"].append(_accuracy(decided.tolist()))
            self._metrics[mode]["margin"].append(decided.mean().item())

    def _prepare_dataset(self, dataset: Dataset, *_: Any, **__: Any) -> Dataset:
        return dataset

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = list(COLUMNS)


class Collator:
    """Comparisons as one batch: all their responses, right-padded, and all their pairs."""

    def __init__(self, pad_id: int) -> None:
        self._pad_id = pad_id

    def __call__(self, groups: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """`input_ids` (responses, tokens); `pairs` (pairs, 2) are rows; `weights` sum to groups."""
        rows: list[list[int]] = []
        pairs: list[list[int]] = []
        weights: list[float] = []
        for group in groups:
            pairs += [[len(rows) + place for place in pair] for pair in group["pairs"]]
            weights += [1 / len(group["pairs"])] * len(group["pairs"])
            rows += group["completions"]
        ids, attention = scoring.right_padded(rows, self._pad_id)
        return {
            "input_ids": ids,
            "attention_mask": attention,
            "pairs": torch.tensor(pairs),
            "weights": torch.tensor(weights),
            "margins": torch.tensor([m for group in groups for m in group["margins"]]),
            "ties": torch.tensor([tie for group in groups for tie in group["ties"]]),
        }


def group_lengths(groups: Dataset) -> list[int]:
    """Tokens of the longest response of each comparison, prompt included."""
    return [max(lengths) for lengths in groups["lengths"]]


def _load(job: Job, options: RewardOptions) -> Loaded:
    tokenizer = loading.load_tokenizer(job.spec.base_model)
    base = scoring.load_classifier(job.spec.base_model, tokenizer, seed=job.spec.seed)
    adapter = models.fresh_adapter(options, task_type="SEQ_CLS")
    return Loaded(get_peft_model(base, adapter), tokenizer, Tuning(options.tuning), adapter)


def _build_trainer(
    job: Job, options: RewardOptions, loaded: Loaded, encoder: Encoder, split: data.Split
) -> ComparisonTrainer:
    return ComparisonTrainer(
        options=options,
        model=loaded.model,
        args=RewardConfig(**fitting.trainer_arguments(job, options)),
        data_collator=Collator(loaded.model.config.pad_token_id),
        train_dataset=_encode(encoder, split.train),
        eval_dataset=_encode(encoder, split.held_out) if split.held_out else None,
        processing_class=loaded.tokenizer,
    )


def _encode(encoder: Encoder, rows: Sequence[data.Row]) -> Dataset:
    groups = [_group(encoder, pairs)._asdict() for pairs in _by_comparison(rows)]
    return Dataset.from_list(groups)


def _by_comparison(rows: Sequence[data.Row]) -> list[list[data.Row]]:
    """Rows of one comparison together; a row that names none stands alone."""

    def key(row: data.Row) -> str:
        return row.values["comparison_id"] or f"row {row.number}"

    return [list(found) for _, found in groupby(sorted(rows, key=key), key=key)]


def _group(encoder: Encoder, rows: Sequence[data.Row]) -> Group:
    places: dict[tuple[int, ...], int] = {}
    pairs = []
    for row in rows:
        sides = (
            encoder.encode(row.prompt, row.values[side]).ids for side in ("chosen", "rejected")
        )
        pairs.append([places.setdefault(tuple(ids), len(places)) for ids in sides])
    return Group(
        [list(ids) for ids in places],
        [len(ids) for ids in places],
        pairs,
        [float(row.values["margin"]) for row in rows],
        [bool(row.values["is_tie"]) for row in rows],
    )


def _rank(trainer: ComparisonTrainer, options: RewardOptions) -> dict[str, Any] | None:
    """How the model ranks held-out pairs, beside what their lengths alone would say."""
    groups = list(trainer.eval_dataset) if trainer.eval_dataset is not None else []
    if not groups:
        return None
    rows = [ids for group in groups for ids in group["completions"]]
    scores = iter(scoring.score(trainer.model, rows, trainer.model.config.pad_token_id))
    decided, longer, losses, all_scores = [], [], [], []
    for group in groups:
        found = [next(scores) for _ in group["completions"]]
        all_scores += found
        for (better, worse), is_tie in zip(group["pairs"], group["ties"], strict=True):
            if not is_tie:
                decided.append(found[better] - found[worse])
                longer.append(group["lengths"][better] - group["lengths"][worse])
    if not decided:
        return None
    differences = torch.tensor(decided)
    chances = differences.sigmoid().tolist()
    losses = (-F.logsigmoid(differences)).tolist()
    # Which side is called first must not matter: half of the pairs are told the other way round.
    sides = [(p, True) if at % 2 else (1 - p, False) for at, p in enumerate(chances)]
    probabilities, happened = [p for p, _ in sides], [did for _, did in sides]
    return {
        "pairs": len(decided),
        "accuracy": _accuracy(decided),
        "longer_wins": _accuracy(longer),
        "loss": fmean(losses),
        "ece": expected_calibration_error(probabilities, happened),
        "brier": brier_score(probabilities, happened),
        "score_mean": fmean(all_scores),
        "score_sd": pstdev(all_scores),
        "tuning": options.tuning,
    }


def _accuracy(differences: Sequence[float]) -> float:
    """Share above 0; equal ones count half."""
    return fmean(1.0 if d > 0 else 0.5 if d == 0 else 0.0 for d in differences)


def _write_scale(job: Job, ranked: Mapping[str, Any] | None) -> None:
    """Beside the adapter: mean and spread of its scores, for those who learn from them."""
    scale = {name: (ranked or {}).get(f"score_{name}") for name in ("mean", "sd")}
    path = job.run_dir.adapter_partial / scoring.SCALE_FILE
    path.write_text(json.dumps(scale), encoding="utf-8")
