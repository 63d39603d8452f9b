"""The product's PPO against that of TRL 1.12.0, the last release that had one.

TRL is installed into an environment of its own, once, and trains as its documentation shows it:
LoRA on the policy, whose reference is the base below it, a value model that learns as a whole, a
reward model. `trl_lora_critic` has LoRA on the value model too, which TRL neither offers nor
forbids. All sides train in processes of their own, taking turns, on the same model folder, prompts,
reward model, LoRA, batches and epochs, in float32 on one thread, and draw at temperature 1.

`speed` is the starter as it is; in `endless` nothing ends its responses, so that both sides compute
as many tokens, and what is left of the difference is the cost of a token. What else differs: TRL
observes rollouts in batches as large as it writes them where speed is measured, and it takes one
optimiser step for all minibatches of an epoch; ours takes one each.

Speed is by processor time, since one thread's clock stops while others use the machine, from the
end of the first iteration on; memory is resident, seen from outside.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shutil import copytree
from statistics import median
from typing import Any, NamedTuple, Self

import psutil

import app
from tests.rundirs import ROOT, write_rows
from training.config import RunSpec, worker_environment
from training.methods.ppo import PPOOptions
from training.rundir import RunDir
from training.starter import grammar

REQUIREMENTS = (
    "trl==1.12.0",
    "torch==2.13.0",
    "transformers==5.23.0",
    "accelerate==1.15.0",
    "peft==0.21.2",
    "datasets==5.2.0",
    "pandas==3.1.1",
)
TRL_SIDE = Path(__file__).with_name("trl_ppo.py")
SAMPLE_EVERY_S = 0.02
PROMPTS = 256
# A token that the starter reads but never writes: as the end of a turn, it ends nothing.
NEVER_WRITTEN = "<|system|>"


@dataclass(frozen=True)
class Case:
    """What both sides train, and how. `trl_batch` is TRL's batch of rollouts and observations."""

    model: Callable[[Path], Path]
    options: PPOOptions
    trl_batch: int


class Course(NamedTuple):
    """How a process trained: responses a second of processor and of wall time, and its memory."""

    samples_per_s: float
    wall_samples_per_s: float
    peak_mb: float

    @classmethod
    def told_by(cls, marks: Sequence[Mark], rollouts: int, peak_mb: float) -> Self:
        """From the ends of at least two iterations of so many responses each."""
        first, last = marks[0], marks[-1]
        drawn = (len(marks) - 1) * rollouts
        return cls(
            drawn / (last.cpu_s - first.cpu_s), drawn / (last.wall_s - first.wall_s), peak_mb
        )


class Mark(NamedTuple):
    """An iteration's end, as seen from outside, in seconds."""

    cpu_s: float
    wall_s: float


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--environment", type=Path, default=_cache() / "trl-1.12.0")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=SIDES)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Ours over TRL's: responses a second on the starter, peak memory on a large model."""
    python = install(options.environment)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.cases:
            found[name] = _compare(Path(folder) / name, CASES[name], python, options)
            if not options.json:
                print({name: found[name]}, file=sys.stderr, flush=True)
    return {
        "samples_ratio": _over_trl(found, "speed", "samples_per_s"),
        "endless_samples_ratio": _over_trl(found, "endless", "samples_per_s"),
        "peak_memory_ratio": _over_trl(found, "memory", "peak_mb"),
        "cases": found,
        "repeats": options.repeats,
        "iterations": options.iterations,
        "trl_environment": REQUIREMENTS,
        "load": os.getloadavg()[0],
    }


def _over_trl(found: Mapping[str, Any], case: str, figure: str) -> float | None:
    """None where the case or a side was left out."""
    ratio: float | None = (
        found.get(case, {}).get("whetstone_over_trl", {}).get(figure, {}).get("median")
    )
    return ratio


def install(folder: Path) -> Path:
    """The Python of an environment with TRL, made at the first call."""
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    complete = folder / "complete.json"
    if complete.exists() and json.loads(complete.read_text()) == list(REQUIREMENTS):
        return python
    venv.create(folder, clear=True, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *REQUIREMENTS], check=True)
    complete.write_text(json.dumps(REQUIREMENTS))
    return python


def starter(folder: Path) -> Path:
    """The starter policy as it is."""
    copytree(app.ASSETS / "starter", folder)
    return folder


def endless(folder: Path) -> Path:
    """The starter policy, whose completions all grow to the limit."""
    _end_with(starter(folder), NEVER_WRITTEN)
    return folder


def large(folder: Path) -> Path:
    """A Llama with the layers of GPT-2 and random weights: 110 million parameters."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    copytree(app.ASSETS / "starter", folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32_000,
            hidden_size=768,
            intermediate_size=2048,
            num_hidden_layers=12,
            num_attention_heads=12,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).save_pretrained(folder)
    _end_with(folder, NEVER_WRITTEN)
    return folder


def _end_with(folder: Path, token: str) -> None:
    """Let `token`, and no other, be the end of a response to this model."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    (id,) = (t["id"] for t in tokenizer["added_tokens"] if t["content"] == token)
    for name, changed in (
        ("config.json", {"eos_token_id": id}),
        ("generation_config.json", {"eos_token_id": id}),
        ("tokenizer_config.json", {"eos_token": token}),
    ):
        values = json.loads((folder / name).read_text(encoding="utf-8"))
        (folder / name).write_text(json.dumps(values | changed), encoding="utf-8")
    template = folder / "chat_template.jinja"
    text = template.read_text(encoding="utf-8")
    said = "message['content'] + '<|end|>'"
    template.write_text(text.replace(said, f"message['content'] + '{token}'", 1), encoding="utf-8")


# An update that stops early would make ours look faster than it is.
PRESET = replace(
    PPOOptions.preset(PROMPTS, parameters=2_600_000, tuning="lora"), target_approx_kl=0.0
)
CASES: Mapping[str, Case] = {
    "speed": Case(starter, PRESET, PRESET.rollouts),
    "endless": Case(endless, PRESET, PRESET.rollouts),
    "memory": Case(
        large,
        PPOOptions(
            rollouts=16,
            minibatch_size=8,
            micro_batch_size=4,
            ppo_epochs=1,
            max_new_tokens=32,
            target_approx_kl=0.0,
        ),
        4,
    ),
}


class Trial(NamedTuple):
    """What one run of either side is given."""

    folder: Path
    model: Path
    reward_model: Path
    options: PPOOptions
    trl_batch: int
    python: Path


def _whetstone(trial: Trial) -> Course:
    spec = RunSpec(
        run_id=trial.folder.name,
        method="ppo",
        options=trial.options,
        base_model=str(trial.model),
        parent_version="pol-000000",
        reward_model=str(trial.reward_model / "adapter"),
    )
    rows = [{"prompt": [{"role": "user", "content": text}]} for text in _prompts()]
    data = write_rows(trial.folder / "rows.parquet", rows)
    run_dir = RunDir.create(trial.folder / "run", spec, data=data, eval_prompts=[])
    command = [sys.executable, "-m", "training.worker", str(run_dir.path)]
    return _watch(trial, command, run_dir.events_path, '"metrics"')


def _trl(trial: Trial, *, has_lora_critic: bool = False) -> Course:
    from training.loading import load_tokenizer, render_prompt

    tokenizer = load_tokenizer(trial.model)
    asked = [[{"role": "user", "content": text}] for text in _prompts()]
    steps, plan = trial.folder / "steps", trial.folder / "plan.json"
    given = {
        **asdict(trial.options),
        "model": str(trial.model),
        "reward_model": str(trial.reward_model / "whole"),
        "prompts": [render_prompt(tokenizer, messages) for messages in asked],
        "steps": str(steps),
        "minibatches": trial.options.rollouts // trial.options.minibatch_size,
        "rollout_batch_size": trial.trl_batch,
        "has_lora_critic": has_lora_critic,
    }
    plan.write_text(json.dumps(given), encoding="utf-8")
    return _watch(trial, [str(trial.python), str(TRL_SIDE), str(plan)], steps, "step")


def _trl_lora_critic(trial: Trial) -> Course:
    return _trl(trial, has_lora_critic=True)


SIDES: Mapping[str, Callable[[Trial], Course]] = {
    "whetstone": _whetstone,
    "trl": _trl,
    "trl_lora_critic": _trl_lora_critic,
}


def _compare(folder: Path, case: Case, python: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Medians over the repeats; `spread` are the lowest and the highest."""
    folder.mkdir()
    model = case.model(folder / "model")
    reward_model = _build_reward_model(model, folder / "reward", case.options)
    chosen = replace(case.options, iterations=options.iterations, save_steps=options.iterations)
    courses: dict[str, list[Course]] = {name: [] for name in options.sides}
    for repeat in range(options.repeats):
        # Whoever goes first finds the machine another one than whoever goes last.
        for name in options.sides if repeat % 2 else reversed(options.sides):
            at = folder / f"{name}-{repeat}"
            at.mkdir()
            trial = Trial(at, model, reward_model, chosen, case.trl_batch, python)
            courses[name].append(SIDES[name](trial))
    return summarise(courses)


def summarise(courses: Mapping[str, Sequence[Course]]) -> dict[str, Any]:
    """Each side's figures, and ours over every other side's, repeat by repeat."""
    told = {side: _spreads(found) for side, found in courses.items()}
    ours = courses.get("whetstone", [])
    for side, found in courses.items():
        if ours and side != "whetstone":
            ratios = [_ratio(one, other) for one, other in zip(ours, found, strict=True)]
            told[f"whetstone_over_{side}"] = _spreads(ratios)
    return told


def _ratio(one: Course, other: Course) -> Course:
    return Course(*(a / b for a, b in zip(one, other, strict=True)))


def _spreads(courses: Sequence[Course]) -> dict[str, Any]:
    return {name: _spread([getattr(c, name) for c in courses]) for name in Course._fields}


def _spread(values: Sequence[float]) -> dict[str, Any]:
    return {
        "median": round(median(values), 3),
        "spread": [round(min(values), 3), round(max(values), 3)],
    }


def _build_reward_model(model: Path, folder: Path, options: PPOOptions) -> Path:
    """The same random reward model twice: an adapter with its head, and a whole model."""
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    from tests.ppo import build_reward_model

    adapter = build_reward_model(model, folder / "adapter", rank=options.lora_r)
    base = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1, dtype="float32")
    whole = PeftModel.from_pretrained(base, adapter).merge_and_unload()
    whole.save_pretrained(folder / "whole")
    return folder


def _prompts() -> list[str]:
    return [prompt.text for prompt in grammar.list_training_prompts(PROMPTS)]


def _watch(trial: Trial, command: Sequence[str], told: Path, mark: str) -> Course:
    """Run a side to its end; an iteration ends when it has written another `mark` into `told`."""
    environment = {**os.environ, **worker_environment(1), "PYTHONPATH": str(ROOT)}
    with (trial.folder / "log").open("wb") as log:
        child = psutil.Popen(command, env=environment, stdout=log, stderr=log)
        marks: list[Mark] = []
        peak = 0.0
        while child.poll() is None:
            peak = max(peak, child.memory_info().rss / 2**20)
            ended = told.read_text().count(mark) if told.exists() else 0
            if ended > len(marks):
                times = child.cpu_times()
                marks.append(Mark(times.user + times.system, time.monotonic()))
            time.sleep(SAMPLE_EVERY_S)
    if child.returncode:
        raise SystemExit((trial.folder / "log").read_text())
    return Course.told_by(marks, trial.options.rollouts, peak)


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "whetstone"
