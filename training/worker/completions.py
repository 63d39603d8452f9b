"""Completions that a policy was made to write, with their scores, kept as they come.

A line of JSON a prompt; what follows the last newline is a torn tail and is written anew.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from training.worker.failures import BadData


class Pair(NamedTuple):
    """The places of a completion and of one that it is preferred to."""

    chosen: int
    rejected: int


@dataclass(frozen=True)
class Drawn:
    """All completions of one prompt: token ids, rewards, and which ended by themselves.

    `row` is the prompt's place in the snapshot; `round` counts how often the policy had learned.
    """

    row: int
    completions: list[list[int]]
    rewards: list[float]
    ended: list[bool]
    round: int = 0

    @property
    def best(self) -> int | None:
        """The place of the highest reward among those that ended; None if none did."""
        places = [place for place, has_ended in enumerate(self.ended) if has_ended]
        return max(places, key=lambda place: self.rewards[place], default=None)

    @property
    def pair(self) -> Pair | None:
        """The best of those that ended and the worst of all; None where neither is better.

        The same text scores alike but for its last digits, which its neighbours decide.
        """
        worst = min(range(len(self.rewards)), key=lambda place: self.rewards[place])
        if self.best is None or self.rewards[self.best] == self.rewards[worst]:
            return None
        if self.completions[self.best] == self.completions[worst]:
            return None
        return Pair(self.best, worst)


class CompletionLog:
    """A file of one writer, which goes on where an earlier one was torn away."""

    def __init__(self, path: Path) -> None:
        known = path.read_bytes() if path.exists() else b""
        complete = known[: known.rfind(b"\n") + 1]
        self.drawn = [Drawn(**json.loads(line)) for line in complete.splitlines()]
        self._file = path.open("ab")
        self._file.truncate(len(complete))

    def append(self, drawn: Drawn) -> None:
        """Keep one prompt's completions, whatever happens to this process. Raises `OSError`."""
        self._file.write(json.dumps(asdict(drawn)).encode() + b"\n")
        self._file.flush()
        self.drawn.append(drawn)

    def close(self) -> None:
        """Idempotent."""
        self._file.close()


def kept(drawn: Sequence[Drawn], share: float) -> list[Drawn]:
    """That share of the prompts whose best response scored highest, best first.

    Prompts none of whose responses came to an end are out before. Raises `BadData` if all are.
    """
    ended = [(each.rewards[each.best], each) for each in drawn if each.best is not None]
    if not ended:
        raise BadData(
            "None of the responses to {prompts} prompts came to an end. Allow longer ones.",
            prompts=len(drawn),
        )
    ranked = sorted(ended, key=lambda pair: pair[0], reverse=True)
    return [each for _, each in ranked[: max(1, round(share * len(drawn)))]]
