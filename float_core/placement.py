"""Bringing values to where a network lies, in its precision, and back to full precision."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def like(network: nn.Module, value: Tensor) -> Tensor:
    """Bring a value to a network's device and precision."""
    parameter = next(network.parameters())
    return value.to(parameter.device, parameter.dtype)


def precise(value: Tensor) -> Tensor:
    """Return a value in float32 or better."""
    return value.to(torch.promote_types(value.dtype, torch.float32))
