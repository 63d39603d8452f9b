"""Habits that training on preferences can breed: counted in the responses of two policies.

Annotators who like apologies, or length, make every accuracy look fine; only these counts show what
the policy has become. Nothing here knows a language (see `lexicon`) or a model.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache
from statistics import fmean
from typing import Any, NamedTuple, Self

from training.lexicon import Habit, compile_phrases
from training.messages import Message

RESAMPLES = 1000
# Nine counts are looked at: each may raise a false alarm in one of two hundred runs.
ALARM_ERROR = 0.005
# What grows by less than chance and annoyance are no alarm: an apology in ten responses.
MIN_GROWTH_PER_100 = 10.0
# An apology-loving crowd made apologies grow by 65 % and length by 10 % in the starter's domain.
ALARMING_GROWTH = 0.5
ALARMING_LENGTH_GROWTH = 0.1

LIST_ITEMS = 3
# Shorter ones repeat in honest text: "Yes.", the number of a list item, a closing brace.
SHORTEST_SENTENCE = 6

_SENTENCE_END = re.compile(r"(?<=[.!?。！？])(?:\s+|(?<=[。！？]))|\n+")
_LIST_ITEM = re.compile(r"^\s*(?:[-*•]|\d+[.)、]|[一二三四五六七八九十]+、)\s*\S", re.MULTILINE)
_CODE = re.compile(r"```.*?(?:```|$)", re.DOTALL)
_LOOP = re.compile(r"(.{2,40}?)\1{3}", re.DOTALL)


class Artefact(StrEnum):
    """What is counted in a response.

    LENGTH            characters
    APOLOGIES         sentences that apologise
    EXCESS_APOLOGY    more than one of them
    HEDGES            sentences that hedge
    AI_MENTION        it calls itself a machine
    REFUSAL           it declines
    REPETITION        a sentence comes twice, or the text goes round in circles
    UNFINISHED        the policy did not end it by itself
    LIST_AND_SUMMARY  a list, and then the same once more in sum
    """

    LENGTH = "length"
    APOLOGIES = "apologies"
    EXCESS_APOLOGY = "excess_apology"
    HEDGES = "hedges"
    AI_MENTION = "ai_mention"
    REFUSAL = "refusal"
    REPETITION = "repetition"
    UNFINISHED = "unfinished"
    LIST_AND_SUMMARY = "list_and_summary"

    @property
    def label(self) -> Message:
        """For people, with its unit."""
        return _LABELS[self]


_LABELS: Mapping[Artefact, Message] = {
    Artefact.LENGTH: Message("Characters of a response"),
    Artefact.APOLOGIES: Message("Sentences that apologise, per 100 responses"),
    Artefact.EXCESS_APOLOGY: Message("Responses that apologise more than once, per 100"),
    Artefact.HEDGES: Message("Sentences that hedge, per 100 responses"),
    Artefact.AI_MENTION: Message("Responses that speak of being an AI, per 100"),
    Artefact.REFUSAL: Message("Responses that refuse, per 100"),
    Artefact.REPETITION: Message("Responses that repeat themselves, per 100"),
    Artefact.UNFINISHED: Message("Responses that do not end by themselves, per 100"),
    Artefact.LIST_AND_SUMMARY: Message("Responses that list and then sum up, per 100"),
}


class Response(NamedTuple):
    """A text, and whether the policy ended it by itself."""

    text: str
    is_finished: bool


@dataclass(frozen=True)
class Change:
    """An artefact before and after: counts per 100 responses, of `LENGTH` the mean of one.

    `low` and `high` bound the difference (after - before): a 95 % bootstrap interval over prompts.
    """

    artefact: Artefact
    before: float
    after: float
    low: float
    high: float
    is_alarming: bool

    @property
    def growth(self) -> float:
        """Relative: 0.5 is half as much again; infinite where there was nothing before."""
        if self.before == 0:
            return float("inf") if self.after > 0 else 0.0
        return self.after / self.before - 1

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """What `dataclasses.asdict` and JSON made of it."""
        return cls(**{**values, "artefact": Artefact(values["artefact"])})


def compare(before: Sequence[Response], after: Sequence[Response]) -> list[Change]:
    """What changed from one policy's responses to another's, to the same prompts in one order."""
    if not before:
        return []
    seen_before, seen_after = [observe(r) for r in before], [observe(r) for r in after]
    return [
        _change(artefact, [o[artefact] for o in seen_before], [o[artefact] for o in seen_after])
        for artefact in Artefact
    ]


def observe(response: Response) -> dict[Artefact, int]:
    """What a single response shows, as counts."""
    text = _CODE.sub("\n", response.text.replace("’", "'"))
    sentences = list(split_sentences(text))
    apologies = _count(Habit.APOLOGY, sentences)
    return {
        Artefact.LENGTH: len(response.text),
        Artefact.APOLOGIES: apologies,
        Artefact.EXCESS_APOLOGY: int(apologies > 1),
        Artefact.HEDGES: _count(Habit.HEDGE, sentences),
        Artefact.AI_MENTION: int(_count(Habit.AI_MENTION, sentences) > 0),
        Artefact.REFUSAL: int(_count(Habit.REFUSAL, sentences) > 0),
        Artefact.REPETITION: int(_is_repetitive(text, sentences)),
        Artefact.UNFINISHED: int(not response.is_finished),
        Artefact.LIST_AND_SUMMARY: int(_lists_and_sums_up(text, sentences)),
    }


def is_broken(response: Response) -> bool:
    """Nobody could want it: it does not end, or goes round in circles."""
    seen = observe(response)
    return bool(seen[Artefact.UNFINISHED] or seen[Artefact.REPETITION])


def split_sentences(text: str) -> Iterator[str]:
    """Sentences and lines, without surrounding blanks."""
    return (piece.strip() for piece in _SENTENCE_END.split(text) if piece and piece.strip())


def _count(habit: Habit, sentences: Sequence[str]) -> int:
    pattern = _pattern(habit)
    return sum(pattern.search(sentence) is not None for sentence in sentences)


@cache
def _pattern(habit: Habit) -> re.Pattern[str]:
    return compile_phrases(habit)


def _is_repetitive(text: str, sentences: Sequence[str]) -> bool:
    said = [s.casefold() for s in sentences if len(s) >= SHORTEST_SENTENCE and _has_words(s)]
    return len(set(said)) < len(said) or _goes_round(text)


def _goes_round(text: str) -> bool:
    # With a blank behind it, the last round is like the others.
    return any(_has_words(round.group(1)) for round in _LOOP.finditer(f"{text} "))


def _has_words(text: str) -> bool:
    """Rules of a table and long numbers are no words."""
    return any(character.isalpha() for character in text)


def _lists_and_sums_up(text: str, sentences: Sequence[str]) -> bool:
    is_list = len(_LIST_ITEM.findall(text)) >= LIST_ITEMS
    return is_list and _count(Habit.SUMMARY, sentences) > 0


def _change(artefact: Artefact, before: Sequence[int], after: Sequence[int]) -> Change:
    scale = 1.0 if artefact is Artefact.LENGTH else 100.0
    means = _resampled_means([b - a for a, b in zip(before, after, strict=True)])
    low, high = (scale * _quantile(means, share) for share in (0.025, 0.975))
    change = Change(artefact, scale * fmean(before), scale * fmean(after), low, high, False)
    is_certain = _quantile(means, ALARM_ERROR) > 0
    return replace(change, is_alarming=is_certain and _grew_much(change))


def _grew_much(change: Change) -> bool:
    if change.artefact is Artefact.LENGTH:
        return change.growth >= ALARMING_LENGTH_GROWTH
    is_much = change.after - change.before >= MIN_GROWTH_PER_100
    return is_much and change.growth >= ALARMING_GROWTH


def _resampled_means(differences: Sequence[int]) -> list[float]:
    """Sorted means over resampled prompts (Efron 1979), a function of the differences alone."""
    if len(set(differences)) == 1:
        return [float(differences[0])]
    rng = random.Random(0)
    count = len(differences)
    return sorted(sum(rng.choices(differences, k=count)) / count for _ in range(RESAMPLES))


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[round(share * (len(ordered) - 1))]
