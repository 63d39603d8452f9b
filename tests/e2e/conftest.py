"""A real server process and a real Chromium, for tests that use the pages as people do."""

from __future__ import annotations

import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Playwright,
    Request,
    expect,
    sync_playwright,
)
from playwright.sync_api import Error as PlaywrightError

from labeling.sessions import add_person
from store.records import Role
from tests.builders import keep, make_evidence, make_prompt, new_store
from tests.forks import Forked, forks
from tests.models import build_model

ROOT = Path(__file__).resolve().parents[2]
READY = re.compile(r"Whetstone is ready at (http://\S+)")
START_TIMEOUT_S = 180
STOP_TIMEOUT_S = 30
EXPECT_TIMEOUT_MS = 20_000  # shared machines stall
LONGEST_PAGE = 3000
PASSWORD = "correct horse battery"
PEOPLE = ("ana", "ben", "chen", "dora", "emil", "fatima", "goro", "hana", "ivan", "jun")
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Two processes fewer, which is a tenth of what a page load takes.
FEWER_PROCESSES = ["--in-process-gpu", "--enable-features=NetworkServiceInProcess2"]


class RunningApp:
    """A server in a process of its own, ready to answer.

    It and its trainers are forked from one that has imported everything; without `is_forked` it is
    `python app.py` itself. Only with `writes_ahead` does its policy write comparisons by itself.
    """

    def __init__(
        self,
        data: Path,
        model: Path,
        *options: str,
        is_forked: bool = True,
        writes_ahead: bool = True,
    ) -> None:
        self.data = data
        arguments = ["--data", str(data), "--port", "0", "--model", str(model), "--no-browser"]
        arguments += options
        self.process: subprocess.Popen[str] | Forked
        if is_forked:
            self.process = forks().serve(arguments, writes_ahead=writes_ahead)
        else:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "app.py"), *arguments],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        self.output: list[str] = []
        ready: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, args=(ready,), daemon=True).start()
        try:
            url = ready.get(timeout=START_TIMEOUT_S)
        except queue.Empty:
            url = None
        if url is None:
            self.process.kill()
            raise RuntimeError("The server did not become ready:\n" + "".join(self.output))
        self.url = url

    def _read(self, ready: queue.Queue[str | None]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output.append(line)
            if found := READY.search(line):
                ready.put(found[1])
        ready.put(None)

    def stop(self) -> int:
        """Interrupt it as Ctrl-C does; returns the exit code. Idempotent."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(timeout=STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


class Pair(NamedTuple):
    """A question and two responses to it."""

    question: str
    first: str
    second: str
    language: str = "en"


SUPPORT = (
    Pair(
        "I cannot log in to my account C{n}, it is urgent!",
        "I understand how annoying this is, and I am sorry for the trouble.\n\n"
        "1. Open the sign-in page and tap **Forgot password**.\n"
        "2. Enter the e-mail address of account `C{n}`.\n"
        "3. Follow the link within 15 minutes.\n\n"
        "If nothing arrives, reply here and I will look into the account by hand.",
        'Tap "Forgot password" and follow the e-mail.',
    ),
    Pair(
        "我的账户 C{n} 登录不了，很着急，请尽快帮我处理！",
        "非常理解您的着急，给您带来不便十分抱歉。\n\n"
        "1. 打开登录页，点击**忘记密码**；\n"
        "2. 输入账户 C{n} 绑定的手机号；\n"
        "3. 在 15 分钟内按短信提示重设密码。\n\n"
        "如果仍然无法登录，请直接回复，我会为您人工核查。",
        "点“忘记密码”，按短信提示操作即可。",
        "zh",
    ),
    Pair(
        "Parcel {n} was delivered damaged. What now?",
        "I am so sorry, so very sorry. As an AI I can perhaps suggest that it might be replaced.",
        "Please send a photo of the parcel and its label. A replacement leaves **today**.\n\n"
        "| step | when |\n|---|---|\n| photo | now |\n| replacement | today |\n"
        "| pick-up | tomorrow |",
    ),
    Pair(
        "订单 {n} 迟迟没有发货，能退款吗？",
        "作为一个人工智能助手，我可能也许无法确定……",
        "可以。订单 {n} 尚未发货，请在“我的订单”中点“申请退款”，款项 1–3 个工作日内原路退回。",
        "zh",
    ),
)
Launch = Callable[[Sequence[Pair], Sequence[str]], RunningApp]


def support_pairs(count: int) -> list[Pair]:
    """Customer questions in two languages, every one different."""
    pairs = []
    for i in range(count):
        pair = SUPPORT[i % len(SUPPORT)]
        question, first, second = (text.replace("{n}", str(100 + i)) for text in pair[:3])
        pairs.append(Pair(question, first, second, pair.language))
    return pairs


def fill_store(data: Path, pairs: Sequence[Pair], people: Sequence[str]) -> None:
    """A store with comparisons from two policy versions, and accounts with `PASSWORD`."""
    store = new_store(data)
    try:
        now = store.clock()
        evidence = [
            make_evidence(
                (pair.first, pair.second),
                prompt=make_prompt(pair.question, language=pair.language),
                policy_versions=("pol-000001", "pol-000000"),
                seed=17,
                now=now,
            )
            for pair in pairs
        ]
        keep(store, evidence)
        for name in people:
            add_person(store, name, Role.ANNOTATOR, PASSWORD)
    finally:
        store.close()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that loads in a moment; the comparisons of these tests are there already."""
    return build_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[RunningApp]:
    """A server with 400 bilingual comparisons and `PEOPLE`, shared by the tests of a module."""
    data = tmp_path_factory.mktemp("app") / "data"
    fill_store(data, support_pairs(400), PEOPLE)
    running = RunningApp(data, tiny_model, writes_ahead=False)
    yield running
    running.stop()


@pytest.fixture
def launch(tmp_path: Path, tiny_model: Path) -> Iterator[Launch]:
    """Start a server of one's own: `launch(pairs, people)`; no people means no sign-in."""
    started: list[RunningApp] = []

    def start(pairs: Sequence[Pair], people: Sequence[str]) -> RunningApp:
        data = tmp_path / f"data-{len(started)}"
        fill_store(data, pairs, people)
        started.append(RunningApp(data, tiny_model, writes_ahead=False))
        return started[-1]

    yield start
    for running in started:
        running.stop()


@pytest.fixture(scope="session")
def playwright_api() -> Iterator[Playwright]:
    """Playwright without its pytest plugin, whose fixtures open browsers of their own."""
    expect.set_options(timeout=EXPECT_TIMEOUT_MS)
    with sync_playwright() as api:
        yield api


def chromium_path(api: Playwright, *names: str) -> str:
    """Where Chromium should be: WHETSTONE_CHROMIUM, else the first of the system's programs with
    one of these names, else what Playwright installs. There may be none.
    """
    found = [os.environ.get("WHETSTONE_CHROMIUM"), *(shutil.which(name) for name in names)]
    return next((path for path in found if path), api.chromium.executable_path)


@pytest.fixture(scope="session")
def browser(playwright_api: Playwright) -> Iterator[Browser]:
    """Chromium, without its own windows where the system has it so: that takes a third less."""
    path = chromium_path(playwright_api, "chromium-headless-shell", "chromium")
    if not Path(path).exists():
        message = f"No Chromium at {path}: install one, or set WHETSTONE_CHROMIUM to its path."
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    opened = playwright_api.chromium.launch(
        executable_path=path, args=CHROMIUM_FLAGS + FEWER_PROCESSES
    )
    yield opened
    opened.close()


class Visitor:
    """One person with a browser profile of their own, and all that the browser noticed."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.context = context
        self.url = url
        self.console_errors: list[str] = []
        self.foreign_requests: list[str] = []
        context.on("request", self._note_request)

    def open_page(self) -> Page:
        """A new tab of this person's browser."""
        page = self.context.new_page()
        page.on("console", self._note_message)
        page.on("pageerror", lambda error: self.console_errors.append(str(error)))
        return page

    def sign_in(self, name: str) -> Page:
        """Sign in as the form does, without looking at it, and wait for the first comparison."""
        page = self.open_page()
        self.context.request.post(f"{self.url}/login", form={"name": name, "password": PASSWORD})
        page.goto(self.url)
        wait_for_item(page)
        return page

    def _note_message(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.console_errors.append(message.text)

    def _note_request(self, request: Request) -> None:
        if not request.url.startswith((self.url, "data:", "blob:")):
            self.foreign_requests.append(request.url)


def wait_for_item(page: Page) -> None:
    """Until a comparison is on the screen."""
    page.wait_for_selector(".ws-compare[data-state=ready]", timeout=30_000)


NewVisitor = Callable[..., Visitor]
# The tour is marked as seen in the browser under the person's id, which nobody knows beforehand.
TOUR_SEEN = """
const get = Storage.prototype.getItem;
Storage.prototype.getItem = function (key) {
  return key.startsWith("whetstone.tour.") ? "seen" : get.call(this, key);
};
"""


@pytest.fixture
def new_visitor(browser: Browser) -> Iterator[NewVisitor]:
    """`new_visitor(url, **context options)`: somebody with an empty browser profile.

    They have seen the tour; with `is_new=True` they have not.
    """
    visitors: list[Visitor] = []

    def make(url: str, *, is_new: bool = False, **options: Any) -> Visitor:
        settings: dict[str, Any] = {
            "viewport": {"width": 1280, "height": 800},
            "locale": "en-US",
            **options,
        }
        visitors.append(Visitor(browser.new_context(**settings), url))
        if not is_new:
            visitors[-1].context.add_init_script(TOUR_SEEN)
        return visitors[-1]

    make.visitors = visitors  # type: ignore[attr-defined]  # for the report of a failure
    yield make
    for visitor in visitors:
        visitor.context.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What the pages of a test that fails show at that moment is told with it."""
    report = yield
    if report.failed and report.when == "call":
        # Fixtures end later, so the browsers are still open.
        make = getattr(item, "funcargs", {}).get("new_visitor")
        for visitor in getattr(make, "visitors", []):
            for page in visitor.context.pages:
                report.sections.append((f"page {page.url}", _told(page, visitor)))
    return report


def _told(page: Page, visitor: Visitor) -> str:
    try:
        text = page.inner_text("body", timeout=2000)
    except PlaywrightError as error:
        text = f"nothing to read: {error}"
    return "\n".join([text[:LONGEST_PAGE], *visitor.console_errors])


Snap = Callable[[Page, str], None]


@pytest.fixture
def snap() -> Snap:
    """Write a screenshot into the folder WHETSTONE_SCREENSHOTS, when that is set."""
    folder = os.environ.get("WHETSTONE_SCREENSHOTS")

    def take(page: Page, name: str) -> None:
        if not folder:
            return
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=Path(folder) / f"{name}.png")

    return take
