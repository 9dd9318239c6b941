"""Motion decoder: identity plus motion to a frame, by warping the portrait's own features.

The plain form, one weight a sample as published; `fast_decoder` computes the same function.
Source: FLOAT (ICCV 2025), section 3.1; the network is LIA's generator. Attribute names are the
checkpoint's keys under `motion_autoencoder.dec`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import FloatConfig
from .stylegan_ops import BiasedLeakyReLU, EqualisedConv2d, ModulatedConv2d, upsample

FLOW_CHANNELS = 3  # horizontal and vertical displacement, mask


class ConstantInput(nn.Module):
    """The learned 4x4 map that decoding starts from."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.randn(1, channels, 4, 4))


class StyledConv(nn.Module):
    """Modulated 3x3 convolution with its activation."""

    def __init__(self, inputs: int, outputs: int, latent_dim: int, upsample: bool = False) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(inputs, outputs, 3, latent_dim, upsample=upsample)
        self.activate = BiasedLeakyReLU(outputs)

    def forward(self, x: Tensor, latent: Tensor) -> Tensor:
        """Map (batch, inputs, side, side) to (batch, outputs, …)."""
        result: Tensor = self.activate(self.conv(x, latent))
        return result


class ToFlow(nn.Module):
    """Read displacement and mask off the maps and warp the portrait's features by them."""

    def __init__(self, channels: int, latent_dim: int) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(channels, FLOW_CHANNELS, 1, latent_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(1, FLOW_CHANNELS, 1, 1))

    def forward(
        self, h: Tensor, latent: Tensor, feature: Tensor, below: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Warp one level's features.

        Args:
            h: Maps of this level, (batch, channels, side, side).
            latent: Style latent, (batch, latent_dim).
            feature: The portrait's features of this level, (batch, channels, side, side).
            below: The previous level's flow, (batch, 3, side / 2, side / 2); None at the first.

        Returns:
            Flow before tanh and sigmoid, (batch, 3, side, side); warped features, masked,
            (batch, channels, side, side); mask in [0, 1], (batch, 1, side, side).
        """
        flow = self.conv(h, latent) + self.bias
        if below is not None:
            flow = flow + upsample(below)
        # A half-precision grid misses by half a pixel at side 512, and on the CPU reads astray.
        precise = torch.promote_types(flow.dtype, torch.float32)
        displacement = torch.tanh(flow[:, :2].to(precise)).permute(0, 2, 3, 1)
        grid = displacement + identity_grid(displacement)
        mask = torch.sigmoid(flow[:, 2:])
        warped = F.grid_sample(
            feature.to(precise), grid, "bilinear", "zeros", align_corners=False
        ).to(feature.dtype)
        return flow, warped * mask, mask


def identity_grid(displacement: Tensor) -> Tensor:
    """Return the base of a grid of (batch, side, side, 2), x before y, (1, side, side, 2).

    It spans [-1, 1] from first to last sample while the sampling takes the corners as pixel
    edges, so zero flow is not quite the identity. The weights were trained so; keep it.
    """
    side, device = displacement.shape[1], displacement.device
    line = torch.linspace(-1, 1, side, dtype=displacement.dtype, device=device)
    y, x = torch.meshgrid(line, line, indexing="ij")
    return torch.stack((x, y), dim=-1)[None]


class ToRGB(nn.Module):
    """Read colour off the warped features and add the upsampled image so far."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(EqualisedConv2d(channels, 3, kernel=1), BiasedLeakyReLU(3))
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))

    def forward(self, warped: Tensor, image: Tensor | None) -> Tensor:
        """Map (batch, channels, side, side) to the image so far, (batch, 3, side, side)."""
        colour: Tensor = self.conv(warped) + self.bias
        return colour if image is None else colour + upsample(image)


class MotionDecoder(nn.Module):
    """Draw the portrait in a given pose."""

    def __init__(self, config: FloatConfig) -> None:
        super().__init__()
        latent_dim = config.latent_dim
        widths = config.channels  # sides 4, 8, … S
        self.direction = nn.Linear(config.motion_dim, latent_dim, bias=False)
        """Holds the raw motion directions, (latent_dim, motion_dim); see `MotionBasis`."""
        self.input = ConstantInput(widths[0])
        self.conv1 = StyledConv(widths[0], widths[0], latent_dim)
        self.convs = nn.ModuleList()
        self.to_flows = nn.ModuleList()
        self.to_rgbs = nn.ModuleList()
        for inputs, outputs in pairwise(widths):
            self.convs.append(StyledConv(inputs, outputs, latent_dim, upsample=True))
            self.convs.append(StyledConv(outputs, outputs, latent_dim))
            self.to_flows.append(ToFlow(outputs, latent_dim))
            self.to_rgbs.append(ToRGB(outputs))

    def forward(self, latent: Tensor, features: Sequence[Tensor]) -> Tensor:
        """Decode frames.

        Args:
            latent: Identity plus motion, s_r + r_d, (batch, latent_dim).
            features: The portrait's appearance features at sides 8, 16, … S, each
                (batch or 1, channels, side, side).

        Returns:
            RGB frames, nominally in [-1, 1] and not clamped, (batch, 3, S, S).
        """
        batch = latent.shape[0]
        h = self.conv1(self.input.input.expand(batch, -1, -1, -1), latent)
        flow: Tensor | None = None
        image: Tensor | None = None
        levels = zip(
            self.convs[::2], self.convs[1::2], self.to_flows, self.to_rgbs, features, strict=True
        )
        for grow, refine, to_flow, to_rgb, feature in levels:
            h = refine(grow(h, latent), latent)
            feature = feature.expand(batch, -1, -1, -1)
            flow, warped, mask = to_flow(h, latent, feature, flow)
            h = warped + h * (1 - mask)
            image = to_rgb(warped, image)
        assert image is not None, "an image has at least the level of side 8"
        return image
