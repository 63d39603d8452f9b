"""What every test shares: a quiet, offline environment and a real store in a temporary folder."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["OMP_NUM_THREADS"] = "1"

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from store.db import Store
from tests.builders import Clock, new_store

# The same examples in every run of CI, so that a change is judged by what it changed.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


@pytest.fixture
def clock() -> Clock:
    """The clock that the `store` fixture reads; it moves only when a test moves it."""
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    """An empty store in a folder of its own, closed after the test."""
    opened = new_store(tmp_path / "store", clock=clock)
    yield opened
    opened.close()
