"""IMAGE and AUDIO to the core's tensors and back, without ComfyUI."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
PACK = "float_pack_under_test"


@pytest.fixture(scope="module")
def conversions() -> ModuleType:
    """Import the module as ComfyUI does: inside a package that is the whole folder."""
    spec = importlib.util.spec_from_file_location(
        PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None
    assert spec.loader is not None
    sys.modules[PACK] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[PACK])
    return importlib.import_module(f"{PACK}.nodes.conversions")


def image(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(3))


def test_an_image_survives_the_way_to_frames_and_back(conversions: ModuleType) -> None:
    picture = image(2, 6, 5, 3)
    frames = conversions.frames_of(picture)
    assert frames.shape == (2, 3, 6, 5)
    assert frames.is_contiguous()
    assert frames.min() >= -1
    torch.testing.assert_close(conversions.image_of(frames), picture)


def test_frames_beyond_the_range_are_clamped(conversions: ModuleType) -> None:
    frames = torch.tensor([-3.0, -1.0, 0.0, 1.0, 3.0]).expand(1, 3, 1, 5)
    expected = torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0])
    assert torch.equal(conversions.image_of(frames)[0, 0, :, 0], expected)


def test_chunks_are_collected_in_order(conversions: ModuleType) -> None:
    frames = torch.linspace(-1, 1, 7)[:, None, None, None].expand(-1, 3, 4, 4)
    filled = conversions.fill_image(iter(frames.split(3)), 7, torch.device("cpu"))
    torch.testing.assert_close(filled, conversions.image_of(frames))


def test_too_few_frames_are_no_clip(conversions: ModuleType) -> None:
    with pytest.raises(RuntimeError, match="Expected 5 frames from the decoder, got 3"):
        conversions.fill_image(iter([torch.zeros(3, 3, 4, 4)]), 5, torch.device("cpu"))


@pytest.mark.parametrize("channels", [1, 3])
def test_opaque_pictures_keep_their_bytes(conversions: ModuleType, channels: int) -> None:
    levels = np.arange(2 * 4 * 4 * channels, dtype=np.uint8).reshape(2, 4, 4, channels)
    pictures = list(conversions.pictures_of(torch.from_numpy(levels) / 255, (9, 9, 9)))
    assert [picture.shape for picture in pictures] == [(4, 4, 3)] * 2
    np.testing.assert_array_equal(pictures[1], np.broadcast_to(levels[1], (4, 4, 3)))
    if channels == 3:
        back = conversions.image_of_pictures(pictures)
        torch.testing.assert_close(back, torch.from_numpy(levels) / 255)


def test_transparent_pictures_lie_on_the_background(conversions: ModuleType) -> None:
    picture = torch.ones(1, 1, 3, 4)
    picture[..., 3] = torch.tensor([0.0, 0.5, 1.0])
    (flat,) = conversions.pictures_of(picture, (255, 51, 0))
    assert flat.tolist() == [[[255, 51, 0], [255, 153, 128], [255, 255, 255]]]


def test_the_preview_is_the_frame(conversions: ModuleType) -> None:
    frame = torch.full((3, 2, 4), -1.0)
    frame[0] = 1.0
    picture = conversions.picture_of(frame)
    assert picture.size == (4, 2)
    assert picture.getpixel((3, 1)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "got NoneType"),
        ({"sample_rate": 16000}, "got dict"),
        ({"waveform": torch.zeros(1, 5), "sample_rate": 16000}, r"got shape \(1, 5\)"),
        ({"waveform": torch.zeros(1, 2, 0), "sample_rate": 16000}, "got no samples"),
        ({"waveform": torch.zeros(0, 1, 99), "sample_rate": 16000}, "got no samples"),
    ],
)
def test_what_is_no_sound_is_refused(conversions: ModuleType, value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        conversions.waveform_of(value)


@pytest.mark.parametrize(
    "value", [None, torch.zeros(4, 4, 3), torch.zeros(1, 4, 4, 2), torch.zeros(0, 4, 4, 3)]
)
def test_what_is_no_picture_is_refused(conversions: ModuleType, value: Any) -> None:
    with pytest.raises(ValueError, match="Expected an IMAGE"):
        conversions.check_image(value)


def test_sound_keeps_its_samples_and_rate(conversions: ModuleType) -> None:
    waveform = torch.randn(2, 6, 50, dtype=torch.float64)
    taken, rate = conversions.waveform_of({"waveform": waveform, "sample_rate": 44100})
    assert rate == 44100
    assert taken.dtype == torch.float32
    torch.testing.assert_close(taken, waveform.float())


def test_each_clip_gets_its_sound(conversions: ModuleType) -> None:
    waveform = torch.randn(3, 1, 8)
    audio = conversions.audio_of(waveform, 8000)
    split = conversions.split_audio(audio, 3)
    assert all(torch.equal(item["waveform"][0], waveform[i]) for i, item in enumerate(split))
    shared = conversions.split_audio(conversions.audio_of(waveform[:1], 8000), 4)
    assert len(shared) == 4
    assert all(torch.equal(item["waveform"], waveform[:1]) for item in shared)
    with pytest.raises(ValueError, match="Expected 1 sound or 2"):
        conversions.split_audio(audio, 2)


def test_moving_a_value_reaches_every_tensor(conversions: ModuleType) -> None:
    pipeline = importlib.import_module(f"{PACK}.float_core.pipeline")
    portrait = pipeline.Portrait(
        torch.ones(1, 4), torch.ones(1, 2), torch.ones(1, 4), (torch.ones(1, 3, 8, 8),) * 2
    )
    moved = conversions.to_device(portrait, torch.device("meta"))
    assert moved.identity.device.type == "meta"
    assert {feature.device.type for feature in moved.features} == {"meta"}
    assert portrait.identity.device.type == "cpu"
