"""What people say of one policy version against another when they do not know which is which."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from store import comparisons
from store.db import Store
from training.blind import Blind
from training.proportions import WinRate, win_rate


class Duel(NamedTuple):
    """Blind verdicts against one opponent; `waiting` comparisons nobody has judged yet."""

    opponent: str
    won: WinRate
    waiting: int


def judged(duels: Iterable[Duel]) -> list[Blind]:
    """What people have said in those of which there are verdicts."""
    return [Blind(duel.opponent, duel.won) for duel in duels if duel.won.n]


def duels_of_all(store: Store) -> Mapping[str, tuple[Duel, ...]]:
    """Of each version that met others, the newest opponent first."""
    found: defaultdict[str, list[Duel]] = defaultdict(list)
    for told in comparisons.heads_to_heads(store):
        won = win_rate(told.wins, told.losses, told.draws)
        found[told.version].append(Duel(told.other, won, told.waiting))
    return {version: tuple(duels) for version, duels in found.items()}
