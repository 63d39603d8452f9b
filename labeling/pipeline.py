"""The three stages of RLHF, one run after the other: SFT, reward model, PPO (Ouyang et al. 2022).

Which runs belong together is kept in the store, so that a restart between two stages goes on with
the next. Nothing is promoted: the last policy waits for a lead as that of any other run does.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from labeling.access import Actor, actor_of, require_lead
from labeling.launching import Launching, Start
from store import annotators, policies, runs, settings
from store.db import Store
from store.errors import Conflict, WhetstoneError
from store.records import Policy, Run, RunState
from training.runs import RunService
from training.tuning import Tuning

log = logging.getLogger(__name__)

STAGES = ("sft", "reward", "ppo")
_KEY = "pipeline"


@dataclass(frozen=True)
class PipelineState:
    """Run ids of the stages that were started, by method.

    `ended` is None while it goes on, afterwards why it does not: empty when all stages succeeded,
    the state of a run that did not, `stopped`, or what was wrong with the next stage.
    """

    created_by: str
    start: str
    run_ids: Mapping[str, str]
    ended: str | None = None

    @property
    def is_active(self) -> bool:
        """More stages are to come, or one is at work."""
        return self.ended is None

    @property
    def may_go_on(self) -> bool:
        """It goes on, or would if the run that broke it off were resumed and succeeded."""
        return self.is_active or self.ended in tuple(RunState)

    @property
    def current(self) -> str | None:
        """The stage that was started last."""
        started = [stage for stage in STAGES if stage in self.run_ids]
        return started[-1] if started else None

    @property
    def next(self) -> str | None:
        """The first stage that was not started."""
        return next((stage for stage in STAGES if stage not in self.run_ids), None)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        return cls(**values)


class Pipeline:
    """Starts the next stage when one has succeeded; told so by the run service."""

    def __init__(self, store: Store, launching: Launching, runs_service: RunService) -> None:
        self._store = store
        self._launching = launching
        self._runs = runs_service
        # Protects the state in the store against two that read, decide and write it.
        self._deciding = threading.Lock()
        runs_service.on_finished.append(self._on_finished)

    def state(self, actor: Actor) -> PipelineState | None:
        """The pipeline that was started last; None before the first."""
        require_lead(actor, "see runs")
        return self._read()

    def start(self, actor: Actor, *, start: str = Start.LIVE) -> PipelineState:
        """Begin with the first stage, from the live policy or the base model.

        Raises `Conflict` while a pipeline goes on, and what `Launching.launch` raises.
        """
        require_lead(actor, "start training")
        with self._deciding:
            known = self._read()
            if known is not None and known.is_active:
                raise Conflict("A pipeline is under way. Wait for it to end, or stop it first.")
            state = PipelineState(actor.id, start, {})
            return self._launch_next(actor, state)

    def stop(self, actor: Actor) -> None:
        """Start no further stage; the run that is at work goes on."""
        require_lead(actor, "cancel a run")
        with self._deciding:
            state = self._read()
            if state is None or not state.is_active:
                raise Conflict("There is no pipeline under way.")
            self._write(replace(state, ended="stopped"))
        self._runs.release()

    def catch_up(self) -> None:
        """At start: go on where a run ended while nobody listened."""
        state = self._read()
        if state is None or not state.is_active or state.current is None:
            return
        run = runs.get(self._store, state.run_ids[state.current])
        if run.state.is_final:
            self._on_finished(run, policies.of_run(self._store, run.id))

    def _on_finished(self, run: Run, _policy: Policy | None) -> None:
        with self._deciding:
            state = self._read()
            if state is None or not state.may_go_on or state.current is None:
                return
            if state.run_ids[state.current] != run.id:
                return
            if run.state is not RunState.SUCCEEDED:
                self._write(replace(state, ended=run.state.value))
            elif state.next is None:
                self._write(replace(state, ended=""))
            else:
                self._go_on(state)

    def _go_on(self, state: PipelineState) -> None:
        """A stage that cannot be started ends the pipeline, and says why."""
        try:
            self._launch_next(actor_of(annotators.get(self._store, state.created_by)), state)
        except WhetstoneError as error:
            log.warning("The pipeline ended before %s: %s", state.next, error)
            self._write(replace(state, ended=str(error)))

    def _launch_next(self, actor: Actor, state: PipelineState) -> PipelineState:
        method = state.next
        assert method is not None
        rows = self._launching.amount(actor, method).rows
        preset = self._launching.preset(actor, method, rows=rows, tuning=Tuning.LORA)
        sft_run = state.run_ids.get("sft")
        policy = policies.of_run(self._store, sft_run) if sft_run else None
        run = self._launching.launch(
            actor,
            method,
            asdict(preset),
            start=policy.version if policy else state.start,
            reward_run=state.run_ids.get("reward"),
        )
        state = replace(state, run_ids={**state.run_ids, method: run.id}, ended=None)
        self._write(state)
        if state.next is not None:
            self._runs.prepare(beside_a_run=True)
        return state

    def _read(self) -> PipelineState | None:
        values = settings.get(self._store, _KEY, None)
        return PipelineState.from_json(values) if values else None

    def _write(self, state: PipelineState) -> None:
        settings.put(self._store, _KEY, asdict(state))
