"""Whetstone: wires settings, store, services and pages; closes them in reverse order.

Importing this module imports nothing heavy, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket

    from fastapi import FastAPI

    from labeling.arena import Arena
    from labeling.assignment import Assignment
    from labeling.candidates import Candidates
    from labeling.comparing import Comparing
    from labeling.exchange import Exchange
    from labeling.launching import Launching
    from labeling.merged_models import MergedModels
    from labeling.pipeline import Pipeline
    from labeling.practice import Practice
    from labeling.project import Project
    from labeling.promoting import Promoting
    from labeling.reviewing import Reviewing
    from labeling.sessions import Sessions
    from store.db import Store
    from store.records import Policy
    from training.policy_host import PolicyHost
    from training.runs import RunService

ASSETS = Path(__file__).resolve().parent / "assets"
STARTER = "starter"
EVALUATION_PROMPTS = 200
SWITCH_INTERVAL_S = 0.0005
LOOPBACK = ("127.0.0.1", "localhost", "::1")
QUIET_LIBRARIES = {
    "DO_NOT_TRACK": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "GRADIO_ANALYTICS_CACHE_FREQUENCY": "100000000",
    "GRADIO_ANALYTICS_MAX_EVENTS": "100",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


@dataclass(frozen=True)
class Settings:
    """What the command line says."""

    data: Path
    model: str
    host: str
    port: int
    is_browser_opened: bool

    @property
    def model_path(self) -> str:
        """What the loading code takes: a folder, or a hub id."""
        return str(ASSETS / "starter") if self.model == STARTER else self.model

    @property
    def is_on_loopback(self) -> bool:
        """Whether only this machine can reach the pages."""
        return self.host in LOOPBACK


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    given = _parser().parse_args(arguments)
    for name, value in QUIET_LIBRARIES.items():
        os.environ.setdefault(name, value)
    from store.errors import WhetstoneError

    try:
        if given.command == "add-person":
            return _add_person(given)
        return _serve(
            Settings(
                given.data.resolve(), given.model, given.host, given.port, not given.no_browser
            )
        )
    except WhetstoneError as error:
        print(f"whetstone: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="whetstone",
        description="Label preferences, train on them, and hot-swap the improved policy into the"
        " page that people are judging.",
    )
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("whetstone-data"),
        metavar="DIR",
        help="where judgments, runs and policies are kept (default: ./whetstone-data)",
    )
    parser.add_argument(
        "--model",
        default=STARTER,
        metavar="ID_OR_DIR",
        help="base model: a hub id or a folder (default: the bundled starter)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument(
        "--port", type=_port, default=7860, help="port to listen on; 0 takes any (default: 7860)"
    )
    parser.add_argument(
        "--no-browser", action="store_true", help="do not open a browser when the page is ready"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    person = commands.add_parser(
        "add-person", help="create an account; from then on everybody signs in"
    )
    person.add_argument("name")
    person.add_argument("--role", choices=("annotator", "lead"), default="lead")
    return parser


def _port(text: str) -> int:
    """Raises `argparse.ArgumentTypeError` for what is no port."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; give a number from 0 to 65535")
    return int(text)


def _add_person(given: argparse.Namespace) -> int:
    import getpass

    from labeling.sessions import add_person
    from store.db import Store
    from store.records import Role

    is_terminal = sys.stdin.isatty()
    password = getpass.getpass("Password: ") if is_terminal else sys.stdin.readline().rstrip("\n")
    store = Store(given.data.resolve())
    try:
        annotator = add_person(store, given.name, Role(given.role), password)
    finally:
        store.close()
    print(f"{annotator.name} can sign in as {annotator.role}.")
    return 0


@dataclass(frozen=True)
class Services:
    """Everything that the pages call."""

    store: Store
    sessions: Sessions
    host: PolicyHost
    assignment: Assignment
    candidates: Candidates
    project: Project
    practice: Practice
    comparing: Comparing
    arena: Arena
    runs: RunService
    launching: Launching
    pipeline: Pipeline
    merged: MergedModels
    promoting: Promoting
    exchange: Exchange
    reviewing: Reviewing


@contextmanager
def open_services(settings: Settings) -> Iterator[Services]:
    """Open the store, start the policy host, re-adopt a running trainer; close in reverse order.

    Returns while the policy still loads. Raises `StoreUnavailable` and `BadInput`.
    """
    import random
    import time

    from labeling.arena import Arena
    from labeling.assignment import Assignment
    from labeling.candidates import DEFAULT_SAMPLING, Candidates
    from labeling.comparing import Comparing
    from labeling.exchange import Exchange
    from labeling.launching import Launching
    from labeling.merged_models import MergedModels
    from labeling.pipeline import Pipeline
    from labeling.practice import Practice
    from labeling.project import Project
    from labeling.promoting import Promoting
    from labeling.reviewing import Reviewing
    from labeling.sessions import Sessions
    from store import annotators, mending, prompts
    from store.db import Store
    from store.errors import BadInput
    from store.records import Split
    from training.runs import RunService

    _check_model(settings.model_path)
    with ExitStack() as stack:
        store = Store(settings.data)
        stack.callback(store.close)
        mending.mend(store)
        if not (settings.is_on_loopback or annotators.anyone_signs_in(store)):
            raise BadInput(
                f"Listening on {settings.host} lets others in, and nobody has an account yet. "
                "Create a team lead first: python app.py add-person NAME --role lead"
            )
        sessions = Sessions(
            store,
            clock_s=time.monotonic,
            is_single_person=not annotators.anyone_signs_in(store),
        )
        _offer_sample_prompts(store)
        host = _open_host(store, settings)
        stack.callback(host.close)
        runs = RunService(
            store,
            settings.data / "runs",
            base_model=settings.model_path,
            eval_prompts=lambda: prompts.sample(
                store, EVALUATION_PROMPTS, split=Split.HELD_OUT, seed=0
            ),
        )
        stack.callback(runs.close)
        runs.adopt()
        project = Project(store)
        assignment = Assignment(store, rng=random.SystemRandom())
        project.follow(lambda now: assignment.require(now.min_submitted))
        candidates = Candidates(
            store,
            host,
            assignment,
            project,
            sampling=DEFAULT_SAMPLING,
            seed=random.SystemRandom().randrange(2**31),
            is_training=lambda: runs.is_training,
        )
        stack.callback(candidates.close)
        candidates.start()
        project.follow(lambda _: candidates.wake())
        arena = Arena(store, host, assignment, sampling=DEFAULT_SAMPLING, rng=random.SystemRandom())
        stack.callback(arena.close)
        practice = Practice(store, rng=random.SystemRandom())
        exchange = Exchange(store, settings.data / "exports", on_imported=assignment.reload)
        stack.callback(exchange.close)
        launching = Launching(store, runs, settings.data / "snapshots")
        pipeline = Pipeline(store, launching, runs)
        pipeline.catch_up()
        yield Services(
            store=store,
            sessions=sessions,
            host=host,
            assignment=assignment,
            candidates=candidates,
            project=project,
            practice=practice,
            comparing=Comparing(store, assignment, practice),
            arena=arena,
            runs=runs,
            launching=launching,
            pipeline=pipeline,
            merged=MergedModels(store, settings.data / "models"),
            promoting=Promoting(store, host, assignment, candidates),
            exchange=exchange,
            reviewing=Reviewing(store, assignment),
        )


def build_web(services: Services) -> FastAPI:
    """The parent application: sign-in and judging routes, with Gradio mounted twice."""
    from fastapi import FastAPI
    from fastapi.staticfiles import StaticFiles

    from labeling.arena_routes import arena_router
    from labeling.routes import install_guards, judging_router, run_router, session_router
    from labeling.ui import pages

    web = FastAPI(title="Whetstone", docs_url=None, redoc_url=None, openapi_url=None)
    install_guards(web, only_loopback_hosts=services.sessions.is_single_person)
    web.include_router(session_router(services.sessions, pages.login_page))
    web.include_router(
        judging_router(
            services.sessions,
            services.comparing,
            project=services.project,
            waiting=services.candidates.waiting,
        )
    )
    web.include_router(arena_router(services.sessions, services.arena))
    web.include_router(run_router(services.sessions, services.launching))
    web.mount("/assets", StaticFiles(directory=ASSETS), name="assets")
    pages.mount(web, services)
    return web


def _serve(settings: Settings) -> int:
    """Open everything, serve until asked to stop, close in reverse order."""
    import gc
    import logging
    import signal
    import warnings

    import uvicorn

    # torch tells, on every machine without CUDA, of a CUDA operator that it overrides itself.
    warnings.filterwarnings("ignore", message="Warning only once for all operators")
    # PEFT asks transformers by a name that the latter has changed.
    warnings.filterwarnings("ignore", message=".is_gradient_checkpointing. is deprecated")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # An acknowledgement passes from thread to thread; each takes over at once from a busy one.
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    with ExitStack() as stack:
        listener = stack.enter_context(_listen(settings.host, settings.port))
        services = stack.enter_context(open_services(settings))
        web = build_web(services)
        address = f"http://{settings.host}:{listener.getsockname()[1]}"

        class Server(uvicorn.Server):
            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                await super().startup(sockets)
                print(f"Whetstone is ready at {address}", flush=True)
                _spare_collections()
                if settings.is_browser_opened:
                    _open_browser(address)

        server = Server(uvicorn.Config(web, log_level="warning", timeout_graceful_shutdown=3))
        # The server stops on either signal and raises it again; then everything else is closed.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listener])
        gc.unfreeze()  # else what is never collected is told as leaks
    print("Whetstone has stopped; everything acknowledged is saved.", flush=True)
    return 0


def _spare_collections() -> None:
    """Have no later collection look through what is here: it stays, and everybody waits."""
    import gc

    gc.collect()
    gc.freeze()


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket, taken before anything is opened. Raises `BadInput`."""
    import socket

    from store.errors import BadInput

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise BadInput(
            f"Port {port} on {host} cannot be used ({error}). Stop what listens there, or choose "
            "another with --port; --port 0 takes any free one."
        ) from error
    return listener


def _open_browser(address: str) -> None:
    import threading
    import webbrowser

    threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()


def _offer_sample_prompts(store: Store) -> None:
    """On the very first start there is something to judge at once."""
    from store import imports, settings

    if settings.get(store, "has_sample_prompts", False):
        return
    sample = ASSETS / "starter" / "prompts.jsonl"
    if sample.exists():
        imports.import_file(store, sample, use=imports.Use.PROMPTS, created_by="whetstone")
    settings.put(store, "has_sample_prompts", True)


def _live_policy(store: Store, model: str) -> tuple[Policy, Policy]:
    """The base of `model` and what was live of it when it was last used: the base at first."""
    from store import policies
    from store.records import PromotionKind

    base = policies.base_of(store, model) or policies.register(
        store, base_model=model, parent_version=None
    )
    last = policies.last_live_of(store, model) or base
    live = policies.live(store)
    if live is None or live.version != last.version:
        policies.record_promotion(
            store, last.version, kind=PromotionKind.INITIAL, annotator_id=None
        )
    return base, last


def _check_model(model: str) -> None:
    """Raises `BadInput` for a folder that cannot hold a model; a hub id is looked up later."""
    from store.errors import BadInput

    folder = Path(model)
    is_path = folder.is_absolute() or model.startswith((".", "~")) or folder.exists()
    if is_path and not (folder / "config.json").is_file():
        raise BadInput(
            f"There is no model in {folder}: config.json is missing. Give --model the folder that "
            "save_pretrained wrote, or a hub id, or leave it out for the bundled starter."
        )


def _open_host(store: Store, settings: Settings) -> PolicyHost:
    """A host that starts with the policy that was live, and keeps the one before at hand."""
    import logging
    from concurrent.futures import Future

    from labeling.promoting import target_of
    from store import policies
    from training.local_policy import LocalPolicy
    from training.policy_host import PolicyHost

    base, live = _live_policy(store, settings.model)

    def load_base() -> LocalPolicy:
        policy = LocalPolicy(settings.model_path, base_version=base.version)
        _spare_collections()  # of all that a model library has brought, later than the rest
        return policy

    host = PolicyHost(load_base)

    def tell(version: str, what_now: str) -> Callable[[Future[Any]], None]:
        def report(done: Future[Any]) -> None:
            if not done.cancelled() and (error := done.exception()):
                logging.getLogger(__name__).error(
                    "%s cannot be loaded (%s); %s", version, error, what_now
                )

        return report

    if live.version != base.version:
        answers = f"{base.version} answers until another is promoted"
        host.promote(target_of(live)).add_done_callback(tell(live.version, answers))
    promotion = policies.live(store)
    before = promotion.previous_version if promotion else None
    if before is not None and policies.get(store, before).base_model == settings.model:
        host.pin([target_of(policies.get(store, before))]).add_done_callback(
            tell(before, "it is compared with nobody")
        )
    host.start()
    return host


if __name__ == "__main__":
    sys.exit(main())
