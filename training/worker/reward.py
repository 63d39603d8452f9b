"""A reward model from people's comparisons (Stiennon et al. 2020), with TRL's trainer.

    python -m training.worker RUN_DIR        # spec.json says method "reward"

What TRL's trainer lacks is here: all pairs of a ranking in one batch element, so that each
response is read once and each comparison weighs the same (Ouyang et al. 2022, section 3.5),
margins by how strongly people felt, and ties. It does not judge whether the model is good enough to
be learned from: it measures, beside what the longer response would have won.

A second model is trained the same way on conversations that the first one does not see, for the
over-optimisation watch (see `training.overoptimization`). That costs the first one their pairs: a
model that had learned from all of them could only be watched by one that shares its mistakes.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import replace
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
from training.events import EventKind, EventWriter
from training.methods.reward import Pooling, RewardOptions
from training.rundir import RunDir
from training.tuning import Tuning
from training.worker import data, fitting, models, scoring
from training.worker.calibration import brier_score, expected_calibration_error
from training.worker.encoding import Encoded, Encoder
from training.worker.job import Job
from training.worker.models import Loaded

SIDES = ("chosen", "rejected")
COLUMNS = ("prompts", "completions", "lengths", "pairs", "margins", "ties")


def train(job: Job) -> Mapping[str, Any]:
    """Train, measure, and leave the adapter with its head; returns the result's report.

    Raises `WorkerError` for what a person can act on, `Cancelled` when asked to stop.
    """
    options = job.spec.options
    assert isinstance(options, RewardOptions)
    whole = fitting.read_split(job, options)
    split, watched = _divide(job, options, whole)
    learned = _learn(job, options, split)
    people = {"agreement": job.spec.agreement, "agreement_pairs": job.spec.agreement_pairs}
    ranked = learned.ranked and {**learned.ranked, **people}
    counts = {**learned.report["data"], "pairs": len(whole.train) + len(whole.held_out)}
    report = {**learned.report, "data": counts, "reward_model": ranked}
    if watched.train:
        job.enter_phase("watch")
        second = _train_watch(job, options, watched)
        report["watch_model"] = second.ranked
        tokens = sum(each.report["timing"]["tokens"] for each in (learned, second))
        report["timing"] = {**learned.report["timing"], "tokens": tokens}
        counts["second_model"] = second.report["data"]["train"]
    return report


class Learned(NamedTuple):
    """How the training went, and how the model ranks held-out pairs, if there are any.

    No model: a second one may be trained after it.
    """

    report: dict[str, Any]
    ranked: dict[str, Any] | None


def _divide(job: Job, options: RewardOptions, whole: data.Split) -> tuple[data.Split, data.Split]:
    """What the model learns from and is measured on, and the same of the second one."""
    pairs = len(whole.train)
    share = options.divided_share(pairs)
    if share < options.watch_share:
        job.warn(
            "No second model is kept to watch for over-optimisation: that takes {fewest} pairs to "
            "learn from, and there are {pairs}.",
            fewest=options.FEWEST_TO_DIVIDE,
            pairs=pairs,
        )
    learned, watched = data.divided_for_watch(whole.train, share)
    if not learned or not watched:
        return whole, whole._replace(train=[])
    return whole._replace(train=learned), whole._replace(train=watched)


def _train_watch(job: Job, options: RewardOptions, split: data.Split) -> Learned:
    """Leave the second model in the run's `watch/`, as a run leaves one."""
    gc.collect()  # A trainer refers to itself: without this, two base models would be held.
    run_dir = RunDir(job.run_dir.watch)
    run_dir.path.mkdir(exist_ok=True)
    events = EventWriter(run_dir.path / job.events.path.name)
    spec = replace(job.spec, seed=(job.spec.seed + 1) % 2**32)
    learned = _learn(
        replace(job, spec=spec, run_dir=run_dir, events=events),
        options.of_second(len(split.train)),
        split,
    )
    if job.is_main:
        run_dir.seal_adapter()
    return learned


def _learn(job: Job, options: RewardOptions, split: data.Split) -> Learned:
    """Train and measure one model, and leave its adapter with its head in `adapter.partial`."""
    job.enter_phase("loading")
    loaded = _load(job, options)

    job.enter_phase("preparing")
    encoder = Encoder(loaded.tokenizer, loaded.model)
    trainer = _build_trainer(job, options, loaded, encoder, split)
    trainee = loaded.trainee(trainer.model)
    sources = [[row.number for row in rows] for rows in _by_comparison(split.train)]
    counts = fitting.lay_out(trainer, options, job, sources, group_lengths)
    fitted = fitting.fit(
        job,
        trainer,
        trainee,
        counts,
        epochs=options.epochs,
        anew=lambda: _untrained(_load(job, options)),
    )

    job.enter_phase("evaluating")
    ranked = _rank(fitted.trainee.model, trainer.eval_dataset, options)
    if ranked:
        told = {"held_out_accuracy": ranked["accuracy"]}
        if is_plain(options):
            told["held_out_loss"] = ranked["loss"]
        job.events.write(EventKind.METRICS, step=fitted.kept_step, **told)
    if job.is_main:
        told = ranked or {"score_mean": None, "score_sd": None}
        scoring.Scale.write(
            job.run_dir.adapter_partial,
            told["score_mean"],
            told["score_sd"],
            Pooling(options.pooling),
        )
    return Learned(fitted.report(), ranked)


class Group(NamedTuple):
    """A comparison: token ids of its distinct responses, each with its prompt, and the pairs among
    them.

    `pairs` are (better, worse) places in `completions`; `margins` are in steps of people's
    strength; in a tie neither is better.
    """

    prompts: list[list[int]]
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
        rows = scoring.Padded(inputs["input_ids"], inputs["attention_mask"], inputs["mask"])
        scores = scoring.forward(model, rows, Pooling(self.options.pooling))
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


def collate(groups: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Comparisons as one batch: all their responses, as `scoring.Padded` is, and all their pairs.

    They have the names by which the library counts tokens. `pairs` (pairs, 2) are rows; `weights`
    sum to the number of comparisons.
    """
    prompts: list[list[int]] = []
    completions: list[list[int]] = []
    pairs: list[list[int]] = []
    weights: list[float] = []
    for group in groups:
        pairs += [[len(prompts) + place for place in pair] for pair in group["pairs"]]
        weights += [1 / len(group["pairs"])] * len(group["pairs"])
        prompts += group["prompts"]
        completions += group["completions"]
    rows = scoring.Padded.of(prompts, completions)
    return {
        "input_ids": rows.ids,
        "attention_mask": rows.attention,
        "mask": rows.mask,
        "pairs": torch.tensor(pairs),
        "weights": torch.tensor(weights),
        "margins": torch.tensor([m for group in groups for m in group["margins"]]),
        "ties": torch.tensor([tie for group in groups for tie in group["ties"]]),
    }


def group_lengths(groups: Dataset) -> list[int]:
    """Tokens of the longest response of each comparison, prompt included."""
    return [max(lengths) for lengths in groups["lengths"]]


def _load(job: Job, options: RewardOptions) -> Loaded:
    tuning, folder = Tuning(options.tuning), job.spec.base_model
    tokenizer = loading.load_tokenizer(folder)
    quantization = models.four_bits(scoring.HEAD) if tuning is Tuning.QLORA else None
    base = scoring.load_classifier(folder, seed=job.spec.seed, quantization=quantization)
    if quantization is not None:
        models.keep_differentiable(base)
    if tuning is Tuning.FULL:
        # In float32 on any device, as a policy is: its steps are smaller than bfloat16 can tell.
        return Loaded(base.float(), tokenizer, tuning)
    adapter = models.fresh_adapter(options, task_type="SEQ_CLS")
    return Loaded(get_peft_model(base, adapter), tokenizer, tuning, adapter)


def _untrained(loaded: Loaded) -> models.Trainee:
    return loaded.trainee(loaded.model)


def _build_trainer(
    job: Job, options: RewardOptions, loaded: Loaded, encoder: Encoder, split: data.Split
) -> ComparisonTrainer:
    trainer = ComparisonTrainer(
        options=options,
        model=loaded.model,
        args=RewardConfig(**fitting.trainer_arguments(job, options)),
        data_collator=collate,
        train_dataset=_encode(encoder, split.train),
        eval_dataset=_encode(encoder, split.held_out) if split.held_out else None,
        processing_class=loaded.tokenizer,
    )
    scoring.head_of(loaded.model).float()  # TRL holds all that learns beside four bits in bfloat16
    return trainer


def _encode(encoder: Encoder, rows: Sequence[data.Row]) -> Dataset:
    groups = [_group(encoder, pairs)._asdict() for pairs in _by_comparison(rows)]
    return Dataset.from_list(groups)


def _by_comparison(rows: Sequence[data.Row]) -> list[list[data.Row]]:
    """Rows of one comparison together; a row that names none stands alone."""

    def key(row: data.Row) -> str:
        return row.values["comparison_id"] or f"row {row.number}"

    return [list(found) for _, found in groupby(sorted(rows, key=key), key=key)]


def _group(encoder: Encoder, rows: Sequence[data.Row]) -> Group:
    found: list[Encoded] = []
    pairs = []
    for row in rows:
        sides = [encoder.encode(row.prompt, row.values[side]) for side in SIDES]
        found += (side for side in sides if side not in found)
        pairs.append([found.index(side) for side in sides])
    return Group(
        [side.prompt_ids for side in found],
        [side.completion_ids for side in found],
        [len(side.ids) for side in found],
        pairs,
        [float(row.values["margin"]) for row in rows],
        [bool(row.values["is_tie"]) for row in rows],
    )


def is_plain(options: RewardOptions) -> bool:
    """The loss that is trained is the one by which pairs are ranked, and both make one curve."""
    return not (options.margin_weight or options.centering or options.tie_weight)


def _rank(model: Any, held_out: Dataset | None, options: RewardOptions) -> dict[str, Any] | None:
    """How the model ranks held-out pairs, beside what their lengths alone would say."""
    groups = list(held_out) if held_out is not None else []
    if not groups:
        return None
    prompts = [ids for group in groups for ids in group["prompts"]]
    completions = [ids for group in groups for ids in group["completions"]]
    scores = iter(scoring.score(model, prompts, completions, Pooling(options.pooling)))
    decided, longer, losses, all_scores, comparisons = [], [], [], [], 0
    for group in groups:
        found = [next(scores) for _ in group["completions"]]
        all_scores += found
        comparisons += not all(group["ties"])
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
        "comparisons": comparisons,
        "accuracy": _accuracy(decided),
        "longer_wins": _accuracy(longer),
        "loss": fmean(losses),
        "ece": expected_calibration_error(probabilities, happened),
        "brier": brier_score(probabilities, happened),
        "score_mean": fmean(all_scores),
        "score_sd": pstdev(all_scores),
        "tuning": options.tuning,
        "pooling": options.pooling,
    }


def _accuracy(differences: Sequence[float]) -> float:
    """Share above 0; equal ones count half."""
    return fmean(1.0 if d > 0 else 0.5 if d == 0 else 0.0 for d in differences)
