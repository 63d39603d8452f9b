"""Imports in the background."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

from labeling.access import Actor
from labeling.exchange import Exchange, WorkState
from store import prompts
from store.db import Store
from store.imports import BATCH_ITEMS
from store.records import Role, Split
from tests.builders import make_annotator

LEAD = Actor("lea", "Lea", Role.LEAD)


def judged_pair(number: int, **more: Any) -> dict[str, Any]:
    return {
        "instruction": f"Question {number}?",
        "input": "",
        "response1": "Yes.",
        "response2": "No.",
        "annotator1": 1,
        "split": "train",
        **more,
    }


def write_rows_that_fail_after_a_batch(store: Store, folder: Path) -> Path:
    """The last row, in a batch of its own, was judged by a source named like a person here."""
    make_annotator(store, "pandalm:annotator2")
    rows = [judged_pair(n) for n in range(BATCH_ITEMS)]
    rows.append(judged_pair(BATCH_ITEMS, annotator2=2))
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_what_was_kept_before_an_import_failed_is_given_out(store: Store, tmp_path: Path) -> None:
    path = write_rows_that_fail_after_a_batch(store, tmp_path)
    kept: list[int] = []
    is_given_out = threading.Event()

    def give_out() -> None:
        kept.append(prompts.count(store, split=Split.TRAIN))
        is_given_out.set()

    exchange = Exchange(store, tmp_path / "exports", on_imported=give_out)
    exchange.start_import(LEAD, path, name="rows.jsonl", use="preferences")
    assert is_given_out.wait(timeout=30)
    exchange.close()

    work = exchange.import_work(LEAD)
    assert work.state is WorkState.FAILED
    assert "pandalm:annotator2" in str(work.error)
    assert kept == [BATCH_ITEMS]
