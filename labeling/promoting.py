"""Making a policy version live, and going back. The host flips; the store remembers."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from labeling.access import Actor, require_lead
from labeling.assignment import Assignment
from labeling.candidates import Candidates
from labeling.duels import Duel, duels_of_all
from store import policies
from store.db import Store
from store.errors import BadInput, Conflict
from store.records import Policy, Promotion, PromotionKind
from training.policy import AdapterFolder
from training.policy_host import PolicyHost, PromotionReport


@dataclass(frozen=True)
class VersionRow:
    """One policy version with where it came from and what people say of it.

    `duels` are those that it met in blind comparisons, the newest opponent first.
    """

    policy: Policy
    is_live: bool
    duels: tuple[Duel, ...] = ()


class Promoting:
    """Promotion and roll back; one at a time."""

    def __init__(
        self, store: Store, host: PolicyHost, assignment: Assignment, candidates: Candidates
    ) -> None:
        self._store = store
        self._host = host
        self._assignment = assignment
        self._candidates = candidates
        self._lock = threading.Lock()  # protects the pair (host's live version, last promotion)

    def versions(self, actor: Actor) -> list[VersionRow]:
        """Every version, newest first."""
        require_lead(actor, "see policy versions")
        live = policies.live(self._store)
        duels = duels_of_all(self._store)
        return [
            VersionRow(
                policy,
                is_live=live is not None and live.version == policy.version,
                duels=duels.get(policy.version, ()),
            )
            for policy in policies.list_all(self._store)
        ]

    def history(self, actor: Actor) -> list[Promotion]:
        """Every change of the live policy, newest first."""
        require_lead(actor, "see promotions")
        return list(policies.promotions(self._store))

    def promote(self, actor: Actor, version: str) -> PromotionReport:
        """Load `version` beside the live policy, let it prove itself, and make it live.

        Whatever goes wrong leaves the live policy as it is. Raises `NotFound`, `Conflict` when it
        is live already, `BadInput` when it belongs to another base model, `PolicyUnavailable`.
        """
        require_lead(actor, "promote a policy")
        return self._make_live(actor, version, PromotionKind.PROMOTE)

    def roll_back(self, actor: Actor) -> PromotionReport:
        """Make the version live that was live before this one. Raises `Conflict` without one."""
        require_lead(actor, "roll a policy back")
        live = policies.live(self._store)
        if live is None or live.previous_version is None:
            raise Conflict("There is no earlier policy to go back to.")
        return self._make_live(actor, live.previous_version, PromotionKind.ROLL_BACK)

    def _make_live(self, actor: Actor, version: str, kind: PromotionKind) -> PromotionReport:
        with self._lock:
            policy = policies.get(self._store, version)
            live = policies.live(self._store)
            if live is not None and live.version == version:
                raise Conflict("{version} is live already.", version=version)
            if live is not None:
                _check_same_base(policy, policies.get(self._store, live.version))
            report = self._host.promote(target_of(policy)).result()
            promotion = policies.record_promotion(
                self._store, version, kind=kind, annotator_id=actor.id
            )
        self._assignment.make_stale(since=promotion.created_at)
        self._candidates.wake()
        return report


def target_of(policy: Policy) -> AdapterFolder | str:
    """What the host makes live: an adapter folder, or the base model by its version."""
    if policy.adapter_path is None or policy.adapter_sha256 is None:
        return policy.version
    return AdapterFolder(policy.version, Path(policy.adapter_path), policy.adapter_sha256)


def _check_same_base(policy: Policy, live: Policy) -> None:
    if policy.base_model != live.base_model:
        raise BadInput(
            "{version} was trained on {base_model}, but {live} is loaded. Start "
            "Whetstone with --model {base_model} to use it.",
            version=policy.version,
            base_model=policy.base_model,
            live=live.base_model,
        )
