from __future__ import annotations

import hashlib
import json
from pathlib import Path

import duckdb
import pytest

from store import judgments, snapshots
from store.db import Store
from store.errors import BadInput, NotFound
from store.records import Purpose, Split
from tests.builders import (
    Clock,
    judge,
    make_comparison,
    make_judgment,
    make_preference,
    make_prompt,
    write_response,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where snapshots are written."""
    return tmp_path / "snapshots"


def frozen_rows(path: str) -> list[tuple[object, ...]]:
    with duckdb.connect() as connection:
        return connection.execute(
            "SELECT prompt, chosen, rejected, margin FROM read_parquet(?)", [path]
        ).fetchall()


def test_a_snapshot_holds_the_preference_in_trl_columns(store: Store, folder: Path) -> None:
    make_preference(store, "Why?", "Because.", "No.")

    snapshot = snapshots.freeze(store, folder, created_by="lea")

    assert frozen_rows(snapshot.path) == [
        (
            [{"role": "user", "content": "Why?"}],
            [{"role": "assistant", "content": "Because."}],
            [{"role": "assistant", "content": "No."}],
            1.0,
        )
    ]


def test_a_snapshot_is_named_by_the_hash_of_its_file(store: Store, folder: Path) -> None:
    make_preference(store)

    snapshot = snapshots.freeze(store, folder, created_by="lea")

    content = Path(snapshot.path).read_bytes()
    assert snapshot.id == Path(snapshot.path).stem == hashlib.sha256(content).hexdigest()


def test_the_same_preferences_give_the_same_snapshot(
    store: Store, folder: Path, clock: Clock
) -> None:
    for i in range(5):
        make_preference(store, f"question {i}")
    first = snapshots.freeze(store, folder, created_by="lea")
    clock.advance(seconds=60)

    assert snapshots.freeze(store, folder, created_by="max") == first
    assert len(list(folder.glob("*.parquet"))) == 1


def test_another_judgment_gives_another_snapshot(store: Store, folder: Path) -> None:
    comparison = make_preference(store)
    first = snapshots.freeze(store, folder, created_by="lea")
    judge(store, comparison, annotator_id="bo", strength=3)

    assert snapshots.freeze(store, folder, created_by="lea").id != first.id


def test_a_snapshot_knows_the_judgments_it_was_made_of(store: Store, folder: Path) -> None:
    comparison = make_comparison(store)
    said = [judge(store, comparison, annotator_id=name) for name in ("ana", "bo")]

    snapshot = snapshots.freeze(store, folder, created_by="lea")

    assert set(snapshots.judgment_ids(store, snapshot.id)) == {j.id for j in said}
    assert snapshot.max_judgment_seq == said[-1].seq


def test_all_pairs_of_a_ranking_are_frozen_in_one_order(store: Store, folder: Path) -> None:
    nine = make_comparison(store, [f"response {i}" for i in range(9)])
    judgments.record(store, make_judgment(nine, ranks=range(1, 10)))

    snapshot = snapshots.freeze(store, folder, created_by="lea")

    with duckdb.connect() as connection:
        keys = connection.execute(
            "SELECT chosen_completion_id, rejected_completion_id FROM read_parquet(?)",
            [snapshot.path],
        ).fetchall()
    assert snapshot.rows == len(keys) == 36
    assert keys == sorted(keys)


def test_any_row_of_a_ranking_or_of_a_rewrite_leads_to_its_judgment(
    store: Store, folder: Path
) -> None:
    three = make_comparison(store, ("a", "b", "c"))
    ranked = judgments.record(store, make_judgment(three, ranks=(1, 2, 3)))
    written = write_response(store, make_judgment(make_comparison(store)), "Better.", instead_of=0)

    snapshot = snapshots.freeze(store, folder, created_by="lea")

    path = Path(snapshot.path)
    behind = [snapshots.judgment_ids_of(store, path, [row]) for row in range(snapshot.rows)]
    assert behind == [[ranked.id]] * 3 + [[written.id]] * 3
    assert snapshots.judgment_ids_of(store, path, [0, 4]) == sorted([ranked.id, written.id])


def test_held_out_and_evaluation_data_are_left_out(store: Store, folder: Path) -> None:
    make_preference(store, make_prompt("held out", split=Split.HELD_OUT))
    judge(store, make_comparison(store, purpose=Purpose.EVALUATE))
    make_preference(store, "trained on")

    snapshot = snapshots.freeze(store, folder, created_by="lea")

    assert [row[0] for row in frozen_rows(snapshot.path)] == [
        [{"role": "user", "content": "trained on"}]
    ]


def test_freezing_nothing_says_what_to_do(store: Store, folder: Path) -> None:
    with pytest.raises(BadInput, match="no preferences to train on yet"):
        snapshots.freeze(store, folder, created_by="lea")

    assert list(folder.iterdir()) == []


def test_the_manifest_beside_a_snapshot_describes_it(store: Store, folder: Path) -> None:
    make_preference(store)

    snapshot = snapshots.freeze(store, folder, created_by="lea")

    manifest = json.loads(Path(snapshot.path).with_suffix(".json").read_text())
    assert (manifest["sha256"], manifest["rows"], manifest["judgments"]) == (snapshot.id, 1, 1)


def test_a_snapshot_is_found_by_its_id(store: Store, folder: Path) -> None:
    make_preference(store)
    snapshot = snapshots.freeze(store, folder, created_by="lea")

    assert snapshots.get(store, snapshot.id) == snapshot
    with pytest.raises(NotFound, match="no snapshot nowhere"):
        snapshots.get(store, "nowhere")


def test_a_folder_with_a_quote_in_its_name_is_no_obstacle(store: Store, tmp_path: Path) -> None:
    make_preference(store)

    snapshot = snapshots.freeze(store, tmp_path / "it's here", created_by="lea")

    assert len(frozen_rows(snapshot.path)) == 1
