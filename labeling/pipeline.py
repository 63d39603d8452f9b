"""The three stages of RLHF, one run after the other: SFT, reward model, PPO (Ouyang et al. 2022).

Which runs belong together is kept in the store, so that a restart between two stages goes on with
the next. Nothing is promoted: the last policy waits for a lead as that of any other run does.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from labeling.access import Actor, actor_of, require_lead
from labeling.launching import Launching, Start
from labeling.outlook import Awaited, Outlook
from store import annotators, general, policies, runs, settings
from store.db import Store
from store.errors import Conflict, WhetstoneError
from store.records import Policy, Run, RunState
from training.estimate import Company, Estimate, Foretold
from training.messages import Message
from training.methods.reward import RewardOptions
from training.options import MethodOptions
from training.runs import RunService
from training.tuning import LOW_RANK, Tuning

log = logging.getLogger(__name__)

STAGES = ("sft", "reward", "ppo")
_KEY = "pipeline"


@dataclass(frozen=True)
class PipelineState:
    """Run ids of the stages that were started, by method.

    `ended` is None while it goes on, afterwards why it does not: empty when all stages succeeded,
    the state of a run that did not, `stopped`, or what was wrong with the next stage. `told` is
    what people were told of each stage before the start, for `Foretold`.
    """

    created_by: str
    start: str
    run_ids: Mapping[str, str]
    ended: str | None = None
    told: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

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
        self._told: dict[str, Mapping[str, Estimate]] = {}  # by start, the newest
        runs_service.on_finished.append(self._on_finished)

    def state(self, actor: Actor) -> PipelineState | None:
        """The pipeline that was started last; None before the first."""
        require_lead(actor, "see runs")
        return self._read()

    def outlooks(self, actor: Actor, *, start: str = Start.LIVE) -> list[Outlook]:
        """What to expect of each stage, if the first began now. Raises as `Launching.outlook`."""
        sft, reward, ppo = ((stage, self._preset(actor, stage)) for stage in STAGES)
        first = self._launching.outlook(actor, sft[0], asdict(sft[1]), start=start)
        second = self._launching.outlook(actor, reward[0], asdict(reward[1]), start=start)
        third = self._launching.outlook(
            actor,
            ppo[0],
            asdict(ppo[1]),
            start=start,
            awaited=Awaited(
                company=_company_after(reward[1], second.facts.rows),
                general=min(first.general + first.facts.rows, general.MOST_ROWS),
            ),
        )
        found = [first, second, third]
        self._told[start] = {told.method: told.estimate for told in found if told.estimate}
        return found

    def refusals(self, actor: Actor, *, start: str = Start.LIVE) -> dict[str, Message]:
        """The stages that could not be started as things are, and why."""
        found = {
            # The later ones start from what the first has made.
            stage: self._launching.refusal(
                actor,
                stage,
                Tuning.LORA,
                start=start if stage == STAGES[0] else Start.BASE,
            )
            for stage in STAGES
        }
        return {stage: why for stage, why in found.items() if why is not None}

    def start(self, actor: Actor, *, start: str = Start.LIVE) -> PipelineState:
        """Begin with the first stage, from the live policy or the base model.

        Raises `Conflict` while a pipeline goes on, and what `Launching.launch` raises.
        """
        require_lead(actor, "start training")
        with self._deciding:
            known = self._read()
            if known is not None and known.is_active:
                raise Conflict("A pipeline is under way. Wait for it to end, or stop it first.")
            told = {stage: e.to_json() for stage, e in self._told.get(start, {}).items()}
            state = PipelineState(actor.id, start, {}, told=told)
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
        sft_run = state.run_ids.get("sft")
        policy = policies.of_run(self._store, sft_run) if sft_run else None
        run = self._launching.launch(
            actor,
            method,
            asdict(self._preset(actor, method)),
            start=policy.version if policy else state.start,
            reward_run=state.run_ids.get("reward"),
            foreseen=Foretold.from_json(state.told.get(method, {})).estimate,
        )
        state = replace(state, run_ids={**state.run_ids, method: run.id}, ended=None)
        self._write(state)
        if state.next is not None:
            self._runs.prepare(beside_a_run=True)
        return state

    def _preset(self, actor: Actor, method: str) -> MethodOptions:
        rows = self._launching.amount(actor, method).rows
        return self._launching.preset(actor, method, rows=rows, tuning=Tuning.LORA)

    def _read(self) -> PipelineState | None:
        values = settings.get(self._store, _KEY, None)
        return PipelineState.from_json(values) if values else None

    def _write(self, state: PipelineState) -> None:
        settings.put(self._store, _KEY, asdict(state))


def _company_after(reward: MethodOptions, rows: int) -> Company:
    """The models that a run takes along after these options have made its reward model."""
    assert isinstance(reward, RewardOptions)
    return Company(
        is_scored=True,
        meets_base=True,  # it starts from what the first stage has made
        is_watched=reward.rows_of_second(rows) > 0,
        is_apart=reward.tuning not in LOW_RANK,
    )
