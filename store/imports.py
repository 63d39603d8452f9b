"""Imports: files of prompts and preferences, read row by row and kept in batches.

Ids are hashes of what they stand for, so importing a file twice adds nothing.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from store import (
    annotators,
    checks,
    comparisons,
    completions,
    general,
    journal,
    judgments,
    languages,
    prompts,
    rows,
)
from store.checks import Checks
from store.db import Cursor, Store
from store.errors import BadInput, BadRow
from store.formats import registry
from store.formats.checks import checks_of
from store.formats.item import (
    Format,
    Holds,
    ImportedVerdict,
    Item,
    Parser,
    Response,
    SourceRow,
    Thumb,
)
from store.import_files import Found, RowFile
from store.journal import Evidence
from store.records import (
    Comparison,
    Completion,
    GeneralDemonstration,
    Judgment,
    Prompt,
    Purpose,
    RatingScale,
    Split,
    Verdict,
)

BATCH_ITEMS = 500
KEPT_REFUSALS = 1000


class Use(StrEnum):
    """What an import is for.

    PROMPTS      prompts alone, to be answered by the live policy
    PREFERENCES  pairs that the file has judged, with their prompts
    BOTH         those, and the prompts of rows that hold no pair
    PAIRS        the file's responses, to be judged by people here; its own verdicts are left out
    THUMBS       single responses that the file calls good or bad, or shows for imitation
    GENERAL      what it shows for imitation, to be kept in mind by policies that learn other things
    """

    PROMPTS = "prompts"
    PREFERENCES = "preferences"
    BOTH = "both"
    PAIRS = "pairs"
    THUMBS = "thumbs"
    GENERAL = "general"


@dataclass(frozen=True)
class ImportProgress:
    """How far an import has come; `fraction` of the file's bytes, 0 to 1."""

    rows: int
    accepted: int
    known: int
    refused: int
    fraction: float


@dataclass(frozen=True)
class ImportReport:
    """What became of a file. `accepted + known + refused` are its rows.

    A row is known when all of it was in the store already. `refusals` are the first thousand.
    `preferences_added` are pairs that came with judgments, ties included; `pairs_added` are pairs
    to be judged here; `thumbs_added` are single responses that came with a thumb; `general_added`
    are general demonstrations; `checks_added` are prompts that came with checks which they did not
    have.
    """

    import_id: str
    format: str
    accepted: int
    known: int
    refused: int
    refusals: tuple[BadRow, ...]
    prompts_added: int
    preferences_added: int
    pairs_added: int
    thumbs_added: int
    judgments_added: int
    general_added: int
    was_cancelled: bool
    checks_added: int = 0


class ImportRecord(NamedTuple):
    """A past import, as the store remembers it."""

    id: str
    name: str
    format: str
    created_by: str
    created_at: datetime
    accepted: int
    known: int
    refused: int


class _Added(NamedTuple):
    accepted: int = 0
    known: int = 0
    prompts: int = 0
    preferences: int = 0
    pairs: int = 0
    thumbs: int = 0
    judgments: int = 0
    general: int = 0
    checks: int = 0

    def plus(self, other: _Added) -> _Added:
        return _Added(*(a + b for a, b in zip(self, other, strict=True)))


@dataclass
class _Entry:
    """The records that one row becomes."""

    prompts: list[Prompt] = field(default_factory=list)
    checks: dict[str, Checks] = field(default_factory=dict)  # by prompt id
    completions: list[Completion] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    judgments: list[Judgment] = field(default_factory=list)
    general: list[GeneralDemonstration] = field(default_factory=list)
    sources: set[str] = field(default_factory=set)


class _Plan(NamedTuple):
    """What stays the same for all rows of an import."""

    import_id: str
    format: Format
    use: Use
    held_out_share: float
    now: datetime


def import_file(
    store: Store,
    path: Path,
    *,
    created_by: str,
    format: str | None = None,
    use: str | None = None,
    held_out_share: float = prompts.HELD_OUT_SHARE,
    on_progress: Callable[[ImportProgress], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> ImportReport:
    """Keep the good rows of `path` and tell of each bad one why it was refused.

    `format` None means detected by columns; `use` None means `BOTH` where rows hold pairs, and
    `PROMPTS` elsewhere. `held_out_share` of the prompts, chosen by a hash of how their
    conversation opens, is never trained on, unless the file has a `split` column. A cancelled
    import keeps what it has added. Raises `BadInput` when the file as a whole cannot be used.
    """
    if not 0.0 <= held_out_share <= 1.0:
        raise BadInput(
            "The held-out share is {share}; choose a number from 0 to 1.",
            share=held_out_share,
        )
    wanted = _use(use)
    with RowFile(path) as file:
        reading = iter(file)
        start = _until_readable(reading, file.name)
        chosen = registry.find(format) if format else registry.detect(start[-1])
        plan = _Plan(
            uuid.uuid4().hex, chosen, _checked_use(wanted, chosen), held_out_share, store.clock()
        )
        parse = chosen.parser(path)
        _record(store, plan, name=file.name, created_by=created_by)
        importing = _Importing(store, plan, parse)
        is_cancelled = importing.run(_chained(start, reading), file, on_progress, cancelled)
    return importing.report(was_cancelled=is_cancelled)


def list_all(store: Store) -> list[ImportRecord]:
    """Every import, newest first."""
    with store.read() as cursor:
        found = cursor.execute(
            "SELECT id, name, format, created_by, created_at, accepted, known, refused"
            " FROM imports ORDER BY created_at DESC, id"
        ).fetchall()
    return [ImportRecord(*row) for row in found]


class _Importing:
    """One import under way: rows gathered into batches, one store change for each."""

    def __init__(self, store: Store, plan: _Plan, parse: Parser) -> None:
        self._store = store
        self._plan = plan
        self._parse = parse
        self._added = _Added()
        self._refusals: list[BadRow] = []
        self._refused = 0

    def run(
        self,
        found: Iterator[Found],
        file: RowFile,
        on_progress: Callable[[ImportProgress], None] | None,
        cancelled: Callable[[], bool] | None,
    ) -> bool:
        """Read to the end, or until cancelled; returns whether it was."""
        batch: list[_Entry] = []
        weight = 0
        for row in found:
            entry = self._entry(row)
            if entry is not None:
                batch.append(entry)
                weight += max(1, len(entry.prompts), len(entry.comparisons))
            if weight < BATCH_ITEMS:
                continue
            self._keep(batch)
            batch, weight = [], 0
            if on_progress:
                on_progress(self._progress(file.fraction))
            if cancelled and cancelled():
                return True
        self._keep(batch)
        if on_progress:
            on_progress(self._progress(1.0))
        return False

    def report(self, *, was_cancelled: bool) -> ImportReport:
        """What has been done."""
        return ImportReport(
            import_id=self._plan.import_id,
            format=self._plan.format.name,
            accepted=self._added.accepted,
            known=self._added.known,
            refused=self._refused,
            refusals=tuple(self._refusals),
            prompts_added=self._added.prompts,
            preferences_added=self._added.preferences,
            pairs_added=self._added.pairs,
            thumbs_added=self._added.thumbs,
            judgments_added=self._added.judgments,
            general_added=self._added.general,
            was_cancelled=was_cancelled,
            checks_added=self._added.checks,
        )

    def _entry(self, row: Found) -> _Entry | None:
        """The row's records; None when it is refused."""
        try:
            if isinstance(row, BadRow):
                raise row
            return _entry(self._plan, row, self._items(row))
        except BadRow as refusal:
            self._refuse(refusal)
        except RecursionError:
            assert isinstance(row, SourceRow)
            self._refuse(row.refuse("", "is nested too deeply"))
        return None

    def _refuse(self, refusal: BadRow) -> None:
        self._refused += 1
        if len(self._refusals) < KEPT_REFUSALS:
            self._refusals.append(refusal)

    def _items(self, row: SourceRow) -> list[Item]:
        for name, value in row.values.items():
            if not _is_unicode(value):
                raise row.refuse(str(name), "holds bytes that are not UTF-8")
        return self._parse(row)

    def _keep(self, batch: Sequence[_Entry]) -> None:
        before, refused, plan = self._added, self._refused, self._plan

        def change(cursor: Cursor) -> _Added:
            total = before.plus(_insert(cursor, batch, plan))
            cursor.execute(
                "UPDATE imports SET accepted = ?, known = ?, refused = ? WHERE id = ?",
                [total.accepted, total.known, refused, plan.import_id],
            )
            return total

        self._added = self._store.write(change, journal=_evidence_lines(plan, batch))

    def _progress(self, fraction: float) -> ImportProgress:
        accepted, known = self._added.accepted, self._added.known
        return ImportProgress(
            accepted + known + self._refused, accepted, known, self._refused, fraction
        )


def _use(name: str | None) -> Use | None:
    if name is None:
        return None
    try:
        return Use(name)
    except ValueError:
        known = ", ".join(Use)
        raise BadInput(
            "There is no use {name!r} of an import. Choose one of: {known}.", name=name, known=known
        ) from None


def _checked_use(use: Use | None, format: Format) -> Use:
    if use is None:
        return Use.BOTH if format.holds is Holds.PAIRS else Use.PROMPTS
    if use in (Use.THUMBS, Use.GENERAL) and format.holds is Holds.PAIRS:
        raise BadInput(
            "Files in the format {format} hold pairs of responses, no single ones. Import this "
            "one with the use {use!r}.",
            format=format.name,
            use=Use.BOTH.value,
        )
    if use in (Use.PREFERENCES, Use.PAIRS) and format.holds is not Holds.PAIRS:
        raise BadInput(
            "Files in the format {format} hold no pairs of responses. Import this one with "
            "the use {use!r}.",
            format=format.name,
            use=Use.PROMPTS.value,
        )
    return use


def _until_readable(found: Iterator[Found], name: str) -> list[Any]:
    """The unreadable rows at the start, and the first readable one. Raises `BadInput`."""
    start: list[Found] = []
    for row in found:
        start.append(row)
        if isinstance(row, SourceRow):
            return start
    if start:
        raise BadInput(
            "{name} holds no row that can be read. The first problem: {problem}. Save it as JSON "
            "Lines, a JSON array, CSV or Parquet, and import it again.",
            name=name,
            problem=start[0],
        )
    raise BadInput(
        "{name} holds no row that can be read. Save it as JSON Lines, a JSON array, CSV or "
        "Parquet, and import it again.",
        name=name,
    )


def _chained(start: Sequence[Found], rest: Iterator[Found]) -> Iterator[Found]:
    yield from start
    yield from rest


def _record(store: Store, plan: _Plan, *, name: str, created_by: str) -> None:
    store.write(
        lambda cursor: cursor.execute(
            "INSERT INTO imports (id, name, format, created_by, created_at, accepted, known,"
            " refused) VALUES (?, ?, ?, ?, ?, 0, 0, 0)",
            [plan.import_id, name, plan.format.name, created_by, plan.now],
        )
    )


def _entry(plan: _Plan, row: SourceRow, items: Sequence[Item]) -> _Entry:
    entry = _Entry()
    asked_for = checks_of(row)
    for item in items:
        if plan.use is Use.GENERAL:
            entry.general.append(_general(plan, row, item))
            continue
        if item.responses is None and plan.use in (Use.PREFERENCES, Use.PAIRS):
            continue
        if plan.use is Use.THUMBS and item.thumb is None:
            raise row.refuse("", "holds no response; import it with {use!r}", use=Use.PROMPTS.value)
        prompt = _prompt(plan, item, is_test=bool(asked_for))
        entry.prompts.append(prompt)
        if asked_for:
            entry.checks[prompt.id] = asked_for
        if plan.use is Use.THUMBS and item.thumb is not None:
            _add_thumb(plan, entry, prompt, item.thumb)
        if item.responses is not None and plan.use is not Use.PROMPTS:
            _add_pair(plan, row, entry, prompt, item.responses, item.verdicts)
    return entry


def _general(plan: _Plan, row: SourceRow, item: Item) -> GeneralDemonstration:
    """Raises `BadRow` for a row without a response, or with one that is no example."""
    if item.thumb is None or not item.thumb.is_liked:
        raise row.refuse("", "holds no response to imitate")
    said = [part for m in item.messages for part in (m["role"], m["content"])]
    id = _hash("general", *said, item.thumb.text)[:24]
    return GeneralDemonstration(id, item.messages, item.thumb.text, plan.import_id)


def _prompt(plan: _Plan, item: Item, *, is_test: bool) -> Prompt:
    """A prompt with checks is there to test policies, unless the file says otherwise."""
    usual = Split.HELD_OUT if is_test else prompts.split_of(item.messages, plan.held_out_share)
    asked = "\n".join(m["content"] for m in item.messages if m["role"] == "user")
    return prompts.make(
        item.messages,
        language=item.language or languages.detect(asked),
        split=item.split or usual,
        source=plan.import_id,
    )


def _add_pair(
    plan: _Plan,
    row: SourceRow,
    entry: _Entry,
    prompt: Prompt,
    responses: tuple[Response, Response],
    verdicts: Sequence[ImportedVerdict],
) -> None:
    pair = [_completion(plan, prompt, response) for response in responses]
    if pair[0].id == pair[1].id:
        raise row.refuse("", "both responses are the same text, so the pair says nothing")
    is_to_judge = plan.use is Use.PAIRS
    if not verdicts and not is_to_judge:
        raise row.refuse(
            "",
            "says of no response that it is better; import it with {use!r}",
            use=Use.PAIRS.value,
        )
    in_order = tuple(sorted(c.id for c in pair))
    kind = "to judge" if is_to_judge else "judged"
    comparison = Comparison(_hash(kind, *in_order)[:24], prompt.id, in_order, Purpose.COLLECT)
    entry.completions.extend(pair)
    entry.comparisons.append(comparison)
    if is_to_judge:
        return
    for verdict in verdicts:
        name = verdict.annotator or f"import:{plan.format.name}"
        entry.sources.add(name)
        entry.judgments.append(_judgment(plan, comparison, pair, name, verdict))


def _add_thumb(plan: _Plan, entry: _Entry, prompt: Prompt, thumb: Thumb) -> None:
    """A response by itself, rated by the file as a person would rate it here."""
    completion = _completion(plan, prompt, Response(thumb.text))
    comparison = Comparison(
        _hash("rated", completion.id)[:24], prompt.id, (completion.id,), Purpose.COLLECT
    )
    name = f"import:{plan.format.name}"
    annotator_id = annotators.source_id(name)
    entry.completions.append(completion)
    entry.comparisons.append(comparison)
    entry.sources.add(name)
    entry.judgments.append(
        Judgment(
            id=_hash("rating", comparison.id, annotator_id, str(thumb.is_liked))[:32],
            comparison_id=comparison.id,
            annotator_id=annotator_id,
            lease_id=None,
            verdict=Verdict.RATED,
            displayed_completion_ids=comparison.completion_ids,
            recorded_at=plan.now,
            source=plan.import_id,
            ratings=(int(thumb.is_liked),),
            rating_scale=RatingScale.THUMBS,
        )
    )


def _completion(plan: _Plan, prompt: Prompt, response: Response) -> Completion:
    return Completion(
        id=_hash("completion", prompt.id, response.text, response.author or "")[:24],
        prompt_id=prompt.id,
        text=response.text,
        source=plan.import_id,
        policy_version=None,
        adapter_sha256=None,
        sampling=None,
        seed=None,
        finish_reason="import",
        token_count=None,
        created_at=plan.now,
        author=response.author,
    )


def _judgment(
    plan: _Plan,
    comparison: Comparison,
    pair: Sequence[Completion],
    annotator: str,
    said: ImportedVerdict,
) -> Judgment:
    preferred = None if said.preferred is None else pair[said.preferred].id
    seen = comparison.completion_ids
    if said.displayed is not None:
        seen = tuple(pair[i].id for i in said.displayed)
    annotator_id = annotators.source_id(annotator)
    return Judgment(
        id=_hash("judgment", comparison.id, annotator_id, said.verdict, preferred or "")[:32],
        comparison_id=comparison.id,
        annotator_id=annotator_id,
        lease_id=None,
        verdict=Verdict(said.verdict),
        displayed_completion_ids=seen,
        recorded_at=plan.now,
        preferred_completion_id=preferred,
        strength=said.strength,
        source=plan.import_id,
    )


def _insert(cursor: Cursor, batch: Sequence[_Entry], plan: _Plan) -> _Added:
    """Add what is new of a batch, within a change."""
    now = plan.now
    known_prompts = _known(cursor, "prompts", [p.id for e in batch for p in e.prompts])
    known_texts = _known(cursor, "completions", [c.id for e in batch for c in e.completions])
    known_pairs = _known(cursor, "comparisons", [c.id for e in batch for c in e.comparisons])
    known_said = _known(cursor, "judgments", [j.id for e in batch for j in e.judgments])
    known_general = _known(
        cursor, "general_demonstrations", [g.id for e in batch for g in e.general]
    )
    known_checks = checks.known(cursor, [id for e in batch for id in e.checks])
    prompts_new: dict[str, Prompt] = {}
    checks_new: dict[str, Checks] = {}
    texts_new: dict[str, Completion] = {}
    pairs_new: dict[str, Comparison] = {}
    said_new: dict[str, Judgment] = {}
    general_new: dict[str, GeneralDemonstration] = {}
    counted: Sequence[Sized] = (prompts_new, checks_new, pairs_new, said_new, general_new)
    sources: set[str] = set()
    accepted = 0
    for entry in batch:
        size = sum(map(len, counted))
        prompts_new |= {p.id: p for p in entry.prompts if p.id not in known_prompts}
        checks_new |= {id: cs for id, cs in entry.checks.items() if cs != known_checks.get(id)}
        texts_new |= {c.id: c for c in entry.completions if c.id not in known_texts}
        pairs_new |= {c.id: c for c in entry.comparisons if c.id not in known_pairs}
        said_new |= {j.id: j for j in entry.judgments if j.id not in known_said}
        general_new |= {g.id: g for g in entry.general if g.id not in known_general}
        sources |= entry.sources
        accepted += sum(map(len, counted)) > size
    annotators.insert_sources(cursor, sources, now=now)
    prompts.insert(cursor, list(prompts_new.values()), now=now)
    checks.insert(cursor, checks_new, source=plan.import_id, now=now)
    completions.insert(cursor, list(texts_new.values()))
    comparisons.insert(cursor, list(pairs_new.values()), now=now)
    judgments.insert_imported(cursor, list(said_new.values()))
    general.insert(cursor, list(general_new.values()), now=now)
    judged = {j.comparison_id for j in said_new.values()}
    thumbs = sum(len(pair.completion_ids) == 1 for pair in pairs_new.values())
    preferences = sum(id in judged for id in pairs_new) - thumbs
    return _Added(
        accepted=accepted,
        known=len(batch) - accepted,
        prompts=len(prompts_new),
        preferences=preferences,
        pairs=len(pairs_new) - preferences - thumbs,
        thumbs=thumbs,
        judgments=len(said_new),
        general=len(general_new),
        checks=len(checks_new),
    )


def _evidence_lines(plan: _Plan, batch: Sequence[_Entry]) -> list[str]:
    """Of pairs that people will judge here; what a file has judged can be imported again."""
    if plan.use is not Use.PAIRS:
        return []
    return [
        journal.evidence_line(evidence) for entry in batch for evidence in _evidence(plan, entry)
    ]


def _evidence(plan: _Plan, entry: _Entry) -> Iterator[Evidence]:
    asked = {prompt.id: prompt for prompt in entry.prompts}
    texts = {completion.id: completion for completion in entry.completions}
    for comparison in entry.comparisons:
        shown = tuple(texts[id] for id in comparison.completion_ids)
        yield Evidence(comparison, asked[comparison.prompt_id], shown, plan.now)


def _known(cursor: Cursor, table: str, ids: Sequence[str]) -> set[str]:
    return rows.known_ids(cursor, table, set(ids)) if ids else set()


def _hash(*parts: str) -> str:
    """Each part is preceded by its length, so that no two lists of parts read alike."""
    text = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.sha256(text.encode()).hexdigest()


def _is_unicode(value: Any) -> bool:
    """Whether every text within can be written as UTF-8 (a lone surrogate cannot)."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return False
        return True
    if isinstance(value, Mapping):
        return all(_is_unicode(v) for v in value.values())
    if isinstance(value, list):
        return all(_is_unicode(v) for v in value)
    return True
