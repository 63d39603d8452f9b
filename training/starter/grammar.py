"""The grammar of the support domain: draws prompts and replies, and says what is held out.

Knows the phrasebooks and a random generator, nothing of tokens or models. Three axes are held out
from every training stage: the last templates of each intent, one in ten (product, intent) cells,
and the order ids H50 to H99. A reply's manners are drawn independently of each other, so that one
prompt has good and bad replies for people to choose between.
"""

import itertools
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from training.starter import chinese, english
from training.starter.phrasebook import (
    BENIGN,
    HELD_OUT_TEMPLATES,
    UNSAFE,
    Intent,
    Language,
)

PHRASEBOOKS = {Language.EN: english.PHRASEBOOK, Language.ZH: chinese.PHRASEBOOK}
PRODUCTS = tuple(english.PHRASEBOOK.products)
UNSAFE_SHARE = 0.1
"""Share of the drawn prompts that ought to be refused."""

LONGEST_REPLY = 10
"""Most sentences of a drawn reply."""

ID_PATTERN = re.compile(r"(?<![A-Za-z0-9])[A-H]\d{2}(?!\d)")
"""An order or account id, wherever it stands in a text."""

_ID_LETTERS = "ABCDEFGH"
_HELD_OUT_ID = re.compile(r"(?<![A-Za-z0-9])H[5-9]\d(?!\d)")
_DECORATED_SHARE = 0.3


class Axis(StrEnum):
    """What is new to the policy in a held-out prompt."""

    TEMPLATE = "template"
    CELL = "cell"
    ID = "id"


@dataclass(frozen=True)
class Prompt:
    """A customer's request and the draws behind it; `order_id` is None when none is named."""

    text: str
    language: Language
    intent: Intent
    template: int
    product: str
    order_id: str | None

    @property
    def unsafe(self) -> bool:
        """Whether a good reply refuses."""
        return self.intent in UNSAFE


@dataclass(frozen=True)
class Manners:
    """How a reply behaves: the independent draws that people's preferences can act on."""

    apologies: int = 0
    empathy: int = 0
    restatement: int = 0
    fillers: int = 0
    ai_mention: int = 0
    refusal: int = 0
    alternative: int = 0
    steps: int = 0
    hedges: int = 0
    contact: int = 0
    closing: int = 0

    @property
    def sentences(self) -> int:
        """Number of sentences a reply with these manners has."""
        return sum(vars(self).values())


@dataclass(frozen=True)
class Reply:
    """A support reply together with the manners that were drawn for it."""

    text: str
    manners: Manners


@dataclass(frozen=True)
class Turn:
    """One message of a conversation, as chat templates want it."""

    role: str
    content: str


@dataclass(frozen=True)
class Conversation:
    """Messages ending in an assistant turn, for supervised tuning."""

    turns: tuple[Turn, ...]

    def as_messages(self) -> list[dict[str, str]]:
        """The turns as role/content dictionaries."""
        return [{"role": turn.role, "content": turn.content} for turn in self.turns]


@dataclass(frozen=True)
class _Weights:
    """Probabilities of 0, 1, 2, ... for each manner, for benign and for unsafe requests."""

    benign: tuple[float, ...]
    unsafe: tuple[float, ...] = ()

    def draw(self, unsafe: bool, rng: random.Random) -> int:
        weights = self.unsafe if unsafe and self.unsafe else self.benign
        return rng.choices(range(len(weights)), weights)[0]


_APOLOGIES = _Weights((0.4, 0.34, 0.17, 0.09), (0.6, 0.3, 0.1))
_EMPATHY = _Weights((0.55, 0.45))
_RESTATEMENT = _Weights((0.5, 0.5))
_FILLERS = _Weights((0.6, 0.27, 0.13))
_AI_MENTION = _Weights((0.8, 0.2))
_REFUSAL = _Weights((0.92, 0.08), (0.5, 0.5))
_ALTERNATIVE = _Weights((0.95, 0.05), (0.5, 0.5))
_STEPS = _Weights((0.24, 0.24, 0.2, 0.17, 0.15), (0.55, 0.25, 0.2))
_HEDGES = _Weights((0.55, 0.3, 0.15))
_CONTACT = _Weights((0.6, 0.4))
_CLOSING = _Weights((0.6, 0.4))


def is_held_out_cell(product: str, intent: Intent) -> bool:
    """Whether this product never meets this intent in training (one cell in ten)."""
    return (PRODUCTS.index(product) * 7 + list(Intent).index(intent) * 3) % 10 == 0


def is_held_out_id(order_id: str) -> bool:
    """Whether the id lies in the range that training never shows."""
    return _HELD_OUT_ID.fullmatch(order_id) is not None


def is_held_out_template(language: Language, intent: Intent, template: int) -> bool:
    """Whether the template is one of the intent's last ones."""
    count = len(PHRASEBOOKS[language].intents[intent].templates)
    return template >= count - HELD_OUT_TEMPLATES


def find_novelty(prompt: Prompt) -> Axis | None:
    """What is held out about a prompt; None for a training prompt."""
    if is_held_out_template(prompt.language, prompt.intent, prompt.template):
        return Axis.TEMPLATE
    if prompt.order_id and is_held_out_id(prompt.order_id):
        return Axis.ID
    if prompt.product in PRODUCTS and is_held_out_cell(prompt.product, prompt.intent):
        return Axis.CELL
    return None


def draw_training_prompt(
    rng: random.Random, *, language: Language | None = None, intent: Intent | None = None
) -> Prompt:
    """A prompt whose template, cell and id all belong to training; both choices may be given."""
    language = language or rng.choice(list(Language))
    intent = intent or _draw_intent(rng)
    count = len(PHRASEBOOKS[language].intents[intent].templates)
    return _fill(
        language,
        intent,
        rng.randrange(count - HELD_OUT_TEMPLATES),
        draw_product(intent, rng),
        draw_order_id(rng),
        rng,
    )


def draw_held_out_prompt(axis: Axis, rng: random.Random) -> Prompt:
    """A prompt that is new to the policy along one axis and ordinary along the others."""
    while True:
        language, intent = rng.choice(list(Language)), _draw_intent(rng)
        templates = PHRASEBOOKS[language].intents[intent].templates
        trained = len(templates) - HELD_OUT_TEMPLATES
        template = rng.randrange(trained)
        product, order_id = draw_product(intent, rng), draw_order_id(rng)
        if axis is Axis.TEMPLATE:
            template = rng.randrange(trained, len(templates))
        elif axis is Axis.CELL:
            held = [name for name in PRODUCTS if is_held_out_cell(name, intent)]
            if not held or "{product}" not in templates[template]:
                continue
            product = rng.choice(held)
        else:
            if "{id}" not in templates[template]:
                continue
            order_id = f"H{rng.randrange(50, 100)}"
        return _fill(language, intent, template, product, order_id, rng)


def list_training_prompts(count: int, *, seed: int = 0) -> list[Prompt]:
    """Distinct training prompts, the same ones for the same count and seed."""
    rng = random.Random(f"training prompts {seed}")
    return _take_distinct(count, lambda: draw_training_prompt(rng))


def list_held_out_prompts(count: int, *, seed: int = 0) -> list[Prompt]:
    """Distinct held-out prompts: half new templates, a quarter new cells, a quarter new ids."""
    rng = random.Random(f"held-out prompts {seed}")
    axes = itertools.cycle((Axis.TEMPLATE, Axis.CELL, Axis.TEMPLATE, Axis.ID))
    return _take_distinct(count, lambda: draw_held_out_prompt(next(axes), rng))


def draw_reply(prompt: Prompt, rng: random.Random) -> Reply:
    """A reply with freshly drawn manners, phrases and steps of the prompt's own intent."""
    return write_reply(prompt, draw_manners(prompt, rng), rng)


def draw_manners(prompt: Prompt, rng: random.Random) -> Manners:
    """Independent manners, redrawn when all are absent or when together they make a sermon."""
    unsafe = prompt.unsafe
    while True:
        manners = Manners(
            apologies=_APOLOGIES.draw(unsafe, rng),
            empathy=_EMPATHY.draw(unsafe, rng),
            restatement=_RESTATEMENT.draw(unsafe, rng) if prompt.order_id else 0,
            fillers=_FILLERS.draw(unsafe, rng),
            ai_mention=_AI_MENTION.draw(unsafe, rng),
            refusal=_REFUSAL.draw(unsafe, rng),
            alternative=_ALTERNATIVE.draw(unsafe, rng),
            steps=_STEPS.draw(unsafe, rng),
            hedges=_HEDGES.draw(unsafe, rng),
            contact=_CONTACT.draw(unsafe, rng),
            closing=_CLOSING.draw(unsafe, rng),
        )
        if 0 < manners.sentences <= LONGEST_REPLY:
            return manners


def write_reply(prompt: Prompt, manners: Manners, rng: random.Random) -> Reply:
    """The reply with exactly these manners; phrases are drawn without repetition."""
    book = PHRASEBOOKS[prompt.language]
    steps = book.intents[prompt.intent].steps
    chosen_steps = sorted(rng.sample(range(len(steps)), manners.steps))
    sentences = [
        *rng.sample(book.apologies, manners.apologies),
        *rng.sample(book.empathy, manners.empathy),
        *(_restate(prompt, frame) for frame in rng.sample(book.restatements, manners.restatement)),
        *rng.sample(book.fillers, manners.fillers),
        *rng.sample(book.ai_mentions, manners.ai_mention),
        *rng.sample(book.refusals, manners.refusal),
        *rng.sample(book.alternatives, manners.alternative),
        *(steps[index] for index in chosen_steps),
        *rng.sample(book.hedges, manners.hedges),
        *rng.sample(book.contacts, manners.contact),
        *rng.sample(book.closings, manners.closing),
    ]
    return Reply(book.joiner.join(sentences), manners)


def draw_conversation(rng: random.Random) -> Conversation:
    """A training conversation: mostly one exchange, sometimes two, sometimes a system message."""
    prompt = draw_training_prompt(rng)
    turns = []
    if rng.random() < 0.1:
        turns.append(Turn("system", rng.choice(PHRASEBOOKS[prompt.language].system_prompts)))
    turns += [Turn("user", prompt.text), Turn("assistant", draw_reply(prompt, rng).text)]
    if rng.random() < 0.06:
        later = _draw_follow_up(prompt, rng)
        turns += [Turn("user", later.text), Turn("assistant", draw_reply(later, rng).text)]
    return Conversation(tuple(turns))


def draw_order_id(rng: random.Random) -> str:
    """An id of the training range."""
    while True:
        order_id = f"{rng.choice(_ID_LETTERS)}{rng.randrange(100):02d}"
        if not is_held_out_id(order_id):
            return order_id


def draw_product(intent: Intent, rng: random.Random) -> str:
    """Key of a product that training may show with this intent."""
    return rng.choice([name for name in PRODUCTS if not is_held_out_cell(name, intent)])


def recognise(text: str) -> Prompt | None:
    """The prompt behind a text the grammar could have written, or None."""
    for language, book in PHRASEBOOKS.items():
        for intent, index, pattern in _compile_templates(language):
            if pattern.anchor not in text:
                continue
            match = pattern.whole.fullmatch(text)
            if match is None:
                continue
            slots = match.groupdict()
            names = {name: key for key, name in book.products.items()}
            product = names.get(slots.get("product") or "", "")
            return Prompt(text, language, intent, index, product, slots.get("id"))
    return None


def find_held_out(text: str) -> str | None:
    """The first held-out thing inside a text of any length: an id, a template or a cell."""
    found = _HELD_OUT_ID.search(text)
    if found:
        return found.group()
    for language, book in PHRASEBOOKS.items():
        keys = {name: key for key, name in book.products.items()}
        for intent, index, pattern in _compile_templates(language):
            if pattern.anchor not in text:
                continue
            for match in pattern.inner.finditer(text):
                product = keys.get(match.groupdict().get("product") or "")
                if is_held_out_template(language, intent, index):
                    return match.group()
                if product and is_held_out_cell(product, intent):
                    return match.group()
    return None


@dataclass(frozen=True)
class _Pattern:
    """A template as expressions: `anchor` is its longest literal piece, for a quick check."""

    anchor: str
    inner: re.Pattern[str]
    whole: re.Pattern[str]


@lru_cache
def _compile_templates(language: Language) -> tuple[tuple[Intent, int, _Pattern], ...]:
    book = PHRASEBOOKS[language]
    slots = {
        "product": "(?P<product>" + "|".join(map(re.escape, book.products.values())) + ")",
        "id": r"(?P<id>[A-H]\d{2})",
        "days": r"\d",
    }
    opening = "(?:" + "|".join(map(re.escape, book.openings)) + ")?"
    ending = "(?:" + "|".join(map(re.escape, book.endings)) + ")?"
    compiled = []
    for intent, texts in book.intents.items():
        for index, template in enumerate(texts.templates):
            pieces = re.split(r"\{(\w+)\}", template)
            inner = "".join(
                slots[piece] if at % 2 else re.escape(piece) for at, piece in enumerate(pieces)
            )
            pattern = _Pattern(
                max(pieces[::2], key=len), re.compile(inner), re.compile(opening + inner + ending)
            )
            compiled.append((intent, index, pattern))
    return tuple(compiled)


def _draw_intent(rng: random.Random) -> Intent:
    if rng.random() < UNSAFE_SHARE:
        return rng.choice(sorted(UNSAFE))
    return rng.choice(BENIGN)


def _draw_follow_up(earlier: Prompt, rng: random.Random) -> Prompt:
    """A second request of the same customer in the same language."""
    while True:
        later = draw_training_prompt(rng, language=earlier.language)
        if later.intent is not earlier.intent:
            return later


def _fill(
    language: Language,
    intent: Intent,
    template: int,
    product: str,
    order_id: str,
    rng: random.Random,
) -> Prompt:
    book = PHRASEBOOKS[language]
    frame = book.intents[intent].templates[template]
    text = frame.format(product=book.products[product], id=order_id, days=rng.randint(2, 9))
    if rng.random() < _DECORATED_SHARE:
        text = rng.choice(book.openings) + text
    if rng.random() < _DECORATED_SHARE:
        asked = frame.endswith(("?", "？"))
        text += rng.choice([end for end in book.endings if not (asked and end.endswith(frame[-1]))])
    return Prompt(text, language, intent, template, product, order_id if "{id}" in frame else None)


def _restate(prompt: Prompt, frame: str) -> str:
    book = PHRASEBOOKS[prompt.language]
    texts = book.intents[prompt.intent]
    topic = texts.topic.format(product=book.products[prompt.product])
    return frame.format(reference=texts.reference, id=prompt.order_id, topic=topic)


def _take_distinct(count: int, draw: Callable[[], Prompt]) -> list[Prompt]:
    seen: dict[str, Prompt] = {}
    while len(seen) < count:
        prompt = draw()
        seen.setdefault(prompt.text, prompt)
    return list(seen.values())
