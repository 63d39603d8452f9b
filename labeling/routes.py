"""The judging routes beside Gradio: plain JSON, answered in the time of one insert.

Also sign-in, the reports of runs, and the guard that every request passes. A route resolves the
actor, calls one service method and hands the result over.
"""

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any, Protocol
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, FastAPI, Form, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from pydantic import BaseModel, Field
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as ASGIMessage

from labeling.access import Actor
from labeling.arena import TooManyTurns
from labeling.attempts import TooManyAttempts
from labeling.candidates import Waiting
from labeling.comparing import Comparing
from labeling.i18n import Language, Told, language_of, say, speaking, t
from labeling.launching import Launching
from labeling.project import Project
from labeling.rendering import render_markdown
from labeling.sessions import SESSION_LIFE, Sessions
from labeling.verdicts import VerdictGiven
from store import errors

log = logging.getLogger(__name__)

COOKIE = "whetstone_session"
_LOOPBACK = {"127.0.0.1", "localhost", "::1", "[::1]"}
_CONTENT_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval';"
    " style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:;"
    " connect-src 'self'; frame-ancestors 'none'; object-src 'none'; base-uri 'self'"
)
_SECURITY_HEADERS = {
    "Content-Security-Policy": _CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}
_STATUS = {
    errors.NotFound: HTTPStatus.NOT_FOUND,
    errors.NotAllowed: HTTPStatus.FORBIDDEN,
    errors.Conflict: HTTPStatus.CONFLICT,
    errors.BadInput: HTTPStatus.UNPROCESSABLE_ENTITY,
    errors.StoreUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    errors.PolicyUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    TooManyAttempts: HTTPStatus.TOO_MANY_REQUESTS,
    TooManyTurns: HTTPStatus.TOO_MANY_REQUESTS,
}


class LoginPage(Protocol):
    """Renders the sign-in page, with the reason why the last attempt failed, or none."""

    def __call__(self, error: str, language: Language) -> str: ...


class SignedOut(Exception):
    """Nobody is signed in on this request."""


class ItemsWanted(BaseModel):
    """How many items the page wants beside those it holds."""

    want: int = Field(ge=0, le=20)
    held: list[str] = Field(default_factory=list, max_length=50)


class UndoSent(BaseModel):
    """A retraction as the page sends it, under an id of its own."""

    id: str = Field(min_length=1, max_length=64)
    judgment_id: str


class ReleaseSent(BaseModel):
    """What a closing page gives back."""

    lease_ids: list[str] = Field(max_length=50)


def token_of(request: Request) -> str | None:
    """The session token that a request carries."""
    return request.cookies.get(COOKIE)


def signed_in(sessions: Sessions) -> Callable[[Request], Awaitable[Actor]]:
    """Who is behind a request, for `Depends`; what it gives raises `SignedOut` for nobody."""

    async def actor_of(request: Request) -> Actor:
        token = token_of(request)
        actor = sessions.known(token) or await asyncio.to_thread(sessions.actor, token)
        if actor is None:
            raise SignedOut
        return actor

    return actor_of


def judging_router(
    sessions: Sessions,
    comparing: Comparing,
    *,
    project: Project,
    waiting: Callable[[], Waiting],
) -> APIRouter:
    """`/api/...`. `waiting` says why there is nothing to judge."""
    router = APIRouter(prefix="/api")

    Current = Annotated[Actor, Depends(signed_in(sessions))]

    @router.get("/me")
    def me(actor: Current) -> dict[str, Any]:
        return {
            "id": actor.id,
            "name": actor.name,
            "role": actor.role,
            "can_sign_out": not sessions.is_single_person,
            "project": project.settings.name,
            "scale": project.settings.scale,
            "task": project.settings.task,
            "rating_scale": project.settings.rating_scale,
            "criteria": [asdict(criterion) for criterion in project.settings.criteria],
            "reasons": project.settings.reasons,
        }

    @router.post("/judging/items")
    def items(wanted: ItemsWanted, actor: Current, request: Request) -> dict[str, Any]:
        found, gone = comparing.items(actor, want=wanted.want, held=wanted.held)
        why = None if len(found) >= wanted.want else waiting()
        return {
            "items": [asdict_item(item) for item in found],
            "gone": gone,
            "waiting": asdict_waiting(request, why) if why else None,
            "progress": asdict(comparing.progress(actor)),
            "guidelines_version": project.guidelines.version if project.guidelines else None,
        }

    @router.get("/judging/guidelines")
    def guidelines(_: Current) -> dict[str, Any]:
        now = project.guidelines
        if now is None:
            raise errors.NotFound("This project has no guidelines yet.")
        return {"version": now.version, "html": render_markdown(now.text), "text": now.text}

    @router.post("/judging/judgments")
    async def judgments(given: VerdictGiven, actor: Current) -> dict[str, Any]:
        # A thread is taken only to look something up, and none waits while the disk is slow.
        in_place = comparing.is_at_hand(actor, given)
        judge, count = partial(comparing.judge, actor, given), partial(comparing.progress, actor)
        saved = await asyncio.wrap_future(judge() if in_place else await asyncio.to_thread(judge))
        progress = count() if in_place else await asyncio.to_thread(count)
        reply = {"id": saved.id, "recorded_at": saved.recorded_at, "progress": asdict(progress)}
        if (feedback := comparing.feedback(saved)) is not None:
            html = render_markdown(feedback.explanation)
            reply["practice"] = {**feedback._asdict(), "explanation": html}
        elif project.settings.reveals_policies:
            reply["revealed"] = await asyncio.to_thread(comparing.authors, saved)
        return reply

    @router.post("/judging/undo")
    def undo(sent: UndoSent, actor: Current) -> dict[str, Any]:
        item = comparing.undo(actor, id=sent.id, judgment_id=sent.judgment_id)
        return {"item": asdict_item(item), "progress": asdict(comparing.progress(actor))}

    @router.post("/judging/release")
    def release(sent: ReleaseSent, actor: Current) -> dict[str, Any]:
        comparing.release(actor, sent.lease_ids)
        return {}

    @router.get("/judging/items/{lease_id}")
    def item(lease_id: str, actor: Current) -> dict[str, Any]:
        return {"item": asdict_item(comparing.reopen(actor, lease_id))}

    @router.get("/judging/judgments/{judgment_id}")
    def said(judgment_id: str, actor: Current) -> dict[str, Any]:
        found = comparing.said(actor, judgment_id)
        return {"item": asdict_item(found.item), "said": asdict(found.given)}

    @router.get("/judging/history")
    def history(actor: Current, limit: int = 50) -> dict[str, Any]:
        return {"judgments": [asdict(row) for row in comparing.history(actor, limit=limit)]}

    return router


def run_router(sessions: Sessions, launching: Launching) -> APIRouter:
    """`/api/runs/...`, for leads."""
    router = APIRouter(prefix="/api/runs")

    Current = Annotated[Actor, Depends(signed_in(sessions))]

    @router.get("/{run_id}/report")
    def report(run_id: str, actor: Current) -> HTMLResponse:
        return HTMLResponse(launching.report(actor, run_id))

    return router


def asdict_waiting(request: Request, why: Waiting) -> dict[str, Any]:
    """Why there is nothing to judge, in the person's language, and when to ask again."""
    return {"reason": _said(request, why.reason), "is_stuck": why.is_stuck, "retry_s": 1.0}


def asdict_item(item: Any) -> dict[str, Any]:
    """An item as JSON-ready values (named tuples would become bare lists)."""
    return {
        "lease_id": item.lease_id,
        "expires_at": item.expires_at,
        "language": item.language,
        "messages": [turn._asdict() for turn in item.messages],
        "responses": [text._asdict() for text in item.responses],
        "practice": item.practice._asdict() if item.practice else None,
    }


def session_router(sessions: Sessions, login_page: LoginPage) -> APIRouter:
    """`/`, `/login`, `/logout`."""
    router = APIRouter()

    @router.get("/")
    def home(request: Request) -> Response:
        actor = sessions.actor(token_of(request))
        if actor is None:
            return RedirectResponse("/login", HTTPStatus.SEE_OTHER)
        return RedirectResponse("/lead/" if actor.is_lead else "/label/", HTTPStatus.SEE_OTHER)

    @router.get("/login")
    def show_login(request: Request) -> Response:
        if sessions.actor(token_of(request)) is not None:
            return RedirectResponse("/", HTTPStatus.SEE_OTHER)
        return HTMLResponse(login_page("", _language(request)))

    @router.post("/login")
    def sign_in(
        request: Request, name: Annotated[str, Form()], password: Annotated[str, Form()]
    ) -> Response:
        address = request.client.host if request.client else ""
        try:
            token = sessions.sign_in(name, password, address=address)
        except TooManyAttempts as error:
            page = login_page(_said(request, error), _language(request))
            return HTMLResponse(page, HTTPStatus.TOO_MANY_REQUESTS)
        except errors.NotAllowed as error:
            page = login_page(_said(request, error), _language(request))
            return HTMLResponse(page, HTTPStatus.UNAUTHORIZED)
        response = RedirectResponse("/", HTTPStatus.SEE_OTHER)
        response.set_cookie(
            COOKIE,
            token,
            max_age=int(SESSION_LIFE.total_seconds()),
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return response

    @router.post("/logout")
    def sign_out(request: Request) -> Response:
        token = token_of(request)
        if token:
            sessions.sign_out(token)
        response = RedirectResponse("/login", HTTPStatus.SEE_OTHER)
        response.delete_cookie(COOKIE)
        return response

    return router


def _language(request: Request) -> Language:
    return language_of(request.cookies, request.headers)


def _said(request: Request, told: Told) -> str:
    """A message in the language of whoever asked."""
    with speaking(_language(request)):
        return say(told)


class Guard:
    """Refuses foreign hosts and origins, and puts security headers on every answer.

    A plain ASGI layer, so that Gradio's streams pass through untouched.
    """

    def __init__(self, app: ASGIApp, *, only_loopback_hosts: bool) -> None:
        self._app = app
        self._only_loopback_hosts = only_loopback_hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, unless it comes from elsewhere."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refusal = _refusal(Headers(scope=scope), self._only_loopback_hosts)
        if refusal:
            await JSONResponse({"error": refusal}, 403)(scope, receive, send)
            return

        async def send_guarded(message: ASGIMessage) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                del headers["access-control-allow-origin"]
                del headers["access-control-allow-credentials"]
                headers.update(_SECURITY_HEADERS)
            await send(message)

        await self._app(scope, receive, send_guarded)


def install_guards(app: FastAPI, *, only_loopback_hosts: bool) -> None:
    """Add the `Guard` and turn errors into messages that a person can act on.

    `only_loopback_hosts` refuses any Host header but loopback's, so that a page elsewhere cannot
    reach a server without sign-in by rebinding a name.
    """
    app.add_middleware(Guard, only_loopback_hosts=only_loopback_hosts)

    @app.exception_handler(SignedOut)
    async def signed_out(request: Request, __: SignedOut) -> Response:
        with speaking(_language(request)):
            return JSONResponse({"error": t("You are signed out. Sign in again.")}, 401)

    @app.exception_handler(errors.WhetstoneError)
    async def refused(request: Request, error: errors.WhetstoneError) -> Response:
        status = next((s for kind, s in _STATUS.items() if isinstance(error, kind)), 400)
        return JSONResponse({"error": _said(request, error)}, status)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        return JSONResponse({"error": f"{where or 'request'}: {first['msg']}"}, 422)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        incident = uuid.uuid4().hex[:8]
        log.error("Incident %s on %s", incident, request.url.path, exc_info=error)
        with speaking(_language(request)):
            message = t(
                "Something went wrong (incident {incident}); nothing saved before is lost.",
                incident=incident,
            )
        return JSONResponse({"error": message}, 500)


def _refusal(headers: Headers, only_loopback_hosts: bool) -> str | None:
    host = headers.get("host", "")
    name = urlsplit(f"//{host}").hostname or ""
    if only_loopback_hosts and name not in _LOOPBACK:
        return f"This Whetstone answers on this machine only, not as {name!r}."
    origin = headers.get("origin")
    if origin and urlsplit(origin).netloc != host:
        return "Requests from another site are refused."
    return None
