"""The arena's promises, kept with a scripted policy and a real store."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from labeling.access import Actor
from labeling.answering import ProblemKind
from labeling.arena import Arena, Conversation, LiveTurn, Pace, TooManyTurns, TurnState, drawn_place
from labeling.assignment import Assignment
from labeling.comparing import Comparing
from labeling.verdicts import VerdictGiven
from store import arena as store_arena
from store import comparisons, completions, judgments, mending, preferences, prompts
from store.db import Store
from store.errors import BadInput, Conflict, NotAllowed, NotFound
from store.records import Role, Split, Verdict
from tests.builders import Clock, make_annotator
from tests.scripted import TIMEOUT_S, ScriptedPolicy, wait_until
from training.policy import AdapterFolder, SamplingParams
from training.policy_host import PolicyHost

SAMPLING = SamplingParams(temperature=0.9, max_new_tokens=40)


class Ring:
    """A person in an arena with a scripted policy."""

    def __init__(self, store: Store, host: PolicyHost, policy: ScriptedPolicy) -> None:
        self.store = store
        self.host = host
        self.policy = policy
        self.assignment = Assignment(store, rng=random.Random(1))
        self.comparing = Comparing(store, self.assignment)
        self.arena = self.open()
        self.ana = self.person("ana")

    def open(self, **settings: Any) -> Arena:
        return Arena(
            self.store,
            self.host,
            self.assignment,
            sampling=SAMPLING,
            rng=random.Random(3),
            **settings,
        )

    def person(self, name: str) -> Actor:
        return Actor(make_annotator(self.store, name).id, name, Role.ANNOTATOR)

    def live(self, shown: Conversation) -> LiveTurn:
        return self.arena.live_turn(self.ana, shown.turn.id)

    def ready(self, shown: Conversation) -> Conversation:
        """The same conversation, once both responses are there."""
        assert self.live(shown).is_saved.wait(TIMEOUT_S)
        return self.arena.conversation(self.ana, shown.id)

    def ask(self, text: str, **more: Any) -> Conversation:
        return self.ready(self.arena.ask(self.ana, text, **more))

    def judge(
        self, shown: Conversation, verdict: Verdict, place: int | None = None, id: str = "j1"
    ) -> None:
        strength = 2 if verdict is Verdict.PREFERRED else None
        assert shown.turn.lease_id is not None
        given = VerdictGiven(id, shown.turn.lease_id, verdict, place, strength)
        self.comparing.judge(self.ana, given).result(TIMEOUT_S)

    def problem(self, shown: Conversation) -> ProblemKind | None:
        live = self.live(shown)
        assert live.is_saved.wait(TIMEOUT_S)
        return live.answering.problem.kind if live.answering.problem else None

    def words(self, shown: Conversation, count: int) -> None:
        """Let each side have that many words."""
        self.policy.step(count)
        self.wait_for(shown, lambda texts: sum(len(t.split()) for t in texts) >= count)

    def wait_for(self, shown: Conversation, holds: Callable[[list[str]], bool]) -> None:
        live = self.live(shown)
        wait_until(lambda: holds([view.text for view in live.answering.views()]))


@pytest.fixture
def policy() -> ScriptedPolicy:
    return ScriptedPolicy()


@pytest.fixture
def ring(store: Store, policy: ScriptedPolicy) -> Iterator[Ring]:
    host = PolicyHost(lambda: policy)
    host.start()
    wait_until(lambda: host.status().live_version is not None)
    opened = Ring(store, host, policy)
    yield opened
    opened.arena.close()
    host.close()


def stored(ring: Ring, shown: Conversation) -> list[Any]:
    """The completions of the newest turn, in the order displayed."""
    comparison = comparisons.get(ring.store, shown.turn.id)
    turn = store_arena.turn_of(ring.store, shown.turn.id)
    assert turn is not None
    order = store_arena.lease_of(ring.store, turn).display_order
    found = completions.get_many(ring.store, comparison.completion_ids)
    return [found[comparison.completion_ids[i]] for i in order]


def test_a_prompt_gets_two_responses_with_other_seeds_and_the_same_settings(ring: Ring) -> None:
    shown = ring.ask("Where is my parcel?")
    one, two = stored(ring, shown)
    assert shown.turn.state is TurnState.READY
    assert [r.text for r in shown.turn.responses] == [one.text, two.text]
    assert one.seed != two.seed
    assert one.sampling == two.sampling
    assert (one.policy_version, two.policy_version) == ("base", "base")
    assert len(ring.policy.batches) == 1, "both sides are written together"
    prompt = prompts.get(ring.store, one.prompt_id)
    assert (prompt.source, prompt.messages[0]["content"]) == ("arena", "Where is my parcel?")


def test_a_conversation_goes_on_from_the_better_response(ring: Ring) -> None:
    first = ring.ask("Where is my parcel?")
    ring.judge(first, Verdict.PREFERRED, place=1)
    second = ring.ask("And now?", conversation_id=first.id)
    assert [m.text for m in second.messages] == [
        "Where is my parcel?",
        first.turn.responses[1].text,
        "And now?",
    ]
    assert second.turn.number == 2
    (line,) = ring.arena.conversations(ring.ana)
    assert (line.title, line.turns) == ("Where is my parcel?", 2)


def test_a_preference_of_a_later_turn_has_the_whole_conversation_as_its_prompt(ring: Ring) -> None:
    first = ring.ask("One?")
    ring.judge(first, Verdict.PREFERRED, place=0, id="j1")
    second = ring.ask("Two?", conversation_id=first.id)
    ring.judge(second, Verdict.PREFERRED, place=1, id="j2")
    found = preferences.list_all(ring.store)
    assert len(found) == 2
    asked = prompts.get(ring.store, found[1].prompt_id)
    assert [m["role"] for m in asked.messages] == ["user", "assistant", "user"]
    chosen = completions.get_many(ring.store, [found[1].chosen_completion_id])
    assert chosen[found[1].chosen_completion_id].text == second.turn.responses[1].text


def test_nothing_goes_on_before_a_verdict(ring: Ring) -> None:
    first = ring.ask("One?")
    with pytest.raises(Conflict, match="Judge"):
        ring.arena.ask(ring.ana, "Two?", conversation_id=first.id)


@pytest.mark.parametrize("verdict", [Verdict.BOTH_BAD, Verdict.SKIPPED])
def test_after_a_verdict_that_names_none_the_person_says_which_goes_on(
    ring: Ring, verdict: Verdict
) -> None:
    first = ring.ask("One?")
    ring.judge(first, verdict)
    with pytest.raises(BadInput, match="Choose"):
        ring.arena.ask(ring.ana, "Two?", conversation_id=first.id)
    second = ring.ask("Two?", conversation_id=first.id, go_on_with=1)
    assert second.messages[1].text == first.turn.responses[1].text


@pytest.mark.parametrize(("id", "place"), [("j0", 0), ("j1", 1)])
def test_after_a_tie_a_coin_says_which_goes_on(ring: Ring, id: str, place: int) -> None:
    first = ring.ask("One?")
    ring.judge(first, Verdict.TIE, id=id)
    assert drawn_place(id) == place
    second = ring.ask("Two?", conversation_id=first.id)
    assert second.messages[1].text == first.turn.responses[place].text


def test_an_undone_verdict_can_be_given_anew(ring: Ring) -> None:
    first = ring.ask("One?")
    ring.judge(first, Verdict.PREFERRED, place=0)
    ring.comparing.undo(ring.ana, id="u1", judgment_id="j1")
    again = ring.arena.conversation(ring.ana, first.id)
    assert (again.turn.state, again.turn.said) == (TurnState.READY, None)
    assert again.turn.responses == first.turn.responses
    ring.judge(again, Verdict.PREFERRED, place=1, id="j2")
    second = ring.ask("Two?", conversation_id=first.id)
    assert second.messages[1].text == first.turn.responses[1].text


def test_responses_asked_for_again_are_others_and_the_first_stay_unjudged(ring: Ring) -> None:
    first = ring.ask("One?")
    again = ring.ready(ring.arena.ask_again(ring.ana, first.turn.id))
    assert again.id == first.id
    assert again.turn.number == 1
    assert {r.text for r in again.turn.responses}.isdisjoint(r.text for r in first.turn.responses)
    assert comparisons.get(ring.store, first.turn.id).prompt_id == prompts.prompt_id(
        [{"role": "user", "content": "One?"}]
    )
    assert preferences.list_all(ring.store) == []


def test_a_turn_is_nobody_elses_to_judge_even_after_a_restart(ring: Ring) -> None:
    shown = ring.ask("One?")
    ben = ring.person("ben")
    for assignment in (ring.assignment, Assignment(ring.store, rng=random.Random(2))):
        assert assignment.claim(ben.id, 5, held=[]).leases == []
        assert assignment.claim(ring.ana.id, 5, held=[]).leases == []
    with pytest.raises(NotAllowed):
        ring.arena.conversation(ben, shown.id)
    with pytest.raises(NotAllowed):
        ring.arena.settle(ben, shown.turn.id, [1, 1])
    with pytest.raises(NotAllowed):
        ring.arena.ask_again(ben, shown.turn.id)
    with pytest.raises(NotFound):
        ring.arena.live_turn(ben, shown.turn.id)


def test_a_judged_turn_counts_in_the_progress_also_after_a_restart(ring: Ring) -> None:
    shown = ring.ask("One?")
    ring.judge(shown, Verdict.PREFERRED, place=0)
    progress = ring.comparing.progress(ring.ana)
    assert (progress.judged, progress.judged_by_me) == (1, 1)
    assert Assignment(ring.store, rng=random.Random(2)).counts().done == 1
    (past,) = ring.comparing.history(ring.ana, limit=5)
    assert past.prompt_text == "One?"


def test_what_was_typed_in_the_arena_is_not_handed_to_others_as_a_prompt(ring: Ring) -> None:
    ring.ask("My own secret question?")
    found = prompts.least_compared(
        ring.store, 10, split=Split.TRAIN, policy_version="base", seed=1
    ) + prompts.least_compared(ring.store, 10, split=Split.HELD_OUT, policy_version="base", seed=1)
    assert found == []


def test_all_turns_of_a_conversation_fall_on_the_side_of_its_opening(ring: Ring) -> None:
    opening = prompts.make(
        [{"role": "user", "content": "One?"}], language="en", split=Split.HELD_OUT, source="file"
    )
    prompts.add(ring.store, [opening])
    first = ring.ask("One?")
    ring.judge(first, Verdict.PREFERRED, place=0)
    second = ring.ask("Two?", conversation_id=first.id)
    comparison = comparisons.get(ring.store, second.turn.id)
    assert prompts.get(ring.store, comparison.prompt_id).split is Split.HELD_OUT


# Judged before the end


def write_slowly(ring: Ring, text: str = "one two three four five six") -> Conversation:
    ring.policy.is_stepwise = True
    ring.policy.answer = lambda _version, seed: f"{text} {seed}"
    return ring.arena.ask(ring.ana, "One?")


def test_a_turn_settled_early_holds_what_was_seen_and_the_rest_is_not_written(ring: Ring) -> None:
    shown = write_slowly(ring)
    # The scripted policy writes one side after the other: all of the first, two words here.
    ring.policy.step(7 + 2)
    live = ring.live(shown)
    wait_until(lambda: sorted(len(v.text.split()) for v in live.answering.views()) == [2, 7])
    turn = ring.arena.settle(ring.ana, shown.turn.id, [3, 3])
    assert [r.text for r in turn.responses] == ["one", "one"]
    assert {c.finish_reason for c in stored(ring, shown)} == {"stopped"}
    assert [c.token_count for c in stored(ring, shown)] == [None, None]
    now = ring.arena.conversation(ring.ana, shown.id)
    ring.judge(now, Verdict.PREFERRED, place=0)
    assert ring.arena.conversation(ring.ana, shown.id).turn.state is TurnState.JUDGED


def test_settling_again_changes_nothing(ring: Ring) -> None:
    shown = ring.ask("One?")
    first = ring.arena.settle(ring.ana, shown.turn.id, [2, 3])
    assert first == ring.arena.settle(ring.ana, shown.turn.id, [2, 3])
    assert [len(r.text) for r in first.responses] == [2, 3]
    assert first.id != shown.turn.id, "the whole texts stay as they were, unjudged"
    assert [len(c.text) for c in stored(ring, shown)] > [2, 3]


def test_what_was_seen_whole_is_settled_as_it_is(ring: Ring) -> None:
    shown = ring.ask("One?")
    seen = [len(r.text) for r in shown.turn.responses]
    assert ring.arena.settle(ring.ana, shown.turn.id, seen).id == shown.turn.id
    assert {c.finish_reason for c in stored(ring, shown)} == {"stop"}


def test_before_the_first_words_there_is_nothing_to_judge(ring: Ring) -> None:
    shown = write_slowly(ring)
    with pytest.raises(BadInput, match="first words"):
        ring.arena.settle(ring.ana, shown.turn.id, [4, 0])
    ring.arena.stop(ring.ana, shown.turn.id)


def test_stopped_with_words_on_both_sides_a_turn_is_ready(ring: Ring) -> None:
    shown = write_slowly(ring)
    ring.policy.step(7 + 2)
    live = ring.live(shown)
    wait_until(lambda: min(len(v.text.split()) for v in live.answering.views()) == 2)
    ring.arena.stop(ring.ana, shown.turn.id)
    ready = ring.ready(shown)
    assert ready.turn.state is TurnState.READY
    assert sorted(len(r.text.split()) for r in ready.turn.responses) == [2, 7]
    assert {c.finish_reason for c in stored(ring, ready)} == {"stop", "stopped"}


def test_stopped_before_the_first_words_a_turn_is_no_turn(ring: Ring) -> None:
    shown = write_slowly(ring)
    ring.arena.stop(ring.ana, shown.turn.id)
    assert ring.problem(shown) is ProblemKind.STOPPED
    assert ring.arena.conversations(ring.ana) == []
    with pytest.raises(NotFound):
        ring.arena.conversation(ring.ana, shown.id)


def test_a_new_turn_cancels_the_one_that_is_being_written(ring: Ring) -> None:
    shown = write_slowly(ring)
    before = ring.live(shown)
    assert ring.policy.entered.acquire(timeout=TIMEOUT_S)
    ring.policy.is_stepwise = False
    second = ring.ask("Two?")
    assert before.answering.problem is not None
    assert before.answering.problem.kind is ProblemKind.REPLACED
    assert [line.id for line in ring.arena.conversations(ring.ana)] == [second.id]


def test_nobody_watching_ends_a_turn_and_keeps_what_was_written(ring: Ring) -> None:
    shown = write_slowly(ring)
    ring.policy.step(7 + 1)
    live = ring.live(shown)
    wait_until(lambda: all(v.text for v in live.answering.views()))

    def listener() -> None:
        pass

    live.answering.listen(listener)
    ring.arena.stop_if_unwatched(live)
    assert not live.is_over
    live.answering.leave(listener)
    ring.arena.stop_if_unwatched(live)
    assert ring.ready(shown).turn.state is TurnState.READY


# What goes wrong


def promote(ring: Ring, *versions: str) -> None:
    for version in versions:
        ring.host.promote(AdapterFolder(version, Path(version), version)).result(TIMEOUT_S)


def test_the_opponent_is_the_live_policy_itself_the_previous_one_or_the_base(ring: Ring) -> None:
    promote(ring, "pol-1", "pol-2")
    pairs = set()
    first_places = set()
    for n in range(40):
        one, two = stored(ring, ring.ask(f"Question {n}?"))
        pairs.add(frozenset((one.policy_version, two.policy_version)))
        if one.policy_version != two.policy_version:
            first_places.add(one.policy_version == "pol-2")
        ring.store.clock.advance(seconds=10)  # type: ignore[attr-defined]
    assert pairs == {
        frozenset({"pol-2"}),
        frozenset({"pol-1", "pol-2"}),
        frozenset({"base", "pol-2"}),
    }
    assert first_places == {True, False}, "the live policy always stands on one side"


def test_a_side_that_fails_is_written_again(ring: Ring) -> None:
    fails = iter([True])
    answer = ring.policy.answer
    ring.policy.answer = lambda v, seed: "" if next(fails, False) else answer(v, seed)
    shown = ring.ask("One?")
    assert shown.turn.state is TurnState.READY
    assert all(r.text for r in shown.turn.responses)
    live = ring.live(shown)
    assert sorted(view.again for view in live.answering.views()) == [0, 1]


def test_a_version_that_never_answers_is_replaced_by_the_live_one(ring: Ring) -> None:
    promote(ring, "pol-1")
    ring.policy.answer = lambda version, seed: "" if version == "base" else f"{version}:{seed}"
    for n in range(12):
        versions = [c.policy_version for c in stored(ring, ring.ask(f"Question {n}?"))]
        assert versions == ["pol-1", "pol-1"]
    assert any(batch.version == "base" for batch in ring.policy.batches)


def test_a_version_that_was_dropped_meanwhile_is_replaced_by_the_live_one(ring: Ring) -> None:
    promote(ring, "pol-1")
    generate = ring.policy.generate

    def gone(version: str, *rest: Any, **more: Any) -> Any:
        if version == "base":
            raise NotFound("base is not loaded")
        return generate(version, *rest, **more)

    ring.policy.generate = gone  # type: ignore[method-assign]
    for n in range(8):
        versions = [c.policy_version for c in stored(ring, ring.ask(f"Question {n}?"))]
        assert versions == ["pol-1", "pol-1"]


def test_when_everything_fails_the_person_is_told_and_nothing_is_stored(ring: Ring) -> None:
    ring.policy.answer = lambda _version, _seed: "  "
    shown = ring.arena.ask(ring.ana, "One?")
    assert ring.problem(shown) is ProblemKind.FAILED
    assert ring.arena.conversations(ring.ana) == []


def test_a_prompt_that_is_too_long_is_refused_with_the_policys_limit(ring: Ring) -> None:
    ring.policy.too_long.add("Long?")
    shown = ring.arena.ask(ring.ana, "Long?")
    assert ring.problem(shown) is ProblemKind.TOO_LONG
    problem = ring.live(shown).answering.problem
    assert problem is not None
    assert problem.limit_tokens == 512
    assert len(ring.policy.batches) == 1, "another try would not make it shorter"


def test_a_prompt_that_the_policy_refuses_is_told_in_its_words(ring: Ring) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise BadInput("the chat template refuses a conversation of system")

    ring.policy.generate = refuse  # type: ignore[method-assign]
    shown = ring.arena.ask(ring.ana, "One?")
    assert ring.problem(shown) is ProblemKind.REFUSED
    problem = ring.live(shown).answering.problem
    assert problem is not None
    assert "template" in str(problem.text)


def test_a_turn_that_fails_leaves_the_conversation_where_it_was(ring: Ring) -> None:
    first = ring.ask("One?")
    ring.judge(first, Verdict.PREFERRED, place=0)
    ring.policy.too_long.add("Long?")
    shown = ring.arena.ask(ring.ana, "Long?", conversation_id=first.id)
    assert ring.problem(shown) is ProblemKind.TOO_LONG
    now = ring.arena.conversation(ring.ana, first.id)
    assert (now.turn.number, now.turn.state) == (1, TurnState.JUDGED)


@pytest.mark.parametrize("text", ["", "  \n", "x" * 20_001])
def test_a_message_is_neither_empty_nor_endless(ring: Ring, text: str) -> None:
    with pytest.raises(BadInput):
        ring.arena.ask(ring.ana, text)


def test_one_person_cannot_ask_without_end(ring: Ring, clock: Clock) -> None:
    hasty = ring.open(pace=Pace(turns=2, window_s=60.0))
    for n in range(2):
        hasty.ask(ring.ana, f"Question {n}?")
    with pytest.raises(TooManyTurns):
        hasty.ask(ring.ana, "Question 3?")
    hasty.ask(ring.person("ben"), "Question 3?")
    clock.advance(seconds=61)
    hasty.ask(ring.ana, "Question 3?")
    hasty.close()


def test_a_closed_host_is_told_and_nothing_is_left_behind(ring: Ring) -> None:
    from store.errors import PolicyUnavailable

    ring.host.close()
    with pytest.raises(PolicyUnavailable):
        ring.arena.ask(ring.ana, "One?")
    assert ring.arena.conversations(ring.ana) == []


# What the journal keeps


def test_a_judged_turn_comes_back_from_the_journal_as_a_turn(
    ring: Ring, tmp_path: Path, clock: Clock
) -> None:
    first = ring.ask("One?")
    ring.judge(first, Verdict.PREFERRED, place=1)
    unjudged = ring.ask("Two?", conversation_id=first.id)
    folder = tmp_path / "lost"
    folder.mkdir()
    (folder / "judgments.jsonl").write_bytes(ring.store.journal_path.read_bytes())

    healed = Store(folder, clock=clock)
    try:
        assert mending.mend(healed).restored_to_store == 1
        assert judgments.get(healed, "j1") == judgments.get(ring.store, "j1")
        newest = store_arena.newest_turn(healed, first.id)
        assert newest == store_arena.newest_turn(ring.store, first.id)
        assert newest is not None
        assert newest.comparison_id == unjudged.turn.id
        after = Assignment(healed, rng=random.Random(1))
        assert after.claim("ben", 5, held=[]).leases == []
        assert len(preferences.list_all(healed)) == 1
    finally:
        healed.close()


def test_the_journal_says_of_other_comparisons_that_they_are_no_turn(store: Store) -> None:
    from tests.builders import make_comparison

    make_comparison(store)
    line = json.loads(store.journal_path.read_text("utf-8").splitlines()[0])
    assert line["arena"] is None
