"""How often both policies follow the instructions that test prompts carry as checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from training.artefacts import Response
from training.instructions import Check
from training.worker.job import Job


class Following(NamedTuple):
    """Shares of `checks` that hold, before and after."""

    checks: int
    before: float
    after: float


def compare(
    job: Job,
    prompts: Sequence[Mapping[str, Any]],
    before: Sequence[Response],
    after: Sequence[Response],
) -> Following | None:
    """None where no prompt carries a check; one that cannot be read is left out with a warning."""
    held = [
        (check.holds(old.text), check.holds(new.text))
        for prompt, old, new in zip(prompts, before, after, strict=True)
        for check in _checks(job, prompt)
    ]
    if not held:
        return None
    return Following(len(held), fmean(old for old, _ in held), fmean(new for _, new in held))


def _checks(job: Job, prompt: Mapping[str, Any]) -> list[Check]:
    found = []
    for values in prompt.get("checks") or ():
        try:
            found.append(Check.from_json(values))
        except (AttributeError, ValueError) as error:
            job.warn("A check of a test prompt was left out: {error}.", error=error)
    return found
