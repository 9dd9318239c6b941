"""A formant synthesiser: utterances with known timing, spoken by invented voices.

A source (pulses of the voice and noise of the breath) is shaped frame by frame in the spectrum by
the resonances of the sounds (Klatt, 1980, in outline). Everything is numpy on the CPU; five
seconds take about 20 ms.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ..config import SPEECH_SAMPLE_RATE
from ..emotion import EMOTIONS
from .phonemes import PHONEMES, Phoneme
from .seeds import uniform
from .speeches import Utterance

Signal = npt.NDArray[np.float64]

HOP = 80  # samples between spectral frames: 5 ms
FRAME = 320
SKIRT_HZ = 350  # a resonance is heard this far from its centre
GLIDE_SECONDS = 0.022  # how long the resonances take from one sound to the next

_MANNER = {
    "angry": (1.12, 1.3, 1.12),
    "disgust": (0.92, 0.8, 0.9),
    "fear": (1.25, 1.1, 1.12),
    "happy": (1.18, 1.5, 1.05),
    "neutral": (1.0, 1.0, 1.0),
    "sad": (0.88, 0.5, 0.82),
    "surprise": (1.25, 1.7, 1.0),
}
"""What an emotion does to pitch, to its range and to the speed."""


@dataclass(frozen=True, slots=True)
class Voice:
    """One speaker.

    Attributes:
        pitch_hz: Middle of the pitch.
        pitch_range: Rise on a stress, over the pitch.
        tract: Factor of all formants; above 1 is a shorter tract.
        tilt: Fall of the voice's spectrum in powers of the frequency, 0.6 (bright) to 1.6.
        breath: Noise in the voice, 0 to 1.
        jitter: Unevenness of the pitch.
        width: Factor of the resonances' widths.
        rate: Speed of speaking.
    """

    pitch_hz: float
    pitch_range: float
    tract: float
    tilt: float
    breath: float
    jitter: float
    width: float
    rate: float


def draw_voice(stream: torch.Generator) -> Voice:
    """Draw a speaker."""
    u = uniform(stream, 0, 1, 8).tolist()
    size = u[0]  # a small speaker is high in both pitch and formants, more or less
    return Voice(
        pitch_hz=80 * 3.2 ** (0.8 * size + 0.2 * u[1]),
        pitch_range=0.08 + 0.3 * u[2],
        tract=0.86 + 0.3 * (0.7 * size + 0.3 * u[3]),
        tilt=0.7 + 0.9 * u[4],
        breath=0.4 * u[5] ** 2,
        jitter=0.002 + 0.02 * u[6],
        width=0.8 + 0.7 * u[7],
        rate=0.8 + 0.5 * float(uniform(stream, 0, 1)),
    )


def manner(emotion: str) -> tuple[float, float, float]:
    """Return what an emotion does to pitch, pitch range and speed, as factors.

    Raises:
        ValueError: The name is none of the seven.
    """
    if emotion not in _MANNER:
        raise ValueError(f"Expected an emotion of {', '.join(EMOTIONS)}, got {emotion!r}.")
    return _MANNER[emotion]


def speak(
    utterance: Utterance, voice: Voice, stream: torch.Generator, emotion: str = "neutral"
) -> torch.Tensor:
    """Speak.

    Args:
        utterance: What to say and when.
        voice: Who says it.
        stream: Where the noise comes from.
        emotion: How it is said.

    Returns:
        Waveform at 16 kHz in [-1, 1], (samples,), float32.
    """
    samples = round(utterance.seconds * SPEECH_SAMPLE_RATE)
    frames = samples // HOP + 2
    tracks = _Tracks(utterance, frames)
    random = np.random.default_rng(int(torch.randint(2**62, (), generator=stream)))
    pitch = _pitch(utterance, voice, frames, random, emotion)
    frequency: Signal = np.fft.rfftfreq(FRAME, 1 / SPEECH_SAMPLE_RATE).astype(np.float64)
    resonance = _resonances(tracks.formants * voice.tract, frequency, voice.width)
    breath = random.standard_normal(samples + FRAME)
    tilt = (300 / np.maximum(frequency, 300)) ** voice.tilt
    voiced = _shaped(_pulses(pitch, samples + FRAME), resonance * tilt * tracks.voicing[:, None])
    through = tracks.aspiration + voice.breath * 0.15 * tracks.voicing
    noise = 0.3 * _bands(tracks, frequency) + 0.05 * resonance * tilt * through[:, None]
    sound = (voiced + _shaped(breath, noise))[:samples]
    peak = np.abs(sound).max()
    return torch.from_numpy((0.5 * sound / max(peak, 1e-6)).astype(np.float32))


class _Tracks:
    """The sounds' properties at every spectral frame, gliding from one sound to the next."""

    def __init__(self, utterance: Utterance, frames: int) -> None:
        time = np.arange(frames) * HOP / SPEECH_SAMPLE_RATE
        which = np.searchsorted(np.asarray(utterance.starts), time, side="right") - 1
        sounds = [PHONEMES[name] for name in utterance.names]
        starts, ends = np.asarray(utterance.starts), np.asarray(utterance.ends)
        share = (time - starts[which]) / np.maximum(ends - starts, 1e-3)[which]

        def track(values: list[float]) -> Signal:
            return np.asarray(values, dtype=np.float64)[which]

        stop = track([float(s.kind == "stop") for s in sounds])
        burst = np.where(stop > 0, share > 0.6, 1.0)
        stress = 0.75 + 0.35 * track(list(utterance.stresses))
        self.voicing = _smoothed(track([s.voicing for s in sounds]) * stress, 0.012)
        noise = track([s.noise for s in sounds]) * burst
        direct = track([float(s.noise_hz > 0) for s in sounds])
        self.frication = _smoothed(noise * direct, 0.006)
        self.aspiration = _smoothed(noise * (1 - direct), 0.012)
        self.noise_hz = track([s.noise_hz for s in sounds])
        self.noise_width_hz = track([s.noise_width_hz for s in sounds])
        spoken = _held_over_silence(sounds)
        self.formants = np.stack(
            [_smoothed(track([s.formants[k] for s in spoken]), GLIDE_SECONDS) for k in range(3)]
        )  # (3, frames)


def _held_over_silence(sounds: list[Phoneme]) -> list[Phoneme]:
    """Let silences keep the resonances of what was said before."""
    held: list[Phoneme] = []
    for sound in sounds:
        held.append(held[-1] if sound.kind == "silence" and held else sound)
    return held


def _smoothed(track: Signal, seconds: float) -> Signal:
    """Smooth a track over time by a Gaussian of that spread, the ends held."""
    spread = seconds * SPEECH_SAMPLE_RATE / HOP
    reach = int(np.ceil(3 * spread))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / spread) ** 2)
    padded = np.pad(track, reach, mode="edge")
    return np.convolve(padded, kernel / kernel.sum(), mode="valid")


def _pitch(
    utterance: Utterance, voice: Voice, frames: int, random: np.random.Generator, emotion: str
) -> Signal:
    """Return the pitch in Hz at every spectral frame: falling, raised on stresses, uneven."""
    height, spread, _ = manner(emotion)
    time = np.arange(frames) * HOP / SPEECH_SAMPLE_RATE
    contour = -0.1 * time / max(utterance.seconds, 1.0)
    for start, end, stress in zip(
        utterance.starts, utterance.ends, utterance.stresses, strict=True
    ):
        if stress > 0:
            middle = 0.5 * (start + end)
            contour += (
                voice.pitch_range * spread * stress * 0.5 * np.exp(-(((time - middle) / 0.1) ** 2))
            )
    drift = _smoothed(random.standard_normal(frames), 0.25)
    contour += 0.4 * spread * voice.pitch_range * drift / max(drift.std(), 1e-6) * 0.3
    contour += voice.jitter * random.standard_normal(frames)
    return voice.pitch_hz * height * np.exp(contour)


def _pulses(pitch: Signal, samples: int) -> Signal:
    """Return one pulse a period, placed between samples by sharing it out."""
    position = np.arange(samples) / HOP
    phase = np.cumsum(np.interp(position, np.arange(len(pitch)), pitch) / SPEECH_SAMPLE_RATE)
    beats = np.flatnonzero(np.diff(np.floor(phase)) > 0)
    late = (phase[beats + 1] % 1.0) / np.maximum(phase[beats + 1] - phase[beats], 1e-9)
    signal = np.zeros(samples + 1)
    signal[beats + 1] += 1 - late
    signal[beats] += late
    return signal[:samples]


def _resonances(formants: Signal, frequency: Signal, width: float) -> Signal:
    """Return the tract's gain at every frame and frequency, (frames, frequencies).

    Each resonance is a peak over 1, so that the fall of the spectrum is the voice's own.
    """
    gain = np.ones((formants.shape[1], len(frequency)))
    fixed = np.full(formants.shape[1], 1.0)
    centres = (*formants, 3500 * fixed, 4500 * fixed)
    for centre, band in zip(centres, (70, 100, 150, 250, 350), strict=True):
        away = (frequency - centre[:, None]) ** 2
        half = 0.5 * band * width
        gain *= np.sqrt((away + SKIRT_HZ**2) / (away + half**2))
    return gain


def _bands(tracks: _Tracks, frequency: Signal) -> Signal:
    """Return the gain of the consonants' noise, (frames, frequencies)."""
    distance = (frequency - tracks.noise_hz[:, None]) / tracks.noise_width_hz[:, None]
    gain: Signal = tracks.frication[:, None] * np.exp(-0.5 * distance**2)
    return gain


def _shaped(source: Signal, gain: Signal) -> Signal:
    """Filter a signal by a gain that changes with time, overlapping and adding."""
    window = np.hanning(FRAME + 1)[:FRAME]
    frames = len(gain)
    padded = np.pad(source, (FRAME // 2, frames * HOP))
    index = np.arange(frames)[:, None] * HOP + np.arange(FRAME)
    spectrum = np.fft.rfft(padded[index] * window) * gain
    pieces = np.fft.irfft(spectrum, FRAME) * window
    total = np.zeros(frames * HOP + FRAME)
    for part in range(FRAME // HOP):  # frames that do not overlap are added at once
        chosen = pieces[part :: FRAME // HOP].ravel()
        total[part * HOP : part * HOP + len(chosen)] += chosen
    return total[FRAME // 2 : FRAME // 2 + len(source)]
