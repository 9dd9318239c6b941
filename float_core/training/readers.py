"""Networks that judge pictures: how far the mouth opens, and which emotion a face shows.

They are trained on drawn frames alone and never see what the model under judgement made. Each
looks at one part of the frame, brought to one size, with blur, noise and colour changed at random,
so that soft or noisy pictures are read as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import EMOTION_COUNT
from .identities import draw_identities
from .losses import crop_regions
from .optimiser import OrthogonalMomentum
from .portraits import draw
from .poses import expression_table, index, limited, neutral, random_poses
from .seeds import TRAINING, generator, uniform

Kind = Literal["opening", "emotion"]

INPUT_SIDE = 64
DRAWN_SIDE = 96
READ_BATCH = 64
READER_BATCH = 64
DRAW_BATCH = 50
READER_RATE = 1e-3
TOLD_SHARE = 2.0
"""Weight of the parameters that the reader of emotions is also told, beside the emotion's."""

TOLD_PARAMETERS = ("smile", "brow_raise", "brow_tilt", "lids", "sneer")


@dataclass(frozen=True, slots=True)
class Sight:
    """What a reader looks at and how long it learns.

    Attributes:
        box: Part of the frame in image units: centre x, y, half width, half height.
        outputs: How many numbers it reads.
        frames: Frames drawn once and shown many times, spoiled anew each time.
        steps: Optimiser steps.
    """

    box: tuple[float, float, float, float]
    outputs: int
    frames: int
    steps: int


SIGHTS: dict[Kind, Sight] = {
    "opening": Sight((0.0, 0.24, 0.46, 0.46), 1, 8_000, 2_000),
    "emotion": Sight((0.0, 0.05, 0.72, 0.72), EMOTION_COUNT + len(TOLD_PARAMETERS), 16_000, 3_000),
}


class Reader(nn.Module):
    """A small convolutional network that reads one thing off frames of any size."""

    def __init__(self, kind: Kind) -> None:
        super().__init__()
        self.kind: Kind = kind
        widths = (3, 24, 48, 96, 128)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [
                nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.SiLU(),
            ]
        self.convs = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(128 * (INPUT_SIDE // 16) ** 2, 96),
            nn.SiLU(),
            nn.Linear(96, SIGHTS[kind].outputs),
        )

    def look(self, frames: Tensor) -> Tensor:
        """Cut out what the reader looks at, (batch, 3, side, side)."""
        if frames.shape[-1] > DRAWN_SIDE:
            frames = F.interpolate(frames, (DRAWN_SIDE, DRAWN_SIDE), mode="area")
        box = torch.tensor(SIGHTS[self.kind].box, device=frames.device, dtype=frames.dtype)
        return crop_regions(frames, box.expand(len(frames), 1, 4), INPUT_SIDE)

    def forward(self, frames: Tensor) -> Tensor:
        """Read frames in [-1, 1], (batch, 3, S, S): (batch, outputs)."""
        output: Tensor = self.head(self.convs(self.look(frames)))
        return output

    @torch.no_grad()
    def read(self, frames: Tensor) -> Tensor:
        """Read any number of frames: openings, (frames,), or emotion probabilities, (frames, 7)."""
        place = next(self.parameters()).device
        parts = [self(part.to(place).clamp(-1, 1)) for part in torch.split(frames, READ_BATCH)]
        output = torch.cat(parts)
        if self.kind == "opening":
            return output.squeeze(1)
        return output[:, :EMOTION_COUNT].softmax(-1)


@dataclass(frozen=True, slots=True)
class Lessons:
    """Drawn frames and what is to be read off them.

    Attributes:
        frames: RGB as bytes, (count, 3, side, side).
        poses: (count, parameters).
        emotion: Numbers in `EMOTIONS`, (count,).
    """

    frames: Tensor
    poses: Tensor
    emotion: Tensor


def draw_lessons(kind: Kind, seed: int, count: int, device: torch.device | str) -> Lessons:
    """Draw what a reader learns from; identities appear twice.

    Args:
        kind: What it is to read.
        seed: Name of the random streams.
        count: Number of frames.
        device: Where they are drawn and kept.
    """
    parts = []
    for number in range(-(-count // DRAW_BATCH)):
        stream = generator(TRAINING, "reader", kind, seed, number)
        who = draw_identities(stream, DRAW_BATCH // 2, device).repeated(2)
        poses, emotion = _shown(kind, stream, DRAW_BATCH)
        image = draw(who, poses.to(device), DRAWN_SIDE).image
        frames = ((image + 1) * 127.5).round().to(torch.uint8)
        parts.append((frames, poses.to(device), emotion.to(device)))
    return Lessons(*(torch.cat(part)[:count] for part in zip(*parts, strict=True)))


def train_reader(
    kind: Kind,
    seed: int = 0,
    steps: int | None = None,
    device: torch.device | str = "cpu",
    on_progress: Callable[[int, int], None] | None = None,
    frames: int | None = None,
) -> Reader:
    """Train a reader on drawn frames.

    Args:
        kind: What it is to read.
        seed: Name of the random streams.
        steps: Optimiser steps; as many as the kind needs where None.
        device: Where to train.
        on_progress: Called with the steps done and their number.
        frames: How many frames are drawn; as many as the kind needs where None.
    """
    steps, frames = steps or SIGHTS[kind].steps, frames or SIGHTS[kind].frames
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reader = Reader(kind).to(device)
    lessons = draw_lessons(kind, seed, frames, device)
    optimiser = OrthogonalMomentum(reader.parameters(), READER_RATE)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        loss = reading_loss(reader, lessons, generator(TRAINING, "lessons", kind, seed, step))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        rate.step()
        if on_progress is not None:
            on_progress(step + 1, steps)
    return reader.eval()


def reading_loss(reader: Reader, lessons: Lessons, stream: torch.Generator) -> Tensor:
    """Return a reader's loss on one batch.

    Args:
        reader: What is trained.
        lessons: What there is to learn from.
        stream: Where chance comes from.
    """
    count = len(lessons.frames)
    chosen = torch.randint(count, (READER_BATCH,), generator=stream).to(lessons.frames.device)
    output = reader(_spoiled(lessons.frames[chosen].float() / 127.5 - 1, stream))
    poses = lessons.poses[chosen]
    if reader.kind == "opening":
        return F.smooth_l1_loss(output[:, 0], poses[:, index("opening")], beta=0.1)
    told = poses[:, [index(name) for name in TOLD_PARAMETERS]]
    kinds, parameters = output.split((EMOTION_COUNT, len(TOLD_PARAMETERS)), 1)
    kind = F.cross_entropy(kinds, lessons.emotion[chosen], label_smoothing=0.05)
    return kind + TOLD_SHARE * F.smooth_l1_loss(parameters, told, beta=0.1)


def _shown(kind: Kind, stream: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
    """Return poses to draw, and the emotion each shows."""
    emotion = torch.randint(EMOTION_COUNT, (count,), generator=stream)
    poses = random_poses(stream, count, spread=0.8)
    shut = uniform(stream, 0, 1, count) < 0.15
    opening = index("opening")
    poses[:, opening] = torch.where(shut, 0.0, poses[:, opening])
    if kind == "emotion":
        # What a speaker shows: head, mouth and eyes move freely, the face holds its emotion.
        calm = neutral(count)
        calm[:, :6] = poses[:, :6]
        calm += 0.12 * torch.randn(calm.shape, generator=stream) * (expression_table() != 0).any(0)
        for name in ("opening", "width", "blink", "gaze_x", "gaze_y"):
            calm[:, index(name)] += 0.8 * poses[:, index(name)]
        strength = uniform(stream, 0.5, 1.0, count, 1)
        poses = limited(calm + strength * expression_table()[emotion])
    return poses, emotion


def _spoiled(frames: Tensor, stream: torch.Generator) -> Tensor:
    """Blur, noise and recolour frames at random, as a network's pictures may be."""
    count = len(frames)

    def amount(low: float, high: float, *shape: int) -> Tensor:
        return uniform(stream, low, high, count, *shape).to(frames)

    small = F.avg_pool2d(frames, 2)
    soft = F.interpolate(small, frames.shape[-2:], mode="bilinear", align_corners=False)
    frames = torch.lerp(frames, soft, amount(0, 1, 1, 1, 1))
    noise = torch.randn(frames.shape, generator=stream).to(frames) * amount(0, 0.05, 1, 1, 1)
    return frames * amount(0.85, 1.1, 1, 1, 1) + amount(-0.1, 0.1, 3, 1, 1) + noise
