"""The Policies tab: versions with their lineage and what people say of them; promote, roll back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import gradio as gr

from labeling.access import Actor
from labeling.i18n import mark, say, t
from labeling.merged_models import MergedModels, MergeWork, difference
from labeling.promoting import Promoting, VersionRow
from labeling.sessions import Sessions
from labeling.ui import actions, duels, html
from labeling.ui.guard import Action, acted, guarded
from labeling.ui.html import EMPTY, Html, el
from labeling.ui.train import promoted
from store.db import utc_now
from store.errors import BadInput
from store.records import Policy, Promotion, PromotionKind
from training.policy_host import HostState, HostStatus, PolicyHost

POLL_S = 1.0
SHOWN_DUELS = 3

_HOST = {
    HostState.LOADING: (mark("Loading the model"), "warn"),
    HostState.READY: (mark("Ready|host"), "good"),
    HostState.FAILED: (mark("Failed to load"), "bad"),
    HostState.CLOSED: (mark("Closed"), "quiet"),
}
_KINDS = {
    PromotionKind.INITIAL: mark("First policy"),
    PromotionKind.PROMOTE: mark("Promoted"),
    PromotionKind.ROLL_BACK: mark("Rolled back to"),
}


def render(
    sessions: Sessions, promoting: Promoting, merged: MergedModels, host: PolicyHost
) -> None:
    """Draw the tab."""
    PoliciesTab(sessions, promoting, merged, host).draw()


class PoliciesTab:
    """The tab's components and what happens on them."""

    def __init__(
        self, sessions: Sessions, promoting: Promoting, merged: MergedModels, host: PolicyHost
    ) -> None:
        self._sessions = sessions
        self._promoting = promoting
        self._merged = merged
        self._host = host

    def draw(self) -> None:
        """Lay the tab out and connect it."""
        head = actions.static(
            "policies-head",
            html.page_head(
                "Policies", "Every version, where it came from, and how people like it when blind."
            ),
        )
        self.live = actions.area("policies-live")
        self.swap = actions.area("policies-swap")
        self.versions = actions.area("policies-versions")
        self.history = actions.area("policies-history")
        self.timer = gr.Timer(POLL_S, active=False)
        everything = [self.live, self.swap, self.versions, self.history, self.timer]
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        opened = guarded(self._sessions, self.open)
        actions.on_open(head, opened, [], everything)
        self.timer.tick(
            guarded(self._sessions, self.open, inline=self.stop_following),
            None,
            everything,
            concurrency_id="host-state",
            **quiet,
        )
        for place in (self.live, self.versions):
            actions.on_action(place, acted(self._sessions, self.act), [], everything)

    def open(self, actor: Actor) -> dict[Any, Any]:
        """Everything, as it is now; followed while the model loads."""
        return self._everything(actor) | {self.swap: EMPTY}

    def act(self, actor: Actor, action: Action) -> dict[Any, Any]:
        """Make another version live, or one into a model of its own."""
        if action.act == "merge":
            self._merged.start(actor, action.key)
            return self._everything(actor) | {self.swap: EMPTY}
        if action.act == "promote":
            report = self._promoting.promote(actor, action.key)
        elif action.act == "roll-back":
            report = self._promoting.roll_back(actor)
        else:
            raise BadInput("There is nothing to do that is called {act!r}.", act=action.act)
        return self._everything(actor) | {self.swap: promoted(report, id="policy-promoted")}

    def stop_following(self, message: str) -> dict[Any, Any]:
        """Why the state is no longer shown."""
        notice = html.notice("bad", t("The state cannot be shown."), message)
        return {self.swap: notice, self.timer: gr.Timer(active=False)}

    def _everything(self, actor: Actor) -> dict[Any, Any]:
        rows, history = self._promoting.versions(actor), self._promoting.history(actor)
        names = {person.id: person.name for person in self._sessions.people(actor)}
        status, now = self._host.status(), utc_now()
        can_promote = status.state is HostState.READY
        merging = self._merged.work(actor)
        models = version_models(self._merged.folders(actor), merging)
        is_merging = merging is not None and merging.error is None
        return {
            self.live: live_card(rows, history, status),
            self.versions: version_list(rows, models, can_promote=can_promote, now=now),
            self.history: history_card(history, names, now),
            self.timer: gr.Timer(active=status.state is HostState.LOADING or is_merging),
        }


def live_card(rows: Sequence[VersionRow], history: Sequence[Promotion], status: HostStatus) -> Html:
    """Which version answers now, how its host is, and the way back."""
    live = next((row.policy for row in rows if row.is_live), None)
    previous = history[0].previous_version if history else None
    label, tone = _HOST[status.state]
    back = EMPTY
    if previous is not None and live is not None and previous != live.version:
        back = html.button(
            t("Roll back to {previous}", previous=previous),
            "roll-back",
            ask=t(
                "{previous} answers again from the next response on. {version} stays here and "
                "can be promoted again.",
                previous=previous,
                version=live.version,
            ),
            ask_title=t("Roll back to {previous}?", previous=previous),
            id="policy-roll-back",
            disabled=status.state is not HostState.READY,
        )
    body = html.figures(
        html.figure(live.version if live else t("none"), t("is live"), id="policy-live"),
        html.figure(_short_name(live.base_model) if live else "—", t("base model")),
        el(
            "div",
            html.pill(t(label), tone, id="host-state"),
            el("span", t("the host"), class_="wsl-figure-label"),
            class_="wsl-figure",
        ),
        html.figure(f"{status.queue_depth:,}", t("responses being written")),
    )
    trouble = EMPTY
    if status.state is HostState.FAILED:
        trouble = html.notice(
            "bad",
            t("The policy could not be loaded."),
            say(status.message),
            t(
                "Judging goes on with what is written already. Correct the model folder and "
                "start Whetstone again."
            ),
        )
    elif status.state is not HostState.READY:
        trouble = el("p", say(status.message), class_="wsl-note")
    return html.section(t("Live"), body, trouble, aside=back)


def version_models(folders: Mapping[str, Path], merging: MergeWork | None) -> dict[str, Html]:
    """What there is to say of each version as a model of its own."""
    told = {
        version: el(
            "span",
            el("code", str(folder)),
            " ",
            t("differs by {nats:.1g} nats at most", nats=difference(folder)),
        )
        for version, folder in folders.items()
    }
    if merging is not None:
        told[merging.version] = (
            html.pill(t("being merged"), "accent")
            if merging.error is None
            else el("span", html.pill(t("failed"), "bad"), " ", merging.error)
        )
    return told


def version_list(
    rows: Sequence[VersionRow], models: Mapping[str, Html], *, can_promote: bool, now: datetime
) -> Html:
    """Every version as a card, newest first; `models` tells of those that were merged."""
    if not rows:
        return html.empty(t("No policy yet"), t("One appears when the base model has been loaded."))
    cards = [
        _version(row, models.get(row.policy.version), can_promote=can_promote, now=now)
        for row in rows
    ]
    return el(
        "section", el("h3", t("Versions")), el("div", *cards, class_="wsl-versions"), id="versions"
    )


def history_card(history: Sequence[Promotion], names: Mapping[str, str], now: datetime) -> Html:
    """Every change of the live policy."""
    rows = [
        [
            t(_KINDS[change.kind]),
            el("code", change.version),
            el("code", change.previous_version) if change.previous_version else "—",
            html.written(names.get(change.annotator_id, change.annotator_id))
            if change.annotator_id
            else t("Whetstone, at start"),
            html.ago(change.created_at, now),
        ]
        for change in history
    ]
    heads = (t("What"), t("Version"), t("Before|version"), t("By"), t("When"))
    return html.section(t("History"), html.table(heads, rows, id="policy-history"))


def _version(row: VersionRow, model: Html | None, *, can_promote: bool, now: datetime) -> Html:
    policy = row.policy
    if row.is_live:
        state = html.pill(t("live"), "good")
    else:
        state = html.button(
            t("Promote"),
            "promote",
            key=policy.version,
            id=f"promote-{policy.version}",
            disabled=not can_promote,
            title=None if can_promote else t("Wait until the host is ready."),
        )
    head = el("div", el("h4", policy.version), state, class_="wsl-card-head")
    lineage = html.definitions(
        [
            (t("Trained from"), policy.parent_version or t("nothing: the base model")),
            *_training_of(policy),
            (t("Base"), el("span", _short_name(policy.base_model), title=policy.base_model)),
            (t("Made|when"), html.ago(policy.created_at, now)),
            *_model_of(policy, model),
        ]
    )
    classes = "wsl-card wsl-version wsl-version-live" if row.is_live else "wsl-card wsl-version"
    return el("article", head, verdict(row), lineage, class_=classes)


def verdict(row: VersionRow) -> Html:
    """How often people prefer a version to those that it met, never knowing which is which."""
    if row.duels:
        return el("div", *map(duels.meter, row.duels[:SHOWN_DUELS]), class_="wsl-duels")
    if row.policy.parent_version is None:
        return el("p", t("The base model, before any training here."), class_="wsl-note")
    return duels.none_yet(is_live=row.is_live)


def _training_of(policy: Policy) -> list[tuple[str, str]]:
    """Nothing for a base model."""
    if policy.run_id is None:
        return []
    return [
        (t("Run"), el("code", policy.run_id)),
        (t("Snapshot"), html.short_hash(policy.snapshot_id)),
        (t("Adapter"), html.short_hash(policy.adapter_sha256)),
    ]


def _model_of(policy: Policy, model: Html | None) -> list[tuple[str, str]]:
    """Nothing for a base model."""
    if policy.adapter_path is None:
        return []
    exporter = html.button(
        t("Export"),
        "merge",
        key=policy.version,
        title=t("Merge the adapter into the base model, check the result, and keep it."),
    )
    return [(t("As one model"), model or exporter)]


def _short_name(base_model: str) -> str:
    """The last part of a folder or hub id."""
    return base_model.rstrip("/").rsplit("/", 1)[-1] or base_model
