"""Everything that can go wrong and that a person can act on.

WhetstoneError
├── BadInput             what was given cannot be used (exit code 2 on a command line)
│   ├── BadRow           one row of an import, with file, line and field
│   └── PromptTooLong    more tokens than a policy has room for
├── NotFound             an id that the store does not know
├── NotAllowed           the actor may not do this
├── Conflict             true elsewhere already (a second run, a taken name)
├── StoreUnavailable     the store cannot serve now; what was acknowledged is safe
│   ├── StoreLocked      another process owns the file
│   └── StoreTooNew      the file was written by a newer version of the code
└── PolicyUnavailable    the policy is loading, or failed to load
"""

from __future__ import annotations


class WhetstoneError(Exception):
    """A message that says what happened, to which thing, and what to do next.

    `template` is the English sentence with named places and `values` fill them, so that the pages
    can say it in another language; a value may be a message itself.
    """

    def __init__(self, template: str, /, **values: object) -> None:
        super().__init__(template.format(**values) if values else template)
        self.template = template
        self.values = values


class BadInput(WhetstoneError):
    """What was given cannot be used."""


class BadRow(BadInput):
    """One row of an import that was refused.

    `line` counts from 1; `field` is a dotted path, empty when the whole row is at fault. `reason`
    is the problem alone, as a message.
    """

    def __init__(self, file: str, line: int, field: str, problem: str, /, **values: object) -> None:
        self.reason = WhetstoneError(problem, **values)
        places = {"file": file, "line": line, "problem": self.reason}
        if field:
            super().__init__(
                "{file}, line {line}, field {field!r}: {problem}", field=field, **places
            )
        else:
            super().__init__("{file}, line {line}: {problem}", **places)
        self.file = file
        self.line = line
        self.field = field
        self.problem = str(self.reason)


class PromptTooLong(BadInput):
    """A prompt of more than `limit_tokens` tokens, all that the policy has room for."""

    def __init__(self, template: str, /, *, limit_tokens: int, **values: object) -> None:
        super().__init__(template, limit_tokens=limit_tokens, **values)
        self.limit_tokens = limit_tokens


class NotFound(WhetstoneError):
    """An id that the store does not know."""


class NotAllowed(WhetstoneError):
    """The actor may not do this."""


class Conflict(WhetstoneError):
    """The request contradicts what is already true."""


class StoreUnavailable(WhetstoneError):
    """The store cannot serve now; whatever was acknowledged is safe."""


class StoreLocked(StoreUnavailable):
    """Another process owns the database file."""


class StoreTooNew(StoreUnavailable):
    """The database was written by a newer version of this code."""


class PolicyUnavailable(WhetstoneError):
    """No policy can answer at the moment."""
