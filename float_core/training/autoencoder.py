"""Phase 1: the motion autoencoder learns to redraw an identity in another picture's pose.

Source: FLOAT (ICCV 2025), section 3.1. Pairs are two pictures of one identity. What only a
renderer knows (flow, poses) enters through losses whose weights can be 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..config import FloatConfig
from ..modules.motion_decoder import MotionDecoder, ToRGB
from ..modules.motion_encoder import DownBlock, MotionEncoder
from ..modules.stylegan_ops import ACTIVATION_GAIN
from ..motion import MotionBasis
from . import losses
from .decoding import Decoded, decode
from .identities import draw_identities
from .norms import attach_norms, fold_norms
from .portraits import Drawing, TrueMotion, boxes, draw, true_motion
from .poses import PARAMETER_SPREAD, PARAMETERS, expression_variants, neutral, random_poses
from .recipe import LossWeights, Stage
from .seeds import HELD_OUT, TRAINING, generator

HELD_OUT_PAIRS = 48
SHEET_ROWS = 6
FAINT = 0.05
"""Share of their random start that fresh weights keep beside what they are set to."""

OPEN_MASK = 2.0
"""Where masks start, before the sigmoid: nearly all of a warped feature passes."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs of pictures of one identity.

    The first half of the batch differs in the whole pose, the second in expression only.

    Attributes:
        source: The first pictures.
        target: The second pictures.
        source_pose: (batch, parameters).
        target_pose: (batch, parameters).
    """

    source: Drawing
    target: Drawing
    source_pose: Tensor
    target_pose: Tensor

    @property
    def motion(self) -> TrueMotion:
        """Return the true motion from source to target."""
        return true_motion(self.source, self.target)

    @property
    def target_boxes(self) -> Tensor:
        """Return the places of the target's mouth and eyes, (batch, 2, 4)."""
        return boxes(self.target.head)


def draw_pairs(
    stream: torch.Generator, count: int, size: int, spread: float, device: torch.device | str
) -> Pairs:
    """Draw pairs.

    Args:
        stream: Where chance comes from.
        count: Number of pairs.
        size: Side of the pictures in pixels.
        spread: Width of the heads' motion.
        device: Where they are drawn.
    """
    who = draw_identities(stream, count, device)
    first, second = random_poses(stream, count, spread), random_poses(stream, count, spread)
    half = count // 2
    second[half:] = expression_variants(stream, first[half:])
    first, second = first.to(device), second.to(device)
    return Pairs(draw(who, first, size), draw(who, second, size), first, second)


def build_networks(config: FloatConfig) -> nn.ModuleDict:
    """Build encoder, decoder and the linear layer that reads poses off coefficients.

    Flow convolutions start at zero, so that the first picture is the source's; the coefficients
    start as independent directions of the latent.
    """
    encoder, decoder = MotionEncoder(config), MotionDecoder(config)
    last = encoder.fc[-1]
    weight = cast(Tensor, last.weight)
    nn.init.orthogonal_(weight, gain=math.sqrt(weight.shape[1]))
    for to_flow in decoder.to_flows:
        nn.init.zeros_(cast(Tensor, cast(nn.Module, to_flow.conv).weight))
    probe = nn.Linear(config.motion_dim, len(PARAMETERS))
    nn.init.normal_(probe.weight, std=0.1)
    probe.bias.data.copy_(neutral()[0])
    return nn.ModuleDict({"encoder": encoder, "decoder": decoder, "probe": probe})


@torch.no_grad()
def copy_source(networks: nn.ModuleDict) -> None:
    """Let an untrained decoder's first pictures be the source: only motion is left to learn.

    The finest level's colours undo the encoder's first layer; coarser levels add nothing yet;
    masks let features pass.

    Args:
        networks: Encoder and decoder.
    """
    decoder = cast(MotionDecoder, networks["decoder"])
    for to_flow in decoder.to_flows:
        cast(Tensor, to_flow.bias)[:, 2] = OPEN_MASK
    for to_rgb in decoder.to_rgbs:
        colour, activation = cast(nn.Sequential, to_rgb.conv)
        cast(Tensor, colour.weight).zero_()
        # Colours stay on the straight side of the activation.
        cast(Tensor, activation.bias).fill_(1)
        cast(Tensor, to_rgb.bias).fill_(-ACTIVATION_GAIN)
    stem = cast(MotionEncoder, networks["encoder"]).net_app.convs[0]
    shown = torch.sigmoid(torch.tensor(OPEN_MASK)) * ACTIVATION_GAIN
    solved = _colours_from(stem) / shown
    weight = cast(Tensor, cast(ToRGB, decoder.to_rgbs[-1]).conv[0].weight)
    weight.copy_(solved[..., None, None] * math.sqrt(weight.shape[1]))


def _colours_from(layers: nn.Module) -> Tensor:
    """Return what undoes layers that see one pixel, by least squares, (3, channels)."""
    like = next(layers.parameters())
    noise = torch.Generator().manual_seed(0)
    colours = (torch.rand(4096, 3, 1, 1, generator=noise) * 2 - 1).to(like)
    solved: Tensor = torch.linalg.lstsq(layers(colours).flatten(1), colours.flatten(1)).solution
    return solved.T


@torch.no_grad()
def grow(small: Mapping[str, Tensor], large: nn.ModuleDict) -> None:
    """Put what was learned on small pictures into networks for pictures of twice the side.

    The encoder gains a stem and a first block, which start as what the old stem made of the
    halved picture; the decoder gains a last level, which adds nothing to the picture yet.

    Args:
        small: State of the networks of half the image size.
        large: The networks to fill.
    """
    state = large.state_dict()
    stem = "encoder.net_app.convs."
    for key, value in small.items():
        if key.startswith(stem):
            layer, _, rest = key[len(stem) :].partition(".")
            if layer == "0":
                continue
            key = f"{stem}{int(layer) + 1}.{rest}"
        state[key] = value
    large.load_state_dict(state)
    first, block = cast(MotionEncoder, large["encoder"]).net_app.convs[:2]
    _imitate(first, cast(DownBlock, block), small[f"{stem}0.0.weight"], small[f"{stem}0.1.bias"])
    fresh = cast(ToRGB, cast(MotionDecoder, large["decoder"]).to_rgbs[-1])
    cast(Tensor, fresh.conv[0].weight).zero_()
    cast(Tensor, fresh.conv[1].bias).fill_(1)
    cast(Tensor, fresh.bias).fill_(-ACTIVATION_GAIN)


def _imitate(stem: nn.Module, block: DownBlock, weight: Tensor, bias: Tensor) -> None:
    """Make a stem and a block on twice the side do what a stem alone did.

    Args:
        stem: The new first layer.
        block: The new first block.
        weight: The old stem's weight, (channels, 3, 1, 1).
        bias: The old stem's bias, (1, channels, 1, 1).
    """
    inner, outer = (cast(Tensor, c.weight) for c in (block.conv1[0], block.conv2[1]))
    around = torch.ones_like(inner)
    around[:, :, 1, 1] = 0
    inner.mul_(1 - (1 - FAINT) * around)
    centre = inner.clone()
    inner.mul_(1 - around)
    pixel = nn.Sequential(stem, block.conv1)
    undo = _colours_from(pixel)  # (3, channels)
    inner.copy_(centre)
    # The block halves the power of its two branches; the other one is left faint.
    gain = math.sqrt(2) * math.sqrt(outer[0].numel() / weight[0].numel())
    outer.mul_(FAINT)
    outer[:, :, 1, 1] = gain * weight[:, :, 0, 0] @ undo
    cast(Tensor, block.conv2[2].bias).copy_(math.sqrt(2) * bias)
    cast(Tensor, block.skip[1].weight).mul_(FAINT)


def reenact(networks: nn.ModuleDict, source: Tensor, driving: Tensor) -> tuple[Decoded, Tensor]:
    """Redraw one batch in the poses of another.

    Args:
        networks: Encoder and decoder.
        source: Portraits, (batch, 3, S, S).
        driving: Pictures whose poses are taken, of any identity, (batch, 3, S, S).

    Returns:
        What was decoded, and the coefficients of sources, then driving pictures,
        (2 * batch, motion_dim).
    """
    identity, coefficients, features = networks["encoder"](torch.cat((source, driving)))
    count = len(source)
    decoder = cast(MotionDecoder, networks["decoder"])
    basis = MotionBasis.from_weight(decoder.direction.weight)
    latent = identity[:count] + basis.motion(coefficients[count:])
    return decode(decoder, latent, [f[:count] for f in features]), coefficients


class AutoencoderTask:
    """Phase 1's task, for one stage."""

    def __init__(
        self, config: FloatConfig, stage: Stage, seed: int, device: torch.device | str
    ) -> None:
        """Build the networks and draw the held-out pairs.

        Args:
            config: The model, of the stage's image size.
            stage: Batch, losses, poses.
            seed: Name of the random streams.
            device: Where to train.
        """
        self.stage = stage
        self.seed = seed
        self.device = device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.networks = build_networks(config)
        if stage.reads_only:
            encoder = cast(MotionEncoder, self.networks["encoder"])
            self.networks["norms"] = attach_norms(encoder)
        if stage.decoder_only:
            decoder = cast(MotionDecoder, self.networks["decoder"])
            for still in (self.networks["encoder"], self.networks["probe"], decoder.direction):
                still.requires_grad_(False)
        self.networks.to(device)
        stream = generator(HELD_OUT, "pairs", seed)
        self._judged = draw_pairs(stream, HELD_OUT_PAIRS, stage.image_size, 0.7, device)

    def outcome(self, average: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return what the next stage starts from; the task's networks are used up by it.

        Args:
            average: State of the networks to hand on.
        """
        self.networks.load_state_dict(average)
        if "norms" in self.networks:
            norms = cast(nn.ModuleList, self.networks["norms"])
            fold_norms(cast(MotionEncoder, self.networks["encoder"]), norms)
        state = self.networks.state_dict()
        return {name: value for name, value in state.items() if not name.startswith("norms.")}

    def losses(self, step: int) -> dict[str, Tensor]:
        """Return the parts of one step's loss."""
        stage = self.stage
        low, high = stage.spread
        spread = low + (high - low) * min(1.0, 2 * step / stage.steps)
        stream = generator(TRAINING, "pairs", self.seed, stage.name, step)
        pairs = draw_pairs(stream, stage.batch, stage.image_size, spread, self.device)
        parts = self._told(pairs) if self.stage.reads_only else self._redrawn(pairs)
        weights = stage.weights
        total = sum(getattr(weights, name) * part for name, part in parts.items())
        return {"loss": cast(Tensor, total), **parts}

    def _told(self, pairs: Pairs) -> dict[str, Tensor]:
        """Return the parts that need no decoder."""
        images = torch.cat((pairs.source.image, pairs.target.image))
        coefficients = self.networks["encoder"](images)[1]
        return self._read(coefficients.float(), pairs)

    def _read(self, coefficients: Tensor, pairs: Pairs) -> dict[str, Tensor]:
        poses = torch.cat((pairs.source_pose, pairs.target_pose))
        read = self.networks["probe"](coefficients)
        spread = PARAMETER_SPREAD.to(poses)
        return {
            "parameters": losses.parameter_loss(read, poses, spread),
            "scale": losses.scale_loss(coefficients),
        }

    def _redrawn(self, pairs: Pairs) -> dict[str, Tensor]:
        weights: LossWeights = self.stage.weights
        decoded, coefficients = reenact(self.networks, pairs.source.image, pairs.target.image)
        target = pairs.target.image
        parts = {
            "image": losses.image_loss(decoded.image, target),
            "detail": losses.detail_loss(decoded.image, target),
            "regions": losses.region_loss(decoded.image, target, pairs.target_boxes),
        }
        if weights.flow:
            importance = losses.importance_of(pairs.target_boxes, target.shape[-1])
            parts["flow"] = losses.flow_loss(decoded.grids, pairs.motion, importance)
        if weights.parameters:
            parts |= self._read(coefficients.float(), pairs)
        if weights.cycle:
            seen = self.networks["encoder"](decoded.image)[1]
            wanted = coefficients[len(target) :].detach()
            parts["cycle"] = (seen.float() - wanted.float()).abs().mean()
        return parts

    @torch.no_grad()
    def figures(self, networks: nn.ModuleDict) -> dict[str, float]:
        """Return what is read off held-out pictures, and how well they are redrawn."""
        pairs = self._judged
        decoded, coefficients = reenact(networks, pairs.source.image, pairs.target.image)
        poses = torch.cat((pairs.source_pose, pairs.target_pose))
        error = (networks["probe"](coefficients) - poses).square().mean(0)
        explained = 1 - error / poses.var(0, correction=0)
        figures = {f"R2 {n}": float(e) for n, e in zip(PARAMETERS, explained, strict=True)}
        if self.stage.reads_only:
            return figures
        return figures | _gains(decoded.image, pairs)

    @torch.no_grad()
    def sheet(self, networks: nn.ModuleDict) -> npt.NDArray[np.uint8] | None:
        """Return rows of source, target and decoded picture."""
        if self.stage.reads_only:
            return None
        pairs = self._judged
        decoded, _ = reenact(networks, pairs.source.image, pairs.target.image)
        columns = (pairs.source.image, pairs.target.image, decoded.image)
        chosen = torch.linspace(0, HELD_OUT_PAIRS - 1, 2 * SHEET_ROWS).long()
        left, right = (torch.cat([c[rows] for c in columns], 3) for rows in chosen.chunk(2))
        return picture_bytes(torch.cat((left, right), 3))


def psnr(first: Tensor, second: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each pair of pictures in [-1, 1], dB, (batch,)."""
    error = (first.clamp(-1, 1) - second).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / error.clamp(min=1e-10))


def _gains(decoded: Tensor, pairs: Pairs) -> dict[str, float]:
    """Return PSNR beside what copying scores: whole poses first, then expression only."""
    source, target = pairs.source.image, pairs.target.image
    places = pairs.target_boxes[:, :1]
    mouths = [losses.crop_regions(image, places) for image in (decoded, source, target)]
    whole, copied = psnr(decoded, target), psnr(source, target)
    mouth, mouth_copied = psnr(mouths[0], mouths[2]), psnr(mouths[1], mouths[2])
    half = len(target) // 2
    return {
        "PSNR": float(whole[:half].mean()),
        "PSNR over copying": float((whole - copied)[:half].mean()),
        "expression PSNR over copying": float((whole - copied)[half:].mean()),
        "expression mouth PSNR over copying": float((mouth - mouth_copied)[half:].mean()),
    }


def picture_bytes(rows: Tensor) -> npt.NDArray[np.uint8]:
    """Return pictures in [-1, 1], (rows, 3, height, width), as one, one below the other."""
    levels = ((rows.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    joined: npt.NDArray[np.uint8] = levels.permute(0, 2, 3, 1).flatten(0, 1).cpu().numpy()
    return joined
