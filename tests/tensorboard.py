"""Metrics read back from the files that TensorBoard would show."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tensorboardX.proto.event_pb2 import Event

from training.rundir import RunDir

PREFIX, SUFFIX = 12, 4  # bytes of length and checksums around each record


def _records(path: Path) -> Iterator[Any]:
    content, at = path.read_bytes(), 0
    while at < len(content):
        (size,) = struct.unpack_from("<Q", content, at)
        yield Event.FromString(content[at + PREFIX : at + PREFIX + size])
        at += PREFIX + size + SUFFIX


def tracked(run_dir: RunDir, name: str) -> dict[int, float]:
    """A metric by step."""
    return {
        event.step: value.simple_value
        for path in run_dir.tensorboard.glob("events.*")
        for event in _records(path)
        for value in event.summary.value
        if value.tag == name
    }
