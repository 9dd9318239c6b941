"""Long speech: which stretches of a sound are encoded together, and the sound they are made of.

Attention over a whole clip grows with the square of its length. Beyond a minute the speech is
encoded in pieces, each with some context on either side that is thrown away again; all are
normalised by the mean and variance of the whole clip, as the published way is. Sizes are in video
frames at the model's rate; a piece's samples follow from them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .audio import (
    NORMALISE_EPSILON,
    check_waveform,
    frame_count,
    mono_part,
    resample_part,
    resampled_length,
    resampling_margin,
    to_mono,
)
from .config import SPEECH_SAMPLE_RATE
from .modules.wav2vec2 import WindowMoments

WHOLE_SECONDS = 60
"""Speech up to this length is encoded at once, exactly as published."""

CONTEXT_SECONDS = 8
"""Speech heard on either side of a piece; `benchmarks/LONG.md` has the error by context."""

PIECE_SECONDS = 32
"""Longest piece, without its context."""

OPENING_CONTEXT_SECONDS = 2
"""Speech heard after the first piece, which is short so that the first frames come soon."""

_BLOCK_SECONDS = 10

Encoding = Literal["auto", "whole"]
"""How speech is encoded: "auto" in pieces beyond a minute, "whole" at once at any length."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Frames that are encoded together, and those of them that are kept.

    Attributes:
        first: First frame encoded.
        start: First frame kept.
        stop: One past the last frame kept.
        last: One past the last frame encoded.
    """

    first: int
    start: int
    stop: int
    last: int


def plan_pieces(frames: int, fps: int, window_frames: int) -> Iterator[Piece]:
    """Cut a long clip into pieces: first one window, then twice as much each time.

    Args:
        frames: Frames of the clip.
        fps: Frames a second.
        window_frames: Frames of the sampler's window.
    """
    start, length = 0, window_frames
    while start < frames:
        stop = min(start + length, frames)
        after = CONTEXT_SECONDS if start else OPENING_CONTEXT_SECONDS
        yield Piece(
            max(0, start - CONTEXT_SECONDS * fps), start, stop, min(stop + after * fps, frames)
        )
        start, length = stop, min(2 * length, PIECE_SECONDS * fps)


class PreparedSpeech:
    """A sound as the networks hear it, mono, 16 kHz and normalised, made stretch by stretch.

    Holds nothing but the sound it was given: neither its resampled nor its normalised form exists
    as a whole.

    Attributes:
        samples: Length at 16 kHz.
    """

    def __init__(self, waveform: Tensor, sample_rate: int) -> None:
        """Check the sound; its mean and variance are measured when first needed.

        Args:
            waveform: Sound in [-1, 1], (batch, channels, samples).
            sample_rate: Its rate in Hz.

        Raises:
            ValueError: As `audio.check_waveform`.
        """
        check_waveform(waveform, sample_rate)
        self._waveform = waveform
        self._rate = sample_rate
        self.samples = resampled_length(waveform.shape[-1], sample_rate, SPEECH_SAMPLE_RATE)
        self._statistics: RunningStatistics | None = None

    @property
    def seconds(self) -> float:
        """Return the duration."""
        return self.samples / SPEECH_SAMPLE_RATE

    def part(self, start: int, stop: int) -> Tensor:
        """Return normalised samples, (batch, stop - start), cut at the end of the sound."""
        statistics = self._statistics or self._measure()
        return statistics.normalise(self._mono(start, stop))

    def window_moments(self, kernel: int, stride: int) -> WindowMoments:
        """Measure the windows that a convolution over the whole normalised sound sees.

        Called before the first `part`, it reads a long sound only once for all that is measured.

        Args:
            kernel: Samples of a window.
            stride: Samples from one window to the next.
        """
        windows = RunningWindows(kernel, stride)
        return windows.moments(self._measure(windows))

    def _mono(self, start: int, stop: int, precision: torch.dtype = torch.float64) -> Tensor:
        return mono_part(self._waveform, self._rate, SPEECH_SAMPLE_RATE, start, stop, precision)

    def _measure(self, windows: RunningWindows | None = None) -> RunningStatistics:
        """Measure mean and variance, and the windows if there are any to measure."""
        statistics = RunningStatistics()
        # What is encoded at once is measured at once, as published; a longer sound quickly, in
        # stretches that a cache holds.
        whole = self.seconds <= WHOLE_SECONDS
        seconds, precision = (
            (WHOLE_SECONDS, torch.float64) if whole else (_BLOCK_SECONDS, torch.float32)
        )
        stride, overlap = (1, 0) if windows is None else (windows.stride, windows.overlap)
        block = seconds * SPEECH_SAMPLE_RATE // stride * stride
        for start in range(0, self.samples, block):
            sound = self._mono(start, start + block + overlap, precision)
            statistics.add(sound[:, :block])
            if windows is not None:
                windows.add(sound)
        self._statistics = statistics
        return statistics


class RunningStatistics:
    """Mean and population variance of a sound that comes in stretches (Chan et al., 1979)."""

    def __init__(self) -> None:
        self._count = 0
        self._mean = torch.zeros(1, 1)
        self._variance = torch.zeros(1, 1)

    @property
    def mean(self) -> Tensor:
        """Return the mean, (batch, 1), float64."""
        return self._mean

    @property
    def deviation(self) -> Tensor:
        """Return what a normalised sound is divided by, (batch, 1), float64."""
        return torch.sqrt(self._variance + NORMALISE_EPSILON)

    def add(self, sound: Tensor) -> None:
        """Take the next samples, (batch, samples)."""
        count = sound.shape[-1]
        both = _variance_and_mean(sound, exact=self._count == 0)
        variance, mean = (value.cpu().double() for value in both)  # not every device has float64
        if self._count:
            share = count / (self._count + count)
            distance = mean - self._mean
            spread = distance.square() * (share * (1 - share))
            variance = torch.lerp(self._variance, variance, share) + spread
            mean = self._mean + distance * share
        self._count += count
        self._mean, self._variance = mean, variance

    def normalise(self, sound: Tensor) -> Tensor:
        """Normalise samples, (batch, samples), by what was measured so far."""
        # In the sound's precision, so that a whole sound gives the bits of `audio.normalise`.
        mean, variance = self._mean.to(sound), self._variance.to(sound)
        return (sound - mean) / torch.sqrt(variance + NORMALISE_EPSILON)


def _variance_and_mean(sound: Tensor, exact: bool) -> tuple[Tensor, Tensor]:
    """Return both, (batch, 1), with the bits of `audio.normalise` or ten times faster."""
    if exact:
        variance, mean = torch.var_mean(sound, dim=-1, correction=0, keepdim=True)
        return variance, mean
    mean = sound.mean(-1, keepdim=True)
    centred = sound - mean
    return torch.stack([row @ row for row in centred])[:, None] / sound.shape[-1], mean


class RunningWindows:
    """First and second moments of a convolution's windows over a sound that comes in stretches.

    Attributes:
        stride: Samples from one window to the next.
        overlap: Samples that each stretch must share with the next one.
    """

    def __init__(self, kernel: int, stride: int) -> None:
        """Start without a window.

        Args:
            kernel: Samples of a window.
            stride: Samples from one window to the next.
        """
        self.stride = stride
        self.overlap = max(0, kernel - stride)
        self._kernel = kernel
        self._count = 0
        self._centre = torch.zeros(1, 1)
        self._sum = torch.zeros(1, kernel, dtype=torch.float64)
        self._products = torch.zeros(1, kernel, kernel, dtype=torch.float64)

    def add(self, sound: Tensor) -> None:
        """Take the next samples, (batch, samples), that begin with a window if they hold one."""
        if sound.shape[-1] < self._kernel:
            return
        if not self._count:
            # Products of what lies far from zero would leave no digits for the variance.
            self._centre = sound.mean(-1, keepdim=True)
        windows = (sound - self._centre).unfold(-1, self._kernel, self.stride)
        windows = windows.mT.contiguous()  # (batch, kernel, windows): long rows multiply fastest
        self._sum = self._sum + windows.sum(-1).cpu()
        self._products = self._products + (windows @ windows.mT).cpu()
        self._count += windows.shape[-1]

    def moments(self, statistics: RunningStatistics) -> WindowMoments:
        """Return the moments that the windows have once the sound is normalised."""
        precision = self._centre.dtype
        shift = self._centre.cpu().double() - statistics.mean  # (batch, 1)
        mean = self._sum / self._count
        square = self._products / self._count
        square = square + shift[..., None] * (mean[:, :, None] + mean[:, None, :])
        square = (square + shift.square()[..., None]) / statistics.deviation.square()[..., None]
        mean = (mean + shift) / statistics.deviation
        return WindowMoments(mean.to(precision), square.to(precision))


class StreamingResampler:
    """Brings a sound that comes in stretches to 16 kHz; together they equal `audio.resample`."""

    def __init__(self, sample_rate: int) -> None:
        """Start at the first sample.

        Args:
            sample_rate: Rate of the sound that comes, in Hz.
        """
        self._rate = sample_rate
        divisor = math.gcd(sample_rate, SPEECH_SAMPLE_RATE)
        self._step_in = sample_rate // divisor
        self._step_out = SPEECH_SAMPLE_RATE // divisor
        self._margin = resampling_margin(sample_rate, SPEECH_SAMPLE_RATE)
        self._raw: Tensor | None = None
        self._first = 0  # first period of the two rates that is kept
        self._made = 0

    def push(self, sound: Tensor) -> Tensor:
        """Take the next samples, (batch, samples), and return those at 16 kHz that are decided."""
        self._raw = sound if self._raw is None else torch.cat((self._raw, sound), dim=-1)
        periods = self._first + self._raw.shape[-1] // self._step_in - self._margin
        made = self._between(max(periods * self._step_out, self._made))
        keep = max(self._made // self._step_out - self._margin, self._first)
        self._raw = self._raw[..., (keep - self._first) * self._step_in :]
        self._first = keep
        return made

    def finish(self) -> Tensor:
        """Return the remaining samples, with silence after the end."""
        if self._raw is None:
            return torch.zeros(1, 0)
        kept = resampled_length(self._raw.shape[-1], self._rate, SPEECH_SAMPLE_RATE)
        return self._between(self._first * self._step_out + kept)

    def _between(self, stop: int) -> Tensor:
        assert self._raw is not None, "push first"
        base = self._first * self._step_out
        made = resample_part(
            self._raw, self._rate, SPEECH_SAMPLE_RATE, self._made - base, stop - base
        )
        self._made = stop
        return made


class LiveSpeech:
    """Speech that comes in stretches, normalised by what has been heard so far.

    Keeps no more of it than the context that a piece needs.
    """

    def __init__(self, stretches: Iterable[Tensor], sample_rate: int) -> None:
        """Start listening.

        Args:
            stretches: Sound in [-1, 1], each (1, channels, samples) of any length.
            sample_rate: Its rate in Hz.
        """
        self._stretches = iter(stretches)
        self._rate = sample_rate
        self._resampler = StreamingResampler(sample_rate)
        self._statistics = RunningStatistics()
        self._heard: Tensor | None = None
        self._first = 0  # index of the first sample kept
        self.ended = False

    @property
    def samples(self) -> int:
        """Return the samples heard so far, at 16 kHz."""
        return self._first + (0 if self._heard is None else self._heard.shape[-1])

    def listen_until(self, samples: int) -> None:
        """Wait until so many samples at 16 kHz were heard, or the speech ends."""
        while self.samples < samples and not self.ended:
            stretch = next(self._stretches, None)
            if stretch is None:
                self.ended = True
                sound = self._resampler.finish()
            else:
                sound = self._resampler.push(to_mono(_checked_stretch(stretch)))
            if sound.shape[-1]:
                self._statistics.add(sound)
            self._heard = sound if self._heard is None else torch.cat((self._heard, sound), dim=-1)

    def part(self, start: int, stop: int) -> Tensor:
        """Return normalised samples, (batch, stop - start), and forget those before `start`."""
        assert self._heard is not None, "listen first"
        self._heard = self._heard[:, start - self._first :]
        self._first = start
        return self._statistics.normalise(self._heard[:, : stop - start])


def _checked_stretch(stretch: Tensor) -> Tensor:
    if stretch.ndim != 3 or len(stretch) != 1 or not stretch.is_floating_point():
        raise ValueError(
            "Expected stretches of sound as floats of shape (1, channels, samples), got "
            f"{stretch.dtype} of shape {tuple(stretch.shape)}."
        )
    if not bool(torch.isfinite(stretch).all()):
        raise ValueError("Expected finite samples, got NaN or infinity in a stretch of sound.")
    return stretch


def live_pieces(
    speech: LiveSpeech, fps: int, window_frames: int, lookahead_frames: int
) -> Iterator[Piece]:
    """Give out one window after another, each as soon as it and its lookahead were heard."""
    start = 0
    while True:
        wanted = start + window_frames + lookahead_frames
        speech.listen_until(wanted * SPEECH_SAMPLE_RATE // fps)
        heard = frame_count(speech.samples, fps)
        stop = min(start + window_frames, heard) if speech.ended else start + window_frames
        if stop <= start:
            if start == 0:
                raise ValueError("Expected sound to speak, got none before the stream ended.")
            return
        last = min(stop + lookahead_frames, heard)
        yield Piece(max(0, start - CONTEXT_SECONDS * fps), start, stop, last)
        start = stop
