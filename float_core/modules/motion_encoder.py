"""Motion encoder: a portrait to its identity latent, motion coefficients and feature pyramid.

Source: FLOAT (ICCV 2025), section 3.1; the network is LIA's encoder. Attribute names are the
checkpoint's keys under `motion_autoencoder.enc`.
"""

from __future__ import annotations

import math
from itertools import pairwise

from torch import Tensor, nn

from ..config import FloatConfig
from .stylegan_ops import BiasedLeakyReLU, Blur, EqualisedConv2d, EqualisedLinear

COEFFICIENT_LAYERS = 5


class DownBlock(nn.Module):
    """Residual block that halves the side."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(
            EqualisedConv2d(inputs, inputs, kernel=3, padding=1), BiasedLeakyReLU(inputs)
        )
        self.conv2 = nn.Sequential(
            Blur(2, 2),
            EqualisedConv2d(inputs, outputs, kernel=3, stride=2),
            BiasedLeakyReLU(outputs),
        )
        self.skip = nn.Sequential(Blur(1, 1), EqualisedConv2d(inputs, outputs, kernel=1, stride=2))

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, inputs, side, side) to (batch, outputs, side / 2, side / 2)."""
        residual: Tensor = self.conv2(self.conv1(x)) + self.skip(x)
        return residual / math.sqrt(2)


class AppearanceNetwork(nn.Module):
    """Convolutions from the image to 1x1, keeping every map on the way."""

    def __init__(self, config: FloatConfig) -> None:
        super().__init__()
        widths = config.channels[::-1]  # sides S, S/2, … 4
        stem = nn.Sequential(EqualisedConv2d(3, widths[0], kernel=1), BiasedLeakyReLU(widths[0]))
        blocks = [DownBlock(wide, narrow) for wide, narrow in pairwise(widths)]
        head = EqualisedConv2d(widths[-1], config.latent_dim, kernel=4)
        self.convs = nn.ModuleList([stem, *blocks, head])

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Map (batch, 3, S, S) to the latent (batch, latent_dim) and the maps, sides 8 to S."""
        maps = []
        x = image
        for layer in self.convs:
            x = layer(x)
            maps.append(x)
        pyramid = maps[-3::-1]  # without the 1x1 head and the 4x4 map, smallest side first
        return x.flatten(1), pyramid


class MotionEncoder(nn.Module):
    """Split a portrait into who it is and how it is posed."""

    def __init__(self, config: FloatConfig) -> None:
        super().__init__()
        self.net_app = AppearanceNetwork(config)
        width = config.latent_dim
        # Nothing stands between the five linear layers: the published network has it so.
        hidden = [EqualisedLinear(width, width) for _ in range(COEFFICIENT_LAYERS - 1)]
        self.fc = nn.Sequential(*hidden, EqualisedLinear(width, config.motion_dim))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Encode portraits.

        Args:
            image: RGB in [-1, 1], (batch, 3, S, S).

        Returns:
            Identity latent s_r, (batch, latent_dim); motion coefficients, (batch, motion_dim);
            appearance features at sides 8, 16, … S, each (batch, channels, side, side).
        """
        identity, pyramid = self.net_app(image)
        return identity, self.fc(identity), pyramid
