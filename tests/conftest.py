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
from tests.builders import Clock

TESTS = Path(__file__).parent

# The same examples in every run of CI, so that a change is judged by what it changed.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `-n 2`: a file is one worker's, for its fixtures, and all with a browser are one's.

    A browser with its server takes a core, and everything else takes the other.
    """
    for item in items:
        file = item.path.relative_to(TESTS)
        group = file.parts[0] if file.parts[0] == "e2e" else str(file)
        item.add_marker(pytest.mark.xdist_group(group))


@pytest.fixture
def clock() -> Clock:
    """The clock that the `store` fixture reads; it moves only when a test moves it."""
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    """An empty store in a folder of its own, closed after the test."""
    opened = Store(tmp_path / "store", clock=clock)
    yield opened
    opened.close()
