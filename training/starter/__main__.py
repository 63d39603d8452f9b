"""Rebuild the bundled starter policy: `python -m training.starter --out DIR`.

Reads nothing but this package. Writes the complete folder beside DIR first and renames it at the
end, so that an existing DIR means a finished model.
"""

import argparse
import os
import platform
import random
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import torch
import transformers
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from training import general
from training.starter import card, corpus, stages
from training.starter.model import build_model, count_parameters
from training.starter.quality import Quality, measure_by_axis
from training.starter.tokenizer import train_tokenizer

DEFAULT_TOKENS = 10_000_000
MINIMUM_TOKENS = 20_000
PRETRAINING_SHARE = 0.35
FEWEST_TOKENS_PER_DOCUMENT = 100
QUALITY_PROMPTS = 600

BLOCK = 256
BLOCKS = 8
CONVERSATIONS = 16


@dataclass(frozen=True)
class Plan:
    """What to build, checked."""

    out: Path
    tokens: int
    minutes: float | None
    seed: int
    device: torch.device
    quality_prompts: int


class PlanError(Exception):
    """The command line asks for something that cannot be done; the message says what to change."""


def parse_plan(arguments: list[str]) -> Plan:
    """The plan behind the command line. Raises PlanError."""
    parser = _Parser(prog="python -m training.starter", description=__doc__)
    parser.add_argument("--out", required=True, help="folder to create; must not exist")
    parser.add_argument("--tokens", type=int, default=DEFAULT_TOKENS, help="training token budget")
    parser.add_argument("--minutes", type=float, help="cut the budget to fit this training time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--quality-prompts",
        type=int,
        default=QUALITY_PROMPTS,
        help="held-out prompts to measure on",
    )
    options = parser.parse_args(arguments)
    out = Path(options.out)
    if out.exists():
        raise PlanError(f"--out {out} already exists: remove it or choose another folder")
    if not out.parent.is_dir():
        raise PlanError(f"--out {out}: the folder {out.parent} does not exist, create it first")
    if options.tokens < MINIMUM_TOKENS:
        raise PlanError(f"--tokens {options.tokens} is below the minimum of {MINIMUM_TOKENS}")
    if options.minutes is not None and not options.minutes > 0:
        raise PlanError(f"--minutes {options.minutes} is not above 0")
    if options.quality_prompts < 1:
        raise PlanError(f"--quality-prompts {options.quality_prompts} is below 1")
    if options.device == "cuda" and not torch.cuda.is_available():
        raise PlanError("--device cuda: no CUDA device is available, use --device cpu")
    return Plan(
        out,
        options.tokens,
        options.minutes,
        options.seed,
        _choose_device(options.device),
        options.quality_prompts,
    )


def build_starter(plan: Plan) -> dict[str, Quality]:
    """Build everything and return the measured quality."""
    make_deterministic(plan.seed)
    raw = corpus.build_raw_corpus(
        int(plan.tokens * PRETRAINING_SHARE / FEWEST_TOKENS_PER_DOCUMENT) + 200, seed=plan.seed
    )
    cleaned = corpus.clean(raw.documents)
    _say(f"corpus: {cleaned.raw_documents} raw documents, {len(cleaned.documents)} after cleaning")
    _say("removed: " + ", ".join(f"{rule} {count}" for rule, count in cleaned.removed.items()))
    texts = corpus.order_for_training(cleaned, seed=plan.seed)
    tokenizer = train_tokenizer(texts[:20_000])
    torch.manual_seed(plan.seed)
    model = build_model(tokenizer).to(plan.device)
    tokens = _fit_budget(plan, model, tokenizer, texts)
    _say(f"model: {count_parameters(model)} parameters, vocabulary {len(tokenizer)}, {plan.device}")
    reports = train(model, tokenizer, texts, tokens=tokens, seed=plan.seed)
    model.to(torch.float16).float()
    quality = measure_by_axis(model, tokenizer, count=plan.quality_prompts, seed=plan.seed)
    unfiltered = measure_by_axis(
        model, tokenizer, count=plan.quality_prompts, seed=plan.seed, top_p=1.0
    )
    _write(
        plan,
        model,
        tokenizer,
        card.Card(
            parameters=count_parameters(model),
            vocabulary=len(tokenizer),
            seed=plan.seed,
            tokens=tokens,
            machine=_describe_machine(plan.device),
            versions=f"torch {torch.__version__}, transformers {transformers.__version__}",
            corpus=cleaned,
            stages=reports,
            quality=quality,
            unfiltered=unfiltered,
        ),
    )
    return quality


def train(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    texts: list[str],
    *,
    tokens: int,
    seed: int,
) -> list[stages.StageReport]:
    """Both stages, one after the other, within the token budget."""
    pretraining = int(tokens * PRETRAINING_SHARE)
    return [
        stages.train_stage(
            model,
            stages.pack_blocks(texts, tokenizer, block=BLOCK, sequences=BLOCKS),
            stages.Schedule(tokens=pretraining, learning_rate=4e-3),
            name="pretraining",
            report_progress=_say_progress,
        ),
        stages.train_stage(
            model,
            stages.group_conversations(
                tokenizer, random.Random(f"conversations {seed}"), sequences=CONVERSATIONS
            ),
            stages.Schedule(tokens=tokens - pretraining, learning_rate=3e-3),
            name="instruction tuning",
            report_progress=_say_progress,
        ),
    ]


def make_deterministic(seed: int) -> None:
    """Seed torch and ask for deterministic kernels where there are any."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.manual_seed(seed)


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code: 0 done, 2 bad command line."""
    try:
        plan = parse_plan(sys.argv[1:] if arguments is None else arguments)
    except PlanError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    started = time.perf_counter()
    quality = build_starter(plan)
    _say(card.render_quality(quality))
    _say(f"targets {'met' if quality['all'].meets_targets else 'NOT met'}")
    _say(f"wrote {plan.out} after {time.perf_counter() - started:.0f} s")
    return 0


class _Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are PlanErrors."""

    def error(self, message: str) -> NoReturn:
        raise PlanError(message)


def _choose_device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _fit_budget(
    plan: Plan, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: list[str]
) -> int:
    """The token budget, cut to what the machine reads in the given minutes (timed on a few steps).

    The weights are put back afterwards, so that the same budget gives the same model.
    """
    if plan.minutes is None:
        return plan.tokens
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trial = stages.train_stage(
        model,
        stages.pack_blocks(texts, tokenizer, block=BLOCK, sequences=BLOCKS),
        stages.Schedule(tokens=10 * BLOCK * BLOCKS, learning_rate=0.0),
        name="timing",
        report_progress=lambda _: None,
        points=1,
    )
    model.load_state_dict(before)
    affordable = int(trial.tokens_per_second * plan.minutes * 60)
    tokens = max(MINIMUM_TOKENS, min(plan.tokens, affordable))
    _say(f"{trial.tokens_per_second:.0f} tokens/s: budget {tokens} tokens")
    return tokens


def _write(
    plan: Plan, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, sheet: card.Card
) -> None:
    """Write the folder under a temporary name beside its place, then rename it."""
    partial = plan.out.with_name(f"{plan.out.name}.partial-{os.getpid()}")
    partial.mkdir()
    try:
        model.to(torch.float16).cpu().save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        card.write_prompts(partial / "prompts.jsonl", seed=plan.seed)
        card.write_general(partial / general.FILE, seed=plan.seed)
        card.write_card(partial / "README.md", sheet)
        for path in partial.iterdir():
            path.chmod(0o644)
        partial.replace(plan.out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _describe_machine(device: torch.device) -> str:
    if device.type == "cuda":
        return f"one {torch.cuda.get_device_name(device)}"
    return f"{torch.get_num_threads()} CPU threads ({platform.machine()})"


def _say_progress(report: stages.StageReport) -> None:
    point = report.curve[-1]
    _say(
        f"{report.name}: {report.tokens} tokens, {report.steps} steps, loss {point.loss:.3f}, "
        f"{report.tokens_per_second:.0f} tokens/s"
    )


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
