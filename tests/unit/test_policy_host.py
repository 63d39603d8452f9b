"""The host's promises, kept with a scripted policy: no model, real threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from store.errors import BadInput, Conflict, NotFound, PolicyUnavailable
from tests.scripted import TIMEOUT_S, Batch, ScriptedPolicy
from training.policy import (
    AdapterFolder,
    Generation,
    GenerationRequest,
    SamplingParams,
)
from training.policy_host import HostState, PolicyHost, Priority


def hold(policy: ScriptedPolicy, host: PolicyHost) -> Future[list[Generation]]:
    """Occupy the serving thread with a batch until the policy's `gate` is set again."""
    policy.gate.clear()
    future = host.submit(requests(0))
    assert policy.entered.acquire(timeout=TIMEOUT_S)
    return future


def requests(*seeds: int) -> list[GenerationRequest]:
    sampling = SamplingParams(max_new_tokens=4)
    return [
        GenerationRequest([{"role": "user", "content": "hi"}], sampling, seed) for seed in seeds
    ]


def adapter(version: str, content: str = "") -> AdapterFolder:
    return AdapterFolder(version, Path("runs") / version, f"sha256 of {content or version}")


def texts(future: Future[list[Generation]]) -> list[str]:
    return [generation.text for generation in future.result(TIMEOUT_S)]


@pytest.fixture
def policy() -> ScriptedPolicy:
    return ScriptedPolicy()


@pytest.fixture
def host(policy: ScriptedPolicy) -> Iterator[PolicyHost]:
    host = PolicyHost(lambda: policy, max_batch=4)
    host.start()
    yield host
    host.close()


def test_requests_submitted_while_the_base_loads_are_answered_when_it_is_ready() -> None:
    may_load = threading.Event()

    def load_slowly() -> ScriptedPolicy:
        may_load.wait(TIMEOUT_S)
        return ScriptedPolicy()

    host = PolicyHost(load_slowly)
    host.start()
    future = host.submit(requests(1, 2))
    assert host.status().state is HostState.LOADING
    assert host.status().queue_depth == 2
    may_load.set()
    assert texts(future) == ["base:1", "base:2"]
    assert host.status().state is HostState.READY
    assert host.status().live_version == "base"
    host.close()


def test_a_base_that_fails_to_load_fails_what_waits_and_what_comes_later() -> None:
    may_fail = threading.Event()

    def fail() -> ScriptedPolicy:
        may_fail.wait(TIMEOUT_S)
        raise BadInput("no weights in starter/")

    host = PolicyHost(fail)
    host.start()
    generations, promotion = host.submit(requests(1)), host.promote(adapter("pol-1"))
    may_fail.set()
    for future in (generations, promotion):
        with pytest.raises(PolicyUnavailable, match="no weights in starter/"):
            future.result(TIMEOUT_S)
    assert host.status().state is HostState.FAILED
    with pytest.raises(PolicyUnavailable, match="no weights in starter/"):
        host.submit(requests(2))
    host.close()


def test_no_requests_get_no_generations(host: PolicyHost) -> None:
    assert host.submit([]).result(TIMEOUT_S) == []


def test_requests_of_several_callers_share_a_batch(
    host: PolicyHost, policy: ScriptedPolicy
) -> None:
    hold(policy, host)
    futures = [host.submit(requests(1)), host.submit(requests(2, 3)), host.submit(requests(4))]
    policy.gate.set()
    assert [texts(future) for future in futures] == [["base:1"], ["base:2", "base:3"], ["base:4"]]
    assert policy.batches[1:] == [Batch("base", [1, 2, 3, 4])]


def test_a_job_larger_than_a_batch_comes_back_whole_and_in_order(
    host: PolicyHost, policy: ScriptedPolicy
) -> None:
    future = host.submit(requests(*range(10)))
    assert texts(future) == [f"base:{seed}" for seed in range(10)]
    assert [len(batch.seeds) for batch in policy.batches] == [4, 4, 2]


def test_versions_are_never_mixed_in_a_batch(host: PolicyHost, policy: ScriptedPolicy) -> None:
    host.promote(adapter("pol-1")).result(TIMEOUT_S)
    hold(policy, host)
    futures = [
        host.submit(requests(seed), version=version)
        for seed, version in enumerate(["base", "pol-1", "base", None], start=1)
    ]
    policy.gate.set()
    assert [texts(future) for future in futures] == [
        ["base:1"],
        ["pol-1:2"],
        ["base:3"],
        ["pol-1:4"],
    ]
    assert policy.batches[1:] == [Batch("base", [1, 3]), Batch("pol-1", [2, 4])]


def test_a_person_is_served_before_the_background(host: PolicyHost, policy: ScriptedPolicy) -> None:
    hold(policy, host)
    ahead = host.submit(requests(1), priority=Priority.BACKGROUND)
    person = host.submit(requests(2), priority=Priority.INTERACTIVE)
    policy.gate.set()
    texts(ahead), texts(person)
    assert policy.batches[1:] == [Batch("base", [2]), Batch("base", [1])]


def test_a_request_in_flight_finishes_on_the_version_that_it_started_with(
    host: PolicyHost, policy: ScriptedPolicy
) -> None:
    in_flight = hold(policy, host)
    promotion = host.promote(adapter("pol-1"))
    after = host.submit(requests(1))
    policy.gate.set()
    assert texts(in_flight) == ["base:0"]
    assert promotion.result(TIMEOUT_S).version == "pol-1"
    (generation,) = after.result(TIMEOUT_S)
    assert generation.policy_version == "pol-1"
    assert generation.adapter_sha256 == adapter("pol-1").sha256


def test_a_job_that_was_begun_before_a_swap_is_finished_by_the_same_version(
    host: PolicyHost, policy: ScriptedPolicy
) -> None:
    policy.gate.clear()
    large = host.submit(requests(*range(6)))
    assert policy.entered.acquire(timeout=TIMEOUT_S)
    host.promote(adapter("pol-1"))
    policy.gate.set()
    assert texts(large) == [f"base:{seed}" for seed in range(6)]
    assert host.status().live_version == "pol-1"


def test_a_promotion_proves_the_new_version_against_the_live_one_and_reports_it(
    host: PolicyHost, policy: ScriptedPolicy
) -> None:
    report = host.promote(adapter("pol-1")).result(TIMEOUT_S)
    assert policy.smoked == [("pol-1", "base")]
    assert (report.version, report.previous_version) == ("pol-1", "base")
    assert (report.mean_kl, report.smoke_texts) == (0.5, ("hello",))
    assert report.load_s >= 0
    assert host.status().live_version == "pol-1"


def test_a_failed_load_leaves_the_live_version_serving(
    host: PolicyHost, policy: ScriptedPolicy
) -> None:
    policy.unloadable.add("pol-1")
    with pytest.raises(BadInput, match="does not load"):
        host.promote(adapter("pol-1")).result(TIMEOUT_S)
    assert texts(host.submit(requests(1))) == ["base:1"]
    assert "does not load" in str(host.status().message)


def test_a_failed_smoke_leaves_the_live_version_serving_and_frees_the_new_one(
    host: PolicyHost, policy: ScriptedPolicy
) -> None:
    policy.degenerate.add("pol-1")
    with pytest.raises(BadInput, match="says nothing"):
        host.promote(adapter("pol-1")).result(TIMEOUT_S)
    assert host.status().live_version == "base"
    assert host.status().loaded_versions == ("base",)
    assert texts(host.submit(requests(1))) == ["base:1"]


def test_the_live_the_previous_and_the_base_stay_loaded_and_older_ones_go(
    host: PolicyHost,
) -> None:
    for version in ("pol-1", "pol-2", "pol-3"):
        host.promote(adapter(version)).result(TIMEOUT_S)
    assert set(host.status().loaded_versions) == {"base", "pol-2", "pol-3"}


def test_a_pinned_version_stays_until_it_is_unpinned(host: PolicyHost) -> None:
    host.promote(adapter("pol-1")).result(TIMEOUT_S)
    host.pin(["pol-1", adapter("pol-9")]).result(TIMEOUT_S)
    for version in ("pol-2", "pol-3"):
        host.promote(adapter(version)).result(TIMEOUT_S)
    assert set(host.status().loaded_versions) == {"base", "pol-1", "pol-2", "pol-3", "pol-9"}
    assert texts(host.submit(requests(1), version="pol-9")) == ["pol-9:1"]
    host.pin([]).result(TIMEOUT_S)
    assert set(host.status().loaded_versions) == {"base", "pol-2", "pol-3"}


def test_a_version_that_a_waiting_request_names_is_not_dropped(
    host: PolicyHost, policy: ScriptedPolicy
) -> None:
    host.promote(adapter("pol-1")).result(TIMEOUT_S)
    hold(policy, host)
    promotions = [host.promote(adapter(version)) for version in ("pol-2", "pol-3")]
    old = host.submit(requests(1), version="pol-1")
    policy.gate.set()
    assert promotions[-1].result(TIMEOUT_S).version == "pol-3"
    assert texts(old) == ["pol-1:1"]
    assert texts(host.submit(requests(2))) == ["pol-3:2"]
    assert "pol-1" not in host.status().loaded_versions


def test_a_roll_back_loads_a_dropped_version_again(
    host: PolicyHost, policy: ScriptedPolicy
) -> None:
    for version in ("pol-1", "pol-2", "pol-3"):
        host.promote(adapter(version)).result(TIMEOUT_S)
    report = host.promote(adapter("pol-1")).result(TIMEOUT_S)
    assert (report.version, report.previous_version) == ("pol-1", "pol-3")
    assert policy.loads == ["pol-1", "pol-2", "pol-3", "pol-1"]
    assert texts(host.submit(requests(1))) == ["pol-1:1"]


def test_a_roll_back_needs_no_second_proof(host: PolicyHost, policy: ScriptedPolicy) -> None:
    for target in (adapter("pol-1"), adapter("pol-2")):
        host.promote(target).result(TIMEOUT_S)
    policy.degenerate.add("pol-1")
    assert host.promote("pol-1").result(TIMEOUT_S).version == "pol-1"
    assert policy.loads == ["pol-1", "pol-2"]


def test_the_base_can_be_made_live_again(host: PolicyHost) -> None:
    host.promote(adapter("pol-1")).result(TIMEOUT_S)
    host.promote("base").result(TIMEOUT_S)
    assert texts(host.submit(requests(1))) == ["base:1"]
    assert host.status().previous_version == "pol-1"


def test_a_name_never_stands_for_two_adapters(host: PolicyHost) -> None:
    for version in ("pol-1", "pol-2", "pol-3"):
        host.promote(adapter(version)).result(TIMEOUT_S)
    with pytest.raises(Conflict, match="pol-1"):
        host.promote(adapter("pol-1", "other bytes")).result(TIMEOUT_S)
    assert host.status().live_version == "pol-3"


def test_an_adapter_may_not_take_the_name_of_the_base(host: PolicyHost) -> None:
    with pytest.raises(Conflict, match="base"):
        host.promote(adapter("base")).result(TIMEOUT_S)


def test_a_promotion_of_an_unknown_version_is_not_found(host: PolicyHost) -> None:
    with pytest.raises(NotFound, match="pol-7"):
        host.promote("pol-7").result(TIMEOUT_S)


def test_a_request_for_an_unknown_version_is_not_found(host: PolicyHost) -> None:
    with pytest.raises(NotFound, match="pol-7"):
        host.submit(requests(1), version="pol-7").result(TIMEOUT_S)


def test_an_exception_goes_to_its_own_batch_only(host: PolicyHost, policy: ScriptedPolicy) -> None:
    policy.failing_seeds[1] = RuntimeError("a kernel failed")
    failing = host.submit(requests(1))
    with pytest.raises(RuntimeError, match="a kernel failed"):
        failing.result(TIMEOUT_S)
    assert texts(host.submit(requests(2))) == ["base:2"]


def test_a_prompt_that_cannot_be_used_fails_its_own_caller_only(
    host: PolicyHost, policy: ScriptedPolicy
) -> None:
    policy.failing_seeds[2] = BadInput("too long")
    hold(policy, host)
    good, bad = host.submit(requests(1)), host.submit(requests(2, 3))
    policy.gate.set()
    assert texts(good) == ["base:1"]
    with pytest.raises(BadInput, match="too long"):
        bad.result(TIMEOUT_S)


def test_a_failed_batch_takes_the_rest_of_its_job_off_the_queue(
    host: PolicyHost, policy: ScriptedPolicy
) -> None:
    policy.failing_seeds[1] = RuntimeError("a kernel failed")
    with pytest.raises(RuntimeError, match="a kernel failed"):
        host.submit(requests(*range(9))).result(TIMEOUT_S)
    texts(host.submit(requests(20)))
    assert policy.batches == [Batch("base", [0, 1, 2, 3]), Batch("base", [20])]


def test_a_batch_without_memory_is_tried_again_in_halves_and_later_ones_are_smaller(
    host: PolicyHost, policy: ScriptedPolicy
) -> None:
    policy.memory_rows = 2
    assert texts(host.submit(requests(1, 2, 3, 4, 5))) == [f"base:{seed}" for seed in range(1, 6)]
    texts(host.submit(requests(6, 7, 8)))
    assert [batch.seeds for batch in policy.batches] == [[1, 2], [3, 4], [5], [6, 7], [8]]


def test_a_batch_whose_halves_have_no_memory_either_fails_with_advice(
    host: PolicyHost, policy: ScriptedPolicy
) -> None:
    policy.memory_rows = 1
    with pytest.raises(PolicyUnavailable, match="fewer"):
        host.submit(requests(1, 2, 3, 4)).result(TIMEOUT_S)


def test_a_cancelled_request_is_not_generated(host: PolicyHost, policy: ScriptedPolicy) -> None:
    hold(policy, host)
    unwanted, wanted = host.submit(requests(1)), host.submit(requests(2))
    assert unwanted.cancel()
    policy.gate.set()
    assert texts(wanted) == ["base:2"]
    assert policy.batches[1:] == [Batch("base", [2])]


def test_close_stops_the_running_batch_and_fails_what_waits(
    host: PolicyHost, policy: ScriptedPolicy
) -> None:
    running = hold(policy, host)
    waiting, promotion = host.submit(requests(1)), host.promote(adapter("pol-1"))
    host.close()
    for future in (running, waiting, promotion):
        with pytest.raises(PolicyUnavailable, match="shut down"):
            future.result(TIMEOUT_S)


def test_close_can_be_called_twice_and_before_start() -> None:
    host = PolicyHost(ScriptedPolicy)
    waiting = host.submit(requests(1))
    host.close()
    host.close()
    assert host.status().state is HostState.CLOSED
    with pytest.raises(PolicyUnavailable):
        waiting.result(TIMEOUT_S)


def test_nothing_is_accepted_after_close(host: PolicyHost) -> None:
    host.close()
    with pytest.raises(PolicyUnavailable, match="shut down"):
        host.submit(requests(1))
    with pytest.raises(PolicyUnavailable, match="shut down"):
        host.promote("base")


def test_completions_keep_one_version_while_versions_change_under_many_callers(
    host: PolicyHost,
) -> None:
    answers: dict[int, Future[list[Generation]]] = {}

    def ask(first: int) -> None:
        for seed in range(first, first + 25):
            answers[seed] = host.submit(requests(seed, seed + 1000))

    callers = [threading.Thread(target=ask, args=(first,)) for first in range(0, 100, 25)]
    for caller in callers:
        caller.start()
    for number in range(5):
        host.promote(adapter(f"pol-{number}")).result(TIMEOUT_S)
    for caller in callers:
        caller.join(TIMEOUT_S)
    for seed, future in answers.items():
        first, second = future.result(TIMEOUT_S)
        assert first.policy_version == second.policy_version
        assert [first.seed, second.seed] == [seed, seed + 1000]
    assert len(answers) == 100
