"""Mid-run states on disk, so that an interrupted run goes on as if it had not been."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch

from training.rundir import RunDir
from training.worker.failures import ModelUnusable

KEPT = 2
STATE_FILE = "state.pt"


def save(run_dir: RunDir, iteration: int, state: dict[str, Any]) -> None:
    """Write checkpoints/checkpoint-N, marked `complete` last of all; the newest two are kept."""
    folder = run_dir.checkpoints / f"checkpoint-{iteration}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    torch.save(state, folder / STATE_FILE)
    (folder / "complete").touch()
    _forget_old(run_dir.checkpoints)


def load(folder: Path) -> dict[str, Any]:
    """What was saved, on the CPU. Raises `ModelUnusable`."""
    try:
        state: dict[str, Any] = torch.load(
            folder / STATE_FILE, map_location="cpu", weights_only=True
        )
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        raise ModelUnusable(
            "{folder} cannot be loaded: {error}", folder=folder, error=error
        ) from error
    return state


def _forget_old(checkpoints: Path) -> None:
    by_age = sorted(checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
    for folder in by_age[:-KEPT]:
        shutil.rmtree(folder)
