"""PPO's LoRA layers: PEFT's numbers, by fewer products."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear
from torch import Tensor, nn

from training.worker.ppo import lora
from training.worker.ppo.lora import SummedLinear, multiply_once, sums_kept

WIDTH, HEIGHT, MANY, FEW = 12, 20, 40, 3


class Net(nn.Module):
    """A linear layer with a bias, and one without."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(WIDTH, HEIGHT)
        self.second = nn.Linear(HEIGHT, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Tensor = self.second(self.first(x).tanh())
        return hidden


def build(**config: Any) -> PeftModel:
    torch.manual_seed(0)
    asked = LoraConfig(r=4, lora_alpha=8, target_modules=["first", "second"], **config)
    model = get_peft_model(Net(), asked)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    return model


def tokens(count: int) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, count, WIDTH, requires_grad=True)


def found(model: PeftModel, x: Tensor) -> dict[str, Tensor]:
    """The output, and the gradients of the input and of each weight that takes one."""
    model.zero_grad()
    x.grad = None
    output = model(x)
    output.square().sum().backward()
    learned = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    assert x.grad is not None
    return {"output": output.detach(), "input": x.grad.clone(), **learned}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-4, atol=1e-4, msg=name)


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the sums that are made."""
    made: list[int] = []
    make = lora.summed

    def counted(*given: Any) -> Tensor:
        made.append(1)
        return make(*given)

    monkeypatch.setattr(lora, "summed", counted)
    return made


@pytest.mark.parametrize("count", [MANY, FEW])
def test_outputs_and_gradients_are_those_of_peft(count: int, products: list[int]) -> None:
    model, x = build(), tokens(count)
    expected = found(model, x)
    assert len(expected) == 6
    multiply_once(model)
    assert_same(found(model, x), expected)
    # There and back, for both layers; for a few tokens a sum is not worth making.
    assert len(products) == (4 if count == MANY else 0)


def test_layers_stay_what_they_were() -> None:
    model = build()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    multiply_once(model)
    layers = [module for module in model.modules() if isinstance(module, Linear)]
    assert {type(layer) for layer in layers} == {SummedLinear}
    with sums_kept(model), torch.no_grad():
        model(tokens(MANY))
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_the_adapter_that_is_active_counts(products: list[int]) -> None:
    model, x = build(), tokens(MANY)
    model.add_adapter("other", LoraConfig(r=2, target_modules=["first"], init_lora_weights=False))
    multiply_once(model)
    plain = Net()
    plain.load_state_dict(
        {
            name.replace("base_model.model.", "").replace("base_layer.", ""): value
            for name, value in model.state_dict().items()
            if "lora_" not in name
        }
    )
    with torch.no_grad():
        default = model(x)
        model.set_adapter("other")
        other = model(x)
        assert len(products) == 3  # the other adapter has no update of the second layer
        with model.disable_adapter():
            torch.testing.assert_close(model(x), plain(x))
        model.base_model.set_adapter(["default", "other"])
        both = model(x)
        assert len(products) == 3  # where two are active at once, all is PEFT's business
    assert not torch.allclose(default, other)
    assert not torch.allclose(both, default)


def test_a_sum_is_kept_for_however_few_tokens_and_then_forgotten(products: list[int]) -> None:
    model, x = build(), tokens(FEW)
    multiply_once(model)
    with torch.no_grad():
        expected = model(x)
        with sums_kept(model):
            assert len(products) == 2
            for _ in range(3):
                torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-4)
            assert len(products) == 2
        model.get_submodule("base_model.model.first").lora_B["default"].weight.add_(1.0)
        assert not torch.allclose(model(x), expected)


def test_what_learns_by_kept_sums_learns_the_same(products: list[int]) -> None:
    model = build()
    multiply_once(model)
    for count in (MANY, FEW):
        x = tokens(count)
        expected = found(model, x)
        with sums_kept(model):
            products.clear()
            assert_same(found(model, x), expected)
            assert products == []


def test_a_large_model_keeps_no_sums(products: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    model = build()
    multiply_once(model)
    monkeypatch.setattr(lora, "MOST_KEPT", 100)
    with sums_kept(model), torch.no_grad():
        model(tokens(FEW))
    assert products == []


@pytest.mark.parametrize(
    "config", [{"use_dora": True}, {"lora_bias": True}, {"lora_dropout": 0.5}], ids=str
)
def test_what_is_more_than_a_sum_is_left_to_peft(
    config: dict[str, Any], products: list[int]
) -> None:
    model, x = build(**config), tokens(MANY)
    torch.manual_seed(2)
    expected = found(model, x)
    multiply_once(model)
    torch.manual_seed(2)
    assert_same(found(model, x), expected)
    with sums_kept(model):
        assert products == []


def test_half_precision_is_left_to_peft(products: list[int]) -> None:
    model = build()
    model.get_base_model().to(torch.bfloat16)
    multiply_once(model)
    with torch.no_grad():
        model(tokens(MANY).bfloat16())
    assert products == []


def test_without_dropout_in_use_a_sum_will_do(products: list[int]) -> None:
    model, x = build(lora_dropout=0.5).eval(), tokens(MANY)
    expected = found(model, x)
    multiply_once(model)
    assert_same(found(model, x), expected)
    assert len(products) == 4
