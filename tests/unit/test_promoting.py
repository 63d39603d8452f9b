"""Making a policy version live, and going back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from labeling.access import Actor
from labeling.assignment import Assignment
from labeling.candidates import Candidates
from labeling.project import Project
from labeling.promoting import Promoting
from store import policies
from store.db import Store
from store.errors import BadInput, Conflict, NotAllowed
from store.records import PromotionKind, Purpose, Role
from tests.builders import judge, make_comparison
from tests.scripted import ScriptedPolicy
from training.policy import SamplingParams
from training.policy_host import PolicyHost
from training.proportions import WinRate

BASE = "pol-000000"
LEA = Actor("lea", "Lea", Role.LEAD)
ANA = Actor("ana", "Ana", Role.ANNOTATOR)


@pytest.fixture
def policy() -> ScriptedPolicy:
    return ScriptedPolicy(base_version=BASE)


@pytest.fixture
def host(policy: ScriptedPolicy) -> Iterator[PolicyHost]:
    host = PolicyHost(lambda: policy)
    host.start()
    yield host
    host.close()


@pytest.fixture
def promoting(store: Store, host: PolicyHost) -> Promoting:
    policies.register(store, base_model="m", parent_version=None)
    policies.record_promotion(store, BASE, kind=PromotionKind.INITIAL, annotator_id=None)
    assignment = Assignment(store, rng=random.Random(0))
    candidates = Candidates(
        store, host, assignment, Project(store), sampling=SamplingParams(), seed=0
    )
    return Promoting(store, host, assignment, candidates)


def train(store: Store, folder: Path, *, base_model: str = "m") -> str:
    return policies.register(
        store,
        base_model=base_model,
        parent_version=BASE,
        adapter_path=str(folder),
        adapter_sha256="x",
    ).version


def test_a_promoted_version_is_live_in_host_and_store(
    store: Store, host: PolicyHost, promoting: Promoting, tmp_path: Path
) -> None:
    version = train(store, tmp_path)
    promoting.promote(LEA, version)
    live = policies.live(store)
    assert live is not None
    assert (live.version, live.previous_version, live.annotator_id) == (version, BASE, LEA.id)
    assert host.status().live_version == version


def test_a_version_that_fails_to_prove_itself_changes_nothing(
    store: Store, host: PolicyHost, policy: ScriptedPolicy, promoting: Promoting, tmp_path: Path
) -> None:
    version = train(store, tmp_path)
    policy.degenerate.add(version)
    with pytest.raises(BadInput):
        promoting.promote(LEA, version)
    assert len(promoting.history(LEA)) == 1
    assert host.status().live_version == BASE


def test_roll_back_goes_to_what_was_live_before(
    store: Store, host: PolicyHost, promoting: Promoting, tmp_path: Path
) -> None:
    promoting.promote(LEA, train(store, tmp_path))
    promoting.roll_back(LEA)
    assert host.status().live_version == BASE
    assert promoting.history(LEA)[0].kind is PromotionKind.ROLL_BACK


def test_without_an_earlier_version_there_is_nothing_to_go_back_to(promoting: Promoting) -> None:
    with pytest.raises(Conflict, match="no earlier policy"):
        promoting.roll_back(LEA)


def test_promoting_the_live_version_is_a_conflict(promoting: Promoting) -> None:
    with pytest.raises(Conflict, match="live already"):
        promoting.promote(LEA, BASE)


def test_a_version_of_another_base_model_says_how_to_use_it(
    store: Store, promoting: Promoting, tmp_path: Path
) -> None:
    version = train(store, tmp_path, base_model="other")
    with pytest.raises(BadInput, match="--model other"):
        promoting.promote(LEA, version)


def test_an_annotator_can_neither_see_nor_promote_nor_roll_back(promoting: Promoting) -> None:
    for attempt in (
        lambda: promoting.versions(ANA),
        lambda: promoting.history(ANA),
        lambda: promoting.promote(ANA, BASE),
        lambda: promoting.roll_back(ANA),
    ):
        with pytest.raises(NotAllowed):
            attempt()


def judge_blind(store: Store, version: str, other: str, *preferred: int | None) -> None:
    for i, place in enumerate(preferred):
        comparison = make_comparison(
            store,
            prompt=f"{version} {other} {i}",
            purpose=Purpose.EVALUATE,
            policy_versions=(version, other),
        )
        judge(store, comparison, place)


def duels_of(promoting: Promoting, version: str) -> dict[str, WinRate]:
    row = next(row for row in promoting.versions(LEA) if row.policy.version == version)
    return {duel.opponent: duel.won for duel in row.duels}


def test_the_win_rate_counts_only_blind_verdicts(
    store: Store, promoting: Promoting, tmp_path: Path
) -> None:
    version = train(store, tmp_path)
    judge_blind(store, version, BASE, 0, 0, 1, None)
    judge(store, make_comparison(store, prompt="training", policy_versions=(version, BASE)), 0)
    won = duels_of(promoting, version)[BASE]
    assert (won.wins, won.losses, won.draws, won.n) == (2, 1, 1, 4)
    lost = duels_of(promoting, BASE)[version]
    assert (lost.wins, lost.losses, lost.draws, lost.n) == (1, 2, 1, 4)


def test_every_opponent_that_a_version_met_is_told(
    store: Store, promoting: Promoting, tmp_path: Path
) -> None:
    first, second = train(store, tmp_path), train(store, tmp_path)
    judge_blind(store, second, first, 0, 0)
    judge_blind(store, second, BASE, 1)
    found = duels_of(promoting, second)
    assert list(found) == [first, BASE]
    assert (found[first].wins, found[BASE].losses) == (2, 1)
