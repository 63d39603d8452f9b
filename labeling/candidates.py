"""Comparisons made ahead of the people, from the policies, in one background thread.

The responses of a comparison differ in their seeds alone: same prompt, same sampling parameters,
and the same policy, unless the project puts the live one up against the one before or the base.
After a promotion some comparisons pit the new policy against the one before, on held-out prompts;
these decide whether it got better and are never trained on.
"""

from __future__ import annotations

import logging
import random
import threading
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from itertools import cycle, islice
from typing import NamedTuple

from labeling.access import Actor, require_lead
from labeling.assignment import Assignment
from labeling.project import Project
from labeling.writing import completion_of
from store import comparisons, completions, journal, policies, prompts
from store.db import Cursor, Store
from store.errors import BadInput, NotFound, PolicyUnavailable, PromptTooLong, WhetstoneError
from store.journal import Evidence
from store.records import Comparison, Completion, Promotion, Prompt, Purpose, Split
from training.messages import Message
from training.policy import Generation, GenerationRequest, SamplingParams
from training.policy_host import HostState, PolicyHost, Priority
from training.similarity import are_near, are_same

log = logging.getLogger(__name__)

# The nucleus, as chat systems serve: rare slips of a small model are not worth judging.
DEFAULT_SAMPLING = SamplingParams(temperature=1.0, top_p=0.95)
BUFFER = 24
PROMPTS_PER_BATCH = 8
EVALUATIONS_PER_BATCH = 2
EVALUATIONS_PER_OPPONENT = 60
RESAMPLES = 3


class Waiting(NamedTuple):
    """Why a person has to wait, in their words; with `is_stuck` it does not pass by itself."""

    reason: Message
    is_stuck: bool = False


class Rival(StrEnum):
    """Whom the live policy meets in a share of the new comparisons."""

    PREVIOUS = "previous"
    BASE = "base"


class WhyNot(StrEnum):
    """Why a rival cannot be met.

    NONE_BEFORE  no policy was live before this one
    SAME         the live policy is the base itself
    NOT_LOADED   the rival is not in memory, as after a start with another base model
    """

    NONE_BEFORE = "none_before"
    SAME = "same"
    NOT_LOADED = "not_loaded"


class Diverted(NamedTuple):
    """A share, in percent, that goes to the live policy alone for now."""

    rival: Rival
    percent: int
    why: WhyNot


@dataclass(frozen=True)
class Supply:
    """What leads should know of the comparisons that are made.

    `too_long` prompts of those tried so far have more tokens than `limit_tokens`. `skipped_by_all`
    comparisons were skipped by everyone who saw them.
    """

    too_long: int
    limit_tokens: int | None
    skipped_by_all: int
    diverted: tuple[Diverted, ...]


class Plan(NamedTuple):
    """A comparison to be made, of `size` responses.

    Two `versions` write them in turn; without any, the policy that is live then writes them all.
    """

    prompt: Prompt
    purpose: Purpose
    size: int = 2
    versions: tuple[str, str] | None = None


@dataclass
class _Draft:
    """The responses of a planned comparison while they are written.

    One that is like another is drawn again only where one policy writes them all. Between two
    policies that would favour the one that repeats itself less: the other would draw until it
    differs, which is mostly for worse.
    """

    plan: Plan
    responses: list[Completion] = field(default_factory=list)
    is_begun: bool = False

    def missing(self) -> list[str | None]:
        """Who is to write next; None is whoever is live."""
        size, versions = self.plan.size, self.plan.versions
        if versions:
            return [] if self.is_begun else list(islice(cycle(versions), size))
        if not self.is_begun:
            return [None]
        # A promotion in between must not mix two policies unasked.
        return [r.policy_version for r in self.responses[:1]] * (size - len(self.responses))

    def add(self, written: Completion | None) -> None:
        """Keep it, unless the one policy that writes here has said as much."""
        self.is_begun = True
        if written is None:
            return
        if self.plan.versions or not any(are_near(written.text, r.text) for r in self.responses):
            self.responses.append(written)

    def finished(self) -> tuple[Completion, ...]:
        """The responses to be judged; none where two are wanted and there are no two different."""
        found = _told_apart(self.responses) if self.plan.versions else self.responses
        return tuple(found) if len(found) >= min(2, self.plan.size) else ()


class Candidates:
    """Keeps at least `BUFFER` fresh comparisons waiting, beyond those that people hold.

    `is_training` says whether a trainer shares the device now.
    """

    def __init__(
        self,
        store: Store,
        host: PolicyHost,
        assignment: Assignment,
        project: Project,
        *,
        sampling: SamplingParams,
        seed: int,
        is_training: Callable[[], bool] = lambda: False,
    ) -> None:
        self._store = store
        self._host = host
        self._assignment = assignment
        self._project = project
        self._sampling = sampling
        self._rng = random.Random(seed)
        self._is_training = is_training
        self._wake = threading.Event()
        self._is_closed = False
        self._problem: Waiting | None = None
        # Prompts that the live policy could not answer in two ways; they would be asked for ever.
        self._passed_over: set[str] = set()
        self._passed_over_by: str | None = None
        self._too_long: set[str] = set()  # whichever version is live: all share the base's context
        self._limit_tokens: int | None = None
        self._thread = threading.Thread(target=self._fill, name="candidates", daemon=True)

    def start(self) -> None:
        """Begin to fill the buffer."""
        self._thread.start()

    def wake(self) -> None:
        """People took some, or another policy is live: look again."""
        self._wake.set()

    def close(self) -> None:
        """Stop after the batch at hand. Idempotent."""
        self._is_closed = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def waiting(self) -> Waiting:
        """Why there is nothing to judge; also a nudge to hurry."""
        self.wake()
        if not self._project.settings.writes_comparisons:
            return Waiting(self._why_none_left(), is_stuck=True)
        status = self._host.status()
        if status.state is HostState.LOADING:
            return Waiting(
                Message("The policy is still loading. Responses will appear here by themselves.")
            )
        if status.state is HostState.FAILED:
            why = Message("No responses can be written: {problem}.", {"problem": status.message})
            return Waiting(why, is_stuck=True)
        if self._problem is not None:
            return self._problem
        if self._is_training():
            return Waiting(
                Message(
                    "A training run uses the same device, so new responses take longer. They will "
                    "appear here by themselves."
                )
            )
        return Waiting(
            Message("New responses are being written. They will appear here by themselves.")
        )

    def supply(self, actor: Actor) -> Supply:
        """What leads should know of the comparisons that are made."""
        require_lead(actor, "see how comparisons are made")
        return Supply(
            too_long=len(self._too_long),
            limit_tokens=self._limit_tokens,
            skipped_by_all=self._assignment.count_skipped_by_all(),
            diverted=self._diverted(),
        )

    def _fill(self) -> None:
        while not self._is_closed:
            self._wake.clear()
            try:
                tried = self._make_batch() if self._is_low() else 0
            except WhetstoneError as error:
                self._problem = self._why_failed(error)
                tried = 0
            except Exception:
                log.exception("Making comparisons failed; trying again shortly")
                self._problem = Waiting(
                    Message("Writing new responses failed; trying again. Leads find the log.")
                )
                tried = 0
            if tried == 0:
                self._wake.wait(timeout=1.0)

    def _is_low(self) -> bool:
        if not self._project.settings.writes_comparisons:
            return False
        is_ready = self._host.status().state is HostState.READY
        return is_ready and self._assignment.count_fresh(BUFFER) < BUFFER

    def _make_batch(self) -> int:
        """Returns how many prompts were tried."""
        began = self._store.clock()
        plans = self._plan()
        if not plans:
            self._problem = self._why_no_prompts()
            self._passed_over.clear()
            return 0
        written = [draft.finished() for draft in self._write(plans)]
        both = list(zip(plans, written, strict=True))
        failed = {plan.prompt.id for plan, responses in both if not responses}
        self._passed_over |= failed - self._too_long
        made = [_comparison(plan, responses) for plan, responses in both if responses]
        self._save([responses for responses in written if responses], made, began=began)
        if made:
            self._problem = None
        return len(plans)

    def _why_failed(self, error: WhetstoneError) -> Waiting:
        if isinstance(error, PolicyUnavailable) and self._is_training():
            return Waiting(
                Message(
                    "Training holds the device's memory. New responses will appear here when it "
                    "has ended."
                )
            )
        return Waiting(Message.of(error))

    def _why_no_prompts(self) -> Waiting:
        if self._passed_over:
            return Waiting(
                Message(
                    "The live policy has no two different responses to any prompt, or the prompts "
                    "are too long for it. A team lead can import others in the Prompts tab."
                ),
                is_stuck=True,
            )
        if self._too_long:
            return Waiting(
                Message(
                    "All prompts are too long for the live policy. A team lead can import others "
                    "in the Prompts tab."
                ),
                is_stuck=True,
            )
        return Waiting(self._why_none_left(), is_stuck=True)

    def _why_none_left(self) -> Message:
        if self._assignment.is_anything_open():
            return Message(
                "You have seen all that is here for you; the rest is for other people. A team "
                "lead can import more in the Prompts tab."
            )
        if self._assignment.counts().done:
            return Message(
                "Everything has been judged. A team lead can import more in the Prompts tab."
            )
        if not self._project.settings.writes_comparisons:
            return Message(
                "There is nothing to judge yet: the policy of this project writes no comparisons. "
                "A team lead can import responses in the Prompts tab."
            )
        return Message(
            "There are no prompts to judge. A team lead can import some in the Prompts tab."
        )

    def _plan(self) -> list[Plan]:
        live = policies.live(self._store)
        if live is None:
            return []
        if live.version != self._passed_over_by:
            self._passed_over_by = live.version
            self._passed_over.clear()
        evaluations = self._plan_evaluations(live)
        asked = prompts.least_compared(
            self._store,
            PROMPTS_PER_BATCH - len(evaluations),
            split=Split.TRAIN,
            policy_version=live.version,
            seed=self._rng.randrange(2**31),
            besides=self._passed_over | self._too_long,
        )
        size = self._project.settings.responses
        sides = self._draw_sides(live, len(asked))
        collected = [
            Plan(prompt, Purpose.COLLECT, size, versions)
            for prompt, versions in zip(asked, sides, strict=True)
        ]
        return collected + evaluations

    def _draw_sides(self, live: Promotion, n: int) -> list[tuple[str, str] | None]:
        """Who writes the next `n` comparisons, by the project's shares."""
        shares = self._shares()
        alone = 100 - sum(shares.values())
        met: list[str | None] = [None]
        weights = [alone]
        for rival, percent in shares.items():
            version = self._meet(live, rival)
            met.append(None if isinstance(version, WhyNot) else version)
            weights.append(percent)
        drawn = self._rng.choices(met, weights, k=n)
        return [None if other is None else self._in_turn(live.version, other) for other in drawn]

    def _in_turn(self, live: str, other: str) -> tuple[str, str]:
        """Of an odd number of responses either may write one more."""
        return (live, other) if self._rng.random() < 0.5 else (other, live)

    def _shares(self) -> dict[Rival, int]:
        shares = self._project.settings.shares
        return {Rival.PREVIOUS: shares.previous, Rival.BASE: shares.base}

    def _diverted(self) -> tuple[Diverted, ...]:
        """What cannot be met now; what is loading will be."""
        live = policies.live(self._store)
        if live is None:
            return ()
        told = set(WhyNot)
        if self._host.status().state is HostState.LOADING:
            told.remove(WhyNot.NOT_LOADED)
        shares = self._shares()
        met = {rival: self._meet(live, rival) for rival in Rival if shares[rival]}
        return tuple(
            Diverted(rival, shares[rival], why)
            for rival, why in met.items()
            if isinstance(why, WhyNot) and why in told
        )

    def _meet(self, live: Promotion, rival: Rival) -> str | WhyNot:
        """The rival's version, if both it and the live one can be asked now."""
        version: str | None = live.previous_version
        if rival is Rival.BASE:
            base_model = policies.get(self._store, live.version).base_model
            base = policies.base_of(self._store, base_model)
            version = base.version if base else None
        if version is None:
            return WhyNot.NONE_BEFORE
        if version == live.version:
            return WhyNot.SAME
        if not {live.version, version} <= set(self._host.status().loaded_versions):
            return WhyNot.NOT_LOADED
        return version

    def _plan_evaluations(self, live: Promotion) -> list[Plan]:
        """With the policy before or the base, whichever the live one has met less often."""
        met = [self._meet(live, rival) for rival in Rival]
        made = {
            version: comparisons.count_between(self._store, live.version, version)
            for version in met
            if not isinstance(version, WhyNot)
        }
        if not made:
            return []
        opponent = min(made, key=lambda version: made[version])
        wanted = min(EVALUATIONS_PER_BATCH, EVALUATIONS_PER_OPPONENT - made[opponent])
        if wanted <= 0:
            return []
        asked = prompts.least_compared(
            self._store,
            wanted,
            split=Split.HELD_OUT,
            policy_version=live.version,
            seed=self._rng.randrange(2**31),
            besides=self._passed_over | self._too_long,
        )
        return [Plan(p, Purpose.EVALUATE, versions=(live.version, opponent)) for p in asked]

    def _write(self, plans: Sequence[Plan]) -> list[_Draft]:
        """Every plan's responses, as far as they could be had in `RESAMPLES` rounds."""
        drafts = [_Draft(plan) for plan in plans]
        for _ in range(1 + RESAMPLES):
            wanted = [(draft, version) for draft in drafts for version in draft.missing()]
            if not wanted or self._is_closed:
                break
            written = self._generate([(draft.plan.prompt, version) for draft, version in wanted])
            for (draft, _), completion in zip(wanted, written, strict=True):
                draft.add(completion)
        return drafts

    def _generate(self, wanted: Sequence[tuple[Prompt, str | None]]) -> list[Completion | None]:
        """One completion each, of a version or of the live policy; None where there is none.

        Each is a job of its own: the host batches them, and one refusal concerns nobody else.
        """
        futures = [
            self._host.submit(
                [GenerationRequest(prompt.messages, self._sampling, self._rng.randrange(2**31))],
                version=version,
                priority=Priority.BACKGROUND,
            )
            for prompt, version in wanted
        ]
        return [
            self._outcome(prompt, future)
            for (prompt, _), future in zip(wanted, futures, strict=True)
        ]

    def _outcome(self, prompt: Prompt, future: Future[list[Generation]]) -> Completion | None:
        """None for a prompt that the policy refuses, or a version that was dropped meanwhile."""
        try:
            return completion_of(prompt, future.result()[0], now=self._store.clock())
        except PromptTooLong as error:
            self._too_long.add(prompt.id)
            self._limit_tokens = error.limit_tokens
            return None
        except (BadInput, NotFound) as error:
            log.info("Prompt %s is passed over: %s", prompt.id, error)
            return None

    def _save(
        self,
        written: Sequence[tuple[Completion, ...]],
        made: Sequence[Comparison],
        *,
        began: datetime,
    ) -> None:
        def change(cursor: Cursor) -> None:
            completions.insert(cursor, [c for responses in written for c in responses])
            comparisons.insert(cursor, made, now=began)

        if made:
            asked = prompts.get_many(self._store, [c.prompt_id for c in made])
            evidence = [
                journal.evidence_line(Evidence(c, asked[c.prompt_id], responses, began))
                for c, responses in zip(made, written, strict=True)
            ]
            self._store.write(change, journal=evidence)
            self._assignment.add(made, made_at=began)


def _comparison(plan: Plan, responses: tuple[Completion, ...]) -> Comparison:
    ids = tuple(completion.id for completion in responses)
    return Comparison(uuid.uuid4().hex, plan.prompt.id, ids, plan.purpose)


def _told_apart(written: Sequence[Completion]) -> list[Completion]:
    """What two policies said, without any text that both did; none where only one is left.

    What is merely alike stays: who is to be dropped would be a verdict already.
    """
    kept = [
        completion
        for i, completion in enumerate(written)
        if not any(
            are_same(completion.text, other.text)
            and (j < i or other.policy_version != completion.policy_version)
            for j, other in enumerate(written)
            if j != i
        )
    ]
    return kept if len({completion.policy_version for completion in kept}) > 1 else []
