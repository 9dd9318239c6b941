"""Flow matching transformer (the paper's FMT): the velocity that turns noise into motion.

Source: FLOAT (ICCV 2025), section 3.2; blocks as in DiT (Peebles and Xie, 2023) with one
modulation a frame. Attribute names are the checkpoint's keys under `fmt`.
"""

from __future__ import annotations

import math

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
    """Attend from each frame to those at most `radius` frames away.

    Args:
        query: (batch, heads, frames, width).
        key: (batch, heads, frames, width).
        value: (batch, heads, frames, width).
        radius: Frames seen on either side.

    Returns:
        (batch, heads, frames, width).
    """
    frames, width = query.shape[-2:]
    band = 2 * radius + 1
    sides = (0, 0, radius, radius)
    keys = F.pad(key, sides).unfold(2, band, 1)  # (batch, heads, frames, width, band)
    values = F.pad(value, sides).unfold(2, band, 1)  # (batch, heads, frames, width, band)
    scores = (query[..., None] * keys).sum(-2) / math.sqrt(width)  # (batch, heads, frames, band)
    position = torch.arange(frames, device=query.device)[:, None]
    neighbour = position + torch.arange(-radius, radius + 1, device=query.device)
    outside = (neighbour < 0) | (neighbour >= frames)  # (frames, band)
    weights = scores.masked_fill(outside, -torch.inf).softmax(-1)
    return (weights[..., None, :] * values).sum(-1)


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Normalise each frame, then scale and shift it; all (batch, frames, hidden)."""
    return F.layer_norm(x, x.shape[-1:], eps=NORM_EPS) * (1 + scale) + shift


class Modulation(nn.Sequential):
    """Frame conditions to chunks of shift, scale and gate."""

    def __init__(self, hidden: int, chunks: int) -> None:
        super().__init__(nn.SiLU(), nn.Linear(hidden, chunks * hidden))
        self.chunks = chunks

    def forward(self, condition: Tensor) -> tuple[Tensor, ...]:
        """Map (batch, frames, hidden) to `chunks` tensors of that shape."""
        every: Tensor = self[1](self[0](condition))
        return every.chunk(self.chunks, dim=-1)


class BandedAttention(nn.Module):
    """Multi-head self-attention within the band."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.radius = config.attention_radius
        self.qkv = nn.Linear(config.hidden, 3 * config.hidden)
        self.proj = nn.Linear(config.hidden, config.hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Keep the shape (batch, frames, hidden)."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (batch, heads, frames, width)
        attended = banded_attention(query, key, value, self.radius)
        output: Tensor = self.proj(attended.transpose(1, 2).flatten(2))  # (batch, frames, hidden)
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

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Keep the shape (batch, frames, hidden); `condition` has it too."""
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(condition)
        x = x + gate1 * self.attn(modulate(x, shift1, scale1))
        x = x + gate2 * self.mlp(modulate(x, shift2, scale2))
        return x


class Head(nn.Module):
    """Last norm and linear layer, from the transformer's width to a motion latent."""

    def __init__(self, hidden: int, latent_dim: int) -> None:
        super().__init__()
        self.adaLN_modulation = Modulation(hidden, chunks=2)
        self.linear = nn.Linear(hidden, latent_dim)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
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
        frames = speech.shape[1]
        parts = (
            reference[:, None].expand(-1, frames, -1),
            speech,
            emotion.expand(-1, frames, -1),
        )
        condition: Tensor = self.c_embedder(torch.cat(parts, dim=-1))
        return condition

    def forward(self, time: Tensor, motion: Tensor, condition: Tensor) -> Tensor:
        """Predict velocities.

        Args:
            time: ODE time in [0, 1], () or (batch,).
            motion: Previous motion, then the noisy window, (batch, total_frames, latent_dim).
            condition: Result of `embed_condition`, (batch, total_frames, hidden).

        Returns:
            Velocity of all frames, (batch, total_frames, latent_dim); the window's are the last.
        """
        x = self.x_embedder(motion) + self.pos_embed  # (batch, total_frames, hidden)
        c = self.t_embedder(time).view(-1, 1, x.shape[-1]) + condition  # the same shape
        for block in self.blocks:
            x = block(x, c)
        output: Tensor = self.decoder(x, c)  # (batch, total_frames, latent_dim)
        return output
