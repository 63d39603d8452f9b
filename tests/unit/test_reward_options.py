"""What a reward run leaves its second model."""

from __future__ import annotations

import pytest

from training.methods.reward import RewardOptions


@pytest.mark.parametrize(("rows", "share"), [(299, 0.0), (300, 0.3), (5000, 0.3)])
def test_few_rows_are_not_divided(rows: int, share: float) -> None:
    assert RewardOptions(watch_share=0.3).divided_share(rows) == share


def test_the_second_model_sees_its_fewer_rows_as_often_as_suits_them() -> None:
    first = RewardOptions(epochs=1, batch_size=32, learning_rate=1e-4, margin_weight=0.5)
    second = first.of_second(300)
    assert (second.epochs, second.batch_size, second.trackers) == (2, 16, "")
    assert (second.learning_rate, second.margin_weight) == (1e-4, 0.5)


def test_what_a_lead_has_chosen_is_not_lowered_for_it() -> None:
    chosen = RewardOptions(epochs=4, batch_size=4).of_second(300)
    assert (chosen.epochs, chosen.batch_size) == (4, 4)
