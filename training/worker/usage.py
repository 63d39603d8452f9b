"""What a trainer has used of its machine."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

_STATUS = Path("/proc/self/status")


def metered(train: Callable[[], Mapping[str, Any]], *, earlier_s: float = 0.0) -> dict[str, Any]:
    """What a recipe reports, with what the whole of it took among its `timing`.

    `run_s` is wall-clock time, `earlier_s` of processes before this one included, which were
    interrupted; `cpu_s` is what this process computed, `peak_mb` its largest memory.
    """
    began, computed = time.monotonic(), time.process_time()
    report = train()
    used = {
        "run_s": earlier_s + time.monotonic() - began,
        "cpu_s": time.process_time() - computed,
        "peak_mb": peak_mb(),
    }
    return {**report, "timing": {**report.get("timing", {}), **used}}


def peak_mb() -> float:
    """Largest memory so far, in MiB: taken from the GPU where there is one, else resident.

    The kernel's record of this program is read where it keeps one: `ru_maxrss` also counts the
    parent that it was started from.
    """
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_reserved()) / 2**20
    for line in _STATUS.read_text().splitlines() if _STATUS.exists() else ():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 2**10
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / (2**20 if sys.platform == "darwin" else 2**10)
