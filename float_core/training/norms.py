"""Batch norms that help the encoder learn and then vanish into its weights.

While poses are taught, a norm stands before each activation of the encoder and before its
coefficient layers. Being affine once the statistics stand still, they fold into the convolutions
and biases: what is left is the encoder as it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ..modules.motion_encoder import MotionEncoder
from ..modules.stylegan_ops import BiasedLeakyReLU, EqualisedConv2d, EqualisedLinear


def _activated(encoder: MotionEncoder) -> Iterator[tuple[EqualisedConv2d, BiasedLeakyReLU]]:
    """Yield each convolution that an activation follows, with that activation."""
    for module in encoder.modules():
        if isinstance(module, nn.Sequential) and len(module) > 1:
            conv, activation = module[-2], module[-1]
            if isinstance(conv, EqualisedConv2d) and isinstance(activation, BiasedLeakyReLU):
                yield conv, activation


def attach_norms(encoder: MotionEncoder) -> nn.ModuleList:
    """Put norms into an encoder by hooks.

    Args:
        encoder: The encoder; its own state does not change.

    Returns:
        The norms, to be trained and saved with it.
    """
    norms = nn.ModuleList()

    def put(norm: nn.Module, before: nn.Module) -> None:
        norms.append(norm)
        before.register_forward_pre_hook(lambda _module, inputs: (norm(inputs[0]),))

    for _, activation in _activated(encoder):
        put(nn.BatchNorm2d(activation.bias.shape[1]), activation)
    first = encoder.fc[0]
    assert isinstance(first, EqualisedLinear), "the coefficient layers are linear"
    put(nn.BatchNorm1d(first.weight.shape[1]), first)
    return norms


def _affine(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return factor and offset of a norm whose statistics stand still, (channels,) each."""
    assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d), "norms are attach_norms' own"
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None, "norms keep statistics"
    assert variance is not None, "norms keep statistics"
    factor = norm.weight / torch.sqrt(variance + norm.eps)
    return factor, norm.bias - mean * factor


@torch.no_grad()
def fold_norms(encoder: MotionEncoder, norms: nn.ModuleList) -> None:
    """Put norms into an encoder's weights, which then does without their hooks.

    Args:
        encoder: The encoder they were attached to, or one of the same shape and weights.
        norms: What `attach_norms` returned.
    """
    *inner, last = norms
    for (conv, activation), norm in zip(_activated(encoder), inner, strict=True):
        factor, offset = _affine(norm)
        conv.weight.mul_(factor[:, None, None, None])
        activation.bias.add_(offset[None, :, None, None])
    first = encoder.fc[0]
    assert isinstance(first, EqualisedLinear), "the coefficient layers are linear"
    factor, offset = _affine(last)
    first.bias.add_(first.weight @ offset / math.sqrt(first.weight.shape[1]))
    first.weight.mul_(factor)
