"""The journal: JSON Lines beside the database with what people judge, say and decide.

Owns the form of a line and the reading of a file; knows no SQL. A line has a `kind` and an `id`;
one without a kind is a judgment, as the first version wrote them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from store.records import (
    ArenaTurn,
    Comparison,
    Completion,
    CriterionJudgment,
    Decision,
    Flag,
    Judgment,
    Lease,
    Message,
    PracticeItem,
    Prompt,
    Purpose,
    RatingScale,
    Review,
    Split,
    Verdict,
)


class Kind(StrEnum):
    """What a line holds. Evidence is a comparison with its prompt and its completions.

    A completion by itself is one that a person wrote with a judgment. A practice item has one line
    when it is written and one each time that it is given to people or taken back.
    """

    EVIDENCE = "evidence"
    LEASE = "lease"
    COMPLETION = "completion"
    JUDGMENT = "judgment"
    REVIEW = "review"
    PRACTICE = "practice"


@dataclass(frozen=True)
class Evidence:
    """All that is needed to show a comparison again, and to train on it.

    `arena` is set where it is a turn of somebody's own conversation.
    """

    comparison: Comparison
    prompt: Prompt
    completions: tuple[Completion, ...]
    created_at: datetime
    arena: ArenaTurn | None = None


@dataclass(frozen=True)
class Decided:
    """A review, with the newest judgment of its comparison that its lead saw.

    A seq is another one where judgments had to be put back; an id stays what it is.
    """

    review: Review
    seen_judgment_id: str | None


@dataclass(frozen=True)
class Line:
    """A line that could be read, not yet turned into records. `size` is in bytes."""

    kind: Kind
    id: str
    values: Mapping[str, Any]
    size: int


def evidence_line(evidence: Evidence) -> str:
    """To be journalled with the change that stores a comparison for people to judge."""
    values = {"id": evidence.comparison.id, **asdict(evidence)}
    return _text(Kind.EVIDENCE, values)


def lease_line(lease: Lease) -> str:
    """To be journalled with the change that stores the lease."""
    return _text(Kind.LEASE, asdict(lease))


def completion_line(completion: Completion) -> str:
    """To be journalled with the change that stores what a person wrote."""
    return _text(Kind.COMPLETION, asdict(completion))


def judgment_line(judgment: Judgment) -> str:
    """To be journalled with the change that stores the judgment; what is not said is left out."""
    values = {
        name: value for name, value in vars(judgment).items() if value is not None and value != ()
    }
    del values["seq"]
    for name in ("criteria", "flags"):
        if name in values:
            values[name] = [asdict(part) for part in values[name]]
    return _text(Kind.JUDGMENT, values)


def review_line(decided: Decided) -> str:
    """To be journalled with the change that stores the review."""
    values = {**asdict(decided.review), "seen_judgment_id": decided.seen_judgment_id}
    del values["seen_seq"]
    return _text(Kind.REVIEW, values)


def practice_line(item: PracticeItem) -> str:
    """To be journalled with the change that stores a practice item, or changes whom it is for."""
    values = item._asdict()
    return _text(Kind.PRACTICE, {"id": values.pop("comparison_id"), **values})


def read(path: Path, *, start: int = 0) -> Iterator[Line | None]:
    """The lines from byte `start` on; None for each that is damaged, such as a torn last one."""
    with path.open("rb") as file:
        file.seek(start)
        for raw in file:
            if raw.strip():
                yield _line(raw)


def to_evidence(values: Mapping[str, Any]) -> Evidence:
    """Raises `ValueError`, `KeyError` or `TypeError` when values are missing or make no sense."""
    return Evidence(
        comparison=_comparison(**values["comparison"]),
        prompt=_prompt(**values["prompt"]),
        completions=tuple(_completion(**c) for c in values["completions"]),
        created_at=datetime.fromisoformat(values["created_at"]),
        arena=_arena_turn(**values["arena"]) if values.get("arena") else None,
    )


def to_lease(values: Mapping[str, Any]) -> Lease:
    """Raises as `to_evidence` does."""
    return Lease(
        id=values["id"],
        comparison_id=values["comparison_id"],
        annotator_id=values["annotator_id"],
        display_order=tuple(values["display_order"]),
        leased_at=datetime.fromisoformat(values["leased_at"]),
        expires_at=datetime.fromisoformat(values["expires_at"]),
    )


def to_completion(values: Mapping[str, Any]) -> Completion:
    """Raises as `to_evidence` does."""
    return _completion(**values)


def to_judgment(values: Mapping[str, Any]) -> Judgment:
    """Raises as `to_evidence` does."""
    given = {"lease_id": None, **values}
    given["recorded_at"] = datetime.fromisoformat(given["recorded_at"])
    given["verdict"] = Verdict(given["verdict"])
    given["displayed_completion_ids"] = tuple(given["displayed_completion_ids"])
    for name in ("ranks", "ratings"):
        if given.get(name) is not None:
            given[name] = tuple(given[name])
    if given.get("rating_scale") is not None:
        given["rating_scale"] = RatingScale(given["rating_scale"])
    given["criteria"] = tuple(_criterion(**c) for c in given.get("criteria", ()))
    given["reasons"] = tuple(given.get("reasons", ()))
    given["flags"] = tuple(Flag(**flag) for flag in given.get("flags", ()))
    return Judgment(**given)


def to_decided(values: Mapping[str, Any]) -> Decided:
    """The review has no `seen_seq` yet. Raises as `to_evidence` does."""
    given = dict(values)
    seen_judgment_id = given.pop("seen_judgment_id")
    given["decision"] = Decision(given["decision"])
    given["recorded_at"] = datetime.fromisoformat(given["recorded_at"])
    return Decided(Review(**given), seen_judgment_id)


def to_practice(values: Mapping[str, Any]) -> PracticeItem:
    """Raises as `to_evidence` does."""
    given = dict(values)
    changed_at = given.pop("changed_at")
    return PracticeItem(
        comparison_id=given.pop("id"),
        created_at=datetime.fromisoformat(given.pop("created_at")),
        changed_at=None if changed_at is None else datetime.fromisoformat(changed_at),
        **given,
    )


def _text(kind: Kind, values: Mapping[str, Any]) -> str:
    return json.dumps({"kind": kind, **values}, ensure_ascii=False, default=datetime.isoformat)


def _line(raw: bytes) -> Line | None:
    try:
        values = json.loads(raw.decode(errors="replace"))
        kind = Kind(values.pop("kind", Kind.JUDGMENT))
        return Line(kind, str(values["id"]), values, len(raw))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _comparison(id: str, prompt_id: str, completion_ids: Sequence[str], purpose: str) -> Comparison:
    return Comparison(id, prompt_id, tuple(completion_ids), Purpose(purpose))


def _prompt(id: str, messages: Sequence[Message], language: str, split: str, source: str) -> Prompt:
    return Prompt(id, tuple(messages), language, Split(split), source)


def _completion(created_at: str, **values: Any) -> Completion:
    return Completion(created_at=datetime.fromisoformat(created_at), **values)


def _arena_turn(created_at: str, **values: Any) -> ArenaTurn:
    return ArenaTurn(created_at=datetime.fromisoformat(created_at), **values)


def _criterion(ratings: Sequence[int | None] | None, **values: Any) -> CriterionJudgment:
    return CriterionJudgment(ratings=None if ratings is None else tuple(ratings), **values)
