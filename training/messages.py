"""Sentences for people that can be said in another language: an English template and its values.

The trainer writes them into its files, the host and the run service hand them up; the pages say
them (`labeling/i18n.py`). Knows no language but English.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Self


class Message(NamedTuple):
    """`template` has named places, `values` fill them; a value may be a message itself."""

    template: str
    values: Mapping[str, object] = {}

    def __str__(self) -> str:
        """The sentence in English."""
        return self.template.format(**self.values) if self.values else self.template

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; what is neither number nor message becomes text."""
        return {
            "template": self.template,
            "values": {name: _plain(value) for name, value in self.values.items()},
        }

    @classmethod
    def of(cls, error: BaseException) -> Self:
        """What an exception says, without holding on to it and the frames behind it."""
        template, values = getattr(error, "template", None), getattr(error, "values", None)
        if template is None or values is None:
            return cls("{error}", {"error": str(error)})
        inner = {
            name: cls.of(value) if isinstance(value, BaseException) else value
            for name, value in values.items()
        }
        return cls(template, inner)

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Self:
        """What `to_json` gave."""
        values = {
            name: cls.from_json(value) if isinstance(value, Mapping) else value
            for name, value in told.get("values", {}).items()
        }
        return cls(str(told.get("template", "")), values)


class MessageError(Exception):
    """An exception whose text is a `Message`."""

    def __init__(self, template: str, /, **values: object) -> None:
        self.message = Message(template, values)
        super().__init__(str(self.message))

    @property
    def template(self) -> str:
        """The sentence with its places."""
        return self.message.template

    @property
    def values(self) -> Mapping[str, object]:
        """What stands in the places."""
        return self.message.values


def _plain(value: object) -> object:
    if isinstance(value, MessageError):
        value = Message.of(value)
    if isinstance(value, Message):
        return value.to_json()
    return value if isinstance(value, int | float | str) else str(value)
