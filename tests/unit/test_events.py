from __future__ import annotations

import json
from pathlib import Path

from training.events import Event, EventKind, EventReader, EventWriter, worked_s


def test_what_was_written_is_read_in_order_and_numbered_from_zero(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    writer = EventWriter(path, clock=lambda: 7.5)
    writer.write(EventKind.PHASE, name="loading")
    writer.write(EventKind.PROGRESS, step=1, total=9)
    events = EventReader(path).read()
    assert [(e.seq, e.at, e.kind) for e in events] == [(0, 7.5, "phase"), (1, 7.5, "progress")]
    assert events[1].data == {"step": 1, "total": 9}


def test_a_reader_sees_each_event_once_and_at_once(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    reader = EventReader(path)
    assert reader.read() == []
    writer = EventWriter(path)
    for name in ("loading", "preparing"):
        writer.write(EventKind.PHASE, name=name)
        assert [e.data["name"] for e in reader.read()] == [name]
    assert reader.read() == []


def test_a_torn_tail_waits_until_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    line = b'{"seq": 0, "at": 1.0, "kind": "phase", "data": {"name": "\xe5\xad\x97"}}\n'
    reader = EventReader(path)
    path.write_bytes(line[:-12])
    assert reader.read() == []
    path.write_bytes(line)
    assert [e.data["name"] for e in reader.read()] == ["字"]


def test_a_writer_that_takes_over_goes_on_numbering_behind_the_last_whole_line(
    tmp_path: Path,
) -> None:
    path = tmp_path / "events.jsonl"
    first = EventWriter(path)
    first.write(EventKind.PHASE, name="loading")
    first.write(EventKind.PHASE, name="training")
    first.close()
    reader = EventReader(path)
    reader.read()
    with path.open("ab") as file:
        file.write(b'{"seq": 2, "at": 1.0, "ki')
    EventWriter(path).write(EventKind.WARNING, message="resumed")
    assert [(e.seq, e.kind) for e in reader.read()] == [(2, "warning")]
    assert [e.seq for e in EventReader(path).read()] == [0, 1, 2]


def test_a_damaged_line_is_left_out_and_the_rest_is_read(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    good = json.dumps({"seq": 5, "at": 1.0, "kind": "phase", "data": {}})
    path.write_text(f"\0\0\0\n[1]\n{good}\n")
    assert [e.seq for e in EventReader(path).read()] == [5]


def test_numbers_that_are_not_finite_become_null(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    EventWriter(path).write(EventKind.METRICS, loss=float("nan"), rows=[float("inf"), 1.0])
    data = json.loads(path.read_text(), parse_constant=lambda text: f"not JSON: {text}")["data"]
    assert data == {"loss": None, "rows": [None, 1.0]}


def test_the_time_between_two_trainers_of_a_run_is_no_work() -> None:
    def entered(at: float, name: str) -> Event:
        return Event(0, at, EventKind.PHASE, {"name": name})

    first = [entered(10.0, "loading"), entered(15.0, "training"), Event(0, 40.0, "metrics", {})]
    second = [entered(1000.0, "loading"), entered(1004.0, "training")]
    assert worked_s(first) == 30.0
    assert worked_s([*first, *second]) == 34.0
    assert worked_s([]) == 0.0
