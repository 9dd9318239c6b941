"""Linear layers in half precision inside a network that stays float32."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .fused_linear import fused_linear


class HalfLinear(nn.Linear):
    """Linear layer whose product is in half precision and whose inputs and outputs are not.

    Norms, residual sums, softmax and modulation around it stay as precise as they were, which
    halves the error of a network cast as a whole and costs little: nearly all the time is in the
    products.
    """

    def __init__(self, layer: nn.Linear, dtype: torch.dtype) -> None:
        """Take a layer's weights over.

        Args:
            layer: The layer.
            dtype: Precision of weights and product.
        """
        with torch.device("meta"):
            super().__init__(layer.in_features, layer.out_features, layer.bias is not None)
        self.weight = nn.Parameter(layer.weight.detach().to(dtype), requires_grad=False)
        if layer.bias is not None:
            self.bias = nn.Parameter(layer.bias.detach().to(dtype), requires_grad=False)
        self.train(layer.training)

    def forward(self, input: Tensor) -> Tensor:
        """Map (…, inputs) to (…, outputs), in the input's precision."""
        return fused_linear(input.to(self.weight.dtype), self.weight, self.bias).to(input.dtype)


def halve_linears(network: nn.Module, dtype: torch.dtype) -> None:
    """Replace every linear layer inside a network by a `HalfLinear`.

    Args:
        network: The network, changed in place.
        dtype: A half precision.
    """
    for name, child in network.named_children():
        if isinstance(child, nn.Linear):
            setattr(network, name, HalfLinear(child, dtype))
        else:
            halve_linears(child, dtype)
