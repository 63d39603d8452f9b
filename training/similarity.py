"""Whether two texts are so alike that they say the same.

Two responses like that are not worth judging; a prompt like that, in training and in a test, makes
the test worthless.

Knows texts only. Three of the starter policy's answers to each of 120 prompts were looked at in
pairs: none of the 360 was equal, the most alike shared 0.53 of their trigrams, and such pairs
differed in whole sentences, as is worth judging. So the bound is far above what a policy does by
itself, and is for one that has become sure of its words: at 0.95 two texts of 300 characters
differ in one short word.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable

NEAR = 0.95
_NUMBER = re.compile(r"\d+")


class Lookalikes:
    """Texts that may be met again, equal or near as `are_near` has it, among very many others.

    Only those that name the same numbers and are of like length are looked at closely.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._normal = {normal_form(text) for text in texts}
        self._by_numbers: defaultdict[tuple[str, ...], list[Counter[str]]] = defaultdict(list)
        for text in self._normal:
            self._by_numbers[tuple(_NUMBER.findall(text))].append(_trigrams(text))

    def __contains__(self, text: str) -> bool:
        normal = normal_form(text)
        if normal in self._normal:
            return True
        others = self._by_numbers.get(tuple(_NUMBER.findall(normal)), ())
        size = len(normal) - 2
        alike = [o for o in others if NEAR * size <= o.total() <= size / NEAR]
        trigrams = _trigrams(normal) if alike else Counter()
        return any(_jaccard(trigrams, other) >= NEAR for other in alike)


def normal_form(text: str) -> str:
    """The same for texts that are equal but for white space and capitals."""
    return " ".join(text.split()).casefold()


def are_same(a: str, b: str) -> bool:
    """Equal but for white space and capitals."""
    return normal_form(a) == normal_form(b)


def are_near(a: str, b: str) -> bool:
    """Alike in at least `NEAR` of their characters' trigrams (Jaccard, counted), or the same.

    Takes time in proportion to the length. Texts that name other numbers are never near: a wrong
    order number is what people look for.
    """
    a, b = normal_form(a), normal_form(b)
    if a == b:
        return True
    if min(len(a), len(b)) - 2 < NEAR * (max(len(a), len(b)) - 2):
        return False  # the shorter one has too few trigrams
    if _NUMBER.findall(a) != _NUMBER.findall(b):
        return False
    return _jaccard(_trigrams(a), _trigrams(b)) >= NEAR


def _trigrams(text: str) -> Counter[str]:
    return Counter(text[i : i + 3] for i in range(len(text) - 2))


def _jaccard(a: Counter[str], b: Counter[str]) -> float:
    return (a & b).total() / max(1, (a | b).total())
