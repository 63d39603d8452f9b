"""What a run is asked to do: the spec that a run directory holds.

Imports no ML library, and knows nothing of the store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from training.methods import method_named
from training.options import MethodOptions, SpecError

SCHEMA_VERSION = 2
DATA = "data/rows.parquet"
EVAL_PROMPTS = "data/eval_prompts.jsonl"
GENERAL = "data/general.parquet"


@dataclass(frozen=True)
class RunSpec:
    """All that a trainer is told; `spec.json` of a run directory.

    `base_model`, `parent_adapter` and `reward_model` are folders on this machine; `parent_adapter`
    is None when the parent is the base model itself. A `reward_model` scores the result, also where
    the method does not learn from it; a `watch_model` is another one, trained on none of its
    judgments, that only looks on. `agreement` is the share in which two people who preferred a
    response of the same pair preferred the same one, over `agreement_pairs` pairs: what a reward
    model's accuracy is held against; None where nobody judged what somebody else did. `data` (a
    snapshot in the columns of what the method learns from) and `eval_prompts` are relative to the
    run directory, which may hold general demonstrations as well, at `GENERAL`. `threads` are torch
    threads.
    """

    run_id: str
    method: str
    options: MethodOptions
    base_model: str
    parent_version: str
    parent_adapter: str | None = None
    reward_model: str | None = None
    watch_model: str | None = None
    agreement: float | None = None
    agreement_pairs: int = 0
    data: str = DATA
    eval_prompts: str = EVAL_PROMPTS
    seed: int = 0
    threads: int = 1
    schema_version: int = SCHEMA_VERSION

    def validate(self) -> None:
        """Raises `SpecError` naming the field, its value and what would do."""
        method = method_named(self.method)
        if not isinstance(self.options, method.options):
            raise SpecError(
                "options",
                type(self.options).__name__,
                "{method} takes {options}",
                method=self.method,
                options=method.options.__name__,
            )
        method.options.parsed(asdict(self.options))
        if self.schema_version != SCHEMA_VERSION:
            raise SpecError(
                "schema_version",
                self.schema_version,
                "this version of Whetstone reads specs of version {version}",
                version=SCHEMA_VERSION,
            )
        if method.needs_reward_model and not self.reward_model:
            raise SpecError(
                "reward_model", "", "{method} needs one; train it first", method=self.method
            )
        if not 1 <= self.threads <= 256:
            raise SpecError("threads", self.threads, "must lie between 1 and 256")
        if not 0 <= self.seed < 2**32:
            raise SpecError("seed", self.seed, "must lie between 0 and {most}", most=2**32 - 1)
        for name in ("run_id", "base_model", "parent_version", "data", "eval_prompts"):
            if not getattr(self, name):
                raise SpecError(name, "", "must not be empty")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` turns them back into an equal spec."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Raises `SpecError` for a missing, unknown or unusable field."""
        known = {f.name for f in fields(cls)}
        for name in values:
            if name not in known:
                raise SpecError(name, values[name], "unknown field")
        method = method_named(str(values.get("method")))
        options = method.options.parsed(values.get("options", {}))
        try:
            spec = cls(**{**values, "options": options})
        except TypeError as error:
            raise SpecError("spec", sorted(values), "{error}", error=str(error)) from error
        spec.validate()
        return spec


def worker_environment(threads: int) -> dict[str, str]:
    """What a trainer's environment must hold before it imports torch: no hub, no telemetry.

    Telemetry is what libraries tell their makers; where a tracker sends metrics is left to people.
    """
    return {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "GRADIO_ANALYTICS_ENABLED": "False",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "WANDB_ERROR_REPORTING": "false",
        "HF_DATASETS_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "warning",
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "passive",
        "CUDA_VISIBLE_DEVICES": "0",
    }
