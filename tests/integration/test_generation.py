"""Sampling row by row: reproducible, independent of the batch, and true to the distribution."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from transformers import AutoModelForCausalLM, FalconH1Config, OpenAIGPTConfig

from tests.models import build_model
from training import generation
from training.generation import (
    FinishReason,
    GenerationStopped,
    Request,
    StopSignal,
    generate,
)
from training.loading import load_base, load_tokenizer, render_prompt
from training.sampling import RowSampler

ARCHITECTURES = ["llama", "qwen3", "gpt2"]
SHORT = "Hello"
LONG = "I cannot log in to my account, it is urgent! Could you tell me where my parcel is now?"


class Loaded(NamedTuple):
    model: Any
    tokenizer: Any

    def ids(self, text: str) -> list[int]:
        return render_prompt(self.tokenizer, [{"role": "user", "content": text}])

    def run(self, *requests: Request, stop: StopSignal | None = None) -> list[list[int]]:
        outputs = generate(self.model, self.tokenizer, requests, stop=stop)
        return [list(output.token_ids) for output in outputs]


def load(folder: Path) -> Loaded:
    return Loaded(load_base(folder), load_tokenizer(folder))


@pytest.fixture(scope="module", params=ARCHITECTURES)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return load(build_model(tmp_path_factory.mktemp("model"), request.param))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return load(build_model(tmp_path_factory.mktemp("model")))


def test_temperature_0_equals_the_librarys_greedy_decoding(loaded: Loaded) -> None:
    ids = loaded.ids(LONG)
    prompt = torch.tensor([ids])
    expected = loaded.model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=24,
    )[0, len(ids) :].tolist()
    assert loaded.run(Request(ids, 24, temperature=0)) == [expected]


def test_a_greedy_completion_does_not_depend_on_left_padding(loaded: Loaded) -> None:
    alone = loaded.run(Request(loaded.ids(SHORT), 24, temperature=0))
    beside = loaded.run(
        Request(loaded.ids(LONG), 24, temperature=0), Request(loaded.ids(SHORT), 24, temperature=0)
    )
    assert beside[1:] == alone


def test_a_seed_gives_the_same_completion_whatever_is_in_the_batch(loaded: Loaded) -> None:
    request = Request(loaded.ids(SHORT), 24, seed=11, temperature=0.9, top_p=0.95)
    (alone,) = loaded.run(request)
    neighbours = [
        Request(loaded.ids(LONG), 40, seed=1),
        Request(loaded.ids(SHORT), 24, seed=2, temperature=0),
        Request(loaded.ids(LONG), 8, seed=3, top_k=5),
    ]
    assert loaded.run(*neighbours, request)[-1] == alone
    assert loaded.run(request, *neighbours)[0] == alone
    assert loaded.run(request, request) == [alone, alone]


def of_many_lengths(loaded: Loaded) -> list[Request]:
    return [
        Request(loaded.ids((SHORT, LONG)[seed % 2]), limit, seed=seed, top_k=40)
        for seed, limit in enumerate((2, 30, 5, 24, 40, 3, 11, 40))
    ]


def test_rows_that_have_ended_are_no_longer_computed(llama: Loaded) -> None:
    computed: list[int] = []

    def note(_: Any, __: Any, kwargs: dict[str, Any]) -> None:
        computed.append(kwargs["input_ids"].shape[0])

    with llama.model.register_forward_pre_hook(note, with_kwargs=True):
        lengths = [len(row) for row in llama.run(*of_many_lengths(llama))]

    assert len(computed) == max(lengths)  # the first step is for the prompts
    assert computed[0] == len(lengths)
    assert sum(computed) < 1.3 * sum(lengths) < 0.8 * len(lengths) * max(lengths)


def test_leaving_rows_behind_changes_nothing_of_the_others(
    loaded: Loaded, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = of_many_lengths(loaded)
    left_behind = generate(loaded.model, loaded.tokenizer, requests)
    monkeypatch.setattr(generation, "_can_drop_rows", lambda _: False)
    assert generate(loaded.model, loaded.tokenizer, requests) == left_behind


@pytest.mark.parametrize("kind", ["hybrid", "without a cache"])
def test_models_whose_memory_cannot_be_cut_are_computed_as_a_whole(
    kind: str, llama: Loaded
) -> None:
    common = {"vocab_size": len(llama.tokenizer), "num_hidden_layers": 2, "pad_token_id": 0}
    if kind == "hybrid":  # attention and a recurrent state in one layer
        config: Any = FalconH1Config(
            **common,
            **{"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2},
            **{"num_key_value_heads": 2, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8},
            **{"mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 16},
        )
    else:
        config = OpenAIGPTConfig(
            vocab_size=len(llama.tokenizer), n_positions=256, n_embd=32, n_layer=2, n_head=2
        )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    requests = of_many_lengths(llama)

    outputs = generate(model, llama.tokenizer, requests)

    assert [len(o.token_ids) for o in outputs] == [
        request.max_new_tokens if o.finish_reason is FinishReason.LENGTH else o.token_count
        for request, o in zip(requests, outputs, strict=True)
    ]
    assert len({len(o.token_ids) for o in outputs}) > 2


def test_what_was_drawn_is_told_by_the_model_s_own_distribution(loaded: Loaded) -> None:
    """Whatever the sampling, and for rows too that go on after others have ended."""
    requests = [
        replace(request, temperature=0.7, top_p=0.8) if number % 2 else request
        for number, request in enumerate(of_many_lengths(loaded))
    ]
    outputs = generate(loaded.model, loaded.tokenizer, requests, is_watched=True)
    assert len({output.token_count for output in outputs}) > 2
    for request, output in zip(requests, outputs, strict=True):
        ids = torch.tensor([[*request.token_ids, *output.token_ids]])
        with torch.no_grad():
            logits = loaded.model(ids).logits[0, len(request.token_ids) - 1 : -1]
        log_probs = logits.log_softmax(dim=1)
        expected = [
            row[token].item() for row, token in zip(log_probs, output.token_ids, strict=True)
        ]
        assert [token.log_prob for token in output.drawn] == pytest.approx(expected, abs=1e-4)
        entropies = -(log_probs.exp() * log_probs).sum(dim=1)
        assert [t.entropy for t in output.drawn] == pytest.approx(entropies.tolist(), abs=1e-4)


def test_the_likeliest_tokens_are_told_too(llama: Loaded) -> None:
    request = Request(llama.ids(SHORT), 5, temperature=0)
    (watched,) = generate(llama.model, llama.tokenizer, [request], is_watched=True)
    (plain,) = generate(llama.model, llama.tokenizer, [request])
    assert watched.token_ids == plain.token_ids
    assert (len(watched.drawn), plain.drawn) == (watched.token_count, ())


def test_another_seed_gives_another_completion(llama: Loaded) -> None:
    rows = llama.run(*[Request(llama.ids(SHORT), 24, seed=seed) for seed in range(8)])
    assert len({tuple(row) for row in rows}) == 8


def test_a_row_ends_at_its_own_limit(llama: Loaded) -> None:
    rows = llama.run(*[Request(llama.ids(LONG), limit, temperature=0) for limit in (3, 20, 7)])
    assert [len(row) for row in rows] == [3, 20, 7]
    assert rows[1][:3] == rows[0]


def test_outputs_come_in_the_order_of_the_requests_over_several_batches(llama: Loaded) -> None:
    requests = [
        Request(llama.ids(text), 6, seed=seed) for seed, text in enumerate([LONG, SHORT] * 4)
    ]
    together = generate(llama.model, llama.tokenizer, requests)
    split = generate(llama.model, llama.tokenizer, requests, batch_size=3)
    assert split == together


def test_a_stop_token_ends_the_completion_and_is_not_in_the_text(llama: Loaded) -> None:
    (free,) = llama.run(Request(llama.ids(SHORT), 12, temperature=0))
    stop_id = free[4]
    own = llama.model.generation_config.eos_token_id
    llama.model.generation_config.eos_token_id = [own, stop_id]
    try:
        requests = [Request(llama.ids(SHORT), 12, temperature=0), Request(llama.ids(SHORT), 3)]
        stopped, cut = generate(llama.model, llama.tokenizer, requests)
    finally:
        llama.model.generation_config.eos_token_id = own
    assert list(stopped.token_ids) == free[: free.index(stop_id) + 1]
    assert stopped.finish_reason is FinishReason.STOP
    assert stopped.text == llama.tokenizer.decode(free[: free.index(stop_id)])
    assert cut.finish_reason is FinishReason.LENGTH
    assert cut.token_count == 3


def test_the_models_own_generation_defaults_are_ignored(tmp_path: Path) -> None:
    folder = build_model(tmp_path)
    plain = load(folder)
    defaults = {"repetition_penalty": 5.0, "temperature": 0.1, "top_k": 1, "min_new_tokens": 30}
    config = {"eos_token_id": 0, "do_sample": True, **defaults}
    (folder / "generation_config.json").write_text(json.dumps(config), encoding="utf-8")
    surprising = load(folder)
    request = Request(plain.ids(SHORT), 24, seed=5)
    assert surprising.run(request) == plain.run(request)
    assert surprising.model.generation_config.repetition_penalty == 5.0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_batch_whose_longest_prompt_and_limit_exceed_the_context_together_is_served(
    tmp_path: Path, architecture: str
) -> None:
    tiny = load(build_model(tmp_path, architecture, context=64))
    short = Request(tiny.ids("a"), 50, seed=1)
    long = Request((tiny.ids(LONG) * 3)[:60], 4, seed=2)
    assert tiny.run(short, long) == [*tiny.run(short), *tiny.run(long)]


def test_a_completion_does_not_outgrow_the_context(tmp_path: Path) -> None:
    tiny = load(build_model(tmp_path, "gpt2", context=64))
    ids = tiny.ids(SHORT)
    (row,) = tiny.run(Request(ids, 500, temperature=0))
    assert len(ids) + len(row) <= 64


def test_a_prompt_that_fills_the_context_is_refused(llama: Loaded) -> None:
    with pytest.raises(ValueError, match="leaves no room"):
        llama.run(Request([5] * 256, 1))


def test_a_stop_signal_ends_a_long_generation(llama: Loaded) -> None:
    stop = StopSignal()
    stop.set()
    with pytest.raises(GenerationStopped):
        llama.run(Request(llama.ids(SHORT), 100), stop=stop)


def draw(logits: torch.Tensor, requests: Sequence[Request], steps: int) -> torch.Tensor:
    """Token ids (steps, rows) drawn from the same logits (vocabulary,) at every step."""
    sampler = RowSampler(requests, steps, torch.device("cpu"))
    ids = torch.zeros(len(requests), 1, dtype=torch.long)
    rows = [sampler(ids, logits.repeat(len(requests), 1)).argmax(dim=-1) for _ in range(steps)]
    return torch.stack(rows)


def allowed_tokens(logits: torch.Tensor, temperature: float, top_k: int, top_p: float) -> set[int]:
    """By the definitions, one token at a time: the k likeliest, of these the nucleus."""
    order = logits.argsort(descending=True).tolist()[: top_k or None]
    probabilities = (logits[order].double() / temperature).softmax(0).tolist()
    allowed: set[int] = set()
    mass = 0.0
    for token_id, probability in zip(order, probabilities, strict=True):
        if mass >= top_p and allowed:
            break
        allowed.add(token_id)
        mass += probability
    return allowed


@settings(deadline=None, max_examples=40)
@given(
    temperature=st.floats(0.2, 3.0),
    top_k=st.integers(0, 40),
    top_p=st.floats(0.05, 0.99),
    seed=st.integers(0, 2**40),
)
def test_only_tokens_that_the_filters_allow_are_drawn(
    temperature: float, top_k: int, top_p: float, seed: int
) -> None:
    logits = torch.randn(32, generator=torch.Generator().manual_seed(seed % 1000)) * 2
    request = Request([1], 64, seed=seed, temperature=temperature, top_k=top_k, top_p=top_p)
    unfiltered = Request([1], 64, seed=seed + 1)
    drawn = draw(logits, [unfiltered, request], 64)[:, 1].tolist()
    # A nucleus whose edge is a matter of rounding may go either way.
    allowed = allowed_tokens(logits, temperature, top_k, min(top_p + 1e-4, 1.0))
    assert set(drawn) <= allowed


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1.0, 0, 1.0), (0.7, 0, 1.0), (1.5, 5, 1.0), (1.0, 0, 0.8)]
)
def test_tokens_are_drawn_as_often_as_their_probability_says(
    temperature: float, top_k: int, top_p: float
) -> None:
    logits = torch.tensor([2.0, 1.5, 1.0, 0.6, 0.3, 0.0, -0.5, -1.0])
    rows, steps = 40, 500
    requests = [
        Request([1], steps, seed=seed, temperature=temperature, top_k=top_k, top_p=top_p)
        for seed in range(rows)
    ]
    counts = Counter(draw(logits, requests, steps).flatten().tolist())
    allowed = sorted(allowed_tokens(logits, temperature, top_k, top_p))
    expected = (logits[allowed].double() / temperature).softmax(0) * rows * steps
    assert set(counts) == set(allowed)
    # A fixed set of seeds: this is one draw, not one that fails once in a thousand runs.
    assert chisquare([counts[token] for token in allowed], expected.numpy()).pvalue > 1e-3


def test_a_token_of_probability_zero_is_never_drawn() -> None:
    logits = torch.full((50,), float("-inf"))
    logits[[7, 30]] = 0.0
    drawn = draw(logits, [Request([1], 300, seed=seed) for seed in range(4)], 300)
    assert set(drawn.flatten().tolist()) == {7, 30}
