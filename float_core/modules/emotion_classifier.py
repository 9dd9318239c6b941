"""Emotion classifier: normalised speech to the logits of seven emotions.

A wav2vec2 with a mean over time and two linear layers. Attribute names are the checkpoint's keys
under `emotion_encoder.wav2vec2_for_emotion`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..config import EMOTION_COUNT, FloatConfig
from .wav2vec2 import LayerCallback, build_wav2vec2, encode_features, extract_features


class ClassificationHead(nn.Module):
    """Two linear layers with a tanh between them."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden, hidden)
        self.out_proj = nn.Linear(hidden, EMOTION_COUNT)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, hidden) to logits (batch, 7)."""
        logits: Tensor = self.out_proj(torch.tanh(self.dense(x)))
        return logits


class EmotionClassifier(nn.Module):
    """Hear the emotion of a clip."""

    def __init__(self, config: FloatConfig) -> None:
        super().__init__()
        self.wav2vec2 = build_wav2vec2(config.emotion)
        self.classifier = ClassificationHead(config.emotion.hidden)

    def forward(self, waveform: Tensor, on_layer: LayerCallback | None = None) -> Tensor:
        """Classify clips.

        Args:
            waveform: Normalised over the whole clip, not padded, 16 kHz, (batch, samples).
            on_layer: Called after each transformer layer with its index and output.

        Returns:
            Logits in the order of `float_core.emotion.EMOTIONS`, (batch, 7).
        """
        hidden = self.mean_hidden(waveform, slice(None), on_layer)
        logits: Tensor = self.classifier(hidden)
        return logits

    def mean_hidden(
        self, waveform: Tensor, own: slice, on_layer: LayerCallback | None = None
    ) -> Tensor:
        """Average the encoder's output over a stretch of a piece.

        Args:
            waveform: As for `forward`, (batch, samples).
            own: The samples to average over; the rest is context.
            on_layer: As for `forward`.

        Returns:
            (batch, hidden).
        """
        features = extract_features(self.wav2vec2, waveform)
        hidden = encode_features(self.wav2vec2, features, on_layer)
        count, samples = hidden.shape[1], waveform.shape[1]
        start, stop, _ = own.indices(samples)
        first = start * count // samples
        return hidden[:, first : max(stop * count // samples, first + 1)].mean(dim=1)
