"""Linear layers by oneDNN against torch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from float_core.modules import fused_linear
from float_core.modules.half_linear import HalfLinear

DTYPES = {torch.float32: 1e-6, torch.bfloat16: 5e-3, torch.float64: 1e-14}


@pytest.fixture(autouse=True)
def fresh_answer():
    fused_linear._has_operator.cache_clear()
    yield
    fused_linear._has_operator.cache_clear()


def inputs(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (
        torch.randn(*shape, generator=generator) for shape in ((3, 7, 48), (40, 48), (40,))
    )
    return x.to(dtype), weight.to(dtype), bias.to(dtype)


class Operators(TorchDispatchMode):
    """Names of the operators that ran."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "take",
    [
        lambda x: x,
        lambda x: x[0, 0],
        lambda x: x[:, -2:],
        lambda x: x.transpose(0, 1),
        lambda x: x[:1, :1].expand(2, 3, -1),
        lambda x: x[:0],
    ],
    ids=["whole", "one row", "part", "transposed", "expanded", "empty"],
)
@torch.no_grad()
def test_equals_torchs_layer(dtype: torch.dtype, take) -> None:
    x, weight, bias = inputs(dtype)
    for b in (bias, None):
        expected = F.linear(take(x), weight, b)
        actual = fused_linear.fused_linear(take(x), weight, b)
        assert actual.shape == expected.shape
        assert actual.dtype == dtype
        assert (actual - expected).norm() <= DTYPES[dtype] * expected.norm()


@torch.no_grad()
def test_the_operator_is_used_where_it_works() -> None:
    if not fused_linear._has_operator(torch.float32):
        pytest.skip("this torch has no linear layer by oneDNN")
    arguments = inputs(torch.float32)
    with Operators() as operators:
        fused_linear.fused_linear(*arguments)
    assert operators.names == ["mkldnn._linear_pointwise.default"]


def test_gradients_flow() -> None:
    x, weight, bias = inputs(torch.float32)
    weight.requires_grad_(True)
    fused_linear.fused_linear(x, weight, bias).sum().backward()
    torch.testing.assert_close(weight.grad, x.sum((0, 1)).expand(40, -1))


@pytest.mark.parametrize(
    "broken",
    [AttributeError("gone"), RuntimeError("another layout"), TypeError("other arguments"), None],
    ids=["gone", "refuses", "other arguments", "wrong"],
)
@torch.no_grad()
def test_an_operator_that_does_not_work_is_not_used(monkeypatch, broken) -> None:
    def call(x, weight, bias):
        if broken:
            raise broken
        return F.linear(x, weight, bias) + 1

    monkeypatch.setattr(fused_linear, "_by_onednn", call)
    arguments = inputs(torch.float32)
    assert torch.equal(fused_linear.fused_linear(*arguments), F.linear(*arguments))


def test_layers_are_replaced_with_their_weights() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.ModuleList([nn.Linear(4, 2, bias=False)]))
    network.append(HalfLinear(nn.Linear(2, 2), torch.bfloat16))
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    fused_linear.fuse_linears(network)
    assert isinstance(network[0], fused_linear.FusedLinear)
    assert isinstance(network[1][0], fused_linear.FusedLinear)
    assert type(network[2]) is HalfLinear
    assert network.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    x = torch.randn(5, 3)
    with torch.no_grad():
        torch.testing.assert_close(network[0](x), F.linear(x, state["0.weight"], state["0.bias"]))
