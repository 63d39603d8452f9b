"""One form for the options of all methods: label, help, default, bounds and choices are theirs.

Methods share the fields that look the same for each, and only those of the method at hand are seen:
Gradio's page searches through all components, and through all that were ever written to, at every
sign of progress.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import gradio as gr

from training.methods import Method
from training.options import MethodOptions, OptionField


@dataclass(frozen=True)
class OptionsForm:
    """The fields by method and option name; several names may lead to the same one."""

    fields: Mapping[tuple[str, str], gr.components.Component]

    def all_fields(self) -> list[gr.components.Component]:
        """Each once."""
        return list(dict.fromkeys(self.fields.values()))

    def named(self, option: str) -> list[gr.components.Component]:
        """The fields of an option that looks different for different methods."""
        found = (field for (_, name), field in self.fields.items() if name == option)
        return list(dict.fromkeys(found))

    def values(self, method: str, given: Mapping[Any, Any]) -> dict[str, Any]:
        """The options, out of all the values on the page; an emptied field keeps its default."""
        own = self._own(method)
        values = {name: given.get(field) for name, field in own.items()}
        return {name: value for name, value in values.items() if value is not None}

    def filled(self, method: str, options: MethodOptions) -> dict[Any, Any]:
        """What to show for these options of a method; all other fields, and those that change
        nothing beside what else is chosen, are out of sight."""
        own, values = self._own(method), asdict(options)
        drawn: dict[Any, Any] = {field: gr.update(visible=False) for field in self.all_fields()}
        for option in options.described():
            value = _shown(option, values[option.name])
            drawn[own[option.name]] = gr.update(
                visible=option.matters(values), value=value, **_step(option)
            )
        return drawn

    def retuned(self, method: str, options: MethodOptions) -> dict[Any, Any]:
        """What another tuning changes of what is shown: the step size, and which sizes matter.

        What people have chosen besides stays.
        """
        own, values = self._own(method), asdict(options)
        return {
            own[o.name]: gr.update(visible=o.matters(values))
            for o in options.described()
            if o.only_with
        } | {own["learning_rate"]: gr.update(value=values["learning_rate"])}

    def _own(self, method: str) -> dict[str, gr.components.Component]:
        return {name: field for (of, name), field in self.fields.items() if of == method}


def draw(methods: Mapping[str, Method], *, shown: str) -> OptionsForm:
    """Draw it for one method: the main options in sight, the others behind 'Advanced'."""
    kinds = _kinds(methods)
    drawn: dict[OptionField, gr.components.Component] = {}
    with gr.Column(elem_classes="wsl-form"):
        with gr.Row(elem_classes="wsl-options"):
            for kind, users in kinds.items():
                if kind.is_main:
                    drawn[kind] = _field(methods, users, kind.name, shown=shown)
        with (
            gr.Accordion("Advanced", open=False, elem_id="advanced-options"),
            gr.Row(elem_classes="wsl-options"),
        ):
            for kind, users in kinds.items():
                if not kind.is_main:
                    drawn[kind] = _field(methods, users, kind.name, shown=shown)
    fields = {(user, kind.name): drawn[kind] for kind, users in kinds.items() for user in users}
    return OptionsForm(fields)


def changes(fields: Sequence[gr.components.Component]) -> list[Any]:
    """The events of a person's changes to fields; what is typed counts once it is done."""
    typed = (gr.Number, gr.Textbox)
    return [field.blur if isinstance(field, typed) else field.input for field in fields]


def _kinds(methods: Mapping[str, Method]) -> dict[OptionField, list[str]]:
    """Options that look the same, with the methods that have them.

    They come in an order that is each method's own as far as those can be had together.
    """
    order: list[str] = []
    found: dict[str, dict[OptionField, list[str]]] = {}
    for method in methods.values():
        at = 0
        for option in method.options.described():
            if option.name not in found:
                order.insert(at, option.name)
                found[option.name] = {}
            at = order.index(option.name) + 1
            kind = option._replace(default=0, minimum=None, maximum=None)
            found[option.name].setdefault(kind, []).append(method.name)
    return {kind: users for name in order for kind, users in found[name].items()}


def _field(
    methods: Mapping[str, Method], users: list[str], name: str, *, shown: str
) -> gr.components.Component:
    first = shown if shown in users else users[0]
    option = next(o for o in methods[first].options.described() if o.name == name)
    shared: dict[str, Any] = {
        "label": option.label,
        "info": option.help,
        "elem_id": f"option-{first}-{name}",
        "elem_classes": "wsl-option",
        "interactive": True,
        "min_width": 200,
        "visible": shown in users and option.matters(asdict(methods[shown].options())),
    }
    if option.choices:
        default = _shown(option, option.default)
        return gr.Dropdown(
            list(option.offered), value=default, multiselect=option.is_list, **shared
        )
    if option.type is bool:
        return gr.Checkbox(value=option.default, **shared)
    if option.type in (int, float):
        return gr.Number(value=option.default, **_step(option), **shared)
    return gr.Textbox(value=option.default, **shared)


def _shown(option: OptionField, value: Any) -> Any:
    """A value as its field takes it."""
    return option.split(value) if option.is_list else value


def _step(option: OptionField) -> dict[str, float]:
    """What one press of an arrow changes in a number: one, or a tenth of the default's own size."""
    if option.choices or option.type not in (int, float):
        return {}
    if option.type is int:
        return {"step": 1}
    size = abs(float(option.default)) or 0.1
    return {"step": float(10.0 ** (math.floor(math.log10(size)) - 1))}
