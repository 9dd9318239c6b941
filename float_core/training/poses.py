"""Everything that moves in a drawn portrait, as numbers.

A pose is a tensor (batch, len(PARAMETERS)). Angles are in radians, positions in image units (the
picture spans -1 to 1), the rest has no unit. Emotions shift the face's parameters.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..emotion import EMOTIONS
from .seeds import uniform

PARAMETERS = (
    "yaw",
    "pitch",
    "roll",
    "shift_x",
    "shift_y",
    "scale",
    "opening",
    "width",
    "smile",
    "blink",
    "gaze_x",
    "gaze_y",
    "brow_raise",
    "brow_tilt",
    "lids",
    "sneer",
)
"""Names of the columns.

Positive yaw turns to the picture's right, positive pitch looks up, positive roll leans clockwise.
`opening` and `blink` go from 0 (mouth shut, eyes open) to 1. `width`, `smile`, the gaze (right,
down) and the brows (raised; inner ends up) go from -1 to 1. `lids` from -1 (wide) to 1 (narrowed),
`sneer` from 0 to 1 lifts upper lip and nose.
"""

HEAD_PARAMETERS = 6
"""The first columns move the whole head; the others move within the face."""

PARAMETER_SPREAD = torch.tensor(
    [0.2, 0.12, 0.1, 0.04, 0.04, 0.04, 0.35, 0.5, 0.5, 0.35, 0.5, 0.5, 0.5, 0.5, 0.4, 0.3]
)
"""Rough spread of each parameter: what errors are measured in."""

_EXPRESSIONS = {
    "angry": {"brow_raise": -0.7, "brow_tilt": -1.0, "lids": 0.35, "sneer": 0.3, "smile": -0.45},
    "disgust": {"brow_raise": -0.35, "brow_tilt": -0.3, "lids": 0.7, "sneer": 1.0, "smile": -0.6},
    "fear": {"brow_raise": 0.7, "brow_tilt": 0.9, "lids": -0.9, "width": 0.45, "smile": -0.2},
    "happy": {"smile": 1.0, "lids": 0.35, "width": 0.3, "brow_raise": 0.1},
    "neutral": {},
    "sad": {"brow_tilt": 1.0, "brow_raise": -0.1, "lids": 0.6, "smile": -0.9, "width": -0.15},
    "surprise": {"brow_raise": 1.0, "lids": -1.0, "smile": 0.05, "width": -0.3},
}


def index(name: str) -> int:
    """Return the column of a parameter."""
    return PARAMETERS.index(name)


def neutral(count: int = 1) -> Tensor:
    """Return the frontal pose with the mouth shut and the eyes open, (count, parameters)."""
    pose = torch.zeros(count, len(PARAMETERS))
    pose[:, index("scale")] = 1.0
    return pose


def expression_table() -> Tensor:
    """Return what each emotion adds to a pose at full strength, (7, parameters)."""
    table = torch.zeros(len(EMOTIONS), len(PARAMETERS))
    for row, emotion in enumerate(EMOTIONS):
        for name, value in _EXPRESSIONS[emotion].items():
            table[row, index(name)] = value
    return table


def limited(pose: Tensor) -> Tensor:
    """Return a pose with every parameter within the range that the drawing understands."""
    low = torch.tensor([-0.6, -0.4, -0.35, -0.2, -0.2, 0.8, 0, -1, -1, 0, -1, -1, -1, -1, -1, 0.0])
    high = torch.tensor([0.6, 0.4, 0.35, 0.2, 0.2, 1.25, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1.0])
    return pose.clamp(low.to(pose), high.to(pose))


def random_poses(stream: torch.Generator, count: int, spread: float = 1.0) -> Tensor:
    """Draw poses, each parameter by itself but for the emotions' common pull.

    Args:
        stream: Where chance comes from.
        count: Number of poses.
        spread: Width of the head's motion; 1 is that of a lively speaker, 0 none.

    Returns:
        (count, parameters).
    """
    pose = neutral(count)
    head = torch.tensor([0.2, 0.12, 0.1, 0.04, 0.04, 0.04])
    pose[:, :HEAD_PARAMETERS] += (
        torch.randn(count, HEAD_PARAMETERS, generator=stream) * head * spread
    )
    pose[:, index("opening")] = uniform(stream, -0.3, 1.0, count)
    for name in ("width", "smile", "gaze_x", "gaze_y", "brow_raise", "brow_tilt", "lids"):
        pose[:, index(name)] = uniform(stream, -0.9, 0.9, count)
    shut = (uniform(stream, 0, 1, count) < 0.1).float()
    pose[:, index("blink")] = torch.maximum(uniform(stream, -1.2, 0.9, count), shut)
    pose[:, index("sneer")] = uniform(stream, -1.0, 1.0, count)
    chosen = torch.randint(len(EMOTIONS), (count,), generator=stream)
    pull = uniform(stream, 0, 0.8, count, 1)
    return limited(pose * (1 - 0.5 * pull * _face_only()) + pull * expression_table()[chosen])


def expression_variants(stream: torch.Generator, pose: Tensor) -> Tensor:
    """Draw faces anew and keep each head where it is: pairs that differ in expression only.

    Args:
        stream: Where chance comes from.
        pose: (count, parameters).

    Returns:
        (count, parameters).
    """
    other = random_poses(stream, len(pose))
    other[:, :HEAD_PARAMETERS] = pose[:, :HEAD_PARAMETERS]
    return other


def _face_only() -> Tensor:
    """Return 1 for the face's parameters that emotions move, 0 for others, (parameters,)."""
    moved: Tensor = (expression_table().abs().sum(0) > 0).float()
    return moved
