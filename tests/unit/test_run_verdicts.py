"""What curves say about a run: hand-made ones, and noise that must not alarm."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from labeling.i18n import Language, say, speaking
from training.artefacts import Artefact, Change
from training.findings import WATCH, Curve, Finding, Severity, Verdict, each_with_curve
from training.overoptimization import Look
from training.proportions import win_rate
from training.shares import Share, Shares
from training.verdicts import Evidence, Ranking, judge

LN_2 = math.log(2)
WINS = ("win_rate", "win_rate_over_base")


def curve(
    value: Callable[[float], float], *, steps: int = 60, noise: float = 0.0, seed: int = 0
) -> list[tuple[float, float]]:
    """(step, value) over `steps`, where `value` gets the share of the way."""
    rng = random.Random(seed)
    return [(float(n), value(n / steps) + rng.gauss(0, noise)) for n in range(1, steps + 1)]


def falling(to: float = 0.3, *, noise: float = 0.0, seed: int = 0) -> list[tuple[float, float]]:
    return curve(lambda share: LN_2 + (to - LN_2) * share, noise=noise, seed=seed)


def held_out(*losses: float) -> list[tuple[float, float]]:
    """Measurements at every fifteenth step."""
    return [(15.0 * (n + 1), loss) for n, loss in enumerate(losses)]


def findings(**evidence: Any) -> set[Finding]:
    return {verdict.finding for verdict in judge(Evidence(**evidence))}


def change(
    artefact: Artefact, before: float, after: float, *, spread: float = 1.0, alarm: bool = False
) -> Change:
    difference = after - before
    return Change(artefact, before, after, difference - spread, difference + spread, alarm)


def changed(*changes: Change) -> dict[Artefact, Change]:
    return {c.artefact: c for c in changes}


def test_losses_that_fall_together_are_fine() -> None:
    found = findings(loss=falling(), held_out_loss=held_out(0.6, 0.5, 0.45, 0.44))

    assert found == {Finding.FINE}


def test_a_held_out_loss_that_rises_while_the_other_falls_is_over_fitting() -> None:
    (verdict,) = judge(
        Evidence(loss=falling(0.05), held_out_loss=held_out(0.6, 0.5, 0.55, 0.7)),
    )

    assert (verdict.finding, verdict.severity) == (Finding.OVERFITTING, Severity.WARN)
    assert "from 0.5 at step 30 to 0.7" in str(verdict.evidence)
    assert "fewer epochs" in str(verdict.advice)


def test_both_losses_rising_is_no_over_fitting_but_unstable() -> None:
    loss = curve(lambda share: LN_2 - share if share < 0.5 else share - 0.2, noise=0.02)

    found = findings(loss=loss, held_out_loss=held_out(0.6, 0.5, 0.7, 0.9))

    assert found == {Finding.UNSTABLE}


def test_noise_on_a_training_loss_that_has_settled_is_not_taken_for_a_rise() -> None:
    measured = held_out(0.6, 0.5, 0.55, 0.7)
    settled = [
        curve(lambda share: max(0.1, LN_2 - 2 * share), noise=0.05, seed=seed) for seed in range(50)
    ]

    found = [findings(loss=loss, held_out_loss=measured) for loss in settled]

    assert found.count({Finding.OVERFITTING}) >= 47


def test_a_training_loss_that_ends_above_its_beginning_is_unstable() -> None:
    loss = curve(lambda share: LN_2 + share, noise=0.1)

    (verdict,) = judge(Evidence(loss=loss))

    assert (verdict.finding, verdict.severity) == (Finding.UNSTABLE, Severity.BAD)
    assert "learning rate" in str(verdict.advice)


@pytest.mark.parametrize("last", [0.5, 0.52, 0.54])
def test_a_held_out_loss_that_hardly_rises_is_fine(last: float) -> None:
    assert findings(loss=falling(), held_out_loss=held_out(0.6, 0.5, last)) == {Finding.FINE}


def test_what_a_rise_is_follows_the_scale_of_the_loss() -> None:
    ipo = [(step, 30 * loss) for step, loss in falling()]

    assert findings(loss=ipo, held_out_loss=held_out(21, 20, 21)) == {Finding.FINE}
    assert findings(loss=ipo, held_out_loss=held_out(21, 20, 23)) == {Finding.OVERFITTING}


MEMORISED = curve(lambda share: 0.5 + 0.5 * share, noise=0.02)


@pytest.mark.parametrize(
    "ranked",
    [
        {"shares": Shares(ranked=Share.of(0.5, 200))},
        {"ranking": Ranking(200, 0.5, 0.4, 200)},
    ],
)
def test_ranking_trained_pairs_far_better_than_held_out_ones_is_over_fitting(
    ranked: dict[str, Any],
) -> None:
    flat = held_out(0.69, 0.69, 0.69)

    verdict = judge(Evidence(loss=falling(), held_out_loss=flat, accuracy=MEMORISED, **ranked))[0]

    assert (verdict.finding, verdict.severity) == (Finding.OVERFITTING, Severity.WARN)
    assert "of 200 held-out pairs 50% (95 % interval 43% to 57%)" in str(verdict.evidence)


@pytest.mark.parametrize("ranked", [Share.of(0.75, 200), Share.of(0.5, 19)])
def test_a_gap_that_is_small_or_of_few_pairs_is_no_over_fitting(ranked: Share) -> None:
    shares, held = Shares(ranked=ranked), held_out(0.6, 0.5)

    found = findings(loss=falling(), held_out_loss=held, accuracy=MEMORISED, shares=shares)

    assert Finding.OVERFITTING not in found


def test_early_stopping_is_told_by_the_pairs_ranked_until_then() -> None:
    given = {"loss": falling(), "held_out_loss": held_out(0.6, 0.5, 0.55), "accuracy": MEMORISED}
    shares = Shares(ranked=Share.of(0.6, 100))

    assert findings(**given, shares=shares, best_step=30) == {Finding.STOPPED_EARLY, Finding.FINE}
    assert findings(**given, shares=Shares(ranked=Share.of(0.45, 100)), best_step=30) == {
        Finding.OVERFITTING
    }


def test_over_fitting_that_early_stopping_undid_is_quiet() -> None:
    (verdict, fine) = judge(
        Evidence(loss=falling(), held_out_loss=held_out(0.6, 0.5, 0.7), best_step=30)
    )

    assert (verdict.finding, verdict.severity) == (Finding.STOPPED_EARLY, Severity.QUIET)
    assert fine.finding is Finding.FINE


def test_stopping_early_does_not_hide_that_the_training_loss_rose() -> None:
    diverging = curve(lambda share: LN_2 + 3 * share, noise=0.02)

    (verdict,) = judge(
        Evidence(loss=diverging, held_out_loss=held_out(0.69, 1.5, 2.8), best_step=15)
    )

    assert (verdict.finding, verdict.severity) == (Finding.UNSTABLE, Severity.BAD)


def test_a_best_step_at_the_end_is_simply_fine() -> None:
    given = {"loss": falling(), "held_out_loss": held_out(0.6, 0.5), "best_step": 30}

    assert findings(**given) == {Finding.FINE}


def test_a_loss_that_hardly_fell_is_under_fitting() -> None:
    (verdict,) = judge(Evidence(loss=falling(0.68), held_out_loss=held_out(0.69, 0.69)))

    assert verdict.finding is Finding.UNDERFITTING
    assert "learning rate" in str(verdict.advice)


def test_ranking_the_trained_pairs_like_a_coin_is_under_fitting() -> None:
    coin = curve(lambda _: 0.52, noise=0.1)

    assert findings(loss=falling(0.6), accuracy=coin) == {Finding.UNDERFITTING}


def test_a_reward_that_does_not_rise_is_under_fitting() -> None:
    flat = curve(lambda _: 0.0, noise=0.3)
    rising = curve(lambda share: share, noise=0.3)

    assert Finding.UNDERFITTING in findings(score=flat)
    assert Finding.UNDERFITTING not in findings(score=rising)


def test_too_few_steps_are_not_judged() -> None:
    assert findings(loss=[(1.0, LN_2), (2.0, LN_2)]) == {Finding.NOT_MEASURED}


@pytest.mark.parametrize("noise", [0.05, 0.15])
def test_noise_on_a_good_run_does_not_alarm(noise: float) -> None:
    """Batches of 16 pairs scatter by about 0.1."""
    alarmed = 0
    for seed in range(200):
        rng = random.Random(seed)
        measured = [(step, loss + rng.gauss(0, 0.01)) for step, loss in held_out(0.6, 0.5, 0.5)]
        accuracy = curve(lambda share: 0.5 + 0.3 * share, noise=noise, seed=seed)
        loss = falling(0.4, noise=noise, seed=seed)
        found = findings(loss=loss, held_out_loss=measured, accuracy=accuracy)
        alarmed += found != {Finding.FINE}

    assert alarmed <= 2


@pytest.mark.parametrize(
    ("kl", "severity"), [(7.0, Severity.GOOD), (12.0, Severity.WARN), (25.0, Severity.BAD)]
)
def test_distance_warns_and_then_stops(kl: float, severity: Severity) -> None:
    worst, *_ = judge(Evidence(loss=falling(), held_out_loss=held_out(0.6, 0.5), kl=kl))

    assert worst.severity is severity


@pytest.mark.parametrize(
    ("before", "after", "finding"),
    [
        (100.0, 120.0, Finding.LONGER),
        (100.0, 80.0, Finding.SHORTER),
        (100.0, 114.0, Finding.FINE),
        (100.0, 90.0, Finding.FINE),
    ],
)
def test_length_drifts_beyond_fifteen_percent(
    before: float, after: float, finding: Finding
) -> None:
    length = change(Artefact.LENGTH, before, after)

    assert findings(changes=changed(length)) == {finding}


@pytest.mark.parametrize("artefact", Artefact)
def test_nothing_is_fine_while_a_count_alarms(artefact: Artefact) -> None:
    (verdict,) = judge(Evidence(changes=changed(change(artefact, 100, 112, alarm=True))))

    assert verdict.severity in (Severity.WARN, Severity.BAD)
    assert str(artefact.label) in str(verdict.evidence)


def test_a_drift_within_its_noise_is_none() -> None:
    length = change(Artefact.LENGTH, 100, 120, spread=25)

    assert findings(changes=changed(length)) == {Finding.FINE}


def test_a_reward_that_parts_from_the_second_model_comes_before_all_else() -> None:
    looks = [Look(5 * n, n * 4.0, float(n), 0.1, w, 0.1) for n, w in enumerate((0, 1, 0.5, 0.25))]
    verdicts = judge(Evidence(kl=12.0, looks=looks))

    assert [v.finding for v in verdicts] == [Finding.EXPLOITED, Finding.DRIFTED]
    assert verdicts[0].severity is Severity.BAD
    assert "rose from 1.00 to 3.00" in str(verdicts[0].evidence)
    assert "fell from 1.00 to 0.25" in str(verdicts[0].evidence)
    assert Finding.EXPLOITED not in findings(kl=12.0, looks=looks[:3])


def test_rewards_beyond_what_people_judged_are_a_guess_though_the_second_model_agrees() -> None:
    looks = [Look(5 * n, n * 2.0, r, 0.1, r, 0.1) for n, r in enumerate((0, 1, 1.9, 2.2, 2.4))]
    verdict, *others = judge(Evidence(looks=looks))

    assert (verdict.finding, verdict.severity, others) == (Finding.UNJUDGED, Severity.WARN, [])
    assert "scored 2.40 standard deviations" in str(verdict.evidence)
    assert "since step 10 " in str(verdict.evidence)


def test_responses_that_fall_apart_are_bad_and_come_first() -> None:
    verdicts = judge(
        Evidence(
            changes=changed(
                change(Artefact.LENGTH, 100, 130),
                change(Artefact.UNFINISHED, 5, 40, alarm=True),
                change(Artefact.REPETITION, 0, 30, alarm=True),
            )
        )
    )

    assert [v.finding for v in verdicts] == [Finding.UNENDED, Finding.REPETITIVE, Finding.LONGER]
    assert [v.severity for v in verdicts] == [Severity.BAD, Severity.BAD, Severity.WARN]


def test_a_habit_that_grew_is_named_although_the_losses_are_fine() -> None:
    (verdict,) = judge(
        Evidence(
            loss=falling(),
            held_out_loss=held_out(0.6, 0.5),
            changes=changed(change(Artefact.APOLOGIES, 130, 214, alarm=True)),
        )
    )

    assert verdict.finding is Finding.MANNERED
    assert str(verdict.title) == "It apologises much more"
    assert "130 before, 214 after" in str(verdict.evidence)


def test_general_text_that_surprises_more_is_forgetting() -> None:
    common = {"loss": falling(), "held_out_loss": held_out(0.6, 0.5)}

    forgot = findings(**common, general_loss_before=2.0, general_loss_after=2.2)
    kept = findings(**common, general_loss_before=2.0, general_loss_after=2.05)

    assert (forgot, kept) == ({Finding.FORGETFUL}, {Finding.FINE})


def test_a_run_without_any_measurement_says_so() -> None:
    assert findings(loss=falling()) == {Finding.NOT_MEASURED}


@dataclass(frozen=True)
class Line:
    kind: str
    data: dict[str, Any] = field(default_factory=dict)


def test_evidence_is_read_off_events_and_report() -> None:
    lines = [
        Line("metrics", {"step": 1, "loss": 0.7, "held_out_loss": 0.6}),
        Line("metrics", {"step": 2, "loss": 0.5, "accuracy": 0.8}),
        Line("progress", {"step": 3, "loss": 9.0}),
    ]
    report = {
        "best_step": 1,
        "generations": {"kl_k1": 3.0},
        "artefacts": [vars(change(Artefact.HEDGES, 1, 2))],
        "forgetting": {"on": "own", "loss_before": 1.0, "loss_after": 2.0},
    }

    evidence = Evidence.of(lines, report)

    assert evidence.loss == [(1.0, 0.7), (2.0, 0.5)]
    assert (evidence.held_out_loss, evidence.accuracy) == ([(1.0, 0.6)], [(2.0, 0.8)])
    assert (evidence.best_step, evidence.kl) == (1, 3.0)
    assert set(evidence.changes) == {Artefact.HEDGES}
    # What the policy itself wrote before is bound to surprise the new one.
    assert evidence.general_loss_after is None


@pytest.mark.parametrize(
    "loss", [[7e-9, 1e-8, 2e-8, -1.5e-8, 3e-8], [0.01, 0.02, 0.04, 0.06, 0.08]]
)
def test_where_a_score_is_pursued_the_loss_tells_nothing(loss: list[float]) -> None:
    scores = [0.0, 0.2, 0.5, 0.7, 1.0]
    lines = [
        Line("metrics", {"step": step, "loss": low, "score": high})
        for step, (low, high) in enumerate(zip(loss, scores, strict=True))
    ]
    report = {"artefacts": [vars(change(Artefact.HEDGES, 1, 1))]}

    assert [v.finding for v in judge(Evidence.of(lines, report))] == [Finding.FINE]
    flat = [Line("metrics", {**line.data, "score": 0.0}) for line in lines]
    assert [v.finding for v in judge(Evidence.of(flat, report))] == [Finding.UNDERFITTING]
    # The test prompts know better than some responses of each step.
    won = {**report, "win_rate": {"rate": 0.7, "low": 0.6, "high": 0.8, "n": 100}}
    assert [v.finding for v in judge(Evidence.of(flat, won))] == [Finding.FINE]


def test_a_verdict_survives_json_and_is_said_in_chinese() -> None:
    (verdict,) = judge(Evidence(changes=changed(change(Artefact.HEDGES, 10, 40, alarm=True))))

    again = Verdict.from_json(verdict.to_json())

    assert again.finding is verdict.finding
    assert str(again.evidence) == str(verdict.evidence)
    with speaking(Language.ZH):
        assert say(again.evidence) == "每 100 个回复中含糊其辞的句数：训练前 10，训练后 40。"


LOOKS = [Look(5 * n, n * 4.0, float(n), 0.1, w, 0.1) for n, w in enumerate((0, 1, 0.5, 0.25))]


@pytest.mark.parametrize(
    ("evidence", "shown"),
    [
        (Evidence(loss=falling(), held_out_loss=held_out(0.6, 0.5, 0.7)), Curve("loss", 30)),
        (
            Evidence(loss=falling(), held_out_loss=held_out(0.6, 0.5, 0.7), best_step=30),
            Curve("loss", 30),
        ),
        (Evidence(loss=curve(lambda share: share)), Curve("loss")),
        (Evidence(loss=falling(0.68)), Curve("loss")),
        (Evidence(accuracy=curve(lambda _: 0.5)), Curve("accuracy")),
        (Evidence(score=curve(lambda _: 0.0)), Curve("score")),
        (Evidence(looks=LOOKS), Curve(WATCH, 5)),
        (Evidence(kl=12.0), Curve("kl")),
        (Evidence(shares=Shares(ranked=Share.of(0.3, 100))), Curve("accuracy")),
        (Evidence(shares=Shares(won=Share.of(0.2, 100))), None),
    ],
)
def test_a_verdict_names_the_curve_that_shows_it_and_where_that_turned(
    evidence: Evidence, shown: Curve | None
) -> None:
    assert judge(evidence)[0].curve == shown


def test_a_loss_that_fell_before_it_rose_turned_at_its_lowest() -> None:
    loss = curve(lambda share: 1 + 6 * abs(share - 0.3), noise=0.02)

    (verdict,) = judge(Evidence(loss=loss))

    assert verdict.finding is Finding.UNSTABLE
    assert verdict.curve is not None
    assert verdict.curve.turn == pytest.approx(18, abs=3)


def test_a_curve_survives_json_and_older_verdicts_have_none() -> None:
    (verdict,) = judge(Evidence(loss=falling(), held_out_loss=held_out(0.6, 0.5, 0.7)))
    told = verdict.to_json()

    assert Verdict.from_json(told).curve == Curve("loss", 30)
    del told["curve"]
    assert Verdict.from_json(told).curve is None


def test_a_curve_that_shows_two_verdicts_is_drawn_under_the_first() -> None:
    shares = Shares(ranked=Share.of(0.3, 100))
    found = judge(Evidence(accuracy=MEMORISED, shares=shares))

    drawn = [(v.finding, c and c.metric) for v, c in each_with_curve(found)]

    assert drawn == [(Finding.CONTRARY, "accuracy"), (Finding.OVERFITTING, None)]


@pytest.mark.parametrize(
    ("ranking", "said"),
    [
        (Ranking(8, 0.25, 0.6, 8), "a coin gets 50"),
        (Ranking(8, 0.75, 0.5, 8), "a coin gets 50"),  # six of eight may be luck
        (Ranking(36, 0.75, 0.5, 1), "a coin gets 50"),  # all of one ranking
        (Ranking(400, 0.6, 0.7, 400), "the longer response"),
    ],
)
def test_a_reward_model_that_cannot_rank_is_not_called_fine(ranking: Ranking, said: str) -> None:
    (verdict,) = judge(Evidence(held_out_loss=[(1, 0.69), (2, 0.68)], ranking=ranking))
    assert verdict.finding is Finding.UNRELIABLE
    assert said in str(verdict.evidence)


def test_a_reward_model_that_ranks_is_to_be_learned_from_and_not_promoted() -> None:
    (verdict,) = judge(
        Evidence(held_out_loss=[(1, 0.69), (2, 0.6)], ranking=Ranking(400, 0.7, 0.5, 400))
    )
    assert verdict.finding is Finding.FINE
    assert "Promote" not in str(verdict.advice)


@pytest.mark.parametrize(
    ("pairs", "finding"),
    [(5, Finding.NOT_MEASURED), (19, Finding.NOT_MEASURED), (20, Finding.FINE)],
)
def test_few_held_out_pairs_are_not_said_to_look_fine(pairs: int, finding: Finding) -> None:
    shares = Evidence.of([], {"pairs": {"pairs": pairs, "accuracy": 0.6}}).shares

    held = held_out(0.6, 0.5, 0.45, 0.44)
    (verdict,) = judge(Evidence(loss=falling(), held_out_loss=held, shares=shares))

    assert verdict.finding is finding
    assert (str(pairs) in say(verdict.evidence)) == (finding is Finding.NOT_MEASURED)


def test_few_held_out_pairs_hide_no_other_verdict() -> None:
    shares = Shares(ranked=Share.of(0.6, 5))
    found = findings(loss=falling(0.05), held_out_loss=held_out(0.6, 0.5, 0.7), shares=shares)

    assert found == {Finding.OVERFITTING}


def told_of(**report: Any) -> tuple[set[Finding], str]:
    """Of a run that is fine but for what its report says, all its evidence in words."""
    lines = [Line("metrics", {"step": n, "held_out_loss": 0.6 - n / 50}) for n in range(5)]
    verdicts = judge(Evidence.of(lines, report))
    return {verdict.finding for verdict in verdicts}, " ".join(str(v.evidence) for v in verdicts)


def won(share: float, n: int = 100) -> dict[str, Any]:
    return win_rate(round(share * n), n - round(share * n), 0)._asdict()


@pytest.mark.parametrize("name", WINS)
def test_a_policy_that_surely_loses_by_the_reward_model_is_not_called_fine(name: str) -> None:
    found, said = told_of(**{name: {**won(0.2), "rate_before": 0.5}})

    assert found == {Finding.LOSING}
    assert "20%" in said
    assert "13% to 29%" in said
    assert told_of(**{name: won(0.45)})[0] == {Finding.FINE}  # may be chance
    assert told_of(**{name: win_rate(0, 0, 0)._asdict()})[0] == {Finding.FINE}


def test_who_beats_it_is_named() -> None:
    before, base = (judge(Evidence.of([], {name: won(0.2)}))[0] for name in WINS)

    assert str(before.title) == "It loses to the policy before"
    assert str(base.title) == "It loses to the base model"


@pytest.mark.parametrize(
    ("by", "said"), [("reward_model", "a clearly worse response"), ("text", "fell apart")]
)
def test_more_regressions_than_chance_explains_are_not_called_fine(by: str, said: str) -> None:
    def of(share: float, n: int) -> dict[str, Any]:
        return {"regressions": {**Share.of(share, n)._asdict(), "by": by}}

    found, evidence = told_of(**of(0.6, 100))

    assert found == {Finding.REGRESSED}
    assert said in evidence
    assert told_of(**of(0.25, 1000))[0] == {Finding.FINE}
    assert told_of(**of(0.4, 10))[0] == {Finding.FINE}  # may be chance


@pytest.mark.parametrize("name", ["instructions", "format"])
def test_checks_that_surely_hold_less_often_are_not_called_fine(name: str) -> None:
    found, said = told_of(**{name: {"checks": 60, "before": 0.95, "after": 0.1}})

    assert found == {Finding.UNHEEDING}
    assert "95% held before training and 10% after" in said
    few = {name: {"checks": 3, "before": 1.0, "after": 0.66}}
    assert told_of(**few)[0] == {Finding.FINE}
    assert told_of(**{name: {"checks": 60, "before": 0.1, "after": 0.95}})[0] == {Finding.FINE}


def test_a_format_is_not_told_twice_where_all_checks_ask_for_one() -> None:
    fallen = {"checks": 60, "before": 0.95, "after": 0.1}

    (verdict,) = judge(Evidence.of([], {"instructions": fallen, "format": fallen}))

    assert "format" in str(verdict.title)


def test_ranking_held_out_pairs_surely_worse_than_a_coin_is_not_called_fine() -> None:
    pairs = {"pairs": 100, "accuracy": 0.3}

    found, said = told_of(pairs=pairs)

    assert found == {Finding.CONTRARY}
    assert "Of 100 held-out pairs it ranked 30% as people did" in said
    assert told_of(pairs={**pairs, "accuracy": 0.45})[0] == {Finding.FINE}  # may be chance
