from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pytest

from training import tracking
from training.config import RunSpec, worker_environment
from training.methods import METHODS
from training.methods.dpo import DPOOptions
from training.options import SpecError
from training.tuning import suggested_learning_rate


def make_spec(**changes: Any) -> RunSpec:
    spec = RunSpec("run-1", "dpo", DPOOptions(), "models/base", "pol-000000")
    return replace(spec, **changes)


def test_a_spec_survives_the_way_through_json() -> None:
    spec = make_spec(options=DPOOptions(beta=0.3, epochs=1), parent_adapter="runs/a/adapter")
    assert RunSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_every_option_says_all_that_a_form_needs() -> None:
    for method in METHODS.values():
        for option in method.options.described():
            assert option.label
            assert option.help
            has_bounds = option.minimum is not None and option.maximum is not None
            is_free = option.type is bool or option.name == "accelerate_config"
            assert has_bounds or option.choices or is_free, option.name
            assert set(option.offered) <= set(option.choices), option.name


def test_several_trackers_are_read_from_a_form_or_from_text() -> None:
    several = DPOOptions.parsed({"trackers": ["tensorboard"]})
    assert several == DPOOptions.parsed({"trackers": " tensorboard, "}) == DPOOptions()
    assert DPOOptions.parsed({"trackers": []}).tracked_by == []


def test_a_tracker_that_is_not_known_or_not_installed_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(SpecError, match="choose one of tensorboard, trackio, wandb, mlflow"):
        DPOOptions.parsed({"trackers": "tensorboard,paper"})
    monkeypatch.setattr(tracking, "find_spec", lambda _: None)
    with pytest.raises(SpecError, match="tensorboard is not installed here"):
        DPOOptions.parsed({"trackers": "tensorboard"})


def test_a_trainer_tells_the_makers_of_its_libraries_nothing() -> None:
    environment = worker_environment(1)
    assert environment["HF_HUB_DISABLE_TELEMETRY"] == environment["DO_NOT_TRACK"] == "1"
    assert environment["WANDB_ERROR_REPORTING"] == "false"


@pytest.mark.parametrize("pairs", [10, 200, 1000, 50000])
def test_the_defaults_lie_within_their_own_bounds(pairs: int) -> None:
    for options in (DPOOptions(), DPOOptions.preset(pairs, parameters=2_600_000, tuning="lora")):
        assert DPOOptions.parsed(asdict(options)) == options


def test_few_pairs_are_seen_more_often_and_with_smaller_steps() -> None:
    small, medium, large = (
        DPOOptions.preset(n, parameters=2_600_000, tuning="lora") for n in (199, 200, 1001)
    )
    assert small.epochs > medium.epochs > large.epochs
    assert small.learning_rate < medium.learning_rate < large.learning_rate


@pytest.mark.parametrize(
    ("parameters", "rate"), [(2_600_000, 3e-3), (7_000_000_000, 2e-5), (1000, 3e-3), (None, 5e-5)]
)
def test_larger_models_take_smaller_steps(parameters: int | None, rate: float) -> None:
    assert suggested_learning_rate(parameters) == pytest.approx(rate)


def test_options_are_read_from_the_text_of_a_command_line() -> None:
    given = {"beta": "0.2", "epochs": "4", "gradient_checkpointing": "True", "loss_type": "ipo"}
    assert DPOOptions.parsed(given) == DPOOptions(
        beta=0.2, epochs=4, gradient_checkpointing=True, loss_type="ipo"
    )


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("beta", -1, "between 0.001 and 10"),
        ("beta", "much", "a number"),
        ("beta", float("nan"), "finite"),
        ("epochs", 1.5, "whole number"),
        ("epochs", True, "a number"),
        ("loss_type", "magic", "sigmoid"),
        ("gradient_checkpointing", "perhaps", "true or false"),
        ("speed", 9, "unknown"),
    ],
)
def test_a_refusal_names_the_field_its_value_and_what_would_do(
    name: str, value: object, said: str
) -> None:
    with pytest.raises(SpecError, match=said) as refused:
        DPOOptions.parsed({name: value})
    assert refused.value.field == name
    assert repr(value) in str(refused.value) or str(value) in str(refused.value)


def test_label_smoothing_is_refused_where_it_would_be_ignored() -> None:
    with pytest.raises(SpecError, match="choose robust"):
        DPOOptions.parsed({"label_smoothing": 0.1})
    with pytest.raises(SpecError, match="needs the share"):
        DPOOptions.parsed({"loss_type": "robust"})
    assert DPOOptions.parsed({"loss_type": "robust", "label_smoothing": 0.1})


@pytest.mark.parametrize("patience", [3, 4])
def test_a_patience_that_can_never_end_is_refused_beside_what_ends_it(patience: int) -> None:
    with pytest.raises(SpecError, match=f"patience = {patience}: .* evaluations = 3"):
        DPOOptions.parsed({"patience": patience, "evaluations": 3})
    assert DPOOptions.parsed({"patience": 2, "evaluations": 3}).patience == 2


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"method": "magic"}, "method"),
        ({"schema_version": 99}, "schema_version"),
        ({"threads": 0}, "threads"),
        ({"seed": -1}, "seed"),
        ({"base_model": ""}, "base_model"),
        ({"options": DPOOptions(beta=99.0)}, "beta"),
    ],
)
def test_an_unusable_spec_names_the_field_at_fault(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecError) as refused:
        make_spec(**changes).validate()
    assert refused.value.field == field


def test_a_spec_with_an_unknown_or_a_missing_field_is_refused() -> None:
    values = make_spec().to_json()
    with pytest.raises(SpecError, match="unknown field"):
        RunSpec.from_json({**values, "surprise": 1})
    del values["base_model"]
    with pytest.raises(SpecError, match="base_model"):
        RunSpec.from_json(values)
