"""What is chosen for a device; the probe itself needs torch and runs with every policy."""

from __future__ import annotations

import pytest

from training.device import Device, DeviceKind, choose_dtype, choose_thread_count


@pytest.mark.parametrize(
    ("kind", "dtype"), [("cpu", "float32"), ("mps", "float32"), ("cuda", "bfloat16")]
)
def test_only_cuda_computes_in_16_bits(kind: DeviceKind, dtype: str) -> None:
    assert choose_dtype(Device(kind, "test", 1024)) == dtype


def test_a_small_model_gets_one_thread_on_any_machine() -> None:
    assert choose_thread_count(2_500_000, cores=64) == 1


def test_a_large_model_leaves_one_core_to_the_people() -> None:
    assert choose_thread_count(500_000_000, cores=8) == 7


def test_a_large_model_on_one_core_still_gets_a_thread() -> None:
    assert choose_thread_count(500_000_000, cores=1) == 1
