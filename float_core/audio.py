"""Waveforms: checks, mono, resampling, normalising and the count of video frames they span.

Files are opened by `float_core.media`; here a sound is always a float tensor of samples in [-1, 1].
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from fractions import Fraction
from functools import cache

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
    # Both keep NaN and infinity, and unlike a test of each sample need no memory.
    limits = torch.stack((waveform.amin(), waveform.amax()))
    if not bool(torch.isfinite(limits).all()):
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
    span = waveform.amax(dim=(1, 2)) - waveform.amin(dim=(1, 2))
    silent = int((span < SILENCE_RANGE).sum())
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
        resampled = _resample_by_phases(sound, from_rate, to_rate)
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
    step_in, step_out = _reduced(from_rate, to_rate)
    stop = min(stop, resampled_length(waveform.shape[-1], from_rate, to_rate))
    if start >= stop or from_rate == to_rate:
        return _precise(waveform[..., start : max(start, stop)])
    # Cut at whole periods of the two rates, so that every sample keeps its phase.
    margin = resampling_margin(from_rate, to_rate)
    first = max(start // step_out - margin, 0)
    last = -(-stop // step_out) + margin
    part = resample(waveform[..., first * step_in : last * step_in], from_rate, to_rate)
    return part[..., start - first * step_out : stop - first * step_out]


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


def _reach(step_in: int, step_out: int) -> int:
    """Return how many input samples the filter reaches to either side."""
    return math.ceil(FILTER_WIDTH * step_in / (min(step_in, step_out) * FILTER_ROLLOFF))


def _torchaudio_elements(sound: torch.Tensor, from_rate: int, to_rate: int) -> int:
    """Return how many numbers torchaudio would hold: its table of weights and unfolded windows."""
    step_in, step_out = _reduced(from_rate, to_rate)
    row = 2 * _reach(step_in, step_out) + step_in
    return row * (step_out + sound.numel() // step_in + 1)


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


def _resample_by_phases(sound: torch.Tensor, from_rate: int, to_rate: int) -> torch.Tensor:
    """Resample on the CPU with one short row of weights for each phase of the two rates.

    Output sample n stands at input position `n * from / to`; its phase, the part after the point,
    recurs every `to` samples. Outputs are made in blocks, so memory does not grow with the length.

    Args:
        sound: `(…, samples)`, float64 on the CPU.
        from_rate: Samples a second that came.
        to_rate: Samples a second wanted.

    Returns:
        `(…, ceil(samples * to_rate / from_rate))`, float64.
    """
    step_in, step_out = _reduced(from_rate, to_rate)
    reach = _reach(step_in, step_out)
    taps = 2 * reach + 2  # one more on the right: a position lies between two samples
    clips = sound.reshape(-1, sound.shape[-1])
    length = -(-sound.shape[-1] * step_out // step_in)
    table = _phase_table(min(step_out, length), step_in, step_out, reach)
    windows = F.pad(clips, (reach, taps)).unfold(-1, taps, 1)  # (clips, positions, taps)
    resampled = torch.empty(clips.shape[0], length, dtype=torch.float64)
    block = max(1, _BLOCK_ELEMENTS // (taps * clips.shape[0]))
    for begin in range(0, length, block):
        index = torch.arange(begin, min(begin + block, length))
        position = index * step_in // step_out
        resampled[:, index] = torch.einsum(
            "cnt,nt->cn", windows[:, position], table[index % step_out]
        )
    return resampled.reshape(*sound.shape[:-1], length)


def _phase_table(phases: int, step_in: int, step_out: int, reach: int) -> torch.Tensor:
    """Return the filter's weights for the first `phases` output samples.

    Returns:
        `(phases, 2 * reach + 2)`, float64.
    """
    cutoff = min(step_in, step_out) * FILTER_ROLLOFF / step_in
    tap = torch.arange(-reach, reach + 2, dtype=torch.float64)
    table = torch.empty(phases, len(tap), dtype=torch.float64)
    rows = max(1, _BLOCK_ELEMENTS // len(tap))
    for begin in range(0, phases, rows):
        phase = torch.arange(begin, min(begin + rows, phases)) * step_in % step_out
        offset = tap - (phase.double() / step_out)[:, None]
        table[begin : begin + rows] = _filter(offset, cutoff)
    return table
