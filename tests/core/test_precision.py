"""The choice of a precision, and networks made ready for one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from float_core import precision
from float_core.config import FloatConfig, TransformerConfig, Wav2Vec2Shape
from float_core.modules.audio_encoder import AudioEncoder
from float_core.modules.emotion_classifier import EmotionClassifier
from float_core.modules.fast_decoder import FastMotionDecoder
from float_core.modules.flow_transformer import FlowTransformer
from float_core.modules.half_linear import HalfLinear, halve_linears
from float_core.modules.motion_decoder import MotionDecoder
from float_core.modules.motion_encoder import MotionEncoder

WAV2VEC2 = Wav2Vec2Shape(
    hidden=32, layers=2, heads=4, intermediate=64, conv_dim=(16, 16), conv_kernel=(10, 4),
    conv_stride=(5, 4), pos_conv_width=8, pos_conv_groups=4,
)  # fmt: skip
CONFIG = FloatConfig(
    image_size=16, latent_dim=8, motion_dim=3, speech_dim=6, channels=(8, 8, 4),
    transformer=TransformerConfig(hidden=32, depth=2, heads=2), speech=WAV2VEC2, emotion=WAV2VEC2,
)  # fmt: skip


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual - expected).norm() / expected.norm())


def run_transformer(network: nn.Module) -> torch.Tensor:
    condition = network.embed_condition(noise(2, 8), noise(2, 60, 6), noise(2, 1, 7))
    return network(torch.tensor(0.37), noise(2, 60, 8, seed=1), condition)


RUNS = {
    FlowTransformer: run_transformer,
    AudioEncoder: lambda network: network(noise(2, 1600), 2),
    EmotionClassifier: lambda network: network(noise(2, 1600)),
    MotionEncoder: lambda network: network(noise(2, 3, 16, 16))[0],
}


@pytest.mark.parametrize("build", RUNS)
@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.float16, 0.003), (torch.bfloat16, 0.02), (torch.float32, 1e-6)]
)
def test_a_network_keeps_its_results_and_gives_float32(build, dtype, bound: float) -> None:
    torch.manual_seed(0)
    network = build(CONFIG).eval().requires_grad_(False)
    expected = RUNS[build](network)
    made = precision.apply_precision(network, dtype)
    actual = RUNS[build](made)
    assert actual.dtype == torch.float32
    assert relative(actual, expected) < bound
    halved = [module for module in made.modules() if isinstance(module, HalfLinear)]
    assert bool(halved) == (dtype != torch.float32 and build is not MotionEncoder)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_decoder_becomes_the_fast_one(dtype: torch.dtype) -> None:
    made = precision.apply_precision(MotionDecoder(CONFIG), dtype)
    assert isinstance(made, FastMotionDecoder)
    assert made.dtype == dtype


def test_a_precision_that_no_network_runs_in_is_refused() -> None:
    with pytest.raises(ValueError, match="Expected float16, bfloat16, float32 or float64"):
        precision.apply_precision(nn.Linear(1, 1), torch.int8)


def test_halved_layers_keep_names_and_shapes() -> None:
    network = nn.Sequential(nn.Linear(3, 4), nn.ModuleList([nn.Linear(4, 2, bias=False)]))
    before = {name: value.shape for name, value in network.state_dict().items()}
    halve_linears(network, torch.bfloat16)
    assert {name: value.shape for name, value in network.state_dict().items()} == before
    assert {value.dtype for value in network.state_dict().values()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [((6, 1), torch.float32), ((7, 0), torch.float16), ((9, 0), torch.float16)],
)
def test_auto_on_cuda_goes_by_matrix_units(monkeypatch, capability, dtype) -> None:
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    assert precision.choose_dtype("cuda:0") == dtype


@pytest.mark.parametrize(
    ("avx512", "amx", "dtype"),
    [
        (lambda: True, lambda: False, torch.bfloat16),
        (lambda: False, lambda: True, torch.bfloat16),
        (lambda: False, lambda: False, torch.float32),
        (None, None, torch.float32),
    ],
)
def test_auto_on_a_cpu_goes_by_its_instructions(monkeypatch, avx512, amx, dtype) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", avx512, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", amx, raising=False)
    assert precision.choose_dtype(torch.device("cpu")) == dtype


def test_auto_is_float32_where_nothing_was_measured() -> None:
    assert precision.choose_dtype("mps") == torch.float32
