"""How many wrong passwords are let through, and how many sign-ins at once."""

from __future__ import annotations

import threading

import pytest

from labeling.attempts import Attempts, Gate, SlowDown, TooManyAttempts
from store.errors import NotAllowed, StoreUnavailable
from tests.builders import Clock


def open_attempts(clock: Clock, slow_down: SlowDown | None = None) -> Attempts:
    return Attempts(slow_down or SlowDown(), clock_s=lambda: clock.now.timestamp())


def fail(attempts: Attempts, name: str, *, address: str = "a") -> None:
    with pytest.raises(NotAllowed), attempts.counted(name, address):
        raise NotAllowed("Wrong.")


def test_many_names_from_one_address_are_limited_together(clock: Clock) -> None:
    attempts = open_attempts(clock)
    for number in range(30):
        fail(attempts, f"name {number}")
    clock.advance(seconds=100)
    with (
        pytest.raises(TooManyAttempts, match=r"from your address.*200 seconds"),
        attempts.counted("another", "a"),
    ):
        pass
    with attempts.counted("another", "b"):
        pass
    clock.advance(seconds=201)
    with attempts.counted("another", "a"):
        pass


def test_what_proves_right_or_comes_to_nothing_leaves_no_trace(clock: Clock) -> None:
    attempts = open_attempts(clock)
    for _ in range(40):
        with attempts.counted("Lea", "a"):
            pass
        with pytest.raises(StoreUnavailable), attempts.counted("Lea", "a"):
            raise StoreUnavailable("Gone.")
    assert attempts.remembered == 0


def test_a_right_password_takes_no_wrong_one_back(clock: Clock) -> None:
    attempts = open_attempts(clock)
    for _ in range(4):
        fail(attempts, "Lea")
    with attempts.counted("Lea", "a"):
        pass
    fail(attempts, " lea")
    with pytest.raises(TooManyAttempts, match="for 'Lea'"), attempts.counted("Lea", "a"):
        pass


def test_an_attempt_under_way_counts(clock: Clock) -> None:
    attempts = open_attempts(clock, SlowDown(failures=1))
    with attempts.counted("Lea", "a"):
        with pytest.raises(TooManyAttempts), attempts.counted("Lea", "a"):
            pass
        with attempts.counted("Lea", "b"):
            pass


def test_old_attempts_are_forgotten(clock: Clock) -> None:
    attempts = open_attempts(clock)
    for number in range(20):
        fail(attempts, f"name {number}")
    assert attempts.remembered == 21
    clock.advance(seconds=301)
    fail(attempts, "name", address="b")
    assert attempts.remembered == 2


def test_there_is_an_end_to_what_is_remembered(clock: Clock) -> None:
    attempts = open_attempts(clock, SlowDown(failures=1, remembered=10))
    for number in range(100):
        fail(attempts, "Lea", address=f"address {number}")
    assert attempts.remembered == 10
    with pytest.raises(TooManyAttempts), attempts.counted("Lea", "address 99"):
        pass


def test_a_gate_lets_one_in_makes_one_wait_and_turns_the_next_away() -> None:
    gate = Gate(at_once=1, waiting=1)
    is_turned_away = threading.Event()
    entered: list[int] = []

    def enter(number: int) -> None:
        try:
            with gate.passed():
                entered.append(number)
        except TooManyAttempts:
            is_turned_away.set()

    threads = [threading.Thread(target=enter, args=(number,)) for number in range(2)]
    with gate.passed():
        for thread in threads:
            thread.start()
        assert is_turned_away.wait(timeout=30)
        assert entered == []
    for thread in threads:
        thread.join()
    assert len(entered) == 1
