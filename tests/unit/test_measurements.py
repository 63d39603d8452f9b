"""Figures of a result: which there are, and what they are held against."""

from __future__ import annotations

from typing import Any

import pytest

from training.measurements import measurements, notes

RANKED = {
    "pairs": 100,
    "accuracy": 0.7,
    "longer_wins": 0.55,
    "loss": 0.6,
    "brier": 0.2,
    "ece": 0.03,
}


def report(**more: Any) -> dict[str, Any]:
    return {"reward_model": {**RANKED, **more}}


def test_a_reward_model_stands_beside_length_a_coin_and_people_themselves() -> None:
    ranks, agreement, *_ = measurements(report(agreement=0.73, agreement_pairs=40))

    assert "held-out pairs: 100; a coin: 50 %" in str(ranks.label)
    assert (ranks.before, ranks.after) == (0.55, 0.7)
    assert ranks.low == pytest.approx(0.604, abs=1e-3)
    assert ranks.high == pytest.approx(0.781, abs=1e-3)
    assert str(agreement.label) == "Two people who judged the same pair agree (pairs: 40)"
    assert agreement.after == 0.73
    assert notes(report(agreement=0.73, agreement_pairs=40)) == []


@pytest.mark.parametrize("older", [{}, {"agreement": None, "agreement_pairs": 0}])
def test_where_nobody_judged_what_somebody_else_did_it_says_so(older: dict[str, Any]) -> None:
    assert not any("Two people" in str(m.label) for m in measurements(report(**older)))
    (note,) = notes(report(**older))
    assert "is not known" in str(note)


def test_what_the_best_of_n_is_worth_to_a_second_reward_model_stands_beside_each() -> None:
    points = [
        {"n": 1, "reward": 0.0, "kl": 0.0, "watch_reward": 0.1},
        {"n": 2, "reward": 0.6, "kl": 0.2, "watch_reward": 0.3},
        {"n": 4, "reward": 1.0, "kl": 0.6, "watch_reward": 0.2},
    ]

    found = measurements({"best_of_n": points})

    assert [(m.before, m.after) for m in found] == [(0.0, 0.6), (0.1, 0.3), (0.0, 1.0), (0.1, 0.2)]
    assert str(found[3].label) == "The same best of 4, by the second reward model"


def test_a_best_of_n_that_no_second_reward_model_scored_is_shown_as_before() -> None:
    points = [{"n": 1, "reward": 0.0, "kl": 0.0}, {"n": 2, "reward": 0.6, "kl": 0.2}]

    (found,) = measurements({"best_of_n": points})

    assert str(found.label) == "Reward of the best of 2 (KL 0.2 nats)"


def test_latency_is_told_in_seconds_where_it_was_measured() -> None:
    shown = {"kl_k1": 0.5, "latency_s_before": 0.4, "latency_s_after": 0.25}
    latency, _ = measurements({"generations": shown})
    assert (latency.before, latency.after) == (0.4, 0.25)
    (kl,) = measurements({"generations": {"kl_k1": 0.5}})
    assert "KL" in str(kl.label)
