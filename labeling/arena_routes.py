"""The arena's routes beside Gradio: plain JSON, and responses as lines of JSON while they come.

Before the verdict nothing here tells which policy wrote what: a reader gets text, by place.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from labeling.access import Actor
from labeling.answering import Problem, ProblemKind
from labeling.arena import Arena, Conversation, CurrentTurn, LiveTurn
from labeling.i18n import Language, language_of, say, speaking
from labeling.rendering import render_markdown
from labeling.routes import signed_in
from labeling.sessions import Sessions
from training.messages import Message

# What is written within this time is one line, so that a fast policy does not flood the page.
PAUSE_S = 0.04
HEARTBEAT_S = 10.0
# A reload comes back sooner.
UNWATCHED_S = 20.0


class Asked(BaseModel):
    """A message, in a conversation or opening one; see `Arena.ask`."""

    text: str
    conversation_id: str | None = Field(default=None, max_length=64)
    go_on_with: int | None = None


class Seen(BaseModel):
    """How many characters of each response are on the page."""

    seen: list[int] = Field(min_length=2, max_length=2)


def arena_router(sessions: Sessions, arena: Arena) -> APIRouter:
    """`/api/arena/...`."""
    router = APIRouter(prefix="/api/arena")

    Current = Annotated[Actor, Depends(signed_in(sessions))]

    @router.get("/conversations")
    def conversations(actor: Current) -> dict[str, Any]:
        return {"conversations": [row._asdict() for row in arena.conversations(actor)]}

    @router.get("/conversations/{id}")
    def conversation(id: str, actor: Current) -> dict[str, Any]:
        return _conversation(arena.conversation(actor, id))

    @router.post("/turns")
    def ask(asked: Asked, actor: Current) -> dict[str, Any]:
        found = arena.ask(
            actor,
            asked.text,
            conversation_id=asked.conversation_id,
            go_on_with=asked.go_on_with,
        )
        return _conversation(found)

    @router.post("/turns/{turn_id}/again")
    def again(turn_id: str, actor: Current) -> dict[str, Any]:
        return _conversation(arena.ask_again(actor, turn_id))

    @router.post("/turns/{turn_id}/stop")
    def stop(turn_id: str, actor: Current) -> dict[str, Any]:
        arena.stop(actor, turn_id)
        return {}

    @router.post("/turns/{turn_id}/settle")
    def settle(turn_id: str, sent: Seen, actor: Current) -> dict[str, Any]:
        return {"turn": _turn(arena.settle(actor, turn_id, sent.seen))}

    @router.get("/turns/{turn_id}/stream")
    def stream(turn_id: str, actor: Current, request: Request) -> StreamingResponse:
        live = arena.live_turn(actor, turn_id)
        return StreamingResponse(
            _lines(arena, live, language_of(request.cookies, request.headers)),
            media_type="application/x-ndjson",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    return router


class Telling:
    """What a reader has been told of a turn, and what is new since."""

    def __init__(self, live: LiveTurn) -> None:
        self._live = live
        self._told = [(0, 0), (0, 0)]  # by place: which attempt, how many characters
        self._is_done = [False, False]

    def news(self) -> list[dict[str, Any]]:
        """By place: a response begun `again`, more `text`, or all of it once it is `done`."""
        found: list[dict[str, Any]] = []
        for place, view in enumerate(self._live.answering.views()):
            again, characters = self._told[place]
            if view.again != again:
                found.append({"place": place, "again": True})
                characters = 0
            if view.is_done and not self._is_done[place]:
                self._is_done[place] = True
                html = render_markdown(view.text)
                found.append({"place": place, "done": True, "text": view.text, "html": html})
            elif not view.is_done and len(view.text) > characters:
                found.append({"place": place, "text": view.text[characters:]})
            self._told[place] = (view.again, len(view.text))
        return found

    def end(self) -> dict[str, Any] | None:
        """The last line: the lease to judge by, or why there is nothing to judge."""
        if not self._live.is_over:
            return None
        if self._live.stored is not None:
            return {"ready": True, "lease_id": self._live.stored.id}
        unsaved = Problem(ProblemKind.UNAVAILABLE, Message("The responses could not be saved."))
        problem = self._live.answering.problem or unsaved
        return {
            "problem": problem.kind,
            "text": say(problem.text),
            "limit_tokens": problem.limit_tokens,
        }


async def _lines(arena: Arena, live: LiveTurn, language: Language) -> AsyncIterator[str]:
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()

    def wake() -> None:
        with suppress(RuntimeError):  # the loop is closed: the application is shutting down
            loop.call_soon_threadsafe(changed.set)

    telling = Telling(live)
    live.answering.listen(wake)
    try:
        if arena.is_waiting:
            yield _line({"waiting": True})
        while True:
            changed.clear()
            with speaking(language):
                end = telling.end()
            for line in telling.news():
                yield _line(line)
            if end is not None:
                yield _line(end)
                return
            try:
                await asyncio.wait_for(changed.wait(), HEARTBEAT_S)
            except TimeoutError:
                yield "\n"  # finds out whether the page is still there
            await asyncio.sleep(PAUSE_S)
    finally:
        live.answering.leave(wake)
        loop.call_later(UNWATCHED_S, arena.stop_if_unwatched, live)


def _line(values: dict[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False) + "\n"


def _conversation(found: Conversation) -> dict[str, Any]:
    return {
        "id": found.id,
        "language": found.language,
        "messages": [message._asdict() for message in found.messages],
        "turn": _turn(found.turn),
    }


def _turn(turn: CurrentTurn) -> dict[str, Any]:
    return {
        "id": turn.id,
        "number": turn.number,
        "state": turn.state,
        "lease_id": turn.lease_id,
        "responses": [response._asdict() for response in turn.responses],
        "said": turn.said._asdict() if turn.said else None,
    }
