"""Audio encoder: normalised speech to one embedding a video frame.

Source: FLOAT (ICCV 2025), section 3.2. Attribute names are the checkpoint's keys under
`audio_encoder`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import FloatConfig
from .wav2vec2 import (
    LayerCallback,
    WindowMoments,
    build_wav2vec2,
    encode_features,
    extract_features,
)


class AudioEncoder(nn.Module):
    """wav2vec2 whose features are resampled to the video's rate before its transformer."""

    def __init__(self, config: FloatConfig) -> None:
        super().__init__()
        self.samples_per_frame = config.samples_per_frame
        self.minimum_samples = config.speech.minimum_samples
        self.wav2vec2 = build_wav2vec2(config.speech)
        width = config.speech.hidden * config.speech.layers
        self.audio_projection = nn.Sequential(
            nn.Linear(width, config.speech_dim), nn.LayerNorm(config.speech_dim), nn.SiLU()
        )

    def forward(
        self,
        waveform: Tensor,
        frames: int,
        on_layer: LayerCallback | None = None,
        moments: WindowMoments | None = None,
    ) -> Tensor:
        """Embed speech.

        Args:
            waveform: Normalised over the whole clip, 16 kHz, (batch, samples).
            frames: Video frames to embed, at most a frame more than the samples span.
            on_layer: Called after each transformer layer with its index and output.
            moments: Those of the whole clip, where the waveform is a piece of one.

        Returns:
            (batch, frames, speech_dim).
        """
        features = self.frame_features(waveform, frames, moments)  # (batch, frames, channels)
        layers: list[Tensor] = []

        def collect(index: int, output: Tensor) -> None:
            layers.append(output)
            if on_layer is not None:
                on_layer(index, output)

        encode_features(self.wav2vec2, features, collect)
        embedding: Tensor = self.audio_projection(torch.cat(layers, dim=-1))
        return embedding

    def frame_features(
        self, waveform: Tensor, frames: int, moments: WindowMoments | None = None
    ) -> Tensor:
        """Extract features and resample them along time to the video's frames.

        Args:
            waveform: As for `forward`, (batch, samples).
            frames: As for `forward`.
            moments: As for `forward`.

        Returns:
            (batch, frames, channels).
        """
        padding = max(frames * self.samples_per_frame, self.minimum_samples) - waveform.shape[1]
        padded = F.pad(waveform[:, None], (0, max(padding, 0)), mode="replicate")[:, 0]
        features = extract_features(self.wav2vec2, padded, moments).transpose(1, 2)
        resampled = F.interpolate(features, size=frames, mode="linear", align_corners=True)
        return resampled.transpose(1, 2)
