"""The arena: a person's own prompts, answered live by two blinded policies, turn after turn.

Owns conversations and the one turn that each person may have in the making. A turn is a comparison
like any other once both responses are there, and is judged like any other; it is nobody else's.
"""

from __future__ import annotations

import logging
import random
import threading
import uuid
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from labeling.access import Actor
from labeling.answering import Answering, Problem, ProblemKind
from labeling.assignment import LEASE_LIFE, Assignment
from labeling.comparing import Text, Turn
from labeling.rendering import render_markdown
from labeling.writing import completion_of
from store import arena, comparisons, completions, judgments, languages, prompts
from store.db import Store
from store.errors import BadInput, Conflict, NotAllowed, NotFound, WhetstoneError
from store.journal import Evidence
from store.records import (
    ArenaTurn,
    Comparison,
    Completion,
    Judgment,
    Lease,
    Message,
    Prompt,
    Purpose,
    Verdict,
)
from training.generation import FinishReason
from training.policy import SamplingParams
from training.policy_host import HostState, PolicyHost

log = logging.getLogger(__name__)

MAX_TEXT = 20_000
MAX_CONVERSATIONS = 100
TITLE_LENGTH = 120
WORKERS = 4
END_TIMEOUT_S = 30.0


class TooManyTurns(WhetstoneError):
    """One person asks for more than a person reads."""


@dataclass(frozen=True)
class Pace:
    """How many turns one person may ask for within `window_s` seconds."""

    turns: int = 30
    window_s: float = 60.0


class TurnState(StrEnum):
    """Where the newest turn of a conversation stands.

    WRITING  two responses are on their way
    READY    both are there and wait for a verdict
    JUDGED   the verdict is in
    """

    WRITING = "writing"
    READY = "ready"
    JUDGED = "judged"


class Said(NamedTuple):
    """The verdict on a turn, and the place that the conversation goes on from, if settled."""

    judgment_id: str
    verdict: Verdict
    place: int | None
    strength: int | None
    next_place: int | None


@dataclass(frozen=True)
class CurrentTurn:
    """The newest turn as its person may see it; nothing tells where a response is from.

    The lease is known from the beginning: what is said before the verdict goes by it.
    """

    id: str
    number: int
    state: TurnState
    lease_id: str
    responses: Sequence[Text] = ()
    said: Said | None = None


@dataclass(frozen=True)
class Conversation:
    """All that was said up to the newest turn, and that turn."""

    id: str
    language: str
    messages: Sequence[Turn]
    turn: CurrentTurn


class ConversationTitle(NamedTuple):
    """One line of a person's list."""

    id: str
    title: str
    turns: int
    updated_at: datetime


@dataclass(frozen=True)
class Step:
    """What a turn is to be: which conversation, which number, which prompt."""

    conversation_id: str
    number: int
    prompt: Prompt


@dataclass(eq=False)
class LiveTurn:
    """A turn in the making, or just made. `stored` is what it became."""

    id: str
    lease_id: str
    annotator_id: str
    step: Step
    order: tuple[int, ...]
    began: datetime
    answering: Answering = field(init=False)
    stored: Lease | None = None
    saving: threading.Lock = field(default_factory=threading.Lock)  # protects `stored`
    is_frozen: bool = False
    is_saved: threading.Event = field(default_factory=threading.Event)  # or never will be

    @property
    def is_over(self) -> bool:
        """Whether there is nothing more to wait for."""
        return self.is_saved.is_set()


class Arena:
    """Conversations of people with two policies at a time."""

    def __init__(
        self,
        store: Store,
        host: PolicyHost,
        assignment: Assignment,
        *,
        sampling: SamplingParams,
        rng: random.Random,
        pace: Pace | None = None,
    ) -> None:
        self._store = store
        self._host = host
        self._assignment = assignment
        self._sampling = sampling
        self._rng = rng
        self._pace = pace or Pace()
        self._executor = ThreadPoolExecutor(WORKERS, thread_name_prefix="arena")
        self._lock = threading.Lock()  # protects everything below
        self._live: dict[str, LiveTurn] = {}  # by annotator: the newest
        self._asked: dict[str, deque[datetime]] = {}

    def close(self) -> None:
        """End what is being written. Idempotent."""
        with self._lock:
            live = list(self._live.values())
        for turn in live:
            turn.answering.stop()
        self._executor.shutdown(wait=True)

    @property
    def is_waiting(self) -> bool:
        """Whether the policy still loads, so that answers take a while."""
        return self._host.status().state is HostState.LOADING

    def conversations(self, actor: Actor) -> list[ConversationTitle]:
        """The actor's own, newest first."""
        found = arena.conversations(self._store, actor.id, limit=MAX_CONVERSATIONS)
        return [
            ConversationTitle(
                row.id, row.messages[0]["content"][:TITLE_LENGTH], row.turns, row.updated_at
            )
            for row in found
        ]

    def conversation(self, actor: Actor, id: str) -> Conversation:
        """Where it stands, a turn in the making included. Raises `NotFound` or `NotAllowed`."""
        live = self._live_of(actor, conversation_id=id)
        if live is not None and not live.is_over:
            return self._writing(live)
        turn = self._own(actor, arena.newest_turn(self._store, id))
        comparison = comparisons.get(self._store, turn.comparison_id)
        prompt = prompts.get(self._store, comparison.prompt_id)
        return self._shown(Step(id, turn.turn, prompt), self._current(turn, comparison))

    def ask(
        self,
        actor: Actor,
        text: str,
        *,
        conversation_id: str | None = None,
        go_on_with: int | None = None,
    ) -> Conversation:
        """The next turn of a conversation, or the first of a new one; returns while it is written.

        The conversation goes on from the better response; after a verdict that names none, from
        the one at place `go_on_with`. Raises `BadInput`, `Conflict` before a verdict, `NotFound`,
        `NotAllowed`, `TooManyTurns`, `PolicyUnavailable`.
        """
        text = text.strip()
        if not text:
            raise BadInput("Type something first.")
        if len(text) > MAX_TEXT:
            raise BadInput(
                "A message has at most {most:,} characters; this has {found:,}.",
                most=MAX_TEXT,
                found=len(text),
            )
        if conversation_id is None:
            return self._begin(actor, self._first(text))
        return self._begin(actor, self._next(actor, conversation_id, text, go_on_with))

    def ask_again(self, actor: Actor, turn_id: str) -> Conversation:
        """The same prompt anew; what was not judged is kept unjudged, or dropped when unfinished.

        Raises as `ask` does, and `Conflict` for a turn that is not the newest any more.
        """
        live = self._live_of(actor, turn_id=turn_id)
        if live is not None:
            return self._begin(actor, live.step)
        turn = self._own(actor, arena.turn_of(self._store, turn_id))
        newest = arena.newest_turn(self._store, turn.conversation_id)
        if newest is None or newest.turn != turn.turn:
            raise Conflict("The conversation has gone on since; reload the page to see it.")
        comparison = comparisons.get(self._store, turn_id)
        prompt = prompts.get(self._store, comparison.prompt_id)
        return self._begin(actor, Step(turn.conversation_id, turn.turn, prompt))

    def live_turn(self, actor: Actor, turn_id: str) -> LiveTurn:
        """The turn in the making, or just made. Raises `NotFound` for any other."""
        live = self._live_of(actor, turn_id=turn_id)
        if live is None:
            raise NotFound("This turn is not being written any more; reload the page to see it.")
        return live

    def stop(self, actor: Actor, turn_id: str) -> None:
        """End both responses where they are; with a word on each side they can be judged."""
        self.live_turn(actor, turn_id).answering.stop()

    def stop_if_unwatched(self, turn: LiveTurn) -> None:
        """The page went away and did not come back."""
        if not turn.answering.has_listeners:
            turn.answering.stop()

    def settle(self, actor: Actor, turn_id: str, seen: Sequence[int]) -> CurrentTurn:
        """Make a turn judgeable as its person sees it: `seen` are characters shown at each place.

        What is still being written ends. Where a response had gone on unseen, what counts is a
        comparison of its own with the text that was seen. Idempotent. Raises `BadInput` for a
        place with nothing, `Conflict` where it was begun anew, `NotFound`, `NotAllowed`.
        """
        if len(seen) != 2 or min(seen) < 1:
            raise BadInput("Wait for the first words of both responses.")
        live = self._live_of(actor, turn_id=turn_id)
        if live is not None:
            self._finish(live, seen)
        turn = self._as_seen(self._own(actor, arena.turn_of(self._store, turn_id)), seen)
        return self._current(turn, comparisons.get(self._store, turn.comparison_id))

    # One turn

    def _first(self, text: str) -> Step:
        return Step(uuid.uuid4().hex, 1, _prompt([{"role": "user", "content": text}]))

    def _next(self, actor: Actor, conversation_id: str, text: str, go_on_with: int | None) -> Step:
        turn = self._own(actor, arena.newest_turn(self._store, conversation_id))
        comparison = comparisons.get(self._store, turn.comparison_id)
        said = self._said(turn)
        if said is None:
            raise Conflict("Judge the two responses first, or have them written again.")
        place = said.next_place if said.next_place is not None else go_on_with
        if place not in (0, 1):
            raise BadInput("Choose the response that the conversation goes on from.")
        before = prompts.get(self._store, comparison.prompt_id)
        lease = arena.lease_of(self._store, turn)
        answer = self._texts(comparison)[lease.display_order[place]].text
        messages: list[Message] = [
            *before.messages,
            {"role": "assistant", "content": answer},
            {"role": "user", "content": text},
        ]
        prompt = replace(_prompt(messages), split=before.split)
        return Step(conversation_id, turn.turn + 1, prompt)

    def _begin(self, actor: Actor, step: Step) -> Conversation:
        self._keep_pace(actor)
        order = [0, 1]
        self._rng.shuffle(order)
        live = LiveTurn(
            uuid.uuid4().hex, uuid.uuid4().hex, actor.id, step, tuple(order), self._store.clock()
        )
        versions = self._draw()
        live.answering = Answering(
            self._host,
            step.prompt.messages,
            [versions[i] for i in order],
            sampling=self._sampling,
            rng=self._rng,
            executor=self._executor,
            on_end=lambda: self._ended(live),
        )
        with self._lock:
            before = self._live.get(actor.id)
            self._live[actor.id] = live
        if before is not None:
            before.answering.drop(Problem(ProblemKind.REPLACED))
        try:
            live.answering.start()
        except WhetstoneError:
            with self._lock:
                if self._live.get(actor.id) is live:
                    del self._live[actor.id]
            raise
        return self._writing(live)

    def _draw(self) -> tuple[str | None, str | None]:
        """The live policy, and one drawn from all that can answer: itself, the previous, the base.

        None means whichever is live when it is dispatched.
        """
        status = self._host.status()
        loaded = status.loaded_versions
        others = {status.previous_version, *loaded[:1]} & set(loaded) - {status.live_version}
        opponent = self._rng.choice([None, *sorted(filter(None, others))])
        return (None, None) if opponent is None else (status.live_version, opponent)

    def _keep_pace(self, actor: Actor) -> None:
        now = self._store.clock()
        with self._lock:
            asked = self._asked.setdefault(actor.id, deque())
            while asked and (now - asked[0]).total_seconds() >= self._pace.window_s:
                asked.popleft()
            if len(asked) >= self._pace.turns:
                raise TooManyTurns("That was fast. Wait a few seconds before you ask again.")
            asked.append(now)

    def _ended(self, live: LiveTurn) -> None:
        """Both responses are there, or none will be."""
        with live.saving:
            if live.is_frozen:
                return
            try:
                if live.answering.problem is None:
                    self._save(live, [len(g.text) for g in live.answering.generations])
            except Exception:
                log.exception("A turn in the arena could not be saved")
            live.is_saved.set()

    def _finish(self, live: LiveTurn, seen: Sequence[int]) -> None:
        """End what is being written and store it as it was seen, unless it is stored already."""
        with live.saving:
            if live.stored is not None:
                return
            views = live.answering.views()
            if any(count > len(view.text) for count, view in zip(seen, views, strict=True)):
                raise Conflict("A response is being written again; wait for its first words.")
            live.is_frozen = True
        try:
            live.answering.stop()
            live.answering.ended.wait(END_TIMEOUT_S)
            if live.answering.problem is not None or not live.answering.ended.is_set():
                raise Conflict("The responses could not be kept; have them written again.")
            with live.saving:
                if live.stored is None:
                    self._save(live, seen)
        finally:
            live.is_saved.set()
            live.answering.notify()

    def _save(self, live: LiveTurn, seen: Sequence[int]) -> None:
        """`seen` counts characters by place."""
        now = self._store.clock()
        shown = [
            _cut(completion_of(live.step.prompt, generation, now=now), count)
            for generation, count in zip(live.answering.generations, seen, strict=True)
        ]
        stored = [shown[live.order.index(i)] for i in range(len(shown))]
        comparison = Comparison(
            live.id, live.step.prompt.id, tuple(c.id for c in stored), Purpose.COLLECT
        )
        live.stored = self._record(
            ArenaTurn(live.id, live.step.conversation_id, live.annotator_id, live.step.number, now),
            comparison,
            live.step.prompt,
            stored,
            lease_id=live.lease_id,
            order=live.order,
        )

    def _record(
        self,
        turn: ArenaTurn,
        comparison: Comparison,
        prompt: Prompt,
        texts: Sequence[Completion],
        *,
        lease_id: str,
        order: Sequence[int],
    ) -> Lease:
        lease = Lease(
            lease_id,
            comparison.id,
            turn.annotator_id,
            tuple(order),
            turn.created_at,
            turn.created_at + LEASE_LIFE,
        )
        evidence = Evidence(comparison, prompt, tuple(texts), turn.created_at, turn)
        # Reserved before it is in the store, so that a reload meanwhile cannot hand it out.
        self._assignment.reserve(comparison, made_at=turn.created_at)
        arena.record(self._store, evidence, lease)
        return lease

    def _as_seen(self, turn: ArenaTurn, seen: Sequence[int]) -> ArenaTurn:
        """The turn itself, or a shorter copy of it where more was written than was seen."""
        comparison = comparisons.get(self._store, turn.comparison_id)
        lease = arena.lease_of(self._store, turn)
        whole = self._texts(comparison)
        wanted = [seen[lease.display_order.index(i)] for i in range(len(whole))]
        cut = [_cut(c, count) for c, count in zip(whole, wanted, strict=True)]
        if cut == whole:
            return turn
        newest = arena.newest_turn(self._store, turn.conversation_id)
        if newest is not None and newest.turn == turn.turn:
            copied = self._texts(comparisons.get(self._store, newest.comparison_id))
            if [c.text for c in copied] == [c.text for c in cut]:
                return newest  # made when this was asked for before
        if self._said(turn) is not None:
            raise Conflict("This turn is judged already; reload the page to see it.")
        now = self._store.clock()
        cut = [replace(c, id=uuid.uuid4().hex) for c in cut]
        shorter = replace(turn, comparison_id=uuid.uuid4().hex, created_at=now)
        self._record(
            shorter,
            replace(comparison, id=shorter.comparison_id, completion_ids=tuple(c.id for c in cut)),
            prompts.get(self._store, comparison.prompt_id),
            cut,
            lease_id=uuid.uuid4().hex,
            order=lease.display_order,
        )
        return shorter

    def _texts(self, comparison: Comparison) -> list[Completion]:
        found = completions.get_many(self._store, comparison.completion_ids)
        return [found[id] for id in comparison.completion_ids]

    # What a person may see

    def _live_of(
        self, actor: Actor, *, turn_id: str | None = None, conversation_id: str | None = None
    ) -> LiveTurn | None:
        with self._lock:
            live = self._live.get(actor.id)
        if live is None or (live.id != turn_id and live.step.conversation_id != conversation_id):
            return None
        return live

    def _own(self, actor: Actor, turn: ArenaTurn | None) -> ArenaTurn:
        if turn is None:
            raise NotFound("There is no such conversation; start a new one.")
        if turn.annotator_id != actor.id:
            raise NotAllowed("This conversation is somebody else's.")
        return turn

    def _writing(self, live: LiveTurn) -> Conversation:
        turn = CurrentTurn(live.id, live.step.number, TurnState.WRITING, live.lease_id)
        return self._shown(live.step, turn)

    def _shown(self, step: Step, turn: CurrentTurn) -> Conversation:
        messages = [
            Turn(m["role"], render_markdown(m["content"]), m["content"])
            for m in step.prompt.messages
        ]
        return Conversation(step.conversation_id, step.prompt.language, messages, turn)

    def _current(self, turn: ArenaTurn, comparison: Comparison) -> CurrentTurn:
        lease = arena.lease_of(self._store, turn)
        texts = self._texts(comparison)
        shown = [texts[i].text for i in lease.display_order]
        said = self._said(turn)
        return CurrentTurn(
            turn.comparison_id,
            turn.turn,
            TurnState.READY if said is None else TurnState.JUDGED,
            lease.id,
            [Text(render_markdown(text), text) for text in shown],
            said,
        )

    def _said(self, turn: ArenaTurn) -> Said | None:
        newest = judgments.latest(self._store, turn.comparison_id, turn.annotator_id)
        if newest is None or newest.verdict is Verdict.RETRACTED:
            return None
        preferred = newest.preferred_completion_id
        place = newest.displayed_completion_ids.index(preferred) if preferred else None
        return Said(newest.id, newest.verdict, place, newest.strength, _next_place(newest, place))


def drawn_place(judgment_id: str) -> int:
    """Which of two equal responses a conversation goes on from: a coin that the page tosses too.

    The last character of a random id is even as often as odd.
    """
    return ord(judgment_id[-1]) % 2


def _next_place(judgment: Judgment, place: int | None) -> int | None:
    return drawn_place(judgment.id) if judgment.verdict is Verdict.TIE else place


def _prompt(messages: Sequence[Message]) -> Prompt:
    asked = "\n".join(m["content"] for m in messages if m["role"] == "user")
    return prompts.make(
        messages,
        language=languages.detect(asked),
        split=prompts.split_of(messages),
        source=prompts.ARENA,
    )


def _cut(completion: Completion, count: int) -> Completion:
    """What somebody had seen of it when they judged."""
    if count >= len(completion.text):
        return completion
    return replace(
        completion,
        text=completion.text[:count],
        finish_reason=FinishReason.STOPPED,
        token_count=None,
    )
