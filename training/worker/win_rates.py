"""Who wins by a reward model: the trained policy against the one before it, and against the base.

A reward model is not people. The report says which one scored, how well it ranks what people have
judged, and whether the policy has learned from its scores. Test prompts that it was trained on, or
nearly, are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch

from training import artefacts
from training.generation import Output
from training.messages import Message
from training.methods import LearnsFrom
from training.proportions import WinRate, wilson_interval, win_rate
from training.rundir import RunDir
from training.worker import asking, data, scoring
from training.worker.asking import Answers, responses
from training.worker.failures import BadData, ModelUnusable
from training.worker.job import Job
from training.worker.models import Trainee
from training.worker.scoring import Score

# Standard deviations of the reward model's scores: a difference that people would notice.
CLEARLY = 1.0


class Scorer(NamedTuple):
    """The reward model that scored.

    `run_id` made it; of `pairs` held-out pairs, from so many `comparisons`, it ranked the share
    `accuracy` as people did.
    `left_out` test prompts it was trained on, or nearly; None where its training data are gone.
    `is_learned_from` says that the policy was trained on its scores.
    """

    run_id: str
    accuracy: float | None
    pairs: int | None
    comparisons: int | None
    left_out: int | None
    is_learned_from: bool


class Scores(NamedTuple):
    """A reward model's standardised scores of both policies' answers, row by row."""

    before: Sequence[float]
    after: Sequence[float]


class Regressions(NamedTuple):
    """Share of prompts that the new policy answers clearly worse, with its 95 % Wilson interval.

    `by` says who found so: `reward_model`, by more than `CLEARLY`, or `text`: the response does not
    end or goes round in circles, and the one before did not.
    """

    share: float
    low: float
    high: float
    by: str


def measure(
    job: Job, trainee: Trainee, answers: Answers, score: Score | None = None
) -> dict[str, Any]:
    """For the report: win rates and who scored, or why nobody did; where the new one is worse.

    `score` is that of the run's reward model where it is in memory; else the model is loaded here.
    One that cannot be used costs the run nothing but these figures.
    """
    if job.spec.reward_model is None:
        return _unscored(
            answers,
            Message(
                "No reward model has scored the responses: none of this base model was there when "
                "the run began. Train one; the runs that you start afterwards are scored by it."
            ),
        )
    try:
        return _scored(job, trainee, answers, Path(job.spec.reward_model), score)
    except (ModelUnusable, torch.OutOfMemoryError) as error:
        why = Message(
            "No reward model has scored the responses: {error}", {"error": Message.of(error)}
        )
        return _unscored(answers, why)


def score_both(score: Score, answers: Answers) -> Scores:
    """What a reward model says of the answers before and after. Raises `ModelUnusable`."""
    before, after = (_score(score, answers, outputs) for outputs in (answers.before, answers.after))
    return Scores(before, after)


def won(before: Sequence[float], after: Sequence[float]) -> WinRate:
    """How often the new policy's response has the higher score; equal scores are draws."""
    pairs = list(zip(before, after, strict=True))
    wins = sum(new > old for old, new in pairs)
    losses = sum(new < old for old, new in pairs)
    return win_rate(wins, losses, len(pairs) - wins - losses)


def _scored(
    job: Job, trainee: Trainee, answers: Answers, folder: Path, score: Score | None
) -> dict[str, Any]:
    unseen = _unseen(folder, answers)
    counted = answers if unseen is None else answers.only(unseen)
    if not counted.prompts:
        return _unscored(
            answers,
            Message(
                "No reward model has scored the responses: the one of this base model was trained "
                "on all the test prompts, or nearly. Import other held-out prompts."
            ),
        )
    score = score or _load(job, folder)
    scores = score_both(score, counted)
    worse = [new < old - CLEARLY for old, new in zip(*scores, strict=True)]
    left_out = None if unseen is None else len(answers.prompts) - len(unseen)
    return {
        "win_rate": won(*scores)._asdict(),
        "win_rate_over_base": _won_over_base(job, trainee, counted, score, scores),
        "scored_by": _scorer(job, folder, left_out)._asdict(),
        "unscored": None,
        "regressions": _regressed(worse, "reward_model")._asdict(),
    }


def _load(job: Job, folder: Path) -> Score:
    return scoring.load_reward_model(job.spec.base_model, str(folder)).score


def _score(score: Score, answers: Answers, outputs: Sequence[Output]) -> Sequence[float]:
    prompts = [request.token_ids for request in answers.requests]
    return score(prompts, [output.token_ids for output in outputs])


def _won_over_base(
    job: Job,
    trainee: Trainee,
    counted: Answers,
    score: Score,
    scores: Scores,
) -> dict[str, Any] | None:
    """Of both policies, given their scores; None where the one before is the base model itself."""
    if job.spec.parent_adapter is None:
        return None
    with trainee.base(job.spec.base_model) as base:
        outputs = asking.respond(base, trainee.tokenizer, counted.requests, job.stop)
    of_base = _score(score, counted, outputs)
    before, after = (won(of_base, of_policy) for of_policy in scores)
    return {**after._asdict(), "rate_before": before.rate}


def _unscored(answers: Answers, why: Message) -> dict[str, Any]:
    """Without a reward model only the texts can tell which responses are worse."""
    pairs = zip(responses(answers.before), responses(answers.after), strict=True)
    worse = [artefacts.is_broken(new) and not artefacts.is_broken(old) for old, new in pairs]
    return {
        "win_rate": None,
        "win_rate_over_base": None,
        "scored_by": None,
        "unscored": why.to_json(),
        "regressions": _regressed(worse, "text")._asdict(),
    }


def _regressed(worse: Sequence[bool], by: str) -> Regressions:
    low, high = wilson_interval(sum(worse), len(worse))
    return Regressions(fmean(worse), low, high, by)


def _unseen(folder: Path, answers: Answers) -> list[int] | None:
    """The places of the prompts that the reward model was not trained on; None if none can tell."""
    made_in = RunDir(folder.parent)
    try:
        rows = data.read_rows(made_in.path / made_in.read_spec().data, LearnsFrom.PROMPTS)
        trained = [rows[number].prompt for number in made_in.read_trained_rows()]
    except (BadData, ValueError, IndexError):
        return None
    return data.unseen([prompt["messages"] for prompt in answers.prompts], trained)


def _scorer(job: Job, folder: Path, left_out: int | None) -> Scorer:
    ranked = _ranking(RunDir(folder.parent))
    return Scorer(
        run_id=folder.parent.name,
        accuracy=ranked.get("accuracy"),
        pairs=ranked.get("pairs"),
        comparisons=ranked.get("comparisons"),
        left_out=left_out,
        is_learned_from=job.method.needs_reward_model,
    )


def _ranking(made_in: RunDir) -> Mapping[str, Any]:
    """How the reward model ranked held-out pairs, as its run has told; nothing if it has not."""
    try:
        result = made_in.read_result()
    except ValueError:
        return {}
    return (result.report.get("reward_model") if result else None) or {}
