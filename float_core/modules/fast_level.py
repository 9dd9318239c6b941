"""The layers of the fast decoder: a styled convolution and a level; see `fast_decoder`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .fast_ops import double, warp
from .motion_decoder import MotionDecoder, StyledConv, identity_grid
from .stylegan_ops import ACTIVATION_GAIN, DEMODULATION_EPS, LEAKY_SLOPE, blur_kernel


@dataclass(frozen=True, slots=True)
class WarpSource:
    """A portrait's features, laid out by `FastMotionDecoder.prepare`; valid for all its frames.

    Attributes:
        tables: Features of all levels but the last, each
            (batch, side + 2, side + 2, channels).
        colours: Colours of all levels before bias and activation, each (batch, 3, side, side).
    """

    tables: tuple[Tensor, ...]
    colours: tuple[Tensor, ...]

    def item(self, index: int) -> WarpSource:
        """Return one item of a batch; a batch of one serves every index."""
        if self.colours[0].shape[0] == 1:
            return self
        return WarpSource(
            tuple(table[index, None] for table in self.tables),
            tuple(colour[index, None] for colour in self.colours),
        )


class LayerStyle(NamedTuple):
    """What a latent does to a styled convolution.

    Attributes:
        scale: Factor of each input channel, (batch, inputs).
        gain: Factor of each output channel: demodulation times the activation's gain,
            (batch, outputs).
    """

    scale: Tensor
    gain: Tensor


class LevelStyle(NamedTuple):
    """What a latent does to a level.

    Attributes:
        up: Style of the upsampling convolution.
        conv: Style of the other one.
        flow: Weight of the flow's 1x1 convolution, (batch, 3, channels).
    """

    up: LayerStyle
    conv: LayerStyle
    flow: Tensor

    def item(self, index: int) -> LevelStyle:
        """Return one item of a batch."""
        one = slice(index, index + 1)
        up, conv = (LayerStyle(s.scale[one], s.gain[one]) for s in (self.up, self.conv))
        return LevelStyle(up, conv, self.flow[one])


class Canvas(NamedTuple):
    """What is drawn so far; None before the first level.

    Attributes:
        flow: Flow before tanh and sigmoid, (batch, 3, side, side).
        image: Image, (batch, 3, side, side).
    """

    flow: Tensor | None
    image: Tensor | None

    @property
    def painted(self) -> Tensor:
        """Return the image."""
        assert self.image is not None, "every level paints"
        return self.image

    def item(self, index: int) -> Canvas:
        """Return one item of a batch."""
        return Canvas(*(None if value is None else value[index, None] for value in self))


class Begun(NamedTuple):
    """Frames after some of the levels.

    Attributes:
        maps: Maps for the next level, (batch, channels, side, side).
        canvas: What is drawn so far.
        styles: Styles of the levels to come.
    """

    maps: Tensor
    canvas: Canvas
    styles: list[LevelStyle]

    def item(self, index: int) -> Begun:
        """Return one item of a batch."""
        styles = [style.item(index) for style in self.styles]
        return Begun(self.maps[index, None], self.canvas.item(index), styles)


def activate(x: Tensor) -> Tensor:
    """Apply the leaky ReLU in place; its gain is in what was added up before."""
    return F.leaky_relu(x, LEAKY_SLOPE, inplace=True)


class FastStyledConv(nn.Module):
    """Modulated 3x3 convolution with its activation; equals `motion_decoder.StyledConv`."""

    weight: Tensor
    power: Tensor
    bias: Tensor
    blur: Tensor

    def __init__(self, layer: StyledConv, dtype: torch.dtype) -> None:
        super().__init__()
        precise = torch.promote_types(dtype, torch.float32)
        self.upsample = layer.conv.upsample
        weight = layer.conv.weight[0].detach().to(precise)
        weight = weight / math.sqrt(weight[0].numel())
        self.register_buffer("power", weight.square().sum((2, 3)))  # (outputs, inputs)
        if self.upsample:
            weight = weight.transpose(0, 1)  # conv_transpose2d has inputs first
        weight = weight.to(dtype).contiguous(memory_format=torch.channels_last)
        self.register_buffer("weight", weight)
        bias = layer.activate.bias.detach().to(precise).flatten() * ACTIVATION_GAIN
        self.register_buffer("bias", bias.to(dtype))
        if self.upsample:
            kernel = blur_kernel(bias, gain=4.0).expand(len(bias), 1, -1, -1)
            self.register_buffer("blur", kernel.to(dtype).contiguous())

    def style(self, scale: Tensor) -> LayerStyle:
        """Derive demodulation from the modulation (batch, inputs)."""
        eps: Tensor | float = DEMODULATION_EPS
        if self.weight.dtype == torch.float16:
            peak = scale.abs().amax(1, keepdim=True)
            scale, eps = scale / peak, eps / peak.square()
        gain = torch.rsqrt(scale.square() @ self.power.T + eps) * ACTIVATION_GAIN
        return LayerStyle(scale, gain)

    def shared(self, x: Tensor, style: LayerStyle) -> Tensor:
        """Convolve a batch with one weight; (batch, inputs, …) to (batch, outputs, …)."""
        scale, gain = (part[:, :, None, None].to(x.dtype) for part in style)
        x = x * scale
        if self.upsample:
            x = F.conv_transpose2d(x, self.weight, stride=2)
            x = F.conv2d(x, self.blur, padding=1, groups=len(self.blur))
        else:
            x = F.conv2d(x, self.weight, padding=1)
        return activate(torch.addcmul(self.bias[:, None, None], x, gain))

    def styled_weight(self, style: LayerStyle) -> Tensor:
        """Return the weight of one frame, shaped as `weight`."""
        scale, gain = style.scale[0], style.gain[0]
        factors = torch.outer(scale, gain) if self.upsample else torch.outer(gain, scale)
        return (self.weight * factors[:, :, None, None]).to(self.weight.dtype)

    def single(self, x: Tensor, weight: Tensor) -> Tensor:
        """Convolve one frame with its own weight; (1, inputs, …) to (1, outputs, …)."""
        if self.upsample:
            return self.smooth(F.conv_transpose2d(x, weight, stride=2))
        return activate(F.conv2d(x, weight, self.bias, padding=1))

    def smooth(self, x: Tensor) -> Tensor:
        """Blur what the transposed convolution gave, then add the bias and activate."""
        return activate(F.conv2d(x, self.blur, self.bias, padding=1, groups=len(self.blur)))


class FastLevel(nn.Module):
    """All layers of one side."""

    flow_weight: Tensor
    flow_bias: Tensor
    colour_weight: Tensor
    colour_bias: Tensor
    image_bias: Tensor
    base: Tensor

    def __init__(self, decoder: MotionDecoder, index: int, dtype: torch.dtype) -> None:
        """Take over one level of a plain decoder.

        Args:
            decoder: The plain decoder.
            index: Number of the level, 0 for side 8.
            dtype: Precision of maps and weights.
        """
        super().__init__()
        precise = torch.promote_types(dtype, torch.float32)
        self.side = 8 << index
        plain: Any = decoder
        self.up = FastStyledConv(plain.convs[2 * index], dtype)
        self.conv = FastStyledConv(plain.convs[2 * index + 1], dtype)
        to_flow, to_rgb = plain.to_flows[index], plain.to_rgbs[index]
        flow = to_flow.conv.weight[0, :, :, 0, 0].detach().to(precise)
        colour = to_rgb.conv[0].weight.detach().to(precise)
        scale, gain = 1 / math.sqrt(flow.shape[1]), ACTIVATION_GAIN
        self.register_buffer("flow_weight", flow * scale)  # (3, channels)
        self.register_buffer("flow_bias", to_flow.bias.detach().to(precise, copy=True))
        self.register_buffer("colour_weight", colour * (scale * gain))  # (3, channels, 1, 1)
        self.register_buffer("colour_bias", to_rgb.conv[1].bias.detach().to(precise) * gain)
        self.register_buffer("image_bias", to_rgb.bias.detach().to(precise, copy=True))
        grid = torch.empty(1, self.side, self.side, 2, dtype=precise, device=flow.device)
        self.register_buffer(
            "base", identity_grid(grid).permute(0, 3, 1, 2).contiguous()
        )  # (1, 2, side, side)

    def style(self, up: Tensor, conv: Tensor, flow: Tensor) -> LevelStyle:
        """Derive the level's style from the modulations, each (batch, inputs)."""
        weight = self.flow_weight * flow[:, None]
        return LevelStyle(self.up.style(up), self.conv.style(conv), weight)

    def read_flow(self, maps: Tensor, weight: Tensor) -> Tensor:
        """Read this level's share of the flow off rows of maps.

        Args:
            maps: (batch, channels, rows, side), channels last.
            weight: (batch, 3, channels).

        Returns:
            (batch, 3, rows, side), in the weight's precision.
        """
        pixels = maps.permute(0, 2, 3, 1).flatten(1, 2)  # (batch, rows * side, channels)
        share = pixels @ weight.to(maps.dtype).transpose(1, 2)  # (batch, rows * side, 3)
        share = share.to(weight.dtype).transpose(1, 2)
        return share.reshape(*share.shape[:2], *maps.shape[2:])

    def see(self, share: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Add this level's share to the flow and read it.

        Args:
            share: Result of `read_flow` on all rows, (batch, 3, side, side).
            before: Flow of the level before, (batch, 3, side / 2, side / 2).

        Returns:
            Flow, (batch, 3, side, side); sampling grid, x before y, (batch, 2, side, side); mask
            in [0, 1], (batch, 1, side, side).
        """
        flow = share + self.flow_bias
        if before is not None:
            flow = flow + double(before)
        return flow, torch.tanh(flow[:, :2]) + self.base, torch.sigmoid(flow[:, 2:])

    def paint(self, grid: Tensor, mask: Tensor, colours: Tensor, before: Tensor | None) -> Tensor:
        """Paint the warped colours over the image.

        Args:
            grid: As `see` gives it.
            mask: As `see` gives it.
            colours: Colours of this level, (batch or 1, 3, side, side).
            before: Image of the level before, (batch, 3, side / 2, side / 2).

        Returns:
            (batch, 3, side, side).
        """
        colours = colours.expand(len(grid), -1, -1, -1)
        colour = F.grid_sample(colours, grid.permute(0, 2, 3, 1), align_corners=False)
        image = activate(torch.addcmul(self.colour_bias, colour, mask)) + self.image_bias
        return image if before is None else image + double(before)

    def blend(self, grid: Tensor, mask: Tensor, table: Tensor, maps: Tensor) -> Tensor:
        """Put the warped features where the mask lets them, the maps elsewhere.

        Args:
            grid: As `see` gives it.
            mask: As `see` gives it.
            table: Features of this level, from `fast_ops.warp_table`.
            maps: (batch, channels, side, side).
        """
        return warp(table, grid, mask).addcmul_(maps, (1 - mask).to(maps.dtype))
