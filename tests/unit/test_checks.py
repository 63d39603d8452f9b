"""Checks on their way from a file to the prompts that a run is tested with."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pytest

from store import checks, imports, prompts
from store.checks import Check
from store.db import Store
from store.imports import ImportReport
from store.records import Split
from training import instructions

CHECKS: list[dict[str, Any]] = [
    {"kind": "max_words", "value": 30},
    {"kind": "contains", "value": "refund"},
    {"kind": "json"},
    {"kind": "language", "value": "zh"},
]
READ = (Check("max_words", 30), Check("contains", "refund"), Check("json"), Check("language", "zh"))


def import_rows(
    store: Store, folder: Path, rows: Sequence[Mapping[str, Any]], **options: Any
) -> ImportReport:
    path = folder / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows), "utf-8")
    return imports.import_file(store, path, created_by="lea", **options)


def checks_by_text(store: Store) -> dict[str, checks.Checks]:
    asked = prompts.sample(store, 100, split=Split.HELD_OUT, seed=0)
    known = checks.of_prompts(store, [prompt.id for prompt in asked])
    return {p.messages[-1]["content"]: known[p.id] for p in asked if p.id in known}


def test_checks_of_a_prompt_are_kept_and_others_have_none(store: Store, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "Why?", "checks": CHECKS},
        {"prompt": "How?", "checks": [], "split": "test"},
        {"prompt": "When?", "checks": None, "split": "test"},
    ]

    report = import_rows(store, tmp_path, rows)

    assert (report.accepted, report.checks_added) == (3, 1)
    assert checks_by_text(store) == {"Why?": READ}


def test_a_prompt_with_checks_is_held_out_unless_the_file_says_otherwise(
    store: Store, tmp_path: Path
) -> None:
    rows = [{"prompt": f"Why {n}?", "checks": CHECKS} for n in range(20)]
    import_rows(store, tmp_path, [*rows, {**rows[0], "prompt": "How?", "split": "train"}])

    assert prompts.count(store, split=Split.HELD_OUT) == 20
    assert prompts.count(store, split=Split.TRAIN) == 1


def test_a_known_prompt_gets_new_checks_and_the_same_once_more_are_nothing_new(
    store: Store, tmp_path: Path
) -> None:
    import_rows(store, tmp_path, [{"prompt": "Why?", "split": "test"}])

    first = import_rows(store, tmp_path, [{"prompt": "Why?", "checks": CHECKS}])
    again = import_rows(store, tmp_path, [{"prompt": "Why?", "checks": CHECKS}])
    other = import_rows(store, tmp_path, [{"prompt": "Why?", "checks": [{"kind": "json"}]}])

    assert [(r.accepted, r.known) for r in (first, again, other)] == [(1, 0), (0, 1), (1, 0)]
    assert checks_by_text(store) == {"Why?": (Check("json"),)}


@pytest.mark.parametrize("format", ["trl", "alpaca", "kto"])
def test_every_format_takes_checks(store: Store, tmp_path: Path, format: str) -> None:
    rows: dict[str, dict[str, Any]] = {
        "trl": {"prompt": "Why?", "chosen": "Because.", "rejected": "No."},
        "alpaca": {"instruction": "Why?", "output": "Because."},
        "kto": {"prompt": "Why?", "completion": "Because.", "label": True},
    }

    report = import_rows(store, tmp_path, [{**rows[format], "checks": CHECKS}])

    assert report.format == format
    assert checks_by_text(store) == {"Why?": READ}


def test_a_cell_of_csv_holds_checks_as_json(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "prompts.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["prompt", "checks"], ["Why?", json.dumps(CHECKS)]])

    imports.import_file(store, path, created_by="lea")

    assert checks_by_text(store) == {"Why?": READ}


def test_a_column_of_parquet_holds_numbers_as_text(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "prompts.parquet"
    duckdb.sql(
        "COPY (SELECT 'Why?' AS prompt, [{'kind': 'max_words', 'value': '30'},"
        f" {{'kind': 'json', 'value': NULL}}] AS checks) TO '{path}'"
    )

    imports.import_file(store, path, created_by="lea")

    assert checks_by_text(store) == {"Why?": (Check("max_words", 30), Check("json"))}


@pytest.mark.parametrize(
    ("given", "field", "problem"),
    [
        ("short", "checks", "a list of objects"),
        ({"kind": "json"}, "checks", "a list of objects"),
        (["json"], "checks.0", "an object with 'kind'"),
        ([CHECKS[0], {"value": 3}], "checks.1", "has the kind None; known are max_words"),
        ([{"kind": "rhymes"}], "checks.0", "known are max_words, contains, json, language"),
        ([{"kind": ["json"]}], "checks.0", "known are"),
        ([{"kind": "max_words"}], "checks.0", "a whole number above 0"),
        ([{"kind": "max_words", "value": 0}], "checks.0", "a whole number above 0"),
        ([{"kind": "max_words", "value": True}], "checks.0", "a whole number above 0"),
        ([{"kind": "max_words", "value": "few"}], "checks.0", "a whole number above 0"),
        ([{"kind": "contains", "value": " "}], "checks.0", "a text"),
        ([{"kind": "json", "value": 1}], "checks.0", "takes no value"),
        ([{"kind": "language", "value": "fr"}], "checks.0", "'en' or 'zh'"),
    ],
)
def test_a_senseless_check_is_refused_with_its_place(
    store: Store, tmp_path: Path, given: Any, field: str, problem: str
) -> None:
    rows = [{"prompt": "How?"}, {"prompt": "Why?", "checks": given}]

    report = import_rows(store, tmp_path, rows)

    (refusal,) = report.refusals
    assert (refusal.line, refusal.field) == (2, field)
    assert problem in refusal.problem
    assert report.accepted == 1


@pytest.mark.parametrize("check", READ)
def test_what_the_store_keeps_a_run_can_read(check: Check) -> None:
    assert instructions.Check.from_json(check._asdict()).kind == check.kind


def test_store_and_runs_know_the_same_kinds() -> None:
    assert {check.kind for check in READ} == set(instructions.CheckKind)
