"""Training runs as the application sees them: launched, followed, cancelled, resumed, adopted.

A run belongs to its directory and its process, not to this object: the application may stop and
start while a trainer works. The adapter of a run that succeeded stays in the run's directory,
read-only; the policy version that names it is one row, so that it is never half registered.

Who may launch or cancel is decided by the caller.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path

from store import checks, policies, runs, snapshots
from store.db import Store
from store.errors import BadInput, Conflict, StoreUnavailable
from store.records import Policy, Prompt, Run, RunEvent, RunState, Snapshot
from training import engine, process
from training.config import GENERAL, RunSpec, worker_environment
from training.events import EventReader
from training.machine import Machine, measured
from training.methods import Product, method_named
from training.options import SpecError
from training.policy import adapter_sha256
from training.rundir import Failure, Outcome, RunDir, RunResult, Trainer
from training.shape import ModelShape, count_parameters, read_shape
from training.shortages import LESS_MEMORY

log = logging.getLogger(__name__)

OnFinished = Callable[[Run, Policy | None], None]

POLL_S = 0.1
CANCEL_GRACE_S = 15.0
STANDBY_IDLE_S = 600.0
EXIT_GRACE_S = 5.0
DIED = (
    "The trainer died without a result; the machine may have run out of memory. Resume the run to "
    "go on from its last checkpoint."
)
DIED_AGAIN = "If it dies again, it has to take less memory."
STOPPED_ELSEWHERE = "The trainer was told to stop, but not from here. Resume the run to go on."
PROJECT = Path(__file__).resolve().parent.parent


@dataclass
class _Followed:
    """A run whose trainer is, or was a moment ago, at work.

    The process that was started is the trainer, or has started it among others; which one that is,
    the run directory says from when the trainer has begun.
    """

    run_id: str
    run_dir: RunDir
    reader: EventReader
    pid: int | None
    started_at: float
    child: subprocess.Popen[bytes] | None = None
    kill_at: float | None = None  # time.monotonic()

    def is_alive(self) -> bool:
        """The trainer still runs; a process that has ended is reaped."""
        return self._is_started_one_alive() or self._trainer() is not None

    def terminate(self) -> None:
        """Ask the trainer to end; where it has not begun, the process that is to start it."""
        if trainer := self._trainer():
            process.terminate(*trainer)
        elif self.pid is not None:
            process.terminate(self.pid, self.started_at)

    def kill(self) -> None:
        """End the trainer and all processes beside it, now."""
        if self.pid is not None:
            process.kill_tree(self.pid, self.started_at)
        if trainer := self._trainer():
            process.kill_tree(*trainer)

    def _is_started_one_alive(self) -> bool:
        if self.child is not None:
            return self.child.poll() is None
        return self.pid is not None and process.is_alive(self.pid, self.started_at)

    def _trainer(self) -> Trainer | None:
        trainer = self.run_dir.trainer()
        return trainer if trainer and process.is_alive(*trainer) else None


@dataclass
class _Standby:
    """A process that has imported what takes seconds and waits for a run directory."""

    child: subprocess.Popen[bytes]
    idle_until: float  # time.monotonic()
    is_ready: bool = False
    answered: threading.Event = field(default_factory=threading.Event)  # it is ready, or has ended

    def is_alive(self) -> bool:
        return self.child.poll() is None


class RunService:
    """Launches trainers and follows them with one thread until `close()`.

    `folder` gets one directory a run. `base_model` is the folder of the base model on this machine.
    `eval_prompts` gives held-out prompts, asked at each launch. `threads` are torch threads of a
    trainer. `on_finished` listeners run on the following thread, once the store
    knows the end; one that a crash kept from running is not called again.
    """

    def __init__(
        self,
        store: Store,
        folder: Path,
        *,
        base_model: str | Path,
        eval_prompts: Callable[[], Sequence[Prompt]],
        threads: int = 1,
        on_finished: Sequence[OnFinished] = (),
        cancel_grace_s: float = CANCEL_GRACE_S,
        standby_idle_s: float = STANDBY_IDLE_S,
    ) -> None:
        self._store = store
        self._folder = folder.resolve()
        self._base_model = str(base_model)
        self._eval_prompts = eval_prompts
        self._threads = threads
        self.on_finished = list(on_finished)
        self._cancel_grace_s = cancel_grace_s
        self._standby_idle_s = standby_idle_s
        # Protects all below; notified whenever a run's events or state have changed.
        self._changed = threading.Condition(threading.RLock())
        self._followed: dict[str, _Followed] = {}
        self._ended: list[tuple[Run, Policy | None]] = []
        self._standby: _Standby | None = None
        self._is_closing = False
        self._wake = threading.Event()
        self._follower = threading.Thread(target=self._follow_all, name="run-follower", daemon=True)
        self._follower.start()

    @property
    def base_model(self) -> str:
        """The folder or the hub id of the model that runs start from."""
        return self._base_model

    @cached_property
    def machine(self) -> Machine | None:
        """How fast this machine computes; measured, which takes seconds, unless that is on disk."""
        path = self._folder / "machine.json"
        return measured(path, self._threads, self._environment())

    @cached_property
    def model_shape(self) -> ModelShape | None:
        """The sizes of the base model; None where they cannot be told."""
        return read_shape(self._base_model)

    @cached_property
    def model_parameters(self) -> int | None:
        """How many weights the base model has; None where that cannot be told."""
        return count_parameters(self._base_model)

    def launch(
        self,
        actor_id: str,
        method: str,
        options: Mapping[str, object],
        snapshot: Snapshot,
        parent: Policy,
        *,
        general: Snapshot | None = None,
        reward_model: str | None = None,
        watch_model: str | None = None,
        agreement: tuple[float | None, int] = (None, 0),
        seed: int = 0,
    ) -> Run:
        """Train `parent` on `snapshot`, with `general` demonstrations beside it.

        `reward_model` is the folder of one, where the method takes one; a `watch_model` looks on,
        and `agreement` is that of people and the pairs it is of; see `RunSpec`. Raises `BadInput`
        for options that cannot be used, `Conflict` while another run is active, `StoreUnavailable`
        when the run directory cannot be written.
        """
        run_id = f"run-{self._store.clock():%Y%m%d-%H%M%S}-{uuid.uuid4().hex[:6]}"
        with self._changed:
            self._refuse_if_busy()
            try:
                spec = replace(
                    self._spec(run_id, method, options, parent),
                    reward_model=reward_model,
                    watch_model=watch_model,
                    agreement=agreement[0],
                    agreement_pairs=agreement[1],
                    seed=seed,
                )
                run_dir = self._write_run_dir(spec, snapshot, general)
            except SpecError as error:
                raise BadInput("The run cannot start: {error}.", error=error) from error
            try:
                runs.create(
                    self._store,
                    id=run_id,
                    method=method,
                    spec=spec.to_json(),
                    snapshot_id=snapshot.id,
                    parent_version=parent.version,
                    folder=str(run_dir.path),
                    created_by=actor_id,
                    general_snapshot_id=general.id if general else None,
                )
            except BaseException:
                shutil.rmtree(run_dir.path, ignore_errors=True)
                raise
            self._start(run_id, run_dir, spec)
        return runs.get(self._store, run_id)

    def cancel(self, run_id: str) -> None:
        """Ask the trainer to stop at its next step; it is killed after the grace period.

        Returns at once. Raises `Conflict` when the run has ended already.
        """
        with self._changed:
            followed = self._followed.get(run_id)
            run = runs.get(self._store, run_id)
            if followed is None or run.state.is_final:
                raise Conflict(
                    "Run {run_id} has ended already ({state}).", run_id=run_id, state=run.state
                )
            followed.run_dir.ask_to_cancel()
            if followed.kill_at is None:
                followed.kill_at = time.monotonic() + self._cancel_grace_s
            followed.terminate()
        self._wake.set()

    def resume(self, run_id: str) -> Run:
        """Go on from the last checkpoint of a run that was interrupted or failed.

        Raises `Conflict` when its state does not allow that, or while another run is active;
        `BadInput` when its spec cannot be used any more.
        """
        with self._changed:
            run = runs.get(self._store, run_id)
            if run.state not in (RunState.INTERRUPTED, RunState.FAILED):
                raise Conflict(
                    "Run {run_id} is {state}; only one that was interrupted or failed can "
                    "be resumed. Start a new run instead.",
                    run_id=run_id,
                    state=run.state,
                )
            self._refuse_if_busy()
            run_dir = RunDir(Path(run.folder))
            spec = _readable(run_dir)
            if run.pid is not None and run.pid_started_at is not None:
                process.stop(run.pid, run.pid_started_at, grace_s=EXIT_GRACE_S)
            if trainer := run_dir.trainer():
                process.stop(*trainer, grace_s=EXIT_GRACE_S)
            run_dir.forget_end()
            self._start(run_id, run_dir, spec)
        return runs.get(self._store, run_id)

    def adopt(self) -> list[Run]:
        """At start: follow trainers that outlived the application, settle those that ended.

        Returns the runs that are still being trained.
        """
        with self._changed:
            for run in runs.unfinished(self._store):
                if run.id not in self._followed:
                    self._follow(_adopted(run))
            for followed in list(self._followed.values()):
                self._look_at(followed)
            adopted = [runs.get(self._store, run_id) for run_id in self._followed]
        self._announce()
        return adopted

    def prepare(self, *, beside_a_run: bool = False) -> None:
        """Have a process ready, so that the next launch begins to train within a second or two.

        While a run is at work nothing is launched, and nothing prepared, but `beside_a_run`: for
        who knows that another follows. Where no process can be started, the launch will say so.
        """
        with self._changed:
            if self._is_closing or (self._followed and not beside_a_run):
                return
            try:
                if self._standby is None or not self._standby.is_alive():
                    self._standby = self._start_standby()
            except OSError as error:
                log.warning("No trainer stands by: %s", error)
                return
            self._stay_ready(self._standby)
        self._wake.set()

    def _stay_ready(self, standby: _Standby) -> None:
        standby.idle_until = time.monotonic() + self._standby_idle_s

    @property
    def is_training(self) -> bool:
        """A trainer is at work."""
        return bool(self._followed)

    @property
    def is_prepared(self) -> bool:
        """A process waits for the next launch, or is getting ready to."""
        with self._changed:
            return self._standby is not None and self._standby.is_alive()

    def wait_prepared(self, timeout_s: float) -> bool:
        """Wait for the process that `prepare` started; False where none has become ready."""
        with self._changed:
            standby = self._standby
        return standby is not None and standby.answered.wait(timeout_s) and standby.is_ready

    def release(self) -> None:
        """Let the prepared process go, and its memory with it. Idempotent."""
        with self._changed:
            standby, self._standby = self._standby, None
            if standby is not None:
                _end(standby.child)
                self._changed.notify_all()

    def wait(self, run_id: str, *, timeout_s: float) -> Run:
        """The run, once it has ended. Raises `TimeoutError`."""
        self.wait_until(lambda: runs.get(self._store, run_id).state.is_final, timeout_s=timeout_s)
        return runs.get(self._store, run_id)

    def wait_until(self, condition: Callable[[], bool], *, timeout_s: float) -> None:
        """Look at `condition` whenever a run's events or state changed. Raises `TimeoutError`."""
        with self._changed:
            if not self._changed.wait_for(condition, timeout_s):
                raise TimeoutError(f"Nothing of the kind within {timeout_s} seconds.")

    def close(self) -> None:
        """Stop following. A trainer at work goes on, for `adopt` at the next start. Idempotent."""
        with self._changed:
            self._is_closing = True
        self._wake.set()
        if self._follower is not threading.current_thread():
            self._follower.join()
        self.release()

    def _refuse_if_busy(self) -> None:
        for run in runs.unfinished(self._store):
            raise Conflict(
                "Run {id} is already training. Wait for it to end, or cancel it first.", id=run.id
            )

    def _spec(
        self, run_id: str, method: str, options: Mapping[str, object], parent: Policy
    ) -> RunSpec:
        adapter = parent.adapter_path
        return RunSpec(
            run_id=run_id,
            method=method,
            options=method_named(method).options.parsed(options),
            base_model=self._base_model,
            parent_version=parent.version,
            parent_adapter=str(Path(adapter).resolve()) if adapter else None,
            threads=self._threads,
        )

    def _write_run_dir(self, spec: RunSpec, snapshot: Snapshot, general: Snapshot | None) -> RunDir:
        path = self._folder / spec.run_id
        prompts = self._test_prompts()
        try:
            return RunDir.create(
                path,
                spec,
                data=Path(snapshot.path),
                eval_prompts=prompts,
                general=Path(general.path) if general else None,
            )
        except OSError as error:
            shutil.rmtree(path, ignore_errors=True)
            raise StoreUnavailable(
                "The run's folder {path} cannot be written: {error}. Nothing was started; make "
                "room or correct the folder's permissions, and start the run again.",
                path=path,
                error=error,
            ) from error

    def _test_prompts(self) -> list[dict[str, object]]:
        """What the result is tested with, each prompt with the checks that it has."""
        asked = self._eval_prompts()
        known = checks.of_prompts(self._store, [prompt.id for prompt in asked])
        return [
            {
                "prompt_id": prompt.id,
                "messages": list(prompt.messages),
                "checks": [check._asdict() for check in known.get(prompt.id, ())],
            }
            for prompt in asked
        ]

    def _start(self, run_id: str, run_dir: RunDir, spec: RunSpec) -> None:
        """Start a trainer, on the prepared process where there is one that can be it; follow it."""
        try:
            prepared = self._hand_to_standby(run_dir) if engine.is_alone(spec) else None
            child = prepared or self._start_cold(run_dir, spec)
            started_at = process.started_at(child.pid)
        except OSError as error:
            runs.mark_finished(self._store, run_id, RunState.FAILED, error=str(error))
            raise StoreUnavailable(
                "The trainer could not be started: {error}", error=error
            ) from error
        runs.mark_started(self._store, run_id, pid=child.pid, pid_started_at=started_at)
        reader = EventReader(run_dir.events_path)
        self._follow(_Followed(run_id, run_dir, reader, child.pid, started_at, child))

    def _start_cold(self, run_dir: RunDir, spec: RunSpec) -> subprocess.Popen[bytes]:
        launch = engine.launch_of(spec, run_dir.path)
        return process.start(
            launch.command,
            log=run_dir.log_path,
            environment={**launch.environment, **_import_path()},
        )

    def _hand_to_standby(self, run_dir: RunDir) -> subprocess.Popen[bytes] | None:
        """One that is still importing is ahead of a cold start already, so it will do."""
        standby, self._standby = self._standby, None
        if standby is None or not standby.is_alive() or standby.child.stdin is None:
            return None
        try:
            standby.child.stdin.write(f"{run_dir.path}\n".encode())
            standby.child.stdin.close()
        except OSError:
            log.warning("The prepared trainer %d is gone; starting another", standby.child.pid)
            return None
        return standby.child

    def _start_standby(self) -> _Standby:
        self._folder.mkdir(parents=True, exist_ok=True)
        child = process.start(
            [sys.executable, "-m", "training.worker", "--standby"],
            log=self._folder / "standby.log",
            environment=self._environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        standby = _Standby(child, time.monotonic() + self._standby_idle_s)
        threading.Thread(target=_await_ready, args=(standby,), daemon=True).start()
        return standby

    def _environment(self) -> dict[str, str]:
        return {**worker_environment(self._threads), **_import_path()}

    def _follow(self, followed: _Followed) -> None:
        self._followed[followed.run_id] = followed
        self._wake.set()

    def _follow_all(self) -> None:
        while True:
            with self._changed:
                if self._is_closing:
                    return
                for followed in list(self._followed.values()):
                    try:
                        self._look_at(followed)
                    except Exception:
                        log.exception("Run %s could not be followed; trying on", followed.run_id)
                pause = self._pause()
            self._announce()
            self._wake.wait(pause)
            self._wake.clear()

    def _pause(self) -> float | None:
        """Seconds until something may have to be looked at; lets an idle standby go."""
        if self._followed:
            return POLL_S
        if self._standby is None:
            return None
        idle_s = self._standby.idle_until - time.monotonic()
        if idle_s <= 0:
            self.release()
            return None
        return idle_s

    def _look_at(self, followed: _Followed) -> None:
        # A trainer writes its events, then its result, then dies. Asked in the opposite order, one
        # that is dead and has no result never wrote one, and none of its events is missed.
        is_alive = followed.is_alive()
        result = _result_or_damage(followed.run_dir)
        self._take_events(followed)
        if result is not None:
            self._settle(followed, result)
        elif not is_alive:
            self._settle_dead(followed)
        elif followed.kill_at is not None and time.monotonic() >= followed.kill_at:
            log.warning("Run %s did not stop when asked; killing it", followed.run_id)
            followed.kill()

    def _take_events(self, followed: _Followed) -> None:
        offset = followed.reader.offset
        fresh = followed.reader.read()
        try:
            runs.append_events(
                self._store,
                [RunEvent(followed.run_id, e.seq, e.at, e.kind, e.data) for e in fresh],
            )
        except BaseException:
            followed.reader.offset = offset
            raise
        if fresh:
            self._changed.notify_all()

    def _settle(self, followed: _Followed, result: RunResult) -> None:
        if result.state is Outcome.SUCCEEDED:
            self._settle_success(followed, result)
        elif result.state is Outcome.FAILED:
            failure = result.failure
            error = f"{failure.message} {failure.advice}" if failure else "No reason was given."
            self._finish(followed, RunState.FAILED, error=error, result=result)
        elif followed.run_dir.is_cancel_asked:
            self._finish(followed, RunState.CANCELLED, result=result)
        else:
            self._finish(followed, RunState.INTERRUPTED, error=STOPPED_ELSEWHERE, result=result)

    def _settle_success(self, followed: _Followed, result: RunResult) -> None:
        run = runs.get(self._store, followed.run_id)
        try:
            sha256 = adapter_sha256(followed.run_dir.adapter)
            judgment_ids = self._learned_from(run)
        except (BadInput, ValueError) as error:
            self._finish(followed, RunState.FAILED, error=str(error), result=result)
            return
        policy = None
        if method_named(run.method).makes is Product.POLICY:
            policy = policies.of_run(self._store, run.id)
            policy = policy or self._register(run, sha256, judgment_ids)
        self._finish(followed, RunState.SUCCEEDED, result=result, policy=policy)

    def _register(self, run: Run, sha256: str, judgment_ids: Sequence[str]) -> Policy:
        """The policy that a run made, which learned from these judgments."""
        return policies.register(
            self._store,
            base_model=policies.get(self._store, run.parent_version).base_model,
            parent_version=run.parent_version,
            adapter_path=str(RunDir(Path(run.folder)).adapter),
            adapter_sha256=sha256,
            run_id=run.id,
            snapshot_id=run.snapshot_id,
            judgment_ids=judgment_ids,
        )

    def _learned_from(self, run: Run) -> list[str]:
        """The judgments behind the rows that were trained on, replayed ones among them.

        Raises `ValueError` when the trainer has not said which those are.
        """
        run_dir = RunDir(Path(run.folder))
        read = {
            run.spec["data"]: run_dir.read_trained_rows(),
            GENERAL: run_dir.read_replayed_rows(),
        }
        found = (
            snapshots.judgment_ids_of(self._store, run_dir.path / path, rows)
            for path, rows in read.items()
            if rows
        )
        return sorted(set(chain.from_iterable(found)))

    def _settle_dead(self, followed: _Followed) -> None:
        if followed.run_dir.is_cancel_asked:
            self._finish(followed, RunState.CANCELLED)
            return
        failure = followed.run_dir.failure_beside()
        if failure is not None and not failure.is_vague:
            self._settle(followed, RunResult(Outcome.FAILED, failure))
            return
        error = f"{DIED} {DIED_AGAIN} {LESS_MEMORY} {followed.run_dir.log_tail()}"
        self._finish(followed, RunState.INTERRUPTED, error=error.strip())

    def _finish(
        self,
        followed: _Followed,
        state: RunState,
        *,
        error: str | None = None,
        result: RunResult | None = None,
        policy: Policy | None = None,
    ) -> None:
        runs.mark_finished(
            self._store,
            followed.run_id,
            state,
            error=error,
            result=asdict(result) if result else None,
        )
        del self._followed[followed.run_id]
        if self._standby is not None:
            self._stay_ready(self._standby)  # However long the run took: what follows is to come.
        if followed.child is None and followed.pid is not None:
            process.reap(followed.pid)
        self._ended.append((runs.get(self._store, followed.run_id), policy))
        self._changed.notify_all()

    def _announce(self) -> None:
        """Tell the listeners, outside the lock: they may take their time, or call back."""
        while True:
            with self._changed:
                if not self._ended:
                    return
                run, policy = self._ended.pop(0)
            for listener in self.on_finished:
                try:
                    listener(run, policy)
                except Exception:
                    log.exception("A listener failed on the end of run %s", run.id)


def _import_path() -> dict[str, str]:
    return {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH")]))
    }


def _readable(run_dir: RunDir) -> RunSpec:
    """The spec that a run directory holds. Raises `BadInput`."""
    try:
        return run_dir.read_spec()
    except SpecError as error:
        raise BadInput("The run cannot start: {error}.", error=error) from error


def _result_or_damage(run_dir: RunDir) -> RunResult | None:
    """The result; a damaged one reads as a failure."""
    try:
        return run_dir.read_result()
    except ValueError as error:
        advice = "Resume the run to go on from its last checkpoint."
        return RunResult(Outcome.FAILED, Failure("bad_result", f"{error}.", advice))


def _adopted(run: Run) -> _Followed:
    """A run found unfinished; its directory may know a trainer that the store does not."""
    run_dir = RunDir(Path(run.folder))
    pid, started_at = run.pid, run.pid_started_at
    if pid is None or started_at is None or run.state is RunState.QUEUED:
        trainer = run_dir.trainer()
        pid, started_at = (trainer.pid, trainer.started_at) if trainer else (None, 0.0)
    return _Followed(run.id, run_dir, EventReader(run_dir.events_path), pid, started_at)


def _await_ready(standby: _Standby) -> None:
    """Ends with the child's standard output, which a trainer moves into its log."""
    output = standby.child.stdout
    assert output is not None
    standby.is_ready = bool(output.readline())
    standby.answered.set()
    output.close()


def _end(child: subprocess.Popen[bytes]) -> None:
    """A standby process ends when its standard input does."""
    if child.stdin is not None:
        with suppress(OSError):
            child.stdin.close()
    try:
        child.wait(EXIT_GRACE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
