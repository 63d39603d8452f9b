"""Training as leads see it: what would be used, launch, progress, cancel, resume."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labeling.access import Actor, require_lead
from store import policies, preferences, runs, snapshots
from store.db import Store
from store.errors import BadInput, PolicyUnavailable
from store.preferences import PreferenceCounts
from store.records import Policy, Run, RunEvent
from training.config import MethodOptions, method_named
from training.rundir import RunDir
from training.runs import RunService

LOG_LINES = 80


@dataclass(frozen=True)
class RunView:
    """A run with all that a page shows of it. `policy` is what it produced, if it did."""

    run: Run
    events: list[RunEvent]
    policy: Policy | None


class Launching:
    """What the Train tab may ask for."""

    def __init__(self, store: Store, runs_service: RunService, snapshots_folder: Path) -> None:
        self._store = store
        self._runs = runs_service
        self._snapshots_folder = snapshots_folder

    def counts(self, actor: Actor) -> PreferenceCounts:
        """How many preferences there are, and what a run started now would use."""
        require_lead(actor, "see training data")
        return preferences.counts(self._store)

    def preset(self, actor: Actor, method: str, *, pairs: int) -> MethodOptions:
        """Options that suit this many pairs and the size of the base model."""
        require_lead(actor, "train")
        return method_named(method).options.preset(pairs, parameters=self._runs.model_parameters)

    def prepare(self, actor: Actor) -> None:
        """A lead is looking at the Train tab: have a trainer process warm."""
        require_lead(actor, "train")
        self._runs.prepare()

    def launch(self, actor: Actor, method: str, options: Mapping[str, Any]) -> Run:
        """Freeze the data and start training from the live policy.

        Raises `BadInput` for no data or options out of bounds, `Conflict` while another run is
        active, `PolicyUnavailable` before there is a policy to start from.
        """
        require_lead(actor, "start training")
        live = policies.live(self._store)
        if live is None:
            raise PolicyUnavailable("There is no policy to start from yet; wait until it loads.")
        snapshot = snapshots.freeze_preferences(
            self._store, self._snapshots_folder, created_by=actor.id
        )
        parent = policies.get(self._store, live.version)
        return self._runs.launch(actor.id, method, options, snapshot, parent)

    def cancel(self, actor: Actor, run_id: str) -> None:
        """Ask the trainer to stop; what it learned so far is not kept."""
        require_lead(actor, "cancel a run")
        self._runs.cancel(run_id)

    def resume(self, actor: Actor, run_id: str) -> Run:
        """Go on from the last checkpoint of an interrupted or failed run."""
        require_lead(actor, "resume a run")
        return self._runs.resume(run_id)

    def list_runs(self, actor: Actor) -> list[Run]:
        """Every run, newest first."""
        require_lead(actor, "see runs")
        return runs.list_all(self._store)

    def made_by_runs(self, actor: Actor) -> dict[str, Policy]:
        """The policy version that each run produced, by run id."""
        require_lead(actor, "see runs")
        return {p.run_id: p for p in policies.list_all(self._store) if p.run_id}

    def log_tail(self, actor: Actor, run_id: str) -> str:
        """The last lines that the trainer of a run wrote."""
        require_lead(actor, "read a run's log")
        return RunDir(Path(runs.get(self._store, run_id).folder)).log_tail(LOG_LINES)

    def view(self, actor: Actor, run_id: str | None) -> RunView | None:
        """One run; without an id the newest. None when there is none at all."""
        require_lead(actor, "see runs")
        found = runs.list_all(self._store)
        if not found:
            return None
        run = runs.get(self._store, run_id) if run_id else found[0]
        return RunView(run, runs.events(self._store, run.id), policies.of_run(self._store, run.id))


def require_choice(value: str | None, what: str) -> str:
    """Raises `BadInput` when a lead has not chosen anything."""
    if not value:
        raise BadInput("Choose {what} first.", what=what)
    return value
