"""How much data there is for a method, and what that amount is good for."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from training.messages import Message
from training.methods import LearnsFrom, Method, Product


class Grade(StrEnum):
    """Sizes of training data, each for its method."""

    HARDLY_ANY = "hardly_any"
    SMALL = "small"
    MEDIUM = "medium"
    LARGE = "large"


class Volume(NamedTuple):
    """An amount of data: its grade, what that means, and how many rows lead to the next grade."""

    grade: Grade
    title: Message
    advice: Message
    to_next: int | None


class Reach(StrEnum):
    """How far an amount of data goes for a task."""

    SHORT = "short"
    FEWEST = "fewest"
    USUAL = "usual"
    IDEAL = "ideal"


class Task(NamedTuple):
    """A kind of task, and how many examples it takes: at least, as a rule, and at best."""

    name: Message
    fewest: int
    usual: int
    ideal: int

    def reach(self, rows: int) -> Reach:
        """How far this many go."""
        return list(Reach)[sum(rows >= bound for bound in (self.fewest, self.usual, self.ideal))]


# Rules of thumb of practitioners for fine-tuning on examples, not measured here.
TASKS = (
    Task(Message("A style"), 50, 100, 500),
    Task(Message("A task with a form of its own"), 100, 300, 1_000),
    Task(Message("A field of knowledge"), 200, 500, 2_000),
    Task(Message("Reasoning in several steps"), 500, 1_000, 5_000),
    Task(Message("Sorting into classes"), 500, 2_000, 5_000),
    Task(Message("Answering questions"), 1_000, 5_000, 10_000),
    Task(Message("Conversations"), 2_000, 10_000, 50_000),
    Task(Message("Writing code"), 2_000, 10_000, 50_000),
)


class Bounds(NamedTuple):
    """The fewest rows of each grade above the lowest."""

    small: int
    medium: int
    large: int


# Measured on the bundled model: 1,000 pairs won 72 % of blind comparisons by DPO; reward models of
# 50, 200, 1,000 and 3,000 pairs ranked 54, 58, 66 and 72 % of pairs as people would.
PAIRS = Bounds(50, 200, 1000)
SCORED_PAIRS = Bounds(200, 1000, 3000)
# A pair is a thumb up and a thumb down (Ethayarajh et al. 2024, section 4).
THUMBS = Bounds(100, 400, 2000)
# Style takes 50 demonstrations, a task some hundreds, a domain thousands.
DEMONSTRATIONS = Bounds(50, 200, 1000)
# Each prompt is answered several times, but a policy that meets few of them learns them by heart.
PROMPTS = Bounds(50, 200, 1000)

_TITLES = {
    Grade.HARDLY_ANY: Message("Hardly anything to learn from"),
    Grade.SMALL: Message("A small set"),
    Grade.MEDIUM: Message("A medium set"),
    Grade.LARGE: Message("A large set"),
}
_OF_PAIRS = {
    Grade.HARDLY_ANY: Message(
        "Too few to show more than that the loop works. Judge to 50 for a first effect, to 200 for "
        "a clear one."
    ),
    Grade.SMALL: Message(
        "Enough for a change of manner. Gentle steps and a few epochs; expect people to "
        "notice, and to disagree now and then."
    ),
    Grade.MEDIUM: Message(
        "Enough for a clear change of style and manner. More preferences on new prompts "
        "help more than further epochs."
    ),
    Grade.LARGE: Message(
        "Enough to learn a task. Fewer epochs suffice; watch the held-out accuracy for "
        "over-fitting."
    ),
}
_OF_SCORED_PAIRS = {
    Grade.HARDLY_ANY: Message(
        "A reward model of fewer than 200 pairs ranks hardly better than chance. Do not let a "
        "policy learn from it yet."
    ),
    Grade.SMALL: Message(
        "It will agree with people on somewhat more than half of the pairs: enough to try things "
        "out, and easy for a policy to outwit. A policy that learns from it must stay close to the "
        "reference."
    ),
    Grade.MEDIUM: Message(
        "A usable reward model. One epoch is enough: a second one makes it over-confident."
    ),
    Grade.LARGE: Message(
        "A good reward model, if people agree. Its accuracy cannot exceed how often they agree "
        "with each other."
    ),
}
_OF_THUMBS = {
    Grade.HARDLY_ANY: Message(
        "Too few to show more than that the loop works. A thumb says less than a pair: gather 400."
    ),
    Grade.SMALL: Message(
        "Enough for a change of manner. Where the responses were judged in pairs, DPO gets more "
        "out of them."
    ),
    Grade.MEDIUM: Message(
        "Enough for a clear change. See that liked and disliked ones are of like number, or set "
        "their weights."
    ),
    Grade.LARGE: Message("Plenty. KTO copes with one-sided and noisy thumbs at this size."),
}
_OF_DEMONSTRATIONS = {
    Grade.HARDLY_ANY: Message(
        "Too few to imitate anything but single phrases. Write or rewrite 50 responses for a style."
    ),
    Grade.SMALL: Message("Enough for a tone and a form. It will not learn new facts from these."),
    Grade.MEDIUM: Message("Enough for a style and for simple tasks. Good ones beat many ones."),
    Grade.LARGE: Message(
        "Enough for a task or a domain. One or two epochs suffice; further ones are learned by "
        "heart."
    ),
}
_OF_PROMPTS = {
    Grade.HARDLY_ANY: Message(
        "So few prompts are learned by heart. Import some hundreds of the kind that people ask."
    ),
    Grade.SMALL: Message(
        "Enough to try things out. More prompts keep the policy from over-fitting to these."
    ),
    Grade.MEDIUM: Message(
        "Enough prompts. What limits the result now is how good the reward model is."
    ),
    Grade.LARGE: Message("Plenty of prompts: no run will see all of them often."),
}
_BY_DATA: Mapping[LearnsFrom, tuple[Bounds, Mapping[Grade, Message]]] = {
    LearnsFrom.PREFERENCES: (PAIRS, _OF_PAIRS),
    LearnsFrom.COMPARISONS: (PAIRS, _OF_PAIRS),
    LearnsFrom.RATINGS: (THUMBS, _OF_THUMBS),
    LearnsFrom.DEMONSTRATIONS: (DEMONSTRATIONS, _OF_DEMONSTRATIONS),
    LearnsFrom.PROMPTS: (PROMPTS, _OF_PROMPTS),
}


def volume(method: Method, rows: int) -> Volume:
    """What this many rows are to a method."""
    scores = method.makes is Product.REWARD_MODEL
    bounds, told = (SCORED_PAIRS, _OF_SCORED_PAIRS) if scores else _BY_DATA[method.learns_from]
    grade = list(Grade)[sum(rows >= bound for bound in bounds)]
    above = next((bound for bound in bounds if rows < bound), None)
    return Volume(grade, _TITLES[grade], told[grade], above - rows if above else None)
