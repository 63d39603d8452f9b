"""Checks of instructions: what holds, what does not, and checks that nobody can read."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.instructions import Check


@pytest.mark.parametrize(
    ("check", "holds", "fails"),
    [
        ({"kind": "max_words", "value": 3}, "Open the page.", "Open the page now."),
        ({"kind": "max_words", "value": 4}, "打开页面。", "请打开页面。"),
        ({"kind": "contains", "value": "Refund"}, "your refund is due", "your money is due"),
        ({"kind": "json"}, '{"a": 1}', "a: 1"),
        ({"kind": "json"}, "```json\n[1]\n```", "Here: [1]"),
        ({"kind": "language", "value": "zh"}, "请打开 Help 页面", "Open the 帮助 page"),
        ({"kind": "language", "value": "en"}, "Open the page.", "请打开页面。"),
    ],
)
def test_a_check_tells_what_follows_from_what_does_not(
    check: dict[str, Any], holds: str, fails: str
) -> None:
    assert Check.from_json(check).holds(holds)
    assert not Check.from_json(check).holds(fails)


@pytest.mark.parametrize(
    "check",
    [
        {},
        {"kind": "rhymes"},
        {"kind": "max_words"},
        {"kind": "max_words", "value": 0},
        {"kind": "contains", "value": ""},
        {"kind": "language", "value": "fr"},
    ],
)
def test_a_check_that_says_nothing_is_refused(check: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Check.from_json(check)


@given(st.text(max_size=60), st.integers(1, 20))
def test_a_longer_limit_never_fails_what_a_shorter_one_lets_pass(text: str, limit: int) -> None:
    if Check.from_json({"kind": "max_words", "value": limit}).holds(text):
        assert Check.from_json({"kind": "max_words", "value": limit + 1}).holds(text)
