"""What leads see of the quality of judgments: the queue of flagged comparisons, agreement, sides.

A decision that keeps a comparison covers the flags that its lead saw; later ones open it again. A
withdrawn comparison stays withdrawn, whatever else is flagged, until a lead keeps it.
"""

from __future__ import annotations

import threading
import uuid
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from labeling.access import Actor, require_lead
from labeling.agreement import Agreement, Unit, agreement
from labeling.assignment import Assignment
from store import annotators, comparisons, completions, prompts, reviews, verdict_counts
from store.db import Store
from store.errors import BadInput
from store.records import Decision, Message, Review
from store.reviews import FlaggedComparison, FlaggedJudgment, Stage
from training.proportions import wilson_interval

PAGE_SIZE = 50
MAX_NOTE = 2000


class FlaggedResponse(NamedTuple):
    """A response of a flagged comparison, and how many people flagged it as what."""

    text: str
    flagged_by: int
    kinds: tuple[str, ...]


class ReviewItem(NamedTuple):
    """A flagged comparison with all that a lead needs to decide.

    Responses are in their stored order. `prompt_kinds` are flags on the prompt. `newest_seq` goes
    with the decision: it tells which flags its lead saw.
    """

    comparison_id: str
    stage: Stage
    newest_seq: int
    language: str
    messages: tuple[Message, ...]
    prompt_flagged_by: int
    prompt_kinds: tuple[str, ...]
    responses: tuple[FlaggedResponse, ...]
    flagged: tuple[FlaggedJudgment, ...]
    review: Review | None
    reviewer: str | None


class ReviewPage(NamedTuple):
    """One page of a stage; pages count from 1."""

    items: list[ReviewItem]
    number: int
    pages: int
    counts: dict[Stage, int]


class SharedAgreement(NamedTuple):
    """Agreement on pairs of responses, out of so many comparisons."""

    agreement: Agreement
    comparisons: int


class SideShare(NamedTuple):
    """How often the response that stood first was chosen, with its 95 % Wilson interval."""

    share: float | None
    low: float
    high: float
    decided: int


class Reviewing:
    """The queue of flagged comparisons, and figures about how people judge."""

    def __init__(self, store: Store, assignment: Assignment) -> None:
        self._store = store
        self._assignment = assignment
        self._deciding = threading.Lock()  # keeps the store's and the assignment's order the same

    def page(self, actor: Actor, stage: str, *, number: int) -> ReviewPage:
        """A page of the comparisons in a stage; beyond the last page it is the last one."""
        require_lead(actor, "see what was flagged")
        wanted = _stage(stage)
        counts = reviews.count(self._store)
        pages = max(1, -(-counts[wanted] // PAGE_SIZE))
        number = min(max(number, 1), pages)
        found = reviews.in_stage(
            self._store, wanted, offset=(number - 1) * PAGE_SIZE, limit=PAGE_SIZE
        )
        return ReviewPage(self._items(found), number, pages, counts)

    def decide(
        self,
        actor: Actor,
        comparison_id: str,
        decision: Decision,
        *,
        seen_seq: int,
        note: str = "",
    ) -> Review:
        """Keep a comparison or take it out; the latest decision holds. Raises `NotFound`."""
        require_lead(actor, "decide about what was flagged")
        note = note.strip()
        if len(note) > MAX_NOTE:
            raise BadInput("A note has at most {most:,} characters.", most=MAX_NOTE)
        comparisons.get(self._store, comparison_id)
        review = Review(
            id=uuid.uuid4().hex,
            comparison_id=comparison_id,
            decision=decision,
            annotator_id=actor.id,
            recorded_at=self._store.clock(),
            note=note or None,
            seen_seq=seen_seq,
        )
        with self._deciding:
            reviews.record(self._store, review)
            if decision is Decision.WITHDRAWN:
                self._assignment.withdraw(comparison_id)
            else:
                self._assignment.restore(comparison_id)
        return review

    def agreement(self, actor: Actor) -> SharedAgreement:
        """How far people agree on which response is better, where several judged the same."""
        require_lead(actor, "see how far people agree")
        shared = verdict_counts.shared(self._store)
        units = [Unit((s.one, s.other, s.neither), s.pairs) for s in shared]
        return SharedAgreement(agreement(units), verdict_counts.count_shared(self._store))

    def sides(self, actor: Actor) -> SideShare:
        """Whether what stands first is chosen more often than chance has it."""
        require_lead(actor, "see which side is chosen")
        first, decided = verdict_counts.sides(self._store)
        if decided == 0:
            return SideShare(None, 0.0, 1.0, 0)
        return SideShare(first / decided, *wilson_interval(first, decided), decided)

    def _items(self, found: Sequence[FlaggedComparison]) -> list[ReviewItem]:
        ids = [row.comparison_id for row in found]
        flagged = defaultdict(list)
        for judgment in reviews.flags_on(self._store, ids):
            flagged[judgment.comparison_id].append(judgment)
        shown = comparisons.get_many(self._store, ids)
        asked = prompts.get_many(self._store, [c.prompt_id for c in shown.values()])
        texts = completions.get_many(
            self._store, [id for c in shown.values() for id in c.completion_ids]
        )
        decided = reviews.latest(self._store, ids)
        names = {person.id: person.name for person in annotators.list_all(self._store)}
        items = []
        for row in found:
            comparison, review = shown[row.comparison_id], decided.get(row.comparison_id)
            said = tuple(flagged[row.comparison_id])
            prompt = asked[comparison.prompt_id]
            items.append(
                ReviewItem(
                    comparison_id=row.comparison_id,
                    stage=row.stage,
                    newest_seq=row.newest_seq,
                    language=prompt.language,
                    messages=prompt.messages,
                    prompt_flagged_by=_people(said, None),
                    prompt_kinds=_kinds(said, None),
                    responses=tuple(
                        FlaggedResponse(texts[id].text, _people(said, id), _kinds(said, id))
                        for id in comparison.completion_ids
                    ),
                    flagged=said,
                    review=review,
                    reviewer=names.get(review.annotator_id) if review else None,
                )
            )
        return items


def _stage(name: str) -> Stage:
    try:
        return Stage(name)
    except ValueError:
        known = ", ".join(Stage)
        raise BadInput(
            "There is no {name!r} here; choose one of {known}.", name=name, known=known
        ) from None


def _people(said: Sequence[FlaggedJudgment], completion_id: str | None) -> int:
    """How many people flagged the response, or the prompt without one."""
    return sum(any(flag.completion_id == completion_id for flag in j.flags) for j in said)


def _kinds(said: Sequence[FlaggedJudgment], completion_id: str | None) -> tuple[str, ...]:
    """As what it was flagged, each once."""
    return tuple(
        dict.fromkeys(
            flag.kind for j in said for flag in j.flags if flag.completion_id == completion_id
        )
    )
