"""The motion decoder, rearranged for speed: the same function as `motion_decoder`.

What differs from the plain form, all of it exact in exact arithmetic:

- One weight serves a batch of frames: the style goes on the input, the demodulation on the output
  (StyleGAN2, section 2.2). Where maps are large and weights small (sides above `SHARED_SIDE`, on
  a CPU) each frame has its own weight, which saves passes over the maps.
- Weights are scaled once, all styles come from one product, the demodulation from sums over the
  squared kernels, and sqrt(2) goes into demodulation and bias (a leaky ReLU lets factors above 0
  pass).
- The blur is a depthwise convolution, which also adds the bias.
- Features are laid out once a portrait as tables of rows (`fast_ops.warp`). A 1x1 convolution and
  a warp commute: colours are read off the features once a portrait, and three channels are warped
  instead of all. At the last level nothing but colours is warped: no output reads its maps.
- A CPU computes the last level in strips of rows, which stay in its caches and below the size at
  which allocators return memory to the system, only to have it page by page again.

Precision: maps, weights and tables are in the decoder's dtype. Styles, demodulation, flows, the
sampling grid, masks and colours stay float32 or better: the former are tiny, the latter have
three channels, and an error in a flow moves the whole picture. In bfloat16 the frames are then
within 60 dB PSNR of float32's on the golden motions. In float16 styles are divided by their
largest magnitude, which the demodulation undoes, so that no product outgrows the range.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .fast_level import Begun, Canvas, FastLevel, FastStyledConv, LayerStyle, LevelStyle, WarpSource
from .fast_ops import warp_table
from .motion_decoder import MotionDecoder

SHARED_SIDE = 64
"""Largest side in pixels at which a CPU lets all frames of a batch share one weight."""

STRIP_BYTES = 2**22
"""Size of a map within a strip of the last level, in bytes."""

SharedLevels = Callable[[Tensor, WarpSource], Begun]
OwnLevels = Callable[[Begun, WarpSource], Tensor]


class FastMotionDecoder(nn.Module):
    """Draw the portrait in a given pose; equals `MotionDecoder`, made from one.

    Everything is in buffers: moving the module to a device moves it whole. The precision is
    chosen here and not by casting the module, as parts of it stay float32.
    """

    constant: Tensor
    modulation_weight: Tensor
    modulation_bias: Tensor

    def __init__(self, decoder: MotionDecoder, dtype: torch.dtype = torch.float32) -> None:
        """Rearrange a decoder's weights; its tensors are copied, not kept.

        Args:
            decoder: The plain decoder, filled with its weights.
            dtype: Precision of maps, weights and tables.
        """
        super().__init__()
        self.dtype = dtype
        self.precise_dtype = torch.promote_types(dtype, torch.float32)
        plain: Any = decoder
        constant = decoder.input.input.detach().to(dtype, copy=True)
        self.register_buffer("constant", constant.contiguous(memory_format=torch.channels_last))
        self.conv1 = FastStyledConv(decoder.conv1, dtype)
        count = len(decoder.to_flows)
        self.levels = nn.ModuleList(FastLevel(decoder, i, dtype) for i in range(count))
        layers = [plain.conv1, *plain.convs, *plain.to_flows]
        modulations = [layer.conv.modulation for layer in layers]
        weight = torch.cat([layer.weight.detach() for layer in modulations])
        bias = torch.cat([layer.bias.detach() for layer in modulations])
        scaled = weight.to(self.precise_dtype) / math.sqrt(weight.shape[1])
        self.register_buffer("modulation_weight", scaled)  # (styles, latent_dim)
        self.register_buffer("modulation_bias", bias.to(self.precise_dtype))
        self._widths = [len(layer.bias) for layer in modulations]

    @property
    def device(self) -> torch.device:
        """Return where the weights lie."""
        return self.constant.device

    def _level(self, index: int) -> FastLevel:
        return cast(FastLevel, self.levels[index])

    @torch.no_grad()
    def prepare(self, features: Sequence[Tensor]) -> WarpSource:
        """Lay a portrait's features out for decoding; once for all its frames.

        Args:
            features: Appearance features at sides 8, 16, … S, each (batch, channels, side, side),
                in any precision.
        """
        tables, colours = [], []
        for index, feature in enumerate(features):
            feature = feature.to(self.device)
            colour = F.conv2d(feature.to(self.precise_dtype), self._level(index).colour_weight)
            colours.append(colour.contiguous())
            if index < self._last:
                tables.append(warp_table(feature.to(self.dtype)))
        return WarpSource(tuple(tables), tuple(colours))

    @torch.no_grad()
    def forward(self, latent: Tensor, features: Sequence[Tensor] | WarpSource) -> Tensor:
        """Decode frames.

        Args:
            latent: Identity plus motion, s_r + r_d, (batch, latent_dim).
            features: The portrait's features at sides 8, 16, … S, each
                (batch or 1, channels, side, side), or what `prepare` made of them.

        Returns:
            RGB frames, nominally in [-1, 1] and not clamped, (batch, 3, S, S), in float32 or
            better.
        """
        source = features if isinstance(features, WarpSource) else self.prepare(features)
        return self.draw(latent, source, self.shared_levels, self.own_levels)

    def draw(
        self, latent: Tensor, source: WarpSource, shared: SharedLevels, own: OwnLevels
    ) -> Tensor:
        """Decode frames by `shared_levels` and `own_levels`, or by what equals them.

        Args:
            latent: Identity plus motion, (batch, latent_dim).
            source: The portrait, as `prepare` gives it.
            shared: Takes the levels that a batch takes at once.
            own: Takes the others, frame by frame.

        Returns:
            As `forward`.
        """
        begun = shared(latent.to(self.device, self.precise_dtype), source)
        if not begun.styles:
            return begun.canvas.painted
        return torch.cat([own(begun.item(k), source.item(k)) for k in range(len(latent))])

    def shared_levels(self, latent: Tensor, source: WarpSource) -> Begun:
        """Take the levels that a batch takes at once.

        Args:
            latent: Where the weights lie, float32 or better, (batch, latent_dim).
            source: The portrait.
        """
        first, styles = self._styles(latent)
        maps = self.conv1.shared(self.constant.expand(len(latent), -1, -1, -1), first)
        canvas = Canvas(None, None)
        together = self._levels_together()
        for index, style in enumerate(styles[:together]):
            maps, canvas = self._batch_level(index, style, maps, canvas, source)
        return Begun(maps, canvas, styles[together:])

    def own_levels(self, begun: Begun, source: WarpSource) -> Tensor:
        """Take the other levels of one frame.

        Args:
            begun: The frame so far.
            source: Its portrait.

        Returns:
            The frame, (1, 3, S, S).
        """
        maps, canvas = begun.maps, begun.canvas
        for index, style in enumerate(begun.styles, start=len(self.levels) - len(begun.styles)):
            maps, canvas = self._frame_level(index, style, maps, canvas, source)
        return canvas.painted

    def _styles(self, latent: Tensor) -> tuple[LayerStyle, list[LevelStyle]]:
        """Return the styles of `conv1` and of the levels."""
        scales = F.linear(latent, self.modulation_weight, self.modulation_bias)
        first, *rest = torch.split(scales, self._widths, dim=1)
        convs, flows = rest[: 2 * len(self.levels)], rest[2 * len(self.levels) :]
        styles = [
            self._level(i).style(convs[2 * i], convs[2 * i + 1], flow)
            for i, flow in enumerate(flows)
        ]
        return self.conv1.style(first), styles

    @property
    def _last(self) -> int:
        return len(self.levels) - 1

    def _levels_together(self) -> int:
        """Return how many levels take a batch at once; the others go frame by frame."""
        count = len(self.levels)
        if self.device.type != "cpu":
            return count
        return sum(self._level(i).side <= SHARED_SIDE for i in range(count))

    def _batch_level(
        self, index: int, style: LevelStyle, maps: Tensor, canvas: Canvas, source: WarpSource
    ) -> tuple[Tensor, Canvas]:
        """Take a level with one weight for the batch."""
        level = self._level(index)
        maps = level.conv.shared(level.up.shared(maps, style.up), style.conv)
        return self._paint(index, level.read_flow(maps, style.flow), maps, canvas, source)

    def _frame_level(
        self, index: int, style: LevelStyle, maps: Tensor, canvas: Canvas, source: WarpSource
    ) -> tuple[Tensor, Canvas]:
        """Take a level of one frame, with the frame's own weights."""
        level = self._level(index)
        up, conv = level.up.styled_weight(style.up), level.conv.styled_weight(style.conv)
        if index == self._last:
            share = _flow_by_strips(level, maps, up, conv, style.flow)
        else:
            maps = level.conv.single(level.up.single(maps, up), conv)
            share = level.read_flow(maps, style.flow)
        return self._paint(index, share, maps, canvas, source)

    def _paint(
        self, index: int, share: Tensor, maps: Tensor, canvas: Canvas, source: WarpSource
    ) -> tuple[Tensor, Canvas]:
        """Return maps for the next level, if there is one, and flow and image with this one's."""
        level = self._level(index)
        flow, grid, mask = level.see(share, canvas.flow)
        image = level.paint(grid, mask, source.colours[index], canvas.image)
        if index < self._last:
            maps = level.blend(grid, mask, source.tables[index], maps)
        return maps, Canvas(flow, image)


def _flow_by_strips(level: FastLevel, x: Tensor, up: Tensor, conv: Tensor, flow: Tensor) -> Tensor:
    """Compute a level's share of the flow without ever holding its maps whole.

    Args:
        level: The level.
        x: Maps of the level before, (1, inputs, side / 2, side / 2), channels last.
        up: Weight of the frame's upsampling convolution.
        conv: Weight of the frame's other convolution.
        flow: Weight of the frame's flow, (1, 3, outputs).

    Returns:
        (1, 3, side, side).
    """
    row_bytes = conv.shape[0] * level.side * x.element_size()
    rows = max(STRIP_BYTES // row_bytes, 1)
    strips = []
    for top in range(0, level.side, rows):
        maps = _strip(level, x, up, conv, top, min(top + rows, level.side))
        strips.append(level.read_flow(maps, flow))
    return torch.cat(strips, dim=2)


def _strip(level: FastLevel, x: Tensor, up: Tensor, conv: Tensor, top: int, end: int) -> Tensor:
    """Compute rows `top` to `end` of a level's maps, (1, outputs, end - top, side).

    Every layer pads its strip with zeros above and below: right at the edge of the map, and
    elsewhere in rows that are cut off again.
    """
    top1, end1 = max(top - 1, 0), min(end + 1, level.side)  # what the second convolution reads
    top2, end2 = max(top1 - 1, 0), min(end1 + 2, level.side + 1)  # what the blur reads
    top3, end3 = max(top2 - 1, 0) // 2, (end2 + 1) // 2  # what the transposed convolution reads
    y = F.conv_transpose2d(x[:, :, top3:end3], up, stride=2)
    y = level.up.smooth(y[:, :, top2 - 2 * top3 : end2 - 2 * top3])
    y = level.conv.single(y[:, :, top1 - top2 : end1 - top2], conv)
    return y[:, :, top - top1 : end - top1]
