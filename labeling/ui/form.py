"""A form drawn from a method's options: label, help, default, bounds and choices are theirs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import gradio as gr

from training.methods import Method
from training.options import MethodOptions, OptionField


@dataclass(frozen=True)
class MethodForm:
    """The fields of one method, by option name, in `group`."""

    method: Method
    group: gr.Column
    fields: Mapping[str, gr.components.Component]

    def values(self, given: Mapping[Any, Any]) -> dict[str, Any]:
        """The options, out of all the values on the page; an emptied field keeps its default."""
        values = {name: given.get(field) for name, field in self.fields.items()}
        return {name: value for name, value in values.items() if value is not None}

    def filled(self, options: MethodOptions) -> dict[Any, Any]:
        """What to show for these options."""
        values = asdict(options)
        return {self.fields[o.name]: _shown(o, values[o.name]) for o in options.described()}


def draw(method: Method, *, visible: bool) -> MethodForm:
    """Draw the form: the main options in sight, the others behind 'Advanced'."""
    described = method.options.described()
    fields: dict[str, gr.components.Component] = {}
    with gr.Column(visible=visible, elem_classes="wsl-form") as group:
        with gr.Row(elem_classes="wsl-options"):
            for option in described:
                if option.is_main:
                    fields[option.name] = _field(method, option)
        with (
            gr.Accordion("Advanced", open=False, elem_id=f"advanced-{method.name}"),
            gr.Row(elem_classes="wsl-options"),
        ):
            for option in described:
                if not option.is_main:
                    fields[option.name] = _field(method, option)
    return MethodForm(method, group, fields)


def _field(method: Method, option: OptionField) -> gr.components.Component:
    shared = {
        "label": option.label,
        "info": option.help,
        "elem_id": f"option-{method.name}-{option.name}",
        "elem_classes": "wsl-option",
        "interactive": True,
        "min_width": 200,
    }
    if option.choices:
        default = _shown(option, option.default)
        return gr.Dropdown(
            list(option.offered), value=default, multiselect=option.is_list, **shared
        )
    if option.type is bool:
        return gr.Checkbox(value=option.default, **shared)
    if option.type in (int, float):
        return gr.Number(value=option.default, step=_step(option), **shared)
    return gr.Textbox(value=option.default, **shared)


def _shown(option: OptionField, value: Any) -> Any:
    """A value as its field takes it."""
    return option.split(value) if option.is_list else value


def _step(option: OptionField) -> float:
    """What one press of an arrow changes: one, or a tenth of the default's own size."""
    if option.type is int:
        return 1
    size = abs(float(option.default)) or 0.1
    return float(10.0 ** (math.floor(math.log10(size)) - 1))
