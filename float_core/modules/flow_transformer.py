"""Flow matching transformer (the paper's FMT): the velocity that turns noise into motion.

Source: FLOAT (ICCV 2025), section 3.2; blocks as in DiT (Peebles and Xie, 2023) with one
modulation a frame. Attribute names are the checkpoint's keys under `fmt`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import EMOTION_COUNT, FloatConfig, TransformerConfig

TIME_FREQUENCIES = 128
LONGEST_PERIOD = 10_000.0
NORM_EPS = 1e-6


def position_table(frames: int, width: int) -> Tensor:
    """Return the sinusoidal position embedding, oldest frame first, (1, frames, width).

    Sine in the even channels and cosine in the odd ones (Vaswani et al., 2017, section 3.5).
    """
    # On the CPU whatever the default device: not every device has double precision.
    frame = torch.arange(frames, dtype=torch.float64, device="cpu")[:, None]
    exponent = torch.arange(0, width, 2, dtype=torch.float64, device="cpu") / width
    angle = frame / LONGEST_PERIOD**exponent
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)[None].float()


def banded_attention(query: Tensor, key: Tensor, value: Tensor, radius: int) -> Tensor:
    """Attend from the last frames, each to those at most `radius` frames away.

    Args:
        query: (batch, heads, asked, width).
        key: (batch, heads, frames, width); at least as many frames as are asked for.
        value: (batch, heads, frames, width).
        radius: Frames seen on either side.

    Returns:
        (batch, heads, asked, width).
    """
    (asked, width), frames = query.shape[-2:], key.shape[2]
    band = 2 * radius + 1
    sides = (0, 0, radius, radius)
    # Both (batch, heads, asked, width, band).
    keys = F.pad(key, sides).unfold(2, band, 1)[:, :, -asked:]
    values = F.pad(value, sides).unfold(2, band, 1)[:, :, -asked:]
    scores = (query[..., None] * keys).sum(-2) / math.sqrt(width)  # (batch, heads, asked, band)
    position = torch.arange(frames - asked, frames, device=query.device)[:, None]
    neighbour = position + torch.arange(-radius, radius + 1, device=query.device)
    outside = (neighbour < 0) | (neighbour >= frames)  # (asked, band)
    weights = scores.masked_fill(outside, -torch.inf).softmax(-1)
    return (weights[..., None, :] * values).sum(-1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Normalise each frame, then scale and shift it; all (batch, frames, hidden)."""
    return F.layer_norm(x, x.shape[-1:], eps=NORM_EPS) * (1 + scale) + shift


@dataclass(frozen=True, slots=True)
class Conditions:
    """Embedded conditions of a batch of frames, equal ones once.

    Attributes:
        rows: The different ones, (1, distinct, hidden); where `index` is None those of all frames,
            (batch, frames, hidden).
        index: Which of them each frame has, (batch, frames).
    """

    rows: Tensor
    index: Tensor | None = None

    def last(self, frames: int) -> Conditions:
        """Return the conditions of the last frames."""
        if self.index is None:
            return Conditions(self.rows[:, -frames:])
        return Conditions(self.rows, self.index[:, -frames:])

    def spread(self, mapped: Tensor) -> Tensor:
        """Give each frame what its row was mapped to, (batch, frames, width)."""
        if self.index is None:
            return mapped
        return mapped[0].index_select(0, self.index.flatten()).view(*self.index.shape, -1)


class Modulation(nn.Sequential):
    """Frame conditions to chunks of shift, scale and gate; computed once for equal conditions."""

    def __init__(self, hidden: int, chunks: int) -> None:
        super().__init__(nn.SiLU(), nn.Linear(hidden, chunks * hidden))
        self.chunks = chunks

    def forward(self, condition: Conditions) -> tuple[Tensor, ...]:
        """Map the conditions of frames to `chunks` tensors, each (batch, frames, hidden)."""
        every = condition.spread(self[1](self[0](condition.rows)))
        return every.chunk(self.chunks, dim=-1)


class BandedAttention(nn.Module):
    """Multi-head self-attention within the band."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.radius = config.attention_radius
        self.qkv = nn.Linear(config.hidden, 3 * config.hidden)
        self.proj = nn.Linear(config.hidden, config.hidden)

    def forward(self, x: Tensor, asked: int) -> Tensor:
        """Map (batch, frames, hidden) to the last frames' (batch, asked, hidden)."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (batch, heads, frames, width)
        attended = banded_attention(query[:, :, -asked:], key, value, self.radius)
        output: Tensor = self.proj(attended.transpose(1, 2).flatten(2))  # (batch, asked, hidden)
        return output


class Mlp(nn.Module):
    """Two linear layers with a GELU (tanh approximation) between them."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden, config.mlp_hidden)
        self.fc2 = nn.Linear(config.mlp_hidden, config.hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape (batch, frames, hidden)."""
        output: Tensor = self.fc2(F.gelu(self.fc1(x), approximate="tanh"))
        return output


class Block(nn.Module):
    """Transformer block with its norms modulated frame by frame (adaLN-Zero of DiT)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.attn = BandedAttention(config)
        self.mlp = Mlp(config)
        self.adaLN_modulation = Modulation(config.hidden, chunks=6)

    def forward(self, x: Tensor, condition: Conditions, asked: int) -> Tensor:
        """Map (batch, frames, hidden) to the last frames' (batch, asked, hidden).

        Whatever comes before the frames asked for is seen by the attention and goes no further.
        """
        shift1, scale1, *rest = self.adaLN_modulation(condition)
        attended = self.attn(modulate(x, shift1, scale1), asked)
        x, gate1, shift2, scale2, gate2 = (value[:, -asked:] for value in (x, *rest))
        x = x + gate1 * attended
        x = x + gate2 * self.mlp(modulate(x, shift2, scale2))
        return x


class Head(nn.Module):
    """Last norm and linear layer, from the transformer's width to a motion latent."""

    def __init__(self, hidden: int, latent_dim: int) -> None:
        super().__init__()
        self.adaLN_modulation = Modulation(hidden, chunks=2)
        self.linear = nn.Linear(hidden, latent_dim)

    def forward(self, x: Tensor, condition: Conditions) -> Tensor:
        """Map (batch, frames, hidden) to (batch, frames, latent_dim)."""
        shift, scale = self.adaLN_modulation(condition)
        output: Tensor = self.linear(modulate(x, shift, scale))
        return output


class TimeEmbedder(nn.Module):
    """ODE time to a vector of the transformer's width."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(2 * TIME_FREQUENCIES, hidden), nn.SiLU(), nn.Linear(hidden, hidden)
        )

    def forward(self, time: Tensor) -> Tensor:
        """Map times in [0, 1], any shape, to (…, hidden)."""
        steps = torch.arange(TIME_FREQUENCIES, dtype=time.dtype, device=time.device)
        frequencies = torch.exp(-math.log(LONGEST_PERIOD) / TIME_FREQUENCIES * steps)
        angle = time[..., None] * frequencies
        waves = torch.cat((angle.cos(), angle.sin()), dim=-1)
        # Angles are taken before any rounding to half precision.
        precision = next(self.mlp.parameters()).dtype
        embedding: Tensor = self.mlp(waves.to(precision))
        return embedding


class FrameEmbedder(nn.Module):
    """Motion latents to the transformer's width."""

    def __init__(self, latent_dim: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(latent_dim, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, frames, latent_dim) to (batch, frames, hidden)."""
        embedding: Tensor = self.proj(x)
        return embedding


class FlowTransformer(nn.Module):
    """Predict the velocity of a window of motion, given what came before and what is said."""

    def __init__(self, config: FloatConfig) -> None:
        super().__init__()
        shape = config.transformer
        hidden = shape.hidden
        self.radius = shape.attention_radius
        self.x_embedder = FrameEmbedder(config.latent_dim, hidden)
        self.pos_embed = nn.Parameter(
            position_table(shape.total_frames, hidden), requires_grad=False
        )
        self.t_embedder = TimeEmbedder(hidden)
        self.c_embedder = nn.Linear(config.latent_dim + config.speech_dim + EMOTION_COUNT, hidden)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.depth))
        self.decoder = Head(hidden, config.latent_dim)

    def embed_condition(self, reference: Tensor, speech: Tensor, emotion: Tensor) -> Tensor:
        """Embed whatever does not depend on the ODE's time; once a window.

        Args:
            reference: The portrait's own motion r_s, (batch, latent_dim).
            speech: Embedding of context, then window, (batch, total_frames, speech_dim).
            emotion: Emotion of each frame, (batch, total_frames or 1, 7).

        Returns:
            (batch, total_frames, hidden).
        """
        condition: Tensor = self.c_embedder(_condition_inputs(reference, speech, emotion))
        return condition

    def embed_distinct(self, reference: Tensor, speech: Tensor, emotion: Tensor) -> Conditions:
        """Embed as `embed_condition` does, but conditions that several frames share only once.

        The evaluations of the guidance share many: those without speech have one for the whole
        window, and the frames of context have the same with speech as without.

        Args:
            reference: As for `embed_condition`, like the others.
            speech: (batch, total_frames, speech_dim).
            emotion: (batch, total_frames or 1, 7).
        """
        inputs = _condition_inputs(reference, speech, emotion)
        # Compared on the CPU: not every device can.
        rows, index = torch.unique(inputs.flatten(0, 1).cpu(), dim=0, return_inverse=True)
        embedded = self.c_embedder(rows.to(inputs.device)[None])
        return Conditions(embedded, index.view(inputs.shape[:2]).to(inputs.device))

    def forward(
        self,
        time: Tensor,
        motion: Tensor,
        condition: Tensor | Conditions,
        asked: int | None = None,
    ) -> Tensor:
        """Predict velocities.

        Args:
            time: ODE time in [0, 1], () or (batch,).
            motion: Previous motion, then the noisy window, (batch, total_frames, latent_dim).
            condition: Result of `embed_condition`, (batch, total_frames, hidden), or, at one time
                for all, of `embed_distinct`.
            asked: How many of the last frames are asked for, 1 or more; all where None. Earlier
                ones are computed as far as these depend on them.

        Returns:
            Velocity, (batch, asked, latent_dim); the window's are the last.
        """
        frames = motion.shape[1]
        # A block reaches `radius` frames back: what each block must give, the last one first.
        reaches = [self.radius * later for later in range(len(self.blocks) + 1)]
        needed = [min(frames, (asked or frames) + reach) for reach in reaches]
        first = needed.pop()
        x = self.x_embedder(motion[:, -first:]) + self.pos_embed[:, -first:]
        if isinstance(condition, Tensor):
            condition = Conditions(condition)
        times = self.t_embedder(time).view(-1, 1, x.shape[-1])
        c = Conditions(times + condition.rows, condition.index).last(first)
        for block, count in zip(self.blocks, reversed(needed), strict=True):
            x = block(x, c, count)  # (batch, count, hidden)
            c = c.last(count)
        output: Tensor = self.decoder(x, c)  # (batch, asked, latent_dim)
        return output


def _condition_inputs(reference: Tensor, speech: Tensor, emotion: Tensor) -> Tensor:
    """Put the conditions of each frame side by side, (batch, frames, width)."""
    frames = speech.shape[1]
    parts = (
        reference[:, None].expand(-1, frames, -1),
        speech,
        emotion.expand(-1, frames, -1),
    )
    return torch.cat(parts, dim=-1)
