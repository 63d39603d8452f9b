"""The Train tab: what would be used, the method and its options, and the run as it happens.

A run belongs to the run service: this tab asks the services and shows what they say, so it may be
closed, reloaded or opened twice at any time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import gradio as gr

from labeling import i18n
from labeling.access import Actor
from labeling.i18n import mark, say, t
from labeling.launching import Launching, RunView, Start
from labeling.pipeline import Pipeline, PipelineState
from labeling.promoting import Promoting
from labeling.reward_models import can_teach
from labeling.sessions import Sessions
from labeling.ui import actions, form, html, outlook, pipeline_view, run_charts, run_view
from labeling.ui.guard import Action, acted, guarded
from labeling.ui.html import EMPTY, Html, el
from labeling.volumes import TASKS, Grade, Reach, Volume, volume
from store.db import utc_now
from store.errors import BadInput
from store.preferences import PreferenceCounts
from store.records import Policy, Run, RunState
from store.training_data import KindCount
from training.messages import Message
from training.methods import METHODS, LearnsFrom, Method
from training.options import MethodOptions
from training.policy_host import PolicyHost, PromotionReport
from training.tuning import Tuning

POLL_S = 1.0
VIEWERS = 8


class Preset(NamedTuple):
    """A size of training data; `typical` rows are of this size also where a method halves them."""

    name: str
    label: str
    typical: int


PRESETS = (
    Preset("small", "Small · under 200", 100),
    Preset("medium", "Medium · 200 to 1,000", 500),
    Preset("large", "Large · over 1,000", 4000),
)
_REACHES = {
    Reach.SHORT: (Message("too few"), "warn"),
    Reach.FEWEST: (Message("enough to try"), "quiet"),
    Reach.USUAL: (Message("enough"), "good"),
    Reach.IDEAL: (Message("plenty"), "good"),
}
_ROWS = {
    LearnsFrom.PREFERENCES: mark("preferences to train on"),
    LearnsFrom.COMPARISONS: mark("pairs to train on"),
    LearnsFrom.DEMONSTRATIONS: mark("responses to imitate"),
    LearnsFrom.RATINGS: mark("thumbs up or down"),
    LearnsFrom.PROMPTS: mark("prompts to answer"),
}


def render(
    sessions: Sessions,
    launching: Launching,
    pipeline: Pipeline,
    promoting: Promoting,
    host: PolicyHost,
) -> None:
    """Draw the tab."""
    TrainTab(sessions, launching, pipeline, promoting, host).draw()


class TrainTab:
    """The tab's components and what happens on them."""

    def __init__(
        self,
        sessions: Sessions,
        launching: Launching,
        pipeline: Pipeline,
        promoting: Promoting,
        host: PolicyHost,
    ) -> None:
        self._sessions = sessions
        self._launching = launching
        self._pipeline = pipeline
        self._promoting = promoting
        self._host = host

    def draw(self) -> None:
        """Lay the tab out and connect it."""
        intro = actions.static(
            "train-head",
            html.page_head(
                "Train", "Turn people's preferences into a better policy, and put it to work."
            ),
        )
        with gr.Row(elem_classes="wsl-split"):
            with gr.Column(scale=5, min_width=320, elem_classes="wsl-side"):
                self.data = actions.area("train-data")
                with gr.Column(elem_classes="wsl-card wsl-setup"):
                    self._draw_setup()
                with gr.Column(elem_classes="wsl-card"):
                    self.pipeline = actions.area("train-pipeline")
                    self.pipeline_outlook = actions.area("pipeline-outlook")
                    self.pipeline_launch = actions.area("pipeline-launch")
            with gr.Column(scale=7, min_width=320, elem_classes="wsl-main"):
                with gr.Column(elem_classes="wsl-card"):
                    self.status = actions.area("run-view")
                    self.actions = actions.area("run-actions")
                    self.swap = actions.area("run-swap")
                    self.curves = actions.area("run-curves")
                self.log = actions.area("run-log")
                self.result = actions.area("run-result")
                self.came_true = actions.area("run-came-true-area")
        self.runs = actions.area("runs")
        self.shown = gr.Textbox(value="", visible="hidden", elem_id="run-shown")
        self.drawn = gr.Textbox(value="", visible="hidden", elem_id="run-drawn")
        self.timer = gr.Timer(POLL_S, active=False)
        self._connect(intro)

    def _draw_setup(self) -> None:
        first = next(iter(METHODS))
        actions.static("train-setup-head", el("h3", "New run"))
        self.method = gr.Radio(
            [(method.label, name) for name, method in METHODS.items()],
            value=first,
            label="Method",
            elem_id="train-method",
        )
        self.about = actions.area("train-about")
        self.start_from = gr.Dropdown(
            [("The live policy", Start.LIVE.value), ("The base model", Start.BASE.value)],
            value=Start.LIVE.value,
            label="Start from",
            elem_id="train-from",
        )
        self.reward_run = gr.Dropdown(
            [],
            value=None,
            label="Reward model",
            info="What scores responses in place of people; train one first.",
            visible=METHODS[first].needs_reward_model,
            elem_id="train-reward-run",
        )
        self.preset = gr.Radio(
            [(preset.label, preset.name) for preset in PRESETS],
            value=None,
            label="Preset for the amount of data",
            info="By the rows that one model learns from; two may have to share what there is.",
            elem_id="train-preset",
        )
        self.form = form.draw(METHODS, shown=first)
        self.start = gr.Button("Train", variant="primary", interactive=False, elem_id="train-start")
        self.look = gr.Button("What to expect", elem_id="train-look")
        self.price = gr.Number(
            label="Price of an hour",
            info="What this machine costs, in your currency; 0 shows no money.",
            value=None,
            minimum=0,
            elem_id="train-price",
        )
        self.outlook = actions.area("train-outlook-area")
        self.why_not = actions.area("train-why-not")

    def _connect(self, head: gr.HTML) -> None:
        shown = [self.shown, self.preset, self.method, self.start_from]
        everything = [
            *(self.data, self.status, self.actions, self.swap, self.curves, self.log),
            *(self.result, self.runs, self.shown, self.drawn, self.timer, self.start),
            *(self.why_not, self.preset, self.about, self.reward_run, self.pipeline),
            *(self.outlook, self.price, self.start_from, self.pipeline_launch),
        ]
        fields = self.form.all_fields()
        quiet = {"show_progress": "hidden", "api_visibility": "private"}
        asked = {self.method, self.start_from, self.reward_run, self.price, *fields}
        foresight = {
            "fn": guarded(self._sessions, self.foresee, inline=self.nothing_to_expect),
            "inputs": asked,
            "outputs": self.outlook,
            **quiet,
        }
        foresight_of_all = {
            "fn": guarded(self._sessions, self.foresee_all, inline=self.nothing_to_expect_of_all),
            "inputs": [self.start_from, self.price],
            "outputs": [self.pipeline_outlook, self.pipeline_launch],
            **quiet,
        }
        opened = actions.on_open(
            head, guarded(self._sessions, self.open), shown, [*everything, *fields]
        )
        opened.then(guarded(self._sessions, self.prepare), None, None, **quiet).then(
            **foresight
        ).then(**foresight_of_all)
        looked_back = self.drawn.change(
            guarded(self._sessions, self.look_back), self.shown, self.came_true, **quiet
        )
        looked_back.then(guarded(self._sessions, self.prepare_again), None, None, **quiet).then(
            **foresight_of_all
        )
        self.timer.tick(
            guarded(self._sessions, self.follow, inline=self.stop_following),
            [self.shown, self.drawn, self.method, self.start_from],
            everything,
            concurrency_id="run-progress",
            concurrency_limit=VIEWERS,
            **quiet,
        )
        tunings = self.form.named("tuning")
        for events, choose in (
            ([self.preset.input], self.choose_preset),
            ([tuning.input for tuning in tunings], self.choose_tuning),
        ):
            gr.on(
                events,
                guarded(self._sessions, choose),
                {self.preset, self.method, *tunings},
                fields,
                **quiet,
            ).then(**foresight)
        self.method.input(
            guarded(self._sessions, self.choose_method),
            shown,
            [*everything, *fields],
            **quiet,
        ).then(**foresight)
        gr.on(
            [*form.changes(fields), self.start_from.input, self.reward_run.input],
            trigger_mode="always_last",
            **foresight,
        )
        self.start.click(
            guarded(self._sessions, self.launch),
            {self.method, self.start_from, self.reward_run, *fields},
            everything,
            **quiet,
        ).then(js="() => window.scrollTo({ top: 0, behavior: 'smooth' })")
        self.look.click(
            guarded(self._sessions, self.look_ahead),
            asked,
            self.outlook,
            show_progress="minimal",
            api_visibility="private",
        )
        self.start_from.input(trigger_mode="always_last", **foresight_of_all)
        self.price.blur(guarded(self._sessions, self.set_price), self.price, None, **quiet).then(
            **foresight_of_all
        )
        for place in (self.actions, self.runs, self.pipeline, self.pipeline_launch):
            actions.on_action(
                place,
                acted(self._sessions, self.act),
                [self.shown, self.method, self.start_from],
                everything,
            )

    def open(
        self, actor: Actor, shown: str, preset: str | None, method: str, start: str
    ) -> dict[Any, Any]:
        """Everything, as it is now; the preset follows the data until somebody chooses one."""
        drawn = self._everything(actor, shown, method, start) | {
            self.about: about_method(method),
            self.price: self._launching.price_per_hour(actor),
            self.outlook: EMPTY,  # What is known of another method, or in another language.
        }
        if preset is None:
            fitting = self._fitting(actor, None, method, Tuning.LORA)
            sizes = self._sizes(actor, method)
            size = next((name for name, options in sizes.items() if options == fitting), None)
            # The sizes stay away where they make no difference to what suits the method.
            choice = gr.update(value=size, visible=len(set(sizes.values())) > 1)
            drawn |= {self.preset: choice} | self.form.filled(method, fitting)
        return drawn

    def prepare(self, actor: Actor) -> None:
        """A trainer is made ready while the lead looks at the options."""
        self._launching.prepare(actor)
        self._launching.wait_prepared(actor)

    def prepare_again(self, actor: Actor) -> None:
        """A run has ended before the eyes of a lead, who may want another."""
        self._launching.prepare(actor)

    def follow(self, actor: Actor, shown: str, drawn: str, method: str, start: str) -> Any:
        """The run a second later: numbers while it works, everything when its state changed."""
        view = self._launching.view(actor, shown or None)
        pipeline = self._pipeline.state(actor)
        if view is None or drawn != _state_key(view, pipeline):
            return self._everything(actor, _followed(shown, pipeline), method, start, pipeline)
        return {
            self.status: run_view.status(view, utc_now()),
            self.curves: run_charts.curves(view.run, view.events, view.standings),
        }

    def stop_following(self, message: str) -> dict[Any, Any]:
        """Why progress is no longer shown."""
        return {
            self.status: html.notice("bad", t("Progress cannot be shown."), message),
            self.timer: gr.Timer(active=False),
        }

    def choose_preset(self, actor: Actor, given: Mapping[Any, Any]) -> dict[Any, Any]:
        """Fill the form with what suits this much data and this tuning."""
        method = given[self.method]
        tuning = given[self.form.fields[method, "tuning"]]
        fitting = self._fitting(actor, given[self.preset], method, tuning)
        return self.form.filled(method, fitting)

    def choose_tuning(self, actor: Actor, given: Mapping[Any, Any]) -> dict[Any, Any]:
        """The step size that suits it, and no other change of what the lead has chosen."""
        method = given[self.method]
        tuning = given[self.form.fields[method, "tuning"]]
        fitting = self._fitting(actor, given[self.preset], method, tuning)
        return self.form.retuned(method, fitting)

    def choose_method(
        self, actor: Actor, shown: str, _preset: str | None, method: str, start: str
    ) -> dict[Any, Any]:
        """Show the form of another method, and what there is for it to learn from."""
        return self.open(actor, shown, None, method, start)

    def launch(self, actor: Actor, given: Mapping[Any, Any]) -> dict[Any, Any]:
        """Press Train."""
        method = given[self.method]
        run = self._launching.launch(
            actor,
            method,
            self.form.values(method, given),
            start=given[self.start_from],
            reward_run=given[self.reward_run],
        )
        return self._everything(actor, run.id, method, given[self.start_from])

    def look_ahead(self, actor: Actor, given: Mapping[Any, Any]) -> dict[Any, Any]:
        """What a run with these options would take, and what to be warned of."""
        method = given[self.method]
        told = self._launching.outlook(
            actor,
            method,
            self.form.values(method, given),
            start=given[self.start_from],
            reward_run=given[self.reward_run],
        )
        return {self.outlook: outlook.outlook(told, price_per_hour=given[self.price] or None)}

    def foresee(self, actor: Actor, given: Mapping[Any, Any]) -> dict[Any, Any]:
        """The same without being asked; not while a trainer is at work, since a machine that is not
        known yet would be measured beside it, to the harm of both."""
        if self._launching.is_training(actor):
            return {self.outlook: gr.skip()}
        told = self.look_ahead(actor, given)
        self._launching.prepare(actor)  # Who takes time over the options finds a trainer still.
        return told

    def nothing_to_expect(self, _: str) -> dict[Any, Any]:
        """Nobody has asked: what stands in the way is said to who presses the button."""
        return {self.outlook: EMPTY}

    def foresee_all(self, actor: Actor, start: str, price: float | None) -> dict[Any, Any]:
        """What the stages of the pipeline would take, likewise; and whether it may be started."""
        shown = gr.skip()
        if not self._launching.is_training(actor):
            told = self._pipeline.outlooks(actor, start=start)
            shown = pipeline_view.expected(told, price_per_hour=price or None)
        pipeline, runs = self._pipeline.state(actor), self._launching.list_runs(actor)
        launch = self._pipeline_launch(actor, start, pipeline, runs)
        return {self.pipeline_outlook: shown, self.pipeline_launch: launch}

    def nothing_to_expect_of_all(self, _: str) -> dict[Any, Any]:
        """As for one run; what stands in the way is said beside the button."""
        return {self.pipeline_outlook: EMPTY}

    def set_price(self, actor: Actor, price: float | None) -> None:
        """What an hour costs from now on."""
        self._launching.set_price_per_hour(actor, price)

    def look_back(self, actor: Actor, shown: str) -> dict[Any, Any]:
        """What a run that has ended took, beside what it was estimated to take."""
        view = self._launching.view(actor, shown or None)
        if view is None or view.run.state is not RunState.SUCCEEDED:
            return {self.came_true: EMPTY}
        told = self._launching.foretold(actor, view.run.id)
        return {self.came_true: outlook.came_true(view.run, told)}

    def act(
        self, actor: Actor, action: Action, shown: str, method: str, start: str
    ) -> dict[Any, Any]:
        """A button of the run, of the list of runs or of the pipeline was pressed."""
        if action.act == "log":
            return self._log(actor, action.key)
        if action.act == "promote":
            report = self._promoting.promote(actor, action.key)
            return self._everything(actor, shown, method, start) | {
                self.swap: promoted(report, id="run-promoted")
            }
        if action.act == "start-pipeline":
            state = self._pipeline.start(actor, start=start)
            return self._everything(actor, state.run_ids[state.current or ""], method, start)
        if action.act == "stop-pipeline":
            self._pipeline.stop(actor)
            return self._everything(actor, shown, method, start)
        if action.act == "cancel":
            self._launching.cancel(actor, action.key)
        elif action.act == "resume":
            self._launching.resume(actor, action.key)
        elif action.act not in ("open", "hide-log"):
            raise BadInput("There is nothing to do that is called {act!r}.", act=action.act)
        return self._everything(actor, action.key, method, start)

    def _log(self, actor: Actor, run_id: str) -> dict[Any, Any]:
        view = self._launching.view(actor, run_id)
        assert view is not None
        return {
            self.log: run_view.log_tail(self._launching.log_tail(actor, run_id)),
            self.actions: self._actions(view, is_log_shown=True),
        }

    def _sizes(self, actor: Actor, method: str) -> dict[str, MethodOptions]:
        """What suits each size of data, by its name."""
        return {p.name: self._fitting(actor, p.name, method, Tuning.LORA) for p in PRESETS}

    def _fitting(self, actor: Actor, size: str | None, method: str, tuning: str) -> MethodOptions:
        """What suits a size, or else as many rows as there are."""
        typical = next((preset.typical for preset in PRESETS if preset.name == size), None)
        rows = typical or self._launching.amount(actor, method).rows
        return self._launching.preset(actor, method, rows=rows, tuning=tuning)

    def _starts(self, actor: Actor, runs: Sequence[Run]) -> list[tuple[str, str]]:
        """Whoever trains two things one after the other need not promote the first one."""
        made = {run.id: run for run in runs}
        versions = [
            (_version_label(policy, made.get(policy.run_id or "")), policy.version)
            for policy in self._launching.starts(actor)
        ]
        usual = [(t("The live policy"), Start.LIVE.value), (t("The base model"), Start.BASE.value)]
        return [*usual, *versions]

    def _everything(
        self,
        actor: Actor,
        shown: str,
        method: str,
        start: str,
        pipeline: PipelineState | None = None,
    ) -> dict[Any, Any]:
        # The pipeline is read before the run: a stage that begins meanwhile is followed next time.
        pipeline = pipeline or self._pipeline.state(actor)
        view = self._launching.view(actor, shown or None)
        amount = self._launching.amount(actor, method)
        runs, reward_runs = self._launching.list_runs(actor), self._launching.reward_runs(actor)
        needs_reward_model = METHODS[method].needs_reward_model
        reason = why_not(
            amount,
            active_run=_active(runs),
            lacks_reward_model=needs_reward_model and not reward_runs,
        )
        now = utc_now()
        is_pipeline_active = pipeline is not None and pipeline.is_active
        return {
            self.start_from: gr.Dropdown(self._starts(actor, runs)),
            self.data: data_card(method, amount, self._launching.counts(actor)),
            self.pipeline: pipeline_view.about(pipeline, {run.id: run for run in runs}),
            self.pipeline_launch: self._pipeline_launch(actor, start, pipeline, runs),
            self.reward_run: gr.Dropdown(
                [(_reward_label(run), run.id) for run in reward_runs],
                value=_suggested(reward_runs, METHODS[method]),
                visible=needs_reward_model,
            ),
            self.status: run_view.status(view, now) if view else no_run(),
            self.actions: self._actions(view, is_log_shown=False) if view else EMPTY,
            self.swap: EMPTY,
            self.curves: run_charts.curves(view.run, view.events, view.standings)
            if view
            else EMPTY,
            self.log: EMPTY,
            self.result: run_view.result(view, is_live=self._is_live(view)) if view else EMPTY,
            self.runs: run_view.run_list(
                runs,
                shown=view.run.id if view else "",
                policies=self._launching.made_by_runs(actor),
                names={person.id: person.name for person in self._sessions.people(actor)},
                now=now,
            ),
            self.shown: view.run.id if view else "",
            self.drawn: _state_key(view, pipeline) if view else "",
            self.timer: gr.Timer(active=is_pipeline_active or _is_at_work(view)),
            self.start: gr.Button(interactive=reason is None),
            self.why_not: el("p", reason, class_="wsl-note") if reason else EMPTY,
        }

    def _pipeline_launch(
        self, actor: Actor, start: str, pipeline: PipelineState | None, runs: Sequence[Run]
    ) -> Html:
        if busy := _active(runs):
            return pipeline_view.launch(pipeline, [is_training(busy)])
        refusals = self._pipeline.refusals(actor, start=start)
        return pipeline_view.launch(pipeline, pipeline_view.refused(refusals))

    def _actions(self, view: RunView, *, is_log_shown: bool) -> Html:
        return run_view.actions(view, is_live=self._is_live(view), is_log_shown=is_log_shown)

    def _is_live(self, view: RunView) -> bool:
        live = self._host.status().live_version
        return view.policy is not None and view.policy.version == live


def data_card(method: str, amount: KindCount, counts: PreferenceCounts) -> Html:
    """How much a method has to learn from, what is set aside, and what that amount is good for."""
    learns_from = METHODS[method].learns_from
    is_of_pairs = learns_from in (LearnsFrom.PREFERENCES, LearnsFrom.COMPARISONS)
    aside = _set_aside(counts) if is_of_pairs else EMPTY
    if amount.rows == 0:
        nothing = html.empty(
            t("Nothing to train on yet"),
            t(
                "Judge some responses in the Compare tab, or import ready preferences in the "
                "Prompts tab. About 50 preferences are enough for a first try."
            ),
            id="train-empty",
        )
        return html.section(t("Training data"), nothing, aside)
    head = html.figures(
        html.figure(f"{amount.rows:,}", t(_ROWS[learns_from]), id="train-count"),
        html.figure(f"{amount.distinct_prompts:,}", t("distinct prompts")),
    )
    told = volume_notice(volume(METHODS[method], amount.rows))
    return html.section(t("Training data"), head, told, task_table(amount.rows), aside)


def task_table(rows: int) -> Html:
    """What tasks of each kind take, and which of that there is."""
    cells = [
        [
            say(task.name),
            f"{task.fewest:,}",
            f"{task.usual:,}",
            f"{task.ideal:,}",
            html.pill(say(_REACHES[task.reach(rows)][0]), _REACHES[task.reach(rows)][1]),
        ]
        for task in TASKS
    ]
    heads = (t("Task"), t("At least"), t("Better"), t("Ideal"), t("There are"))
    note = t(
        "Rules of thumb for examples to imitate; a manner can be learned from fewer pairs. A "
        "thousand good ones beat ten thousand poor ones."
    )
    summary = el("summary", t("What a task takes"))
    body = html.table(heads, cells, id="train-tasks")
    return el("details", summary, body, el("p", note, class_="wsl-note"), class_="wsl-aside")


def volume_notice(told: Volume) -> Html:
    """What an amount of data is good for, and how much is missing to more."""
    tone = "warn" if told.grade is Grade.HARDLY_ANY else "quiet"
    short = t("It is {n} short of the next size.", n=told.to_next) if told.to_next else ""
    return html.notice(tone, say(told.title), say(told.advice), short)


def why_not(amount: KindCount, *, active_run: str | None, lacks_reward_model: bool) -> str | None:
    """Why Train cannot be pressed; None when it can."""
    if active_run is not None:
        return is_training(active_run)
    if lacks_reward_model:
        return t("This method learns from a reward model. Train one first.")
    if amount.rows == 0:
        return t("There is nothing to train on yet.")
    return None


def is_training(run_id: str) -> str:
    """Why nothing else can be started meanwhile."""
    return t("{run} is training. Wait for it to end, or cancel it, to start another.", run=run_id)


def _active(runs: Sequence[Run]) -> str | None:
    """The run that is at work, if one is."""
    return next((run.id for run in runs if not run.state.is_final), None)


def _suggested(reward_runs: Sequence[Run], method: Method) -> str | None:
    """The newest that the method can learn from; a lead is told why where there is no such one."""
    fitting = (run.id for run in reward_runs if can_teach(run, method))
    return next(fitting, reward_runs[0].id if reward_runs else None)


def _reward_label(run: Run) -> str:
    ranked = ((run.result or {}).get("report") or {}).get("reward_model")
    accuracy = f" · {i18n.percent(ranked['accuracy'])}" if ranked else ""
    return f"{run.id}{accuracy}"


def _version_label(policy: Policy, made_by: Run | None) -> str:
    method = METHODS.get(made_by.method) if made_by else None
    return f"{policy.version} · {method.label}" if method else policy.version


def about_method(name: str) -> Html:
    """One sentence on a method."""
    told = (METHODS[name].options.__doc__ or "").strip().splitlines()
    return el("p", t(told[0]) if told else "", class_="wsl-note")


def no_run() -> Html:
    """What stands where a run will be."""
    return html.empty(
        t("No run yet"),
        t(
            "Press Train. The preferences are frozen as a snapshot, a separate process "
            "trains on them, and its progress shows here; you may close the page "
            "meanwhile."
        ),
        id="run-none",
    )


def promoted(report: PromotionReport, *, id: str) -> Html:
    """What a promotion did and how long people were on the old version."""
    took = i18n.duration(report.load_s + report.smoke_s)
    kl = (
        ""
        if report.mean_kl is None
        else t(" KL from before: {kl:.3g} nats a token.", kl=report.mean_kl)
    )
    return html.notice(
        "good",
        t("{version} is live.", version=report.version),
        t(
            "The swap took {took}; nobody had to wait. Responses written from now on "
            "carry the new version, and blind comparisons with {previous} are "
            "mixed into the Compare tab.{kl}",
            took=took,
            previous=report.previous_version,
            kl=kl,
        ),
        id=id,
    )


def _set_aside(counts: PreferenceCounts) -> Html:
    rows = [
        (t("Held out, to measure the result"), counts.held_out),
        (t("Blind comparisons of policies"), counts.evaluation),
        (t("Both responses are the same text"), counts.identical_texts),
        (t("A response is empty"), counts.empty_texts),
        (t("The better response was judged before it was finished"), counts.cut_short),
    ]
    if not any(number for _, number in rows):
        return EMPTY
    return el(
        "div",
        el("h4", t("Set aside, never trained on")),
        html.definitions([(name, f"{number:,}") for name, number in rows if number]),
        class_="wsl-aside",
    )


def _state_key(view: RunView, pipeline: PipelineState | None) -> str:
    """Changes whenever more than numbers has to be drawn anew."""
    made = view.policy.version if view.policy else ""
    stages = f"{pipeline.current} {pipeline.ended}" if pipeline else ""
    return f"{view.run.id} {view.run.state} {made} {stages}"


def _followed(shown: str, pipeline: PipelineState | None) -> str:
    """Which run to show: whoever watches a stage of a pipeline sees the next when it starts."""
    if pipeline is None or pipeline.current is None or shown not in pipeline.run_ids.values():
        return shown
    return pipeline.run_ids[pipeline.current]


def _is_at_work(view: RunView | None) -> bool:
    return view is not None and not view.run.state.is_final
