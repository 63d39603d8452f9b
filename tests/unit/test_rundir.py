from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from training.config import RunSpec
from training.methods.dpo import DPOOptions
from training.options import SpecError
from training.rundir import (
    UNEXPECTED,
    Failure,
    Outcome,
    RunDir,
    RunDirBusy,
    RunResult,
    Trainer,
    require_space,
    write_whole,
)

SPEC = RunSpec("run-1", "dpo", DPOOptions(beta=0.3), "models/base", "pol-000000")
PROMPT: dict[str, Any] = {"prompt_id": "p", "messages": [{"role": "user", "content": "你好"}]}
ME = Trainer(1, 2.0)


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    path = tmp_path / "snapshot.parquet"
    path.write_bytes(b"PAR1")
    return path


@pytest.fixture
def run_dir(tmp_path: Path, snapshot: Path) -> RunDir:
    return RunDir.create(tmp_path / "runs" / "run-1", SPEC, data=snapshot, eval_prompts=[PROMPT])


def make_checkpoint(run_dir: RunDir, step: int, *, is_complete: bool) -> Path:
    folder = run_dir.checkpoints / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    if is_complete:
        (folder / "complete").touch()
    return folder


def test_a_new_run_directory_holds_all_that_a_trainer_needs(run_dir: RunDir) -> None:
    assert run_dir.read_spec() == SPEC
    assert (run_dir.path / SPEC.data).read_bytes() == b"PAR1"
    lines = (run_dir.path / SPEC.eval_prompts).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [PROMPT]


def test_the_snapshot_is_shared_with_the_run_and_not_doubled(
    run_dir: RunDir, snapshot: Path
) -> None:
    assert (run_dir.path / SPEC.data).samefile(snapshot)


def test_an_existing_run_directory_is_not_overwritten(run_dir: RunDir, snapshot: Path) -> None:
    with pytest.raises(FileExistsError):
        RunDir.create(run_dir.path, SPEC, data=snapshot, eval_prompts=[])


def test_a_torn_spec_is_refused_by_name(run_dir: RunDir) -> None:
    run_dir.spec_path.write_text('{"run_id": "run-')
    with pytest.raises(SpecError, match=r"spec\.json"):
        run_dir.read_spec()


def test_a_result_survives_the_way_through_the_disk(run_dir: RunDir) -> None:
    assert run_dir.read_result() is None
    failure = Failure("nan_loss", "The loss became nan.", "Halve the learning rate.")
    result = RunResult(Outcome.FAILED, failure, {"steps": 3})
    run_dir.write_result(result)
    assert run_dir.read_result() == result


def test_a_result_is_strict_json_whatever_was_measured(run_dir: RunDir) -> None:
    run_dir.write_result(RunResult(Outcome.SUCCEEDED, report={"kl": float("inf")}))
    result = run_dir.read_result()
    assert result is not None
    assert result.report == {"kl": None}


def test_a_half_written_result_does_not_count(run_dir: RunDir) -> None:
    run_dir.result_path.with_name("result.json.partial").write_text('{"state": "succ')
    assert run_dir.read_result() is None


def test_a_damaged_result_is_told_from_a_missing_one(run_dir: RunDir) -> None:
    run_dir.result_path.write_text('{"state": "splendid"}')
    with pytest.raises(ValueError, match="damaged"):
        run_dir.read_result()


def test_a_failed_write_leaves_the_old_text(tmp_path: Path) -> None:
    path = tmp_path / "note"
    write_whole(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(path, "new \udc80")
    assert path.read_text() == "old"


def test_only_one_trainer_works_in_a_run_directory(run_dir: RunDir) -> None:
    with run_dir.held_by(ME):
        with pytest.raises(RunDirBusy, match="pid=1"), run_dir.held_by(Trainer(3, 4.0)):
            pass
        assert run_dir.trainer() == ME
    with run_dir.held_by(Trainer(3, 4.0)):
        assert run_dir.trainer() == Trainer(3, 4.0)


def test_the_newest_complete_checkpoint_is_resumed_from(run_dir: RunDir) -> None:
    assert run_dir.newest_checkpoint() is None
    make_checkpoint(run_dir, 9, is_complete=True)
    newest = make_checkpoint(run_dir, 10, is_complete=True)
    make_checkpoint(run_dir, 11, is_complete=False)
    assert run_dir.newest_checkpoint() == newest


def test_a_sealed_adapter_is_read_only_and_replaces_a_torn_one(run_dir: RunDir) -> None:
    for content in ("torn", "whole"):
        run_dir.adapter_partial.mkdir()
        (run_dir.adapter_partial / "weights").write_text(content)
        run_dir.seal_adapter()
    assert (run_dir.adapter / "weights").read_text() == "whole"
    assert (run_dir.adapter / "weights").stat().st_mode & 0o222 == 0
    assert not run_dir.adapter_partial.exists()


def test_a_resume_forgets_how_the_run_ended(run_dir: RunDir) -> None:
    run_dir.ask_to_cancel()
    run_dir.write_result(RunResult(Outcome.CANCELLED))
    assert run_dir.is_cancel_asked
    run_dir.forget_end()
    assert not run_dir.is_cancel_asked
    assert run_dir.read_result() is None


def test_of_processes_that_failed_one_that_knows_why_is_heard_until_a_resume(
    run_dir: RunDir,
) -> None:
    known = Failure("out_of_memory", "Memory ran out.", "Take less.")
    run_dir.write_failure_beside(1, Failure(UNEXPECTED, "Connection closed by peer.", ""))
    run_dir.write_failure_beside(2, known)
    (run_dir.path / "failure.3.json").write_text('{"name": "out')
    assert run_dir.failure_beside() == known
    run_dir.forget_end()
    assert run_dir.failure_beside() is None


def test_room_for_the_result_is_kept_until_it_is_written(run_dir: RunDir) -> None:
    before = set(run_dir.path.iterdir())
    run_dir.reserve_result()
    (reserve,) = set(run_dir.path.iterdir()) - before
    assert reserve.stat().st_blocks * 512 >= 50_000
    run_dir.write_result(RunResult(Outcome.CANCELLED))
    assert not reserve.exists()


def test_too_little_room_is_said_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Free some space") as refused:
        require_space(tmp_path, 2**60)
    assert refused.value.errno == errno.ENOSPC
