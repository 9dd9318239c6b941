"""Waveforms: the resampler against its references, the count of frames, and what is refused."""

from __future__ import annotations

import builtins
import logging
from fractions import Fraction

import numpy as np
import pytest
import torch

from float_core import audio

RATES = [8000, 11025, 22050, 44100, 48000, 96000]


def tones_below_7_khz(rate: int, seconds: float) -> torch.Tensor:
    """Return 40 tones, weaker upwards as in speech and faded at both ends, `(1, samples)`."""
    generator = torch.Generator().manual_seed(rate)
    time = torch.arange(round(rate * seconds), dtype=torch.float64) / rate
    tones = torch.linspace(50, min(7000, 0.43 * rate), 40, dtype=torch.float64)
    phases = 6.283 * torch.rand(40, generator=generator, dtype=torch.float64)
    waves = torch.sin(2 * torch.pi * tones[:, None] * time + phases[:, None])
    sound = (waves / tones[:, None]).sum(0) * 20
    fade = torch.sin(torch.pi * time / seconds) ** 2
    return (sound * fade).float()[None]


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


@pytest.fixture
def _no_torchaudio(monkeypatch):
    monkeypatch.setattr(audio, "_torchaudio_resample", lambda: None)


@pytest.mark.usefixtures("_no_torchaudio")
@pytest.mark.parametrize("rate", RATES)
def test_own_filter_equals_torchaudio(rate):
    functional = pytest.importorskip("torchaudio.functional")
    sound = torch.rand(2, rate // 4, generator=torch.Generator().manual_seed(1)) * 2 - 1
    expected = functional.resample(
        sound.double(),
        rate,
        16000,
        lowpass_filter_width=64,
        rolloff=0.9475937167399596,
        resampling_method="sinc_interp_kaiser",
        beta=14.769656459379492,
    )
    ours = audio.resample(sound, rate, 16000)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, expected.float(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("rate", RATES)
def test_same_result_with_and_without_torchaudio(rate, monkeypatch):
    sound = torch.rand(1, rate // 4, generator=torch.Generator().manual_seed(2)) * 2 - 1
    default = audio.resample(sound, rate, 16000)
    monkeypatch.setattr(audio, "_torchaudio_resample", lambda: None)
    torch.testing.assert_close(audio.resample(sound, rate, 16000), default, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rate", RATES)
def test_close_to_soxr_high_quality_below_7_khz(rate):
    # From multiples of 11,025 Hz soxr's own gain falls by 7e-4 up to 7 kHz (ours is flat to 1e-7),
    # so the bound holds for a spectrum that falls as speech does, not for a white one.
    soxr = pytest.importorskip("soxr")
    sound = tones_below_7_khz(rate, 1.0)
    expected = torch.from_numpy(soxr.resample(sound[0].numpy(), rate, 16000, quality="HQ"))[None]
    assert relative(audio.resample(sound, rate, 16000), expected) < 1e-4


@pytest.mark.parametrize("rate", [8000, 16001, 44100, 44101, 191999])
def test_a_tone_stays_the_same_tone(rate):
    time = torch.arange(rate // 2, dtype=torch.float64) / rate
    ours = audio.resample(torch.sin(2 * torch.pi * 440 * time)[None].float(), rate, 16000)[0]
    expected = torch.sin(2 * torch.pi * 440 * torch.arange(len(ours), dtype=torch.float64) / 16000)
    inner = slice(200, -200)
    assert len(ours) == -(-(rate // 2) * 16000 // rate)
    torch.testing.assert_close(ours[inner], expected.float()[inner], rtol=0, atol=2e-5)


def test_what_the_lower_rate_cannot_hold_is_removed():
    time = torch.arange(24000, dtype=torch.float64) / 48000
    above = audio.resample(torch.sin(2 * torch.pi * 9000 * time)[None].float(), 48000, 16000)
    assert float(above[:, 200:-200].abs().max()) < 1e-4


@pytest.mark.usefixtures("_no_torchaudio")
def test_blocks_leave_no_seam(monkeypatch):
    sound = torch.rand(2, 3000, generator=torch.Generator().manual_seed(3))
    whole = audio.resample(sound, 44100, 16000)
    monkeypatch.setattr(audio, "_BLOCK_ELEMENTS", 2000)
    torch.testing.assert_close(audio.resample(sound, 44100, 16000), whole, rtol=0, atol=1e-7)


def test_batch_equals_one_by_one():
    sound = torch.rand(3, 2, 4800, generator=torch.Generator().manual_seed(4)) - 0.5
    batch = audio.prepare_speech(sound, 48000)
    assert batch.shape == (3, 1600)
    for row, clip in zip(batch, sound, strict=True):
        torch.testing.assert_close(audio.prepare_speech(clip[None], 48000)[0], row)


def test_same_rate_changes_nothing():
    sound = torch.rand(1, 2000)
    assert torch.equal(audio.resample(sound, 16000, 16000), sound)


@pytest.mark.parametrize("error", [ImportError, OSError, RuntimeError])
def test_a_broken_torchaudio_is_done_without(error, monkeypatch, caplog):
    real_import = builtins.__import__

    def broken(name, *args, **kwargs):
        if name.startswith("torchaudio"):
            raise error("undefined symbol")
        return real_import(name, *args, **kwargs)

    audio._torchaudio_resample.cache_clear()
    monkeypatch.setattr(builtins, "__import__", broken)
    try:
        with caplog.at_level(logging.INFO, logger="float_core.audio"):
            assert audio.resample(torch.rand(1, 4410), 44100, 16000).shape == (1, 1600)
    finally:
        audio._torchaudio_resample.cache_clear()
    assert "undefined symbol" in caplog.text


def test_normalise_has_mean_0_and_population_variance_1():
    sound = 0.3 + 0.1 * torch.randn(2, 5000, generator=torch.Generator().manual_seed(5))
    result = audio.normalise(sound)
    expected = sound.double().numpy()
    expected = (expected - expected.mean(1, keepdims=True)) / np.sqrt(
        expected.var(1, keepdims=True) + 1e-7
    )
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-5)


def test_normalise_keeps_silence_silent():
    assert float(audio.normalise(torch.full((1, 4000), 0.25)).abs().max()) < 1e-3


@pytest.mark.parametrize(
    ("samples", "fps", "frames"),
    [
        (16000, 25, 25),
        (16001, 25, 26),
        (640, 25, 1),
        (641, 25, 2),
        (1, 25, 1),
        (0, 25, 0),
        (1600, 25, 3),
        (16000 * 36_000, 60, 36_000 * 60),
        (16016, Fraction(30000, 1001), 30),
        (16017, Fraction(30000, 1001), 31),
    ],
)
def test_frame_count_is_an_exact_ceiling(samples, fps, frames):
    assert audio.frame_count(samples, fps) == frames


def test_to_mono_is_the_mean_of_all_channels():
    sound = torch.arange(12, dtype=torch.float32).reshape(1, 6, 2)
    assert torch.equal(audio.to_mono(sound), torch.tensor([[5.0, 6.0]]))


@pytest.mark.parametrize(
    ("rate", "channels", "samples"), [(8000, 1, 8000), (48000, 6, 48000), (16000, 1, 1600)]
)
def test_prepare_speech_takes_any_rate_and_channels(rate, channels, samples):
    sound = torch.rand(1, channels, samples)
    prepared = audio.prepare_speech(sound, rate)
    assert prepared.shape == (1, samples * 16000 // rate)
    assert prepared.dtype == torch.float32


@pytest.mark.parametrize(
    ("waveform", "rate", "words"),
    [
        (torch.zeros(1, 1, 0), 16000, "empty"),
        (torch.zeros(1, 0, 16000), 16000, "empty"),
        (torch.zeros(1, 1, 1599), 16000, "at least 0.1 s"),
        (torch.full((1, 1, 16000), float("nan")), 16000, "NaN"),
        (torch.full((1, 1, 16000), float("inf")), 16000, "NaN or infinity"),
        (torch.rand(1, 1, 16000), 0, "sample rate"),
        (torch.rand(1, 1, 16000), -16000, "sample rate"),
        (torch.rand(1, 1, 16000), 16000.5, "sample rate"),
        (torch.rand(16000), 16000, "3 axes"),
        (torch.rand(1, 16000), 16000, "3 axes"),
        (torch.zeros(1, 1, 16000, dtype=torch.int16), 16000, "floats"),
    ],
)
def test_unusable_sound_is_refused_in_one_sentence(waveform, rate, words):
    with pytest.raises(ValueError, match=words) as refusal:
        audio.prepare_speech(waveform, rate)
    assert str(refusal.value).count("\n") == 0
    assert str(refusal.value).endswith(".")


def test_silence_is_taken_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING, logger="float_core.audio"):
        audio.prepare_speech(torch.zeros(1, 1, 16000), 16000)
    assert "silent" in caplog.text


def test_speech_gives_no_warning(caplog):
    with caplog.at_level(logging.WARNING, logger="float_core.audio"):
        audio.prepare_speech(tones_below_7_khz(16000, 0.5)[:, None], 16000)
    assert not caplog.records


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000, 44101])
def test_a_part_is_resampled_like_the_whole(rate):
    sound = torch.randn(2, rate * 2 + 77, generator=torch.Generator().manual_seed(0))
    whole = audio.resample(sound, rate, 16000)
    assert whole.shape[-1] == audio.resampled_length(sound.shape[-1], rate, 16000)
    for start, stop in [(0, 100), (1, 16000), (12345, 20001), (31000, 40000), (0, 40000)]:
        part = audio.resample_part(sound, rate, 16000, start, stop)
        torch.testing.assert_close(part, whole[:, start:stop], rtol=0, atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000, 96000])
@pytest.mark.parametrize("samples", [1, 700, 30001])
def test_rows_of_periods_give_what_single_samples_give(rate, samples):
    sound = torch.randn(2, 3, samples, generator=torch.Generator().manual_seed(6)).double()
    step_in, step_out = audio._reduced(rate, 16000)
    assert audio._goes_by_periods(step_in, step_out)
    expected = audio._resample_by_phases(sound, step_in, step_out)
    made = audio._resample_by_periods(sound, step_in, step_out)
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-12)
    rough = audio._resample_by_periods(sound.float(), step_in, step_out)
    torch.testing.assert_close(rough.double(), expected, rtol=0, atol=1e-5)


def test_rates_of_a_large_table_do_not_go_by_periods():
    assert not audio._goes_by_periods(*audio._reduced(44101, 16000))


@pytest.mark.parametrize("rate", [16000, 44100])
def test_a_mono_part_is_a_part_of_the_mono_sound(rate):
    sound = torch.randn(2, 3, rate, generator=torch.Generator().manual_seed(7))
    mono = audio.resample(audio.to_mono(sound), rate, 16000)
    part = audio.mono_part(sound, rate, 16000, 4000, 9000)
    torch.testing.assert_close(part, mono[:, 4000:9000], rtol=0, atol=1e-6)
    assert audio.mono_part(sound, rate, 16000, 16000, 17000).shape == (2, 0)
