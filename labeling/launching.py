"""Training as leads see it: what would be used, launch, progress, cancel, resume."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from labeling import reward_models
from labeling.access import Actor, require_lead
from labeling.agreement import preference_agreement
from labeling.cautions import Caution, Severity
from labeling.duels import Duel, duels_of_all, judged
from labeling.outlook import Asked, Awaited, Outlook, Outlooks
from labeling.reward_models import can_teach, folder_of, made_reward_model, most_reliable
from store import general, policies, preferences, runs, settings, snapshots, training_data
from store.db import Store
from store.errors import BadInput, NotFound, PolicyUnavailable
from store.general import Origins
from store.preferences import PreferenceCounts
from store.records import Policy, Run, RunEvent, Snapshot
from store.training_data import Kind, KindCount
from training import report_page
from training.blind import Standing
from training.estimate import ALONE, Company, Estimate, Foretold
from training.events import EventReader
from training.general import brought_along
from training.loading import ModelLoadError
from training.messages import Message
from training.methods import METHODS, LearnsFrom, Method, Product, method_named
from training.options import MethodOptions, SpecError
from training.proportions import UNKNOWN
from training.report_page import Beside
from training.rundir import RunDir, write_whole
from training.runs import RunService
from training.tuning import LOW_RANK, Tuning, check_continues, tuning_of

LOG_LINES = 80
PREPARE_TIMEOUT_S = 60.0
HIGHEST_PRICE = 1_000_000
_PRICE = "price_per_hour"

log = logging.getLogger(__name__)


class Start(StrEnum):
    """Which policy a run starts from."""

    LIVE = "live"
    BASE = "base"


@dataclass(frozen=True)
class RunView:
    """A run with all that a page shows of it. `policy` is what it produced, if it did.

    `duels` are what people said of that against the policy before it and against the base,
    `standings` how it and the others that were trained from the policy before do against that.
    """

    run: Run
    events: list[RunEvent]
    policy: Policy | None
    duels: tuple[Duel, ...] = ()
    standings: tuple[Standing, ...] = ()


class Launching:
    """What the Train tab may ask for."""

    def __init__(self, store: Store, runs_service: RunService, snapshots_folder: Path) -> None:
        self._store = store
        self._runs = runs_service
        self._snapshots_folder = snapshots_folder
        self._outlooks = Outlooks(store, runs_service)
        self._with_rows: set[str] = set()  # methods
        # Protects the reports of runs against two who read one and would both write it.
        self._keeping_report = threading.Lock()

    def counts(self, actor: Actor) -> PreferenceCounts:
        """How many preferences there are, and what a run started now would use."""
        require_lead(actor, "see training data")
        return preferences.counts(self._store)

    def amount(self, actor: Actor, method: str) -> KindCount:
        """How much there is of what a method learns from."""
        require_lead(actor, "see training data")
        return training_data.count(self._store, _kind(_method(method)))

    def preset(self, actor: Actor, method: str, *, rows: int, tuning: str) -> MethodOptions:
        """Options that suit this many rows, the size of the base model and the tuning."""
        require_lead(actor, "train")
        options = method_named(method).options
        return options.preset(rows, parameters=self._runs.model_parameters, tuning=tuning)

    def outlook(
        self,
        actor: Actor,
        method: str,
        options: Mapping[str, Any],
        *,
        start: str = Start.LIVE,
        reward_run: str | None = None,
        awaited: Awaited | None = None,
    ) -> Outlook:
        """What a run would take and what to be warned of; the first one takes some seconds.

        `start` and `reward_run` as `launch` takes them; what is `awaited` from other runs counts in
        place of what there is. Raises `BadInput` for options out of bounds or a model that cannot
        be read.
        """
        require_lead(actor, "see training data")
        chosen = _method(method)
        found = awaited or self._found(chosen, start, reward_run)
        try:
            outlook = self._outlooks.of(
                chosen,
                chosen.options.parsed(options),
                general=found.general,
                company=found.company,
            )
        except (SpecError, ModelLoadError) as error:
            raise BadInput("The run cannot start: {error}.", error=error) from error
        misfits = self._misfits(chosen, options, start, reward_run)
        return replace(outlook, cautions=(*misfits, *outlook.cautions))

    def refusal(
        self, actor: Actor, method: str, tuning: Tuning, *, start: str = Start.LIVE
    ) -> Message | None:
        """What a launch would be refused for as things are, but for the lack of a reward model."""
        require_lead(actor, "see training data")
        if not self._has_rows(actor, method):
            return Message("There is nothing to train on yet.")
        misfits = self._misfits(_method(method), {"tuning": tuning}, start, None)
        return next((misfit.found for misfit in misfits), None)

    def _has_rows(self, actor: Actor, method: str) -> bool:
        """What was there once is taken to stay: to count much takes long, and a launch does."""
        if method not in self._with_rows and self.amount(actor, method).rows:
            self._with_rows.add(method)
        return method in self._with_rows

    def price_per_hour(self, actor: Actor) -> float | None:
        """What an hour of this machine costs, in a currency of people's own; None if not set."""
        require_lead(actor, "see what training costs")
        price: float | None = settings.get(self._store, _PRICE, None)
        return price

    def set_price_per_hour(self, actor: Actor, price: float | None) -> None:
        """Set it for everybody; None or 0 takes it away. Raises `BadInput`."""
        require_lead(actor, "set what training costs")
        if price is not None and not 0 <= price <= HIGHEST_PRICE:
            raise BadInput(
                "The price of an hour must lie between 0 and {most:,}.", most=HIGHEST_PRICE
            )
        settings.put(self._store, _PRICE, price or None)

    def foretold(self, actor: Actor, run_id: str) -> Foretold:
        """What a run that has ended was estimated to take, at the price of today, to see beside
        what it took."""
        require_lead(actor, "see runs")
        told = self._outlooks.of_run(runs.get(self._store, run_id))
        return told._replace(price_per_hour=self.price_per_hour(actor))

    def prepare(self, actor: Actor) -> None:
        """A lead is at the Train tab: have a trainer process warm, or keep it so."""
        require_lead(actor, "train")
        self._runs.prepare()

    def wait_prepared(self, actor: Actor) -> None:
        """Returns once the process is warm, or has taken too long."""
        require_lead(actor, "train")
        self._runs.wait_prepared(PREPARE_TIMEOUT_S)

    def starts(self, actor: Actor) -> list[Policy]:
        """The versions besides the base itself that a run can start from, newest first."""
        require_lead(actor, "train")
        live = policies.live(self._store)
        base_model = policies.get(self._store, live.version).base_model if live else None
        return [
            policy
            for policy in policies.list_all(self._store)
            if policy.base_model == base_model and policy.adapter_path is not None
        ]

    def is_training(self, actor: Actor) -> bool:
        """A trainer is at work."""
        require_lead(actor, "see runs")
        return self._runs.is_training

    def launch(
        self,
        actor: Actor,
        method: str,
        options: Mapping[str, Any],
        *,
        start: str = Start.LIVE,
        reward_run: str | None = None,
        foreseen: Estimate | None = None,
    ) -> Run:
        """Freeze the data and start training; `reward_run` made the reward model to learn from.

        A method that learns from none has its result scored by the most reliable one there is.
        `start` is a `Start` or the name of a policy version. `foreseen` is what people were told of
        the run, if not by an outlook on these very options. Raises `BadInput` for no data, options
        out of bounds or a tuning that does not go on from there, `Conflict` while another run is
        active, `PolicyUnavailable` before there is a policy to start from.
        """
        require_lead(actor, "start training")
        chosen = _method(method)
        parent = self._parent(start)
        _check_tuning(options.get("tuning"), parent, chosen)
        scorer = self._scorer(chosen, reward_run)
        snapshot = snapshots.freeze(
            self._store, self._snapshots_folder, kind=_kind(chosen), created_by=actor.id
        )
        foreseen = foreseen or self._foreseen(chosen, options, start, reward_run)
        run = self._runs.launch(
            actor.id,
            method,
            options,
            snapshot,
            parent,
            general=self._freeze_general(actor, chosen, parent, snapshot),
            reward_model=str(folder_of(scorer)) if scorer else None,
            watch_model=_watch_model(scorer) if scorer and chosen.needs_reward_model else None,
            agreement=self._agreement(chosen),
        )
        if foreseen is not None:
            told = Foretold(foreseen, self.price_per_hour(actor))
            with suppress(OSError):  # The run is launched; it says itself where the disk is full.
                RunDir(Path(run.folder)).write_estimate(told.to_json())
        return run

    def reward_runs(self, actor: Actor) -> list[Run]:
        """The runs that made a reward model, newest first."""
        require_lead(actor, "see runs")
        return [run for run in runs.list_all(self._store) if made_reward_model(run)]

    def cancel(self, actor: Actor, run_id: str) -> None:
        """Ask the trainer to stop; what it learned so far is not kept."""
        require_lead(actor, "cancel a run")
        self._runs.cancel(run_id)

    def resume(self, actor: Actor, run_id: str) -> Run:
        """Go on from the last checkpoint of an interrupted or failed run."""
        require_lead(actor, "resume a run")
        return self._runs.resume(run_id)

    def list_runs(self, actor: Actor) -> list[Run]:
        """Every run, newest first."""
        require_lead(actor, "see runs")
        return runs.list_all(self._store)

    def made_by_runs(self, actor: Actor) -> dict[str, Policy]:
        """The policy version that each run produced, by run id."""
        require_lead(actor, "see runs")
        return {p.run_id: p for p in policies.list_all(self._store) if p.run_id}

    def log_tail(self, actor: Actor, run_id: str) -> str:
        """The last lines that the trainer of a run wrote."""
        require_lead(actor, "read a run's log")
        return RunDir(Path(runs.get(self._store, run_id).folder)).log_tail(LOG_LINES)

    def report(self, actor: Actor, run_id: str) -> str:
        """The page that a run left, and in it what was estimated and what people have said since.

        The file in the run's folder then says so too. Raises `NotFound`.
        """
        require_lead(actor, "read a run's report")
        run_dir = RunDir(Path(runs.get(self._store, run_id).folder))
        if not run_dir.report_path.is_file():
            raise NotFound(
                "Run {run_id} has no report. A run writes one when it ends well.", run_id=run_id
            )
        policy = policies.of_run(self._store, run_id)
        met = duels_of_all(self._store) if policy else {}
        beside = Beside(
            blind=judged(self._duels(policy, met)),
            standings=self._standings(policy, met),
            foretold=self.foretold(actor, run_id),
        )
        page = _report_with(run_dir, beside)
        if page is None:
            return run_dir.report_path.read_text(encoding="utf-8")
        self._keep_report(run_dir, page)
        return page

    def _keep_report(self, run_dir: RunDir, page: str) -> None:
        with self._keeping_report, suppress(OSError):  # It was asked for to be read, not kept.
            if run_dir.report_path.read_text(encoding="utf-8") != page:
                write_whole(run_dir.report_path, page)

    def view(self, actor: Actor, run_id: str | None) -> RunView | None:
        """One run; without an id the newest. None when there is none at all."""
        require_lead(actor, "see runs")
        found = runs.list_all(self._store)
        if not found:
            return None
        run = runs.get(self._store, run_id) if run_id else found[0]
        policy, events = policies.of_run(self._store, run.id), runs.events(self._store, run.id)
        if policy is None:
            return RunView(run, events, None)
        met = duels_of_all(self._store)
        return RunView(run, events, policy, self._duels(policy, met), self._standings(policy, met))

    def _foreseen(
        self, method: Method, options: Mapping[str, Any], start: str, reward_run: str | None
    ) -> Estimate | None:
        """What a lead has just been told that this very run would take."""
        company, general = self._found(method, start, reward_run)
        try:
            asked = Asked(method.name, method.options.parsed(options), general, company)
        except SpecError:
            return None  # The launch is about to say so.
        return self._outlooks.told(asked)

    def _found(self, method: Method, start: str, reward_run: str | None) -> Awaited:
        """What a run that starts now finds."""
        company = self._company(method, start, reward_run)
        return Awaited(company, self._count_general(method, start))

    def _agreement(self, method: Method) -> tuple[float | None, int]:
        """What the accuracy of a reward model is to be held against."""
        if method.makes is not Product.REWARD_MODEL:
            return None, 0
        found = preference_agreement(self._store)
        return found.raw, found.units

    def _misfits(
        self, method: Method, options: Mapping[str, Any], start: str, reward_run: str | None
    ) -> Iterator[Caution]:
        """What a launch with this tuning, this start and this reward model would be refused for."""
        try:
            _check_tuning(options.get("tuning"), self._parent(start), method)
        except (BadInput, PolicyUnavailable) as error:
            remedy = Message("Choose another start, or another tuning.")
            yield Caution("start", Severity.BAD, Message.of(error), remedy)
        if not reward_run:
            return  # Why nothing can be launched yet is told beside the button.
        try:
            self._scorer(method, reward_run)
        except (BadInput, NotFound) as error:
            remedy = Message("Choose another reward model, or another method.")
            yield Caution("reward_model", Severity.BAD, Message.of(error), remedy)

    def _freeze_general(
        self, actor: Actor, method: Method, parent: Policy, snapshot: Snapshot
    ) -> Snapshot | None:
        """What a policy is to keep knowing, beside what it learns from the snapshot."""
        if method.makes is not Product.POLICY:
            return None
        origins = self._general_origins(parent)
        if method.learns_from is LearnsFrom.DEMONSTRATIONS:
            origins = origins._replace(learned=Path(snapshot.path))
        return snapshots.freeze_general(
            self._store, self._snapshots_folder, origins=origins, created_by=actor.id
        )

    def _count_general(self, method: Method, start: str) -> int:
        """How many general demonstrations there are beside what a run would learn anyway."""
        try:
            origins = self._general_origins(self._parent(start))
        except PolicyUnavailable:
            origins = Origins()
        if method.learns_from is LearnsFrom.DEMONSTRATIONS:
            origins = origins._replace(earlier=())
        return general.count(self._store, origins)

    def _general_origins(self, parent: Policy) -> Origins:
        teachers = [m.name for m in METHODS.values() if m.learns_from is LearnsFrom.DEMONSTRATIONS]
        learned = snapshots.of_lineage(self._store, parent.version, methods=teachers)
        files = [path for each in learned if (path := Path(each.path)).exists()]
        return Origins(earlier=files, own=brought_along(self._runs.base_model))

    def _parent(self, start: str) -> Policy:
        live = policies.live(self._store)
        if live is None:
            raise PolicyUnavailable("There is no policy to start from yet; wait until it loads.")
        policy = policies.get(self._store, live.version)
        if start == Start.LIVE:
            return policy
        if start == Start.BASE:
            return policies.base_of(self._store, policy.base_model) or policy
        return policies.get(self._store, start)

    def _company(self, method: Method, start: str, reward_run: str | None) -> Company:
        """As far as is known before launch; without what a launch would be refused for."""
        try:
            scorer, parent = self._scorer(method, reward_run), self._parent(start)
        except (BadInput, NotFound, PolicyUnavailable):
            return ALONE
        if scorer is None:
            return ALONE
        return Company(
            is_scored=True,
            meets_base=parent.adapter_path is not None,
            is_watched=method.needs_reward_model and _watch_model(scorer) is not None,
            is_apart=reward_models.tuning_of(scorer) not in LOW_RANK,
        )

    def _scorer(self, method: Method, run_id: str | None) -> Run | None:
        """The run that made the reward model to learn from, or else the one that scores."""
        if method.makes is Product.REWARD_MODEL:
            return None
        if method.needs_reward_model:
            return self._chosen_reward_run(method, run_id)
        return most_reliable(runs.list_all(self._store), self._runs.base_model)

    def _chosen_reward_run(self, method: Method, run_id: str | None) -> Run:
        if not run_id:
            raise BadInput(
                "This method learns from a reward model. Train one first, or choose one."
            )
        run = runs.get(self._store, run_id)
        if not made_reward_model(run):
            raise BadInput("{run_id} did not make a reward model. Choose another.", run_id=run_id)
        if not can_teach(run, method):
            raise BadInput(
                "{method} holds all its models as low-rank adapters of one base, and the reward "
                "model of {run_id} is none ({tuning} tuning). Train one with LoRA.",
                method=method.label,
                run_id=run_id,
                tuning=reward_models.tuning_of(run).value,
            )
        return run

    def _duels(self, policy: Policy | None, met: Mapping[str, Sequence[Duel]]) -> tuple[Duel, ...]:
        """Of a policy against its parent and its base, once it has met them."""
        if policy is None:
            return ()
        base = policies.base_of(self._store, policy.base_model)
        opponents = {policy.parent_version, base.version if base else None}
        return tuple(duel for duel in met.get(policy.version, ()) if duel.opponent in opponents)

    def _standings(
        self, policy: Policy | None, met: Mapping[str, Sequence[Duel]]
    ) -> tuple[Standing, ...]:
        """Of a policy and of all others that were trained from the same one."""
        if policy is None:
            return ()
        parent = policy.parent_version
        made = {
            p.run_id: p.version
            for p in policies.list_all(self._store)
            if p.run_id and p.parent_version == parent
        }
        found = []
        for run in runs.list_all(self._store):
            if version := made.get(run.id):
                won = next((d.won for d in met.get(version, ()) if d.opponent == parent), UNKNOWN)
                report = (run.result or {}).get("report") or {}
                found.append(Standing.of(version, report, won))
        return tuple(standing for standing in found if standing)


def _report_with(run_dir: RunDir, beside: Beside) -> str | None:
    """The page anew; None where it cannot be made of what the run has left."""
    try:
        result = run_dir.read_result()
        if result is None:
            return None
        events = EventReader(run_dir.events_path).read()
        return report_page.render(run_dir.read_spec(), events, result.report, beside)
    except Exception:  # The page that the run wrote tells all but this.
        log.exception("The report in %s could not be made anew", run_dir.path)
        return None


def _watch_model(reward_run: Run) -> str | None:
    """The folder of the second model that a reward run left, if it did."""
    found = RunDir(Path(reward_run.folder)).watch_adapter
    return str(found) if found else None


def _method(name: str) -> Method:
    try:
        return method_named(name)
    except SpecError as error:
        raise BadInput("The run cannot start: {error}.", error=error) from error


def _kind(method: Method) -> Kind:
    return Kind(method.learns_from.value)


def _check_tuning(tuning: object, parent: Policy, method: Method) -> None:
    """Refuse a tuning that cannot go on from the parent. Raises `BadInput`."""
    if parent.adapter_path is None or method.makes is not Product.POLICY:
        return
    try:
        check_continues(tuning_of(Path(parent.adapter_path)), Tuning(str(tuning or Tuning.LORA)))
    except SpecError as error:
        raise BadInput("The run cannot start: {error}.", error=error) from error


def require_choice(value: str | None, what: str) -> str:
    """Raises `BadInput` when a lead has not chosen anything."""
    if not value:
        raise BadInput("Choose {what} first.", what=what)
    return value
