"""The compare page as an annotator meets it: keyboard, undo, reload, offline, blindness."""

from __future__ import annotations

import json
import uuid
from itertools import count
from statistics import median
from typing import Any

import pytest
from playwright.sync_api import Dialog, Page, Response, Route, expect

from store import annotators, completions, judgments
from store.db import Store
from store.records import Verdict
from tests import stopwatch
from tests.e2e.conftest import (
    PASSWORD,
    PEOPLE,
    Launch,
    NewVisitor,
    Pair,
    RunningApp,
    Snap,
    Visitor,
    support_pairs,
    wait_for_item,
)

_ACCOUNTS = count()
JUDGMENTS = "**/api/judging/judgments"
ITEMS = "**/api/judging/items"


@pytest.fixture
def visitor(app: RunningApp, new_visitor: NewVisitor) -> Visitor:
    return new_visitor(app.url)


@pytest.fixture
def page(visitor: Visitor) -> Page:
    """The compare page of somebody who is signed in."""
    return visitor.sign_in(next_person())


def next_person() -> str:
    return PEOPLE[next(_ACCOUNTS) % len(PEOPLE)]


def question(page: Page) -> str:
    return page.locator(".ws-turn:last-child .ws-prose").inner_text()


def shown(page: Page) -> list[str]:
    return page.locator(".ws-response-body").all_inner_texts()


def press(page: Page, *keys: str) -> str:
    """Judge what is shown; returns the question that was judged."""
    before = question(page)
    for key in keys:
        page.keyboard.press(key)
    expect(page.locator(".ws-turn:last-child .ws-prose")).not_to_have_text(before)
    return before


def wait_until_saved(page: Page) -> None:
    page.wait_for_selector('.ws-compare[data-unsent="0"]', timeout=20_000)


def history(page: Page) -> list[dict[str, Any]]:
    found = page.evaluate("fetch('/api/judging/history?limit=100').then(r => r.json())")
    rows: list[dict[str, Any]] = found["judgments"]
    return rows


def test_twenty_comparisons_are_judged_with_the_keyboard_alone(page: Page) -> None:
    before = {row["id"] for row in history(page)}
    keys = ["1", "2", "3", "0", "ArrowLeft", "ArrowRight"]

    asked = [press(page, keys[i % len(keys)]) for i in range(20)]

    wait_until_saved(page)
    rows = [row for row in history(page) if row["id"] not in before]
    assert [row["prompt_text"] for row in reversed(rows)] == asked
    assert len(set(asked)) == 20
    expect(page.locator("[data-part=status]")).to_have_text("saved")
    ids = [row["id"] for row in reversed(rows)]
    assert {uuid.UUID(id).version for id in ids} == {7}  # so that they are in the order of time
    assert ids == sorted(ids)


def test_every_verdict_is_stored_as_it_was_shown(launch: Launch, new_visitor: NewVisitor) -> None:
    running = launch([Pair(f"Question {i}?", f"good {i}", f"bad {i}") for i in range(40)], ["ana"])
    page = new_visitor(running.url).sign_in("ana")
    expected: list[tuple[Verdict, list[str], str | None, str | None]] = []

    for round_ in range(4):
        for act, verdict, place, reason in [
            (["1"], Verdict.PREFERRED, 0, None),
            (["2"], Verdict.PREFERRED, 1, None),
            (["3"], Verdict.TIE, None, None),
            (["0"], Verdict.BOTH_BAD, None, None),
            (["s", "2"], Verdict.SKIPPED, None, "off_topic"),
        ]:
            texts = shown(page)
            if round_ % 2 and len(act) == 1:  # by mouse
                before = question(page)
                page.locator(f".ws-verdict:visible:has(kbd:text-is('{act[0]}'))").click()
                expect(page.locator(".ws-turn:last-child .ws-prose")).not_to_have_text(before)
            else:
                press(page, *act)
            expected.append((verdict, texts, None if place is None else texts[place], reason))
    wait_until_saved(page)
    running.stop()

    store = Store(running.data)
    try:
        ana = annotators.find(store, "ana")
        assert ana is not None
        rows = list(reversed(judgments.of_annotator(store, ana.id, limit=100)))
        ids = [id for row in rows for id in row.displayed_completion_ids]
        texts_by_id = {id: c.text for id, c in completions.get_many(store, ids).items()}
    finally:
        store.close()
    stored = [
        (
            row.verdict,
            [texts_by_id[id] for id in row.displayed_completion_ids],
            texts_by_id.get(row.preferred_completion_id or ""),
            row.reason,
        )
        for row in rows
    ]
    assert stored == expected
    assert all((row.strength == 2) == (row.verdict is Verdict.PREFERRED) for row in rows)
    assert all((row.duration_ms or 0) > 0 for row in rows)
    assert len({texts[0].split()[0] for _, texts, _, _ in expected}) == 2, "sides never change"


GUIDELINES = """Prefer the response with **concrete steps**.

1. Is it safe?
2. Does it help *this* customer?

<script>document.title = "owned"</script>
"""

SEVEN_KEYS = [
    ("1", Verdict.PREFERRED, 0, 3),
    ("2", Verdict.PREFERRED, 0, 2),
    ("3", Verdict.PREFERRED, 0, 1),
    ("4", Verdict.TIE, None, None),
    ("5", Verdict.PREFERRED, 1, 1),
    ("6", Verdict.PREFERRED, 1, 2),
    ("7", Verdict.PREFERRED, 1, 3),
    ("0", Verdict.BOTH_BAD, None, None),
    ("ArrowLeft", Verdict.PREFERRED, 0, 2),
    ("ArrowRight", Verdict.PREFERRED, 1, 2),
]


@pytest.mark.parametrize("is_touch", [False, True], ids=["keyboard", "touch"])
def test_the_seven_point_scale_stores_every_strength(
    launch: Launch, new_visitor: NewVisitor, snap: Snap, is_touch: bool
) -> None:
    running = launch(support_pairs(30), [])
    page = new_visitor(running.url, has_touch=is_touch).open_page()
    set_scale(page, running.url, "Seven points")
    snap(page, f"compare-seven-{'touch' if is_touch else 'keyboard'}")
    told = [said for said in SEVEN_KEYS if not (is_touch and said[0].startswith("Arrow"))]

    for key, *_ in told:
        if is_touch:
            before = question(page)
            page.locator(f".ws-verdict:visible:has(kbd:text-is('{key}'))").tap()
            expect(page.locator(".ws-turn:last-child .ws-prose")).not_to_have_text(before)
        else:
            press(page, key)
    wait_until_saved(page)

    rows = list(reversed(history(page)))
    assert [(r["verdict"], r["place"], r["strength"]) for r in rows] == [
        (verdict, place, strength) for _, verdict, place, strength in told
    ]
    page.click("#tab-my-work-button")
    expect(page.locator(".ws-work-row")).to_have_count(len(told))
    chips = page.locator(".ws-work-row .ws-chip").all_inner_texts()
    assert chips[-1] == "A is much better"
    assert chips[-5] == "B is slightly better"


def test_guidelines_open_beside_the_comparison_and_judgments_record_their_version(
    launch: Launch, new_visitor: NewVisitor, snap: Snap
) -> None:
    running = launch(support_pairs(30), [])
    lead = new_visitor(running.url).open_page()
    annotator = new_visitor(running.url).open_page()
    annotator.goto(running.url)
    wait_for_item(annotator)
    button = annotator.locator("[data-part=guidelines_button]")
    press(annotator, "1")
    expect(button).to_be_hidden()

    lead.goto(f"{running.url}/lead/#project")
    expect(lead.locator("#project-name input, #project-name textarea")).not_to_have_value("")
    lead.fill("#guidelines-text textarea", GUIDELINES)
    lead.click("#guidelines-publish")
    expect(lead.locator("#guidelines-published")).to_contain_text("Version 1 is in force")

    annotator.reload()
    wait_for_item(annotator)
    expect(button).to_have_attribute("data-unread", "")
    annotator.keyboard.press("g")
    drawer = annotator.locator("[data-part=guidelines]")
    expect(drawer.locator("strong")).to_have_text("concrete steps")
    expect(drawer.locator("script")).to_have_count(0)
    expect(drawer).to_contain_text("Version 1")
    snap(annotator, "guidelines")
    annotator.keyboard.press("1")  # rests while the drawer is open
    annotator.keyboard.press("Escape")
    expect(button).not_to_have_attribute("data-unread", "")
    press(annotator, "2")
    wait_until_saved(annotator)
    running.stop()

    store = Store(running.data)
    try:
        you = annotators.find(store, "you")
        assert you is not None
        rows = judgments.of_annotator(store, you.id, limit=10)
    finally:
        store.close()
    assert [row.guidelines_version for row in rows] == [1, None]


def test_the_words_that_differ_are_marked_and_nothing_else(page: Page) -> None:
    texts = shown(page)
    for hostile in (False, True):
        a = "Tap **Forgot** password, then wait." + ("<img src=x onerror=1>" if hostile else "")
        found = page.evaluate(
            "([a, b]) => Whetstone.diff.compare(a, b, 'en')", [a, "Tap Reset password, then wait!"]
        )
        assert "".join(piece["text"] for piece in found[0]) == a
        assert "Tap " in found[0][0]["text"]
        assert [p["text"] for p in found[1] if not p["isShared"]] == ["Reset", "!"]
    chinese = page.evaluate("Whetstone.diff.compare('请重设密码', '请修改密码', 'zh')")
    assert [[p["text"] for p in side if not p["isShared"]] for side in chinese] == [
        ["重设"],
        ["修改"],
    ]

    page.keyboard.press("d")
    expect(page.locator("[data-act=diff]")).to_have_attribute("aria-pressed", "true")
    assert page.locator(".ws-diff mark").count() > 0
    press(page, "1")
    assert page.locator(".ws-diff").count() == 2, "it stays on for the next comparison"
    page.keyboard.press("d")
    expect(page.locator(".ws-diff")).to_have_count(0)
    assert shown(page) != texts


def set_scale(page: Page, url: str, label: str) -> None:
    """As a lead, choose the project's scale, and go to the first comparison."""
    page.goto(f"{url}/lead/#project")
    expect(page.locator("#project-name input, #project-name textarea")).not_to_have_value("")
    page.locator("#project-scale").get_by_text(label).click()
    page.click("#project-save")
    expect(page.locator("#project-saved")).to_be_visible()
    page.goto(f"{url}/lead/")
    page.reload()
    wait_for_item(page)


def test_undo_brings_the_comparison_back_and_the_new_verdict_replaces_the_old(page: Page) -> None:
    asked, texts = question(page), shown(page)
    press(page, "1")
    following = question(page)

    page.keyboard.press("u")

    expect(page.locator(".ws-turn:last-child .ws-prose")).to_have_text(asked)
    assert shown(page) == texts
    press(page, "2")
    assert question(page) == following
    wait_until_saved(page)
    mine = [row for row in history(page) if row["prompt_text"] == asked]
    assert [row["place"] for row in mine] == [1]


def test_undo_reaches_back_over_several_judgments_and_a_reload(page: Page) -> None:
    asked = [press(page, "1") for _ in range(3)]
    wait_until_saved(page)

    page.keyboard.press("Control+z")
    page.keyboard.press("u")
    expect(page.locator(".ws-turn:last-child .ws-prose")).to_have_text(asked[1])
    wait_until_saved(page)
    page.reload()
    wait_for_item(page)
    assert question(page) == asked[1]
    page.keyboard.press("u")

    expect(page.locator(".ws-turn:last-child .ws-prose")).to_have_text(asked[0])


def test_a_reload_resumes_the_same_comparison(page: Page) -> None:
    for _ in range(2):
        press(page, "3")
    wait_until_saved(page)
    asked, texts = question(page), shown(page)

    page.reload()
    wait_for_item(page)

    assert (question(page), shown(page)) == (asked, texts)


def test_a_closed_window_leaves_its_items_to_the_one_that_shows_them(page: Page) -> None:
    other = page.context.new_page()
    other.goto(page.url)
    wait_for_item(other)

    with page.expect_response(
        lambda reply: (
            reply.url.endswith("/judging/items") and '"want":0' in (reply.request.post_data or "")
        )
    ) as renewed:
        other.close()

    assert renewed.value.json()["gone"] == []


def test_judging_goes_on_offline_and_everything_is_sent_once(page: Page) -> None:
    before = {row["id"] for row in history(page)}
    page.context.set_offline(True)

    asked = [press(page, "1") for _ in range(4)]

    expect(page.locator("[data-part=status]")).to_contain_text("offline · 4 kept here")
    page.context.set_offline(False)
    wait_until_saved(page)
    rows = [row for row in history(page) if row["id"] not in before]
    assert [row["prompt_text"] for row in reversed(rows)] == asked


def test_unsent_judgments_survive_a_closed_page(page: Page) -> None:
    page.route(JUDGMENTS, lambda route: route.abort())
    asked = [press(page, "2") for _ in range(3)]
    expect(page.locator("[data-part=status]")).to_contain_text("3 kept here")
    context, address = page.context, page.url
    page.close(run_before_unload=False)

    again = context.new_page()
    again.goto(address)
    wait_for_item(again)
    wait_until_saved(again)

    mine = [row["prompt_text"] for row in history(again)][:3]
    assert list(reversed(mine)) == asked
    assert question(again) not in asked


def test_leaving_with_unsent_judgments_asks_first(page: Page) -> None:
    asked: list[str] = []

    def leave(dialog: Dialog) -> None:
        asked.append(dialog.type)
        dialog.accept()

    page.route(JUDGMENTS, lambda route: route.abort())
    press(page, "1")
    page.on("dialog", leave)

    page.reload()

    assert asked == ["beforeunload"]


def test_a_judgment_whose_answer_was_lost_is_counted_once(page: Page) -> None:
    before = {row["id"] for row in history(page)}
    lost: list[int] = []

    def lose_first_answer(route: Route) -> None:
        if lost:
            route.continue_()
            return
        lost.append(route.fetch().status)
        route.abort()

    page.route(JUDGMENTS, lose_first_answer)
    press(page, "1")
    press(page, "2")

    wait_until_saved(page)
    assert lost == [200]
    assert len([row for row in history(page) if row["id"] not in before]) == 2


def test_a_refused_judgment_is_set_aside_and_holds_up_no_other(page: Page) -> None:
    refused: list[str] = []

    def refuse_first(route: Route) -> None:
        id = (route.request.post_data_json or {})["id"]
        if not refused:
            refused.append(id)
        if id in refused:
            route.fulfill(status=409, json={"error": "This comparison was judged already."})
        else:
            route.continue_()

    page.route(JUDGMENTS, refuse_first)
    press(page, "1")
    asked = press(page, "2")

    wait_until_saved(page)
    expect(page.locator("[data-part=aside]")).to_contain_text("This comparison was judged already.")
    assert history(page)[0]["prompt_text"] == asked
    page.unroute(JUDGMENTS)
    page.get_by_role("button", name="Send again").click()
    expect(page.locator("[data-part=aside]")).to_be_hidden()


def test_a_signed_out_person_keeps_their_judgments(visitor: Visitor) -> None:
    name = next_person()
    page = visitor.sign_in(name)
    visitor.context.clear_cookies()

    asked = press(page, "1")

    banner = page.locator("[data-part=signed_out]")
    expect(banner).to_contain_text("1 judgment is kept in this browser")
    banner.get_by_role("link", name="Sign in again").click()
    page.fill("#name", name)
    page.fill("#password", PASSWORD)
    page.click("button[type=submit]")
    wait_for_item(page)
    wait_until_saved(page)
    assert history(page)[0]["prompt_text"] == asked


def test_nothing_before_the_verdict_tells_where_a_response_is_from(
    app: RunningApp, new_visitor: NewVisitor
) -> None:
    visitor = new_visitor(app.url)
    seen: list[tuple[str, str]] = []

    def keep(response: Response) -> None:
        kind = response.headers.get("content-type", "")
        if "json" in kind or "html" in kind:
            seen.append((response.url, response.text()))

    visitor.context.on("response", keep)
    page = visitor.sign_in(next_person())
    page.wait_for_load_state("networkidle")

    assert any(url.endswith("/api/judging/items") for url, _ in seen)
    for url, body in seen:
        assert "pol-00000" not in body, url
        if url.endswith("/api/judging/items"):
            payload = json.loads(body)
            for item in payload["items"]:
                assert set(item) == {
                    *("lease_id", "expires_at", "language", "messages", "responses", "practice")
                }
                for text in item["responses"]:
                    assert set(text) == {"html", "text"}
            assert not _words(payload) & {"policy", "version", "adapter", "seed", "sampling"}


def _words(payload: object) -> set[str]:
    if isinstance(payload, dict):
        return set(payload) | {word for value in payload.values() for word in _words(value)}
    if isinstance(payload, list):
        return {word for value in payload for word in _words(value)}
    return set()


def test_two_people_never_hold_one_comparison(app: RunningApp, new_visitor: NewVisitor) -> None:
    held: dict[str, set[str]] = {}
    pages = []
    for name in (next_person(), next_person()):
        visitor = new_visitor(app.url)
        held[name] = set()

        def keep(response: Response, mine: set[str] = held[name]) -> None:
            if response.url.endswith("/api/judging/items"):
                mine.update(item["messages"][-1]["text"] for item in response.json()["items"])

        visitor.context.on("response", keep)
        pages.append(visitor.sign_in(name))

    for _ in range(8):
        for page in pages:
            press(page, "1")
    for page in pages:
        wait_until_saved(page)

    first, second = held.values()
    assert len(first) >= 8
    assert len(second) >= 8
    assert not first & second


def test_two_windows_of_one_person_do_not_judge_the_same_comparison(visitor: Visitor) -> None:
    page = visitor.sign_in(next_person())
    other = visitor.open_page()
    other.goto(page.url)
    wait_for_item(other)
    asked = question(page)
    if question(other) != asked:
        press(other, "1")

    page.bring_to_front()
    press(page, "1")

    expect(other.locator(".ws-turn:last-child .ws-prose")).not_to_have_text(asked)
    wait_until_saved(page)
    expect(other.locator("[data-part=aside]")).to_be_hidden()


FOREIGN_ELEMENTS = ":is(.ws-turn, .ws-response-body) :is(script, img, iframe, svg, style, form)"
HOSTILE = [
    "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>",
    "![pixel](http://tracker.example/p.png) [link](javascript:document.title='owned')",
    "<iframe srcdoc=\"<script>parent.document.title='owned'</script>\"></iframe>"
    "<svg onload=\"document.title='owned'\"></svg>",
    "${document.title='owned'} {{constructor.constructor('document.title=1')()}} </textarea>"
    "<style>body{display:none}</style><form action=http://tracker.example><button>b</button></form>",
]


def test_hostile_responses_do_nothing(launch: Launch, new_visitor: NewVisitor) -> None:
    pairs = [Pair(f"{text} {i}", text, HOSTILE[i - 1]) for i, text in enumerate(HOSTILE)]
    visitor = new_visitor(launch(pairs, []).url)
    page = visitor.open_page()
    page.goto(visitor.url)
    wait_for_item(page)
    title = page.title()

    for _ in range(len(pairs)):
        wait_for_item(page)
        assert page.locator(FOREIGN_ELEMENTS).count() == 0
        for link in page.locator(".ws-prose a").all():
            assert not (link.get_attribute("href") or "").lower().startswith("javascript")
        assert page.locator(".ws-response-body").first.is_visible()
        page.keyboard.press("r")
        page.keyboard.press("r")
        page.keyboard.press("3")
    page.click("#tab-my-work-button")
    expect(page.locator(".ws-work-row")).to_have_count(len(pairs))

    assert page.title() == title
    assert visitor.foreign_requests == []
    assert visitor.console_errors == []


def test_keys_rest_while_somebody_types_a_reason(page: Page) -> None:
    asked = question(page)
    page.keyboard.press("s")
    page.keyboard.press("6")

    page.keyboard.type("1 2 3 0 u s ?")

    assert question(page) == asked
    expect(page.locator("[data-part=skip_text]")).to_have_value("1 2 3 0 u s ?")
    press(page, "Enter")
    wait_until_saved(page)
    assert history(page)[0]["verdict"] == "skipped"


def test_a_key_right_after_a_skip_judges_the_next_item(page: Page) -> None:
    before = {row["id"] for row in history(page)}
    page.keyboard.press("s")
    expect(page.locator("[data-part=skip]")).to_be_visible()

    # In one task, faster than the browser can paint.
    page.evaluate(
        "for (const key of ['2', '1']) document.activeElement.dispatchEvent("
        "new KeyboardEvent('keydown', {key, bubbles: true, cancelable: true}))"
    )

    wait_until_saved(page)
    rows = [row for row in history(page) if row["id"] not in before]
    assert [row["verdict"] for row in rows] == ["preferred", "skipped"]


def test_keys_rest_in_dialogs_on_other_tabs_and_with_modifiers(page: Page) -> None:
    asked = question(page)

    page.keyboard.press("?")
    expect(page.locator("[data-part=keys]")).to_be_visible()
    page.keyboard.press("1")
    page.keyboard.press("Escape")
    page.keyboard.press("Control+1")
    page.keyboard.press("Alt+2")
    page.click("#tab-my-work-button")
    expect(page.locator(".ws-work")).to_be_visible()
    page.keyboard.press("1")
    page.click("#tab-compare-button")

    expect(page.locator(".ws-compare")).to_be_visible()
    assert question(page) == asked


def test_a_held_key_judges_once(page: Page) -> None:
    before = {row["id"] for row in history(page)}

    for _ in range(5):
        page.keyboard.down("1")
    page.keyboard.up("1")

    wait_until_saved(page)
    assert len([row for row in history(page) if row["id"] not in before]) == 1


def test_my_work_takes_any_judgment_back(page: Page) -> None:
    asked = [press(page, "1") for _ in range(3)]
    wait_until_saved(page)
    page.click("#tab-my-work-button")
    row = page.locator(".ws-work-row").filter(has_text=asked[0])

    row.get_by_role("button", name="Undo").click()

    expect(page.locator(".ws-compare")).to_be_visible()
    expect(page.locator(".ws-turn:last-child .ws-prose")).to_have_text(asked[0])


def test_my_work_lists_what_was_still_being_saved(page: Page) -> None:
    held: list[Route] = []
    page.route(JUDGMENTS, lambda route: held.append(route))
    asked = press(page, "1")
    with page.expect_response("**/api/judging/history*"):
        page.click("#tab-my-work-button")

    held.pop().continue_()

    expect(page.locator(".ws-work-row").filter(has_text=asked)).to_be_visible()


def test_my_work_counts_what_is_not_saved_yet(page: Page) -> None:
    page.route(JUDGMENTS, lambda route: route.abort())
    press(page, "1")
    press(page, "2")

    page.click("#tab-my-work-button")

    expect(page.locator(".ws-work [data-part=note]")).to_contain_text("2 judgments are not saved")


def test_a_reload_comes_back_to_the_tab_that_was_in_front(page: Page) -> None:
    page.click("#tab-my-work-button")
    expect(page.locator(".ws-work")).to_be_visible()

    page.reload()

    expect(page.locator(".ws-work")).to_be_visible()


@pytest.mark.parametrize(
    ("waiting", "text"),
    [
        (
            {"reason": "The policy is still loading.", "is_stuck": False, "retry_s": 0.3},
            "Just a moment",
        ),
        (
            {"reason": "The model is broken.", "is_stuck": True, "retry_s": 0.3},
            "There is nothing to judge",
        ),
        (None, "Nothing left to judge"),
    ],
)
def test_the_page_says_why_there_is_nothing_to_judge(
    visitor: Visitor, waiting: dict[str, Any] | None, text: str
) -> None:
    progress = {
        "judged": 0,
        "goal": 50,
        "judged_by_me": 0,
        "judged_by_me_today": 0,
        "median_duration_s": None,
    }
    answer: dict[str, Any] = {"items": [], "gone": [], "waiting": waiting, "progress": progress}
    visitor.context.route(ITEMS, lambda route: route.fulfill(json=answer))
    page = visitor.open_page()
    page.goto(f"{visitor.url}/login")
    page.fill("#name", next_person())
    page.fill("#password", PASSWORD)
    page.click("button[type=submit]")

    expect(page.locator("[data-part=notice]")).to_contain_text(text)
    if waiting:
        expect(page.locator("[data-part=notice]")).to_contain_text(waiting["reason"])
    page.keyboard.press("1")
    expect(page.locator(".ws-verdict:visible").first).to_have_attribute("aria-disabled", "true")
    visitor.context.unroute(ITEMS)
    wait_for_item(page)
    expect(page.locator("[data-part=notice]")).to_be_hidden()


def test_the_next_comparison_is_there_at_once(page: Page) -> None:
    stopwatch.start(page)

    for _ in range(40):
        press(page, "1")

    felt = stopwatch.take(page)
    assert len(felt) == 40
    assert median(x.dom_ms for x in felt) < 50


def test_nothing_is_fetched_from_elsewhere_and_the_console_stays_clean(
    app: RunningApp, new_visitor: NewVisitor
) -> None:
    visitor = new_visitor(app.url)
    page = visitor.sign_in(next_person())
    press(page, "1")
    page.click("[data-act=language]")
    page.click("[data-act=theme]")
    page.click("#tab-my-work-button")
    expect(page.locator(".ws-work-row").first).to_be_visible()
    page.wait_for_load_state("networkidle")

    assert visitor.foreign_requests == []
    assert visitor.console_errors == []


def test_the_language_switch_changes_the_interface_and_not_the_content(page: Page) -> None:
    asked = question(page)
    spoken = page.locator(".ws-turn:last-child .ws-prose").get_attribute("lang")
    assert spoken in {"en", "zh"}

    page.click("[data-act=language]")

    expect(page.locator("#tab-compare-button")).to_have_text("比较")
    expect(page.locator("html")).to_have_attribute("lang", "zh-Hans")
    expect(page.locator(".ws-turn:last-child .ws-prose")).to_have_text(asked)
    assert page.locator(".ws-turn:last-child .ws-prose").get_attribute("lang") == spoken
    page.reload()
    wait_for_item(page)
    expect(page.locator("#tab-compare-button")).to_have_text("比较")


@pytest.fixture(scope="module", params=["en-US", "zh-CN"])
def language(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1440, 900), (360, 740)])
def test_the_verdict_bar_is_in_view_at_every_size(
    app: RunningApp,
    new_visitor: NewVisitor,
    snap: Snap,
    language: str,
    scheme: str,
    width: int,
    height: int,
) -> None:
    visitor = new_visitor(
        app.url,
        viewport={"width": width, "height": height},
        color_scheme=scheme,
        locale=language,
        has_touch=width < 720,
    )
    page = visitor.sign_in(next_person())
    if not page.locator(f".ws-prose[lang={language[:2]}]").count():
        press(page, "1")

    snap(page, f"compare-{language[:2]}-{scheme}-{width}")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for button in page.locator(".ws-verdict:visible").all():
        expect(button).to_be_in_viewport(ratio=1)
        box = button.bounding_box()
        assert box is not None
        assert min(box["width"], box["height"]) >= 44
