"""What a policy is to its callers: requests in, stamped generations out, versions by name.

The vocabulary only. Which model stands behind it, and on which thread, is for `local_policy` and
`policy_host` to know; importing this imports no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from store.errors import BadInput
from store.records import Message
from training.generation import FinishReason, StopSignal
from training.streaming import Stream

MAX_TEMPERATURE = 5.0


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn. Raises BadInput for a value out of bounds.

    `temperature` 0 to 5, 0 = always the likeliest token; `top_p` above 0 to 1, 1 = all;
    `top_k` 0 = all; `max_new_tokens` at least 1, the end-of-turn token included.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_new_tokens: int = 160

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= MAX_TEMPERATURE:
            raise BadInput(
                "temperature is {temperature}; choose 0 to {max_temperature:g}",
                temperature=self.temperature,
                max_temperature=MAX_TEMPERATURE,
            )
        if not 0 < self.top_p <= 1:
            raise BadInput(
                "top_p is {top_p}; choose a value above 0, at most 1 (1 = all)", top_p=self.top_p
            )
        if self.top_k < 0:
            raise BadInput("top_k is {top_k}; choose 0 (all) or more", top_k=self.top_k)
        if self.max_new_tokens < 1:
            raise BadInput(
                "max_new_tokens is {max_new_tokens}; choose at least 1",
                max_new_tokens=self.max_new_tokens,
            )


@dataclass(frozen=True)
class GenerationRequest:
    """One completion to be made for a prompt; the same seed gives the same completion.

    `stream` follows it while it is written, and can end it before its time.
    """

    messages: Sequence[Message]
    sampling: SamplingParams
    seed: int
    stream: Stream | None = None


@dataclass(frozen=True)
class Generation:
    """A completion's text with all that is needed to trace it.

    `adapter_sha256` is None for the base version; `token_count` includes the end-of-turn token.
    """

    text: str
    policy_version: str
    adapter_sha256: str | None
    sampling: SamplingParams
    seed: int
    finish_reason: FinishReason
    token_count: int


@dataclass(frozen=True)
class AdapterFolder:
    """An immutable adapter on disk, under the name of the policy version that it makes."""

    version: str
    path: Path
    sha256: str


@dataclass(frozen=True)
class SmokeReport:
    """What a version showed of itself before it may go live.

    `mean_kl` is the mean over the generated tokens of KL(version || reference), in nats; None
    where there is no other version to compare with, or its probabilities cannot be had.
    """

    version: str
    texts: tuple[str, ...]
    mean_kl: float | None


class Policy(Protocol):
    """A base model and the adapters loaded beside it. For one thread at a time."""

    @property
    def base_version(self) -> str:
        """The version without an adapter; always loaded."""

    @property
    def loaded_versions(self) -> tuple[str, ...]:
        """Every version that can generate now, the base first."""

    def load(self, adapter: AdapterFolder) -> None:
        """Make `adapter.version` ready beside the others, which are not touched.

        Raises BadInput for an adapter that cannot be used, Conflict for a name that is loaded.
        """

    def drop(self, version: str) -> None:
        """Free what a version occupies. Raises NotFound; Conflict for the base."""

    def generate(
        self, version: str, requests: Sequence[GenerationRequest], *, stop: StopSignal | None = None
    ) -> list[Generation]:
        """Complete all requests with one version, in order.

        Raises NotFound for a version that is not loaded, PromptTooLong, BadInput for a prompt that
        the model cannot take, MemoryError when the batch is too large, GenerationStopped.
        """

    def smoke(self, version: str, *, reference: str | None = None) -> SmokeReport:
        """Prove that a version generates. Raises BadInput when it does not."""


def adapter_sha256(folder: Path) -> str:
    """The identity of an adapter: a hash over its files' names and bytes, in order of name.

    Names are relative with forward slashes, so that a copied folder keeps its identity. Raises
    BadInput for a folder that is absent or empty.
    """
    files = sorted(
        (path.relative_to(folder).as_posix(), path) for path in folder.rglob("*") if path.is_file()
    )
    if not files:
        raise BadInput(
            "there is no adapter in {folder}; choose the folder that a run produced", folder=folder
        )
    total = hashlib.sha256()
    for name, path in files:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256")
        # A name cannot hold NUL and a digest has a fixed length: no two folders read the same.
        total.update(name.encode() + b"\0" + content.digest())
    return total.hexdigest()
