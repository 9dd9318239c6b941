"""Read a model's configuration off its weights: their shapes, metadata and neighbouring files."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from .checkpoint_files import CheckpointError
from .checkpoint_layouts import resembling
from .config import FloatConfig, TransformerConfig, Wav2Vec2Shape

Shapes = Mapping[str, Sequence[int]]

_ENCODER = "motion_autoencoder.enc.net_app.convs."
_SPEECH = "audio_encoder.wav2vec2."
_EMOTION = "emotion_encoder.wav2vec2_for_emotion.wav2vec2."
_POSITIONAL_NAMES = ("parametrizations.weight.original1", "weight_v")

_HUGGING_FACE_NAMES = {
    "hidden_size": "hidden",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "intermediate_size": "intermediate",
    "conv_dim": "conv_dim",
    "conv_kernel": "conv_kernel",
    "conv_stride": "conv_stride",
    "num_conv_pos_embeddings": "pos_conv_width",
    "num_conv_pos_embedding_groups": "pos_conv_groups",
    "feat_extract_norm": "extractor_norm",
    "do_stable_layer_norm": "stable_layer_norm",
    "conv_bias": "conv_bias",
}
"""Names in the `config.json` of a wav2vec2 folder, and ours."""


def parse_config(text: str, source: str) -> FloatConfig:
    """Read a configuration out of a file's metadata.

    Args:
        text: JSON of `FloatConfig.to_dict`; names it lacks keep the released model's values.
        source: Name of the file for messages.

    Raises:
        CheckpointError: The text is no JSON, or a name or value in it is wrong.
    """
    try:
        values = json.loads(text)
        _check_types("FloatConfig", FloatConfig().to_dict(), values)
        return FloatConfig.from_dict(values)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{source}: the configuration in its metadata cannot be used: {error}. Pass a config, "
            "or fetch the file from its publisher"
        ) from error


def read_wav2vec2_shape(folder: Path, base: Wav2Vec2Shape) -> Wav2Vec2Shape:
    """Return the shape that the `config.json` of a wav2vec2 folder tells, else `base`.

    Args:
        folder: A folder in Hugging Face format.
        base: Values for what the file does not tell.

    Raises:
        CheckpointError: The file is no JSON, or a value in it is wrong.
    """
    file = folder / "config.json"
    if not file.is_file():
        return base
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(told, dict):
            raise ValueError(f"expected names and values, got {type(told).__name__}")
        values = {ours: told[name] for name, ours in _HUGGING_FACE_NAMES.items() if name in told}
        _check_types("Wav2Vec2Shape", asdict(base), values)
        return replace(base, **values)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{file} cannot be used: {error}. Fetch it again, or remove it to go by the released "
            "network's values"
        ) from error


def _check_types(owner: str, defaults: Mapping[str, Any], values: object) -> None:
    """Require JSON values of the defaults' types, which `FloatConfig` takes for granted."""
    if not isinstance(values, dict):
        raise ValueError(f"{owner} must be names and values, got {values!r}")
    for name, value in values.items():
        default = defaults.get(name)
        if isinstance(default, dict):
            _check_types(f"{owner}.{name}", default, value)
        elif default is not None and not _same_kind(default, value):
            kind = {bool: "true or false", int: "a whole number", float: "a number"}
            expected = kind.get(type(default), "a text" if isinstance(default, str) else "a list")
            raise ValueError(f"{owner}.{name} must be {expected}, got {value!r}")


def _same_kind(default: object, value: object) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, float):
        return isinstance(value, int | float)
    if isinstance(default, tuple):
        return isinstance(value, list | tuple)
    return isinstance(value, type(default))


def infer_config(shapes: Shapes, base: FloatConfig, source: str = "the state dict") -> FloatConfig:
    """Return the configuration of a model from the shapes of its weights.

    Every width is read off the shapes. What they cannot tell comes from `base`: attention heads,
    the extractors' strides, where wav2vec2 normalises, how the transformer's frames split into
    context and window, how far its attention reaches, and the frame rate.

    Args:
        shapes: Shape of each weight by its key in the one-file layout.
        base: Values for what shapes cannot tell; also the emotion network's shape where no weights
            of it are given.
        source: Name of the weights for messages.

    Raises:
        CheckpointError: A key that the widths are read off is missing or has another number of
            axes, or the shapes disagree with `base`.
    """
    found = _Shapes(shapes, source)
    try:
        return replace(
            base,
            **_autoencoder_widths(found),
            speech_dim=found.size("audio_encoder.audio_projection.0.weight", 0, axes=2),
            transformer=_transformer(found, base.transformer),
            speech=_wav2vec2(found, _SPEECH, base.speech),
            emotion=_wav2vec2(found, _EMOTION, base.emotion)
            if any(key.startswith(_EMOTION) for key in shapes)
            else base.emotion,
        )
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(
            f"{source}: the weights' shapes do not fit the rest of the configuration: {error}. "
            "Shapes cannot tell heads, strides, window, context and frame rate: pass a config "
            "that does"
        ) from error


class _Shapes:
    """Shapes by key, with messages for what is not there."""

    def __init__(self, shapes: Shapes, source: str) -> None:
        self._shapes = shapes
        self.source = source

    def size(self, key: str, axis: int, axes: int) -> int:
        """Return the length of one axis of a weight that must have `axes` of them."""
        shape = self._shapes.get(key)
        if shape is None:
            raise CheckpointError(
                f"{self.source}: expected a weight named {key}, found none among "
                f"{len(self._shapes)}; the names most resemble {resembling(self._shapes)}. Fetch "
                "the file again, or choose weights of FLOAT"
            )
        if len(shape) != axes:
            raise CheckpointError(
                f"{self.source}: expected {key} with {axes} axes, got shape {tuple(shape)}"
            )
        return int(shape[axis])

    def has(self, key: str) -> bool:
        """Return whether there is a weight of this name."""
        return key in self._shapes

    def count(self, prefix: str) -> int:
        """Return how many layers there are: keys start with `prefix` and the layer's number."""
        pattern = re.compile(re.escape(prefix) + r"(\d{1,4})\.")
        numbers = [int(found.group(1)) for key in self._shapes if (found := pattern.match(key))]
        return max(numbers, default=-1) + 1


def _autoencoder_widths(shapes: _Shapes) -> dict[str, Any]:
    """Return image size, channels, latent width and basis size."""
    blocks = max(shapes.count(_ENCODER) - 2, 0)  # between the 1x1 and the 4x4 convolution
    last = f"{_ENCODER}{blocks + 1}.weight"
    channels = [
        shapes.size(f"{_ENCODER}{i}.conv2.1.weight", 0, axes=4) for i in range(blocks, 0, -1)
    ]
    return {
        "image_size": 2 ** (blocks + 2),
        "channels": (*channels, shapes.size(f"{_ENCODER}0.0.weight", 0, axes=4)),
        "latent_dim": shapes.size(last, 0, axes=4),
        "motion_dim": shapes.size("motion_autoencoder.dec.direction.weight", 1, axes=2),
    }


def _transformer(shapes: _Shapes, base: TransformerConfig) -> TransformerConfig:
    """Return the flow matching transformer's shape."""
    hidden = shapes.size("fmt.x_embedder.proj.weight", 0, axes=2)
    frames = shapes.size("fmt.pos_embed", 1, axes=3)
    if frames != base.total_frames:
        raise CheckpointError(
            f"{shapes.source}: expected fmt.pos_embed for {base.total_frames} frames "
            f"({base.context_frames} of context and {base.window_frames} of window), got {frames}; "
            "pass a config with the window and context the weights were trained with"
        )
    return replace(
        base,
        hidden=hidden,
        depth=shapes.count("fmt.blocks."),
        mlp_ratio=shapes.size("fmt.blocks.0.mlp.fc1.weight", 0, axes=2) / max(hidden, 1),
    )


def _wav2vec2(shapes: _Shapes, prefix: str, base: Wav2Vec2Shape) -> Wav2Vec2Shape:
    """Return the shape of the wav2vec2 whose keys start with `prefix`."""
    extractor = f"{prefix}feature_extractor.conv_layers."
    convolutions = range(shapes.count(extractor))
    hidden = shapes.size(f"{prefix}feature_projection.projection.weight", 0, axes=2)
    positional = _positional_key(shapes, prefix)
    return replace(
        base,
        hidden=hidden,
        layers=shapes.count(f"{prefix}encoder.layers."),
        intermediate=shapes.size(
            f"{prefix}encoder.layers.0.feed_forward.intermediate_dense.weight", 0, axes=2
        ),
        conv_dim=tuple(shapes.size(f"{extractor}{i}.conv.weight", 0, axes=3) for i in convolutions),
        conv_kernel=tuple(
            shapes.size(f"{extractor}{i}.conv.weight", 2, axes=3) for i in convolutions
        ),
        conv_bias=shapes.has(f"{extractor}0.conv.bias"),
        extractor_norm="layer" if shapes.has(f"{extractor}1.layer_norm.weight") else "group",
        pos_conv_width=shapes.size(positional, 2, axes=3),
        pos_conv_groups=hidden // max(1, shapes.size(positional, 1, axes=3)),
    )


def _positional_key(shapes: _Shapes, prefix: str) -> str:
    """Return the key of the positional convolution's weight, whichever way it is named."""
    keys = [f"{prefix}encoder.pos_conv_embed.conv.{name}" for name in _POSITIONAL_NAMES]
    return next(filter(shapes.has, keys), keys[0])
