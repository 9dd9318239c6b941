"""Motion: tracks of motion latents, and the orthonormal basis their coefficients stand in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

MINIMUM_FPS = 1
MAXIMUM_FPS = 120


def exact_fps(fps: float | Fraction) -> Fraction:
    """Return a frame rate as an exact fraction, so that 29.97 is 30000 / 1001.

    Raises:
        ValueError: The rate is not from 1 to 120 frames a second.
    """
    if not math.isfinite(fps) or not MINIMUM_FPS <= fps <= MAXIMUM_FPS:
        raise ValueError(f"Expected fps from {MINIMUM_FPS} to {MAXIMUM_FPS}, got {fps}.")
    if isinstance(fps, Fraction):
        return fps
    broadcast = Fraction(round(fps * 1.001) * 1000, 1001)
    if abs(broadcast - Fraction(fps)) < 5e-4:
        return broadcast
    return Fraction(fps).limit_denominator(1000)


@dataclass(frozen=True, slots=True)
class Motion:
    """A track of motion latents.

    Attributes:
        latents: Motion r_d of each frame, (batch, frames, latent_dim).
        fps: Frames a second.
    """

    latents: Tensor
    fps: Fraction

    @property
    def frames(self) -> int:
        """Return the number of frames."""
        return self.latents.shape[1]

    @property
    def seconds(self) -> float:
        """Return the duration."""
        return float(self.frames / self.fps)

    def at_fps(self, fps: float | Fraction) -> Motion:
        """Return the same motion at another rate, linear between samples, the last one held.

        Args:
            fps: Frames a second, 1 to 120.

        Raises:
            ValueError: The rate is out of range.
        """
        rate = exact_fps(fps)
        if rate == self.fps:
            return self
        count = math.ceil(self.frames * rate / self.fps)
        step = self.fps / rate
        positions = [min(k * step, Fraction(self.frames - 1)) for k in range(count)]
        lower = [math.floor(position) for position in positions]
        shares = [float(position - low) for position, low in zip(positions, lower, strict=True)]
        device = self.latents.device
        index = torch.tensor(lower, device=device)
        share = torch.tensor(shares, dtype=self.latents.dtype, device=device)[:, None]
        start = self.latents[:, index]
        end = self.latents[:, (index + 1).clamp(max=self.frames - 1)]
        return Motion(torch.lerp(start, end, share), rate)


@dataclass(frozen=True, slots=True)
class MotionBasis:
    """The orthonormal directions of motion (FLOAT, section 3.1).

    Attributes:
        directions: Q, columns of unit length at right angles, (latent_dim, motion_dim).
    """

    directions: Tensor

    @classmethod
    def from_weight(cls, weight: Tensor) -> MotionBasis:
        """Make the raw directions of a checkpoint orthonormal, as the published network does.

        The signs matter, and Householder's QR of another device may choose others: it runs on
        the CPU, in float32 or better, once for a set of weights.

        Args:
            weight: Raw directions, (latent_dim, motion_dim).
        """
        precise = weight.to("cpu", torch.promote_types(weight.dtype, torch.float32))
        return cls(torch.linalg.qr(precise + 1e-8).Q)

    def motion(self, coefficients: Tensor) -> Tensor:
        """Map coefficients (…, motion_dim) to motion (…, latent_dim)."""
        return coefficients @ self.directions.to(coefficients).T

    def coefficients(self, motion: Tensor) -> Tensor:
        """Project motion (…, latent_dim) onto the basis, (…, motion_dim)."""
        return motion @ self.directions.to(motion)

    def split(self, motion: Tensor) -> tuple[Tensor, Tensor]:
        """Split motion (…, latent_dim) into coefficients (…, motion_dim) and the rest."""
        coefficients = self.coefficients(motion)
        return coefficients, motion - self.motion(coefficients)
