"""Sampling bounds and the identity of an adapter folder."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from store.errors import BadInput
from training.policy import SamplingParams, adapter_sha256


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    (folder / "extra").mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    (folder / "extra" / "note").write_text("x", encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 5.1),
        ("temperature", float("nan")),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("top_k", -1),
        ("max_new_tokens", 0),
    ],
)
def test_sampling_out_of_bounds_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(BadInput, match=field):
        SamplingParams(**{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(("temperature", "top_p"), [(0, 1), (5, 0.001)])
def test_sampling_at_the_bounds_is_accepted(temperature: float, top_p: float) -> None:
    sampling = SamplingParams(temperature=temperature, top_p=top_p)
    assert (sampling.temperature, sampling.top_p) == (temperature, top_p)


def test_a_copied_adapter_keeps_its_identity(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    assert adapter_sha256(copy) == adapter_sha256(folder)


def test_one_changed_byte_changes_the_identity(folder: Path) -> None:
    before = adapter_sha256(folder)
    (folder / "adapter_model.safetensors").write_bytes(b"weighty")
    assert adapter_sha256(folder) != before


def test_a_renamed_file_changes_the_identity(folder: Path) -> None:
    before = adapter_sha256(folder)
    (folder / "extra" / "note").rename(folder / "note")
    assert adapter_sha256(folder) != before


def test_an_added_empty_file_changes_the_identity(folder: Path) -> None:
    before = adapter_sha256(folder)
    (folder / "empty").touch()
    assert adapter_sha256(folder) != before


def test_an_absent_adapter_is_refused_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nowhere"):
        adapter_sha256(tmp_path / "nowhere")


def test_the_host_and_all_that_it_imports_leave_torch_alone() -> None:
    modules = "training.policy_host, training.local_policy, training.loading, training.device"
    check = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0
