"""Whether two texts are too alike to be told apart."""

from __future__ import annotations

import pytest

from training.similarity import Lookalikes, are_near, are_same

LETTER = (
    "I am sorry about this. I see that your order D28 is about the promo code for your vacuum "
    "cleaner. I have added the discount to your balance, and it will be taken off the next bill. "
    "Check the last day on which the code is valid, type it in capital letters without spaces, and "
    "write to us in the chat if you need a person."
)
CHINESE = "请接受我们的歉意。您的留言是关于订单的搅拌机包裹延误。请再给快递一个工作日的时间。" * 3


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("Yes.", "  yes. \n"),
        (LETTER, LETTER.replace("sorry", "sorrier")),
        (LETTER, LETTER.rstrip(".")),
        (CHINESE, CHINESE.replace("歉意。您", "歉意，您", 1)),
    ],
)
def test_a_slip_in_a_long_text_makes_no_difference(a: str, b: str) -> None:
    assert are_near(a, b)
    assert are_near(b, a)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("Yes.", "No."),
        ("a", "b"),
        ("", "Yes."),
        ("x < 1", "x > 1"),
        (LETTER, LETTER.replace("D28", "D29")),
        (LETTER, LETTER + " Thank you for your patience."),
        (LETTER, LETTER.replace("I am sorry about this. ", "")),
        (CHINESE, CHINESE + "感谢您的耐心。"),
    ],
)
def test_a_number_a_sentence_or_a_short_answer_makes_a_difference(a: str, b: str) -> None:
    assert not are_near(a, b)
    assert not are_near(b, a)


def test_white_space_and_capitals_alone_are_no_difference() -> None:
    assert are_same("Tap  the\nlink", "tap the link ")
    assert not are_same(LETTER, LETTER.rstrip("."))


def test_the_share_of_common_trigrams_decides() -> None:
    """One letter of n changes three of its n - 2 trigrams: n - 5 are shared of n + 1."""
    texts = ["".join(chr(0x4E00 + i) for i in range(n)) for n in (118, 119)]
    changed = [text[:50] + "x" + text[51:] for text in texts]
    assert [are_near(a, b) for a, b in zip(texts, changed, strict=True)] == [False, True]


OTHERS = ("Yes.", LETTER, CHINESE, "x < 1", "")


CHANGES = (("", ""), ("sorry", "sorrier"), ("D28", "D29"), ("about", "of"), (".", ","))


@pytest.mark.parametrize("known", OTHERS)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("other", OTHERS)
def test_lookalikes_know_what_is_near_as_two_texts_do(
    known: str, other: str, change: tuple[str, str]
) -> None:
    changed = other.replace(*change, 1)

    assert (changed in Lookalikes([known, "Something else."])) is are_near(known, changed)
