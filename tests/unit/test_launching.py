from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import cast

import pytest

from labeling.access import Actor
from labeling.launching import Launching
from store import policies, prompts, runs, snapshots
from store.db import Store
from store.errors import BadInput, NotAllowed
from store.records import PromotionKind, Role, RunState
from store.training_data import Kind
from tests.builders import make_prompt
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


class RecordingRuns:
    """Nothing trains; the models that it would be given are kept."""

    base_model = "starter"

    def __init__(self) -> None:
        self.launched: dict[str, object] = {}

    def launch(self, *_: object, **given: object) -> None:
        self.launched = {name: value for name, value in given.items() if "model" in name}


@pytest.mark.parametrize("has_second", [True, False])
def test_the_second_model_of_a_reward_run_watches_what_learns_from_the_first(
    store: Store, tmp_path: Path, has_second: bool
) -> None:
    base = policies.register(store, base_model="starter", parent_version=None)
    policies.record_promotion(store, base.version, kind=PromotionKind.INITIAL, annotator_id=None)
    prompts.add(store, [make_prompt()])
    adapter = tmp_path / "reward" / "watch" / "adapter"
    if has_second:
        adapter.mkdir(parents=True)
    snapshot = snapshots.freeze(store, tmp_path, kind=Kind.PROMPTS, created_by="lea")
    runs.create(
        store,
        id="run-1",
        method="reward",
        spec={},
        snapshot_id=snapshot.id,
        parent_version=base.version,
        folder=str(tmp_path / "reward"),
        created_by="lea",
    )
    runs.mark_finished(store, "run-1", RunState.SUCCEEDED)

    recording = RecordingRuns()
    launching = Launching(store, cast(RunService, recording), tmp_path)
    launching.launch(LEA, "ppo", {}, reward_run="run-1")
    assert recording.launched["reward_model"] == str(tmp_path / "reward" / "adapter")
    assert recording.launched["watch_model"] == (str(adapter) if has_second else None)
