from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from store import annotators, exports, imports, judgments, policies, reviews, runs, snapshots
from store.db import Store
from store.errors import BadInput, StoreUnavailable
from store.exports import ExportProgress, ExportResult
from store.records import (
    Comparison,
    CriterionJudgment,
    Decision,
    Purpose,
    Review,
    Role,
    RunState,
    Split,
    Verdict,
)
from tests.builders import (
    Clock,
    judge,
    judge_in_every_way,
    make_annotator,
    make_comparison,
    make_judgment,
    make_preference,
    make_prompt,
    write_response,
)

Row = dict[str, Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where exports are written."""
    return tmp_path / "exports"


def read(result: ExportResult) -> list[Row]:
    """The rows of an export, as a reader that knows nothing of us sees them."""
    if result.path.suffix == ".jsonl":
        return [json.loads(line) for line in result.path.read_text("utf-8").split("\n") if line]
    with duckdb.connect() as connection:
        found = connection.execute("SELECT * FROM read_parquet(?)", [str(result.path)])
        names = [column[0] for column in found.description or ()]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def export(store: Store, folder: Path, **options: Any) -> list[Row]:
    return read(exports.export(store, folder, created_by="lea", **options))


BOTH = pytest.mark.parametrize("format", ["jsonl", "parquet"])


# Preferences.


@BOTH
def test_a_preference_stands_in_trl_conversational_columns(
    store: Store, folder: Path, format: str
) -> None:
    make_preference(store, make_prompt("Why?", system="Be brief."), "Because.", "No.")

    (row,) = export(store, folder, what="preferences", format=format)

    assert list(row)[:4] == ["prompt", "chosen", "rejected", "margin"]
    assert row["prompt"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Why?"},
    ]
    assert row["chosen"] == [{"role": "assistant", "content": "Because."}]
    assert row["rejected"] == [{"role": "assistant", "content": "No."}]


def test_a_preference_tells_where_it_comes_from(store: Store, folder: Path) -> None:
    comparison = make_comparison(store, policy_versions=["pol-000001", "pol-000002"])
    said = judge(store, comparison, 1, strength=2)

    (row,) = export(store, folder)

    assert (row["margin"], row["judgment_ids"]) == (2.0, [said.id])
    assert row["chosen_policy_version"] == "pol-000002"
    assert row["rejected_completion_id"] == comparison.completion_ids[0]
    assert row["comparison_id"] == comparison.id


@BOTH
def test_standard_columns_hold_plain_text(store: Store, folder: Path, format: str) -> None:
    make_preference(store, "Why?", "Because.", "No.")

    (row,) = export(store, folder, what="preferences-standard", format=format)

    assert [row[c] for c in ("prompt", "chosen", "rejected")] == ["Why?", "Because.", "No."]
    assert row["margin"] == 1.0


def test_standard_columns_name_the_roles_of_a_conversation(store: Store, folder: Path) -> None:
    make_preference(store, make_prompt("Why?", system="Be brief."))

    (row,) = export(store, folder, what="preferences-standard")

    assert row["prompt"] == "System: Be brief.\n\nUser: Why?"


def test_held_out_prompts_are_left_out_unless_asked_for(store: Store, folder: Path) -> None:
    make_preference(store, make_prompt("held out", split=Split.HELD_OUT))
    make_preference(store, "trained on")

    assert [r["split"] for r in export(store, folder)] == ["train"]
    with_held_out = export(store, folder, include_held_out=True)
    assert sorted(r["split"] for r in with_held_out) == ["held_out", "train"]


@pytest.mark.parametrize("include_held_out", [False, True])
def test_evaluations_and_empty_pairs_are_never_exported_as_preferences(
    store: Store, folder: Path, include_held_out: bool
) -> None:
    judge(store, make_comparison(store, purpose=Purpose.EVALUATE))
    make_preference(store, chosen="same", rejected="same")
    make_preference(store, chosen="", rejected="other")
    wanted = make_preference(store)

    found = export(store, folder, include_held_out=include_held_out)

    assert [r["comparison_id"] for r in found] == [wanted.id]


def test_preferences_follow_the_order_of_their_judgments(store: Store, folder: Path) -> None:
    made = [make_preference(store, f"question {i}").id for i in range(5)]

    assert [r["comparison_id"] for r in export(store, folder)] == made


def test_the_first_row_with_a_value_in_a_column_stands_first(store: Store, folder: Path) -> None:
    made = [make_preference(store, f"imported {i}").id for i in range(5)]
    told = judge(store, make_comparison(store, policy_versions=["pol-000001"] * 2))

    rows = export(store, folder)

    assert [r["comparison_id"] for r in rows] == [told.comparison_id, *made]


def test_the_pairs_of_one_ranking_stand_in_one_order(store: Store, folder: Path) -> None:
    nine = make_comparison(store, [f"response {i}" for i in range(9)])
    judgments.record(store, make_judgment(nine, ranks=range(1, 10)))

    rows = export(store, folder)

    keys = [(r["chosen_completion_id"], r["rejected_completion_id"]) for r in rows]
    assert len(keys) == 36
    assert keys == sorted(keys)


# Pairs under criteria.


def say(store: Store, comparison: Comparison, *answers: CriterionJudgment, **given: Any) -> str:
    """Record a tie with answers under criteria; returns the judgment's id."""
    judgment = replace(make_judgment(comparison, None, **given), criteria=answers)
    return judgments.record(store, judgment).id


@BOTH
def test_a_criterion_on_a_comparative_scale_gives_a_pair(
    store: Store, folder: Path, format: str
) -> None:
    two = make_comparison(store, ("first", "second"))
    said = say(store, two, CriterionJudgment("helpful", "seven_point", two.completion_ids[1], 3))

    (row,) = export(store, folder, what="criteria-preferences", format=format)

    assert row["chosen"] == [{"role": "assistant", "content": "second"}]
    assert row["rejected"] == [{"role": "assistant", "content": "first"}]
    assert (row["criterion"], row["scale"], row["margin"]) == ("helpful", "seven_point", 3.0)
    assert row["judgment_ids"] == [said]


def test_the_higher_rated_under_a_criterion_is_chosen(store: Store, folder: Path) -> None:
    three = make_comparison(store, ("a", "b", "c", "d"))
    answer = CriterionJudgment("harmless", "five_point", ratings=(5, 1, 3, None))
    say(store, three, answer, displayed=(3, 2, 1, 0))

    rows = export(store, folder, what="criteria-preferences")

    assert {
        (r["chosen"][0]["content"], r["rejected"][0]["content"], r["margin"]) for r in rows
    } == {
        ("d", "c", 4.0),
        ("d", "b", 2.0),
        ("b", "c", 2.0),
    }


def test_answers_of_several_people_under_a_criterion_are_put_together(
    store: Store, folder: Path
) -> None:
    two = make_comparison(store)
    one, other = two.completion_ids
    say(store, two, CriterionJudgment("helpful", "plain", one, 2), annotator_id="ana")
    say(store, two, CriterionJudgment("helpful", "plain"), annotator_id="bo")
    say(store, two, CriterionJudgment("honest", "plain", one, 1), annotator_id="cy")
    say(store, two, CriterionJudgment("honest", "plain", other, 1), annotator_id="dee")

    (row,) = export(store, folder, what="criteria-preferences")

    assert (row["criterion"], row["margin"], len(row["judgment_ids"])) == ("helpful", 1.0, 2)


# Rankings, ratings, demonstrations.


@BOTH
def test_a_ranking_stands_as_it_was_given(store: Store, folder: Path, format: str) -> None:
    three = make_comparison(store, ("a", "b", "c"), policy_versions=["pol-000001", None, None])
    said = make_judgment(three, ranks=(1, None, 1), displayed=(2, 0, 1))
    judgments.record(store, said)
    judgments.record(store, make_judgment(make_comparison(store), ranks=(1, 2)))

    (row,) = export(store, folder, what="rankings", format=format)

    assert (row["responses"], row["ranks"]) == (["c", "a", "b"], [1, None, 1])
    assert row["response_policy_versions"] == [None, "pol-000001", None]
    assert row["response_completion_ids"] == list(said.displayed_completion_ids)
    assert row["judgment_id"] == said.id


def test_each_ranking_of_a_comparison_is_a_row(store: Store, folder: Path) -> None:
    three = make_comparison(store, ("a", "b", "c"))
    for name, ranks in (("ana", (1, 2, 3)), ("bo", (3, 2, 1))):
        judgments.record(store, make_judgment(three, ranks=ranks, annotator_id=name))

    assert [r["ranks"] for r in export(store, folder, what="rankings")] == [[1, 2, 3], [3, 2, 1]]


@BOTH
def test_a_rated_response_is_desirable_above_the_middle(
    store: Store, folder: Path, format: str
) -> None:
    three = make_comparison(store, ("good", "bad", "so so"))
    said = judgments.record(store, make_judgment(three, ratings=(4, 1, 3)))

    rows = export(store, folder, what="ratings", format=format)

    told = {r["completion"][0]["content"]: (r["label"], r["rating"]) for r in rows}
    assert told == {"good": (True, 0.75), "bad": (False, 0.0)}
    assert [r["judgment_ids"] for r in rows] == [[said.id], [said.id]]
    assert rows[0]["prompt"] == [{"role": "user", "content": "How do I log in?"}]


@BOTH
def test_what_a_person_wrote_is_a_demonstration(store: Store, folder: Path, format: str) -> None:
    two = make_comparison(store, ("first", "second"), policy_versions=["pol-000001", None])
    write_response(store, make_judgment(two), "Better.", instead_of=0)
    write_response(store, make_judgment(two, annotator_id="bo"), "Anew.")

    rows = export(store, folder, what="demonstrations", format=format)

    told = [(r["completion"], r["original"], r["original_policy_version"]) for r in rows]
    assert told == [
        ([{"role": "assistant", "content": "Better."}], "first", "pol-000001"),
        ([{"role": "assistant", "content": "Anew."}], None, None),
    ]


LEARNT_FROM = [w for w in exports.What if w not in (exports.What.JUDGMENTS, exports.What.ARENA)]


@pytest.mark.parametrize("what", LEARNT_FROM)
def test_held_out_prompts_are_learnt_from_only_when_asked_for(
    store: Store, folder: Path, what: str
) -> None:
    judge_in_every_way(store, prompt=make_prompt("held out", split=Split.HELD_OUT))

    with pytest.raises(BadInput, match="to export yet"):
        export(store, folder, what=what)

    rows = export(store, folder, what=what, include_held_out=True)
    assert {r["split"] for r in rows} == {"held_out"}


@pytest.mark.parametrize("what", [*LEARNT_FROM, exports.What.ARENA])
def test_what_a_lead_withdrew_is_not_exported(store: Store, folder: Path, what: str) -> None:
    judge_in_every_way(store)
    for row in export(store, folder, what="judgments"):
        id = row["comparison_id"]
        review = Review(f"r {id}", id, Decision.WITHDRAWN, "lea", store.clock())
        reviews.record(store, review)

    with pytest.raises(BadInput, match="to export yet"):
        export(store, folder, what=what)
    assert {r["counts"] for r in export(store, folder, what="judgments")} == {False}


# Judgments.


@BOTH
def test_a_judgment_tells_all_that_was_said(store: Store, folder: Path, format: str) -> None:
    judge_in_every_way(store)

    rows = export(store, folder, what="judgments", format=format)

    (full,) = [r for r in rows if r["rationale"]]
    first, second = (r["completion_id"] for r in full["displayed_responses"])
    blank = {"preferred_completion_id": None, "strength": None, "ratings": None}
    assert full["criteria"] == [
        {"name": "helpful", "scale": "seven_point"}
        | blank
        | {"preferred_completion_id": first, "strength": 3},
        {"name": "harmless", "scale": "five_point"} | blank | {"ratings": [2, 4]},
        {"name": "style", "scale": "plain"} | blank,
    ]
    assert (full["reasons"], full["rationale"]) == (["clearer"], "It says what to press.")
    assert full["flags"] == [
        {"kind": "unsafe", "completion_id": second},
        {"kind": "off_topic", "completion_id": None},
    ]
    assert full["rewrite"] == "Tap 'Forgot password', then follow the mail."
    assert (full["rewritten"], full["rewritten_completion_id"]) == (
        "Tap 'Forgot password'.",
        first,
    )


@BOTH
def test_judgments_of_one_response_and_of_many_are_rows(
    store: Store, folder: Path, format: str
) -> None:
    judge_in_every_way(store)

    found = {r["verdict"]: r for r in export(store, folder, what="judgments", format=format)}

    texts = {v: [x["text"] for x in r["displayed_responses"]] for v, r in found.items()}
    assert texts["rated"] == ["Tap the link."]
    assert (found["rated"]["ratings"], found["rated"]["rating_scale"]) == ([5], "five_point")
    assert texts["ranked"] == ["Hm.", "Tap the link.", "Write to us."]
    assert found["ranked"]["ranks"] == [1, 2, None]
    assert (found["ranked"]["reasons"], found["ranked"]["flags"]) == ([], [])


@BOTH
def test_every_judgment_is_a_row_withdrawn_ones_included(
    store: Store, folder: Path, format: str
) -> None:
    comparison = make_comparison(store)
    first = judge(store, comparison, 0)
    second = judge(store, comparison, 1)
    undo = make_judgment(comparison, verdict=Verdict.RETRACTED, supersedes=second.id)
    judgments.record(store, undo)
    other = judge(store, comparison, annotator_id="bo", verdict=Verdict.SKIPPED)

    found = {r["judgment_id"]: r for r in export(store, folder, what="judgments", format=format)}

    assert {id: r["counts"] for id, r in found.items()} == {
        first.id: False,
        second.id: False,
        undo.id: False,
        other.id: True,
    }
    assert found[undo.id]["supersedes"] == second.id


def test_a_judgment_tells_what_was_shown_and_in_which_order(store: Store, folder: Path) -> None:
    comparison = make_comparison(
        store, ("first", "second"), policy_versions=["pol-000001", None], seed=11
    )
    judgments.record(store, make_judgment(comparison, 0, displayed=(1, 0), reason="clearer"))

    (row,) = export(store, folder, what="judgments")

    left, right = row["displayed_responses"]
    assert (left["text"], right["text"]) == ("second", "first")
    assert (row["preferred_place"], row["reason"]) == (2, "clearer")
    assert (right["policy_version"], right["seed"]) == ("pol-000001", 11)
    assert right["sampling"] == {
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 0,
        "max_new_tokens": 64,
    }
    assert left["sampling"] is None


def test_more_than_two_responses_are_shown_in_their_order(store: Store, folder: Path) -> None:
    comparison = make_comparison(store, ("a", "b", "c", "d"))
    judgments.record(store, make_judgment(comparison, 0, displayed=(3, 1, 0, 2)))

    (row,) = export(store, folder, what="judgments")

    assert [r["text"] for r in row["displayed_responses"]] == ["d", "b", "a", "c"]


def test_a_judgment_is_traced_to_the_policy_it_trained(store: Store, folder: Path) -> None:
    used = judge(store, make_comparison(store))
    held_out = judge(store, make_comparison(store, prompt="held out of the run"))
    snapshot = snapshots.freeze(store, folder / "snapshots", created_by="lea")
    runs.create(
        store,
        id="run-1",
        method="dpo",
        spec={},
        snapshot_id=snapshot.id,
        parent_version="pol-000000",
        folder="somewhere",
        created_by="lea",
    )
    runs.mark_finished(store, "run-1", RunState.SUCCEEDED)
    policy = policies.register(
        store,
        base_model="base",
        parent_version=None,
        run_id="run-1",
        snapshot_id=snapshot.id,
        judgment_ids=[used.id],
    )
    unused = judge(store, make_comparison(store))

    found = {r["judgment_id"]: r for r in export(store, folder, what="judgments")}

    trace = ("snapshot_ids", "run_ids", "trained_policy_versions")
    assert [found[used.id][c] for c in trace] == [[snapshot.id], ["run-1"], [policy.version]]
    assert [found[held_out.id][c] for c in trace] == [[snapshot.id], [], []]
    assert [found[unused.id][c] for c in trace] == [[], [], []]


@pytest.mark.parametrize("what", ["judgments", "arena"])
def test_judgments_of_held_out_prompts_are_left_out_unless_asked_for(
    store: Store, folder: Path, what: str
) -> None:
    make_preference(store, make_prompt("held out", split=Split.HELD_OUT))
    make_preference(store, "trained on")

    assert len(export(store, folder, what=what)) == 1
    assert len(export(store, folder, what=what, include_held_out=True)) == 2


def test_annotators_go_by_pseudonyms_unless_names_are_asked_for(store: Store, folder: Path) -> None:
    ana = make_annotator(store, "Ana Example")
    judge(store, make_comparison(store), annotator_id=ana.id)

    (hidden,) = export(store, folder, what="judgments")
    (named,) = export(store, folder, what="judgments", names="name")

    assert hidden["annotator"].startswith("annotator-")
    assert named["annotator"] == "Ana Example"


def test_no_file_under_pseudonyms_holds_a_name_or_an_id(store: Store, folder: Path) -> None:
    ana = make_annotator(store, "Ana Example")
    judge_in_every_way(store)
    judge(store, make_comparison(store), annotator_id=ana.id)

    for what in exports.What:
        result = exports.export(store, folder, what=what, created_by="lea")
        content = result.path.read_text("utf-8")
        assert "Ana Example" not in content
        assert ana.id not in content


def test_a_pseudonym_is_the_same_for_all_judgments_of_one_person(
    store: Store, folder: Path
) -> None:
    for annotator in ("ana", "ana", "bo"):
        judge(store, make_comparison(store), annotator_id=annotator)

    names = [r["annotator"] for r in export(store, folder, what="judgments")]

    assert len(set(names)) == 2


def test_the_source_of_an_import_keeps_its_name(store: Store, folder: Path) -> None:
    def change(cursor: Any) -> None:
        annotators.insert_sources(cursor, ["import:trl"], now=store.clock())

    store.write(change)
    source = annotators.find(store, "import:trl")
    assert source is not None
    assert source.role is Role.SOURCE
    judge(store, make_comparison(store), annotator_id=source.id)

    (row,) = export(store, folder, what="judgments")

    assert row["annotator"] == "import:trl"


def test_a_recorded_moment_is_written_in_utc(store: Store, folder: Path, clock: Clock) -> None:
    judge(store, make_comparison(store))

    (row,) = export(store, folder, what="judgments")

    assert row["recorded_at"] == f"{clock.now:%Y-%m-%dT%H:%M:%S.%f}Z"


# Arena.


@pytest.mark.parametrize(
    ("preferred", "verdict", "winner"),
    [
        (1, None, "model_a"),
        (0, None, "model_b"),
        (None, Verdict.TIE, "tie"),
        (None, Verdict.BOTH_BAD, "tie (bothbad)"),
    ],
)
def test_an_arena_row_names_the_side_that_won(
    store: Store, folder: Path, preferred: int | None, verdict: Verdict | None, winner: str
) -> None:
    comparison = make_comparison(
        store, ("first", "second"), policy_versions=["pol-000001", "pol-000002"]
    )
    said = make_judgment(comparison, preferred, verdict=verdict, displayed=(1, 0))
    judgments.record(store, said)

    (row,) = export(store, folder, what="arena")

    assert (row["model_a"], row["model_b"]) == ("pol-000002", "pol-000001")
    assert row["winner"] == winner
    assert row["conversation_a"][-1] == {"role": "assistant", "content": "second"}
    assert row["turn"] == 1


def test_the_arena_has_only_judgments_that_count_and_say_something(
    store: Store, folder: Path
) -> None:
    comparison = make_comparison(store)
    judge(store, comparison, 0)
    judge(store, comparison, 1)
    judge(store, comparison, annotator_id="bo", verdict=Verdict.SKIPPED)

    (row,) = export(store, folder, what="arena")

    assert row["winner"] == "model_b"


# The files.


@BOTH
@pytest.mark.parametrize("what", exports.What)
def test_a_manifest_describes_the_file_beside_it(
    store: Store, folder: Path, what: str, format: str
) -> None:
    judge_in_every_way(store)
    said = judge(store, make_comparison(store))

    result = exports.export(store, folder, what=what, format=format, created_by="lea")

    manifest = json.loads(result.manifest_path.read_text("utf-8"))
    content = result.path.read_bytes()
    assert manifest["sha256"] == result.sha256 == hashlib.sha256(content).hexdigest()
    assert (manifest["file"], manifest["rows"]) == (result.path.name, len(read(result)))
    assert list(manifest["columns"]) == list(read(result)[0])
    assert (manifest["max_judgment_seq"], manifest["created_by"]) == (said.seq, "lea")


def test_the_same_content_gives_the_same_file(store: Store, folder: Path, clock: Clock) -> None:
    make_preference(store)
    first = exports.export(store, folder, created_by="lea")
    clock.advance(seconds=60)

    assert exports.export(store, folder, created_by="lea") == first


@pytest.mark.parametrize("what", exports.What)
def test_exporting_nothing_leaves_nothing(store: Store, folder: Path, what: str) -> None:
    with pytest.raises(BadInput, match="to export yet"):
        exports.export(store, folder, what=what, created_by="lea")

    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("option", ["what", "format", "names"])
def test_an_unknown_choice_is_refused(store: Store, folder: Path, option: str) -> None:
    make_preference(store)

    with pytest.raises(BadInput, match="Choose one of"):
        export(store, folder, **{option: "all of it"})


def test_a_disk_that_takes_nothing_is_told_in_words(store: Store, tmp_path: Path) -> None:
    make_preference(store)
    folder = tmp_path / "gone"

    def remove_folder(progress: ExportProgress) -> None:
        if progress.stage == "writing":
            folder.rmdir()

    with pytest.raises(StoreUnavailable, match="could not be written"):
        exports.export(store, folder, created_by="lea", on_progress=remove_folder)


def test_progress_tells_the_stages(store: Store, folder: Path) -> None:
    make_preference(store)
    seen: list[ExportProgress] = []

    exports.export(store, folder, created_by="lea", on_progress=seen.append)

    assert seen == [("writing", None), ("checking", 1), ("done", 1)]


# Any text comes back as it went in.

TEXT = st.text(
    st.one_of(
        st.characters(exclude_categories=["Cs"]),
        st.sampled_from(list("\n\r\t\"'\\{}[],:\x00\x1f\u2028\u2029\u0085\ufeff\U0001f600")),
    ),
    min_size=1,
    max_size=40,
).filter(lambda text: bool(text.strip()))


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(pairs=st.lists(st.tuples(TEXT, TEXT, TEXT), min_size=1, max_size=8))
def test_any_text_comes_back_as_it_was_judged(
    format: str, pairs: Sequence[tuple[str, str, str]]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        store = Store(Path(name) / "store")
        expected = []
        for prompt, chosen, rejected in pairs:
            make_preference(store, prompt, chosen, rejected)
            if chosen != rejected:
                expected.append((prompt, chosen, rejected))
        result = (
            exports.export(store, Path(name), format=format, created_by="lea") if expected else None
        )
        store.close()
        found = read(result) if result else []

    texts = [(r["prompt"], r["chosen"], r["rejected"]) for r in found]
    assert [tuple(messages[0]["content"] for messages in row) for row in texts] == expected


@BOTH
def test_exported_preferences_can_be_imported_elsewhere(
    store: Store, tmp_path: Path, format: str
) -> None:
    for i in range(3):
        make_preference(store, make_prompt(f"question {i}", system="Be brief."), f"a {i}", f"b {i}")
    result = exports.export(store, tmp_path, format=format, created_by="lea")

    elsewhere = Store(tmp_path / "elsewhere")
    report = imports.import_file(elsewhere, result.path, created_by="lea")
    again = exports.export(elsewhere, tmp_path / "again", format=format, created_by="lea")
    elsewhere.close()

    columns = ("prompt", "chosen", "rejected", "split")
    assert (report.preferences_added, report.refusals) == (3, ())
    assert [[r[c] for c in columns] for r in read(again)] == [
        [r[c] for c in columns] for r in read(result)
    ]
