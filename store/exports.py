"""Exports: what the store knows, as files that other tools load, each beside a manifest.

Rows are streamed, so memory does not grow with them; the manifest is written last.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Sequence
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple, TypeVar

import duckdb

from store import preferences, snapshots
from store.db import Cursor, Store
from store.errors import BadInput, StoreUnavailable

FETCHED_ROWS = 500

Choice = TypeVar("Choice", bound=StrEnum)


class What(StrEnum):
    """What an export holds.

    PREFERENCES           TRL's conversational columns, then margin and provenance
    PREFERENCES_STANDARD  the same with plain text in `prompt`, `chosen`, `rejected`
    CRITERIA_PREFERENCES  pairs under each criterion, in the columns of the preferences
    RANKINGS              one row per ranking of three or more responses, as it was given
    RATINGS               responses rated by themselves, in TRL's columns for KTO
    DEMONSTRATIONS        what people wrote themselves, in TRL's columns for SFT
    JUDGMENTS             one row per judgment, undone ones included, with all that led to it
    ARENA                 one row per judgment that counts, in Chatbot Arena's columns
    """

    PREFERENCES = "preferences"
    PREFERENCES_STANDARD = "preferences-standard"
    CRITERIA_PREFERENCES = "criteria-preferences"
    RANKINGS = "rankings"
    RATINGS = "ratings"
    DEMONSTRATIONS = "demonstrations"
    JUDGMENTS = "judgments"
    ARENA = "arena"


class Format(StrEnum):
    """The kind of file."""

    JSONL = "jsonl"
    PARQUET = "parquet"


class Names(StrEnum):
    """How annotators are called in an export. A pseudonym is the same in every export."""

    PSEUDONYM = "pseudonym"
    NAME = "name"


class ExportProgress(NamedTuple):
    """What an export is at: `writing`, `checking` or `done`; `rows` is known from the second on."""

    stage: str
    rows: int | None


class ExportResult(NamedTuple):
    """A finished export. `sha256` is the file's."""

    path: Path
    manifest_path: Path
    rows: int
    sha256: str


class _Written(NamedTuple):
    rows: int
    columns: dict[str, str]
    max_judgment_seq: int


class _Query(NamedTuple):
    sql: str
    description: str


def export(
    store: Store,
    folder: Path,
    *,
    what: str = What.PREFERENCES,
    format: str = Format.JSONL,
    include_held_out: bool = False,
    names: str = Names.PSEUDONYM,
    created_by: str,
    on_progress: Callable[[ExportProgress], None] | None = None,
) -> ExportResult:
    """Write `folder/WHAT-SHA256.FORMAT` and its manifest; the same content gives the same name.

    Comparisons that evaluate a policy, and practice, are among raw judgments and arena battles
    only; what a lead has withdrawn is among the raw judgments alone. No pair has equal texts, no
    row to learn from an empty one. `include_held_out` adds rows of held-out prompts, which their
    `split` column tells. Raises `BadInput` when there is nothing to write, `StoreUnavailable` when
    the disk does not take it.
    """
    chosen, kind, naming = _choice(What, what), _choice(Format, format), _choice(Names, names)
    query = _QUERIES[chosen](include_held_out, naming)
    tell = on_progress or _say_nothing
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{uuid.uuid4().hex}.partial"
    try:
        tell(ExportProgress("writing", None))
        written = _write(store, query, partial, kind)
        if written.rows == 0:
            raise BadInput(
                "There are no {chosen} to export yet. Judge some responses, or include the "
                "held-out prompts, and export again.",
                chosen=chosen.value,
            )
        tell(ExportProgress("checking", written.rows))
        sha256 = _sha256(partial)
        path = folder / f"{chosen.value}-{sha256[:16]}.{kind.value}"
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    manifest = {
        "file": path.name,
        "sha256": sha256,
        "rows": written.rows,
        "what": chosen.value,
        "format": kind.value,
        "columns": written.columns,
        "query": query.description,
        "annotators": naming.value,
        "max_judgment_seq": written.max_judgment_seq,
        "whetstone_version": _version(),
        "created_by": created_by,
        "created_at": store.clock().isoformat(timespec="seconds"),
    }
    manifest_path = _write_manifest(path, manifest)
    tell(ExportProgress("done", written.rows))
    return ExportResult(path, manifest_path, written.rows, sha256)


def _write(store: Store, query: _Query, path: Path, format: Format) -> _Written:
    """The rows and what the manifest says of them, all of the same moment."""
    with store.read() as cursor:
        cursor.execute("BEGIN")
        try:
            rows = _WRITERS[format](cursor, query.sql, path)
            return _Written(rows, _columns(cursor, query.sql), _newest_judgment(cursor))
        except (OSError, duckdb.Error) as error:
            raise StoreUnavailable(
                "The export could not be written to {folder}: {error}. Free some disk space or "
                "memory and export again; nothing in the store has changed.",
                folder=path.parent,
                error=error,
            ) from error


def _choice(kind: type[Choice], name: str) -> Choice:
    try:
        return kind(name)
    except ValueError:
        known = ", ".join(kind)
        raise BadInput(
            "An export cannot have {name!r} here. Choose one of: {known}.", name=name, known=known
        ) from None


def _say_nothing(_: ExportProgress) -> None:
    """For callers that ask for no progress."""


def _write_jsonl(cursor: Cursor, query: str, path: Path) -> int:
    """Row by row: DuckDB's own JSON writer gathers 122,880 rows at a time."""
    result = cursor.execute(f"SELECT to_json(r)::VARCHAR FROM ({query}) r")
    rows = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        while found := result.fetchmany(FETCHED_ROWS):
            file.writelines(f"{line}\n" for (line,) in found)
            rows += len(found)
    return rows


def _write_parquet(cursor: Cursor, query: str, path: Path) -> int:
    snapshots.write_parquet(cursor, query, path)
    row = cursor.execute("SELECT count(*) FROM read_parquet(?)", [str(path)]).fetchone()
    assert row is not None
    return int(row[0])


def _columns(cursor: Cursor, query: str) -> dict[str, str]:
    rows = cursor.execute(f"DESCRIBE {query}").fetchall()
    return {row[0]: row[1] for row in rows}


def _newest_judgment(cursor: Cursor) -> int:
    row = cursor.execute("SELECT coalesce(max(seq), 0) FROM judgments").fetchone()
    assert row is not None
    return int(row[0])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_manifest(path: Path, manifest: dict[str, object]) -> Path:
    target = path.with_name(f"{path.name}.manifest.json")
    partial = target.with_name(f"{target.name}.partial")
    partial.write_text(json.dumps(manifest, indent=2, ensure_ascii=False), encoding="utf-8")
    partial.replace(target)
    return target


def _version() -> str:
    try:
        return version("whetstone")
    except PackageNotFoundError:
        return "unpackaged"


def _exportable(include_held_out: bool) -> str:
    return preferences.USABLE if include_held_out else preferences.TRAINABLE


# `datasets` takes each column's type from the first rows of a JSON file and fails when they hold
# nothing but nulls, so for each column that can be null the first row that tells it stands first.
_TOLD_FIRST = (
    "for each column the first row that has a value stands first, then they follow the order of"
)


def _first_telling(key: str, tells: Sequence[str], rows: str) -> str:
    """SQL for the keys of those rows: of each condition in `tells`, the least that meets it."""
    firsts = ", ".join(f"min({key}) FILTER (WHERE {condition})" for condition in tells)
    return f"SELECT unnest(list_distinct([{firsts}])) {rows}"


def _pairs(view: str, columns: Sequence[str], *, include_held_out: bool, described: str) -> _Query:
    where = _exportable(include_held_out)
    names = ["max_judgment_seq", "chosen_completion_id", "rejected_completion_id", *columns]
    tells = [f"{side}_policy_version IS NOT NULL" for side in ("chosen", "rejected")]
    first = _first_telling(f"row({', '.join(names)})", tells, "FROM pairs")
    return _Query(
        f"""
        WITH pairs AS ({preferences.dataset_select(where, view=view, columns=columns)})
        SELECT * FROM pairs
        ORDER BY row({", ".join(names)}) IN ({first}) DESC, {", ".join(names)}
        """,
        f"every derived {described} where {where}; {_TOLD_FIRST} their newest judgments",
    )


def _preferences(include_held_out: bool, _: Names) -> _Query:
    return _pairs("preferences", [], include_held_out=include_held_out, described="preference")


def _criteria_preferences(include_held_out: bool, _: Names) -> _Query:
    query = _pairs(
        "criterion_preferences",
        ["criterion", "scale"],
        include_held_out=include_held_out,
        described="preference under a criterion",
    )
    return _Query(
        query.sql,
        f"{query.description}; on a scale of ratings the higher rated is chosen, and the margin is"
        " the distance in points",
    )


# A conversation in one string: a single message as it is, several with their roles before them.
_PLAIN_PROMPT = """
    CASE WHEN len(prompt) = 1 THEN prompt[1].content
    ELSE array_to_string(
        list_transform(
            prompt, lambda m: upper(m."role"[1]) || m."role"[2:] || ': ' || m.content
        ), chr(10) || chr(10))
    END
"""


def _preferences_standard(include_held_out: bool, names: Names) -> _Query:
    query = _preferences(include_held_out, names)
    return _Query(
        f"SELECT {_PLAIN_PROMPT} AS prompt, chosen[1].content AS chosen,"
        " rejected[1].content AS rejected, * EXCLUDE (prompt, chosen, rejected)"
        f" FROM ({query.sql})",
        f"{query.description}; messages joined to plain text",
    )


def _annotator(names: Names) -> str:
    """An import's source keeps its name, which is no person's."""
    if names is Names.NAME:
        return "coalesce(a.name, j.annotator_id)"
    return (
        "CASE WHEN a.role = 'source' THEN a.name"
        " ELSE 'annotator-' || substr(sha256('whetstone ' || j.annotator_id), 1, 12) END"
    )


def _split(include_held_out: bool) -> str:
    return "true" if include_held_out else "p.split = 'train'"


def _response(completion: str) -> str:
    fields = (
        "text, source, author, policy_version, adapter_sha256, sampling, seed, finish_reason,"
        " token_count"
    )
    named = ", ".join(f"{name} := {completion}.{name}" for name in fields.split(", "))
    return f"struct_pack(completion_id := {completion}.id, {named})"


# What a judgment may leave out, and so what must be told early in a file of them.
_TOLD_BY_JUDGMENT = (
    *("j.preferred_completion_id IS NOT NULL", "j.strength IS NOT NULL", "j.reason IS NOT NULL"),
    *("j.duration_ms IS NOT NULL", "j.supersedes IS NOT NULL", "j.guidelines_version IS NOT NULL"),
    *("j.ranks IS NOT NULL", "j.ratings IS NOT NULL", "j.rationale IS NOT NULL"),
    *("j.reasons IS NOT NULL", "j.flags IS NOT NULL", "j.criteria IS NOT NULL"),
    "len(list_filter(j.flags, lambda f: f.completion_id IS NOT NULL)) > 0",
    "len(list_filter(j.criteria, lambda c: c.strength IS NOT NULL)) > 0",
    "len(list_filter(j.criteria, lambda c: c.ratings IS NOT NULL)) > 0",
    *("w.id IS NOT NULL", "o.id IS NOT NULL"),
    *("s.snapshot_ids IS NOT NULL", "t.run_ids IS NOT NULL"),
    *(
        told
        for name in ("author", "policy_version", "sampling", "seed", "token_count")
        for told in (
            *(f"x.{name} IS NOT NULL", f"y.{name} IS NOT NULL"),
            f"len(list_filter(further.responses, lambda r: r.{name} IS NOT NULL)) > 0",
        )
    ),
)


def _judgments(include_held_out: bool, names: Names) -> _Query:
    where = _split(include_held_out)
    joined = """
        FROM judgments j
        JOIN comparisons c ON c.id = j.comparison_id
        JOIN prompts p ON p.id = c.prompt_id
        JOIN completions x ON x.id = j.displayed_completion_ids[1]
        LEFT JOIN completions y ON y.id = j.displayed_completion_ids[2]
        LEFT JOIN completions w ON w.id = j.rewrite_completion_id
        LEFT JOIN completions o ON o.id = j.rewritten_completion_id
        LEFT JOIN frozen s ON s.judgment_id = j.id
        LEFT JOIN trained t ON t.judgment_id = j.id
        LEFT JOIN further ON further.judgment_id = j.id
    """
    return _Query(
        f"""
        WITH frozen AS (
            SELECT judgment_id,
                list(DISTINCT snapshot_id ORDER BY snapshot_id) AS snapshot_ids
            FROM snapshot_judgments
            GROUP BY judgment_id
        ),
        trained AS (
            SELECT t.judgment_id,
                list(DISTINCT o.run_id ORDER BY o.run_id) AS run_ids,
                list(DISTINCT o.version ORDER BY o.version) AS policy_versions
            FROM policy_judgments t
            JOIN policies o ON o.version = t.policy_version
            GROUP BY t.judgment_id
        ),
        further AS (
            SELECT d.judgment_id, list({_response("c")} ORDER BY d.place) AS responses
            FROM (
                SELECT id AS judgment_id, unnest(displayed_completion_ids[3:]) AS completion_id,
                       generate_subscripts(displayed_completion_ids[3:], 1) AS place
                FROM judgments
            ) d
            JOIN completions c ON c.id = d.completion_id
            GROUP BY d.judgment_id
        )
        SELECT
            j.id AS judgment_id,
            j.seq,
            strftime(j.recorded_at AT TIME ZONE 'UTC', '%Y-%m-%dT%H:%M:%S.%fZ') AS recorded_at,
            {_annotator(names)} AS annotator,
            j.verdict,
            list_position(j.displayed_completion_ids, j.preferred_completion_id) AS preferred_place,
            j.preferred_completion_id,
            j.strength,
            j.ranks,
            j.ratings,
            j.rating_scale,
            coalesce(j.criteria, []) AS criteria,
            coalesce(j.reasons, []) AS reasons,
            j.rationale,
            coalesce(j.flags, []) AS flags,
            w.text AS rewrite,
            j.rewrite_completion_id,
            o.text AS rewritten,
            j.rewritten_completion_id,
            j.reason,
            j.duration_ms,
            j.supersedes,
            j.guidelines_version,
            (e.id IS NOT NULL) AS counts,
            j.source,
            j.comparison_id,
            c.purpose,
            c.prompt_id,
            p.messages AS prompt,
            p.language,
            p.split,
            list_concat(
                CASE WHEN y.id IS NULL THEN [{_response("x")}]
                     ELSE [{_response("x")}, {_response("y")}] END,
                further.responses
            ) AS displayed_responses,
            coalesce(s.snapshot_ids, []::VARCHAR[]) AS snapshot_ids,
            coalesce(t.run_ids, []::VARCHAR[]) AS run_ids,
            coalesce(t.policy_versions, []::VARCHAR[]) AS trained_policy_versions
        {joined}
        LEFT JOIN usable_judgments e ON e.id = j.id
        LEFT JOIN annotators a ON a.id = j.annotator_id
        WHERE {where}
        ORDER BY
            j.seq IN ({_first_telling("j.seq", _TOLD_BY_JUDGMENT, f"{joined} WHERE {where}")}) DESC,
            j.seq
        """,
        f"every judgment, superseded and retracted ones included, where {where}; {_TOLD_FIRST}"
        " recording; counts is false for those and for what a lead has withdrawn; snapshot_ids are"
        " the frozen data that hold it, run_ids and trained_policy_versions what really learned"
        " from it, neither holding it out nor finding it too long;"
        " displayed_responses, ranks and ratings are in the order the annotator saw,"
        " preferred_place counts from 1 in it",
    )


_HAS_POLICY = "len(list_filter(response_policy_versions, lambda v: v IS NOT NULL)) > 0"


def _rankings(include_held_out: bool, names: Names) -> _Query:
    where = (
        "j.verdict = 'ranked' AND len(j.displayed_completion_ids) > 2"
        " AND len(list_filter(s.responses, lambda text: trim(text) = '')) = 0"
        f" AND c.purpose = 'collect' AND {_split(include_held_out)}"
    )
    return _Query(
        f"""
        WITH shown AS (
            SELECT
                d.judgment_id,
                list(c.text ORDER BY d.place) AS responses,
                list(c.policy_version ORDER BY d.place) AS policy_versions
            FROM (
                SELECT id AS judgment_id, unnest(displayed_completion_ids) AS completion_id,
                       generate_subscripts(displayed_completion_ids, 1) AS place
                FROM judgments WHERE verdict = 'ranked'
            ) d
            JOIN completions c ON c.id = d.completion_id
            GROUP BY d.judgment_id
        ),
        rankings AS (
            SELECT
                p.messages AS prompt,
                s.responses,
                j.ranks,
                {_annotator(names)} AS annotator,
                j.comparison_id,
                c.prompt_id,
                p.language,
                p.split,
                j.displayed_completion_ids AS response_completion_ids,
                s.policy_versions AS response_policy_versions,
                j.id AS judgment_id,
                j.seq AS judgment_seq
            FROM usable_judgments j
            JOIN comparisons c ON c.id = j.comparison_id
            JOIN prompts p ON p.id = c.prompt_id
            JOIN shown s ON s.judgment_id = j.id
            LEFT JOIN annotators a ON a.id = j.annotator_id
            WHERE {where}
        )
        SELECT * FROM rankings
        ORDER BY judgment_seq IN (
            {_first_telling("judgment_seq", [_HAS_POLICY], "FROM rankings")}
        ) DESC, judgment_seq
        """,
        f"every judgment that counts where {where}; {_TOLD_FIRST} recording; responses and ranks"
        " are in the order the annotator saw, 1 is best, equal ranks are a tie, null was left out",
    )


def _ratings(include_held_out: bool, _: Names) -> _Query:
    where = (
        "r.rating <> 0.5 AND trim(c.text) <> '' AND r.purpose = 'collect'"
        f" AND {_split(include_held_out)}"
    )
    first = _first_telling(
        "row(max_judgment_seq, completion_id)",
        ["completion_policy_version IS NOT NULL"],
        "FROM rated",
    )
    return _Query(
        f"""
        WITH rated AS (
            SELECT
                p.messages AS prompt,
                [{{'role': 'assistant', 'content': c.text}}] AS completion,
                r.rating > 0.5 AS label,
                r.rating,
                r.comparison_id,
                r.prompt_id,
                p.language,
                p.split,
                c.id AS completion_id,
                c.source AS completion_source,
                c.policy_version AS completion_policy_version,
                r.sources AS judgment_ids,
                r.max_judgment_seq
            FROM rated_completions r
            JOIN prompts p ON p.id = r.prompt_id
            JOIN completions c ON c.id = r.completion_id
            WHERE {where}
        )
        SELECT * FROM rated
        ORDER BY row(max_judgment_seq, completion_id) IN ({first}) DESC,
            max_judgment_seq, completion_id
        """,
        f"every response that was rated by itself where {where}; rating is the mean from 0 (worst)"
        f" to 1 (best), label whether it is above one half; {_TOLD_FIRST} their newest judgments",
    )


_TOLD_BY_ORIGINAL = ("original IS NOT NULL", "original_policy_version IS NOT NULL")


def _demonstrations(include_held_out: bool, names: Names) -> _Query:
    where = f"j.purpose = 'collect' AND trim(c.text) <> '' AND {_split(include_held_out)}"
    return _Query(
        f"""
        WITH written AS (
            SELECT
                p.messages AS prompt,
                [{{'role': 'assistant', 'content': c.text}}] AS completion,
                o.text AS original,
                {_annotator(names)} AS annotator,
                j.comparison_id,
                j.prompt_id,
                p.language,
                p.split,
                c.id AS completion_id,
                o.id AS original_completion_id,
                o.policy_version AS original_policy_version,
                j.judgment_id,
                j.seq AS judgment_seq
            FROM demonstrations j
            JOIN prompts p ON p.id = j.prompt_id
            JOIN completions c ON c.id = j.completion_id
            LEFT JOIN completions o ON o.id = j.rewritten_completion_id
            LEFT JOIN annotators a ON a.id = j.annotator_id
            WHERE {where}
        )
        SELECT * FROM written
        ORDER BY judgment_seq IN (
            {_first_telling("judgment_seq", _TOLD_BY_ORIGINAL, "FROM written")}
        ) DESC, judgment_seq
        """,
        f"every response that a person wrote where {where}; original is what it was made from,"
        f" null where it was written anew; {_TOLD_FIRST} their judgments",
    )


def _arena(include_held_out: bool, names: Names) -> _Query:
    where = _split(include_held_out)
    return _Query(
        f"""
        SELECT
            c.prompt_id AS question_id,
            coalesce(x.policy_version, x.author, 'unknown') AS model_a,
            coalesce(y.policy_version, y.author, 'unknown') AS model_b,
            CASE
                WHEN j.verdict = 'tie' THEN 'tie'
                WHEN j.verdict = 'both_bad' THEN 'tie (bothbad)'
                WHEN j.preferred_completion_id = x.id THEN 'model_a'
                ELSE 'model_b'
            END AS winner,
            {_annotator(names)} AS judge,
            list_append(p.messages, struct_pack("role" := 'assistant', "content" := x.text))
                AS conversation_a,
            list_append(p.messages, struct_pack("role" := 'assistant', "content" := y.text))
                AS conversation_b,
            len(list_filter(p.messages, lambda m: m."role" = 'user')) AS turn,
            p.language,
            epoch(j.recorded_at) AS tstamp
        FROM usable_judgments j
        JOIN comparisons c ON c.id = j.comparison_id
        JOIN prompts p ON p.id = c.prompt_id
        JOIN completions x ON x.id = j.displayed_completion_ids[1]
        JOIN completions y ON y.id = j.displayed_completion_ids[2]
        LEFT JOIN annotators a ON a.id = j.annotator_id
        WHERE {where} AND len(c.completion_ids) = 2 AND c.purpose <> 'practice'
            AND j.verdict IN ('preferred', 'tie', 'both_bad')
        ORDER BY j.seq
        """,
        f"every judgment that counts on two responses, practice left out, where {where}; a is what"
        " stood first",
    )


_WRITERS: dict[Format, Callable[[Cursor, str, Path], int]] = {
    Format.JSONL: _write_jsonl,
    Format.PARQUET: _write_parquet,
}

_QUERIES: dict[What, Callable[[bool, Names], _Query]] = {
    What.PREFERENCES: _preferences,
    What.PREFERENCES_STANDARD: _preferences_standard,
    What.CRITERIA_PREFERENCES: _criteria_preferences,
    What.RANKINGS: _rankings,
    What.RATINGS: _ratings,
    What.DEMONSTRATIONS: _demonstrations,
    What.JUDGMENTS: _judgments,
    What.ARENA: _arena,
}
