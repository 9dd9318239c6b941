"""wav2vec2's extractor in blocks of time: the bits of the whole clip without its memory.

The extractor's first layer makes 3200 vectors a second: a minute of 512 channels takes 0.4 GB,
several times over. A block needs the samples under its features and nothing else, except for a
group norm's mean and deviation over the clip, which are measured beforehand, a few channels at a
time.
"""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK_FEATURES = 100
"""Features made at once, of all clips of a batch together: 2 s of sound, 32 MB at full size."""

_LEAST_FEATURES = 20
"""Features of a block of the largest batch: less makes calls, not arithmetic."""

_STATISTICS_VALUES = 1 << 22
"""Values of the first layer that are measured at once: 16 MB."""

_CHANNELS = 512
"""Channels of all released extractors. Fewer take little memory, and oneDNN is not used or goes by
their length, so that bits would differ."""

_EXACT_THREADS = 2
"""Threads up to which a GELU after a layer norm is exact, see `suits_blocks`."""

_CHANNEL_STEP = 16
"""Channels are split at multiples of what a convolution computes together."""


def suits_blocks(extractor: Any, waveform: Tensor) -> bool:
    """Return whether blocks save memory here and give the bits of the whole.

    Not where a gradient is asked for, and on graphics cards not either: there a convolution's
    method goes by the length. Nor for an extractor of layer norms in more than two threads:
    torch's GELU takes other instructions for what is left where the work of two threads meets,
    and that lies elsewhere in a block.

    Args:
        extractor: The feature extractor of a `transformers.Wav2Vec2Model`.
        waveform: Its input, (batch, samples).
    """
    if torch.is_grad_enabled() or waveform.device.type != "cpu":
        return False
    if waveform.dtype != torch.float32:
        return False
    if min(layer.conv.out_channels for layer in extractor.conv_layers) < _CHANNELS:
        return False
    if _feature_count(extractor, waveform.shape[1]) <= block_features(len(waveform)):
        return False
    norm = getattr(extractor.conv_layers[0], "layer_norm", None)
    if isinstance(norm, nn.GroupNorm):
        return norm.num_groups == norm.num_channels and _norm_is_exact()
    return torch.get_num_threads() <= _EXACT_THREADS


def block_features(batch: int) -> int:
    """Return the features of a block by the clips of a batch."""
    return max(_LEAST_FEATURES, BLOCK_FEATURES // batch)


def extract_in_blocks(
    extractor: Any, waveform: Tensor, affine: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """Run the extractor block by block.

    Args:
        extractor: The feature extractor of a `transformers.Wav2Vec2Model`.
        waveform: Normalised waveform, (batch, samples), for which `suits_blocks` holds.
        affine: Scale and shift, (batch, channels, 1), that replace those of the first layer's
            group norm, if it has one.

    Returns:
        (batch, channels, features), laid out in memory as the extractor does.
    """
    layers = extractor.conv_layers
    if affine is None and isinstance(getattr(layers[0], "layer_norm", None), nn.GroupNorm):
        affine = _measured_affine(layers[0], waveform)
    span, step = _receptive_field(extractor)
    count = _feature_count(extractor, waveform.shape[1])
    # Blocks of nearly one size: none is so short that a convolution would choose another method.
    blocks = -(-count // block_features(len(waveform)))
    borders = [count * i // blocks for i in range(blocks + 1)]
    parts = []
    for start, stop in pairwise(borders):
        hidden = waveform[:, None, start * step : (stop - 1) * step + span]
        for index, layer in enumerate(layers):
            hidden = _run_layer(layer, hidden, None if index else affine)
        parts.append(hidden)
    if parts[0].is_contiguous():
        return torch.cat(parts, dim=2)
    return torch.cat([part.transpose(1, 2) for part in parts], dim=1).transpose(1, 2)


def _run_layer(layer: Any, hidden: Tensor, affine: tuple[Tensor, Tensor] | None) -> Tensor:
    """Run one layer, without its group norm where what that multiplies by and adds is given."""
    if affine is None:
        whole: Tensor = layer(hidden)
        return whole
    scale, shift = affine
    hidden = layer.conv(hidden)
    torch.addcmul(shift, hidden, scale, out=hidden)
    activated: Tensor = layer.activation(hidden)
    return activated


def _measured_affine(layer: Any, waveform: Tensor) -> tuple[Tensor, Tensor]:
    """Return what a group norm over the whole clip multiplies by and adds, (batch, channels, 1)."""
    conv, norm = layer.conv, layer.layer_norm
    length = (waveform.shape[1] - conv.kernel_size[0]) // conv.stride[0] + 1
    fitting = _STATISTICS_VALUES // (len(waveform) * length) // _CHANNEL_STEP
    width = max(fitting, 1) * _CHANNEL_STEP
    # Results have their place beforehand: made between the large buffers, these small tensors
    # would keep the memory of each from being used for the next.
    mean, inverse = waveform.new_empty(2, len(waveform), norm.num_channels)
    for start in range(0, norm.num_channels, width):
        own = slice(start, start + width)
        bias = None if conv.bias is None else conv.bias[own]
        hidden = F.conv1d(waveform[:, None], conv.weight[own], bias, conv.stride)
        mean[:, own], inverse[:, own] = _moments(hidden, norm.eps)
    return _affine(norm, mean, inverse)


def _moments(hidden: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """Return each channel's mean and inverse deviation, (batch, channels)."""
    batch, channels, length = hidden.shape
    _, mean, inverse = torch.native_group_norm(
        hidden, None, None, batch, channels, length, channels, epsilon
    )
    return mean, inverse


def _affine(norm: nn.GroupNorm, mean: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    scale = inverse * norm.weight
    shift = torch.addcmul(norm.bias, scale, mean, value=-1)
    return scale[..., None], shift[..., None]


@cache
def _norm_is_exact() -> bool:
    """Return whether a product and a sum give the bits of this torch's group norm.

    Its compiler decides whether the two are rounded together.
    """
    generator = torch.Generator("cpu").manual_seed(0)
    with torch.inference_mode():
        x, (weight, bias) = (
            torch.randn(shape, generator=generator, device="cpu")
            for shape in ((1, 32, 999), (2, 32))
        )
        norm = nn.GroupNorm(32, 32, device="cpu")
        norm.weight.copy_(weight)
        norm.bias.copy_(bias)
        scale, shift = _affine(norm, *_moments(x, norm.eps))
        return torch.equal(torch.addcmul(shift, x, scale), norm(x))


def _receptive_field(extractor: Any) -> tuple[int, int]:
    """Return the samples under one feature and from one feature to the next."""
    span, step = 1, 1
    for layer in extractor.conv_layers:
        span += (layer.conv.kernel_size[0] - 1) * step
        step *= layer.conv.stride[0]
    return span, step


def _feature_count(extractor: Any, samples: int) -> int:
    span, step = _receptive_field(extractor)
    return max(0, (samples - span) // step + 1)
