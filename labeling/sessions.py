"""Signing in: scrypt hashes, and opaque tokens of which the store keeps only a hash.

On loopback with no accounts there is one person, who is a lead and never asked for a password.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from base64 import b64decode, b64encode
from collections.abc import Callable
from datetime import timedelta

from labeling.access import Actor, actor_of, require_lead
from labeling.attempts import Attempts, Gate, SlowDown
from labeling.i18n import mark
from store import annotators
from store.annotators import Session
from store.db import Store
from store.errors import BadInput, Conflict, NotAllowed
from store.records import Annotator, Role

SESSION_LIFE = timedelta(days=14)
SINGLE_PERSON = "you"
MIN_PASSWORD = 8
MAX_KNOWN = 10_000
_WRONG = mark("Name or password is wrong. Check both, or ask a team lead.")
_SCRYPT = {"n": 2**14, "r": 8, "p": 1}


class Sessions:
    """Turns names, passwords and tokens into actors."""

    def __init__(
        self,
        store: Store,
        *,
        clock_s: Callable[[], float],
        slow_down: SlowDown | None = None,
        gate: Gate | None = None,
        is_single_person: bool,
    ) -> None:
        self._store = store
        self._attempts = Attempts(slow_down or SlowDown(), clock_s=clock_s)
        # Hashing takes a core for a while; waiting for it must not take all threads of the pages.
        self._gate = gate or Gate()
        self._single = _single_person(store) if is_single_person else None
        self._known = _KnownSessions()

    @property
    def is_single_person(self) -> bool:
        """Whether the pages are open to the one person on this machine without a password."""
        return self._single is not None

    def sign_in(self, name: str, password: str, *, address: str) -> str:
        """A fresh session token. Raises `NotAllowed` or `TooManyAttempts`."""
        # No account has such a name, so that a quick answer gives nothing away.
        if len(name.strip()) > annotators.MAX_NAME:
            raise NotAllowed(_WRONG)
        with self._attempts.counted(name, address), self._gate.passed():
            annotator = self._verified(name, password)
        token = secrets.token_urlsafe(32)
        annotators.open_session(
            self._store, annotator.id, _sha256(token), self._store.clock() + SESSION_LIFE
        )
        return token

    def sign_out(self, token: str) -> None:
        """End the session of this token."""
        annotators.close_session(self._store, _sha256(token))
        self._known.forget()

    def actor(self, token: str | None) -> Actor | None:
        """Who is behind a request with this token; None when nobody is signed in."""
        if (known := self.known(token)) is not None:
            return known
        if not token:
            return None
        token_sha256, age = _sha256(token), self._known.age
        found = annotators.of_session(self._store, token_sha256)
        if found is None:
            return None
        self._known.keep(token_sha256, found, age=age)
        return self._admitted(found)

    def known(self, token: str | None) -> Actor | None:
        """The `actor` as far as it is remembered: without a query, so that nobody waits for it."""
        if self._single is not None or not token:
            return self._single
        session = self._known.get(_sha256(token))
        return self._admitted(session) if session is not None else None

    def _admitted(self, session: Session) -> Actor | None:
        return actor_of(session.annotator) if session.expires_at > self._store.clock() else None

    def add_person(self, actor: Actor, name: str, role: Role, password: str) -> Annotator:
        """An account that can sign in. Raises `BadInput`, `Conflict`, `NotAllowed`."""
        require_lead(actor, "add people")
        if self.must_name_itself(actor):
            raise Conflict(
                "Give yourself a name and a password first: from the next start on everybody "
                "signs in, you too."
            )
        return add_person(self._store, name, role, password)

    def must_name_itself(self, actor: Actor) -> bool:
        """Whether this is the one person on this machine, who could not sign in yet."""
        return self.is_single_person and not annotators.password_hash(self._store, actor.id)

    def name_itself(self, actor: Actor, name: str, password: str) -> Annotator:
        """The one person on this machine gets a name and a password; what they did stays theirs.

        Raises `BadInput`, `Conflict`, and `NotAllowed` for anybody else.
        """
        if not self.must_name_itself(actor):
            raise NotAllowed("Your account has a name and a password already.")
        named = annotators.rename(
            self._store, actor.id, name, password_hash=hash_password(password)
        )
        self._single = actor_of(named)
        self._known.forget()
        return named

    def set_password(self, actor: Actor, annotator_id: str, password: str) -> None:
        """Replace a password; ends the person's sessions."""
        require_lead(actor, "set passwords")
        annotators.update(self._store, annotator_id, password_hash=hash_password(password))
        self._known.forget()

    def set_active(self, actor: Actor, annotator_id: str, *, is_active: bool) -> None:
        """Let a person in, or keep them out; their judgments stay."""
        require_lead(actor, "let people in or out")
        if annotator_id == actor.id and not is_active:
            raise BadInput("You cannot deactivate yourself; ask another lead.")
        annotators.update(self._store, annotator_id, is_active=is_active)
        self._known.forget()

    def people(self, actor: Actor) -> list[Annotator]:
        """Everyone who is not merely the source of an import."""
        require_lead(actor, "see everyone")
        return [a for a in annotators.list_all(self._store) if a.role is not Role.SOURCE]

    def _verified(self, name: str, password: str) -> Annotator:
        annotator = annotators.find(self._store, name)
        known = annotators.password_hash(self._store, annotator.id) if annotator else None
        is_right = verify_password(password, known or _DUMMY_HASH)
        if annotator is None or known is None or not is_right or not annotator.is_active:
            raise NotAllowed(_WRONG)
        return annotator


class _KnownSessions:
    """Who is behind which token, so that a request costs no query; forgotten at any change.

    What was read before a change and arrives after it is of an older `age`, and not kept.
    """

    def __init__(self) -> None:
        self.age = 0
        self._found: dict[str, Session] = {}
        self._lock = threading.Lock()  # protects both

    def get(self, token_sha256: str) -> Session | None:
        with self._lock:
            return self._found.get(token_sha256)

    def keep(self, token_sha256: str, session: Session, *, age: int) -> None:
        with self._lock:
            if age != self.age:
                return
            if len(self._found) >= MAX_KNOWN:
                self._found.clear()
            self._found[token_sha256] = session

    def forget(self) -> None:
        with self._lock:
            self.age += 1
            self._found.clear()


def add_person(store: Store, name: str, role: Role, password: str) -> Annotator:
    """Create an account; used before anybody can be asked who is asking.

    The first lead is the one person who was here before, if there was one: what they judged and
    did is theirs under the new name.
    """
    if role is Role.SOURCE:
        raise BadInput("A person is an annotator or a lead.")
    password_hash = hash_password(password)
    single = annotators.find(store, SINGLE_PERSON)
    if role is Role.LEAD and single is not None and not annotators.anyone_signs_in(store):
        return annotators.rename(store, single.id, name, password_hash=password_hash)
    return annotators.add(store, name, role, password_hash=password_hash)


def hash_password(password: str) -> str:
    """`scrypt$salt$hash`, both base64. Raises `BadInput` for a password that is too short."""
    if len(password) < MIN_PASSWORD:
        raise BadInput("A password has at least {least} characters.", least=MIN_PASSWORD)
    salt = secrets.token_bytes(16)
    return f"scrypt${b64encode(salt).decode()}${b64encode(_scrypt(password, salt)).decode()}"


def verify_password(password: str, stored: str) -> bool:
    """Constant-time comparison with what `hash_password` gave."""
    _, salt, expected = stored.split("$")
    return hmac.compare_digest(_scrypt(password, b64decode(salt)), b64decode(expected))


def _scrypt(password: str, salt: bytes) -> bytes:
    return hashlib.scrypt(password.encode(), salt=salt, dklen=32, **_SCRYPT)


# Verified against when there is no such name, so that both cases take the same time.
_DUMMY_HASH = f"scrypt${b64encode(bytes(16)).decode()}${b64encode(bytes(32)).decode()}"


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _single_person(store: Store) -> Actor:
    found = annotators.find(store, SINGLE_PERSON)
    return actor_of(found or annotators.add(store, SINGLE_PERSON, Role.LEAD))
