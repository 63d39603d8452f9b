from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from labeling.access import Actor
from labeling.assignment import Assignment
from labeling.comparing import Comparing
from store import comparisons, judgments, mending, preferences
from store.db import Store
from store.mending import Mending
from store.records import Role

REPOSITORY = Path(__file__).parents[2]
ACKNOWLEDGED = 200

# Four threads judge without end what was made after the last checkpoint; each line printed is the
# id of an acknowledged judgment.
JUDGE_WITHOUT_END = """
import pathlib, sys, threading
from store import judgments
from store import comparisons
from store.db import Store
from store.records import Lease
from tests.builders import START, make_comparison, make_judgment

folder = pathlib.Path(sys.argv[1])
Store(folder).close()
store = Store(folder)
made = [make_comparison(store, prompt=f"question {i}") for i in range(20)]
printing = threading.Lock()

def judge(name):
    leases = [Lease(f"{name}, {c.id}", c.id, name, (0, 1), START, START) for c in made]
    comparisons.record_leases(store, leases)
    number = 0
    while True:
        place = number % 20
        said = make_judgment(made[place], 0, annotator_id=name, lease_id=leases[place].id)
        judgments.record(store, said)
        number += 1
        with printing:
            print(said.id, flush=True)

for i in range(4):
    threading.Thread(target=judge, args=(f"annotator {i}",)).start()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of the store that is killed."""
    return tmp_path / "killed"


@pytest.fixture
def acknowledged(folder: Path) -> list[str]:
    """Ids that a process acknowledged before it was killed while it judged on."""
    command = [sys.executable, "-c", JUDGE_WITHOUT_END, str(folder)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        seen = [process.stdout.readline() for _ in range(ACKNOWLEDGED)]
        process.send_signal(signal.SIGKILL)
        seen.extend(process.stdout.read().splitlines(keepends=True))
    ids = [line.strip() for line in seen if line.endswith("\n")]
    assert len(ids) >= ACKNOWLEDGED
    return ids


def missing(store: Store, ids: list[str]) -> list[str]:
    return [id for id in ids if judgments.get(store, id) is None]


def test_a_kill_loses_no_acknowledged_judgment(folder: Path, acknowledged: list[str]) -> None:
    store = Store(folder)
    try:
        assert missing(store, acknowledged) == []
    finally:
        store.close()


def test_the_journal_holds_every_judgment_acknowledged_before_a_kill(
    folder: Path, acknowledged: list[str]
) -> None:
    journal = (folder / "judgments.jsonl").read_text()

    assert [id for id in acknowledged if f'"id": "{id}"' not in journal] == []


@pytest.fixture(params=["missing", "emptied", "first byte"])
def healed(
    request: pytest.FixtureRequest, folder: Path, acknowledged: list[str]
) -> Iterator[Store]:
    """The store that was killed, mended after its write-ahead log was lost."""
    damage = request.param
    wal = folder / "whetstone.duckdb.wal"
    if damage == "missing":
        wal.unlink()
    elif damage == "emptied":
        wal.write_bytes(b"")
    else:
        wal.write_bytes(b"\xff" + wal.read_bytes()[1:])

    store = Store(folder)
    try:
        assert judgments.get(store, acknowledged[0]) is None
        assert mending.mend(store).restored_to_store >= ACKNOWLEDGED
        assert missing(store, acknowledged) == []
        assert mending.mend(store) == Mending(0, 0, 0)
        yield store
    finally:
        store.close()


@pytest.mark.usefixtures("acknowledged")
def test_a_lost_write_ahead_log_is_healed_from_the_journal(healed: Store) -> None:
    assert len(comparisons.progress(healed)) == 20
    assert len(preferences.list_all(healed)) == 20


def test_people_find_their_work_again_after_a_lost_write_ahead_log(healed: Store) -> None:
    comparing = Comparing(healed, Assignment(healed, rng=random.Random(1)))
    past = comparing.history(Actor("annotator 0", "Ana", Role.ANNOTATOR), limit=500)

    assert {p.prompt_text for p in past} <= {f"question {i}" for i in range(20)}
    assert len(past) > 10
    comparing.undo(Actor("annotator 0", "Ana", Role.ANNOTATOR), id="undo", judgment_id=past[0].id)


def test_the_files_of_a_killed_store_are_kept_before_it_is_opened(
    folder: Path, acknowledged: list[str]
) -> None:
    Store(folder).close()

    (copy,) = folder.glob("backups/unclean-*")
    (copy / "judgments.jsonl").write_bytes(b"")
    as_it_was = Store(copy)
    try:
        assert missing(as_it_was, acknowledged) == []
    finally:
        as_it_was.close()
