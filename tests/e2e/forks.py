"""Servers that start in a second: one process imports everything once, then forks for each.

What is forked runs `app.main` as `python app.py` does; only the imports, which take most of a start
on two cores, are shared. The process is spoken to in lines of JSON over its standard input and
output, and ends with it.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[2]
POLL_S = 0.02


class Server:
    """A forked server, with what the tests need of a `Popen`."""

    def __init__(self, forks: Forks, arguments: Sequence[str]) -> None:
        self._forks = forks
        reading, writing = os.pipe()
        # Opened by path, so that no descriptor has to be handed over.
        path = f"/proc/{os.getpid()}/fd/{writing}"
        self.pid: int = forks.ask({"run": list(arguments), "output": path})
        os.close(writing)
        self.stdout: IO[str] = os.fdopen(reading, "r", encoding="utf-8")
        self._code: int | None = None

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        if self._code is None:
            self._code = self._forks.ask({"code": self.pid})
        return self._code

    def send_signal(self, number: int) -> None:
        """Unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """At once, without a chance to clean up."""
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        """Raises `subprocess.TimeoutExpired`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("forked server", timeout or 0.0)
            time.sleep(POLL_S)
        return code


class Forks:
    """The process that imports and forks."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.forks"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._lock = threading.Lock()
        atexit.register(self.close)

    def ask(self, request: dict[str, Any]) -> Any:
        """One answer to one request."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("The process that forks servers has died.")
        return json.loads(line)["answer"]

    def close(self) -> None:
        """End it; servers that still run are left to those who started them."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait()


def _serve() -> None:
    """Answer requests until the input ends. In a child it returns by `SystemExit`."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever imports print must not be taken for an answer
    _import_everything()
    codes: dict[int, int] = {}
    answer: int | None
    for line in sys.stdin:
        request = json.loads(line)
        if "run" in request:
            answer = _fork(request["run"], request["output"], answers)
        else:
            answer = _code_of(request["code"], codes)
        answers.write(json.dumps({"answer": answer}) + "\n")
        answers.flush()


def _import_everything() -> None:
    """All that a server would import, and nothing that starts a thread."""
    import app

    for name, value in app.QUIET_LIBRARIES.items():
        os.environ.setdefault(name, value)
    import peft
    import torch
    import transformers
    import uvicorn

    import labeling.ui.pages
    import training.policy_host
    import training.runs

    assert all((peft, torch, transformers, uvicorn, labeling.ui.pages, training.policy_host))
    assert training.runs
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert AutoModelForCausalLM.__name__
    assert AutoTokenizer.__name__


def _fork(arguments: list[str], output: str, answers: IO[str]) -> int:
    writing = os.open(output, os.O_WRONLY)
    pid = os.fork()
    if pid:
        os.close(writing)
        return pid
    import app

    answers.close()
    os.dup2(writing, 1)
    os.dup2(writing, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.close(writing)
    os.setsid()
    sys.stdin = open(0, encoding="utf-8")  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", buffering=1)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", buffering=1)  # noqa: SIM115
    raise SystemExit(app.main(arguments))


def _code_of(pid: int, codes: dict[int, int]) -> int | None:
    if pid not in codes:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended == 0:
            return None
        codes[pid] = os.waitstatus_to_exitcode(status)
    return codes[pid]


if __name__ == "__main__":
    _serve()
