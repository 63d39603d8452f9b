"""The figures of a run's result, each with its name, its unit and what it was before.

One list serves the page that shows a run and the report that it leaves. Pure functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from training.messages import Message
from training.proportions import wilson_interval

# Test prompts that each policy answers one by one as well, to tell its latency.
ANSWERED_ALONE = 3

_LN_2 = math.log(2)


class Unit(StrEnum):
    """How a figure is written."""

    SHARE = "share"
    NUMBER = "number"


def plain(value: float) -> str:
    """A number as a table shows it: three digits, and no powers of ten for large ones."""
    return f"{value:,.0f}" if 999.5 <= abs(value) < 1e9 else f"{value:.3g}"


class Measurement(NamedTuple):
    """A figure before and after training; None where there is none.

    `low` and `high` are the 95 % interval of `after`, where it has one.
    """

    label: Message
    before: float | None
    after: float | None
    unit: Unit = Unit.NUMBER
    low: float | None = None
    high: float | None = None


def rows_given(report: Mapping[str, Any]) -> int:
    """How many rows a run was given; a reward model learns several of them as one comparison."""
    counts = report.get("data") or {}
    learned_and_held_out = sum(int(counts.get(name) or 0) for name in ("train", "held_out"))
    return int(counts.get("pairs") or learned_and_held_out)


def measurements(report: Mapping[str, Any]) -> list[Measurement]:
    """What a result's report holds, the most telling first."""
    found: list[Measurement] = []
    for name, read in _READERS.items():
        if report.get(name):
            found += read(report[name])
    return found


def notes(report: Mapping[str, Any]) -> list[Message]:
    """What one has to know of the figures: who has scored the responses, or why nobody has."""
    if unscored := report.get("unscored"):
        return [Message.from_json(unscored)]
    if (ranked := report.get("reward_model")) and ranked.get("agreement") is None:
        return [
            Message(
                "How far people agree with one another, which is about as far as a model can "
                "follow them, is not known: no two of them judged the same pair. Let two people "
                "judge each comparison, in the Project tab."
            )
        ]
    scorer = report.get("scored_by")
    return list(_on_scorer(scorer)) if scorer else []


def _on_scorer(scorer: Mapping[str, Any]) -> Iterator[Message]:
    run, accuracy, pairs = scorer["run_id"], scorer["accuracy"], scorer["pairs"]
    if pairs:
        low, high = _agreement_interval(scorer)
        yield Message(
            "Wins are by the reward model of {run}, not by people. It ranked {share:.0%} of {n} "
            "held-out pairs as people did (95 % interval {low:.0%} to {high:.0%}); a coin gets "
            "50 %.",
            {"run": run, "share": accuracy, "n": int(pairs), "low": low, "high": high},
        )
    else:
        yield Message(
            "Wins are by the reward model of {run}, not by people. How well it ranks what people "
            "judge was not measured.",
            {"run": run},
        )
    if scorer["is_learned_from"]:
        yield Message(
            "The policy has learned from the same reward model's scores, so its wins say more of "
            "that model than of what people like."
        )
    if scorer["left_out"]:
        yield Message(
            "Of the test prompts {n} did not count: the reward model was trained on them, or "
            "nearly.",
            {"n": int(scorer["left_out"])},
        )
    elif scorer["left_out"] is None:
        yield Message("Whether the reward model was trained on test prompts is not known.")


def _of_pairs(pairs: Mapping[str, Any]) -> list[Measurement]:
    label = Message("Ranks as people did (held-out pairs: {n})", {"n": int(pairs["pairs"])})
    return [
        Measurement(label, 0.5, pairs["accuracy"], Unit.SHARE),
        Measurement(Message("Reward margin on them"), 0.0, pairs["margin"]),
        Measurement(Message("Loss on them"), _LN_2, pairs["loss"]),
    ]


def _of_judged_pairs(pairs: Mapping[str, Any]) -> list[Measurement]:
    """Of the policy before's own responses, which the reward model has judged."""
    ranks = Message("Ranks as the reward model did (held-out pairs: {n})", {"n": pairs["pairs"]})
    _, *others = _of_pairs(pairs)
    return [Measurement(ranks, 0.5, pairs["accuracy"], Unit.SHARE), *others]


def _of_online_dpo(rounds: Sequence[Mapping[str, float]]) -> list[Measurement]:
    """Of the last round's responses; before is the first's, if there are two."""
    if not rounds:
        return []
    last, first = rounds[-1], rounds[0] if len(rounds) > 1 else None

    def both(name: str, label: Message) -> Measurement:
        return Measurement(label, first[name] if first else None, last[name])

    told = {"n": int(last["prompts"])}
    made = Measurement(
        Message("Prompts that gave a pair in the last round, of {n}; before: in the first", told),
        first["pairs"] / first["prompts"] if first else None,
        last["pairs"] / last["prompts"],
        Unit.SHARE,
    )
    return [
        both("chosen", Message("Reward of the best response in the last round")),
        both("rejected", Message("Reward of the worst response in the last round")),
        both("margin", Message("Reward between best and worst in the last round")),
        made,
    ]


def _of_likelihood(likelihood: Mapping[str, Any]) -> list[Measurement]:
    label = Message("Perplexity of held-out responses")
    return [Measurement(label, *_perplexities(likelihood))]


def _of_reward_model(ranked: Mapping[str, Any]) -> list[Measurement]:
    """Before is what one would get without a model: by length, or by a coin."""
    accuracy, pairs = ranked["accuracy"], int(ranked["pairs"])
    ranks = Message(
        "Ranks as people did (held-out pairs: {n}; a coin: 50 %); before: the longer one wins",
        {"n": pairs},
    )
    interval = _agreement_interval(ranked)
    return [
        Measurement(ranks, ranked["longer_wins"], accuracy, Unit.SHARE, *interval),
        *_of_agreement(ranked),
        Measurement(Message("Loss on them"), _LN_2, ranked["loss"]),
        Measurement(Message("Brier score; 0 is certain and right"), 0.25, ranked["brier"]),
        Measurement(Message("Calibration error (ECE)"), None, ranked["ece"], Unit.SHARE),
    ]


def _agreement_interval(ranked: Mapping[str, Any]) -> tuple[float, float]:
    """How often a reward model ranks as people did, at 95 %; pairs of one ranking count as one,
    since they are not independent."""
    units = int(ranked.get("comparisons") or ranked["pairs"])
    return wilson_interval(ranked["accuracy"] * units, units)


def _of_agreement(ranked: Mapping[str, Any]) -> list[Measurement]:
    """What people reach among themselves; nothing where no two of them preferred of one pair."""
    share = ranked.get("agreement")
    if share is None:
        return []
    told = {"n": int(ranked["agreement_pairs"])}
    label = Message("Two people who judged the same pair agree (pairs: {n})", told)
    return [Measurement(label, None, share, Unit.SHARE)]


def _of_watch_model(ranked: Mapping[str, Any]) -> list[Measurement]:
    label = Message("The second model, for the watch, ranks as people did")
    return [Measurement(label, 0.5, ranked["accuracy"], Unit.SHARE)]


def _of_reward(reward: Mapping[str, Any]) -> list[Measurement]:
    label = Message("Reward on held-out prompts")
    return [Measurement(label, reward.get("before"), reward.get("after"))]


def _of_best_of_n(curve: Sequence[Mapping[str, float]]) -> list[Measurement]:
    """What choosing among more responses gains, and what a second reward model says of that, where
    it was asked; before is a single one."""
    first, *more = curve
    found = []
    for point in more:
        told = {"n": point["n"], "kl": point["kl"]}
        label = Message("Reward of the best of {n} (KL {kl:.2g} nats)", told)
        found.append(Measurement(label, first["reward"], point["reward"]))
        if "watch_reward" in point:
            label = Message("The same best of {n}, by the second reward model", {"n": point["n"]})
            found.append(Measurement(label, first["watch_reward"], point["watch_reward"]))
    return found


def _of_win_rate(won: Mapping[str, Any]) -> list[Measurement]:
    named = Message(
        "Wins over the policy before, by the reward model (prompts: {n})", {"n": int(won["n"])}
    )
    return [Measurement(named, 0.5, won["rate"], Unit.SHARE, won["low"], won["high"])]


def _of_win_rate_over_base(won: Mapping[str, Any]) -> list[Measurement]:
    named = Message(
        "Wins over the base model, by the reward model (prompts: {n})", {"n": int(won["n"])}
    )
    before = won["rate_before"]
    return [Measurement(named, before, won["rate"], Unit.SHARE, won["low"], won["high"])]


def _of_regressions(worse: Mapping[str, Any]) -> list[Measurement]:
    interval = worse["low"], worse["high"]
    label = (
        Message("Prompts with a clearly worse response, by the reward model")
        if worse["by"] == "reward_model"
        else Message("Prompts whose response fell apart: no end, or in circles")
    )
    return [Measurement(label, None, worse["share"], Unit.SHARE, *interval)]


def _of_generations(shown: Mapping[str, Any]) -> list[Measurement]:
    def both(name: str, label: Message, unit: Unit = Unit.NUMBER) -> Measurement:
        return Measurement(label, shown.get(f"{name}_before"), shown.get(f"{name}_after"), unit)

    found = [
        both("ended", Message("Ends its response by itself"), Unit.SHARE),
        both("length", Message("Response length, tokens")),
        both("latency_s", Message("Seconds for a response written alone (median of a few)")),
        both("tokens_per_s", Message("Tokens per second, in a batch")),
    ]
    kl = Message("Distance from before (KL, nats a response)")
    known = [m for m in found if m.after is not None]
    return [*known, Measurement(kl, 0.0, shown["kl_k1"])]


def _of_forgetting(told: Mapping[str, Any]) -> list[Measurement]:
    label = (
        Message("Perplexity of general text")
        if told["on"] == "general"
        else Message("Perplexity of the responses from before")
    )
    return [Measurement(label, *_perplexities(told))]


def _of_following(followed: Mapping[str, Any]) -> list[Measurement]:
    label = Message("Follows the prompt's instructions (checks: {n})", {"n": followed["checks"]})
    return [Measurement(label, followed["before"], followed["after"], Unit.SHARE)]


def _of_format(followed: Mapping[str, Any]) -> list[Measurement]:
    told = {"n": followed["checks"]}
    label = Message("Keeps to the format that the prompt asks for (checks: {n})", told)
    return [Measurement(label, followed["before"], followed["after"], Unit.SHARE)]


def _perplexities(losses: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Before and after, from mean losses in nats a token; None beyond what a number can hold."""
    before, after = (losses.get(f"loss_{when}") for when in ("before", "after"))
    return _exp(before), _exp(after)


def _exp(loss: float | None) -> float | None:
    return math.exp(loss) if loss is not None and loss < 700 else None


_READERS: Mapping[str, Callable[[Any], list[Measurement]]] = {
    "pairs": _of_pairs,
    "judged_pairs": _of_judged_pairs,
    "likelihood": _of_likelihood,
    "reward_model": _of_reward_model,
    "watch_model": _of_watch_model,
    "win_rate": _of_win_rate,
    "win_rate_over_base": _of_win_rate_over_base,
    "reward": _of_reward,
    "best_of_n": _of_best_of_n,
    "online_dpo": _of_online_dpo,
    "regressions": _of_regressions,
    "instructions": _of_following,
    "format": _of_format,
    "generations": _of_generations,
    "forgetting": _of_forgetting,
}
