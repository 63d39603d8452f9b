"""Short ways to put real records into a real store."""

from __future__ import annotations

import atexit
import shutil
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from store import annotators, comparisons, completions, journal, judgments, prompts
from store.db import Cursor, Store, utc_now
from store.journal import Evidence
from store.records import (
    Annotator,
    Comparison,
    Completion,
    CriterionJudgment,
    Flag,
    Judgment,
    Message,
    Prompt,
    Purpose,
    RatingScale,
    Role,
    Split,
    Verdict,
)

START = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)


@dataclass
class Clock:
    """A clock that stands still until `advance` moves it."""

    now: datetime = START

    def __call__(self) -> datetime:
        return self.now

    def advance(self, *, seconds: float) -> datetime:
        """Move on; returns the new time."""
        self.now += timedelta(seconds=seconds)
        return self.now


@cache
def _empty_store() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="whetstone-tests-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    Store(folder, clock=Clock()).close()
    return folder


def new_store(folder: Path, *, clock: Callable[[], datetime] = utc_now) -> Store:
    """An empty store, opened in a third of the time that it takes to make one."""
    shutil.copytree(_empty_store(), folder)
    return Store(folder, clock=clock)


def make_prompt(
    text: str = "How do I log in?",
    *,
    system: str | None = None,
    language: str = "en",
    split: Split = Split.TRAIN,
    source: str = "test",
) -> Prompt:
    """A single-turn prompt, not yet in a store."""
    messages: list[Message] = [{"role": "user", "content": text}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return prompts.make(messages, language=language, split=split, source=source)


def make_completion(
    prompt: Prompt,
    text: str,
    *,
    id: str | None = None,
    policy_version: str | None = None,
    seed: int | None = None,
    created_at: datetime = START,
) -> Completion:
    """A completion, not yet in a store; with a policy version it carries sampling parameters."""
    return Completion(
        id=id or uuid.uuid4().hex,
        prompt_id=prompt.id,
        text=text,
        source="policy" if policy_version else "test",
        policy_version=policy_version,
        adapter_sha256="ad" * 32 if policy_version else None,
        sampling=(
            {"temperature": 0.7, "top_p": 0.9, "top_k": 0, "max_new_tokens": 64}
            if policy_version
            else None
        ),
        seed=seed,
        finish_reason="stop" if policy_version else "import",
        token_count=len(text.split()),
        created_at=created_at,
    )


def make_comparison(
    store: Store,
    texts: Sequence[str] = ("Tap 'Forgot password'.", "No idea."),
    *,
    prompt: Prompt | str = "How do I log in?",
    purpose: Purpose = Purpose.COLLECT,
    policy_versions: Sequence[str | None] | None = None,
    seed: int | None = None,
    finish_reasons: Sequence[str] | None = None,
) -> Comparison:
    """A comparison of `texts`, stored together with its prompt and completions."""
    now = store.clock()
    evidence = make_evidence(
        texts, prompt=prompt, purpose=purpose, policy_versions=policy_versions, seed=seed, now=now
    )
    if finish_reasons is not None:
        made = zip(evidence.completions, finish_reasons, strict=True)
        ended = tuple(replace(c, finish_reason=reason) for c, reason in made)
        evidence = replace(evidence, completions=ended)
    keep(store, [evidence])
    return evidence.comparison


def make_evidence(
    texts: Sequence[str],
    *,
    prompt: Prompt | str,
    purpose: Purpose = Purpose.COLLECT,
    policy_versions: Sequence[str | None] | None = None,
    seed: int | None = None,
    now: datetime = START,
) -> Evidence:
    """A comparison with all that belongs to it, not yet in a store; see `keep`."""
    asked = prompt if isinstance(prompt, Prompt) else make_prompt(prompt)
    versions = policy_versions or [None] * len(texts)
    made = tuple(
        make_completion(asked, text, policy_version=version, seed=seed, created_at=now)
        for text, version in zip(texts, versions, strict=True)
    )
    comparison = Comparison(uuid.uuid4().hex, asked.id, tuple(c.id for c in made), purpose)
    return Evidence(comparison, asked, made, now)


def keep(store: Store, evidence: Sequence[Evidence]) -> None:
    """Store many comparisons as fast as one."""
    now = store.clock()

    def change(cursor: Cursor) -> None:
        prompts.insert(cursor, [e.prompt for e in evidence], now=now)
        completions.insert(cursor, [c for e in evidence for c in e.completions])
        comparisons.insert(cursor, [e.comparison for e in evidence], now=now)

    store.write(change, journal=[journal.evidence_line(e) for e in evidence])


def make_annotator(store: Store, name: str = "ana", role: Role = Role.ANNOTATOR) -> Annotator:
    """The annotator of that name, added when there is none."""
    return annotators.find(store, name) or annotators.add(store, name, role)


def make_judgment(
    comparison: Comparison,
    preferred: int | None = 0,
    *,
    annotator_id: str = "ana",
    strength: int = 1,
    verdict: Verdict | None = None,
    displayed: Sequence[int] | None = None,
    id: str | None = None,
    recorded_at: datetime = START,
    supersedes: str | None = None,
    reason: str | None = None,
    lease_id: str | None = None,
    duration_ms: int | None = 4000,
    source: str = "page",
    ranks: Sequence[int | None] | None = None,
    ratings: Sequence[int | None] | None = None,
) -> Judgment:
    """A judgment, not yet recorded: completion number `preferred` wins, None is a tie.

    With `verdict` given (`TIE`, `BOTH_BAD`, `SKIPPED`, `RETRACTED`) no completion wins; `ranks`
    and `ratings` (of five points) stand for a verdict of their own and are in the order displayed.
    `displayed` are indexes into `comparison.completion_ids`; None is their stored order.
    """
    order = range(len(comparison.completion_ids)) if displayed is None else displayed
    said = verdict or (
        Verdict.RANKED
        if ranks is not None
        else Verdict.RATED
        if ratings is not None
        else Verdict.TIE
        if preferred is None
        else Verdict.PREFERRED
    )
    wins = said is Verdict.PREFERRED and preferred is not None
    return Judgment(
        id=id or uuid.uuid4().hex,
        comparison_id=comparison.id,
        annotator_id=annotator_id,
        lease_id=lease_id,
        verdict=said,
        displayed_completion_ids=tuple(comparison.completion_ids[i] for i in order),
        recorded_at=recorded_at,
        preferred_completion_id=(
            comparison.completion_ids[preferred] if wins and preferred is not None else None
        ),
        strength=strength if wins else None,
        reason=reason,
        supersedes=supersedes,
        duration_ms=duration_ms,
        source=source,
        ranks=None if ranks is None else tuple(ranks),
        ratings=None if ratings is None else tuple(ratings),
        rating_scale=None if ratings is None else RatingScale.FIVE_POINT,
    )


def judge(
    store: Store,
    comparison: Comparison,
    preferred: int | None = 0,
    *,
    annotator_id: str = "ana",
    strength: int = 1,
    verdict: Verdict | None = None,
) -> Judgment:
    """`make_judgment`, recorded; the returned row has its seq."""
    return judgments.record(
        store,
        make_judgment(
            comparison,
            preferred,
            annotator_id=annotator_id,
            strength=strength,
            verdict=verdict,
            recorded_at=store.clock(),
        ),
    )


def judge_duel(store: Store, winner: str, loser: str, *, prompt: str = "") -> None:
    """Let a person, who does not know the two policies, prefer one to the other."""
    comparison = make_comparison(
        store,
        prompt=prompt or f"{winner} or {loser}?",
        purpose=Purpose.EVALUATE,
        policy_versions=[winner, loser],
    )
    judge(store, comparison)


def make_preference(
    store: Store,
    prompt: Prompt | str = "How do I log in?",
    chosen: str = "Tap 'Forgot password'.",
    rejected: str = "No idea.",
    *,
    annotator_id: str = "ana",
) -> Comparison:
    """One comparison with one judgment, so that it derives one preference."""
    comparison = make_comparison(store, (chosen, rejected), prompt=prompt)
    judge(store, comparison, annotator_id=annotator_id)
    return comparison


def make_preferences(
    store: Store, given: Iterable[tuple[str, str, str]], *, annotator_id: str = "ana"
) -> None:
    """As many preferences: prompt, chosen, rejected."""
    evidence = [make_evidence(texts, prompt=prompt) for prompt, *texts in given]
    keep(store, evidence)
    said = [make_judgment(e.comparison, annotator_id=annotator_id) for e in evidence]
    for saved in [judgments.submit(store, judgment) for judgment in said]:
        saved.result()


def write_response(
    store: Store, judgment: Judgment, text: str, *, instead_of: int | None = None
) -> Judgment:
    """Record the judgment with a response that its author wrote, after the one at that place."""
    written = replace(
        make_completion(make_prompt(), text), source="annotator", finish_reason="stop"
    )
    original = None if instead_of is None else judgment.displayed_completion_ids[instead_of]
    complete = replace(judgment, rewrite_completion_id=written.id, rewritten_completion_id=original)
    return judgments.submit(store, complete, rewrite=written).result()


def judge_in_every_way(store: Store, *, prompt: Prompt | str = "How do I log in?") -> None:
    """A choice, a ranking, ratings of a single response, criteria, flags, reasons and a rewrite."""
    judge(store, make_comparison(store, prompt=prompt))
    three = make_comparison(store, ("Tap the link.", "Write to us.", "Hm."), prompt=prompt)
    judgments.record(store, make_judgment(three, ranks=(1, 2, None), displayed=(2, 0, 1)))
    alone = make_comparison(store, ("Tap the link.",), prompt=prompt)
    judgments.record(store, make_judgment(alone, ratings=(5,)))
    two = make_comparison(store, prompt=prompt, policy_versions=["pol-000001", "pol-000002"])
    said = replace(
        make_judgment(two),
        criteria=(
            CriterionJudgment("helpful", "seven_point", two.completion_ids[0], 3),
            CriterionJudgment("harmless", "five_point", ratings=(2, 4)),
            CriterionJudgment("style", "plain"),
        ),
        reasons=("clearer",),
        rationale="It says what to press.",
        flags=(Flag("unsafe", two.completion_ids[1]), Flag("off_topic")),
        guidelines_version=1,
    )
    write_response(store, said, "Tap 'Forgot password', then follow the mail.", instead_of=0)


@contextmanager
def busy_writer(store: Store) -> Iterator[None]:
    """Changes submitted meanwhile wait together, and are committed together afterwards."""
    has_begun, may_end = threading.Event(), threading.Event()

    def change(_: Cursor) -> None:
        has_begun.set()
        may_end.wait(30)

    held = store.submit(change)
    assert has_begun.wait(30)
    yield
    may_end.set()
    held.result(30)
