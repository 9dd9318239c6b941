"""What is said and when: invented words with their stress, over the whole of a clip."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .phonemes import CONSONANTS, PHONEMES, VOWELS


@dataclass(frozen=True, slots=True)
class Utterance:
    """Sounds with known timing.

    Attributes:
        names: Names in `PHONEMES`, in order; they fill the clip without gaps.
        starts: Start of each in seconds.
        seconds: Length of the clip.
        stresses: Stress of each, 0 (none) to 1.
    """

    names: tuple[str, ...]
    starts: tuple[float, ...]
    seconds: float
    stresses: tuple[float, ...]

    @property
    def ends(self) -> tuple[float, ...]:
        """Return the end of each sound in seconds."""
        return (*self.starts[1:], self.seconds)


class _Chance:
    """Draws of one stream, one by one."""

    def __init__(self, stream: torch.Generator) -> None:
        self._stream = stream

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=self._stream))

    def one_of(self, choices: tuple[str, ...]) -> str:
        return choices[int(torch.randint(len(choices), (), generator=self._stream))]

    def happens(self, probability: float) -> bool:
        return self.between(0, 1) < probability


def invent(stream: torch.Generator, seconds: float, rate: float = 1.0) -> Utterance:
    """Invent speech of words, pauses and stresses.

    Args:
        stream: Where chance comes from.
        seconds: Length of the clip.
        rate: Speed of speaking; 1 is about four and a half syllables a second.
    """
    chance = _Chance(stream)
    names, starts, stresses = ["sil"], [0.0], [0.0]
    time = chance.between(0.05, 0.7)
    while time < seconds - 0.3:
        for name, stress in _phrase(chance):
            stretched = 1 + 0.5 * stress if PHONEMES[name].kind == "vowel" else 1.0
            names.append(name)
            starts.append(time)
            stresses.append(stress)
            time += PHONEMES[name].seconds * stretched * chance.between(0.75, 1.3) / rate
        names.append("sil")
        starts.append(time)
        stresses.append(0.0)
        time += chance.between(0.15, 0.9)
    kept = [k for k, start in enumerate(starts) if start < seconds - 0.2]
    utterance = [names[k] for k in kept], [starts[k] for k in kept], [stresses[k] for k in kept]
    if utterance[0][-1] != "sil":
        utterance[0].append("sil")
        utterance[1].append(seconds - 0.2)
        utterance[2].append(0.0)
    return Utterance(tuple(utterance[0]), tuple(utterance[1]), seconds, tuple(utterance[2]))


def silence(seconds: float) -> Utterance:
    """Return speech in which nothing is said.

    Args:
        seconds: Length of the clip.
    """
    return Utterance(("sil",), (0.0,), seconds, (0.0,))


def _phrase(chance: _Chance) -> list[tuple[str, float]]:
    """Return the sounds of two to eight words with their stress."""
    sounds: list[tuple[str, float]] = []
    for _ in range(int(chance.between(2, 9))):
        syllables = int(chance.between(1, 3.99))
        stressed = int(chance.between(0, syllables))
        weight = chance.between(0.2, 1.0)
        for syllable in range(syllables):
            stress = weight if syllable == stressed else 0.0
            sounds += [(name, stress) for name in _syllable(chance, stress > 0)]
    return sounds


def _syllable(chance: _Chance, stressed: bool) -> list[str]:
    sounds = []
    if chance.happens(0.85):
        sounds.append(chance.one_of(CONSONANTS))
    if not stressed and chance.happens(0.3):
        sounds.append("ax")
    else:
        sounds.append(chance.one_of(VOWELS))
        if stressed and chance.happens(0.25):
            sounds.append(chance.one_of(("iy", "uw", "ax")))
    if chance.happens(0.35):
        sounds.append(chance.one_of(CONSONANTS))
    return sounds
