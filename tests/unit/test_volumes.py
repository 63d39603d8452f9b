"""How far an amount of data goes for a task."""

from __future__ import annotations

import pytest

from labeling.volumes import TASKS, Reach


@pytest.mark.parametrize(
    ("rows", "reach"),
    [
        (0, Reach.SHORT),
        (49, Reach.SHORT),
        (50, Reach.FEWEST),
        (100, Reach.USUAL),
        (499, Reach.USUAL),
        (500, Reach.IDEAL),
    ],
)
def test_a_style_takes_fifty_examples_and_better_a_hundred(rows: int, reach: Reach) -> None:
    assert TASKS[0].reach(rows) is reach


def test_more_is_never_worse_for_any_task() -> None:
    for task in TASKS:
        assert 0 < task.fewest < task.usual < task.ideal
