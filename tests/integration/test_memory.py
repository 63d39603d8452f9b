"""A lack of memory, as torch reports it, becomes a failure that a person can act on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.models import build_model
from tests.rundirs import make_run_dir, preference_rows, run_here
from training.rundir import Outcome
from training.worker.failures import describe

MORE_THAN_ANY_MACHINE_HAS = 2**60  # bytes


def test_torch_s_own_error_for_a_full_device_is_known_whatever_it_says() -> None:
    assert describe(torch.OutOfMemoryError("Tried to allocate 2 GiB.")).name == "out_of_memory"


def test_what_torch_raises_for_too_large_a_tensor_is_a_lack_of_memory() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(MORE_THAN_ANY_MACHINE_HAS, dtype=torch.uint8)
    assert describe(raised.value).name == "out_of_memory"


def test_a_run_without_memory_for_a_step_ends_with_that_name_and_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    run_dir = make_run_dir(
        tmp_path / "run-1", build_model(tmp_path / "tiny"), rows=preference_rows(6)
    )
    monkeypatch.setattr(torch.optim.AdamW, "step", full)

    result = run_here(run_dir)

    assert result.state is Outcome.FAILED
    assert result.failure is not None
    assert result.failure.name == "out_of_memory"
    assert "Tried to allocate 2.00 GiB" in result.failure.message
    assert "smaller batch size" in result.failure.advice
    assert not run_dir.adapter.exists()
