"""Invented speech: seeded, timed, and followed by the drawn mouth."""

import numpy as np
import pytest
import torch

from float_core.config import SPEECH_SAMPLE_RATE
from float_core.emotion import EMOTIONS
from float_core.training import poses, seeds, voices
from float_core.training.performances import frame_times, mouth_track, perform
from float_core.training.phonemes import PHONEMES
from float_core.training.recordings import record
from float_core.training.speeches import Utterance, invent

FPS = 25


def utterance(*sounds: tuple[str, float], stress: float = 0.5) -> Utterance:
    lengths = [seconds for _, seconds in sounds]
    starts = tuple(np.cumsum([0.0, *lengths[:-1]]).tolist())
    names = tuple(name for name, _ in sounds)
    return Utterance(names, starts, sum(lengths), (stress,) * len(names))


def voice(name: str = "a") -> voices.Voice:
    return voices.draw_voice(seeds.generator(name))


def loudness(sound: torch.Tensor, start: float, end: float) -> float:
    part = sound[round(start * SPEECH_SAMPLE_RATE) : round(end * SPEECH_SAMPLE_RATE)]
    return float(part.square().mean().sqrt())


def test_speech_is_a_function_of_its_seed_and_fills_the_clip() -> None:
    first, again = (invent(seeds.generator("words", 1), 4.0) for _ in range(2))
    assert first == again
    assert first != invent(seeds.generator("words", 2), 4.0)
    assert first.names[0] == first.names[-1] == "sil"
    assert first.starts[0] == 0
    assert first.ends[-1] == 4.0
    assert all(end > start for start, end in zip(first.starts, first.ends, strict=True))
    assert len(set(first.names)) > 10
    sounds = [voices.speak(first, voice(), seeds.generator("s")) for _ in range(2)]
    assert torch.equal(*sounds)
    assert sounds[0].shape == (4 * SPEECH_SAMPLE_RATE,)


def test_sounds_are_heard_when_they_are_said() -> None:
    said = utterance(("sil", 0.5), ("ah", 0.4), ("sil", 0.5), ("s", 0.4), ("sil", 0.5))
    sound = voices.speak(said, voice(), seeds.generator("s"))
    for start, end in ((0.55, 0.85), (1.45, 1.75)):
        assert loudness(sound, start, end) > 0.01
    for start, end in ((0.05, 0.45), (1.0, 1.35), (1.9, 2.25)):
        assert loudness(sound, start, end) < 0.002


def spectrum_centre(sound: torch.Tensor) -> float:
    power = torch.fft.rfft(sound).abs().square()
    hertz = torch.linspace(0, SPEECH_SAMPLE_RATE / 2, len(power))
    return float((power * hertz).sum() / power.sum())


def test_vowels_are_low_and_hisses_high_and_vowels_differ() -> None:
    centres = {}
    for name in ("ah", "iy", "uw", "s", "sh"):
        sound = voices.speak(utterance((name, 0.5)), voice(), seeds.generator("s"))
        centres[name] = spectrum_centre(sound[1600:-1600])
    assert centres["s"] > centres["sh"] > 2500 > centres["ah"]
    spectra = [
        torch.fft.rfft(voices.speak(utterance((v, 0.5)), voice(), seeds.generator("s"))).abs()
        for v in ("iy", "ah")
    ]
    band = slice(500, 750)  # 1000 to 1500 Hz: the second formant of "ah" and a hole of "iy"
    shares = [float(s[band].square().sum() / s.square().sum()) for s in spectra]
    assert shares[1] > 3 * shares[0]


def test_the_pitch_is_the_voices() -> None:
    for name in ("low", "high"):
        speaker = voice(name)
        sound = voices.speak(utterance(("ah", 1.0), stress=0.0), speaker, seeds.generator("s"))
        part = sound[4000:12000].double()
        correlation = torch.fft.irfft(torch.fft.rfft(part, 16000).abs().square())[:400]
        lag = int(correlation[45:].argmax()) + 45
        assert SPEECH_SAMPLE_RATE / lag == pytest.approx(speaker.pitch_hz, rel=0.12)


def test_the_mouth_follows_the_sounds() -> None:
    said = utterance(("sil", 0.4), ("ah", 0.3), ("m", 0.12), ("ah", 0.3), ("sil", 0.6))
    opening, _ = mouth_track(said, torch.tensor([0.1, 0.55, 0.76, 0.97, 1.5]))
    silence, vowel, lips_met, again, end = opening.tolist()
    assert silence < 0.01
    assert end < 0.01
    assert lips_met < 0.1
    assert vowel > 0.6
    assert again > 0.6
    _, width = mouth_track(utterance(("iy", 0.3), ("uw", 0.3)), torch.tensor([0.1, 0.5]))
    assert width[0] > 0.5
    assert width[1] < -0.5


def test_in_silence_the_mouth_is_shut_whatever_the_emotion() -> None:
    for emotion in EMOTIONS:
        track = perform(utterance(("sil", 2.0)), seeds.generator(emotion), 50, FPS, emotion)
        assert track[:, poses.index("opening")].max() == 0


def test_a_performance_is_seeded_lively_and_shows_its_emotion() -> None:
    said = invent(seeds.generator("words", 5), 6.0)
    happy, again = (perform(said, seeds.generator("p"), 150, FPS, "happy") for _ in range(2))
    assert torch.equal(happy, again)
    plain = perform(said, seeds.generator("p"), 150, FPS, "neutral")
    difference = (happy - plain).mean(0)
    assert difference[poses.index("smile")] > 0.6
    opening = plain[:, poses.index("opening")]
    expected, _ = mouth_track(said, frame_times(150, FPS))
    assert torch.corrcoef(torch.stack((opening, expected)))[0, 1] > 0.999
    assert plain[:, poses.index("blink")].max() > 0.9
    assert plain[:, poses.index("yaw")].std() > 0.01


def test_every_sound_has_a_mouth_and_lips_meet_where_they_must() -> None:
    for name, sound in PHONEMES.items():
        assert 0 <= sound.opening <= 1
        assert -1 <= sound.width <= 1
        assert (sound.opening == 0) == (name in ("m", "p", "b", "sil"))


def test_an_unknown_emotion_is_refused() -> None:
    with pytest.raises(ValueError, match=r"angry.*'calm'"):
        voices.manner("calm")


def test_a_recording_keeps_length_and_range_and_is_seeded() -> None:
    sound = voices.speak(invent(seeds.generator("w"), 2.0), voice(), seeds.generator("s"))
    for k in range(6):
        taken = record(sound, seeds.generator("room", k))
        assert taken.shape == sound.shape
        assert 0.05 < taken.abs().max() <= 0.951
        assert torch.equal(taken, record(sound, seeds.generator("room", k)))
