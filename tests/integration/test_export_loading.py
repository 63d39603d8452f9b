"""Every export as those load it that it is for: `datasets`, and TRL where its columns are TRL's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, load_dataset
from transformers import AutoTokenizer
from trl.data_utils import apply_chat_template, is_conversational

from app import ASSETS
from store import exports, judgments
from store.db import Store
from store.exports import Format, What
from tests.builders import judge, judge_in_every_way, make_comparison, make_judgment, write_response

LOADERS = {Format.JSONL: "json", Format.PARQUET: "parquet"}
CONVERSATIONAL = {
    What.PREFERENCES: {"prompt", "chosen", "rejected"},
    What.CRITERIA_PREFERENCES: {"prompt", "chosen", "rejected"},
    What.RATINGS: {"prompt", "completion", "label"},
    What.DEMONSTRATIONS: {"prompt", "completion"},
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what `datasets` makes of a file out of the home folder."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


def load(store: Store, folder: Path, what: str, format: Format, **options: Any) -> Dataset:
    result = exports.export(store, folder, what=what, format=format, created_by="lea")
    loaded = load_dataset(
        LOADERS[format],
        data_files=str(result.path),
        split="train",
        cache_dir=str(folder / "cache"),
        **options,
    )
    assert isinstance(loaded, Dataset)
    assert len(loaded) == result.rows
    return loaded


@pytest.mark.parametrize("format", Format)
@pytest.mark.parametrize("what", What)
def test_datasets_loads_every_export(
    store: Store, tmp_path: Path, what: What, format: Format
) -> None:
    judge_in_every_way(store)

    loaded = load(store, tmp_path, what, format)

    assert len(loaded.column_names) > 5


@pytest.fixture(scope="module")
def mostly_null(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Several blocks of rows that leave out what can be left out, then some that do not."""
    store = Store(tmp_path_factory.mktemp("mostly-null"))
    text = "Tap the link that you were sent. " * 8
    for i in range(30):
        prompt = f"Question {i}"
        judge(store, make_comparison(store, (f"{text} {i}", "No."), prompt=prompt))
        three = make_comparison(store, (f"{text} {i}", "No.", "Hm."), prompt=prompt)
        judgments.record(store, make_judgment(three, ranks=(1, 2, 3)))
        rated = make_comparison(store, (f"{text} {i}",), prompt=prompt)
        judgments.record(store, make_judgment(rated, ratings=(5,)))
        write_response(store, make_judgment(make_comparison(store, prompt=prompt)), f"{text} {i}")
    judge_in_every_way(store)
    told = make_comparison(
        store, ("a", "b", "c"), prompt="The last", policy_versions=["pol-000001"] * 3, seed=1
    )
    judgments.record(store, make_judgment(told, ranks=(1, 2, 3)))
    rated = make_comparison(store, ("d",), prompt="The last", policy_versions=["pol-000001"])
    judgments.record(store, make_judgment(rated, ratings=(1,)))
    yield store
    store.close()


@pytest.mark.parametrize("what", What)
def test_columns_that_are_null_in_the_first_rows_are_loaded(
    mostly_null: Store, tmp_path: Path, what: What
) -> None:
    assert len(load(mostly_null, tmp_path, what, Format.JSONL, chunksize=16_384)) > 0


@pytest.mark.parametrize("format", Format)
@pytest.mark.parametrize("what", CONVERSATIONAL)
def test_trl_takes_what_is_in_its_columns(
    store: Store, tmp_path: Path, what: What, format: Format
) -> None:
    judge_in_every_way(store)
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "starter")

    loaded = load(store, tmp_path, what, format).select_columns(sorted(CONVERSATIONAL[what]))

    assert is_conversational(loaded[0])
    texts = [apply_chat_template(row, tokenizer) for row in loaded]
    for row, text in zip(loaded, texts, strict=True):
        assert row["prompt"][0]["content"] in text["prompt"]
        for side in CONVERSATIONAL[what] - {"prompt", "label"}:
            assert row[side][0]["content"] in text[side]
    assert what is not What.RATINGS or {type(text["label"]) for text in texts} == {bool}
