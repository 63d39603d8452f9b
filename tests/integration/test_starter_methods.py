"""Every method with every tuning that it offers, on the bundled policy: taught, left, and served.

python -m pytest -m nightly tests/integration/test_starter_methods.py
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import app
from tests.ppo import build_reward_model
from tests.rundirs import eval_prompts, make_run_dir, preference_rows, run_here
from training.device import Device
from training.local_policy import LocalPolicy
from training.methods import METHODS, Product
from training.policy import AdapterFolder, GenerationRequest, SamplingParams, adapter_sha256
from training.policy_host import PolicyHost
from training.rundir import Outcome, RunDir, RunResult
from training.tuning import Tuning, tuning_of
from training.worker.scoring import load_reward_model

pytestmark = pytest.mark.nightly

STARTER = app.ASSETS / "starter"
TIMEOUT_S = 120.0
TOKENS = 40
# Virtual tokens move the output little with each step, all weights together much.
RATES = {Tuning.PREFIX: 0.03, Tuning.PROMPT: 0.1, Tuning.FULL: 3e-4}
SHORT: Mapping[str, Mapping[str, Any]] = {
    "ppo": {"iterations": 2, "rollouts": 8, "minibatch_size": 4, "value_learning_rate": 3e-3},
    "rloo": {"iterations": 2, "prompts": 4, "generations": 4, "batch_size": 8},
    "grpo": {"iterations": 2, "prompts": 4, "generations": 4, "batch_size": 8},
    "best_of_n": {"n": 4, "prompts": 12, "epochs": 2, "batch_size": 4},
    "online_dpo": {"n": 4, "prompts": 12, "epochs": 2, "batch_size": 4},
}


def offered(product: Product) -> list[tuple[str, str]]:
    """Methods with what they can tune, but for four bits, which need a package of their own."""
    return [
        (name, tuning)
        for name, method in METHODS.items()
        for option in method.options.described()
        if option.name == "tuning" and method.makes is product
        for tuning in option.choices
        if tuning != Tuning.QLORA
    ]


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_reward_model(STARTER, tmp_path_factory.mktemp("reward") / "adapter")


@pytest.fixture(scope="module")
def host() -> Iterator[PolicyHost]:
    host = PolicyHost(lambda: LocalPolicy(STARTER, device=Device("cpu", "test", 0)), max_batch=8)
    host.start()
    yield host
    host.close()


def teach(
    folder: Path, method: str, tuning: str, reward_model: Path | None
) -> tuple[RunDir, RunResult]:
    needs_prompts = METHODS[method].needs_reward_model
    run_dir = make_run_dir(
        folder,
        STARTER,
        method=method,
        rows=[{"prompt": row["prompt"]} for row in preference_rows(24)] if needs_prompts else None,
        reward_model=reward_model if needs_prompts else None,
        tuning=tuning,
        learning_rate=RATES.get(Tuning(tuning), 3e-3),
        sample_tokens=TOKENS,
        **({"max_new_tokens": TOKENS, **SHORT[method]} if needs_prompts else {"epochs": 2}),
    )
    result = run_here(run_dir)
    assert result.state is Outcome.SUCCEEDED, (result.failure, run_dir.log_tail(40))
    return run_dir, result


@pytest.mark.parametrize(("method", "tuning"), offered(Product.POLICY))
def test_a_policy_has_moved_and_says_when_it_is_live_what_it_said_to_its_trainer(
    tmp_path: Path, reward_model: Path, host: PolicyHost, method: str, tuning: str
) -> None:
    run_dir, result = teach(tmp_path / "run", method, tuning, reward_model)
    shown = result.report["generations"]
    assert shown["kl_k3"] > 1e-4
    assert tuning_of(run_dir.adapter) is Tuning(tuning)

    version = f"{method}-{tuning}"
    made = AdapterFolder(version, run_dir.adapter, adapter_sha256(run_dir.adapter))
    assert host.promote(made).result(TIMEOUT_S).version == version
    sampling = SamplingParams(max_new_tokens=TOKENS)
    asked = [
        GenerationRequest(prompt["messages"], sampling, seed=number)
        for number, prompt in enumerate(eval_prompts())
    ]
    said = host.submit(asked).result(TIMEOUT_S)
    assert {generation.policy_version for generation in said} == {version}
    assert [generation.text for generation in said] == [s["after"] for s in shown["samples"]]


@pytest.mark.parametrize(("method", "tuning"), offered(Product.REWARD_MODEL))
def test_a_reward_model_has_moved_and_scores_the_same_when_it_is_loaded(
    tmp_path: Path, method: str, tuning: str
) -> None:
    run_dir, result = teach(tmp_path / "run", method, tuning, None)
    rows = [[5, 9, 30], [7]], [[32, 33], [50, 51, 52, 2]]
    first, second = (load_reward_model(str(STARTER), str(run_dir.adapter)) for _ in range(2))

    assert result.report["reward_model"]["accuracy"] > 0.5
    assert first.score(*rows) == second.score(*rows)
    learned = [w for name, w in first.model.named_parameters() if "lora_B" in name]
    assert learned
    assert all(weight.any() for weight in learned)
