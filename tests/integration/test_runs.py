from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import psutil
import pytest

from store import checks, policies, runs, snapshots
from store.checks import Check
from store.errors import BadInput, Conflict, NotFound, StoreUnavailable
from store.records import Policy, Run, RunState
from tests.builders import START, make_prompt
from tests.forks import forked_trainers
from tests.models import build_model
from tests.rundirs import PAIRS
from tests.services import TIMEOUT_S, Lab, open_lab
from training import process
from training.policy import adapter_sha256
from training.rundir import UNEXPECTED, Failure, Outcome, RunDir, RunResult
from training.shortages import LESS_MEMORY


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def lab(tmp_path: Path, model: Path) -> Iterator[Lab]:
    with forked_trainers(), open_lab(tmp_path, model, pairs=8) as opened:
        yield opened


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[tuple[Lab, Run]]:
    """One run, launched on a prepared process as people do, and followed to its end."""
    with open_lab(tmp_path_factory.mktemp("lab"), model) as opened:
        give_checks(opened, "Is item 0 late?", Check("max_words", 500), Check("contains", "✂✂"))
        opened.service.prepare()
        run = opened.launch()
        yield opened, opened.wait(run)


def give_checks(lab: Lab, text: str, *given: Check) -> None:
    """To one of the prompts that runs of the lab are tested with."""
    of_prompt = {make_prompt(text).id: given}
    lab.store.write(lambda cursor: checks.insert(cursor, of_prompt, source="test", now=START))


def make_orphan(lab: Lab, *, result: RunResult | None) -> Run:
    """What a crash of the application leaves: a running row, a directory, and nobody at work."""
    run = lab.launch()
    lab.service.cancel(run.id)
    lab.wait(run)
    run_dir = RunDir(Path(run.folder))
    if trainer := run_dir.trainer():  # it writes its result before it is gone
        process.stop(*trainer, grace_s=TIMEOUT_S)
    run_dir.forget_end()
    if result is not None:
        run_dir.adapter_partial.mkdir()
        (run_dir.adapter_partial / "adapter_model.safetensors").write_bytes(b"weights")
        run_dir.seal_adapter()
        run_dir.write_trained_rows([0, 1])
        run_dir.write_result(result)
    runs.mark_started(lab.store, run.id, pid=2**22 + 1, pid_started_at=1.0)
    return runs.get(lab.store, run.id)


def test_a_run_ends_as_a_registered_policy(finished: tuple[Lab, Run]) -> None:
    lab, run = finished
    assert run.state is RunState.SUCCEEDED, run.error
    policy = policies.of_run(lab.store, run.id)
    assert policy is not None
    assert policy.adapter_path == str(Path(run.folder) / "adapter")
    assert policy.adapter_sha256 == adapter_sha256(Path(policy.adapter_path))
    assert (policy.parent_version, policy.snapshot_id) == (lab.parent.version, lab.snapshot.id)
    assert policy.base_model == lab.parent.base_model


def test_a_run_is_tested_with_the_checks_that_its_prompts_have(finished: tuple[Lab, Run]) -> None:
    _, run = finished
    assert run.result is not None
    followed = run.result["report"]["instructions"]
    assert followed == {"checks": 2, "before": 0.5, "after": 0.5}


def test_a_policy_names_the_judgments_that_it_was_trained_on(finished: tuple[Lab, Run]) -> None:
    lab, run = finished
    policy = policies.of_run(lab.store, run.id)
    assert policy is not None
    assert run.result is not None
    trained = policies.judgment_ids(lab.store, policy.version)
    assert len(trained) == run.result["report"]["data"]["train"] < PAIRS
    assert set(trained) < set(snapshots.judgment_ids(lab.store, lab.snapshot.id))


def test_a_run_shows_its_events_and_its_report_in_the_store(finished: tuple[Lab, Run]) -> None:
    lab, run = finished
    assert [e.data["name"] for e in lab.events(run, "phase")][-1] == "evaluating"
    assert lab.events(run, "metrics")[0].data["loss"] == pytest.approx(0.693147, abs=1e-6)
    assert run.result is not None
    assert run.result["report"]["pairs"]["accuracy"] > 0.9
    assert len(lab.events(run, "sample")) == 4


def test_a_policy_can_be_trained_on(finished: tuple[Lab, Run]) -> None:
    lab, run = finished
    parent = policies.of_run(lab.store, run.id)
    assert parent is not None
    child = lab.service.launch("ana", "dpo", {}, lab.snapshot, parent)
    assert child.spec["parent_adapter"] == parent.adapter_path
    lab.service.cancel(child.id)
    assert lab.wait(child).state is RunState.CANCELLED


def test_a_second_launch_conflicts_with_the_first(lab: Lab) -> None:
    run = lab.launch()
    with pytest.raises(Conflict, match=run.id):
        lab.launch()
    assert [path.name for path in (lab.folder / "runs").glob("run-*")] == [run.id]


def test_a_cancel_ends_a_trainer_that_has_not_begun(lab: Lab) -> None:
    run = lab.launch()
    lab.service.cancel(run.id)
    ended = lab.wait(run)
    assert ended.state is RunState.CANCELLED
    assert lab.events(run, "metrics") == []
    with pytest.raises(Conflict, match="ended already"):
        lab.service.cancel(run.id)


def test_a_restarted_application_adopts_a_live_trainer_and_can_cancel_it(lab: Lab) -> None:
    run = lab.launch(epochs=50, batch_size=1)
    lab.wait_for_step(run, 3)
    lab.service.close()
    lab.service = lab.open_service()
    assert [adopted.id for adopted in lab.service.adopt()] == [run.id]
    assert runs.get(lab.store, run.id).state is RunState.RUNNING
    known = len(lab.events(run, "metrics"))
    lab.wait_for_step(run, known + 3)
    steps = [event.data["step"] for event in lab.events(run, "metrics")]
    assert steps == list(range(1, len(steps) + 1))
    lab.service.cancel(run.id)
    assert lab.wait(run).state is RunState.CANCELLED
    # Asked to stop, a trainer leaves a whole checkpoint of its last step behind.
    assert RunDir(Path(run.folder)).newest_checkpoint() is not None


def test_several_processes_are_adopted_and_end_together_when_cancelled(lab: Lab) -> None:
    run = lab.launch(processes=2, epochs=50)
    lab.wait_for_step(run, 1)
    processes = trainers_of(run)
    assert len(processes) == 2

    lab.service.close()
    lab.service = lab.open_service()
    assert [adopted.id for adopted in lab.service.adopt()] == [run.id]
    lab.service.cancel(run.id)
    assert lab.wait(run).state is RunState.CANCELLED
    result = RunDir(Path(run.folder)).read_result()
    assert result is not None  # it was asked, and not killed
    assert psutil.wait_procs(processes, timeout=TIMEOUT_S)[1] == []


@pytest.mark.nightly
def test_a_trainer_whose_launcher_died_is_followed_and_can_be_cancelled(lab: Lab) -> None:
    run = lab.launch(processes=2, epochs=50)
    lab.wait_for_step(run, 1)
    assert run.pid is not None
    processes = trainers_of(run)
    os.kill(run.pid, signal.SIGKILL)
    lab.wait_for_step(run, 10)
    assert runs.get(lab.store, run.id).state is RunState.RUNNING
    lab.service.cancel(run.id)
    assert lab.wait(run).state is RunState.CANCELLED
    assert psutil.wait_procs(processes, timeout=TIMEOUT_S)[1] == []


def trainers_of(run: Run) -> list[psutil.Process]:
    """The trainer processes that accelerate has started, not what they start themselves."""
    assert run.pid is not None
    return psutil.Process(run.pid).children()


def test_a_trainer_that_does_not_listen_is_killed(lab: Lab) -> None:
    run = lab.launch()
    assert run.pid is not None
    psutil.Process(run.pid).suspend()
    lab.service.close()
    lab.service = lab.open_service(cancel_grace_s=0.1)
    lab.service.adopt()
    lab.service.cancel(run.id)
    assert lab.wait(run).state is RunState.CANCELLED


def test_a_trainer_that_vanished_while_nobody_looked_is_interrupted(lab: Lab) -> None:
    run = make_orphan(lab, result=None)
    assert lab.service.adopt() == []
    ended = runs.get(lab.store, run.id)
    assert ended.state is RunState.INTERRUPTED
    assert ended.error is not None
    assert "Resume" in ended.error
    assert LESS_MEMORY in ended.error  # resumed as it is, it may well die again


@pytest.mark.parametrize(
    ("name", "state"),
    [("out_of_memory", RunState.FAILED), (UNEXPECTED, RunState.INTERRUPTED)],
)
def test_a_trainer_that_died_failed_for_the_reason_that_another_of_its_processes_names(
    lab: Lab, name: str, state: RunState
) -> None:
    run = make_orphan(lab, result=None)
    failure = Failure(name, "Memory ran out.", "Take less.")
    RunDir(Path(run.folder)).write_failure_beside(1, failure)
    lab.service.adopt()
    ended = runs.get(lab.store, run.id)
    assert ended.state is state
    assert ended.error is not None
    assert ("Memory ran out. Take less." in ended.error) is (state is RunState.FAILED)


def test_a_success_while_nobody_looked_is_registered_once(lab: Lab) -> None:
    run = make_orphan(lab, result=RunResult(Outcome.SUCCEEDED))
    heard: list[tuple[Run, Policy | None]] = []
    lab.service.on_finished.append(lambda *end: heard.append(end))
    lab.service.adopt()
    policy = policies.of_run(lab.store, run.id)
    assert policy is not None
    assert [(r.state, p) for r, p in heard] == [(RunState.SUCCEEDED, policy)]
    # A crash between the two writes: the policy is there, the run still counts as running.
    runs.mark_started(lab.store, run.id, pid=2**22 + 1, pid_started_at=1.0)
    lab.service.adopt()
    assert runs.get(lab.store, run.id).state is RunState.SUCCEEDED
    assert [p.version for p in policies.list_all(lab.store)] == [
        policy.version,
        lab.parent.version,
    ]


def test_a_stop_that_nobody_asked_for_can_be_resumed(lab: Lab) -> None:
    run = make_orphan(lab, result=RunResult(Outcome.CANCELLED))
    lab.service.adopt()
    assert runs.get(lab.store, run.id).state is RunState.INTERRUPTED
    assert lab.service.resume(run.id).state is RunState.RUNNING


def test_only_what_was_interrupted_or_failed_can_be_resumed(finished: tuple[Lab, Run]) -> None:
    lab, run = finished
    with pytest.raises(Conflict, match="succeeded"):
        lab.service.resume(run.id)
    with pytest.raises(NotFound):
        lab.service.resume("run-none")


def test_options_that_cannot_be_used_are_refused_before_anything_is_written(lab: Lab) -> None:
    with pytest.raises(BadInput, match="beta"):
        lab.launch(beta=-1)
    with pytest.raises(BadInput, match="method"):
        lab.service.launch("ana", "magic", {}, lab.snapshot, lab.parent)
    assert runs.list_all(lab.store) == []
    assert not list((lab.folder / "runs").glob("run-*"))


def test_a_run_directory_that_cannot_be_written_starts_nothing(lab: Lab) -> None:
    missing = replace(lab.snapshot, path=str(lab.folder / "gone.parquet"))
    with pytest.raises(StoreUnavailable, match="Nothing was started"):
        lab.service.launch("ana", "dpo", {}, missing, lab.parent)
    assert runs.list_all(lab.store) == []


def test_a_process_is_prepared_beside_a_run_only_for_one_that_follows(lab: Lab) -> None:
    lab.service.release()
    run = lab.launch()
    lab.service.prepare()
    assert not lab.service.is_prepared
    lab.service.prepare(beside_a_run=True)
    assert lab.service.wait_prepared(TIMEOUT_S)
    lab.wait(run)

    assert lab.service.is_prepared
    assert lab.wait(lab.launch()).state is RunState.SUCCEEDED
    assert not lab.service.is_prepared  # it was the trainer


def test_what_is_prepared_beside_a_long_run_is_there_when_it_ends(lab: Lab) -> None:
    lab.service.close()
    lab.service = lab.open_service(standby_idle_s=1.0)
    found = []
    lab.service.on_finished.append(lambda *_: found.append(lab.service.is_prepared))
    run = lab.launch(epochs=20)
    lab.service.prepare(beside_a_run=True)
    prepared_at = time.monotonic()
    lab.wait(run)
    assert time.monotonic() > prepared_at + 1.0
    lab.wait_until(lambda: bool(found))
    assert found == [True]


def test_a_process_that_cannot_be_prepared_is_missed_by_nobody(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    lab.service.release()
    with monkeypatch.context() as patched:
        patched.setattr(process, "start", fail)
        lab.service.prepare()
    assert not lab.service.is_prepared


def test_a_prepared_process_is_let_go_when_idle(lab: Lab) -> None:
    lab.service.close()
    lab.service = lab.open_service(standby_idle_s=0.0)
    before = {child.pid for child in psutil.Process().children()}
    lab.service.prepare()
    lab.wait_until(lambda: not lab.service.is_prepared)
    assert {child.pid for child in psutil.Process().children()} <= before


def test_nobody_waits_for_a_prepared_process_that_was_let_go(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who closes the application with the Train tab just opened must not wait a minute for it."""

    def start(*_: object, **__: object) -> subprocess.Popen[bytes]:
        # Never says that it is ready, and ends when its input does.
        return subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    lab.service.release()
    monkeypatch.setattr(process, "start", start)
    lab.service.prepare()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(lab.service.wait_prepared, TIMEOUT_S)
        while not waiting.running():
            time.sleep(0.01)
        lab.service.release()
        assert waiting.result(timeout=TIMEOUT_S / 4) is False


def test_the_options_of_a_run_are_kept_as_they_were_given(finished: tuple[Lab, Run]) -> None:
    _, run = finished
    spec = RunDir(Path(run.folder)).read_spec()
    assert run.spec["options"] == asdict(spec.options)
    assert spec.options != type(spec.options)()
