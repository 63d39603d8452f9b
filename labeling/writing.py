"""Completions of what a policy generated, with all that is needed to trace them."""

from __future__ import annotations

import uuid
from dataclasses import asdict
from datetime import datetime

from store.records import Completion, Prompt
from training.policy import Generation


def completion_of(prompt: Prompt, generation: Generation, *, now: datetime) -> Completion:
    """A new completion of `prompt`, not yet stored."""
    return Completion(
        id=uuid.uuid4().hex,
        prompt_id=prompt.id,
        text=generation.text,
        source="policy",
        policy_version=generation.policy_version,
        adapter_sha256=generation.adapter_sha256,
        sampling=asdict(generation.sampling),
        seed=generation.seed,
        finish_reason=generation.finish_reason,
        token_count=generation.token_count,
        created_at=now,
    )
