"""Phrases that betray a habit of language models, as regular expressions by language: data alone.

A text is searched for the phrases of every language, so nobody has to tell which one it is in.
A further language is a further entry. Capitals do not matter; apostrophes are straight.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum


class Habit(StrEnum):
    """What a phrase does.

    APOLOGY     says sorry
    HEDGE       will not commit itself to what it says
    AI_MENTION  says that a machine is speaking
    REFUSAL     declines what was asked for
    SUMMARY     says once more what was said
    """

    APOLOGY = "apology"
    HEDGE = "hedge"
    AI_MENTION = "ai_mention"
    REFUSAL = "refusal"
    SUMMARY = "summary"


_AI_EN = r"(?:ai|a\.i\.|artificial intelligence|(?:large )?language model|chat ?bot)\b"
_AI_ZH = r"(?:ai|人工智能|人工智慧|大?语言模型|大?語言模型|聊天机器人|聊天機器人)"

PHRASES: Mapping[str, Mapping[Habit, tuple[str, ...]]] = {
    "en": {
        Habit.APOLOGY: (
            r"\bsorry\b",
            r"(?<!need to )\bapologi[sz]",
            r"\bapolog(?:y|ies)\b",
            r"\b(?:i|we)(?: \w+)? regret\b",
            r"\bforgive (?:me|us)\b",
        ),
        Habit.HEDGE: (
            r"\b(?:i|we)(?: am| are|'m|'re) not (?:\w+ )?(?:sure|certain)\b",
            r"\b(?:it|this|that) (?:all )?(?:may |might |could )?depends? (?:up)?on\b",
            r"\bmay (?:vary|depend|differ)\b",
            r"\bmight\b",
            r"\bperhaps\b",
            r"\bmaybe\b",
            r"\bpossibly\b",
            r"\bcould be (?:different|wrong)\b",
            r"\b(?:cannot|can't|can not) (?:\w+ )?(?:promise|guarantee|be sure|say for sure)\b",
            r"\bin (?:some|certain) cases\b",
            r"\bas far as i (?:know|can tell)\b",
            r"\bto some (?:extent|degree)\b",
        ),
        Habit.AI_MENTION: (
            rf"\bas an? (?:\w+ )?{_AI_EN}",
            rf"\bi(?: am|'m) (?:only |just |merely )?an? (?:\w+ )?{_AI_EN}",
        ),
        Habit.REFUSAL: (
            r"\b(?:i|we)(?: am| are|'m|'re)? (?:cannot|can't|can not|won't|will not|unable to"
            r"|not able to) (?:\w+ )?(?:help|assist|comply|provide|answer|fulfil|do (?:that|this))",
            r"\b(?:have|has|must|need) to (?:decline|refuse)\b",
            r"\b(?:i|we) (?:must )?(?:decline|refuse|say no)\b",
            r"\bdo(?:es)? not support (?:requests|this kind|that kind)",
            r"\bagainst (?:my|our) (?:policy|policies|guidelines|rules)\b",
        ),
        Habit.SUMMARY: (
            r"\b(?:in|to) (?:summary|conclusion|summari[sz]e|conclude|sum up)\b",
            r"\boverall,",
            r"\bin short,",
        ),
    },
    "zh": {
        Habit.APOLOGY: (
            "抱歉",
            "对不起|對不起",
            "歉意|致歉",
            "(?<!不用)(?<!不必)道歉",
            "不好意思",
            "深表遗憾|深表遺憾",
            "请(?:您)?(?:原谅|见谅)|請(?:您)?(?:原諒|見諒)",
        ),
        Habit.HEDGE: (
            "不(?:太|能|敢|大)?(?:完全)?(?:确定|保证|肯定|確定|保證)",
            "也许|也許|或许|或許|说不定|說不定",
            "可能(?:会|會|需要|有所|因|不)",
            "视(?:具体|实际)?情况|視(?:具體|實際)?情況|看(?:具体|实际)情况|看(?:具體|實際)情況",
            "取决于|取決於|因人而异|因人而異|不好说|不好說",
        ),
        Habit.AI_MENTION: (
            rf"[作做][为為](?:一[个個名款位种種])?\s*{_AI_ZH}",
            rf"我(?:只|只不过|仅仅|只不過|僅僅)?是(?:一[个個名款位种種])?\s*{_AI_ZH}",
        ),
        Habit.REFUSAL: (
            "(?:我|我们|我們)?(?:不能|无法|無法|没办法|沒辦法)(?:为您|为你|為您|給您|给您)?"
            "(?:帮|幫|协助|協助|提供|办理|辦理|满足|滿足|回答)",
            "(?:只能|必须|必須|不得不)(?:拒绝|拒絕|说不|說不)",
            "(?:我|我们|我們)(?:拒绝|拒絕)",
            "不支持(?:这|此|這|該)(?:类|种|類|種)",
            "恕难|恕難",
        ),
        Habit.SUMMARY: (
            "总之|總之|总而言之|總而言之|综上|綜上|总的来说|總的來說",
            "总体而言|總體而言|总体来说|總體來說|总结一下|總結一下",
        ),
    },
}


def compile_phrases(habit: Habit) -> re.Pattern[str]:
    """One expression for all phrases of a habit, in every language that has any."""
    phrases = [phrase for language in PHRASES.values() for phrase in language.get(habit, ())]
    return re.compile("|".join(f"(?:{phrase})" for phrase in phrases), re.IGNORECASE)
