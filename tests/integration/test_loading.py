"""Which models and tokenizers load from a folder, what they get, and why others are refused."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from tests.models import END_OF_TEXT, END_OF_TURN, PAD, build_adapter, build_model
from training.loading import (
    PLAIN_CHAT_TEMPLATE,
    ModelLoadError,
    PromptOverlong,
    PromptRejected,
    check_vocabulary,
    context_length,
    has_distinct_pad,
    load_base,
    load_tokenizer,
    render_prompt,
    stop_token_ids,
)

ARCHITECTURES = ["llama", "qwen3", "gpt2"]
HELLO = [{"role": "user", "content": "hello"}]


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_loads_and_says_how_long_its_context_is(
    tmp_path: Path, architecture: str
) -> None:
    build_model(tmp_path, architecture, context=128)
    model = load_base(tmp_path)
    assert not model.training
    assert context_length(model) == 128


def test_models_that_load_at_once_leave_the_library_as_it_was(tmp_path: Path) -> None:
    build_model(tmp_path)
    before = PreTrainedModel.tie_weights
    with ThreadPoolExecutor(4) as pool:
        models = list(pool.map(load_base, [tmp_path] * 12))
    assert PreTrainedModel.tie_weights is before
    assert len(models) == 12


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_completion_ends_at_the_end_of_text_or_of_the_turn(
    tmp_path: Path, architecture: str
) -> None:
    build_model(tmp_path, architecture)
    tokenizer = load_tokenizer(tmp_path)
    stops = tokenizer.convert_ids_to_tokens(stop_token_ids(tokenizer, load_base(tmp_path)))
    assert set(stops) == {END_OF_TEXT, END_OF_TURN}


def test_every_end_of_text_id_of_the_generation_config_ends_a_completion(tmp_path: Path) -> None:
    build_model(tmp_path)
    config = tmp_path / "generation_config.json"
    config.write_text(json.dumps({"eos_token_id": [7, 9]}), encoding="utf-8")
    stops = stop_token_ids(load_tokenizer(tmp_path), load_base(tmp_path))
    assert {7, 9} < set(stops)


def test_a_tokenizer_without_a_chat_template_gets_the_plain_one(tmp_path: Path) -> None:
    build_model(tmp_path, chat_template=False)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.chat_template == PLAIN_CHAT_TEMPLATE
    ids = render_prompt(tokenizer, [turn("system", "be kind"), *HELLO])
    assert tokenizer.decode(ids) == "System:\nbe kind\n\nUser:\nhello\n\nAssistant:\n"


def test_the_plain_template_renders_a_turn_the_same_whatever_follows(tmp_path: Path) -> None:
    build_model(tmp_path, chat_template=False)
    tokenizer = load_tokenizer(tmp_path)
    prompt = render_prompt(tokenizer, HELLO)
    longer = render_prompt(tokenizer, [*HELLO, turn("assistant", "good day"), *HELLO])
    assert longer[: len(prompt)] == prompt


def test_the_plain_template_marks_the_assistants_tokens_and_their_end(tmp_path: Path) -> None:
    build_model(tmp_path, chat_template=False)
    tokenizer = load_tokenizer(tmp_path)
    rendered = tokenizer.apply_chat_template(
        [*HELLO, turn("assistant", "good day"), *HELLO],
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    pairs = zip(rendered["input_ids"], rendered["assistant_masks"], strict=True)
    marked = [token_id for token_id, is_marked in pairs if is_marked]
    assert tokenizer.decode(marked) == f"good day{END_OF_TEXT}"


def test_a_tokenizer_that_pads_with_a_token_of_its_own_keeps_it(tmp_path: Path) -> None:
    build_model(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.pad_token == PAD
    assert has_distinct_pad(tokenizer)


def test_a_full_vocabulary_leaves_padding_shared_and_the_model_as_it_is(tmp_path: Path) -> None:
    build_model(tmp_path, pad_is_eos=True)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.pad_token == END_OF_TEXT
    assert not has_distinct_pad(tokenizer)
    check_vocabulary(tokenizer, load_base(tmp_path))


def test_room_in_the_embedding_is_used_for_a_padding_token(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    build_model(tmp_path, pad_is_eos=True)
    config = AutoConfig.from_pretrained(tmp_path)
    config.vocab_size += 8
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    assert has_distinct_pad(tokenizer)
    check_vocabulary(tokenizer, load_base(tmp_path))


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tmp_path: Path) -> None:
    build_model(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    tokenizer.add_tokens(["<|new|>"])
    with pytest.raises(ModelLoadError, match="same folder"):
        check_vocabulary(tokenizer, load_base(tmp_path))


def test_a_prompt_that_fits_is_rendered_whole(tmp_path: Path) -> None:
    build_model(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    whole = render_prompt(tokenizer, HELLO)
    assert render_prompt(tokenizer, HELLO, max_tokens=len(whole)) == whole
    assert tokenizer.decode(whole).endswith("assistant\n")


def test_a_long_conversation_loses_its_oldest_turns_but_not_its_system_message(
    tmp_path: Path,
) -> None:
    build_model(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    system = turn("system", "be kind")
    kept = [turn("user", "second"), turn("assistant", "two"), turn("user", "third")]
    dropped = [turn("user", "first " * 20), turn("assistant", "one")]
    expected = render_prompt(tokenizer, [system, *kept])
    assert render_prompt(tokenizer, [system, *dropped, *kept], max_tokens=len(expected)) == expected


def test_a_last_message_that_does_not_fit_is_rejected_with_its_length(tmp_path: Path) -> None:
    build_model(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    messages = [*HELLO, turn("assistant", "yes?"), turn("user", "word " * 50)]
    with pytest.raises(PromptOverlong, match="room for 20") as rejected:
        render_prompt(tokenizer, messages, max_tokens=20)
    assert rejected.value.limit_tokens == 20


def test_a_conversation_that_the_template_refuses_is_rejected_with_its_reason(
    tmp_path: Path,
) -> None:
    build_model(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    tokenizer.chat_template = "{{ raise_exception('no system turn, please') }}"
    with pytest.raises(PromptRejected, match="no system turn, please"):
        render_prompt(tokenizer, HELLO)


def test_a_missing_folder_is_refused_by_its_path(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    with pytest.raises(ModelLoadError, match=r"no model folder .*nowhere"):
        load_base(missing)
    with pytest.raises(ModelLoadError, match=r"no model folder .*nowhere"):
        load_tokenizer(str(missing))


def test_a_hub_name_that_cannot_be_fetched_says_what_to_do() -> None:
    with pytest.raises(ModelLoadError, match="download the model and give its folder"):
        load_base("whetstone-tests/no-such-model")
    with pytest.raises(ModelLoadError, match="download the model and give its folder"):
        load_tokenizer("whetstone-tests/no-such-model")


def test_an_adapter_is_not_taken_for_a_base_model(tmp_path: Path) -> None:
    base = build_model(tmp_path / "base")
    folder = build_adapter(base, tmp_path / "adapter", 1)
    with pytest.raises(ModelLoadError, match="holds an adapter"):
        load_base(folder)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="cannot be read"):
        load_base(tmp_path)


@pytest.mark.parametrize("kept_bytes", [4, 5000, -100])
def test_torn_weights_are_refused(tmp_path: Path, kept_bytes: int) -> None:
    build_model(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept_bytes])
    with pytest.raises(ModelLoadError, match="cannot be read"):
        load_base(tmp_path)


def test_weights_that_are_missing_are_not_drawn_at_random(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    build_model(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelLoadError, match="lacks 1 of its weights"):
        load_base(tmp_path)


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    build_model(tmp_path)
    config = tmp_path / "config.json"
    values = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps(values | {"intermediate_size": 48}), encoding="utf-8")
    with pytest.raises(ModelLoadError, match="cannot be read"):
        load_base(tmp_path)
