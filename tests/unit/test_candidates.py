"""Comparisons made ahead of the people."""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from labeling.access import Actor
from labeling.assignment import Assignment
from labeling.candidates import (
    BUFFER,
    EVALUATIONS_PER_BATCH,
    EVALUATIONS_PER_OPPONENT,
    RESAMPLES,
    Candidates,
    Diverted,
    Rival,
    WhyNot,
)
from labeling.project import Project, Shares, Task
from store import comparisons, completions, journal, policies, prompts
from store.db import Store
from store.errors import NotAllowed
from store.records import (
    Comparison,
    Completion,
    PromotionKind,
    Purpose,
    Role,
    Split,
    Verdict,
)
from tests.builders import make_comparison, make_prompt
from tests.scripted import ScriptedPolicy, wait_until
from training.policy import AdapterFolder, SamplingParams
from training.policy_host import HostState, PolicyHost

BASE = "pol-000000"
LEA = Actor("lea", "Lea", Role.LEAD)
ANA = Actor("ana", "Ana", Role.ANNOTATOR)
# Three times as long as what are_near lets pass for one letter of difference.
ESSAY = "The parcel went to the depot, and the courier brings it tomorrow before noon. " * 5


def add_prompts(store: Store, n: int, *, split: Split = Split.TRAIN) -> None:
    prompts.add(store, [make_prompt(f"{split} question {i}?", split=split) for i in range(n)])


def serve_base(store: Store) -> None:
    policies.register(store, base_model="m", parent_version=None)
    policies.record_promotion(store, BASE, kind=PromotionKind.INITIAL, annotator_id=None)


@contextmanager
def running(
    store: Store,
    policy: ScriptedPolicy,
    *,
    is_training: Callable[[], bool] = lambda: False,
    project: Project | None = None,
) -> Iterator[tuple[Candidates, Assignment, PolicyHost]]:
    host = PolicyHost(lambda: policy)
    host.start()
    project = project or Project(store)
    assignment = Assignment(
        store, min_submitted=project.settings.min_submitted, rng=random.Random(0)
    )
    candidates = Candidates(
        store,
        host,
        assignment,
        project,
        sampling=SamplingParams(),
        seed=3,
        is_training=is_training,
    )
    candidates.start()
    try:
        yield candidates, assignment, host
    finally:
        candidates.close()
        host.close()


def made(store: Store) -> list[tuple[Comparison, list[Completion]]]:
    found = comparisons.get_many(store, [p.comparison_id for p in comparisons.progress(store)])
    return [
        (c, [completions.get_many(store, [id])[id] for id in c.completion_ids])
        for c in found.values()
    ]


@pytest.fixture
def policy() -> ScriptedPolicy:
    return ScriptedPolicy(base_version=BASE)


def test_the_buffer_fills_before_anybody_asks(store: Store, policy: ScriptedPolicy) -> None:
    add_prompts(store, 40)
    serve_base(store)
    with running(store, policy) as (_, assignment, _):
        wait_until(lambda: assignment.counts().ready >= BUFFER)


def test_both_sides_share_prompt_and_sampling_and_differ_in_their_seed(
    store: Store, policy: ScriptedPolicy
) -> None:
    add_prompts(store, 8)
    serve_base(store)
    with running(store, policy) as (_, assignment, _):
        wait_until(lambda: assignment.counts().ready >= BUFFER)
    for comparison, (left, right) in made(store):
        assert left.prompt_id == right.prompt_id == comparison.prompt_id
        assert left.sampling == right.sampling
        assert left.policy_version == right.policy_version == BASE
        assert left.seed != right.seed


def test_what_is_made_is_journalled_with_all_that_shows_it(
    store: Store, policy: ScriptedPolicy
) -> None:
    add_prompts(store, 8)
    serve_base(store)
    with running(store, policy) as (_, assignment, _):
        wait_until(lambda: assignment.counts().ready >= BUFFER)
    lines = [line for line in journal.read(store.journal_path) if line is not None]
    journalled = {e.comparison.id: e for e in (journal.to_evidence(x.values) for x in lines)}
    for comparison, shown in made(store):
        evidence = journalled[comparison.id]
        assert evidence.comparison == comparison
        assert evidence.completions == tuple(shown)
        assert evidence.prompt == prompts.get(store, comparison.prompt_id)


def test_prompts_are_used_evenly(store: Store, policy: ScriptedPolicy) -> None:
    add_prompts(store, 8)
    serve_base(store)
    with running(store, policy) as (_, assignment, _):
        wait_until(lambda: assignment.counts().ready >= BUFFER)
    uses = [comparison.prompt_id for comparison, _ in made(store)]
    assert {uses.count(id) for id in set(uses)} == {BUFFER // 8}


def test_held_out_prompts_are_never_collected(store: Store, policy: ScriptedPolicy) -> None:
    add_prompts(store, 4)
    add_prompts(store, 40, split=Split.HELD_OUT)
    serve_base(store)
    with running(store, policy) as (_, assignment, _):
        wait_until(lambda: assignment.counts().ready >= BUFFER)
    asked = prompts.get_many(store, [comparison.prompt_id for comparison, _ in made(store)])
    assert {prompt.split for prompt in asked.values()} == {Split.TRAIN}


def test_prompts_that_are_too_long_do_not_keep_the_others_from_being_answered(
    store: Store, policy: ScriptedPolicy
) -> None:
    add_prompts(store, 40)
    serve_base(store)
    policy.too_long = {f"train question {i}?" for i in range(20)}
    with running(store, policy) as (_, assignment, _):
        wait_until(lambda: assignment.counts().ready >= BUFFER)
    asked = prompts.get_many(store, [comparison.prompt_id for comparison, _ in made(store)])
    assert len(asked) >= 20
    assert not {prompt.messages[-1]["content"] for prompt in asked.values()} & policy.too_long


def test_prompts_that_are_all_too_long_are_told_to_whoever_waits(
    store: Store, policy: ScriptedPolicy
) -> None:
    add_prompts(store, 3)
    serve_base(store)
    policy.too_long = {f"train question {i}?" for i in range(3)}
    with running(store, policy) as (candidates, _, _):
        wait_until(lambda: "too long" in str(candidates.waiting().reason))


def test_a_policy_that_only_repeats_itself_makes_no_comparison(
    store: Store, policy: ScriptedPolicy
) -> None:
    add_prompts(store, 4)
    serve_base(store)
    policy.text = "always the same"
    with running(store, policy) as (_, assignment, _):
        wait_until(lambda: len(policy.batches) >= 5)
        assert assignment.counts().total == 0


def test_without_prompts_the_page_is_told_what_to_do(store: Store, policy: ScriptedPolicy) -> None:
    serve_base(store)
    with running(store, policy) as (candidates, _, _):
        wait_until(lambda: "import" in str(candidates.waiting().reason))


def test_where_only_imports_are_judged_nothing_is_written_until_the_project_says_otherwise(
    store: Store, policy: ScriptedPolicy
) -> None:
    serve_base(store)
    add_prompts(store, 30)
    project = Project(store)
    project.change(LEA, writes_comparisons=False)
    with running(store, policy, project=project) as (candidates, assignment, host):
        wait_until(lambda: host.status().state is HostState.READY)
        waiting = candidates.waiting()
        assert "writes no comparisons" in str(waiting.reason)
        assert waiting.is_stuck
        time.sleep(0.5)  # in which a batch would be written
        assert policy.batches == []
        imported = make_comparison(store, prompt="Imported?")
        assignment.reload()
        (lease,) = assignment.claim("ana", 1, held=[]).leases
        assignment.settle(imported.id, "ana", Verdict.TIE)
        assert "Everything has been judged" in str(candidates.waiting().reason)
        assert [c.id for c, _ in made(store)] == [lease.comparison_id]

        project.change(LEA, writes_comparisons=True)
        wait_until(lambda: assignment.counts().ready >= BUFFER)


def test_while_the_policy_loads_the_page_says_so(store: Store, policy: ScriptedPolicy) -> None:
    add_prompts(store, 4)
    serve_base(store)
    host = PolicyHost(lambda: policy)
    assignment = Assignment(store, rng=random.Random(0))
    candidates = Candidates(
        store, host, assignment, Project(store), sampling=SamplingParams(), seed=3
    )
    assert "still loading" in str(candidates.waiting().reason)
    host.close()


def promote(store: Store, host: PolicyHost, folder: Path) -> str:
    version = policies.register(
        store, base_model="m", parent_version=BASE, adapter_path=str(folder), adapter_sha256="x"
    ).version
    host.promote(AdapterFolder(version, folder, "x")).result()
    policies.record_promotion(store, version, kind=PromotionKind.PROMOTE, annotator_id=None)
    return version


def make_stale(store: Store, assignment: Assignment) -> None:
    live = policies.live(store)
    assert live is not None
    assignment.make_stale(since=live.created_at)


def test_skips_never_keep_new_comparisons_from_being_made(
    store: Store, policy: ScriptedPolicy
) -> None:
    add_prompts(store, 80)
    serve_base(store)
    with running(store, policy) as (candidates, assignment, _):
        for _ in range(2):
            wait_until(lambda: assignment.count_fresh(BUFFER) == BUFFER)
            for lease in assignment.claim("ana", BUFFER, held=[]).leases:
                assignment.settle(lease.comparison_id, "ana", Verdict.SKIPPED)
            candidates.wake()
        wait_until(lambda: len(assignment.claim("ana", 1, held=[]).leases) == 1)


def test_two_versions_that_are_alike_win_equally_often(
    store: Store, policy: ScriptedPolicy, tmp_path: Path
) -> None:
    """Equal texts are dropped; drawing the old policy's again would hand the new one wins."""
    add_prompts(store, 8)
    add_prompts(store, 600, split=Split.HELD_OUT)
    serve_base(store)
    policy.answer = lambda _, seed: "good" if seed % 10 else f"worse {seed}"
    with running(store, policy) as (candidates, assignment, host):
        version = promote(store, host, tmp_path)
        make_stale(store, assignment)
        evaluations: list[list[Completion]] = []
        while len(evaluations) < EVALUATIONS_PER_OPPONENT:
            for lease in assignment.claim("ana", BUFFER, held=[]).leases:
                assignment.settle(lease.comparison_id, "ana", Verdict.TIE)
            candidates.wake()
            evaluations = [sides for c, sides in made(store) if c.purpose is Purpose.EVALUATE]
    decided = [sides for sides in evaluations if "good" in {side.text for side in sides}]
    won = sum(
        side.policy_version == version for sides in decided for side in sides if side.text == "good"
    )
    assert abs(won / len(decided) - 0.5) < 3 * math.sqrt(0.25 / len(decided))


def test_a_version_that_is_not_loaded_keeps_nobody_waiting(
    store: Store, policy: ScriptedPolicy
) -> None:
    add_prompts(store, 40)
    add_prompts(store, 8, split=Split.HELD_OUT)
    policies.register(store, base_model="other", parent_version=None)
    serve_base(store)
    policies.record_promotion(store, "pol-000001", kind=PromotionKind.PROMOTE, annotator_id=None)
    policy = ScriptedPolicy(base_version="pol-000001")
    with running(store, policy) as (_, assignment, _):
        wait_until(lambda: assignment.count_fresh(BUFFER) == BUFFER)
    assert {c.purpose for c, _ in made(store)} == {Purpose.COLLECT}


def test_a_promotion_in_the_middle_of_a_batch_mixes_no_policies(
    store: Store, policy: ScriptedPolicy, tmp_path: Path
) -> None:
    add_prompts(store, 40)
    serve_base(store)
    policy.gate.clear()
    with running(store, policy) as (_, assignment, host):
        assert policy.entered.acquire(timeout=20)
        version = policies.register(
            store, base_model="m", parent_version=BASE, adapter_path="a", adapter_sha256="x"
        ).version
        promoted = host.promote(AdapterFolder(version, tmp_path, "x"))
        policy.gate.set()
        promoted.result(timeout=20)
        wait_until(lambda: assignment.count_fresh(BUFFER) == BUFFER)
    pairs = [versions(sides) for c, sides in made(store) if c.purpose is Purpose.COLLECT]
    assert {len(set(pair)) for pair in pairs} == {1}
    assert [BASE, BASE] in pairs


def test_after_a_promotion_new_meets_old_on_held_out_prompts(
    store: Store, policy: ScriptedPolicy, tmp_path: Path
) -> None:
    add_prompts(store, 8)
    add_prompts(store, 8, split=Split.HELD_OUT)
    serve_base(store)
    with running(store, policy) as (candidates, assignment, host):
        wait_until(lambda: assignment.counts().ready >= BUFFER)
        version = promote(store, host, tmp_path)
        make_stale(store, assignment)
        candidates.wake()
        wait_until(lambda: assignment.count_fresh(BUFFER) == BUFFER)
    evaluations = [(c, sides) for c, sides in made(store) if c.purpose is Purpose.EVALUATE]
    assert evaluations
    assert all(versions(sides) == [version, BASE] for _, sides in evaluations)
    asked = prompts.get_many(store, [c.prompt_id for c, _ in evaluations])
    assert {prompt.split for prompt in asked.values()} == {Split.HELD_OUT}
    fresh = [sides for c, sides in made(store) if c.purpose is Purpose.COLLECT][BUFFER:]
    assert all(versions(sides) == [version, version] for sides in fresh)


def test_after_a_second_promotion_new_meets_old_and_base_equally_often(
    store: Store, policy: ScriptedPolicy, tmp_path: Path
) -> None:
    add_prompts(store, 8)
    add_prompts(store, 80, split=Split.HELD_OUT)
    serve_base(store)
    with running(store, policy) as (candidates, assignment, host):
        first = promote(store, host, tmp_path)
        second = promote(store, host, tmp_path)
        make_stale(store, assignment)

        def opponents() -> Counter[str | None]:
            return Counter(
                versions(sides)[1]
                for c, sides in made(store)
                if c.purpose is Purpose.EVALUATE and versions(sides)[0] == second
            )

        while opponents().total() < 12:
            for lease in assignment.claim("ana", BUFFER, held=[]).leases:
                assignment.settle(lease.comparison_id, "ana", Verdict.TIE)
            candidates.wake()
    assert set(opponents()) == {first, BASE}
    assert abs(opponents()[first] - opponents()[BASE]) <= EVALUATIONS_PER_BATCH


def versions(sides: Sequence[Completion]) -> list[str | None]:
    return [side.policy_version for side in sides]


def collected(store: Store) -> list[list[Completion]]:
    return [sides for c, sides in made(store) if c.purpose is Purpose.COLLECT]


def test_a_comparison_has_as_many_responses_as_the_project_says(
    store: Store, policy: ScriptedPolicy
) -> None:
    add_prompts(store, 40)
    serve_base(store)
    Project(store).change(LEA, responses=5)
    with running(store, policy) as (_, assignment, _):
        wait_until(lambda: assignment.counts().ready >= BUFFER)
        (lease,) = assignment.claim("ana", 1, held=[]).leases
    assert sorted(lease.display_order) == [0, 1, 2, 3, 4]
    for sides in collected(store):
        assert len({side.text for side in sides}) == 5
        assert len({side.seed for side in sides}) == 5
        assert [side.sampling for side in sides] == [sides[0].sampling] * 5


def test_a_single_response_can_be_asked_for_to_be_rated(
    store: Store, policy: ScriptedPolicy
) -> None:
    add_prompts(store, 40)
    serve_base(store)
    Project(store).change(LEA, task=Task.RATE, responses=1)
    with running(store, policy) as (_, assignment, _):
        wait_until(lambda: assignment.counts().ready >= BUFFER)
    assert {len(sides) for sides in collected(store)} == {1}


def test_where_fewer_different_responses_can_be_had_the_comparison_is_smaller(
    store: Store, policy: ScriptedPolicy
) -> None:
    add_prompts(store, 40)
    serve_base(store)
    Project(store).change(LEA, responses=6)
    policy.answer = lambda _, seed: f"answer {seed % 2}"
    with running(store, policy) as (_, assignment, _):
        wait_until(lambda: assignment.counts().ready >= BUFFER)
    sizes = {len(sides) for sides in collected(store)}
    assert sizes == {2}


def test_responses_that_are_nearly_the_same_are_drawn_again(
    store: Store, policy: ScriptedPolicy
) -> None:
    add_prompts(store, 40)
    serve_base(store)
    policy.answer = lambda _, seed: ESSAY + "x" * (seed % 3) if seed % 4 else f"No idea, {seed}."
    with running(store, policy) as (_, assignment, _):
        wait_until(lambda: assignment.counts().ready >= BUFFER)
    for left, right in collected(store):
        assert not (left.text.startswith(ESSAY) and right.text.startswith(ESSAY))


def test_a_policy_without_different_responses_is_told_to_whoever_waits(
    store: Store, policy: ScriptedPolicy
) -> None:
    add_prompts(store, 1)
    serve_base(store)
    policy.answer = lambda _, seed: ESSAY + "x" * (seed % 3)
    with running(store, policy) as (candidates, assignment, _):
        wait_until(lambda: "no two different" in str(candidates.waiting().reason))
        assert candidates.waiting().is_stuck
        assert assignment.counts().total == 0


def test_the_last_of_a_few_draws_still_makes_the_comparison(
    store: Store, policy: ScriptedPolicy
) -> None:
    add_prompts(store, 1)
    serve_base(store)
    draws = count()
    texts = [*(ESSAY + "x" * i for i in range(RESAMPLES)), "Something else."]
    policy.answer = lambda *_: texts[next(draws) % len(texts)]
    with running(store, policy) as (_, assignment, _):
        wait_until(lambda: assignment.counts().ready >= 1)
    assert [side.text for side in collected(store)[0]] == [texts[0], texts[-1]]


def test_the_shares_decide_whom_the_live_policy_meets(
    store: Store, policy: ScriptedPolicy, tmp_path: Path
) -> None:
    serve_base(store)
    Project(store).change(LEA, shares=Shares(50, 25, 25))
    with running(store, policy) as (candidates, assignment, host):
        first = promote(store, host, tmp_path / "1")
        second = promote(store, host, tmp_path / "2")
        add_prompts(store, 300)
        assert candidates.supply(LEA).diverted == ()
        seen: set[str] = set()
        while len(seen) < 200:
            for lease in assignment.claim("ana", BUFFER, held=[]).leases:
                seen.add(lease.comparison_id)
                assignment.settle(lease.comparison_id, "ana", Verdict.TIE)
            candidates.wake()
    pairs = [sorted(map(str, versions(sides))) for sides in collected(store)]
    met = {
        "alone": pairs.count([second, second]),
        "previous": pairs.count([first, second]),
        "base": pairs.count([BASE, second]),
    }
    assert sum(met.values()) == len(pairs)
    shares = {name: n / len(pairs) for name, n in met.items()}
    assert shares == pytest.approx({"alone": 0.5, "previous": 0.25, "base": 0.25}, abs=0.12)
    for sides in collected(store):
        assert len({side.prompt_id for side in sides}) == 1
        assert len({str(side.sampling) for side in sides}) == 1
        assert len({side.seed for side in sides}) == 2


def test_without_a_policy_before_everything_is_the_live_policys_and_leads_are_told(
    store: Store, policy: ScriptedPolicy
) -> None:
    add_prompts(store, 40)
    serve_base(store)
    Project(store).change(LEA, shares=Shares(0, 60, 40))
    with running(store, policy) as (candidates, assignment, _):
        wait_until(lambda: assignment.counts().ready >= BUFFER)
        told = candidates.supply(LEA).diverted
    assert {tuple(versions(sides)) for sides in collected(store)} == {(BASE, BASE)}
    assert told == (
        Diverted(Rival.PREVIOUS, 60, WhyNot.NONE_BEFORE),
        Diverted(Rival.BASE, 40, WhyNot.SAME),
    )


def test_a_rival_that_is_not_loaded_is_not_met_and_leads_are_told(store: Store) -> None:
    add_prompts(store, 40)
    policies.register(store, base_model="other", parent_version=None)
    serve_base(store)
    policies.record_promotion(store, "pol-000001", kind=PromotionKind.PROMOTE, annotator_id=None)
    Project(store).change(LEA, shares=Shares(0, 100, 0))
    policy = ScriptedPolicy(base_version="pol-000001")
    with running(store, policy) as (candidates, assignment, _):
        wait_until(lambda: assignment.count_fresh(BUFFER) == BUFFER)
        told = candidates.supply(LEA).diverted
    assert told == (Diverted(Rival.PREVIOUS, 100, WhyNot.NOT_LOADED),)


def test_between_two_policies_nothing_is_redrawn_near_pairs_stay_and_equal_ones_go(
    store: Store, policy: ScriptedPolicy, tmp_path: Path
) -> None:
    """The live policy says one of two texts that are nearly the same; the base always the first."""
    serve_base(store)
    Project(store).change(LEA, shares=Shares(0, 0, 100))
    policy.answer = lambda version, seed: ESSAY + "!" * (seed % 2 if version != BASE else 0)
    with running(store, policy) as (candidates, assignment, host):
        version = promote(store, host, tmp_path)
        add_prompts(store, 200)
        candidates.wake()
        wait_until(lambda: assignment.count_fresh(BUFFER) == BUFFER)
    pairs = collected(store)
    assert {frozenset(side.text for side in sides) for sides in pairs} == {
        frozenset({ESSAY, ESSAY + "!"})
    }
    drawn = [sum(len(b.seeds) for b in policy.batches if b.version == v) for v in (version, BASE)]
    assert drawn[0] == drawn[1] > len(pairs)


def test_two_policies_share_a_comparison_of_many_and_evaluation_stays_a_pair(
    store: Store, policy: ScriptedPolicy, tmp_path: Path
) -> None:
    serve_base(store)
    Project(store).change(LEA, responses=3, shares=Shares(0, 100, 0))
    policy.answer = lambda version, seed: "both" if seed % 5 == 0 else f"{version}:{seed}"
    with running(store, policy) as (candidates, assignment, host):
        version = promote(store, host, tmp_path)
        add_prompts(store, 60)
        add_prompts(store, 8, split=Split.HELD_OUT)
        candidates.wake()
        wait_until(lambda: assignment.count_fresh(BUFFER) == BUFFER)
    evaluations = [sides for c, sides in made(store) if c.purpose is Purpose.EVALUATE]
    assert {len(sides) for sides in evaluations} == {2}
    mixed = collected(store)
    assert {frozenset(versions(sides)) for sides in mixed} == {frozenset({BASE, version})}
    assert {tuple(sorted(map(str, versions(sides)))) for sides in mixed if len(sides) == 3} == {
        (BASE, BASE, version),
        (BASE, version, version),
    }
    for sides in mixed:
        texts = [side.text for side in sides]
        assert len(set(texts)) == len(texts)


def test_prompts_that_are_too_long_are_counted_once_and_not_asked_again(
    store: Store, policy: ScriptedPolicy
) -> None:
    add_prompts(store, 12)
    serve_base(store)
    policy.too_long = {f"train question {i}?" for i in range(5)}
    with running(store, policy) as (candidates, assignment, _):
        wait_until(lambda: assignment.counts().ready >= BUFFER)
        supply = candidates.supply(LEA)
        with pytest.raises(NotAllowed):
            candidates.supply(ANA)
    assert (supply.too_long, supply.limit_tokens) == (5, 512)


def test_comparisons_that_everyone_skipped_are_told_to_leads(
    store: Store, policy: ScriptedPolicy
) -> None:
    add_prompts(store, 40)
    serve_base(store)
    Project(store).change(LEA, min_submitted=2)
    with running(store, policy) as (candidates, assignment, _):
        wait_until(lambda: assignment.count_fresh(BUFFER) == BUFFER)
        for who in ("ana", "ben"):
            for lease in assignment.claim(who, 3, held=[]).leases:
                assignment.settle(lease.comparison_id, who, Verdict.SKIPPED)
        assert candidates.supply(LEA).skipped_by_all == 3


def test_one_person_alone_gets_new_comparisons_although_none_is_finished(
    store: Store, policy: ScriptedPolicy
) -> None:
    add_prompts(store, 80)
    serve_base(store)
    Project(store).change(LEA, min_submitted=3)
    with running(store, policy) as (candidates, assignment, _):
        for _ in range(3):
            wait_until(lambda: assignment.count_fresh(BUFFER) == BUFFER)
            for lease in assignment.claim("ana", BUFFER, held=[]).leases:
                assignment.settle(lease.comparison_id, "ana", Verdict.TIE)
            candidates.wake()
        wait_until(lambda: len(assignment.claim("ana", 1, held=[]).leases) == 1)
        assert assignment.counts().done == 0


def test_whoever_has_judged_everything_is_told_so(store: Store, policy: ScriptedPolicy) -> None:
    serve_base(store)
    Project(store).change(LEA, min_submitted=2)
    comparison = make_comparison(store, prompt=make_prompt("Held?", split=Split.HELD_OUT))
    with running(store, policy) as (candidates, assignment, _):
        assignment.claim("ana", 1, held=[])
        assignment.settle(comparison.id, "ana", Verdict.TIE)
        wait_until(lambda: "for other people" in str(candidates.waiting().reason))
        assignment.claim("ben", 1, held=[])
        assignment.settle(comparison.id, "ben", Verdict.TIE)
        wait_until(lambda: "Everything has been judged" in str(candidates.waiting().reason))
        assert candidates.waiting().is_stuck


def test_whoever_waits_is_told_that_training_uses_the_device(
    store: Store, policy: ScriptedPolicy
) -> None:
    add_prompts(store, 8)
    serve_base(store)
    policy.gate.clear()
    is_training = True
    with running(store, policy, is_training=lambda: is_training) as (candidates, _, _):
        assert policy.entered.acquire(timeout=20)
        assert "training run uses the same device" in str(candidates.waiting().reason)
        is_training = False
        assert "being written" in str(candidates.waiting().reason)
        policy.gate.set()


def test_when_training_leaves_no_memory_the_buffer_fills_as_soon_as_it_ends(
    store: Store, policy: ScriptedPolicy
) -> None:
    add_prompts(store, 40)
    serve_base(store)
    policy.memory_rows = 0
    with running(store, policy, is_training=lambda: True) as (candidates, assignment, _):
        wait_until(lambda: "Training holds" in str(candidates.waiting().reason))
        policy.memory_rows = 1000
        candidates.wake()
        wait_until(lambda: assignment.counts().ready >= BUFFER)


def test_what_both_policies_say_is_dropped_from_both_alike(
    store: Store, policy: ScriptedPolicy, tmp_path: Path
) -> None:
    """The base always says "both", the live policy at times; of four, two are of each."""
    serve_base(store)
    Project(store).change(LEA, responses=4, shares=Shares(0, 0, 100))
    policy.answer = lambda version, seed: (
        "both" if version == BASE or seed % 3 == 0 else f"{version}:{seed}"
    )
    with running(store, policy) as (candidates, assignment, host):
        version = promote(store, host, tmp_path)
        add_prompts(store, 200)
        candidates.wake()
        wait_until(lambda: assignment.count_fresh(BUFFER) == BUFFER)
    assert {tuple(sorted(map(str, versions(sides)))) for sides in collected(store)} == {
        (BASE, version, version)
    }
