"""What a lead should be warned of before a run is launched. Pure functions of facts.

A caution never stops a launch: people decide. What cannot work at all is refused by the run's spec.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import NamedTuple

from labeling.volumes import Grade, volume
from store.data_facts import DataFacts, Tally
from training.estimate import Estimate
from training.general import rows_replayable, rows_to_replay
from training.lengths import TokenCounts
from training.machine import Machine
from training.messages import Message
from training.methods import LearnsFrom, Method
from training.methods.dpo import LossType
from training.methods.kto import KTOOptions
from training.methods.trainer_options import ReplayOptions, TuningOptions
from training.options import MethodOptions
from training.proportions import wilson_interval
from training.tuning import VIRTUAL_TOKENS, Tuning

# Fewer say nothing about a habit.
FEWEST = 30
# In honest data the longer response wins 43 to 75 % of the time; above this length alone decides.
LONGER_WINS = 0.85
# People choose the first of two in up to 53 % of honest votes.
FIRST_WINS = 0.62
VERSION_WINS = 0.9
ONE_PERSON = 0.6
# Below this, data lack variety: the share of distinct prompts among what was judged, and of
# prompts that differ in more than numbers and punctuation.
DISTINCT = 0.8
# Lambert et al. 2024 (Tulu 3) used 5; 0.1 for sums over some tens of tokens is as much.
SMALL_MEAN_BETA = 1.0
CUT_NOTED, CUT_WARNED = 0.01, 0.05
# Of the machine's memory; the rest is for the policy that people are being served by.
MEMORY_WARNED, MEMORY_FULL = 0.7, 0.95


class Severity(StrEnum):
    """How much a caution matters.

    NOTE  worth knowing
    WARN  the result will probably suffer
    BAD   the run will probably fail
    """

    NOTE = "note"
    WARN = "warn"
    BAD = "bad"


class Caution(NamedTuple):
    """A warning: a stable name, what was found, and what to do about it."""

    name: str
    severity: Severity
    found: Message
    remedy: Message


def of_data(method: Method, options: MethodOptions, facts: DataFacts) -> Iterator[Caution]:
    """What is wrong with the data themselves."""
    if facts.rows == 0:
        return
    yield from _few(method, facts)
    yield from _one_person(facts)
    yield from _habits(options, facts)
    yield from _thumbs(options, facts)
    yield from _repeated(method, facts)
    yield from _prompts(facts)


def of_ends(*, ends_turns: bool) -> Iterator[Caution]:
    """Whether a response has an end that a policy can learn."""
    if not ends_turns:
        yield Caution(
            "endless",
            Severity.WARN,
            Message("The model's chat template writes no token that ends a response."),
            Message(
                "The policy may learn never to stop. Give the model folder a template with one."
            ),
        )


def of_lengths(
    method: Method, options: MethodOptions, counts: TokenCounts, *, context: int | None
) -> Iterator[Caution]:
    """What the rows are as tokens; `counts` are of a sample of them, and `context` is how many
    tokens the model reads, if that is limited."""
    readable = context and context - _virtual_tokens(options)
    room = [limit for limit in (readable, max_length_of(options)) if limit]
    if not room:
        return
    limit, response = min(room), 0
    if method.learns_from is LearnsFrom.PROMPTS:
        response = int(getattr(options, "max_new_tokens", 0))
    cut = Tally(sum(n + response > limit for n in counts.sequences), len(counts.sequences))
    if cut.share < CUT_NOTED:
        return
    shown = {"percent": _percent(cut), "limit": limit, "response": response}
    is_all = limit == readable
    found, remedy = _cut_prompts(shown) if response else _cut_rows(shown, is_all_readable=is_all)
    severity = Severity.WARN if cut.share >= CUT_WARNED else Severity.NOTE
    yield Caution("cut", severity, found, remedy)


def _cut_rows(shown: Mapping[str, int], *, is_all_readable: bool) -> tuple[Message, Message]:
    found = Message(
        "About {percent} % of the rows are longer than {limit} tokens; they are left out.", shown
    )
    if is_all_readable:
        return found, Message("The model reads no more. Shorten the prompts or the responses.")
    return found, Message("Raise the longest row, if memory allows, or shorten the prompts.")


def _cut_prompts(shown: Mapping[str, int]) -> tuple[Message, Message]:
    return (
        Message(
            "About {percent} % of the prompts leave no room for a response of {response} tokens "
            "within {limit}; they lose their oldest turns, or are left out.",
            shown,
        ),
        Message("Lower the longest response, or shorten the prompts."),
    )


def _virtual_tokens(options: MethodOptions) -> int:
    if isinstance(options, TuningOptions) and Tuning(options.tuning) in VIRTUAL_TOKENS:
        return options.virtual_tokens
    return 0


def of_loss(options: MethodOptions) -> Iterator[Caution]:
    """Whether beta suits a loss that takes means over tokens where the others take sums."""
    loss, beta = (getattr(options, name, None) for name in ("loss_type", "beta"))
    if loss == LossType.SIGMOID_NORM and beta is not None and beta < SMALL_MEAN_BETA:
        yield Caution(
            "beta",
            Severity.WARN,
            Message(
                "A beta of {beta:g} is small for sigmoid_norm, which takes means over tokens.",
                {"beta": beta},
            ),
            Message("Set beta to 2 to 10, or little will be learned."),
        )


def of_memory(estimate: Estimate, machine: Machine) -> Iterator[Caution]:
    """Whether the run fits into the machine's memory."""
    # Processes on a CPU share its memory; each of those on GPUs has one of its own.
    needed_mb = estimate.peak_mb * (estimate.processes if machine.device.kind == "cpu" else 1)
    share = needed_mb / machine.device.memory_mb
    if share < MEMORY_WARNED:
        return
    needed = {
        "needed": f"{needed_mb / 1024:.1f}",
        "memory": f"{machine.device.memory_mb / 1024:.1f}",
    }
    yield Caution(
        "memory",
        Severity.BAD if share > MEMORY_FULL else Severity.WARN,
        Message("The run needs about {needed} GiB; this machine has {memory} GiB.", needed),
        Message(
            "Lower the batch size and raise gradient accumulation, turn gradient checkpointing on, "
            "or choose LoRA."
        ),
    )


def of_replay(options: MethodOptions, *, rows: int, general: int) -> Iterator[Caution]:
    """Whether so many general demonstrations suffice for the share that is to be replayed."""
    if not isinstance(options, ReplayOptions):
        return
    wanted = rows_to_replay(options.replay_share, options.rows_learned(rows))
    found = rows_replayable(general)
    if found >= wanted:
        return
    yield Caution(
        "replay",
        Severity.NOTE,
        Message(
            "{found} general demonstrations can be replayed; the share asks for {wanted}.",
            {"found": found, "wanted": wanted},
        )
        if general
        else Message("There are no general demonstrations to replay against forgetting."),
        Message(
            "Import demonstrations of other tasks in the Prompts tab, as general ones, or lower "
            "the replayed share."
        ),
    )


def max_length_of(options: MethodOptions) -> int | None:
    """The longest row that a method takes; None for one that reads no rows."""
    found = getattr(options, "max_length", None)
    return found if isinstance(found, int) else None


def _few(method: Method, facts: DataFacts) -> Iterator[Caution]:
    found = volume(method, facts.rows)
    if found.grade is Grade.HARDLY_ANY:
        yield Caution("few", Severity.WARN, found.title, found.advice)


def _one_person(facts: DataFacts) -> Iterator[Caution]:
    given = facts.from_top_person
    if given.of < FEWEST or given.share <= ONE_PERSON:
        return
    is_alone = facts.people == 1
    yield Caution(
        "one_person",
        Severity.NOTE if is_alone else Severity.WARN,
        Message(
            "{percent} % of the judgments were given by {name}.",
            {"percent": _percent(given), "name": facts.top_person or ""},
        ),
        Message(
            "The policy will learn one person's taste. Let others judge as well, some of it the "
            "same, to see whether they agree."
        ),
    )


def _habits(options: MethodOptions, facts: DataFacts) -> Iterator[Caution]:
    """Something other than quality decides nearly always."""
    if _is_above(facts.longer_won, LONGER_WINS):
        yield Caution(
            "longer_wins",
            Severity.WARN,
            Message(
                "The longer response won {percent} % of the time.",
                {"percent": _percent(facts.longer_won)},
            ),
            Message(
                "The policy will learn to write more, whatever it says. Tell people in the "
                "guidelines what length is worth, or choose the sigmoid_norm loss."
            )
            if hasattr(options, "loss_type")
            else Message(
                "What learns from it will like length, whatever is said. Tell people in the "
                "guidelines what length is worth."
            ),
        )
    if _is_above(facts.first_won, FIRST_WINS) or _is_above(_others(facts.first_won), FIRST_WINS):
        yield Caution(
            "one_side",
            Severity.WARN,
            Message(
                "The response shown first was chosen {percent} % of the time.",
                {"percent": _percent(facts.first_won)},
            ),
            Message("Somebody may be pressing one key. Look at the people's habits in Quality."),
        )
    if facts.duel and _is_above(facts.duel.won, VERSION_WINS):
        yield Caution(
            "one_policy",
            Severity.NOTE,
            Message(
                "{winner} won {percent} % of its pairs with {loser}.",
                {
                    "winner": facts.duel.winner,
                    "loser": facts.duel.loser,
                    "percent": _percent(facts.duel.won),
                },
            ),
            Message(
                "Such pairs teach to be like {winner}, not to get better than it. Judge pairs of "
                "its own responses.",
                {"winner": facts.duel.winner},
            ),
        )


def _thumbs(options: MethodOptions, facts: DataFacts) -> Iterator[Caution]:
    if not isinstance(options, KTOOptions) or not facts.liked.of:
        return
    liked, disliked = facts.liked.hits, facts.liked.of - facts.liked.hits
    if facts.liked.hits in (0, facts.liked.of):
        yield Caution(
            "one_thumb",
            Severity.BAD,
            Message("All thumbs point one way."),
            Message("This method needs liked and disliked responses. Judge some more."),
        )
    elif not options.is_balanced(liked, disliked):
        yield Caution(
            "lopsided",
            Severity.WARN,
            Message(
                "{liked} responses are liked and {disliked} disliked; the fewer ones hardly count.",
                {"liked": liked, "disliked": disliked},
            ),
            Message("Set both weights so that weight times number is alike."),
        )


def _repeated(method: Method, facts: DataFacts) -> Iterator[Caution]:
    """Prompts come again and again.

    Held against how often one was put to people, not against rows: a ranking of k responses makes
    up to k (k - 1) / 2 pairs or k ratings of one prompt, and that is no lack of prompts.
    """
    distinct = Tally(facts.distinct_prompts, facts.comparisons)
    if facts.comparisons < FEWEST or distinct.share >= DISTINCT:
        return
    shown = {"prompts": facts.distinct_prompts, "comparisons": facts.comparisons}
    yield Caution(
        "repeated",
        Severity.WARN,
        Message("Only {prompts} different prompts stand behind {comparisons} examples.", shown)
        if method.learns_from is LearnsFrom.DEMONSTRATIONS
        else Message("Only {prompts} prompts stand behind {comparisons} comparisons.", shown),
        Message("New prompts teach more than further judgments of the same ones."),
    )


def _prompts(facts: DataFacts) -> Iterator[Caution]:
    varied = Tally(facts.distinct_templates, facts.distinct_prompts)
    if facts.distinct_prompts >= FEWEST and varied.share < DISTINCT:
        yield Caution(
            "alike",
            Severity.WARN,
            Message(
                "Only {percent} % of the prompts differ in more than numbers and punctuation.",
                {"percent": _percent(varied)},
            ),
            Message(
                "What is learned may hold for these alone. Import prompts of other kinds and words."
            ),
        )
    if facts.leaked_prompts:
        yield Caution(
            "leaked",
            Severity.NOTE,
            Message(
                "{n} held-out prompts have a twin among those to train on.",
                {"n": facts.leaked_prompts},
            ),
            Message(
                "Rows that ask what a test prompt of the run asks, or nearly, are left out of "
                "training. Those that name other numbers stay, and make the test easier."
            ),
        )


def _is_above(tally: Tally, bound: float) -> bool:
    """Surely above, by the lower end of the 95 % Wilson interval."""
    return tally.of >= FEWEST and wilson_interval(tally.hits, tally.of)[0] > bound


def _others(tally: Tally) -> Tally:
    return Tally(tally.of - tally.hits, tally.of)


def _percent(tally: Tally) -> int:
    return round(100 * tally.share)
