"""Policies as ordinary models, for those who take them elsewhere: merged in the background.

Each is a folder `VERSION` with weights, tokenizer and a note of how exactly it gives the policy's
probabilities; one that does not is never left there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from labeling.access import Actor, require_lead
from store import policies
from store.db import Store
from store.errors import BadInput, Conflict
from training.config import worker_environment
from training.merging import REPORT_FILE
from training.runs import PROJECT

THREADS = 1


@dataclass(frozen=True)
class MergeWork:
    """The merge under way, or the last one that failed; `error` is None while it goes on."""

    version: str
    error: str | None = None


class MergedModels:
    """One merge at a time, in a process of its own: it needs the whole model once more."""

    def __init__(self, store: Store, folder: Path) -> None:
        self._store = store
        self._folder = folder.resolve()
        self._lock = threading.Lock()  # protects _work
        self._work: MergeWork | None = None

    def start(self, actor: Actor, version: str) -> None:
        """Begin to merge a version. Raises `BadInput` for the base, `Conflict` while busy."""
        require_lead(actor, "export a model")
        policy = policies.get(self._store, version)
        if policy.adapter_path is None:
            raise BadInput("{version} is the base model itself.", version=version)
        if (self._folder / version).exists():
            raise Conflict("{version} was exported already.", version=version)
        with self._lock:
            if self._work is not None and self._work.error is None:
                raise Conflict(
                    "{version} is being merged. Wait for it.", version=self._work.version
                )
            self._work = MergeWork(version)
        command = [policy.base_model, policy.adapter_path, str(self._folder / version)]
        threading.Thread(target=self._merge, args=(version, command), daemon=True).start()

    def work(self, actor: Actor) -> MergeWork | None:
        """What is being merged, or what could not be; None when all is done."""
        require_lead(actor, "see policy versions")
        with self._lock:
            return self._work

    def folders(self, actor: Actor) -> dict[str, Path]:
        """Where each merged version lies."""
        require_lead(actor, "see policy versions")
        return {file.parent.name: file.parent for file in self._folder.glob(f"*/{REPORT_FILE}")}

    def _merge(self, version: str, command: list[str]) -> None:
        error = self._failure(command)
        with self._lock:
            self._work = MergeWork(version, error) if error else None

    def _failure(self, command: list[str]) -> str | None:
        """Run the merge to its end; what went wrong, if anything did."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            done = subprocess.run(
                [sys.executable, "-m", "training.merging", *command],
                cwd=PROJECT,
                env={**os.environ, **worker_environment(THREADS)},
                capture_output=True,
                text=True,
                check=False,
            )
        except OSError as error:
            return str(error)
        if done.returncode == 0:
            return None
        return (done.stderr.strip().splitlines() or ["no reason was given"])[-1]


def difference(folder: Path) -> float:
    """How far a merged model's log-probabilities are from its policy's, in nats."""
    told = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
    return float(told["largest_difference"])
