"""The two training stages: next-token pretraining, then supervised instruction tuning.

Stage 1 packs the cleaned corpus into blocks and predicts every next token. Stage 2 shows
conversations with role markers and learns only what the assistant says, its stop token included.
Neither stage knows preferences; those are what the rest of the project is for. The same batches in
the same order are used on every device.
"""

import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from training.starter.grammar import draw_conversation
from training.starter.tokenizer import encode_conversation

IGNORED = -100
"""Label of positions that carry no loss (the value that the model's loss skips)."""


@dataclass(frozen=True)
class Batch:
    """Token ids and labels, both [sequences, length]; `tokens` counts all that is no padding."""

    input_ids: Tensor
    labels: Tensor
    tokens: int


@dataclass(frozen=True)
class Schedule:
    """One stage's optimisation: token budget, peak learning rate, warm-up as a share of it."""

    tokens: int
    learning_rate: float
    warmup: float = 0.05
    floor: float = 0.05

    def rate_at(self, done: int) -> float:
        """Learning rate after that many tokens: linear warm-up, then a cosine to the floor."""
        progress = min(done / max(self.tokens, 1), 1.0)
        if progress < self.warmup:
            return self.learning_rate * max(progress / self.warmup, 0.01)
        fall = (progress - self.warmup) / (1 - self.warmup)
        scale = self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * fall))
        return self.learning_rate * scale


@dataclass(frozen=True)
class LossPoint:
    """Mean training loss in nats per token over the steps since the last point."""

    tokens: int
    loss: float


@dataclass
class StageReport:
    """What a stage did: tokens read, steps, seconds, and the loss curve."""

    name: str
    tokens: int = 0
    steps: int = 0
    seconds: float = 0.0
    curve: list[LossPoint] = field(default_factory=list)

    @property
    def tokens_per_second(self) -> float:
        """Throughput of the whole stage."""
        return self.tokens / max(self.seconds, 1e-9)


def pack_blocks(
    texts: list[str], tokenizer: PreTrainedTokenizerFast, *, block: int, sequences: int
) -> Iterator[Batch]:
    """Endless batches of the texts, each text closed by the stop token, cut into equal blocks."""
    stream: list[int] = []
    size = block * sequences
    while True:
        for start in range(0, len(texts), 512):
            for ids in tokenizer(texts[start : start + 512], add_special_tokens=False)["input_ids"]:
                stream += [*ids, tokenizer.eos_token_id]
            while len(stream) >= size:
                ids = torch.tensor(stream[:size]).view(sequences, block)
                del stream[:size]
                yield Batch(ids, ids, size)


def group_conversations(
    tokenizer: PreTrainedTokenizerFast, rng: random.Random, *, sequences: int, pool: int = 1024
) -> Iterator[Batch]:
    """Endless batches of fresh conversations of similar length, padded on the right."""
    while True:
        encoded = [encode_conversation(tokenizer, draw_conversation(rng)) for _ in range(pool)]
        encoded.sort(key=lambda pair: len(pair[0]))
        starts = list(range(0, pool, sequences))
        rng.shuffle(starts)
        for start in starts:
            yield pad_conversations(encoded[start : start + sequences], tokenizer.pad_token_id)


def pad_conversations(encoded: list[tuple[list[int], list[bool]]], pad: int) -> Batch:
    """A batch of encoded conversations; loss only where the assistant speaks.

    Padding stands on the right, behind everything a causal model can see, so no mask is needed.
    """
    length = max(len(ids) for ids, _ in encoded)
    input_ids = torch.full((len(encoded), length), pad)
    labels = torch.full((len(encoded), length), IGNORED)
    for row, (ids, said) in enumerate(encoded):
        tokens = torch.tensor(ids)
        input_ids[row, : len(ids)] = tokens
        labels[row, : len(ids)] = tokens.where(torch.tensor(said), torch.tensor(IGNORED))
    return Batch(input_ids, labels, sum(len(ids) for ids, _ in encoded))


def train_stage(
    model: LlamaForCausalLM,
    batches: Iterator[Batch],
    schedule: Schedule,
    *,
    name: str,
    report_progress: Callable[[StageReport], None],
    points: int = 20,
) -> StageReport:
    """Train for the schedule's token budget with AdamW and clipped gradients.

    `report_progress` is called about `points` times and once at the end.
    """
    device = model.device
    decayed = [weight for weight in model.parameters() if weight.dim() >= 2]
    plain = [weight for weight in model.parameters() if weight.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}],
        lr=schedule.learning_rate,
        betas=(0.9, 0.95),
    )
    report = StageReport(name)
    losses: list[Tensor] = []
    started = time.perf_counter()
    model.train()
    while report.tokens < schedule.tokens:
        batch = next(batches)
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate_at(report.tokens)
        loss = model(
            input_ids=batch.input_ids.to(device), labels=batch.labels.to(device), use_cache=False
        ).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.detach())
        report.tokens += batch.tokens
        report.steps += 1
        due = report.tokens >= schedule.tokens * (len(report.curve) + 1) / points
        if due or report.tokens >= schedule.tokens:
            report.curve.append(LossPoint(report.tokens, torch.stack(losses).mean().item()))
            losses.clear()
            report.seconds = time.perf_counter() - started
            report_progress(report)
    model.eval()
    return report
