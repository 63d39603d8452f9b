"""Options of a method: default, bounds, choices, label and help, each said once.

One definition feeds the command line, the form in the browser and the JSON on disk. Imports no ML
library, and knows no method.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, NamedTuple, Self

from training.messages import Message, MessageError


class SpecError(MessageError, ValueError):
    """A field of a run's spec that cannot be used; names the field, its value and what would do."""

    def __init__(self, field: str, value: object, problem: str, /, **values: object) -> None:
        self.field = field
        self.value = value
        self.problem = Message(problem, values)
        shown = value if isinstance(value, int | float | str) else repr(value)
        super().__init__(
            "{field} = {value!r}: {problem}", field=field, value=shown, problem=self.problem
        )


class OptionField(NamedTuple):
    """All that a form, a command line or a check needs to know about one option."""

    name: str
    type: type[bool] | type[int] | type[float] | type[str]
    default: bool | int | float | str
    label: str
    help: str
    minimum: float | None
    maximum: float | None
    choices: tuple[str, ...]
    is_main: bool
    is_list: bool
    offered: tuple[str, ...]
    only_with: tuple[str, tuple[str, ...]] | None
    why: str

    def matters(self, values: Mapping[str, object]) -> bool:
        """Whether it changes anything beside these values of the other options."""
        if self.only_with is None:
            return True
        other, wanted = self.only_with
        return values[other] in wanted

    def split(self, value: object) -> list[str]:
        """The choices in a text that joins several of them by commas, or in a list of them."""
        given = value if isinstance(value, list | tuple) else str(value).split(",")
        return [name for each in given if (name := str(each).strip())]

    def parse(self, value: object) -> bool | int | float | str:
        """The value in its own type, from JSON, a form or a command line. Raises `SpecError`."""
        parsed = ",".join(self.split(value)) if self.is_list else self._typed(value)
        chosen = self.split(parsed) if self.is_list else [parsed]
        if self.choices and not set(chosen) <= set(self.choices):
            offered = ", ".join(self.choices)
            if not self.why:
                raise SpecError(self.name, value, "choose one of {choices}", choices=offered)
            raise SpecError(
                self.name,
                value,
                "choose one of {choices}: {why}",
                choices=offered,
                why=Message(self.why),
            )
        if not isinstance(parsed, str):
            self._check_bounds(parsed)
        return parsed

    def _typed(self, value: object) -> bool | int | float | str:
        if self.type is str:
            return str(value)
        if self.type is bool:
            return self._truth(value)
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise SpecError(self.name, value, "give a number")
        try:
            number = float(value)
        except ValueError:
            raise SpecError(self.name, value, "give a number") from None
        if not math.isfinite(number):
            raise SpecError(self.name, value, "give a finite number")
        if self.type is float:
            return number
        if not number.is_integer():
            raise SpecError(self.name, value, "give a whole number")
        return int(number)

    def _truth(self, value: object) -> bool:
        known = {"true": True, "false": False}
        if str(value).lower() not in known:
            raise SpecError(self.name, value, "give true or false")
        return known[str(value).lower()]

    def _check_bounds(self, number: float) -> None:
        too_low = self.minimum is not None and number < self.minimum
        too_high = self.maximum is not None and number > self.maximum
        if too_low or too_high:
            raise SpecError(
                self.name,
                number,
                "must lie between {minimum:g} and {maximum:g}",
                minimum=self.minimum,
                maximum=self.maximum,
            )


def option(
    default: bool | int | float | str,
    *,
    label: str,
    help: str,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
    is_main: bool = False,
    is_list: bool = False,
    offered: tuple[str, ...] | None = None,
    only_with: tuple[str, tuple[str, ...]] | None = None,
    why: str = "",
) -> Any:
    """A dataclass field that carries all there is to say about an option.

    Bounds are inclusive; a form shows the main options first, the others on demand. A list joins
    several of the choices by commas; `offered` are those that a form shows, without it all.
    `only_with` names another option and its choices beside which this one matters; `why` says what
    keeps a method from the choices that others have.
    """
    metadata = {
        "label": label,
        "help": help,
        "minimum": minimum,
        "maximum": maximum,
        "choices": choices,
        "is_main": is_main,
        "is_list": is_list,
        "offered": choices if offered is None else offered,
        "only_with": only_with,
        "why": why,
    }
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class MethodOptions:
    """Base of every method's options."""

    @classmethod
    def described(cls) -> tuple[OptionField, ...]:
        """The options in the order of the form."""
        defaults: list[tuple[Field[Any], Any]] = [(f, f.default) for f in fields(cls)]
        return tuple(
            OptionField(name=f.name, type=type(default), default=default, **f.metadata)
            for f, default in defaults
        )

    @classmethod
    def parsed(cls, values: Mapping[str, object]) -> Self:
        """Options from JSON, a form or a command line; what is not given keeps its default.

        Raises `SpecError` for an unknown name, a wrong type, a value out of bounds, or values
        that do not go together.
        """
        known = {f.name: f for f in cls.described()}
        for name, value in values.items():
            if name not in known:
                raise SpecError(
                    name, value, "unknown option; known are {known}", known=", ".join(known)
                )
        options = cls(**{name: known[name].parse(value) for name, value in values.items()})
        options.check_together()
        return options

    @classmethod
    def preset(cls, rows: int, *, parameters: int | None, tuning: str) -> Self:  # noqa: ARG003
        """Defaults for this many rows of data, model parameters (None: unknown) and tuning."""
        return cls()

    @property
    def only_kind(self) -> str | None:
        """The only kind of a snapshot's rows that is learned from; None for all of them."""
        return None

    @property
    def needing_the_whole(self) -> tuple[str, ...]:
        """Options that, chosen so, need all weights of the model in one process."""
        return ()

    def check_together(self) -> None:
        """Refuse values that are fine one by one and senseless together. Raises `SpecError`."""
