"""Rejection sampling: draw n responses, keep the one that scores best, fine-tune on those.

    python -m training.worker RUN_DIR        # spec.json says method "best_of_n"

Touvron et al. 2023, section 3.2.3, in one round. What was drawn is in `completions.jsonl`; a run
that goes on does not draw it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from training.methods.best_of_n import BestOfNOptions
from training.worker import data, fitting, models, prompts, rewards, sft, watch
from training.worker.completions import Drawn, kept
from training.worker.drawing import Drawing, by_place
from training.worker.encoding import Encoded
from training.worker.job import Job
from training.worker.prompts import Prompt
from training.worker.rewards import Rewarder
from training.worker.selection import best_of_n_kl, doublings, expected_best
from training.worker.sft import Lessons


def train(job: Job) -> Mapping[str, Any]:
    """Draw, choose, train, measure, and leave the adapter in `adapter.partial`; returns the report.

    Raises `WorkerError` for what a person can act on, `Cancelled` when asked to stop.
    """
    options = job.spec.options
    assert isinstance(options, BestOfNOptions)
    job.enter_phase("loading")
    loaded = models.load(job.spec, options)
    fitting.warn_of_other_rank(job, options, loaded)
    rewarder = rewards.load(job, loaded, missing_eos_penalty=options.missing_eos_penalty)

    job.enter_phase("generating")
    pool = prompts.read(job, loaded, max_new_tokens=options.max_new_tokens)
    asked = _choose_prompts(pool.prompts, options, seed=job.spec.seed)
    drawing = Drawing(job, loaded.tokenizer, rewarder, options.n, options.max_new_tokens)
    drawn = drawing.draw(loaded.model, asked)
    watched = _watched(job, rewarder, asked, drawn)

    job.enter_phase("preparing")
    lessons = _lessons(options, asked, kept(drawn, options.keep))
    taught = sft.teach(job, options, loaded, lessons)
    return {
        **taught.report(),
        "best_of_n": _curve(drawn, options.n, watched),
        **rewards.answer_held_out(job, options, taught.trainee, rewarder),
    }


def _choose_prompts(
    pool: Sequence[Prompt], options: BestOfNOptions, *, seed: int
) -> dict[int, Prompt]:
    """The prompts to answer, by their place in the snapshot."""
    count = min(options.prompts, len(pool))
    return by_place([pool[at] for at in data.shuffled_passes(len(pool), count, seed=seed)])


def _lessons(
    options: BestOfNOptions, asked: Mapping[int, Prompt], chosen: Sequence[Drawn]
) -> Lessons:
    best = {drawn.row: drawn.completions[drawn.best] for drawn in chosen if drawn.best is not None}
    split = data.split_by_conversation([asked[row].row for row in best], options.eval_share)

    def encode(rows: Sequence[data.Row]) -> list[Encoded]:
        return [Encoded(asked[row.number].ids, best[row.number]) for row in rows]

    return Lessons(encode(split.train), encode(split.held_out), split.sources)


def _watched(
    job: Job, rewarder: Rewarder, asked: Mapping[int, Prompt], drawn: Sequence[Drawn]
) -> list[list[float]] | None:
    """What a second reward model makes of all that was drawn, in its order; None without one.

    It is asked once all is drawn and prompt by prompt, so that a run that was interrupted hears the
    very same.
    """
    second = watch.load_second(job, rewarder)
    if second is None:
        return None
    judge, found = rewarder.by(second), []
    for each in drawn:
        job.stop.check()
        beside = [asked[each.row].ids] * len(each.completions)
        found.append(judge.reward(beside, each.completions).rewards)
    return found


def _curve(
    drawn: Sequence[Drawn], n: int, watched: Sequence[Sequence[float]] | None = None
) -> list[dict[str, float]]:
    """The mean reward of the best of 1, 2, 4, ..., `n` responses, and its distance in nats.

    `watched` are a second reward model's rewards of what was drawn: the mean of these, of the same
    best ones, is told beside.
    """

    def point(m: int) -> dict[str, float]:
        told = {
            "n": m,
            "reward": fmean(expected_best(each.rewards, m) for each in drawn),
            "kl": best_of_n_kl(m),
        }
        if watched is not None:
            pairs = zip(drawn, watched, strict=True)
            told["watch_reward"] = fmean(
                expected_best(each.rewards, m, values) for each, values in pairs
            )
        return told

    return [point(m) for m in doublings(n)]
