"""A tiny model, recipe and library that train within seconds."""

from __future__ import annotations

from pathlib import Path

import torch

from float_core.config import FloatConfig, TransformerConfig, Wav2Vec2Shape
from float_core.training import seeds
from float_core.training.autoencoder import AutoencoderTask, build_networks
from float_core.training.clips import Library, make_library, watched
from float_core.training.recipe import ENCODER_ONLY, Recipe, Stage, smaller_image
from float_core.training.runs import Habits, Session

CONFIG = FloatConfig(
    image_size=32,
    latent_dim=16,
    motion_dim=6,
    speech_dim=12,
    channels=(12, 12, 8, 8),
    transformer=TransformerConfig(
        hidden=16, depth=2, heads=2, mlp_ratio=2.0, window_frames=8, context_frames=3
    ),
    speech=Wav2Vec2Shape(
        hidden=16,
        layers=2,
        heads=2,
        intermediate=16,
        conv_dim=(8,) * 7,
        pos_conv_width=8,
        pos_conv_groups=2,
    ),
)

RECIPE = Recipe(
    phase_one=(
        Stage("encoder", 2, 4, 2e-3, 16, (0.4, 0.7), ENCODER_ONLY, True),
        Stage("autoencoder-16", 2, 4, 2e-3, 16),
        Stage("autoencoder-32", 2, 4, 2e-3, 32),
    ),
    clips=3,
    surrogate_identities=3,
    imagined_clips=3,
    listening_clips=4,
    clip_seconds=1.0,
    listening=Stage("listening", 2, 4, 2e-3),
    motion=Stage("motion", 2, 4, 2e-3),
)

CPU = torch.device("cpu")


def session(folder: Path, **changes: object) -> Session:
    habits = Habits(log_steps=1, figure_steps=1000)
    return Session(folder, CPU, **{"habits": habits, **changes})  # type: ignore[arg-type]


def stage(steps: int = 4, **changes: object) -> Stage:
    return Stage("stage", steps, 4, 2e-3, 16, **changes)  # type: ignore[arg-type]


def autoencoder_task(shape: Stage) -> AutoencoderTask:
    return AutoencoderTask(smaller_image(CONFIG, shape.image_size), shape, 0, CPU)


def library(folder: Path, split: str = seeds.TRAINING) -> Library:
    torch.manual_seed(0)
    encoder = build_networks(CONFIG)["encoder"]
    where = session(folder)
    made = make_library(watched(encoder, CONFIG, where), CONFIG, split, 0, 3, 1.0, where)
    assert made is not None
    return made
