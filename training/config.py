"""What a run is asked to do: methods, their options, and the spec that a run directory holds.

One definition of an option (default, bounds, choices, label, help) feeds the command line, the form
in the browser and the JSON on disk. Imports no ML library, and knows nothing of the store.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from enum import StrEnum
from typing import Any, ClassVar, NamedTuple, Self

from training.messages import Message, MessageError

SCHEMA_VERSION = 1
PREFERENCES = "data/preferences.parquet"
EVAL_PROMPTS = "data/eval_prompts.jsonl"


class SpecError(MessageError, ValueError):
    """A field of a run's spec that cannot be used; names the field, its value and what would do."""

    def __init__(self, field: str, value: object, problem: str, /, **values: object) -> None:
        self.field = field
        self.value = value
        self.problem = Message(problem, values)
        shown = value if isinstance(value, int | float | str) else repr(value)
        super().__init__(
            "{field} = {value!r}: {problem}", field=field, value=shown, problem=self.problem
        )


class OptionField(NamedTuple):
    """All that a form, a command line or a check needs to know about one option."""

    name: str
    type: type[bool] | type[int] | type[float] | type[str]
    default: bool | int | float | str
    label: str
    help: str
    minimum: float | None
    maximum: float | None
    choices: tuple[str, ...]

    def parse(self, value: object) -> bool | int | float | str:
        """The value in its own type, from JSON, a form or a command line. Raises `SpecError`."""
        parsed = self._typed(value)
        if self.choices and parsed not in self.choices:
            raise SpecError(
                self.name, value, "choose one of {choices}", choices=", ".join(self.choices)
            )
        if not isinstance(parsed, str):
            self._check_bounds(parsed)
        return parsed

    def _typed(self, value: object) -> bool | int | float | str:
        if self.type is str:
            return str(value)
        if self.type is bool:
            return self._truth(value)
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise SpecError(self.name, value, "give a number")
        try:
            number = float(value)
        except ValueError:
            raise SpecError(self.name, value, "give a number") from None
        if not math.isfinite(number):
            raise SpecError(self.name, value, "give a finite number")
        if self.type is float:
            return number
        if not number.is_integer():
            raise SpecError(self.name, value, "give a whole number")
        return int(number)

    def _truth(self, value: object) -> bool:
        known = {"true": True, "false": False}
        if str(value).lower() not in known:
            raise SpecError(self.name, value, "give true or false")
        return known[str(value).lower()]

    def _check_bounds(self, number: float) -> None:
        too_low = self.minimum is not None and number < self.minimum
        too_high = self.maximum is not None and number > self.maximum
        if too_low or too_high:
            raise SpecError(
                self.name,
                number,
                "must lie between {minimum:g} and {maximum:g}",
                minimum=self.minimum,
                maximum=self.maximum,
            )


def option(
    default: bool | int | float | str,
    *,
    label: str,
    help: str,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A dataclass field that carries all there is to say about an option. Bounds are inclusive."""
    metadata = {
        "label": label,
        "help": help,
        "minimum": minimum,
        "maximum": maximum,
        "choices": choices,
    }
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class MethodOptions:
    """Base of every method's options."""

    @classmethod
    def described(cls) -> tuple[OptionField, ...]:
        """The options in the order of the form."""
        defaults: list[tuple[Field[Any], Any]] = [(f, f.default) for f in fields(cls)]
        return tuple(
            OptionField(name=f.name, type=type(default), default=default, **f.metadata)
            for f, default in defaults
        )

    @classmethod
    def parsed(cls, values: Mapping[str, object]) -> Self:
        """Options from JSON, a form or a command line; what is not given keeps its default.

        Raises `SpecError` for an unknown name, a wrong type, a value out of bounds, or values
        that do not go together.
        """
        known = {f.name: f for f in cls.described()}
        for name, value in values.items():
            if name not in known:
                raise SpecError(
                    name, value, "unknown option; known are {known}", known=", ".join(known)
                )
        options = cls(**{name: known[name].parse(value) for name, value in values.items()})
        options.check_together()
        return options

    @classmethod
    def preset(cls, pairs: int, *, parameters: int | None) -> Self:  # noqa: ARG003
        """Defaults for this many pairs and model parameters; a method may not mind either."""
        return cls()

    def check_together(self) -> None:
        """Refuse values that are fine one by one and senseless together. Raises `SpecError`."""


class LossType(StrEnum):
    """Losses of the DPO family, by the names that TRL gives them."""

    SIGMOID = "sigmoid"
    ROBUST = "robust"
    IPO = "ipo"
    HINGE = "hinge"
    APO_ZERO = "apo_zero"


@dataclass(frozen=True)
class DPOOptions(MethodOptions):
    """Direct Preference Optimisation (Rafailov et al. 2023) with a LoRA adapter."""

    learning_rate: float = option(
        5e-4,
        minimum=1e-7,
        maximum=0.1,
        label="Learning rate",
        help="Peak step size of AdamW. The preset follows the size of the model and of the data: "
        "some 3e-3 for the bundled one, 2e-5 for 7B. Lower it when the loss jumps.",
    )
    epochs: int = option(
        3,
        minimum=1,
        maximum=50,
        label="Epochs",
        help="How often every pair is seen. A large set needs fewer; watch the held-out loss for "
        "memorising.",
    )
    beta: float = option(
        0.1,
        minimum=0.001,
        maximum=10.0,
        label="Beta",
        help="Pull towards the reference policy: higher stays closer to it.",
    )
    loss_type: str = option(
        LossType.SIGMOID.value,
        choices=tuple(loss.value for loss in LossType),
        label="Loss",
        help="sigmoid is DPO; robust assumes that some judgments are flipped; ipo and hinge resist "
        "overfitting; apo_zero raises the chosen and lowers the rejected response.",
    )
    label_smoothing: float = option(
        0.0,
        minimum=0.0,
        maximum=0.49,
        label="Flipped judgments",
        help="Share of judgments believed to be the wrong way round; used by the robust loss only.",
    )
    sft_weight: float = option(
        0.0,
        minimum=0.0,
        maximum=10.0,
        label="Chosen likelihood weight",
        help="Adds this much of the plain likelihood loss of the chosen response; 0.1 to 1 keeps "
        "its likelihood from falling.",
    )
    batch_size: int = option(
        16,
        minimum=1,
        maximum=512,
        label="Batch size",
        help="Pairs in one forward pass; lower it when memory runs out.",
    )
    gradient_accumulation: int = option(
        1,
        minimum=1,
        maximum=256,
        label="Gradient accumulation",
        help="Batches per optimiser step; raise it when you lower the batch size.",
    )
    max_length: int = option(
        512,
        minimum=16,
        maximum=131072,
        label="Longest pair",
        help="Tokens of prompt and response together; longer pairs are left out and counted.",
    )
    warmup: float = option(
        0.1,
        minimum=0.0,
        maximum=0.5,
        label="Warm-up",
        help="Share of the steps over which the learning rate rises to its peak.",
    )
    eval_share: float = option(
        0.15,
        minimum=0.0,
        maximum=0.5,
        label="Held-out share",
        help="About this share of the conversations is kept out of training, to measure the "
        "result. They stay the same from run to run while the share does.",
    )
    lora_r: int = option(
        16,
        minimum=1,
        maximum=256,
        label="LoRA rank",
        help="Size of a fresh adapter; a run that continues from an adapter keeps that one's rank.",
    )
    lora_alpha: int = option(
        32,
        minimum=1,
        maximum=1024,
        label="LoRA alpha",
        help="Scale of a fresh adapter; twice the rank is usual.",
    )
    weight_decay: float = option(
        0.0,
        minimum=0.0,
        maximum=1.0,
        label="Weight decay",
        help="Shrinks the adapter at every step.",
    )
    max_grad_norm: float = option(
        1.0,
        minimum=0.01,
        maximum=100.0,
        label="Gradient clip",
        help="Longest gradient that one step may follow.",
    )
    gradient_checkpointing: bool = option(
        False,
        label="Gradient checkpointing",
        help="Saves memory on large models; each step takes about a third longer.",
    )
    save_steps: int = option(
        50,
        minimum=1,
        maximum=100000,
        label="Checkpoint every",
        help="Optimiser steps between checkpoints, from which an interrupted run resumes.",
    )
    eval_generations: int = option(
        48,
        minimum=0,
        maximum=1000,
        label="Test prompts",
        help="Held-out prompts answered by the old and the new policy after training.",
    )
    sample_tokens: int = option(
        128,
        minimum=1,
        maximum=4096,
        label="Test response length",
        help="Longest response, in tokens, to a test prompt.",
    )

    SMALL: ClassVar[int] = 200
    LARGE: ClassVar[int] = 1000

    @classmethod
    def preset(cls, pairs: int, *, parameters: int | None) -> Self:
        """Defaults for this many pairs: the fewer there are, the gentler and the more often."""
        rate = suggested_learning_rate(parameters)
        if pairs < cls.SMALL:
            return cls(learning_rate=_rounded(0.75 * rate), epochs=5, batch_size=8)
        if pairs <= cls.LARGE:
            return cls(learning_rate=rate, epochs=3, batch_size=16)
        return cls(learning_rate=_rounded(1.25 * rate), epochs=2, batch_size=32)

    def check_together(self) -> None:
        if self.label_smoothing > 0 and self.loss_type != LossType.ROBUST:
            raise SpecError(
                "label_smoothing",
                self.label_smoothing,
                "has no effect on the {loss} loss; choose robust, or set it to 0",
                loss=self.loss_type,
            )
        if self.label_smoothing == 0 and self.loss_type == LossType.ROBUST:
            raise SpecError(
                "label_smoothing",
                self.label_smoothing,
                "the robust loss needs the share of flipped judgments; 0.1 is usual",
            )


def suggested_learning_rate(parameters: int | None) -> float:
    """Peak step size for LoRA on a model of that many parameters; None where it is not known.

    A power law through two points: 3e-3, measured on the bundled model of 2.6 M (1e-3 hardly moves
    it, 1e-2 wrecks it), and 2e-5, usual for 7 B.
    """
    if parameters is None:
        return 5e-5
    slope = math.log(3e-3 / 2e-5) / math.log(7e9 / 2.6e6)
    return _rounded(min(3e-3, 3e-3 * (parameters / 2.6e6) ** -slope))


def _rounded(rate: float) -> float:
    """Two significant digits, as a person would write it."""
    return float(f"{rate:.1e}")


class Method(NamedTuple):
    """A way to train. `recipe` is the module, in the worker, whose `train(job)` does it."""

    name: str
    label: str
    options: type[MethodOptions]
    recipe: str
    makes_adapter: bool


METHODS: Mapping[str, Method] = {
    m.name: m for m in (Method("dpo", "DPO", DPOOptions, "training.worker.dpo", True),)
}


def method_named(name: str) -> Method:
    """Raises `SpecError`."""
    if name not in METHODS:
        raise SpecError("method", name, "choose one of {choices}", choices=", ".join(METHODS))
    return METHODS[name]


@dataclass(frozen=True)
class RunSpec:
    """All that a trainer is told; `spec.json` of a run directory.

    `base_model` and `parent_adapter` are folders on this machine; `parent_adapter` is None when the
    parent is the base model itself. `preferences` and `eval_prompts` are relative to the run
    directory. `threads` are torch threads.
    """

    run_id: str
    method: str
    options: MethodOptions
    base_model: str
    parent_version: str
    parent_adapter: str | None = None
    tuning: str = "lora"
    preferences: str = PREFERENCES
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
        if self.tuning != "lora":
            raise SpecError("tuning", self.tuning, "choose lora")
        if not 1 <= self.threads <= 256:
            raise SpecError("threads", self.threads, "must lie between 1 and 256")
        if not 0 <= self.seed < 2**32:
            raise SpecError("seed", self.seed, "must lie between 0 and {most}", most=2**32 - 1)
        for name in ("run_id", "base_model", "parent_version", "preferences", "eval_prompts"):
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
    """What a trainer's environment must hold before it imports torch: no hub, no telemetry."""
    return {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "warning",
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "passive",
        "CUDA_VISIBLE_DEVICES": "0",
    }
