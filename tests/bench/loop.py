"""The whole loop: generate, judge with the gold preference, train, swap, compare.

Runs the services that the pages call, on the bundled starter policy, in a fresh folder. The gold
preference plays the annotator and, at the end, judges new against old on held-out prompts.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

import app
from labeling.access import Actor
from labeling.candidates import DEFAULT_SAMPLING
from labeling.comparing import Item
from labeling.verdicts import VerdictGiven
from store import annotators, prompts
from store.records import Prompt, Role, RunState, Split, Verdict
from tests.gold import Choice, SimulatedAnnotator, score
from training.policy import GenerationRequest
from training.proportions import WinRate, win_rate

PREFETCH = 6


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--judgments", type=int, default=300)
    parser.add_argument("--held-out", type=int, default=200, help="prompts to compare on")
    parser.add_argument("--noise", type=float, default=1.0, help="gold points that blur a verdict")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--option", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--cold", action="store_true", help="no trainer process stands by")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds per stage, gold win rate with its 95 % Wilson interval, peak memory in MB."""
    say: Callable[[str], None] = (
        (lambda _: None) if options.json else lambda text: print(text, file=sys.stderr)
    )
    with tempfile.TemporaryDirectory() as folder, _PeakMemory() as memory:
        settings = app.Settings(Path(folder), app.STARTER, "127.0.0.1", 0, False)
        with app.open_services(settings) as services:
            return _run(services, options, say) | {"peak_mb": round(memory.peak_mb)}


def _run(
    services: app.Services, options: argparse.Namespace, say: Callable[[str], None]
) -> dict[str, Any]:
    person = annotators.find(services.store, "you")
    assert person is not None
    actor = Actor(person.id, person.name, Role.LEAD)
    annotator = SimulatedAnnotator(noise=options.noise, seed=options.seed)
    started = time.perf_counter()

    probe = prompts.sample(services.store, 1, split=Split.HELD_OUT, seed=1)
    load_s = _seconds(lambda: _complete(services, probe, None, seed=1))
    say(f"policy loaded in {load_s:.1f} s")
    judge_s = _seconds(lambda: _judge(services, actor, annotator, options.judgments))
    say(f"{options.judgments} judgments in {judge_s:.1f} s")

    if not options.cold:
        services.launching.prepare(actor)
        services.runs.wait_prepared(60)
    pressed_at = time.time()
    pairs = services.launching.counts(actor).trainable
    preset = asdict(services.launching.preset(actor, "dpo", rows=pairs, tuning="lora"))
    run = services.launching.launch(actor, "dpo", preset | _options(options.option))
    done = services.runs.wait(run.id, timeout_s=1800)
    train_s = time.time() - pressed_at
    if done.state is not RunState.SUCCEEDED:
        raise SystemExit(f"The run ended as {done.state}: {done.error}")
    view = services.launching.view(actor, run.id)
    assert view is not None
    assert view.policy is not None
    first_step_s = next(e.at for e in view.events if e.kind == "metrics") - pressed_at
    say(f"trained in {train_s:.1f} s, first step after {first_step_s:.1f} s")

    swapped_at = time.perf_counter()
    services.promoting.promote(actor, view.policy.version)
    (first,) = _complete(services, probe, None, seed=1)
    swap_s = time.perf_counter() - swapped_at
    assert first.policy_version == view.policy.version
    total_s = time.perf_counter() - started
    say(f"swapped in {swap_s:.2f} s; the loop took {total_s:.1f} s")

    won = _compare(services, view.policy.version, view.policy.parent_version or "", options)
    say(f"gold win rate {won.rate:.3f} ({won.low:.3f} to {won.high:.3f}), n = {won.n}")
    return {
        "judgments": options.judgments,
        "preferences": services.launching.counts(actor).trainable,
        "win_rate": won.rate,
        "win_low": won.low,
        "win_high": won.high,
        "held_out": won.n,
        "total_s": round(total_s, 2),
        "load_s": round(load_s, 2),
        "judge_s": round(judge_s, 2),
        "train_s": round(train_s, 2),
        "first_step_s": round(first_step_s, 2),
        "swap_s": round(swap_s, 3),
        "is_cold": options.cold,
        "seed": options.seed,
    }


def _judge(services: app.Services, actor: Actor, annotator: SimulatedAnnotator, n: int) -> None:
    """Judge `n` comparisons through the service that the page calls, waiting when it must."""
    judged = 0
    while judged < n:
        items, _ = services.comparing.items(actor, want=min(PREFETCH, n - judged), held=[])
        services.candidates.wake()
        if not items:
            time.sleep(0.02)
            continue
        saved = [services.comparing.judge(actor, _verdict(item, annotator)) for item in items]
        for future in saved:
            future.result()
        judged += len(items)


def _verdict(item: Item, annotator: SimulatedAnnotator) -> VerdictGiven:
    left, right = (response.text for response in item.responses)
    choice, strength = annotator.compare(item.messages[-1].text, left, right)
    id = uuid.uuid4().hex
    if choice is Choice.TIE:
        return VerdictGiven(id, item.lease_id, Verdict.TIE, duration_ms=1000)
    if choice is Choice.BOTH_BAD:
        return VerdictGiven(id, item.lease_id, Verdict.BOTH_BAD, duration_ms=1000)
    place = 0 if choice is Choice.A else 1
    return VerdictGiven(
        id, item.lease_id, Verdict.PREFERRED, place=place, strength=strength, duration_ms=1000
    )


def _compare(services: app.Services, new: str, old: str, options: argparse.Namespace) -> WinRate:
    """Gold verdict of new against old, one sampled response each per held-out prompt."""
    asked = prompts.sample(
        services.store, options.held_out, split=Split.HELD_OUT, seed=options.seed
    )
    if len(asked) < options.held_out:
        raise SystemExit(f"There are only {len(asked)} held-out prompts.")
    fresh = _complete(services, asked, new, seed=options.seed + 10_000)
    before = _complete(services, asked, old, seed=options.seed + 20_000)
    wins = losses = draws = 0
    for prompt, a, b in zip(asked, fresh, before, strict=True):
        question = prompt.messages[-1]["content"]
        difference = score(question, a.text).total - score(question, b.text).total
        wins += difference > 0
        losses += difference < 0
        draws += difference == 0
    return win_rate(wins, losses, draws)


def _complete(
    services: app.Services, asked: Sequence[Prompt], version: str | None, *, seed: int
) -> list[Any]:
    requests = [
        GenerationRequest(prompt.messages, DEFAULT_SAMPLING, seed + i)
        for i, prompt in enumerate(asked)
    ]
    return list(services.host.submit(requests, version=version).result())


def _options(given: Sequence[str]) -> dict[str, Any]:
    return dict(pair.split("=", 1) for pair in given)


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


class _PeakMemory:
    """Largest sum of resident memory over this process and its children, sampled."""

    def __init__(self, every_s: float = 0.2) -> None:
        self.peak_mb = 0.0
        self._every_s = every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> _PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        own = psutil.Process()
        while not self._stop.wait(self._every_s):
            total = 0
            for process in [own, *own.children(recursive=True)]:
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.peak_mb = max(self.peak_mb, total / 2**20)
