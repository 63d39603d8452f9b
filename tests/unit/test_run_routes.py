"""The report of a run over real HTTP semantics: for leads, and only where there is one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from labeling.i18n import LANGUAGE_COOKIE
from labeling.launching import Launching
from labeling.routes import install_guards, run_router, session_router
from labeling.sessions import Sessions, add_person
from store import policies, runs
from store.db import Store
from store.records import Role
from tests.builders import judge_duel
from training.config import RunSpec
from training.methods.dpo import DPOOptions
from training.rundir import Outcome, RunDir, RunResult
from training.runs import RunService

PASSWORD = "correct horse"
BETTER = {"win_rate": {"rate": 0.9, "low": 0.8, "high": 0.95, "n": 50}, "verdicts": []}
PAGE = "<!DOCTYPE html><html><body>It went well.</body></html>"


@pytest.fixture
def run_dir(store: Store, tmp_path: Path) -> RunDir:
    made = RunDir(tmp_path / "run-1")
    made.path.mkdir()
    spec = RunSpec("run-1", "dpo", DPOOptions(), "starter", "pol-000000")
    made.spec_path.write_text(json.dumps(spec.to_json()))
    runs.create(
        store,
        id="run-1",
        method="dpo",
        spec={},
        snapshot_id="5" * 64,
        parent_version="pol-000000",
        folder=str(made.path),
        created_by="ana",
    )
    return made


@pytest.fixture
def web(store: Store, run_dir: RunDir) -> Iterator[FastAPI]:
    for name, role in (("Lea", Role.LEAD), ("Ana", Role.ANNOTATOR)):
        add_person(store, name, role, PASSWORD)
    sessions = Sessions(store, clock_s=lambda: 0.0, is_single_person=False)
    folder = run_dir.path.parent
    service = RunService(store, folder, base_model="nowhere", eval_prompts=list)
    with closing(service):
        made = FastAPI()
        install_guards(made, only_loopback_hosts=False)
        made.include_router(session_router(sessions, lambda error, _language: error))
        made.include_router(run_router(sessions, Launching(store, service, folder)))
        yield made


def client_of(web: FastAPI, name: str | None) -> TestClient:
    client = TestClient(web, base_url="http://127.0.0.1", raise_server_exceptions=False)
    if name:
        given = {"name": name, "password": PASSWORD}
        client.post("/login", data=given, follow_redirects=False)
    return client


def test_a_lead_reads_the_report_of_a_run(web: FastAPI, run_dir: RunDir) -> None:
    run_dir.report_path.write_text(PAGE)

    answer = client_of(web, "Lea").get("/api/runs/run-1/report")

    assert (answer.status_code, answer.text) == (200, PAGE)
    assert answer.headers["content-type"].startswith("text/html")
    assert "object-src 'none'" in answer.headers["content-security-policy"]


def test_the_report_tells_what_people_have_said_since(
    web: FastAPI, store: Store, run_dir: RunDir
) -> None:
    run_dir.report_path.write_text(PAGE)
    meet(store, wins=2, losses=10)
    run_dir.write_result(RunResult(Outcome.SUCCEEDED, report=BETTER))

    page = client_of(web, "Lea").get("/api/runs/run-1/report").text

    assert "By people, who did not know which was which" in page
    assert "2 won, 10 lost, 0 drawn" in page
    assert "People do not see what the reward model saw" in page


def test_the_file_of_a_report_that_was_read_says_what_the_page_said(
    web: FastAPI, store: Store, run_dir: RunDir
) -> None:
    run_dir.report_path.write_text(PAGE)
    meet(store, wins=2, losses=10)
    run_dir.write_result(RunResult(Outcome.SUCCEEDED, report=BETTER))

    page = client_of(web, "Lea").get("/api/runs/run-1/report").text

    assert "2 won, 10 lost" in run_dir.report_path.read_text(encoding="utf-8")
    assert run_dir.report_path.read_text(encoding="utf-8") == page


def test_a_report_is_read_where_its_file_cannot_be_written(
    web: FastAPI, store: Store, run_dir: RunDir
) -> None:
    run_dir.report_path.write_text(PAGE)
    meet(store, wins=2, losses=10)
    run_dir.write_result(RunResult(Outcome.SUCCEEDED, report=BETTER))
    run_dir.report_path.with_name("report.html.partial").mkdir()

    assert "2 won, 10 lost" in client_of(web, "Lea").get("/api/runs/run-1/report").text
    assert run_dir.report_path.read_text() == PAGE


def test_a_report_that_cannot_be_made_anew_is_what_the_run_wrote(
    web: FastAPI, store: Store, run_dir: RunDir, caplog: pytest.LogCaptureFixture
) -> None:
    run_dir.report_path.write_text(PAGE)
    meet(store, wins=1, losses=0)
    run_dir.write_result(RunResult(Outcome.SUCCEEDED, report={"win_rate": "torn"}))

    assert client_of(web, "Lea").get("/api/runs/run-1/report").text == PAGE
    assert "could not be made anew" in caplog.text


def meet(store: Store, *, wins: int, losses: int) -> None:
    """Let people judge the policy of `run-1` against the one before it."""
    for of_run, adapter in ((None, None), ("run-1", "/a")):
        policies.register(
            store,
            base_model="starter",
            parent_version="pol-000000" if of_run else None,
            adapter_path=adapter,
            adapter_sha256=adapter,
            run_id=of_run,
        )
    for number in range(wins + losses):
        sides = ("pol-000001", "pol-000000")
        judge_duel(store, *(sides if number < wins else sides[::-1]), prompt=f"Is it {number}?")


@pytest.mark.parametrize(("name", "status"), [("Ana", 403), (None, 401)])
def test_nobody_else_does(web: FastAPI, run_dir: RunDir, name: str | None, status: int) -> None:
    run_dir.report_path.write_text(PAGE)

    answer = client_of(web, name).get("/api/runs/run-1/report")

    assert answer.status_code == status
    assert "went well" not in answer.text


def test_a_run_without_a_report_says_so(web: FastAPI) -> None:
    client = client_of(web, "Lea")

    english = client.get("/api/runs/run-1/report")
    client.cookies.set(LANGUAGE_COOKIE, "zh")
    chinese = client.get("/api/runs/run-1/report")

    assert (english.status_code, chinese.status_code) == (404, 404)
    assert "Run run-1 has no report" in english.json()["error"]
    assert "没有报告" in chinese.json()["error"]


@pytest.mark.parametrize("id", ["run-2", "..%2Frun-1", "run-1%2F..%2F.."])
def test_only_runs_that_there_are_have_one(web: FastAPI, run_dir: RunDir, id: str) -> None:
    run_dir.report_path.write_text(PAGE)

    assert client_of(web, "Lea").get(f"/api/runs/{id}/report").status_code == 404
