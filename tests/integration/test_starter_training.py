"""Rebuilding the starter policy from nothing, on a budget of seconds."""

import itertools
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from training.starter import grammar, stages
from training.starter.__main__ import PlanError, main, parse_plan
from training.starter.quality import measure, sample_completions
from training.starter.tokenizer import END, encode_conversation

TOKENS = 36_000


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder built by the command line, and what the command printed."""
    out = tmp_path_factory.mktemp("starter") / "model"
    command = [sys.executable, "-m", "training.starter", "--out", str(out), "--device", "cpu"]
    options = ["--tokens", str(TOKENS), "--quality-prompts", "4", "--seed", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(
        [*command, *options], env=environment, capture_output=True, text=True, check=True
    )
    return out, done.stdout


@pytest.fixture(scope="module")
def tokenizer(built: tuple[Path, str]) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(built[0])


def test_the_folder_is_complete_and_nothing_is_left_beside_it(built: tuple[Path, str]) -> None:
    folder = built[0]
    names = {path.name for path in folder.iterdir()}

    assert names >= {
        "model.safetensors",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "README.md",
        "prompts.jsonl",
        "general.jsonl",
    }
    assert list(folder.parent.iterdir()) == [folder]


def test_the_losses_of_both_stages_fall(built: tuple[Path, str]) -> None:
    for stage in ("pretraining", "instruction tuning"):
        losses = [
            float(loss) for loss in re.findall(rf"^{stage}: .* loss ([\d.]+)", built[1], re.M)
        ]
        assert losses[-1] < losses[0] - 0.3


def test_the_model_loads_in_float32_from_float16_weights(built: tuple[Path, str]) -> None:
    model = AutoModelForCausalLM.from_pretrained(built[0], dtype=torch.float32)

    assert json.loads((built[0] / "config.json").read_text())["dtype"] == "float16"
    assert model.dtype == torch.float32
    assert 2_000_000 < sum(weight.numel() for weight in model.parameters()) < 3_000_000


def test_generation_stops_at_the_trained_stop_token(
    built: tuple[Path, str], tokenizer: PreTrainedTokenizerFast
) -> None:
    model = AutoModelForCausalLM.from_pretrained(built[0], dtype=torch.float32)
    prompts = grammar.list_training_prompts(16)

    samples = sample_completions(model, tokenizer, prompts, seed=0)

    assert sum(sample.ended for sample in samples) >= 8
    assert all(END not in sample.completion for sample in samples)
    assert measure(samples).samples == 16


def test_the_pad_token_is_not_the_stop_token(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert tokenizer.eos_token == END


def test_the_chat_template_is_prefix_preserving(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [
        {"role": "system", "content": "You help."},
        {"role": "user", "content": "Where is C41?"},
        {"role": "assistant", "content": "It is late."},
        {"role": "user", "content": "那怎么办？"},
        {"role": "assistant", "content": "请再等一天。"},
    ]
    whole = tokenizer.apply_chat_template(messages, tokenize=False)

    for end in range(1, len(messages)):
        assert whole.startswith(tokenizer.apply_chat_template(messages[:end], tokenize=False))
    for end in (2, 4):
        asked = tokenizer.apply_chat_template(
            messages[:end], tokenize=False, add_generation_prompt=True
        )
        assert whole.startswith(asked)
        assert asked.endswith("<|assistant|>")


def test_the_template_and_the_training_encoding_agree_on_ids_and_mask(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    rng = random.Random(0)
    for _ in range(100):
        conversation = grammar.draw_conversation(rng)
        ids, said = encode_conversation(tokenizer, conversation)
        encoded = tokenizer.apply_chat_template(
            conversation.as_messages(), return_dict=True, return_assistant_tokens_mask=True
        )

        assert encoded["input_ids"] == ids
        assert [bool(each) for each in encoded["assistant_masks"]] == said
        assert said[-1]
        assert ids[-1] == tokenizer.eos_token_id


def test_an_unknown_role_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(Exception, match="Unknown role: robot"):
        tokenizer.apply_chat_template([{"role": "robot", "content": "beep"}])


def test_every_order_id_is_a_letter_and_a_number(tokenizer: PreTrainedTokenizerFast) -> None:
    for frame in ("My order {} is late.", "我的订单{}还没到。"):
        for letter in "ABCDEFGH":
            for number in range(100):
                order_id = f"{letter}{number:02d}"
                pieces = [
                    tokenizer.decode([token]).strip()
                    for token in tokenizer.encode(frame.format(order_id))
                ]
                assert (letter, order_id[1:]) in list(itertools.pairwise(pieces))


def test_any_text_survives_encoding(tokenizer: PreTrainedTokenizerFast) -> None:
    text = "Größe 42, naïve 🙂 漢字 <b> A7 B123 \t end"

    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_only_what_the_assistant_says_carries_loss(tokenizer: PreTrainedTokenizerFast) -> None:
    short = encode_conversation(tokenizer, grammar.draw_conversation(random.Random(0)))
    long = encode_conversation(tokenizer, grammar.draw_conversation(random.Random(3)))

    batch = stages.pad_conversations([short, long], tokenizer.pad_token_id)

    assert batch.tokens == len(short[0]) + len(long[0])
    for row, (ids, said) in enumerate([short, long]):
        labels = batch.labels[row].tolist()
        assert labels[: len(ids)] == [
            token if spoken else stages.IGNORED for token, spoken in zip(ids, said, strict=True)
        ]
        assert set(labels[len(ids) :]) <= {stages.IGNORED}


def test_the_learning_rate_warms_up_and_falls_to_its_floor() -> None:
    schedule = stages.Schedule(tokens=1000, learning_rate=1.0, warmup=0.1, floor=0.05)

    assert schedule.rate_at(50) == pytest.approx(0.5)
    assert schedule.rate_at(100) == pytest.approx(1.0)
    assert schedule.rate_at(550) == pytest.approx(0.525)
    assert schedule.rate_at(1000) == pytest.approx(0.05)


def test_the_sample_prompts_are_complete(built: tuple[Path, str]) -> None:
    rows = [
        json.loads(line)
        for line in (built[0] / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    ]

    assert len({row["messages"][0]["content"] for row in rows}) == len(rows)
    assert sum(row["split"] == "train" for row in rows) == 1000
    assert sum(row["split"] == "held_out" for row in rows) >= 250
    for row in rows:
        held_out = grammar.find_held_out(row["messages"][0]["content"]) is not None
        assert held_out == (row["split"] == "held_out")


def test_an_existing_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path)]) == 2
    assert "already exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tokens", "5"], "below the minimum"),
        (["--tokens", "many"], "invalid int"),
        (["--minutes", "0"], "not above 0"),
        (["--device", "abacus"], "invalid choice"),
        (["--quality-prompts", "0"], "below 1"),
    ],
)
def test_bad_options_are_refused_with_a_reason(
    tmp_path: Path, options: list[str], message: str
) -> None:
    with pytest.raises(PlanError, match=message):
        parse_plan(["--out", str(tmp_path / "new"), *options])
