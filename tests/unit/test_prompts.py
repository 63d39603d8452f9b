from __future__ import annotations

import pytest

from store import prompts
from store.db import Store
from store.errors import NotFound
from store.records import Split
from tests.builders import make_comparison, make_prompt


def test_equal_conversations_have_the_same_id() -> None:
    a = make_prompt("Hello", language="en", source="one file")
    b = make_prompt("Hello", language="zh", source="another")

    assert a.id == b.id


def test_the_role_is_part_of_what_a_prompt_is() -> None:
    as_user = prompts.prompt_id([{"role": "user", "content": "Hello"}])
    as_system = prompts.prompt_id([{"role": "system", "content": "Hello"}])

    assert as_user != as_system


def test_a_prompt_comes_back_as_it_was_added(store: Store) -> None:
    prompt = make_prompt('你好 "quoted"\n\tline two', system="Be brief.", language="zh")

    prompts.add(store, [prompt])

    assert prompts.get(store, prompt.id) == prompt


def test_adding_counts_only_what_is_new(store: Store) -> None:
    prompts.add(store, [make_prompt("one")])

    assert prompts.add(store, [make_prompt(t) for t in ("one", "two", "three", "three")]) == 2


def test_a_known_prompt_keeps_its_split(store: Store) -> None:
    prompts.add(store, [make_prompt("one", split=Split.HELD_OUT)])
    prompts.add(store, [make_prompt("one", split=Split.TRAIN)])

    assert prompts.get(store, make_prompt("one").id).split is Split.HELD_OUT


def test_an_unknown_prompt_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound, match="no prompt nowhere"):
        prompts.get(store, "nowhere")


def test_get_many_leaves_out_the_unknown(store: Store) -> None:
    prompt = make_prompt()
    prompts.add(store, [prompt])

    assert prompts.get_many(store, [prompt.id, "nowhere"]) == {prompt.id: prompt}


def test_each_split_is_counted_apart(store: Store) -> None:
    held_out = [make_prompt(f"held {i}", split=Split.HELD_OUT) for i in range(2)]
    prompts.add(store, [make_prompt("train"), *held_out])

    assert prompts.count(store, split=Split.TRAIN) == 1
    assert prompts.count(store, split=Split.HELD_OUT) == 2


def test_a_sample_depends_on_its_seed_alone(store: Store) -> None:
    prompts.add(store, [make_prompt(f"prompt {i}") for i in range(50)])

    def sampled(seed: int) -> list[str]:
        return [p.id for p in prompts.sample(store, 10, split=Split.TRAIN, seed=seed)]

    assert sampled(1) == sampled(1)
    assert sampled(1) != sampled(2)
    assert len(set(sampled(1))) == 10


def test_a_sample_stays_within_its_split(store: Store) -> None:
    splits = [Split.TRAIN, Split.HELD_OUT] * 5
    prompts.add(store, [make_prompt(f"prompt {i}", split=s) for i, s in enumerate(splits)])

    sample = prompts.sample(store, 10, split=Split.HELD_OUT, seed=0)

    assert len(sample) == 5
    assert {p.split for p in sample} == {Split.HELD_OUT}


def test_prompts_that_a_policy_has_not_answered_come_first(store: Store) -> None:
    prompts.add(store, [make_prompt(f"prompt {i}") for i in range(3)])
    answered = make_comparison(store, prompt="prompt 1", policy_versions=["pol-000001"] * 2)

    found = prompts.least_compared(store, 3, split=Split.TRAIN, policy_version="pol-000001", seed=0)

    assert found[-1].id == answered.prompt_id
    assert len(found) == 3


def test_what_another_policy_answered_does_not_count(store: Store) -> None:
    prompts.add(store, [make_prompt(f"prompt {i}") for i in range(20)])

    def order() -> list[str]:
        found = prompts.least_compared(
            store, 20, split=Split.TRAIN, policy_version="pol-000002", seed=0
        )
        return [p.id for p in found]

    before = order()
    make_comparison(store, prompt="prompt 7", policy_versions=["pol-000001"] * 2)
    assert order() == before
