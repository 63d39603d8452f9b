"""The arena over real HTTP semantics: streamed lines, blind on the raw bytes, one's own only."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from labeling.arena import Arena
from labeling.arena_routes import arena_router
from labeling.assignment import Assignment
from labeling.candidates import Waiting
from labeling.comparing import Comparing
from labeling.project import Project
from labeling.routes import install_guards, judging_router, session_router
from labeling.sessions import Sessions, add_person
from store import judgments
from store.db import Store
from store.records import CriterionJudgment, Flag, Role
from tests.scripted import TIMEOUT_S, ScriptedPolicy, wait_until
from training.messages import Message
from training.policy import AdapterFolder, SamplingParams
from training.policy_host import PolicyHost

PASSWORD = "correct horse"
# Two versions whose names, hashes and seeds are easy to find in a stream of bytes.
NEW = AdapterFolder("pol-000007", Path("secret-run/adapter"), "5ec2e7" * 10)


@pytest.fixture
def policy() -> ScriptedPolicy:
    made = ScriptedPolicy(base_version="pol-000000")
    made.answer = lambda _version, seed: f"Please **wait** a moment {'xy'[seed % 2]}."
    return made


@pytest.fixture
def web(store: Store, policy: ScriptedPolicy) -> Iterator[FastAPI]:
    host = PolicyHost(lambda: policy)
    host.start()
    host.promote(NEW).result(TIMEOUT_S)
    assignment = Assignment(store, rng=random.Random(1))
    arena = Arena(
        store, host, assignment, sampling=SamplingParams(temperature=0.875), rng=random.Random(5)
    )
    for name in ("ana", "ben"):
        add_person(store, name, Role.ANNOTATOR, PASSWORD)
    sessions = Sessions(store, clock_s=lambda: 0.0, is_single_person=False)
    made = FastAPI()
    install_guards(made, only_loopback_hosts=False)
    made.include_router(session_router(sessions, lambda error, _language: error))
    made.include_router(
        judging_router(
            sessions,
            Comparing(store, assignment),
            project=Project(store),
            waiting=lambda: Waiting(Message("")),
        )
    )
    made.include_router(arena_router(sessions, arena))
    yield made
    arena.close()
    host.close()


def sign_in(web: FastAPI, name: str) -> TestClient:
    client = TestClient(web, base_url="http://127.0.0.1", raise_server_exceptions=False)
    client.post("/login", data={"name": name, "password": PASSWORD}, follow_redirects=False)
    return client


@pytest.fixture
def ana(web: FastAPI) -> TestClient:
    return sign_in(web, "ana")


def ask(client: TestClient, text: str = "Where is it?", **more: Any) -> dict[str, Any]:
    answer = client.post("/api/arena/turns", json={"text": text, **more})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def lines_of(client: TestClient, turn_id: str) -> list[dict[str, Any]]:
    answer = client.get(f"/api/arena/turns/{turn_id}/stream")
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    return [json.loads(line) for line in answer.text.splitlines() if line.strip()]


def test_a_stream_ends_with_both_responses_and_the_lease_to_judge_by(ana: TestClient) -> None:
    asked = ask(ana)
    assert asked["turn"]["state"] == "writing"
    lines = lines_of(ana, asked["turn"]["id"])
    done = {line["place"]: line for line in lines if line.get("done")}
    assert set(done) == {0, 1}
    assert "<strong>wait</strong>" in done[0]["html"]
    assert lines[-1]["ready"] is True

    body = {"id": "j1", "lease_id": lines[-1]["lease_id"], "verdict": "preferred"}
    body |= {"place": 1, "strength": 2}
    answer = ana.post("/api/judging/judgments", json=body)
    assert answer.json()["progress"]["judged_by_me"] == 1
    state = ana.get(f"/api/arena/conversations/{asked['id']}").json()
    assert state["turn"]["said"]["next_place"] == 1


def test_text_arrives_piece_by_piece(ana: TestClient, policy: ScriptedPolicy) -> None:
    policy.is_stepwise = True
    asked = ask(ana)
    found: dict[int, str] = {0: "", 1: ""}
    pieces = 0
    with ana.stream("GET", f"/api/arena/turns/{asked['turn']['id']}/stream") as answer:
        policy.step(30)
        for raw in answer.iter_lines():
            line = json.loads(raw) if raw.strip() else {}
            if "text" in line and "place" in line:
                pieces += 1
                found[line["place"]] = (
                    line["text"] if line.get("done") else found[line["place"]] + line["text"]
                )
    assert pieces >= 2
    assert all(text.startswith("Please **wait**") for text in found.values())


def test_nothing_before_the_verdict_tells_who_wrote_what(
    ana: TestClient, store: Store, policy: ScriptedPolicy
) -> None:
    raw: list[str] = []
    seeds: set[int] = set()
    versions: set[str] = set()
    for n in range(12):
        asked = ana.post("/api/arena/turns", json={"text": f"Question {n}?"})
        turn_id = asked.json()["turn"]["id"]
        stream = ana.get(f"/api/arena/turns/{turn_id}/stream")
        seen = [2, 3] if n % 2 else [500, 500]
        settled = ana.post(f"/api/arena/turns/{turn_id}/settle", json={"seen": seen})
        state = ana.get(f"/api/arena/conversations/{asked.json()['id']}")
        everyone = ana.get("/api/arena/conversations")
        # By its lease the judging page shows the turn too.
        item = ana.get(f"/api/judging/items/{state.json()['turn']['lease_id']}")
        for answer in (asked, stream, settled, state, everyone, item):
            assert answer.status_code == 200
            raw.append(answer.content.decode() + repr(answer.headers))
        store.clock.advance(seconds=10)  # type: ignore[attr-defined]
    for batch in policy.batches:
        versions.add(batch.version)
        seeds.update(batch.seeds)
    assert versions == {"pol-000000", "pol-000007"}
    everything = "".join(raw)
    with store.read() as cursor:
        ids = [row[0] for row in cursor.execute("SELECT id FROM completions").fetchall()]
    for secret in (*versions, "pol-", NEW.sha256, "secret-run", "0.875", "adapter", "seed", *ids):
        assert secret not in everything
    assert not [seed for seed in seeds if str(seed) in everything]


def test_what_is_said_beside_a_verdict_goes_by_a_lease_that_is_known_from_the_beginning(
    ana: TestClient, store: Store
) -> None:
    asked = ask(ana)
    assert set(asked["turn"]) == {"id", "number", "state", "lease_id", "responses", "said"}
    lease_id = asked["turn"]["lease_id"]
    assert lines_of(ana, asked["turn"]["id"])[-1]["lease_id"] == lease_id

    verdict = {"id": "j1", "lease_id": lease_id, "verdict": "preferred", "place": 1, "strength": 3}
    criterion = {"name": "Helpful", "scale": "plain", "place": 0, "strength": 2}
    notes = {
        "criteria": [criterion],
        "reasons": ["clearer"],
        "rationale": "It greets.",
        "flags": [{"kind": "unsafe", "place": 0}],
        "rewrite": {"text": "Hello.", "place": 1},
    }
    assert ana.post("/api/judging/judgments", json=verdict | notes).status_code == 200

    row = judgments.get(store, "j1")
    assert row is not None
    first, second = row.displayed_completion_ids
    assert row.criteria == (CriterionJudgment("Helpful", "plain", first, 2),)
    assert (row.reasons, row.rationale) == (("clearer",), "It greets.")
    assert row.flags == (Flag("unsafe", first),)
    assert row.rewritten_completion_id == row.preferred_completion_id == second


def test_another_persons_conversation_is_refused(web: FastAPI, ana: TestClient) -> None:
    asked = ask(ana)
    lines_of(ana, asked["turn"]["id"])
    ben = sign_in(web, "ben")
    turn = f"/api/arena/turns/{asked['turn']['id']}"
    assert ben.get(f"/api/arena/conversations/{asked['id']}").status_code == 403
    assert ben.get(f"{turn}/stream").status_code == 404
    assert ben.post(f"{turn}/stop").status_code == 404
    assert ben.post(f"{turn}/again").status_code == 403
    assert ben.post(f"{turn}/settle", json={"seen": [3, 3]}).status_code == 403
    more = {"text": "Mine now", "conversation_id": asked["id"]}
    assert ben.post("/api/arena/turns", json=more).status_code == 403
    assert ben.get("/api/arena/conversations").json() == {"conversations": []}


def test_nobody_signed_in_gets_nothing(web: FastAPI) -> None:
    client = TestClient(web, base_url="http://127.0.0.1")
    assert client.get("/api/arena/conversations").status_code == 401
    assert client.post("/api/arena/turns", json={"text": "Hi"}).status_code == 401


def test_a_problem_is_the_last_line(ana: TestClient, policy: ScriptedPolicy) -> None:
    policy.too_long.add("Where is it?")
    last = lines_of(ana, ask(ana)["turn"]["id"])[-1]
    assert (last["problem"], last["limit_tokens"]) == ("too_long", 512)


def test_a_response_that_is_written_again_is_told_without_a_reason(
    ana: TestClient, policy: ScriptedPolicy
) -> None:
    fails = iter([True])
    policy.answer = lambda _version, seed: "" if next(fails, False) else f"Fine {seed % 2}."
    lines = lines_of(ana, ask(ana)["turn"]["id"])
    again = [line for line in lines if line.get("again")]
    assert again
    assert all(set(line) == {"place", "again"} for line in again)
    assert lines[-1]["ready"] is True


def test_judged_before_the_end_the_verdict_is_on_what_was_seen(
    ana: TestClient, policy: ScriptedPolicy, store: Store
) -> None:
    policy.is_stepwise = True
    asked = ask(ana)
    turn = f"/api/arena/turns/{asked['turn']['id']}"
    policy.step(7)
    wait_until(lambda: len(policy.batches) > 0)

    def settle() -> bool:
        policy.step()
        answer = ana.post(f"{turn}/settle", json={"seen": [6, 6]})
        return answer.status_code == 200

    wait_until(settle)
    state = ana.get(f"/api/arena/conversations/{asked['id']}").json()
    assert [r["text"] for r in state["turn"]["responses"]] == ["Please", "Please"]
    body = {"id": "j9", "lease_id": state["turn"]["lease_id"], "verdict": "tie"}
    assert ana.post("/api/judging/judgments", json=body).status_code == 200
    assert judgments.get(store, "j9") is not None


def test_a_page_is_told_that_the_policy_still_loads(store: Store) -> None:
    may_load = threading.Event()

    def load_slowly() -> ScriptedPolicy:
        may_load.wait(TIMEOUT_S)
        return ScriptedPolicy()

    host = PolicyHost(load_slowly)
    host.start()
    assignment = Assignment(store, rng=random.Random(1))
    arena = Arena(store, host, assignment, sampling=SamplingParams(), rng=random.Random(5))
    sessions = Sessions(store, clock_s=lambda: 0.0, is_single_person=True)
    made = FastAPI()
    install_guards(made, only_loopback_hosts=True)
    made.include_router(arena_router(sessions, arena))
    client = TestClient(made, base_url="http://127.0.0.1")
    try:
        turn_id = ask(client)["turn"]["id"]
        threading.Timer(0.2, may_load.set).start()
        lines = lines_of(client, turn_id)
    finally:
        may_load.set()
        arena.close()
        host.close()
    assert lines[0] == {"waiting": True}
    assert lines[-1]["ready"] is True
