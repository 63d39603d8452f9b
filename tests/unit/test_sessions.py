"""Signing in, and who may do what."""

from __future__ import annotations

import threading
import time

import pytest

from labeling.access import Actor, actor_of, require_lead
from labeling.attempts import Gate, TooManyAttempts
from labeling.sessions import (
    SESSION_LIFE,
    Sessions,
    add_person,
    hash_password,
    verify_password,
)
from store import annotators
from store.db import Store
from store.errors import BadInput, Conflict, NotAllowed
from store.records import Role
from tests.builders import Clock

PASSWORD = "correct horse"


@pytest.fixture
def sessions(store: Store, clock: Clock) -> Sessions:
    add_person(store, "Lea", Role.LEAD, PASSWORD)
    return Sessions(store, clock_s=lambda: clock.now.timestamp(), is_single_person=False)


def test_the_right_password_opens_a_session(sessions: Sessions) -> None:
    actor = sessions.actor(sessions.sign_in("lea", PASSWORD, address="a"))
    assert actor is not None
    assert (actor.name, actor.is_lead) == ("Lea", True)


@pytest.mark.parametrize(("name", "password"), [("Lea", "wrong horse"), ("Nobody", PASSWORD)])
def test_a_wrong_name_and_a_wrong_password_are_refused_alike(
    sessions: Sessions, name: str, password: str
) -> None:
    with pytest.raises(NotAllowed, match="Name or password is wrong"):
        sessions.sign_in(name, password, address="a")


def test_after_five_wrong_passwords_even_the_right_one_has_to_wait(
    sessions: Sessions, clock: Clock
) -> None:
    for _ in range(5):
        with pytest.raises(NotAllowed):
            sessions.sign_in("Lea", "wrong horse", address="a")
    with pytest.raises(TooManyAttempts, match="300 seconds"):
        sessions.sign_in("Lea", PASSWORD, address="a")
    clock.advance(seconds=301)
    assert sessions.sign_in("Lea", PASSWORD, address="a")


def test_wrong_passwords_from_elsewhere_do_not_lock_a_person_out(sessions: Sessions) -> None:
    for _ in range(5):
        with pytest.raises(NotAllowed):
            sessions.sign_in("Lea", "wrong horse", address="elsewhere")
    assert sessions.sign_in("Lea", PASSWORD, address="here")


def test_wrong_passwords_given_side_by_side_are_all_counted(sessions: Sessions) -> None:
    barrier = threading.Barrier(8)
    refusals: list[type[Exception]] = []

    def try_one() -> None:
        barrier.wait()
        try:
            sessions.sign_in("Lea", "wrong horse", address="a")
        except (NotAllowed, TooManyAttempts) as refusal:
            refusals.append(type(refusal))

    threads = [threading.Thread(target=try_one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (refusals.count(NotAllowed), refusals.count(TooManyAttempts)) == (5, 3)


def test_a_name_longer_than_any_account_has_is_refused_without_hashing(sessions: Sessions) -> None:
    before_s = time.thread_time()
    for _ in range(100):
        with pytest.raises(NotAllowed, match="Name or password is wrong"):
            sessions.sign_in("x" * 81, PASSWORD, address="a")
    assert time.thread_time() - before_s < 0.5
    assert sessions.sign_in("Lea", PASSWORD, address="a")


def test_when_too_many_sign_in_at_once_one_is_sent_away_and_not_blamed(
    store: Store, clock: Clock
) -> None:
    add_person(store, "Lea", Role.LEAD, PASSWORD)
    gate = Gate(at_once=1, waiting=0)
    sessions = Sessions(
        store, clock_s=lambda: clock.now.timestamp(), gate=gate, is_single_person=False
    )
    with gate.passed():
        for _ in range(6):
            with pytest.raises(TooManyAttempts, match="a few seconds"):
                sessions.sign_in("Lea", PASSWORD, address="a")
    assert sessions.sign_in("Lea", PASSWORD, address="a")


def test_a_session_ends_by_sign_out(sessions: Sessions) -> None:
    token = sessions.sign_in("Lea", PASSWORD, address="a")
    assert sessions.actor(token)
    sessions.sign_out(token)
    assert sessions.actor(token) is None


def test_a_session_ends_by_age(sessions: Sessions, clock: Clock) -> None:
    token = sessions.sign_in("Lea", PASSWORD, address="a")
    assert sessions.actor(token)
    clock.advance(seconds=SESSION_LIFE.total_seconds() + 1)
    assert sessions.actor(token) is None


def test_a_deactivated_person_is_out_at_once(store: Store, sessions: Sessions) -> None:
    ana = add_person(store, "Ana", Role.ANNOTATOR, PASSWORD)
    token = sessions.sign_in("Ana", PASSWORD, address="a")
    lead = actor_of(annotators.find(store, "Lea") or pytest.fail("Lea is missing"))
    assert sessions.actor(token)
    sessions.set_active(lead, ana.id, is_active=False)
    assert sessions.actor(token) is None
    with pytest.raises(NotAllowed):
        sessions.sign_in("Ana", PASSWORD, address="a")


def test_a_lead_cannot_lock_themselves_out(store: Store, sessions: Sessions) -> None:
    lead = actor_of(annotators.find(store, "Lea") or pytest.fail("Lea is missing"))
    with pytest.raises(BadInput):
        sessions.set_active(lead, lead.id, is_active=False)


def test_a_new_password_ends_the_old_sessions(store: Store, sessions: Sessions) -> None:
    token = sessions.sign_in("Lea", PASSWORD, address="a")
    lead = actor_of(annotators.find(store, "Lea") or pytest.fail("Lea is missing"))
    assert sessions.actor(token)
    sessions.set_password(lead, lead.id, "another horse")
    assert sessions.actor(token) is None
    assert sessions.sign_in("Lea", "another horse", address="a")


def test_what_was_read_before_a_change_is_not_remembered_after_it(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = sessions.sign_in("Lea", PASSWORD, address="a")
    read = annotators.of_session

    def signed_out_meanwhile(store: Store, token_sha256: str) -> annotators.Session | None:
        found = read(store, token_sha256)
        sessions.sign_out(token)
        return found

    monkeypatch.setattr(annotators, "of_session", signed_out_meanwhile)
    assert sessions.actor(token)
    monkeypatch.undo()

    assert sessions.actor(token) is None


def test_the_store_never_holds_a_token_or_a_password(store: Store, sessions: Sessions) -> None:
    token = sessions.sign_in("Lea", PASSWORD, address="a")
    with store.read() as cursor:
        kept = repr(cursor.execute("SELECT * FROM sessions").fetchall())
        kept += repr(cursor.execute("SELECT * FROM annotators").fetchall())
    assert token not in kept
    assert PASSWORD not in kept


def test_alone_on_this_machine_nobody_signs_in(store: Store) -> None:
    alone = Sessions(store, clock_s=lambda: 0.0, is_single_person=True)
    actor = alone.actor(None)
    assert actor is not None
    assert actor.is_lead


def test_whoever_was_alone_names_themselves_before_anybody_else_gets_an_account(
    store: Store,
) -> None:
    alone = Sessions(store, clock_s=lambda: 0.0, is_single_person=True)
    actor = alone.actor(None)
    assert actor is not None
    with pytest.raises(Conflict, match="yourself"):
        alone.add_person(actor, "ben", Role.ANNOTATOR, PASSWORD)

    named = alone.name_itself(actor, "Max", PASSWORD)
    assert (named.id, alone.actor(None)) == (actor.id, Actor(actor.id, "Max", Role.LEAD))
    alone.add_person(actor, "ben", Role.ANNOTATOR, PASSWORD)

    later = Sessions(store, clock_s=lambda: 0.0, is_single_person=False)
    assert later.actor(later.sign_in("max", PASSWORD, address="a")) == alone.actor(None)


def test_nobody_names_themselves_twice(store: Store) -> None:
    alone = Sessions(store, clock_s=lambda: 0.0, is_single_person=True)
    actor = alone.actor(None)
    assert actor is not None
    alone.name_itself(actor, "Max", PASSWORD)
    with pytest.raises(NotAllowed):
        alone.name_itself(actor, "Moritz", PASSWORD)


def test_the_first_lead_is_whoever_was_alone_before(store: Store) -> None:
    actor = Sessions(store, clock_s=lambda: 0.0, is_single_person=True).actor(None)
    assert actor is not None
    assert add_person(store, "Max", Role.LEAD, PASSWORD).id == actor.id
    assert add_person(store, "Lea", Role.LEAD, PASSWORD).id != actor.id


@pytest.mark.usefixtures("sessions")
def test_names_are_taken_whatever_their_case(store: Store) -> None:
    with pytest.raises(Conflict):
        add_person(store, "LEA", Role.ANNOTATOR, PASSWORD)


def test_a_short_password_is_refused() -> None:
    with pytest.raises(BadInput, match="8 characters"):
        hash_password("short")


def test_a_hash_verifies_only_its_own_password() -> None:
    stored = hash_password(PASSWORD)
    assert verify_password(PASSWORD, stored)
    assert not verify_password(PASSWORD + " ", stored)


def test_the_source_of_an_import_cannot_act(store: Store) -> None:
    source = annotators.add(store, "import:hh", Role.SOURCE)
    with pytest.raises(NotAllowed):
        actor_of(source)


def test_an_annotator_may_not_do_what_leads_do() -> None:
    with pytest.raises(NotAllowed, match="Only a team lead may start training"):
        require_lead(Actor("a", "Ana", Role.ANNOTATOR), "start training")
