"""Annotators, their password hashes and their sessions. Knows no cookie and no hash function."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

from store import rows
from store.db import Cursor, Store
from store.errors import BadInput, Conflict, NotFound
from store.records import Annotator, Role

MAX_NAME = 80
_COLUMNS = "id, name, role, is_active, created_at"
_SOURCE_TYPES = {
    "id": "VARCHAR",
    "name": "VARCHAR",
    "role": "VARCHAR",
    "is_active": "BOOLEAN",
    "created_at": "TIMESTAMPTZ",
}


class Session(NamedTuple):
    """A signed-in person, until `expires_at`."""

    annotator: Annotator
    expires_at: datetime


def add(store: Store, name: str, role: Role, *, password_hash: str | None = None) -> Annotator:
    """Raises `Conflict` when the name is taken, whatever its case; `BadInput` when it is empty."""
    name = _checked_name(name)
    now = store.clock()
    annotator = Annotator(uuid.uuid4().hex, name, role, True, now)

    def change(cursor: Cursor) -> Annotator:
        _check_free(cursor, name, annotator.id)
        cursor.execute(
            "INSERT INTO annotators (id, name, role, password_hash, is_active, created_at)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            [annotator.id, name, role, password_hash, True, now],
        )
        return annotator

    return store.write(change)


def source_id(name: str) -> str:
    """The id that the source of an import has by its name."""
    return f"source-{hashlib.sha256(name.encode()).hexdigest()[:24]}"


def insert_sources(cursor: Cursor, names: Iterable[str], *, now: datetime) -> None:
    """Add those sources that are new, within a change. They can never sign in.

    Raises `Conflict` when a person has one of the names.
    """
    wanted = sorted(set(names))
    people = cursor.execute(
        "SELECT name FROM annotators WHERE role <> 'source'"
        " AND list_contains(list_transform(?::VARCHAR[], lambda n: lower(n)), lower(name))",
        [wanted],
    ).fetchone()
    if people:
        raise Conflict(
            "A person is named {name!r}, as a source of this import; rename them.",
            name=people[0],
        )
    known = rows.known_ids(cursor, "annotators", [source_id(name) for name in wanted])
    fresh = [name for name in wanted if source_id(name) not in known]
    values = [[source_id(name), name, Role.SOURCE, True, now] for name in fresh]
    rows.insert(cursor, "annotators", _SOURCE_TYPES, values)


def get(store: Store, id: str) -> Annotator:
    """Raises `NotFound`."""
    with store.read() as cursor:
        row = cursor.execute(f"SELECT {_COLUMNS} FROM annotators WHERE id = ?", [id]).fetchone()
    if row is None:
        raise NotFound("There is no annotator {id}.", id=id)
    return _annotator(row)


def find(store: Store, name: str) -> Annotator | None:
    """The annotator of that name, whatever its case."""
    with store.read() as cursor:
        row = cursor.execute(
            f"SELECT {_COLUMNS} FROM annotators WHERE lower(name) = lower(?)", [name.strip()]
        ).fetchone()
    return _annotator(row) if row else None


def list_all(store: Store) -> list[Annotator]:
    """Everyone, by name."""
    with store.read() as cursor:
        found = cursor.execute(f"SELECT {_COLUMNS} FROM annotators ORDER BY lower(name)").fetchall()
    return [_annotator(row) for row in found]


def password_hash(store: Store, id: str) -> str | None:
    """None for those who cannot sign in with a password."""
    with store.read() as cursor:
        row = cursor.execute("SELECT password_hash FROM annotators WHERE id = ?", [id]).fetchone()
    return row[0] if row else None


def anyone_signs_in(store: Store) -> bool:
    """Whether any active annotator has a password, so that the pages must ask for it."""
    with store.read() as cursor:
        row = cursor.execute(
            "SELECT count(*) FROM annotators WHERE password_hash IS NOT NULL AND is_active"
        ).fetchone()
    return bool(row and row[0])


def update(
    store: Store,
    id: str,
    *,
    role: Role | None = None,
    is_active: bool | None = None,
    password_hash: str | None = None,
) -> Annotator:
    """Change what is given; a changed password or a deactivation ends the person's sessions."""

    def change(cursor: Cursor) -> None:
        cursor.execute(
            "UPDATE annotators SET role = coalesce(?, role), is_active = coalesce(?, is_active),"
            " password_hash = coalesce(?, password_hash) WHERE id = ?",
            [role, is_active, password_hash, id],
        )
        if password_hash is not None or is_active is False:
            cursor.execute("DELETE FROM sessions WHERE annotator_id = ?", [id])

    store.write(change)
    return get(store, id)


def rename(store: Store, id: str, name: str, *, password_hash: str) -> Annotator:
    """Give somebody a name and a password to sign in with. Errors as for `add`."""
    name = _checked_name(name)

    def change(cursor: Cursor) -> None:
        _check_free(cursor, name, id)
        cursor.execute(
            "UPDATE annotators SET name = ?, password_hash = ? WHERE id = ?",
            [name, password_hash, id],
        )

    store.write(change)
    return get(store, id)


def open_session(store: Store, annotator_id: str, token_sha256: str, expires_at: datetime) -> None:
    """Remember a signed-in session by the hash of its token; expired ones are swept out."""
    now = store.clock()

    def change(cursor: Cursor) -> None:
        cursor.execute("DELETE FROM sessions WHERE expires_at <= ?", [now])
        cursor.execute(
            "INSERT INTO sessions (token_sha256, annotator_id, created_at, expires_at)"
            " VALUES (?, ?, ?, ?)",
            [token_sha256, annotator_id, now, expires_at],
        )

    store.write(change)


def of_session(store: Store, token_sha256: str) -> Session | None:
    """Who is signed in with this token, if it is still valid and the person still active."""
    with store.read() as cursor:
        row = cursor.execute(
            "SELECT a.id, a.name, a.role, a.is_active, a.created_at, s.expires_at"
            " FROM sessions s JOIN annotators a ON a.id = s.annotator_id"
            " WHERE s.token_sha256 = ? AND s.expires_at > ? AND a.is_active",
            [token_sha256, store.clock()],
        ).fetchone()
    return Session(_annotator(row[:5]), row[5]) if row else None


def close_session(store: Store, token_sha256: str) -> None:
    """Sign out."""
    store.write(
        lambda cursor: cursor.execute("DELETE FROM sessions WHERE token_sha256 = ?", [token_sha256])
    )


def _checked_name(name: str) -> str:
    name = name.strip()
    if not name or len(name) > MAX_NAME:
        raise BadInput("A name has 1 to {most} characters.", most=MAX_NAME)
    return name


def _check_free(cursor: Cursor, name: str, id: str) -> None:
    if cursor.execute(
        "SELECT 1 FROM annotators WHERE lower(name) = lower(?) AND id <> ?", [name, id]
    ).fetchone():
        raise Conflict(
            "There is an annotator named {name!r} already; choose another name.", name=name
        )


def _annotator(row: tuple[Any, ...]) -> Annotator:
    return Annotator(row[0], row[1], Role(row[2]), row[3], row[4])
