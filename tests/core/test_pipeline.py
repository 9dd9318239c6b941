"""The public calls of the pipeline on the tiny synthetic model."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from parity import synthetic
from parity.model import GOLDEN, config_of, synthetic_state_dict

from float_core.checkpoint import CheckpointError
from float_core.config import SamplingOptions
from float_core.emotion import one_hot
from float_core.motion import Motion
from float_core.pipeline import FloatPipeline, Portrait, Speech

RATE = 16000
FEW = SamplingOptions(time_points=3)


@pytest.fixture(scope="module")
def pipeline() -> FloatPipeline:
    with np.load(GOLDEN / "tiny.npz") as file:
        config = config_of(json.loads(file["meta"].tobytes())["config"])
    return FloatPipeline.from_state_dict(synthetic_state_dict(config), config)


def images(*names: str) -> torch.Tensor:
    return torch.stack([torch.from_numpy(synthetic.image(name, 64)) for name in names])


def sounds(*names: str, seconds: float = 2.2) -> torch.Tensor:
    return torch.stack([torch.from_numpy(synthetic.speech(n, seconds))[None] for n in names])


@pytest.fixture(scope="module")
def portraits(pipeline: FloatPipeline) -> Portrait:
    return pipeline.encode_portrait(images("a", "b", "c"))


@pytest.fixture(scope="module")
def speeches(pipeline: FloatPipeline) -> Speech:
    return pipeline.encode_speech(sounds("a", "b", "c"), RATE)


def item(value: Portrait | Speech, index: int) -> Portrait | Speech:
    """Return one item of a batch."""
    part = slice(index, index + 1)
    changes = {
        name: tuple(f[part] for f in old) if isinstance(old, tuple) else old[part]
        for name in value.__dataclass_fields__
        if not isinstance(old := getattr(value, name), float)
    }
    return dataclasses.replace(value, **changes)


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_shapes_are_those_of_the_contract(portraits: Portrait, speeches: Speech) -> None:
    assert portraits.identity.shape == (3, 512)
    assert portraits.coefficients.shape == (3, 20)
    assert portraits.motion.shape == (3, 512)
    assert [f.shape[-1] for f in portraits.features] == [8, 16, 32, 64]
    assert speeches.embedding.shape == (3, 55, 512)
    assert speeches.seconds == pytest.approx(2.2)


def test_encoding_a_batch_equals_one_by_one(pipeline, portraits, speeches) -> None:
    for index, name in enumerate("abc"):
        alone = pipeline.encode_portrait(images(name))
        close(alone.identity, portraits.identity[index, None])
        close(alone.features[-1], portraits.features[-1][index, None])
        spoken = pipeline.encode_speech(sounds(name), RATE)
        close(spoken.embedding, speeches.embedding[index, None])


def test_hearing_a_batch_equals_one_by_one(pipeline) -> None:
    together = pipeline.classify_emotion(sounds("a", "b"), RATE)
    assert together.shape == (2, 7)
    torch.testing.assert_close(together.sum(-1), torch.ones(2))
    close(pipeline.classify_emotion(sounds("b"), RATE), together[1:])


@pytest.mark.parametrize("counts", [(1, 3), (3, 1), (3, 3), (1, 1)])
def test_sampling_and_decoding_a_batch_equal_one_by_one(
    pipeline, portraits, speeches, counts
) -> None:
    many, spoken = portraits, speeches
    if counts[0] == 1:
        many = item(portraits, 0)
    if counts[1] == 1:
        spoken = item(speeches, 0)
    emotion = torch.cat([one_hot("happy"), one_hot("sad"), one_hot("fear")])[: max(counts)]
    motion = pipeline.sample(many, spoken, emotion, FEW)
    assert motion.latents.shape == (max(counts), 55, 512)
    frames = list(pipeline.decode(many, Motion(motion.latents[:, ::27], motion.fps), 2))
    assert [len(chunk) for chunk in frames] == [2, 1] * max(counts)
    frames = torch.cat(frames).unflatten(0, (max(counts), 3))
    for index in range(max(counts)):
        portrait = item(many, min(index, counts[0] - 1))
        speech = item(spoken, min(index, counts[1] - 1))
        alone = pipeline.sample(portrait, speech, emotion[index, None], FEW)
        close(alone.latents, motion.latents[index, None])
        short = Motion(alone.latents[:, ::27], alone.fps)
        close(torch.cat(list(pipeline.decode(portrait, short))), frames[index])


def test_batches_that_do_not_fit_are_refused(pipeline, portraits, speeches) -> None:
    two = dataclasses.replace(speeches, embedding=speeches.embedding[:2])
    with pytest.raises(ValueError, match=r"3 portrait\(s\), 2 speech\(s\), 1 emotion\(s\)"):
        pipeline.sample(portraits, two, one_hot("happy"))


def test_the_seed_alone_decides(pipeline, portraits, speeches) -> None:
    one, spoken = item(portraits, 0), item(speeches, 0)

    def latents(seed: int) -> torch.Tensor:
        options = dataclasses.replace(FEW, seed=seed)
        return pipeline.sample(one, spoken, one_hot("happy"), options).latents

    assert torch.equal(latents(1), latents(1))
    assert not torch.allclose(latents(1), latents(2), atol=1e-2)


def test_windows_start_from_different_noise(pipeline, portraits, speeches) -> None:
    """One continuing stream: the second window is not the first one again."""
    one, spoken = item(portraits, 0), item(speeches, 0)
    constant = dataclasses.replace(spoken, embedding=spoken.embedding[:, :1].expand(-1, 100, -1))
    motion = pipeline.sample(one, constant, one_hot("happy"), FEW).latents
    assert not torch.allclose(motion[:, :50], motion[:, 50:], atol=1e-2)


def test_a_constant_track_equals_the_constant(pipeline, portraits, speeches) -> None:
    one, spoken = item(portraits, 0), item(speeches, 0)
    constant = pipeline.sample(one, spoken, one_hot("sad"), FEW)
    track = pipeline.sample(one, spoken, one_hot("sad").expand(1, 55, 7), FEW)
    assert torch.equal(constant.latents, track.latents)


def test_a_far_emotion_does_not_change_a_near_frame(pipeline, portraits, speeches) -> None:
    one, spoken = item(portraits, 0), item(speeches, 0)
    track = one_hot("sad").repeat(1, 55, 1)
    before = pipeline.sample(one, spoken, track, FEW).latents
    track[:, 45] = one_hot("happy")[0, 0]
    after = pipeline.sample(one, spoken, track, FEW).latents
    # Two blocks of radius 2 reach four frames a step; there are two steps.
    assert torch.equal(before[:, :37], after[:, :37])
    assert not torch.equal(before[:, 45], after[:, 45])


@pytest.mark.parametrize(
    "change",
    [
        {"time_points": 4},
        {"solver": "midpoint"},
        {"audio_guidance": 3.0},
        {"emotion_guidance": 2.0},
        {"reference_guidance": 2.0},
        {"seed": 16},
    ],
)
def test_every_option_changes_the_motion(pipeline, portraits, speeches, change) -> None:
    one, spoken = item(portraits, 0), item(speeches, 0)
    plain = pipeline.sample(one, spoken, one_hot("happy"), FEW).latents
    turned = pipeline.sample(one, spoken, one_hot("happy"), dataclasses.replace(FEW, **change))
    assert (plain - turned.latents).norm() > 1e-3 * plain.norm()


@pytest.mark.parametrize("change", [{}, {"audio_guidance": 1.0}, {"reference_guidance": 2.0}])
def test_the_sampler_equals_the_plain_one(pipeline, portraits, speeches, change) -> None:
    with np.load(GOLDEN / "tiny.npz") as file:
        config = config_of(json.loads(file["meta"].tobytes())["config"])
    plain = FloatPipeline.from_state_dict(synthetic_state_dict(config), config, plain=True)
    options = SamplingOptions(time_points=4, **change)
    emotion = torch.stack((one_hot("happy"), one_hot("sad"), torch.zeros(1, 1, 7)))[:, 0]
    expected = plain.sample(portraits, speeches, emotion, options).latents
    actual = pipeline.sample(portraits, speeches, emotion, options).latents
    assert (actual - expected).norm() < 1e-5 * expected.norm()


def test_noise_may_be_given(pipeline, portraits, speeches) -> None:
    one, spoken = item(portraits, 0), item(speeches, 0)
    drawn = pipeline.sample(one, spoken, one_hot("sad"), FEW)
    noise = torch.randn(1, 2, 50, 512, generator=torch.Generator().manual_seed(FEW.seed))
    given = pipeline.sample(one, spoken, one_hot("sad"), FEW, noise=noise)
    assert torch.equal(given.latents, drawn.latents)
    other = pipeline.sample(one, spoken, one_hot("sad"), FEW, noise=-noise)
    assert not torch.allclose(other.latents, drawn.latents, atol=1e-2)
    with pytest.raises(ValueError, match="for 2 windows, got"):
        pipeline.sample(one, spoken, one_hot("sad"), FEW, noise=noise[:, :1])


def test_decoding_does_not_depend_on_the_batch_size(pipeline, portraits, speeches) -> None:
    one, spoken = item(portraits, 0), item(speeches, 0)
    motion = pipeline.sample(one, spoken, one_hot("happy"), FEW)
    short = Motion(motion.latents[:, :7], motion.fps)
    by_size = [torch.cat(list(pipeline.decode(one, short, size))) for size in (1, 3, 7, 100)]
    for frames in by_size[1:]:
        close(frames, by_size[0])
    with pytest.raises(ValueError, match="batch size of 1 or more frames, got 0"):
        next(pipeline.decode(one, short, 0))


def test_progress_is_reported_and_may_stop(pipeline, portraits, speeches) -> None:
    one, spoken = item(portraits, 0), item(speeches, 0)
    seen: list[tuple[int, int]] = []
    pipeline.encode_speech(sounds("a"), RATE, lambda *p: seen.append(p))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    seen.clear()
    pipeline.sample(one, spoken, one_hot("sad"), FEW, on_progress=lambda *p: seen.append(p))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]

    def stop(done: int, _total: int) -> None:
        if done == 2:
            raise InterruptedError

    for stage in (
        lambda: pipeline.encode_speech(sounds("a"), RATE, stop),
        lambda: pipeline.classify_emotion(sounds("a"), RATE, stop),
        lambda: pipeline.sample(one, spoken, one_hot("sad"), FEW, on_progress=stop),
    ):
        with pytest.raises(InterruptedError):
            stage()
    layers = pipeline.audio_encoder.wav2vec2.encoder.layers
    assert not any(layer._forward_hooks for layer in layers)


def test_a_portrait_of_another_size_is_refused(pipeline) -> None:
    with pytest.raises(ValueError, match=r"\(batch, 3, 64, 64\), got \(1, 3, 64, 65\)"):
        pipeline.encode_portrait(torch.zeros(1, 3, 64, 65))


def test_an_emotion_of_another_shape_is_refused(pipeline, portraits, speeches) -> None:
    with pytest.raises(ValueError, match="1 or 55 frames, 7"):
        pipeline.sample(item(portraits, 0), item(speeches, 0), torch.zeros(1, 3, 7), FEW)


def test_without_an_emotion_network_the_rest_works(pipeline) -> None:
    state = {
        key: value
        for key, value in synthetic_state_dict(pipeline.config).items()
        if not key.startswith("emotion_encoder.")
    }
    silent = FloatPipeline.from_state_dict(state, pipeline.config)
    silent.encode_speech(sounds("a"), RATE)
    with pytest.raises(CheckpointError, match="holds no emotion network"):
        silent.classify_emotion(sounds("a"), RATE)


def test_the_emotion_network_is_built_when_asked_for(pipeline) -> None:
    lazy = FloatPipeline.from_state_dict(synthetic_state_dict(pipeline.config), pipeline.config)
    assert lazy._emotion_classifier is None
    lazy.classify_emotion(sounds("a"), RATE)
    assert lazy._emotion_classifier is lazy.emotion_classifier


def test_other_rates_and_channels_are_heard_alike(pipeline) -> None:
    """A stereo recording at 48 kHz of the same sound gives nearly the same embedding."""
    slow = sounds("a")
    fast = torch.nn.functional.interpolate(slow, scale_factor=3, mode="linear").expand(-1, 2, -1)
    one, other = pipeline.encode_speech(slow, RATE), pipeline.encode_speech(fast, 3 * RATE)
    assert one.frames == other.frames
    assert (one.embedding - other.embedding).norm() < 0.5 * one.embedding.norm()


def test_half_precision_runs_and_stays_near(pipeline, portraits, speeches) -> None:
    half = FloatPipeline.from_state_dict(
        synthetic_state_dict(pipeline.config), pipeline.config, dtype=torch.bfloat16
    )
    portrait = half.encode_portrait(images("a"))
    speech = half.encode_speech(sounds("a"), RATE)
    motion = half.sample(portrait, speech, one_hot("happy"), FEW)
    frames = torch.cat(list(half.decode(portrait, Motion(motion.latents[:, :2], motion.fps))))
    assert motion.latents.dtype == frames.dtype == torch.float32
    exact = pipeline.sample(item(portraits, 0), item(speeches, 0), one_hot("happy"), FEW).latents
    assert (motion.latents - exact).norm() < 0.05 * exact.norm()
