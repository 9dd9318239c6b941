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
        return fps.limit_denominator(1001)
    broadcast = Fraction(round(fps * 1.001) * 1000, 1001)
    if abs(broadcast - Fraction(fps)) < 5e-4:
        return broadcast
    return Fraction(fps).limit_denominator(1000)


@dataclass(frozen=True, slots=True, eq=False)
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
        converter = FpsConverter(self.fps, rate)
        parts = [converter.push(self.latents), converter.finish()]
        return Motion(torch.cat(parts, dim=1), rate)


class FpsConverter:
    """Brings a motion that comes in parts to another rate; together they equal `Motion.at_fps`."""

    def __init__(self, source: Fraction, target: Fraction) -> None:
        """Start at the first frame.

        Args:
            source: Frames a second that come.
            target: Frames a second wanted.
        """
        self._step = source / target
        self._ratio = target / source
        self._held: Tensor | None = None
        self._first = 0  # index of the first frame held
        self._made = 0

    def push(self, latents: Tensor) -> Tensor:
        """Take the next frames, (batch, frames, latent_dim), and return those that are decided."""
        held = latents if self._held is None else torch.cat((self._held, latents), dim=1)
        if held.shape[1] == 0:
            return held
        last = self._first + held.shape[1] - 1
        # A frame between two samples waits for the second one.
        made = self._between(held, math.floor(last / self._step) + 1)
        keep = min(math.floor(self._made * self._step), last) - self._first
        self._held = held[:, keep:]
        self._first += keep
        return made

    def finish(self) -> Tensor:
        """Return the remaining frames, the last sample held to the end of the clip.

        Raises:
            ValueError: Nothing was pushed.
        """
        if self._held is None:
            raise ValueError("Expected motion to convert, got none.")
        frames = self._first + self._held.shape[1]
        return self._between(self._held, math.ceil(frames * self._ratio))

    def _between(self, held: Tensor, stop: int) -> Tensor:
        """Make the frames up to `stop` by linear interpolation between the samples held."""
        last = held.shape[1] - 1
        positions = [
            min(k * self._step - self._first, Fraction(last)) for k in range(self._made, stop)
        ]
        self._made = max(self._made, stop)
        lower = [math.floor(position) for position in positions]
        shares = [float(position - low) for position, low in zip(positions, lower, strict=True)]
        index = torch.tensor(lower, dtype=torch.long, device=held.device)
        share = torch.tensor(shares, dtype=held.dtype, device=held.device)[:, None]
        return torch.lerp(held[:, index], held[:, (index + 1).clamp(max=last)], share)


@dataclass(frozen=True, slots=True, eq=False)
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
