"""Best-of-n: what choosing gains, what is kept, and what a crash leaves."""

from __future__ import annotations

import itertools
from pathlib import Path
from statistics import fmean

import pytest

from training.worker.completions import CompletionLog, Drawn, kept
from training.worker.failures import BadData
from training.worker.selection import best_of_n_kl, doublings, expected_best


def drawn(row: int, *rewards: float, ended: tuple[bool, ...] = ()) -> Drawn:
    completions = [[row, place] for place in range(len(rewards))]
    return Drawn(row, completions, list(rewards), list(ended or (True,) * len(rewards)))


@pytest.mark.parametrize(("n", "expected"), [(1, 1.5), (2, 2.3333333), (3, 2.75), (4, 3.0)])
def test_the_expected_best_has_the_values_worked_out_by_hand(n: int, expected: float) -> None:
    assert expected_best([2.0, 0.0, 3.0, 1.0], n) == pytest.approx(expected)


def test_the_expected_best_is_the_mean_over_all_choices() -> None:
    scores = [0.3, -1.2, 0.3, 2.5, 0.9, -0.1]
    for n in range(1, 7):
        every = fmean(max(choice) for choice in itertools.combinations(scores, n))
        assert expected_best(scores, n) == pytest.approx(every)


def test_what_the_best_is_worth_to_another_is_the_mean_over_all_choices() -> None:
    scores, values = [0.3, -1.2, 0.4, 2.5], [1.0, 9.0, -2.0, 0.5]
    for n in range(1, 5):
        choices = itertools.combinations(zip(scores, values, strict=True), n)
        every = fmean(max(choice)[1] for choice in choices)
        assert expected_best(scores, n, values) == pytest.approx(every)


@pytest.mark.parametrize("values", [[1.0, 5.0, 0.0], [5.0, 1.0, 0.0]])
def test_of_those_that_score_the_same_each_is_as_likely_the_best(values: list[float]) -> None:
    assert expected_best([2.0, 2.0, 1.0], 3, values) == pytest.approx(3.0)


@pytest.mark.parametrize("n", [0, 3])
def test_the_best_of_more_than_there_are_is_refused(n: int) -> None:
    with pytest.raises(ValueError, match="between 1"):
        expected_best([1.0, 2.0], n)


@pytest.mark.parametrize(("n", "kl"), [(1, 0.0), (4, 0.636294), (16, 1.835089), (64, 3.174508)])
def test_the_distance_of_the_best_of_n(n: int, kl: float) -> None:
    assert best_of_n_kl(n) == pytest.approx(kl, abs=1e-6)


@pytest.mark.parametrize(
    ("n", "expected"), [(1, [1]), (2, [1, 2]), (8, [1, 2, 4, 8]), (12, [1, 2, 4, 8, 12])]
)
def test_the_curve_is_measured_at_doublings_and_at_its_end(n: int, expected: list[int]) -> None:
    assert doublings(n) == expected


def test_the_prompts_whose_best_scores_highest_are_kept() -> None:
    found = [drawn(0, 1.0, 5.0), drawn(1, 4.0, 4.5), drawn(2, 9.0, -9.0), drawn(3, 0.0, 0.1)]
    assert [each.row for each in kept(found, 0.5)] == [2, 0]
    assert [each.best for each in kept(found, 0.5)] == [0, 1]
    assert [each.row for each in kept(found, 0.01)] == [2]


def test_a_response_without_an_end_is_never_the_best() -> None:
    found = [drawn(0, 7.0, 1.0, ended=(False, True)), drawn(1, 8.0, ended=(False,))]
    assert [(each.row, each.best) for each in kept(found, 1.0)] == [(0, 1)]


def test_nothing_that_ended_is_nothing_to_learn_from() -> None:
    with pytest.raises(BadData, match="came to an end"):
        kept([drawn(0, 1.0, ended=(False,))], 1.0)


def test_a_log_that_was_torn_goes_on_after_its_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "completions.jsonl"
    first, second = drawn(4, 0.5, -0.25), drawn(7, 1.0)
    log = CompletionLog(path)
    log.append(first)
    log.append(second)
    log.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])

    again = CompletionLog(path)
    assert again.drawn == [first]
    again.append(second)
    again.close()

    assert path.read_bytes() == whole
    assert CompletionLog(path).drawn == [first, second]
