"""Options of the methods that learn from scores, and the order in which prompts are asked."""

from __future__ import annotations

import pytest

from training.methods import METHODS
from training.methods.rloo import RLOOOptions
from training.options import SpecError
from training.tuning import Tuning


def test_batches_must_make_up_the_responses_of_an_iteration() -> None:
    parsed = RLOOOptions.parsed({"prompts": 6, "generations": 4, "batch_size": 8})
    assert parsed.responses == 24
    with pytest.raises(SpecError, match="must divide the 24 responses"):
        RLOOOptions.parsed({"prompts": 6, "generations": 4, "batch_size": 16})


@pytest.mark.parametrize("method", ["rloo", "grpo"])
def test_who_learns_from_no_rows_has_none_of_their_options(method: str) -> None:
    described = {option.name: option for option in METHODS[method].options.described()}
    assert set(described["tuning"].choices) == set(Tuning)
    assert "virtual_tokens" in described
    assert not {"epochs", "eval_share", "max_length"} & set(described)


@pytest.mark.parametrize("method", ["rloo", "grpo", "best_of_n", "online_dpo"])
@pytest.mark.parametrize("rows", [3, 500, 50_000])
def test_a_preset_is_within_its_own_bounds(method: str, rows: int) -> None:
    options = METHODS[method].options
    preset = options.preset(rows, parameters=2_600_000, tuning="lora")
    assert options.parsed(vars(preset)) == preset
