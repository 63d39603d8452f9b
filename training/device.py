"""What this machine computes with: its device, the number format, and how many threads to use.

Knows nothing of models but their size. Torch is imported only when a probe asks for it.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

DeviceKind = Literal["cpu", "cuda", "mps"]

# Below this many parameters a step is so short that handing work to a second thread costs more
# than it saves: two threads were slower than one on two shared cores (26 against 31 GFLOP/s).
SMALL_MODEL_PARAMETERS = 20_000_000

_BYTES_PER_MB = 1024 * 1024


@dataclass(frozen=True)
class Device:
    """Where tensors live. `kind` is what torch calls it; `memory_mb` is its total, in MiB."""

    kind: DeviceKind
    name: str
    memory_mb: int


def probe() -> Device:
    """The best device of this machine: a CUDA GPU, else Apple's GPU, else the CPU."""
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        return Device("cuda", properties.name, properties.total_memory // _BYTES_PER_MB)
    memory_mb = psutil.virtual_memory().total // _BYTES_PER_MB
    if torch.backends.mps.is_available():
        return Device("mps", "Apple GPU", memory_mb)
    return Device("cpu", _cpu_name(), memory_mb)


def choose_dtype(device: Device) -> str:
    """The weights' number format, by torch's name for it.

    `bfloat16` on CUDA; `float32` elsewhere, where 16-bit arithmetic is slow or incomplete.
    """
    return "bfloat16" if device.kind == "cuda" else "float32"


def choose_thread_count(parameter_count: int, *, cores: int | None = None) -> int:
    """How many CPU threads a model of this many parameters should use.

    One for a small model (see `SMALL_MODEL_PARAMETERS`); otherwise all `cores` but one, which is
    left to the people's requests. `cores` defaults to those that this process may run on.
    """
    if parameter_count < SMALL_MODEL_PARAMETERS:
        return 1
    return max(1, (cores or _usable_cores()) - 1)


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_name() -> str:
    # Linux leaves platform.processor() empty or at the architecture's name.
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or "CPU"
