"""Practice: comparisons with a known verdict that everybody judges once, before anything else.

Leads write them, one by one or from a file. The expected verdict leaves this module only with the
feedback on a judgment that is durable. Knows nothing of the pool: practice is in no count of it.
"""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from labeling.access import Actor, require_lead
from labeling.assignment import LEASE_LIFE
from labeling.i18n import mark
from store import annotators, comparisons, judgments, languages, practice, prompts
from store.db import Store
from store.errors import BadInput, BadRow, Conflict, WhetstoneError
from store.formats.item import SourceRow
from store.import_files import RowFile
from store.practice import NewItem
from store.records import (
    Comparison,
    Completion,
    Judgment,
    Lease,
    Message,
    PracticeItem,
    Purpose,
    Split,
    Verdict,
)

MAX_TEXT = 20_000
MAX_EXPLANATION = 4000
MAX_ITEMS = 500
_SIZE = 2

Refuse = Callable[..., BadInput]
_FIELDS = {
    "prompt": mark("Prompt"),
    "response_a": mark("Response A"),
    "response_b": mark("Response B"),
    "better": mark("Expected verdict"),
    "explanation": mark("Explanation"),
}


class Better(StrEnum):
    """The verdict that is expected; A is the response written first, wherever it is shown."""

    A = "a"
    B = "b"
    TIE = "tie"


class Draft(NamedTuple):
    """A practice item as a lead writes it."""

    prompt: str
    response_a: str
    response_b: str
    better: str
    explanation: str


class Loaded(NamedTuple):
    """What became of a file of practice items."""

    added: int
    refused: list[BadRow]


class Number(NamedTuple):
    """Which of the items it is, from 1, and how many there are."""

    number: int
    total: int


class Feedback(NamedTuple):
    """What is told once a practice item was judged.

    `agrees` is None where no verdict was given; `expected_place` counts from 0 in the order
    displayed and is None for a tie.
    """

    agrees: bool | None
    expected_place: int | None
    explanation: str


class Listed(NamedTuple):
    """A practice item as leads see it."""

    id: str
    prompt: str
    better: Better
    explanation: str
    is_active: bool


class Result(NamedTuple):
    """How one person did: of the items answered, how many as expected."""

    name: str
    answered: int
    agreed: int


class PracticeClaim(NamedTuple):
    """What a page gets, and which of the leases that it holds are practice."""

    leases: list[Lease]
    held: frozenset[str]


class Practice:
    """Gives each person every active item once, and tells them and the leads how it went."""

    def __init__(self, store: Store, *, rng: random.Random) -> None:
        self._store = store
        self._rng = rng
        self._lock = threading.Lock()  # protects everything below
        self._items = {item.comparison_id: item for item in practice.list_all(store)}
        self._leases: dict[str, dict[str, Lease]] = {}  # by annotator, then by comparison
        self._answers: dict[str, dict[str, str]] = {}  # judgment by annotator and comparison
        if self._items:
            for lease in comparisons.open_leases(store, now=store.clock()):
                if lease.comparison_id in self._items:
                    self._leases.setdefault(lease.annotator_id, {})[lease.comparison_id] = lease

    # What leads do

    def add(self, actor: Actor, draft: Draft) -> None:
        """One more item, for everybody. Raises `BadInput`."""
        require_lead(actor, "write practice items")
        self._add(actor, [_checked(draft, _refuse)])

    def load(self, actor: Actor, path: Path) -> Loaded:
        """The items of a file; a bad row is refused by line and field, the others are kept.

        Raises `BadInput` for a file that cannot be read.
        """
        require_lead(actor, "write practice items")
        drafts: list[Draft] = []
        refused: list[BadRow] = []
        with RowFile(path) as rows:
            for row in rows:
                try:
                    if isinstance(row, BadRow):
                        raise row
                    drafts.append(_draft_of(row))
                except BadRow as bad:
                    refused.append(bad)
        self._add(actor, drafts)
        return Loaded(len(drafts), refused)

    def set_active(self, actor: Actor, id: str, is_active: bool) -> None:
        """Give an item to people, or to nobody any more; its answers stay. Raises `NotFound`."""
        require_lead(actor, "change practice items")
        changed = practice.set_active(self._store, id, is_active)
        with self._lock:
            self._items[id] = changed

    def listed(self, actor: Actor) -> list[Listed]:
        """Every item, oldest first."""
        require_lead(actor, "see practice items")
        with self._lock:
            items = list(self._items.values())
        found = comparisons.get_many(self._store, [item.comparison_id for item in items])
        asked = prompts.get_many(self._store, [c.prompt_id for c in found.values()])
        return [
            Listed(
                item.comparison_id,
                asked[found[item.comparison_id].prompt_id].messages[-1]["content"],
                _better(item, found[item.comparison_id]),
                item.explanation,
                item.is_active,
            )
            for item in items
            if item.comparison_id in found
        ]

    def results(self, actor: Actor) -> list[Result]:
        """How everybody did who answered any, in the order of their names."""
        require_lead(actor, "see how people did")
        given: dict[str, list[bool]] = {}
        for judgment in judgments.of_practice(self._store):
            agrees = _agrees(judgment, self._items[judgment.comparison_id])
            given.setdefault(judgment.annotator_id, []).append(agrees is True)
        names = {person.id: person.name for person in annotators.list_all(self._store)}
        found = [Result(names.get(id, id), len(all), sum(all)) for id, all in given.items()]
        return sorted(found, key=lambda result: result.name.casefold())

    # What annotators do

    def claim(self, annotator_id: str, want: int, *, held: Collection[str]) -> PracticeClaim:
        """Up to `want` leases of active items that the annotator has not answered, in order.

        An item that the annotator was shown before keeps its sides.
        """
        if not self._items:
            return PracticeClaim([], frozenset())
        answers = self._answers_of(annotator_id)
        fresh: list[Lease] = []
        with self._lock:
            own = self._leases.setdefault(annotator_id, {})
            mine = frozenset(lease.id for lease in own.values() if lease.id in held)
            open_ones = [
                item.comparison_id
                for item in self._items.values()
                if item.is_active and item.comparison_id not in answers
            ]
            given = []
            for id in [id for id in open_ones if id not in own or own[id].id not in held][:want]:
                known = own.get(id)
                own[id] = self._renewed(known) if known else self._new_lease(id, annotator_id)
                given.append(own[id])
                if known is None:
                    fresh.append(own[id])
        self._record(fresh)
        return PracticeClaim(given, mine)

    def number_of(self, comparison_id: str) -> Number | None:
        """Its place among the active items; None for what is no practice."""
        with self._lock:
            item = self._items.get(comparison_id)
            if item is None:
                return None
            active = [x.comparison_id for x in self._items.values() if x.is_active or x is item]
            return Number(active.index(comparison_id) + 1, len(active))

    def check_first(self, judgment: Judgment) -> None:
        """Raises `Conflict` when somebody answers a practice item anew; the first one counts."""
        if judgment.comparison_id not in self._items:
            return
        known = self._answers_of(judgment.annotator_id).get(judgment.comparison_id)
        if judgment.verdict is Verdict.RETRACTED or known not in (None, judgment.id):
            raise Conflict("A practice item is answered once; the first verdict stays.")

    def settle(self, judgment: Judgment) -> bool:
        """Book a durable judgment; whether it was one of a practice item."""
        if judgment.comparison_id not in self._items:
            return False
        with self._lock:
            known = self._answers.get(judgment.annotator_id)
            if known is not None:
                known.setdefault(judgment.comparison_id, judgment.id)
        return True

    def feedback(self, judgment: Judgment) -> Feedback | None:
        """What to tell whoever gave it; None for what is no practice."""
        item = self._items.get(judgment.comparison_id)
        if item is None:
            return None
        expected = item.expected_completion_id
        displayed = judgment.displayed_completion_ids
        return Feedback(
            _agrees(judgment, item),
            None if expected is None else displayed.index(expected),
            item.explanation,
        )

    def _add(self, actor: Actor, drafts: Sequence[Draft]) -> None:
        if len(self._items) + len(drafts) > MAX_ITEMS:
            raise BadInput("There can be {n} practice items; nobody learns from more.", n=MAX_ITEMS)
        new = [self._new_item(actor, draft) for draft in drafts]
        if not new:
            return
        practice.add(self._store, new)
        with self._lock:
            self._items.update({n.item.comparison_id: n.item for n in new})

    def _new_item(self, actor: Actor, draft: Draft) -> NewItem:
        now = self._store.clock()
        message: Message = {"role": "user", "content": draft.prompt}
        prompt = prompts.make(
            [message],
            language=languages.detect(draft.prompt),
            split=Split.TRAIN,
            source=prompts.PRACTICE,
        )
        a, b = (
            Completion(
                id=uuid.uuid4().hex,
                prompt_id=prompt.id,
                text=text,
                source=prompts.PRACTICE,
                policy_version=None,
                adapter_sha256=None,
                sampling=None,
                seed=None,
                finish_reason="import",
                token_count=None,
                created_at=now,
            )
            for text in (draft.response_a, draft.response_b)
        )
        comparison = Comparison(uuid.uuid4().hex, prompt.id, (a.id, b.id), Purpose.PRACTICE)
        expected = {Better.A: a.id, Better.B: b.id, Better.TIE: None}[Better(draft.better)]
        item = PracticeItem(comparison.id, expected, draft.explanation, actor.id, now)
        return NewItem(item, comparison, prompt, (a, b))

    def _answers_of(self, annotator_id: str) -> dict[str, str]:
        """The first judgment by comparison; asked of the store once."""
        with self._lock:
            known = self._answers.get(annotator_id)
        if known is None:
            given = judgments.of_practice(self._store, annotator_id=annotator_id)
            with self._lock:
                known = self._answers.setdefault(
                    annotator_id, {judgment.comparison_id: judgment.id for judgment in given}
                )
        return known

    def _record(self, fresh: Sequence[Lease]) -> None:
        """Make new leases durable; nobody holds them when that fails."""
        if not fresh:
            return
        try:
            comparisons.record_leases(self._store, fresh)
        except BaseException:
            with self._lock:
                for lease in fresh:
                    self._leases[lease.annotator_id].pop(lease.comparison_id, None)
            raise

    def _new_lease(self, comparison_id: str, annotator_id: str) -> Lease:
        order = list(range(_SIZE))
        self._rng.shuffle(order)
        now = self._store.clock()
        return Lease(
            uuid.uuid4().hex, comparison_id, annotator_id, tuple(order), now, now + LEASE_LIFE
        )

    def _renewed(self, lease: Lease) -> Lease:
        return replace(lease, expires_at=self._store.clock() + LEASE_LIFE)


def _agrees(judgment: Judgment, item: PracticeItem) -> bool | None:
    """None where the person could not judge. Of two ratings the higher one prefers."""
    if judgment.verdict is Verdict.SKIPPED:
        return None
    if judgment.verdict is Verdict.PREFERRED:
        return judgment.preferred_completion_id == item.expected_completion_id
    if judgment.verdict is Verdict.RATED:
        return _higher(judgment) == (item.expected_completion_id,)
    return judgment.verdict is Verdict.TIE and item.expected_completion_id is None


def _higher(judgment: Judgment) -> tuple[str | None] | None:
    """The completion with the higher rating, (None,) where they are equal; None if one lacks."""
    first, second = judgment.ratings or (None, None)
    if first is None or second is None:
        return None
    if first == second:
        return (None,)
    return (judgment.displayed_completion_ids[0 if first > second else 1],)


def _better(item: PracticeItem, comparison: Comparison) -> Better:
    if item.expected_completion_id is None:
        return Better.TIE
    return (Better.A, Better.B)[comparison.completion_ids.index(item.expected_completion_id)]


def _draft_of(row: SourceRow) -> Draft:
    """Raises `BadRow`."""
    return _checked(Draft(*(row.text(field) for field in Draft._fields)), row.refuse)


def _refuse(field: str, problem: str, /, **values: object) -> BadInput:
    what, why = WhetstoneError(_FIELDS[field]), WhetstoneError(problem, **values)
    return BadInput("{what}: {why}.", what=what, why=why)


def _checked(draft: Draft, refuse: Refuse) -> Draft:
    """The same, trimmed. Raises what `refuse` makes."""
    given = Draft(*(text.strip() for text in draft))
    for field, text in given._asdict().items():
        most = MAX_EXPLANATION if field == "explanation" else MAX_TEXT
        if not text:
            raise refuse(field, "is empty")
        if len(text) > most:
            raise refuse(field, "has more than {most} characters", most=most)
    if given.better.lower() not in list(Better):
        raise refuse("better", "is one of a, b and tie")
    if given.response_a == given.response_b:
        raise refuse("response_b", "is the same text as response_a")
    return given._replace(better=given.better.lower())
