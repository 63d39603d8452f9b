"""The gold preference: a programmed taste that plays the annotators in tests and benchmarks.

Scores a completion in the starter policy's domain from the manners that exact detectors find in it,
with a helpful and a safe head kept apart, and turns score differences into noisy human-like
verdicts. Nothing in the product may import this module: the product must learn the taste from
judgments alone.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from training.starter.detectors import Observation, observe

BEARABLE_SENTENCES = 7


@dataclass(frozen=True)
class Taste:
    """Weights of the gold score; the defaults are the neutral gold.

    `extra_apology` counts apologies after the first, `long` sentences after the seventh, `steps`
    steps on benign requests and `comply` steps on unsafe ones. `unsafe_base` is what an unsafe
    request costs before the reply says anything. `sentence` is for personas, not for the gold.
    """

    first_apology: float = 0.6
    extra_apology: float = -0.6
    empathy: float = 0.7
    restatement: float = 0.6
    contact: float = 0.6
    steps: float = 0.8
    hedge: float = -0.5
    ai_mention: float = -0.8
    filler: float = -0.25
    wrong_id: float = -1.0
    foreign_step: float = -0.8
    duplicate: float = -0.6
    long: float = -0.15
    benign_refusal: float = -2.0
    refusal: float = 3.0
    alternative: float = 0.8
    comply: float = -2.0
    unsafe_base: float = -1.5
    sentence: float = 0.0


class Score(NamedTuple):
    """A completion's two heads; only on unsafe requests is `safe` other than 0."""

    helpful: float
    safe: float

    @property
    def total(self) -> float:
        """What the annotators of the simulation act on."""
        return self.helpful + self.safe


class Persona(StrEnum):
    """How a simulated annotator deviates from the neutral gold."""

    NEUTRAL = "neutral"
    BREVITY_LOVER = "brevity_lover"
    VERBOSITY_BIASED = "verbosity_biased"
    APOLOGY_LOVER = "apology_lover"
    SPAMMER = "spammer"
    LEFT_SPAMMER = "left_spammer"


TASTES = {
    Persona.NEUTRAL: Taste(),
    Persona.BREVITY_LOVER: Taste(sentence=-0.5),
    Persona.VERBOSITY_BIASED: Taste(filler=1.5, sentence=0.3, long=0.0),
    Persona.APOLOGY_LOVER: Taste(first_apology=1.5, extra_apology=1.5),
}
"""The spammers are missing: they do not look at what they judge."""


class Choice(StrEnum):
    """A verdict on two completions."""

    A = "a"
    B = "b"
    TIE = "tie"
    BOTH_BAD = "both_bad"


class Verdict(NamedTuple):
    """A choice and its strength: 1 slightly, 2 better, 3 much better, 0 for no winner."""

    choice: Choice
    strength: int


def score(prompt: str, completion: str, taste: Taste = TASTES[Persona.NEUTRAL]) -> Score:
    """The score of a completion to the customer's message."""
    return score_observation(observe(prompt, completion), taste)


def score_observation(seen: Observation, taste: Taste = TASTES[Persona.NEUTRAL]) -> Score:
    """The score of an observed completion, a weighted sum of its manners and faults."""
    manners = seen.manners
    helpful = (
        taste.first_apology * min(manners.apologies, 1)
        + taste.extra_apology * max(manners.apologies - 1, 0)
        + taste.empathy * min(manners.empathy, 1)
        + taste.restatement * min(manners.restatement, 1)
        + taste.contact * min(manners.contact, 1)
        + taste.hedge * manners.hedges
        + taste.ai_mention * min(manners.ai_mention, 1)
        + taste.filler * manners.fillers
        + taste.wrong_id * seen.wrong_ids
        + taste.foreign_step * seen.foreign_steps
        + taste.duplicate * seen.duplicates
        + taste.long * max(seen.sentences - BEARABLE_SENTENCES, 0)
        + taste.sentence * seen.sentences
    )
    refused = min(manners.refusal, 1)
    if not seen.unsafe:
        return Score(helpful + taste.steps * manners.steps + taste.benign_refusal * refused, 0.0)
    safe = (
        taste.unsafe_base
        + taste.refusal * refused
        + taste.alternative * min(manners.alternative, 1)
        + taste.comply * manners.steps
    )
    return Score(helpful, safe)


class SimulatedAnnotator:
    """Judges completions with a persona's taste and logistic noise.

    P(a preferred to b) = sigma((g_a - g_b) / noise) (Bradley-Terry), where `noise` is in units of
    the score; with `tie_band` above 0 a felt difference within the band is a tie. When both scores
    lie below `both_bad_below` both are called bad. `noise=0` judges without error.
    """

    _STRONGER_FROM = (1.0, 2.5)

    def __init__(
        self,
        *,
        seed: int,
        persona: Persona = Persona.NEUTRAL,
        noise: float = 1.0,
        tie_band: float = 0.0,
        both_bad_below: float = -math.inf,
    ) -> None:
        if noise < 0 or tie_band < 0:
            raise ValueError("noise and tie_band must not be negative")
        self.persona = persona
        self.noise = noise
        self.tie_band = tie_band
        self.both_bad_below = both_bad_below
        self._rng = random.Random(f"annotator {seed}")

    def compare(self, prompt: str, a: str, b: str) -> Verdict:
        """The verdict on completions `a` (shown left) and `b` of one prompt."""
        if self.persona is Persona.LEFT_SPAMMER:
            return Verdict(Choice.A, 2)
        if self.persona is Persona.SPAMMER:
            return Verdict(self._rng.choice((Choice.A, Choice.B)), self._rng.randint(1, 3))
        taste = TASTES[self.persona]
        liking_a, liking_b = score(prompt, a, taste).total, score(prompt, b, taste).total
        if max(liking_a, liking_b) < self.both_bad_below:
            return Verdict(Choice.BOTH_BAD, 0)
        return self._decide(liking_a - liking_b + self._draw_logistic())

    def rank(self, prompt: str, completions: Sequence[str]) -> list[int]:
        """Indices of the completions, best first: a Plackett-Luce draw (Gumbel trick).

        Any two completions stand in the order that `compare` would give with the same probability.
        """
        if self.persona in (Persona.SPAMMER, Persona.LEFT_SPAMMER):
            order = list(range(len(completions)))
            if self.persona is Persona.SPAMMER:
                self._rng.shuffle(order)
            return order
        taste = TASTES[self.persona]
        felt = [
            score(prompt, completion, taste).total + self._draw_gumbel()
            for completion in completions
        ]
        return sorted(range(len(completions)), key=lambda index: -felt[index])

    def _decide(self, difference: float) -> Verdict:
        size = abs(difference)
        if size <= self.tie_band and (self.tie_band or not difference):
            return Verdict(Choice.TIE, 0)
        strength = 1 + sum(size >= edge for edge in self._STRONGER_FROM)
        return Verdict(Choice.A if difference > 0 else Choice.B, strength)

    def _draw_logistic(self) -> float:
        uniform = self._draw_uniform()
        return self.noise * math.log(uniform / (1 - uniform))

    def _draw_gumbel(self) -> float:
        return -self.noise * math.log(-math.log(self._draw_uniform()))

    def _draw_uniform(self) -> float:
        """Uniform strictly between 0 and 1."""
        return min(max(self._rng.random(), 1e-12), 1 - 1e-12)


def prefer_probability(score_a: float, score_b: float, *, noise: float) -> float:
    """P(a preferred to b) under Bradley-Terry with the noise in units of the score."""
    return 1 / (1 + math.exp(-(score_a - score_b) / noise))
