"""General demonstrations: imported, frozen for a run, and traced to who is behind them."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pyarrow.parquet as pq  # type: ignore[import-untyped]
import pytest

from labeling.access import Actor
from labeling.launching import Launching
from store import general, imports, judgments, policies, prompts, runs, snapshots
from store.db import Store
from store.errors import BadInput
from store.general import Origins
from store.imports import ImportReport, Use
from store.records import (
    Judgment,
    Policy,
    PromotionKind,
    Role,
    Run,
    RunState,
    Snapshot,
    Split,
    Verdict,
)
from store.training_data import Kind
from tests.builders import make_comparison, make_judgment, make_preference, write_response
from training import general as general_file
from training.config import GENERAL, RunSpec
from training.methods.sft import SFTOptions
from training.rundir import Outcome, RunDir, RunResult
from training.runs import RunService

HELLO = [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Good day."}]


LEAD = Actor("lea", "Lea", Role.LEAD)


class GivenRuns:
    """Nothing trains; what general demonstrations each launch was given is kept."""

    def __init__(self, base_model: str) -> None:
        self.base_model = base_model
        self.given: list[Snapshot | None] = []

    def launch(self, *_: object, general: Snapshot | None, **__: object) -> None:
        self.given.append(general)


def write_lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return path


def bring(store: Store, path: Path) -> ImportReport:
    return imports.import_file(store, path, use=Use.GENERAL, created_by="lea")


def write(store: Store, text: str, *, prompt: str) -> Judgment:
    """A person writes a response: a demonstration."""
    return write_response(store, make_judgment(make_comparison(store, prompt=prompt)), text)


def frozen(store: Store, folder: Path, **origins: Any) -> list[dict[str, Any]]:
    """The rows that a run would be given."""
    snapshot = snapshots.freeze_general(store, folder, origins=Origins(**origins), created_by="lea")
    if snapshot is None:
        return []
    return rows_of(Path(snapshot.path))


def rows_of(path: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def texts(rows: list[dict[str, Any]]) -> set[str]:
    return {row["completion"][0]["content"] for row in rows}


def learn(store: Store, snapshot: Snapshot, parent: Policy | None, method: str = "sft") -> Policy:
    """A policy made by a run on that snapshot."""
    base = parent or policies.register(store, base_model="base", parent_version=None)
    number = len(runs.list_all(store))
    run = runs.create(
        store,
        id=f"run-{number}",
        method=method,
        spec={},
        snapshot_id=snapshot.id,
        parent_version=base.version,
        folder="nowhere",
        created_by="lea",
    )
    runs.mark_finished(store, run.id, RunState.SUCCEEDED)
    return policies.register(
        store,
        base_model="base",
        parent_version=base.version,
        run_id=run.id,
        snapshot_id=snapshot.id,
    )


def freeze_demonstrations(store: Store, folder: Path) -> Snapshot:
    return snapshots.freeze(store, folder, kind=Kind.DEMONSTRATIONS, created_by="lea")


def test_an_import_of_general_demonstrations_brings_nothing_to_judge(
    store: Store, tmp_path: Path
) -> None:
    report = bring(store, write_lines(tmp_path / "f.jsonl", {"messages": HELLO}))

    assert (report.accepted, report.general_added) == (1, 1)
    assert (report.prompts_added, report.judgments_added) == (0, 0)
    assert general.count_imported(store) == 1
    assert prompts.count(store, split=Split.TRAIN) == 0


def test_the_same_demonstration_is_imported_once(store: Store, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "f.jsonl", {"messages": HELLO}, {"messages": HELLO})
    bring(store, path)

    assert bring(store, path).known == 2
    assert general.count_imported(store) == 1


@pytest.mark.parametrize(
    "row",
    [
        {"messages": HELLO[:1]},
        {"prompt": "Hello!", "completion": "Go away.", "label": False},
    ],
)
def test_a_row_that_shows_nothing_to_imitate_is_refused(
    store: Store, tmp_path: Path, row: dict[str, Any]
) -> None:
    report = bring(store, write_lines(tmp_path / "f.jsonl", row))

    assert (report.accepted, report.refused) == (0, 1)
    assert "no response to imitate" in str(report.refusals[0])


def test_a_file_of_pairs_holds_no_general_demonstrations(store: Store, tmp_path: Path) -> None:
    pair = {"prompt": "Hello!", "chosen": "Good day.", "rejected": "Go away."}
    with pytest.raises(BadInput, match="hold pairs of responses"):
        bring(store, write_lines(tmp_path / "f.jsonl", pair))


def test_a_run_is_given_what_was_imported_and_what_the_base_model_brings(
    store: Store, tmp_path: Path
) -> None:
    bring(store, write_lines(tmp_path / "f.jsonl", {"messages": HELLO}))
    turns = [{"role": "system", "content": "Be kind."}, *HELLO[:1]]
    told = {"messages": [*turns, {"role": "assistant", "content": "Hi."}]}
    own = write_lines(tmp_path / "own.jsonl", told, {"messages": HELLO[:1]})

    rows = frozen(store, tmp_path / "snapshots", own=own)

    assert texts(rows) == {"Good day.", "Hi."}
    [mine] = [row for row in rows if row["origin"] == "base model"]
    assert mine["prompt"] == turns
    assert general.count(store, Origins(own=own)) == 2


def test_where_there_are_none_a_run_is_given_none(store: Store, tmp_path: Path) -> None:
    assert frozen(store, tmp_path) == []
    assert list(tmp_path.glob("*.parquet")) == []


def test_a_torn_file_of_the_base_model_is_refused(store: Store, tmp_path: Path) -> None:
    torn = tmp_path / "it's torn.jsonl"
    torn.write_text('{"messages": [{"role"')
    with pytest.raises(BadInput, match="cannot be read"):
        frozen(store, tmp_path / "snapshots", own=torn)
    with pytest.raises(BadInput, match="cannot be read"):
        general.count(store, Origins(own=torn))


def test_earlier_demonstrations_are_those_that_the_lineage_learned_from(
    store: Store, tmp_path: Path
) -> None:
    said = write(store, "Early.", prompt="One?")
    taught = learn(store, freeze_demonstrations(store, tmp_path), None)
    tuned = learn(store, freeze_demonstrations(store, tmp_path), taught, method="dpo")
    write(store, "Late.", prompt="Two?")
    late = freeze_demonstrations(store, tmp_path)
    learn(store, late, None)

    [found] = snapshots.of_lineage(store, tuned.version, methods=["sft"])
    rows = frozen(store, tmp_path, earlier=[Path(found.path)])

    assert texts(rows) == {"Early."}
    assert rows[0]["judgment_ids"] == [said.id]
    assert snapshots.of_lineage(store, taught.version, methods=["kto"]) == []


def test_what_is_learned_anyway_is_not_given_a_second_time(store: Store, tmp_path: Path) -> None:
    write(store, "Early.", prompt="One?")
    early = Path(freeze_demonstrations(store, tmp_path).path)
    write(store, "Late.", prompt="Two?")
    late = Path(freeze_demonstrations(store, tmp_path).path)

    assert frozen(store, tmp_path, earlier=[early, late], learned=late) == []
    assert texts(frozen(store, tmp_path, earlier=[late], learned=early)) == {"Late."}


def test_a_demonstration_that_was_taken_back_is_not_replayed(store: Store, tmp_path: Path) -> None:
    said = write(store, "Early.", prompt="One?")
    early = Path(freeze_demonstrations(store, tmp_path).path)
    taken_back = replace(
        said,
        id="undo",
        verdict=Verdict.RETRACTED,
        preferred_completion_id=None,
        strength=None,
        rewrite_completion_id=None,
        supersedes=said.id,
    )
    judgments.record(store, taken_back)

    assert frozen(store, tmp_path, earlier=[early]) == []


def test_the_snapshot_of_what_was_given_leads_to_the_judgments(
    store: Store, tmp_path: Path
) -> None:
    said = write(store, "Early.", prompt="One?")
    early = Path(freeze_demonstrations(store, tmp_path).path)
    origins = Origins(earlier=[early])

    given = snapshots.freeze_general(store, tmp_path, origins=origins, created_by="lea")

    assert given is not None
    assert snapshots.judgment_ids(store, given.id) == [said.id]
    manifest = json.loads(Path(given.path).with_suffix(".json").read_text())
    assert (manifest["kind"], manifest["rows"]) == ("general", 1)


def test_a_policy_names_the_judgments_behind_what_was_replayed(
    store: Store, tmp_path: Path
) -> None:
    learned = write(store, "Early.", prompt="One?")
    early = freeze_demonstrations(store, tmp_path)
    replayed, passed_over = (write(store, text, prompt=text) for text in ("Late.", "Later."))
    late = freeze_demonstrations(store, tmp_path)
    origins = Origins(earlier=[Path(late.path)], learned=Path(early.path))
    given = snapshots.freeze_general(store, tmp_path, origins=origins, created_by="lea")
    assert given is not None
    base = policies.register(store, base_model="base", parent_version=None)
    run = finished_run(store, tmp_path / "runs", early, given, base, replayed="Late.")

    with closing(RunService(store, tmp_path, base_model="base", eval_prompts=list)) as service:
        service.adopt()

    made = policies.of_run(store, run.id)
    assert made is not None
    assert set(policies.judgment_ids(store, made.version)) == {learned.id, replayed.id}
    assert passed_over.id in snapshots.judgment_ids(store, given.id)
    assert runs.get(store, run.id).general_snapshot_id == given.id


def finished_run(
    store: Store, folder: Path, data: Snapshot, given: Snapshot, parent: Policy, *, replayed: str
) -> Run:
    """A trainer has learned all of `data` and one of what was `given`; nobody has noticed yet."""
    spec = RunSpec("run-1", "sft", SFTOptions(), "base", parent.version)
    run_dir = RunDir.create(
        folder, spec, data=Path(data.path), eval_prompts=[], general=Path(given.path)
    )
    texts = [row["completion"][0]["content"] for row in rows_of(run_dir.path / GENERAL)]
    run_dir.write_trained_rows(range(data.rows))
    run_dir.write_replayed_rows([texts.index(replayed)])
    run_dir.adapter.mkdir()
    (run_dir.adapter / "weights").write_text("1")
    run_dir.write_result(RunResult(Outcome.SUCCEEDED))
    return runs.create(
        store,
        id=spec.run_id,
        method=spec.method,
        spec=spec.to_json(),
        snapshot_id=data.id,
        parent_version=parent.version,
        folder=str(run_dir.path),
        created_by="lea",
        general_snapshot_id=given.id,
    )


def test_a_launch_is_given_the_lineages_demonstrations_and_the_base_models_own(
    store: Store, tmp_path: Path
) -> None:
    base_model = tmp_path / "base"
    base_model.mkdir()
    write_lines(base_model / general_file.FILE, {"messages": HELLO})
    write(store, "Early.", prompt="One?")
    make_preference(store, "Two?")
    runs_service = GivenRuns(str(base_model))
    launching = Launching(store, cast(RunService, runs_service), tmp_path / "snapshots")
    taught = learn(store, freeze_demonstrations(store, tmp_path), None)
    policies.record_promotion(store, taught.version, kind=PromotionKind.INITIAL, annotator_id=None)
    for method in ("sft", "dpo", "reward"):
        launching.launch(LEAD, method, {}, start=taught.version)

    sft, dpo, reward = (given and texts(rows_of(Path(given.path))) for given in runs_service.given)
    assert sft == {"Good day."}  # it learns all demonstrations anyway
    assert dpo == {"Good day.", "Early.", "Tap 'Forgot password'."}
    assert reward is None
