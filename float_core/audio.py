"""Waveforms: checks, mono, resampling, normalising and the count of video frames they span.

Files are opened by `float_core.media`; here a sound is always a float tensor of samples in [-1, 1].
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, lru_cache

import torch
import torch.nn.functional as F

from .config import SPEECH_SAMPLE_RATE

logger = logging.getLogger(__name__)

MINIMUM_SECONDS = Fraction(1, 10)
"""Shortest accepted speech."""

MAXIMUM_SAMPLE_RATE = 768_000
"""Highest accepted sample rate in Hz; above it is a mistake in a file's header."""

SILENCE_RANGE = 1e-4
"""A clip whose samples all lie within this range counts as silent (about -80 dB)."""

NORMALISE_EPSILON = 1e-7

FILTER_WIDTH = 64
"""Zero crossings of the sinc on either side of its centre."""

FILTER_ROLLOFF = 0.9475937167399596
"""Cut-off of the filter over the lower of the two Nyquist frequencies."""

FILTER_BETA = 14.769656459379492
"""Shape of the Kaiser window; with the two above, the resampler known as "kaiser best"."""

_TORCHAUDIO_ELEMENTS = 2**24
_BLOCK_ELEMENTS = 2**21
_PERIOD_ELEMENTS = 2**21


def check_waveform(waveform: torch.Tensor, sample_rate: int) -> None:
    """Refuse a sound that cannot be used.

    Args:
        waveform: Sound in [-1, 1], `(batch, channels, samples)`.
        sample_rate: Samples a second.

    Raises:
        ValueError: A wrong number of axes, whole numbers instead of floats, no samples, less than
            0.1 s, a sample that is not finite, or an impossible sample rate.
    """
    _check_rate(sample_rate)
    if waveform.ndim != 3:
        raise ValueError(
            "Expected a waveform of 3 axes (batch, channels, samples), got "
            f"{waveform.ndim} in shape {tuple(waveform.shape)}: add the missing axes with [None]."
        )
    if not waveform.is_floating_point():
        raise ValueError(
            f"Expected a waveform of floats in [-1, 1], got {waveform.dtype}: divide by the "
            "largest value of that type first."
        )
    samples = waveform.shape[-1]
    if waveform.numel() == 0:
        raise ValueError(
            f"Expected sound, got an empty waveform of shape {tuple(waveform.shape)}: "
            "give a recording of at least 0.1 s."
        )
    if samples < MINIMUM_SECONDS * sample_rate:
        raise ValueError(
            f"Expected at least {float(MINIMUM_SECONDS)} s of sound, got {samples} samples at "
            f"{sample_rate} Hz ({samples / sample_rate:.3f} s): give a longer recording."
        )
    # The limits keep NaN and infinity, and unlike a test of each sample need no memory.
    if not bool(torch.isfinite(torch.stack(waveform.aminmax())).all()):
        raise ValueError(
            "Expected finite samples, got NaN or infinity in the waveform: "
            "export the recording again, or cut the broken part."
        )


def _check_rate(sample_rate: int) -> None:
    whole = isinstance(sample_rate, int) and not isinstance(sample_rate, bool)
    if not whole or not 0 < sample_rate <= MAXIMUM_SAMPLE_RATE:
        raise ValueError(
            f"Expected a sample rate from 1 to {MAXIMUM_SAMPLE_RATE} Hz as a whole number, "
            f"got {sample_rate!r}: give the rate the recording was made at."
        )


def warn_if_silent(waveform: torch.Tensor) -> None:
    """Log a warning where a sound, `(batch, channels, samples)`, is silent."""
    limits = [clip.aminmax() for clip in waveform]
    silent = sum(bool(clip.max - clip.min < SILENCE_RANGE) for clip in limits)
    if silent:
        logger.warning(
            "%d of %d sounds are silent: the mouth will hardly move. "
            "Check the recording if speech was expected.",
            silent,
            waveform.shape[0],
        )


def _precise(waveform: torch.Tensor) -> torch.Tensor:
    return waveform.to(torch.promote_types(waveform.dtype, torch.float32))


def to_mono(waveform: torch.Tensor) -> torch.Tensor:
    """Average the channels.

    Args:
        waveform: Sound, `(batch, channels, samples)`.

    Returns:
        `(batch, samples)`, float32 or better.
    """
    return _precise(waveform).mean(dim=-2)


def normalise(waveform: torch.Tensor) -> torch.Tensor:
    """Shift and scale each clip to mean 0 and variance 1, as both wav2vec2 networks expect.

    The mean and the population variance are those of the whole clip, so call this before any
    padding: `(x - mean) / sqrt(variance + 1e-7)`.

    Args:
        waveform: Sound, `(…, samples)`.

    Returns:
        The same shape, float32 or better.
    """
    waveform = _precise(waveform)
    variance, mean = torch.var_mean(waveform, dim=-1, correction=0, keepdim=True)
    return (waveform - mean) / torch.sqrt(variance + NORMALISE_EPSILON)


def frame_count(samples: int, fps: int | Fraction) -> int:
    """Count the video frames that a 16 kHz waveform spans: `ceil(samples * fps / 16000)`.

    Whole-number arithmetic throughout, so that no rounding adds or loses a frame.

    Args:
        samples: Length of the waveform at 16 kHz, in samples.
        fps: Video frames a second; a fraction such as `Fraction(30000, 1001)` stays exact.
    """
    return -((-samples * fps) // SPEECH_SAMPLE_RATE)


def prepare_speech(waveform: torch.Tensor, sample_rate: int) -> torch.Tensor:
    """Turn any sound into what the networks hear: mono, 16 kHz; not yet normalised.

    A silent one is taken with a warning.

    Args:
        waveform: Sound in [-1, 1], `(batch, channels, samples)`.
        sample_rate: Samples a second.

    Returns:
        `(batch, samples)` at 16 kHz, on the waveform's device.

    Raises:
        ValueError: The sound is refused by `check_waveform`.
    """
    check_waveform(waveform, sample_rate)
    warn_if_silent(waveform)
    return resample(to_mono(waveform), sample_rate, SPEECH_SAMPLE_RATE)


def resample(waveform: torch.Tensor, from_rate: int, to_rate: int) -> torch.Tensor:
    """Change the sample rate with one Kaiser-windowed sinc filter.

    Torchaudio does it where it imports and needs little memory; else (long sounds, or rates with a
    small common divisor such as 44101 and 16000 Hz) the same filter is applied here. Both work on
    the CPU in double precision: torchaudio's weights made in single precision are 2e-5 off.

    Args:
        waveform: Sound, `(…, samples)`.
        from_rate: Samples a second that came.
        to_rate: Samples a second wanted.

    Returns:
        `(…, ceil(samples * to_rate / from_rate))`, float32 or better, on the
        waveform's device.

    Raises:
        ValueError: A rate is not a whole number from 1 to 768,000.
    """
    _check_rate(from_rate)
    _check_rate(to_rate)
    waveform = _precise(waveform)
    if from_rate == to_rate or waveform.numel() == 0:
        return waveform
    sound = waveform.cpu().double()
    theirs = _torchaudio_resample()
    if theirs is None or _torchaudio_elements(sound, from_rate, to_rate) > _TORCHAUDIO_ELEMENTS:
        resampled = _resample_by_phases(sound, *_reduced(from_rate, to_rate))
    else:
        resampled = theirs(
            sound,
            from_rate,
            to_rate,
            lowpass_filter_width=FILTER_WIDTH,
            rolloff=FILTER_ROLLOFF,
            resampling_method="sinc_interp_kaiser",
            beta=FILTER_BETA,
        )
    return resampled.to(waveform)


def resampled_length(samples: int, from_rate: int, to_rate: int) -> int:
    """Return how many samples `resample` gives for so many."""
    step_in, step_out = _reduced(from_rate, to_rate)
    return -(-samples * step_out // step_in)


def resampling_margin(from_rate: int, to_rate: int) -> int:
    """Return how many whole periods of the two rates the filter reaches to either side."""
    step_in, step_out = _reduced(from_rate, to_rate)
    return 0 if from_rate == to_rate else _reach(step_in, step_out) // step_in + 2


def resample_part(
    waveform: torch.Tensor, from_rate: int, to_rate: int, start: int, stop: int
) -> torch.Tensor:
    """Return some samples of what `resample` would give, reading only the sound they depend on.

    Args:
        waveform: The whole sound, `(…, samples)`.
        from_rate: Samples a second that came.
        to_rate: Samples a second wanted.
        start: First sample wanted, at `to_rate`.
        stop: One past the last one; cut at the end of the sound.

    Returns:
        `(…, stop - start)` at most, as `resample` gives them to 1e-6.
    """
    cut = _Cut.around(waveform.shape[-1], from_rate, to_rate, start, stop)
    return cut.resampled(_precise(waveform[..., cut.read]), from_rate, to_rate)


def mono_part(
    waveform: torch.Tensor,
    from_rate: int,
    to_rate: int,
    start: int,
    stop: int,
    precision: torch.dtype = torch.float64,
) -> torch.Tensor:
    """Average the channels of a sound and return some samples of it, as `resample_part` does.

    Args:
        waveform: The whole sound, `(batch, channels, samples)`.
        from_rate: Samples a second that came.
        to_rate: Samples a second wanted.
        start: First sample wanted, at `to_rate`.
        stop: One past the last one; cut at the end of the sound.
        precision: Of the resampling; float32 takes half the time and errs by 1e-6 of the peak.

    Returns:
        `(batch, stop - start)` at most.
    """
    cut = _Cut.around(waveform.shape[-1], from_rate, to_rate, start, stop)
    sound = waveform[..., cut.read]
    sound = _precise(sound[:, 0]) if sound.shape[1] == 1 else to_mono(sound)  # a view where it can
    return cut.resampled(sound, from_rate, to_rate, precision)


@dataclass(frozen=True, slots=True)
class _Cut:
    """What must be read for some samples at another rate, and where they then stand.

    Attributes:
        read: Samples to read.
        kept: Samples wanted among those read and resampled.
    """

    read: slice
    kept: slice

    @classmethod
    def around(cls, samples: int, from_rate: int, to_rate: int, start: int, stop: int) -> _Cut:
        """Cut at whole periods of the two rates, so that every sample keeps its phase."""
        step_in, step_out = _reduced(from_rate, to_rate)
        stop = max(start, min(stop, resampled_length(samples, from_rate, to_rate)))
        margin = resampling_margin(from_rate, to_rate)
        first = max(start // step_out - margin, 0)
        last = -(-stop // step_out) + margin
        return cls(
            slice(first * step_in, last * step_in),
            slice(start - first * step_out, stop - first * step_out),
        )

    def resampled(
        self,
        sound: torch.Tensor,
        from_rate: int,
        to_rate: int,
        precision: torch.dtype = torch.float64,
    ) -> torch.Tensor:
        """Resample what was read, and keep what is wanted."""
        step_in, step_out = _reduced(from_rate, to_rate)
        if from_rate == to_rate or self.kept.start >= self.kept.stop:
            made = sound
        elif not _goes_by_periods(step_in, step_out):
            made = resample(sound, from_rate, to_rate)
        else:
            made = _resample_by_periods(sound.cpu().to(precision), step_in, step_out).to(sound)
        return made[..., self.kept]


@cache
def _torchaudio_resample() -> Callable[..., torch.Tensor] | None:
    """Return torchaudio's resampler, or None where torchaudio is absent or does not load."""
    try:
        from torchaudio.functional import resample as resampler
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        # A torchaudio built for another torch fails with any of these.
        logger.info("torchaudio does not import (%s): resampling without it.", error)
        return None
    return resampler  # type: ignore[no-any-return]


def _reduced(from_rate: int, to_rate: int) -> tuple[int, int]:
    divisor = math.gcd(from_rate, to_rate)
    return from_rate // divisor, to_rate // divisor


def _torchaudio_elements(sound: torch.Tensor, from_rate: int, to_rate: int) -> int:
    """Return how many numbers torchaudio would hold: its table of weights and unfolded windows."""
    step_in, step_out = _reduced(from_rate, to_rate)
    row = 2 * _reach(step_in, step_out) + step_in
    return row * (step_out + sound.numel() // step_in + 1)


def _reach(step_in: int, step_out: int) -> int:
    """Return how many input samples the filter reaches to either side."""
    return math.ceil(FILTER_WIDTH * step_in / (min(step_in, step_out) * FILTER_ROLLOFF))


def _filter(offset: torch.Tensor, cutoff: float) -> torch.Tensor:
    """Evaluate the filter at `offset` input samples from its centre, in double precision.

    Args:
        offset: Distances in input samples, float64.
        cutoff: Cut-off over the input's Nyquist frequency.

    Returns:
        The weights, of `offset`'s shape.
    """
    crossings = (offset * cutoff).clamp(-FILTER_WIDTH, FILTER_WIDTH)
    window = torch.i0(FILTER_BETA * torch.sqrt(1 - (crossings / FILTER_WIDTH) ** 2))
    peak = torch.i0(torch.tensor(FILTER_BETA, dtype=torch.float64))
    return torch.sinc(crossings) * window / peak * cutoff


def _resample_by_phases(sound: torch.Tensor, step_in: int, step_out: int) -> torch.Tensor:
    """Resample on the CPU with one short row of weights for each phase of the two rates.

    Output sample n stands at input position `n * step_in / step_out`; its phase, the part after the
    point, recurs every `step_out` samples. Outputs are made in blocks, so memory does not grow with
    the length.

    Args:
        sound: `(…, samples)`, float64 on the CPU.
        step_in: Samples of a period that came.
        step_out: Samples of a period wanted.

    Returns:
        `(…, ceil(samples * step_out / step_in))`, float64.
    """
    width = _reach(step_in, step_out)
    taps = 2 * width + 2  # one more on the right: a position lies between two samples
    clips = sound.reshape(-1, sound.shape[-1])
    length = -(-sound.shape[-1] * step_out // step_in)
    table = _phase_table(min(step_out, length), step_in, step_out)
    windows = F.pad(clips, (width, taps)).unfold(-1, taps, 1)  # (clips, positions, taps)
    resampled = torch.empty(clips.shape[0], length, dtype=torch.float64)
    block = max(1, _BLOCK_ELEMENTS // (taps * clips.shape[0]))
    for begin in range(0, length, block):
        index = torch.arange(begin, min(begin + block, length))
        position = index * step_in // step_out
        resampled[:, index] = torch.einsum(
            "cnt,nt->cn", windows[:, position], table[index % step_out]
        )
    return resampled.reshape(*sound.shape[:-1], length)


def _phase_table(phases: int, step_in: int, step_out: int) -> torch.Tensor:
    """Return the filter's weights for the first `phases` output samples.

    Returns:
        `(phases, 2 * reach + 2)`, float64.
    """
    cutoff = min(step_in, step_out) * FILTER_ROLLOFF / step_in
    width = _reach(step_in, step_out)
    tap = torch.arange(-width, width + 2, dtype=torch.float64)
    table = torch.empty(phases, len(tap), dtype=torch.float64)
    rows = max(1, _BLOCK_ELEMENTS // len(tap))
    for begin in range(0, phases, rows):
        phase = torch.arange(begin, min(begin + rows, phases)) * step_in % step_out
        offset = tap - (phase.double() / step_out)[:, None]
        table[begin : begin + rows] = _filter(offset, cutoff)
    return table


def _resample_by_periods(sound: torch.Tensor, step_in: int, step_out: int) -> torch.Tensor:
    """Resample on the CPU by matrix products over rows of whole periods of the two rates.

    Many times faster than one product a sample, for rates whose table of weights is small.

    Args:
        sound: `(…, samples)`, on the CPU.
        step_in: Samples of a period that came.
        step_out: Samples of a period wanted.

    Returns:
        `(…, ceil(samples * step_out / step_in))`, in the sound's precision.
    """
    weights = _period_table(step_in, step_out, sound.dtype)
    reaches, row_in, row_out = weights.shape
    clips = sound.reshape(-1, sound.shape[-1])
    length = -(-sound.shape[-1] * step_out // step_in)
    rows = -(-length // row_out)
    before = _reach(step_in, step_out)
    after = (rows + reaches - 1) * row_in - before - clips.shape[-1]
    read = F.pad(clips, (before, after)).view(len(clips), -1, row_in)
    made = read[:, :rows] @ weights[0]
    for index in range(1, reaches):
        made += read[:, index : index + rows] @ weights[index]
    return made.flatten(1)[:, :length].reshape(*sound.shape[:-1], length)


def _period_shape(step_in: int, step_out: int) -> tuple[int, int, int]:
    """Return the shape of `_period_table`; a row is at least as long as the filter's reach."""
    width = _reach(step_in, step_out)
    periods = width // step_in + 1
    row = periods * step_in
    return -(-(row + 2 * width + 1) // row), row, periods * step_out


def _goes_by_periods(step_in: int, step_out: int) -> bool:
    """Return whether the table of `_resample_by_periods` is small."""
    return math.prod(_period_shape(step_in, step_out)) <= _PERIOD_ELEMENTS


@lru_cache(maxsize=4)
def _period_table(step_in: int, step_out: int, dtype: torch.dtype) -> torch.Tensor:
    """Return how much each sample of a row and of those after it counts for a row of outputs.

    A row of outputs begins `_reach` samples after the row that it is made from.

    Returns:
        `(rows read, samples of a row, outputs of a row)`, made in double precision.
    """
    reaches, row_in, row_out = _period_shape(step_in, step_out)
    read = torch.arange(reaches * row_in, dtype=torch.float64) - _reach(step_in, step_out)
    made = torch.arange(row_out, dtype=torch.float64) * step_in / step_out
    cutoff = min(step_in, step_out) * FILTER_ROLLOFF / step_in
    return _filter(read[:, None] - made, cutoff).view(reaches, row_in, row_out).to(dtype)
