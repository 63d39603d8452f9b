"""Practice: known verdicts that everybody judges once and first, and that count nowhere."""

from __future__ import annotations

import json
import random
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from labeling.access import Actor
from labeling.assignment import Assignment
from labeling.comparing import Comparing, Item
from labeling.practice import Draft, Practice
from labeling.verdicts import VerdictGiven
from store import comparisons, exports, judgments, preferences, prompts
from store.db import Store
from store.errors import BadInput, Conflict, NotAllowed
from store.records import Role, Split, Verdict
from tests.builders import Clock, make_annotator, make_comparison
from tests.unit.test_routes import open_client

LEA = Actor("lea", "Lea", Role.LEAD)
ANA = Actor("ana", "Ana", Role.ANNOTATOR)
BEN = Actor("ben", "Ben", Role.ANNOTATOR)
SECRET = "Because it names the next step."
STEPS = Draft("How do I log in?", "Tap *Forgot password*.", "No idea.", "a", SECRET)
SAME = Draft("Where is it?", "On its way.", "It is on its way.", "tie", "Both say the same.")


@pytest.fixture
def practice(store: Store) -> Practice:
    made = Practice(store, rng=random.Random(3))
    made.add(LEA, STEPS)
    made.add(LEA, SAME)
    return made


@pytest.fixture
def assignment(store: Store) -> Assignment:
    for i in range(4):
        make_comparison(store, (f"good {i}", f"bad {i}"), prompt=f"Question {i}?")
    return Assignment(store, rng=random.Random(1))


@pytest.fixture
def comparing(store: Store, assignment: Assignment, practice: Practice) -> Comparing:
    return Comparing(store, assignment, practice)


def take(
    comparing: Comparing, actor: Actor, want: int, held: list[str] | None = None
) -> list[Item]:
    return comparing.items(actor, want=want, held=held or []).items


def answer(comparing: Comparing, actor: Actor, item: Item, text: str | None, id: str) -> Any:
    """Prefer the response with this text; None is a tie."""
    if text is None:
        given = VerdictGiven(id, item.lease_id, Verdict.TIE)
    else:
        place = [response.text for response in item.responses].index(text)
        given = VerdictGiven(id, item.lease_id, Verdict.PREFERRED, place=place, strength=2)
    return comparing.feedback(comparing.judge(actor, given).result())


def test_everybody_gets_each_active_item_once_and_before_all_others(comparing: Comparing) -> None:
    for actor in (ANA, BEN):
        items = take(comparing, actor, 3)
        numbers = [item.practice and tuple(item.practice) for item in items]
        assert numbers == [(1, 2), (2, 2), None]
        for item, text in zip(items[:2], (STEPS.response_a, None), strict=True):
            answer(comparing, actor, item, text, id=f"{actor.id}-{item.lease_id}")
        again = take(comparing, actor, 1, [items[2].lease_id])
        assert [item.practice for item in again] == [None]


def test_what_a_page_holds_is_neither_given_twice_nor_gone(comparing: Comparing) -> None:
    first = take(comparing, ANA, 1)
    held = [item.lease_id for item in first]

    again = comparing.items(ANA, want=1, held=held)

    assert again.gone == []
    assert again.items[0].practice is not None
    assert again.items[0].practice.number == 2
    answer(comparing, ANA, first[0], "No idea.", id="j")
    assert comparing.items(ANA, want=0, held=held).gone == []


def test_a_reload_and_a_restart_show_an_item_with_the_same_sides(
    store: Store, assignment: Assignment, comparing: Comparing
) -> None:
    (shown,) = take(comparing, ANA, 1)
    (reloaded,) = take(comparing, ANA, 1)
    restarted = Comparing(store, assignment, Practice(store, rng=random.Random(9)))

    (found,) = take(restarted, ANA, 1)

    assert shown.lease_id == reloaded.lease_id == found.lease_id
    assert [r.text for r in shown.responses] == [r.text for r in found.responses]


def test_sides_are_drawn_for_each_person_and_recorded(store: Store, comparing: Comparing) -> None:
    firsts = set()
    for n in range(12):
        (item,) = take(comparing, Actor(f"p{n}", f"P{n}", Role.ANNOTATOR), 1)
        firsts.add(item.responses[0].text)
        order = comparisons.get_lease(store, item.lease_id).display_order
        texts = (STEPS.response_a, STEPS.response_b)
        assert [texts[i] for i in order] == [r.text for r in item.responses]
    assert firsts == {STEPS.response_a, STEPS.response_b}


@pytest.mark.parametrize(
    ("text", "agrees"), [(STEPS.response_a, True), (STEPS.response_b, False), (None, False)]
)
def test_feedback_says_whether_the_verdict_is_the_expected_one(
    comparing: Comparing, text: str | None, agrees: bool
) -> None:
    for n in range(6):
        actor = Actor(f"p{n}", f"P{n}", Role.ANNOTATOR)
        (item,) = take(comparing, actor, 1)

        told = answer(comparing, actor, item, text, id=f"j{n}")

        assert told.agrees is agrees
        assert item.responses[told.expected_place].text == STEPS.response_a
        assert told.explanation == SECRET


def test_a_tie_is_expected_as_a_tie_and_ratings_prefer_the_higher_one(
    comparing: Comparing,
) -> None:
    steps, same = take(comparing, ANA, 2)
    told = answer(comparing, ANA, same, None, id="j1")
    assert (told.agrees, told.expected_place) == (True, None)

    ratings = [5 if r.text == STEPS.response_a else 2 for r in steps.responses]
    rated = VerdictGiven(
        "j2", steps.lease_id, Verdict.RATED, ratings=ratings, rating_scale="five_point"
    )
    said = comparing.feedback(comparing.judge(ANA, rated).result())
    assert said is not None
    assert said.agrees is True


def test_who_cannot_judge_neither_agrees_nor_is_asked_again(
    practice: Practice, comparing: Comparing
) -> None:
    steps, same = take(comparing, ANA, 2)
    skipped = VerdictGiven("j1", steps.lease_id, Verdict.SKIPPED, reason="off_topic")

    said = comparing.feedback(comparing.judge(ANA, skipped).result())

    assert said is not None
    assert said.agrees is None
    assert [i.practice and i.practice.number for i in take(comparing, ANA, 1)] == [2]
    answer(comparing, ANA, same, None, id="j2")
    assert [tuple(result) for result in practice.results(LEA)] == [("ana", 2, 1)]


def test_the_first_answer_stays(comparing: Comparing) -> None:
    (item,) = take(comparing, ANA, 1)
    answer(comparing, ANA, item, STEPS.response_b, id="j1")

    assert answer(comparing, ANA, item, STEPS.response_b, id="j1").agrees is False, "sent again"
    with pytest.raises(Conflict, match="answered once"):
        answer(comparing, ANA, item, STEPS.response_a, id="j2")
    with pytest.raises(Conflict, match="answered once"):
        comparing.undo(ANA, id="u1", judgment_id="j1")


def test_practice_is_in_no_count_and_nothing_is_derived_from_it(
    store: Store, assignment: Assignment, comparing: Comparing, practice: Practice, tmp_path: Path
) -> None:
    make_annotator(store, "lea", Role.LEAD)
    before = (assignment.counts(), comparing.progress(ANA))
    items = take(comparing, ANA, 2)
    answer(comparing, ANA, items[0], STEPS.response_a, id="j1")
    answer(comparing, ANA, items[1], None, id="j2")

    assert (assignment.counts(), comparing.progress(ANA)) == before
    again = Comparing(store, Assignment(store, rng=random.Random(1)), practice)
    assert again.progress(ANA) == before[1]
    assert Assignment(store, rng=random.Random(1)).counts() == before[0]
    assert sum(preferences.counts(store)) == 0
    for what in (exports.What.PREFERENCES, exports.What.ARENA):
        with pytest.raises(BadInput, match="to export yet"):
            exports.export(store, tmp_path, what=what, created_by="lea")
    raw = exports.export(store, tmp_path, what=exports.What.JUDGMENTS, created_by="lea")
    rows = [json.loads(line) for line in raw.path.read_text().splitlines()]
    assert [row["purpose"] for row in rows] == ["practice", "practice"]
    assert [row.is_practice for row in comparing.history(ANA, limit=9)] == [True, True]


def test_no_policy_is_asked_what_came_with_practice(store: Store, practice: Practice) -> None:
    assert practice.listed(LEA)
    assert prompts.count(store, split=Split.TRAIN) == 0
    assert prompts.tally(store) == []
    assert prompts.sample(store, 9, split=Split.TRAIN, seed=0) == []
    asked = prompts.least_compared(store, 9, split=Split.TRAIN, policy_version="pol-000001", seed=0)
    assert asked == []


def test_an_inactive_item_is_given_to_nobody_and_keeps_its_answers(
    store: Store, comparing: Comparing, practice: Practice
) -> None:
    (item,) = take(comparing, ANA, 1)
    answer(comparing, ANA, item, STEPS.response_a, id="j1")
    first = practice.listed(LEA)[0]

    practice.set_active(LEA, first.id, False)

    numbers = [i.practice and tuple(i.practice) for i in take(comparing, BEN, 2)]
    assert numbers == [(1, 1), None]
    assert [(r.answered, r.agreed) for r in practice.results(LEA)] == [(1, 1)]
    assert [x.is_active for x in Practice(store, rng=random.Random(1)).listed(LEA)] == [False, True]


def test_a_file_keeps_its_good_rows_and_names_the_bad_ones(store: Store, tmp_path: Path) -> None:
    practice = Practice(store, rng=random.Random(1))
    good = STEPS._asdict() | {"better": "B"}
    bad = [good | {"better": "left"}, {"prompt": "Hm?"}, good | {"response_b": good["response_a"]}]
    file = tmp_path / "practice.jsonl"
    file.write_text("\n".join(map(json.dumps, [good, *bad])) + "\n{torn")

    loaded = practice.load(LEA, file)

    assert loaded.added == 1
    assert [(row.line, row.field) for row in loaded.refused] == [
        (2, "better"),
        (3, "response_a"),
        (4, "response_b"),
        (5, ""),
    ]
    assert [(x.prompt, x.better) for x in practice.listed(LEA)] == [(STEPS.prompt, "b")]


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("prompt", "Prompt"),
        ("response_a", "Response A"),
        ("explanation", "Explanation"),
        ("better", "Expected verdict"),
    ],
)
def test_an_item_lacks_nothing(store: Store, field: str, name: str) -> None:
    with pytest.raises(BadInput, match=f"{name}: is empty"):
        Practice(store, rng=random.Random(1)).add(LEA, STEPS._replace(**{field: "  "}))


def test_only_leads_write_and_see_practice(practice: Practice, tmp_path: Path) -> None:
    for act in (
        lambda: practice.add(ANA, STEPS),
        lambda: practice.load(ANA, tmp_path / "x.jsonl"),
        lambda: practice.listed(ANA),
        lambda: practice.results(ANA),
        lambda: practice.set_active(ANA, "x", True),
    ):
        with pytest.raises(NotAllowed):
            act()


def test_the_expected_verdict_leaves_the_server_with_the_judgment_only(store: Store) -> None:
    Practice(store, rng=random.Random(1)).add(LEA, STEPS)
    client: TestClient = open_client(store)
    replies = [
        client.post("/api/judging/items", json={"want": 2, "held": []}),
        client.get("/api/me"),
        client.get("/api/judging/history"),
    ]
    (item,) = replies[0].json()["items"]
    replies.append(client.get(f"/api/judging/items/{item['lease_id']}"))
    for reply in replies:
        assert not {"expected", "explanation", "better", "agrees"} & _keys(reply.json())
        assert SECRET not in reply.text
    assert item["practice"] == {"number": 1, "total": 1}

    judged = client.post(
        "/api/judging/judgments",
        json={
            **{"id": "j", "lease_id": item["lease_id"], "verdict": "preferred"},
            **{"place": 0, "strength": 2},
        },
    ).json()

    expected = [r["text"] for r in item["responses"]].index(STEPS.response_a)
    told = judged["practice"]
    assert (told["agrees"], told["expected_place"]) == (expected == 0, expected)
    assert SECRET in told["explanation"]


def _keys(payload: object) -> set[str]:
    if isinstance(payload, dict):
        return set(payload) | {key for value in payload.values() for key in _keys(value)}
    if isinstance(payload, list):
        return {key for value in payload for key in _keys(value)}
    return set()


def test_a_streak_counts_days_in_a_row(store: Store, clock: Clock) -> None:
    make_annotator(store)
    day_s = 24 * 3600
    assignment = Assignment(store, rng=random.Random(1))
    comparing = Comparing(store, assignment)
    seen = []
    for day, judges in enumerate([True, True, False, True, True, False, False]):
        if judges:
            make_comparison(store, prompt=f"Day {day}?")
            assignment.reload()
            (item,) = take(comparing, ANA, 1)
            comparing.judge(ANA, VerdictGiven(item.lease_id, item.lease_id, Verdict.TIE)).result()
        seen.append((comparing.progress(ANA).streak_days, fresh(store).progress(ANA).streak_days))
        clock.advance(seconds=day_s)

    assert seen == [(n, n) for n in (1, 2, 2, 1, 2, 2, 0)]


def fresh(store: Store) -> Comparing:
    """What a restarted server knows."""
    return Comparing(store, Assignment(store, rng=random.Random(1)))


def test_undoing_the_only_judgment_of_a_day_takes_the_day_back(
    store: Store, comparing: Comparing
) -> None:
    item = take(comparing, ANA, 3)[2]
    comparing.progress(ANA)
    comparing.judge(ANA, VerdictGiven("j", item.lease_id, Verdict.TIE)).result()
    assert comparing.progress(ANA).streak_days == 1

    comparing.undo(ANA, id="u", judgment_id="j")

    assert comparing.progress(ANA).streak_days == 0
    assert asdict(fresh(store).progress(ANA)) == asdict(comparing.progress(ANA))
    assert judgments.get(store, "u") is not None
