"""How a trainer is started: a process by itself, or several by `accelerate launch`.

Knows commands and environments; starts nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from training.config import RunSpec, worker_environment
from training.methods.process_options import ProcessOptions

WORKER = ("-m", "training.worker")
# Port 0 takes a free one; what is said here is not taken from a person's own default configuration.
ON_THIS_MACHINE = ("--multi_gpu", "--num_machines", "1", "--main_process_port", "0")
AS_THE_TRAINER_SAYS = ("--mixed_precision", "no", "--dynamo_backend", "no")


class Launch(NamedTuple):
    """A command, and what its environment must hold."""

    command: list[str]
    environment: Mapping[str, str]


def is_alone(spec: RunSpec) -> bool:
    """The trainer is one process, which a prepared one can be."""
    return not (isinstance(spec.options, ProcessOptions) and spec.options.is_launched)


def launch_of(spec: RunSpec, folder: Path) -> Launch:
    """What trains the run in `folder`; the first of several processes writes what it leaves."""
    environment = worker_environment(spec.threads)
    options = spec.options
    if not isinstance(options, ProcessOptions) or is_alone(spec):
        return Launch([sys.executable, *WORKER, str(folder)], environment)
    # Each of several processes computes on the device of its own number.
    del environment["CUDA_VISIBLE_DEVICES"]
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", *_processes(options)]
    return Launch([*accelerate, *WORKER, str(folder)], environment)


def _processes(options: ProcessOptions) -> list[str]:
    count = ["--num_processes", str(options.processes)] if options.processes > 1 else []
    if options.accelerate_config:
        return ["--config_file", options.accelerate_config, *count]
    # On a CPU too: accelerate starts several processes there through MPI alone.
    return [*ON_THIS_MACHINE, *AS_THE_TRAINER_SAYS, *count]
