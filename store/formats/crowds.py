"""Crowd comparisons as in LLMFAO: a file of pairs, and beside it a file of what workers said."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from store.errors import BadInput
from store.formats.conversations import prompt_of
from store.formats.item import Format, Holds, ImportedVerdict, Item, Parser, Response, SourceRow

MAX_COMPARISONS_BYTES = 256 * 2**20
_WINNERS = ("left", "right", "tie")


class _Comparison(NamedTuple):
    annotator: str
    winner: str
    left: str


def crowd_parser(path: Path) -> Parser:
    """For `pairs-NAME.jsonl`: its comparisons are read from `NAME-comparisons.csv` beside it.

    `models.jsonl` beside it names the models; without it the left one is taken to be `model_x`.
    Without the comparisons the pairs come unjudged. Raises `BadInput` when they cannot be read.
    """
    stem = path.name.split(".")[0].removeprefix("pairs-")
    judged = _read_comparisons(path.with_name(f"{stem}-comparisons.csv"))
    names = _read_names(path.with_name("models.jsonl"))

    def parse(row: SourceRow) -> list[Item]:
        prompt = prompt_of(row, "text", [{"role": "user", "content": row.text("text")}])
        name_x, name_y = (_name(names, row.values[f]) for f in ("model_x", "model_y"))
        responses = (
            Response(row.string("result_x"), name_x),
            Response(row.string("result_y"), name_y),
        )
        verdicts = tuple(
            _verdict(said, left_is_x=not names or said.left == name_x)
            for said in judged.get(str(row.values["id"]), ())
        )
        return [Item(prompt, row.optional("language"), row.split(), responses, verdicts)]

    return parse


def refuse_comparisons(row: SourceRow) -> None:
    """Raises `BadInput` when the row is of the file of comparisons, which holds no texts."""
    if {"id", "winner", "left", "right"} <= row.values.keys():
        raise BadInput(
            "{file} holds what workers said, but not the texts. Put it beside its pairs (for "
            "NAME-comparisons.csv that is pairs-NAME.jsonl), and import those.",
            file=row.file,
        )


def _verdict(said: _Comparison, *, left_is_x: bool) -> ImportedVerdict:
    displayed = (0, 1) if left_is_x else (1, 0)
    preferred = None if said.winner == "tie" else displayed[_WINNERS.index(said.winner)]
    return ImportedVerdict.of(said.annotator, preferred, displayed=displayed)


def _name(names: Mapping[str, str], model: object) -> str:
    return names.get(str(model), str(model))


def _read_comparisons(path: Path) -> Mapping[str, list[_Comparison]]:
    """By pair id. A file without workers is the work of one, named after the file."""
    if not path.exists():
        return {}
    if path.stat().st_size > MAX_COMPARISONS_BYTES:
        raise BadInput(
            "{name} is larger than {most} MB; split it and its pairs into "
            "several files and import them one by one.",
            name=path.name,
            most=MAX_COMPARISONS_BYTES >> 20,
        )
    found: defaultdict[str, list[_Comparison]] = defaultdict(list)
    with path.open(encoding="utf-8-sig", newline="") as text:
        reader = csv.DictReader(text)
        missing = {"id", "winner", "left", "right"} - set(reader.fieldnames or ())
        if missing:
            raise BadInput(
                "{name} has no column {missing!r}; see the formats.",
                name=path.name,
                missing=sorted(missing)[0],
            )
        for line in reader:
            if line["winner"] not in _WINNERS:
                raise BadInput(
                    "{name}, line {line}, field 'winner': {winner!r} is neither left, right nor "
                    "tie. Correct it and import again.",
                    name=path.name,
                    line=reader.line_num,
                    winner=line["winner"],
                )
            worker = f"worker-{line['worker']}" if line.get("worker") else path.stem
            found[line["id"]].append(_Comparison(f"llmfao:{worker}", line["winner"], line["left"]))
    return found


def _read_names(path: Path) -> Mapping[str, str]:
    if not path.exists():
        return {}
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
        return {str(row["id"]): str(row["name"]) for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise BadInput(
            "{name} beside the pairs should hold 'id' and 'name' in each line ({error!r}). "
            "Correct it, or remove it to import without the models' names.",
            name=path.name,
            error=error,
        ) from error


FORMATS = (
    Format(
        "llmfao",
        "id, text, model_x, result_x, model_y, result_y",
        Holds.PAIRS,
        lambda v: {"id", "text", "model_x", "result_x", "model_y", "result_y"} <= v.keys(),
        crowd_parser,
    ),
)
