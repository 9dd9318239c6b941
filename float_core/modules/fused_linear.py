"""Linear layers by oneDNN on the CPU.

Torch hands float32 layers to MKL, which on CPUs that are not Intel's leaves half of AVX-512 unused
(AMD EPYC, one core, the transformer's shapes: 85 GFLOP/s, where oneDNN reaches 210), and half
precision ones to oneDNN only after the bias was copied into the result. The operator that torch's
own compiler writes for linear layers does neither.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PRECISIONS = (torch.float32, torch.bfloat16)


def fused_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Map (…, inputs) to (…, outputs), all in one precision.

    By oneDNN on x86 CPUs where no gradient is asked for, otherwise as `F.linear`.
    """
    suits = x.device.type == "cpu" and x.dtype == weight.dtype and x.dtype in PRECISIONS
    if suits and not torch.is_grad_enabled() and _has_operator(x.dtype):
        return _by_onednn(x, weight, bias)
    return F.linear(x, weight, bias)


def _by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    output: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return output


@cache
def _has_operator(dtype: torch.dtype) -> bool:
    """Return whether this torch has the operator and gets a product of this precision right.

    It is no public one: a release of torch may lack it, or ask for weights in another layout.
    """
    if not torch.backends.mkl.is_available():  # type: ignore[no-untyped-call]
        return False
    # Small whole numbers: exact in either precision, in whatever order they are added.
    values = (torch.arange(40, device="cpu") % 5 - 2).to(dtype)
    x, weight, bias = values[:12].view(3, 4), values[12:32].view(5, 4), values[32:37]
    with torch.inference_mode():
        expected = F.linear(x, weight, bias)
        try:
            return torch.equal(_by_onednn(x, weight, bias), expected)
        except (AttributeError, NotImplementedError, RuntimeError, TypeError):
            return False


class FusedLinear(nn.Linear):
    """Linear layer computed by `fused_linear`."""

    def __init__(self, layer: nn.Linear) -> None:
        """Take a layer's weights over."""
        with torch.device("meta"):
            super().__init__(layer.in_features, layer.out_features, layer.bias is not None)
        self.weight, self.bias = layer.weight, layer.bias
        self.train(layer.training)

    def forward(self, input: Tensor) -> Tensor:
        """Map (…, inputs) to (…, outputs)."""
        return fused_linear(input, self.weight, self.bias)


def fuse_linears(network: nn.Module) -> None:
    """Replace every plain linear layer inside a network by a `FusedLinear`, in place."""
    for name, child in network.named_children():
        if type(child) is nn.Linear:
            setattr(network, name, FusedLinear(child))
        else:
            fuse_linears(child)
