"""How fast this machine computes: measured once with torch, in a process of its own.

    python -m training.machine --threads N      # prints one JSON object

What a run will take is estimated from it (`training/estimate.py`). Importing this imports no torch.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from training.device import Device, choose_dtype, probe
from training.rundir import write_whole

MEASURE_TIMEOUT_S = 120.0
REPEATS = 40
_CPU, _GPUS = Path("/proc/cpuinfo"), Path("/proc/driver/nvidia/gpus")
# Rows, inputs and outputs of the matrix products that are timed: of a small model's layer on a CPU,
# large enough to fill a GPU.
CPU_PRODUCT = (2048, 192, 512)
GPU_PRODUCT = (8192, 8192, 8192)


@dataclass(frozen=True)
class Machine:
    """What a trainer computes with.

    `flops_per_s` is the best rate of a matrix product in the weights' number format, in floating
    point operations a second; `call_s` what one small tensor operation takes, whatever its size.
    Both are the best of several attempts: what the machine does when nobody else uses it.
    """

    device: Device
    threads: int
    flops_per_s: float
    call_s: float


def measure(threads: int) -> Machine:
    """Time matrix products and small operations on the device that a trainer would use."""
    import torch

    device = probe()
    torch.set_num_threads(threads)
    where = {"device": device.kind, "dtype": getattr(torch, choose_dtype(device))}
    rows, inputs, outputs = CPU_PRODUCT if device.kind == "cpu" else GPU_PRODUCT
    left, right = torch.randn(rows, inputs, **where), torch.randn(inputs, outputs, **where)
    little = torch.randn(1, 8, **where)

    def settle() -> None:
        if device.kind == "cuda":
            torch.cuda.synchronize()

    # What one thread computes is told best by its own clock, which stops while others compute.
    is_alone = device.kind == "cpu" and threads == 1
    clock = time.process_time if is_alone else time.perf_counter
    product_s = _best_s(lambda: left @ right, settle, clock, calls=5)
    call_s = _best_s(lambda: little * 2.0, settle, clock, calls=1000)
    return Machine(device, threads, 2 * rows * inputs * outputs / product_s, call_s)


def measured(path: Path, threads: int, environment: Mapping[str, str]) -> Machine | None:
    """What was measured before and kept at `path`, or else measured now, which takes seconds.

    None where it cannot be measured. A measurement of another machine, library or number of threads
    does not count.
    """
    here = {
        "threads": threads,
        "torch": version("torch"),
        "cores": os.cpu_count(),
        "processors": _processors(),
    }
    if (kept := _kept(path, here)) is not None:
        return kept
    machine = _measured_apart(threads, environment)
    if machine is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps({"here": here, "machine": asdict(machine)}))
    return machine


def _processors() -> list[str]:
    """The names of the processor and of NVIDIA's GPUs, as far as the system tells them."""
    files = [_CPU, *sorted(_GPUS.glob("*/information"))]
    told = (line for file in files for line in _lines(file))
    named = (line.split(":", 1)[1].strip() for line in told if line.lower().startswith("model"))
    return sorted(set(named))


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _kept(path: Path, here: Mapping[str, Any]) -> Machine | None:
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return _from_json(kept["machine"]) if kept["here"] == here else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _measured_apart(threads: int, environment: Mapping[str, str]) -> Machine | None:
    """Not in this process: the number of threads must be set before torch is imported."""
    command = [sys.executable, "-m", "training.machine", "--threads", str(threads)]
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **environment},
            capture_output=True,
            timeout=MEASURE_TIMEOUT_S,
            check=True,
        )
        return _from_json(json.loads(done.stdout))
    except (OSError, ValueError, KeyError, TypeError, subprocess.SubprocessError):
        return None


def _from_json(values: Mapping[str, Any]) -> Machine:
    return Machine(**{**values, "device": Device(**values["device"])})


def _best_s(
    work: Callable[[], object],
    settle: Callable[[], None],
    clock: Callable[[], float],
    *,
    calls: int,
) -> float:
    """Seconds of one call, from the fastest of `REPEATS` rounds; a round warms up first."""
    work()
    settle()
    rounds = []
    for _ in range(REPEATS):
        began = clock()
        for _ in range(calls):
            work()
        settle()
        rounds.append((clock() - began) / calls)
    return min(rounds)


def main() -> int:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m training.machine", description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    sys.stdout.write(json.dumps(asdict(measure(parser.parse_args().threads))) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
