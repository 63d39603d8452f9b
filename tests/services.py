"""A run service over a real store, with preferences to train on and tiny real trainers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from store import policies, runs, snapshots
from store.db import Store
from store.records import Policy, Run, RunEvent, Snapshot, Split
from tests.builders import make_annotator, make_preferences, make_prompt
from tests.rundirs import OPTIONS, PAIRS, preference_rows
from training.runs import RunService

# Killing a trainer that hangs must not take the test with it.
TIMEOUT_S = 300.0


class Lab:
    """A store with a base policy and a snapshot, and the service that trains on them."""

    def __init__(self, folder: Path, base_model: Path, *, pairs: int) -> None:
        self.folder = folder
        self.base_model = base_model
        self.store = Store(folder / "store")
        make_annotator(self.store)
        make_preferences(
            self.store,
            [
                (
                    row["prompt"][0]["content"],
                    *(row[x][0]["content"] for x in ("chosen", "rejected")),
                )
                for row in preference_rows(pairs)
            ],
        )
        self.parent: Policy = policies.register(
            self.store, base_model=str(base_model), parent_version=None
        )
        self.snapshot: Snapshot = snapshots.freeze(
            self.store, folder / "snapshots", created_by="ana"
        )
        self.service = self.open_service()

    def open_service(self, **settings: Any) -> RunService:
        """What an application does at its start, but for `adopt`."""
        prompts = [make_prompt(f"Is item {n} late?", split=Split.HELD_OUT) for n in range(4)]
        return RunService(
            self.store,
            self.folder / "runs",
            base_model=self.base_model,
            eval_prompts=lambda: prompts,
            **settings,
        )

    def launch(self, **options: object) -> Run:
        """Start training with `OPTIONS`, some of them replaced."""
        return self.service.launch("ana", "dpo", {**OPTIONS, **options}, self.snapshot, self.parent)

    def events(self, run: Run, kind: str) -> list[RunEvent]:
        """What the store knows of a run, of one kind."""
        return [event for event in runs.events(self.store, run.id) if event.kind == kind]

    def wait_for_step(self, run: Run, step: int) -> None:
        """Return once the trainer has taken that step."""
        self.wait_until(lambda: any(e.data["step"] >= step for e in self.events(run, "metrics")))

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Return once it is true, looking whenever something changed."""
        self.service.wait_until(condition, timeout_s=TIMEOUT_S)

    def wait(self, run: Run) -> Run:
        """The run, once it has ended."""
        return self.service.wait(run.id, timeout_s=TIMEOUT_S)


@contextmanager
def open_lab(folder: Path, base_model: Path, *, pairs: int = PAIRS) -> Iterator[Lab]:
    """A lab, with whatever still trains ended afterwards."""
    lab = Lab(folder, base_model, pairs=pairs)
    try:
        yield lab
    finally:
        for run in runs.unfinished(lab.store):
            lab.service.cancel(run.id)
            lab.wait(run)
        lab.service.close()
        lab.store.close()
