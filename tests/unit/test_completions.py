"""What is known of the texts that policies wrote."""

from __future__ import annotations

from datetime import timedelta

from store import completions
from store.completions import Written
from store.db import Store
from tests.builders import START, make_completion, make_prompt


def test_the_length_of_responses_is_that_of_the_newest_by_policies(store: Store) -> None:
    prompt = make_prompt()
    ages = {"one two three four": 2, "one two": 1, "one": 0}
    texts = [
        make_completion(
            prompt, text, policy_version="pol-000001", created_at=START - timedelta(days=age)
        )
        for text, age in ages.items()
    ]
    texts.append(make_completion(prompt, "written by a person who has much to say"))
    assert completions.written(store, 10) is None
    store.write(lambda cursor: completions.insert(cursor, texts))

    assert completions.written(store, 10) == Written(7 / 3, 4)
    assert completions.written(store, 2) == Written(1.5, 2)
