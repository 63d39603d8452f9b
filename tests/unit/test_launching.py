from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest

from labeling.access import Actor
from labeling.launching import Launching
from store import policies, runs
from store.db import Store
from store.errors import BadInput, NotAllowed
from store.records import PromotionKind, Role, Run, RunState
from tests.builders import judge, judge_duel, make_annotator, make_comparison, make_preference
from training.blind import Standing
from training.runs import RunService

LEA = Actor("lea", "Lea", Role.LEAD)
ANA = Actor("ana", "Ana", Role.ANNOTATOR)


@pytest.fixture
def launching(store: Store, tmp_path: Path) -> Iterator[Launching]:
    service = RunService(store, tmp_path, base_model="nowhere", eval_prompts=list)
    with closing(service):
        yield Launching(store, service, tmp_path)


def test_the_price_of_an_hour_is_kept_until_it_is_taken_away(launching: Launching) -> None:
    assert launching.price_per_hour(LEA) is None
    launching.set_price_per_hour(LEA, 2.5)
    assert launching.price_per_hour(LEA) == 2.5
    launching.set_price_per_hour(LEA, 0)
    assert launching.price_per_hour(LEA) is None


@pytest.mark.parametrize("price", [-1, 1e9, float("nan")])
def test_a_price_that_makes_no_sense_is_refused(launching: Launching, price: float) -> None:
    with pytest.raises(BadInput, match="between 0 and 1,000,000"):
        launching.set_price_per_hour(LEA, price)
    assert launching.price_per_hour(LEA) is None


def test_only_leads_know_and_set_the_price(launching: Launching) -> None:
    with pytest.raises(NotAllowed):
        launching.price_per_hour(ANA)
    with pytest.raises(NotAllowed):
        launching.set_price_per_hour(ANA, 1.0)


class ScriptedRuns:
    """Nothing trains; what is launched is recorded."""

    base_model = "starter"
    model_parameters = 1000

    def __init__(self, store: Store, folder: Path) -> None:
        self.launched: list[dict[str, Any]] = []
        self.parents: list[str] = []
        self._store = store
        self._folder = folder

    def launch(self, actor_id: str, method: str, *given: Any, **more: Any) -> Run:
        snapshot = given[1]
        self.launched.append({"method": method, **more})
        self.parents.append(given[2].version)
        return self.make(method, snapshot.id, actor_id)

    def make(self, method: str, snapshot_id: str, actor_id: str = "lea") -> Run:
        id = f"run-{len(runs.list_all(self._store))}"
        (self._folder / id / "adapter").mkdir(parents=True)
        return runs.create(
            self._store,
            id=id,
            method=method,
            spec={"base_model": self.base_model},
            snapshot_id=snapshot_id,
            parent_version="pol-000000",
            folder=str(self._folder / id),
            created_by=actor_id,
        )


class Bench:
    """Launching over a real store, with one preference and a live policy."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store = store
        make_annotator(store)
        make_preference(store)
        base = policies.register(store, base_model="starter", parent_version=None)
        policies.record_promotion(
            store, base.version, kind=PromotionKind.INITIAL, annotator_id=None
        )
        self.runs = ScriptedRuns(store, folder / "runs")
        self.launching = Launching(store, cast(RunService, self.runs), folder / "snapshots")

    def succeed(self, run: Run, result: dict[str, Any] | None = None) -> Run:
        runs.mark_finished(self.store, run.id, RunState.SUCCEEDED, result=result)
        return runs.get(self.store, run.id)

    def reward_model_for(self, method: str, **given: Any) -> str | None:
        """What the run service is given."""
        self.succeed(self.launching.launch(LEA, method, {}, **given))
        return cast("str | None", self.runs.launched[-1]["reward_model"])


@pytest.fixture
def bench(store: Store, tmp_path: Path) -> Bench:
    return Bench(store, tmp_path)


def test_a_run_that_learns_from_no_reward_model_is_scored_by_the_one_there_is(
    bench: Bench,
) -> None:
    assert bench.reward_model_for("dpo") is None
    reward = bench.succeed(bench.launching.launch(LEA, "reward", {}))

    assert bench.reward_model_for("dpo") == f"{reward.folder}/adapter"
    assert bench.reward_model_for("sft") == f"{reward.folder}/adapter"


def test_a_run_that_makes_a_reward_model_is_given_none(bench: Bench) -> None:
    bench.succeed(bench.launching.launch(LEA, "reward", {}))

    assert bench.reward_model_for("reward") is None


def test_a_reward_run_is_told_how_far_people_agree_and_no_other_is(bench: Bench) -> None:
    comparison = make_comparison(bench.store, prompt="Do they agree?")
    for annotator_id in ("ana", "ben"):
        judge(bench.store, comparison, annotator_id=annotator_id)

    bench.succeed(bench.launching.launch(LEA, "reward", {}))
    assert bench.runs.launched[-1]["agreement"] == (1.0, 1)
    bench.launching.launch(LEA, "dpo", {})
    assert bench.runs.launched[-1]["agreement"] == (None, 0)


def test_a_run_that_learns_from_a_reward_model_is_given_the_chosen_one(bench: Bench) -> None:
    chosen = bench.succeed(bench.launching.launch(LEA, "reward", {}))
    bench.succeed(bench.launching.launch(LEA, "reward", {}))

    assert bench.reward_model_for("best_of_n", reward_run=chosen.id) == f"{chosen.folder}/adapter"
    with pytest.raises(BadInput, match="Train one first"):
        bench.launching.launch(LEA, "best_of_n", {})


def test_what_shares_a_base_learns_from_a_low_rank_reward_model_alone(bench: Bench) -> None:
    reward = bench.succeed(bench.launching.launch(LEA, "reward", {}))
    whole = '{"base_model": "starter", "options": {"tuning": "full"}}'
    bench.store.write(lambda cursor: cursor.execute("UPDATE runs SET spec = ?", [whole]) and None)

    with pytest.raises(BadInput, match=r"low-rank adapters.*\(full tuning\). Train one with LoRA"):
        bench.launching.launch(LEA, "ppo", {}, reward_run=reward.id)
    assert bench.reward_model_for("rloo", reward_run=reward.id) == f"{reward.folder}/adapter"


@pytest.mark.parametrize("has_second", [True, False])
def test_the_second_model_of_a_reward_run_watches_what_learns_from_the_first(
    bench: Bench, has_second: bool
) -> None:
    reward = bench.succeed(bench.launching.launch(LEA, "reward", {}))
    second = Path(reward.folder) / "watch" / "adapter"
    if has_second:
        second.mkdir(parents=True)

    bench.succeed(bench.launching.launch(LEA, "best_of_n", {}, reward_run=reward.id))
    assert bench.runs.launched[-1]["watch_model"] == (str(second) if has_second else None)
    bench.launching.launch(LEA, "dpo", {})
    assert bench.runs.launched[-1]["watch_model"] is None


def test_nothing_is_foretold_of_a_run_whose_options_are_not_to_be_had_any_more(
    bench: Bench,
) -> None:
    run = bench.launching.launch(LEA, "dpo", {})
    result = {"report": {"data": {"train": 9, "held_out": 1}}}
    runs.mark_finished(bench.store, run.id, RunState.SUCCEEDED, result=result)
    gone = '{"options": {"gone": 1}}'
    bench.store.write(lambda cursor: cursor.execute("UPDATE runs SET spec = ?", [gone]) and None)

    assert bench.launching.foretold(LEA, run.id).estimate is None


def test_a_run_shows_what_people_say_of_its_policy_against_parent_and_base(bench: Bench) -> None:
    run = bench.launching.launch(LEA, "dpo", {})
    report = {"generations": {"kl_k1": 4.0}, "win_rate": {"rate": 0.8}}
    run = bench.succeed(run, {"report": report})
    stranger, made = (
        policies.register(
            bench.store,
            base_model="starter",
            parent_version="pol-000000",
            adapter_path="/a",
            adapter_sha256="aa",
            run_id=run_id,
        ).version
        for run_id in ("run-x", run.id)
    )
    for other in ("pol-000000", stranger):
        judge_duel(bench.store, made, other)

    view = bench.launching.view(LEA, run.id)

    assert view is not None
    (duel,) = view.duels
    assert (duel.opponent, duel.won.rate, duel.won.n) == ("pol-000000", 1.0, 1)
    (standing,) = view.standings  # the stranger's run is not known, nor how far it went
    assert standing == Standing(made, 2.0, 0.8, duel.won)


def test_a_run_may_start_from_a_version_never_promoted(bench: Bench, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    made, _ = (
        policies.register(
            bench.store,
            base_model=base_model,
            parent_version="pol-000000",
            adapter_path=str(adapter),
            adapter_sha256="5" * 64,
        )
        for base_model in ("starter", "llama")
    )

    assert [policy.version for policy in bench.launching.starts(LEA)] == [made.version]
    bench.launching.launch(LEA, "dpo", {}, start=made.version)
    assert bench.runs.parents == [made.version]
