"""Reads the manners of a reply back from its text, exactly, by looking for the known phrases.

Serves the quality measurement of the starter policy and the tests. Only texts in the starter's own
domain can be read; a sentence that no phrasebook contains is counted as unknown.
"""

import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

from training.starter.grammar import ID_PATTERN, PHRASEBOOKS, Manners, recognise
from training.starter.phrasebook import UNSAFE, Intent, Language, Phrasebook

_CJK = re.compile(r"[\u4e00-\u9fff]")
_SENTENCE_END = {
    Language.EN: re.compile(r"(?<=[.!?])\s+"),
    Language.ZH: re.compile(r"(?<=[。！？])\s*"),
}


@dataclass(frozen=True)
class Observation:
    """What a reply to a prompt does.

    `manners.steps` counts different steps of the prompt's own intent, of any intent when the prompt
    is not one of the grammar's; `manners.restatement` counts only restatements of an id that the
    prompt names. `wrong_ids` are ids that the prompt does not contain, `foreign_steps` different
    steps of other intents, `duplicates` sentences said before, `unknown` sentences in no
    phrasebook.
    """

    language: Language
    intent: Intent | None
    manners: Manners
    ids: int
    wrong_ids: int
    foreign_steps: int
    duplicates: int
    unknown: int
    sentences: int
    characters: int

    @property
    def unsafe(self) -> bool:
        """Whether the prompt ought to be refused."""
        return self.intent in UNSAFE


def observe(prompt: str, completion: str) -> Observation:
    """Manners and faults of a completion, given the text of the customer's message."""
    known = recognise(prompt)
    language = known.language if known else detect_language(prompt)
    intent = known.intent if known else None
    book = PHRASEBOOKS[language]
    sentences = split_sentences(completion, language)
    asked = set(ID_PATTERN.findall(prompt))
    named = ID_PATTERN.findall(completion)
    own, foreign = _count_steps(completion, language, intent)
    manners = Manners(
        apologies=_count(completion, book.apologies),
        empathy=_count(completion, book.empathy),
        restatement=sum(found in asked for found in _find_restated(completion, language)),
        fillers=_count(completion, book.fillers),
        ai_mention=_count(completion, book.ai_mentions),
        refusal=_count(completion, book.refusals),
        alternative=_count(completion, book.alternatives),
        steps=own,
        hedges=_count(completion, book.hedges),
        contact=_count(completion, book.contacts),
        closing=_count(completion, book.closings),
    )
    return Observation(
        language=language,
        intent=intent,
        manners=manners,
        ids=len(named),
        wrong_ids=sum(found not in asked for found in named),
        foreign_steps=foreign,
        duplicates=sum(count - 1 for count in Counter(sentences).values()),
        unknown=sum(not _is_known(sentence, language) for sentence in sentences),
        sentences=len(sentences),
        characters=len(completion),
    )


def detect_language(text: str) -> Language:
    """Chinese if any Chinese character occurs, else English."""
    return Language.ZH if _CJK.search(text) else Language.EN


def split_sentences(text: str, language: Language) -> list[str]:
    """The sentences of a reply, without surrounding blanks."""
    return [piece for piece in _SENTENCE_END[language].split(text.strip()) if piece]


def _count(text: str, phrases: tuple[str, ...]) -> int:
    return sum(text.count(phrase) for phrase in phrases)


def _count_steps(text: str, language: Language, intent: Intent | None) -> tuple[int, int]:
    """Different steps of the intent and of all other intents."""
    own = foreign = 0
    for owner, texts in PHRASEBOOKS[language].intents.items():
        found = sum(step in text for step in texts.steps)
        if intent is None or owner is intent:
            own += found
        else:
            foreign += found
    return own, foreign


def _find_restated(text: str, language: Language) -> list[str]:
    """The ids of all restatements in the text."""
    return [match.group("id") for match in _compile_restatements(language).finditer(text)]


def _is_known(sentence: str, language: Language) -> bool:
    if sentence in _literal_sentences(language):
        return True
    return _compile_restatements(language).fullmatch(sentence) is not None


@lru_cache
def _literal_sentences(language: Language) -> frozenset[str]:
    book = PHRASEBOOKS[language]
    steps = (step for texts in book.intents.values() for step in texts.steps)
    return frozenset((*list_manner_phrases(book), *steps))


def list_manner_phrases(book: Phrasebook) -> tuple[str, ...]:
    """All literal phrases of a phrasebook that express a manner (steps and restatements aside)."""
    return (
        *book.apologies,
        *book.empathy,
        *book.fillers,
        *book.ai_mentions,
        *book.refusals,
        *book.alternatives,
        *book.hedges,
        *book.contacts,
        *book.closings,
    )


@lru_cache
def _compile_restatements(language: Language) -> re.Pattern[str]:
    """One expression for all restatement frames: any reference, any id, any topic and product."""
    book = PHRASEBOOKS[language]
    product = "(?:" + "|".join(map(re.escape, book.products.values())) + ")"
    topics = {
        product.join(map(re.escape, texts.topic.split("{product}")))
        for texts in book.intents.values()
    }
    references = {re.escape(texts.reference) for texts in book.intents.values()}
    slots = {
        "reference": "(?:" + "|".join(sorted(references)) + ")",
        "id": r"[A-H]\d{2}",
        "topic": "(?:" + "|".join(sorted(topics)) + ")",
    }
    frames = []
    for frame in book.restatements:
        pieces = re.split(r"\{(\w+)\}", frame)
        frames.append("".join(slots[p] if at % 2 else re.escape(p) for at, p in enumerate(pieces)))
    whole = "|".join(frames)
    return re.compile(rf"(?=[^.。]*?(?P<id>[A-H]\d{{2}}))(?:{whole})")
