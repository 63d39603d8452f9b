"""Ids that are ordered by time: what a standard reader makes of them."""

from __future__ import annotations

import time
import uuid
from itertools import chain

import pytest

from store import ids


def test_an_id_is_a_uuid_of_version_7_that_tells_its_time() -> None:
    before = time.time_ns() // 1_000_000
    made = ids.time_ordered()
    after = time.time_ns() // 1_000_000

    read = uuid.UUID(made)
    assert (read.version, read.variant, read.hex) == (7, uuid.RFC_4122, made)
    assert before <= read.int >> 80 <= after


def test_ids_are_ordered_by_time_and_differ_within_a_millisecond(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = []
    for at in (0, 1, 2**40, 2**47):
        monkeypatch.setattr(time, "time_ns", lambda at=at: at * 1_000_000)
        made.append(sorted({ids.time_ordered() for _ in range(50)}))

    assert [len(some) for some in made] == [50] * 4
    in_time = [*chain.from_iterable(made)]
    assert in_time == sorted(in_time)
