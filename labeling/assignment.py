"""Who gets which comparison: leases in memory, durable before they are handed out.

Knows ids and counts only, and of what has all its judgments only the latest: the rest is looked up
when somebody takes a judgment back. The pool is rebuilt from the store at start; claiming is one
step under one lock, so two people never hold the last place of the same comparison. What the live
policy wrote goes out before what an earlier one wrote, and within each what was begun before what
is new.
"""

from __future__ import annotations

import random
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import NamedTuple

from store import comparisons, ids, policies
from store.db import Store
from store.records import Comparison, Lease, Verdict

LEASE_LIFE = timedelta(minutes=30)
MAX_DONE_KEPT = 10_000


class PoolCounts(NamedTuple):
    """`ready`: claimable by somebody; `done`: as many judgments as required; `total`: all.

    What a lead has withdrawn is in none of them.
    """

    ready: int
    done: int
    total: int


class Claim(NamedTuple):
    """What a page gets, and which of the leases that it holds are its annotator's no longer."""

    leases: list[Lease]
    gone: list[str]


@dataclass(slots=True)
class _Task:
    """One comparison's places. A judged or leased place is taken; a skip gives it back.

    `era` counts promotions: it tells whether the policy that is live now wrote the responses.
    A reserved one is somebody's own, made and judged elsewhere: it counts, and is handed to nobody.
    A withdrawn one is handed to nobody either, and does not count.
    Tuples of shared ids: many comparisons wait, and few people judge each.
    """

    id: str
    size: int
    places: int
    era: int
    is_reserved: bool = False
    is_withdrawn: bool = False
    judged_by: tuple[str, ...] = ()
    skipped_by: tuple[str, ...] = ()
    leases: tuple[Lease, ...] = ()

    @property
    def is_done(self) -> bool:
        return not self.is_withdrawn and len(self.judged_by) >= self.places

    @property
    def is_claimable(self) -> bool:
        return self.is_given_out and len(self.judged_by) + len(self.leases) < self.places

    @property
    def is_given_out(self) -> bool:
        return not (self.is_reserved or self.is_withdrawn)

    def suits(self, annotator_id: str) -> bool:
        return self.is_claimable and not (
            annotator_id in self.judged_by
            or annotator_id in self.skipped_by
            or self.lease_of(annotator_id)
        )

    def lease_of(self, annotator_id: str) -> Lease | None:
        return next((lease for lease in self.leases if lease.annotator_id == annotator_id), None)

    def hold(self, lease: Lease) -> None:
        """In place of another of the same annotator, if there is one."""
        self.let_go(lease.annotator_id)
        self.leases = (*self.leases, lease)

    def let_go(self, annotator_id: str) -> Lease | None:
        """The lease that the annotator no longer has, if there was one."""
        lost = self.lease_of(annotator_id)
        if lost is not None:
            self.leases = tuple(lease for lease in self.leases if lease is not lost)
        return lost


class _Line:
    """Claimable tasks in the order in which they came; nobody looks at one twice in vain.

    A task that did not suit somebody is shown to them again only once it was `put` again, as
    everything does that gives a place back: a claim costs what it finds, not what waits.
    """

    def __init__(self) -> None:
        self._tasks: dict[str, _Task] = {}
        self._order: list[_Task] = []  # a task once for each time that it was put
        self._looked_at: dict[str, int] = {}  # by annotator: how many of `_order`

    def __len__(self) -> int:
        return len(self._tasks)

    def __iter__(self) -> Iterator[_Task]:
        return iter(self._tasks.values())

    def put(self, task: _Task) -> None:
        """Let everybody look at it, also those who have looked before."""
        self._tasks[task.id] = task
        self._order.append(task)
        self._tidy()

    def remove(self, task: _Task) -> None:
        """Idempotent."""
        if self._tasks.pop(task.id, None) is not None:
            self._tidy()

    def _tidy(self) -> None:
        if len(self._order) > 2 * len(self._tasks) + 1000:
            self._order = list(self._tasks.values())
            self._looked_at.clear()

    def take(self, annotator_id: str, want: int) -> list[_Task]:
        """The next ones, up to `want`, that suit the annotator; they stay in the line."""
        found: dict[str, _Task] = {}
        at = self._looked_at.get(annotator_id, 0)
        while at < len(self._order) and len(found) < want:
            task = self._order[at]
            at += 1
            if task.id in self._tasks and task.suits(annotator_id):
                found[task.id] = task
        self._looked_at[annotator_id] = at
        return list(found.values())


class _Lines(NamedTuple):
    """What one of two eras has to be judged: begun ones go out first, so that they get done."""

    begun: _Line
    new: _Line


class Assignment:
    """Hands out comparisons, `min_submitted` judgments each, never twice to one annotator."""

    def __init__(self, store: Store, *, min_submitted: int = 1, rng: random.Random) -> None:
        self._store = store
        self._rng = rng
        self._lock = threading.Lock()  # protects everything below
        self._min_submitted = min_submitted
        self._tasks: dict[str, _Task] = {}
        self._done_of_late: OrderedDict[str, None] = OrderedDict()  # those of `_tasks`
        self._fresh = _Lines(_Line(), _Line())
        self._stale = _Lines(_Line(), _Line())
        self._lines = (*self._fresh, *self._stale)  # in the order in which they are served
        self._era = 0
        self._held: dict[str, dict[str, _Task]] = {}  # by annotator, then by lease
        self._withdrawn = 0
        self._fresh_since = policies.replaced_at(store) or datetime.min.replace(tzinfo=UTC)
        found = comparisons.progress(store, fewer_than=min_submitted)
        self._total = self._done = comparisons.count(store) - len(found)
        self._admit(found)
        self._hold_open_leases()

    def add(self, new: Sequence[Comparison], *, made_at: datetime) -> None:
        """Comparisons that people may judge from now on.

        They are stale when their writing began, at `made_at`, before the live policy was live.
        """
        with self._lock:
            for comparison in new:
                size = len(comparison.completion_ids)
                self._requeue(self._take_in(comparison.id, size, made_at))

    def reserve(self, comparison: Comparison, *, made_at: datetime) -> None:
        """Count a comparison that somebody made for themselves; nobody is ever given it here."""
        with self._lock:
            self._take_in(comparison.id, len(comparison.completion_ids), made_at, is_reserved=True)

    def reload(self) -> None:
        """Take in comparisons that came into the store by another way, such as an import."""
        self._admit(comparisons.progress(self._store, fewer_than=self._min_submitted))

    def withdraw(self, comparison_id: str) -> None:
        """Hand a comparison to nobody from now on; who holds it loses it. Idempotent.

        It must be noted in the store already, so that the next start knows it too.
        """
        self._recall(comparison_id)
        with self._lock:
            task = self._tasks.get(comparison_id)
            if task is not None and not task.is_withdrawn:
                self._withdraw(task)

    def restore(self, comparison_id: str) -> None:
        """Undo `withdraw`. Idempotent."""
        with self._lock:
            task = self._tasks.get(comparison_id)
            if task is not None and task.is_withdrawn:
                task.is_withdrawn = False
                self._withdrawn -= 1
                self._done += task.is_done
                self._requeue(task)

    def make_stale(self, *, since: datetime) -> None:
        """Another policy is live `since` then: what is older goes out when nothing newer waits."""
        with self._lock:
            self._fresh_since = since
            self._era += 1
            for task in [task for line in self._fresh for task in line]:
                self._requeue(task)

    def require(self, min_submitted: int) -> None:
        """Ask for that many judgments of every comparison, also of those that are done.

        Leases that people hold stay theirs, even where no place is left for them; a reserved
        comparison is one person's and stays so.
        """
        with self._lock:
            is_more = min_submitted > self._min_submitted
            self._min_submitted = min_submitted
            for task in [task for task in self._tasks.values() if not task.is_reserved]:
                was_done, was_claimable = task.is_done, task.is_claimable
                task.places = min_submitted
                self._done += task.is_done - was_done
                if task.is_claimable != was_claimable or task.is_done != was_done:
                    self._requeue(task)
        if is_more:  # from here on nothing is done that was not asked for as often as it is now
            found = comparisons.progress(self._store, fewer_than=min_submitted)
            with self._lock:
                for row in found:
                    if row.annotator_ids and row.comparison_id not in self._tasks:
                        self._take_back(row)

    def claim(self, annotator_id: str, want: int, *, held: Sequence[str]) -> Claim:
        """Up to `want` leases that are not in `held`: first those the annotator has open already.

        `held` are lease ids that the annotator's page shows or waits to show; they are renewed,
        and taken back where they were released or had expired and nobody took the place.
        """
        with self._lock:
            self._expire()
            known = self._held.get(annotator_id, {})
            unknown = [id for id in held if id not in known]
        missing = comparisons.get_leases(self._store, unknown) if unknown else {}
        with self._lock:
            gone = [id for id in unknown if not self._hold_again(annotator_id, missing.get(id))]
            own = self._renew(annotator_id, set(held))
            fresh = self._draw(annotator_id, want - len(own))
        self._record(fresh)
        return Claim(own[:want] + fresh, gone)

    def upcoming(self, number: int) -> list[str]:
        """Ids of comparisons that will soon be handed out, as far as can be foretold."""
        with self._lock:
            waiting = (task.id for line in self._lines for task in line)
            return list(islice(waiting, number))

    def settle(self, comparison_id: str, annotator_id: str, verdict: Verdict) -> None:
        """Book what a durable judgment said; a retraction gives the comparison back."""
        if verdict in (Verdict.RETRACTED, Verdict.SKIPPED):
            self._recall(comparison_id)
        with self._lock:
            task = self._tasks.get(comparison_id)
            if task is None:  # done, and one judgment more or another one leaves it done
                return
            self._give_back(task, annotator_id)
            self._book(task, annotator_id, verdict)
            self._requeue(task)

    def reinstate(self, lease: Lease) -> Lease:
        """Give an annotator back what they judged, in the same display order; it is open again."""
        renewed = _renewed(lease, self._store)
        self._recall(lease.comparison_id)
        with self._lock:
            task = self._tasks.get(lease.comparison_id)
            if task is not None:
                self._book(task, lease.annotator_id, Verdict.RETRACTED)
                if task.is_given_out:
                    self._hold(task, renewed)
        return renewed

    def release(self, annotator_id: str, lease_ids: Sequence[str]) -> None:
        """Give comparisons back unjudged, for instance when a page is closed."""
        with self._lock:
            own = self._held.get(annotator_id, {})
            for task in [own[id] for id in lease_ids if id in own]:
                self._give_back(task, annotator_id)
                self._requeue(task)

    def lease(self, annotator_id: str, lease_id: str) -> Lease | None:
        """The open lease with this id, if the annotator holds it."""
        with self._lock:
            task = self._held.get(annotator_id, {}).get(lease_id)
            return task.lease_of(annotator_id) if task else None

    def counts(self) -> PoolCounts:
        """How full the pool is."""
        with self._lock:
            return PoolCounts(
                ready=sum(map(len, self._lines)),
                done=self._done,
                total=self._total - self._withdrawn,
            )

    def count_fresh(self, limit: int) -> int:
        """How many comparisons of the live policy wait that nobody has touched, up to `limit`.

        One that somebody judged, skipped or holds may suit nobody else who is here, so it must not
        keep others from being made.
        """
        with self._lock:
            self._expire()
            waiting = (t for t in self._fresh.new if not (t.skipped_by or t.leases))
            return sum(1 for _ in islice(waiting, limit))

    def count_skipped_by_all(self) -> int:
        """How many comparisons were skipped by everyone who saw them; nobody sees them now."""
        with self._lock:
            self._expire()
            new = (task for lines in (self._fresh, self._stale) for task in lines.new)
            return sum(1 for task in new if task.skipped_by and not task.leases)

    def is_anything_open(self) -> bool:
        """Somebody can have, or has, a comparison that is not judged by as many as required."""
        with self._lock:
            return any(map(len, self._lines)) or any(self._held.values())

    def _withdraw(self, task: _Task) -> None:
        self._done -= task.is_done
        task.is_withdrawn = True
        self._withdrawn += 1
        for lease in task.leases:
            self._give_back(task, lease.annotator_id)
        self._requeue(task)

    def _take_in(
        self, id: str, size: int, made_at: datetime, *, is_reserved: bool = False
    ) -> _Task:
        """One that was not counted yet, unless it is known."""
        if id not in self._tasks:
            self._total += 1
            self._tasks[id] = self._task(id, size, made_at, is_reserved=is_reserved)
        return self._tasks[id]

    def _task(self, id: str, size: int, made_at: datetime, *, is_reserved: bool) -> _Task:
        era = self._era if made_at >= self._fresh_since else self._era - 1
        places = 1 if is_reserved else self._min_submitted
        return _Task(id, size, places, era, is_reserved)

    def _remember(self, row: comparisons.Progress) -> _Task:
        """As the store has it, but not yet withdrawn."""
        task = self._task(
            row.comparison_id,
            row.size,
            row.created_at,
            is_reserved=row.reserved_for is not None,
        )
        task.judged_by = tuple(map(sys.intern, row.annotator_ids))
        task.skipped_by = tuple(map(sys.intern, row.skipped_by))
        self._tasks[task.id] = task
        return task

    def _admit(self, found: Sequence[comparisons.Progress]) -> None:
        """Those that are not known yet."""
        with self._lock:
            for row in found:
                if row.comparison_id not in self._tasks:
                    self._total += 1
                    task = self._remember(row)
                    self._done += task.is_done  # as a withdrawn one may be until it is withdrawn
                    if row.is_withdrawn:
                        self._withdraw(task)
                    self._requeue(task)

    def _recall(self, comparison_id: str) -> None:
        """Look up a comparison that was done long ago, since it may not be done any longer."""
        with self._lock:
            if comparison_id in self._tasks:
                return
        row = comparisons.progress_of(self._store, comparison_id)
        with self._lock:
            if row is not None and comparison_id not in self._tasks:
                self._take_back(row)

    def _take_back(self, row: comparisons.Progress) -> None:
        """Into memory again what was counted as done."""
        task = self._remember(row)
        self._done += task.is_done - 1
        self._requeue(task)

    def _hold_open_leases(self) -> None:
        """At start: who came last keeps a place that the one before had given back."""
        found = comparisons.open_leases(self._store, now=self._store.clock())
        kept = []
        with self._lock:
            for lease in reversed(found):
                task = self._tasks.get(lease.comparison_id)
                if task is not None and task.suits(lease.annotator_id):
                    task.hold(lease)
                    kept.append(lease)
            for lease in reversed(kept):
                self._hold(self._tasks[lease.comparison_id], lease)

    def _hold_again(self, annotator_id: str, lease: Lease | None) -> bool:
        """Whether a lease that was let go could be given back to the one who had it."""
        task = self._tasks.get(lease.comparison_id) if lease else None
        if lease is None or task is None or lease.annotator_id != annotator_id:
            return False
        if not task.suits(annotator_id):
            return False
        self._hold(task, lease)
        return True

    def _record(self, leases: Sequence[Lease]) -> None:
        """Make new leases durable; nobody holds them when that fails."""
        if not leases:
            return
        try:
            comparisons.record_leases(self._store, leases)
        except BaseException:
            with self._lock:
                for lease in leases:
                    task = self._tasks[lease.comparison_id]
                    self._give_back(task, lease.annotator_id)
                    self._requeue(task)
            raise

    def _book(self, task: _Task, annotator_id: str, verdict: Verdict) -> None:
        self._done -= task.is_done
        task.judged_by = tuple(id for id in task.judged_by if id != annotator_id)
        task.skipped_by = tuple(id for id in task.skipped_by if id != annotator_id)
        if verdict is Verdict.SKIPPED:
            task.skipped_by += (sys.intern(annotator_id),)
        elif verdict is not Verdict.RETRACTED:
            task.judged_by += (sys.intern(annotator_id),)
        self._done += task.is_done

    def _requeue(self, task: _Task) -> None:
        """Into the line where it belongs, after a place was taken or given back."""
        lines = self._fresh if task.era == self._era else self._stale
        own = lines.begun if task.judged_by else lines.new
        for line in self._lines:
            if line is not own or not task.is_claimable:
                line.remove(task)
        if task.is_claimable:
            own.put(task)
        self._keep_of_late(task)

    def _keep_of_late(self, task: _Task) -> None:
        """Forget what was done longest ago, so that memory does not grow with what was judged."""
        self._done_of_late.pop(task.id, None)
        if task.is_done and not task.leases:
            self._done_of_late[task.id] = None
            if len(self._done_of_late) > MAX_DONE_KEPT:
                del self._tasks[self._done_of_late.popitem(last=False)[0]]

    def _hold(self, task: _Task, lease: Lease) -> None:
        self._give_back(task, lease.annotator_id)
        task.hold(lease)
        self._held.setdefault(lease.annotator_id, {})[lease.id] = task
        self._requeue(task)

    def _give_back(self, task: _Task, annotator_id: str) -> None:
        lease = task.let_go(annotator_id)
        if lease is not None:
            self._held.get(annotator_id, {}).pop(lease.id, None)

    def _expire(self) -> None:
        now = self._store.clock()
        for annotator_id, own in self._held.items():
            for task in list(own.values()):
                lease = task.lease_of(annotator_id)
                if lease is not None and lease.expires_at <= now:
                    self._give_back(task, annotator_id)
                    self._requeue(task)

    def _renew(self, annotator_id: str, held: set[str]) -> list[Lease]:
        """Renew every open lease of the annotator; returns those that the page does not hold."""
        unheld = []
        for lease_id, task in self._held.get(annotator_id, {}).items():
            lease = task.lease_of(annotator_id)
            assert lease is not None  # what is held is a task with a lease of its holder
            renewed = _renewed(lease, self._store)
            task.hold(renewed)
            if lease_id not in held:
                unheld.append(renewed)
        return unheld

    def _draw(self, annotator_id: str, want: int) -> list[Lease]:
        chosen: list[_Task] = []
        for line in self._lines:
            chosen += line.take(annotator_id, want - len(chosen))
        leases = [self._new_lease(task, annotator_id) for task in chosen]
        for task, lease in zip(chosen, leases, strict=True):
            self._hold(task, lease)
        return leases

    def _new_lease(self, task: _Task, annotator_id: str) -> Lease:
        order = list(range(task.size))
        self._rng.shuffle(order)
        now = self._store.clock()
        return Lease(ids.time_ordered(), task.id, annotator_id, tuple(order), now, now + LEASE_LIFE)


def _renewed(lease: Lease, store: Store) -> Lease:
    return replace(lease, expires_at=store.clock() + LEASE_LIFE)
