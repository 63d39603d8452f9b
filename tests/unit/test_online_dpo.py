"""Online DPO: which responses make a pair, what a round tells, and how its numbers are judged."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.test_best_of_n import drawn
from training.findings import Finding
from training.measurements import measurements
from training.methods import METHODS
from training.methods.online_dpo import OnlineDPOOptions
from training.options import SpecError
from training.verdicts import Evidence, judge


def test_the_best_is_preferred_to_the_worst() -> None:
    assert drawn(0, 0.5, -1.0, 2.0, 1.5).pair == (2, 1)


def test_a_response_without_an_end_may_be_rejected_and_is_never_chosen() -> None:
    assert drawn(0, 3.0, 1.0, 0.0, ended=(False, True, False)).pair == (1, 2)
    assert drawn(0, 3.0, 1.0, ended=(False, True)).pair is None  # what ended is the worst
    assert drawn(0, 3.0, 1.0, ended=(False, False)).pair is None


def test_what_scores_the_same_makes_no_pair() -> None:
    assert drawn(0, 1.0, 1.0, 1.0).pair is None
    assert drawn(0, 1.0, 1.0, ended=(False, True)).pair is None


def test_the_same_text_makes_no_pair_whatever_the_last_digits_of_its_score() -> None:
    alike = replace(drawn(0, 1.0, 1.0000001), completions=[[7, 8], [7, 8]])
    assert alike.pair is None


def test_a_preset_counts_the_pairs_of_all_rounds() -> None:
    few, many = (
        OnlineDPOOptions.preset(rows, parameters=2_600_000, tuning="lora") for rows in (40, 150)
    )
    assert few.batch_size == 8  # 80 pairs are a small set, and 300 a medium one
    assert many.batch_size == 16
    assert few.learning_rate < many.learning_rate


def test_rounds_are_bounded_and_no_more_prompts_are_asked_than_there_are() -> None:
    with pytest.raises(SpecError, match="between 1 and 8"):
        OnlineDPOOptions.parsed({"rounds": 9})
    options = OnlineDPOOptions.parsed({"rounds": 3, "prompts": 100})
    assert [options.prompts_asked(rows) for rows in (250, 400)] == [250, 300]


def test_its_losses_are_those_of_dpo() -> None:
    dpo, online = (
        {option.name: option for option in METHODS[name].options.described()}
        for name in ("dpo", "online_dpo")
    )
    assert online["loss_type"] == dpo["loss_type"]
    with pytest.raises(SpecError, match="needs the share of flipped"):
        OnlineDPOOptions.parsed({"loss_type": "robust"})


ROUND = {"round": 1, "prompts": 20, "pairs": 18, "score": 0.5}
FIRST = {**ROUND, "chosen": 1.0, "rejected": -1.0, "margin": 2.0}
LAST = {**ROUND, "pairs": 10, "chosen": 1.5, "rejected": 1.0, "margin": 0.5}


def test_the_last_round_is_told_beside_the_first() -> None:
    told = measurements({"online_dpo": [FIRST, LAST]})
    assert [(m.before, m.after) for m in told] == [(1.0, 1.5), (-1.0, 1.0), (2.0, 0.5), (0.9, 0.5)]
    assert [m.before for m in measurements({"online_dpo": [FIRST]})] == [None] * 4


def test_pairs_of_the_reward_model_are_not_said_to_be_peoples() -> None:
    pairs = {"pairs": 4, "accuracy": 0.75, "margin": 0.2, "loss": 0.6}
    ranked, *others = measurements({"judged_pairs": pairs})
    assert "as the reward model did" in str(ranked.label)
    assert (ranked.before, ranked.after, len(others)) == (0.5, 0.75, 2)


def test_a_loss_on_ever_new_pairs_is_neither_unstable_nor_unlearned() -> None:
    rising = [(float(step), 0.5 + step / 50) for step in range(20)]
    loss = Evidence(loss=rising, held_out_loss=[(20.0, 0.5)])
    assert judge(loss)[0].finding is Finding.UNSTABLE
    assert judge(replace(loss, is_redrawn=True))[0].finding is Finding.FINE


def test_rounds_that_score_no_higher_have_taught_nothing() -> None:
    flat = [(float(step), 1.0 + 0.1 * (step % 2)) for step in range(8)]
    found = judge(Evidence(score=flat, is_redrawn=True))
    assert found[0].finding is Finding.UNDERFITTING
