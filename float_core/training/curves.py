"""Tracks over time: how alike two are, and how they look."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def mean_correlation(first: Tensor, second: Tensor) -> float:
    """Return the mean correlation of tracks, (clips, frames) each; a flat one counts as 0."""
    a = first - first.mean(1, keepdim=True)
    b = second - second.mean(1, keepdim=True)
    norm = a.norm(dim=1) * b.norm(dim=1)
    return float(((a * b).sum(1) / norm.clamp(min=1e-6)).mean())


def curves(truth: Tensor, sampled: Tensor) -> npt.NDArray[np.uint8]:
    """Draw pairs of tracks, values 0 to 1, as filled curves, (height, width, 3).

    Args:
        truth: (clips, frames), drawn dark.
        sampled: (clips, frames), drawn red.
    """
    height, width = 40, 4
    level = torch.arange(height, 0, -1, device=truth.device)[:, None] / height
    rows = []
    for track, colour in ((truth, (60, 60, 60)), (sampled, (200, 50, 50))):
        filled = track.repeat_interleave(width, 1)[:, None] >= level  # (clips, height, width)
        ink = torch.tensor(colour, device=truth.device, dtype=torch.uint8)
        rows.append(torch.where(filled[..., None], ink, 245).to(torch.uint8))
    picture: npt.NDArray[np.uint8] = torch.cat(rows, 1).flatten(0, 1).cpu().numpy()
    return picture
