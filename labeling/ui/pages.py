"""The two pages: annotators at /label, leads at /lead, each closed to those it is not for."""

from __future__ import annotations

from functools import partial
from http import HTTPStatus
from typing import Protocol

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import FileResponse

from labeling.candidates import Candidates
from labeling.exchange import Exchange
from labeling.launching import Launching
from labeling.merged_models import MergedModels
from labeling.pipeline import Pipeline
from labeling.practice import Practice
from labeling.project import Project
from labeling.promoting import Promoting
from labeling.reviewing import Reviewing
from labeling.routes import SignedOut, token_of
from labeling.sessions import Sessions
from labeling.ui import (
    actions,
    arena,
    compare,
    export,
    my_work,
    people,
    policies,
    project,
    prompts,
    quality,
    shell,
    train,
)
from labeling.ui.login import login_page
from labeling.ui.shell import Tab
from training.policy_host import PolicyHost

__all__ = ["LABEL", "LEAD", "login_page", "mount"]

LABEL = "/label"
LEAD = "/lead"


class Services(Protocol):
    """What the pages call; the application's services are this and more."""

    @property
    def sessions(self) -> Sessions: ...
    @property
    def host(self) -> PolicyHost: ...
    @property
    def launching(self) -> Launching: ...
    @property
    def pipeline(self) -> Pipeline: ...
    @property
    def promoting(self) -> Promoting: ...
    @property
    def merged(self) -> MergedModels: ...
    @property
    def exchange(self) -> Exchange: ...
    @property
    def project(self) -> Project: ...
    @property
    def practice(self) -> Practice: ...
    @property
    def candidates(self) -> Candidates: ...
    @property
    def reviewing(self) -> Reviewing: ...


def mount(web: FastAPI, services: Services) -> None:
    """Put both pages, and the downloads of the leads' page, into the application."""
    _add_downloads(web, services)
    judging = [
        Tab("compare", compare.render),
        Tab("arena", arena.render),
        Tab("my_work", my_work.render),
    ]
    label = shell.build_page("Whetstone", judging)
    lead = shell.build_page("Whetstone", [*judging, *lead_tabs(services)])
    shell.mount(web, label, LABEL, partial(_annotator, services.sessions))
    shell.mount(web, lead, LEAD, partial(_lead, services.sessions), head=actions.script_tag())


def lead_tabs(services: Services) -> list[Tab]:
    sessions = services.sessions
    return [
        Tab("prompts", partial(prompts.render, sessions, services.exchange, services.candidates)),
        Tab("quality", partial(quality.render, sessions, services.reviewing)),
        Tab(
            "train",
            partial(
                train.render,
                sessions,
                services.launching,
                services.pipeline,
                services.promoting,
                services.host,
            ),
        ),
        Tab(
            "policies",
            partial(policies.render, sessions, services.promoting, services.merged, services.host),
        ),
        Tab("export", partial(export.render, sessions, services.exchange)),
        Tab(
            "project",
            partial(
                project.render, sessions, services.project, services.candidates, services.practice
            ),
        ),
        Tab("people", partial(people.render, sessions)),
    ]


def _annotator(sessions: Sessions, request: Request) -> str:
    """Anybody who is signed in; a page load by somebody else leads to the sign-in page."""
    actor = sessions.actor(token_of(request))
    if actor is None:
        raise _elsewhere(request, "/login", HTTPStatus.UNAUTHORIZED)
    return actor.name


def _lead(sessions: Sessions, request: Request) -> str:
    """Leads; a page load by an annotator leads to the annotators' page."""
    name = _annotator(sessions, request)
    actor = sessions.actor(token_of(request))
    if actor is None or not actor.is_lead:
        raise _elsewhere(request, f"{LABEL}/", HTTPStatus.FORBIDDEN)
    return name


def _elsewhere(request: Request, location: str, status: HTTPStatus) -> HTTPException:
    """A redirect for a person who opens the page, a plain refusal for everything else."""
    is_page = request.method == "GET" and request.url.path.rstrip("/") in (LABEL, LEAD)
    if is_page and "text/html" in request.headers.get("accept", ""):
        return HTTPException(HTTPStatus.SEE_OTHER, headers={"Location": location})
    return HTTPException(status, "This page is not yours. Sign in as somebody it is for.")


def _add_downloads(web: FastAPI, services: Services) -> None:
    @web.get(f"{export.DOWNLOADS}/{{name}}")
    def download(name: str, request: Request) -> FileResponse:
        actor = services.sessions.actor(token_of(request))
        if actor is None:
            raise SignedOut
        path = services.exchange.export_file(actor, name)
        return FileResponse(path, filename=path.name)
