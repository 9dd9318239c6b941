"""Portraits: what the motion encoder knows of one, and pixels on their way in and out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Portrait:
    """An encoded portrait, or a batch of them.

    Attributes:
        identity: Latent s_r, (batch, latent_dim).
        coefficients: Motion coefficients of the portrait's own pose, (batch, motion_dim).
        motion: The same as motion r_s, (batch, latent_dim).
        features: Appearance at sides 8, 16, … S, each (batch, channels, side, side).
    """

    identity: Tensor
    coefficients: Tensor
    motion: Tensor
    features: tuple[Tensor, ...]

    @property
    def batch(self) -> int:
        """Return the number of portraits."""
        return self.identity.shape[0]

    def item(self, index: int) -> Portrait:
        """Return one portrait of the batch, as a batch of one."""
        return Portrait(
            identity=self.identity[index, None],
            coefficients=self.coefficients[index, None],
            motion=self.motion[index, None],
            features=tuple(feature[index, None] for feature in self.features),
        )


def portrait_image(picture: npt.NDArray[np.uint8]) -> Tensor:
    """Turn a picture of bytes, (S, S, 3), into what `encode_portrait` takes, (1, 3, S, S)."""
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None].contiguous()
    return pixels.to(torch.float32) / 127.5 - 1


def frame_bytes(frames: Tensor) -> Tensor:
    """Turn decoded frames, (b, 3, S, S), into bytes for a video, (b, S, S, 3), on the CPU.

    Raises:
        ValueError: A colour is not finite.
    """
    if not bool(torch.isfinite(frames).all()):
        raise ValueError(
            "Expected finite colours, got NaN or infinity from the decoder: the precision is too "
            'low for these weights, or they are damaged. Try "fp32".'
        )
    levels = ((frames.clamp(-1, 1) + 1) * 127.5).round()
    return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu()
