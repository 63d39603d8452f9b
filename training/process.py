"""Trainer processes: started detached, known by pid and start time, ended politely, then not.

Knows processes and signals; knows neither runs nor what a trainer does.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import psutil

# psutil derives the start from clock ticks and the boot time, which may move by a second.
START_TOLERANCE_S = 2.0


def start(
    command: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str],
    stdin: int = subprocess.DEVNULL,
    stdout: int | IO[bytes] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a command in a session of its own, so that it outlives this process.

    Its output is appended to `log`: a pipe would stall it as soon as nobody reads. `stdout` is for
    one that prints a line and then moves its output away by itself.
    """
    with log.open("ab") as file:
        return subprocess.Popen(
            list(command),
            stdin=stdin,
            stdout=file if stdout is None else stdout,
            stderr=file,
            env={**os.environ, **environment},
            start_new_session=True,
        )


def started_at(pid: int) -> float:
    """UNIX seconds at which the process began. Raises `ProcessLookupError`."""
    try:
        return psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        raise ProcessLookupError(f"There is no process {pid}.") from None


def is_alive(pid: int, started_at: float) -> bool:
    """That very process still runs; a zombie, or another with its pid, does not count."""
    return _find(pid, started_at) is not None


def terminate(pid: int, started_at: float) -> None:
    """Ask the process to end. Nothing happens when it is gone."""
    if process := _find(pid, started_at):
        _signal(process, signal.SIGTERM)


def kill_tree(pid: int, started_at: float) -> None:
    """End the process and all that it started, also in sessions of their own, now."""
    process = _find(pid, started_at)
    if process is None:
        return
    descendants = _descendants(process)
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        _signal(process, signal.SIGKILL)
    for descendant in descendants:
        _signal(descendant, signal.SIGKILL)


def stop(pid: int, started_at: float, *, grace_s: float) -> None:
    """Ask, wait up to `grace_s`, then kill the tree; returns when the process is gone."""
    process = _find(pid, started_at)
    if process is None:
        return
    _signal(process, signal.SIGTERM)
    try:
        process.wait(grace_s)
    except psutil.TimeoutExpired:
        kill_tree(pid, started_at)
        process.wait()


def reap(pid: int) -> None:
    """Let the system forget a child that has ended."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return


def _find(pid: int, started_at: float) -> psutil.Process | None:
    try:
        process = psutil.Process(pid)
        if abs(process.create_time() - started_at) > START_TOLERANCE_S:
            return None
        # A zombie with threads left is still ending, and still holds its files and locks.
        is_zombie = process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1
        return None if is_zombie else process
    except psutil.NoSuchProcess:
        return None


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
