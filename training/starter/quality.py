"""Measures a trained starter policy on held-out prompts by sampling from it.

Temperature 1.0, and either the whole distribution or the nucleus that the product samples from by
default. The targets are those a policy must reach, as it is served, to be shipped. Not a preference
score: what people like is not decided here.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from training.starter.detectors import Observation, observe
from training.starter.grammar import Axis, Prompt, find_novelty, list_held_out_prompts

MAX_NEW_TOKENS = 160
SERVED_TOP_P = 0.95
WRONG_ID_TARGET = 0.05
FOREIGN_STEP_TARGET = 0.05
ENDED_TARGET = 0.995

Item = TypeVar("Item")


@dataclass(frozen=True)
class Sample:
    """A completion of a held-out prompt; `ended` says that the stop token came by itself."""

    prompt: Prompt
    completion: str
    tokens: int
    ended: bool

    @property
    def observation(self) -> Observation:
        """Manners and faults of the completion."""
        return observe(self.prompt.text, self.completion)


@dataclass(frozen=True)
class Quality:
    """Shares over a set of samples.

    `wrong_id` is taken among the completions that state an id, `foreign_step` among those that give
    any step, `refused_unsafe` and `refused_benign` among prompts of that kind, `unknown_sentence`
    among sentences, the others among all completions.
    """

    samples: int
    wrong_id: float
    foreign_step: float
    ended: float
    unknown_sentence: float
    duplicate: float
    refused_unsafe: float
    refused_benign: float
    mean_tokens: float

    @property
    def meets_targets(self) -> bool:
        """Whether all three shipping targets are reached."""
        return (
            self.wrong_id < WRONG_ID_TARGET
            and self.foreign_step < FOREIGN_STEP_TARGET
            and self.ended > ENDED_TARGET
        )


def sample_completions(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[Prompt],
    *,
    seed: int,
    top_p: float = SERVED_TOP_P,
    batch_size: int = 64,
) -> list[Sample]:
    """One sampled completion for each prompt, the same ones for the same seed and device."""
    torch.manual_seed(seed)
    samples = []
    for start in range(0, len(prompts), batch_size):
        part = prompts[start : start + batch_size]
        texts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt.text}],
                add_generation_prompt=True,
                tokenize=False,
            )
            for prompt in part
        ]
        inputs = tokenizer(
            texts,
            add_special_tokens=False,
            padding=True,
            padding_side="left",
            return_tensors="pt",
            return_token_type_ids=False,
        ).to(model.device)
        with torch.no_grad():
            output = model.generate(
                **inputs,
                do_sample=True,
                temperature=1.0,
                top_p=top_p,
                top_k=0,
                max_new_tokens=MAX_NEW_TOKENS,
            )
        rows = output[:, inputs["input_ids"].shape[1] :].tolist()
        samples += list(map(_read_sample, part, rows, itertools.repeat(tokenizer)))
    return samples


def measure(samples: Iterable[Sample]) -> Quality:
    """The quality of a set of samples; a share of nothing is 0."""
    taken = list(samples)
    seen = [sample.observation for sample in taken]
    with_id = [one for one in seen if one.ids]
    with_steps = [one for one in seen if one.manners.steps or one.foreign_steps]
    unsafe = [one for one in seen if one.unsafe]
    benign = [one for one in seen if not one.unsafe]
    return Quality(
        samples=len(taken),
        wrong_id=_share(with_id, lambda one: one.wrong_ids > 0),
        foreign_step=_share(with_steps, lambda one: one.foreign_steps > 0),
        ended=_share(taken, lambda sample: sample.ended),
        unknown_sentence=_divide(
            sum(one.unknown for one in seen), sum(one.sentences for one in seen)
        ),
        duplicate=_share(seen, lambda one: one.duplicates > 0),
        refused_unsafe=_share(unsafe, lambda one: one.manners.refusal > 0),
        refused_benign=_share(benign, lambda one: one.manners.refusal > 0),
        mean_tokens=_divide(sum(sample.tokens for sample in taken), len(taken)),
    )


def measure_by_axis(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    *,
    count: int,
    seed: int,
    top_p: float = SERVED_TOP_P,
) -> dict[str, Quality]:
    """Quality on `count` held-out prompts: all together, then by what is new in them."""
    prompts = list_held_out_prompts(count, seed=seed)
    samples = sample_completions(model, tokenizer, prompts, seed=seed, top_p=top_p)
    return {
        "all": measure(samples),
        **{
            axis.value: measure(one for one in samples if find_novelty(one.prompt) is axis)
            for axis in Axis
        },
    }


def _read_sample(prompt: Prompt, row: list[int], tokenizer: PreTrainedTokenizerFast) -> Sample:
    end = tokenizer.eos_token_id
    ended = end in row
    kept = row[: row.index(end)] if ended else row
    text = tokenizer.decode(kept, skip_special_tokens=True)
    return Sample(prompt, text, len(kept) + ended, ended)


def _share(items: Sequence[Item], holds: Callable[[Item], bool]) -> float:
    return _divide(sum(map(holds, items)), len(items))


def _divide(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
