"""How often both policies follow the instructions that test prompts carry as checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple, Self

from training.artefacts import Response
from training.instructions import Check, CheckKind
from training.worker.job import Job


class Following(NamedTuple):
    """Shares of `checks` that hold, before and after."""

    checks: int
    before: float
    after: float

    @classmethod
    def of(cls, held: Sequence[tuple[bool, bool]]) -> Self | None:
        """Of whether each holds before and after; None of no checks."""
        if not held:
            return None
        before, after = zip(*held, strict=True)
        return cls(len(held), fmean(before), fmean(after))


class Followed(NamedTuple):
    """All checks of the test prompts together, and those alone that ask for a format."""

    instructions: Following | None
    format: Following | None


def compare(
    job: Job,
    prompts: Sequence[Mapping[str, Any]],
    before: Sequence[Response],
    after: Sequence[Response],
) -> Followed:
    """Nothing where no prompt carries a check; one that cannot be read is left out with a
    warning."""
    held = [
        (check.kind, (check.holds(old.text), check.holds(new.text)))
        for prompt, old, new in zip(prompts, before, after, strict=True)
        for check in _checks(job, prompt)
    ]
    formats = [found for kind, found in held if kind is CheckKind.JSON]
    return Followed(Following.of([found for _, found in held]), Following.of(formats))


def _checks(job: Job, prompt: Mapping[str, Any]) -> list[Check]:
    found = []
    for values in prompt.get("checks") or ():
        try:
            found.append(Check.from_json(values))
        except (AttributeError, ValueError) as error:
            job.warn("A check of a test prompt was left out: {error}.", error=error)
    return found
