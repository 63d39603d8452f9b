"""Over-optimisation: the reward still rises, and what it stands for has begun to fall.

A policy that learns from a reward model finds what that model is wrong about (Gao et al. 2022). The
true preference is not known while it learns; a second reward model, trained on none of the first
one's judgments, stands in for it (Bai et al. 2022, section 4.2). Where the two share a mistake, the
second one rises with the first; what then remains to be seen is that both score responses of a kind
that nobody judged, and before that, often, that responses become ever shorter or ever longer: the
first thing that a policy finds is what its reward model likes of length (Singhal et al. 2023). Pure
functions of what was seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import NamedTuple

from training.events import Told, series

# A single look strays, and a fall that is real stays.
LOOKS_IN_A_ROW = 2
# Standard errors of the difference of two means.
SURE = 2.0
# Standard deviations above the mean of the responses that people judged. Of those one in twenty
# scores as high, if their scores are normal; where most do, the reward model has to extrapolate.
UNJUDGED = 1.645
# Share of the length at first. Measured on the bundled policy: where gold began to fall, responses
# had lost a third; where it rose or held they were up to a quarter longer, or a seventh shorter.
RESHAPED = 1 / 3


class Look(NamedTuple):
    """The policy's responses to the held-out prompts after `step` iterations, on average.

    The rewards are of those that ended by themselves, if any did.

    `proxy_reward` is given by the model that is learned from, `watch_reward` by the second one,
    both in standard deviations of their own scores and with their standard errors; `held_out_kl`
    is the KL(policy || reference) per response, in nats, `held_out_length` the tokens of all of
    them, NaN where an older version looked.
    """

    step: float
    held_out_kl: float
    proxy_reward: float
    proxy_error: float
    watch_reward: float
    watch_error: float
    held_out_length: float = math.nan
    held_out_length_error: float = math.nan

    @property
    def distance(self) -> float:
        """sqrt(KL), over which rewards rise and fall in a simple form (Gao et al. 2022, eq. 2)."""
        return math.sqrt(max(self.held_out_kl, 0.0))


class Alarm(NamedTuple):
    """The best look by the second model, and the one at which its fall had become sure."""

    peak: Look
    seen: Look


def looks(events: Iterable[Told]) -> list[Look]:
    """What the watch has seen, in order of step; of one that was repeated, the later."""
    told = list(events)
    measured = {name: dict(series(told, name)) for name in Look._fields[1:]}
    needed = [set(measured[name]) for name in measured if name not in Look._field_defaults]
    return [
        Look(step, *(found.get(step, math.nan) for found in measured.values()))
        for step in sorted(set.intersection(*needed))
    ]


def alarm(seen: Sequence[Look]) -> Alarm | None:
    """Whether the watch fell from its peak while the reward rose, for `LOOKS_IN_A_ROW` looks.

    Both surely: by more than `SURE` standard errors of the difference. None again once the watch
    has a new peak.
    """
    if not seen:
        return None
    peak = max(seen, key=lambda look: look.watch_reward)
    later = [look for look in seen if look.step > peak.step]
    parted = [_has_parted(peak, look) for look in later]
    for end in range(LOOKS_IN_A_ROW, len(later) + 1):
        if all(parted[end - LOOKS_IN_A_ROW : end]):
            return Alarm(peak, later[end - 1])
    return None


def unjudged(seen: Sequence[Look]) -> Look | None:
    """The first of the latest looks that are all beyond `UNJUDGED`, of at least `LOOKS_IN_A_ROW`.

    Both models may be wrong there in the same way, so that `alarm` would not hear of it.
    """
    return _lasting(seen, [look.proxy_reward > UNJUDGED for look in seen])


def reshaped(seen: Sequence[Look]) -> Look | None:
    """The first of the latest looks at which responses are by `RESHAPED` shorter or longer than at
    the first look of all, and surely so; of at least `LOOKS_IN_A_ROW`."""
    return _lasting(seen, [_has_reshaped(seen[0], look) for look in seen])


def _lasting(seen: Sequence[Look], is_so: Sequence[bool]) -> Look | None:
    """Since which look it is so without a break, if it is for long enough."""
    count = sum(1 for _ in takewhile(bool, reversed(is_so)))
    return seen[-count] if count >= LOOKS_IN_A_ROW else None


def _has_reshaped(first: Look, look: Look) -> bool:
    shift = abs(look.held_out_length - first.held_out_length)
    by_chance = SURE * math.hypot(first.held_out_length_error, look.held_out_length_error)
    return shift > by_chance and shift > RESHAPED * first.held_out_length


def _has_parted(peak: Look, look: Look) -> bool:
    fallen = peak.watch_reward - look.watch_reward
    risen = look.proxy_reward - peak.proxy_reward
    return fallen > SURE * math.hypot(peak.watch_error, look.watch_error) and risen > SURE * (
        math.hypot(peak.proxy_error, look.proxy_error)
    )
