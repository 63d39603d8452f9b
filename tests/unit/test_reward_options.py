"""What a reward run leaves its second model."""

from __future__ import annotations

from dataclasses import replace

import pytest

from training.methods.kto import KTOOptions
from training.methods.reward import RewardOptions


@pytest.mark.parametrize(("rows", "share"), [(299, 0.0), (300, 0.5), (5000, 0.5)])
def test_the_second_model_gets_half_unless_there_are_few(rows: int, share: float) -> None:
    assert RewardOptions().divided_share(rows) == share


@pytest.mark.parametrize(
    ("rows", "learned"), [(150, 150), (299, 299), (300, 150), (1500, 750), (3000, 1500)]
)
def test_defaults_suit_what_the_first_model_is_left(rows: int, learned: int) -> None:
    found = RewardOptions.preset(rows, parameters=2_600_000, tuning="lora")
    usual = KTOOptions.preset(learned, parameters=2_600_000, tuning="lora")
    assert (found.batch_size, found.epochs > 1) == (usual.batch_size, learned <= 1000)


def test_halves_are_learned_alike() -> None:
    for rows in (300, 1500, 3000):
        first = RewardOptions.preset(rows, parameters=2_600_000, tuning="lora")
        assert replace(first.of_second(rows // 2), trackers=first.trackers) == first


def test_the_second_model_sees_its_fewer_rows_as_often_as_suits_them() -> None:
    first = RewardOptions(epochs=1, batch_size=32, learning_rate=1e-4, margin_weight=0.5)
    second = first.of_second(300)
    assert (second.epochs, second.batch_size, second.trackers) == (2, 16, "")
    assert (second.learning_rate, second.margin_weight) == (1e-4, 0.5)


def test_what_a_lead_has_chosen_is_not_lowered_for_it() -> None:
    chosen = RewardOptions(epochs=4, batch_size=4).of_second(300)
    assert (chosen.epochs, chosen.batch_size) == (4, 4)
