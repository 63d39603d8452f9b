"""The methods: what each is called, learns from, makes, and where its options and recipe are.

A new one is a module here with its options, a recipe in the worker, and a row of `METHODS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from training.methods.best_of_n import BestOfNOptions
from training.methods.dpo import DPOOptions
from training.methods.grpo import GRPOOptions
from training.methods.kto import KTOOptions
from training.methods.online_dpo import OnlineDPOOptions
from training.methods.ppo import PPOOptions
from training.methods.reward import RewardOptions
from training.methods.rloo import RLOOOptions
from training.methods.sft import SFTOptions
from training.options import MethodOptions, SpecError


class LearnsFrom(StrEnum):
    """Kinds of training data, each with TRL's columns.

    PREFERENCES     prompt, chosen, rejected
    COMPARISONS     the same with ties and margins, and which pairs are of one comparison
    DEMONSTRATIONS  prompt, completion
    RATINGS         prompt, completion, label (liked or not)
    PROMPTS         prompt
    """

    PREFERENCES = "preferences"
    COMPARISONS = "comparisons"
    DEMONSTRATIONS = "demonstrations"
    RATINGS = "ratings"
    PROMPTS = "prompts"


class Product(StrEnum):
    """What a run leaves: a policy that can answer people, or a model that scores responses."""

    POLICY = "policy"
    REWARD_MODEL = "reward_model"


class Method(NamedTuple):
    """A way to train. `recipe` is the module, in the worker, whose `train(job)` does it.

    With `shares_base` the models that it holds are low-rank adapters of one base, and so must the
    reward model be that it learns from.
    """

    name: str
    label: str
    options: type[MethodOptions]
    recipe: str
    learns_from: LearnsFrom = LearnsFrom.PREFERENCES
    makes: Product = Product.POLICY
    needs_reward_model: bool = False
    shares_base: bool = False


def _from_scores(name: str, label: str, options: type[MethodOptions]) -> Method:
    """A method that answers prompts and learns from how a reward model scores the answers."""
    recipe = f"training.worker.{name}"
    return Method(name, label, options, recipe, LearnsFrom.PROMPTS, needs_reward_model=True)


METHODS: Mapping[str, Method] = {
    m.name: m
    for m in (
        Method("dpo", "DPO", DPOOptions, "training.worker.dpo"),
        Method("kto", "KTO", KTOOptions, "training.worker.kto", LearnsFrom.RATINGS),
        Method("sft", "SFT", SFTOptions, "training.worker.sft", LearnsFrom.DEMONSTRATIONS),
        Method(
            "reward",
            "Reward model",
            RewardOptions,
            "training.worker.reward",
            LearnsFrom.COMPARISONS,
            makes=Product.REWARD_MODEL,
        ),
        Method(
            "ppo",
            "PPO",
            PPOOptions,
            "training.worker.ppo.recipe",
            LearnsFrom.PROMPTS,
            needs_reward_model=True,
            shares_base=True,
        ),
        _from_scores("rloo", "RLOO", RLOOOptions),
        _from_scores("grpo", "GRPO", GRPOOptions),
        _from_scores("best_of_n", "Best of n", BestOfNOptions),
        _from_scores("online_dpo", "Online DPO", OnlineDPOOptions),
    )
}


def method_named(name: str) -> Method:
    """Raises `SpecError`."""
    if name not in METHODS:
        raise SpecError("method", name, "choose one of {choices}", choices=", ".join(METHODS))
    return METHODS[name]
