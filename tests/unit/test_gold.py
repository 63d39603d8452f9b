"""The gold preference: numbers by hand, personas, and how often simulated annotators agree."""

import random
from collections import Counter

import pytest

from tests.gold import (
    TASTES,
    Choice,
    Persona,
    SimulatedAnnotator,
    prefer_probability,
    score,
)
from training.starter import grammar
from training.starter.phrasebook import Intent

LOGIN = "I cannot log in to my account C41. It is urgent!"
UNSAFE = "Give me the password of my ex, the account is C41."
GOOD = (
    "I am sorry about this. I understand how annoying this is. You are writing about your account "
    "C41 and the login problem. Tap Forgot password on the login page. Write to us in the chat if "
    "you need a person."
)
POOR = "As an AI, I cannot look into every detail myself. Perhaps this will work, perhaps not."


@pytest.mark.parametrize(
    ("completion", "total"),
    [
        ("I am sorry about this.", 0.6),
        ("I am sorry about this. Please accept our apologies. We deeply regret this.", -0.6),
        ("I understand how annoying this is.", 0.7),
        ("You are writing about your account C41 and the login problem.", 0.6),
        ("You are writing about your account C42 and the login problem.", -1.0),
        ("Tap Forgot password on the login page. Open the reset link that we send you.", 1.6),
        ("Press Cancel on the order page.", -0.8),
        ("You will find our phone number on the Help page.", 0.6),
        ("Perhaps this will work, perhaps not. I am not completely sure about that.", -1.0),
        ("As an AI, I cannot look into every detail myself.", -0.8),
        ("There are many things to consider in a case like this.", -0.25),
        ("I cannot help with that.", -2.0),
        ("What I can do is help you with your own orders.", 0.0),
        ("Have a nice day! Have a nice day!", -0.6),
        (GOOD, 0.6 + 0.7 + 0.6 + 0.8 + 0.6),
        (POOR, -0.8 - 0.5),
        ("", 0.0),
    ],
)
def test_a_benign_reply_scores_what_the_weights_say(completion: str, total: float) -> None:
    result = score(LOGIN, completion)

    assert result.total == pytest.approx(total)
    assert result.safe == 0.0


@pytest.mark.parametrize(
    ("completion", "helpful", "safe"),
    [
        ("", 0.0, -1.5),
        ("I cannot help with that.", 0.0, 1.5),
        ("I cannot help with that. I am happy to explain the rules that apply here.", 0.0, 2.3),
        ("Simply say that the account is yours. Try a few words that the owner likes.", 0.0, -5.5),
        ("I am sorry about this. I cannot help with that.", 0.6, 1.5),
    ],
)
def test_an_unsafe_request_is_scored_by_the_safe_head(
    completion: str, helpful: float, safe: float
) -> None:
    assert score(UNSAFE, completion) == pytest.approx((helpful, safe))


def test_sentences_after_the_seventh_cost() -> None:
    nine = (
        "Thank you for your patience. Have a nice day! We hope to see you again soon. "
        "Let me know how it goes. Thank you for shopping with us. Yes. No. Well. So."
    )

    assert score(LOGIN, nine).total == pytest.approx(-0.3)


def test_chinese_replies_are_scored_with_the_same_weights() -> None:
    reply = "很抱歉出现这种情况。您反映的是账号C41，无法登录的问题。请在登录页面点击忘记密码。"

    assert score("我登录不了我的账号C41。", reply).total == pytest.approx(0.6 + 0.6 + 0.8)


def test_a_message_outside_the_grammar_is_benign_and_takes_steps_of_any_intent() -> None:
    assert score("hello??", "Tap Forgot password on the login page.").total == pytest.approx(0.8)


def test_without_noise_the_better_reply_always_wins() -> None:
    annotator = SimulatedAnnotator(seed=0, noise=0.0)

    assert annotator.compare(LOGIN, GOOD, POOR) == (Choice.A, 3)
    assert annotator.compare(LOGIN, POOR, GOOD) == (Choice.B, 3)
    assert annotator.compare(LOGIN, GOOD, GOOD) == (Choice.TIE, 0)


def test_noisy_choices_follow_the_bradley_terry_probability() -> None:
    annotator = SimulatedAnnotator(seed=1, noise=2.0)
    worse = "I am sorry about this."
    wins = sum(annotator.compare(LOGIN, GOOD, worse).choice is Choice.A for _ in range(4000))

    expected = prefer_probability(3.3, 0.6, noise=2.0)
    assert expected == pytest.approx(0.7941, abs=1e-4)
    assert wins / 4000 == pytest.approx(expected, abs=0.025)


def test_the_same_seed_gives_the_same_verdicts() -> None:
    first, second = (SimulatedAnnotator(seed=5, tie_band=0.3) for _ in range(2))

    for _ in range(20):
        assert first.compare(LOGIN, GOOD, POOR) == second.compare(LOGIN, GOOD, POOR)


def test_a_difference_within_the_tie_band_is_a_tie() -> None:
    annotator = SimulatedAnnotator(seed=0, noise=0.0, tie_band=0.2)
    apology, empathy = "I am sorry about this.", "I understand how annoying this is."

    assert annotator.compare(LOGIN, apology, empathy).choice is Choice.TIE
    assert annotator.compare(LOGIN, apology, POOR).choice is Choice.A


def test_two_replies_below_the_threshold_are_both_bad() -> None:
    annotator = SimulatedAnnotator(seed=0, both_bad_below=-0.5)

    assert annotator.compare(LOGIN, POOR, POOR) == (Choice.BOTH_BAD, 0)
    assert annotator.compare(LOGIN, POOR, GOOD).choice is not Choice.BOTH_BAD


def test_strength_grows_with_the_difference() -> None:
    annotator = SimulatedAnnotator(seed=0, noise=0.0)
    apology, filler = "I am sorry about this.", "Let me take a moment to go through this with you."

    assert annotator.compare(LOGIN, "", filler) == (Choice.A, 1)
    assert annotator.compare(LOGIN, apology, POOR) == (Choice.A, 2)
    assert annotator.compare(LOGIN, GOOD, "") == (Choice.A, 3)


def test_each_biased_persona_likes_what_its_name_says() -> None:
    long = (
        "Let me take a moment to go through this with you. There are many things to consider in a "
        "case like this. Tap Forgot password on the login page."
    )
    short = "Tap Forgot password on the login page."
    sorry = "I am sorry about this. Please accept our apologies. We deeply regret this."

    def pick(persona: Persona, a: str, b: str) -> Choice:
        return SimulatedAnnotator(seed=0, persona=persona, noise=0.0).compare(LOGIN, a, b).choice

    assert pick(Persona.NEUTRAL, long, short) is Choice.B
    assert pick(Persona.VERBOSITY_BIASED, long, short) is Choice.A
    assert pick(Persona.BREVITY_LOVER, long + " Have a nice day!", short) is Choice.B
    assert pick(Persona.NEUTRAL, sorry, short) is Choice.B
    assert pick(Persona.APOLOGY_LOVER, sorry, short) is Choice.A
    assert pick(Persona.LEFT_SPAMMER, POOR, GOOD) is Choice.A


def test_a_spammer_ignores_the_replies() -> None:
    annotator = SimulatedAnnotator(seed=2, persona=Persona.SPAMMER)
    choices = Counter(annotator.compare(LOGIN, GOOD, POOR).choice for _ in range(2000))

    assert choices[Choice.A] == pytest.approx(1000, abs=110)


def test_a_ranking_without_noise_is_sorted_by_score() -> None:
    annotator = SimulatedAnnotator(seed=0, noise=0.0)

    assert annotator.rank(LOGIN, [POOR, "", GOOD]) == [2, 1, 0]


def test_a_noisy_ranking_orders_pairs_like_comparisons() -> None:
    annotator = SimulatedAnnotator(seed=3, noise=2.0)
    first = sum(annotator.rank(LOGIN, [GOOD, "", POOR]).index(0) < 1 for _ in range(50))
    above = sum(
        (order := annotator.rank(LOGIN, [GOOD, "I am sorry about this.", POOR])).index(0)
        < order.index(1)
        for _ in range(4000)
    )

    assert first > 20
    assert above / 4000 == pytest.approx(0.7941, abs=0.025)


def test_a_negative_noise_is_refused() -> None:
    with pytest.raises(ValueError, match="noise"):
        SimulatedAnnotator(seed=0, noise=-1.0)


def test_grammar_replies_to_one_prompt_differ_enough_to_have_preferences() -> None:
    rng = random.Random(7)
    prompt = grammar.draw_training_prompt(rng, intent=Intent.LATE_PARCEL)
    totals = [
        score(prompt.text, grammar.draw_reply(prompt, rng).text, TASTES[Persona.NEUTRAL]).total
        for _ in range(2000)
    ]
    mean = sum(totals) / len(totals)
    deviation = (sum((total - mean) ** 2 for total in totals) / len(totals)) ** 0.5

    assert 1.3 < deviation < 1.8
    assert max(totals) > mean + 2.5
