"""Every kind of adapter that a run can produce is served as itself, beside the others."""

from __future__ import annotations

import copy
import gc
import hashlib
import json
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from store.errors import BadInput, PromptTooLong
from tests.models import build_adapter, build_fine_tuned, build_model
from training import adapters
from training.adapters import SERVED_TYPES
from training.device import Device
from training.generation import Request, generate
from training.loading import (
    context_length,
    load_base,
    load_tokenizer,
    render_prompt,
    stop_token_ids,
)
from training.local_policy import LocalPolicy
from training.policy import AdapterFolder, GenerationRequest, SamplingParams, adapter_sha256
from training.policy_host import PolicyHost
from training.tuning import Tuning
from training.worker.answers import compare_answers
from training.worker.asking import answer
from training.worker.evaluate import token_log_probs
from training.worker.job import StopRequest
from training.worker.models import Trainee

TIMEOUT_S = 120.0
CPU = Device("cpu", "test", 0)
GREEDY = SamplingParams(temperature=0, max_new_tokens=8)
SHORT = "Thank you"
LONG = "I cannot log in to my account, it is urgent! Could you tell me where my parcel is now?"
PROMPTS = [SHORT, LONG]
VIRTUAL_TOKENS = 5
ARCHITECTURES = ["llama", "qwen3", "gpt2"]

_LM: dict[str, Any] = {"task_type": "CAUSAL_LM"}
_LINEAR: dict[str, Any] = {"target_modules": "all-linear", **_LM}
_QUERY: dict[str, Any] = {"target_modules": ["q_proj", "v_proj"], **_LM}
_VIRTUAL: dict[str, Any] = {"num_virtual_tokens": VIRTUAL_TOKENS, **_LM}
CONFIGS: Mapping[str, Any] = {
    "lora": peft.LoraConfig(r=4, **_LINEAR),
    "dora": peft.LoraConfig(r=4, use_dora=True, **_LINEAR),
    "rslora": peft.LoraConfig(r=4, use_rslora=True, **_LINEAR),
    "pissa": peft.LoraConfig(r=4, init_lora_weights="pissa", **_LINEAR),
    "prefix": peft.PrefixTuningConfig(**_VIRTUAL),
    "prefix, projected": peft.PrefixTuningConfig(
        prefix_projection=True, encoder_hidden_size=16, **_VIRTUAL
    ),
    "prompt": peft.PromptTuningConfig(**_VIRTUAL),
    "p-tuning": peft.PromptEncoderConfig(encoder_hidden_size=16, **_VIRTUAL),
    "adalora": peft.AdaLoraConfig(init_r=4, target_r=2, total_step=10, **_QUERY),
    "fourier": peft.FourierFTConfig(n_frequency=30, **_QUERY),
    "hra": peft.HRAConfig(r=4, **_QUERY),
    "ia3": peft.IA3Config(**_LM),
    "layer norms": peft.LNTuningConfig(**_LM),
    "loha": peft.LoHaConfig(r=4, **_QUERY),
    "lokr": peft.LoKrConfig(r=4, **_QUERY),
    "miss": peft.MissConfig(r=4, **_QUERY),
    "oft": peft.OFTConfig(r=0, oft_block_size=4, **_QUERY),
    "peanut": peft.PeanutConfig(r=4, **_QUERY),
    "vera": peft.VeraConfig(r=4, **_QUERY),
}
WHOLE = {"whole": "float32", "whole, bfloat16": "bfloat16"}
KINDS = [*CONFIGS, *WHOLE]
TUNINGS = {"dora": Tuning.DORA, "prefix": Tuning.PREFIX, "prompt": Tuning.PROMPT}
# One of each way in which a version is made of the base.
WAYS = ["lora", "dora", "pissa", "prefix", "prompt", "whole"]


def build(base: Path, folder: Path, kind: str, seed: int = 1) -> AdapterFolder:
    if kind in WHOLE:
        build_fine_tuned(base, folder, seed, dtype=WHOLE[kind])
    else:
        build_adapter(base, folder, seed, copy.deepcopy(CONFIGS[kind]))
    return register(folder, kind)


def register(folder: Path, version: str) -> AdapterFolder:
    return AdapterFolder(version, folder, adapter_sha256(folder))


def load_alone(base: Path, adapter: AdapterFolder) -> Any:
    """The version in the library's own way, in a model that nothing else shares."""
    if adapter.version in WHOLE:
        return load_base(adapter.path)
    return peft.PeftModelForCausalLM.from_pretrained(load_base(base), adapter.path)


def logits_of(model: Any, ids: list[int]) -> torch.Tensor:
    """(tokens, vocabulary), those of virtual tokens left out."""
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=torch.tensor([ids])).logits
    return logits[0, -len(ids) :]


def naive_tokens(model: Any, tokenizer: Any, ids: list[int], limit: int) -> list[int]:
    """Greedy decoding by the definition: no cache, no batch, no padding."""
    stops = stop_token_ids(tokenizer, model)
    drawn: list[int] = []
    while len(drawn) < limit and (not drawn or drawn[-1] not in stops):
        drawn.append(int(logits_of(model, ids + drawn)[-1].argmax()))
    return drawn


def texts_alone(base: Path, adapter: AdapterFolder | None) -> list[str]:
    tokenizer = load_tokenizer(base)
    model = load_base(base) if adapter is None else load_alone(base, adapter)
    prompts = [render_prompt(tokenizer, [{"role": "user", "content": text}]) for text in PROMPTS]
    return [
        tokenizer.decode(
            naive_tokens(model, tokenizer, ids, GREEDY.max_new_tokens), skip_special_tokens=True
        )
        for ids in prompts
    ]


def request(text: str, sampling: SamplingParams = GREEDY) -> GenerationRequest:
    return GenerationRequest([{"role": "user", "content": text}], sampling, seed=0)


def texts(policy: LocalPolicy, version: str) -> list[str]:
    return [done.text for done in policy.generate(version, [request(text) for text in PROMPTS])]


def digest(model: PreTrainedModel) -> str:
    found = hashlib.sha256()
    for name, weight in model.state_dict().items():
        found.update(name.encode() + weight.numpy().tobytes())
    return found.hexdigest()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def ways(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, AdapterFolder]:
    folder = tmp_path_factory.mktemp("ways")
    return {kind: build(base, folder / kind, kind) for kind in WAYS}


@pytest.fixture(scope="module")
def alone(base: Path, ways: dict[str, AdapterFolder]) -> dict[str, list[str]]:
    """By version, the texts that it must give in any company."""
    found = {kind: texts_alone(base, adapter) for kind, adapter in ways.items()}
    found["base"] = texts_alone(base, None)
    assert len({tuple(said) for said in found.values()}) == len(found)
    return found


@pytest.fixture
def policy(base: Path) -> LocalPolicy:
    return LocalPolicy(base, device=CPU)


def test_each_served_method_is_tested() -> None:
    assert {config.peft_type.value for config in CONFIGS.values()} == SERVED_TYPES


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_the_logits_and_the_text_of_a_load_of_its_own(
    base: Path, tmp_path: Path, kind: str
) -> None:
    adapter = build(base, tmp_path / "own", kind)
    shared = load_base(base)
    before = digest(shared)
    served = adapters.load(adapter, shared)
    ids = [5, 9, 30, 41, 77]
    logits = logits_of(served, ids)
    assert torch.equal(logits, logits_of(load_alone(base, adapter), ids))
    assert not torch.allclose(logits, logits_of(shared, ids), atol=0.1)
    assert digest(shared) == before
    policy = LocalPolicy(base, device=CPU)
    policy.load(adapter)
    assert texts(policy, kind) == texts_alone(base, adapter)


@pytest.mark.parametrize("kind", ["lora", "dora", "prefix", "prompt"])
def test_an_adapter_takes_no_memory_for_the_weights_of_the_base(
    base: Path, ways: dict[str, AdapterFolder], kind: str
) -> None:
    shared = load_base(base)
    served = adapters.load(ways[kind], shared)
    places = {weight.data_ptr() for weight in served.parameters()}
    assert {weight.data_ptr() for weight in shared.parameters()} <= places


@pytest.mark.parametrize("architecture", ["qwen3", "gpt2"])
def test_other_architectures_serve_the_ways_too(tmp_path: Path, architecture: str) -> None:
    base = build_model(tmp_path / "base", architecture)
    policy = LocalPolicy(base, device=CPU)
    for kind in WAYS:
        adapter = build(base, tmp_path / kind, kind)
        policy.load(adapter)
        assert texts(policy, kind) == texts_alone(base, adapter)
    assert texts(policy, "base") == texts_alone(base, None)


def test_versions_of_all_kinds_side_by_side_answer_as_themselves(
    policy: LocalPolicy, ways: dict[str, AdapterFolder], alone: dict[str, list[str]]
) -> None:
    for adapter in ways.values():
        policy.load(adapter)
    order = ["lora", "prefix", "lora", "whole", "base", "dora", "prompt", "pissa", "base", "prefix"]
    for version in order:
        assert texts(policy, version) == alone[version], version


def test_dropping_one_kind_leaves_the_others(
    policy: LocalPolicy, ways: dict[str, AdapterFolder], alone: dict[str, list[str]]
) -> None:
    for adapter in ways.values():
        policy.load(adapter)
    for dropped in ("prefix", "lora", "whole"):
        policy.drop(dropped)
        for version in policy.loaded_versions:
            assert texts(policy, version) == alone[version], version
    policy.load(ways["prefix"])
    assert texts(policy, "prefix") == alone["prefix"]


def modules_alive() -> list[torch.nn.Module]:
    return [thing for thing in gc.get_objects() if issubclass(type(thing), torch.nn.Module)]


@pytest.mark.parametrize("kind", WAYS)
def test_a_dropped_version_is_freed_at_once(
    policy: LocalPolicy, ways: dict[str, AdapterFolder], kind: str
) -> None:
    policy.load(ways[kind])
    texts(policy, kind)
    kept = {id(module) for module in modules_alive()}
    policy.load(AdapterFolder("again", ways[kind].path, ways[kind].sha256))
    texts(policy, "again")
    made = [weakref.ref(module) for module in modules_alive() if id(module) not in kept]
    assert made
    gc.disable()
    try:
        policy.drop("again")
        assert [module() for module in made if module() is not None] == []
    finally:
        gc.enable()


def weights_file(folder: Path) -> Path:
    (file,) = folder.glob("*.safetensors")
    return file


def lose_a_weight(folder: Path) -> None:
    weights = load_file(weights_file(folder))
    weights.pop(sorted(weights)[0])
    save_file(weights or {"none": torch.ones(1)}, weights_file(folder), metadata={"format": "pt"})


def add_a_weight(folder: Path) -> None:
    weights = load_file(weights_file(folder)) | {"stranger": torch.ones(3)}
    save_file(weights, weights_file(folder), metadata={"format": "pt"})


def reshape_a_weight(folder: Path) -> None:
    weights = load_file(weights_file(folder))
    weights[sorted(weights)[0]] = torch.ones(3, 3)
    save_file(weights, weights_file(folder), metadata={"format": "pt"})


def tear_the_file(folder: Path) -> None:
    file = weights_file(folder)
    file.write_bytes(file.read_bytes()[:100])


@pytest.mark.parametrize(
    "damage",
    [lose_a_weight, add_a_weight, reshape_a_weight, tear_the_file],
    ids=lambda d: d.__name__,
)
@pytest.mark.parametrize("kind", ["dora", "prefix", "prompt", "whole"])
def test_a_damaged_folder_is_refused_by_name_and_the_others_serve_on(
    policy: LocalPolicy,
    base: Path,
    ways: dict[str, AdapterFolder],
    alone: dict[str, list[str]],
    tmp_path: Path,
    kind: str,
    damage: Any,
) -> None:
    policy.load(ways["lora"])
    policy.load(ways["prefix"])
    build(base, tmp_path / "own", kind, seed=2)
    damage(tmp_path / "own")
    with pytest.raises(BadInput, match="damaged") as refused:
        policy.load(register(tmp_path / "own", "damaged"))
    assert str(tmp_path / "own") in str(refused.value)
    assert policy.loaded_versions == ("base", "lora", "prefix")
    for version in policy.loaded_versions:
        assert texts(policy, version) == alone[version]


def test_a_whole_model_of_another_shape_is_refused(policy: LocalPolicy, tmp_path: Path) -> None:
    stranger = build_model(tmp_path / "gpt2", "gpt2")
    with pytest.raises(BadInput, match="was not trained from this base model"):
        policy.load(register(stranger, "stranger"))


def test_a_folder_without_any_model_is_refused(policy: LocalPolicy, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("nothing here", encoding="utf-8")
    with pytest.raises(BadInput, match="cannot be read"):
        policy.load(register(tmp_path, "empty"))


def test_a_whole_model_stops_where_its_base_stops(base: Path, tmp_path: Path) -> None:
    shared = load_base(base)
    shared.generation_config.eos_token_id = [0, 11]
    adapter = build(base, tmp_path / "own", "whole")
    config = json.loads((tmp_path / "own" / "config.json").read_text(encoding="utf-8"))
    assert config["eos_token_id"] == 0
    served = adapters.load(adapter, shared)
    assert 11 in stop_token_ids(load_tokenizer(base), served)


def test_a_version_for_which_there_is_no_memory_is_refused(
    policy: LocalPolicy,
    ways: dict[str, AdapterFolder],
    alone: dict[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("no memory")

    with monkeypatch.context() as patched:
        patched.setattr(PreTrainedModel, "to", full)
        with pytest.raises(BadInput, match="no memory for whole"):
            policy.load(ways["whole"])
    assert policy.loaded_versions == ("base",)
    assert texts(policy, "base") == alone["base"]


@pytest.fixture
def host(base: Path) -> Iterator[PolicyHost]:
    host = PolicyHost(lambda: LocalPolicy(base, device=CPU), max_batch=8)
    host.start()
    yield host
    host.close()


def test_a_host_swaps_through_all_kinds_and_back(
    host: PolicyHost, ways: dict[str, AdapterFolder], alone: dict[str, list[str]]
) -> None:
    order: list[AdapterFolder | str] = [*ways.values(), ways["prefix"], "base", ways["lora"]]
    for target in order:
        version = target if isinstance(target, str) else target.version
        promotion = host.promote(target)
        futures = [host.submit([request(text) for text in PROMPTS]) for _ in range(3)]
        promotion.result(TIMEOUT_S)
        for future in futures:
            done = future.result(TIMEOUT_S)
            assert [one.text for one in done] == alone[done[0].policy_version]
        assert done[0].policy_version == version
        assert len(host.status().loaded_versions) <= 3


@pytest.mark.parametrize("kind", WAYS)
def test_smoke_measures_every_kind(
    policy: LocalPolicy, ways: dict[str, AdapterFolder], kind: str
) -> None:
    policy.load(ways[kind])
    report = policy.smoke(kind, reference="base")
    assert report.mean_kl is not None
    assert report.mean_kl > 0


@pytest.mark.parametrize("kind", ["prefix", "prompt"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_completion_after_virtual_tokens_does_not_depend_on_its_neighbours(
    tmp_path: Path, architecture: str, kind: str
) -> None:
    base = build_model(tmp_path / "base", architecture)
    tokenizer = load_tokenizer(base)
    adapter = build(base, tmp_path / "own", kind)
    model = adapters.load(adapter, load_base(base))
    short, long = (
        render_prompt(tokenizer, [{"role": "user", "content": text}]) for text in (SHORT, LONG)
    )
    asked = [
        Request(long, 12, temperature=0),
        Request(short, 8, temperature=0),
        Request(short, 12, seed=11, temperature=0.9, top_p=0.95),
    ]
    together = generate(model, tokenizer, asked)
    for one, beside in zip(asked, together, strict=True):
        assert generate(model, tokenizer, [one]) == [beside]
    fresh = load_alone(base, adapter)
    for one, beside in zip(asked[:2], together, strict=False):
        expected = naive_tokens(fresh, tokenizer, list(one.token_ids), one.max_new_tokens)
        assert list(beside.token_ids) == expected


@pytest.mark.parametrize("kind", ["prefix", "prompt"])
def test_virtual_tokens_take_their_share_of_the_context(tmp_path: Path, kind: str) -> None:
    base = build_model(tmp_path / "base", "gpt2", context=64)
    policy = LocalPolicy(base, device=CPU)
    policy.load(build(base, tmp_path / "own", kind))
    fits = SamplingParams(temperature=0, max_new_tokens=64 - VIRTUAL_TOKENS - 16)
    with pytest.raises(PromptTooLong) as refused:
        policy.generate(kind, [request(LONG, fits)])
    assert refused.value.limit_tokens == 16
    model = adapters.load(register(tmp_path / "own", kind), load_base(base))
    (output,) = generate(model, load_tokenizer(base), [Request([5] * 50, 500, seed=1)])
    assert context_length(model) == 64 - VIRTUAL_TOKENS
    assert 50 + output.token_count <= 64 - VIRTUAL_TOKENS


def trained(base: Path, kind: str) -> Trainee:
    """A policy as a trainer holds it after training."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = peft.get_peft_model(load_base(base), copy.deepcopy(CONFIGS[kind]))
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data.add_(torch.randn_like(weight) * 0.3)
    return Trainee(model.eval(), load_tokenizer(base), TUNINGS[kind])


@pytest.mark.parametrize("kind", TUNINGS)
def test_a_trainer_scores_the_text_alone_and_the_reference_is_the_base(
    base: Path, kind: str
) -> None:
    trainee = trained(base, kind)
    model = trainee.model
    ids = torch.tensor([[5, 9, 30, 41, 77], [8, 12, 33, 0, 0]])
    attention = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    with torch.no_grad():
        scored = token_log_probs(model, ids, attention)
        with trainee.reference() as old:
            frozen = token_log_probs(old, ids, attention)
        again = token_log_probs(model, ids, attention)
    for row, length in ((0, 5), (1, 3)):
        tokens = ids[row, :length].tolist()
        for found, by in ((scored, model), (frozen, load_base(base)), (again, model)):
            log_probs = logits_of(by, tokens).log_softmax(-1)[:-1]
            expected = log_probs.gather(1, torch.tensor(tokens[1:])[:, None]).squeeze(1)
            assert torch.allclose(found[row, : length - 1], expected, atol=1e-4)


@pytest.mark.parametrize("kind", TUNINGS)
def test_a_trainer_compares_the_trained_policy_with_the_base(base: Path, kind: str) -> None:
    trainee = trained(base, kind)
    tokenizer = trainee.tokenizer
    prompts = [{"messages": [{"role": "user", "content": text}]} for text in PROMPTS]
    stop = StopRequest()
    answers = answer(trainee, prompts, max_new_tokens=12, seed=3, stop=stop)
    assert answers is not None
    report = compare_answers(trainee, answers, stop)
    asked = [
        Request(render_prompt(tokenizer, prompt["messages"]), 12, seed=3 + number)
        for number, prompt in enumerate(prompts)
    ]
    before = generate(load_base(base), tokenizer, asked)
    assert [sample["before"] for sample in report.samples] == [output.text for output in before]
    after = generate(trainee.model, tokenizer, asked)
    assert [sample["after"] for sample in report.samples] == [output.text for output in after]
    assert report.kl_k3 > 0
