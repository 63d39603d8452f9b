"""The model card, sample prompts and general demonstrations that travel with the starter policy."""

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from training.starter.corpus import CleanCorpus
from training.starter.grammar import (
    Prompt,
    draw_conversation,
    find_novelty,
    list_held_out_prompts,
    list_training_prompts,
)
from training.starter.quality import SERVED_TOP_P, Quality
from training.starter.stages import StageReport

TRAINING_PROMPTS = 1000
HELD_OUT_PROMPTS = 260
GENERAL_DEMONSTRATIONS = 400


@dataclass(frozen=True)
class Card:
    """Everything the model card tells."""

    parameters: int
    vocabulary: int
    seed: int
    tokens: int
    machine: str
    versions: str
    corpus: CleanCorpus
    stages: Sequence[StageReport]
    quality: Mapping[str, Quality]
    unfiltered: Mapping[str, Quality]


def write_prompts(path: Path, *, seed: int) -> None:
    """Write the sample prompts that the application imports at its first start, one JSON a line."""
    prompts = [
        *list_training_prompts(TRAINING_PROMPTS, seed=seed),
        *list_held_out_prompts(HELD_OUT_PROMPTS, seed=seed),
    ]
    lines = (json.dumps(_describe_prompt(prompt), ensure_ascii=False) for prompt in prompts)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_general(path: Path, *, seed: int) -> None:
    """Write conversations such as the second stage has shown, for runs to replay, one a line."""
    rng = random.Random(f"general {seed}")
    drawn = (draw_conversation(rng).as_messages() for _ in range(GENERAL_DEMONSTRATIONS))
    lines = (json.dumps({"messages": messages}, ensure_ascii=False) for messages in drawn)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_card(path: Path, card: Card) -> None:
    """Write the model card."""
    path.write_text(render_card(card), encoding="utf-8")


def render_card(card: Card) -> str:
    """The model card in Markdown."""
    return f"""\
---
license: apache-2.0
language: [en, zh]
pipeline_tag: text-generation
---

# Whetstone starter policy

A tiny bilingual (English, simplified Chinese) customer-support model, trained from nothing by this
project so that labeling, training and hot-swapping can be tried on a laptop within minutes. It is a
starting point with mixed manners, not an assistant for real customers.

- Llama architecture, {card.parameters:,} parameters, {card.vocabulary:,} tokens (byte-level BPE),
  context 512 tokens, weights stored in float16
- seed {card.seed}, token budget {card.tokens:,}, {card.machine}, {card.versions}
- rebuild: `python -m training.starter --out DIR --tokens {card.tokens} --seed {card.seed}`
- licence: Apache-2.0, for weights, texts and code

## Data

All texts come from the grammar in `training/starter`: no text of any person or of any other model
was used. The raw pretraining corpus had {card.corpus.raw_documents:,} documents; cleaning left
{len(card.corpus.documents):,}.

{_render_removed(card.corpus)}

Requests for refused things (about one in ten) are of five mild sorts. Replies vary apologies,
empathy, restating, filler, "as an AI", refusal, safe alternative, steps, hedging, contact and
closing independently, so the model is *not* aligned: it refuses harmless requests now and then and
sometimes goes along with requests that it should refuse. That is what preference training is for.

`general.jsonl` holds conversations such as the second stage has shown. Fine-tuning replays some of
them, so that the policy forgets less, and every run tells how well it still knows others.

## Stages

{_render_stages(card.stages)}

Mean training loss, nats per token:

{_render_curves(card.stages)}

## Measured on held-out prompts

Held out from every stage: the last two templates of each intent, one in ten (product, intent)
cells, the order ids H50 to H99. As the product samples by default, temperature 1.0, top-p
{SERVED_TOP_P}, at most 160 new tokens:

{render_quality(card.quality)}

Targets: wrong id below 5 %, steps of another intent below 5 %, ends by itself above 99.5 %. A wrong
id counts among replies that state an id, foreign steps among replies that give steps.

From the whole distribution (top-p 1.0), where the targets are not required:

{render_quality(card.unfiltered)}

## Limits

It knows one small domain and about three hundred phrases. Requests that name no order and texts
outside the domain get a plausible reply of some known intent. It has no knowledge of facts,
remembers little of long conversations, and must not be shown to customers.
"""


def render_quality(quality: Mapping[str, Quality]) -> str:
    """The quality table in Markdown, one row for each group of prompts."""
    head = (
        "| held-out prompts | n | wrong id | foreign steps | ends by itself | unknown sentences "
        "| refuses unsafe | refuses benign | mean tokens |"
    )
    rows = [
        f"| {name} | {one.samples} | {one.wrong_id:.1%} | {one.foreign_step:.1%} "
        f"| {one.ended:.1%} | {one.unknown_sentence:.1%} | {one.refused_unsafe:.1%} "
        f"| {one.refused_benign:.1%} | {one.mean_tokens:.0f} |"
        for name, one in quality.items()
    ]
    return "\n".join([head, "|---" * 9 + "|", *rows])


def _describe_prompt(prompt: Prompt) -> dict[str, object]:
    return {
        "messages": [{"role": "user", "content": prompt.text}],
        "language": prompt.language.value,
        "intent": prompt.intent.value,
        "split": "held_out" if find_novelty(prompt) else "train",
    }


def _render_removed(corpus: CleanCorpus) -> str:
    rows = [
        f"| {rule.value.replace('_', ' ')} | {count:,} |" for rule, count in corpus.removed.items()
    ]
    return "\n".join(["| cleaning rule | removed |", "|---|---|", *rows])


def _render_stages(stages: Iterable[StageReport]) -> str:
    rows = [
        f"| {stage.name} | {stage.tokens:,} | {stage.steps:,} | {stage.seconds:.0f} "
        f"| {stage.tokens_per_second:,.0f} |"
        for stage in stages
    ]
    head = "| stage | tokens | steps | seconds | tokens/s |"
    return "\n".join([head, "|---|---|---|---|---|", *rows])


def _render_curves(stages: Sequence[StageReport]) -> str:
    rows = []
    for stage in stages:
        stride = max(1, len(stage.curve) // 10)
        points = [*stage.curve[:-1:stride], stage.curve[-1]]
        rows += [f"| {stage.name} | {point.tokens:,} | {point.loss:.3f} |" for point in points]
    return "\n".join(["| stage | after tokens | loss |", "|---|---|---|", *rows])
