"""What a lead is told to expect, and what came true."""

from __future__ import annotations

from dataclasses import replace

from labeling import i18n
from labeling.cautions import Caution, Severity
from labeling.i18n import Language
from labeling.outlook import Outlook, lengths_of, with_responses
from labeling.ui import outlook as view
from labeling.ui import pipeline_view
from store.completions import Written
from store.data_facts import DataFacts
from store.records import RunState
from tests.unit.test_cautions import facts
from tests.unit.test_estimate import foretold
from tests.unit.test_ui_html import HOSTILE, make_run
from training.estimate import Foretold, Lengths, Memory
from training.lengths import TokenCounts
from training.messages import Message

TOLD = replace(
    foretold(), seconds=125.0, memory=Memory(500.0, 10.0, 0.0, 4.0, 900.0, 100.0), steps=40
)


def outlook(*cautions: Caution, data: DataFacts | None = None) -> Outlook:
    found = data or facts()
    return Outlook("dpo", found, cautions, TOLD)


def caution(name: str, severity: Severity, text: str = "Something.") -> Caution:
    return Caution(name, severity, Message("{text}", {"text": text}), Message("Do this."))


def test_time_memory_and_steps_are_told() -> None:
    shown = view.outlook(outlook())

    for text in (
        "2 min 5 s",
        "1.4 GiB",
        ">40<",
    ):
        assert text in shown
    assert "900 MiB" in shown
    assert "The reference policy" not in shown


def test_money_is_told_where_an_hour_has_a_price() -> None:
    assert "at the price set" not in view.outlook(outlook())
    assert "≈ 0.07" in view.outlook(outlook(), price_per_hour=2.0)


def test_the_worst_caution_comes_first_and_hostile_text_stays_text() -> None:
    given = (
        caution("small", Severity.NOTE),
        caution("large", Severity.BAD, HOSTILE),
        caution("middle", Severity.WARN),
    )
    shown = view.outlook(outlook(*given))

    places = [shown.index(f"caution-{name}") for name in ("large", "middle", "small")]
    assert places == sorted(places)
    assert 'role="alert"' in shown
    assert "<script" not in shown


def test_a_run_that_cannot_be_foreseen_still_shows_its_cautions() -> None:
    shown = view.outlook(replace(outlook(caution("few", Severity.WARN)), estimate=None))

    assert "not known" in shown
    assert "caution-few" in shown


def stages(*cautions: Caution) -> list[Outlook]:
    """Three runs, all with the same cautions."""
    return [replace(outlook(*cautions), method=method) for method in ("sft", "reward", "ppo")]


def test_the_stages_of_the_pipeline_are_told_with_their_sum() -> None:
    shown = pipeline_view.expected(stages())

    assert shown.count("2 min 5 s") == 3
    assert "<b>6 min 15 s</b>" in shown
    assert "<b>1.4 GiB</b>" in shown  # one after the other
    assert "Money" not in shown
    assert "<b>0.21</b>" in pipeline_view.expected(stages(), price_per_hour=2.0)


def test_a_stage_that_cannot_be_foreseen_leaves_the_sum_open() -> None:
    first, *others = stages()
    shown = pipeline_view.expected([replace(first, estimate=None), *others], price_per_hour=2.0)

    assert shown.count("2 min 5 s") == 2
    assert "<b>—</b>" in shown


def test_what_is_grave_of_several_stages_is_said_once_with_their_names() -> None:
    given = caution("habit", Severity.WARN, "Odd."), caution("small", Severity.NOTE)
    shown = pipeline_view.expected(stages(*given))

    assert shown.count("Odd.") == 1
    assert "SFT · Reward model · PPO: Odd." in shown
    assert "caution-small" not in shown


def test_the_pipeline_says_beside_its_button_why_it_cannot_be_pressed() -> None:
    assert "disabled" not in pipeline_view.launch(None, [])
    shown = pipeline_view.launch(None, ["SFT: Nothing to learn from."])
    assert "disabled" in shown
    assert "SFT: Nothing to learn from." in shown


def test_nothing_is_foretold_without_data() -> None:
    assert view.outlook(outlook(data=facts(rows=0))) == ""


def test_the_estimate_stands_beside_what_a_run_took() -> None:
    timing = {"run_s": 250.0, "peak_mb": 2048.0, "tokens": 123_456}
    run = make_run(RunState.SUCCEEDED, result={"report": {"timing": timing}})

    shown = view.came_true(run, Foretold(TOLD))

    for text in ("2 min 5 s", "4 min 10 s", "1.4 GiB", "2.0 GiB", "123,456"):
        assert text in shown
    assert "4 min 10 s" in view.came_true(run, Foretold())
    assert view.came_true(make_run(RunState.SUCCEEDED, result={"report": {}}), Foretold(TOLD)) == ""


def test_what_a_run_cost_stands_beside_what_it_was_to_cost() -> None:
    run = make_run(RunState.SUCCEEDED, result={"report": {"timing": {"run_s": 250.0}}})

    assert "Money" not in view.came_true(run, Foretold(TOLD))
    shown = view.came_true(run, Foretold(TOLD, 20.0))

    assert "0.69" in shown  # 125 s
    assert "1.39" in shown  # 250 s


def test_an_estimate_made_after_a_run_is_called_so() -> None:
    run = make_run(RunState.SUCCEEDED, result={"report": {"timing": {"run_s": 250.0}}})

    assert "Estimated afterwards" in view.came_true(run, Foretold(TOLD, is_afterwards=True))
    for told in (Foretold(TOLD), Foretold(None, is_afterwards=True)):
        assert "afterwards" not in view.came_true(run, told)


def test_it_is_said_in_chinese() -> None:
    with i18n.speaking(Language.ZH):
        shown = view.outlook(outlook())

    assert "预计" in shown
    assert "What to expect" not in shown


def test_the_longest_row_need_not_be_in_the_sample() -> None:
    counts = TokenCounts([80, 100, 120], [50, 60, 70])

    found = lengths_of(facts(mean_chars=300.0, longest_chars=900), counts)

    assert (found.mean, found.longest, found.completion_longest) == (100, 300, 70)
    assert lengths_of(facts(longest_chars=10), counts).longest == 120


def test_responses_to_prompts_are_as_long_as_policies_write_them() -> None:
    prompts = Lengths(20.0, 40, 0.0, 0)

    assert with_responses(prompts, Written(55.5, 90)) == Lengths(75.5, 130, 55.5, 90)
    unknown = with_responses(prompts, None)
    assert unknown.mean - unknown.completion_mean == 20
    assert unknown.completion_mean > 100_000
