"""What RLOO and GRPO do alike: answer prompts, have the answers scored, learn from the scores.

The trainers are TRL's. What it would do itself and does otherwise: prompts and responses are token
ids throughout, responses are drawn by `training.generation`, so that they end with whatever token
ends a turn and depend on the run's seed alone, and the reward model reads them as they were drawn.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from inspect import signature
from statistics import fmean
from typing import Any

from datasets import Dataset

from training.generation import GenerationStopped, Request, generate
from training.methods.online_options import OnlineOptions
from training.virtual_tokens import VirtualTokens
from training.worker import data, fitting, models, prompts, rewards, watch
from training.worker.failures import Cancelled
from training.worker.job import Job
from training.worker.models import Loaded
from training.worker.prompts import Pool
from training.worker.rewards import Rewarder


class OnlineTrainer(fitting.WithoutCard):
    """Mixed into one of TRL's trainers: draws the responses, and tells what is maximised."""

    def __init__(self, *, job: Job, options: OnlineOptions, **arguments: Any) -> None:
        self._job = job
        self._options = options
        self._mean_length = 0.0
        super().__init__(**arguments)
        this: Any = self
        virtual = VirtualTokens.of(this.model)
        for model in (this.model, this.ref_model, virtual.base if virtual else None):
            if model is not None:
                model.register_forward_pre_hook(_count_no_padding, with_kwargs=True)

    def draw(self, prompt_ids: Sequence[Sequence[int]]) -> list[list[int]]:
        """A response to each prompt by the policy as it is now. Raises `Cancelled`."""
        this: Any = self
        step = this.state.global_step
        requests = [
            Request(ids, self._options.max_new_tokens, seed=self._seed(step, number))
            for number, ids in enumerate(prompt_ids)
        ]
        # Neither dropout nor gradient checkpointing has a place in generation.
        this.model.eval()
        try:
            outputs = generate(
                this.model, this.processing_class, requests, stop=self._job.stop.signal
            )
        except GenerationStopped:
            raise Cancelled from None
        finally:
            this.model.train()
        self._mean_length = fmean(output.token_count for output in outputs)
        return [list(output.token_ids) for output in outputs]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's metrics, with the KL per response, and reward and KL as they are traded off."""
        this: Any = self
        measured = this._metrics["train"]
        if "kl" in measured:
            kl = fmean(measured["kl"]) * self._mean_length
            measured["kl"] = [kl]
            measured["kl_penalty"] = [self._options.beta * kl]
            if "rewarded" in measured:
                rewarded = fmean(measured["rewarded"])
                measured["objective"] = [rewarded - self._options.beta * kl]
        super().log(logs, start_time)  # type: ignore[misc]  # the trainer's

    def _tokenize_prompts(
        self, prompt_ids: Sequence[Any]
    ) -> tuple[Sequence[Any], None, dict[str, Any]]:
        """Prompts come as token ids; there are no images."""
        return prompt_ids, None, {}

    def _seed(self, step: int, number: int) -> int:
        name = f"response {self._job.spec.seed} {step} {number}"
        return random.Random(name).getrandbits(32)


def _count_no_padding(
    model: Any, arguments: tuple[Any, ...], named: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positions within each row, when TRL asks for log-probabilities.

    It pads on the left and leaves it to the model, and one with absolute positions counts padding,
    as any does between a prefix and its prompt. Virtual tokens have positions too; the model that
    they are put before is given a mask of both, but of a prefix no ids.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    takes_positions = "position_ids" in signature(base.forward).parameters
    if named.get("fused_lm_head") and takes_positions and VirtualTokens.of(model) is None:
        given = named.get("input_ids")
        given = named["inputs_embeds"] if given is None else given
        positions = (named["attention_mask"].long().cumsum(dim=1) - 1).clamp(min=0)
        named["position_ids"] = positions[:, -given.shape[1] :]
    return arguments, named


class RewardFunction:
    """A `Rewarder` as TRL calls it, with the prompts as token ids."""

    def __init__(self, rewarder: Rewarder) -> None:
        self._rewarder = rewarder

    def __call__(
        self,
        *,
        prompts: Sequence[Sequence[int]],
        completion_ids: Sequence[Sequence[int]],
        log_metric: Any,
        **_: Any,
    ) -> list[float]:
        rewarded = self._rewarder.reward(prompts, completion_ids)
        log_metric("score", fmean(rewarded.scores))
        log_metric("rewarded", fmean(rewarded.rewards))  # less the penalty for no end
        log_metric("ended", fmean(rewarded.ended))
        return rewarded.rewards


def trainer_arguments(job: Job, options: OnlineOptions) -> dict[str, Any]:
    """Arguments that the configurations of both of TRL's trainers take."""
    return {
        **fitting.shared_arguments(job, options),
        "num_generations": options.generations,
        "max_completion_length": options.max_new_tokens,
        "per_device_train_batch_size": options.batch_size,
        "gradient_accumulation_steps": options.responses // options.batch_size,
        "num_iterations": options.inner_epochs,
        "beta": options.beta,
        "epsilon": options.clip_range,
        "disable_dropout": True,
        # The prompts are laid out in an order of our own.
        "shuffle_dataset": False,
        "save_steps": options.save_steps * options.inner_epochs,
    }


def train(
    job: Job, options: OnlineOptions, trainer_class: type[Any], arguments: Any
) -> Mapping[str, Any]:
    """Train, measure, and leave the adapter in `adapter.partial`; returns the result's report.

    `trainer_class` is one of TRL's with `OnlineTrainer` mixed in, `arguments` its configuration.
    Raises `WorkerError` for what a person can act on, `Cancelled` when asked to stop.
    """
    job.enter_phase("loading")
    loaded = models.load(job.spec, options)
    fitting.warn_of_other_rank(job, options, loaded)
    rewarder = rewards.load(job, loaded, missing_eos_penalty=options.missing_eos_penalty)

    job.enter_phase("preparing")
    pool = prompts.read(job, loaded, max_new_tokens=options.max_new_tokens)
    asked = options.iterations * options.prompts
    order = data.shuffled_passes(len(pool.prompts), asked, seed=job.spec.seed)
    job.note_trained_rows([pool.prompts[at].row.number for at in set(order)])
    trainer = trainer_class(
        job=job,
        options=options,
        model=loaded.model,
        args=arguments,
        train_dataset=Dataset.from_dict({"prompt": [pool.prompts[at].ids for at in order]}),
        processing_class=loaded.tokenizer,
        peft_config=loaded.fresh_adapter,
        reward_funcs=RewardFunction(rewarder),
    )
    trainee = _with_reference(loaded, trainer).trainee(trainer.model)
    every = options.watch_steps * options.inner_epochs
    if looking := watch.looking(job, trainee, rewarder, every=every, asking=options):
        trainer.add_callback(looking)
    counts = _counts(options, pool, order)
    fitted = fitting.fit(
        job,
        trainer,
        trainee,
        counts,
        epochs=asked / len(pool.prompts),
        passes=options.inner_epochs,  # TRL counts what is drawn
    )

    job.enter_phase("evaluating")
    return {
        **fitted.report(),
        **rewards.answer_held_out(job, options, trainee, rewarder),
    }


def _with_reference(loaded: Loaded, trainer: Any) -> Loaded:
    """With full tuning, one frozen model for the trainer and for the evaluation.

    TRL has read its own from the base's folder, and the run may start from another policy.
    """
    if loaded.frozen is None or trainer.ref_model is None:
        return loaded
    trainer.ref_model.load_state_dict(loaded.frozen.state_dict())
    return loaded._replace(frozen=trainer.ref_model)


def _counts(options: OnlineOptions, pool: Pool, order: Sequence[int]) -> dict[str, int]:
    return {
        "train": len(set(order)),
        "held_out": 0,
        "too_long": pool.too_long,
        "seen": len(order) * options.generations,
    }
