"""What the weights fix (`FloatConfig`) and what a run may choose (`SamplingOptions`).

Both are frozen and check themselves when made. Neither holds a path, a device, a dtype or a tensor.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypeVar, get_args

SPEECH_SAMPLE_RATE = 16_000
"""Samples a second of every waveform inside the model, in Hz."""

EMOTION_COUNT = 7
"""Width of an emotion vector; the names and their order are `float_core.emotion.EMOTIONS`."""

SOLVER_NAMES = ("euler", "midpoint", "heun2", "heun3", "rk4")
"""Names a run may ask for; `float_core.sampling.SOLVERS` holds their coefficients."""

ExtractorNorm = Literal["group", "layer"]
_Config = TypeVar("_Config")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _require_positive(owner: object, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        whole = isinstance(value, int) and not isinstance(value, bool)
        _require(
            whole and value > 0,
            f"{type(owner).__name__}.{name} must be a whole number above 0, got {value!r}",
        )


@dataclass(frozen=True, slots=True)
class Wav2Vec2Shape:
    """Shape of one wav2vec2 network; the defaults are wav2vec2-base-960h.

    Attributes:
        hidden: Width of the transformer.
        layers: Number of transformer layers.
        heads: Attention heads; must divide `hidden`.
        intermediate: Width inside the feed-forward.
        conv_dim: Channels of each extractor layer, first layer first.
        conv_kernel: Kernel of each extractor layer, in samples of its input.
        conv_stride: Stride of each extractor layer, in samples of its input.
        pos_conv_width: Kernel of the positional convolution, in features.
        pos_conv_groups: Groups of the positional convolution; must divide `hidden`.
        extractor_norm: "group" normalises the first extractor layer only, "layer" all of them.
        stable_layer_norm: True where each layer normalises its input, False where its output.
        conv_bias: Whether the extractor's convolutions have a bias.
    """

    hidden: int = 768
    layers: int = 12
    heads: int = 12
    intermediate: int = 3072
    conv_dim: tuple[int, ...] = (512,) * 7
    conv_kernel: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_stride: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    pos_conv_width: int = 128
    pos_conv_groups: int = 16
    extractor_norm: ExtractorNorm = "group"
    stable_layer_norm: bool = False
    conv_bias: bool = False

    def __post_init__(self) -> None:
        _require_positive(
            self, "hidden", "layers", "heads", "intermediate", "pos_conv_width", "pos_conv_groups"
        )
        for name in ("conv_dim", "conv_kernel", "conv_stride"):
            values = tuple(getattr(self, name))
            object.__setattr__(self, name, values)
            _require(
                len(values) > 0 and all(isinstance(v, int) and v > 0 for v in values),
                f"Wav2Vec2Shape.{name} must be whole numbers above 0, got {values!r}",
            )
        lengths = {len(self.conv_dim), len(self.conv_kernel), len(self.conv_stride)}
        _require(
            len(lengths) == 1,
            "Wav2Vec2Shape.conv_dim, conv_kernel and conv_stride must have one entry a layer, got "
            f"{len(self.conv_dim)}, {len(self.conv_kernel)} and {len(self.conv_stride)}",
        )
        for name in ("heads", "pos_conv_groups"):
            _require(
                self.hidden % getattr(self, name) == 0,
                f"Wav2Vec2Shape.{name} must divide hidden {self.hidden}, got {getattr(self, name)}",
            )
        _require(
            self.extractor_norm in get_args(ExtractorNorm),
            f'Wav2Vec2Shape.extractor_norm must be "group" or "layer", got {self.extractor_norm!r}',
        )
        for name in ("stable_layer_norm", "conv_bias"):
            value = getattr(self, name)
            _require(
                isinstance(value, bool),
                f"Wav2Vec2Shape.{name} must be true or false, got {value!r}",
            )

    @property
    def minimum_samples(self) -> int:
        """Return the shortest waveform that gives one feature, in samples."""
        samples = 1
        for kernel, stride in zip(
            reversed(self.conv_kernel), reversed(self.conv_stride), strict=True
        ):
            samples = (samples - 1) * stride + kernel
        return samples


BASE_WAV2VEC2 = Wav2Vec2Shape()
"""facebook/wav2vec2-base-960h, the speech encoder of the released weights."""

LARGE_WAV2VEC2 = Wav2Vec2Shape(
    hidden=1024,
    layers=24,
    heads=16,
    intermediate=4096,
    extractor_norm="layer",
    stable_layer_norm=True,
    conv_bias=True,
)
"""r-f/wav2vec-english-speech-emotion-recognition, the emotion network of the released weights."""


@dataclass(frozen=True, slots=True)
class TransformerConfig:
    """Shape of the flow matching transformer.

    Attributes:
        hidden: Width.
        depth: Number of blocks.
        heads: Attention heads; must divide `hidden`.
        mlp_ratio: Width inside the MLP over `hidden`.
        window_frames: Frames sampled at once.
        context_frames: Frames of the previous window each window sees.
        attention_radius: A frame sees this many frames on either side of itself.
    """

    hidden: int = 1024
    depth: int = 8
    heads: int = 8
    mlp_ratio: float = 4.0
    window_frames: int = 50
    context_frames: int = 10
    attention_radius: int = 2

    def __post_init__(self) -> None:
        _require_positive(self, "hidden", "depth", "heads", "window_frames", "context_frames")
        _require(
            isinstance(self.attention_radius, int) and self.attention_radius >= 0,
            "TransformerConfig.attention_radius must be a whole number, 0 or more, "
            f"got {self.attention_radius!r}",
        )
        _require(
            self.hidden % self.heads == 0 and self.hidden % 2 == 0,
            f"TransformerConfig.hidden must be even and a multiple of heads {self.heads}, "
            f"got {self.hidden}",
        )
        _require(
            self.context_frames <= self.window_frames,
            f"TransformerConfig.context_frames must be at most window_frames {self.window_frames}, "
            f"got {self.context_frames}",
        )
        _require(
            _is_number(self.mlp_ratio)
            and self.mlp_ratio > 0
            and float(self.hidden * self.mlp_ratio).is_integer(),
            "TransformerConfig.mlp_ratio must be above 0 and give a whole width, "
            f"got {self.mlp_ratio!r}",
        )

    @property
    def mlp_hidden(self) -> int:
        """Return the width inside the MLP."""
        return int(self.hidden * self.mlp_ratio)

    @property
    def total_frames(self) -> int:
        """Return the frames the transformer works on: context, then window."""
        return self.context_frames + self.window_frames


PUBLISHED_CHANNELS = {
    4: 512,
    8: 512,
    16: 512,
    32: 512,
    64: 256,
    128: 128,
    256: 64,
    512: 32,
    1024: 16,
}
"""Channels of the published motion autoencoder by side in pixels (StyleGAN2's table)."""


@dataclass(frozen=True, slots=True)
class FloatConfig:
    """Everything the weights fix; the defaults are the released model.

    Attributes:
        image_size: Side S of the square image in pixels, a power of two from 8 to 1024.
        latent_dim: Width w of identity and motion latents.
        motion_dim: Number M of orthonormal motion directions.
        speech_dim: Width of a speech embedding.
        fps: Frames a second the model was trained at.
        channels: Channels at sides 4, 8, … S; empty stands for the published table.
        transformer: Shape of the flow matching transformer.
        speech: Shape of the wav2vec2 inside the audio encoder.
        emotion: Shape of the wav2vec2 inside the emotion classifier.
    """

    image_size: int = 512
    latent_dim: int = 512
    motion_dim: int = 20
    speech_dim: int = 512
    fps: int = 25
    channels: tuple[int, ...] = ()
    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    speech: Wav2Vec2Shape = BASE_WAV2VEC2
    emotion: Wav2Vec2Shape = LARGE_WAV2VEC2

    def __post_init__(self) -> None:
        _require_positive(self, "image_size", "latent_dim", "motion_dim", "speech_dim", "fps")
        _require(
            self.image_size.bit_count() == 1 and 8 <= self.image_size <= 1024,
            "FloatConfig.image_size must be a power of two from 8 to 1024 pixels, "
            f"got {self.image_size}",
        )
        _require(
            self.motion_dim <= self.latent_dim,
            f"FloatConfig.motion_dim must be at most latent_dim {self.latent_dim}, "
            f"got {self.motion_dim}",
        )
        _require(
            SPEECH_SAMPLE_RATE % self.fps == 0,
            f"FloatConfig.fps must divide {SPEECH_SAMPLE_RATE} Hz, got {self.fps}",
        )
        channels = tuple(self.channels) or tuple(PUBLISHED_CHANNELS[side] for side in self.sides)
        _require(
            len(channels) == len(self.sides)
            and all(isinstance(c, int) and c > 0 for c in channels),
            f"FloatConfig.channels must be {len(self.sides)} whole numbers above 0 for sides "
            f"{self.sides[0]} to {self.sides[-1]}, got {channels!r}",
        )
        object.__setattr__(self, "channels", channels)

    @property
    def sides(self) -> tuple[int, ...]:
        """Return the sides 4, 8, … S of the feature maps, in pixels."""
        return tuple(2**k for k in range(2, int(math.log2(self.image_size)) + 1))

    @property
    def samples_per_frame(self) -> int:
        """Return the waveform samples that one video frame spans at 16 kHz."""
        return SPEECH_SAMPLE_RATE // self.fps

    def to_dict(self) -> dict[str, Any]:
        """Return the config as plain JSON values; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FloatConfig:
        """Build a config from `to_dict`'s values; absent names keep the released model's value.

        Args:
            values: JSON values, as found in a file's metadata.

        Raises:
            ValueError: A name is unknown or a value is out of range; the message names it.
        """
        # Channels that are not named are those of the published table at the size that is.
        return _from_dict(cls(), {"channels": (), **values})


def _from_dict(default: _Config, values: Mapping[str, Any]) -> _Config:
    """Replace the fields of a dataclass by those of `values`, nested ones too."""
    owner = type(default).__name__
    _require(isinstance(values, Mapping), f"{owner} must be a mapping of names, got {values!r}")
    fields = {name: getattr(default, name) for name in default.__dataclass_fields__}  # type: ignore[attr-defined]
    unknown = sorted(set(values) - set(fields))
    _require(not unknown, f"{owner} has no field named {', '.join(map(repr, unknown))}")
    changes: dict[str, Any] = {}
    for name, value in values.items():
        old = fields[name]
        if hasattr(old, "__dataclass_fields__"):
            changes[name] = _from_dict(old, value)
        elif isinstance(old, tuple):
            _require(
                isinstance(value, list | tuple), f"{owner}.{name} must be a list, got {value!r}"
            )
            changes[name] = tuple(value)
        else:
            changes[name] = value
    return replace(default, **changes)  # type: ignore[type-var]


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """What one run may choose.

    Attributes:
        time_points: Points of the ODE's time grid from 0 to 1 (the published "nfe"): ten points are
            nine steps. 2 to 1000.
        solver: Name of a fixed-step solver.
        audio_guidance: Scale of the difference that the speech makes (the published
            "a_cfg_scale"); 1 is unguided. -100 to 100.
        emotion_guidance: Scale of the difference that the emotion makes (the published
            "e_cfg_scale"); 1 is unguided. -100 to 100.
        reference_guidance: Scale of the difference that the portrait's own motion makes (an
            extension of the published guidance); 1 is off. -100 to 100.
        seed: Seed of the noise, 0 to 2**64 - 1.
    """

    time_points: int = 10
    solver: str = "euler"
    audio_guidance: float = 2.0
    emotion_guidance: float = 1.0
    reference_guidance: float = 1.0
    seed: int = 15

    def __post_init__(self) -> None:
        _require(
            isinstance(self.time_points, int) and 2 <= self.time_points <= 1000,
            f"time_points must be a whole number from 2 to 1000, got {self.time_points!r}",
        )
        _require(
            self.solver in SOLVER_NAMES,
            f"solver must be one of {', '.join(SOLVER_NAMES)}, got {self.solver!r}",
        )
        for name in ("audio_guidance", "emotion_guidance", "reference_guidance"):
            value = getattr(self, name)
            _require(
                _is_number(value) and abs(value) <= 100,
                f"{name} must be a number from -100 to 100, got {value!r}",
            )
        _require(
            isinstance(self.seed, int) and 0 <= self.seed < 2**64,
            f"seed must be a whole number from 0 to 2**64 - 1, got {self.seed!r}",
        )
