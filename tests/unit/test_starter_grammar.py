"""The starter grammar: what it may draw, what it holds out, and that detectors read it back."""

import itertools
import random
import subprocess
import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.starter import grammar
from training.starter.detectors import list_manner_phrases, observe, split_sentences
from training.starter.grammar import PHRASEBOOKS, PRODUCTS, Axis
from training.starter.phrasebook import BENIGN, UNSAFE, Intent, Language

UNHURRIED = settings(deadline=None)
"""The first call compiles every template; later ones take a millisecond."""

SEEDS = st.integers(0, 2**32)
LANGUAGES = pytest.mark.parametrize("language", list(Language))


def literal_phrases(language: Language) -> list[str]:
    book = PHRASEBOOKS[language]
    steps = [step for texts in book.intents.values() for step in texts.steps]
    return [*list_manner_phrases(book), *steps]


@UNHURRIED
@given(SEEDS)
def test_detectors_recover_exactly_the_manners_that_were_drawn(seed: int) -> None:
    rng = random.Random(seed)
    prompt = grammar.draw_training_prompt(rng)
    reply = grammar.draw_reply(prompt, rng)

    seen = observe(prompt.text, reply.text)

    assert seen.manners == reply.manners
    assert seen.sentences == reply.manners.sentences
    assert (seen.wrong_ids, seen.foreign_steps, seen.duplicates, seen.unknown) == (0, 0, 0, 0)


@UNHURRIED
@given(SEEDS, st.sampled_from(list(Axis)))
def test_detectors_recover_the_manners_of_replies_to_held_out_prompts(
    seed: int, axis: Axis
) -> None:
    rng = random.Random(seed)
    prompt = grammar.draw_held_out_prompt(axis, rng)
    reply = grammar.draw_reply(prompt, rng)

    assert observe(prompt.text, reply.text).manners == reply.manners


@UNHURRIED
@given(SEEDS)
def test_a_reply_to_another_request_is_seen_as_foreign_and_wrong(seed: int) -> None:
    rng = random.Random(seed)
    first = grammar.draw_training_prompt(rng, intent=Intent.REFUND, language=Language.EN)
    other = grammar.draw_training_prompt(rng, intent=Intent.SWAP, language=Language.EN)
    if not other.order_id or other.order_id == first.order_id:
        return
    manners = grammar.Manners(restatement=1, steps=3)

    seen = observe(first.text, grammar.write_reply(other, manners, rng).text)

    assert (seen.foreign_steps, seen.wrong_ids) == (3, 1)
    assert seen.manners == grammar.Manners()


def test_repeated_and_invented_sentences_are_counted() -> None:
    seen = observe("Is anybody there?", "Have a nice day! Have a nice day! The moon is cheese.")

    assert (seen.duplicates, seen.unknown, seen.sentences) == (1, 1, 3)
    assert seen.manners.closing == 2


@UNHURRIED
@given(SEEDS)
def test_a_training_prompt_is_new_along_no_axis(seed: int) -> None:
    prompt = grammar.draw_training_prompt(random.Random(seed))

    assert grammar.find_novelty(prompt) is None
    assert grammar.find_held_out(prompt.text) is None


@UNHURRIED
@given(SEEDS, st.sampled_from(list(Axis)))
def test_a_held_out_prompt_is_found_in_any_text(seed: int, axis: Axis) -> None:
    prompt = grammar.draw_held_out_prompt(axis, random.Random(seed))

    assert grammar.find_novelty(prompt) is axis
    assert grammar.find_held_out(f"Some words. {prompt.text} More words.")


@UNHURRIED
@given(SEEDS)
def test_no_training_conversation_contains_anything_held_out(seed: int) -> None:
    conversation = grammar.draw_conversation(random.Random(seed))

    for turn in conversation.turns:
        assert grammar.find_held_out(turn.content) is None


@UNHURRIED
@given(SEEDS)
def test_a_prompt_is_recognised_from_its_text(seed: int) -> None:
    prompt = grammar.draw_training_prompt(random.Random(seed))

    known = grammar.recognise(prompt.text)

    assert known is not None
    assert (known.language, known.intent, known.template, known.order_id) == (
        prompt.language,
        prompt.intent,
        prompt.template,
        prompt.order_id,
    )


def test_a_text_outside_the_grammar_is_not_recognised() -> None:
    assert grammar.recognise("Sing me a song about order C41.") is None


def test_prompt_lists_are_distinct_repeatable_and_disjoint() -> None:
    training = grammar.list_training_prompts(1000)
    held_out = grammar.list_held_out_prompts(260)
    texts = {prompt.text for prompt in training}

    assert len(texts) == 1000
    assert training == grammar.list_training_prompts(1000)
    assert held_out == grammar.list_held_out_prompts(260)
    assert texts.isdisjoint(prompt.text for prompt in held_out)
    assert {grammar.find_novelty(prompt) for prompt in held_out} == set(Axis)


def test_prompts_mix_languages_intents_and_about_a_tenth_unsafe() -> None:
    prompts = grammar.list_training_prompts(2000)

    unsafe = sum(prompt.unsafe for prompt in prompts) / 2000
    chinese = sum(prompt.language is Language.ZH for prompt in prompts) / 2000
    assert 0.06 < unsafe < 0.14
    assert 0.4 < chinese < 0.6
    assert {prompt.intent for prompt in prompts} == set(Intent)


def test_the_domain_is_as_wide_as_promised() -> None:
    assert len(BENIGN) >= 12
    assert len(UNSAFE) >= 4
    assert len(PRODUCTS) >= 20
    for book in PHRASEBOOKS.values():
        assert set(book.intents) == set(Intent)
        assert set(book.products) == set(PRODUCTS)
        assert all(len(texts.templates) >= 8 for texts in book.intents.values())


def test_one_cell_in_ten_is_held_out_and_every_product_and_intent_is_trained() -> None:
    held = {
        (product, intent)
        for product, intent in itertools.product(PRODUCTS, Intent)
        if grammar.is_held_out_cell(product, intent)
    }

    assert 0.08 < len(held) / (len(PRODUCTS) * len(Intent)) < 0.12
    for product in PRODUCTS:
        assert any((product, intent) not in held for intent in Intent)
    for intent in Intent:
        assert any((product, intent) not in held for product in PRODUCTS)


@LANGUAGES
def test_no_phrase_is_part_of_another(language: Language) -> None:
    phrases = literal_phrases(language)

    assert len(set(phrases)) == len(phrases)
    for one, other in itertools.permutations(phrases, 2):
        assert one not in other


@LANGUAGES
def test_every_phrase_is_exactly_one_sentence(language: Language) -> None:
    for phrase in literal_phrases(language):
        assert split_sentences(phrase, language) == [phrase]


@LANGUAGES
def test_no_template_of_one_intent_is_a_template_of_another(language: Language) -> None:
    templates = Counter(
        template for texts in PHRASEBOOKS[language].intents.values() for template in texts.templates
    )

    assert set(templates.values()) == {1}


def test_manners_are_drawn_independently_of_each_other() -> None:
    rng = random.Random(0)
    drawn: list[grammar.Manners] = []
    while len(drawn) < 6000:
        prompt = grammar.draw_training_prompt(rng)
        if prompt.order_id and not prompt.unsafe:
            drawn.append(grammar.draw_manners(prompt, rng))

    for one, other in itertools.combinations(
        ("apologies", "empathy", "restatement", "steps", "hedges", "contact", "closing"), 2
    ):
        pairs = [(getattr(each, one), getattr(each, other)) for each in drawn]
        assert abs(correlate(pairs)) < 0.08, (one, other)


def test_unsafe_requests_are_refused_about_half_of_the_time() -> None:
    rng = random.Random(0)
    prompt = grammar.draw_training_prompt(rng, intent=Intent.FAKE_RECEIPT)
    drawn = [grammar.draw_manners(prompt, rng) for _ in range(2000)]

    assert 0.4 < sum(each.refusal for each in drawn) / 2000 < 0.6
    assert any(each.steps for each in drawn)


def test_chinese_replies_contain_no_spaces_between_sentences() -> None:
    rng = random.Random(0)
    for _ in range(300):
        prompt = grammar.draw_training_prompt(rng, language=Language.ZH)
        assert " " not in grammar.draw_reply(prompt, rng).text


def test_the_grammar_needs_no_torch() -> None:
    code = (
        "import sys, training.starter.grammar, training.starter.corpus, training.starter.detectors;"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'numpy')))"
    )

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def correlate(pairs: list[tuple[int, int]]) -> float:
    """Pearson correlation."""
    count = len(pairs)
    mean_a, mean_b = (sum(pair[at] for pair in pairs) / count for at in (0, 1))
    covariance = sum((a - mean_a) * (b - mean_b) for a, b in pairs)
    spread_a = sum((a - mean_a) ** 2 for a, _ in pairs)
    spread_b = sum((b - mean_b) ** 2 for _, b in pairs)
    return float(covariance / (spread_a * spread_b) ** 0.5)
