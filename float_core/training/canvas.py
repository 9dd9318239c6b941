"""A picture under way: colours, and for every pixel what lies there and which point of it."""

from __future__ import annotations

from enum import IntEnum

import torch
import torch.nn.functional as F
from torch import Tensor


class Layer(IntEnum):
    """What a pixel shows; later ones lie in front."""

    BACKGROUND = 0
    BODY = 1
    BACK_HAIR = 2
    EARS = 3
    SKIN = 4
    EYE = 5
    MOUTH = 6
    GLASSES = 7
    HAIR = 8


class Canvas:
    """Layers of paint over a background.

    Attributes:
        colour: (batch, 3, side, side).
        layer: Frontmost layer of each pixel, (batch, side, side).
        point: The point of that layer in its own coordinates, (batch, 3, side, side).
    """

    def __init__(self, background: Tensor, x: Tensor, y: Tensor) -> None:
        """Start with a background, whose own coordinates are those of the picture.

        Args:
            background: (batch, 3, side, side).
            x: Centres of the pixels, (1, side, side).
            y: Centres of the pixels, (1, side, side).
        """
        batch = len(background)
        self.colour = background
        self.layer = torch.zeros_like(background[:, 0])
        self.point = torch.stack((x, y, torch.zeros_like(x)), dim=1).expand(batch, -1, -1, -1)

    def paint(self, colour: Tensor, cover: Tensor) -> None:
        """Paint upon what is there, which stays the same layer.

        Args:
            colour: (batch, 3, side or 1, side or 1).
            cover: How much of each pixel is covered, 0 to 1, (batch, side, side).
        """
        self.colour = torch.lerp(self.colour, colour, cover[:, None])

    def shade(self, factor: Tensor) -> None:
        """Darken or lighten what is there by a factor, (batch, side, side)."""
        self.colour = self.colour * factor[:, None]

    def put(self, layer: Layer, colour: Tensor, cover: Tensor, point: tuple[Tensor, ...]) -> None:
        """Put something in front.

        Args:
            layer: What it is.
            colour: (batch, 3, side or 1, side or 1).
            cover: How much of each pixel is covered, 0 to 1, (batch, side, side).
            point: Its own coordinates x, y, z, (batch, side, side) each.
        """
        self.paint(colour, cover)
        front = cover > 0.5
        self.layer = torch.where(front, float(layer), self.layer)
        self.point = torch.where(front[:, None], torch.stack(point, dim=1), self.point)


def cover_of(outside: Tensor, pixel: Tensor) -> Tensor:
    """Return how much of a pixel lies inside an outline.

    Args:
        outside: Distance outside the outline, negative inside.
        pixel: Side of a pixel in the same unit.
    """
    return (0.5 - outside / pixel).clamp(0, 1)


def look_up(texture: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Read a texture that spans -1 to 1, reflected beyond, at (batch, side, side) places."""
    grid = torch.stack((x, y), dim=-1)
    return F.grid_sample(texture, grid, "bilinear", "reflection", align_corners=False)
