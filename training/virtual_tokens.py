"""Virtual tokens: the trained positions that prompt and prefix tuning put before every prompt.

PEFT's own `generate` lets prompt tuning count positions from the left edge, padding included, so
that a completion depends on its neighbours in the batch. Here padding takes no position.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class VirtualTokens:
    """Those of a PEFT model whose adapter is on; prefix tuning has only their keys and values."""

    _model: Any

    @classmethod
    def of(cls, model: Any) -> Self | None:
        """None for a model that has none, or whose adapter is switched off."""
        config = getattr(model, "active_peft_config", None)
        if config is None or not config.is_prompt_learning:
            return None
        return cls(model) if model.has_active_enabled_adapter else None

    @property
    def base(self) -> Any:
        """The model that they are put before; it knows nothing of them."""
        return self._model.get_base_model()

    @property
    def count(self) -> int:
        """How many of the model's positions they take."""
        count: int = self._model.active_peft_config.num_virtual_tokens
        return count

    def before(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> dict[str, Any]:
        """What `base.generate` takes for prompts (rows, tokens) that may be padded on the left.

        The mask covers the virtual tokens too, and positions follow from it. What is generated
        still begins after `input_ids`.
        """
        import torch

        rows = input_ids.shape[0]
        seen = attention_mask.new_ones(rows, self.count)
        inputs = {
            "input_ids": input_ids,
            "attention_mask": torch.cat([seen, attention_mask], dim=1),
        }
        trained = self._model.get_prompt(batch_size=rows)
        if not isinstance(trained, torch.Tensor):
            return inputs | {"past_key_values": trained}
        embedded = self._model.word_embeddings(input_ids)
        return inputs | {"inputs_embeds": torch.cat([trained.to(embedded.dtype), embedded], dim=1)}
