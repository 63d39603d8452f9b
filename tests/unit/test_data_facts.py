"""What is told of the data before a run: who judged, what won, what repeats."""

from __future__ import annotations

from dataclasses import replace

import pytest

from store import data_facts, judgments, prompts
from store.annotators import insert_sources, source_id
from store.data_facts import DataFacts, Tally
from store.db import Store
from store.records import Split, Verdict
from store.training_data import Kind, count
from tests.builders import (
    judge,
    judge_in_every_way,
    make_annotator,
    make_comparison,
    make_judgment,
    make_preference,
    make_prompt,
    write_response,
)


def facts(store: Store, kind: Kind = Kind.PREFERENCES) -> DataFacts:
    return data_facts.measure(store, kind)


@pytest.mark.parametrize(
    ("kind", "only"), [(Kind.DEMONSTRATIONS, "demonstration"), (Kind.RATINGS, "rating")]
)
def test_facts_may_be_of_those_rows_alone_that_are_learned(
    store: Store, kind: Kind, only: str
) -> None:
    make_annotator(store)
    for n in range(3):
        judge_in_every_way(store, prompt=f"Question {n}?")

    found = data_facts.measure(store, kind, only=only)

    assert 0 < found.rows < facts(store, kind).rows
    assert len(found.sample) == found.rows


@pytest.mark.parametrize("kind", list(Kind))
def test_rows_and_prompts_are_those_that_a_run_would_have(store: Store, kind: Kind) -> None:
    make_annotator(store)
    for n in range(3):
        judge_in_every_way(store, prompt=f"Question {n}?")

    found = facts(store, kind)

    assert (found.rows, found.distinct_prompts) == tuple(count(store, kind))
    assert found.rows > 0
    assert len(found.sample) == found.rows
    assert {len(row.completions) for row in found.sample} == {
        {Kind.PREFERENCES: 2, Kind.COMPARISONS: 2, Kind.PROMPTS: 0}.get(kind, 1)
    }


@pytest.mark.parametrize("kind", list(Kind))
def test_an_empty_store_has_facts_too(store: Store, kind: Kind) -> None:
    found = facts(store, kind)

    assert (found.rows, found.people, found.top_person, found.duel) == (0, 0, None, None)
    assert found.longer_won.share == 0


def test_the_longer_side_is_counted_where_sides_differ_and_one_won(store: Store) -> None:
    make_annotator(store)
    make_preference(store, "a", "long answer", "short")
    make_preference(store, "b", "brief", "a longer answer")
    make_preference(store, "c", "equal", "equaL")
    judge(store, make_comparison(store, ("long tied answer", "short"), prompt="d"), None)

    assert facts(store, Kind.PREFERENCES).longer_won == Tally(1, 2)
    assert facts(store, Kind.COMPARISONS).longer_won == Tally(1, 2)


def test_the_person_who_gave_most_is_named_and_imports_are_nobody(store: Store) -> None:
    for name in ("ana", "bo"):
        make_annotator(store, name)
    people = {name: make_annotator(store, name).id for name in ("ana", "bo")}
    store.write(lambda cursor: insert_sources(cursor, ["file"], now=store.clock()))
    for n, who in enumerate([*[people["ana"]] * 3, people["bo"], *[source_id("file")] * 4]):
        make_preference(store, f"Question {n}?", annotator_id=who)

    found = facts(store)

    assert (found.people, found.top_person) == (2, "ana")
    assert found.from_top_person == Tally(3, 8)


def test_the_side_shown_first_is_counted_for_choices_on_the_page(store: Store) -> None:
    make_annotator(store)
    for n, order in enumerate([(0, 1), (0, 1), (1, 0)]):
        shown = make_comparison(store, prompt=f"Question {n}?")
        judgments.record(store, make_judgment(shown, 0, displayed=order))
    imported = make_comparison(store, prompt="From a file?")
    judgments.record(store, replace(make_judgment(imported, 0), source="import"))

    assert facts(store).first_won == Tally(2, 3)


def test_two_versions_that_met_are_told_with_the_better_one_first(store: Store) -> None:
    make_annotator(store)
    for n, versions in enumerate([("pol-000001", "pol-000002")] * 3 + [("pol-000002", None)]):
        pair = make_comparison(store, prompt=f"Question {n}?", policy_versions=versions)
        judge(store, pair, 0 if n == 0 else 1)

    duel = facts(store).duel

    assert duel is not None
    assert (duel.winner, duel.loser, duel.won) == ("pol-000002", "pol-000001", Tally(2, 3))


def test_prompts_that_differ_in_numbers_and_marks_alone_are_of_one_template(store: Store) -> None:
    make_annotator(store)
    for text in ("Where is parcel 12?", "where is parcel 7", "Where  is parcel B?", "包裹在哪里？"):
        make_preference(store, text)

    found = facts(store)

    assert (found.distinct_prompts, found.distinct_templates) == (4, 3)


def test_held_out_prompts_with_a_twin_in_training_are_counted(store: Store) -> None:
    make_annotator(store)
    make_preference(store, "Where is parcel 12?")
    held_out = [
        make_prompt(t, split=Split.HELD_OUT) for t in ("Where is parcel 9?", "Who are you?")
    ]
    store.write(lambda cursor: prompts.insert(cursor, held_out, now=store.clock()))

    assert facts(store).leaked_prompts == 1


@pytest.mark.parametrize("kind", [Kind.PREFERENCES, Kind.COMPARISONS, Kind.RATINGS])
def test_what_was_judged_together_is_one_comparison_whatever_rows_it_makes(
    store: Store, kind: Kind
) -> None:
    make_annotator(store)
    for n in range(2):
        four = make_comparison(store, ("A.", "B.", "C.", "D."), prompt=f"Question {n}?")
        judgments.record(store, make_judgment(four, ranks=(1, 2, 3, 4)))
    make_preference(store, "Question 0?", "Yes.", "No.")

    found = facts(store, kind)

    assert found.rows > 6
    assert (found.comparisons, found.distinct_prompts) == (3, 2)


def test_each_demonstration_counts_by_itself(store: Store) -> None:
    make_annotator(store)
    for text in ("Tap here.", "Tap there."):
        write_response(store, make_judgment(make_comparison(store), 0), text, instead_of=0)

    found = facts(store, Kind.DEMONSTRATIONS)

    assert (found.rows, found.comparisons, found.distinct_prompts) == (2, 2, 1)


def test_thumbs_say_how_many_were_liked(store: Store) -> None:
    make_annotator(store)
    for n, rating in enumerate((5, 5, 1)):
        alone = make_comparison(store, ("Tap the link.",), prompt=f"Question {n}?")
        judgments.record(store, make_judgment(alone, ratings=(rating,)))

    assert facts(store, Kind.RATINGS).liked == Tally(2, 3)


def test_lengths_are_of_a_prompt_with_one_of_its_completions(store: Store) -> None:
    make_annotator(store)
    make_preference(store, "12345", "12", "1234567890")

    found = facts(store)

    assert (found.mean_chars, found.longest_chars) == (5 + 6, 15)


def test_the_facts_have_another_version_after_every_change(store: Store) -> None:
    make_annotator(store)
    seen = [data_facts.version(store)]
    pair = make_preference(store)
    seen.append(data_facts.version(store))
    judge(store, pair, verdict=Verdict.RETRACTED)
    seen.append(data_facts.version(store))
    store.write(lambda c: prompts.insert(c, [make_prompt("New?")], now=store.clock()))
    seen.append(data_facts.version(store))

    assert len(set(seen)) == 4
    assert data_facts.version(store) == seen[-1]


def test_a_written_response_is_a_demonstration_of_whoever_wrote_it(store: Store) -> None:
    make_annotator(store)
    write_response(store, make_judgment(make_comparison(store), 0), "Tap here.", instead_of=0)

    found = facts(store, Kind.DEMONSTRATIONS)

    assert found.rows == 1
    assert found.from_top_person == Tally(1, 1)
    assert found.sample[0].completions == ("Tap here.",)
