"""The sounds of the invented speech: how each is heard and how the mouth looks at it.

Formants are rough averages of an adult speaker (Peterson and Barney, 1952, for the vowels); a
voice scales them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["vowel", "nasal", "glide", "fricative", "stop", "silence"]


@dataclass(frozen=True, slots=True)
class Phoneme:
    """One sound.

    Attributes:
        kind: How it is made.
        formants: First three resonances in Hz.
        voicing: Loudness of the voice, 0 to 1.
        noise: Loudness of the breath's noise, 0 to 1.
        noise_hz: Centre of that noise in Hz; 0 sends it through the formants.
        noise_width_hz: Its width in Hz.
        opening: How far the mouth opens, 0 to 1.
        width: How wide it is, -1 (rounded) to 1 (spread).
        closes: How surely the lips reach that opening against their neighbours, 0 to 1.
        seconds: Usual duration.
    """

    kind: Kind
    formants: tuple[float, float, float] = (500.0, 1500.0, 2500.0)
    voicing: float = 0.0
    noise: float = 0.0
    noise_hz: float = 0.0
    noise_width_hz: float = 1000.0
    opening: float = 0.0
    width: float = 0.0
    closes: float = 0.0
    seconds: float = 0.08


def _vowel(f1: float, f2: float, f3: float, opening: float, width: float) -> Phoneme:
    return Phoneme("vowel", (f1, f2, f3), 1.0, opening=opening, width=width, seconds=0.12)


def _nasal(f2: float, opening: float, closes: float) -> Phoneme:
    return Phoneme("nasal", (270, f2, 2300), 0.45, opening=opening, closes=closes, seconds=0.075)


def _glide(f1: float, f2: float, f3: float, opening: float, width: float) -> Phoneme:
    return Phoneme("glide", (f1, f2, f3), 0.6, opening=opening, width=width, seconds=0.07)


def _fricative(
    noise_hz: float,
    spread_hz: float,
    loud: float,
    voicing: float,
    opening: float,
    width: float,
    closes: float = 0.3,
) -> Phoneme:
    return Phoneme(
        "fricative", (300, 1600, 2600), voicing, loud, noise_hz, spread_hz,
        opening, width, closes, 0.095,
    )  # fmt: skip


def _stop(
    noise_hz: float, f2: float, voicing: float, opening: float, closes: float, width: float = 0.0
) -> Phoneme:
    return Phoneme(
        "stop", (300, f2, 2500), voicing, 0.45, noise_hz, 1400, opening, width, closes, 0.085
    )


PHONEMES = {
    "ah": _vowel(740, 1150, 2500, 1.0, 0.05),
    "ae": _vowel(680, 1720, 2450, 0.9, 0.4),
    "eh": _vowel(550, 1800, 2500, 0.68, 0.3),
    "er": _vowel(490, 1350, 1700, 0.5, -0.1),
    "ih": _vowel(400, 1980, 2550, 0.42, 0.35),
    "iy": _vowel(280, 2250, 3000, 0.3, 0.75),
    "ao": _vowel(570, 860, 2420, 0.78, -0.55),
    "uh": _vowel(450, 1050, 2250, 0.42, -0.5),
    "uw": _vowel(310, 880, 2250, 0.26, -0.95),
    "ax": _vowel(510, 1450, 2450, 0.5, 0.0),
    "m": _nasal(1000, 0.0, 1.0),
    "n": _nasal(1550, 0.2, 0.2),
    "ng": _nasal(1950, 0.25, 0.1),
    "l": _glide(350, 1150, 2700, 0.36, 0.1),
    "r": _glide(350, 1150, 1550, 0.28, -0.4),
    "w": _glide(300, 700, 2200, 0.14, -0.95),
    "y": _glide(270, 2200, 2900, 0.24, 0.6),
    "s": _fricative(6200, 1500, 0.5, 0.0, 0.12, 0.45),
    "z": _fricative(5800, 1600, 0.35, 0.35, 0.14, 0.4),
    "sh": _fricative(3400, 1300, 0.55, 0.0, 0.18, -0.55),
    "f": _fricative(4500, 4000, 0.2, 0.0, 0.05, 0.15, 0.8),
    "v": _fricative(4200, 4000, 0.12, 0.45, 0.05, 0.1, 0.8),
    "th": _fricative(5200, 3500, 0.2, 0.0, 0.2, 0.15),
    "hh": Phoneme("fricative", (600, 1500, 2500), 0, 0.22, 0, 1, 0.45, 0.0, 0.0, 0.06),
    "p": _stop(900, 900, 0.0, 0.0, 1.0),
    "b": _stop(800, 900, 0.3, 0.0, 1.0),
    "t": _stop(4800, 1700, 0.0, 0.16, 0.3, 0.1),
    "d": _stop(4200, 1700, 0.3, 0.18, 0.3, 0.1),
    "k": _stop(2100, 2000, 0.0, 0.3, 0.1),
    "g": _stop(1900, 2000, 0.3, 0.3, 0.1),
    "sil": Phoneme("silence", closes=1.0, seconds=0.3),
}
"""Every sound by its name."""

VOWELS = tuple(name for name, sound in PHONEMES.items() if sound.kind == "vowel")
CONSONANTS = tuple(
    name for name, sound in PHONEMES.items() if sound.kind not in ("vowel", "silence")
)
