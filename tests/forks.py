"""Servers and trainers that start in a moment: one process imports everything, then forks for each.

A forked server runs `app.main` as `python app.py` does, and a trainer that it starts is forked too
and runs `training.worker` as `python -m training.worker` does; only the imports, which take most of
a start on two cores, are shared. The process that forks is spoken to over a local socket, by all
processes of one run of the tests, and ends with the last of them.
"""

from __future__ import annotations

import errno
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import IO, Any, NoReturn

from training import engine, process

ROOT = Path(__file__).resolve().parents[1]
POLL_S = 0.02
MAX_MESSAGE = 1 << 17
APP_IMPORTS = (
    "app",
    "peft",
    "torch",
    "transformers",
    "uvicorn",
    "labeling.ui.pages",
    "training.policy_host",
    "training.runs",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
)


class Forked:
    """A forked process, with what servers and tests need of a `Popen`."""

    def __init__(
        self,
        forks: Connection,
        pid: int,
        *,
        stdin: IO[bytes] | None = None,
        stdout: IO[Any] | None = None,
    ) -> None:
        self._forks = forks
        self.pid = pid
        self.stdin = stdin
        self.stdout = stdout
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
                raise subprocess.TimeoutExpired("forked process", timeout or 0.0)
            time.sleep(POLL_S)
        return code


class Connection:
    """To the process that forks, which `started` is for whoever started it."""

    def __init__(self, address: str, started: subprocess.Popen[bytes] | None = None) -> None:
        self._started = started
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.connect(address)
        self._lock = threading.Lock()  # one question at a time

    def serve(self, arguments: Sequence[str], *, writes_ahead: bool = True) -> Forked:
        """A server; what it prints can be read from its `stdout`.

        Without `writes_ahead` its policy writes no comparisons, which would take most of a core.
        """
        reading, writing = os.pipe()
        with Path(os.devnull).open("rb") as nothing:
            wanted = {"serve": list(arguments), "writes_ahead": writes_ahead}
            pid = self.ask(wanted, [nothing.fileno(), writing, writing])
        os.close(writing)
        return Forked(self, pid, stdout=os.fdopen(reading, "r", encoding="utf-8"))

    def start_trainer(
        self,
        command: Sequence[str],
        *,
        log: Path,
        environment: Mapping[str, str],
        stdin: int = subprocess.DEVNULL,
        stdout: int | IO[bytes] | None = None,
    ) -> Forked | subprocess.Popen[bytes]:
        """As `training.process.start`, which it leaves alone with what starts several processes."""
        own = (sys.executable, *engine.WORKER)
        if tuple(command[: len(own)]) != own:
            return _start(command, log=log, environment=environment, stdin=stdin, stdout=stdout)
        wanted = {"train": list(command[len(own) :]), "environment": {**os.environ, **environment}}
        with log.open("ab") as file, Path(os.devnull).open("rb") as nothing:
            given = [nothing.fileno(), file.fileno(), file.fileno()]
            kept: dict[str, IO[bytes]] = {}
            if stdin == subprocess.PIPE:
                given[0], writing = os.pipe()
                kept["stdin"] = os.fdopen(writing, "wb", buffering=0)
            if stdout == subprocess.PIPE:
                reading, given[1] = os.pipe()
                kept["stdout"] = os.fdopen(reading, "rb")
            pid = self.ask(wanted, given)
            for descriptor in set(given) - {nothing.fileno(), file.fileno()}:
                os.close(descriptor)
        return Forked(self, pid, **kept)

    def ask(self, request: Mapping[str, Any], descriptors: Sequence[int] = ()) -> Any:
        """One answer to one request."""
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(request).encode()], descriptors)
            answer = self._socket.recv(MAX_MESSAGE)
        if not answer:
            raise RuntimeError("The process that forks has died.")
        return json.loads(answer)


_start = process.start


@cache
def forks() -> Connection:
    """Started by whichever process of a run of the tests asks first, and shared by all of them."""
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    address = f"\0whetstone-tests-{run}"
    while True:
        with suppress(ConnectionRefusedError):  # bound by another process, not listened to yet
            return _start_forking(address) or Connection(address)
        time.sleep(POLL_S)


def _start_forking(address: str) -> Connection | None:
    """None if another process has."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        try:
            listener.bind(address)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return None
        listener.listen()
        started = subprocess.Popen(
            [sys.executable, "-m", "tests.forks", str(listener.fileno())],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            pass_fds=[listener.fileno()],
        )
        return Connection(address, started)


@contextmanager
def forked_trainers() -> Iterator[None]:
    """Within it the trainers that this process starts are forked."""
    process.start = forks().start_trainer  # type: ignore[assignment]
    try:
        yield
    finally:
        process.start = _start


class _Forking:
    """The process that imports and forks, with one thread."""

    def __init__(self, listener: socket.socket) -> None:
        self._address = listener.getsockname().decode()
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self._asking = 0  # connections
        self._listener = listener
        self._codes: dict[int, int] = {}  # of children that have ended
        signal.signal(signal.SIGCHLD, self._reap)

    def answer_all(self) -> None:
        """Until all who asked are gone; the first to ask has asked already."""
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._listener:
                    self._selector.register(self._listener.accept()[0], selectors.EVENT_READ)
                    self._asking += 1
                else:
                    assert isinstance(key.fileobj, socket.socket)
                    self._answer(key.fileobj)
            if not self._asking:
                return

    def _answer(self, asking: socket.socket) -> None:
        message, descriptors, *_ = socket.recv_fds(asking, MAX_MESSAGE, 3)
        if not message:
            self._selector.unregister(asking)
            asking.close()
            self._asking -= 1
            return
        request = json.loads(message)
        answer = (
            self._fork(request, descriptors) if descriptors else self._codes.get(request["code"])
        )
        asking.send(json.dumps(answer).encode())

    def _reap(self, *_: object) -> None:
        """At once, since whoever waits for a process that is not its own child waits for this."""
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                self._codes[ended[0]] = os.waitstatus_to_exitcode(ended[1])

    def _fork(self, request: Mapping[str, Any], descriptors: Sequence[int]) -> int:
        if "train" in request:
            _import_recipes()
        pid = os.fork()
        if pid:
            for descriptor in descriptors:
                os.close(descriptor)
            return pid
        self._leave()
        _take(descriptors)
        os.setsid()
        if "train" in request:
            os.environ.clear()
            os.environ.update(request["environment"])
            _end(lambda: _worker().main(request["train"]))
        process.start = Connection(self._address).start_trainer  # type: ignore[assignment]
        if not request["writes_ahead"]:
            candidates: Any = importlib.import_module("labeling.candidates")
            candidates.BUFFER = 0
        _end(lambda: importlib.import_module("app").main(request["serve"]))

    def _leave(self) -> None:
        """In a child: hold nothing of this process open, and leave its own children to itself."""
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for key in list(self._selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
        self._selector.close()


def _take(descriptors: Sequence[int]) -> None:
    """Have these as standard input, output and error."""
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    for descriptor in descriptors:
        os.close(descriptor)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115


def _end(main: Callable[[], int]) -> NoReturn:
    """Run, and end with its code at once: taking apart all that was imported takes a second."""
    code = 1
    try:
        code = main()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 - the process ends here
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _import_app() -> None:
    """All that a server would import, and nothing that starts a thread."""
    import app

    for name, value in app.QUIET_LIBRARIES.items():
        os.environ.setdefault(name, value)
    for module in APP_IMPORTS:
        importlib.import_module(module)
    _make_mounted_apps_only()
    gc.collect()
    gc.freeze()  # what is here stays, and a child need not look at it


def _make_mounted_apps_only() -> None:
    """Gradio makes an app three times while a page is built, and the one that serves it when it is
    mounted; those before are a third of a server's start.
    """
    app = importlib.import_module("gradio.routes").App
    create: Callable[..., Any] = app.create_app

    def create_mounted(*given: Any, parent_app: Any = None, **options: Any) -> Any:
        return create(*given, parent_app=parent_app, **options) if parent_app else None

    app.create_app = staticmethod(create_mounted)


def _worker() -> Any:
    return importlib.import_module("training.worker.__main__")


@cache
def _import_recipes() -> None:
    """All that a trainer would import."""
    worker = _worker()
    for method in worker.METHODS.values():
        importlib.import_module(method.recipe)
    gc.collect()
    gc.freeze()


if __name__ == "__main__":
    _import_app()
    _Forking(socket.socket(fileno=int(sys.argv[1]))).answer_all()
