"""Simulated annotators in a process of their own, as many HTTP clients of the judging routes.

Each does what the page's script does: holds six items, asks for more at three, sends a judgment
under an id of its own and sends it again when no answer came. Spoken to over standard input: a
line with a `Plan` signs everybody in and is answered by `ready`; `go` begins; the end of the input
ends it, though not before `seconds` have passed, and an `Outcome` is printed. What they see is
timed here, so this process must have little to do itself.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from dataclasses import asdict, dataclass, field
from http import HTTPStatus
from typing import Any

import aiohttp
import uvloop

from store import ids

TARGET_ITEMS = 6
LOW_MARK = 3
TIMEOUT_S = 20
TRIES = 5
AT_THE_DOOR = 2  # sign-ins at once; more are turned away
VERDICTS: tuple[dict[str, Any], ...] = (
    {"verdict": "preferred", "place": 0, "strength": 2},
    {"verdict": "preferred", "place": 1, "strength": 2},
    {"verdict": "tie"},
)


@dataclass(frozen=True)
class Plan:
    """Who judges, how often (every `think_s`, give or take a half) and how long at least."""

    url: str
    names: list[str]
    password: str
    think_s: float
    seconds: float
    seed: int


@dataclass
class Outcome:
    """What all of them together saw. `starved`: times when somebody had nothing to judge."""

    acknowledged: list[str] = field(default_factory=list)
    acknowledged_at_s: list[float] = field(default_factory=list)  # since they began
    ack_ms: list[float] = field(default_factory=list)
    items_ms: list[float] = field(default_factory=list)
    sent: int = 0
    retries: int = 0
    refused: int = 0
    starved: int = 0
    took_s: float = 0.0
    began: float = 0.0  # of `time.perf_counter`, which all processes of a machine share


class Annotator:
    """One signed-in client. A judgment waits for the one before, as in the page's outbox."""

    def __init__(self, plan: Plan, name: str, outcome: Outcome) -> None:
        self._plan = plan
        self._name = name
        self._outcome = outcome
        self._rng = random.Random(f"{plan.seed} {name}")
        self._client = aiohttp.ClientSession(
            plan.url,
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
            cookie_jar=aiohttp.CookieJar(unsafe=True),  # also of a host without a name
        )
        self._items: list[str] = []  # lease ids
        self._unsent: list[str] = []
        self._refilling: asyncio.Task[None] | None = None

    async def sign_in(self) -> None:
        """Through the form; then get the first items."""
        given = {"name": self._name, "password": self._plan.password}
        async with self._client.post("/login", data=given, allow_redirects=False) as reply:
            if reply.status != HTTPStatus.SEE_OTHER:
                raise SystemExit(f"{self._name} could not sign in: HTTP {reply.status}")
        await self._refill()

    async def judge(self, stop: asyncio.Event) -> None:
        """Until told to stop. What is late is not made up for by going faster than one can."""
        clock = asyncio.get_running_loop().time
        due = clock() + self._rng.random() * self._plan.think_s
        while True:
            await asyncio.sleep(due - clock())
            if stop.is_set():
                break
            due += self._rng.uniform(0.5, 1.5) * self._plan.think_s
            if self._items:
                self._unsent.append(self._items.pop(0))
            self._top_up()
            if self._unsent:
                await self._send(self._unsent[0])
                self._unsent.clear()
            else:
                self._outcome.starved += 1
        if self._refilling:
            await self._refilling
        await self._client.close()

    def _top_up(self) -> None:
        is_refilling = self._refilling is not None and not self._refilling.done()
        if len(self._items) <= LOW_MARK and not is_refilling:
            self._refilling = asyncio.create_task(self._refill())

    async def _refill(self) -> None:
        wanted = {"want": TARGET_ITEMS - len(self._items), "held": self._items + self._unsent}
        began = time.perf_counter()
        try:
            async with self._client.post("/api/judging/items", json=wanted) as reply:
                text = await reply.read()
        except (aiohttp.ClientError, TimeoutError):
            self._outcome.retries += 1
            return
        if not reply.ok:
            self._outcome.retries += 1
            return
        self._outcome.items_ms.append((time.perf_counter() - began) * 1000)
        found = json.loads(text)
        known = {*self._items, *self._unsent}
        self._items = [id for id in self._items if id not in found["gone"]]
        self._items += [x["lease_id"] for x in found["items"] if x["lease_id"] not in known]

    async def _send(self, lease_id: str) -> None:
        verdict = self._rng.choice(VERDICTS)
        body = {"id": ids.time_ordered(), "lease_id": lease_id, "duration_ms": 2000, **verdict}
        self._outcome.sent += 1
        began = time.perf_counter()
        for attempt in range(TRIES):
            status = await self._post(body)
            if status == HTTPStatus.OK:
                self._outcome.ack_ms.append((time.perf_counter() - began) * 1000)
                self._outcome.acknowledged.append(body["id"])
                self._outcome.acknowledged_at_s.append(time.perf_counter() - self._outcome.began)
                return
            if 400 <= status < 500:
                break
            self._outcome.retries += 1
            await asyncio.sleep(0.4 * 2**attempt)
        self._outcome.refused += 1

    async def _post(self, body: dict[str, Any]) -> int:
        """The status of the answer; 0 when none came."""
        try:
            async with self._client.post("/api/judging/judgments", json=body) as reply:
                await reply.read()
                return reply.status
        except (aiohttp.ClientError, TimeoutError):
            return 0


async def _sign_in(everybody: list[Annotator]) -> None:
    door = asyncio.Semaphore(AT_THE_DOOR)

    async def enter(annotator: Annotator) -> None:
        async with door:
            await annotator.sign_in()

    await asyncio.gather(*(enter(annotator) for annotator in everybody))


async def _judge(everybody: list[Annotator], plan: Plan) -> float:
    """Returns how many seconds passed until they were told to stop."""
    stop = asyncio.Event()
    began = time.perf_counter()
    working = asyncio.gather(*(annotator.judge(stop) for annotator in everybody))
    await asyncio.gather(asyncio.sleep(plan.seconds), asyncio.to_thread(sys.stdin.read))
    took_s = time.perf_counter() - began
    stop.set()
    await working
    return took_s


async def main() -> None:
    """Serve the one who started this process."""
    plan = Plan(**json.loads(sys.stdin.readline()))
    outcome = Outcome()
    everybody = [Annotator(plan, name, outcome) for name in plan.names]
    await _sign_in(everybody)
    outcome.items_ms.clear()
    print("ready", flush=True)
    sys.stdin.readline()
    outcome.began = time.perf_counter()
    outcome.took_s = await _judge(everybody, plan)
    print(json.dumps(asdict(outcome)), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
