"""What a lead sees before launch: what a run would take, what to be warned of, what to expect."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from labeling import cautions
from labeling.cautions import Caution
from store import completions, data_facts, snapshots
from store.completions import Written
from store.data_facts import DataFacts
from store.db import Store
from store.records import Run
from store.training_data import Kind
from training.estimate import Company, Estimate, Foretold, Lengths, Rows, estimate
from training.lengths import TokenCounter, TokenCounts
from training.loading import ModelLoadError
from training.measurements import rows_given
from training.methods import METHODS, LearnsFrom, Method
from training.options import MethodOptions, SpecError
from training.rundir import RunDir
from training.runs import RunService
from training.tuning import LOW_RANK, tuning_of

# Of the newest completions, from which the length of responses is told.
MEASURED_RESPONSES = 400
MOST_TOLD = 100  # estimates that are kept for a launch
ENDLESS = 2**20  # tokens; beyond what any option allows


@dataclass(frozen=True)
class Outlook:
    """A run that has not been launched. `estimate` is None where its work cannot be foreseen.

    `general` demonstrations are there beside what it learns from.
    """

    method: str
    facts: DataFacts
    cautions: tuple[Caution, ...]
    estimate: Estimate | None
    general: int = 0


class Awaited(NamedTuple):
    """What the runs before one will have made by the time it starts."""

    company: Company
    general: int


class Asked(NamedTuple):
    """What somebody has asked the outlook of."""

    method: str
    options: MethodOptions
    general: int
    company: Company


@dataclass(frozen=True)
class _Look:
    """The facts of a kind of data and the tokens of a sample, as of a version of the store."""

    version: tuple[int, ...]
    facts: DataFacts
    counts: TokenCounts
    ends_turns: bool


class Outlooks:
    """Looks at the data and at the machine; remembers what takes a second until it changes."""

    def __init__(self, store: Store, runs: RunService) -> None:
        self._store = store
        self._runs = runs
        self._lock = threading.Lock()  # protects all below, and keeps two from looking at once
        self._counter: TokenCounter | None = None
        self._told: dict[Asked, Estimate] = {}  # the newest last
        self._looks: dict[tuple[Kind, str | None], _Look] = {}

    def of(
        self, method: Method, options: MethodOptions, *, general: int, company: Company
    ) -> Outlook:
        """What to expect of a run with these options and `general` demonstrations, started now.

        The first one on a machine takes some seconds. Raises `ModelLoadError`.
        """
        look = self._look(method, options)
        rows = self._rows(method, look, look.facts.rows, general)
        told = self._estimate(method, options, rows, company)
        if told is not None:
            self._keep(Asked(method.name, options, general, company), told)
        return Outlook(
            method=method.name,
            facts=look.facts,
            cautions=tuple(self._cautions(method, options, look, told, general)),
            estimate=told,
            general=general,
        )

    def told(self, asked: Asked) -> Estimate | None:
        """What somebody was told of this very run, if not too long ago."""
        return self._told.get(asked)

    def _keep(self, asked: Asked, told: Estimate) -> None:
        with self._lock:
            self._told.pop(asked, None)
            self._told[asked] = told
            if len(self._told) > MOST_TOLD:
                del self._told[next(iter(self._told))]

    def of_run(self, run: Run) -> Foretold:
        """What was foretold of a run before its launch.

        Where nothing was: what would be, for as many rows as it had, like those there are now.
        """
        kept = Foretold.from_json(RunDir(Path(run.folder)).read_estimate())
        if kept.estimate is not None:
            return kept
        return kept._replace(estimate=self._afterwards(run), is_afterwards=True)

    def _afterwards(self, run: Run) -> Estimate | None:
        method = METHODS.get(run.method)
        report = (run.result or {}).get("report") or {}
        if method is None or not rows_given(report):
            return None
        try:
            options = method.options.parsed(run.spec["options"])
            look = self._look(method, options)
        except (SpecError, ModelLoadError):
            return None  # What the run was given is not to be had any more.
        asks = method.learns_from is LearnsFrom.PROMPTS  # some of all, as its options say
        number = look.facts.rows if asks else rows_given(report)
        rows = self._rows(method, look, number, self._general_of(run))
        return self._estimate(method, options, rows, company_of(run.spec))

    def _look(self, method: Method, options: MethodOptions) -> _Look:
        kind, only = Kind(method.learns_from.value), options.only_kind
        with self._lock:
            version, known = data_facts.version(self._store), self._looks.get((kind, only))
            if known is not None and known.version == version:
                return known
            counter = self._counter = self._counter or TokenCounter(self._runs.base_model)
            facts = data_facts.measure(self._store, kind, only=only)
            look = _Look(version, facts, counter.count(facts.sample), counter.ends_turns)
            self._looks[kind, only] = look
            return look

    def _estimate(
        self, method: Method, options: MethodOptions, rows: Rows, company: Company
    ) -> Estimate | None:
        shape, machine = self._runs.model_shape, self._runs.machine
        if shape is None or machine is None:
            return None
        return estimate(method.name, options, rows, shape, machine, company)

    def _rows(self, method: Method, look: _Look, number: int, general: int) -> Rows:
        if not look.counts.sequences:
            return Rows(0, Lengths(0.0, 0, 0.0, 0))
        lengths = lengths_of(look.facts, look.counts)
        if method.learns_from is LearnsFrom.PROMPTS:
            lengths = with_responses(lengths, completions.written(self._store, MEASURED_RESPONSES))
        return Rows(number, lengths, general)

    def _general_of(self, run: Run) -> int:
        """How many general demonstrations a run was given."""
        id = run.general_snapshot_id
        return snapshots.get(self._store, id).rows if id else 0

    def _cautions(
        self,
        method: Method,
        options: MethodOptions,
        look: _Look,
        told: Estimate | None,
        general: int,
    ) -> Iterator[Caution]:
        machine, shape = self._runs.machine, self._runs.model_shape
        if told is not None and machine is not None:
            yield from cautions.of_memory(told, machine)
        yield from cautions.of_data(method, options, look.facts)
        yield from cautions.of_replay(options, rows=look.facts.rows, general=general)
        yield from cautions.of_ends(ends_turns=look.ends_turns)
        yield from cautions.of_loss(options)
        context = shape.context if shape else None
        yield from cautions.of_lengths(method, options, look.counts, context=context)


def company_of(spec: Mapping[str, Any]) -> Company:
    """The models that a run takes along beside those it learns with, by its spec."""
    is_scored = bool(spec.get("reward_model"))
    return Company(
        is_scored=is_scored,
        meets_base=is_scored and bool(spec.get("parent_adapter")),
        is_watched=bool(spec.get("watch_model")),
        is_apart=is_scored and _is_apart(Path(spec["reward_model"])),
    )


def _is_apart(reward_model: Path) -> bool:
    return reward_model.is_dir() and tuning_of(reward_model) not in LOW_RANK


def with_responses(prompts: Lengths, written: Written | None) -> Lengths:
    """Prompts with what policies write to them; without an example, up to any limit."""
    mean, longest = written or (ENDLESS, ENDLESS)
    return Lengths(prompts.mean + mean, prompts.longest + longest, mean, longest)


def lengths_of(facts: DataFacts, counts: TokenCounts) -> Lengths:
    """Tokens of all rows, from those of a sample: the longest row may not be in it."""
    mean = fmean(counts.sequences)
    longest = round(facts.longest_chars * mean / facts.mean_chars) if facts.mean_chars else 0
    return Lengths(
        mean=mean,
        longest=max(longest, *counts.sequences),
        completion_mean=fmean(counts.completions),
        completion_longest=max(counts.completions),
    )
