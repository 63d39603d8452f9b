from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from labeling.access import Actor
from labeling.merged_models import MergedModels, MergeWork, difference
from store import policies
from store.db import Store
from store.errors import BadInput, Conflict, NotAllowed
from store.records import Role
from tests.disks import files_no_larger_than
from tests.models import build_adapter, build_model
from training import merging
from training.merging import REPORT_FILE, MergeFailed, merge

LEAD = Actor("lea", "lea", Role.LEAD)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model(tmp_path_factory.mktemp("models") / "tiny")


def test_a_merged_model_answers_as_base_and_adapter_do(tmp_path: Path, model: Path) -> None:
    from peft import PeftModel

    from training.generation import Request, generate
    from training.loading import load_base, load_tokenizer, render_prompt

    adapter = build_adapter(model, tmp_path / "adapter", seed=3)
    report = merge(str(model), adapter, tmp_path / "merged")
    assert 0 <= report.largest_difference < 2e-3
    assert json.loads((tmp_path / "merged" / REPORT_FILE).read_text())["tokens"] == report.tokens
    tokenizer = load_tokenizer(tmp_path / "merged")
    request = Request(render_prompt(tokenizer, [{"role": "user", "content": "Hi"}]), 12, seed=1)
    (merged,) = generate(load_base(tmp_path / "merged"), tokenizer, [request])
    adapted = PeftModel.from_pretrained(load_base(model), adapter)
    (expected,) = generate(adapted, tokenizer, [request])
    assert merged.token_ids == expected.token_ids


def test_a_model_that_differs_is_not_left_behind(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training.loading import load_base

    adapter = build_adapter(model, tmp_path / "adapter", seed=3)
    # As if merging had silently done nothing: what is read back is the base.
    monkeypatch.setattr(
        merging,
        "load_base",
        lambda folder: load_base(model if Path(folder).name.endswith(".partial") else folder),
    )
    with pytest.raises(MergeFailed, match="differs"):
        merge(str(model), adapter, tmp_path / "merged")
    assert not list(tmp_path.glob("merged*"))


def test_a_full_disk_is_said_and_leaves_nothing(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = build_adapter(model, tmp_path / "adapter", seed=3)
    with files_no_larger_than(100_000):
        assert merging.main([str(model), str(adapter), str(tmp_path / "merged")]) == 2
    assert "the disk is full" in capsys.readouterr().err
    assert not list(tmp_path.glob("merged*"))


def test_virtual_tokens_are_refused(tmp_path: Path, model: Path) -> None:
    from peft import PromptTuningConfig, get_peft_model

    from training.loading import load_base

    config = PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
    get_peft_model(load_base(model), config).save_pretrained(tmp_path / "prompt")
    with pytest.raises(MergeFailed, match="virtual tokens"):
        merge(str(model), tmp_path / "prompt", tmp_path / "merged")


def test_the_command_line_says_what_is_wrong(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert merging.main([str(tmp_path / "no"), str(tmp_path), str(tmp_path / "out")]) == 2
    assert "no model folder" in capsys.readouterr().err
    with pytest.raises(SystemExit) as refused:
        merging.main([str(model), str(tmp_path), str(tmp_path)])
    assert refused.value.code == 2


@pytest.fixture
def models(store: Store, tmp_path: Path, model: Path) -> MergedModels:
    policies.register(store, base_model=str(model), parent_version=None)
    adapter = build_adapter(model, tmp_path / "adapter", seed=3)
    policies.register(
        store,
        base_model=str(model),
        parent_version="pol-000000",
        adapter_path=str(adapter),
        adapter_sha256="aa",
    )
    return MergedModels(store, tmp_path / "models")


def wait(models: MergedModels) -> MergeWork | None:
    """What is left of the work once it has ended."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        work = models.work(LEAD)
        if work is None or work.error is not None:
            return work
        time.sleep(0.05)
    raise TimeoutError("The merge did not end.")


def test_a_lead_gets_a_version_as_one_model(models: MergedModels) -> None:
    models.start(LEAD, "pol-000001")
    with pytest.raises(Conflict, match="being merged"):
        models.start(LEAD, "pol-000001")
    assert wait(models) is None
    (folder,) = models.folders(LEAD).values()
    assert (folder / "model.safetensors").exists()
    assert difference(folder) < 2e-3
    with pytest.raises(Conflict, match="already"):
        models.start(LEAD, "pol-000001")


def test_a_merge_that_fails_says_why_and_leaves_nothing(
    models: MergedModels, tmp_path: Path
) -> None:
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    models.start(LEAD, "pol-000001")
    work = wait(models)
    assert work is not None
    assert work.error is not None
    assert "the adapter in" in work.error
    assert models.folders(LEAD) == {}


def test_the_base_is_no_merge_and_annotators_may_not(models: MergedModels) -> None:
    with pytest.raises(BadInput, match="base model itself"):
        models.start(LEAD, "pol-000000")
    with pytest.raises(NotAllowed):
        models.start(Actor("ana", "ana", Role.ANNOTATOR), "pol-000001")
