"""Rankings, ratings, criteria, rewrites, notes, corrections and drafts, as people meet them.

Each kind by keyboard and by touch; what is stored is compared with what was on the screen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, Response, expect

from labeling.access import Actor
from labeling.project import Criterion, Project, Scale
from store import completions, judgments, preferences
from store.db import Store
from store.records import CriterionJudgment, Flag, Judgment, RatingScale, Role, Verdict
from tests.builders import keep, make_evidence, new_store
from tests.e2e.conftest import NewVisitor, RunningApp, Snap, wait_for_item

LEA = Actor("lea", "Lea", Role.LEAD)
ITEMS = 8
LONG = "A long line that says more than is needed, again and again. " * 30
CRITERIA = (
    Criterion("Helpful", Scale.SEVEN_POINT, is_required=True),
    Criterion("Harmless", RatingScale.THUMBS, is_required=True),
    Criterion("Style", Scale.PLAIN),
)


class Served:
    """A server of one's own, one person's page on it, and the store once it has stopped."""

    def __init__(self, running: RunningApp, page: Page) -> None:
        self.running = running
        self.page = page

    def rows(self) -> list[Judgment]:
        """What is in the store, oldest first; the server is stopped for it."""
        wait_until_saved(self.page)
        me = self.page.evaluate("fetch('/api/me').then(r => r.json())")
        self.page.context.close()  # an open browser keeps its server for seconds
        self.running.stop()
        store = Store(self.running.data)
        try:
            return list(reversed(judgments.of_annotator(store, me["id"], limit=100)))
        finally:
            store.close()


Serve = Callable[..., Served]


@pytest.fixture
def serve(tmp_path: Path, tiny_model: Path, new_visitor: NewVisitor) -> Iterator[Serve]:
    """`serve(texts, is_touch=..., **settings)`: items of as many responses, in such a project."""
    started: list[Served] = []

    def start(texts: Sequence[str], *, is_touch: bool = False, **settings: Any) -> Served:
        data = tmp_path / "data"
        store = new_store(data)
        evidence = [
            make_evidence(
                [f"{text} ({i})" for text in texts],
                prompt=f"Question {i}?",
                policy_versions=[f"pol-00000{k}" for k in range(len(texts))],
            )
            for i in range(ITEMS)
        ]
        keep(store, evidence)
        Project(store).change(LEA, **settings)
        store.close()
        running = RunningApp(data, tiny_model, writes_ahead=False)
        size = {"width": 360, "height": 740} if is_touch else {"width": 1280, "height": 860}
        page = new_visitor(running.url, has_touch=is_touch, viewport=size).open_page()
        started.append(Served(running, page))
        page.goto(running.url)
        wait_for_item(page)
        return started[-1]

    yield start
    for served in started:
        served.page.context.close()
        served.running.stop()


def wait_until_saved(page: Page) -> None:
    page.wait_for_selector('.ws-compare[data-unsent="0"]', timeout=20_000)


def question(page: Page) -> Locator:
    return page.locator(".ws-turn:last-child .ws-prose")


def next_after(page: Page, action: Callable[[], None]) -> None:
    """Do what ends the item, and wait for the next one."""
    before = question(page).inner_text()
    action()
    expect(question(page)).not_to_have_text(before)


def cards(page: Page) -> list[str]:
    """The texts of the list as it stands."""
    return page.locator(".ws-card .ws-card-text").all_inner_texts()


def texts_of(rows: Sequence[Judgment], data: Path) -> dict[str, str]:
    store = Store(data)
    try:
        ids = [id for row in rows for id in row.displayed_completion_ids]
        ids += [row.rewrite_completion_id for row in rows if row.rewrite_completion_id]
        return {id: c.text for id, c in completions.get_many(store, ids).items()}
    finally:
        store.close()


def ranked_texts(row: Judgment, texts: dict[str, str]) -> dict[str, int | None]:
    assert row.ranks is not None
    shown = [texts[id] for id in row.displayed_completion_ids]
    return dict(zip(shown, row.ranks, strict=True))


FOUR = ("Alpha", "Beta", "Gamma", "Delta")


def test_a_ranking_by_keyboard(serve: Serve, snap: Snap) -> None:
    served = serve(FOUR)
    page = served.page
    snap(page, "compare-ranking")
    first = cards(page)
    for key in ("ArrowDown", "Shift+ArrowUp"):  # the second goes to the top
        page.keyboard.press(key)
    for key in ("j", "j", "t"):  # the third shares the rank of the second
        page.keyboard.press(key)
    for key in ("j", "x"):  # the last is left out
        page.keyboard.press(key)
    assert cards(page) == [first[1], first[0], first[2], first[3]]
    expect(page.locator(".ws-card .ws-rank")).to_have_text(["1", "2", "2", "–"])
    next_after(page, lambda: page.keyboard.press("Enter"))
    second = cards(page)
    page.keyboard.press("3")  # the one at hand becomes third
    next_after(page, lambda: page.keyboard.press("Enter"))
    next_after(page, lambda: page.keyboard.press("0"))

    rows = served.rows()

    texts = texts_of(rows, served.running.data)
    assert [row.verdict for row in rows] == [
        Verdict.RANKED,
        Verdict.RANKED,
        Verdict.NOT_RANKABLE,
    ]
    assert ranked_texts(rows[0], texts) == {first[1]: 1, first[0]: 2, first[2]: 2, first[3]: None}
    assert ranked_texts(rows[1], texts) == {second[1]: 1, second[2]: 2, second[0]: 3, second[3]: 4}


def test_a_ranking_by_touch(serve: Serve) -> None:
    served = serve(FOUR, is_touch=True)
    page = served.page
    first = cards(page)
    drag(page, page.locator(".ws-card").nth(2), page.locator(".ws-card").nth(0))
    assert cards(page) == [first[2], first[0], first[1], first[3]]
    page.locator(".ws-card").nth(3).locator("[data-rank-act=up]").tap()
    assert cards(page) == [first[2], first[0], first[3], first[1]]
    page.locator(".ws-card").nth(1).locator("[data-rank-act=tie]").tap()
    next_after(page, lambda: page.locator("[data-act=submit]:visible").tap())
    assert page.evaluate("document.documentElement.scrollWidth") <= 360

    rows = served.rows()

    texts = texts_of(rows, served.running.data)
    assert ranked_texts(rows[0], texts) == {first[2]: 1, first[0]: 1, first[3]: 2, first[1]: 3}


def drag(page: Page, card: Locator, target: Locator) -> None:
    """Take a card by its side and let it go just above another one."""
    card.scroll_into_view_if_needed()
    start = card.locator(".ws-card-side").bounding_box()
    end = target.bounding_box()
    assert start is not None
    assert end is not None
    x = start["x"] + start["width"] / 2
    page.mouse.move(x, start["y"] + 20)
    page.mouse.down()
    page.mouse.move(x, start["y"] - 10)
    page.mouse.move(x, end["y"] + 4)
    page.mouse.up()


def test_an_unchanged_order_is_asked_about_once(serve: Serve) -> None:
    served = serve(FOUR[:3])
    page = served.page
    before = question(page).inner_text()
    shown = cards(page)

    page.keyboard.press("Enter")

    expect(page.locator("[data-part=last]")).to_contain_text("The order is as it came")
    expect(question(page)).to_have_text(before)
    next_after(page, lambda: page.keyboard.press("Enter"))
    rows = served.rows()
    texts = texts_of(rows, served.running.data)
    assert ranked_texts(rows[0], texts) == dict(zip(shown, (1, 2, 3), strict=True))


def test_long_responses_fold_and_unfold(serve: Serve) -> None:
    page = serve(("Short.", "Brief.", LONG)).page
    long = page.locator(".ws-card[data-long]")
    expect(long).to_have_count(1)
    folded = long.bounding_box()
    assert folded is not None

    long.get_by_role("button", name="Show all").click()

    unfolded = long.bounding_box()
    assert unfolded is not None
    assert unfolded["height"] > 1.5 * folded["height"]


@pytest.mark.parametrize("is_touch", [False, True], ids=["keyboard", "touch"])
def test_a_single_response_is_rated(serve: Serve, snap: Snap, is_touch: bool) -> None:
    served = serve(("Only",), is_touch=is_touch, rating_scale="five_point")
    page = served.page
    snap(page, f"compare-rating-{'touch' if is_touch else 'keyboard'}")
    for n in (5, 1, 3):
        if is_touch:
            option = page.locator(".ws-option:visible").nth(n - 1)
            next_after(page, lambda option=option: option.tap())  # type: ignore[misc]
        else:
            next_after(page, lambda n=n: page.keyboard.press(str(n)))  # type: ignore[misc]

    rows = served.rows()

    assert [(r.verdict, r.ratings, r.rating_scale) for r in rows] == [
        (Verdict.RATED, (n,), RatingScale.FIVE_POINT) for n in (5, 1, 3)
    ]


def test_each_of_two_responses_is_rated_by_itself(serve: Serve) -> None:
    served = serve(FOUR[:2], task="rate", rating_scale="thumbs")
    page = served.page
    page.keyboard.press("2")
    next_after(page, lambda: page.keyboard.press("1"))

    rows = served.rows()

    assert [(r.verdict, r.ratings) for r in rows] == [(Verdict.RATED, (1, 0))]


@pytest.mark.parametrize("is_touch", [False, True], ids=["keyboard", "touch"])
def test_criteria_may_disagree_with_the_verdict(serve: Serve, snap: Snap, is_touch: bool) -> None:
    served = serve(FOUR[:2], is_touch=is_touch, criteria=CRITERIA)
    page = served.page
    if is_touch:
        page.locator("[data-act=a]:visible").tap()
        expect(page.locator("[data-part=last]")).to_have_text("First: Helpful")
        page.get_by_role("radio", name="B is much better").tap()
        harmless = page.locator(".ws-criterion", has_text="Harmless")
        harmless.get_by_role("radio", name="Bad").nth(1).tap()
        harmless.get_by_role("radio", name="Good").nth(0).tap()
        next_after(page, lambda: page.locator("[data-act=a]:visible").tap())
    else:
        for key in ("7", "2", "1"):  # B much more helpful; A harmless, B not
            page.keyboard.press(key)
        snap(page, "compare-criteria")
        next_after(page, lambda: page.keyboard.press("1"))

    (row,) = served.rows()

    one, other = row.displayed_completion_ids
    assert (row.verdict, row.preferred_completion_id) == (Verdict.PREFERRED, one)
    assert row.criteria == (
        CriterionJudgment("Helpful", "seven_point", other, 3),
        CriterionJudgment("Harmless", "thumbs", ratings=(1, 0)),
    )


@pytest.mark.parametrize("is_touch", [False, True], ids=["keyboard", "touch"])
def test_a_rewrite_becomes_a_demonstration_and_two_pairs(
    serve: Serve, snap: Snap, is_touch: bool
) -> None:
    served = serve(FOUR[:2], is_touch=is_touch)
    page = served.page
    shown = page.locator(".ws-response-body").all_inner_texts()
    if is_touch:
        page.locator("[data-act=rewrite]:visible").tap()
        page.get_by_role("button", name="From A").tap()
    else:
        page.keyboard.press("i")
        page.keyboard.press("Enter")  # the first source has the focus
    text = page.locator("[data-part=rewrite_text]")
    expect(text).to_have_value(shown[0])
    text.press("End")
    text.type(" 1 2 3")  # keys rest while one types
    expect(page.locator("[data-part=rewrite_diff] ins")).to_contain_text("1 2 3")
    snap(page, f"compare-rewrite-{'touch' if is_touch else 'keyboard'}")
    if is_touch:
        page.locator("[data-act=close_notes]").tap()
        next_after(page, lambda: page.locator("[data-act=a]:visible").tap())
    else:
        page.keyboard.press("Escape")
        next_after(page, lambda: page.keyboard.press("1"))

    (row,) = served.rows()

    texts = texts_of([row], served.running.data)
    assert row.rewritten_completion_id == row.displayed_completion_ids[0]
    assert row.rewrite_completion_id is not None
    assert texts[row.rewrite_completion_id] == f"{shown[0]} 1 2 3"
    store = Store(served.running.data)
    pairs = {
        (p.chosen_completion_id, p.rejected_completion_id) for p in preferences.list_all(store)
    }
    store.close()
    one, other = row.displayed_completion_ids
    written = row.rewrite_completion_id
    assert pairs == {(one, other), (written, one), (written, other)}


@pytest.mark.parametrize("is_touch", [False, True], ids=["keyboard", "touch"])
def test_reasons_a_rationale_and_flags_go_with_the_verdict(serve: Serve, is_touch: bool) -> None:
    served = serve(FOUR[:2], is_touch=is_touch, reasons=("clearer", "more polite"))
    page = served.page
    if is_touch:
        page.locator("[data-act=why]:visible").tap()
        page.get_by_role("button", name="more polite").tap()
        page.locator("[data-part=why_text]").fill("It greets.")
        page.locator("[data-act=flag]:visible").tap()
        page.locator(".ws-flag-row").nth(2).get_by_role("button", name="Unsafe").tap()
        page.locator("[data-act=close_notes]").tap()
        next_after(page, lambda: page.locator("[data-act=tie]:visible").tap())
    else:
        for key in ("w", "Tab", "Enter", "Tab"):  # the second reason, then the text
            page.keyboard.press(key)
        page.keyboard.type("It greets.")
        page.keyboard.press("Escape")
        page.keyboard.press("f")
        for _ in range(8):  # four kinds for the prompt and for A
            page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.keyboard.press("Escape")
        next_after(page, lambda: page.keyboard.press("3"))

    (row,) = served.rows()

    assert row.verdict is Verdict.TIE
    assert (row.reasons, row.rationale) == (("more polite",), "It greets.")
    assert row.flags == (Flag("unsafe", row.displayed_completion_ids[1]),)


def test_a_draft_outlives_a_reload_and_an_undo(serve: Serve) -> None:
    served = serve(FOUR[:2])
    page = served.page
    asked = question(page).inner_text()
    page.keyboard.press("w")
    page.keyboard.type("Half a though")
    page.reload()
    wait_for_item(page)
    expect(question(page)).to_have_text(asked)
    page.keyboard.press("w")
    expect(page.locator("[data-part=why_text]")).to_have_value("Half a though")
    page.keyboard.press("End")
    page.keyboard.type("t.")
    page.keyboard.press("Escape")

    next_after(page, lambda: page.keyboard.press("1"))
    page.keyboard.press("u")
    expect(question(page)).to_have_text(asked)
    next_after(page, lambda: page.keyboard.press("2"))

    (row,) = served.rows()
    assert row.rationale == "Half a thought."
    assert row.preferred_completion_id == row.displayed_completion_ids[1]


def test_a_draft_put_back_for_later_is_found_in_my_work(serve: Serve, snap: Snap) -> None:
    page = serve(FOUR[:2]).page
    asked = question(page).inner_text()
    page.keyboard.press("w")
    page.keyboard.type("Not sure yet.")
    page.keyboard.press("Escape")

    next_after(page, lambda: page.keyboard.press("l"))
    page.click("#tab-my-work-button")
    page.click(".ws-work [data-view=drafts]")
    expect(page.locator(".ws-work-row")).to_contain_text(["Not sure yet."])
    snap(page, "my-work-drafts")
    page.get_by_role("button", name="Continue the draft").click()

    expect(question(page)).to_have_text(asked)
    page.keyboard.press("w")
    expect(page.locator("[data-part=why_text]")).to_have_value("Not sure yet.")


def test_any_item_at_hand_can_be_gone_to(serve: Serve) -> None:
    page = serve(FOUR[:2]).page
    page.click("#tab-my-work-button")
    page.click(".ws-work [data-view=pending]")
    row = page.locator(".ws-work-row").nth(3)
    asked = row.locator(".ws-work-prompt").inner_text()

    row.get_by_role("button", name="Judge now").click()

    expect(question(page)).to_have_text(asked)


def test_a_past_judgment_is_corrected_by_a_new_row(serve: Serve) -> None:
    served = serve(FOUR[:2])
    page = served.page
    asked = question(page).inner_text()
    page.keyboard.press("w")
    page.keyboard.type("First thought.")
    page.keyboard.press("Escape")
    next_after(page, lambda: page.keyboard.press("1"))
    next_after(page, lambda: page.keyboard.press("2"))
    wait_until_saved(page)
    page.click("#tab-my-work-button")
    change = page.locator(".ws-work-row").nth(1).get_by_role("button", name="Change")
    change.click()
    expect(question(page)).to_have_text(asked)
    expect(page.locator("[data-part=correcting]")).to_be_visible()
    expect(page.locator("[data-act=a]:visible")).to_have_attribute("data-said", "")
    page.keyboard.press("Escape")  # kept as it was
    expect(page.locator("[data-part=correcting]")).to_be_hidden()
    page.click("#tab-my-work-button")
    change.click()
    expect(question(page)).to_have_text(asked)

    next_after(page, lambda: page.keyboard.press("3"))

    rows = served.rows()
    corrected = next(row for row in rows if row.supersedes)
    assert [row.verdict for row in rows] == [Verdict.PREFERRED, Verdict.TIE]
    assert corrected.rationale == "First thought."
    store = Store(served.running.data)
    assert corrected.supersedes is not None
    first = judgments.get(store, corrected.supersedes)
    store.close()
    assert first is not None
    assert first.verdict is Verdict.PREFERRED


@pytest.mark.parametrize("reveals", [False, True])
def test_policies_are_revealed_only_if_the_project_says_so(serve: Serve, reveals: bool) -> None:
    page = serve(FOUR[:2], reveals_policies=reveals).page
    bodies: list[str] = []

    def note(reply: Response) -> None:
        if "/api/judging" in reply.url:
            bodies.append(reply.text())

    page.on("response", note)

    next_after(page, lambda: page.keyboard.press("1"))
    wait_until_saved(page)

    last = page.locator("[data-part=last]")
    if reveals:
        expect(last).to_contain_text("pol-00000")
    else:
        expect(last).to_have_text("Last: A is better")
        assert not any("pol-00000" in body for body in bodies)


def test_what_a_lead_sets_is_asked_on_the_page(serve: Serve, snap: Snap) -> None:
    served = serve(FOUR[:2])
    page = served.page
    page.goto(f"{served.running.url}/lead/#project")
    expect(page.locator("#project-name textarea, #project-name input")).not_to_have_value("")
    page.locator("#project-criterion-0 :is(textarea, input)").fill("Harmless")
    page.locator("#project-criterion-scale-0 input").click()
    page.get_by_role("option", name="Bad or good, each response").click()
    page.locator("#project-criterion-needed-0 input").check()
    page.locator("#project-reasons textarea").fill("clearer\n\nmore polite")
    page.locator("#guidelines-text textarea").fill("Half a gui")
    page.click("#project-save")
    expect(page.locator("#project-saved")).to_be_in_viewport()
    expect(page.locator("#guidelines-text textarea")).to_have_value("Half a gui")
    page.locator("#project-name :is(textarea, input)").fill("Half a na")
    page.click("#guidelines-publish")
    expect(page.locator("#guidelines-published")).to_be_in_viewport()
    expect(page.locator("#project-name :is(textarea, input)")).to_have_value("Half a na")
    snap(page, "project")

    page.goto(served.running.url)
    wait_for_item(page)
    for key in ("1", "2"):  # the criterion comes first
        page.keyboard.press(key)
    page.keyboard.press("w")
    expect(page.locator(".ws-notes .ws-chip-button:visible")).to_have_text(
        ["clearer", "more polite"]
    )
    page.keyboard.press("Escape")
    next_after(page, lambda: page.keyboard.press("2"))

    (row,) = served.rows()
    assert row.criteria == (CriterionJudgment("Harmless", "thumbs", ratings=(0, 1)),)
