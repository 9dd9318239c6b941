"""Performances for phase 2: speech, and the motion that phase 1's encoder sees in its pictures.

A clip is drawn frame by frame and encoded once, or a surrogate tells what would be seen; training
then reads coefficients, not pictures.
Clips lie in shards on disk, so that making them can stop and go on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor, nn

from ..config import SPEECH_SAMPLE_RATE, FloatConfig
from ..emotion import EMOTIONS
from .identities import Identities, draw_identities
from .performances import perform, portrait_pose
from .portraits import draw
from .recordings import record
from .runs import Session, load_tensors, save_tensors
from .seeds import generator, uniform
from .speeches import invent, silence
from .voices import draw_voice, manner, speak

SHARD_CLIPS = 8
ENCODE_BATCH = 50


@dataclass(frozen=True, slots=True)
class Performance:
    """One clip before it is drawn.

    Attributes:
        who: Its identity.
        portrait: Pose of the portrait that is to be animated, (1, parameters).
        pose: Poses frame by frame, (frames, parameters).
        sound: Waveform at 16 kHz, (samples,).
        emotion: Name of its emotion.
        number: Which of its kind it is.
    """

    who: Identities
    portrait: Tensor
    pose: Tensor
    sound: Tensor
    emotion: str
    number: int


See = Callable[[Performance], Tensor]
"""Tells what the encoder sees of a performance: portrait, then frames, (1 + frames, motion_dim)."""


IMAGINED = "imagined-clip"
SILENT_EVERY = 16
"""One of so many imagined clips is silent but for the hiss of its recording."""


def rehearse(
    split: str, seed: int, number: int, seconds: float, fps: int, kind: str = "clip"
) -> Performance:
    """Invent a performance.

    Args:
        split: `seeds.TRAINING` or `seeds.HELD_OUT`.
        seed: Name of the random streams.
        number: Which one; emotions take turns.
        seconds: Its length.
        fps: Frames a second.
        kind: What it is for; every kind is invented apart, and some of `IMAGINED` are silent.
    """
    stream = generator(split, kind, seed, number)
    who = draw_identities(stream, 1)
    voice = draw_voice(stream)
    emotion = EMOTIONS[number % len(EMOTIONS)]
    if kind == IMAGINED and number % SILENT_EVERY == SILENT_EVERY - 1:
        utterance = silence(seconds)
    else:
        utterance = invent(stream, seconds, voice.rate * manner(emotion)[2])
    sound = record(speak(utterance, voice, stream, emotion), stream)
    strength = float(uniform(stream, 0.8, 1.1))
    frames = round(seconds * fps)
    pose = perform(utterance, stream, frames, fps, emotion, strength)
    return Performance(who, portrait_pose(stream), pose, sound, emotion, number)


@dataclass(frozen=True, slots=True)
class Library:
    """Encoded clips of equal length.

    Attributes:
        sound: Waveforms at 16 kHz as 16-bit numbers, (clips, samples).
        pose: What was drawn, (clips, frames, parameters).
        coefficients: What the encoder saw, (clips, frames, motion_dim).
        reference: What it saw in the portrait, (clips, motion_dim).
        emotion: Numbers in `EMOTIONS`, (clips,).
    """

    sound: Tensor
    pose: Tensor
    coefficients: Tensor
    reference: Tensor
    emotion: Tensor

    def __len__(self) -> int:
        return len(self.sound)

    def waveform(self, clips: Tensor, start: int, samples: int) -> Tensor:
        """Return parts of some clips' sounds in [-1, 1], (len(clips), samples)."""
        return self.sound[clips, start : start + samples].float() / 32767

    def to(self, device: torch.device | str) -> Library:
        """Return the same clips on a device."""
        return Library(*(getattr(self, field.name).to(device) for field in fields(self)))


@torch.no_grad()
def encode_poses(
    encoder: nn.Module, who: Identities, pose: Tensor, size: int, device: torch.device | str
) -> Tensor:
    """Draw one identity in many poses and return the coefficients seen, (poses, motion_dim).

    Args:
        encoder: Phase 1's motion encoder.
        who: One identity.
        pose: (poses, parameters).
        size: Side of the pictures in pixels.
        device: Where to draw and encode.
    """
    who, seen = who.to(device), []
    for part in torch.split(pose.to(device), ENCODE_BATCH):
        image = draw(who.repeated(len(part)), part, size).image
        seen.append(encoder(image)[1].float())
    return torch.cat(seen)


def watched(encoder: nn.Module, config: FloatConfig, session: Session) -> See:
    """Return what draws a performance and encodes it.

    Args:
        encoder: Phase 1's motion encoder.
        config: The model.
        session: The device to draw and encode on.
    """

    def see(performance: Performance) -> Tensor:
        poses = torch.cat((performance.portrait, performance.pose))
        size = config.image_size
        return encode_poses(encoder, performance.who, poses, size, session.device).cpu()

    return see


def make_library(
    see: See,
    config: FloatConfig,
    split: str,
    seed: int,
    count: int,
    seconds: float,
    session: Session,
    kind: str = "clip",
) -> Library | None:
    """Make clips, or take those that an earlier session made.

    Args:
        see: Tells what the encoder sees of a performance.
        config: The model.
        split: `seeds.TRAINING` or `seeds.HELD_OUT`.
        seed: Name of the random streams.
        count: Number of clips.
        seconds: Length of each.
        session: Where shards go; progress and stopping.
        kind: Names the shards; every kind is invented apart.

    Returns:
        The clips; None where the session was stopped before all were made.
    """
    name = f"{kind}s-{split}"
    shards = []
    for first in range(0, count, SHARD_CLIPS):
        file = session.folder / f"{name}-{first:05d}.pt"
        numbers = range(first, min(first + SHARD_CLIPS, count))
        if not file.is_file():
            heard = (rehearse(split, seed, n, seconds, config.fps, kind) for n in numbers)
            _save_shard(file, [_clip(see, performance, config) for performance in heard])
        shards.append(load_tensors(file))
        session.report(name, numbers[-1] + 1, count)
        if session.stopped() and numbers[-1] + 1 < count:
            return None
    return joined([Library(**shard) for shard in shards])


def joined(libraries: list[Library]) -> Library:
    """Return the clips of several libraries as one."""
    names = [field.name for field in fields(Library)]
    return Library(*(torch.cat([getattr(part, n) for part in libraries]) for n in names))


def _clip(see: See, performance: Performance, config: FloatConfig) -> Library:
    """Return one performance as a library of one."""
    seen = see(performance)
    samples = len(performance.pose) * SPEECH_SAMPLE_RATE // config.fps
    return Library(
        sound=(performance.sound[:samples] * 32767).round().to(torch.int16)[None],
        pose=performance.pose[None],
        coefficients=seen[None, 1:],
        reference=seen[:1],
        emotion=torch.tensor([EMOTIONS.index(performance.emotion)]),
    )


def _save_shard(file: Path, clips: list[Library]) -> None:
    together = joined(clips)
    save_tensors(file, {field.name: getattr(together, field.name) for field in fields(Library)})
