"""Rejection sampling: draw n responses, keep the one that scores best, fine-tune on those.

    python -m training.worker RUN_DIR        # spec.json says method "best_of_n"

Touvron et al. 2023, section 3.2.3, in one round. What was drawn is in `completions.jsonl`; a run
that goes on does not draw it again.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import closing
from statistics import fmean
from typing import Any

from training.events import EventKind
from training.generation import GenerationStopped, Request, generate
from training.methods.best_of_n import BestOfNOptions
from training.worker import data, fitting, models, prompts, rewards, sft
from training.worker.completions import CompletionLog, Drawn, kept
from training.worker.encoding import Encoded
from training.worker.failures import Cancelled
from training.worker.job import Job
from training.worker.models import Loaded
from training.worker.prompts import Prompt
from training.worker.rewards import Rewarder
from training.worker.selection import best_of_n_kl, doublings, expected_best
from training.worker.sft import Lessons

DRAWN_AT_ONCE = 64


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
    drawn = _draw(job, options, loaded, rewarder, asked)

    job.enter_phase("preparing")
    lessons = _lessons(options, asked, kept(drawn, options.keep))
    taught = sft.teach(job, options, loaded, lessons)
    return {
        **taught.report(),
        "best_of_n": _curve(drawn, options.n),
        **rewards.answer_held_out(job, options, taught.trainee, rewarder),
    }


def _choose_prompts(
    pool: Sequence[Prompt], options: BestOfNOptions, *, seed: int
) -> dict[int, Prompt]:
    """The prompts to answer, those of like length together, by their place in the snapshot."""
    count = min(options.prompts, len(pool))
    chosen = [pool[at] for at in data.shuffled_passes(len(pool), count, seed=seed)]
    return {prompt.row.number: prompt for prompt in sorted(chosen, key=lambda p: len(p.ids))}


def _draw(
    job: Job,
    options: BestOfNOptions,
    loaded: Loaded,
    rewarder: Rewarder,
    asked: Mapping[int, Prompt],
) -> list[Drawn]:
    """What the policy that the run starts from answers to each prompt. Raises `Cancelled`."""
    job.stop.be_patient()
    with closing(CompletionLog(job.run_dir.completions_path)) as log:
        known = {drawn.row for drawn in log.drawn}
        left = [prompt for row, prompt in asked.items() if row not in known]
        size = max(1, DRAWN_AT_ONCE // options.n)
        for start in range(0, len(left), size):
            for drawn in _answer(job, options, loaded, rewarder, left[start : start + size]):
                log.append(drawn)
            job.events.write(
                EventKind.PROGRESS,
                step=len(log.drawn),
                total=len(asked),
                epoch=0,
                first_step=start == 0,
            )
        return log.drawn


def _answer(
    job: Job,
    options: BestOfNOptions,
    loaded: Loaded,
    rewarder: Rewarder,
    asked: Sequence[Prompt],
) -> list[Drawn]:
    requests = [
        Request(prompt.ids, options.max_new_tokens, seed=_seed(job, prompt, number))
        for prompt in asked
        for number in range(options.n)
    ]
    try:
        outputs = generate(loaded.model, loaded.tokenizer, requests, stop=job.stop.signal)
    except GenerationStopped:
        raise Cancelled from None
    completions = [list(output.token_ids) for output in outputs]
    rewarded = rewarder.reward([request.token_ids for request in requests], completions)
    shares = [slice(at * options.n, (at + 1) * options.n) for at in range(len(asked))]
    return [
        Drawn(prompt.row.number, completions[share], rewarded.rewards[share], rewarded.ended[share])
        for prompt, share in zip(asked, shares, strict=True)
    ]


def _seed(job: Job, prompt: Prompt, number: int) -> int:
    name = f"response {job.spec.seed} {prompt.row.number} {number}"
    return random.Random(name).getrandbits(32)


def _lessons(
    options: BestOfNOptions, asked: Mapping[int, Prompt], chosen: Sequence[Drawn]
) -> Lessons:
    best = {drawn.row: drawn.completions[drawn.best] for drawn in chosen if drawn.best is not None}
    split = data.split_by_conversation([asked[row].row for row in best], options.eval_share)

    def encode(rows: Sequence[data.Row]) -> list[Encoded]:
        return [Encoded(asked[row.number].ids, best[row.number]) for row in rows]

    return Lessons(encode(split.train), encode(split.held_out), split.sources)


def _curve(drawn: Sequence[Drawn], n: int) -> list[dict[str, float]]:
    """The mean reward of the best of 1, 2, 4, ..., `n` responses, and its distance in nats."""
    return [
        {
            "n": m,
            "reward": fmean(expected_best(each.rewards, m) for each in drawn),
            "kl": best_of_n_kl(m),
        }
        for m in doublings(n)
    ]
