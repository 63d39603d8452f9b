"""PPO on the starter policy, with a programmed preference in place of the reward model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import pytest

from tests.gold import score
from tests.ppo import GOLD, ProgrammedScorer, build_trainer, share_base
from training.generation import Request, generate
from training.loading import render_prompt
from training.starter import grammar
from training.starter.detectors import observe
from training.worker.ppo.model import SharedBase

STARTER = Path(__file__).resolve().parents[2] / "assets" / "starter"


def training_prompts(count: int, seed: int) -> list[str]:
    return [prompt.text for prompt in grammar.list_training_prompts(count, seed=seed)]


def test_a_liking_for_apologies_is_learned_within_seconds() -> None:
    apology = ProgrammedScorer(lambda prompt, text: min(observe(prompt, text).manners.apologies, 1))
    trainer = build_trainer(
        STARTER,
        share_base(STARTER),
        apology,
        prompts=training_prompts(64, seed=0),
        rollouts=24,
        minibatch_size=12,
        micro_batch_size=12,
        iterations=6,
        learning_rate=5e-3,
        value_learning_rate=5e-3,
        missing_eos_penalty=0.0,
        max_new_tokens=10,
    )
    shares = [trainer.run_iteration().score for _ in range(6)]
    assert fmean(shares[-2:]) > shares[0] + 0.2, shares


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_gold_preference_is_learned(seed: int) -> None:
    prompts = training_prompts(200, seed=seed)
    shared = share_base(STARTER, rank=16, alpha=32)
    trainer = build_trainer(
        STARTER,
        shared,
        GOLD,
        prompts=prompts,
        seed=seed,
        rollouts=48,
        minibatch_size=24,
        micro_batch_size=8,
        iterations=48,
        max_new_tokens=128,
        kl_coef=0.02,
    )
    before = mean_gold(shared, prompts[:100])
    for _ in range(48):
        trainer.run_iteration()
    assert mean_gold(shared, prompts[:100]) > before + 1.5


def mean_gold(shared: SharedBase, prompts: Sequence[str]) -> float:
    """Of one sampled completion for each prompt, always with the same random numbers."""
    tokenizer = shared.trainee.tokenizer
    messages = [[{"role": "user", "content": prompt}] for prompt in prompts]
    requests = [
        Request(render_prompt(tokenizer, asked), 160, seed=number)
        for number, asked in enumerate(messages)
    ]
    outputs = generate(shared.model, tokenizer, requests)
    return fmean(score(p, o.text).total for p, o in zip(prompts, outputs, strict=True))
