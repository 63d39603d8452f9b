"""What a project asks of its annotators."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from labeling.access import Actor
from labeling.project import Criterion, Project, ProjectSettings, Scale, Shares, Task
from store import settings
from store.db import Store
from store.errors import BadInput, NotAllowed
from store.records import RatingScale, Role

LEA = Actor("lea", "Lea", Role.LEAD)
ANA = Actor("ana", "Ana", Role.ANNOTATOR)


def test_what_a_lead_sets_is_there_after_a_restart(store: Store) -> None:
    assert Project(store).settings == ProjectSettings("Customer support", Scale.PLAIN)
    Project(store).change(LEA, name="  Support tone ", scale="seven_point")
    assert Project(store).settings == ProjectSettings("Support tone", Scale.SEVEN_POINT)


@pytest.mark.parametrize(
    ("name", "scale", "problem"),
    [(" ", "plain", "1 to 80"), ("x" * 81, "plain", "1 to 80"), ("tone", "eleven", "seven_point")],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(
    store: Store, name: str, scale: str, problem: str
) -> None:
    project = Project(store)
    with pytest.raises(BadInput, match=problem):
        project.change(LEA, name=name, scale=scale)
    assert project.settings == ProjectSettings()


CRITERIA = (
    Criterion(" Helpful ", Scale.SEVEN_POINT, is_required=True),
    Criterion("Harmless", RatingScale.THUMBS),
)


def test_criteria_and_reasons_are_there_after_a_restart(store: Store) -> None:
    Project(store).change(
        LEA,
        task="rate",
        rating_scale="thumbs",
        criteria=CRITERIA,
        reasons=(" clearer ", "polite", "clearer"),
        reveals_policies=True,
    )

    reopened = Project(store).settings

    assert reopened == ProjectSettings(
        task=Task.RATE,
        rating_scale=RatingScale.THUMBS,
        criteria=(replace(CRITERIA[0], name="Helpful"), CRITERIA[1]),
        reasons=("clearer", "polite"),
        reveals_policies=True,
    )


SENSELESS: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown task": ({"task": "guess"}, "compare, rate"),
    "an unknown rating scale": ({"rating_scale": "stars"}, "thumbs, five_point"),
    "a nameless criterion": ({"criteria": (Criterion(" ", Scale.PLAIN),)}, "1 to 80"),
    "two of one name": (
        {"criteria": (CRITERIA[1], Criterion("harmless", Scale.PLAIN))},
        "same name",
    ),
    "one response to compare": ({"responses": 1}, "cannot be compared"),
    "seven criteria": (
        {"criteria": tuple(Criterion(str(i), Scale.PLAIN) for i in range(7))},
        "at most 6",
    ),
    "a scale that is none": (
        {"criteria": (Criterion("tone", "loud"),)},  # type: ignore[arg-type]
        "plain, seven_point, thumbs, five_point",
    ),
    "many reasons": ({"reasons": tuple(map(str, range(21)))}, "at most 20"),
}


@pytest.mark.parametrize("case", SENSELESS)
def test_senseless_settings_are_refused_and_change_nothing(store: Store, case: str) -> None:
    values, problem = SENSELESS[case]
    project = Project(store)
    with pytest.raises(BadInput, match=problem):
        project.change(LEA, **values)
    assert project.settings == ProjectSettings()


def test_settings_of_an_older_or_newer_store_are_read(store: Store) -> None:
    settings.put(store, "judging", {"name": "Tone", "scale": "seven_point", "unheard_of": 1})

    assert Project(store).settings == ProjectSettings("Tone", Scale.SEVEN_POINT)


def test_an_annotator_cannot_change_the_project(store: Store) -> None:
    with pytest.raises(NotAllowed):
        Project(store).change(ANA, name="mine", scale="plain")
    with pytest.raises(NotAllowed):
        Project(store).write_guidelines(ANA, "Prefer mine.")


def test_guidelines_get_a_new_version_for_every_new_text(store: Store) -> None:
    project = Project(store)
    assert project.guidelines is None
    versions = [
        project.write_guidelines(LEA, text).version
        for text in ("Prefer steps.", " Prefer steps.\n", "Prefer steps, then empathy.")
    ]
    assert versions == [1, 1, 2]
    reopened = Project(store).guidelines
    assert reopened is not None
    assert (reopened.version, reopened.text, reopened.created_by) == (
        2,
        "Prefer steps, then empathy.",
        LEA.id,
    )


@pytest.mark.parametrize("text", ["", "  \n", "x" * 50_001])
def test_guidelines_that_are_empty_or_endless_are_refused(store: Store, text: str) -> None:
    with pytest.raises(BadInput, match="characters"):
        Project(store).write_guidelines(LEA, text)


def test_overlap_responses_and_shares_are_there_after_a_restart(store: Store) -> None:
    Project(store).change(LEA, min_submitted=3, responses=4, shares=Shares(50, 30, 20))
    kept = Project(store).settings
    assert (kept.min_submitted, kept.responses, kept.shares) == (3, 4, Shares(50, 30, 20))


def test_a_store_of_another_version_opens_with_defaults_and_without_what_is_unknown(
    store: Store,
) -> None:
    settings.put(
        store,
        "judging",
        {
            "name": "tone",
            "mood": "good",
            "criteria": [{"name": "honest", "scale": "plain", "colour": "red"}],
            "shares": {"live": 80, "previous": 20, "other": 0},
        },
    )
    kept = Project(store).settings
    assert (kept.name, kept.criteria[0].name) == ("tone", "honest")
    assert (kept.min_submitted, kept.responses, kept.shares) == (1, 2, Shares(80, 20, 0))


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"min_submitted": 0}, "from 1 to 20"),
        ({"min_submitted": 21}, "from 1 to 20"),
        ({"min_submitted": 1.5}, "whole number"),
        ({"min_submitted": None}, "whole number"),
        ({"responses": 0}, "from 1 to 9"),
        ({"responses": 10}, "from 1 to 9"),
        ({"shares": Shares(50, 30, 30)}, "add up to 110 %, not to 100 %"),
        ({"shares": Shares(120, -20, 0)}, "from 0 to 100"),
    ],
)
def test_numbers_out_of_bounds_are_refused_and_change_nothing(
    store: Store, values: dict[str, object], problem: str
) -> None:
    project = Project(store)
    with pytest.raises(BadInput, match=problem):
        project.change(LEA, **values)
    assert Project(store).settings == project.settings == ProjectSettings()


def test_who_follows_a_project_is_told_what_is_set_and_every_change(store: Store) -> None:
    project = Project(store)
    told: list[int] = []
    project.follow(lambda now: told.append(now.min_submitted))
    project.change(LEA, min_submitted=2)
    with pytest.raises(BadInput):
        project.change(LEA, min_submitted=99)
    project.change(LEA, min_submitted=5)
    assert told == [1, 2, 5]
