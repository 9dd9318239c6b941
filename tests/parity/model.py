"""Build the model of a golden file: its config and its synthetic weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from parity import synthetic

from float_core.config import FloatConfig, TransformerConfig, Wav2Vec2Shape
from float_core.pipeline import NETWORKS

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).resolve().parent / "golden"
PREFIXES = {
    "motion_encoder": "motion_autoencoder.enc.",
    "motion_decoder": "motion_autoencoder.dec.",
    "audio_encoder": "audio_encoder.",
    "flow_transformer": "fmt.",
    "emotion_classifier": "emotion_encoder.wav2vec2_for_emotion.",
}


def config_of(values: Mapping[str, Any]) -> FloatConfig:
    """Read the configuration of a golden file's meta."""
    transformer = dict(values["transformer"])
    fps = transformer.pop("fps")
    transformer["window_frames"] = transformer.pop("window")
    transformer["context_frames"] = transformer.pop("context")
    return FloatConfig(
        image_size=values["image_size"],
        latent_dim=values["latent_dim"],
        motion_dim=values["motion_dim"],
        speech_dim=values["latent_dim"],
        fps=fps,
        transformer=TransformerConfig(**transformer),
        speech=_wav2vec2(values["audio"]),
        emotion=_wav2vec2(values["emotion"]),
    )


def _wav2vec2(values: Mapping[str, Any]) -> Wav2Vec2Shape:
    kernels = {
        name: tuple(values[name]) for name in ("conv_kernel", "conv_stride") if name in values
    }
    return Wav2Vec2Shape(**{**values, "conv_dim": tuple(values["conv_dim"]), **kernels})


def position_table(frames: int, width: int) -> torch.Tensor:
    """Return the fixed position table that the golden files use, float64 (1, frames, width)."""
    angle = np.arange(frames)[:, None] / 10000.0 ** (np.arange(0, width, 2) / width)
    table = np.empty((1, frames, width))
    table[0, :, 0::2], table[0, :, 1::2] = np.sin(angle), np.cos(angle)
    return torch.from_numpy(table)


def synthetic_state_dict(
    config: FloatConfig, dtype: torch.dtype = torch.float32
) -> dict[str, torch.Tensor]:
    """Return synthetic weights under the keys of the one-file layout."""
    state = {}
    for name, build in NETWORKS.items():
        with torch.device("meta"):
            network = build(config)
        for key, value in network.state_dict().items():
            full_key = PREFIXES[name] + key
            if key == "pos_embed":
                state[full_key] = position_table(*value.shape[1:])
            else:
                state[full_key] = torch.from_numpy(synthetic.weight(full_key, tuple(value.shape)))
    return {key: value.to(dtype) for key, value in state.items()}
