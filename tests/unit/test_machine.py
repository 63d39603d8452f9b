"""A machine is measured once, and again when it is another."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from training import machine as machines
from training.device import Device
from training.machine import Machine, measured

FOUND = Machine(Device("cpu", "test", 1024), 1, 5e10, 2e-6)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of threads that a measurement was asked for; it finds `FOUND`."""
    calls: list[int] = []

    def measure_apart(threads: int, _environment: object) -> Machine:
        calls.append(threads)
        return FOUND

    monkeypatch.setattr(machines, "_measured_apart", measure_apart)
    return calls


def test_what_was_measured_is_kept(tmp_path: Path, asked: list[int]) -> None:
    path = tmp_path / "runs" / "machine.json"

    assert [measured(path, 1, {}), measured(path, 1, {})] == [FOUND, FOUND]
    assert asked == [1]


def test_another_number_of_threads_is_measured_anew(tmp_path: Path, asked: list[int]) -> None:
    path = tmp_path / "machine.json"

    measured(path, 1, {})
    measured(path, 2, {})

    assert asked == [1, 2]


def test_another_processor_is_measured_anew(
    tmp_path: Path, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, told = tmp_path / "machine.json", tmp_path / "cpuinfo"
    monkeypatch.setattr(machines, "_CPU", told)
    for name in ("Old 1000", "New 2000", "New 2000"):
        told.write_text(f"processor\t: 0\nmodel\t\t: 6\nmodel name\t: {name}\n")
        measured(path, 1, {})

    assert asked == [1, 1]


@pytest.mark.parametrize("text", ["", "{", "[]", json.dumps({"here": {}, "machine": {}})])
def test_a_damaged_file_is_measured_anew(tmp_path: Path, asked: list[int], text: str) -> None:
    path = tmp_path / "machine.json"
    path.write_text(text)

    assert measured(path, 1, {}) == FOUND
    assert asked == [1]
    assert json.loads(path.read_text())["machine"] == asdict(FOUND)
