"""The raw pretraining corpus and its cleaning: each fault goes, everything good stays."""

import random
from collections import Counter
from dataclasses import replace

import pytest

from training.starter import corpus, grammar
from training.starter.corpus import Document, Rule, Source
from training.starter.phrasebook import Language
from training.starter.prose import BOILERPLATE, TOXIC

GOOD = "Order C41 was sent on Monday. The customer asked where the kettle is, and we told her. 🙂"


def document(text: str) -> Document:
    return Document(Source.NOTE, Language.EN, text)


def some_documents(count: int, seed: int = 0) -> list[Document]:
    rng = random.Random(seed)
    return [corpus.write_document(rng) for _ in range(count)]


@pytest.fixture(scope="module")
def raw() -> corpus.RawCorpus:
    return corpus.build_raw_corpus(1200, seed=3)


@pytest.fixture(scope="module")
def cleaned(raw: corpus.RawCorpus) -> corpus.CleanCorpus:
    return corpus.clean(raw.documents)


@pytest.mark.parametrize("rule", list(Rule))
def test_the_raw_corpus_contains_every_kind_of_fault(rule: Rule, raw: corpus.RawCorpus) -> None:
    assert raw.injected[rule] > 10


@pytest.mark.parametrize("rule", list(Rule))
def test_cleaning_removes_as_much_as_was_injected(
    rule: Rule, raw: corpus.RawCorpus, cleaned: corpus.CleanCorpus
) -> None:
    injected = raw.injected[rule]

    assert cleaned.removed[rule] == pytest.approx(injected, abs=max(4, 0.1 * injected))


def test_a_clean_corpus_has_no_fault_left(cleaned: corpus.CleanCorpus) -> None:
    texts = [each.text for each in cleaned.documents]

    assert len(set(texts)) == len(texts)
    for text in texts:
        assert "<" not in text
        assert "&nbsp;" not in text
        assert grammar.find_held_out(text) is None
        assert not any(line in text for line in (*BOILERPLATE, *TOXIC))
        assert not corpus.is_low_quality(text)


def test_cleaning_a_clean_corpus_changes_nothing(cleaned: corpus.CleanCorpus) -> None:
    again = corpus.clean(cleaned.documents)

    assert again.documents == cleaned.documents
    assert sum(again.removed.values()) == 0


def test_good_documents_all_stay_word_for_word() -> None:
    good = some_documents(500)

    assert corpus.clean(good).documents == tuple(good)


def test_a_good_document_is_lost_only_to_a_copy_of_itself() -> None:
    good = some_documents(800)
    kept = corpus.clean(corpus.spoil(good, random.Random(1)).documents).documents

    survivors = {each.text for each in kept}
    lost = sum(each.text not in survivors for each in good)
    assert len(kept) == len(good)
    assert lost < 0.05 * len(good)


def test_good_documents_contain_nothing_held_out() -> None:
    for each in some_documents(500, seed=9):
        assert grammar.find_held_out(each.text) is None


def test_markup_goes_and_useful_symbols_stay() -> None:
    spoiled = "<p class='x'>Price &lt; 5 &amp; up 🙂</p><script>evil()</script><br/>1 < 2, ⭐"

    assert corpus.strip_markup(spoiled) == "Price < 5 & up 🙂\n1 < 2, ⭐"


def test_a_leaked_test_prompt_goes_and_its_document_stays() -> None:
    leak = grammar.list_held_out_prompts(1)[0].text

    result = corpus.clean([document(f"{GOOD}\n{leak}")])

    assert [each.text for each in result.documents] == [GOOD]
    assert result.removed[Rule.LEAK] == 1


def test_a_harmful_line_goes_whatever_its_case() -> None:
    result = corpus.clean([document(f"{GOOD}\nWhat an IDIOT you are.")])

    assert [each.text for each in result.documents] == [GOOD]


@pytest.mark.parametrize(
    "change",
    [str.upper, lambda text: text + "!!", lambda text: text.replace(" the ", "  THE ")],
    ids=["case", "stops", "blanks"],
)
def test_a_slightly_changed_copy_is_a_near_duplicate(change: object) -> None:
    assert callable(change)
    longer = GOOD + " The case was closed in the evening after a short call with the courier."

    result = corpus.clean([document(longer), document(change(longer))])

    assert len(result.documents) == 1
    assert result.removed[Rule.NEAR_DUPLICATE] == 1


def test_documents_with_the_same_frame_and_other_words_are_no_duplicates() -> None:
    notes = [
        document(f"Order A1{digit}. The {product} was sent back because it did not fit {reason}.")
        for digit, (product, reason) in enumerate(
            [("kettle", "on the small stove"), ("jacket", "after the first wash")]
        )
    ]

    assert len(corpus.clean(notes).documents) == 2


@pytest.mark.parametrize(
    "garbage", ["short", "#### $$$$ %%%% //// 1234 5678 @@@@ ~~~~", "buy " * 20, "ha" + "a" * 40]
)
def test_text_of_no_quality_is_dropped(garbage: str) -> None:
    assert corpus.is_low_quality(garbage)
    assert not corpus.is_low_quality(GOOD)


def test_a_line_is_boilerplate_only_when_many_documents_have_it() -> None:
    documents = [replace(each, text=each.text + "\nBuy now!") for each in some_documents(40)]

    assert corpus.find_boilerplate(documents) == {"Buy now!"}
    assert corpus.find_boilerplate(documents[: corpus.BOILERPLATE_MINIMUM]) == frozenset()


def test_the_same_seed_builds_the_same_corpus() -> None:
    assert corpus.build_raw_corpus(50, seed=4) == corpus.build_raw_corpus(50, seed=4)
    assert corpus.build_raw_corpus(50, seed=4) != corpus.build_raw_corpus(50, seed=5)


def test_good_sources_are_read_more_often(cleaned: corpus.CleanCorpus) -> None:
    times = Counter(corpus.order_for_training(cleaned, seed=0))

    for each in cleaned.documents:
        assert times[each.text] == (2 if each.source is Source.ARTICLE else 1)
