"""What is foretold of a run, on a real tokenizer, a real machine and a real trainer."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from labeling.access import Actor
from labeling.launching import Launching
from labeling.outlook import company_of
from labeling.pipeline import Pipeline
from store import policies, runs, snapshots
from store.errors import BadInput, NotAllowed
from store.records import Policy, Role, Run, RunState
from tests.builders import make_preference
from tests.models import build_adapter, build_model
from tests.rundirs import OPTIONS, eval_prompts, make_run_dir, preference_rows, run_here
from tests.services import Lab, open_lab
from training.config import worker_environment
from training.estimate import ALONE, PLANS, Company, Foretold
from training.events import EventKind, EventReader
from training.lengths import TokenCounter
from training.loading import load_base, load_tokenizer
from training.machine import measured
from training.measurements import plain
from training.methods import METHODS
from training.policy import adapter_sha256
from training.rundir import Outcome, RunDir
from training.tuning import Tuning
from training.worker.encoding import Encoder

LEAD = Actor("lea", "Lea", Role.LEAD)
ENDLESS = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def machine_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A measurement of this machine, made once."""
    path = tmp_path_factory.mktemp("machine") / "machine.json"
    assert measured(path, 1, worker_environment(1)) is not None
    return path


@pytest.fixture
def lab(tmp_path: Path, model: Path, machine_file: Path) -> Iterator[Lab]:
    (tmp_path / "runs").mkdir()
    shutil.copy(machine_file, tmp_path / "runs")
    with open_lab(tmp_path, model) as opened:
        opened.store.write(_make_live(opened.parent.version))
        yield opened


def _make_live(version: str) -> Any:
    return lambda cursor: cursor.execute(
        "INSERT INTO promotions (id, version, kind, created_at) VALUES ('p', ?, 'initial', now())",
        [version],
    )


def warnings_of(run_dir: RunDir) -> list[str]:
    events = EventReader(run_dir.events_path).read()
    return [e.data["message"] for e in events if e.kind == EventKind.WARNING]


def test_tokens_are_counted_as_the_trainer_encodes_them(model: Path) -> None:
    encoder = Encoder(load_tokenizer(model), load_base(model))
    rows = preference_rows(8)

    counts = TokenCounter(model).count([(r["prompt"], [r["chosen"][0]["content"]]) for r in rows])

    encoded = [encoder.encode(row["prompt"], row["chosen"]) for row in rows]
    assert counts.sequences == [len(e.ids) for e in encoded]
    assert counts.completions == [len(e.completion_ids) for e in encoded]


def test_a_template_without_an_end_of_turn_is_known_before_and_told_while_training(
    tmp_path: Path, model: Path
) -> None:
    endless = build_model(tmp_path / "endless")
    for file in endless.glob("*.jinja"):
        file.write_text(ENDLESS)

    assert TokenCounter(model).ends_turns
    assert not TokenCounter(endless).ends_turns
    for folder, says in ((model, 0), (endless, 1)):
        run_dir = make_run_dir(
            tmp_path / f"run-{says}", folder, method="kto", epochs=1, eval_generations=0
        )
        assert run_here(run_dir).state is Outcome.SUCCEEDED
        assert sum("learn to stop" in text for text in warnings_of(run_dir)) == says


def test_rows_whose_prompt_the_result_is_tested_with_are_not_trained_on(
    tmp_path: Path, model: Path
) -> None:
    tested = [prompt["messages"][0]["content"] for prompt in eval_prompts(2)]
    leaked = [
        {**row, "prompt": [{"role": "user", "content": text}]}
        for row, text in zip(preference_rows(2), (tested[0], f"  {tested[1].upper()}"), strict=True)
    ]
    rows = [*leaked, *preference_rows(40)]
    run_dir = make_run_dir(
        tmp_path / "run", model, rows=rows, epochs=1, eval_generations=0, eval_share=0.0
    )

    assert run_here(run_dir).state is Outcome.SUCCEEDED
    assert run_dir.read_trained_rows() == list(range(2, 42))
    assert any(text.startswith("2 rows ask") for text in warnings_of(run_dir))


def test_a_lead_is_told_what_a_run_takes_and_afterwards_what_it_took(
    tmp_path: Path, lab: Lab
) -> None:
    launching = Launching(lab.store, lab.service, tmp_path / "snapshots")
    options = {**OPTIONS, "epochs": 1, "eval_generations": 0}

    told = launching.outlook(LEAD, "dpo", options)
    assert told.estimate is not None
    assert told.facts.rows == 48
    assert told.cautions[0].name == "few"
    run = lab.wait(launching.launch(LEAD, "dpo", options))

    assert run.state is RunState.SUCCEEDED
    timing = (run.result or {})["report"]["timing"]
    assert told.estimate.peak_mb == pytest.approx(timing["peak_mb"], rel=0.25)
    assert 0 < timing["cpu_s"] < timing["run_s"] * 1.5
    # What was said before is said again, whatever there is to learn from by then.
    make_preference(lab.store, "A new question?", "Yes. " * 200, "No.")
    assert launching.foretold(LEAD, run.id) == Foretold(told.estimate)
    assert f"{told.estimate.tokens:,}" in launching.report(LEAD, run.id)
    # And where nothing was said, or that is lost, it is told anew.
    (Path(run.folder) / "estimate.json").write_text("{}")
    again, is_afterwards = launching.foretold(LEAD, run.id)[::2]
    assert again is not None
    assert is_afterwards
    assert again.memory.trained == told.estimate.memory.trained
    assert again.tokens != told.estimate.tokens


def test_the_file_that_a_run_leaves_tells_what_was_estimated_and_what_it_cost(
    tmp_path: Path, lab: Lab
) -> None:
    launching = Launching(lab.store, lab.service, tmp_path / "snapshots")
    launching.set_price_per_hour(LEAD, 3600.0)
    options = {**OPTIONS, "epochs": 1, "eval_generations": 0}

    told = launching.outlook(LEAD, "dpo", options).estimate
    run = lab.wait(launching.launch(LEAD, "dpo", options))

    assert told is not None
    page = RunDir(Path(run.folder)).report_path.read_text(encoding="utf-8")
    assert f"<td>Tokens trained on</td><td>{plain(told.tokens)}</td>" in page
    assert f"<td>Money</td><td>{plain(told.seconds)}</td>" in page


def test_the_stages_of_the_pipeline_are_foretold_before_any_is_started(
    tmp_path: Path, lab: Lab
) -> None:
    launching = Launching(lab.store, lab.service, tmp_path / "snapshots")
    pipeline = Pipeline(lab.store, launching, lab.service)

    sft, reward, ppo = pipeline.outlooks(LEAD)
    state = pipeline.start(LEAD)
    pipeline.stop(LEAD)
    launching.cancel(LEAD, state.run_ids["sft"])
    run = lab.wait(runs.get(lab.store, state.run_ids["sft"]))

    assert None not in (sft.estimate, reward.estimate)
    assert ppo.estimate is not None
    assert ppo.estimate.memory.reward_model > 0
    assert ppo.general >= sft.facts.rows
    assert launching.foretold(LEAD, run.id) == Foretold(sft.estimate)


def test_an_estimate_of_other_options_is_not_kept_for_a_run(tmp_path: Path, lab: Lab) -> None:
    launching = Launching(lab.store, lab.service, tmp_path / "snapshots")
    options = {**OPTIONS, "epochs": 1, "eval_generations": 0}

    launching.outlook(LEAD, "dpo", {**options, "epochs": 3})
    run = launching.launch(LEAD, "dpo", options)
    launching.cancel(LEAD, run.id)
    lab.wait(run)

    assert not (Path(run.folder) / "estimate.json").exists()


def made_by_lora(lab: Lab, folder: Path) -> Policy:
    """A version that some run could have made."""
    adapter = build_adapter(lab.base_model, folder, seed=0)
    return policies.register(
        lab.store,
        base_model=str(lab.base_model),
        parent_version=lab.parent.version,
        adapter_path=str(adapter),
        adapter_sha256=adapter_sha256(adapter),
    )


@pytest.mark.parametrize(
    ("spec", "company"),
    [
        ({"reward_model": None, "parent_adapter": "/a"}, ALONE),
        ({"reward_model": "/r", "parent_adapter": None}, Company(is_scored=True)),
        (
            {"reward_model": "/r", "parent_adapter": "/a", "watch_model": "/w"},
            Company(True, True, True),
        ),
    ],
)
def test_what_a_run_took_along_is_read_off_its_spec(
    spec: dict[str, str | None], company: Company
) -> None:
    assert company_of(spec) == company


def test_the_result_of_a_run_is_foretold_to_be_scored_once_there_is_a_reward_model(
    tmp_path: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    launching = Launching(lab.store, lab.service, tmp_path / "snapshots")
    unscored = launching.outlook(LEAD, "dpo", {}).estimate
    made = made_by_lora(lab, tmp_path / "adapter")
    reward = reward_run(lab, tmp_path / "reward", Tuning.LORA)
    monkeypatch.setattr(launching, "_scorer", lambda *_: reward)
    scored = launching.outlook(LEAD, "dpo", {}, start=lab.parent.version).estimate
    beside_base = launching.outlook(LEAD, "dpo", {}, start=made.version).estimate

    assert unscored is not None
    assert scored is not None
    assert beside_base is not None
    assert unscored.flops < scored.flops < beside_base.flops


def reward_run(lab: Lab, folder: Path, tuning: Tuning) -> Run:
    """A run that has made a reward model, so tuned, by the store."""
    snapshot = snapshots.freeze(lab.store, folder / "snapshots", created_by=LEAD.id)
    run = runs.create(
        lab.store,
        id=folder.name,
        method="reward",
        spec={"base_model": str(lab.base_model), "options": {"tuning": tuning.value}},
        snapshot_id=snapshot.id,
        parent_version=lab.parent.version,
        folder=str(folder),
        created_by=LEAD.id,
    )
    runs.mark_finished(lab.store, run.id, RunState.SUCCEEDED)
    return runs.get(lab.store, run.id)


@pytest.mark.parametrize(
    ("method", "tuning", "is_refused"),
    [("ppo", Tuning.FULL, True), ("ppo", Tuning.DORA, False), ("rloo", Tuning.FULL, False)],
)
def test_a_reward_model_that_a_method_cannot_learn_from_is_told_before_launch(
    tmp_path: Path, lab: Lab, method: str, tuning: Tuning, *, is_refused: bool
) -> None:
    launching = Launching(lab.store, lab.service, tmp_path / "snapshots")
    run = reward_run(lab, tmp_path / f"reward-{tuning}", tuning)

    told = launching.outlook(LEAD, method, {}, reward_run=run.id).cautions
    assert ("reward_model" in {caution.name for caution in told}) == is_refused


def test_the_outlook_follows_the_data_and_the_options(tmp_path: Path, lab: Lab) -> None:
    launching = Launching(lab.store, lab.service, tmp_path / "snapshots")

    before = launching.outlook(LEAD, "dpo", {"epochs": 1})
    make_preference(lab.store, "A new question?", "Yes. " * 200, "No.")
    after = launching.outlook(LEAD, "dpo", {"epochs": 4, "max_length": 64})

    assert after.facts.rows == before.facts.rows + 1
    assert before.estimate is not None
    assert after.estimate is not None
    assert after.estimate.steps > 3 * before.estimate.steps
    assert {caution.name for caution in after.cautions} - {c.name for c in before.cautions} == {
        "cut"
    }


def test_what_is_not_learned_from_is_not_foretold(tmp_path: Path, lab: Lab) -> None:
    launching = Launching(lab.store, lab.service, tmp_path / "snapshots")
    make_preference(lab.store, "A new question?", "Yes, it is.", "No.")

    every = launching.outlook(LEAD, "kto", {"epochs": 1})
    rated = launching.outlook(LEAD, "kto", {"epochs": 1, "learn_from": "ratings"})

    assert every.facts.rows > 0
    assert rated.facts.rows == 0  # pairs alone were judged
    assert rated.estimate is None


def test_every_method_has_an_outlook_with_data_or_without(tmp_path: Path, lab: Lab) -> None:
    launching = Launching(lab.store, lab.service, tmp_path / "snapshots")

    for method in METHODS:
        told = launching.outlook(LEAD, method, {})
        assert told.method == method
        if told.facts.rows == 0 or method not in PLANS:
            assert told.estimate is None
        else:
            assert told.estimate is not None


def test_a_start_that_does_not_fit_is_told_before_launch(tmp_path: Path, lab: Lab) -> None:
    launching = Launching(lab.store, lab.service, tmp_path / "snapshots")
    made = made_by_lora(lab, tmp_path / "adapter")

    told = launching.outlook(LEAD, "dpo", {"tuning": "prefix"}, start=made.version)

    assert told.cautions[0].name == "start"
    assert "does not go on from a policy made by lora" in str(told.cautions[0].found)
    fitting = launching.outlook(LEAD, "dpo", {"tuning": "lora"}, start=made.version)
    assert "start" not in {caution.name for caution in fitting.cautions}


def test_only_leads_are_told_and_only_of_options_that_can_be_used(tmp_path: Path, lab: Lab) -> None:
    launching = Launching(lab.store, lab.service, tmp_path / "snapshots")

    with pytest.raises(NotAllowed):
        launching.outlook(Actor("ana", "Ana", Role.ANNOTATOR), "dpo", {})
    with pytest.raises(NotAllowed):
        launching.foretold(Actor("ana", "Ana", Role.ANNOTATOR), "run-1")
    with pytest.raises(BadInput, match="epochs"):
        launching.outlook(LEAD, "dpo", {"epochs": 0})
