"""The trainer's entry: `python -m training.worker RUN_DIR`, or `--standby` to wait for one.

`accelerate launch -m training.worker RUN_DIR` trains in several processes.

Exit code 0 means succeeded, 1 failed, 2 stopped before the end; what counts is result.json, which
is written last. Libraries that take seconds to import are imported after the spec was read.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from training.config import worker_environment
from training.events import EventKind, EventReader, EventWriter, worked_s
from training.methods import METHODS
from training.rundir import Outcome, RunDir, RunDirBusy, RunResult, Trainer
from training.worker import summary
from training.worker.failures import Cancelled, describe
from training.worker.job import Job, StopRequest

READY = "ready"
FIRST_TELLS_S = 10.0
EXIT_CODES = {Outcome.SUCCEEDED: 0, Outcome.FAILED: 1, Outcome.CANCELLED: 2}

log = logging.getLogger("training.worker")


def main(arguments: Sequence[str]) -> int:
    """Train one run directory; see the module's docstring for what is returned."""
    parser = argparse.ArgumentParser(prog="python -m training.worker", description=__doc__)
    parser.add_argument("run_dir", nargs="?", type=Path, help="a run's folder, with spec.json")
    parser.add_argument("--standby", action="store_true", help="wait for a RUN_DIR on stdin")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    if given.standby:
        return stand_by()
    if given.run_dir is None:
        parser.error("give a RUN_DIR, or --standby")
    return work(RunDir(given.run_dir))


def stand_by() -> int:
    """Import what takes seconds, say so, and train the folder that comes on stdin, if one does."""
    os.environ.update({**worker_environment(threads=1), **os.environ})
    for method in METHODS.values():
        _recipe(method.recipe)
    sys.stdout.write(f"{READY}\n")
    sys.stdout.flush()
    line = sys.stdin.readline().strip()
    if not line:
        return 0
    run_dir = RunDir(Path(line))
    _move_output(run_dir.log_path)
    return work(run_dir)


def work(run_dir: RunDir) -> int:
    """Train, and leave a result whatever happens; of several processes the first one does that."""
    if rank := int(os.environ.get("RANK", "0")):
        return follow(run_dir, rank)
    try:
        with run_dir.held_by(_this_process()):
            return EXIT_CODES[_work_alone(run_dir).state]
    except (RunDirBusy, OSError) as error:
        log.error("The run in %s has no result: %s", run_dir.path, error)
        return EXIT_CODES[Outcome.FAILED]


def follow(run_dir: RunDir, rank: int) -> int:
    """Train beside the first process; what this one has to tell goes into files of its own."""
    stop = StopRequest()
    stop.listen()
    try:
        run_dir.forget_failure_beside(rank)
        events = EventWriter(run_dir.path / f"events.{rank}.jsonl")
        _run_recipe(Job(run_dir.read_spec(), run_dir, events, stop, rank))
    except Cancelled:
        return EXIT_CODES[Outcome.CANCELLED]
    except Exception as error:
        log.exception("Process %d failed", rank)
        with suppress(OSError):
            run_dir.write_failure_beside(rank, describe(error))
        # The launcher ends the others with this one; the first may fail alike, and has to say so.
        time.sleep(FIRST_TELLS_S)
        return EXIT_CODES[Outcome.FAILED]
    return EXIT_CODES[Outcome.SUCCEEDED]


def _work_alone(run_dir: RunDir) -> RunResult:
    stop = StopRequest()
    stop.listen()
    try:
        run_dir.reserve_result()
        result = _train(run_dir, EventWriter(run_dir.events_path), stop)
    except Cancelled:
        result = RunResult(Outcome.CANCELLED)
    except BaseException as error:
        log.exception("The run failed")
        result = RunResult(Outcome.FAILED, failure=describe(error))
    result = _explained(run_dir, result)
    run_dir.write_result(result)
    return result


def _explained(run_dir: RunDir, result: RunResult) -> RunResult:
    """With the failure of another process where this one only met what came of it."""
    is_stopped = result.state is Outcome.CANCELLED and not run_dir.is_cancel_asked
    is_vague = result.failure is not None and result.failure.is_vague
    if not (is_stopped or is_vague):
        return result
    failure = run_dir.failure_beside()
    return RunResult(Outcome.FAILED, failure=failure) if failure else result


def _train(run_dir: RunDir, events: EventWriter, stop: StopRequest) -> RunResult:
    job = Job(run_dir.read_spec(), run_dir, events, stop)
    report = _run_recipe(job)
    run_dir.seal_adapter()
    report = summary.summarise(job, report)
    events.write(EventKind.DONE)
    return RunResult(Outcome.SUCCEEDED, report=report)


def _run_recipe(job: Job) -> Mapping[str, Any]:
    environment = worker_environment(job.spec.threads)
    if "RANK" in os.environ:
        # Each of several processes computes on the device of its own number.
        del environment["CUDA_VISIBLE_DEVICES"]
    os.environ.update({**environment, **os.environ})
    recipe = _recipe(job.method.recipe)

    import torch

    from training.worker import usage

    torch.set_num_threads(job.spec.threads)
    if torch.cuda.is_available() and "LOCAL_RANK" in os.environ:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    earlier_s = worked_s(EventReader(job.run_dir.events_path).read())
    report: Mapping[str, Any] = usage.metered(lambda: recipe.train(job), earlier_s=earlier_s)
    return report


def _recipe(module: str) -> Any:
    """Import a recipe without the garbage collector, which has nothing to find among imports."""
    gc.disable()
    try:
        return importlib.import_module(module)
    finally:
        gc.enable()


def _this_process() -> Trainer:
    return Trainer(os.getpid(), psutil.Process().create_time())


def _move_output(log_path: Path) -> None:
    """From here on write into the run's log, as a trainer that was started for it would."""
    descriptor = os.open(log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(descriptor, sys.stdout.fileno())
    os.dup2(descriptor, sys.stderr.fileno())
    os.close(descriptor)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
