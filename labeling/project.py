"""What a project asks of its annotators: its name, the scale of a comparison, the guidelines.

Leads change it, everybody sees it; who must act on a change follows it. Knows no page.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

from labeling.access import Actor, require_lead
from store import guidelines, settings
from store.db import Store
from store.errors import BadInput
from store.guidelines import Guidelines
from store.records import RatingScale

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

MAX_NAME = 80
MAX_GUIDELINES = 50_000
MAX_CRITERIA = 6
MAX_REASONS = 20
MOST_SUBMITTED = 20
FEWEST_RESPONSES = 1
MOST_RESPONSES = 9
_KEY = "judging"

Choice = TypeVar("Choice", bound=StrEnum)
Record = TypeVar("Record", bound="DataclassInstance")


class Scale(StrEnum):
    """How finely a comparison of two responses is judged.

    PLAIN        A is better, tie, B is better
    SEVEN_POINT  A much better, better, slightly, equal, and the same for B
    """

    PLAIN = "plain"
    SEVEN_POINT = "seven_point"


class Task(StrEnum):
    """What annotators do with the responses to a prompt.

    COMPARE  choose between two, rank three or more
    RATE     rate each by itself
    """

    COMPARE = "compare"
    RATE = "rate"


@dataclass(frozen=True)
class Criterion:
    """Something that is judged beside the verdict, on a scale of its own.

    On a `Scale` two responses are compared, on a `RatingScale` each is rated. With `is_required`
    the verdict waits for it.
    """

    name: str
    scale: Scale | RatingScale
    is_required: bool = False


@dataclass(frozen=True)
class Shares:
    """How many in a hundred new comparisons come from which policies.

    `live` are those that the live policy answers alone; in the others it meets the policy that was
    live before, or the base model.
    """

    live: int = 100
    previous: int = 0
    base: int = 0


@dataclass(frozen=True)
class ProjectSettings:
    """What is set for the project.

    `min_submitted` people judge each comparison, of `responses` responses where there are so many
    different ones. Without `writes_comparisons` only what was imported is judged: no policy writes
    any, not even to be compared with the one before. `reasons` are offered beside the rationale;
    with `reveals_policies` a person is told, once the verdict is in, which policy wrote which
    response.
    """

    name: str = "Customer support"
    scale: Scale = Scale.PLAIN
    task: Task = Task.COMPARE
    rating_scale: RatingScale = RatingScale.FIVE_POINT
    criteria: tuple[Criterion, ...] = ()
    reasons: tuple[str, ...] = ()
    reveals_policies: bool = False
    min_submitted: int = 1
    responses: int = 2
    writes_comparisons: bool = True
    shares: Shares = Shares()


Follower = Callable[[ProjectSettings], None]


class Project:
    """The project's settings, read from the store once and kept."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()  # one change after the other, for the followers too
        self._followers: list[Follower] = []
        self._settings = _settings(settings.get(store, _KEY, {}))
        self._guidelines = guidelines.newest(store)

    @property
    def settings(self) -> ProjectSettings:
        """What is set now."""
        return self._settings

    @property
    def guidelines(self) -> Guidelines | None:
        """What annotators are asked to go by now; None before anything was written."""
        return self._guidelines

    def write_guidelines(self, actor: Actor, text: str) -> Guidelines:
        """The next version, in force at once; the same text makes none. Raises `BadInput`."""
        require_lead(actor, "write the guidelines")
        text = text.strip()
        if not text or len(text) > MAX_GUIDELINES:
            raise BadInput("Guidelines have 1 to {most:,} characters.", most=MAX_GUIDELINES)
        self._guidelines = guidelines.add(self._store, text, created_by=actor.id)
        return self._guidelines

    def follow(self, follower: Follower) -> None:
        """Call it with what is set now, and again after each change."""
        with self._lock:
            self._followers.append(follower)
            follower(self._settings)

    def change(self, actor: Actor, **values: Any) -> ProjectSettings:
        """Set what is given for everybody; pages follow at their next load. Raises `BadInput`."""
        require_lead(actor, "change the project")
        with self._lock:
            changed = _checked(replace(self._settings, **values))
            settings.put(self._store, _KEY, asdict(changed))
            self._settings = changed
            for follower in self._followers:
                follower(changed)
        return changed


def _settings(known: Mapping[str, Any]) -> ProjectSettings:
    """What is kept, with defaults for what an older store lacks."""
    inner = {
        "criteria": tuple(_record(Criterion, c) for c in known.get("criteria", ())),
        "reasons": tuple(known.get("reasons", ())),
        "shares": _record(Shares, known.get("shares", {})),
    }
    return _checked(_record(ProjectSettings, {**known, **inner}))


def _record(kind: type[Record], known: Mapping[str, Any]) -> Record:
    """Without what a newer version of the code has added."""
    return kind(**{f.name: known[f.name] for f in fields(kind) if f.name in known})


def _checked(given: ProjectSettings) -> ProjectSettings:
    """The same with clean values. Raises `BadInput`."""
    task = _choice(Task, "task", given.task)
    responses = _whole(
        "The responses to a prompt", given.responses, FEWEST_RESPONSES, MOST_RESPONSES
    )
    if responses == 1 and task is Task.COMPARE:
        raise BadInput("One response cannot be compared; show 2 to 9, or have each rated.")
    return replace(
        given,
        name=_named("The project's name", given.name),
        scale=_choice(Scale, "scale", given.scale),
        task=task,
        rating_scale=_choice(RatingScale, "rating scale", given.rating_scale),
        criteria=_criteria(given.criteria),
        reasons=_reasons(given.reasons),
        reveals_policies=bool(given.reveals_policies),
        min_submitted=_whole("The people who judge each", given.min_submitted, 1, MOST_SUBMITTED),
        responses=responses,
        writes_comparisons=bool(given.writes_comparisons),
        shares=_shares(given.shares),
    )


def _whole(what: str, number: float | None, least: int, most: int) -> int:
    """A form gives a number as a float, or None for an empty field."""
    if number is None or not float(number).is_integer() or not least <= number <= most:
        raise BadInput(
            "{what} must be a whole number from {least} to {most}.",
            what=what,
            least=least,
            most=most,
        )
    return int(number)


def _shares(given: Shares) -> Shares:
    shares = Shares(*(_whole("A share", share, 0, 100) for share in _parts(given)))
    if sum(_parts(shares)) != 100:
        raise BadInput(
            "The shares add up to {total} %, not to 100 %: live {live}, previous {previous}, "
            "base {base}.",
            total=sum(_parts(shares)),
            live=shares.live,
            previous=shares.previous,
            base=shares.base,
        )
    return shares


def _parts(shares: Shares) -> tuple[int, int, int]:
    return shares.live, shares.previous, shares.base


def _named(what: str, name: str) -> str:
    name = name.strip()
    if not name or len(name) > MAX_NAME:
        raise BadInput("{what} has 1 to {most} characters.", what=what, most=MAX_NAME)
    return name


def _choice(kind: type[Choice], what: str, name: str) -> Choice:
    try:
        return kind(name)
    except ValueError:
        known = ", ".join(kind)
        raise BadInput(
            "There is no {what} {name!r}; choose one of {known}.", what=what, name=name, known=known
        ) from None


def _criteria(given: tuple[Criterion, ...]) -> tuple[Criterion, ...]:
    if len(given) > MAX_CRITERIA:
        raise BadInput("A project has at most {most} criteria.", most=MAX_CRITERIA)
    found = tuple(
        Criterion(_named("A criterion", c.name), _criterion_scale(c), c.is_required) for c in given
    )
    if len({criterion.name.casefold() for criterion in found}) < len(found):
        raise BadInput("Two criteria have the same name; give each its own.")
    return found


def _criterion_scale(criterion: Criterion) -> Scale | RatingScale:
    if criterion.scale in list(RatingScale):
        return RatingScale(criterion.scale)
    try:
        return Scale(criterion.scale)
    except ValueError:
        known = ", ".join([*Scale, *RatingScale])
        raise BadInput(
            "{name!r} has no scale {scale!r}; choose one of {known}.",
            name=criterion.name,
            scale=criterion.scale,
            known=known,
        ) from None


def _reasons(given: tuple[str, ...]) -> tuple[str, ...]:
    if len(given) > MAX_REASONS:
        raise BadInput("A project has at most {most} reasons.", most=MAX_REASONS)
    return tuple(dict.fromkeys(_named("A reason", reason) for reason in given))
