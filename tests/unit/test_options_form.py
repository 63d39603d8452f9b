"""The form for the options of all methods: which fields a method has, and what they are worth."""

from __future__ import annotations

from dataclasses import asdict

import gradio as gr
import pytest

from labeling.ui.form import OptionsForm, draw
from training.methods import METHODS

FIRST = next(iter(METHODS))


@pytest.fixture(scope="module")
def form() -> OptionsForm:
    with gr.Blocks():
        return draw(METHODS, shown=FIRST)


def told(form: OptionsForm, method: str) -> dict[str, tuple[str, object]]:
    """By option: the label and the help of its field."""
    own = {name: field for (of, name), field in form.fields.items() if of == method}
    return {name: (str(field.label), getattr(field, "info", None)) for name, field in own.items()}


@pytest.mark.parametrize("method", METHODS)
def test_a_method_has_a_field_for_each_option_that_tells_what_it_is(
    form: OptionsForm, method: str
) -> None:
    described = METHODS[method].options.described()

    assert told(form, method) == {o.name: (o.label, o.help) for o in described}
    for option in described:
        field = form.fields[method, option.name]
        if option.choices:
            assert isinstance(field, gr.Dropdown)
            assert [value for _, value in field.choices] == list(option.offered)


@pytest.mark.parametrize("method", METHODS)
def test_filling_shows_the_options_of_a_method_and_nothing_else(
    form: OptionsForm, method: str
) -> None:
    options = METHODS[method].options()

    filled = form.filled(method, options)

    seen = {field for field, update in filled.items() if update["visible"]}
    mattering = [o.name for o in options.described() if o.matters(asdict(options))]
    assert seen == {form.fields[method, name] for name in mattering}
    assert set(filled) == set(form.all_fields())
    # What is shown is read back as the very same options.
    page = {field: update.get("value", "of another method") for field, update in filled.items()}
    read = {o.name: o.parse(form.values(method, page)[o.name]) for o in options.described()}
    assert read == asdict(options)


@pytest.mark.parametrize(
    ("tuning", "seen"),
    [
        ("dora", {"lora_r", "lora_alpha"}),
        ("full", set()),
        ("prefix", {"virtual_tokens"}),
        ("prompt", {"virtual_tokens"}),
    ],
)
def test_the_size_of_an_adapter_is_asked_for_where_there_is_one(
    form: OptionsForm, tuning: str, seen: set[str]
) -> None:
    sizes = ("lora_r", "lora_alpha", "virtual_tokens")
    filled = form.filled("dpo", METHODS["dpo"].options.parsed({"tuning": tuning}))

    assert {size for size in sizes if filled[form.fields["dpo", size]]["visible"]} == seen


def test_an_emptied_field_keeps_its_default(form: OptionsForm) -> None:
    page = {form.fields[FIRST, "epochs"]: None, form.fields[FIRST, "batch_size"]: 4}

    assert form.values(FIRST, page) == {"batch_size": 4}


def test_methods_share_what_looks_the_same(form: OptionsForm) -> None:
    assert form.fields["dpo", "epochs"] is form.fields["kto", "epochs"]
    assert form.fields["dpo", "beta"] is not form.fields["grpo", "beta"]
    assert set(form.named("beta")) == {form.fields["dpo", "beta"], form.fields["grpo", "beta"]}


def test_the_first_method_keeps_its_order(form: OptionsForm) -> None:
    for is_main in (True, False):
        wanted = [o.name for o in METHODS[FIRST].options.described() if o.is_main == is_main]
        drawn = [f for f in form.all_fields() if f in {form.fields[FIRST, n] for n in wanted}]
        assert drawn == [form.fields[FIRST, name] for name in wanted]
