"""LoRA layers that multiply once: by the sum of the base's weight and the update.

PEFT's own layer multiplies by the base and by both factors of the update, scales, and adds. On a
processor, products that are as narrow as the rank run far below its speed, and every pass over an
output counts: on a small model they take as long again as half of the base's product. Making the
sum costs little where many tokens are multiplied by it, and where it is kept while a completion is
drawn, token by token.

The base's own weight is never touched: added and taken away again, an update would leave its
rounding behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.nn import Module
from torch.nn.functional import linear

# Up to so many bytes of sums are kept while completions are drawn.
MOST_KEPT = 64 * 2**20


class Factors(NamedTuple):
    """An update, `scaling` * up @ down: `down` is (rank, in), `up` is (out, rank)."""

    down: Tensor
    up: Tensor
    scaling: float


def multiply_once(model: Module) -> None:
    """Let the plain LoRA layers of a model compute so from now on; they stay what they were."""
    for module in model.modules():
        # A transposed weight, as GPT-2 has it, is left to PEFT.
        if type(module) is Linear and type(module.base_layer) is nn.Linear:
            module.__class__ = SummedLinear


@contextmanager
def sums_kept(model: Module) -> Iterator[None]:
    """Inside, the sums for the adapter that is active are made once, where they are small.

    For use while no other adapter is activated and none is changed.
    """
    layers = [module for module in model.modules() if isinstance(module, SummedLinear)]
    is_small = sum(layer.base_layer.weight.nbytes for layer in layers) <= MOST_KEPT
    try:
        for layer in layers if is_small else ():
            layer.keep_sum()
        yield
    finally:
        for layer in layers:
            layer.drop_sum()


class SummedLinear(Linear):  # type: ignore[misc]
    """PEFT's layer, for one plain active adapter in the base's own precision, if it is float32.

    What else is asked of it, PEFT's own code does.
    """

    _kept: Tensor | None = None

    def keep_sum(self) -> None:
        """Make the sum for the active adapter now, and use it until `drop_sum`."""
        if factors := self._factors():
            with torch.no_grad():
                self._kept = summed(self.base_layer.weight, factors)

    def drop_sum(self) -> None:
        """Follow the adapters again."""
        self._kept = None

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """`base(x) + scaling * up(down(x))`: (..., in) to (..., out)."""
        base, kept = self.base_layer, self._kept
        if kept is not None and not torch.is_grad_enabled():
            return linear(x, kept, base.bias)
        factors = self._factors()
        is_summed = kept is not None or (factors is not None and _is_worth_a_sum(x, factors))
        if factors is None or args or kwargs or not is_summed:
            whole: Tensor = super().forward(x, *args, **kwargs)
            return whole
        return _multiply(x, base.weight, base.bias, *factors, kept)

    def _factors(self) -> Factors | None:
        """The update of the adapter that is active; None where it is another thing than a sum."""
        active = self.active_adapters
        if self.disable_adapters or self.merged or len(active) != 1:
            return None
        (name,) = active
        if name not in self.lora_A or name in self.lora_variant or self.lora_bias[name]:
            return None
        factors = Factors(self.lora_A[name].weight, self.lora_B[name].weight, self.scaling[name])
        dtypes = {self.base_layer.weight.dtype, factors.down.dtype, factors.up.dtype}
        is_random = self.training and not isinstance(self.lora_dropout[name], nn.Identity)
        return None if is_random or dtypes != {torch.float32} else factors


def summed(weight: Tensor, factors: Factors) -> Tensor:
    """The weight (out, in) with the update in it."""
    return torch.addmm(weight, factors.up, factors.down, alpha=factors.scaling)


def _is_worth_a_sum(x: Tensor, factors: Factors) -> bool:
    """Whether there are so many tokens that making the sum takes less than it saves.

    Not on a GPU, which is kept from its work by the number of products, not by their shape.
    """
    width, height = factors.down.shape[1], factors.up.shape[0]
    return x.device.type == "cpu" and x[..., 0].numel() * (width + height) >= width * height


class _Multiply(torch.autograd.Function):
    """The product with the sum; gradients for the input and both factors, none for the weight."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
        scaling: float,
        kept: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, down, up)
        ctx.scaling, ctx.kept = scaling, kept
        whole = summed(weight, Factors(down, up, scaling)) if kept is None else kept
        return linear(x, whole, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        x, weight, down, up = ctx.saved_tensors
        by_x = by_down = by_up = None
        if ctx.needs_input_grad[0]:
            kept = ctx.kept
            whole = summed(weight, Factors(down, up, ctx.scaling)) if kept is None else kept
            by_x = gradient @ whole
        if ctx.needs_input_grad[3] or ctx.needs_input_grad[4]:
            flat, seen = gradient.flatten(0, -2), x.flatten(0, -2)
            by_down = ((flat @ up).t() @ seen).mul_(ctx.scaling)
            by_up = ((seen @ down.t()).t() @ flat).mul_(ctx.scaling).t()
        return by_x, None, None, by_down, by_up, None, None


_multiply: Callable[..., Tensor] = _Multiply.apply
