"""The live policy changes under its callers: real adapters on a tiny model, the real host."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from store.errors import BadInput, Conflict, NotFound, PolicyUnavailable
from tests.models import build_adapter, build_model
from training.device import Device
from training.generation import Request, generate
from training.loading import load_base, load_tokenizer, render_prompt
from training.local_policy import LocalPolicy
from training.policy import AdapterFolder, GenerationRequest, SamplingParams, adapter_sha256
from training.policy_host import PolicyHost

TIMEOUT_S = 120.0
CPU = Device("cpu", "test", 0)
GREEDY = SamplingParams(temperature=0, max_new_tokens=16)
PROMPTS = ["Where is my parcel?", "I cannot log in to my account!", "Thank you"]


def request(text: str, *, seed: int = 0, sampling: SamplingParams = GREEDY) -> GenerationRequest:
    return GenerationRequest([{"role": "user", "content": text}], sampling, seed)


def greedy_texts(policy: LocalPolicy, version: str) -> list[str]:
    requests = [request(text) for text in PROMPTS]
    return [generation.text for generation in policy.generate(version, requests)]


def fresh_texts(base: Path, adapter: AdapterFolder | None) -> list[str]:
    """What a process that never swapped anything would say."""
    tokenizer, model = load_tokenizer(base), load_base(base)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter.path)
    texts = []
    for text in PROMPTS:
        ids = render_prompt(tokenizer, [{"role": "user", "content": text}])
        (output,) = generate(model, tokenizer, [Request(ids, 16, temperature=0)])
        texts.append(output.text)
    return texts


def register(folder: Path, version: str) -> AdapterFolder:
    return AdapterFolder(version, folder, adapter_sha256(folder))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def adapters(base: Path, tmp_path_factory: pytest.TempPathFactory) -> list[AdapterFolder]:
    folder = tmp_path_factory.mktemp("adapters")
    return [
        register(build_adapter(base, folder / f"pol-{number}", number), f"pol-{number}")
        for number in (1, 11, 111)
    ]


@pytest.fixture(scope="module")
def fresh(base: Path, adapters: list[AdapterFolder]) -> dict[str, list[str]]:
    """By version, the texts that a swapped policy must give."""
    return {"base": fresh_texts(base, None)} | {
        adapter.version: fresh_texts(base, adapter) for adapter in adapters
    }


@pytest.fixture
def own_adapter(base: Path, tmp_path: Path) -> Path:
    """A folder that a test may damage."""
    return build_adapter(base, tmp_path / "own", 5)


@pytest.fixture
def policy(base: Path) -> LocalPolicy:
    return LocalPolicy(base, device=CPU)


@pytest.fixture
def host(base: Path) -> Iterator[PolicyHost]:
    host = PolicyHost(lambda: LocalPolicy(base, device=CPU), max_batch=8)
    host.start()
    yield host
    host.close()


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2"])
def test_a_swapped_policy_says_what_a_fresh_load_of_the_same_folder_says(
    tmp_path: Path, architecture: str
) -> None:
    base = build_model(tmp_path / "base", architecture)
    first = register(build_adapter(base, tmp_path / "1", 1), "pol-1")
    second = register(build_adapter(base, tmp_path / "11", 11), "pol-11")
    policy = LocalPolicy(base, device=CPU)
    expected = {
        "base": fresh_texts(base, None),
        "pol-1": fresh_texts(base, first),
        "pol-11": fresh_texts(base, second),
    }
    assert len({tuple(texts) for texts in expected.values()}) == 3
    policy.load(first)
    policy.load(second)
    for version in ("pol-11", "base", "pol-1", "base", "pol-11"):
        assert greedy_texts(policy, version) == expected[version]


def test_dropping_a_version_leaves_those_whose_names_contain_its_own(
    policy: LocalPolicy, fresh: dict[str, list[str]], adapters: list[AdapterFolder]
) -> None:
    for adapter in adapters:
        policy.load(adapter)
    policy.drop("pol-1")
    assert policy.loaded_versions == ("base", "pol-11", "pol-111")
    assert greedy_texts(policy, "pol-11") == fresh["pol-11"]
    assert greedy_texts(policy, "pol-111") == fresh["pol-111"]


def test_a_dropped_version_comes_back_the_same(
    policy: LocalPolicy, fresh: dict[str, list[str]], adapters: list[AdapterFolder]
) -> None:
    policy.load(adapters[0])
    policy.drop("pol-1")
    assert greedy_texts(policy, "base") == fresh["base"]
    with pytest.raises(NotFound, match="pol-1"):
        greedy_texts(policy, "pol-1")
    policy.load(adapters[0])
    assert greedy_texts(policy, "pol-1") == fresh["pol-1"]


def test_a_version_that_is_loaded_is_not_loaded_over(
    policy: LocalPolicy, adapters: list[AdapterFolder]
) -> None:
    policy.load(adapters[0])
    with pytest.raises(Conflict, match="pol-1"):
        policy.load(adapters[0])


def test_the_base_cannot_be_dropped(policy: LocalPolicy) -> None:
    with pytest.raises(Conflict, match="base"):
        policy.drop("base")


def test_a_generation_carries_all_that_is_needed_to_trace_it(
    policy: LocalPolicy, adapters: list[AdapterFolder]
) -> None:
    policy.load(adapters[0])
    sampling = SamplingParams(temperature=0.8, top_p=0.9, top_k=20, max_new_tokens=5)
    (generation,) = policy.generate("pol-1", [request("hi", seed=42, sampling=sampling)])
    assert generation.policy_version == "pol-1"
    assert generation.adapter_sha256 == adapters[0].sha256
    assert (generation.sampling, generation.seed) == (sampling, 42)
    (plain,) = policy.generate("base", [request("hi")])
    assert plain.adapter_sha256 is None


def test_a_tampered_adapter_is_refused(policy: LocalPolicy, own_adapter: Path) -> None:
    adapter = register(own_adapter, "pol-5")
    with (own_adapter / "adapter_model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    with pytest.raises(BadInput, match="changed since it was registered"):
        policy.load(adapter)
    assert policy.loaded_versions == ("base",)


@pytest.mark.parametrize("others_first", [False, True])
def test_an_adapter_of_another_base_is_refused_and_leaves_no_trace(
    policy: LocalPolicy,
    fresh: dict[str, list[str]],
    adapters: list[AdapterFolder],
    tmp_path: Path,
    others_first: bool,
) -> None:
    if others_first:
        policy.load(adapters[0])
    stranger = build_model(tmp_path / "gpt2", "gpt2")
    with pytest.raises(BadInput, match="does not fit this base"):
        policy.load(register(build_adapter(stranger, tmp_path / "strange", 1), "pol-2"))
    assert greedy_texts(policy, "base") == fresh["base"]
    policy.load(adapters[1])
    assert greedy_texts(policy, "pol-11") == fresh["pol-11"]


@pytest.mark.parametrize("others_first", [False, True])
def test_weights_of_another_shape_are_refused_and_leave_no_trace(
    policy: LocalPolicy,
    fresh: dict[str, list[str]],
    adapters: list[AdapterFolder],
    own_adapter: Path,
    others_first: bool,
) -> None:
    if others_first:
        policy.load(adapters[0])
    weights = load_file(own_adapter / "adapter_model.safetensors")
    for name in list(weights)[-3:]:
        weights[name] = torch.ones(3, 3)
    save_file(weights, own_adapter / "adapter_model.safetensors")
    with pytest.raises(BadInput, match="does not fit this base"):
        policy.load(register(own_adapter, "pol-5"))
    assert greedy_texts(policy, "base") == fresh["base"]
    policy.load(adapters[1])
    assert greedy_texts(policy, "pol-11") == fresh["pol-11"]


def test_an_adapter_that_lacks_weights_is_refused(policy: LocalPolicy, own_adapter: Path) -> None:
    weights = load_file(own_adapter / "adapter_model.safetensors")
    weights.pop(sorted(weights)[0])
    save_file(weights, own_adapter / "adapter_model.safetensors")
    with pytest.raises(BadInput, match="missing or unknown"):
        policy.load(register(own_adapter, "pol-5"))


@pytest.mark.parametrize("field", [{"task_type": "SEQ_CLS"}, {"peft_type": "POLY"}])
def test_what_needs_more_than_text_or_is_no_language_model_is_refused(
    policy: LocalPolicy, own_adapter: Path, field: dict[str, str]
) -> None:
    config = own_adapter / "adapter_config.json"
    values = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps(values | field), encoding="utf-8")
    with pytest.raises(BadInput, match="only a language model's adapters"):
        policy.load(register(own_adapter, "pol-5"))


def test_smoke_refuses_a_policy_whose_numbers_are_not_finite(
    policy: LocalPolicy, own_adapter: Path
) -> None:
    weights = load_file(own_adapter / "adapter_model.safetensors")
    weights = {name: tensor * float("nan") for name, tensor in weights.items()}
    save_file(weights, own_adapter / "adapter_model.safetensors")
    policy.load(register(own_adapter, "pol-5"))
    with pytest.raises(BadInput, match="not finite"):
        policy.smoke("pol-5")


def test_smoke_refuses_a_policy_that_repeats_one_token(tmp_path: Path) -> None:
    base = build_model(tmp_path)
    weights = load_file(base / "model.safetensors")
    # Every position has the same hidden state, so one token is the likeliest after any prompt.
    weights["model.embed_tokens.weight"][:] = 1.0
    weights["lm_head.weight"] *= 0
    weights["lm_head.weight"][70] = 100.0
    for name in weights:
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weights[name] *= 0
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadInput, match="answers nothing but"):
        LocalPolicy(base, device=CPU).smoke("base")


def test_smoke_measures_the_distance_to_the_policy_before(
    policy: LocalPolicy, adapters: list[AdapterFolder]
) -> None:
    policy.load(adapters[0])
    report = policy.smoke("pol-1", reference="base")
    assert report.mean_kl is not None
    assert report.mean_kl > 0
    assert policy.smoke("base", reference="base").mean_kl is None
    assert len(report.texts) == 2


def test_an_adapter_that_changes_nothing_is_at_distance_zero(
    policy: LocalPolicy, own_adapter: Path
) -> None:
    weights = load_file(own_adapter / "adapter_model.safetensors")
    weights = {n: t * 0 if "lora_B" in n else t for n, t in weights.items()}
    save_file(weights, own_adapter / "adapter_model.safetensors")
    policy.load(register(own_adapter, "pol-5"))
    assert policy.smoke("pol-5", reference="base").mean_kl == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("text", "max_new_tokens"), [("word " * 300, 16), ("hello", 256)])
def test_what_does_not_fit_the_context_is_refused(
    policy: LocalPolicy, text: str, max_new_tokens: int
) -> None:
    sampling = SamplingParams(max_new_tokens=max_new_tokens)
    with pytest.raises(BadInput):
        policy.generate("base", [request(text, sampling=sampling)])


def test_a_missing_base_makes_the_policy_unavailable(tmp_path: Path) -> None:
    with pytest.raises(PolicyUnavailable, match="no model folder"):
        LocalPolicy(tmp_path / "nowhere", device=CPU)


def test_no_completion_mixes_versions_while_the_policy_is_swapped(
    host: PolicyHost, fresh: dict[str, list[str]], adapters: list[AdapterFolder]
) -> None:
    futures = [host.submit([request(PROMPTS[number % 3])]) for number in range(20)]
    swaps = [host.promote(adapters[0])]
    futures += [host.submit([request(PROMPTS[number % 3])]) for number in range(20, 35)]
    futures[15].result(TIMEOUT_S)
    swaps.append(host.promote(adapters[1]))
    futures += [host.submit([request(PROMPTS[number % 3])]) for number in range(35, 50)]
    for number, future in enumerate(futures):
        (generation,) = future.result(TIMEOUT_S)
        assert generation.text == fresh[generation.policy_version][number % 3]
    assert [swap.result(TIMEOUT_S).version for swap in swaps] == ["pol-1", "pol-11"]
    (last,) = futures[-1].result(TIMEOUT_S)
    assert last.policy_version == "pol-11"


def test_a_roll_back_brings_the_old_text_back(
    host: PolicyHost, fresh: dict[str, list[str]], adapters: list[AdapterFolder]
) -> None:
    for adapter in adapters:
        host.promote(adapter).result(TIMEOUT_S)
    assert "pol-1" not in host.status().loaded_versions
    host.promote(adapters[0]).result(TIMEOUT_S)
    generations = host.submit([request(text) for text in PROMPTS]).result(TIMEOUT_S)
    assert [generation.text for generation in generations] == fresh["pol-1"]
    assert {generation.policy_version for generation in generations} == {"pol-1"}


def test_a_tampered_adapter_leaves_the_live_policy_serving(
    host: PolicyHost, fresh: dict[str, list[str]], own_adapter: Path
) -> None:
    adapter = register(own_adapter, "pol-5")
    (own_adapter / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(BadInput, match="changed since it was registered"):
        host.promote(adapter).result(TIMEOUT_S)
    (generation,) = host.submit([request(PROMPTS[0])]).result(TIMEOUT_S)
    assert generation.text == fresh["base"][0]


def test_closing_the_host_ends_a_long_generation(host: PolicyHost) -> None:
    long = SamplingParams(max_new_tokens=200)
    futures = [host.submit([request("hi", seed=seed, sampling=long)]) for seed in range(40)]
    futures[0].result(TIMEOUT_S)
    host.close()
    with pytest.raises(PolicyUnavailable, match="shut down"):
        futures[-1].result(TIMEOUT_S)
