"""Judging under load: simulated annotators over HTTP, and one person in a real Chromium.

The server is a process of its own and its comparisons are there already, so that nothing is
generated meanwhile. Server, clients and browser share the machine. The person presses a key every
`--press-every` seconds, first as near to the server as can be, then with a simulated round trip.
With `--history` all is done twice: on a store that is empty, and on one that has grown.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import quantiles
from typing import Any

import psutil
from playwright.sync_api import Browser, Page, Response, sync_playwright

from store.db import Store
from tests import stopwatch
from tests.bench import course, stock
from tests.bench.audit import audit
from tests.bench.crowd import Outcome, Plan
from tests.e2e.conftest import (
    CHROMIUM_FLAGS,
    PASSWORD,
    ROOT,
    RunningApp,
    chromium_path,
    wait_for_item,
)
from tests.models import build_model
from tests.stopwatch import Felt

PERSON = "dora"
KEYS = ("1", "2", "3", "0")
SAVED_TIMEOUT_MS = 60_000
FORMER_ANNOTATORS = 50  # who have a part in the history and are not there any more


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--annotators", type=int, default=30, help="besides the person")
    parser.add_argument("--think", type=float, default=2.0, help="seconds between two judgments")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long at least")
    parser.add_argument("--presses", type=int, default=120, help="of the person, each time")
    parser.add_argument("--press-every", type=float, default=0.3, metavar="SECONDS")
    parser.add_argument("--round-trip-ms", type=int, default=150, help="simulated, second time")
    parser.add_argument("--history", type=int, default=0, help="judgments given long before")
    parser.add_argument("--windows", type=int, default=0, help="tell the course in so many")
    parser.add_argument("--seed", type=int, default=0)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds as people feel them, and what was lost or given out twice."""
    say: Callable[[str], None] = (
        (lambda _: None) if options.json else lambda text: print(text, file=sys.stderr)
    )
    with tempfile.TemporaryDirectory() as folder:
        model = build_model(Path(folder) / "model")
        found = _measure(Path(folder) / "empty", model, options, history=0)
        say(json.dumps(found))
        if not options.history:
            return found | {"history": 0, "ack_p95_ratio_1m": None}
        grown = _measure(Path(folder) / "grown", model, options, history=options.history)
        say(json.dumps(grown))
    return found | {
        "lost": found["lost"] + grown["lost"],
        "double_leased": found["double_leased"] + grown["double_leased"],
        "history": options.history,
        "ack_p95_ratio_1m": round(grown["ack_p95_ms"] / found["ack_p95_ms"], 3),
        "with_history": grown,
    }


def _measure(
    data: Path, model: Path, options: argparse.Namespace, *, history: int
) -> dict[str, Any]:
    """One server on a store of its own, from its start to the reading of what it left."""
    names = [f"annotator-{i:03d}" for i in range(options.annotators)]
    stock_s = _seconds(lambda: _stock(data, names, options, history))
    began = time.perf_counter()
    running = RunningApp(data, model, is_forked=False)
    start_s = time.perf_counter() - began
    try:
        plan = Plan(running.url, names, PASSWORD, options.think, options.seconds, options.seed)
        with (
            Crowd(plan) as crowd,
            _open_browser() as browser,
            course.Watch(running.process.pid) as watch,
        ):
            person = Person(browser, running.url)
            server = _Usage(running.process.pid)
            crowd.go()
            near = person.judge(options.presses, every_s=options.press_every)
            person.set_round_trip(options.round_trip_ms)
            far = person.judge(options.presses, every_s=options.press_every)
            outcome = crowd.finish()
            acknowledged = [*outcome.acknowledged, *person.acknowledged]
            used = server.read(len(acknowledged))
    finally:
        running.stop()
    store = Store(data)
    try:
        audited = audit(store, acknowledged)
    finally:
        store.close()
    far_suffix = f"_rtt{options.round_trip_ms}"
    return {
        "annotators": options.annotators,
        "think_s": options.think,
        "seconds": round(outcome.took_s, 1),
        **_felt(near, ""),
        **_felt(far, far_suffix),
        "press_every_s": options.press_every,
        f"round_trip_measured_ms{far_suffix}": round(person.round_trip_ms, 1),
        **_spread("ack", outcome.ack_ms),
        **_spread("items", outcome.items_ms),
        "offered_per_s": round(options.annotators / options.think, 2),
        "achieved_per_s": round(len(outcome.acknowledged) / outcome.took_s, 2),
        "judgments": len(acknowledged),
        "judgments_of_person": len(person.acknowledged),
        "retries": outcome.retries,
        "refused": outcome.refused,
        "starved": outcome.starved,
        "lost": audited.lost,
        "double_leased": audited.double_leased,
        "stock_s": round(stock_s, 1),
        "server_start_s": round(start_s, 1),
        **used,
        **_course(watch, outcome, options.windows),
    }


def _course(watch: course.Watch, outcome: Outcome, count: int) -> dict[str, Any]:
    """How it went on over time, where that is asked for."""
    if count < 3:
        return {}
    found = course.windows(
        watch.samples,
        outcome.acknowledged_at_s,
        outcome.ack_ms,
        began=outcome.began,
        count=count,
    )
    return {
        **course.summary(found, len(outcome.acknowledged)),
        "course": [asdict(window) for window in found],
    }


def _stock(data: Path, names: Sequence[str], options: argparse.Namespace, history: int) -> None:
    """Enough that nobody runs dry, though some judge faster and the machine may be slow."""
    presses = 2 * options.presses
    longest_s = max(options.seconds, presses * options.press_every * 2 + 60)
    wanted = int(len(names) * (2 * longest_s / options.think + 12)) + 2 * presses + 100
    store = Store(data)
    try:
        former = [f"former-{i:02d}" for i in range(FORMER_ANNOTATORS)] if history else []
        ids = stock.add_people(store, [PERSON, *names, *former], PASSWORD)
        if history:
            stock.add_history(store, history, ids)
        stock.add_waiting(store, wanted)
    finally:
        store.close()


class Crowd:
    """The process of `tests.bench.crowd`, everybody signed in and waiting for `go`."""

    def __init__(self, plan: Plan) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.crowd"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._say(json.dumps(asdict(plan)))
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != "ready":
            self._process.kill()
            raise RuntimeError("The simulated annotators could not begin; see above.")

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def go(self) -> None:
        """Everybody begins to judge."""
        self._say("go")

    def finish(self) -> Outcome:
        """Wait until they have judged as long as planned, and for what they saw."""
        printed, _ = self._process.communicate()
        return Outcome(**json.loads(printed))

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()


class Person:
    """Somebody at the compare page, who judges by key at a steady pace."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.acknowledged: list[str] = []
        self.round_trip_ms = 0.0  # as the page meets it, when one is simulated
        self._page = browser.new_page(viewport={"width": 1280, "height": 800}, locale="en-US")
        self._page.on("response", self._note)
        _sign_in(self._page, url)
        stopwatch.start(self._page)

    def judge(self, presses: int, *, every_s: float) -> list[Felt]:
        """Press as often, in turn each verdict's key; returns once all is saved."""
        due = time.perf_counter()
        for i in range(presses):
            due += every_s
            self._page.wait_for_timeout(max(0.0, due - time.perf_counter()) * 1000)
            self._page.keyboard.press(KEYS[i % len(KEYS)])
        self._page.wait_for_selector(
            '.ws-compare[data-unsent="0"]', state="attached", timeout=SAVED_TIMEOUT_MS
        )
        return stopwatch.take(self._page)

    def set_round_trip(self, ms: int) -> None:
        """Delay every answer from the server, as a distant one would."""
        session = self._page.context.new_cdp_session(self._page)
        session.send("Network.enable")
        session.send(
            "Network.emulateNetworkConditions",
            {"offline": False, "latency": ms, "downloadThroughput": -1, "uploadThroughput": -1},
        )
        self.round_trip_ms = self._page.evaluate(
            "async () => { const at = performance.now(); await fetch('/api/me');"
            " return performance.now() - at; }"
        )

    def _note(self, response: Response) -> None:
        if response.url.endswith("/api/judging/judgments") and response.ok:
            self.acknowledged.append((response.request.post_data_json or {})["id"])


def _sign_in(page: Page, url: str) -> None:
    page.goto(f"{url}/login")
    page.fill("#name", PERSON)
    page.fill("#password", PASSWORD)
    page.click("button[type=submit]")
    wait_for_item(page)


@contextmanager
def _open_browser() -> Iterator[Browser]:
    with sync_playwright() as api:
        path = chromium_path(api, "chromium")
        browser = api.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        try:
            yield browser
        finally:
            browser.close()


class _Usage:
    """Memory and processor time of the server, from now on, and of all that is not ours."""

    def __init__(self, server_pid: int) -> None:
        self._server = psutil.Process(server_pid)
        self._rss = self._server.memory_info().rss
        self._server_s, self._foreign_s = _spent_s([self._server]), _foreign_s()
        self._began = time.perf_counter()

    def read(self, judgments: int) -> dict[str, float]:
        """`foreign_cores` is how much of the machine was at work for somebody else."""
        took_s = time.perf_counter() - self._began
        server_s = _spent_s([self._server]) - self._server_s
        return {
            "server_rss_mb_start": round(self._rss / 2**20),
            "server_rss_mb_end": round(self._server.memory_info().rss / 2**20),
            "server_cores": round(server_s / took_s, 3),
            "server_cpu_ms_per_judgment": round(server_s * 1000 / max(1, judgments), 2),
            "foreign_cores": round(max(0.0, _foreign_s() - self._foreign_s) / took_s, 3),
        }


def _foreign_s() -> float:
    own = psutil.Process()
    all_ = psutil.cpu_times()
    return all_.user + all_.nice + all_.system - _spent_s([own, *own.children(recursive=True)])


def _spent_s(processes: Sequence[psutil.Process]) -> float:
    times = [process.cpu_times() for process in processes]
    return sum(t.user + t.system for t in times)


def _felt(felt: Sequence[Felt], suffix: str) -> dict[str, Any]:
    return {
        f"felt_n{suffix}": len(felt),
        f"felt_dom_p95_ms{suffix}": percentile([x.dom_ms for x in felt], 95),
        f"felt_painted_p95_ms{suffix}": percentile([x.painted_ms for x in felt], 95),
    }


def _spread(name: str, times_ms: Sequence[float]) -> dict[str, float | None]:
    return {f"{name}_p{p}_ms": percentile(times_ms, p) for p in (50, 95, 99)}


def percentile(values: Sequence[float], p: int) -> float | None:
    """Linear between the two nearest; None when there are too few to say."""
    if len(values) < 2:
        return None
    return round(quantiles(values, n=100, method="inclusive")[p - 1], 2)


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
