"""The reward models that runs have made, and which of them measures what a policy run has made.

Knows the records of runs; loads no model.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from store.records import Run, RunState
from training.methods import METHODS, Method, Product
from training.proportions import wilson_interval
from training.rundir import RunDir
from training.tuning import LOW_RANK, Tuning


def made_reward_model(run: Run) -> bool:
    """Whether a run left a reward model."""
    is_one = run.method in METHODS and METHODS[run.method].makes is Product.REWARD_MODEL
    return is_one and run.state is RunState.SUCCEEDED


def tuning_of(run: Run) -> Tuning:
    """How a run's reward model was tuned; the first ones, whose runs do not say, with LoRA."""
    return Tuning(run.spec.get("options", {}).get("tuning", Tuning.LORA))


def can_teach(run: Run, method: Method) -> bool:
    """Whether a method can learn from the reward model of a run."""
    return not method.shares_base or tuning_of(run) in LOW_RANK


def folder_of(run: Run) -> Path:
    """Where the reward model of a run is."""
    return RunDir(Path(run.folder)).adapter


def most_reliable(runs: Iterable[Run], base_model: str) -> Run | None:
    """The run whose reward model measures policies of this base; None where none can.

    It has the same base, and so the same tokenizer, and is still on the disk. Of several, the one
    that is the most surely right: by the lower end of its accuracy's 95 % interval, so that both
    accuracy and the number of held-out pairs count; of equal ones the newest.
    """
    fitting = [
        run
        for run in runs
        if made_reward_model(run)
        and run.spec.get("base_model") == base_model
        and folder_of(run).is_dir()
    ]
    return max(fitting, key=lambda run: (_surely_right(run), run.created_at), default=None)


def _surely_right(run: Run) -> float:
    """0 where nothing could be held out to measure it on."""
    ranked = ((run.result or {}).get("report") or {}).get("reward_model")
    if not ranked or not ranked["pairs"]:
        return 0.0
    units = ranked.get("comparisons") or ranked["pairs"]  # pairs of one ranking count as one
    return wilson_interval(ranked["accuracy"] * units, units)[0]
