"""The models of PPO over one frozen base: policy, reference, reward model, value function, and
perhaps a second reward model that looks on.

Each is a LoRA adapter of its own (the reference of a fresh policy is no adapter at all), the last
three with a linear head on the hidden states. Which adapter is active is state of the whole base:
methods here leave the policy active, and a backward pass belongs into the same `learning` block as
its forward pass, because gradient checkpointing recomputes with whatever is active by then.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, PeftModel
from peft.utils import load_peft_weights
from torch import Tensor, nn
from torch.nn import Parameter
from torch.nn.functional import cross_entropy
from transformers.modeling_layers import GradientCheckpointingLayer

from training.costs import INNER, rows_at_once
from training.methods.reward import Pooling
from training.tuning import LOW_RANK, tuning_of
from training.worker import models
from training.worker.failures import ModelUnusable
from training.worker.models import Trainee
from training.worker.ppo.lora import multiply_once
from training.worker.ppo.packing import can_pack, packed, places
from training.worker.ppo.tokens import ClosedUp, Tokens
from training.worker.scoring import Scale, pooling_weights

POLICY = models.ADAPTER
REWARD = "reward"
VALUE = "value"
WATCH = "watch"


class Observed(NamedTuple):
    """Completions under a policy, (rows, completion): log-probability of each token, and entropy of
    the distribution that it was drawn from, in nats; both 0 at padding."""

    log_probs: Tensor
    entropy: Tensor


class SharedBase:
    """A policy to train, its reference, and a value function, perhaps with a reward model."""

    def __init__(
        self,
        trainee: Trainee,
        *,
        reward_folder: Path | None,
        watch_folder: Path | None = None,
        gradient_checkpointing: bool = False,
    ) -> None:
        """The value function starts as the reward model, or at 0 everywhere without one.

        `watch_folder` is that of the reward model that only looks on.

        Raises `ModelUnusable` for a folder that is no reward model of the trainee's base.
        """
        self.trainee = trainee
        self.model: PeftModel = trainee.model.eval()
        model = self.model
        if gradient_checkpointing:
            model.get_base_model().activation_checkpointing_enable({"use_reentrant": False})
        self.value_head = _head(model)
        self._scoring_heads = {REWARD: _head(model), WATCH: _head(model)}
        self._poolings: dict[str, Pooling] = {}
        if reward_folder is None:
            model.add_adapter(VALUE, deepcopy(model.peft_config[POLICY]))
        else:
            _load_scoring_adapter(model, reward_folder, VALUE, self.value_head)
            self._load_scoring(reward_folder, REWARD)
        if watch_folder is not None:
            self._load_scoring(watch_folder, WATCH)
        multiply_once(model)
        model.set_adapter(POLICY)
        self.packs = can_pack(model.get_base_model())
        # In fewer digits, what a token's probability was depends on how it was computed.
        is_quantized = getattr(model.get_base_model(), "is_quantized", False)
        self.is_exact = model.dtype == torch.float32 and not is_quantized

    def _load_scoring(self, folder: Path, name: str) -> None:
        head = self._scoring_heads[name]
        self._poolings[name] = _load_scoring_adapter(self.model, folder, name, head)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.model.device
        return device

    def policy_parameters(self) -> list[Parameter]:
        """What the policy's optimiser moves."""
        return _parameters_of(self.model, POLICY)

    def value_parameters(self) -> list[Parameter]:
        """What the value function's optimiser moves: its adapter and its head."""
        return [*_parameters_of(self.model, VALUE), *self.value_head.parameters()]

    @contextmanager
    def learning(self, name: str) -> Iterator[None]:
        """Inside, `name` is active and takes gradients, recomputing layers where that is asked."""
        layers = [m for m in self.model.modules() if isinstance(m, GradientCheckpointingLayer)]
        # A layer in training mode is recomputed; what it is made of, dropout too, stays as it is.
        _set_training(layers, True)
        try:
            with self._active(name), self._reading():
                yield
        finally:
            _set_training(layers, False)

    def batches(self, tokens: Tokens, rows: Sequence[int], size: int) -> list[list[int]]:
        """Rows to be read together, at most `size` at a time."""
        return (tokens.even_batches if self.packs else tokens.batches)(rows, size)

    def rows_at_once(self, tokens: Tokens, *, has_head: bool) -> int:
        """For a pass without gradients, that ends in what each token could be, or in a number."""
        config = self.model.get_base_model().config.get_text_config()
        width = config.vocab_size if has_head else INNER * config.hidden_size
        return rows_at_once(width, int(tokens.attention.sum(dim=1).max()))

    def policy_log_probs(self, tokens: Tokens) -> Tensor:
        """Each completion token under the active policy, (rows, completion), 0 at padding."""
        return _log_probs(self._logits(tokens), tokens)

    @torch.no_grad()
    def observe_policy(self, tokens: Tokens) -> Observed:
        """The same without a gradient, and how sure the policy was."""
        logits = self._logits(tokens)
        return Observed(_log_probs(logits, tokens), tokens.spread(_entropy(logits)))

    @torch.no_grad()
    def reference_log_probs(self, tokens: Tokens) -> Tensor:
        """Each completion token under the reference, (rows, completion)."""
        with self.trainee.reference():
            return self.policy_log_probs(tokens)

    @torch.no_grad()
    def rewards(self, tokens: Tokens, model: str = REWARD) -> Tensor:
        """A reward model's score of each completion, read where the model was trained to, (rows,).

        In standard deviations from the mean of the reward run's held-out responses. `model` is
        `REWARD` or `WATCH`.
        """
        with self._active(model):
            said = self._head_of_each(tokens, self._scoring_heads[model], ahead=0)
        weights = pooling_weights(tokens.mask, self._poolings[model])
        scores: Tensor = (said * weights).sum(dim=1)
        return scores

    @torch.no_grad()
    def values(self, tokens: Tokens) -> Tensor:
        """The value before each completion token is drawn, (rows, completion)."""
        with self._active(VALUE):
            return self.active_values(tokens)

    def active_values(self, tokens: Tokens) -> Tensor:
        """The same inside of `learning(VALUE)`."""
        return self._head_of_each(tokens, self.value_head, ahead=1)

    def state(self) -> dict[str, Tensor]:
        """All weights that training moves."""
        return {name: p.detach().clone() for name, p in self._learned().items()}

    @torch.no_grad()
    def load_state(self, state: dict[str, Tensor]) -> None:
        """Put back what `state` gave."""
        for name, parameter in self._learned().items():
            parameter.copy_(state[name])

    def _learned(self) -> dict[str, Parameter]:
        adapters = {
            name: parameter
            for name, parameter in self.model.named_parameters()
            if _belongs_to(name, POLICY) or _belongs_to(name, VALUE)
        }
        head = {f"value_head.{name}": p for name, p in self.value_head.named_parameters()}
        return {**adapters, **head}

    def _logits(self, tokens: Tokens) -> Tensor:
        """Scores of what each of the completions' own tokens could have been, row by row:
        (tokens, vocabulary)."""
        closed = self._close_up(tokens)

        def keep_needed(_: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
            # Of each row other columns: what the library can leave out, it leaves out of all rows.
            return (given[0].flatten(0, 1).index_select(0, closed.places - 1)[None],)

        head = self.model.get_base_model().get_output_embeddings()
        with head.register_forward_pre_hook(keep_needed):
            logits: Tensor = self._read(self.model, closed).logits
        return logits[0].float()

    def _head_of_each(self, tokens: Tokens, head: nn.Linear, *, ahead: int) -> Tensor:
        """What a head says of the hidden state so many tokens ahead of each of the completions'
        own, with the active adapter: (rows, completion)."""
        causal = self.model.get_base_model()
        closed = self._close_up(tokens)
        backbone = getattr(causal, causal.base_model_prefix)
        hidden = self._read(backbone, closed).last_hidden_state.flatten(0, 1)
        return tokens.spread(head(hidden.index_select(0, closed.places - ahead).float())[:, 0])

    def _close_up(self, tokens: Tokens) -> ClosedUp:
        return tokens.pack() if self.packs else tokens.close_up()

    def _read(self, model: nn.Module, closed: ClosedUp) -> Any:
        if not self.packs:
            return model(input_ids=closed.ids, use_cache=False)
        with self._reading():
            return model(
                input_ids=closed.ids,
                position_ids=places(closed.row_lengths),
                row_lengths=closed.row_lengths,
                use_cache=False,
            )

    def _reading(self) -> AbstractContextManager[None]:
        """What is recomputed in a backward pass must be read as it was before."""
        return packed(self.model.get_base_model()) if self.packs else nullcontext()

    @contextmanager
    def _active(self, name: str) -> Iterator[None]:
        self.model.set_adapter(name)
        try:
            yield
        finally:
            self.model.set_adapter(POLICY)


def _log_probs(logits: Tensor, tokens: Tokens) -> Tensor:
    drawn = tokens.ids[:, tokens.prompt_width :][tokens.mask.bool()]
    return tokens.spread(-cross_entropy(logits, drawn, reduction="none"))


def _entropy(logits: Tensor) -> Tensor:
    log_probs = logits.log_softmax(dim=1)
    entropy: Tensor = -torch.linalg.vecdot(log_probs.exp(), log_probs)
    return entropy


def _head(model: PeftModel) -> nn.Linear:
    """A linear map of a hidden state to a number, 0 for all of them."""
    width = model.get_base_model().config.get_text_config().hidden_size
    head = nn.Linear(width, 1, device=model.device, dtype=torch.float32)
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    return head


def _load_scoring_adapter(model: PeftModel, folder: Path, name: str, head: nn.Linear) -> Pooling:
    """Load a reward run's adapter under a name, and its head, made to give standardised scores.

    Returns which tokens its scores are read at. Raises `ModelUnusable`.
    """
    if tuning_of(folder) not in LOW_RANK:
        raise ModelUnusable(
            "The reward model in {folder} is no low-rank adapter, which PPO needs. Train one with "
            "LoRA.",
            folder=folder,
        )
    try:
        mean, sd, pooling = Scale.read(folder)
        config = LoraConfig.from_pretrained(folder)
        weights = load_peft_weights(str(folder), device="cpu")
        found = model.load_adapter(folder, adapter_name=name, torch_device=str(model.device))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelUnusable(
            "{folder} cannot be loaded: {error}", folder=folder, error=error
        ) from error
    heads = [key for key in weights if key.endswith("score.weight")]
    strangers = [key for key in found.unexpected_keys if not key.endswith("score.weight")]
    if config.task_type != "SEQ_CLS" or len(heads) != 1:
        raise ModelUnusable("{folder} holds no reward model: it has no score head.", folder=folder)
    if found.missing_keys or strangers or weights[heads[0]].shape != head.weight.shape:
        raise ModelUnusable(
            "The reward model in {folder} belongs to another base model.", folder=folder
        )
    with torch.no_grad():
        head.weight.copy_(weights[heads[0]] / sd)
        head.bias.fill_(-mean / sd)
    return pooling


def _parameters_of(model: PeftModel, adapter: str) -> list[Parameter]:
    return [p for name, p in model.named_parameters() if _belongs_to(name, adapter)]


def _belongs_to(name: str, adapter: str) -> bool:
    return adapter in name.split(".") and "lora_" in name


def _set_training(layers: Sequence[Any], is_training: bool) -> None:
    for layer in layers:
        layer.training = is_training
