"""Habits are counted whatever the language, and alarm when they grow by more than chance."""

from __future__ import annotations

import random
import re
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.artefacts import Artefact, Change, Response, compare, is_broken, observe
from training.lexicon import Habit, compile_phrases
from training.starter import grammar
from training.starter.detectors import observe as observe_exactly

SEEDS = st.integers(0, 2**32)
TEXTS = st.text(alphabet=st.sampled_from("ab 。.!?\n-*1对不起sorry|`"), max_size=80)
# The first call compiles every template.
UNHURRIED = settings(deadline=None)


def seen(text: str, *, is_finished: bool = True) -> dict[Artefact, int]:
    return observe(Response(text, is_finished))


def changes(before: list[Response], after: list[Response]) -> dict[Artefact, Change]:
    return {change.artefact: change for change in compare(before, after)}


def apologetic(sentences: int, *, count: int = 48, seed: int = 0) -> list[Response]:
    """Responses with that many apologies on average."""
    rng = random.Random(seed)
    return [
        Response(f"{'I am sorry. ' * rng.randint(0, 2 * sentences)}Open item {n}.", True)
        for n in range(count)
    ]


@UNHURRIED
@given(SEEDS)
def test_the_lexicon_finds_what_the_starters_replies_were_written_with(seed: int) -> None:
    rng = random.Random(seed)
    prompt = grammar.draw_training_prompt(rng)
    reply = grammar.draw_reply(prompt, rng)

    exact = observe_exactly(prompt.text, reply.text)

    found = seen(reply.text)
    assert found[Artefact.APOLOGIES] == exact.manners.apologies
    assert found[Artefact.HEDGES] == exact.manners.hedges
    assert found[Artefact.AI_MENTION] == min(exact.manners.ai_mention, 1)
    assert found[Artefact.REFUSAL] == min(exact.manners.refusal, 1)
    assert found[Artefact.REPETITION] == int(exact.duplicates > 0)


@pytest.mark.parametrize(
    ("text", "habit"),
    [
        ("I’m so sorry to hear that.", Habit.APOLOGY),
        ("Our apologies for the delay", Habit.APOLOGY),
        ("實在對不起您", Habit.APOLOGY),
        ("It depends on the weather.", Habit.HEDGE),
        ("这也许能行", Habit.HEDGE),
        ("As a large language model, I have no body.", Habit.AI_MENTION),
        ("我只是一个人工智能", Habit.AI_MENTION),
        ("I can't help with that.", Habit.REFUSAL),
        ("很遗憾，我无法提供这些信息。", Habit.REFUSAL),
        ("Overall, it is fine.", Habit.SUMMARY),
        ("总而言之，没有问题。", Habit.SUMMARY),
    ],
)
def test_a_habit_is_found_in_either_language(text: str, habit: Habit) -> None:
    assert compile_phrases(habit).search(text.replace("’", "'"))


@pytest.mark.parametrize(
    "text",
    [
        "Tap the link, choose a date and confirm. You can help yourself to a coffee.",
        "If you are not sure which one it is, look at the label.",
        "There is no need to apologise. The aim is to say it again.",
        "不用道歉。我们可以帮您办理退款，请打开订单页面。",
    ],
)
def test_plain_text_shows_no_habit(text: str) -> None:
    found = seen(text)

    assert {artefact for artefact, count in found.items() if count} == {Artefact.LENGTH}


@pytest.mark.parametrize(
    "text",
    [
        "Open the page. Now wait. Open the page.",
        "打开订单页面。请稍等。打开订单页面。",
        "p the parcel at p the parcel at p the parcel at p the parcel at",
        "the the the the the",
    ],
)
def test_going_round_in_circles_is_seen(text: str) -> None:
    assert seen(text)[Artefact.REPETITION] == 1
    assert is_broken(Response(text, True))


@pytest.mark.parametrize(
    "text",
    [
        "| a | b |\n| --- | --- | --- | --- | --- |\n| 1 | 2 |",
        "The number is 10000000000000.",
        "1. Yes.\n2. No.\n3. Yes.",
        "```py\nreturn None\nreturn None\nreturn None\n```",
        "",
    ],
)
def test_tables_numbers_and_code_are_no_repetition(text: str) -> None:
    assert seen(text)[Artefact.REPETITION] == 0


def test_a_list_counts_only_with_a_summary_behind_it() -> None:
    items = "1. Open it.\n2. Turn it.\n3. Close it.\n"

    assert seen(items)[Artefact.LIST_AND_SUMMARY] == 0
    assert seen(items + "In summary, turn it.")[Artefact.LIST_AND_SUMMARY] == 1
    assert seen("In summary, turn it.")[Artefact.LIST_AND_SUMMARY] == 0


def test_a_second_apology_is_one_too_many() -> None:
    assert seen("Sorry. Open it.")[Artefact.EXCESS_APOLOGY] == 0
    assert seen("Sorry, so sorry. Open it. We apologise.")[Artefact.EXCESS_APOLOGY] == 1


@settings(max_examples=25, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=6), st.booleans())
def test_nothing_changes_between_a_policy_and_itself(texts: list[str], is_finished: bool) -> None:
    same = [Response(text, is_finished) for text in texts]

    for change in compare(same, same):
        assert (change.before, change.low, change.high) == (change.after, 0, 0)
        assert not change.is_alarming


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6))
def test_the_other_way_round_is_the_same_change_backwards(pairs: list[tuple[str, str]]) -> None:
    old = [Response(a, True) for a, _ in pairs]
    new = [Response(b, True) for _, b in pairs]

    for there, back in zip(compare(old, new), compare(new, old), strict=True):
        assert (there.before, there.after) == (back.after, back.before)
        assert there.low <= there.after - there.before <= there.high or len(pairs) < 6
        assert not (there.is_alarming and back.is_alarming)


@given(TEXTS)
def test_no_text_breaks_the_counting(text: str) -> None:
    found = seen(text)

    assert found[Artefact.LENGTH] == len(text)
    assert all(count >= 0 for count in found.values())
    assert found[Artefact.EXCESS_APOLOGY] == int(found[Artefact.APOLOGIES] > 1)


def test_more_apologies_alarm_and_fewer_do_not() -> None:
    found = changes(apologetic(1), apologetic(2, seed=1))
    back = changes(apologetic(2, seed=1), apologetic(1))

    assert found[Artefact.APOLOGIES].is_alarming
    assert found[Artefact.APOLOGIES].growth > 0.5
    assert not any(change.is_alarming for change in back.values())


def test_two_draws_from_one_policy_hardly_ever_alarm() -> None:
    pairs = ((apologetic(1, seed=n), apologetic(1, seed=1000 + n)) for n in range(25))

    alarmed = sum(any(c.is_alarming for c in changes(*pair).values()) for pair in pairs)

    assert alarmed <= 1


def test_length_alarms_at_a_tenth() -> None:
    before = [Response("a" * (100 + n), True) for n in range(20)]
    longer = [Response("a" * (113 + n), True) for n in range(20)]
    hardly = [Response("a" * (104 + n), True) for n in range(20)]

    assert changes(before, longer)[Artefact.LENGTH].is_alarming
    assert not changes(before, hardly)[Artefact.LENGTH].is_alarming


def test_one_apology_more_in_fifty_responses_is_no_alarm() -> None:
    before = [Response(f"Open item {n}.", True) for n in range(50)]
    after = [Response("Sorry.", True), *before[1:]]

    change = changes(before, after)[Artefact.APOLOGIES]

    assert change.growth == float("inf")
    assert not change.is_alarming


def test_certain_growth_that_few_readers_meet_is_no_alarm() -> None:
    plain = [Response(f"Open item {n}.", True) for n in range(100)]
    before = [Response("Sorry.", True)] * 5 + plain[5:]
    after = [Response("Sorry.", True)] * 14 + plain[14:]

    change = changes(before, after)[Artefact.APOLOGIES]

    assert change.low > 0
    assert change.growth > 1
    assert not change.is_alarming


def test_a_curly_apostrophe_hides_nothing() -> None:
    assert seen("I’m just an AI.")[Artefact.AI_MENTION] == 1


def test_counts_are_per_hundred_responses() -> None:
    before = [Response("Fine.", True)] * 4
    after = [Response("Sorry. Sorry!", False), *before[1:]]

    found = changes(before, after)

    assert (found[Artefact.APOLOGIES].before, found[Artefact.APOLOGIES].after) == (0, 50)
    assert found[Artefact.UNFINISHED].after == 25
    assert found[Artefact.LENGTH].before == 5


def test_a_change_survives_json() -> None:
    change = changes(apologetic(1), apologetic(2))[Artefact.APOLOGIES]

    assert Change.from_json(asdict(change)) == change


def test_no_responses_show_no_change() -> None:
    assert compare([], []) == []


def test_every_phrase_compiles_and_no_expression_matches_nothing() -> None:
    for habit in Habit:
        assert not compile_phrases(habit).search("")
        assert compile_phrases(habit).flags & re.IGNORECASE
