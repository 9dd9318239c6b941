"""Parts of phase 1's loss. All are means; pictures are in [-1, 1]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .portraits import TrueMotion

SCALES = 3
REGION_SIDE = 32
REGION_IMPORTANCE = 4.0
UNSEEN_SHARE = 0.02
"""Cells of a coarse level of which less than this share is visible do not count."""


def image_loss(decoded: Tensor, target: Tensor) -> Tensor:
    """Return the absolute difference at full, half and quarter size, (batch, 3, S, S) each."""
    total = decoded.new_zeros(())
    for _ in range(SCALES):
        total = total + (decoded - target).abs().mean()
        decoded, target = F.avg_pool2d(decoded, 2), F.avg_pool2d(target, 2)
    return total / SCALES


def detail_loss(decoded: Tensor, target: Tensor) -> Tensor:
    """Return the absolute difference of the differences between neighbours: edges, not tones."""
    error = decoded - target
    across = (error[..., 1:] - error[..., :-1]).abs().mean()
    down = (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
    return across + down


def crop_regions(image: Tensor, boxes: Tensor, side: int = REGION_SIDE) -> Tensor:
    """Cut regions and bring each to one size.

    Args:
        image: (batch, channels, S, S).
        boxes: Centre x, centre y, half width, half height in image units, (batch, regions, 4).
        side: Side of the result in pixels.

    Returns:
        (batch * regions, channels, side, side), region by region of each picture.
    """
    line = (torch.arange(side, dtype=image.dtype, device=image.device) * 2 + 1) / side - 1
    x, y, half_width, half_height = boxes.flatten(0, 1)[..., None, None].unbind(1)
    grid_x = (x + half_width * line).expand(-1, side, -1)
    grid_y = (y + half_height * line[:, None]).expand(-1, -1, side)
    images = image.repeat_interleave(boxes.shape[1], 0)
    grid = torch.stack((grid_x, grid_y), dim=-1)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def region_loss(decoded: Tensor, target: Tensor, boxes: Tensor) -> Tensor:
    """Return the absolute difference within mouth and eyes; arguments as for `crop_regions`."""
    return (crop_regions(decoded, boxes) - crop_regions(target, boxes)).abs().mean()


def importance_of(boxes: Tensor, size: int) -> Tensor:
    """Return how much each pixel's motion counts: more within mouth and eyes.

    Args:
        boxes: As for `crop_regions`.
        size: Side of the picture in pixels.

    Returns:
        (batch, size, size).
    """
    line = (torch.arange(size, dtype=boxes.dtype, device=boxes.device) * 2 + 1) / size - 1
    x, y, half_width, half_height = boxes[..., None].unbind(2)  # (batch, regions, 1) each
    across = ((line - x).abs() < half_width).to(boxes)
    down = ((line - y).abs() < half_height).to(boxes)
    return 1 + REGION_IMPORTANCE * (down[..., None] * across[:, :, None]).amax(1)


def flow_loss(
    grids: Sequence[Tensor], truth: TrueMotion, importance: Tensor | None = None
) -> Tensor:
    """Return how far the decoder's sampling positions lie from the true ones.

    Args:
        grids: Positions at each level, (batch, side, side, 2).
        truth: The true motion at the picture's side.
        importance: How much each pixel counts, (batch, S, S); all alike where None.

    Returns:
        Mean distance in image units over what is visible, finer levels counting more.
    """
    seen = (truth.visible if importance is None else truth.visible * importance)[:, None]
    place = truth.grid.permute(0, 3, 1, 2) * seen
    size = place.shape[-1]
    total, weights = place.new_zeros(()), 0.0
    for grid in grids:
        factor = size // grid.shape[1]
        share = F.avg_pool2d(seen, factor)
        mean = F.avg_pool2d(place, factor) / share.clamp(min=UNSEEN_SHARE)
        counted = share * (share >= UNSEEN_SHARE)
        error = (grid.permute(0, 3, 1, 2) - mean).abs() * counted
        weight = grid.shape[1] / size
        total = total + weight * error.sum() / counted.sum().clamp(min=1)
        weights += weight
    return total / weights


def parameter_loss(read: Tensor, pose: Tensor, spread: Tensor) -> Tensor:
    """Return the error of poses read off coefficients, in spreads, (batch, parameters) each."""
    return F.smooth_l1_loss(read / spread, pose / spread, beta=0.3)


def scale_loss(coefficients: Tensor) -> Tensor:
    """Return how far each coefficient's mean is from 0 and its spread from 1 over the batch.

    The flow transformer starts from noise of spread 1, so motion should have about that size.
    """
    mean, variance = coefficients.mean(0), coefficients.var(0)
    return mean.square().mean() + (variance.clamp(min=1e-4).log()).square().mean()
