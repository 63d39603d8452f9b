"""Store and journal heal each other."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple

import duckdb
import pytest

from store import (
    comparisons,
    completions,
    judgments,
    mending,
    practice,
    preferences,
    prompts,
    reviews,
    settings,
)
from store.db import Store
from store.errors import StoreUnavailable
from store.journal import Kind
from store.mending import Mending
from store.practice import NewItem
from store.records import (
    Comparison,
    CriterionJudgment,
    Decision,
    Flag,
    Judgment,
    Lease,
    PracticeItem,
    Purpose,
    Review,
    Split,
)
from store.reviews import Stage
from tests.builders import (
    Clock,
    judge,
    make_comparison,
    make_completion,
    make_judgment,
    make_prompt,
)
from tests.disks import files_no_larger_than


def lines_of(journal: Path, kind: Kind) -> list[str]:
    return [x for x in journal.read_text("utf-8").splitlines() if json.loads(x)["kind"] == kind]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder for a store that is stopped and opened again."""
    return tmp_path / "stopped"


@pytest.fixture
def recorded(folder: Path, clock: Clock) -> list[Judgment]:
    """Three judgments in a store that was closed well; without seq, as they were sent."""
    store = Store(folder, clock=clock)
    comparisons = [make_comparison(store) for _ in range(3)]
    said = [make_judgment(c, recorded_at=clock.now, reason="因为 é") for c in comparisons]
    for judgment in said:
        judgments.record(store, judgment)
    store.close()
    return said


@pytest.fixture
def reopen(folder: Path, clock: Clock) -> Iterator[Callable[[], Store]]:
    """Opens the stopped store, and closes it after the test."""
    opened: list[Store] = []

    def open_again() -> Store:
        opened.append(Store(folder, clock=clock))
        return opened[-1]

    yield open_again
    for store in opened:
        store.close()


@pytest.mark.usefixtures("recorded")
def test_a_store_that_closed_well_needs_no_mending(reopen: Callable[[], Store]) -> None:
    assert mending.mend(reopen()) == Mending(0, 0, 0)


def test_judgments_that_the_store_lost_come_back_from_the_journal(
    recorded: list[Judgment], reopen: Callable[[], Store], folder: Path
) -> None:
    (folder / "whetstone.duckdb").unlink()
    store = reopen()

    assert mending.mend(store) == Mending(3, 0, 0)
    for said in recorded:
        found = judgments.get(store, said.id)
        assert found is not None
        assert replace(found, seq=0) == said


@pytest.mark.usefixtures("recorded")
def test_judgments_after_a_lost_write_ahead_log_come_back(
    reopen: Callable[[], Store], folder: Path, tmp_path: Path
) -> None:
    store = reopen()
    late = make_judgment(make_comparison(store))
    judgments.record(store, late)
    copy = tmp_path / "without log"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*.wal"))

    healed = Store(copy)
    try:
        assert judgments.get(healed, late.id) is None
        assert mending.mend(healed) == Mending(1, 0, 0)
        assert judgments.get(healed, late.id) is not None
    finally:
        healed.close()


@pytest.mark.usefixtures("recorded")
def test_judgments_that_the_journal_lost_are_written_into_it_again(
    reopen: Callable[[], Store], folder: Path
) -> None:
    journal = folder / "judgments.jsonl"
    said = lines_of(journal, Kind.JUDGMENT)
    journal.write_text(said[0] + "\n", "utf-8")

    assert mending.mend(reopen()) == Mending(0, 2, 0)
    assert sorted(lines_of(journal, Kind.JUDGMENT)) == sorted(said)


@pytest.mark.usefixtures("recorded")
def test_a_torn_last_line_is_counted_and_mended(reopen: Callable[[], Store], folder: Path) -> None:
    journal = folder / "judgments.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])

    assert mending.mend(reopen()) == Mending(0, 1, 1)


def test_what_follows_a_torn_line_is_not_glued_to_it(
    recorded: list[Judgment], reopen: Callable[[], Store], folder: Path
) -> None:
    journal = folder / "judgments.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    store = reopen()
    late = make_judgment(make_comparison(store))
    judgments.record(store, late)
    store.close()
    (folder / "whetstone.duckdb").unlink()

    healed = reopen()
    mending.mend(healed)

    assert judgments.get(healed, late.id) is not None
    assert [judgments.get(healed, j.id) is not None for j in recorded] == [True, True, False]


@pytest.mark.usefixtures("recorded")
def test_mending_twice_changes_nothing_more(reopen: Callable[[], Store], folder: Path) -> None:
    (folder / "whetstone.duckdb").unlink()
    store = reopen()
    mending.mend(store)

    assert mending.mend(store) == Mending(0, 0, 0)


@pytest.mark.usefixtures("recorded")
def test_a_line_without_a_kind_is_a_judgment(reopen: Callable[[], Store], folder: Path) -> None:
    journal = folder / "judgments.jsonl"
    journal.write_text(journal.read_text("utf-8").replace('"kind": "judgment", ', ""), "utf-8")
    (folder / "whetstone.duckdb").unlink()

    assert mending.mend(reopen()) == Mending(3, 0, 0)


def test_a_line_that_the_store_refuses_does_not_keep_the_others_out(
    recorded: list[Judgment], reopen: Callable[[], Store], folder: Path
) -> None:
    journal = folder / "judgments.jsonl"
    journal.write_text(journal.read_text("utf-8").replace('"strength": 1', '"strength": 9', 1))
    (folder / "whetstone.duckdb").unlink()
    store = reopen()

    assert mending.mend(store) == Mending(2, 0, 1)
    assert [judgments.get(store, j.id) is not None for j in recorded] == [False, True, True]


@pytest.mark.usefixtures("recorded")
def test_a_disk_that_fails_is_no_damage_of_the_lines(
    reopen: Callable[[], Store], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "whetstone.duckdb").unlink()
    store = reopen()

    def fail(*_: object) -> None:
        raise duckdb.IOException("Input/output error")

    monkeypatch.setattr(judgments, "insert_imported", fail)
    with pytest.raises(duckdb.IOException):
        mending.mend(store)
    monkeypatch.undo()

    assert mending.mend(store) == Mending(3, 0, 0)


# What people judged comes back together with what they said of it.


class Work(NamedTuple):
    """What was stored after the last checkpoint, and a copy of the folder without its log."""

    comparison: Comparison
    lease: Lease
    copy: Path


@pytest.fixture
def work(store: Store, clock: Clock, tmp_path: Path) -> Work:
    """A comparison made, shown and judged since the last checkpoint, and then lost."""
    mending.mend(store)
    clock.advance(seconds=60)
    asked = make_prompt("¿Qué tal?", system="Be kind.", language="es", split=Split.HELD_OUT)
    comparison = make_comparison(store, prompt=asked, policy_versions=["pol-1", None], seed=7)
    lease = Lease("lease", comparison.id, "ana", (1, 0), clock.now, clock.now + timedelta(hours=1))
    comparisons.record_leases(store, [lease])
    judgments.record(store, make_judgment(comparison, lease_id=lease.id))
    return Work(comparison, lease, copy_without_log(store, tmp_path / "without log"))


def copy_without_log(store: Store, copy: Path) -> Path:
    """The folder as it is when its process is killed and the write-ahead log is lost."""
    shutil.copytree(store.folder, copy, ignore=shutil.ignore_patterns("*.wal"))
    return copy


def test_a_lost_comparison_comes_back_with_its_prompt_and_completions(
    store: Store, work: Work, clock: Clock
) -> None:
    healed = Store(work.copy, clock=clock)
    try:
        assert comparisons.progress(healed) == []
        assert mending.mend(healed) == Mending(1, 0, 0)
        assert comparisons.get(healed, work.comparison.id) == work.comparison
        asked, ids = work.comparison.prompt_id, work.comparison.completion_ids
        assert prompts.get(healed, asked) == prompts.get(store, asked)
        assert completions.get_many(healed, ids) == completions.get_many(store, ids)
        assert comparisons.progress(healed) == comparisons.progress(store)
        assert times_of_comparisons(healed) == times_of_comparisons(store) == [clock.now]
    finally:
        healed.close()


def times_of_comparisons(store: Store) -> list[object]:
    with store.read() as cursor:
        found = cursor.execute("SELECT created_at FROM comparisons ORDER BY 1").fetchall()
    return [row[0] for row in found]


def test_a_lost_lease_comes_back_as_it_was(work: Work, clock: Clock) -> None:
    healed = Store(work.copy, clock=clock)
    try:
        mending.mend(healed)
        assert comparisons.get_lease(healed, work.lease.id) == work.lease
    finally:
        healed.close()


def test_a_lost_rewrite_comes_back_with_all_that_its_judgment_says(
    store: Store, clock: Clock, tmp_path: Path
) -> None:
    comparison = make_comparison(store, ("One.", "Two.", "Three."))
    written = make_completion(make_prompt(), "Better than all.")
    said = replace(
        make_judgment(comparison, ranks=(2, 1, None)),
        rewrite_completion_id=written.id,
        criteria=(CriterionJudgment("harmless", "thumbs", ratings=(1, None, 0)),),
        reasons=("clearer",),
        flags=(Flag("unsafe", comparison.completion_ids[2]),),
    )
    saved = judgments.submit(store, said, rewrite=written).result()

    healed = Store(copy_without_log(store, tmp_path / "without log"), clock=clock)
    try:
        mending.mend(healed)
        assert judgments.get(healed, said.id) == saved
        assert completions.get_many(healed, [written.id]) == {written.id: written}
    finally:
        healed.close()


def test_what_is_lost_twice_comes_back_twice(work: Work, clock: Clock, tmp_path: Path) -> None:
    first = Store(work.copy, clock=clock)
    mending.mend(first)
    second = Store(copy_without_log(first, tmp_path / "again"), clock=clock)
    try:
        mending.mend(second)
        assert comparisons.get(second, work.comparison.id) == work.comparison
        assert len(judgments.of_annotator(second, "ana", limit=9)) == 1
    finally:
        first.close()
        second.close()


# What leads decide and write comes back too.


class Led(NamedTuple):
    """What a lead has done in a store that was closed well."""

    reviews: list[Review]
    stages: dict[Stage, int]
    items: list[PracticeItem]


def flag(store: Store, comparison: Comparison, annotator_id: str = "ana") -> Judgment:
    said = make_judgment(comparison, annotator_id=annotator_id)
    told = Flag("unsafe", comparison.completion_ids[0])
    return judgments.record(store, replace(said, flags=(told,)))


def decide(store: Store, comparison: Comparison, decision: Decision, *, seen: Judgment) -> Review:
    review = Review(
        id=f"{decision} {comparison.id}",
        comparison_id=comparison.id,
        decision=decision,
        annotator_id="lea",
        recorded_at=store.clock(),
        note="看过了",
        seen_seq=seen.seq,
    )
    reviews.record(store, review)
    return review


def write_practice(store: Store, number: int) -> PracticeItem:
    prompt = make_prompt(f"Practice {number}?")
    texts = (make_completion(prompt, "Good."), make_completion(prompt, "Bad."))
    made = Comparison(f"practice {number}", prompt.id, (texts[0].id, texts[1].id), Purpose.PRACTICE)
    item = PracticeItem(made.id, texts[0].id, "It greets.", "lea", store.clock())
    practice.add(store, [NewItem(item, made, prompt, texts)])
    return item


def all_reviews(store: Store) -> list[Review]:
    with store.read() as cursor:
        found = cursor.execute("SELECT comparison_id FROM reviews ORDER BY seq").fetchall()
    return [reviews.latest(store, [row[0]])[row[0]] for row in found]


@pytest.fixture
def led(folder: Path, clock: Clock) -> Led:
    """Of three flagged comparisons one was kept, one flagged anew since, and one withdrawn.

    Judgments of an import came first: they are not journalled, so that seqs change when mended.
    """
    store = Store(folder, clock=clock)
    imported = [make_judgment(make_comparison(store), source="import") for _ in range(5)]
    store.write(lambda cursor: judgments.insert_imported(cursor, imported))
    kept, anew, withdrawn = (make_comparison(store) for _ in range(3))
    for comparison, decision in (
        (kept, Decision.KEPT),
        (anew, Decision.KEPT),
        (withdrawn, Decision.WITHDRAWN),
    ):
        decide(store, comparison, decision, seen=flag(store, comparison))
    flag(store, anew, "ben")
    for number in range(3):
        write_practice(store, number)
    clock.advance(seconds=60)
    practice.set_active(store, "practice 0", False)
    practice.set_active(store, "practice 1", False)
    clock.advance(seconds=60)
    practice.set_active(store, "practice 1", True)
    done = Led(all_reviews(store), reviews.count(store), practice.list_all(store))
    store.close()
    assert done.stages == {Stage.OPEN: 1, Stage.KEPT: 1, Stage.WITHDRAWN: 1}
    assert [item.is_active for item in done.items] == [False, True, True]
    return done


def test_decisions_and_practice_come_back_from_the_journal_alone(
    led: Led, reopen: Callable[[], Store], folder: Path
) -> None:
    (folder / "whetstone.duckdb").unlink()
    store = reopen()
    mending.mend(store)

    unseen = [replace(review, seen_seq=0) for review in led.reviews]
    assert [replace(review, seen_seq=0) for review in all_reviews(store)] == unseen
    assert reviews.count(store) == led.stages, "what a lead saw is known by other seqs too"
    assert practice.list_all(store) == led.items


def test_rows_of_leads_that_the_store_had_noted_come_back(
    led: Led, reopen: Callable[[], Store]
) -> None:
    store = reopen()
    mending.mend(store)
    for lost in ("reviews WHERE decision = 'withdrawn'", "practice_items WHERE seq = 2"):
        store.write(partial(duckdb.DuckDBPyConnection.execute, query=f"DELETE FROM {lost}"))
        mending.mend(store)

    assert reviews.count(store) == led.stages
    assert sorted(practice.list_all(store)) == sorted(led.items)


@pytest.mark.usefixtures("led")
def test_what_leads_changed_after_the_last_checkpoint_comes_back(
    reopen: Callable[[], Store], clock: Clock, tmp_path: Path
) -> None:
    store = reopen()
    mending.mend(store)
    clock.advance(seconds=60)
    practice.set_active(store, "practice 0", True)
    withdrawn = reviews.in_stage(store, Stage.WITHDRAWN, offset=0, limit=1)[0].comparison_id
    seen = flag(store, comparisons.get(store, withdrawn), "ben")
    decide(store, comparisons.get(store, withdrawn), Decision.KEPT, seen=seen)

    healed = Store(copy_without_log(store, tmp_path / "without log"), clock=clock)
    try:
        assert not practice.list_all(healed)[0].is_active
        mending.mend(healed)
        assert practice.list_all(healed) == practice.list_all(store)
        assert reviews.count(healed) == reviews.count(store)
        assert reviews.latest(healed, [withdrawn])[withdrawn].decision is Decision.KEPT
    finally:
        healed.close()


def test_a_journal_that_lost_its_end_takes_no_change_of_practice_back(
    led: Led, reopen: Callable[[], Store], folder: Path
) -> None:
    journal = folder / "judgments.jsonl"
    lines = journal.read_text("utf-8").splitlines(keepends=True)
    journal.write_text("".join(lines[:-1]), "utf-8")
    store = reopen()

    mending.mend(store)

    assert practice.list_all(store) == led.items


def test_a_note_of_an_older_version_has_the_journal_read_from_its_start(
    led: Led, reopen: Callable[[], Store]
) -> None:
    store = reopen()
    mending.mend(store)
    note = settings.get(store, "journal_mark", None)
    del note["leads"]
    store.write(lambda cursor: settings.put_within(cursor, "journal_mark", note))
    store.write(lambda cursor: cursor.execute("DELETE FROM reviews"))

    mending.mend(store)

    assert reviews.count(store) == led.stages


# What was compared once is not compared again.


@pytest.fixture
def mended(folder: Path, clock: Clock) -> list[Judgment]:
    """A store of a hundred judgments that was mended at its start and closed well."""
    store = Store(folder, clock=clock)
    mending.mend(store)
    said = [judge(store, make_comparison(store)) for _ in range(100)]
    store.close()
    return said


def spoil_the_first_line(folder: Path) -> None:
    """Whoever reads the journal from its start counts a line that cannot be read."""
    with (folder / "judgments.jsonl").open("r+b") as journal:
        journal.write(b"#")


@pytest.mark.usefixtures("mended")
def test_after_a_good_close_only_what_is_new_is_read(
    reopen: Callable[[], Store], folder: Path
) -> None:
    spoil_the_first_line(folder)

    assert mending.mend(reopen()) == Mending(0, 0, 0)


@pytest.mark.usefixtures("recorded")
def test_after_a_mending_only_what_is_new_is_read_even_without_a_good_close(
    reopen: Callable[[], Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mending, "FINGERPRINT_BYTES", 10)
    store = reopen()
    mending.mend(store)
    judge(store, make_comparison(store))
    copy = copy_without_log(store, tmp_path / "killed")
    spoil_the_first_line(copy)

    healed = Store(copy)
    try:
        assert mending.mend(healed) == Mending(1, 0, 0)
    finally:
        healed.close()


@pytest.mark.parametrize("kept", [0, 0.3, 0.99], ids=["emptied", "cut short", "torn"])
def test_a_journal_that_is_shorter_is_read_whole_and_completed(
    mended: list[Judgment], reopen: Callable[[], Store], folder: Path, kept: float
) -> None:
    journal = folder / "judgments.jsonl"
    whole = journal.read_bytes()
    journal.write_bytes(whole[: int(kept * len(whole))])

    mending.mend(reopen())

    text = journal.read_text("utf-8")
    assert [j.id for j in mended if text.count(f'"id": "{j.id}"') != 1] == []


@pytest.mark.usefixtures("mended")
def test_a_longer_journal_in_its_place_is_noticed(
    reopen: Callable[[], Store], folder: Path
) -> None:
    journal = folder / "judgments.jsonl"
    journal.write_bytes(b"\n" * 2 * journal.stat().st_size)

    assert mending.mend(reopen()) == Mending(0, 100, 0)


@pytest.mark.usefixtures("mended")
def test_a_store_that_lost_judgments_it_had_noted_gets_them_back(
    reopen: Callable[[], Store],
) -> None:
    store = reopen()
    store.write(lambda cursor: cursor.execute("DELETE FROM judgments WHERE seq = 50"))

    assert mending.mend(store) == Mending(1, 0, 0)


def test_a_lost_log_takes_the_note_with_it(
    store: Store, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    mending.mend(store)
    said = judge(store, make_comparison(store))
    no_room = shutil.disk_usage(tmp_path)._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: no_room)
    mending.mend(store)  # notes that all is compared, but is not checkpointed
    monkeypatch.undo()

    healed = Store(copy_without_log(store, tmp_path / "without log"), clock=clock)
    try:
        assert mending.mend(healed) == Mending(1, 0, 0)
        assert judgments.get(healed, said.id) is not None
        assert len(preferences.list_all(healed)) == 1
    finally:
        healed.close()


def test_a_note_that_was_checkpointed_covers_only_what_was_checkpointed_with_it(
    store: Store, tmp_path: Path, clock: Clock
) -> None:
    judge(store, make_comparison(store))
    mending.mend(store)
    late = judge(store, make_comparison(store))

    healed = Store(copy_without_log(store, tmp_path / "without log"), clock=clock)
    try:
        assert mending.mend(healed) == Mending(1, 0, 0)
        assert judgments.get(healed, late.id) is not None
    finally:
        healed.close()


def test_a_start_that_does_not_mend_notes_nothing(work: Work, clock: Clock) -> None:
    Store(work.copy, clock=clock).close()

    healed = Store(work.copy, clock=clock)
    try:
        assert mending.mend(healed) == Mending(1, 0, 0)
    finally:
        healed.close()


@pytest.mark.usefixtures("mended")
def test_a_judgment_that_is_not_in_the_journal_is_not_noted_as_if_it_were(
    reopen: Callable[[], Store], folder: Path
) -> None:
    store = reopen()
    mending.mend(store)
    comparison = make_comparison(store)
    full = files_no_larger_than((folder / "judgments.jsonl").stat().st_size)
    with full, pytest.raises(StoreUnavailable, match="disk is full"):
        judge(store, comparison)
    store.close()

    assert mending.mend(reopen()) == Mending(0, 1, 0)
