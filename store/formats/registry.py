"""Every format that can be imported, and which one a row is in."""

from __future__ import annotations

from store.errors import BadInput
from store.formats import conversations, crowds, instructions, pairs, transcripts, trees
from store.formats.item import Format, SourceRow

# The first that matches wins, so the more particular shapes stand first.
FORMATS: tuple[Format, ...] = (
    *crowds.FORMATS,
    *trees.FORMATS,
    *instructions.FORMATS,
    *pairs.FORMATS,
    *transcripts.FORMATS,
    *conversations.FORMATS,
)


def find(name: str) -> Format:
    """Raises `BadInput` when there is no format of that name."""
    for format in FORMATS:
        if format.name == name:
            return format
    raise BadInput("There is no format {name!r}. Choose one of: {names}.", name=name, names=names())


def detect(row: SourceRow) -> Format:
    """The format of a file by its first readable row. Raises `BadInput` when it is in none."""
    crowds.refuse_comparisons(row)
    for format in FORMATS:
        if format.matches(row.values):
            return format
    columns = ", ".join(repr(str(c)) for c in list(row.values)[:12])
    known = "; ".join(f"{f.name} ({f.columns})" for f in FORMATS)
    raise BadInput(
        "{file} has the columns {columns}, which no known format has. Rename its columns "
        "to those of one of these: {known}.",
        file=row.file,
        columns=columns or "of nothing",
        known=known,
    )


def names() -> str:
    """The formats' names, for a message."""
    return ", ".join(f.name for f in FORMATS)
