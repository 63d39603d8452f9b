"""Whether two texts are so alike that a verdict between them would say nothing.

Knows texts only. Three of the starter policy's answers to each of 120 prompts were looked at in
pairs: none of the 360 was equal, the most alike shared 0.53 of their trigrams, and such pairs
differed in whole sentences, as is worth judging. So the bound is far above what a policy does by
itself, and is for one that has become sure of its words: at 0.95 two texts of 300 characters
differ in one short word.
"""

from __future__ import annotations

import re
from collections import Counter

NEAR = 0.95
_NUMBER = re.compile(r"\d+")


def are_same(a: str, b: str) -> bool:
    """Equal but for white space and capitals."""
    return _normal(a) == _normal(b)


def are_near(a: str, b: str) -> bool:
    """Alike in at least `NEAR` of their characters' trigrams (Jaccard, counted), or the same.

    Takes time in proportion to the length. Texts that name other numbers are never near: a wrong
    order number is what people look for.
    """
    a, b = _normal(a), _normal(b)
    if a == b:
        return True
    if min(len(a), len(b)) - 2 < NEAR * (max(len(a), len(b)) - 2):
        return False  # the shorter one has too few trigrams
    if _NUMBER.findall(a) != _NUMBER.findall(b):
        return False
    return _jaccard(_trigrams(a), _trigrams(b)) >= NEAR


def _normal(text: str) -> str:
    return " ".join(text.split()).casefold()


def _trigrams(text: str) -> Counter[str]:
    return Counter(text[i : i + 3] for i in range(len(text) - 2))


def _jaccard(a: Counter[str], b: Counter[str]) -> float:
    return (a & b).total() / max(1, (a | b).total())
