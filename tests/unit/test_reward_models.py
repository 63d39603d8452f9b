"""Which of the reward models that there are measures a run."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from labeling.reward_models import folder_of, most_reliable
from store.records import Run, RunState
from tests.builders import START


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def make_run(
    folder: Path,
    id: str,
    *,
    ranked: tuple[float, int] | tuple[float, int, int] | None = None,
    base_model: str = "starter",
    hours: float = 0,
    **changes: Any,
) -> Run:
    """A run that left a reward model; `ranked` is its accuracy on so many held-out pairs, and the
    number of comparisons that they are of, if it has told."""
    (folder / id / "adapter").mkdir(parents=True)
    told = (
        None
        if ranked is None
        else dict(zip(("accuracy", "pairs", "comparisons"), ranked, strict=False))
    )
    given: dict[str, Any] = {
        "method": "reward",
        "spec": {"base_model": base_model},
        "state": RunState.SUCCEEDED,
        "folder": str(folder / id),
        "created_at": START + timedelta(hours=hours),
        "result": {"report": {"reward_model": told}},
    }
    return Run(
        id=id, snapshot_id="5" * 64, parent_version="pol-0", created_by="lea", **(given | changes)
    )


def test_without_reward_models_there_is_none(folder: Path) -> None:
    assert most_reliable([], "starter") is None
    assert most_reliable([make_run(folder, "run-1", method="dpo")], "starter") is None


def test_one_of_another_base_one_that_failed_and_one_that_is_gone_do_not_count(
    folder: Path,
) -> None:
    gone = make_run(folder, "gone")
    folder_of(gone).rmdir()
    runs = [
        make_run(folder, "other", base_model="llama"),
        make_run(folder, "failed", state=RunState.FAILED),
        gone,
    ]

    assert most_reliable(runs, "starter") is None


@pytest.mark.parametrize(
    ("first", "second", "better"),
    [
        ((0.8, 400), (0.7, 400), 0),  # the more accurate one
        ((0.8, 400, 10), (0.75, 400, 400), 1),  # all pairs of ten rankings
        ((0.8, 10), (0.75, 400), 1),  # the one of which that is surer
        (None, (0.55, 20), 1),  # the one that was measured
        ((0.7, 100), (0.7, 100), 1),  # the newer one
        (None, None, 1),
    ],
)
def test_of_several_the_most_surely_right_one_measures_and_then_the_newest(
    folder: Path,
    first: tuple[float, int] | None,
    second: tuple[float, int] | None,
    better: int,
) -> None:
    runs = [
        make_run(folder, "run-1", ranked=first),
        make_run(folder, "run-2", ranked=second, hours=1),
    ]

    assert most_reliable(runs, "starter") == runs[better]
    assert most_reliable(runs[::-1], "starter") == runs[better]
