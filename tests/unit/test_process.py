from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from training import process

WAIT = "import signal; print('up', flush=True); signal.pause()"
POLITE = f"import signal; signal.signal(signal.SIGTERM, lambda *_: exit(print('bye'))); {WAIT}"
THREADED = (
    "import ctypes, threading;"
    "thread = threading.Thread(target=threading.Event().wait); thread.start();"
    "print('up', flush=True);"
    # Ends this thread alone: the process lives on, its first thread a zombie.
    "ctypes.CDLL(None).syscall(ctypes.c_long(60), ctypes.c_long(0))"
)
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {WAIT}"
PARENT = (
    "import signal, subprocess, sys;"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "child = subprocess.Popen([sys.executable, '-c', 'import signal; signal.pause()']{more});"
    "print(child.pid, flush=True); signal.pause()"
)


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Whatever a test starts, ended after it."""
    children: list[subprocess.Popen[bytes]] = []
    yield children
    for child in children:
        child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()


def run_python(
    code: str, folder: Path, started: list[subprocess.Popen[bytes]]
) -> tuple[subprocess.Popen[bytes], str]:
    """A child that has printed its first line, and that line."""
    child = process.start(
        [sys.executable, "-c", code],
        log=folder / "log.txt",
        environment={},
        stdout=subprocess.PIPE,
    )
    started.append(child)
    assert child.stdout is not None
    return child, child.stdout.readline().decode().strip()


def test_a_started_process_leads_its_own_session_and_logs_to_the_file(tmp_path: Path) -> None:
    code = (
        "import os, sys; print(os.getsid(0), os.environ['X'], flush=True); sys.stderr.write('err')"
    )
    log = tmp_path / "log.txt"
    log.write_text("earlier\n")
    child = process.start([sys.executable, "-c", code], log=log, environment={"X": "given"})
    child.wait()
    assert log.read_text() == f"earlier\n{child.pid} given\nerr"


def test_a_process_is_known_by_its_start_and_not_by_its_pid_alone() -> None:
    began = process.started_at(os.getpid())
    assert process.is_alive(os.getpid(), began)
    assert not process.is_alive(os.getpid(), began - 60)
    assert not process.is_alive(2**22 + 1, began)


def test_a_zombie_is_not_alive_and_can_be_reaped(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    child, _ = run_python(WAIT, tmp_path, started)
    began = process.started_at(child.pid)
    os.kill(child.pid, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert psutil.pid_exists(child.pid)
    assert not process.is_alive(child.pid, began)
    process.reap(child.pid)
    assert not psutil.pid_exists(child.pid)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the system call has another number")
def test_a_process_whose_threads_still_end_is_alive(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    child, _ = run_python(THREADED, tmp_path, started)
    began = process.started_at(child.pid)
    while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
        os.sched_yield()
    assert process.is_alive(child.pid, began)


def test_a_process_that_listens_ends_when_asked(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    child, _ = run_python(POLITE, tmp_path, started)
    assert child.stdout is not None
    process.stop(child.pid, process.started_at(child.pid), grace_s=60)
    assert child.stdout.read() == b"bye\n"


def test_a_process_that_does_not_listen_is_killed_after_the_grace(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    child, _ = run_python(STUBBORN, tmp_path, started)
    began = process.started_at(child.pid)
    process.stop(child.pid, began, grace_s=0.05)
    assert not process.is_alive(child.pid, began)


@pytest.mark.parametrize("more", ["", ", start_new_session=True"])
def test_a_killed_process_takes_its_own_children_with_it(
    tmp_path: Path, started: list[subprocess.Popen[bytes]], more: str
) -> None:
    child, printed = run_python(PARENT.format(more=more), tmp_path, started)
    grandchild = psutil.Process(int(printed))
    process.kill_tree(child.pid, process.started_at(child.pid))
    child.wait()
    assert psutil.wait_procs([grandchild], timeout=30)[1] == []


def test_a_process_with_a_recycled_pid_is_left_alone(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    child, _ = run_python(WAIT, tmp_path, started)
    earlier = process.started_at(child.pid) - 3600
    process.terminate(child.pid, earlier)
    process.kill_tree(child.pid, earlier)
    process.stop(child.pid, earlier, grace_s=0)
    assert child.poll() is None
