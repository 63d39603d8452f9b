"""Annotators who like apologies teach them; the counts say so while the accuracy looks fine."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import app
from tests.gold import Choice, Persona, SimulatedAnnotator
from tests.rundirs import make_run_dir, run_here
from training.generation import Request, generate
from training.loading import load_base, load_tokenizer, render_prompt
from training.methods.dpo import DPOOptions
from training.rundir import Outcome
from training.starter import grammar

STARTER = app.ASSETS / "starter"
PROMPTS = 500
ASKED = 80


def said(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


@pytest.fixture(scope="module")
def written() -> list[tuple[str, str, str]]:
    """Prompts with two responses of the starter policy each."""
    tokenizer, model = load_tokenizer(STARTER), load_base(STARTER)
    asked = [prompt.text for prompt in grammar.list_training_prompts(PROMPTS)]
    ids = [render_prompt(tokenizer, [said("user", text)]) for text in asked]
    requests = [Request(ids[n % PROMPTS], 160, seed=n) for n in range(2 * PROMPTS)]
    texts = [output.text for output in generate(model, tokenizer, requests)]
    return list(zip(asked, texts[:PROMPTS], texts[PROMPTS:], strict=True))


def judged_by(persona: Persona, written: list[tuple[str, str, str]]) -> list[dict[str, Any]]:
    annotator = SimulatedAnnotator(seed=0, persona=persona)
    rows = []
    for prompt, a, b in written:
        choice = annotator.compare(prompt, a, b).choice
        if choice not in (Choice.A, Choice.B) or not (a.strip() and b.strip()):
            continue
        chosen, rejected = (a, b) if choice is Choice.A else (b, a)
        rows.append(
            {
                "prompt": [said("user", prompt)],
                "chosen": [said("assistant", chosen)],
                "rejected": [said("assistant", rejected)],
            }
        )
    return rows


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("persona", "is_taught"), [(Persona.APOLOGY_LOVER, True), (Persona.NEUTRAL, False)]
)
def test_only_annotators_who_like_apologies_make_them_alarm(
    tmp_path: Path, written: list[tuple[str, str, str]], persona: Persona, is_taught: bool
) -> None:
    rows = judged_by(persona, written)
    held_out = [
        {"messages": [said("user", prompt.text)]} for prompt in grammar.list_held_out_prompts(ASKED)
    ]
    preset = DPOOptions.preset(len(rows), parameters=2_600_000, tuning="lora")
    run_dir = make_run_dir(
        tmp_path / "run",
        STARTER,
        rows=rows,
        test_prompts=held_out,
        **{**asdict(preset), "eval_generations": ASKED},
    )

    result = run_here(run_dir)

    assert result.state is Outcome.SUCCEEDED, result.failure
    assert result.report["pairs"]["accuracy"] > 0.6
    titles = [verdict["title"]["template"] for verdict in result.report["verdicts"]]
    assert ("It apologises much more" in titles) is is_taught
