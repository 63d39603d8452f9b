"""Public preference data, imported, counted by hand, exported again. The data are not in here."""

from __future__ import annotations

import csv
import gzip
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import datasets
import pytest

from store import (
    annotators,
    comparisons,
    exports,
    imports,
    judgments,
    preferences,
    prompts,
    snapshots,
)
from store.db import Store
from store.errors import BadInput
from store.imports import ImportReport
from store.records import Split, Verdict
from tests.bench.text_baselines import Pair, cross_validated, longer_wins
from tests.builders import judge, judge_in_every_way, make_comparison, make_judgment

REPOSITORY = Path(__file__).parents[2]
DATA = Path(os.environ.get("WHETSTONE_SHARED", REPOSITORY.parent / "shared")) / "data"


class Expected(NamedTuple):
    """What a file holds, counted without this code."""

    format: str
    accepted: int
    known: int
    refused: int
    prompts: int
    pairs: int
    judgments: int


# 2,312 rows; 2 of them ask what another one asked.
HH = "hh-rlhf/harmless-base-test.jsonl.gz"
# 999 rows, of which 6 have `true` in place of a response; three annotators each; 170 instructions.
PANDALM = "pandalm/testset-v1.json"
# 2,139 pairs of responses to 13 prompts, and 8,931 verdicts by 124 workers.
LLMFAO = "llmfao/pairs-crowd.jsonl"
# 480 messages by prompters, 754 ranked pairs of siblings. The message file has the same trees.
OASST = "oasst-sample/en_100_tree.jsonl"

FILES = {
    HH: Expected("hh-rlhf", 2312, 0, 0, 2310, 2312, 2312),
    PANDALM: Expected("pandalm", 993, 0, 6, 170, 993, 2979),
    LLMFAO: Expected("llmfao", 2139, 0, 0, 13, 2139, 8931),
    OASST: Expected("oasst", 100, 0, 0, 480, 754, 754),
    "oasst-sample/en_100_message.jsonl": Expected("oasst", 100, 0, 0, 480, 754, 754),
    "llama-factory-demo/dpo_en_demo.json": Expected("sharegpt", 294, 5, 0, 294, 294, 294),
    "llama-factory-demo/dpo_zh_demo.json": Expected("sharegpt", 289, 11, 0, 289, 289, 289),
    "llama-factory-demo/kto_en_demo.json": Expected("kto", 297, 3, 0, 297, 0, 0),
    "llama-factory-demo/alpaca_en_demo.json": Expected("alpaca", 985, 14, 0, 985, 0, 0),
    "llama-factory-demo/alpaca_zh_demo.json": Expected("alpaca", 992, 8, 0, 992, 0, 0),
}


def real(name: str) -> Path:
    """The file; without it the test is skipped, on CI it fails."""
    path = DATA / name
    if path.exists():
        return path
    reason = f"{path} is missing; set WHETSTONE_SHARED to the folder that holds data/"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def rows_of(name: str) -> list[Any]:
    path = real(name)
    if name.endswith(".json"):
        return list(json.loads(path.read_text("utf-8")))
    opener: Callable[..., Any] = gzip.open if name.endswith(".gz") else open
    with opener(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def import_real(store: Store, name: str, **options: Any) -> ImportReport:
    return imports.import_file(store, real(name), created_by="lea", **options)


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Store]:
    """An empty store, for a test that imports a file of its own."""
    opened = Store(tmp_path / "store")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Store]]:
    """Gives a store that holds the named files. It is shared, so a test only reads it."""
    opened: dict[tuple[str, ...], Store] = {}

    def holding(*names: str) -> Store:
        if names not in opened:
            opened[names] = Store(tmp_path_factory.mktemp("imported"))
            for name in names:
                import_real(opened[names], name)
        return opened[names]

    yield holding
    for store in opened.values():
        store.close()


def exported(store: Store, folder: Path, *, format: str = "jsonl", **options: Any) -> Any:
    """The export as `datasets` loads it."""
    result = exports.export(
        store, folder, format=format, include_held_out=True, created_by="lea", **options
    )
    builder = "json" if format == "jsonl" else "parquet"
    return datasets.load_dataset(
        builder, data_files=str(result.path), split="train", cache_dir=str(folder / "cache")
    )


@pytest.mark.parametrize("name", FILES)
def test_a_real_file_gives_the_counts_that_were_made_by_hand(fresh: Store, name: str) -> None:
    report = import_real(fresh, name)

    assert (
        Expected(
            report.format,
            report.accepted,
            report.known,
            report.refused,
            report.prompts_added,
            report.preferences_added,
            report.judgments_added,
        )
        == FILES[name]
    )
    assert comparisons.progress(fresh) == []


@pytest.mark.parametrize("name", FILES)
def test_importing_a_real_file_twice_adds_nothing(fresh: Store, name: str) -> None:
    import_real(fresh, name)
    before = preferences.list_all(fresh)

    again = import_real(fresh, name)

    expected = FILES[name]
    assert (again.accepted, again.known) == (0, expected.accepted + expected.known)
    assert (again.prompts_added, again.judgments_added, again.refused) == (0, 0, expected.refused)
    assert preferences.list_all(fresh) == before


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("llmfao/models.jsonl", "no known format"),
        ("llmfao/prompts.jsonl", "no known format"),
        ("llmfao/crowd-comparisons.csv", r"pairs-NAME\.jsonl"),
        ("llmfao/gpt4-crowd-comparisons.csv", r"pairs-NAME\.jsonl"),
    ],
)
def test_a_real_file_of_another_kind_is_refused(fresh: Store, name: str, problem: str) -> None:
    with pytest.raises(BadInput, match=problem):
        import_real(fresh, name)


def test_the_trees_of_both_oasst_files_are_the_same(fresh: Store) -> None:
    import_real(fresh, OASST)

    assert import_real(fresh, "oasst-sample/en_100_message.jsonl").known == 100


# hh-rlhf


def squashed(text: str) -> str:
    """The words of a transcript without its speakers and white space."""
    return "".join(text.replace("Human:", "").replace("Assistant:", "").split())


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_exported_hh_preferences_load_and_equal_the_transcripts(
    imported: Callable[..., Store], tmp_path: Path, format: str
) -> None:
    store = imported(HH)

    found = exported(store, tmp_path, format=format)

    wanted = [row for row in rows_of(HH) if not row["chosen"].endswith("Assistant: ")]
    assert len(wanted) == 2312 - 4  # four replies are empty, and train nothing
    assert list(found.features)[:3] == ["prompt", "chosen", "rejected"]
    assert Counter(
        tuple(
            squashed("".join(m["content"] for m in [*row["prompt"], *row[side]]))
            for side in ("chosen", "rejected")
        )
        for row in found
    ) == Counter((squashed(row["chosen"]), squashed(row["rejected"])) for row in wanted)


def test_hh_prompts_end_with_the_user_and_take_turns(
    imported: Callable[..., Store], tmp_path: Path
) -> None:
    store = imported(HH)

    for row in exported(store, tmp_path):
        roles = [m["role"] for m in row["prompt"]]
        assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]
        assert [m["role"] for m in [*row["chosen"], *row["rejected"]]] == ["assistant"] * 2


def test_a_tenth_of_the_hh_prompts_is_held_out(imported: Callable[..., Store]) -> None:
    store = imported(HH)

    share = prompts.count(store, split=Split.HELD_OUT) / 2310
    counts = preferences.counts(store)
    assert 0.08 < share < 0.12
    total = counts.trainable + counts.held_out + counts.empty_texts
    assert (total, counts.identical_texts, counts.evaluation) == (2312, 0, 0)


@pytest.fixture(scope="module")
def hh_pairs(
    imported: Callable[..., Store], tmp_path_factory: pytest.TempPathFactory
) -> list[Pair]:
    """The replies of the exported preferences; those to one conversation are one group."""
    rows = exported(imported(HH), tmp_path_factory.mktemp("hh"))
    return [
        Pair(row["chosen"][0]["content"], row["rejected"][0]["content"], json.dumps(row["prompt"]))
        for row in rows
    ]


def test_the_longer_hh_reply_wins_less_than_half(hh_pairs: list[Pair]) -> None:
    assert longer_wins(hh_pairs) == pytest.approx(0.445, abs=0.010)


def test_a_bag_of_words_ranks_three_in_five_pairs_of_hh_replies_right(hh_pairs: list[Pair]) -> None:
    assert fmean(cross_validated(hh_pairs)) == pytest.approx(0.617, abs=0.010)


# PandaLM and LLMFAO: several annotators to a pair


def verdicts(store: Store) -> dict[str, Counter[Verdict]]:
    """How often each source gave each verdict."""
    said = {}
    for source in annotators.list_all(store):
        found = judgments.of_annotator(store, source.id, limit=10_000)
        said[source.name] = Counter(j.verdict for j in found)
    return said


def test_pandalm_annotators_keep_their_verdicts(imported: Callable[..., Store]) -> None:
    store = imported(PANDALM)

    rows = [r for r in rows_of(PANDALM) if isinstance(r["response1"], str)]
    rows = [r for r in rows if isinstance(r["response2"], str)]
    ties = {f"annotator{i}": sum(r[f"annotator{i}"] == 0 for r in rows) for i in (1, 2, 3)}
    assert len(rows) == 993
    assert verdicts(store) == {
        f"pandalm:{name}": Counter({Verdict.TIE: n, Verdict.PREFERRED: 993 - n})
        for name, n in ties.items()
    }


def test_pandalm_verdicts_name_the_right_model(
    imported: Callable[..., Store], tmp_path: Path
) -> None:
    store = imported(PANDALM)

    expected: Counter[tuple[str, str]] = Counter()
    for row in rows_of(PANDALM):
        if isinstance(row["response1"], str) and isinstance(row["response2"], str):
            models = row["cmp_key"].split("_")
            for i in (1, 2, 3):
                if row[f"annotator{i}"]:
                    expected[f"pandalm:annotator{i}", models[row[f"annotator{i}"] - 1]] += 1
    found: Counter[tuple[str, str]] = Counter()
    for row in exported(store, tmp_path, what="arena"):
        if row["winner"] in ("model_a", "model_b"):
            found[row["judge"], row[row["winner"]]] += 1
    assert found == expected


def test_llmfao_workers_keep_every_verdict_with_the_order_they_saw(
    imported: Callable[..., Store], tmp_path: Path
) -> None:
    store = imported(LLMFAO)

    texts = {row["id"]: (row["result_x"], row["result_y"]) for row in rows_of(LLMFAO)}
    with real("llmfao/crowd-comparisons.csv").open(newline="") as file:
        expected = Counter(
            (f"llmfao:worker-{line['worker']}", line["winner"], *texts[int(line["id"])])
            for line in csv.DictReader(file)
        )
    place = {None: "tie", 1: "left", 2: "right"}
    found: Counter[tuple[str, ...]] = Counter()
    for row in exported(store, tmp_path, what="judgments"):
        shown = [response["text"] for response in row["displayed_responses"]]
        found[row["annotator"], place[row["preferred_place"]], *shown] += 1
    assert sum(expected.values()) == 8931
    assert len({worker for worker, *_ in expected}) == 124
    assert found == expected


def test_llmfao_models_have_their_names(imported: Callable[..., Store], tmp_path: Path) -> None:
    store = imported(LLMFAO)

    names = {row["name"] for row in rows_of("llmfao/models.jsonl")}
    found = exported(store, tmp_path, what="arena")
    models = {row[side] for row in found for side in ("model_a", "model_b")}
    assert models < names
    assert len(models) == 59


# Open-Assistant


def ranked_pairs(node: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Question, better and worse reply of every ranked pair below a message."""
    replies = [r for r in node["replies"] if r.get("rank") is not None]
    if node["role"] == "prompter":
        for better in replies:
            for worse in replies:
                if better["rank"] < worse["rank"]:
                    yield node["text"], better["text"], worse["text"]
    for reply in node["replies"]:
        yield from ranked_pairs(reply)


def test_oasst_pairs_prefer_the_lower_rank(imported: Callable[..., Store], tmp_path: Path) -> None:
    store = imported(OASST)

    expected = Counter(pair for row in rows_of(OASST) for pair in ranked_pairs(row["prompt"]))
    found = Counter(
        tuple(row[c][-1]["content"] for c in ("prompt", "chosen", "rejected"))
        for row in exported(store, tmp_path)
    )
    assert sum(expected.values()) == 754
    assert found == expected


# LLaMA-Factory


@pytest.mark.parametrize("language", ["en", "zh"])
def test_sharegpt_pairs_equal_the_file(fresh: Store, tmp_path: Path, language: str) -> None:
    name = f"llama-factory-demo/dpo_{language}_demo.json"
    import_real(fresh, name)

    found = {
        (row["prompt"][-1]["content"], row["chosen"][0]["content"], row["rejected"][0]["content"])
        for row in exported(fresh, tmp_path)
    }

    assert found == {
        (row["conversations"][-1]["value"], row["chosen"]["value"], row["rejected"]["value"])
        for row in rows_of(name)
    }


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("kind", ["alpaca", "dpo"])
def test_the_language_of_real_prompts_is_told(fresh: Store, kind: str, language: str) -> None:
    report = import_real(fresh, f"llama-factory-demo/{kind}_{language}_demo.json", use="prompts")

    found = [p for s in Split for p in prompts.sample(fresh, 2000, split=s, seed=0)]
    assert len(found) == report.prompts_added
    assert Counter(p.language for p in found) == Counter({language: len(found)})


# Everything together


@pytest.fixture(scope="module")
def mixed(imported: Callable[..., Store]) -> Store:
    """Far more than the 10 MB from which `datasets` takes the types, and the judgments of a page
    at the end, which fill the columns that imports leave empty."""
    store = imported(HH, LLMFAO)
    comparison = make_comparison(store, policy_versions=["pol-000001", "pol-000002"], seed=3)
    first = judge(store, comparison)
    judgments.record(store, make_judgment(comparison, reason="clearer", supersedes=first.id))
    judge_in_every_way(store)
    snapshots.freeze(store, store.folder / "snapshots", created_by="lea")
    return store


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
@pytest.mark.parametrize("what", exports.What)
def test_a_mixed_store_loads_in_every_shape(
    mixed: Store, tmp_path: Path, what: str, format: str
) -> None:
    found = exported(mixed, tmp_path, what=what, format=format)

    assert (
        len(found)
        == {
            "preferences": 3969 + 1 + 5,
            "preferences-standard": 3969 + 1 + 5,
            "criteria-preferences": 2,
            "rankings": 1,
            "ratings": 1,
            "demonstrations": 1,
            "judgments": 2312 + 8931 + 2 + 4,
            "arena": 2312 + 8931 + 1 + 2,
        }[str(what)]
    )
