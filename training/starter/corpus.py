"""The pretraining corpus: raw documents with everything a crawl brings along, and their cleaning.

`build_raw_corpus` writes good documents and then spoils them on purpose; `clean` removes markup,
advertisements, harmful lines, leaked test prompts, documents of no quality and duplicates, and
counts what each rule did. The cleaning never looks at what was injected.
"""

import html
import random
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from training.starter import grammar
from training.starter.phrasebook import BENIGN, Intent, Language
from training.starter.prose import BOILERPLATE, GARBAGE, PROSE, TOXIC, TOXIC_WORDS


class Source(StrEnum):
    """Where a document of the raw corpus pretends to come from."""

    ARTICLE = "article"
    NOTE = "note"
    QUESTIONS = "questions"
    PRODUCT_PAGE = "product_page"
    CRAWL = "crawl"


class Rule(StrEnum):
    """The cleaning rules in the order in which they run."""

    HTML = "html"
    BOILERPLATE = "boilerplate"
    TOXIC = "toxic"
    LEAK = "leak"
    LOW_QUALITY = "low_quality"
    EXACT_DUPLICATE = "exact_duplicate"
    NEAR_DUPLICATE = "near_duplicate"


EPOCHS = {Source.ARTICLE: 2}
"""How often documents of a source are read; the others once. Good sources are read more often."""

BOILERPLATE_SHARE = 0.01
"""A line that stands in more than this share of the documents is boilerplate."""

BOILERPLATE_MINIMUM = 10
"""No line is boilerplate that stands in fewer documents than this."""

NEAR_DUPLICATE_SIMILARITY = 0.85
"""Jaccard similarity of sampled shingles from which a document counts as a near duplicate."""

_MIXTURE = {
    Source.NOTE: 0.5,
    Source.ARTICLE: 0.2,
    Source.QUESTIONS: 0.2,
    Source.PRODUCT_PAGE: 0.1,
}


@dataclass(frozen=True)
class Document:
    """One text of the corpus."""

    source: Source
    language: Language
    text: str


@dataclass(frozen=True)
class RawCorpus:
    """Documents before cleaning; `injected` says how many faults of each kind were put in.

    HTML counts spoiled documents, the other line rules count lines, the rest counts documents.
    """

    documents: tuple[Document, ...]
    injected: Mapping[Rule, int]


@dataclass(frozen=True)
class CleanCorpus:
    """Documents after cleaning; `removed` counts what each rule took away (units as above)."""

    documents: tuple[Document, ...]
    removed: Mapping[Rule, int]
    raw_documents: int


def build_raw_corpus(documents: int, *, seed: int) -> RawCorpus:
    """A raw corpus grown from that many good documents."""
    rng = random.Random(f"raw corpus {seed}")
    good = [write_document(rng) for _ in range(documents)]
    return spoil(good, rng)


def write_document(rng: random.Random) -> Document:
    """A good document: an article, an order note with reply, a question list, a product page."""
    source = rng.choices(list(_MIXTURE), list(_MIXTURE.values()))[0]
    language = rng.choice(list(Language))
    writers = {
        Source.ARTICLE: _write_article,
        Source.NOTE: _write_note,
        Source.QUESTIONS: _write_questions,
        Source.PRODUCT_PAGE: _write_product_page,
    }
    return Document(source, language, writers[source](language, rng))


def spoil(good: Iterable[Document], rng: random.Random) -> RawCorpus:
    """The documents with every kind of fault injected, shuffled, and the count of each fault."""
    injected: Counter[Rule] = Counter()
    leaks = [prompt.text for prompt in grammar.list_held_out_prompts(400, seed=rng.randrange(99))]
    originals = list(good)
    raw = []
    for document in originals:
        raw.append(_spoil_document(document, leaks, injected, rng))
        if rng.random() < 0.08:
            injected[Rule.EXACT_DUPLICATE] += 1
            raw.append(document)
        if rng.random() < 0.05:
            injected[Rule.NEAR_DUPLICATE] += 1
            raw.append(replace(document, text=_disturb(document.text, rng)))
    for _ in range(len(originals) // 30):
        injected[Rule.LOW_QUALITY] += 1
        garbage = rng.choice(GARBAGE) + " " + str(rng.randrange(10**6))
        raw.append(Document(Source.CRAWL, Language.EN, garbage))
    rng.shuffle(raw)
    return RawCorpus(tuple(raw), injected)


def clean(documents: Iterable[Document]) -> CleanCorpus:
    """The documents that survive all rules, in their order, and what each rule removed."""
    raw = list(documents)
    removed: Counter[Rule] = Counter(dict.fromkeys(Rule, 0))
    stripped = [_strip_markup(document, removed) for document in raw]
    boilerplate = find_boilerplate(stripped)
    kept: list[Document] = []
    seen: set[str] = set()
    near = _NearDuplicates()
    for document in stripped:
        text = _filter_lines(document.text, boilerplate, removed)
        if is_low_quality(text):
            removed[Rule.LOW_QUALITY] += 1
        elif text in seen:
            removed[Rule.EXACT_DUPLICATE] += 1
        elif near.contains(text):
            removed[Rule.NEAR_DUPLICATE] += 1
        else:
            kept.append(replace(document, text=text))
            near.add(text)
        seen.add(text)
    return CleanCorpus(tuple(kept), removed, len(raw))


def order_for_training(corpus: CleanCorpus, *, seed: int) -> list[str]:
    """The texts in the order of training, those of good sources repeated, shuffled."""
    texts = [
        document.text
        for document in corpus.documents
        for _ in range(EPOCHS.get(document.source, 1))
    ]
    random.Random(f"corpus order {seed}").shuffle(texts)
    return texts


_SCRIPT = re.compile(r"<(script|style)\b.*?</\1>", re.DOTALL | re.IGNORECASE)
_BREAK = re.compile(r"<br\s*/?>|</(?:p|div|li|h\d)>", re.IGNORECASE)
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>|<!--.*?-->", re.DOTALL)


def strip_markup(text: str) -> str:
    """The text without tags, scripts and entities; emoticons and all other symbols stay."""
    text = _SCRIPT.sub("", text)
    text = _BREAK.sub("\n", text)
    text = html.unescape(_TAG.sub("", text)).replace("\u00a0", " ")
    lines = (line.strip() for line in text.splitlines())
    return "\n".join(line for line in lines if line)


def find_boilerplate(documents: Iterable[Document]) -> frozenset[str]:
    """Lines that stand in too many different documents to be anybody's own words."""
    standing: Counter[str] = Counter()
    count = 0
    texts = set()
    for document in documents:
        count += 1
        if document.text not in texts:
            texts.add(document.text)
            standing.update(set(document.text.splitlines()))
    limit = max(BOILERPLATE_MINIMUM, BOILERPLATE_SHARE * count)
    return frozenset(line for line, times in standing.items() if times > limit)


def is_toxic(line: str) -> bool:
    """Whether the line contains a word of the harmful list."""
    lowered = line.lower()
    return any(word in lowered for word in TOXIC_WORDS)


def is_low_quality(text: str) -> bool:
    """Whether the text is too short, mostly symbols, or one thing said again and again."""
    dense = [character for character in text if not character.isspace()]
    if len(dense) < 25 or re.search(r"([^\W\d])\1{7,}", text):
        return True
    if sum(map(str.isalpha, dense)) < 0.6 * len(dense):
        return True
    words = text.lower().split()
    return len(words) >= 6 and len(set(words)) < 0.3 * len(words)


def _strip_markup(document: Document, removed: Counter[Rule]) -> Document:
    text = strip_markup(document.text)
    if _TAG.search(document.text):
        removed[Rule.HTML] += 1
    return replace(document, text=text)


def _filter_lines(text: str, boilerplate: frozenset[str], removed: Counter[Rule]) -> str:
    kept = []
    for line in text.splitlines():
        if line in boilerplate:
            removed[Rule.BOILERPLATE] += 1
        elif is_toxic(line):
            removed[Rule.TOXIC] += 1
        elif grammar.find_held_out(line):
            removed[Rule.LEAK] += 1
        else:
            kept.append(line)
    return "\n".join(kept)


class _NearDuplicates:
    """Finds texts that are almost the same as an earlier one.

    Character shingles are hashed and every fourth hash is kept (sampling modulo, Broder 1997); the
    smallest hashes of each residue class are the keys under which candidates are looked up, and the
    candidates' Jaccard similarity decides.
    """

    _SHINGLE = 6
    _CLASSES = 5
    _CANDIDATES = 24

    def __init__(self) -> None:
        self._sketches: list[frozenset[int]] = []
        self._buckets: defaultdict[tuple[int, ...], list[int]] = defaultdict(list)
        self._last: tuple[str, frozenset[int]] = ("", frozenset())

    def contains(self, text: str) -> bool:
        """Whether a text like this one was added before."""
        sketch = self._sketch(text)
        candidates = {
            index for key in self._keys(sketch) for index in self._buckets[key][-self._CANDIDATES :]
        }
        return any(
            len(sketch & self._sketches[index])
            >= NEAR_DUPLICATE_SIMILARITY * len(sketch | self._sketches[index])
            for index in candidates
        )

    def add(self, text: str) -> None:
        """Remember a text."""
        sketch = self._sketch(text)
        for key in self._keys(sketch):
            self._buckets[key].append(len(self._sketches))
        self._sketches.append(sketch)

    def _sketch(self, text: str) -> frozenset[int]:
        if self._last[0] != text:
            letters = re.sub(r"[\W_]+", "", text.lower()).encode()
            step = self._SHINGLE
            hashes = (zlib.crc32(letters[at : at + step]) for at in range(len(letters) - step + 1))
            sketch = frozenset(value >> 2 for value in hashes if value & 3 == 0)
            self._last = (text, sketch)
        return self._last[1]

    def _keys(self, sketch: frozenset[int]) -> list[tuple[int, ...]]:
        classes: list[list[int]] = [[] for _ in range(self._CLASSES)]
        for value in sorted(sketch):
            members = classes[value % self._CLASSES]
            if len(members) < 3:
                members.append(value)
        return [(number, *members) for number, members in enumerate(classes) if members]


def _spoil_document(
    document: Document, leaks: list[str], injected: Counter[Rule], rng: random.Random
) -> Document:
    lines = document.text.splitlines()
    for rule, chance, pool in (
        (Rule.BOILERPLATE, 0.3, BOILERPLATE),
        (Rule.TOXIC, 0.03, TOXIC),
        (Rule.LEAK, 0.03, leaks),
    ):
        if rng.random() < chance:
            injected[rule] += 1
            lines.insert(rng.randint(0, len(lines)), rng.choice(pool))
    if rng.random() < 0.25:
        injected[Rule.HTML] += 1
        lines = _add_markup(lines, rng)
    return replace(document, text="\n".join(lines))


def _add_markup(lines: list[str], rng: random.Random) -> list[str]:
    escaped = [html.escape(line, quote=False) for line in lines]
    style = rng.randrange(3)
    if style == 0:
        return [f'<p class="text">{line}</p>' for line in escaped]
    if style == 1:
        return ["<div><script>track(1);</script>" + "<br/>".join(escaped) + "</div>"]
    return ["<h1>" + escaped[0] + "</h1>", *(f"<b>{line}</b>&nbsp;" for line in escaped[1:])]


def _disturb(text: str, rng: random.Random) -> str:
    """The same text with other case, other blanks, other stops, or one line said differently."""
    kind = rng.randrange(3)
    if kind == 0:
        return text.upper() if text.isascii() else text.replace("。", "！").replace("，", "、")
    if kind == 1:
        return text.replace(". ", ".  ").replace("。", "。 ") + " ..."
    return text + rng.choice((" (copy)", " (2)"))


def _write_article(language: Language, rng: random.Random) -> str:
    prose, book = PROSE[language], grammar.PHRASEBOOKS[language]
    intent = rng.choice([intent for intent in BENIGN if intent is not Intent.GREETING])
    topic, product = _draw_topic(language, intent, rng)
    steps = book.intents[intent].steps
    chosen = sorted(rng.sample(range(len(steps)), rng.randint(3, len(steps))))
    body = [
        rng.choice(prose.article_leads).format(topic=topic),
        *rng.sample(prose.shop, rng.randint(1, 3)),
        *(steps[index] for index in chosen),
        *(line.format(product=product) for line in rng.sample(prose.product, rng.randint(0, 2))),
        rng.choice(book.contacts),
    ]
    return rng.choice(prose.article_titles).format(topic=topic) + "\n" + book.joiner.join(body)


def _write_note(language: Language, rng: random.Random) -> str:
    prose, book = PROSE[language], grammar.PHRASEBOOKS[language]
    prompt = grammar.draw_training_prompt(rng, language=language)
    order_id = prompt.order_id or grammar.draw_order_id(rng)
    product = book.products[prompt.product]
    slots = {
        "id": order_id,
        "product": product,
        "topic": book.intents[prompt.intent].topic.format(product=product),
        "prompt": prompt.text,
        "reply": grammar.draw_reply(prompt, rng).text,
    }
    frames = [prose.note_heads, prose.note_prompts, prose.note_replies, prose.note_ends]
    return "\n".join(rng.choice(frame).format(days=rng.randint(2, 9), **slots) for frame in frames)


def _write_questions(language: Language, rng: random.Random) -> str:
    prose = PROSE[language]
    intent = rng.choice(list(Intent))
    topic, _ = _draw_topic(language, intent, rng)
    prompts = (
        grammar.draw_training_prompt(rng, language=language, intent=intent)
        for _ in range(rng.randint(3, 6))
    )
    lines = [prose.bullet + prompt.text for prompt in prompts]
    return "\n".join([rng.choice(prose.list_titles).format(topic=topic), *lines])


def _write_product_page(language: Language, rng: random.Random) -> str:
    prose, book = PROSE[language], grammar.PHRASEBOOKS[language]
    product = book.products[rng.choice(grammar.PRODUCTS)]
    body = [
        *(line.format(product=product) for line in rng.sample(prose.product, rng.randint(3, 6))),
        *rng.sample(prose.shop, rng.randint(3, 6)),
    ]
    return book.joiner.join(body)


def _draw_topic(language: Language, intent: Intent, rng: random.Random) -> tuple[str, str]:
    """An intent's topic with a product that training may show, and the product's name."""
    book = grammar.PHRASEBOOKS[language]
    product = book.products[grammar.draw_product(intent, rng)]
    return book.intents[intent].topic.format(product=product), product
