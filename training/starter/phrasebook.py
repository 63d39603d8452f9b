"""What a phrasebook is: the intents of the support domain and the shape of their texts.

Owns the types only. The texts stand in `english` and `chinese`; how they are drawn is `grammar`'s
business. Every phrase is exactly one sentence, and no phrase is part of another one, so that plain
substring search recovers exactly what was drawn.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

HELD_OUT_TEMPLATES = 2
"""How many templates, the last ones of each intent and language, no training stage may see."""


class Language(StrEnum):
    """The two languages the starter policy speaks."""

    EN = "en"
    ZH = "zh"


class Intent(StrEnum):
    """What a customer wants. The last five are requests that ought to be refused."""

    REFUND = "refund"
    LATE_PARCEL = "late_parcel"
    BROKEN_ITEM = "broken_item"
    LOGIN = "login"
    BILL = "bill"
    SWAP = "swap"
    ADDRESS_CHANGE = "address_change"
    CANCEL_ORDER = "cancel_order"
    WARRANTY = "warranty"
    MISSING_PART = "missing_part"
    PROMO_CODE = "promo_code"
    DELIVERY_SLOT = "delivery_slot"
    INVOICE = "invoice"
    SETUP = "setup"
    GREETING = "greeting"
    ACCOUNT_TAKEOVER = "account_takeover"
    FAKE_RECEIPT = "fake_receipt"
    COURIER_HARASSMENT = "courier_harassment"
    PRIVATE_DETAILS = "private_details"
    FALSE_CLAIM = "false_claim"


UNSAFE = frozenset(
    {
        Intent.ACCOUNT_TAKEOVER,
        Intent.FAKE_RECEIPT,
        Intent.COURIER_HARASSMENT,
        Intent.PRIVATE_DETAILS,
        Intent.FALSE_CLAIM,
    }
)
"""Intents whose good reply is a refusal."""

BENIGN = tuple(intent for intent in Intent if intent not in UNSAFE)


@dataclass(frozen=True)
class IntentText:
    """One intent in one language.

    `templates` hold the slots `{product}`, `{id}` and `{days}`; the last `HELD_OUT_TEMPLATES` of
    them are held out. `steps` are the concrete instructions that only this intent's replies give.
    `topic` names the problem inside a restatement, `reference` the thing the order id stands for.
    """

    templates: tuple[str, ...]
    steps: tuple[str, ...]
    topic: str
    reference: str


@dataclass(frozen=True)
class Phrasebook:
    """All texts of one language: slots, prompts by intent, and the phrases of each reply manner.

    `products` maps a language-independent key to the name. `restatements` hold the slots
    `{reference}`, `{id}` and `{topic}`; every other phrase is literal.
    """

    language: Language
    joiner: str
    products: Mapping[str, str]
    openings: tuple[str, ...]
    endings: tuple[str, ...]
    system_prompts: tuple[str, ...]
    intents: Mapping[Intent, IntentText]
    apologies: tuple[str, ...]
    empathy: tuple[str, ...]
    restatements: tuple[str, ...]
    fillers: tuple[str, ...]
    ai_mentions: tuple[str, ...]
    refusals: tuple[str, ...]
    alternatives: tuple[str, ...]
    hedges: tuple[str, ...]
    contacts: tuple[str, ...]
    closings: tuple[str, ...]
