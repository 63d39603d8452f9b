"""The judging routes over real HTTP semantics, on a real store."""

from __future__ import annotations

import random
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from labeling.assignment import Assignment
from labeling.candidates import Waiting
from labeling.comparing import Comparing
from labeling.i18n import LANGUAGE_COOKIE
from labeling.project import Project
from labeling.routes import install_guards, judging_router, session_router
from labeling.sessions import Sessions, add_person
from store import judgments
from store.db import Store
from store.records import Role
from tests.builders import make_comparison
from training.messages import Message

PASSWORD = "correct horse"


def open_client(store: Store, *, is_single_person: bool = True, waiting: str = "") -> TestClient:
    web = FastAPI()
    sessions = Sessions(store, clock_s=lambda: 0.0, is_single_person=is_single_person)
    install_guards(web, only_loopback_hosts=is_single_person)
    web.include_router(
        session_router(sessions, lambda error, language: f"<p>{language} {error}</p>")
    )
    comparing = Comparing(store, Assignment(store, rng=random.Random(1)))
    web.include_router(
        judging_router(
            sessions, comparing, project=Project(store), waiting=lambda: Waiting(Message(waiting))
        )
    )
    return TestClient(web, base_url="http://127.0.0.1", raise_server_exceptions=False)


@pytest.fixture
def client(store: Store) -> TestClient:
    for i in range(4):
        make_comparison(
            store,
            (f"good {i}", f"bad {i}"),
            prompt=f"Question {i}?",
            policy_versions=("pol-000001", "pol-000000"),
        )
    return open_client(store)


def take(client: TestClient, want: int = 1) -> list[dict[str, Any]]:
    answer = client.post("/api/judging/items", json={"want": want, "held": []})
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


def verdict(lease_id: str, **changes: Any) -> dict[str, Any]:
    return {
        "id": "j1",
        "lease_id": lease_id,
        "verdict": "preferred",
        "place": 0,
        "strength": 2,
        "reason": None,
        "duration_ms": 800,
        **changes,
    }


def test_an_answered_judgment_is_in_the_store(store: Store, client: TestClient) -> None:
    (item,) = take(client)
    answer = client.post("/api/judging/judgments", json=verdict(item["lease_id"]))
    assert answer.status_code == 200
    assert answer.json()["progress"]["judged_by_me"] == 1
    assert judgments.get(store, "j1") is not None


def test_no_answer_before_the_verdict_names_a_policy(client: TestClient) -> None:
    answers = [
        client.get("/api/me"),
        client.post("/api/judging/items", json={"want": 4, "held": []}),
    ]
    for answer in answers:
        everything = answer.text + repr(answer.headers)
        assert "pol-" not in everything
        assert "adapter" not in everything


def test_undo_gives_the_item_back(client: TestClient) -> None:
    (item,) = take(client)
    client.post("/api/judging/judgments", json=verdict(item["lease_id"]))
    answer = client.post("/api/judging/undo", json={"id": "u1", "judgment_id": "j1"})
    assert answer.json()["item"]["responses"] == item["responses"]


def test_why_there_is_nothing_to_judge_is_said(store: Store) -> None:
    client = open_client(store, waiting="The policy is still loading.")
    answer = client.post("/api/judging/items", json={"want": 3, "held": []}).json()
    assert answer["items"] == []
    assert answer["waiting"]["reason"] == "The policy is still loading."


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"verdict": "preferred", "place": None}, 422, "place"),
        ({"verdict": "nonsense"}, 422, "verdict"),
        ({"lease_id": "nonsense"}, 404, "reload"),
    ],
)
def test_a_refused_judgment_says_why(
    client: TestClient, body: dict[str, Any], status: int, says: str
) -> None:
    (item,) = take(client)
    answer = client.post("/api/judging/judgments", json=verdict(item["lease_id"]) | body)
    assert answer.status_code == status
    assert says in answer.json()["error"]


def test_a_signed_out_page_is_told_so(store: Store) -> None:
    client = open_client(store, is_single_person=False)
    assert client.get("/api/me").status_code == 401
    assert client.get("/", follow_redirects=False).headers["location"] == "/login"


def test_signing_in_opens_the_page_of_ones_role_and_signing_out_closes_it(store: Store) -> None:
    add_person(store, "Ana", Role.ANNOTATOR, PASSWORD)
    client = open_client(store, is_single_person=False)
    answer = client.post(
        "/login", data={"name": "Ana", "password": PASSWORD}, follow_redirects=False
    )
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert client.get("/", follow_redirects=False).headers["location"] == "/label/"
    client.post("/logout", follow_redirects=False)
    assert client.get("/api/me").status_code == 401


def test_a_wrong_password_shows_the_login_page_again(store: Store) -> None:
    client = open_client(store, is_single_person=False)
    answer = client.post("/login", data={"name": "Ana", "password": "wrong horse"})
    assert answer.status_code == 401
    assert "Name or password is wrong" in answer.text


def test_another_site_cannot_send_requests(client: TestClient) -> None:
    answer = client.post(
        "/api/judging/items",
        json={"want": 1, "held": []},
        headers={"origin": "https://evil.example"},
    )
    assert answer.status_code == 403


def test_a_rebound_name_is_refused_where_nobody_signs_in(client: TestClient) -> None:
    answer = client.get("/api/me", headers={"host": "evil.example"})
    assert answer.status_code == 403


def test_every_answer_carries_the_security_headers(client: TestClient) -> None:
    headers = client.get("/api/me").headers
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


def test_a_closed_store_is_a_503_that_says_so(store: Store, client: TestClient) -> None:
    (item,) = take(client)
    store.close()
    answer = client.post("/api/judging/judgments", json=verdict(item["lease_id"]))
    assert answer.status_code == 503
    assert "start Whetstone again" in answer.json()["error"]


def test_the_page_learns_the_projects_name_and_scale(client: TestClient) -> None:
    me = client.get("/api/me").json()
    assert (me["project"], me["scale"]) == ("Customer support", "plain")


def test_without_guidelines_the_page_is_told_so(client: TestClient) -> None:
    answer = client.post("/api/judging/items", json={"want": 1, "held": []}).json()
    assert answer["guidelines_version"] is None
    assert client.get("/api/judging/guidelines").status_code == 404


def test_the_sign_in_page_speaks_the_language_that_the_browser_asks_for(store: Store) -> None:
    client = open_client(store, is_single_person=False)
    for asked, language in [("zh-CN,zh;q=0.9,en;q=0.8", "zh"), ("en,zh;q=0.5", "en"), ("fr", "en")]:
        answer = client.get("/login", headers={"Accept-Language": asked})
        assert answer.text == f"<p>{language} </p>"


def test_what_goes_wrong_is_said_in_the_language_that_the_person_chose(client: TestClient) -> None:
    client.cookies.set(LANGUAGE_COOKIE, "zh")

    refused = client.get("/api/judging/items/unknown")

    assert refused.json()["error"] == "没有租约 unknown；请刷新页面以获取当前内容。"


def test_why_there_is_nothing_to_judge_is_said_in_the_language_of_the_browser(
    store: Store,
) -> None:
    waiting = "New responses are being written. They will appear here by themselves."
    client = open_client(store, waiting=waiting)

    asked = {"want": 1, "held": []}
    chinese = client.post("/api/judging/items", json=asked, headers={"Accept-Language": "zh-CN"})
    english = client.post("/api/judging/items", json=asked, headers={"Accept-Language": "de"})

    assert chinese.json()["waiting"]["reason"] == "正在生成新的回复，会自动出现在这里。"
    assert english.json()["waiting"]["reason"] == waiting
