"""Showing comparisons blind and taking judgments of them. One insert and one select, no model."""

from __future__ import annotations

import random
import threading
from collections import OrderedDict, deque
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from itertools import count
from statistics import median
from typing import NamedTuple

from labeling import verdicts
from labeling.access import Actor
from labeling.assignment import Assignment
from labeling.practice import Feedback, Number, Practice
from labeling.rendering import render_markdown
from labeling.verdicts import VerdictGiven
from store import comparisons, completions, judgments, prompts
from store.db import Store
from store.errors import BadInput, Conflict, NotAllowed, NotFound
from store.records import Comparison, Completion, Judgment, Lease, Message, Prompt, Purpose, Verdict

MAX_WANT = 20
MAX_SHOWN = 10_000
READ_AHEAD = 48
MAX_READ = 1000
GOALS = (50, 200, 1000)


class Text(NamedTuple):
    """One text, as written and as safe HTML."""

    html: str
    text: str


class Turn(NamedTuple):
    """One message of the prompt."""

    role: str
    html: str
    text: str


@dataclass(frozen=True)
class Item:
    """A leased comparison as an annotator may see it: nothing tells where a response is from."""

    lease_id: str
    expires_at: datetime
    language: str
    messages: list[Turn]
    responses: list[Text]
    practice: Number | None = None


class Items(NamedTuple):
    """New items for a page, and the leases among those it holds that are with somebody else."""

    items: list[Item]
    gone: list[str]


class Said(NamedTuple):
    """An item, and what its annotator said of it."""

    item: Item
    given: VerdictGiven


@dataclass(frozen=True)
class Progress:
    """The numbers beside the page; `goal` is the next one at which training gains noticeably.

    `streak_days` are days in a row with at least one judgment, up to today or, as long as there is
    none today, up to yesterday.
    """

    judged: int
    goal: int
    judged_by_me: int
    judged_by_me_today: int
    streak_days: int
    median_duration_s: float | None


@dataclass(frozen=True)
class PastJudgment:
    """One line of an annotator's own history."""

    id: str
    lease_id: str
    recorded_at: datetime
    verdict: Verdict
    place: int | None
    strength: int | None
    ranks: Sequence[int | None] | None
    ratings: Sequence[int | None] | None
    rating_scale: str | None
    reasons: Sequence[str]
    rationale: str | None
    flags: list[str]
    is_rewritten: bool
    prompt_text: str
    response_texts: list[str]
    is_practice: bool


class _Contents(NamedTuple):
    """A comparison with all that is shown of it; none of it ever changes."""

    comparison: Comparison
    prompt: Prompt
    completions: dict[str, Completion]


@dataclass
class _Tally:
    """One annotator's counts, kept so that an acknowledgement needs no aggregate query."""

    judged: int
    today: int
    day: date
    streak_before: int  # days in a row up to the day before
    durations_ms: deque[int] = field(default_factory=lambda: deque(maxlen=50))

    def turn_to(self, day: date) -> None:
        """Another day may have begun."""
        if day == self.day:
            return
        is_next = day - self.day == timedelta(days=1)
        self.streak_before = self.streak_before + 1 if is_next and self.today > 0 else 0
        self.day, self.today = day, 0


class Comparing:
    """The judging path: items out, judgments in, undo, history."""

    def __init__(
        self, store: Store, assignment: Assignment, practice: Practice | None = None
    ) -> None:
        self._store = store
        self._assignment = assignment
        self._practice = practice or Practice(store, rng=random.SystemRandom())
        self._lock = threading.Lock()  # protects _tallies
        self._tallies: dict[str, _Tally] = {}
        self._shown: OrderedDict[str, Comparison] = OrderedDict()  # of late; they never change
        self._read: OrderedDict[str, _Contents] = OrderedDict()  # of late, or ahead
        self._showing = threading.Lock()  # protects _shown and _read

    def items(self, actor: Actor, *, want: int, held: Sequence[str]) -> Items:
        """Up to `want` items beside those the page holds: practice, then what is open already."""
        wanted = max(0, min(want, MAX_WANT))
        practice = self._practice.claim(actor.id, wanted, held=held)
        claim = self._assignment.claim(
            actor.id,
            wanted - len(practice.leases),
            held=[id for id in held if id not in practice.held],
        )
        return Items(self._show([*practice.leases, *claim.leases]), claim.gone)

    def judge(self, actor: Actor, given: VerdictGiven) -> Future[Judgment]:
        """Append the judgment; the future resolves when it is durable.

        Late is never lost: a lease that has expired is accepted all the same. Raises `BadInput`
        for a verdict that contradicts itself, `NotFound` or `NotAllowed` for a foreign lease, and,
        through the future, `Conflict` when what it corrects was changed since. A practice item
        is judged once: anew is a `Conflict` too.
        """
        verdicts.check(given)
        lease = self._lease_of(actor, given.lease_id)
        comparison = self._comparison(lease.comparison_id)
        displayed = _displayed(comparison, lease)
        now = self._store.clock()
        said = verdicts.fields(given, displayed)
        rewrite = verdicts.written(given, prompt_id=comparison.prompt_id, now=now)
        judgment = Judgment(
            id=given.id,
            comparison_id=comparison.id,
            annotator_id=actor.id,
            lease_id=lease.id,
            verdict=given.verdict,
            displayed_completion_ids=displayed,
            recorded_at=now,
            reason=given.reason or None,
            duration_ms=given.duration_ms,
            guidelines_version=given.guidelines_version,
            rewrite_completion_id=None if rewrite is None else rewrite.id,
            supersedes=given.supersedes,
            **said,
        )
        self._practice.check_first(judgment)
        corrected = self._corrected(judgment)
        saved = judgments.submit(self._store, judgment, rewrite=rewrite)
        saved.add_done_callback(lambda done: self._settle(done, now, corrected))
        return saved

    def is_at_hand(self, actor: Actor, given: VerdictGiven) -> bool:
        """Whether `judge`, and `progress` after it, will look nothing up in the store."""
        lease = self._assignment.lease(actor.id, given.lease_id)
        if lease is None or given.supersedes is not None:
            return False
        with self._showing:
            is_shown = lease.comparison_id in self._shown
        return is_shown and actor.id in self._tallies

    def _corrected(self, judgment: Judgment) -> Judgment | None:
        """The judgment that this one supersedes, which must be of the same lease and person."""
        if judgment.supersedes is None:
            return None
        corrected = self._own(judgment.annotator_id, judgment.supersedes, to="correct it")
        if corrected.comparison_id != judgment.comparison_id:
            raise BadInput("A judgment corrects one on the same comparison.")
        return corrected

    def _own(self, annotator_id: str, judgment_id: str, *, to: str) -> Judgment:
        """Raises `NotFound`, or `NotAllowed` for somebody else's or an imported one."""
        past = judgments.get(self._store, judgment_id)
        if past is None:
            raise NotFound(
                "There is no judgment {judgment_id}; reload the page.", judgment_id=judgment_id
            )
        if past.annotator_id != annotator_id:
            raise NotAllowed("Only the person who gave a judgment can {to}.", to=to)
        if past.lease_id is None:
            raise NotAllowed("This judgment came with an import and cannot be changed here.")
        return past

    def feedback(self, judgment: Judgment) -> Feedback | None:
        """What to tell of a practice item, for whoever has judged it; None for all others."""
        return self._practice.feedback(judgment)

    def authors(self, judgment: Judgment) -> list[str]:
        """Who wrote what was displayed: for whoever has judged it already."""
        shown = completions.get_many(self._store, judgment.displayed_completion_ids)
        return [
            shown[id].policy_version or shown[id].author or shown[id].source
            for id in judgment.displayed_completion_ids
        ]

    def undo(self, actor: Actor, *, id: str, judgment_id: str) -> Item:
        """Supersede a judgment with nothing, and show its item again in the same order.

        Raises `NotFound`, `NotAllowed`, or `Conflict` when it was undone or judged anew already, or
        is practice.
        """
        past = self._own(actor.id, judgment_id, to="undo it")
        lease = comparisons.get_lease(self._store, past.lease_id or "")
        now = self._store.clock()
        retraction = Judgment(
            id=id,
            comparison_id=past.comparison_id,
            annotator_id=actor.id,
            lease_id=past.lease_id,
            verdict=Verdict.RETRACTED,
            displayed_completion_ids=past.displayed_completion_ids,
            recorded_at=now,
            supersedes=judgment_id,
        )
        self._practice.check_first(retraction)
        is_new = judgments.get(self._store, id) is None
        judgments.record(self._store, retraction)
        if is_new:
            self._count(actor.id, -_weight(past), now, None)
        latest = judgments.latest(self._store, past.comparison_id, actor.id)
        if latest is not None and latest.id != id:
            raise Conflict("This comparison was judged anew since; reload the page to see it.")
        return self._show([self._assignment.reinstate(lease)])[0]

    def reopen(self, actor: Actor, lease_id: str) -> Item:
        """An item that was shown to this person before, whoever has its comparison now.

        It is held again where its place is free; judging it is accepted all the same. Raises
        `NotFound` or `NotAllowed`.
        """
        lease = self._lease_of(actor, lease_id)
        self._assignment.claim(actor.id, 0, held=[lease.id])
        return self._show([lease])[0]

    def said(self, actor: Actor, judgment_id: str) -> Said:
        """A judgment of one's own and its item, as a page needs them to correct it.

        Raises `NotFound` or `NotAllowed`.
        """
        past = self._own(actor.id, judgment_id, to="see it")
        lease = comparisons.get_lease(self._store, past.lease_id or "")
        return Said(self._show([lease])[0], self._given(past))

    def _given(self, past: Judgment) -> VerdictGiven:
        text = ""
        if past.rewrite_completion_id is not None:
            found = completions.get_many(self._store, [past.rewrite_completion_id])
            text = found[past.rewrite_completion_id].text
        return verdicts.given_of(past, rewrite_text=text)

    def release(self, actor: Actor, lease_ids: Sequence[str]) -> None:
        """The page is closing: what it holds may go to others."""
        self._assignment.release(actor.id, lease_ids)

    def progress(self, actor: Actor) -> Progress:
        """The numbers beside the page."""
        done = self._assignment.counts().done
        now = self._store.clock()
        with self._lock:
            tally = self._tally(actor.id, now)
            durations = list(tally.durations_ms)
            return Progress(
                judged=done,
                goal=goal_after(done),
                judged_by_me=tally.judged,
                judged_by_me_today=tally.today,
                streak_days=tally.streak_before + (tally.today > 0),
                median_duration_s=median(durations) / 1000 if durations else None,
            )

    def history(self, actor: Actor, *, limit: int) -> list[PastJudgment]:
        """The actor's judgments that count, newest first."""
        rows = judgments.of_annotator(self._store, actor.id, limit=max(1, min(limit, 500)))
        own = [row for row in rows if row.lease_id is not None]
        found = comparisons.get_many(self._store, [row.comparison_id for row in own])
        asked = prompts.get_many(self._store, [c.prompt_id for c in found.values()])
        shown = completions.get_many(
            self._store, [id for row in own for id in row.displayed_completion_ids]
        )
        return [
            _past(row, found[row.comparison_id], asked, shown)
            for row in own
            if row.comparison_id in found
        ]

    def _lease_of(self, actor: Actor, lease_id: str) -> Lease:
        lease = self._assignment.lease(actor.id, lease_id) or comparisons.get_lease(
            self._store, lease_id
        )
        if lease.annotator_id != actor.id:
            raise NotAllowed("This comparison was given to somebody else; reload the page.")
        return lease

    def _settle(
        self, saved: Future[Judgment], sent_at: datetime, corrected: Judgment | None
    ) -> None:
        if saved.exception() is not None:
            return
        judgment = saved.result()
        if judgment.recorded_at != sent_at:
            return  # sent once more; it was booked the first time, and may be undone since
        if self._practice.settle(judgment):
            return
        self._assignment.settle(judgment.comparison_id, judgment.annotator_id, judgment.verdict)
        step = _weight(judgment) - (_weight(corrected) if corrected else 0)
        self._count(judgment.annotator_id, step, sent_at, judgment.duration_ms if step else None)

    def _count(self, annotator_id: str, step: int, now: datetime, duration_ms: int | None) -> None:
        with self._lock:
            if annotator_id not in self._tallies:
                return  # counted from the store, this judgment included, when first asked for
            tally = self._tally(annotator_id, now)
            tally.judged += step
            tally.today += step
            if duration_ms is not None:
                tally.durations_ms.append(duration_ms)

    def _tally(self, annotator_id: str, now: datetime) -> _Tally:
        local = now.astimezone()
        midnight = local.replace(hour=0, minute=0, second=0, microsecond=0)
        tally = self._tallies.get(annotator_id)
        if tally is None:
            known = judgments.progress_of(self._store, annotator_id, since=midnight)
            tally = _Tally(
                known.judged, known.judged_today, local.date(), _days_in_a_row(known.days_ago)
            )
            if known.median_duration_ms is not None:
                tally.durations_ms.append(int(known.median_duration_ms))
            self._tallies[annotator_id] = tally
        tally.turn_to(local.date())
        return tally

    def _show(self, leases: Sequence[Lease]) -> list[Item]:
        found = self._contents([lease.comparison_id for lease in leases])
        self._remember({id: contents.comparison for id, contents in found.items()})
        return [
            replace(
                _item(lease, found[lease.comparison_id]),
                practice=self._practice.number_of(lease.comparison_id),
            )
            for lease in leases
            if lease.comparison_id in found
        ]

    def _contents(self, ids: Sequence[str]) -> dict[str, _Contents]:
        """By comparison id. What has to be read is read together with what will be wanted next."""
        with self._showing:
            if all(id in self._read for id in ids):
                return {id: self._read[id] for id in ids}
        ahead = self._assignment.upcoming(READ_AHEAD)
        with self._showing:
            known = {id: self._read[id] for id in ids if id in self._read}
            missing = [id for id in dict.fromkeys([*ids, *ahead]) if id not in self._read]
        read = self._read_contents(missing)
        with self._showing:
            self._read.update(read)
            while len(self._read) > MAX_READ:
                self._read.popitem(last=False)
        return known | {id: read[id] for id in ids if id in read}

    def _read_contents(self, ids: Sequence[str]) -> dict[str, _Contents]:
        found = comparisons.get_many(self._store, ids)
        asked = prompts.get_many(self._store, [c.prompt_id for c in found.values()])
        texts = completions.get_many(
            self._store, [id for c in found.values() for id in c.completion_ids]
        )
        return {
            id: _Contents(c, asked[c.prompt_id], {i: texts[i] for i in c.completion_ids})
            for id, c in found.items()
        }

    def _remember(self, found: Mapping[str, Comparison]) -> None:
        with self._showing:
            self._shown.update(found)
            while len(self._shown) > MAX_SHOWN:
                self._shown.popitem(last=False)

    def _comparison(self, id: str) -> Comparison:
        """Mostly one that was shown of late. Raises `NotFound`."""
        with self._showing:
            known = self._shown.get(id)
        return known or comparisons.get(self._store, id)


def goal_after(judged: int) -> int:
    """50 for a first effect, then the bounds of the data presets, then every further thousand."""
    return next((goal for goal in GOALS if judged < goal), (judged // 1000 + 1) * 1000)


def _days_in_a_row(days_ago: Collection[int]) -> int:
    """How many days up to yesterday, which is 1."""
    return next(ago for ago in count(1) if ago not in days_ago) - 1


def _weight(judgment: Judgment) -> int:
    """How much it adds to what a person has judged."""
    return int(judgment.verdict not in (Verdict.SKIPPED, Verdict.RETRACTED))


def _displayed(comparison: Comparison, lease: Lease) -> tuple[str, ...]:
    return tuple(comparison.completion_ids[i] for i in lease.display_order)


def _item(lease: Lease, contents: _Contents) -> Item:
    prompt = contents.prompt
    shown = [contents.completions[id].text for id in _displayed(contents.comparison, lease)]
    return Item(
        lease_id=lease.id,
        expires_at=lease.expires_at,
        language=prompt.language,
        messages=[_turn(message) for message in prompt.messages],
        responses=[Text(render_markdown(text), text) for text in shown],
    )


def _turn(message: Message) -> Turn:
    return Turn(message["role"], render_markdown(message["content"]), message["content"])


def _past(
    row: Judgment,
    comparison: Comparison,
    asked: dict[str, Prompt],
    shown: dict[str, Completion],
) -> PastJudgment:
    preferred = row.preferred_completion_id
    return PastJudgment(
        id=row.id,
        lease_id=row.lease_id or "",
        recorded_at=row.recorded_at,
        verdict=row.verdict,
        place=row.displayed_completion_ids.index(preferred) if preferred else None,
        strength=row.strength,
        ranks=row.ranks,
        ratings=row.ratings,
        rating_scale=row.rating_scale,
        reasons=row.reasons,
        rationale=row.rationale,
        flags=[flag.kind for flag in row.flags],
        is_rewritten=row.rewrite_completion_id is not None,
        prompt_text=asked[comparison.prompt_id].messages[-1]["content"],
        response_texts=[shown[id].text for id in row.displayed_completion_ids],
        is_practice=comparison.purpose is Purpose.PRACTICE,
    )
