"""Both languages say everything: nothing missing, nothing unused, the same places in sentences."""

from __future__ import annotations

import json
import re
import string
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from labeling import i18n
from labeling.i18n import LANGUAGE_COOKIE, Language, plural, say, speaking, t
from labeling.ui import arena, compare, my_work, shell
from store.errors import BadInput, BadRow
from tests import english
from training import tracking
from training.messages import Message
from training.methods.dpo import DPOOptions
from training.options import SpecError
from training.worker.failures import Diverged, describe

# Names that are the same in every language.
NAMES = {"DPO", "KTO", "PPO", "SFT", "KL", "Beta"}
NAMES |= {"LoRA alpha", "JSON Lines", "Parquet", "beta × KL"}
# Losses are called so in papers and in TRL.
NAMES |= {"sigmoid", "sigmoid_norm", "robust", "ipo", "hinge", "apo_zero"}
# And so are tunings.
NAMES |= {"lora", "dora", "rslora", "qlora"}
# Methods on a reward model, and choices of GRPO, which TRL calls so.
NAMES |= {"RLOO", "GRPO", "dapo", "dr_grpo", "grpo", "group", "batch"}
# Libraries that metrics are sent to.
NAMES |= {*tracking.ALL}
# Whole English phrases as values, which a Chinese sentence does without.
PHRASES = {"doing", "to", "whose", "what", "chosen"}
UI = Path(shell.__file__).parent


def in_components() -> set[str]:
    """Services are only called when something happens on the page."""
    nobody = SimpleNamespace(
        **dict.fromkeys(
            (
                *("sessions", "exchange", "launching", "pipeline", "promoting", "merged", "host"),
                *("project", "candidates", "reviewing", "practice"),
            )
        )
    )
    return english.of_components(english.lead_page(nobody))


def places(sentence: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(sentence) if name}


def test_the_server_has_chinese_for_all_that_it_says_and_for_nothing_else() -> None:
    said = english.of_code() | english.of_methods() | english.of_formats() | in_components()

    catalogue = set(i18n.read("zh.server"))

    assert said - catalogue - NAMES == set()
    assert catalogue - said == set()


@pytest.mark.parametrize("english_text", sorted(i18n.read("zh.server")))
def test_a_chinese_sentence_has_the_places_of_the_english_one(english_text: str) -> None:
    chinese = i18n.read("zh.server")[english_text]

    assert places(english_text) - PHRASES <= places(chinese) <= places(english_text)
    words = re.sub(r"\{.*?\}", "", english_text)
    assert (
        english_text in NAMES or re.search("[\u4e00-\u9fff]", chinese) or words.strip(" =:") == ""
    )


def test_the_scripts_strings_have_the_same_keys_and_places_in_both_languages() -> None:
    en, zh = i18n.read("en"), i18n.read("zh")

    one_form = {key for key in en if re.fullmatch(r"\w+\.\w+\.one", key)}
    assert set(en) - one_form == set(zh)
    assert {k for k in zh if places(en[k]) != places(zh[k])} == set()


def test_every_key_of_the_scripts_strings_is_used_and_every_used_one_exists() -> None:
    assets = i18n.LOCALES.parent
    scripts = "\n".join(p.read_text(encoding="utf-8") for p in assets.glob("scripts/*.js"))
    english_strings = shell.Strings("en")
    markup = compare.markup(english_strings) + my_work.markup(english_strings)
    markup += arena.markup(english_strings) + shell.header(english_strings)
    pages_code = "\n".join(p.read_text(encoding="utf-8") for p in UI.glob("*.py"))

    stems = {re.sub(r"(\.\w+)\.(zero|one|other)$", r"\1", key) for key in i18n.read("en")}
    families = "|".join({stem.split(".")[0] for stem in stems})
    used = set(re.findall(rf"""["'`]((?:{families})\.\w+)["'`]""", scripts + pages_code))
    used |= set(re.findall(r'data-t(?:-label)?="([^"]+)"', markup))
    built = re.findall(rf"""`((?:{families})\.\w*\$\{{.*?)`""", scripts)
    patterns = [re.sub(r"\\\$\\\{.*?\\\}", ".+", re.escape(key)) for key in built]

    assert {key for key in used - stems if not key.endswith((".css", ".js"))} == set()
    unused = {s for s in stems - used if not any(re.fullmatch(p, s) for p in patterns)}
    assert {s for s in unused if s.split(".")[0] not in ("tab",)} == set()


def test_locale_files_repeat_no_key() -> None:
    for path in i18n.LOCALES.glob("*.json"):
        pairs = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=list)
        keys = [key for key, _ in pairs]
        assert len(keys) == len(set(keys)), path.name


def test_the_choice_counts_before_the_wish_of_the_browser() -> None:
    wish = {"accept-language": "zh-CN,zh;q=0.9,en;q=0.8"}

    assert i18n.language_of({}, wish) is Language.ZH
    assert i18n.language_of({LANGUAGE_COOKIE: "en"}, wish) is Language.EN
    assert i18n.language_of({LANGUAGE_COOKIE: "xx"}, {}) is Language.EN


def test_a_language_is_spoken_by_one_thread_and_for_a_while() -> None:
    heard: list[str] = []
    with speaking(Language.ZH):
        other = threading.Thread(target=lambda: heard.append(t("Copy")))
        other.start()
        other.join()
        assert t("Copy") == "复制"

    assert [*heard, t("Copy")] == ["Copy", "Copy"]


def test_an_error_is_said_in_the_language_of_the_person() -> None:
    error = BadInput("There is no file {path}. Check the path and import it again.", path="a.csv")

    assert str(error) == "There is no file a.csv. Check the path and import it again."
    with speaking(Language.ZH):
        assert say(error) == "没有文件 a.csv。请检查路径后重新导入。"


def test_a_message_inside_a_message_is_said_in_the_same_language() -> None:
    row = BadRow("a.jsonl", 3, "prompt", "is missing")
    with pytest.raises(SpecError) as refused:
        DPOOptions.parsed({"epochs": 99})

    with speaking(Language.ZH):
        assert say(row) == "a.jsonl 第 3 行，字段“prompt”：缺失"
        assert say(refused.value) == "epochs = 99：必须在 1 到 50 之间"
    assert str(refused.value) == "epochs = 99: must lie between 1 and 50"


def test_what_a_trainer_wrote_down_is_said_in_another_language_later() -> None:
    name, value, step = "loss", float("nan"), 7
    error = Diverged("The {name} became {value} at step {step}.", name=name, value=value, step=step)

    told = json.loads(json.dumps(describe(error).said))

    assert str(Message.from_json(told)) == str(error)
    with speaking(Language.ZH):
        assert say(Message.from_json(told)) == "第 7 步时，loss 变成了 nan。"


def test_text_of_people_in_a_message_is_never_taken_for_a_sentence_or_a_place() -> None:
    error = BadInput("{name} cannot sign in.", name="{Copy}")

    assert str(error) == "{Copy} cannot sign in."
    with speaking(Language.ZH):
        assert say(error) == "{Copy} 不能登录。"


def test_numbers_and_plurals_are_written_as_the_language_does() -> None:
    forms = ("{n} comparison waiting", "{n} comparisons waiting")

    assert [plural(*forms, 1), plural(*forms, 1200)] == [
        "1 comparison waiting",
        "1,200 comparisons waiting",
    ]
    with speaking(Language.ZH):
        assert [plural(*forms, 1), plural(*forms, 1200)] == ["1 个比较待评", "1,200 个比较待评"]
        assert i18n.percent(0.523, digits=1) == "52.3%"
        assert i18n.duration(125) == "2 分 5 秒"


@pytest.mark.parametrize(
    ("passed", "said"),
    [
        (timedelta(seconds=5), "刚刚"),
        (timedelta(minutes=5), "5 分钟前"),
        (timedelta(hours=3), "3 小时前"),
        (timedelta(days=3), "2026年1月2日"),
    ],
)
def test_moments_are_told_in_chinese(passed: timedelta, said: str) -> None:
    now = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)

    with speaking(Language.ZH):
        assert i18n.ago(now - passed, now) == said
