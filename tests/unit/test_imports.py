from __future__ import annotations

import csv
import gzip
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pytest

from store import (
    annotators,
    comparisons,
    completions,
    imports,
    journal,
    judgments,
    preferences,
    prompts,
)
from store.db import Store
from store.errors import BadInput
from store.imports import ImportProgress, ImportReport
from store.records import Judgment, Prompt, Role, Split, Verdict
from store.training_data import Kind, select

Row = Mapping[str, Any]

TRL: Row = {"prompt": "Why?", "chosen": "Because.", "rejected": "No."}


def write_lines(path: Path, rows: Sequence[Row]) -> Path:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")
    return path


def import_rows(store: Store, folder: Path, rows: Sequence[Row], **options: Any) -> ImportReport:
    """Import rows from a JSON Lines file named `rows.jsonl`."""
    path = write_lines(folder / "rows.jsonl", rows)
    return imports.import_file(store, path, created_by="lea", **options)


def stored_prompts(store: Store) -> list[Prompt]:
    return [p for split in Split for p in prompts.sample(store, 10_000, split=split, seed=0)]


def stored_pairs(store: Store) -> list[tuple[str, str]]:
    """Chosen and rejected text of every preference, in order."""
    found = preferences.list_all(store)
    ids = [id for p in found for id in (p.chosen_completion_id, p.rejected_completion_id)]
    texts = {id: c.text for id, c in completions.get_many(store, ids).items()}
    return [(texts[p.chosen_completion_id], texts[p.rejected_completion_id]) for p in found]


def judgments_of(store: Store, name: str) -> list[Judgment]:
    """What the source of that name said, newest first."""
    source = annotators.find(store, name)
    assert source is not None, f"no source {name}"
    return judgments.of_annotator(store, source.id, limit=1000)


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


# Formats: each becomes the same prompt and the same pair.

ONE_PAIR: dict[str, Row] = {
    "trl": TRL,
    "trl-conversational": {
        "prompt": [user("Why?")],
        "chosen": [assistant("Because.")],
        "rejected": [assistant("No.")],
    },
    "trl-implicit": {
        "chosen": [user("Why?"), assistant("Because.")],
        "rejected": [user("Why?"), assistant("No.")],
    },
    "trl-both": {  # as in UltraFeedback: a prompt, and whole conversations
        "prompt": "Why?",
        "chosen": [user("Why?"), assistant("Because.")],
        "rejected": [user("Why?"), assistant("No.")],
    },
    "hh-rlhf": {
        "chosen": "\n\nHuman: Why?\n\nAssistant: Because.",
        "rejected": "\n\nHuman: Why?\n\nAssistant: No.",
    },
    "sharegpt": {
        "conversations": [{"from": "human", "value": "Why?"}],
        "chosen": {"from": "gpt", "value": "Because."},
        "rejected": {"from": "gpt", "value": "No."},
    },
    "alpaca-preference": {
        "instruction": "Why?",
        "input": "",
        "chosen": "Because.",
        "rejected": "No.",
    },
    "pandalm": {
        "instruction": "Why?",
        "input": "",
        "response1": "No.",
        "response2": "Because.",
        "annotator1": 2,
    },
    "oasst": {
        "prompt": {
            "role": "prompter",
            "text": "Why?",
            "replies": [
                {"role": "assistant", "text": "No.", "rank": 1, "replies": []},
                {"role": "assistant", "text": "Because.", "rank": 0, "replies": []},
            ],
        }
    },
}


@pytest.mark.parametrize("name", ONE_PAIR)
def test_every_format_gives_the_same_prompt_and_pair(
    store: Store, tmp_path: Path, name: str
) -> None:
    report = import_rows(store, tmp_path, [ONE_PAIR[name]])

    assert name.startswith(report.format)
    assert (report.accepted, report.preferences_added, report.refusals) == (1, 1, ())
    assert [p.messages for p in stored_prompts(store)] == [(user("Why?"),)]
    assert stored_pairs(store) == [("Because.", "No.")]


ONE_PROMPT: dict[str, Row] = {
    "prompts": {"prompt": "Why?"},
    "prompts-messages": {"messages": [user("Why?")]},
    "prompts-demonstration": {"messages": [user("Why?"), assistant("Because.")]},
    "kto": {"prompt": "Why?", "completion": "Because.", "label": True},
    "kto-messages": {"messages": [user("Why?"), assistant("Because.")], "label": False},
    "alpaca": {"instruction": "Why?", "input": "", "output": "Because."},
}


@pytest.mark.parametrize("name", ONE_PROMPT)
def test_formats_without_pairs_give_their_prompt(store: Store, tmp_path: Path, name: str) -> None:
    report = import_rows(store, tmp_path, [ONE_PROMPT[name]])

    assert name.startswith(report.format)
    assert (report.prompts_added, report.preferences_added) == (1, 0)
    assert [p.messages for p in stored_prompts(store)] == [(user("Why?"),)]


def test_trl_text_without_a_prompt_is_split_where_the_texts_part(
    store: Store, tmp_path: Path
) -> None:
    import_rows(store, tmp_path, [{"chosen": "The sky is blue.", "rejected": "The sky is red."}])

    assert [p.messages for p in stored_prompts(store)] == [(user("The sky is"),)]
    assert stored_pairs(store) == [(" blue.", " red.")]


def test_a_system_message_stays_before_the_users(store: Store, tmp_path: Path) -> None:
    row = {**ONE_PAIR["sharegpt"], "system": "Be brief."}

    import_rows(store, tmp_path, [row])

    (prompt,) = stored_prompts(store)
    assert prompt.messages == ({"role": "system", "content": "Be brief."}, user("Why?"))


def test_an_instruction_and_its_input_are_one_message(store: Store, tmp_path: Path) -> None:
    row = {"instruction": "Translate.", "input": "Guten Tag", "output": "Good day"}

    import_rows(store, tmp_path, [row])

    (prompt,) = stored_prompts(store)
    assert prompt.messages == (user("Translate.\nGuten Tag"),)


def test_a_strength_column_is_kept(store: Store, tmp_path: Path) -> None:
    import_rows(store, tmp_path, [{**TRL, "strength": 3}])

    assert [p.margin for p in preferences.list_all(store)] == [3.0]


def test_without_a_strength_column_a_preference_is_slight(store: Store, tmp_path: Path) -> None:
    import_rows(store, tmp_path, [TRL])

    assert [p.margin for p in preferences.list_all(store)] == [1.0]


# Transcripts and their oddities.


def transcript(*turns: str) -> str:
    speakers = ("Human", "Assistant")
    return "".join(f"\n\n{speakers[i % 2]}: {turn}" for i, turn in enumerate(turns))


def test_a_transcripts_earlier_turns_are_the_prompt(store: Store, tmp_path: Path) -> None:
    turns = ("Hi", "Hello.", "Why?")
    row = {"chosen": transcript(*turns, "Because."), "rejected": transcript(*turns, "No.")}

    import_rows(store, tmp_path, [row])

    (prompt,) = stored_prompts(store)
    assert prompt.messages == (user("Hi"), assistant("Hello."), user("Why?"))


def test_an_empty_last_turn_is_a_reply(store: Store, tmp_path: Path) -> None:
    row = {"chosen": "\n\nHuman: Why?\n\nAssistant: ", "rejected": transcript("Why?", "No.")}

    report = import_rows(store, tmp_path, [row])

    assert report.refusals == ()
    assert stored_pairs(store) == [("", "No.")]


def test_a_question_nobody_answered_is_left_out(store: Store, tmp_path: Path) -> None:
    row = {
        "chosen": transcript("Why?", "Because.", "And then?"),
        "rejected": transcript("Why?", "No."),
    }

    import_rows(store, tmp_path, [row])

    assert stored_pairs(store) == [("Because.", "No.")]


def test_a_reply_of_several_turns_is_one_reply(store: Store, tmp_path: Path) -> None:
    row = {
        "chosen": "\n\nHuman: Why?\n\nAssistant: Wait.\n\nAssistant:  Because.",
        "rejected": transcript("Why?", "No."),
    }

    import_rows(store, tmp_path, [row])

    assert stored_pairs(store) == [("Wait.\n\nBecause.", "No.")]


@pytest.mark.parametrize(
    ("chosen", "rejected", "problem"),
    [
        (transcript("Why?", "A"), transcript("How?", "B"), "parts from 'chosen' before"),
        (transcript("Why?", "A", "So?", "B"), transcript("Why?", "C"), "parts from 'chosen'"),
        (transcript("Why?", "A"), transcript("Why?"), "holds no reply"),
        (transcript("Why?", "A"), transcript("Why?", "A"), "the same text"),
    ],
)
def test_transcripts_that_hold_no_pair_are_refused(
    store: Store, tmp_path: Path, chosen: str, rejected: str, problem: str
) -> None:
    report = import_rows(store, tmp_path, [{"chosen": chosen, "rejected": rejected}])

    assert (report.refused, stored_prompts(store)) == (1, [])
    assert problem in str(report.refusals[0])


# Several annotators to a pair.

PANDALM: Row = {
    "instruction": "Why?",
    "input": "",
    "response1": "One",
    "response2": "Two",
    "cmp_key": "opt-7b_llama-7b",
    "annotator1": 1,
    "annotator2": 2,
    "annotator3": 0,
}


def test_each_annotator_of_a_row_has_a_judgment(store: Store, tmp_path: Path) -> None:
    report = import_rows(store, tmp_path, [PANDALM])

    verdicts = [judgments_of(store, f"pandalm:annotator{i}")[0].verdict for i in (1, 2, 3)]
    assert verdicts == [Verdict.PREFERRED, Verdict.PREFERRED, Verdict.TIE]
    assert report.judgments_added == 3


def test_the_models_that_a_row_names_are_kept(store: Store, tmp_path: Path) -> None:
    import_rows(store, tmp_path, [PANDALM])

    (said,) = judgments_of(store, "pandalm:annotator1")
    preferred = completions.get_many(store, said.displayed_completion_ids)
    assert {c.text: c.author for c in preferred.values()} == {"One": "opt-7b", "Two": "llama-7b"}


CROWD_PAIR: Row = {
    "id": 7,
    "text": "Why?",
    "model_x": 1,
    "result_x": "From x",
    "model_y": 2,
    "result_y": "From y",
}


def write_crowd(folder: Path, said: Sequence[Sequence[object]]) -> Path:
    """A pairs file of one pair, and beside it what workers said: worker, winner, left, right."""
    with (folder / "crowd-comparisons.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "worker", "winner", "left", "right"])
        writer.writerows([7, *line] for line in said)
    models = [{"id": 1, "name": "X"}, {"id": 2, "name": "Y"}]
    write_lines(folder / "models.jsonl", models)
    return write_lines(folder / "pairs-crowd.jsonl", [CROWD_PAIR])


def texts(store: Store, ids: Sequence[str]) -> list[str]:
    found = completions.get_many(store, ids)
    return [found[id].text for id in ids]


def test_crowd_workers_judge_with_the_order_they_saw(store: Store, tmp_path: Path) -> None:
    path = write_crowd(tmp_path, [(17, "left", "Y", "X"), (18, "right", "X", "Y")])

    imports.import_file(store, path, created_by="lea")

    (of_17,) = judgments_of(store, "llmfao:worker-17")
    (of_18,) = judgments_of(store, "llmfao:worker-18")
    assert texts(store, of_17.displayed_completion_ids) == ["From y", "From x"]
    assert texts(store, of_18.displayed_completion_ids) == ["From x", "From y"]
    assert of_17.preferred_completion_id == of_18.preferred_completion_id
    assert texts(store, [str(of_17.preferred_completion_id)]) == ["From y"]


def test_crowd_pairs_without_their_comparisons_can_be_judged_here(
    store: Store, tmp_path: Path
) -> None:
    path = write_crowd(tmp_path, [])
    (tmp_path / "crowd-comparisons.csv").unlink()

    refused = imports.import_file(store, path, created_by="lea")
    report = imports.import_file(store, path, created_by="lea", use="pairs")

    assert "import it with 'pairs'" in str(refused.refusals[0])
    assert report.pairs_added == 1


def test_the_comparisons_alone_point_to_their_pairs(store: Store, tmp_path: Path) -> None:
    write_crowd(tmp_path, [(17, "left", "Y", "X")])

    with pytest.raises(BadInput, match=r"pairs-NAME\.jsonl"):
        imports.import_file(store, tmp_path / "crowd-comparisons.csv", created_by="lea")


def test_a_comparison_with_an_unknown_winner_is_named_by_its_line(
    store: Store, tmp_path: Path
) -> None:
    path = write_crowd(tmp_path, [(17, "left", "Y", "X"), (18, "nobody", "X", "Y")])

    with pytest.raises(BadInput, match=r"crowd-comparisons\.csv, line 3, field 'winner'"):
        imports.import_file(store, path, created_by="lea")


def reply(text: str, rank: int | None, *replies: Row, **more: object) -> Row:
    return {"role": "assistant", "text": text, "rank": rank, "replies": replies, **more}


def test_every_ranked_pair_of_siblings_is_a_preference(store: Store, tmp_path: Path) -> None:
    replies = [reply("worst", 2), reply("best", 0), reply("middle", 1), reply("unranked", None)]
    tree = {"prompt": {"role": "prompter", "text": "Why?", "replies": replies}}

    import_rows(store, tmp_path, [tree])

    expected = {("best", "middle"), ("best", "worst"), ("middle", "worst")}
    assert set(stored_pairs(store)) == expected


def test_deleted_replies_and_what_follows_them_are_left_out(store: Store, tmp_path: Path) -> None:
    question = {"role": "prompter", "text": "Hidden?", "replies": []}
    replies = [reply("gone", 0, question, deleted=True), reply("a", 1), reply("b", 2)]
    tree = {"prompt": {"role": "prompter", "text": "Why?", "replies": replies}}

    import_rows(store, tmp_path, [tree])

    assert stored_pairs(store) == [("a", "b")]
    assert len(stored_prompts(store)) == 1


# How things are stored.


def test_the_source_of_an_import_judged_in_an_order_that_tells_nothing(
    store: Store, tmp_path: Path
) -> None:
    rows = [{**TRL, "prompt": f"Why {i}?"} for i in range(40)]

    report = import_rows(store, tmp_path, rows)

    said = judgments_of(store, "import:trl")
    chosen_first = sum(j.displayed_completion_ids[0] == j.preferred_completion_id for j in said)
    assert all(list(j.displayed_completion_ids) == sorted(j.displayed_completion_ids) for j in said)
    assert 0 < chosen_first < 40
    assert {j.source for j in said} == {report.import_id}


def test_a_source_can_never_sign_in(store: Store, tmp_path: Path) -> None:
    import_rows(store, tmp_path, [TRL])

    source = annotators.find(store, "import:trl")
    assert source is not None
    assert source.role is Role.SOURCE
    assert annotators.password_hash(store, source.id) is None


def test_imported_completions_are_stamped_with_their_import(store: Store, tmp_path: Path) -> None:
    report = import_rows(store, tmp_path, [TRL])

    (preference,) = preferences.list_all(store)
    chosen = completions.get_many(store, [preference.chosen_completion_id])
    (completion,) = chosen.values()
    assert (completion.source, completion.finish_reason) == (report.import_id, "import")
    assert completion.policy_version is None


def test_imported_preferences_are_not_put_before_people(store: Store, tmp_path: Path) -> None:
    import_rows(store, tmp_path, [TRL])

    assert comparisons.progress(store) == []


@pytest.mark.parametrize("name", ONE_PAIR)
def test_importing_twice_adds_nothing(store: Store, tmp_path: Path, name: str) -> None:
    import_rows(store, tmp_path, [ONE_PAIR[name]])

    again = import_rows(store, tmp_path, [ONE_PAIR[name]])

    assert (again.accepted, again.known, again.refused) == (0, 1, 0)
    assert (again.prompts_added, again.preferences_added, again.judgments_added) == (0, 0, 0)


def test_a_row_that_stands_twice_in_a_file_is_known_the_second_time(
    store: Store, tmp_path: Path
) -> None:
    report = import_rows(store, tmp_path, [TRL, TRL])

    assert (report.accepted, report.known, len(preferences.list_all(store))) == (1, 1, 1)


def test_the_opposite_verdict_in_a_later_file_corrects_the_earlier(
    store: Store, tmp_path: Path
) -> None:
    import_rows(store, tmp_path, [TRL])

    import_rows(store, tmp_path, [{"prompt": "Why?", "chosen": "No.", "rejected": "Because."}])

    assert stored_pairs(store) == [("No.", "Because.")]


def test_past_imports_are_remembered(store: Store, tmp_path: Path) -> None:
    report = import_rows(store, tmp_path, [TRL, TRL, {"prompt": "Why?"}])

    (record,) = imports.list_all(store)

    assert (record.id, record.name, record.format) == (report.import_id, "rows.jsonl", "trl")
    assert (record.accepted, record.known, record.refused) == (1, 1, 1)
    assert record.created_by == "lea"


# Uses.


def test_the_use_prompts_leaves_the_pairs_out(store: Store, tmp_path: Path) -> None:
    report = import_rows(store, tmp_path, [TRL], use="prompts")

    assert (report.prompts_added, report.preferences_added) == (1, 0)
    assert preferences.list_all(store) == []


def test_the_use_preferences_leaves_out_prompts_without_a_pair(
    store: Store, tmp_path: Path
) -> None:
    question = {"role": "prompter", "text": "And?", "replies": []}
    tree = {
        "prompt": {
            "role": "prompter",
            "text": "Why?",
            "replies": [reply("a", 0, question), reply("b", 1)],
        }
    }

    import_rows(store, tmp_path, [tree], use="preferences")
    assert len(stored_prompts(store)) == 1
    import_rows(store, tmp_path, [tree], use="both")
    assert len(stored_prompts(store)) == 2


@pytest.mark.parametrize("name", ["trl", "pandalm", "oasst"])
def test_the_use_pairs_puts_judged_responses_before_people(
    store: Store, tmp_path: Path, name: str
) -> None:
    report = import_rows(store, tmp_path, [ONE_PAIR[name]], use="pairs")

    (progress,) = comparisons.progress(store)
    assert progress.annotator_ids == ()
    assert (report.pairs_added, report.preferences_added) == (1, 0)
    assert preferences.list_all(store) == []


def test_pairs_to_judge_and_the_files_own_verdicts_live_side_by_side(
    store: Store, tmp_path: Path
) -> None:
    import_rows(store, tmp_path, [TRL], use="pairs")
    import_rows(store, tmp_path, [TRL], use="preferences")

    assert len(comparisons.progress(store)) == 1
    assert len(preferences.list_all(store)) == 1


def test_pairs_to_judge_are_journalled_and_the_files_own_verdicts_are_not(
    store: Store, tmp_path: Path
) -> None:
    import_rows(store, tmp_path, [TRL], use="preferences")
    import_rows(store, tmp_path, [TRL], use="pairs")

    (line,) = journal.read(store.journal_path)
    assert line is not None
    evidence = journal.to_evidence(line.values)
    (progress,) = comparisons.progress(store)
    assert evidence.comparison == comparisons.get(store, progress.comparison_id)
    assert {c.text for c in evidence.completions} == {"Because.", "No."}
    assert evidence.prompt.messages == (user("Why?"),)


def test_unjudged_responses_become_pairs_to_judge(store: Store, tmp_path: Path) -> None:
    row = {"prompt": "Why?", "response_a": "Because.", "response_b": "No.", "model_a": "m-1"}

    report = import_rows(store, tmp_path, [row], use="pairs")

    (progress,) = comparisons.progress(store)
    shown = completions.get_many(
        store, comparisons.get(store, progress.comparison_id).completion_ids
    )
    assert {c.text: c.author for c in shown.values()} == {"Because.": "m-1", "No.": None}
    assert report.format == "pairs"


def test_a_use_that_a_format_cannot_serve_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="hold no pairs"):
        import_rows(store, tmp_path, [{"prompt": "Why?"}], use="preferences")


@pytest.mark.parametrize("options", [{"use": "fun"}, {"format": "word"}, {"held_out_share": 1.5}])
def test_an_unknown_option_is_refused(
    store: Store, tmp_path: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(BadInput, match=r"[Cc]hoose"):
        import_rows(store, tmp_path, [TRL], **options)

    assert imports.list_all(store) == []


# Split and language.


def test_about_a_tenth_of_the_prompts_is_held_out(store: Store, tmp_path: Path) -> None:
    import_rows(store, tmp_path, [{"prompt": f"Question {i}"} for i in range(1000)])

    assert 70 <= prompts.count(store, split=Split.HELD_OUT) <= 130


@pytest.mark.parametrize(("share", "held_out"), [(0.0, 0), (1.0, 50)])
def test_the_held_out_share_can_be_chosen(
    store: Store, tmp_path: Path, share: float, held_out: int
) -> None:
    rows = [{"prompt": f"Question {i}"} for i in range(50)]

    import_rows(store, tmp_path, rows, held_out_share=share)

    assert prompts.count(store, split=Split.HELD_OUT) == held_out


def test_all_turns_of_a_conversation_fall_on_the_same_side(store: Store, tmp_path: Path) -> None:
    rows = []
    for i in range(60):
        opening = [user(f"Question {i}")]
        rows.append({"messages": opening})
        rows.append({"messages": [*opening, assistant("Yes?"), user("And then?")]})

    import_rows(store, tmp_path, rows, held_out_share=0.5)

    sides: dict[str, set[Split]] = {}
    for prompt in stored_prompts(store):
        sides.setdefault(prompt.messages[0]["content"], set()).add(prompt.split)
    assert all(len(side) == 1 for side in sides.values())
    assert set().union(*sides.values()) == set(Split)


@pytest.mark.parametrize(
    ("said", "split"),
    [("train", Split.TRAIN), ("held_out", Split.HELD_OUT), ("test", Split.HELD_OUT)],
)
def test_a_split_column_wins(store: Store, tmp_path: Path, said: str, split: Split) -> None:
    rows = [{"prompt": f"Question {i}", "split": said} for i in range(20)]

    import_rows(store, tmp_path, rows, held_out_share=0.5)

    assert {p.split for p in stored_prompts(store)} == {split}


@pytest.mark.parametrize(
    ("text", "language"),
    [("How do I log in?", "en"), ("怎么登录？", "zh"), ("Fix `def f(x): return x` 的错误", "zh")],
)
def test_the_language_is_told_by_the_script(
    store: Store, tmp_path: Path, text: str, language: str
) -> None:
    import_rows(store, tmp_path, [{"prompt": text}])

    assert [p.language for p in stored_prompts(store)] == [language]


def test_a_language_column_wins(store: Store, tmp_path: Path) -> None:
    import_rows(store, tmp_path, [{"prompt": "Wie geht das?", "language": "de"}])

    assert [p.language for p in stored_prompts(store)] == ["de"]


# Files.


def write_json(path: Path, rows: Sequence[Row]) -> None:
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=2), "utf-8")


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def write_tsv(path: Path, rows: Sequence[Row]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(path: Path, rows: Sequence[Row]) -> None:
    source = write_lines(path.with_suffix(".source"), rows)
    with duckdb.connect() as connection:
        connection.execute(
            f"COPY (SELECT * FROM read_json('{source}', format='nd')) TO '{path}' (FORMAT parquet)"
        )


WRITERS = {
    "jsonl": write_lines,
    "ndjson": write_lines,
    "json": write_json,
    "csv": write_csv,
    "tsv": write_tsv,
    "parquet": write_parquet,
}


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("is_zipped", [False, True])
def test_every_kind_of_file_gives_the_same_rows(
    store: Store, tmp_path: Path, kind: str, is_zipped: bool
) -> None:
    rows = [
        {"prompt": f'问 {i}, "so"?\nline', "chosen": "é\n\tA", "rejected": "B"} for i in range(3)
    ]
    path = tmp_path / f"rows [1]*.{kind}"  # a name that a glob would read as a pattern
    WRITERS[kind](path, rows)
    if is_zipped:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path = path.with_name(f"{path.name}.gz")

    report = imports.import_file(store, path, created_by="lea")

    assert (report.accepted, report.refusals) == (3, ())
    expected = {r["prompt"] for r in rows}
    assert {p.messages[0]["content"] for p in stored_prompts(store)} == expected
    assert stored_pairs(store) == [("é\n\tA", "B")] * 3


def test_messages_in_parquet_are_read(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    write_parquet(path, [ONE_PAIR["trl-conversational"]])

    imports.import_file(store, path, created_by="lea")

    assert stored_pairs(store) == [("Because.", "No.")]


def test_messages_in_a_csv_cell_are_read_as_json(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    write_csv(path, [{"messages": json.dumps([user("Why?")])}])

    imports.import_file(store, path, created_by="lea")

    assert [p.messages for p in stored_prompts(store)] == [(user("Why?"),)]


def test_an_array_of_many_chunks_is_read_whole(store: Store, tmp_path: Path) -> None:
    rows = [{"prompt": f"{i} " + "长" * (i * 90 % 7000)} for i in range(600)]
    path = tmp_path / "rows.json"
    write_json(path, rows)

    report = imports.import_file(store, path, created_by="lea")

    assert report.accepted == 600
    assert {p.messages[0]["content"] for p in stored_prompts(store)} == {r["prompt"] for r in rows}


BAD_LINES: dict[str, tuple[bytes, str, str]] = {
    "broken JSON": (b'{"prompt": "a"', "", "not valid JSON"),
    "an endless number": (b'{"prompt": ' + b"9" * 5000 + b"}", "", "too many digits"),
    "a deep nest": (b'{"prompt": ' + b"[" * 900 + b"]" * 900 + b"}", "", "nested too deeply"),
    "no object": (b'["prompt"]', "", "should be an object"),
    "not UTF-8": (b'{"prompt": "\xff"}', "", "not UTF-8"),
    "a lone surrogate": (b'{"prompt": "\\ud800"}', "prompt", "not UTF-8"),
    "an empty prompt": (b'{"prompt": "  "}', "prompt", "is empty"),
    "a missing prompt": (b'{"question": "a"}', "prompt", "is missing"),
    "a number": (b'{"prompt": 3}', "prompt", "should be text or a list of messages"),
    "an unknown role": (b'{"prompt": [{"role": "cat", "content": "a"}]}', "prompt.0", "'cat'"),
    "a message without text": (b'{"prompt": [{"role": "user"}]}', "prompt.0", "no text"),
    "an unknown split": (b'{"prompt": "a", "split": "dev?"}', "split", "neither"),
    "a language of numbers": (b'{"prompt": "a", "language": 3}', "language", "should be text"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_row_is_refused_by_file_line_and_field_and_the_good_are_kept(
    store: Store, tmp_path: Path, name: str
) -> None:
    bad, field, problem = BAD_LINES[name]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"prompt": "before"}\n\n' + bad + b'\n{"prompt": "after"}\n')

    report = imports.import_file(store, path, created_by="lea")

    (refusal,) = report.refusals
    assert (refusal.file, refusal.line, refusal.field) == ("rows.jsonl", 3, field)
    assert problem in refusal.problem
    assert {p.messages[0]["content"] for p in stored_prompts(store)} == {"before", "after"}


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"prompt": "Why?", "chosen": "a"}, "rejected"),
        ({"prompt": "Why?", "chosen": "a", "rejected": " "}, "rejected"),
        ({"prompt": "Why?", "chosen": "a", "rejected": [assistant("b")]}, "rejected"),
        ({"prompt": "Why?", "chosen": [user("a")], "rejected": [assistant("b")]}, "chosen"),
        ({"prompt": "Why?", "chosen": "a", "rejected": "b", "strength": 9}, "strength"),
        ({"prompt": "Why?", "chosen": "same", "rejected": "same"}, ""),
    ],
)
def test_a_bad_pair_is_refused_by_its_field(
    store: Store, tmp_path: Path, row: Row, field: str
) -> None:
    report = import_rows(store, tmp_path, [TRL, row])

    assert (report.accepted, [r.field for r in report.refusals]) == (1, [field])


def test_a_csv_row_with_too_many_fields_is_refused_by_its_line(
    store: Store, tmp_path: Path
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('prompt,language\n"two\nlines",en\nhello,en,more\nbye,en\n')

    report = imports.import_file(store, path, created_by="lea")

    assert [(r.line, r.problem) for r in report.refusals] == [(4, "has 3 fields, the header has 2")]
    assert report.accepted == 2


def test_an_array_that_breaks_off_keeps_what_came_before(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('[\n{"prompt": "one"},\n{"prompt": "two"},\n{"prompt": "thr')

    report = imports.import_file(store, path, created_by="lea")

    assert (report.accepted, [r.line for r in report.refusals]) == (2, [4])
    assert "nothing from here on could be read" in str(report.refusals[0])


def test_a_zipped_file_that_breaks_off_keeps_what_came_before(store: Store, tmp_path: Path) -> None:
    lines = "".join(f'{{"prompt": "{random.randbytes(500).hex()}"}}\n' for _ in range(1000))
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(gzip.compress(lines.encode())[:-200_000])

    report = imports.import_file(store, path, created_by="lea")

    assert 0 < report.accepted < 1000
    assert "nothing from here on could be read" in str(report.refusals[-1])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.docx", b"whatever"),
        ("rows.jsonl", b""),
        ("rows.jsonl", b"\n\n  \n"),
        ("rows.jsonl", b"this is\nno JSON\n"),
        ("rows.json", b"[]"),
        ("rows.json", b"{broken"),
        ("rows.jsonl.gz", b"this is not zipped"),
        ("rows.parquet", b"this is no parquet"),
        ("rows.csv", b"a,a\n1,2\n"),
        ("rows.csv", "prompt\nhello\n".encode("utf-16")),
        ("rows.jsonl", b'{"colour": "red"}\n'),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_by_name_and_nothing_is_recorded(
    store: Store, tmp_path: Path, name: str, content: bytes
) -> None:
    path = tmp_path / name
    path.write_bytes(content)

    with pytest.raises(BadInput, match=name):
        imports.import_file(store, path, created_by="lea")

    assert imports.list_all(store) == []


def test_a_missing_file_is_refused(store: Store, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no file"):
        imports.import_file(store, tmp_path / "rows.jsonl", created_by="lea")


def test_only_the_first_thousand_refusals_are_kept(store: Store, tmp_path: Path) -> None:
    report = import_rows(store, tmp_path, [{"prompt": "good"}, *[{"prompt": ""}] * 1200])

    assert (report.refused, len(report.refusals), report.accepted) == (1200, 1000, 1)


# Progress and cancelling.


def test_progress_reaches_the_end_of_the_file(store: Store, tmp_path: Path) -> None:
    seen: list[ImportProgress] = []

    rows = [{"prompt": f"Question {i}"} for i in range(1200)]
    report = import_rows(store, tmp_path, rows, on_progress=seen.append)

    assert [p.rows for p in seen] == sorted(p.rows for p in seen)
    assert len(seen) >= 3
    assert (seen[-1].accepted, seen[-1].fraction) == (report.accepted, 1.0)


def test_a_cancelled_import_keeps_what_it_has_added(store: Store, tmp_path: Path) -> None:
    rows = [{"prompt": f"Question {i}"} for i in range(1200)]

    report = import_rows(store, tmp_path, rows, cancelled=lambda: True)

    assert report.was_cancelled
    assert 0 < report.accepted == len(stored_prompts(store)) < 1200
    assert [r.accepted for r in imports.list_all(store)] == [report.accepted]


def test_a_cancelled_import_can_be_finished_later(store: Store, tmp_path: Path) -> None:
    rows = [{"prompt": f"Question {i}"} for i in range(1200)]
    first = import_rows(store, tmp_path, rows, cancelled=lambda: True)

    second = import_rows(store, tmp_path, rows)

    assert first.accepted + second.accepted == 1200
    assert second.known == first.accepted


def test_answers_of_a_file_become_demonstrations_and_thumbs(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [
        {"instruction": "Add one.", "input": "1", "output": "2"},
        {"instruction": "Say nothing.", "input": "", "output": ""},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = imports.import_file(store, path, created_by="lea", use="thumbs", held_out_share=0)
    assert (report.thumbs_added, report.preferences_added, report.refused) == (1, 0, 1)
    assert "holds no response" in str(report.refusals[0])
    (found,) = rows_of_kind(store, Kind.DEMONSTRATIONS)
    assert (found["completion"][0]["content"], found["kind"]) == ("2", "demonstration")
    (thumb,) = rows_of_kind(store, Kind.RATINGS)
    assert (thumb["label"], thumb["kind"]) == (True, "rating")
    assert thumb["judgment_ids"] == found["judgment_ids"] != []


def test_a_kto_file_keeps_its_thumbs_up_and_down(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "kto.jsonl"
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Go away."}]
    rows = [
        {"prompt": "Who?", "completion": "Me.", "label": True},
        {"messages": turns, "label": False},
        {"prompt": "Why?", "completion": "Because.", "label": "perhaps"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = imports.import_file(store, path, created_by="lea", use="thumbs", held_out_share=0)
    assert (report.thumbs_added, report.refused) == (2, 1)
    assert "true or false" in str(report.refusals[0])
    assert {
        (row["completion"][0]["content"], row["label"]) for row in rows_of_kind(store, Kind.RATINGS)
    } == {("Me.", True), ("Go away.", False)}
    again = imports.import_file(store, path, created_by="lea", use="thumbs", held_out_share=0)
    assert (again.thumbs_added, again.judgments_added) == (0, 0)


def test_a_file_of_pairs_holds_no_single_answers(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps({"prompt": "Who?", "chosen": "Me.", "rejected": "No."}) + "\n")
    with pytest.raises(BadInput, match="no single ones"):
        imports.import_file(store, path, created_by="lea", use="thumbs")


def rows_of_kind(store: Store, kind: Kind) -> list[dict[str, Any]]:
    with store.read() as cursor:
        found = cursor.execute(select(kind))
        names = [column[0] for column in found.description or ()]
        return [dict(zip(names, row, strict=True)) for row in found.fetchall()]
