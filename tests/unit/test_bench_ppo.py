"""The arithmetic of the benchmark against TRL's PPO."""

from __future__ import annotations

import pytest

from tests.bench.ppo import Course, Mark, summarise


def test_the_first_iteration_does_not_count() -> None:
    marks = [Mark(cpu_s=100, wall_s=300), Mark(cpu_s=102, wall_s=308), Mark(cpu_s=104, wall_s=316)]

    course = Course.told_by(marks, 8, 512.0)

    assert course == Course(samples_per_s=4.0, wall_samples_per_s=1.0, peak_mb=512.0)


def test_ratios_are_taken_repeat_by_repeat() -> None:
    ours = [Course(4, 4, 100), Course(2, 2, 100), Course(9, 9, 100)]
    trl = [Course(2, 2, 400), Course(2, 2, 200), Course(3, 3, 400)]

    ratio = summarise({"whetstone": ours, "trl": trl})["whetstone_over_trl"]

    assert ratio["samples_per_s"] == {"median": 2.0, "spread": [1.0, 3.0]}
    assert ratio["peak_mb"]["median"] == pytest.approx(0.25)


def test_a_side_alone_has_no_ratio() -> None:
    assert list(summarise({"trl": [Course(1, 1, 1)]})) == ["trl"]
