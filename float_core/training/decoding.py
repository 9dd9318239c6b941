"""The motion decoder in the form that trains fast, with the flows it found.

Equals `modules.motion_decoder` (a test compares them). There each sample has its own weight; here
the style goes on the input and the demodulation on the output, so that one weight serves a batch
and gradients flow through plain convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..modules.motion_decoder import MotionDecoder, StyledConv, identity_grid
from ..modules.stylegan_ops import DEMODULATION_EPS, ModulatedConv2d, blur, upsample


@dataclass(frozen=True, slots=True)
class Decoded:
    """What the decoder made of a batch.

    Attributes:
        image: RGB, nominally in [-1, 1], (batch, 3, S, S).
        grids: Sampling positions in the source at sides 8, 16, … S, each (batch, side, side, 2).
    """

    image: Tensor
    grids: tuple[Tensor, ...]


def decode(decoder: MotionDecoder, latent: Tensor, features: Sequence[Tensor]) -> Decoded:
    """Decode frames, each from its own portrait.

    Args:
        decoder: The network.
        latent: Identity plus motion, (batch, latent_dim).
        features: Appearance at sides 8, 16, … S, each (batch, channels, side, side).
    """
    plain: Any = decoder
    h = _styled(decoder.conv1, decoder.input.input.expand(len(latent), -1, -1, -1), latent)
    flow: Tensor | None = None
    image: Tensor | None = None
    grids = []
    for level, feature in enumerate(features):
        h = _styled(plain.convs[2 * level], h, latent)
        h = _styled(plain.convs[2 * level + 1], h, latent)
        to_flow = plain.to_flows[level]
        # Positions stay precise under autocast: a rounded flow moves the whole picture.
        with torch.autocast(h.device.type, enabled=False):
            share = _modulated(to_flow.conv, h.float(), latent.float()) + to_flow.bias
            flow = share if flow is None else share + upsample(flow)
            displacement = torch.tanh(flow[:, :2]).permute(0, 2, 3, 1)
            grid = displacement + identity_grid(displacement)
            mask = torch.sigmoid(flow[:, 2:])
            warped = F.grid_sample(feature.float(), grid, align_corners=False) * mask
            grids.append(grid)
        h = warped + h * (1 - mask)
        image = plain.to_rgbs[level](warped, image)
    assert image is not None, "an image has at least the level of side 8"
    return Decoded(image.float(), tuple(grids))


def _styled(layer: StyledConv, x: Tensor, latent: Tensor) -> Tensor:
    activated: Tensor = layer.activate(_modulated(layer.conv, x, latent))
    return activated


def _modulated(layer: ModulatedConv2d, x: Tensor, latent: Tensor) -> Tensor:
    """Compute `ModulatedConv2d.forward` with one weight for the batch."""
    weight = layer.weight[0] / math.sqrt(layer.weight[0, 0].numel())  # (outputs, inputs, k, k)
    style: Tensor = layer.modulation(latent)
    x = x * style[:, :, None, None]
    if layer.upsample:
        x = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
    else:
        x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
    if layer.demodulate:
        power = style.square() @ weight.square().sum((2, 3)).T  # (batch, outputs)
        x = x * torch.rsqrt(power + DEMODULATION_EPS)[:, :, None, None]
    return blur(x, 1, 1, gain=4.0) if layer.upsample else x
