from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import gradio as gr
import pytest

from labeling.access import Actor, actor_of
from labeling.launching import Launching
from labeling.pipeline import Pipeline
from labeling.promoting import Promoting
from labeling.sessions import Sessions
from labeling.ui.train import PRESETS, TrainTab, task_table
from store import policies, runs
from store.db import Store
from store.records import PromotionKind, Role, Run, RunState
from store.training_data import KindCount
from tests.builders import make_annotator, make_preferences
from tests.unit.test_launching import ScriptedRuns
from training.methods import METHODS
from training.methods.trainer_options import TrainerOptions
from training.policy_host import PolicyHost
from training.runs import RunService


class WatchedRuns(ScriptedRuns):
    """Runs that end when told to, and tell the pipeline so."""

    def __init__(self, store: Store, folder: Path) -> None:
        super().__init__(store, folder)
        self.on_finished: list[Any] = []
        self.is_training = False

    def prepare(self, *, beside_a_run: bool) -> None:
        """Nothing trains."""

    def tell(self, run: Run) -> None:
        """As the run service does, after the store knows that the run has ended."""
        for listener in self.on_finished:
            listener(runs.get(self._store, run.id), None)


class InterruptedLaunching(Launching):
    """Something else happens while the tab reads what it will draw."""

    meanwhile: Callable[[], None] | None = None
    rows: int | None = None  # in place of those in the store

    def amount(self, actor: Actor, method: str) -> KindCount:
        """As many rows as are said to be there."""
        found = super().amount(actor, method)
        return found if self.rows is None else KindCount(self.rows, self.rows)

    def list_runs(self, actor: Actor) -> list[Run]:
        """As ever, after what happens meanwhile, once."""
        happens, self.meanwhile = self.meanwhile, None
        if happens is not None:
            happens()
        return super().list_runs(actor)


class NobodyServes:
    """A host without a live policy."""

    live_version = None

    def status(self) -> NobodyServes:
        return self


class Tab:
    """A Train tab over a real store, with runs that end when told to."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store = store
        self.lead = actor_of(make_annotator(store, "lea", role=Role.LEAD))
        make_preferences(store, [("Where?", "Here.", "No."), ("When?", "Now.", "Later.")])
        base = policies.register(store, base_model="starter", parent_version=None)
        policies.record_promotion(
            store, base.version, kind=PromotionKind.INITIAL, annotator_id=None
        )
        self.runs = WatchedRuns(store, folder / "runs")
        service = cast(RunService, self.runs)
        self.launching = InterruptedLaunching(store, service, folder / "snapshots")
        self.pipeline = Pipeline(store, self.launching, service)
        self.tab = TrainTab(
            Sessions(store, clock_s=lambda: 0.0, is_single_person=True),
            self.launching,
            self.pipeline,
            cast(Promoting, None),
            cast(PolicyHost, NobodyServes()),
        )
        with gr.Blocks(), gr.Tab():
            self.tab.draw()
        self.shown = self.drawn = ""

    def take(self, drawn: dict[Any, Any]) -> None:
        """What the browser keeps of an answer."""
        self.shown = drawn.get(self.tab.shown, self.shown)
        self.drawn = drawn.get(self.tab.drawn, self.drawn)

    def follow(self) -> None:
        """A second passes."""
        self.take(self.tab.follow(self.lead, self.shown, self.drawn, "dpo", "live"))


@pytest.fixture
def tab(store: Store, tmp_path: Path) -> Tab:
    return Tab(store, tmp_path)


@pytest.mark.parametrize("is_while_drawn", [False, True])
def test_the_next_stage_is_followed_also_when_it_begins_while_the_page_is_drawn(
    tab: Tab, is_while_drawn: bool
) -> None:
    state = tab.pipeline.start(tab.lead)
    first = runs.get(tab.store, state.run_ids["sft"])
    tab.take(tab.tab.open(tab.lead, first.id, "small", "dpo", "live"))
    assert tab.shown == first.id

    runs.mark_finished(tab.store, first.id, RunState.SUCCEEDED)
    if is_while_drawn:
        tab.launching.meanwhile = lambda: tab.runs.tell(first)
    else:
        tab.runs.tell(first)
    tab.follow()
    tab.follow()

    now = tab.pipeline.state(tab.lead)
    assert now is not None
    assert now.current == "reward"
    assert tab.shown == now.run_ids["reward"]


def test_a_preset_by_the_amount_of_data_is_offered_where_it_makes_a_difference(tab: Tab) -> None:
    offered = {
        method: tab.tab.open(tab.lead, "", None, method, "live")[tab.tab.preset]["visible"]
        for method in ("dpo", "ppo")
    }
    assert offered == {"dpo": True, "ppo": False}


@pytest.mark.parametrize("method", ["dpo", "kto", "sft", "reward", "best_of_n"])
def test_each_size_that_is_named_is_trained_as_often_as_suits_it(tab: Tab, method: str) -> None:
    epochs = tab.tab.form.fields[method, "epochs"]
    given = {tab.tab.method: method, tab.tab.form.fields[method, "tuning"]: "lora"}
    # Best of n keeps so few of the responses to its prompts that none of its sets is large.
    sizes = PRESETS[:2] if method == "best_of_n" else PRESETS

    chosen = [
        tab.tab.choose_preset(tab.lead, given | {tab.tab.preset: size.name})[epochs]["value"]
        for size in sizes
    ]

    options = cast("type[TrainerOptions]", METHODS[method].options)
    assert chosen == list(options.EPOCHS[: len(sizes)])


@pytest.mark.parametrize(
    ("method", "rows", "size"),
    [
        *(("dpo", 0, "small"), ("dpo", 199, "small"), ("dpo", 200, "medium")),
        *(("dpo", 1000, "medium"), ("dpo", 1001, "large")),
        *(("reward", 1999, "medium"), ("reward", 2100, "large")),  # halved for the second model
    ],
)
def test_the_size_that_is_ticked_follows_what_one_model_learns_from(
    tab: Tab, method: str, rows: int, size: str
) -> None:
    tab.launching.rows = rows
    assert tab.tab.open(tab.lead, "", None, method, "live")[tab.tab.preset]["value"] == size


@pytest.mark.parametrize("rows", [3, 150, 600, 1500, 3000])
def test_what_is_filled_in_suits_the_number_of_rows_that_there_are(tab: Tab, rows: int) -> None:
    tab.launching.rows = rows
    for name, method in METHODS.items():
        suited = method.options.preset(rows, parameters=1000, tuning="lora")
        fields = {option: tab.tab.form.fields[name, option] for option in asdict(suited)}

        drawn = tab.tab.open(tab.lead, "", None, name, "live")

        filled = {option: drawn[field]["value"] for option, field in fields.items()}
        assert method.options.parsed(filled) == suited
        # The size that is ticked is the one that this would be by name.
        size, rate = drawn[tab.tab.preset]["value"], fields["learning_rate"]
        given = {tab.tab.method: name, tab.tab.preset: size, fields["tuning"]: "lora"}
        assert tab.tab.choose_tuning(tab.lead, given)[rate]["value"] == drawn[rate]["value"]


def test_a_pipeline_whose_stages_would_be_refused_cannot_be_started(tab: Tab) -> None:
    def drawn() -> str:
        everything = tab.tab.open(tab.lead, "", None, "dpo", "live")
        return str(everything[tab.tab.pipeline_launch])

    tab.launching.rows = 0
    assert "disabled" in drawn()
    assert "SFT: There is nothing to train on yet." in drawn()
    tab.launching.rows = 1
    assert "disabled" not in drawn()


def test_while_something_trains_the_pipeline_says_that_it_waits_for_it(tab: Tab) -> None:
    run = tab.launching.launch(tab.lead, "dpo", {})
    tab.runs.is_training = True

    shown = tab.tab.foresee_all(tab.lead, "live", None)

    assert shown[tab.tab.pipeline_outlook] == gr.skip()  # as it was
    assert f"{run.id} is training" in shown[tab.tab.pipeline_launch]


def test_every_version_is_offered_to_start_from(tab: Tab, tmp_path: Path) -> None:
    made = policies.register(
        tab.store,
        base_model="starter",
        parent_version="pol-000000",
        adapter_path=str(tmp_path),
        adapter_sha256="5" * 64,
    )

    offered = tab.tab.open(tab.lead, "", None, "dpo", "live")[tab.tab.start_from]

    assert [value for _, value in offered.choices] == ["live", "base", made.version]


def test_another_tuning_changes_the_step_size_and_nothing_else_that_was_chosen(tab: Tab) -> None:
    form = tab.tab.form
    given = {tab.tab.method: "dpo", tab.tab.preset: "medium", form.fields["dpo", "tuning"]: "full"}

    changed = tab.tab.choose_tuning(tab.lead, given)

    values = {field: update["value"] for field, update in changed.items() if "value" in update}
    assert list(values) == [form.fields["dpo", "learning_rate"]]
    assert not changed[form.fields["dpo", "lora_r"]]["visible"]
    lora = tab.tab.choose_tuning(tab.lead, given | {form.fields["dpo", "tuning"]: "lora"})
    (rate,) = values.values()
    assert rate < lora[form.fields["dpo", "learning_rate"]]["value"]


def test_nobody_is_told_unasked_what_to_expect_while_a_trainer_is_at_work(tab: Tab) -> None:
    tab.runs.is_training = True
    assert tab.tab.foresee(tab.lead, {}) == {tab.tab.outlook: gr.skip()}


def test_the_task_at_hand_tells_how_much_it_takes() -> None:
    shown = task_table(1_200)
    assert shown.count("too few") == 2  # conversations and code
    assert shown.count("plenty") == 2  # a style, and a task of its own form
    assert "50,000" in shown
