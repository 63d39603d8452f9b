from __future__ import annotations

from datetime import timedelta

import pytest

from store import annotators
from store.db import Store
from store.errors import BadInput, Conflict, NotFound
from store.records import Annotator, Role
from tests.builders import Clock


@pytest.fixture
def ana(store: Store) -> Annotator:
    """An annotator with a password and no session."""
    return annotators.add(store, "Ana", Role.ANNOTATOR, password_hash="hash")


def sign_in(store: Store, annotator: Annotator, *, seconds: float = 3600) -> None:
    expires_at = store.clock() + timedelta(seconds=seconds)
    annotators.open_session(store, annotator.id, "token", expires_at)


def test_an_annotator_is_found_by_id_and_by_name(store: Store, ana: Annotator) -> None:
    assert annotators.get(store, ana.id) == ana
    assert annotators.find(store, " aNA ") == ana


def test_a_taken_name_is_refused_whatever_its_case(store: Store, ana: Annotator) -> None:
    with pytest.raises(Conflict, match="'ANA'"):
        annotators.add(store, "ANA", Role.LEAD)

    assert annotators.list_all(store) == [ana]


@pytest.mark.parametrize("name", ["", "   ", "x" * 81])
def test_a_name_has_1_to_80_characters(store: Store, name: str) -> None:
    with pytest.raises(BadInput, match="1 to 80 characters"):
        annotators.add(store, name, Role.ANNOTATOR)


def test_nobody_is_found_under_an_unknown_name_or_id(store: Store) -> None:
    assert annotators.find(store, "nobody") is None
    with pytest.raises(NotFound, match="no annotator nobody"):
        annotators.get(store, "nobody")


def test_people_are_listed_by_name(store: Store) -> None:
    for name in ("bo", "Ana", "Cy"):
        annotators.add(store, name, Role.ANNOTATOR)

    assert [a.name for a in annotators.list_all(store)] == ["Ana", "bo", "Cy"]


def test_no_password_means_that_nobody_signs_in(store: Store) -> None:
    annotators.add(store, "local", Role.LEAD)

    assert not annotators.anyone_signs_in(store)


def test_one_password_means_that_people_sign_in(store: Store, ana: Annotator) -> None:
    assert annotators.anyone_signs_in(store)
    assert annotators.password_hash(store, ana.id) == "hash"


def test_a_session_tells_who_is_signed_in(store: Store, ana: Annotator) -> None:
    sign_in(store, ana)

    found = annotators.of_session(store, "token")
    assert found is not None
    assert found.annotator == ana
    assert annotators.of_session(store, "another token") is None


def test_a_session_ends_when_it_expires(store: Store, ana: Annotator, clock: Clock) -> None:
    sign_in(store, ana, seconds=60)
    clock.advance(seconds=60)

    assert annotators.of_session(store, "token") is None


def test_signing_out_ends_the_session(store: Store, ana: Annotator) -> None:
    sign_in(store, ana)

    annotators.close_session(store, "token")

    assert annotators.of_session(store, "token") is None


def test_a_new_password_ends_the_sessions(store: Store, ana: Annotator) -> None:
    sign_in(store, ana)

    annotators.update(store, ana.id, password_hash="new")

    assert annotators.of_session(store, "token") is None
    assert annotators.password_hash(store, ana.id) == "new"


def test_a_deactivated_person_is_signed_out(store: Store, ana: Annotator) -> None:
    sign_in(store, ana)

    changed = annotators.update(store, ana.id, is_active=False)

    assert not changed.is_active
    assert annotators.of_session(store, "token") is None


def test_a_changed_role_keeps_the_session(store: Store, ana: Annotator) -> None:
    sign_in(store, ana)

    annotators.update(store, ana.id, role=Role.LEAD)

    signed_in = annotators.of_session(store, "token")
    assert signed_in is not None
    assert signed_in.annotator.role is Role.LEAD


def add_sources(store: Store, *names: str) -> None:
    now = store.clock()
    store.write(lambda cursor: annotators.insert_sources(cursor, names, now=now))


def test_a_source_is_added_once_and_cannot_sign_in(store: Store) -> None:
    add_sources(store, "import:hh-rlhf", "import:hh-rlhf")
    add_sources(store, "import:hh-rlhf")

    (source,) = annotators.list_all(store)
    assert source.role is Role.SOURCE
    assert source.id == annotators.source_id("import:hh-rlhf")
    assert annotators.password_hash(store, source.id) is None


def test_a_source_does_not_take_a_persons_name(store: Store, ana: Annotator) -> None:
    with pytest.raises(Conflict, match="Ana"):
        add_sources(store, "ana")

    assert annotators.list_all(store) == [ana]
