"""The extractor in blocks of time against the extractor over the whole clip."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from float_core.config import BASE_WAV2VEC2, LARGE_WAV2VEC2
from float_core.modules import blockwise_extractor
from float_core.modules.blockwise_extractor import block_features, extract_in_blocks, suits_blocks
from float_core.modules.wav2vec2 import build_wav2vec2, extract_features


@pytest.fixture(scope="module", params=[BASE_WAV2VEC2, LARGE_WAV2VEC2], ids=["group", "layer"])
def model(request):
    """A released extractor, wide as it is, before a small transformer."""
    small = replace(request.param, hidden=32, layers=1, heads=2, intermediate=32, pos_conv_width=4)
    torch.manual_seed(0)
    network = build_wav2vec2(small).eval().requires_grad_(False)
    for module in network.feature_extractor.modules():
        if isinstance(module, nn.GroupNorm | nn.LayerNorm):
            nn.init.normal_(module.weight, 1.0, 0.3)
            nn.init.normal_(module.bias, 0.0, 0.3)
    return network


@pytest.fixture(autouse=True)
def few_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("batch", "samples"), [(1, 16_000), (1, 37_003), (2, 20_001)])
def test_blocks_give_the_bits_of_the_whole(model, monkeypatch, batch, samples) -> None:
    monkeypatch.setattr(blockwise_extractor, "BLOCK_FEATURES", 40 * batch)
    sound = torch.randn(batch, samples)
    with torch.no_grad():
        assert suits_blocks(model.feature_extractor, sound)
        whole = model.feature_extractor(sound)
        blocks = extract_in_blocks(model.feature_extractor, sound)
    assert torch.equal(blocks, whole)
    assert blocks.stride() == whole.stride()


def test_no_layer_sees_more_than_a_block(model, monkeypatch) -> None:
    monkeypatch.setattr(blockwise_extractor, "BLOCK_FEATURES", 20)
    seen = []
    second = model.feature_extractor.conv_layers[1]
    handle = second.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0].shape[2]))
    with torch.no_grad():
        features = extract_features(model, torch.randn(1, 32_000))
    handle.remove()
    assert features.shape == (1, 99, 512)
    assert len(seen) == 5
    assert max(seen) <= 20 * 64 + 15


def test_the_whole_way_where_blocks_would_not_be_exact(model) -> None:
    extractor = model.feature_extractor
    sound = torch.randn(1, 16_000 * 3)
    assert not suits_blocks(extractor, sound)  # gradients are on
    with torch.no_grad():
        assert suits_blocks(extractor, sound)
        assert not suits_blocks(extractor, sound[:, : 320 * block_features(1)])
        assert not suits_blocks(extractor, sound.double())
        torch.set_num_threads(3)
        is_group = isinstance(extractor.conv_layers[0].layer_norm, nn.GroupNorm)
        assert suits_blocks(extractor, sound) == is_group


def test_gradients_flow_through_the_whole_way(model) -> None:
    sound = torch.randn(1, 16_000 * 3, requires_grad=True)
    extract_features(model, sound).sum().backward()
    assert sound.grad is not None
    assert sound.grad.abs().sum() > 0
