"""What ended a trainer, by the name and with the advice that people are given."""

from __future__ import annotations

import errno

import pytest

from training.options import SpecError
from training.worker.failures import BadData, describe


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("no room for the batch"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("CUDA error: out of memory"),
    ],
)
def test_no_memory_is_named_and_told_what_helps(error: Exception) -> None:
    failure = describe(error)
    assert failure.name == "out_of_memory"
    assert failure.message == f"Memory ran out: {error}"
    assert "batch size" in failure.advice


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "disk_full"),
        (SpecError("epochs", 99, "must lie between 1 and 50"), "bad_spec"),
        (BadData("The snapshot holds nothing."), "bad_data"),
        (ValueError("negative dimension"), "unexpected"),
    ],
)
def test_other_failures_are_not_taken_for_a_lack_of_memory(error: Exception, name: str) -> None:
    assert describe(error).name == name
