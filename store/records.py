"""The plain records that the store hands out. Ids are opaque strings; times are aware UTC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple, TypedDict


class Message(TypedDict):
    """One turn of a conversation, in the columns that TRL and chat templates use."""

    role: str
    content: str


class Role(StrEnum):
    """What an annotator may do. `SOURCE` stands for an import and can never sign in."""

    ANNOTATOR = "annotator"
    LEAD = "lead"
    SOURCE = "source"


class Split(StrEnum):
    """Whether a prompt may be trained on."""

    TRAIN = "train"
    HELD_OUT = "held_out"


class Purpose(StrEnum):
    """Why a comparison exists. Only `COLLECT` ones ever become training preferences.

    PRACTICE ones have a known verdict and show newcomers how the guidelines are meant.
    """

    COLLECT = "collect"
    EVALUATE = "evaluate"
    PRACTICE = "practice"


class Verdict(StrEnum):
    """What a judgment says.

    PREFERRED, TIE and BOTH_BAD are of two responses, RANKED and NOT_RANKABLE of more, RATED of
    each response by itself. SKIPPED says that the person cannot judge. RETRACTED is an undo: it
    supersedes and says nothing itself.
    """

    PREFERRED = "preferred"
    TIE = "tie"
    BOTH_BAD = "both_bad"
    RANKED = "ranked"
    NOT_RANKABLE = "not_rankable"
    RATED = "rated"
    SKIPPED = "skipped"
    RETRACTED = "retracted"


class RatingScale(StrEnum):
    """How finely a single response is rated.

    THUMBS      0 (down) or 1 (up)
    FIVE_POINT  1 (bad) to 5 (excellent)
    """

    THUMBS = "thumbs"
    FIVE_POINT = "five_point"

    @property
    def values(self) -> range:
        """The ratings that there are."""
        return range(2) if self is RatingScale.THUMBS else range(1, 6)


class RunState(StrEnum):
    """Life of a run.

    QUEUED       entered by launch; left when the trainer starts, or by cancel
    RUNNING      entered when the trainer process exists; left by its result or its death
    SUCCEEDED    entered by a result that names an adapter; final
    FAILED       entered by a result that names an error; final
    CANCELLED    entered when a cancel was asked for and the trainer has gone; final
    INTERRUPTED  entered when the trainer died without a result; left by resume
    """

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"

    @property
    def is_final(self) -> bool:
        """No trainer is at work on a run in this state."""
        return self not in (RunState.QUEUED, RunState.RUNNING)


class PromotionKind(StrEnum):
    """Why the live policy changed."""

    INITIAL = "initial"
    PROMOTE = "promote"
    ROLL_BACK = "roll_back"


@dataclass(frozen=True)
class Annotator:
    """A person, or the source of an import."""

    id: str
    name: str
    role: Role
    is_active: bool
    created_at: datetime


@dataclass(frozen=True)
class Prompt:
    """Messages given to a policy; the last one is the user's. The id is a hash of them."""

    id: str
    messages: tuple[Message, ...]
    language: str
    split: Split
    source: str


@dataclass(frozen=True)
class Completion:
    """Text for a prompt, with all that is needed to trace it.

    `policy_version`, `adapter_sha256`, `sampling`, `seed` are None for imported text.
    `sampling` holds temperature, top_p, top_k (0 = all), max_new_tokens.
    `finish_reason` is `stop` (the policy ended the turn), `length`, `stopped` (a person did; the
    text is what they saw) or `import`.
    `author` is the model that an import names as the writer, if it names one.
    """

    id: str
    prompt_id: str
    text: str
    source: str
    policy_version: str | None
    adapter_sha256: str | None
    sampling: Mapping[str, float | int] | None
    seed: int | None
    finish_reason: str
    token_count: int | None
    created_at: datetime
    author: str | None = None


@dataclass(frozen=True)
class Comparison:
    """A task: one prompt, one to nine completions, in the order in which they were stored.

    A single completion can only be rated.
    """

    id: str
    prompt_id: str
    completion_ids: tuple[str, ...]
    purpose: Purpose


@dataclass(frozen=True)
class ArenaTurn:
    """One turn of one person's conversation in the arena: a comparison that is theirs alone.

    `turn` counts from 1; responses that were asked for anew make another turn of the same number.
    """

    comparison_id: str
    conversation_id: str
    annotator_id: str
    turn: int
    created_at: datetime


@dataclass(frozen=True)
class Lease:
    """A comparison held by one annotator.

    `display_order[i]` is the index, within `Comparison.completion_ids`, of what stands at place i.
    """

    id: str
    comparison_id: str
    annotator_id: str
    display_order: tuple[int, ...]
    leased_at: datetime
    expires_at: datetime


@dataclass(frozen=True)
class CriterionJudgment:
    """What a judgment says under one criterion, independent of its verdict.

    On a comparative scale (`plain`, `seven_point`) `preferred_completion_id` and `strength` are
    set, or neither for equal; on a rating scale `ratings`, one for each response displayed, None
    where there is none.
    """

    name: str
    scale: str
    preferred_completion_id: str | None = None
    strength: int | None = None
    ratings: tuple[int | None, ...] | None = None


@dataclass(frozen=True)
class Flag:
    """Something leads should look at; without `completion_id` it concerns the prompt."""

    kind: str
    completion_id: str | None = None


@dataclass(frozen=True)
class Judgment:
    """One annotator's verdict on one comparison; append-only.

    `strength` is 1 (slightly), 2 (better) or 3 (much better) and set only with `PREFERRED`.
    `displayed_completion_ids` is the order that the annotator saw, `guidelines_version` what they
    were asked to go by. `ranks` (1 is best, equal ranks are a tie) and `ratings` have one entry
    for each response displayed, None where it was left out. `reason` is why it was skipped,
    `reasons` and `rationale` are why the verdict is what it is. `rewrite_completion_id` is what
    the person wrote, after `rewritten_completion_id` or, without one, anew.
    """

    id: str
    comparison_id: str
    annotator_id: str
    lease_id: str | None
    verdict: Verdict
    displayed_completion_ids: tuple[str, ...]
    recorded_at: datetime
    preferred_completion_id: str | None = None
    strength: int | None = None
    reason: str | None = None
    supersedes: str | None = None
    duration_ms: int | None = None
    source: str = "page"
    guidelines_version: int | None = None
    ranks: tuple[int | None, ...] | None = None
    ratings: tuple[int | None, ...] | None = None
    rating_scale: RatingScale | None = None
    criteria: tuple[CriterionJudgment, ...] = ()
    reasons: tuple[str, ...] = ()
    rationale: str | None = None
    flags: tuple[Flag, ...] = ()
    rewrite_completion_id: str | None = None
    rewritten_completion_id: str | None = None
    seq: int = 0


class Decision(StrEnum):
    """What a lead makes of a flagged comparison.

    KEPT       it is fine; what was judged counts
    WITHDRAWN  nothing is derived from its judgments any more
    """

    KEPT = "kept"
    WITHDRAWN = "withdrawn"


@dataclass(frozen=True)
class Review:
    """A lead's decision about a comparison; append-only, the latest one holds.

    `seen_seq` is the newest flagged judgment that the lead saw, by its seq.
    """

    id: str
    comparison_id: str
    decision: Decision
    annotator_id: str
    recorded_at: datetime
    note: str | None = None
    seen_seq: int = 0


class PracticeItem(NamedTuple):
    """What is expected of a comparison, and why; without a completion a tie is.

    Only an active one is given to people who have not answered it; `changed_at` is when that was
    last changed, None if never.
    """

    comparison_id: str
    expected_completion_id: str | None
    explanation: str
    created_by: str
    created_at: datetime
    is_active: bool = True
    changed_at: datetime | None = None


@dataclass(frozen=True)
class Preference:
    """A derived pair: what the judgments of one comparison say together of two responses.

    `margin` is the mean signed strength (ties count 0), always > 0; in a ranking the strength is
    the distance in ranks, 3 at most. `sources` are judgment ids.
    """

    comparison_id: str
    prompt_id: str
    chosen_completion_id: str
    rejected_completion_id: str
    margin: float
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Snapshot:
    """Frozen, hashed training data: a Parquet file in TRL's columns."""

    id: str
    path: str
    rows: int
    max_judgment_seq: int
    created_by: str
    created_at: datetime


class GeneralDemonstration(NamedTuple):
    """A prompt and what a policy should still answer to it; `id` is a hash of both."""

    id: str
    prompt: tuple[Message, ...]
    completion: str
    source: str


@dataclass(frozen=True)
class Run:
    """One training job. `spec` is what the run directory's spec.json holds.

    `general_snapshot_id` names the general demonstrations that it was given, where there were any.
    """

    id: str
    method: str
    spec: Mapping[str, Any]
    snapshot_id: str
    parent_version: str
    state: RunState
    folder: str
    created_by: str
    created_at: datetime
    pid: int | None = None
    pid_started_at: float | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    error: str | None = None
    result: Mapping[str, Any] | None = None
    general_snapshot_id: str | None = None


@dataclass(frozen=True)
class RunEvent:
    """One line that a trainer wrote. `seq` counts from 0 in its file; `at` is UNIX seconds."""

    run_id: str
    seq: int
    at: float
    kind: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Policy:
    """A policy version: a base model and, unless it is the base itself, an immutable adapter."""

    version: str
    base_model: str
    parent_version: str | None
    adapter_path: str | None
    adapter_sha256: str | None
    run_id: str | None
    snapshot_id: str | None
    created_at: datetime


@dataclass(frozen=True)
class Promotion:
    """A change of the live policy; append-only."""

    id: str
    seq: int
    version: str
    previous_version: str | None
    kind: PromotionKind
    annotator_id: str | None
    created_at: datetime


def last_user_message(messages: Sequence[Message]) -> str:
    """The text that a person reads first when shown the prompt."""
    return next((m["content"] for m in reversed(messages) if m["role"] == "user"), "")
