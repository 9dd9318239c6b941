"""StyleGAN2's primitives: blur, equalised layers, biased activation, modulated convolution.

The one home of these operations, written plainly as the reference that faster forms are tested
against. Source: Karras et al., "Analyzing and Improving the Image Quality of StyleGAN" (2020).
Attribute names are the checkpoint's keys, so that a state dict loads as it is.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLUR_TAPS = (1.0, 3.0, 3.0, 1.0)
"""One axis of the separable blur kernel, before division by its sum."""

LEAKY_SLOPE = 0.2
ACTIVATION_GAIN = math.sqrt(2)
DEMODULATION_EPS = 1e-8


def blur_kernel(like: Tensor, gain: float = 1.0) -> Tensor:
    """Return the 4x4 blur kernel, which sums to `gain`, with dtype and device of `like`."""
    taps = torch.tensor(BLUR_TAPS, dtype=like.dtype, device=like.device)
    return torch.outer(taps, taps) * (gain / sum(BLUR_TAPS) ** 2)


def blur(x: Tensor, before: int, after: int, gain: float = 1.0) -> Tensor:
    """Smooth each channel after padding both axes with zeros.

    Args:
        x: Maps, (batch, channels, height, width).
        before: Zeros put before the first row and column.
        after: Zeros put after the last row and column.
        gain: Sum of the kernel; 4 restores the mean after zeros were inserted between samples.

    Returns:
        (batch, channels, height + before + after - 3, width + before + after - 3).
    """
    channels = x.shape[1]
    kernel = blur_kernel(x, gain).expand(channels, 1, -1, -1)
    return F.conv2d(F.pad(x, (before, after, before, after)), kernel, groups=channels)


def upsample(x: Tensor) -> Tensor:
    """Double both sides: a zero after every sample, pad (2, 1), blur with gain 4.

    Written as the transposed convolution that this is.

    Args:
        x: Maps, (batch, channels, height, width).

    Returns:
        (batch, channels, 2 * height, 2 * width).
    """
    channels = x.shape[1]
    kernel = blur_kernel(x, gain=4.0).expand(channels, 1, -1, -1)
    return F.conv_transpose2d(x, kernel, stride=2, padding=1, groups=channels)


class EqualisedLinear(nn.Module):
    """Linear layer whose weight is scaled by the fan-in when it runs."""

    def __init__(self, inputs: int, outputs: int, bias_init: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.bias = nn.Parameter(torch.full((outputs,), bias_init))

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, inputs) to (…, outputs)."""
        return F.linear(x, self.weight / math.sqrt(self.weight.shape[1]), self.bias)


class EqualisedConv2d(nn.Module):
    """Convolution without bias whose weight is scaled by the fan-in when it runs."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0
    ) -> None:
        super().__init__()
        self.stride = stride
        self.padding = padding
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, inputs, height, width) to (batch, outputs, …)."""
        weight = self.weight / math.sqrt(self.weight[0].numel())
        return F.conv2d(x, weight, stride=self.stride, padding=self.padding)


class BiasedLeakyReLU(nn.Module):
    """`sqrt(2) * leaky_relu(x + bias, 0.2)`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape (batch, channels, height, width)."""
        return F.leaky_relu(x + self.bias, LEAKY_SLOPE) * ACTIVATION_GAIN


class Blur(nn.Module):
    """`blur` as a layer without weights."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.before = before
        self.after = after

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, channels, height, width) as `blur` does."""
        return blur(x, self.before, self.after)


class ModulatedConv2d(nn.Module):
    """Convolution whose weight is scaled by a style for each sample (StyleGAN2, section 2.2)."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        latent_dim: int,
        demodulate: bool = True,
        upsample: bool = False,
    ) -> None:
        super().__init__()
        self.demodulate = demodulate
        self.upsample = upsample
        self.weight = nn.Parameter(torch.randn(1, outputs, inputs, kernel, kernel))
        self.modulation = EqualisedLinear(latent_dim, inputs, bias_init=1.0)

    def sample_weights(self, latent: Tensor) -> Tensor:
        """Return one weight a sample, (batch, outputs, inputs, kernel, kernel)."""
        style: Tensor = self.modulation(latent)[:, None, :, None, None]
        # Squares leave the range of half precision.
        precise = torch.promote_types(style.dtype, torch.float32)
        weight = self.weight.to(precise) / math.sqrt(self.weight[0, 0].numel()) * style
        if self.demodulate:
            power = weight.square().sum((2, 3, 4), keepdim=True)
            weight = weight * torch.rsqrt(power + DEMODULATION_EPS)
        return weight.to(style.dtype)

    def forward(self, x: Tensor, latent: Tensor) -> Tensor:
        """Convolve each sample with its own weight.

        Args:
            x: Maps, (batch, inputs, height, width).
            latent: Style latent, (batch, latent_dim).

        Returns:
            (batch, outputs, height, width), both sides doubled where the layer upsamples.
        """
        batch, _, height, width = x.shape
        weight = self.sample_weights(latent)
        kernel = weight.shape[-1]
        x = x.reshape(1, -1, height, width)
        if self.upsample:
            weight = weight.transpose(1, 2).flatten(0, 1)  # (batch * inputs, outputs, k, k)
            x = F.conv_transpose2d(x, weight, stride=2, groups=batch)
            x = blur(x, 1, 1, gain=4.0)
        else:
            x = F.conv2d(x, weight.flatten(0, 1), padding=kernel // 2, groups=batch)
        return x.reshape(batch, -1, *x.shape[-2:])
