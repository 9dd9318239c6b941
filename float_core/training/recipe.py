"""The demo model's shape, and the plan of its training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..config import FloatConfig, TransformerConfig, Wav2Vec2Shape

DEMO_CONFIG = FloatConfig(
    image_size=128,
    latent_dim=128,
    motion_dim=20,
    speech_dim=96,
    channels=(128, 128, 112, 80, 40, 20),
    transformer=TransformerConfig(hidden=128, depth=4, heads=4),
    speech=Wav2Vec2Shape(
        hidden=96,
        layers=3,
        heads=4,
        intermediate=288,
        conv_dim=(32, 48, 64, 64, 64, 64, 64),
        pos_conv_width=32,
        pos_conv_groups=8,
    ),
)
"""What the demo weights fix: about 4 million parameters, 8 MB in half precision."""


def smaller_image(config: FloatConfig, image_size: int) -> FloatConfig:
    """Return a config that leaves out the largest sides.

    Args:
        config: The whole model.
        image_size: Side in pixels, at most the config's.
    """
    left_out = (config.image_size // image_size).bit_length() - 1
    channels = config.channels[: len(config.channels) - left_out]
    return replace(config, image_size=image_size, channels=channels)


@dataclass(frozen=True, slots=True)
class LossWeights:
    """How much each part of phase 1's loss counts; all that the renderer tells can be 0.

    Attributes:
        image: Absolute difference of the pictures at three scales.
        detail: Absolute difference of neighbouring pixels' differences.
        regions: Absolute difference within mouth and eyes, each at its own scale.
        flow: Distance of the decoder's sampling positions from the true ones (renderer).
        parameters: Error of the pose read off the coefficients by a linear layer (renderer).
        scale: Pull of the coefficients' mean and spread towards 0 and 1.
        cycle: Distance of what the encoder sees in the decoded picture from what was to be shown.
    """

    image: float = 1.0
    detail: float = 0.5
    regions: float = 1.0
    flow: float = 4.0
    parameters: float = 0.3
    scale: float = 0.02
    cycle: float = 0.0


@dataclass(frozen=True, slots=True)
class Stage:
    """One stretch of training.

    Attributes:
        name: Name of its files and of its lines in the log.
        steps: Optimiser steps.
        batch: Pairs (phase 1) or windows (phase 2) a step.
        learning_rate: Highest rate, after a short rise; it falls to a twentieth along a cosine.
        image_size: Side of the pictures in pixels.
        spread: Width of the heads' motion at the start and at the end.
        weights: Parts of phase 1's loss.
        orthogonal: Whether weight matrices take orthogonal steps (`optimiser`) instead of Adam's.
        decoder_only: Whether encoder and motion basis stay as they are, so that phase 2's clips
            hold from before this stage.
    """

    name: str
    steps: int
    batch: int
    learning_rate: float
    image_size: int = 64
    spread: tuple[float, float] = (0.7, 0.7)
    weights: LossWeights = LossWeights()
    orthogonal: bool = False
    decoder_only: bool = False

    @property
    def reads_only(self) -> bool:
        """Return whether only the encoder learns: no part of the loss needs a decoder."""
        weights = self.weights
        return not (weights.image or weights.detail or weights.regions or weights.flow)

    def with_steps(self, steps: int) -> Stage:
        """Return the same stage over another number of steps."""
        return replace(self, steps=max(1, steps))


ENCODER_ONLY = LossWeights(image=0, detail=0, regions=0, flow=0, parameters=1)


REDRAWN = LossWeights(regions=1.5, parameters=1.0)
"""Faces keep their brows and lips only where these count as much as the picture."""

REFINED = LossWeights(regions=1.5)
"""Poses are known by then."""

SHOWN = LossWeights(regions=2.5, parameters=0, scale=0, cycle=0.25)
"""The encoder stands still and tells whether the picture shows what it was to show."""

PHASE_ONE = (
    Stage("encoder-32", 600, 32, 1e-2, 32, (0.4, 0.7), ENCODER_ONLY, True),
    Stage("encoder-64", 700, 16, 1e-2, 64, (0.7, 0.7), ENCODER_ONLY, True),
    Stage("autoencoder-64", 2_700, 16, 1e-2, 64, (0.5, 0.7), REDRAWN, True),
    Stage("autoencoder-128", 1_400, 12, 5e-3, 128, (0.7, 0.7), REFINED, True),
    Stage("decoder-128", 800, 12, 3e-3, 128, (0.7, 0.7), SHOWN, True, True),
)
"""The encoder is told the poses, then the autoencoder learns; pictures double their side."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """The whole training.

    Attributes:
        seed: Name of all random streams.
        phase_one: The motion autoencoder's stages; each goes on from the one before.
        clips: Performances rendered for phase 2.
        surrogate_identities: Identities drawn to learn what the encoder sees of a pose.
        imagined_clips: Performances for phase 2 that are not drawn but told by the surrogate.
        listening_clips: Performances heard only, before phase 2.
        clip_seconds: Their length.
        listening: The speech encoder alone, told the mouth.
        motion: The flow transformer and the speech encoder.
    """

    seed: int = 0
    phase_one: tuple[Stage, ...] = PHASE_ONE
    clips: int = 28
    surrogate_identities: int = 500
    imagined_clips: int = 1_800
    listening_clips: int = 1_200
    clip_seconds: float = 6.0
    listening: Stage = Stage("listening", 1_500, 16, 2e-3, orthogonal=True)
    motion: Stage = Stage("motion", 2_000, 16, 2e-3, orthogonal=True)

    def scaled(self, factor: float) -> Recipe:
        """Return the recipe with more or less of everything.

        Args:
            factor: Above 0; 1 is some hours on two cores.

        Raises:
            ValueError: The factor is 0 or less.
        """
        if not factor > 0:
            raise ValueError(f"Expected an effort above 0, got {factor}: 1 is the usual one.")

        def scale(stage: Stage) -> Stage:
            return stage.with_steps(round(stage.steps * factor))

        def count(clips: int) -> int:
            return max(8, round(clips * min(factor, 2.0)))

        return replace(
            self._each(scale),
            clips=count(self.clips),
            surrogate_identities=count(self.surrogate_identities),
            imagined_clips=count(self.imagined_clips),
            listening_clips=count(self.listening_clips),
        )

    def widened(self, times: int) -> Recipe:
        """Return the recipe with larger batches, for machines that take many at once.

        Args:
            times: Factor of every batch.
        """
        return self._each(lambda stage: replace(stage, batch=stage.batch * times))

    def _each(self, change: Callable[[Stage], Stage]) -> Recipe:
        phase_one = tuple(change(stage) for stage in self.phase_one)
        listening, motion = change(self.listening), change(self.motion)
        return replace(self, phase_one=phase_one, listening=listening, motion=motion)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; `from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Build a recipe from `to_dict`'s values.

        Raises:
            TypeError: A name is unknown.
        """

        def stage(told: Mapping[str, Any]) -> Stage:
            weights = LossWeights(**told["weights"])
            return Stage(**{**told, "spread": tuple(told["spread"]), "weights": weights})

        phase_one = tuple(stage(told) for told in values["phase_one"])
        named = {name: stage(values[name]) for name in ("listening", "motion")}
        return cls(**{**values, **named, "phase_one": phase_one})
