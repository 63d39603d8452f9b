"""Text as it comes: whole characters, one row ended alone, the same text in the end."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from store.records import Message
from tests.integration.test_generation import LONG, SHORT, Loaded, load
from tests.models import build_model
from tests.scripted import TIMEOUT_S
from training.generation import FinishReason, Request, generate
from training.loading import load_tokenizer
from training.local_policy import LocalPolicy
from training.policy import GenerationRequest, SamplingParams
from training.policy_host import PolicyHost
from training.streaming import Stream, TextPieces

STARTER = Path(__file__).resolve().parents[2] / "assets" / "starter"
TEXTS = [
    "Tap **Forgot password**, then follow the e-mail.",
    "非常理解您的着急，请点击“忘记密码”。",
    "naïve café 🙂👩‍👩‍👧 – “quoted” …",
    "𠮷野家 and 𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return load(build_model(tmp_path_factory.mktemp("model")))


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("source", ["starter", "tiny"])
def test_pieces_are_whole_characters_and_together_the_text(
    llama: Loaded, source: str, text: str
) -> None:
    tokenizer = load_tokenizer(STARTER) if source == "starter" else llama.tokenizer
    pieces = TextPieces(tokenizer)
    found = [pieces.add(id) for id in tokenizer(text, add_special_tokens=False)["input_ids"]]
    assert "".join(found) == text
    assert "\ufffd" not in "".join(found)
    if source == "tiny":
        assert "" in found or text.isascii(), "no character of this text takes several tokens"


def test_a_stream_gets_the_text_that_the_completion_has_in_the_end(llama: Loaded) -> None:
    told: list[str] = []
    stream = Stream(lambda: told.append(stream.text))
    requests = [
        Request(llama.ids(LONG), 40, seed=3),
        Request(llama.ids(SHORT), 24, seed=5, stream=stream),
    ]
    outputs = generate(llama.model, llama.tokenizer, requests)
    assert outputs[1].text.startswith(stream.text)
    assert len(told) > 4
    assert all(after.startswith(before) for before, after in itertools.pairwise(told))
    assert outputs == generate(
        llama.model, llama.tokenizer, [requests[0], Request(llama.ids(SHORT), 24, seed=5)]
    )


def test_a_row_that_is_ended_keeps_its_text_and_its_neighbours_go_on(llama: Loaded) -> None:
    def end_soon() -> None:
        if len(stream.text) > 5:
            stream.stop.set()

    stream = Stream(end_soon)
    alone = generate(llama.model, llama.tokenizer, [Request(llama.ids(LONG), 40, seed=3)])
    ended, other = generate(
        llama.model,
        llama.tokenizer,
        [
            Request(llama.ids(SHORT), 40, seed=5, stream=stream),
            Request(llama.ids(LONG), 40, seed=3),
        ],
    )
    assert other == alone[0]
    assert ended.finish_reason is FinishReason.STOPPED
    assert ended.token_count < 40
    assert ended.text.startswith(stream.text)


def test_what_is_generated_again_is_followed_from_the_start(llama: Loaded) -> None:
    stream = Stream(lambda: None)
    request = Request(llama.ids(SHORT), 24, seed=5, stream=stream)
    (first,) = generate(llama.model, llama.tokenizer, [request])
    told = stream.text
    (second,) = generate(llama.model, llama.tokenizer, [request])
    assert (second, stream.text) == (first, told)


def test_a_batch_ends_when_the_only_row_that_is_wanted_ends(llama: Loaded) -> None:
    stream = Stream(lambda: stream.stop.set())
    (output,) = generate(
        llama.model, llama.tokenizer, [Request(llama.ids(SHORT), 200, seed=5, stream=stream)]
    )
    assert output.token_count < 10


@pytest.fixture(scope="module")
def host() -> Iterator[PolicyHost]:
    opened = PolicyHost(lambda: LocalPolicy(STARTER))
    opened.start()
    yield opened
    opened.close()


def streamed(seed: int, stream: Stream | None) -> GenerationRequest:
    messages: list[Message] = [{"role": "user", "content": "Where is my parcel?"}]
    return GenerationRequest(messages, SamplingParams(max_new_tokens=80), seed, stream)


def test_the_host_streams_two_completions_of_one_batch_while_they_are_written(
    host: PolicyHost,
) -> None:
    first_words = [threading.Event(), threading.Event()]
    streams = [Stream(event.set) for event in first_words]
    future = host.submit([streamed(seed, stream) for seed, stream in enumerate(streams)])
    assert all(event.wait(TIMEOUT_S) for event in first_words)
    generations = future.result(TIMEOUT_S)
    assert [g.text for g in generations] == [s.text for s in streams]


def test_one_of_two_that_nobody_wants_any_more_ends_and_the_other_is_written_to_its_end(
    host: PolicyHost,
) -> None:
    unwanted = Stream(lambda: unwanted.stop.set())
    ended, other = host.submit([streamed(0, unwanted), streamed(1, None)]).result(TIMEOUT_S)
    (alone,) = host.submit([streamed(1, None)]).result(TIMEOUT_S)
    assert (ended.finish_reason, other.finish_reason) == (FinishReason.STOPPED, FinishReason.STOP)
    assert ended.text == unwanted.text
    assert other.text == alone.text
