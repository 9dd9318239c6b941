"""What a room and a microphone do to a voice, so that a network hears more than clean synthesis."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import SPEECH_SAMPLE_RATE
from .seeds import uniform

_BANDS = 12  # of the random equaliser


def record(sound: Tensor, stream: torch.Generator) -> Tensor:
    """Record a sound: echo, equaliser, noise and level, each drawn anew.

    Args:
        sound: Waveform at 16 kHz, (samples,).
        stream: Where chance comes from.

    Returns:
        Waveform in [-1, 1] of the same length.
    """
    if float(uniform(stream, 0, 1)) < 0.4:
        sound = _echo(sound, stream)
    sound = _equalise(sound, stream)
    loudness = sound.square().mean().sqrt().clamp(min=1e-4)
    decibels = uniform(stream, -60, -18)
    hiss = _equalise(torch.randn(len(sound), generator=stream), stream)
    hiss = hiss / hiss.square().mean().sqrt().clamp(min=1e-6)
    sound = sound + hiss * loudness * 10 ** (decibels / 20)
    peak = sound.abs().max().clamp(min=1e-4)
    return sound / peak * uniform(stream, 0.1, 0.95)


def _echo(sound: Tensor, stream: torch.Generator) -> Tensor:
    """Add the fading echo of a small room."""
    length = SPEECH_SAMPLE_RATE // 4
    time = torch.arange(length) / SPEECH_SAMPLE_RATE
    tail = torch.randn(length, generator=stream) * torch.exp(-time / uniform(stream, 0.02, 0.08))
    tail = tail * uniform(stream, 0.02, 0.12)
    tail[0] = 1.0
    size = len(sound) + length
    spectrum = torch.fft.rfft(sound, size) * torch.fft.rfft(tail, size)
    echoed: Tensor = torch.fft.irfft(spectrum, size)[: len(sound)]
    return echoed


def _equalise(sound: Tensor, stream: torch.Generator) -> Tensor:
    """Raise and lower broad bands by some decibels."""
    decibels = 6 * torch.randn(1, 1, _BANDS, generator=stream)
    spectrum = torch.fft.rfft(sound)
    curve = F.interpolate(decibels, len(spectrum), mode="linear", align_corners=True)[0, 0]
    equalised: Tensor = torch.fft.irfft(spectrum * 10 ** (curve / 20), len(sound))
    return equalised
