"""The networks' building blocks against their definitions."""

import math

import pytest
import torch
import torch.nn.functional as F

from float_core.config import FloatConfig, SamplingOptions, TransformerConfig, Wav2Vec2Shape
from float_core.modules import flow_transformer, stylegan_ops
from float_core.modules.motion_decoder import MotionDecoder, identity_grid
from float_core.modules.motion_encoder import MotionEncoder


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_blur_is_the_outer_product_and_keeps_the_mean() -> None:
    x = noise(1, 2, 6, 6)
    taps = torch.tensor([1.0, 3, 3, 1], dtype=torch.float64)
    kernel = torch.outer(taps, taps) / 64
    padded = F.pad(x, (2, 1, 2, 1))
    patch = padded[0, 1, 2:6, 3:7]
    assert stylegan_ops.blur(x, 2, 1)[0, 1, 2, 3].item() == pytest.approx((patch * kernel).sum())
    flat = stylegan_ops.blur(torch.ones(1, 1, 9, 9), 2, 1)
    torch.testing.assert_close(flat[..., 2:-2, 2:-2], torch.ones(1, 1, 5, 5))


def test_upsample_is_zero_insertion_and_blur() -> None:
    x = noise(2, 3, 5, 5)
    spread = torch.zeros(2, 3, 10, 10, dtype=x.dtype)
    spread[..., ::2, ::2] = x
    expected = stylegan_ops.blur(spread, 2, 1, gain=4.0)
    torch.testing.assert_close(stylegan_ops.upsample(x), expected)


@pytest.mark.parametrize("upsample", [False, True])
@pytest.mark.parametrize("demodulate", [False, True])
def test_modulated_convolution_is_style_in_demodulation_out(upsample, demodulate) -> None:
    layer = stylegan_ops.ModulatedConv2d(4, 6, 3, 5, demodulate=demodulate, upsample=upsample)
    layer = layer.double()
    x, latent = noise(3, 4, 8, 8), noise(3, 5, seed=1)
    weight = layer.weight[0] / math.sqrt(4 * 9)
    style = layer.modulation(latent)
    scaled = x * style[:, :, None, None]
    if upsample:
        expected = F.conv_transpose2d(scaled, weight.transpose(0, 1), stride=2)
        expected = stylegan_ops.blur(expected, 1, 1, gain=4.0)
    else:
        expected = F.conv2d(scaled, weight, padding=1)
    if demodulate:
        power = (weight[None] * style[:, None, :, None, None]).square().sum((2, 3, 4))
        expected = expected * torch.rsqrt(power + 1e-8)[:, :, None, None]
    torch.testing.assert_close(layer(x, latent), expected)


def test_activation_adds_its_bias_first() -> None:
    layer = stylegan_ops.BiasedLeakyReLU(2)
    layer.bias.data = torch.tensor([1.0, -3.0]).reshape(1, 2, 1, 1)
    result = layer(torch.zeros(1, 2, 1, 1)).flatten()
    torch.testing.assert_close(result, math.sqrt(2) * torch.tensor([1.0, -0.6]))


def test_the_identity_grid_spans_minus_one_to_one_x_first() -> None:
    grid = identity_grid(torch.zeros(1, 4, 4, 2))
    assert grid[0, 0, :, 0].tolist() == pytest.approx([-1, -1 / 3, 1 / 3, 1])
    assert grid[0, :, 0, 0].tolist() == [-1, -1, -1, -1]


@pytest.mark.parametrize("radius", [0, 1, 2, 12])
def test_banded_attention_equals_masked_attention(radius: int) -> None:
    q, k, v = (noise(2, 3, 10, 4, seed=s) for s in range(3))
    position = torch.arange(10)
    near = (position[:, None] - position[None]).abs() <= radius
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=near)
    torch.testing.assert_close(flow_transformer.banded_attention(q, k, v, radius), expected)


def test_a_frame_sees_only_its_band() -> None:
    q, k, v = (noise(1, 1, 12, 4, seed=s) for s in range(3))
    before = flow_transformer.banded_attention(q, k, v, 2)
    k[..., 11, :] += 5
    v[..., 11, :] += 5
    after = flow_transformer.banded_attention(q, k, v, 2)
    assert torch.equal(before[..., :9, :], after[..., :9, :])
    assert not torch.equal(before[..., 9, :], after[..., 9, :])


@pytest.mark.parametrize("asked", [1, 7, 9, 10])
def test_attention_of_the_last_frames_is_that_of_all(asked: int) -> None:
    q, k, v = (noise(2, 3, 10, 4, seed=s) for s in range(3))
    whole = flow_transformer.banded_attention(q, k, v, 2)
    last = flow_transformer.banded_attention(q[:, :, -asked:], k, v, 2)
    torch.testing.assert_close(last, whole[:, :, -asked:])


def test_position_table_starts_with_the_oldest_frame() -> None:
    table = flow_transformer.position_table(5, 6)
    assert table.shape == (1, 5, 6)
    assert table[0, 0].tolist() == [0, 1, 0, 1, 0, 1]
    assert table[0, 3, 2].item() == pytest.approx(math.sin(3 / 10000 ** (2 / 6)))
    assert table[0, 3, 3].item() == pytest.approx(math.cos(3 / 10000 ** (2 / 6)))


def tiny_config(**changes: object) -> FloatConfig:
    return FloatConfig(
        image_size=16, latent_dim=8, motion_dim=3, speech_dim=6, channels=(8, 8, 4),
        transformer=TransformerConfig(hidden=16, depth=2, heads=2), **changes,
    )  # fmt: skip


def test_a_far_frame_does_not_change_a_near_output() -> None:
    """Two blocks of radius 2 see four frames on either side and no further."""
    network = flow_transformer.FlowTransformer(tiny_config()).double().eval()
    motion = noise(1, 60, 8)
    condition = network.embed_condition(noise(1, 8), noise(1, 60, 6), noise(1, 1, 7))
    time = torch.tensor(0.5, dtype=torch.float64)
    before = network(time, motion, condition)
    motion[:, 40] += 1
    changed = (network(time, motion, condition) != before).any(-1)[0]
    assert changed.nonzero().flatten().tolist() == list(range(36, 45))


def test_a_changed_condition_reaches_only_its_frames_neighbourhood() -> None:
    network = flow_transformer.FlowTransformer(tiny_config()).double().eval()
    motion, speech = noise(1, 60, 8), noise(1, 60, 6)
    time = torch.tensor(0.5, dtype=torch.float64)

    def run() -> torch.Tensor:
        return network(time, motion, network.embed_condition(noise(1, 8), speech, noise(1, 1, 7)))

    before = run()
    speech[:, 20] += 1
    changed = (run() != before).any(-1)[0]
    assert changed.nonzero().flatten().tolist() == list(range(16, 25))


def guided_inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Reference, speech and emotion of a window's three evaluations, as the guidance asks."""
    speech = noise(1, 60, 6).repeat(3, 1, 1)
    speech[0, 10:] = 0
    emotion = torch.zeros(3, 60, 7, dtype=torch.float64)
    emotion[1, :, 2] = 1
    return noise(1, 8).expand(3, -1), speech, emotion


@pytest.fixture
def transformer() -> flow_transformer.FlowTransformer:
    torch.manual_seed(0)
    return flow_transformer.FlowTransformer(tiny_config()).double().eval().requires_grad_(False)


@pytest.mark.parametrize("asked", [1, 50, 53, 58, 60])
@pytest.mark.parametrize("embed", ["embed_condition", "embed_distinct"])
def test_what_is_asked_for_equals_the_whole(transformer, embed: str, asked: int) -> None:
    inputs, motion = guided_inputs(), noise(3, 60, 8)
    time = torch.tensor(0.3, dtype=torch.float64)
    whole = transformer(time, motion, transformer.embed_condition(*inputs))
    assert whole.shape == (3, 60, 8)
    part = transformer(time, motion, getattr(transformer, embed)(*inputs), asked)
    torch.testing.assert_close(part, whole[:, -asked:], rtol=1e-12, atol=1e-12)


def test_conditions_are_embedded_once_and_belong_to_their_frames(transformer) -> None:
    """10 of context and 50 heard, the same felt, and one that all frames without speech share."""
    inputs = guided_inputs()
    distinct = transformer.embed_distinct(*inputs)
    assert distinct.rows.shape == (1, 121, 16)
    expected = transformer.embed_condition(*inputs)
    torch.testing.assert_close(distinct.spread(distinct.rows), expected)


def test_nothing_is_computed_that_no_output_reads(transformer) -> None:
    """Of two blocks of radius 2 the first gives 52 frames and the last 50."""
    rows: dict[str, int] = {}
    for name, layer in transformer.named_modules():
        if isinstance(layer, torch.nn.Linear):
            layer.register_forward_hook(
                lambda _layer, inputs, _output, name=name: rows.update(
                    {name: inputs[0].shape[:-1].numel()}
                )
            )
    condition = transformer.embed_distinct(*guided_inputs())
    transformer(torch.tensor(0.3, dtype=torch.float64), noise(3, 60, 8), condition, 50)
    assert rows["blocks.0.attn.qkv"] == 3 * 54
    assert rows["blocks.0.mlp.fc1"] == rows["blocks.1.attn.qkv"] == 3 * 52
    assert rows["blocks.1.attn.proj"] == rows["blocks.1.mlp.fc2"] == 3 * 50
    assert rows["decoder.linear"] == 3 * 50
    assert {rows[n] for n in rows if "adaLN" in n} == {121}


def test_encoder_and_decoder_follow_the_channels_of_the_config() -> None:
    config = tiny_config()
    identity, coefficients, features = MotionEncoder(config)(torch.zeros(2, 3, 16, 16))
    assert identity.shape == (2, 8)
    assert coefficients.shape == (2, 3)
    assert [tuple(f.shape[1:]) for f in features] == [(8, 8, 8), (4, 16, 16)]
    frames = MotionDecoder(config)(torch.zeros(5, 8), [f[:1] for f in features])
    assert frames.shape == (5, 3, 16, 16)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FloatConfig(image_size=500), "power of two from 8 to 1024 pixels, got 500"),
        (lambda: FloatConfig(channels=(1, 2)), "channels must be 8 whole numbers"),
        (lambda: FloatConfig(fps=24), "must divide 16000 Hz, got 24"),
        (lambda: FloatConfig(motion_dim=513), "at most latent_dim 512, got 513"),
        (lambda: TransformerConfig(heads=7), "multiple of heads 7, got 1024"),
        (lambda: TransformerConfig(context_frames=51), "at most window_frames 50, got 51"),
        (lambda: TransformerConfig(depth=0), "depth must be a whole number above 0, got 0"),
        (lambda: Wav2Vec2Shape(heads=5), "heads must divide hidden 768, got 5"),
        (lambda: Wav2Vec2Shape(extractor_norm="batch"), "got 'batch'"),
        (lambda: Wav2Vec2Shape(conv_dim=(1, 2)), "one entry a layer, got 2, 7 and 7"),
        (lambda: TransformerConfig(mlp_ratio="4"), "got '4'"),
        (lambda: Wav2Vec2Shape(conv_bias=1), "conv_bias must be true or false, got 1"),
        (lambda: SamplingOptions(audio_guidance="2"), "from -100 to 100, got '2'"),
        (lambda: SamplingOptions(audio_guidance=float("nan")), "got nan"),
        (lambda: FloatConfig.from_dict({"size": 1}), "no field named 'size'"),
        (lambda: FloatConfig.from_dict({"channels": 3}), "channels must be a list, got 3"),
    ],
)
def test_configs_check_themselves(build, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        build()


def test_a_config_survives_its_own_dict() -> None:
    config = tiny_config()
    assert FloatConfig.from_dict(config.to_dict()) == config
