"""Streaming: the same frames, as they come, from a whole sound or a live one."""

import itertools
import math
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from parity import synthetic

from float_core import decoding, long_speech
from float_core.audio import normalise, prepare_speech, resample
from float_core.config import BASE_WAV2VEC2, SamplingOptions
from float_core.decoding import BatchSize, decode_in_batches
from float_core.emotion import one_hot
from float_core.long_speech import (
    LiveSpeech,
    PreparedSpeech,
    RunningStatistics,
    StreamingResampler,
    live_pieces,
    plan_pieces,
)
from float_core.pipeline import FloatPipeline
from tests.core.weights import SMALL, synthetic_state_dict

RATE = 16000
FEW = SamplingOptions(time_points=3)


@pytest.fixture(scope="module")
def pipeline() -> FloatPipeline:
    return FloatPipeline.from_state_dict(synthetic_state_dict(SMALL), SMALL)


@pytest.fixture(scope="module")
def long_pipeline() -> FloatPipeline:
    """A small model with the released extractors: their strides give two features a frame."""
    released = {
        "conv_dim": (8,) * 7,
        "conv_kernel": BASE_WAV2VEC2.conv_kernel,
        "conv_stride": BASE_WAV2VEC2.conv_stride,
    }
    config = replace(
        SMALL,
        fps=25,
        speech=replace(SMALL.speech, **released),
        emotion=replace(SMALL.emotion, **released),
    )
    return FloatPipeline.from_state_dict(synthetic_state_dict(config), config)


@pytest.fixture(scope="module")
def portrait(pipeline):
    return pipeline.encode_portrait(torch.from_numpy(synthetic.image("a", 16))[None])


def speech(seconds: float, name: str = "a") -> torch.Tensor:
    return torch.from_numpy(synthetic.speech(name, seconds))[None, None]


# The whole sound


@pytest.mark.parametrize("fps", [20, 25, 30, 12.5, 29.97])
@pytest.mark.parametrize("seconds", [0.1, 1.3, 4.0])
def test_streamed_frames_equal_the_stages(seconds, fps, pipeline, portrait) -> None:
    """Bit for bit at the batch size that windows divide by; else within rounding."""
    sound, happy = speech(seconds), one_hot("happy")
    motion = pipeline.sample(portrait, pipeline.encode_speech(sound, RATE), happy, FEW)
    expected = torch.cat(list(pipeline.decode(portrait, motion.at_fps(fps), 1)))
    stream = pipeline.stream(portrait, sound, RATE, happy, FEW, fps=fps, batch_size=1)
    assert torch.equal(torch.cat(list(stream)), expected)
    larger = pipeline.stream(portrait, sound, RATE, happy, FEW, fps=fps, batch_size=5)
    torch.testing.assert_close(torch.cat(list(larger)), expected, rtol=1e-4, atol=1e-4)


def test_an_emotion_track_is_streamed_alike(pipeline, portrait) -> None:
    sound = speech(2.0)
    track = torch.rand(1, 40, 7, generator=torch.Generator().manual_seed(0))
    motion = pipeline.sample(portrait, pipeline.encode_speech(sound, RATE), track, FEW)
    expected = torch.cat(list(pipeline.decode(portrait, motion, 1)))
    stream = pipeline.stream(portrait, sound, RATE, track, FEW, batch_size=1)
    assert torch.equal(torch.cat(list(stream)), expected)


def test_the_first_frames_come_before_later_windows_are_sampled(pipeline, portrait) -> None:
    steps = []
    sound, happy = speech(6.0), one_hot("happy")
    stream = pipeline.stream(portrait, sound, RATE, happy, FEW, on_step=lambda: steps.append(1))
    next(stream)
    assert len(steps) == SMALL.speech.layers + FEW.time_points - 1


def test_a_callback_that_raises_stops_the_stream(pipeline, portrait) -> None:
    def stop() -> None:
        raise InterruptedError

    stream = pipeline.stream(portrait, speech(1.0), RATE, one_hot("sad"), FEW, on_step=stop)
    with pytest.raises(InterruptedError):
        next(stream)


def test_only_one_portrait_is_streamed(pipeline) -> None:
    two = pipeline.encode_portrait(torch.zeros(2, 3, 16, 16))
    with pytest.raises(ValueError, match=r"one of each to stream, got 2 portrait\(s\)"):
        next(pipeline.stream(two, speech(1.0), RATE, one_hot("sad")))


# Long speech


def test_pieces_cover_the_clip_once_and_open_with_a_window() -> None:
    pieces = list(plan_pieces(4000, 25, 50))
    assert pieces[0].start == 0
    assert pieces[0].stop == 50
    assert pieces[-1].stop == 4000
    assert all(a.stop == b.start for a, b in itertools.pairwise(pieces))
    for piece in pieces[1:-1]:
        assert piece.start - piece.first == min(piece.start, long_speech.CONTEXT_SECONDS * 25)
        assert piece.last - piece.stop == long_speech.CONTEXT_SECONDS * 25 or piece.last == 4000
    assert max(p.stop - p.start for p in pieces) == long_speech.PIECE_SECONDS * 25


def test_up_to_a_minute_speech_is_encoded_at_once(pipeline) -> None:
    sound = speech(60.0)
    at_once = pipeline.encode_speech(sound, RATE, encoding="whole").embedding
    assert torch.equal(pipeline.encode_speech(sound, RATE).embedding, at_once)


def test_longer_speech_is_encoded_in_pieces_near_the_whole(long_pipeline) -> None:
    sound = speech(75.0)
    whole = long_pipeline.encode_speech(sound, RATE, encoding="whole")
    pieces = long_pipeline.encode_speech(sound, RATE)
    assert pieces.embedding.shape == whole.embedding.shape
    assert not torch.equal(pieces.embedding, whole.embedding)
    error = (pieces.embedding - whole.embedding).norm() / whole.embedding.norm()
    assert error < 0.1


def test_features_of_a_piece_are_those_of_the_whole_clip(long_pipeline) -> None:
    """The extractor's group norm goes by the clip, so its features do not depend on the cut."""
    network = long_pipeline.audio_encoder
    sound = torch.cat((speech(8.0) * 3, speech(8.0, "b") * 0.3), dim=-1)
    prepared = PreparedSpeech(sound, RATE)
    whole = network.frame_features(prepared.part(0, prepared.samples), 400)
    moments = prepared.window_moments(10, 5)
    piece = network.frame_features(prepared.part(100 * 640, 200 * 640), 100, moments)
    torch.testing.assert_close(piece[:, 1:-1], whole[:, 101:199], rtol=1e-3, atol=1e-3)
    alone = network.frame_features(prepared.part(100 * 640, 200 * 640), 100)
    assert (alone[:, 1:-1] - whole[:, 101:199]).abs().max() > 0.01


def test_more_context_brings_the_pieces_nearer_to_the_whole(long_pipeline, monkeypatch) -> None:
    sound = speech(70.0)
    whole = long_pipeline.encode_speech(sound, RATE, encoding="whole").embedding
    errors = []
    for seconds in (0, 2, 8):
        monkeypatch.setattr(long_speech, "CONTEXT_SECONDS", seconds)
        monkeypatch.setattr(long_speech, "OPENING_CONTEXT_SECONDS", seconds)
        errors.append((long_pipeline.encode_speech(sound, RATE).embedding - whole).norm())
    assert errors[0] > errors[1] > errors[2]


def test_a_long_stream_is_encoded_as_it_is_needed(pipeline, portrait) -> None:
    steps = []
    sound = speech(70.0)
    stream = pipeline.stream(
        portrait, sound, RATE, one_hot("sad"), FEW, on_step=lambda: steps.append(1)
    )
    next(stream)
    assert len(steps) == SMALL.speech.layers + FEW.time_points - 1


def test_the_emotion_of_long_speech_is_near_that_of_the_whole(long_pipeline) -> None:
    sound = speech(75.0)
    whole = long_pipeline.classify_emotion(sound, RATE, encoding="whole")
    pieces = long_pipeline.classify_emotion(sound, RATE)
    assert not torch.equal(whole, pieces)
    torch.testing.assert_close(pieces, whole, rtol=0, atol=0.02)


# Sound in parts


@pytest.mark.parametrize(("rate", "channels"), [(16000, 1), (16000, 2), (44100, 1), (8000, 6)])
def test_prepared_parts_equal_the_whole(rate, channels) -> None:
    sound = torch.randn(2, channels, rate * 2 + 7, generator=torch.Generator().manual_seed(0))
    sound[1] += 0.5
    whole = normalise(prepare_speech(sound, rate))
    prepared = PreparedSpeech(sound, rate)
    assert prepared.samples == whole.shape[-1]
    for start, stop in [(0, 500), (640, 20000), (30000, 99999)]:
        torch.testing.assert_close(
            prepared.part(start, stop), whole[:, start:stop], rtol=0, atol=2e-6
        )


def test_a_short_sound_is_normalised_bit_for_bit() -> None:
    sound = speech(3.0)
    assert torch.equal(PreparedSpeech(sound, RATE).part(0, 48000), normalise(sound[:, 0]))


def test_statistics_of_stretches_are_those_of_the_whole() -> None:
    sound = torch.randn(2, 5000, dtype=torch.float64) * 3 + 100
    statistics = RunningStatistics()
    for stretch in sound.split([1, 999, 3000, 1000], dim=-1):
        statistics.add(stretch)
    torch.testing.assert_close(statistics.normalise(sound), normalise(sound))


@pytest.mark.parametrize(
    ("rate", "offset", "kernel", "stride"),
    [(16000, 0.0, 10, 5), (16000, 50.0, 7, 3), (16000, 1.0, 3, 4), (48000, 0.5, 10, 5)],
)
def test_one_quick_pass_measures_what_plain_formulas_do(rate, offset, kernel, stride) -> None:
    """Of more than a minute, read in stretches; sounds of the batch differ, and far from zero."""
    sound = torch.randn(2, 1, rate * 61 + 77, generator=torch.Generator().manual_seed(0)) + offset
    sound[1] *= 0.1
    sound[:, :, rate * 30 :] *= 2
    prepared = PreparedSpeech(sound, rate)
    moments = prepared.window_moments(kernel, stride)
    whole = normalise(prepare_speech(sound, rate).double())
    windows = whole.unfold(-1, kernel, stride)
    square = windows.mT @ windows / windows.shape[1]
    torch.testing.assert_close(moments.mean.double(), windows.mean(1), rtol=0, atol=5e-6)
    torch.testing.assert_close(moments.square.double(), square, rtol=0, atol=5e-6)
    part = prepared.part(40 * RATE, 50 * RATE).double()
    torch.testing.assert_close(part, whole[:, 40 * RATE : 50 * RATE], rtol=1e-5, atol=1e-5)


def test_moments_and_statistics_come_from_one_pass(monkeypatch) -> None:
    made = []
    mono_part = long_speech.mono_part

    def counted(waveform, from_rate, to_rate, start, stop, precision):
        made.append(stop - start)
        return mono_part(waveform, from_rate, to_rate, start, stop, precision)

    monkeypatch.setattr(long_speech, "mono_part", counted)
    prepared = PreparedSpeech(speech(70.0), RATE)
    assert not made
    prepared.window_moments(10, 5)
    prepared.part(0, RATE)
    assert sum(made) < 72 * RATE


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000])
@pytest.mark.parametrize("length", [1600, 4801])
def test_resampling_stretches_equals_resampling_the_whole(rate, length) -> None:
    sound = torch.randn(1, rate * 2 + 33, generator=torch.Generator().manual_seed(0))
    resampler = StreamingResampler(rate)
    parts = [resampler.push(stretch) for stretch in sound.split(length, dim=-1)]
    made = torch.cat([*parts, resampler.finish()], dim=-1)
    torch.testing.assert_close(made, resample(sound, rate, 16000), rtol=0, atol=2e-6)
    assert resampler._raw.shape[-1] < rate / 2 + length


# Live sound


def stretches(sound: torch.Tensor, seconds: float, heard: list[int] | None = None):
    for stretch in sound.split(round(seconds * RATE), dim=-1):
        if heard is not None:
            heard.append(stretch.shape[-1])
        yield stretch


@pytest.mark.parametrize("seconds", [0.5, 1.9, 6.3])
def test_a_live_sound_gives_every_frame(seconds, pipeline, portrait) -> None:
    live = stretches(speech(seconds), 0.1)
    frames = torch.cat(list(pipeline.stream(portrait, live, RATE, one_hot("sad"), FEW)))
    assert len(frames) == math.ceil(Fraction(str(seconds)) * SMALL.fps)


def test_a_live_frame_waits_for_its_window_and_the_lookahead_only(pipeline, portrait) -> None:
    heard: list[int] = []
    live = stretches(speech(6.0), 0.1, heard)
    stream = pipeline.stream(portrait, live, RATE, one_hot("sad"), FEW, lookahead_seconds=0.4)
    next(stream)
    window_seconds = SMALL.transformer.window_frames / SMALL.fps
    assert sum(heard) / RATE == pytest.approx(window_seconds + 0.4, abs=0.11)


def test_a_live_sound_is_near_the_whole_one(pipeline, portrait) -> None:
    """With a lookahead of all that follows and the same statistics only the context differs."""
    sound = speech(1.2)
    whole = torch.cat(list(pipeline.stream(portrait, sound, RATE, one_hot("sad"), FEW)))
    live = pipeline.stream(
        portrait, stretches(sound, 0.4), RATE, one_hot("sad"), FEW, lookahead_seconds=9.0
    )
    torch.testing.assert_close(torch.cat(list(live)), whole, rtol=1e-3, atol=1e-3)


def test_live_speech_forgets_what_no_piece_needs() -> None:
    sound = LiveSpeech(stretches(speech(40.0), 0.5), RATE)
    for piece in live_pieces(sound, 20, 12, 4):
        sound.part(piece.first * 800, piece.last * 800)
    assert sound.samples == 40 * RATE
    assert sound._heard.shape[-1] < 10 * RATE


def test_a_live_sound_takes_a_constant_emotion_only(pipeline, portrait) -> None:
    live = stretches(speech(1.0), 0.1)
    with pytest.raises(ValueError, match="shape"):
        next(pipeline.stream(portrait, live, RATE, torch.zeros(1, 20, 7), FEW))


# Memory


def test_batches_are_halved_when_memory_runs_out() -> None:
    sizes: list[int] = []

    def draw(latents: torch.Tensor) -> torch.Tensor:
        sizes.append(len(latents))
        if len(latents) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return latents * 2

    latents = torch.arange(20.0)[:, None]
    size = BatchSize(8)
    frames = torch.cat(list(decode_in_batches(draw, latents, size)))
    assert torch.equal(frames, latents * 2)
    assert sizes[:4] == [8, 4, 2, 2]
    assert size.frames == 2


@pytest.mark.parametrize(
    ("free_frames", "device", "expected"),
    [(1000, "cpu", 4), (5, "cpu", 2), (0.1, "cpu", 1), (1000, "cuda", 32), (20, "cuda", 10)],
)
def test_the_batch_size_follows_the_free_memory(free_frames, device, expected, monkeypatch) -> None:
    free = int(free_frames * decoding.decoding_bytes(SMALL, 1))
    monkeypatch.setattr(decoding, "free_bytes", lambda _device: free)
    assert decoding.fitting_batch(SMALL, torch.device(device)) == expected


def test_the_free_memory_of_this_machine_is_known() -> None:
    free = decoding.free_bytes(torch.device("cpu"))
    assert free is None or free > 2**20


def test_one_frame_too_many_says_what_to_change() -> None:
    def draw(_latents: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(MemoryError, match="half precision"):
        list(decode_in_batches(draw, torch.zeros(4, 1), BatchSize(4)))


def test_other_errors_are_not_taken_for_memory() -> None:
    def draw(_latents: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        list(decode_in_batches(draw, torch.zeros(4, 1), BatchSize(4)))
