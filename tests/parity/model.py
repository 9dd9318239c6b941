"""Build the model of a golden file: its config and its synthetic weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from float_core.config import FloatConfig, TransformerConfig, Wav2Vec2Shape
from float_core.pipeline import NETWORKS
from float_core.synthetic import synthetic_weights

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).resolve().parent / "golden"


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


def synthetic_state_dict(
    config: FloatConfig, dtype: torch.dtype = torch.float32
) -> dict[str, torch.Tensor]:
    """Return synthetic weights under the keys of the one-file layout."""
    return {key: value.to(dtype) for key, value in synthetic_weights(config, NETWORKS).items()}
