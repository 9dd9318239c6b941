"""The seven emotions and their tracks."""

from __future__ import annotations

import torch
from torch import Tensor

from .config import EMOTION_COUNT

EMOTIONS = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
"""Names in the order of the emotion vector."""

UNHEARD_EMOTION = "neutral"
UNHEARD = f"{UNHEARD_EMOTION} (these weights have no network that hears emotions: choose one)"
"""What stands for the emotion heard where weights do without that network on purpose."""


def one_hot(name: str, device: torch.device | str | None = None) -> Tensor:
    """Return a chosen emotion as a constant track, (1, 1, 7).

    Args:
        name: One of `EMOTIONS`.
        device: Where the tensor lies.

    Raises:
        ValueError: The name is none of the seven.
    """
    if name not in EMOTIONS:
        raise ValueError(f"Expected an emotion of {', '.join(EMOTIONS)}, got {name!r}.")
    track = torch.zeros(1, 1, EMOTION_COUNT, device=device)
    track[..., EMOTIONS.index(name)] = 1.0
    return track


def check_track(emotion: Tensor, frames: int) -> Tensor:
    """Return an emotion track after checking that it fits a clip.

    Args:
        emotion: Constant or frame by frame, (batch, 1 or frames, 7).
        frames: Frames of the clip.

    Raises:
        ValueError: The shape is another, or a value is not finite.
    """
    fits = emotion.ndim == 3 and emotion.shape[1] in (1, frames)
    if not fits or emotion.shape[2] != EMOTION_COUNT:
        raise ValueError(
            f"Expected an emotion of shape (batch, 1 or {frames} frames, {EMOTION_COUNT}), got "
            f"{tuple(emotion.shape)}: give one vector for the clip or one for each frame."
        )
    if not torch.isfinite(emotion).all():
        raise ValueError("Expected finite emotion values, got NaN or infinity.")
    return emotion


def describe(probabilities: Tensor) -> str:
    """Return probabilities, (7,), as one line, largest first: "happy 0.71, neutral 0.20, …"."""
    ranked = sorted(zip(probabilities.tolist(), EMOTIONS, strict=True), reverse=True)
    return ", ".join(f"{name} {value:.2f}" for value, name in ranked)
