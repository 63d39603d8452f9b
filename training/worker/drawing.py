"""Several responses to each prompt by the policy as it is, scored, and kept as they come.

What is in the log is not drawn again: a run that goes on finds it there.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from training.events import EventKind
from training.generation import GenerationStopped, Request, generate
from training.worker.completions import CompletionLog, Drawn
from training.worker.failures import Cancelled
from training.worker.job import Job
from training.worker.prompts import Prompt
from training.worker.rewards import Rewarder

DRAWN_AT_ONCE = 64


@dataclass(frozen=True)
class Drawing:
    """How a run draws: `n` responses to a prompt, each of so many tokens at most."""

    job: Job
    tokenizer: PreTrainedTokenizerBase
    rewarder: Rewarder
    n: int
    max_new_tokens: int

    def draw(self, model: Any, asked: Mapping[int, Prompt], *, round: int = 0) -> list[Drawn]:
        """The responses to prompts, which are by their places in the snapshot.

        Raises `Cancelled`, `ModelUnusable`.
        """
        self.job.stop.be_patient()
        with closing(CompletionLog(self.job.run_dir.completions_path)) as log:
            known = {drawn.row: drawn for drawn in log.drawn if drawn.round == round}
            left = [prompt for row, prompt in asked.items() if row not in known]
            size = max(1, DRAWN_AT_ONCE // self.n)
            for start in range(0, len(left), size):
                for drawn in self._answer(model, left[start : start + size], round):
                    log.append(drawn)
                    known[drawn.row] = drawn
                self.job.events.write(
                    EventKind.PROGRESS,
                    step=len(known),
                    total=len(asked),
                    epoch=0,
                    first_step=start == 0,
                )
        return list(known.values())

    def _answer(self, model: Any, asked: Sequence[Prompt], round: int) -> list[Drawn]:
        requests = [
            Request(prompt.ids, self.max_new_tokens, seed=self._seed(prompt, number, round))
            for prompt in asked
            for number in range(self.n)
        ]
        try:
            outputs = generate(model, self.tokenizer, requests, stop=self.job.stop.signal)
        except GenerationStopped:
            raise Cancelled from None
        completions = [list(output.token_ids) for output in outputs]
        rewarded = self.rewarder.reward([request.token_ids for request in requests], completions)
        shares = [slice(at * self.n, (at + 1) * self.n) for at in range(len(asked))]
        return [
            Drawn(
                prompt.row.number,
                completions[share],
                rewarded.rewards[share],
                rewarded.ended[share],
                round,
            )
            for prompt, share in zip(asked, shares, strict=True)
        ]

    def _seed(self, prompt: Prompt, number: int, round: int) -> int:
        name = f"response {self.job.spec.seed} {round} {prompt.row.number} {number}"
        return random.Random(name).getrandbits(32)


def by_place(prompts: Sequence[Prompt]) -> dict[int, Prompt]:
    """Prompts to draw for, those of like length together, by their place in the snapshot."""
    return {p.row.number: p for p in sorted(prompts, key=lambda prompt: len(prompt.ids))}
