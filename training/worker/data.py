"""Training data: a snapshot's rows read, split by conversation, ordered; no tensors."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet  # type: ignore[import-untyped]
from datasets import Dataset

from training.methods import LearnsFrom
from training.similarity import Lookalikes, normal_form
from training.worker.failures import BadData

# What is said in a prompt, turn by turn.
Messages = Sequence[Mapping[str, str]]

MAX_HELD_OUT_CONVERSATIONS = 400
CHUNK_OF_BATCHES = 8


class Columns(NamedTuple):
    """What a row must have, in TRL's names: lists of messages, and plain values."""

    messages: tuple[str, ...]
    values: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.messages, *self.values)


COLUMNS: Mapping[LearnsFrom, Columns] = {
    LearnsFrom.PREFERENCES: Columns(("prompt", "chosen", "rejected")),
    LearnsFrom.COMPARISONS: Columns(
        ("prompt", "chosen", "rejected"), ("margin", "is_tie", "comparison_id")
    ),
    LearnsFrom.DEMONSTRATIONS: Columns(("prompt", "completion"), ("kind",)),
    LearnsFrom.RATINGS: Columns(("prompt", "completion"), ("label", "kind")),
    LearnsFrom.PROMPTS: Columns(("prompt",)),
}
# What files from elsewhere may lack.
MISSING: Mapping[str, Any] = {"margin": 0.0, "is_tie": False, "comparison_id": None, "kind": ""}


class Row(NamedTuple):
    """A row of a snapshot: `number` is its place in it, `values` its columns but for the prompt."""

    number: int
    prompt: list[dict[str, str]]
    values: Mapping[str, Any] = {}


class Split(NamedTuple):
    """Rows to learn from, and rows of other conversations to measure on."""

    train: list[Row]
    held_out: list[Row]

    @property
    def sources(self) -> list[list[int]]:
        """The place in the snapshot of each row to learn from."""
        return [[row.number] for row in self.train]


def read_rows(path: Path, learns_from: LearnsFrom) -> list[Row]:
    """The rows of a snapshot, in its order. Raises `BadData` naming the row and the column."""
    columns = COLUMNS[learns_from]
    try:
        table = pyarrow.parquet.read_table(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise BadData("{path} cannot be read: {error}", path=path, error=error) from error
    known = set(table.column_names) | set(MISSING)
    if missing := set(columns.names) - known:
        raise BadData(
            "{path} lacks the columns {missing}.", path=path, missing=", ".join(sorted(missing))
        )
    rows = table.select([n for n in columns.names if n in table.column_names]).to_pylist()
    return [_row(path, number, row, columns) for number, row in enumerate(rows)]


def read_eval_prompts(path: Path) -> list[Mapping[str, Any]]:
    """Held-out prompts, each with `messages`. Raises `BadData`."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        raise BadData("{path} cannot be read: {error}", path=path, error=error) from error


def split_by_conversation(rows: Sequence[Row], share: float) -> Split:
    """Hold about `share` of the conversations out; all rows of one go the same way.

    The side is decided by a hash of how the conversation opens, so it stays the same as data grows:
    what a run is measured on, the runs that it continues from were not trained on. There are
    exceptions. With very few conversations, one is moved so that no side is empty. Beyond
    `MAX_HELD_OUT_CONVERSATIONS` those with the highest hashes are trained on, and with a twin that
    comes later so may be one that was held out: growth may take a conversation from the held-out
    side to the other, and never back.
    """
    places = _places(rows, "training split")
    held_out = _held_out(sorted(set(places)), share)
    return Split(
        [row for row, place in zip(rows, places, strict=True) if place not in held_out],
        [row for row, place in zip(rows, places, strict=True) if place in held_out],
    )


def without_test_prompts(rows: Sequence[Row], tested: Sequence[Messages]) -> list[Row]:
    """Leave out what a test prompt is equal or nearly equal to."""
    known = Lookalikes(_said(prompt) for prompt in tested)
    return [row for row in rows if _said(row.prompt) not in known]


def divided_for_watch(rows: Sequence[Row], share: float) -> tuple[list[Row], list[Row]]:
    """The rows to learn from, and those of about `share` of the conversations, for the watch.

    By a hash of how each conversation opens, as the held-out ones are chosen.
    """
    watched = [place < share for place in _places(rows, "watch")]
    return (
        [row for row, is_watched in zip(rows, watched, strict=True) if not is_watched],
        [row for row, is_watched in zip(rows, watched, strict=True) if is_watched],
    )


def unseen(tested: Sequence[Messages], trained: Sequence[Messages]) -> list[int]:
    """The places of test prompts that none of those trained on is equal or nearly equal to."""
    texts = [_said(prompt) for prompt in tested]
    known = Lookalikes(texts)
    # Few of those trained on are met, so that only they have to be looked up the other way round.
    met = Lookalikes(text for text in map(_said, trained) if text in known)
    return [place for place, text in enumerate(texts) if text not in met]


def _said(prompt: Messages) -> str:
    return "\n".join(f"{message['role']}: {message['content']}" for message in prompt)


def _places(rows: Sequence[Row], purpose: str) -> list[float]:
    """Where the conversation of each row lies between 0 and 1, by how it opens.

    Twins, which open alike but for capitals and white space, lie where the last of them would lie
    alone. So does one without a twin, and nothing that was trained on is held out for a new twin.
    """
    openings = [_opening(row.prompt) for row in rows]
    families = [tuple((role, normal_form(said or "")) for role, said in each) for each in openings]
    found: dict[tuple[tuple[str, str], ...], float] = {}
    for family, opening in zip(families, openings, strict=True):
        found[family] = max(found.get(family, 0.0), _place(opening, purpose))
    return [found[family] for family in families]


def _opening(prompt: Messages) -> list[list[str]]:
    """Role and content of the messages up to the first of the user."""
    first = next((i for i, m in enumerate(prompt) if m["role"] == "user"), len(prompt))
    return [[m["role"], m["content"]] for m in prompt[: first + 1]]


def _place(opening: list[list[str]], purpose: str) -> float:
    """Where an opening lies between 0 and 1.

    The import draws its held-out prompts by another hash; with the same one, none of the prompts
    that are left to train on would lie in the first tenth. So does whatever divides what is left.
    """
    digest = hashlib.sha256(json.dumps([purpose, opening]).encode()).digest()
    return int.from_bytes(digest[:6]) / 2**48


def _held_out(places: Sequence[float], share: float) -> set[float]:
    """Those of the distinct, sorted `places` that are held out."""
    if share == 0 or len(places) < 2:
        return set()
    count = sum(place < share for place in places)
    count = min(max(count, 1), len(places) - 1, MAX_HELD_OUT_CONVERSATIONS)
    return set(places[:count])


def to_dataset(rows: Sequence[Row], columns: Sequence[str]) -> Dataset:
    """TRL's columns, in memory."""
    prompts = {"prompt": [row.prompt for row in rows]}
    return Dataset.from_dict(prompts | {n: [row.values[n] for row in rows] for n in columns})


def training_order(lengths: Sequence[int], *, epochs: int, batch_size: int, seed: int) -> list[int]:
    """Which row comes when, over all epochs: rows of like length share a batch.

    The epochs, each shuffled, follow one another; runs of `CHUNK_OF_BATCHES` batches are sorted by
    length and their batches shuffled. Only the very last batch may be short. The order depends on
    `seed` alone, so that a resumed run goes on where it stopped.
    """
    rng = random.Random(seed)
    stream: list[int] = []
    for _ in range(epochs):
        stream += rng.sample(range(len(lengths)), len(lengths))
    chunk = batch_size * CHUNK_OF_BATCHES
    order: list[int] = []
    for start in range(0, len(stream), chunk):
        like = sorted(stream[start : start + chunk], key=lambda i: lengths[i])
        full = len(like) - len(like) % batch_size
        batches = [like[i : i + batch_size] for i in range(0, full, batch_size)]
        rng.shuffle(batches)
        order += [index for batch in batches for index in batch] + like[full:]
    return order


def shuffled_passes(count: int, length: int, *, seed: int) -> list[int]:
    """`length` places out of `count`: whole passes, each shuffled anew, and the start of one."""
    rng = random.Random(seed)
    order: list[int] = []
    while len(order) < length:
        order += rng.sample(range(count), count)
    return order[:length]


def _row(path: Path, number: int, values: Mapping[str, Any], columns: Columns) -> Row:
    where = f"{path.name}, row {number + 1}"
    for column in columns.messages:
        messages = values[column]
        if not messages or not all(m and m.get("role") for m in messages):
            raise BadData(
                "{where}: {column} must be a list of messages.", where=where, column=column
            )
    for column in set(columns.messages) - {"prompt"}:
        if not (values[column][-1].get("content") or "").strip():
            raise BadData("{where}: {column} is empty.", where=where, column=column)
    further = {name: values.get(name, MISSING.get(name)) for name in columns.names[1:]}
    return Row(number, values["prompt"], further)
