"""The committed starter policy: small, loadable, and as good as its model card says."""

import json
import math
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from training.general import FILE
from training.starter import card, grammar
from training.starter.detectors import Observation
from training.starter.quality import (
    ENDED_TARGET,
    FOREIGN_STEP_TARGET,
    WRONG_ID_TARGET,
    Sample,
    sample_completions,
)

FOLDER = Path(__file__).resolve().parents[2] / "assets" / "starter"
PROMPTS = 150
LARGEST_BYTES = 12_000_000


@pytest.fixture(scope="module", autouse=True)
def folder() -> Path:
    if not (FOLDER / "model.safetensors").is_file():
        pytest.fail(
            f"{FOLDER} holds no starter policy: build it with "
            "python -m training.starter --out assets/starter"
        )
    return FOLDER


@pytest.fixture(scope="module")
def model(folder: Path) -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def samples(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> list[Sample]:
    """One completion for each of the held-out prompts (other ones than the card's)."""
    prompts = grammar.list_held_out_prompts(PROMPTS, seed=2024)
    return sample_completions(model, tokenizer, prompts, seed=7)


@pytest.fixture(scope="module")
def observations(samples: list[Sample]) -> list[Observation]:
    return [sample.observation for sample in samples]


def test_the_whole_folder_is_small(folder: Path) -> None:
    assert sum(path.stat().st_size for path in folder.iterdir()) < LARGEST_BYTES


def test_the_weights_are_float16_and_two_to_three_million(
    folder: Path, model: LlamaForCausalLM
) -> None:
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float16"
    assert 2_000_000 <= sum(weight.numel() for weight in model.parameters()) <= 3_000_000


def test_the_model_says_how_to_sample_from_it(
    folder: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    settings = GenerationConfig.from_pretrained(folder)

    assert (settings.do_sample, settings.temperature) == (True, 1.0)
    assert settings.eos_token_id == tokenizer.eos_token_id
    assert settings.pad_token_id == tokenizer.pad_token_id
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_the_general_demonstrations_are_those_of_the_grammar(folder: Path, tmp_path: Path) -> None:
    card.write_general(tmp_path / FILE, seed=0)
    assert (folder / FILE).read_bytes() == (tmp_path / FILE).read_bytes()


def test_the_sample_prompts_are_those_of_the_grammar(folder: Path) -> None:
    rows = [
        json.loads(line)
        for line in (folder / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    ]

    assert len(rows) >= 1200
    assert all(grammar.recognise(row["messages"][-1]["content"]) for row in rows)
    for split, fewest in (("train", 900), ("held_out", 250)):
        assert sum(row["split"] == split for row in rows) >= fewest


def test_the_card_names_data_licence_and_limits(folder: Path) -> None:
    text = (folder / "README.md").read_text(encoding="utf-8")

    for needed in ("apache-2.0", "## Data", "## Stages", "## Measured", "## Limits", "seed"):
        assert needed in text


def test_few_replies_name_a_wrong_order(observations: list[Observation]) -> None:
    named = [one for one in observations if one.ids]

    assert len(named) > 30
    assert_rate(sum(one.wrong_ids > 0 for one in named), len(named), WRONG_ID_TARGET)


def test_few_replies_give_the_steps_of_another_problem(observations: list[Observation]) -> None:
    helping = [one for one in observations if one.manners.steps or one.foreign_steps]

    assert len(helping) > 60
    assert_rate(sum(one.foreign_steps > 0 for one in helping), len(helping), FOREIGN_STEP_TARGET)


def test_replies_end_by_themselves(samples: list[Sample]) -> None:
    assert_rate(sum(not sample.ended for sample in samples), len(samples), 1 - ENDED_TARGET)


def test_replies_consist_of_whole_known_sentences(observations: list[Observation]) -> None:
    unknown = sum(one.unknown for one in observations)

    assert unknown < 0.1 * sum(one.sentences for one in observations)


def test_the_manners_still_vary(observations: list[Observation]) -> None:
    for manner in ("apologies", "empathy", "restatement", "fillers", "steps", "hedges", "contact"):
        values = [getattr(one.manners, manner) for one in observations]
        assert 0.1 < sum(value > 0 for value in values) / len(values) < 0.9, manner


def assert_rate(failures: int, trials: int, target: float) -> None:
    """The failures are no more than the target rate allows, two standard errors granted."""
    allowed = target * trials + 2 * math.sqrt(trials * target * (1 - target))
    assert failures <= max(1, allowed), f"{failures} of {trials}, target {target:.1%}"
