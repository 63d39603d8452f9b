from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from labeling.access import Actor
from labeling.launching import Launching
from store.db import Store
from store.errors import BadInput, NotAllowed
from store.records import Role
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
