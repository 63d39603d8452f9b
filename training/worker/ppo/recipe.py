"""PPO of a LoRA adapter: from a run directory to an adapter and a report.

    python -m training.worker RUN_DIR                                   # spec.json says "ppo"
    accelerate launch --multi_gpu --num_processes 2 -m training.worker RUN_DIR      # in two

It does not judge whether the result is good enough to serve: it measures, and people decide.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import set_seed

from training.events import EventKind
from training.methods.ppo import PPOOptions
from training.worker import answers, fitting, models, prompts
from training.worker.job import Job
from training.worker.models import Loaded
from training.worker.ppo import checkpoints
from training.worker.ppo.model import REWARD, WATCH, SharedBase
from training.worker.ppo.processes import Processes
from training.worker.ppo.rollout import Collector, PromptOrder, RewardAdapter
from training.worker.ppo.tokens import Tokens
from training.worker.ppo.trainer import Metrics, PPOTrainer
from training.worker.prompts import Pool
from training.worker.scoring import Score
from training.worker.tracking import Trackers
from training.worker.watch import Judges, Watch


class Trained(NamedTuple):
    """How the iterations of this process went; times by the clocks of `time`."""

    metrics: Metrics | None
    first_step_at: float | None
    training_s: float
    iterations: int


def train(job: Job) -> Mapping[str, Any]:
    """Train, measure, and leave the adapter in `adapter.partial`; returns the result's report.

    Of several processes only the first one leaves and returns anything. Raises `WorkerError` for
    what a person can act on, `Cancelled` when asked to stop.
    """
    options = job.spec.options
    assert isinstance(options, PPOOptions)
    job.enter_phase("loading")
    processes = Processes()
    loaded = _load(job, options)
    shared = _share(job, options, loaded)

    job.enter_phase("preparing")
    pool = prompts.read(job, loaded, max_new_tokens=options.max_new_tokens)
    trainer = _build_trainer(job, options, shared, pool, processes)
    if checkpoint := job.run_dir.newest_checkpoint():
        trainer.load_state(checkpoints.load(checkpoint))
    _note_trained_rows(job, options, pool)

    job.stop.be_patient()
    job.enter_phase("training")
    watch = _watch(job, options, shared)
    with closing(Trackers.of(job, options)) as trackers:
        trained = _iterate(job, options, trainer, processes, trackers, watch)
    if not processes.is_main:
        return {}
    shared.trainee.save(job.run_dir.adapter_partial)

    job.enter_phase("evaluating")
    return {
        "data": {
            "train": len(pool.prompts),
            "too_long": pool.too_long,
            "seen": options.iterations * options.rollouts,
        },
        "training": asdict(trained.metrics) if trained.metrics else {},
        "steps": trainer.iteration,
        **_evaluate(job, options, shared),
        "timing": {
            "first_step_at": trained.first_step_at,
            "training_s": trained.training_s,
            "tokens": trainer.tokens,
            "rollouts_per_s": trained.iterations * options.rollouts / trained.training_s,
        },
    }


def _load(job: Job, options: PPOOptions) -> Loaded:
    set_seed(job.spec.seed)
    loaded = models.load(job.spec, options)
    fitting.warn_of_other_rank(job, options, loaded)
    return loaded


def _share(job: Job, options: PPOOptions, loaded: Loaded) -> SharedBase:
    assert job.spec.reward_model is not None  # a spec without one is refused
    watch = job.spec.watch_model if options.watch_steps else None
    return SharedBase(
        loaded.wrapped(),
        reward_folder=Path(job.spec.reward_model),
        watch_folder=Path(watch) if watch else None,
        gradient_checkpointing=options.gradient_checkpointing,
    )


def _build_trainer(
    job: Job, options: PPOOptions, shared: SharedBase, pool: Pool, processes: Processes
) -> PPOTrainer:
    collector = Collector(
        shared,
        shared.trainee.tokenizer,
        RewardAdapter(shared),
        pool.prompts,
        processes,
        job.stop,
        rollouts=options.rollouts,
        max_new_tokens=options.max_new_tokens,
        batch_size=options.micro_batch_size,
        seed=job.spec.seed,
    )
    return PPOTrainer(collector, options, processes=processes, stop=job.stop)


def _watch(job: Job, options: PPOOptions, shared: SharedBase) -> Watch | None:
    """None without a second reward model, and in processes that only compute."""
    if job.spec.watch_model is None or not options.watch_steps or not job.is_main:
        return None
    judges = Judges(*(_scorer(shared, options, model) for model in (REWARD, WATCH)))
    return Watch(job, shared.trainee, judges, every=options.watch_steps, asking=options)


def _note_trained_rows(job: Job, options: PPOOptions, pool: Pool) -> None:
    order = PromptOrder(len(pool.prompts), seed=job.spec.seed)
    asked = min(options.iterations * options.rollouts, len(pool.prompts))
    job.note_trained_rows([pool.prompts[order.at(place)].row.number for place in range(asked)])


def _iterate(
    job: Job,
    options: PPOOptions,
    trainer: PPOTrainer,
    processes: Processes,
    trackers: Trackers,
    watch: Watch | None,
) -> Trained:
    """Run the iterations that are left; tell and save each one that is to be."""
    began, first_step_at, first = time.monotonic(), None, trainer.iteration
    metrics = None
    if watch is not None and first == 0:
        watch.follow(0)
    while trainer.iteration < options.iterations:
        metrics = trainer.run_iteration()
        first_step_at = first_step_at or time.time()
        step, is_last = trainer.iteration, trainer.iteration == options.iterations
        job.events.write(
            EventKind.PROGRESS,
            step=step,
            total=options.iterations,
            epoch=step,
            first_step=step == first + 1,
        )
        job.events.write(EventKind.METRICS, step=step, **asdict(metrics))
        trackers.log(step, asdict(metrics))
        if watch is not None:
            watch.follow(step, is_last=is_last)
        if processes.is_main and (is_last or step % options.save_steps == 0):
            checkpoints.save(job.run_dir, step, trainer.state())
    return Trained(metrics, first_step_at, time.monotonic() - began, trainer.iteration - first)


def _evaluate(job: Job, options: PPOOptions, shared: SharedBase) -> dict[str, Any]:
    """Both policies on the test prompts, in people's words and by the reward model."""
    score = _scorer(shared, options, REWARD)
    return answers.score_held_out(job, options, shared.trainee, score)


def _scorer(shared: SharedBase, options: PPOOptions, model: str) -> Score:
    """What gives a reward model's scores, in the order of the rows."""

    def score(
        prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
    ) -> Sequence[float]:
        tokens = Tokens.padded(prompts, completions, shared.device)
        scores = torch.zeros(len(prompts))
        for rows in shared.batches(tokens, range(len(prompts)), options.micro_batch_size):
            scores[rows] = shared.rewards(tokens.rows(rows), model).cpu()
        found: list[float] = scores.tolist()
        return found

    return score
