"""PPO on small models in this process: a reward model's folder, and trainers with any scorer."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from tests.gold import score
from training.config import RunSpec
from training.loading import load_tokenizer, render_prompt
from training.methods.ppo import PPOOptions
from training.methods.reward import RewardOptions
from training.tuning import Tuning
from training.worker import models
from training.worker.data import Row
from training.worker.job import StopRequest
from training.worker.ppo.model import SharedBase
from training.worker.ppo.processes import Processes
from training.worker.ppo.rollout import Collector, Rollout, Scorer
from training.worker.ppo.tokens import Tokens
from training.worker.ppo.trainer import PPOTrainer
from training.worker.prompts import Prompt

OPTIONS = {
    "learning_rate": 3e-3,
    "value_learning_rate": 3e-3,
    "iterations": 4,
    "rollouts": 8,
    "minibatch_size": 4,
    "micro_batch_size": 3,
    "max_new_tokens": 10,
    "kl_coef": 0.05,
}


class ProgrammedScorer:
    """Scores completions by a function of the last message and the text."""

    def __init__(self, function: Callable[[str, str], float]) -> None:
        self._function = function

    def score(self, rollouts: Sequence[Rollout], tokens: Tokens) -> Tensor:  # noqa: ARG002
        """One number a row."""
        return torch.tensor(
            [
                self._function(str(r.prompt.row.prompt[-1]["content"]), r.output.text)
                for r in rollouts
            ]
        )


def _asked(rollout: Rollout) -> str:
    return rollout.prompt.row.prompt[-1]["content"]


GOLD = ProgrammedScorer(lambda prompt, completion: score(prompt, completion).total)
LENGTH = ProgrammedScorer(lambda _, completion: float(len(completion)))


def build_reward_model(
    base: Path,
    folder: Path,
    *,
    mean: float = 0.0,
    sd: float = 1.0,
    pooling: str | None = "last",
    rank: int = 4,
    tuning: Tuning = Tuning.LORA,
) -> Path:
    """What a reward run leaves, with random weights, and the scale of its scores.

    Without a `pooling` it is one of the first, which did not say theirs.
    """
    options = RewardOptions(tuning=tuning.value, lora_r=rank, lora_alpha=2 * rank, virtual_tokens=4)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = _classifier(base)
        if tuning is not Tuning.FULL:
            config = models.fresh_adapter(options, task_type="SEQ_CLS")
            if isinstance(config, LoraConfig):
                config.init_lora_weights = False
            model = get_peft_model(model, config)
    model.save_pretrained(folder)
    told = {"mean": mean, "sd": sd} | ({"pooling": pooling} if pooling else {})
    (folder / "scores.json").write_text(json.dumps(told))
    return folder


def classifier_scores(base: Path, folder: Path, rows: Sequence[Sequence[int]]) -> list[float]:
    """What the library's own classifier gives, one row at a time and without padding."""
    model = PeftModel.from_pretrained(_classifier(base), folder).eval()
    with torch.no_grad():
        return [model(input_ids=torch.tensor([row])).logits.item() for row in rows]


def mean_of_classifier_scores(
    base: Path,
    folder: Path,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
) -> list[float]:
    """The mean of the scores that end at each token of a completion."""
    return [
        fmean(classifier_scores(base, folder, [[*p, *c[: at + 1]] for at in range(len(c))]))
        for p, c in zip(prompts, completions, strict=True)
    ]


def _classifier(base: Path) -> Any:
    return AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)


def share_base(
    base: Path,
    *,
    reward: Path | None = None,
    watch: Path | None = None,
    parent: Path | None = None,
    gradient_checkpointing: bool = False,
    rank: int = 4,
    alpha: int = 8,
) -> SharedBase:
    """A policy to train on a base: a fresh one, or a parent's with a frozen copy of it."""
    torch.manual_seed(0)
    options = PPOOptions(lora_r=rank, lora_alpha=alpha)
    spec = RunSpec("r", "ppo", options, str(base), "p", str(parent) if parent else None)
    loaded = models.load(spec, options)
    return SharedBase(
        loaded.wrapped(),
        reward_folder=reward,
        watch_folder=watch,
        gradient_checkpointing=gradient_checkpointing,
    )


def build_trainer(
    base: Path,
    shared: SharedBase,
    scorer: Scorer,
    *,
    prompts: Sequence[str] = ("Where is it?", "I want my money back, now!", "Hello"),
    stop: StopRequest | None = None,
    seed: int = 0,
    **options: Any,
) -> PPOTrainer:
    """A trainer of one process; `options` replace those in `OPTIONS`."""
    chosen = PPOOptions.parsed({**OPTIONS, **options})
    tokenizer = load_tokenizer(base)
    rows = [Row(n, [{"role": "user", "content": text}]) for n, text in enumerate(prompts)]
    processes, stop = Processes(), stop or StopRequest()
    collector = Collector(
        shared,
        tokenizer,
        scorer,
        [Prompt(row, render_prompt(tokenizer, row.prompt)) for row in rows],
        processes,
        stop,
        rollouts=chosen.rollouts,
        max_new_tokens=chosen.max_new_tokens,
        batch_size=chosen.micro_batch_size,
        seed=seed,
    )
    return PPOTrainer(collector, chosen, processes=processes, stop=stop)
