"""What the over-optimisation benchmark computes: proxies, and policies in pursuit of them."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

import app
from tests.bench.overoptimization import Iteration, best_of, standard_error
from tests.gold import Choice, SimulatedAnnotator, score
from tests.ppo import build_trainer, share_base
from tests.rundirs import make_run_dir, run_here
from training.generation import Request, generate
from training.loading import load_base, load_tokenizer, render_prompt
from training.methods.reward import RewardOptions
from training.rundir import Outcome, RunDir
from training.starter import grammar
from training.worker.ppo.model import REWARD, WATCH, SharedBase
from training.worker.ppo.rollout import Rollout
from training.worker.ppo.tokens import Tokens
from training.worker.scoring import load_reward_model
from training.worker.selection import best_of_n_kl, doublings

STARTER = app.ASSETS / "starter"
PARAMETERS = 2_600_000
MAX_NEW_TOKENS = 128
DRAWN_AT_ONCE = 500
# What a reward run's defaults leave the first model of what it is given.
TAUGHT_SHARE = 0.85 * 0.5
PPO_PROMPTS = 256
# A score read in the middle of a text is no score (19 SD was seen): all that do not end get the
# same, as in Ziegler et al. 2019.
WITHOUT_END = -1.0
PPO_OPTIONS: Mapping[str, Any] = {
    # Half as fast the KL is 0.2 nats after 10 iterations; half again as fast it ran away to 45.
    "learning_rate": 2e-3,
    "value_learning_rate": 3e-3,
    # Smaller minibatches spend the KL on noise: with 6, 9 nats bought 0.6 SD of reward.
    "rollouts": 48,
    "minibatch_size": 24,
    "micro_batch_size": 24,
    "max_new_tokens": MAX_NEW_TOKENS,
    "missing_eos_penalty": 0.0,
}


class Pursuit:
    """The parts of the experiment, each computed once for a folder."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        torch.set_num_threads(1)
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._options = options
        self._tokenizer = load_tokenizer(STARTER)

    def course(self, kl_coef: float, *, judgments: int | None = None) -> list[Iteration]:
        """PPO at a KL coefficient, iteration by iteration, against a proxy of `judgments`; of as
        many as the options say, unless told."""
        options = self._options
        taught_by = judgments or options.judgments
        name = f"ppo-{taught_by}-{kl_coef:g}-{options.iterations}.json"
        found = self._kept(name, lambda: self._train(kl_coef, taught_by))
        return [Iteration(*values) for values in found]

    def best_of_n(self) -> dict[str, list[dict[str, float]]]:
        """Proxy and gold of the best of 1, 2, 4, ... responses, by the judgments of the proxy."""
        sizes = sorted({self._options.judgments, *self._options.others})
        return {str(size): self._choose(self._reward_run(size)) for size in sizes}

    def _train(self, kl_coef: float, judgments: int) -> list[Iteration]:
        options = self._options
        reward = self._reward_run(judgments)
        if reward.watch_adapter is None:
            raise SystemExit("That is too few judgments for a second model.")
        shared = share_base(
            STARTER, reward=reward.adapter, watch=reward.watch_adapter, rank=16, alpha=32
        )
        onlooker = _Onlooker(shared)
        trainer = build_trainer(
            STARTER,
            shared,
            onlooker,
            prompts=[p.text for p in grammar.list_training_prompts(PPO_PROMPTS, seed=2)],
            seed=options.seed,
            iterations=options.iterations,
            kl_coef=kl_coef,
            **PPO_OPTIONS,
        )
        told = []
        for number in range(options.iterations):
            metrics = trainer.run_iteration()
            told.append(onlooker.tell(metrics.kl))
            self._say(
                f"{judgments} judgments, beta {kl_coef:g}, iteration {number + 1}: {told[-1]}"
            )
        return told

    def _choose(self, reward: RunDir) -> list[dict[str, float]]:
        """By the proxy, among responses to prompts that no judgment was about."""
        prompts = [p.text for p in grammar.list_held_out_prompts(self._options.best_of_prompts)]
        drawn = self._kept(
            f"drawn-{self._options.best_of}-{len(prompts)}.json",
            lambda: self._draw([p for p in prompts for _ in range(self._options.best_of)], seed=7),
        )
        asked = [p for p in prompts for _ in range(self._options.best_of)]
        model = load_reward_model(str(STARTER), str(reward.adapter))
        proxies = model.score([self._rendered(p) for p in asked], [ids for _, ids in drawn])
        golds = [score(p, text).total for p, (text, _) in zip(asked, drawn, strict=True)]
        size = self._options.best_of
        ranked = [
            sorted(zip(proxies[at : at + size], golds[at : at + size], strict=True))
            for at in range(0, len(asked), size)
        ]
        return [{"kl": round(best_of_n_kl(n), 3), **best_of(n, ranked)} for n in doublings(size)]

    def _reward_run(self, judgments: int) -> RunDir:
        """A reward run whose first model learns from about so many."""
        run_dir = RunDir(self._folder / f"reward-{judgments}")
        if run_dir.read_result() is None:
            rows = self._judged(round(judgments / TAUGHT_SHARE))
            preset = RewardOptions.preset(len(rows), parameters=PARAMETERS, tuning="lora")
            make_run_dir(run_dir.path, STARTER, method="reward", rows=rows, **asdict(preset))
            result = run_here(run_dir)
            if result.state is not Outcome.SUCCEEDED:
                raise SystemExit(f"The reward run ended as {result.state}: {result.failure}")
            self._say(f"proxy of {judgments}: {result.report['reward_model']}")
            self._say(f"its second model: {result.report.get('watch_model')}")
        return run_dir

    def _judged(self, count: int) -> list[dict[str, Any]]:
        """The gold preference's noisy verdicts on pairs of the starter's responses."""
        prompts = [p.text for p in grammar.list_training_prompts(count, seed=1)]
        annotator = SimulatedAnnotator(seed=self._options.seed, noise=self._options.noise)
        rows = []
        for number, (prompt, (a, b)) in enumerate(zip(prompts, self._pairs(count), strict=True)):
            choice = annotator.compare(prompt, a, b).choice
            if choice in (Choice.A, Choice.B) and a.strip() and b.strip():
                better, worse = (a, b) if choice is Choice.A else (b, a)
                rows.append(_row(number, prompt, better, worse))
        return rows

    def _pairs(self, count: int) -> list[tuple[str, str]]:
        """Two responses to each prompt; proxies of more judgments share those of fewer."""
        pairs: list[tuple[str, str]] = []
        while len(pairs) < count:
            pairs += self._pairs_from(len(pairs))
        return pairs[:count]

    def _pairs_from(self, start: int) -> list[tuple[str, str]]:
        prompts = grammar.list_training_prompts(start + DRAWN_AT_ONCE, seed=1)[start:]
        asked = [prompt.text for prompt in prompts for _ in range(2)]
        drawn = self._kept(f"pairs-{start}.json", lambda: self._draw(asked, seed=1 + start))
        said = [text for text, _ in drawn]
        return list(zip(said[::2], said[1::2], strict=True))

    def _draw(self, asked: Sequence[str], *, seed: int) -> list[tuple[str, list[int]]]:
        """Text and token ids of the starter's response to each."""
        began = time.process_time()
        requests = [
            Request(self._rendered(prompt), MAX_NEW_TOKENS, seed=seed * 1_000_000 + number)
            for number, prompt in enumerate(asked)
        ]
        outputs = generate(load_base(STARTER), self._tokenizer, requests)
        self._say(f"{len(asked)} responses in {time.process_time() - began:.0f} s")
        return [(output.text, list(output.token_ids)) for output in outputs]

    def _rendered(self, prompt: str) -> list[int]:
        return render_prompt(self._tokenizer, [{"role": "user", "content": prompt}])

    def _kept(self, name: str, make: Callable[[], Any]) -> Any:
        """What a file of the folder holds, made first if there is none."""
        path = self._folder / name
        if not path.exists():
            made = make()
            path.write_text(json.dumps(made))
        return json.loads(path.read_text())

    def _say(self, told: str) -> None:
        if not self._options.json:
            print(told, file=sys.stderr, flush=True)


class _Onlooker:
    """Scores by the proxy, and remembers what the second model and the gold preference say."""

    def __init__(self, shared: SharedBase) -> None:
        self._shared = shared
        self._seen: list[tuple[float, float, float, float]] = []

    def score(self, rollouts: Sequence[Rollout], tokens: Tokens) -> Any:
        """The proxy's score of each row, (rows,); `WITHOUT_END` for rows that have none."""
        ended = torch.tensor([r.has_ended for r in rollouts])
        proxy, watch = (
            self._shared.rewards(tokens, model).cpu().where(ended, torch.tensor(WITHOUT_END))
            for model in (REWARD, WATCH)
        )
        gold = [score(r.prompt.row.prompt[-1]["content"], r.output.text).total for r in rollouts]
        lengths = tokens.mask.sum(dim=1).tolist()
        self._seen += zip(proxy.tolist(), watch.tolist(), gold, lengths, strict=True)
        return proxy

    def tell(self, kl: float) -> Iteration:
        """Of what was scored since the last time."""
        proxy, watch, gold, lengths = zip(*self._seen, strict=True)
        self._seen = []
        return Iteration(
            kl,
            *_mean_with_error(proxy),
            *_mean_with_error(watch),
            fmean(gold),
            *_mean_with_error(lengths),
        )


def _mean_with_error(values: Sequence[float]) -> tuple[float, float]:
    return fmean(values), standard_error(values)


def _row(number: int, prompt: str, better: str, worse: str) -> dict[str, Any]:
    def said(role: str, text: str) -> list[dict[str, str]]:
        return [{"role": role, "content": text}]

    return {
        "prompt": said("user", prompt),
        "chosen": said("assistant", better),
        "rejected": said("assistant", worse),
        "margin": 0.0,
        "is_tie": False,
        "comparison_id": f"c{number}",
    }
