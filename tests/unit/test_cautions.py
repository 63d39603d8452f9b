"""Which data and which options are warned of, and which honest ones are not."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from labeling import cautions
from labeling.cautions import Caution, Severity
from labeling.volumes import Grade, volume
from store.data_facts import DataFacts, Duel, Tally
from tests.unit.test_estimate import foretold, machine
from training.lengths import TokenCounts
from training.methods import METHODS
from training.methods.dpo import DPOOptions
from training.methods.ppo import PPOOptions

NOTHING = Tally(0, 0)


def facts(**changes: Any) -> DataFacts:
    """300 honest preferences: three people, a longer response that often wins, varied prompts."""
    honest = DataFacts(
        rows=300,
        comparisons=300,
        distinct_prompts=280,
        distinct_templates=250,
        leaked_prompts=0,
        people=3,
        top_person="ana",
        from_top_person=Tally(150, 320),
        longer_won=Tally(220, 295),
        first_won=Tally(160, 300),
        liked=NOTHING,
        duel=Duel("pol-000002", "pol-000001", Tally(40, 60)),
        mean_chars=300.0,
        longest_chars=900,
    )
    return honest._replace(**changes)


def named(found: Iterable[Caution]) -> dict[str, Caution]:
    return {caution.name: caution for caution in found}


def of_data(method: str = "dpo", **changes: Any) -> dict[str, Caution]:
    kind = METHODS[method]
    return named(cautions.of_data(kind, kind.options(), facts(**changes)))


def test_honest_data_are_not_warned_of() -> None:
    assert of_data() == {}
    assert of_data("sft") == {}


@pytest.mark.parametrize(
    ("name", "severity", "changes"),
    [
        ("few", Severity.WARN, {"rows": 20}),
        ("one_person", Severity.WARN, {"from_top_person": Tally(250, 320)}),
        ("one_person", Severity.NOTE, {"from_top_person": Tally(320, 320), "people": 1}),
        ("longer_wins", Severity.WARN, {"longer_won": Tally(280, 295)}),
        ("one_side", Severity.WARN, {"first_won": Tally(220, 300)}),
        ("one_side", Severity.WARN, {"first_won": Tally(80, 300)}),
        ("one_policy", Severity.NOTE, {"duel": Duel("a", "b", Tally(59, 60))}),
        ("repeated", Severity.WARN, {"distinct_prompts": 180, "distinct_templates": 170}),
        ("alike", Severity.WARN, {"distinct_templates": 150}),
        ("leaked", Severity.NOTE, {"leaked_prompts": 3}),
    ],
)
def test_each_fault_is_told_alone_with_what_to_do(
    name: str, severity: Severity, changes: dict[str, Any]
) -> None:
    found = of_data(**changes)

    assert list(found) == [name]
    assert found[name].severity is severity
    assert "{" not in str(found[name].found) + str(found[name].remedy)


@pytest.mark.parametrize(
    ("method", "counted"),
    [("sft", "300 examples"), ("kto", "300 comparisons"), ("reward", "300 comparisons")],
)
def test_fewer_than_four_fifths_of_distinct_prompts_are_told_by_what_is_learned(
    method: str, counted: str
) -> None:
    found = of_data(method, distinct_prompts=239, distinct_templates=239)

    assert list(found) == ["repeated"]
    assert counted in str(found["repeated"].found)
    assert of_data(method, distinct_prompts=240, distinct_templates=240) == {}


def test_many_pairs_of_one_ranking_are_no_prompts_that_come_again() -> None:
    assert of_data("reward", rows=1680) == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"longer_won": Tally(9, 9)},
        {"first_won": Tally(9, 10)},
        {"first_won": Tally(22, 34)},
        {"duel": Duel("a", "b", Tally(20, 20))},
        {"from_top_person": Tally(10, 10)},
    ],
)
def test_what_few_judgments_show_by_chance_is_no_habit(changes: dict[str, Any]) -> None:
    assert of_data(**changes) == {}


@pytest.mark.parametrize(("method", "can_choose"), [("dpo", True), ("reward", False)])
def test_a_loss_is_advised_only_where_there_is_one_to_choose(method: str, can_choose: bool) -> None:
    advice = str(of_data(method, longer_won=Tally(280, 295))["longer_wins"].remedy)
    assert ("sigmoid_norm" in advice) is can_choose


def test_thumbs_that_point_one_way_cannot_be_learned_from() -> None:
    found = of_data("kto", liked=Tally(300, 300))

    assert found["one_thumb"].severity is Severity.BAD
    assert "one_thumb" not in of_data("kto", liked=Tally(200, 300))


def test_lopsided_thumbs_are_warned_of_unless_weights_make_up_for_it() -> None:
    method = METHODS["kto"]
    lopsided = facts(liked=Tally(240, 300))
    weighed = method.options.parsed({"undesirable_weight": 4.0})

    assert of_data("kto", liked=Tally(160, 300)) == {}
    assert list(of_data("kto", liked=Tally(240, 300))) == ["lopsided"]
    assert named(cautions.of_data(method, weighed, lopsided)) == {}


def test_no_data_are_not_commented_on() -> None:
    assert of_data(rows=0) == {}


@pytest.mark.parametrize(
    ("long_rows", "severity"), [(0, None), (2, Severity.NOTE), (20, Severity.WARN)]
)
def test_rows_that_will_be_left_out_are_foretold(long_rows: int, severity: Severity | None) -> None:
    counts = TokenCounts([90] * (100 - long_rows) + [130] * long_rows, [50] * 100)

    found = of_lengths(counts, max_length=100)

    assert (found["cut"].severity if "cut" in found else None) is severity
    if severity:
        assert f"{long_rows} %" in str(found["cut"].found)


def of_lengths(
    counts: TokenCounts, method: str = "dpo", *, context: int | None = None, **options: Any
) -> dict[str, Caution]:
    kind = METHODS[method]
    chosen = kind.options.parsed(options)
    return named(cautions.of_lengths(kind, chosen, counts, context=context))


def test_rows_beyond_what_the_model_reads_are_foretold() -> None:
    counts = TokenCounts([130] * 100, [50] * 100)

    assert of_lengths(counts, context=130, max_length=1024) == {}
    found = of_lengths(counts, context=129, max_length=1024)["cut"]
    assert "longer than 129 tokens" in str(found.found)
    assert "reads no more" in str(found.remedy)
    # Virtual tokens take room in it.
    taken: dict[str, Any] = {"tuning": "prompt", "virtual_tokens": 4}
    found = of_lengths(counts, context=130, **taken)["cut"]
    assert "126 tokens" in str(found.found)
    assert "reads no more" in str(found.remedy)


@pytest.mark.parametrize("method", ["ppo", "rloo", "grpo", "online_dpo", "best_of_n"])
def test_prompts_that_leave_no_room_for_a_response_are_foretold(method: str) -> None:
    counts = TokenCounts([30] * 90 + [60] * 10, [])

    assert of_lengths(counts, method, context=110, max_new_tokens=50) == {}
    found = of_lengths(counts, method, context=109, max_new_tokens=50)["cut"]
    assert "10 % of the prompts leave no room for a response of 50 tokens" in str(found.found)


def test_a_template_that_ends_no_turn_is_told() -> None:
    assert list(named(cautions.of_ends(ends_turns=False))) == ["endless"]


@pytest.mark.parametrize(
    ("loss", "beta", "expected"),
    [("sigmoid_norm", 0.1, ["beta"]), ("sigmoid_norm", 5.0, []), ("sigmoid", 0.1, [])],
)
def test_a_beta_for_sums_is_told_where_the_loss_takes_means(
    loss: str, beta: float, expected: list[str]
) -> None:
    options = DPOOptions.parsed({"loss_type": loss, "beta": beta})
    assert list(named(cautions.of_loss(options))) == expected


def test_a_method_without_a_loss_to_choose_is_not_told_of_beta() -> None:
    assert list(cautions.of_loss(PPOOptions())) == []


@pytest.mark.parametrize(
    ("memory_mb", "severity"), [(100_000, None), (20_000, Severity.WARN), (12_000, Severity.BAD)]
)
def test_a_run_that_hardly_fits_is_told(memory_mb: int, severity: Severity | None) -> None:
    told = foretold()
    large = replace(told, memory=replace(told.memory, weights=16_000.0, process=0.0))

    found = named(cautions.of_memory(large, machine("cuda", memory_mb)))

    assert (found["memory"].severity if found else None) is severity


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_words_for_every_amount(method: str) -> None:
    found = [volume(METHODS[method], rows) for rows in (1, 150, 900, 100_000)]

    assert [v.grade for v in found][::3] == [Grade.HARDLY_ANY, Grade.LARGE]
    assert len({str(v.advice) for v in found}) >= 3
    assert found[-1].to_next is None


@pytest.mark.parametrize(
    ("method", "rows", "grade", "to_next"),
    [
        ("dpo", 49, Grade.HARDLY_ANY, 1),
        ("dpo", 50, Grade.SMALL, 150),
        ("dpo", 200, Grade.MEDIUM, 800),
        ("reward", 200, Grade.SMALL, 800),
        ("kto", 200, Grade.SMALL, 200),
        ("sft", 1000, Grade.LARGE, None),
    ],
)
def test_how_much_is_enough_depends_on_the_method(
    method: str, rows: int, grade: Grade, to_next: int | None
) -> None:
    found = volume(METHODS[method], rows)

    assert (found.grade, found.to_next) == (grade, to_next)


@pytest.mark.parametrize(("general", "found"), [(0, True), (30, True), (40, False)])
def test_too_few_general_demonstrations_are_told(general: int, found: bool) -> None:
    """A tenth beside the 255 of 300 rows that are learned is 28, and 15 % are held out."""
    options = METHODS["sft"].options.parsed({"replay_share": 0.1})
    told = named(cautions.of_replay(options, rows=300, general=general))

    assert ("replay" in told) is found


def test_a_method_that_replays_nothing_asks_for_no_general_demonstrations() -> None:
    for method, given in (("dpo", {}), ("sft", {"replay_share": 0.0})):
        options = METHODS[method].options.parsed(given)
        assert not list(cautions.of_replay(options, rows=300, general=0))


def test_best_of_n_learns_what_it_keeps() -> None:
    options = METHODS["best_of_n"].options.parsed({"prompts": 100, "keep": 0.5})
    [told] = cautions.of_replay(options, rows=3000, general=1)

    assert "asks for 5." in str(told.found)  # a tenth, beside the 42 that are not held out


def test_processes_on_a_cpu_share_its_memory_and_those_on_gpus_do_not() -> None:
    told = foretold(processes=4)
    room = round(2 * told.peak_mb)

    assert "memory" in named(cautions.of_memory(told, machine("cpu", room)))
    assert not list(cautions.of_memory(told, machine("cuda", room)))
