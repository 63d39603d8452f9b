"""Attempts to sign in: how many wrong ones are let through, and how many are checked at once.

Knows names and addresses; knows no account and no password.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

from store.errors import NotAllowed, WhetstoneError


class TooManyAttempts(WhetstoneError):
    """Too many wrong passwords for a name or from an address, or too many sign-ins at once."""


@dataclass(frozen=True)
class SlowDown:
    """How many wrong passwords are let through within `window_s` seconds.

    `failures` are those for one name from one address, `address_failures` those from one address
    for whatever names. At most `remembered` of either are kept; then the oldest is forgotten.
    """

    failures: int = 5
    address_failures: int = 30
    window_s: float = 300.0
    remembered: int = 10_000


class _Key(NamedTuple):
    address: str
    name: str | None


class Attempts:
    """Counts attempts until they prove right, in memory."""

    def __init__(self, slow_down: SlowDown, *, clock_s: Callable[[], float]) -> None:
        self._slow_down = slow_down
        self._clock_s = clock_s
        self._times_s: dict[_Key, list[float]] = {}  # whatever was tried last comes last
        self._lock = threading.Lock()  # protects _times_s

    @property
    def remembered(self) -> int:
        """How many names and addresses there are counts of."""
        with self._lock:
            return len(self._times_s)

    @contextmanager
    def counted(self, name: str, address: str) -> Iterator[None]:
        """One attempt. It stays counted when it ends by `NotAllowed`, and is taken back otherwise.

        It counts from its beginning, so that attempts side by side cannot outrun the limits.
        Raises `TooManyAttempts`.
        """
        of_name, of_address = _Key(address, name.strip().lower()), _Key(address, None)
        time_s = self._begin(of_name, of_address, whose=f"for {name!r}")
        is_wrong = False
        try:
            yield
        except NotAllowed:
            is_wrong = True
            raise
        finally:
            if not is_wrong:
                self._take_back(of_name, time_s)
                self._take_back(of_address, time_s)

    def _begin(self, of_name: _Key, of_address: _Key, *, whose: str) -> float:
        limits = self._slow_down
        with self._lock:
            now_s = self._clock_s()
            self._forget_old(now_s)
            self._check(of_name, now_s, limit=limits.failures, whose=whose)
            self._check(of_address, now_s, limit=limits.address_failures, whose="from your address")
            self._note(of_name, now_s)
            self._note(of_address, now_s)
        return now_s

    def _forget_old(self, now_s: float) -> None:
        while self._times_s:
            oldest = next(iter(self._times_s))
            if self._times_s[oldest][-1] > now_s - self._slow_down.window_s:
                return
            del self._times_s[oldest]

    def _check(self, key: _Key, now_s: float, *, limit: int, whose: str) -> None:
        recent = self._recent(key, now_s)
        if len(recent) < limit:
            return
        wait_s = ceil(recent[0] + self._slow_down.window_s - now_s)
        raise TooManyAttempts(
            "Too many wrong passwords {whose}. Try again in {wait_s} seconds.",
            whose=whose,
            wait_s=wait_s,
        )

    def _note(self, key: _Key, now_s: float) -> None:
        recent = self._recent(key, now_s)
        self._times_s.pop(key, None)
        self._times_s[key] = [*recent, now_s]
        if len(self._times_s) > self._slow_down.remembered:
            del self._times_s[next(iter(self._times_s))]

    def _recent(self, key: _Key, now_s: float) -> list[float]:
        start_s = now_s - self._slow_down.window_s
        return [time_s for time_s in self._times_s.get(key, ()) if time_s > start_s]

    def _take_back(self, key: _Key, time_s: float) -> None:
        with self._lock:
            times_s = self._times_s.get(key, [])
            if time_s in times_s:
                times_s.remove(time_s)
            if not times_s:
                self._times_s.pop(key, None)


class Gate:
    """Lets `at_once` pass at a time while `waiting` more wait for them; turns others away."""

    def __init__(self, *, at_once: int = 2, waiting: int = 8) -> None:
        self._inside = threading.Semaphore(at_once)
        self._places = threading.Semaphore(at_once + waiting)

    @contextmanager
    def passed(self) -> Iterator[None]:
        """Wait for a turn, and hold it. Raises `TooManyAttempts`."""
        if not self._places.acquire(blocking=False):
            raise TooManyAttempts(
                "Too many people are signing in at this moment. Try again in a few seconds."
            )
        try:
            with self._inside:
                yield
        finally:
            self._places.release()
