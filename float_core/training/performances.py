"""How a drawn head moves while it speaks: poses frame by frame from sounds with known timing."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..emotion import EMOTIONS
from .phonemes import PHONEMES
from .poses import expression_table, index, limited, neutral
from .seeds import uniform
from .speeches import Utterance

COARTICULATION_SECONDS = 0.04
"""How far a sound's mouth reaches into its neighbours."""

CLOSING_SECONDS = 0.022
"""How fast lips shut for m, b, p and for silence."""

_SLOW_WAVES = 3
_HEAD_SWING = {
    "yaw": 0.11,
    "pitch": 0.05,
    "roll": 0.05,
    "shift_x": 0.02,
    "shift_y": 0.012,
    "scale": 0.012,
}


def frame_times(frames: int, fps: int) -> Tensor:
    """Return the middle of each frame in seconds, (frames,)."""
    return (torch.arange(frames) + 0.5) / fps


def mouth_track(utterance: Utterance, time: Tensor) -> tuple[Tensor, Tensor]:
    """Return opening (0 to 1) and width (-1 to 1) of the mouth at given times.

    Each sound pulls on its neighbourhood (the dominance of Cohen and Massaro, 1993), most where it
    needs the lips itself; lips that must meet do meet.

    Args:
        utterance: The sounds.
        time: Seconds, (frames,).

    Returns:
        (frames,) each.
    """
    sounds = [PHONEMES[name] for name in utterance.names]
    starts, ends = torch.tensor(utterance.starts), torch.tensor(utterance.ends)
    away = torch.maximum(starts[:, None] - time, time - ends[:, None]).clamp(min=0)
    closes = torch.tensor([sound.closes for sound in sounds])[:, None]
    pull = (1 + 3 * closes) * torch.exp(-((away / COARTICULATION_SECONDS) ** 2))
    pull = pull / pull.sum(0, keepdim=True).clamp(min=1e-9)  # (sounds, frames)
    stress = 0.78 + 0.3 * torch.tensor(utterance.stresses)
    opening = (pull * (torch.tensor([s.opening for s in sounds]) * stress)[:, None]).sum(0)
    width = (pull * torch.tensor([s.width for s in sounds])[:, None]).sum(0)
    shut = ((closes > 0.9) * torch.exp(-((away / CLOSING_SECONDS) ** 2))).amax(0)
    return (opening * (1 - shut)).clamp(0, 1), width


def perform(
    utterance: Utterance,
    stream: torch.Generator,
    frames: int,
    fps: int = 25,
    emotion: str = "neutral",
    strength: float = 1.0,
) -> Tensor:
    """Return the poses of a head that speaks.

    Args:
        utterance: What it says and when.
        stream: Where chance comes from.
        frames: Number of frames.
        fps: Frames a second.
        emotion: One of the seven.
        strength: How strongly it shows, 0 to 1.

    Returns:
        (frames, parameters).
    """
    time = frame_times(frames, fps)
    pose = neutral(frames)
    opening, width = mouth_track(utterance, time)
    articulation = uniform(stream, 0.8, 1.1)
    pose[:, index("opening")] = opening * articulation
    pose[:, index("width")] = width * 0.8
    _move_head(pose, time, utterance, stream)
    _move_eyes(pose, time, stream)
    row = EMOTIONS.index(emotion)
    pose = pose + strength * expression_table()[row]
    return limited(pose)


def portrait_pose(stream: torch.Generator) -> Tensor:
    """Return the pose of a portrait to animate: nearly frontal, mouth shut more often than not.

    Returns:
        (1, parameters).
    """
    pose = neutral()
    spread = torch.tensor(list(_HEAD_SWING.values()))
    pose[:, : len(spread)] += torch.randn(1, len(spread), generator=stream) * spread
    pose[:, index("opening")] = uniform(stream, -1.0, 0.6, 1).clamp(min=0)
    for name in ("smile", "gaze_x", "gaze_y", "brow_raise", "brow_tilt"):
        pose[:, index(name)] = 0.3 * torch.randn(1, generator=stream)
    return limited(pose)


def _slow_noise(stream: torch.Generator, time: Tensor, count: int) -> Tensor:
    """Return smooth wandering with spread 1, (count, frames)."""
    hertz = uniform(stream, 0.08, 0.6, count, _SLOW_WAVES, 1)
    phase = uniform(stream, 0, 2 * math.pi, count, _SLOW_WAVES, 1)
    waves = torch.sin(2 * math.pi * hertz * time + phase)
    return waves.sum(1) * math.sqrt(2 / _SLOW_WAVES)


def _move_head(pose: Tensor, time: Tensor, utterance: Utterance, stream: torch.Generator) -> None:
    """Let the head sway, nod on stresses, and raise the brows on the strongest."""
    names = list(_HEAD_SWING)
    swing = torch.tensor(list(_HEAD_SWING.values()))[:, None] * uniform(stream, 0.4, 1.1)
    moves = swing * _slow_noise(stream, time, len(names))
    for name, move in zip(names, moves, strict=True):
        pose[:, index(name)] += move
    middles = (torch.tensor(utterance.starts) + torch.tensor(utterance.ends)) / 2
    stress = torch.tensor(utterance.stresses)[:, None]
    beat = stress * torch.exp(-(((time - middles[:, None]) / 0.14) ** 2))  # (sounds, frames)
    strongest = beat.amax(0)
    pose[:, index("pitch")] -= 0.07 * strongest
    pose[:, index("shift_y")] += 0.012 * strongest
    pose[:, index("brow_raise")] += 0.35 * (strongest - 0.5).clamp(min=0)


def _move_eyes(pose: Tensor, time: Tensor, stream: torch.Generator) -> None:
    """Let the eyes blink and jump from place to place."""
    seconds = float(time[-1]) + 0.1
    blink_count, jump_count = int(seconds / 2.5) + 2, int(seconds / 0.9) + 2
    waits = -2.6 * torch.log(uniform(stream, 1e-3, 1, blink_count)) + 0.35
    blinks = torch.cumsum(waits, 0)[:, None] - 0.3
    pose[:, index("blink")] = (1.15 * torch.exp(-(((time - blinks) / 0.075) ** 4))).amax(0)
    jumps = torch.cumsum(uniform(stream, 0.3, 1.8, jump_count), 0)
    place = 0.22 * torch.randn(2, jump_count + 1, generator=stream)
    which = torch.searchsorted(jumps, time)
    pose[:, index("gaze_x")], pose[:, index("gaze_y")] = place[0, which], 0.6 * place[1, which]
