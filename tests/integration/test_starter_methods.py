"""Every method with every tuning that it offers, on the bundled policy: taught, left, and served.

python -m pytest -m nightly tests/integration/test_starter_methods.py
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

import app
from tests.ppo import build_reward_model
from tests.rundirs import eval_prompts, make_run_dir, preference_rows, run_here
from training.config import RunSpec
from training.device import Device
from training.loading import load_base, load_fine_tuned
from training.local_policy import LocalPolicy
from training.methods import METHODS, Product
from training.methods.reward import RewardOptions
from training.methods.sft import SFTOptions
from training.policy import AdapterFolder, GenerationRequest, SamplingParams, adapter_sha256
from training.policy_host import PolicyHost
from training.rundir import Outcome, RunDir, RunResult
from training.tuning import Tuning, tuning_of
from training.worker import answers, models, reward
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


def logits(model: Any) -> torch.Tensor:
    """What the model says of a few tokens, (2, 12, vocabulary)."""
    was_training = model.training
    with torch.no_grad():
        said: torch.Tensor = model.eval()(input_ids=torch.arange(5, 29).view(2, 12)).logits
    model.train(was_training)
    return said


def logits_in_training(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """Those of each policy in training, once it has been trained."""
    said: list[torch.Tensor] = []

    def listen(trainee: models.Trainee, *others: Any) -> Any:
        said.append(logits(trainee.model))
        return COMPARE(trainee, *others)

    monkeypatch.setattr(answers, "compare_answers", listen)
    return said


COMPARE = answers.compare_answers


def loaded(run_dir: RunDir) -> Any:
    """The policy that a run has left, from its folder alone."""
    base = load_base(STARTER)
    if tuning_of(run_dir.adapter) is Tuning.FULL:
        return load_fine_tuned(run_dir.adapter, base)
    return PeftModel.from_pretrained(base, str(run_dir.adapter))


def teach(
    folder: Path, method: str, tuning: str, reward_model: Path | None, **options: Any
) -> tuple[RunDir, RunResult]:
    needs_prompts = METHODS[method].needs_reward_model
    run_dir = make_run_dir(
        folder,
        STARTER,
        method=method,
        rows=[{"prompt": row["prompt"]} for row in preference_rows(24)] if needs_prompts else None,
        reward_model=reward_model if needs_prompts else None,
        tuning=tuning,
        sample_tokens=TOKENS,
        **{
            "learning_rate": RATES.get(Tuning(tuning), 3e-3),
            **({"max_new_tokens": TOKENS, **SHORT[method]} if needs_prompts else {"epochs": 2}),
            **options,
        },
    )
    result = run_here(run_dir)
    assert result.state is Outcome.SUCCEEDED, (result.failure, run_dir.log_tail(40))
    return run_dir, result


@pytest.mark.parametrize(("method", "tuning"), offered(Product.POLICY))
def test_a_policy_has_moved_and_says_when_it_is_live_what_it_said_to_its_trainer(
    tmp_path: Path,
    reward_model: Path,
    host: PolicyHost,
    method: str,
    tuning: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained = logits_in_training(monkeypatch)
    run_dir, result = teach(tmp_path / "run", method, tuning, reward_model)
    shown = result.report["generations"]
    assert shown["kl_k3"] > 1e-4
    assert tuning_of(run_dir.adapter) is Tuning(tuning)
    torch.testing.assert_close(logits(loaded(run_dir)), trained[-1], rtol=0, atol=1e-4)

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


@pytest.mark.parametrize(
    "method", [name for name, method in METHODS.items() if method.makes is Product.POLICY]
)
def test_a_base_of_four_bits_learns_an_adapter_that_is_served_on_a_whole_one(
    tmp_path: Path, reward_model: Path, host: PolicyHost, method: str
) -> None:
    run_dir, result = teach(tmp_path / "run", method, Tuning.QLORA, reward_model)
    assert result.report["generations"]["kl_k3"] > 1e-4
    assert tuning_of(run_dir.adapter) is Tuning.LORA

    version = f"{method}-qlora"
    made = AdapterFolder(version, run_dir.adapter, adapter_sha256(run_dir.adapter))
    assert host.promote(made).result(TIMEOUT_S).version == version


def test_a_base_of_four_bits_passes_on_gradients_after_it_was_used_without() -> None:
    options = SFTOptions(tuning=Tuning.QLORA.value)
    spec = RunSpec("r", "sft", options, str(STARTER), "p")
    model = models.load(spec, options).wrapped().model
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)
    ids = torch.arange(5, 29).view(2, 12)

    def gradients() -> dict[str, torch.Tensor]:
        model.train().zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}

    before = gradients()
    with torch.no_grad():
        model.eval()(input_ids=ids)
    after = gradients()
    assert before
    for name, gradient in before.items():
        assert torch.allclose(after[name], gradient, rtol=1e-3, atol=1e-5), name


def test_a_reward_model_on_a_base_of_four_bits_ranks_nearly_as_well_on_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out = overheard(monkeypatch)
    run_dir, result = teach(tmp_path / "run", "reward", Tuning.QLORA, None)
    assert tuning_of(run_dir.adapter) is Tuning.LORA

    told, again = result.report["reward_model"], ranked_again(run_dir, held_out[0])
    assert told["accuracy"] > 0.5
    assert again["accuracy"] == pytest.approx(told["accuracy"], abs=0.15)
    assert again["score_mean"] == pytest.approx(told["score_mean"], abs=0.5 * told["score_sd"])


RANK = reward._rank


def overheard(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The held-out comparisons that reward runs will be measured on, in the order of the runs."""
    rows: list[Any] = []

    def listen(model: Any, held_out: Any, options: Any) -> Any:
        rows.append(held_out)
        return RANK(model, held_out, options)

    monkeypatch.setattr(reward, "_rank", listen)
    return rows


def ranked_again(run_dir: RunDir, held_out: Any) -> Mapping[str, Any]:
    """How the reward model that a run has left ranks comparisons, once it is loaded."""
    options = run_dir.read_spec().options
    assert isinstance(options, RewardOptions)
    loaded = load_reward_model(str(STARTER), str(run_dir.adapter))
    found = RANK(loaded.model, held_out, options)
    assert found is not None
    return found


@pytest.mark.parametrize(("method", "tuning"), offered(Product.REWARD_MODEL))
def test_a_reward_model_has_moved_and_ranks_as_it_did_when_it_is_loaded(
    tmp_path: Path, method: str, tuning: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_out = overheard(monkeypatch)
    run_dir, result = teach(tmp_path / "run", method, tuning, None, patience=1)
    _, still = teach(tmp_path / "still", method, tuning, None, learning_rate=1e-8)

    told = result.report["reward_model"]
    assert told["accuracy"] > 0.5
    assert told["loss"] < still.report["reward_model"]["loss"]
    again = ranked_again(run_dir, held_out[0])
    for name in ("accuracy", "loss", "score_mean", "score_sd"):
        assert again[name] == pytest.approx(told[name], abs=1e-5), name
    moved, unmoved = (weights_of(tmp_path / name / "adapter") for name in ("run", "still"))
    assert moved
    assert all((moved[name] - unmoved[name]).abs().max() > 1e-4 for name in moved)


def weights_of(folder: Path) -> Mapping[str, torch.Tensor]:
    (file,) = folder.glob("*.safetensors")
    weights: Mapping[str, torch.Tensor] = load_file(file)
    return weights
