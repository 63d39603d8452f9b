"""What the leads' tabs say of the comparisons that are made."""

from __future__ import annotations

from labeling.candidates import Diverted, Rival, Supply, WhyNot
from labeling.ui.project import diverted_note
from labeling.ui.prompts import counts_card
from store.prompts import PromptCount
from store.records import Split

COUNTS = [PromptCount("en", Split.TRAIN, 40)]


def test_prompts_that_are_too_long_are_told_with_the_limit() -> None:
    many = counts_card(COUNTS, Supply(12, 512, 0, ()), general=0)
    assert "12 prompts are too long for the live policy (limit 512 tokens)" in many
    one = counts_card(COUNTS, Supply(1, 1024, 0, ()), general=0)
    assert "1 prompt is too long for the live policy (limit 1,024 tokens)" in one


def test_comparisons_that_everyone_skipped_are_told() -> None:
    assert "3 comparisons were skipped by everyone who saw them" in counts_card(
        COUNTS, Supply(0, None, 3, ()), general=0
    )
    assert "1 comparison was skipped by everyone who saw it" in counts_card(
        COUNTS, Supply(0, None, 1, ()), general=0
    )


def test_where_nothing_is_passed_over_nothing_is_said_of_it() -> None:
    card = counts_card(COUNTS, Supply(0, None, 0, ()), general=0)
    assert "too long" not in card
    assert "skipped" not in card


def test_what_policies_should_keep_knowing_is_counted() -> None:
    assert "general" not in counts_card(COUNTS, Supply(0, None, 0, ()), general=0)
    card = counts_card(COUNTS, Supply(0, None, 0, ()), general=7)
    assert "7 general demonstrations are there" in card


def test_a_share_that_cannot_be_served_is_told_with_its_reason() -> None:
    assert diverted_note(()) == ""
    note = diverted_note(
        (
            Diverted(Rival.PREVIOUS, 30, WhyNot.NOT_LOADED),
            Diverted(Rival.BASE, 20, WhyNot.SAME),
        )
    )
    assert "30 % live against the one before: it is not loaded." in note
    assert "20 % live against the base: the live policy is the base itself." in note
