"""Operations of the fast decoder: each equals a plain one and says which.

The plain forms are in `stylegan_ops` and `motion_decoder`; the tests compare the two.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BORDER = 1
"""Rows and columns of zeros around a table of features."""


def double(x: Tensor) -> Tensor:
    """Compute `stylegan_ops.upsample` as a bilinear one.

    Zero insertion and the (1, 3, 3, 1) blur are linear interpolation at a quarter and three
    quarters between samples, which every device has a kernel for; the zeros around the map are
    the blur's padding.

    Args:
        x: Maps, (batch, channels, height, width).

    Returns:
        (batch, channels, 2 * height, 2 * width).
    """
    padded = F.pad(x, (BORDER,) * 4).contiguous()
    twice = F.interpolate(padded, scale_factor=2.0, mode="bilinear", align_corners=False)
    return twice[..., 2 * BORDER : -2 * BORDER, 2 * BORDER : -2 * BORDER]


def warp_table(feature: Tensor) -> Tensor:
    """Lay features out for `warp`: a row a pixel, with a border of zeros.

    The border stands for the zeros that `grid_sample` pads with, so that no sample needs a test
    whether it lies inside.

    Args:
        feature: (batch, channels, side, side).

    Returns:
        (batch, side + 2, side + 2, channels), contiguous.
    """
    rows = feature.permute(0, 2, 3, 1)
    return F.pad(rows, (0, 0) + (BORDER,) * 4).contiguous()


def warp(table: Tensor, grid: Tensor, mask: Tensor) -> Tensor:
    """Compute `grid_sample(feature, grid, align_corners=False) * mask` from a table.

    A sum of four weighted rows a pixel, an embedding bag: rows of all channels are read one after
    the other, where `grid_sample` gathers channel by channel. The mask goes into the weights.

    Args:
        table: Result of `warp_table`, (batch or 1, side + 2, side + 2, channels).
        grid: Sampling positions in [-1, 1] pixel edge to pixel edge, x before y,
            (batch, 2, side, side), in float32 or better.
        mask: (batch, 1, side, side).

    Returns:
        (batch, channels, side, side), channels last, in the table's precision.
    """
    batch, _, side, _ = grid.shape
    width, channels = table.shape[2:]
    index, weights = _corners(grid, mask, width)
    if table.shape[0] > 1:
        first = torch.arange(batch, dtype=index.dtype, device=index.device)
        index = index + first.view(-1, 1, 1) * table[0, :, :, 0].numel()
    rows = weighted_rows(
        table.flatten(0, 2), index.view(-1, 4), weights.view(-1, 4).to(table.dtype)
    )
    return rows.view(batch, side, side, channels).permute(0, 3, 1, 2)


def _corners(grid: Tensor, mask: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Return the four rows around each position and their weights, (batch, side * side, 4)."""
    side = grid.shape[-1]
    position = (grid * (side / 2) + (side - 1) / 2).clamp_(-BORDER, side)
    corner = position.floor().clamp_(max=side - 1)
    right, below = (position - corner).flatten(2).unbind(1)  # (batch, side * side) each
    column, row = corner.flatten(2).unbind(1)
    # Exact in float32: a table has fewer than 2**24 rows.
    first = torch.add(column, row, alpha=width) + BORDER * (width + 1)
    steps = torch.tensor((0, 1, width, width + 1), dtype=torch.int32, device=grid.device)
    index = first.to(torch.int32)[..., None] + steps
    lower = below * mask.flatten(1)
    upper = mask.flatten(1) - lower
    lower_right, upper_right = lower * right, upper * right
    weights = torch.stack(
        (upper - upper_right, upper_right, lower - lower_right, lower_right), dim=-1
    )
    return index, weights


def weighted_rows(table: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """Sum weighted rows of (rows, channels) by index and weights, (count, 4) each."""
    if table.device.type in ("cpu", "cuda"):
        return F.embedding_bag(index, table, mode="sum", per_sample_weights=weights)
    return (table[index] * weights[..., None]).sum(dim=1)
