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
        features = extract_features(self.wav2vec2, waveform)
        hidden = encode_features(self.wav2vec2, features, on_layer)
        logits: Tensor = self.classifier(hidden.mean(dim=1))
        return logits
