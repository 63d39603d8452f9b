"""What a page may say about an item, checked, and turned into a judgment's fields.

Knows places as the annotator saw them; knows no store and no lease.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeVar

from labeling.project import Scale
from store.errors import BadInput
from store.records import (
    Completion,
    CriterionJudgment,
    Flag,
    Judgment,
    RatingScale,
    Verdict,
)

MAX_REASON = 2000
MAX_RATIONALE = 5000
MAX_REASONS = 20
MAX_NAME = 80
MAX_CRITERIA = 12
MAX_FLAGS = 40  # each kind for the prompt and for nine responses
MAX_REWRITE = 50_000
STRENGTHS = (1, 2, 3)
_OF_TWO = (Verdict.PREFERRED, Verdict.TIE, Verdict.BOTH_BAD)


Choice = TypeVar("Choice", bound=StrEnum)


class FlagKind(StrEnum):
    """What may be wrong with a response or a prompt, beyond being worse."""

    UNSAFE = "unsafe"
    OFF_TOPIC = "off_topic"
    WRONG_LANGUAGE = "wrong_language"
    PERSONAL_DATA = "personal_data"


@dataclass(frozen=True)
class CriterionGiven:
    """An answer under one criterion: `place` with `strength`, neither for equal, or `ratings`."""

    name: str
    scale: str
    place: int | None = None
    strength: int | None = None
    ratings: Sequence[int | None] | None = None


@dataclass(frozen=True)
class FlagGiven:
    """What is flagged; without a place it is the prompt."""

    kind: str
    place: int | None = None


@dataclass(frozen=True)
class RewriteGiven:
    """What the person wrote, after the response at `place` or, without one, anew."""

    text: str
    place: int | None = None


@dataclass(frozen=True)
class VerdictGiven:
    """What a page sends. Places count from 0 in the order displayed.

    `place` and `strength` go with `PREFERRED`, `ranks` with `RANKED` (1 is best, equal is a tie,
    None is left out), `ratings` and `rating_scale` with `RATED`; each has an entry for each place.
    `supersedes` names the judgment that this one corrects.
    """

    id: str
    lease_id: str
    verdict: Verdict
    place: int | None = None
    strength: int | None = None
    reason: str | None = None
    duration_ms: int | None = None
    guidelines_version: int | None = None
    ranks: Sequence[int | None] | None = None
    ratings: Sequence[int | None] | None = None
    rating_scale: str | None = None
    criteria: Sequence[CriterionGiven] = ()
    reasons: Sequence[str] = ()
    rationale: str | None = None
    flags: Sequence[FlagGiven] = ()
    rewrite: RewriteGiven | None = None
    supersedes: str | None = None


def check(given: VerdictGiven) -> None:
    """All that can be told without knowing the item. Raises `BadInput`."""
    if not given.id or len(given.id) > 64:
        raise BadInput("A judgment needs a client-made id of 1 to 64 characters.")
    if given.verdict is Verdict.RETRACTED:
        raise BadInput("Use undo to retract a judgment.")
    is_preference = given.verdict is Verdict.PREFERRED
    if is_preference != (given.place is not None) or is_preference != (given.strength is not None):
        raise BadInput("place and strength go with the verdict 'preferred', and only with it.")
    _check_strength(given.strength)
    if (given.verdict is Verdict.RANKED) != (given.ranks is not None):
        raise BadInput("ranks go with the verdict 'ranked', and only with it.")
    is_rating = given.verdict is Verdict.RATED
    if is_rating != (given.ratings is not None) or is_rating != (given.rating_scale is not None):
        raise BadInput("ratings and rating_scale go with the verdict 'rated', and only with it.")
    _check_length("A reason", given.reason, MAX_REASON)
    _check_length("A rationale", given.rationale, MAX_RATIONALE)
    if len(given.reasons) > MAX_REASONS:
        raise BadInput("A judgment has at most {most} reasons.", most=MAX_REASONS)
    for reason in given.reasons:
        _check_name("A reason", reason)
    if given.duration_ms is not None and given.duration_ms < 0:
        raise BadInput("duration_ms is not negative.")
    if given.guidelines_version is not None and given.guidelines_version < 1:
        raise BadInput("Versions of the guidelines count from 1.")


def fields(given: VerdictGiven, displayed: Sequence[str]) -> dict[str, Any]:
    """What the verdict says, in a judgment's fields, about the completions `displayed`.

    Raises `BadInput` where it does not fit them.
    """
    if given.verdict in _OF_TWO and len(displayed) != 2:
        raise BadInput(
            "{verdict!r} is a verdict on two responses; there are {responses}.",
            verdict=given.verdict.value,
            responses=len(displayed),
        )
    if given.verdict in (Verdict.RANKED, Verdict.NOT_RANKABLE) and len(displayed) < 2:
        raise BadInput("One response cannot be ranked; rate it.")
    ratings = rating_scale = None
    if given.ratings is not None:
        rating_scale = _choice(RatingScale, given.rating_scale)
        ratings = _ratings(given.ratings, rating_scale, len(displayed))
    return {
        "preferred_completion_id": _at(displayed, given.place),
        "strength": given.strength,
        "ranks": None if given.ranks is None else _dense(given.ranks, len(displayed)),
        "ratings": ratings,
        "rating_scale": rating_scale,
        "criteria": _criteria(given.criteria, displayed),
        "reasons": tuple(dict.fromkeys(given.reasons)),
        "rationale": (given.rationale or "").strip() or None,
        "flags": _flags(given.flags, displayed),
        "rewritten_completion_id": (
            _at(displayed, given.rewrite.place) if given.rewrite is not None else None
        ),
    }


def written(given: VerdictGiven, *, prompt_id: str, now: datetime) -> Completion | None:
    """The completion that the person wrote; the same judgment always gives the same id.

    Raises `BadInput` for an empty one.
    """
    if given.rewrite is None:
        return None
    text = given.rewrite.text.strip()
    if not text:
        raise BadInput("A rewrite needs a text; leave it out instead of sending an empty one.")
    _check_length("A rewrite", text, MAX_REWRITE)
    return Completion(
        id=hashlib.sha256(f"rewrite {given.id}".encode()).hexdigest()[:32],
        prompt_id=prompt_id,
        text=text,
        source="annotator",
        policy_version=None,
        adapter_sha256=None,
        sampling=None,
        seed=None,
        finish_reason="stop",
        token_count=None,
        created_at=now,
    )


def given_of(judgment: Judgment, *, rewrite_text: str) -> VerdictGiven:
    """What a page sent to make this judgment; the inverse of `fields` and `written`."""
    displayed = judgment.displayed_completion_ids
    place = {id: i for i, id in enumerate(displayed)}
    rewrite = None
    if judgment.rewrite_completion_id is not None:
        rewrite = RewriteGiven(rewrite_text, place.get(judgment.rewritten_completion_id or ""))
    return VerdictGiven(
        id=judgment.id,
        lease_id=judgment.lease_id or "",
        verdict=judgment.verdict,
        place=place.get(judgment.preferred_completion_id or ""),
        strength=judgment.strength,
        reason=judgment.reason,
        duration_ms=judgment.duration_ms,
        guidelines_version=judgment.guidelines_version,
        ranks=judgment.ranks,
        ratings=judgment.ratings,
        rating_scale=judgment.rating_scale,
        criteria=[
            CriterionGiven(
                c.name,
                c.scale,
                place.get(c.preferred_completion_id or ""),
                c.strength,
                c.ratings,
            )
            for c in judgment.criteria
        ],
        reasons=judgment.reasons,
        rationale=judgment.rationale,
        flags=[FlagGiven(f.kind, place.get(f.completion_id or "")) for f in judgment.flags],
        rewrite=rewrite,
        supersedes=judgment.supersedes,
    )


def _at(displayed: Sequence[str], place: int | None) -> str | None:
    if place is None:
        return None
    if not 0 <= place < len(displayed):
        raise BadInput(
            "place is 0 to {last}, not {place}.",
            last=len(displayed) - 1,
            place=place,
        )
    return displayed[place]


def _dense(ranks: Sequence[int | None], size: int) -> tuple[int | None, ...]:
    """1, 2, 2, 3 whatever gaps there were, so that a distance means the same in every ranking."""
    if len(ranks) != size:
        raise BadInput("There are {size} responses and {ranks} ranks.", size=size, ranks=len(ranks))
    used = sorted({rank for rank in ranks if rank is not None})
    if sum(rank is not None for rank in ranks) < 2:
        raise BadInput("Rank at least two responses, or say that they cannot be ranked.")
    if used[0] < 1 or used[-1] > 9:
        raise BadInput("Ranks are 1 (best) to 9.")
    return tuple(None if rank is None else used.index(rank) + 1 for rank in ranks)


def _ratings(
    ratings: Sequence[int | None], scale: RatingScale, size: int
) -> tuple[int | None, ...]:
    if len(ratings) != size:
        raise BadInput(
            "There are {size} responses and {ratings} ratings.",
            size=size,
            ratings=len(ratings),
        )
    if all(rating is None for rating in ratings):
        raise BadInput("Rate at least one response, or say why it cannot be judged.")
    if any(rating is not None and rating not in scale.values for rating in ratings):
        first, last = scale.values[0], scale.values[-1]
        raise BadInput(
            "A rating of the scale {scale!r} is {first} to {last}.",
            scale=scale.value,
            first=first,
            last=last,
        )
    return tuple(ratings)


def _criteria(
    given: Sequence[CriterionGiven], displayed: Sequence[str]
) -> tuple[CriterionJudgment, ...]:
    if len(given) > MAX_CRITERIA:
        raise BadInput("A judgment has at most {most} criteria.", most=MAX_CRITERIA)
    if len({answer.name for answer in given}) < len(given):
        raise BadInput("Each criterion is answered once.")
    return tuple(_criterion(answer, displayed) for answer in given)


def _criterion(given: CriterionGiven, displayed: Sequence[str]) -> CriterionJudgment:
    _check_name("A criterion", given.name)
    if given.ratings is not None:
        scale = _choice(RatingScale, given.scale)
        ratings = _ratings(given.ratings, scale, len(displayed))
        return CriterionJudgment(given.name, scale.value, ratings=ratings)
    if len(displayed) != 2:
        raise BadInput(
            "{name!r} compares two responses; there are {responses}.",
            name=given.name,
            responses=len(displayed),
        )
    if (given.place is None) != (given.strength is None):
        raise BadInput("{name!r}: place and strength go together.", name=given.name)
    _check_strength(given.strength)
    return CriterionJudgment(
        given.name,
        _choice(Scale, given.scale).value,
        preferred_completion_id=_at(displayed, given.place),
        strength=given.strength,
    )


def _flags(given: Sequence[FlagGiven], displayed: Sequence[str]) -> tuple[Flag, ...]:
    if len(given) > MAX_FLAGS:
        raise BadInput("A judgment has at most {most} flags.", most=MAX_FLAGS)
    flags = [Flag(_choice(FlagKind, f.kind).value, _at(displayed, f.place)) for f in given]
    return tuple(dict.fromkeys(flags))


def _choice(kind: type[Choice], name: str | None) -> Choice:
    try:
        return kind(name or "")
    except ValueError:
        raise BadInput(
            "There is no {name!r} here; choose one of {known}.", name=name, known=", ".join(kind)
        ) from None


def _check_strength(strength: int | None) -> None:
    if strength is not None and strength not in STRENGTHS:
        raise BadInput("strength is 1 (slightly), 2 (better) or 3 (much better).")


def _check_length(what: str, text: str | None, most: int) -> None:
    if text and len(text) > most:
        raise BadInput("{what} has at most {most:,} characters.", what=what, most=most)


def _check_name(what: str, name: str) -> None:
    if not name.strip() or len(name) > MAX_NAME:
        raise BadInput("{what} has 1 to {most} characters.", what=what, most=MAX_NAME)
