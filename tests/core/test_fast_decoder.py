"""The fast decoder and its operations equal the plain ones."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from float_core.config import FloatConfig
from float_core.modules import fast_decoder, fast_ops, stylegan_ops
from float_core.modules.fast_decoder import FastMotionDecoder
from float_core.modules.motion_decoder import MotionDecoder

CHANNELS = (12, 10, 8, 6)
SIDE = 32


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def plain() -> MotionDecoder:
    config = FloatConfig(image_size=SIDE, latent_dim=7, motion_dim=3, channels=CHANNELS)
    decoder = MotionDecoder(config).double().eval().requires_grad_(False)
    for seed, parameter in enumerate(decoder.parameters()):
        parameter.copy_(parameter + 0.3 * noise(*parameter.shape, seed=seed))
    for to_flow in decoder.to_flows:
        to_flow.conv.weight.mul_(0.3)
    return decoder


def features(batch: int) -> list[torch.Tensor]:
    sides = (8, 16, 32)
    return [
        noise(batch, channels, side, side, seed=side)
        for channels, side in zip(CHANNELS[1:], sides, strict=True)
    ]


def peak_ratio(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the peak signal-to-noise ratio of images in [-1, 1], in decibels."""
    return 20 * math.log10(2 / float((actual - expected).square().mean().sqrt()))


@pytest.mark.parametrize("size", [(8, 8), (5, 9), (1, 2)])
def test_double_is_upsample(size: tuple[int, int]) -> None:
    x = noise(2, 3, *size)
    torch.testing.assert_close(fast_ops.double(x), stylegan_ops.upsample(x))


@pytest.mark.parametrize(("tables", "batch"), [(1, 1), (1, 3), (3, 3)])
def test_warp_is_grid_sample_times_mask(tables: int, batch: int) -> None:
    feature = noise(tables, 4, 8, 8)
    grid = 1.5 * noise(batch, 2, 8, 8, seed=1)  # many positions outside, some far
    grid[0, :, 0, :4] = torch.tensor([[-1.0, 1, -1.125, 1.125], [1.0, -1, 1.125, -1.125]])
    mask = noise(batch, 1, 8, 8, seed=2).sigmoid()
    expected = F.grid_sample(
        feature.expand(batch, -1, -1, -1), grid.permute(0, 2, 3, 1), align_corners=False
    )
    actual = fast_ops.warp(fast_ops.warp_table(feature), grid, mask)
    torch.testing.assert_close(actual, expected * mask)
    assert actual.is_contiguous(memory_format=torch.channels_last)


def test_rows_are_summed_alike_with_and_without_an_embedding_bag() -> None:
    table, weights = noise(20, 3), noise(6, 4)
    index = torch.arange(24, dtype=torch.int32).view(6, 4) % 20
    expected = (table[index.long()] * weights[..., None]).sum(1)
    torch.testing.assert_close(fast_ops.weighted_rows(table, index, weights), expected)
    gathered = fast_ops.weighted_rows(table.to("meta"), index.to("meta"), weights.to("meta"))
    assert gathered.shape == expected.shape


@pytest.mark.parametrize("portraits", [1, 3])
@pytest.mark.parametrize("shared_side", [4, 8, 16, 32])
def test_fast_equals_plain(monkeypatch, plain, shared_side: int, portraits: int) -> None:
    """However the levels are split between the batch and single frames."""
    monkeypatch.setattr(fast_decoder, "SHARED_SIDE", shared_side)
    latent, given = noise(3, 7), features(portraits)
    fast = FastMotionDecoder(plain, torch.float64)
    torch.testing.assert_close(fast(latent, given), plain(latent, given))


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 16, 31, 32])
def test_strips_of_any_height_give_the_whole(monkeypatch, plain, rows: int) -> None:
    monkeypatch.setattr(fast_decoder, "SHARED_SIDE", 4)
    monkeypatch.setattr(fast_decoder, "STRIP_BYTES", rows * SIDE * CHANNELS[-1] * 8)
    latent, given = noise(1, 7), features(1)
    fast = FastMotionDecoder(plain, torch.float64)
    torch.testing.assert_close(fast(latent, given), plain(latent, given))


def test_a_batch_equals_one_by_one_and_a_prepared_portrait_the_features(plain) -> None:
    fast = FastMotionDecoder(plain, torch.float64)
    latent, given = noise(4, 7), features(1)
    together = fast(latent, given)
    source = fast.prepare(given)
    single = torch.cat([fast(one[None], source) for one in latent])
    torch.testing.assert_close(together, single)


def test_half_precision_keeps_forty_decibels(plain) -> None:
    fast = FastMotionDecoder(plain, torch.bfloat16)
    latent, given = 0.3 * noise(3, 7), [F.avg_pool2d(f, 5, 1, 2) for f in features(1)]
    frames, expected = fast(latent, given), plain(latent, given)
    assert frames.dtype == torch.float32
    assert peak_ratio(frames, expected) > 40


def test_styles_for_float16_stay_in_range_and_change_nothing(plain) -> None:
    layer = plain.convs[1]
    scale = 1e4 * noise(2, CHANNELS[1])
    half = fast_decoder.FastStyledConv(layer, torch.float16).style(scale.float())
    full = fast_decoder.FastStyledConv(layer, torch.float32).style(scale.float())
    assert half.scale.abs().max() <= 1
    torch.testing.assert_close(
        half.scale[:, None] * half.gain[..., None], full.scale[:, None] * full.gain[..., None]
    )


def test_every_tensor_moves_with_the_module(plain) -> None:
    fast = FastMotionDecoder(plain, torch.float32).to("meta")
    assert not list(fast.parameters())
    for module in fast.modules():
        held = [value for value in vars(module).values() if isinstance(value, torch.Tensor)]
        assert not held, "a tensor outside the buffers stays behind"
    assert {buffer.device.type for buffer in fast.buffers()} == {"meta"}


def test_the_plain_weights_stay_as_they_are(plain) -> None:
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    fast = FastMotionDecoder(plain, torch.float64)
    for buffer in fast.buffers():
        buffer.zero_()
    for name, value in plain.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_gpu_draws_what_the_cpu_draws(plain, dtype: torch.dtype) -> None:
    latent, given = 0.3 * noise(3, 7), [F.avg_pool2d(f, 5, 1, 2) for f in features(1)]
    frames = FastMotionDecoder(plain, dtype).to("cuda")(latent, given).cpu()
    expected = plain(latent, given)
    assert peak_ratio(frames, expected) > (90 if dtype == torch.float32 else 40)
