"""The server is killed while four people judge: all that it had acknowledged is there after."""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from store import judgments, mending
from store.db import Store
from tests.e2e.conftest import PASSWORD, PEOPLE, RunningApp, fill_store, support_pairs
from tests.models import build_model

WANTED = 200
JUDGING = PEOPLE[:4]


class Crowd:
    """People who judge until the server is gone."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.acknowledged: list[str] = []
        self.halfway = threading.Event()

    def judge(self, name: str) -> None:
        """One person; ends when an answer fails to come."""
        with httpx.Client(base_url=self.url, timeout=20, trust_env=False) as client:
            client.post("/login", data={"name": name, "password": PASSWORD})
            while True:
                try:
                    self._judge_some(client)
                except httpx.HTTPError:
                    return

    def _judge_some(self, client: httpx.Client) -> None:
        reply = client.post("/api/judging/items", json={"want": 6, "held": []})
        items = reply.raise_for_status().json()["items"]
        for item in items:
            sent = {"id": uuid.uuid4().hex, "lease_id": item["lease_id"], "verdict": "tie"}
            client.post("/api/judging/judgments", json=sent).raise_for_status()
            self.acknowledged.append(sent["id"])
            if len(self.acknowledged) >= WANTED // 2:
                self.halfway.set()


def test_a_killed_server_loses_no_acknowledged_judgment(tmp_path: Path) -> None:
    data = tmp_path / "data"
    fill_store(data, support_pairs(WANTED), JUDGING)
    running = RunningApp(data, build_model(tmp_path / "model"), is_forked=False)
    crowd = Crowd(running.url)
    with ThreadPoolExecutor(len(JUDGING)) as pool:
        people = [pool.submit(crowd.judge, name) for name in JUDGING]
        assert crowd.halfway.wait(60)
        running.process.kill()
        for person in people:
            person.result()
    running.process.wait()

    store = Store(data)
    try:
        mending.mend(store)
        lost = [id for id in crowd.acknowledged if judgments.get(store, id) is None]
    finally:
        store.close()
    assert WANTED // 2 <= len(crowd.acknowledged) < WANTED
    assert lost == []
