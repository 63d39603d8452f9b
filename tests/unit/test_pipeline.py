from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from labeling.access import Actor, actor_of
from labeling.launching import Launching
from labeling.outlook import Outlook
from labeling.pipeline import STAGES, Pipeline, PipelineState
from store import policies, runs, snapshots
from store.db import Store
from store.errors import BadInput, Conflict, NotAllowed
from store.records import Role, Run, RunState
from store.training_data import KindCount
from tests.builders import make_annotator, make_preference
from tests.unit.test_cautions import facts
from tests.unit.test_estimate import foretold
from training.estimate import Company
from training.messages import Message
from training.methods import METHODS
from training.options import MethodOptions
from training.runs import RunService


class FakeRuns:
    """Nothing trains; listeners are kept, as the run service keeps them."""

    def __init__(self) -> None:
        self.on_finished: list[Any] = []
        self.prepared = 0

    def prepare(self, *, beside_a_run: bool) -> None:
        assert beside_a_run
        self.prepared += 1

    def release(self) -> None:
        self.prepared = 0


class ScriptedLaunching:
    """Records what is launched; each run stands in a real store."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.launched: list[dict[str, Any]] = []
        self.refused: set[str] = set()
        self.rows = 300
        self.asked: dict[str, dict[str, Any]] = {}
        self._store = store
        self._snapshot = snapshots.freeze(store, folder, created_by="lea")

    def amount(self, _actor: Actor, _method: str) -> KindCount:
        return KindCount(self.rows, self.rows)

    def outlook(self, _actor: Actor, method: str, _options: object, **asked: Any) -> Outlook:
        self.asked[method] = asked
        return Outlook(method, facts(rows=self.rows), (), foretold(method), general=7)

    def refusal(self, _actor: Actor, method: str, _tuning: object, *, start: str) -> Any:
        self.asked[method] = {"start": start}
        return Message("There is nothing to learn from.") if method in self.refused else None

    def preset(self, _actor: Actor, method: str, *, rows: int, tuning: str) -> MethodOptions:
        options = METHODS[method].options if method in METHODS else MethodOptions
        return options.preset(rows, parameters=1000, tuning=tuning)

    def launch(self, actor: Actor, method: str, _options: object, **more: Any) -> Run:
        if method in self.refused:
            raise BadInput("There is nothing to learn from.")
        self.launched.append({"method": method, **more})
        return runs.create(
            self._store,
            id=f"run-{method}",
            method=method,
            spec={},
            snapshot_id=self._snapshot.id,
            parent_version="pol-000000",
            folder="/nowhere",
            created_by=actor.id,
        )


class Bench:
    """A pipeline over a real store, with runs that end when told to."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store = store
        self.lead = actor_of(make_annotator(store, "lea", role=Role.LEAD))
        make_preference(store, "Where?", "Here.", "No.")
        policies.register(store, base_model="starter", parent_version=None)
        self.launching = ScriptedLaunching(store, folder)
        self.runs = FakeRuns()
        self.pipeline = self.open()

    def open(self) -> Pipeline:
        return Pipeline(self.store, cast(Launching, self.launching), cast(RunService, self.runs))

    def end(self, method: str, state: RunState = RunState.SUCCEEDED) -> None:
        """As the run service does: the store knows first, then the listeners."""
        runs.mark_finished(self.store, f"run-{method}", state)
        if method != "reward" and state is RunState.SUCCEEDED:
            policies.register(
                self.store,
                base_model="starter",
                parent_version="pol-000000",
                adapter_path="/a",
                adapter_sha256="aa",
                run_id=f"run-{method}",
            )
        run = runs.get(self.store, f"run-{method}")
        for listener in self.runs.on_finished:
            listener(run, None)

    def state(self) -> PipelineState:
        state = self.pipeline.state(self.lead)
        assert state is not None
        return state


@pytest.fixture
def bench(store: Store, tmp_path: Path) -> Bench:
    return Bench(store, tmp_path / "snapshots")


def test_the_stages_follow_one_another_each_from_what_the_one_before_made(bench: Bench) -> None:
    bench.pipeline.start(bench.lead)
    for stage in STAGES:
        assert bench.state().current == stage
        bench.end(stage)
    sft, reward, ppo = bench.launching.launched
    assert sft["start"] == "live"
    assert (reward["method"], ppo["method"]) == ("reward", "ppo")
    assert ppo["start"] == "pol-000001"  # what the first stage made
    assert ppo["reward_run"] == "run-reward"
    assert bench.state().ended == ""


def test_a_trainer_is_made_ready_for_each_stage_that_follows(bench: Bench) -> None:
    bench.pipeline.start(bench.lead)
    ready = []
    for stage in STAGES:
        ready.append(bench.runs.prepared)
        bench.end(stage)
    assert ready == [1, 2, 2]  # nothing follows the last


def test_a_stage_that_does_not_succeed_ends_it(bench: Bench) -> None:
    bench.pipeline.start(bench.lead)
    bench.end("sft", RunState.CANCELLED)
    assert bench.state().ended == "cancelled"
    assert [given["method"] for given in bench.launching.launched] == ["sft"]


def test_a_stage_that_failed_and_was_resumed_is_followed_by_the_next(bench: Bench) -> None:
    bench.pipeline.start(bench.lead)
    bench.end("sft", RunState.FAILED)
    assert not bench.state().is_active
    bench.end("sft")
    assert (bench.state().current, bench.state().is_active) == ("reward", True)


def test_a_stage_that_cannot_start_ends_it_and_says_why(bench: Bench) -> None:
    bench.launching.refused.add("reward")
    bench.pipeline.start(bench.lead)
    bench.end("sft")
    assert bench.state().ended == "There is nothing to learn from."


def test_once_stopped_no_further_stage_starts(bench: Bench) -> None:
    bench.pipeline.start(bench.lead)
    bench.pipeline.stop(bench.lead)
    bench.end("sft")
    assert len(bench.launching.launched) == 1


def test_a_second_one_is_refused_while_one_goes_on(bench: Bench) -> None:
    bench.pipeline.start(bench.lead)
    with pytest.raises(Conflict, match="under way"):
        bench.pipeline.start(bench.lead)


def test_a_run_of_somebody_else_changes_nothing(bench: Bench) -> None:
    bench.pipeline.start(bench.lead)
    bench.end("sft")
    listener = bench.runs.on_finished[0]
    listener(runs.get(bench.store, "run-sft"), None)
    assert bench.state().current == "reward"


def test_after_a_restart_it_goes_on_with_what_ended_meanwhile(bench: Bench) -> None:
    bench.pipeline.start(bench.lead)
    bench.runs.on_finished.clear()
    bench.end("sft")
    assert bench.state().current == "sft"
    bench.open().catch_up()
    assert bench.state().current == "reward"


def foreseen(bench: Bench) -> list[Any]:
    """What goes along with each run that is launched, through all stages."""
    for stage in STAGES:
        bench.end(stage)
    return [given["foreseen"] for given in bench.launching.launched]


def test_what_was_told_before_the_start_goes_along_with_each_stage(bench: Bench) -> None:
    told = [outlook.estimate for outlook in bench.pipeline.outlooks(bench.lead)]
    bench.pipeline.start(bench.lead)
    assert foreseen(bench) == told
    assert None not in told


def test_what_was_told_outlives_a_restart(bench: Bench) -> None:
    told = [outlook.estimate for outlook in bench.pipeline.outlooks(bench.lead)]
    bench.pipeline.start(bench.lead)
    bench.runs.on_finished.clear()
    bench.open()
    assert foreseen(bench) == told


def test_what_was_told_of_another_start_is_not_kept(bench: Bench) -> None:
    bench.pipeline.outlooks(bench.lead, start="base")
    bench.pipeline.start(bench.lead)
    assert foreseen(bench) == [None] * 3


@pytest.mark.parametrize(("rows", "is_watched"), [(200, False), (400, True)])
def test_ppo_is_foretold_with_what_the_stages_before_it_will_make(
    bench: Bench, rows: int, is_watched: bool
) -> None:
    bench.launching.rows = rows
    bench.pipeline.outlooks(bench.lead)
    awaited = bench.launching.asked["ppo"]["awaited"]
    assert awaited.company == Company(is_scored=True, meets_base=True, is_watched=is_watched)
    assert awaited.general == 7 + rows
    assert "awaited" not in bench.launching.asked["sft"]


def test_stages_that_would_be_refused_are_told_with_the_reason(bench: Bench) -> None:
    assert bench.pipeline.refusals(bench.lead, start="pol-000007") == {}
    # Those after the first one start from what it makes.
    assert [bench.launching.asked[stage]["start"] for stage in STAGES] == [
        *("pol-000007", "base", "base")
    ]
    bench.launching.refused.add("reward")
    assert list(bench.pipeline.refusals(bench.lead)) == ["reward"]


def test_only_leads_may_start_or_stop_it(bench: Bench) -> None:
    ana = Actor("ana", "ana", Role.ANNOTATOR)
    with pytest.raises(NotAllowed):
        bench.pipeline.start(ana)
    with pytest.raises(NotAllowed):
        bench.pipeline.stop(ana)
