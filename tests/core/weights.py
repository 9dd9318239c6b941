"""Synthetic checkpoints of any size in every released layout.

The keys and shapes are written down here a second time, independently of the networks and of
`float_core.checkpoint_layouts`; a test compares them with `keys.txt`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch
from parity import synthetic
from parity.model import GOLDEN, config_of
from safetensors.torch import save_file
from torch import Tensor

from float_core.config import FloatConfig, TransformerConfig, Wav2Vec2Shape

State = dict[str, Tensor]
Shapes = dict[str, tuple[int, ...]]

SPEECH_FOLDER = "wav2vec2-base-960h"
EMOTION_FOLDER = "wav2vec-english-speech-emotion-recognition"
EMOTION_PREFIX = "emotion_encoder.wav2vec2_for_emotion."

TINY = config_of(json.loads(np.load(GOLDEN / "tiny.npz")["meta"].tobytes())["config"])
"""The preset of the tiny golden file."""

SMALL = FloatConfig(
    image_size=16,
    latent_dim=24,
    motion_dim=5,
    speech_dim=20,
    fps=20,
    channels=(12, 10, 8),
    transformer=TransformerConfig(
        hidden=32,
        depth=3,
        heads=2,
        mlp_ratio=2.5,
        window_frames=12,
        context_frames=4,
        attention_radius=1,
    ),
    speech=Wav2Vec2Shape(
        hidden=24,
        layers=2,
        heads=3,
        intermediate=40,
        conv_dim=(8, 12, 16),
        conv_kernel=(10, 4, 3),
        conv_stride=(5, 4, 2),
        pos_conv_width=6,
        pos_conv_groups=4,
    ),
    emotion=Wav2Vec2Shape(
        hidden=18,
        layers=3,
        heads=2,
        intermediate=22,
        conv_dim=(8, 8),
        conv_kernel=(9, 5),
        conv_stride=(8, 5),
        pos_conv_width=4,
        pos_conv_groups=3,
        extractor_norm="layer",
        stable_layer_norm=True,
        conv_bias=True,
    ),
)
"""Smaller than any golden file, and unlike the released model in every number."""


def keys_file() -> dict[str, tuple[tuple[int, ...], str]]:
    """Return shape and dtype of every key of the released model."""
    lines = (GOLDEN / "keys.txt").read_text().splitlines()
    rows = (line.split() for line in lines)
    return {key: (tuple(map(int, shape.split("x"))), dtype) for key, shape, dtype in rows}


def layout_shapes(config: FloatConfig) -> Shapes:
    """Return the shape of every key of the one-file layout for a model of any size."""
    return {
        **_under("motion_autoencoder.enc.", _encoder(config)),
        **_under("motion_autoencoder.dec.", _decoder(config)),
        **_under("audio_encoder.wav2vec2.", _wav2vec2(config.speech)),
        **_under("audio_encoder.audio_projection.", _projection(config)),
        **_under(f"{EMOTION_PREFIX}wav2vec2.", _wav2vec2(config.emotion)),
        **_under(f"{EMOTION_PREFIX}classifier.", _classifier(config.emotion.hidden)),
        **_under("fmt.", _transformer(config)),
    }


def _under(prefix: str, shapes: Shapes) -> Shapes:
    return {prefix + key: shape for key, shape in shapes.items()}


def _linear(name: str, out: int, inner: int) -> Shapes:
    return {f"{name}.weight": (out, inner), f"{name}.bias": (out,)}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _encoder(config: FloatConfig) -> Shapes:
    w, channels = config.latent_dim, config.channels[::-1]
    shapes: Shapes = {"net_app.convs.0.0.weight": (channels[0], 3, 1, 1)}
    shapes["net_app.convs.0.1.bias"] = (1, channels[0], 1, 1)
    for i, (inner, out) in enumerate(itertools.pairwise(channels), start=1):
        block: Shapes = {
            "conv1.0.weight": (inner, inner, 3, 3),
            "conv1.1.bias": (1, inner, 1, 1),
            "conv2.0.kernel": (4, 4),
            "conv2.1.weight": (out, inner, 3, 3),
            "conv2.2.bias": (1, out, 1, 1),
            "skip.0.kernel": (4, 4),
            "skip.1.weight": (out, inner, 1, 1),
        }
        shapes.update(_under(f"net_app.convs.{i}.", block))
    shapes[f"net_app.convs.{len(channels)}.weight"] = (w, channels[-1], 4, 4)
    for i in range(5):
        shapes.update(_linear(f"fc.{i}", w if i < 4 else config.motion_dim, w))
    return shapes


def _decoder(config: FloatConfig) -> Shapes:
    w, channels = config.latent_dim, config.channels
    shapes: Shapes = {
        "direction.weight": (w, config.motion_dim),
        "input.input": (1, channels[0], 4, 4),
        **_under("conv1.", _styled(channels[0], channels[0], w)),
        **_under("to_rgb1.", _to_rgb(channels[0])),
    }
    for i, (inner, out) in enumerate(itertools.pairwise(channels)):
        shapes.update(_under(f"convs.{2 * i}.", _styled(inner, out, w)))
        shapes[f"convs.{2 * i}.conv.blur.kernel"] = (4, 4)
        shapes.update(_under(f"convs.{2 * i + 1}.", _styled(out, out, w)))
        shapes.update(_under(f"to_rgbs.{i}.", {**_to_rgb(out), "upsample.kernel": (4, 4)}))
        flow: Shapes = {
            "bias": (1, 3, 1, 1),
            "conv.weight": (1, 3, out, 1, 1),
            **_linear("conv.modulation", out, w),
            "upsample.kernel": (4, 4),
        }
        shapes.update(_under(f"to_flows.{i}.", flow))
    return shapes


def _styled(inner: int, out: int, latent_dim: int) -> Shapes:
    return {
        "activate.bias": (1, out, 1, 1),
        "conv.weight": (1, out, inner, 3, 3),
        **_linear("conv.modulation", inner, latent_dim),
        "noise.weight": (1,),
    }


def _to_rgb(inner: int) -> Shapes:
    return {
        "bias": (1, 3, 1, 1),
        "conv.0.weight": (3, inner, 1, 1),
        "conv.1.bias": (1, 3, 1, 1),
    }


def _wav2vec2(shape: Wav2Vec2Shape) -> Shapes:
    hidden, dims = shape.hidden, shape.conv_dim
    convolution = "encoder.pos_conv_embed.conv"
    shapes: Shapes = {
        "masked_spec_embed": (hidden,),
        **_norm("feature_projection.layer_norm", dims[-1]),
        **_linear("feature_projection.projection", hidden, dims[-1]),
        **_norm("encoder.layer_norm", hidden),
        f"{convolution}.bias": (hidden,),
        f"{convolution}.parametrizations.weight.original0": (1, 1, shape.pos_conv_width),
        f"{convolution}.parametrizations.weight.original1": (
            hidden,
            hidden // shape.pos_conv_groups,
            shape.pos_conv_width,
        ),
    }
    for i, (out, kernel) in enumerate(zip(dims, shape.conv_kernel, strict=True)):
        name = f"feature_extractor.conv_layers.{i}"
        shapes[f"{name}.conv.weight"] = (out, dims[i - 1] if i else 1, kernel)
        if shape.conv_bias:
            shapes[f"{name}.conv.bias"] = (out,)
        if shape.extractor_norm == "layer" or i == 0:
            shapes.update(_norm(f"{name}.layer_norm", out))
    for i in range(shape.layers):
        shapes.update(_under(f"encoder.layers.{i}.", _wav2vec2_layer(hidden, shape.intermediate)))
    return shapes


def _wav2vec2_layer(hidden: int, intermediate: int) -> Shapes:
    shapes: Shapes = {}
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        shapes.update(_linear(f"attention.{name}", hidden, hidden))
    shapes.update(_linear("feed_forward.intermediate_dense", intermediate, hidden))
    shapes.update(_linear("feed_forward.output_dense", hidden, intermediate))
    return {**shapes, **_norm("layer_norm", hidden), **_norm("final_layer_norm", hidden)}


def _projection(config: FloatConfig) -> Shapes:
    width = config.speech.hidden * config.speech.layers
    return {**_linear("0", config.speech_dim, width), **_norm("1", config.speech_dim)}


def _classifier(hidden: int) -> Shapes:
    return {**_linear("dense", hidden, hidden), **_linear("out_proj", 7, hidden)}


def _transformer(config: FloatConfig) -> Shapes:
    shape, w = config.transformer, config.latent_dim
    hidden, frames = shape.hidden, shape.total_frames
    shapes: Shapes = {
        "pos_embed": (1, frames, hidden),
        "alignment_mask": (frames, frames),
        **_linear("x_embedder.proj", hidden, w),
        **_linear("c_embedder", hidden, w + config.speech_dim + 7),
        **_linear("t_embedder.mlp.0", hidden, 256),
        **_linear("t_embedder.mlp.2", hidden, hidden),
        **_linear("decoder.adaLN_modulation.1", 2 * hidden, hidden),
        **_linear("decoder.linear", w, hidden),
    }
    for i in range(shape.depth):
        block = {
            **_linear("adaLN_modulation.1", 6 * hidden, hidden),
            **_linear("attn.qkv", 3 * hidden, hidden),
            **_linear("attn.proj", hidden, hidden),
            **_linear("mlp.fc1", shape.mlp_hidden, hidden),
            **_linear("mlp.fc2", hidden, shape.mlp_hidden),
        }
        shapes.update(_under(f"blocks.{i}.", block))
    return shapes


@cache
def _tensors(config: FloatConfig) -> State:
    return {key: _tensor(key, shape, config) for key, shape in layout_shapes(config).items()}


def synthetic_state_dict(config: FloatConfig) -> State:
    """Return a whole checkpoint in the one-file layout's keys; do not write to its tensors."""
    return dict(_tensors(config))


def _tensor(key: str, shape: tuple[int, ...], config: FloatConfig) -> Tensor:
    if key.endswith("kernel"):
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        gain = 4 if "upsample" in key or "blur" in key else 1
        return torch.outer(taps, taps) / 64 * gain
    if key.endswith("alignment_mask"):
        frames = torch.arange(shape[0])
        return (frames[:, None] - frames).abs() > config.transformer.attention_radius
    if key.endswith("pos_embed"):
        return _position_table(shape[1], shape[2])
    return torch.from_numpy(synthetic.weight(key, shape))


def _position_table(frames: int, width: int) -> Tensor:
    frame = torch.arange(frames, dtype=torch.float64)[:, None]
    angle = frame / 10000 ** (torch.arange(0, width, 2, dtype=torch.float64) / width)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).reshape(1, frames, width).float()


def old_names(state: Mapping[str, Tensor]) -> State:
    """Return the tensors with the weight norms named as older libraries name them."""
    start = "parametrizations.weight.original"
    return {
        key.replace(f"{start}0", "weight_g").replace(f"{start}1", "weight_v"): tensor
        for key, tensor in state.items()
    }


def save(
    state: Mapping[str, Tensor],
    path: Path,
    *,
    zipped: bool = True,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write tensors as safetensors or by `torch.save`, by the suffix, and return the file.

    Args:
        state: Tensors by stored name.
        path: The file; its folder is made.
        zipped: False for a pickle as torch wrote them before 1.6.
        metadata: Texts for a safetensors file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(dict(state), path, metadata=dict(metadata) if metadata else None)
    else:
        torch.save(dict(state), path, _use_new_zipfile_serialization=zipped)
    return path


def save_one_file(state: State, folder: Path, **options: object) -> Path:
    """Write the one-file layout and return the file."""
    return save(state, folder / "FLOAT.safetensors", **options)  # type: ignore[arg-type]


def save_wav2vec2_folders(
    state: State, folder: Path, suffix: str = ".bin", **options: object
) -> None:
    """Write the folders of the speech and the emotion network, the first with its recogniser."""
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    speech = _below("audio_encoder.", state, "audio_encoder.wav2vec2.")
    speech |= {"lm_head.weight": torch.ones(32, 4), "lm_head.bias": torch.ones(32)}
    save(speech, folder / SPEECH_FOLDER / (stem + suffix), **options)  # type: ignore[arg-type]
    emotion = _below(EMOTION_PREFIX, state)
    if emotion:
        save(emotion, folder / EMOTION_FOLDER / (stem + suffix), **options)  # type: ignore[arg-type]


def save_published(state: State, folder: Path, *, suffix: str = ".pth", **options: object) -> Path:
    """Write the published layout and return the folder."""
    own = ("audio_encoder.wav2vec2.", EMOTION_PREFIX)
    main = {key: tensor for key, tensor in state.items() if not key.startswith(own)}
    save(main, folder / f"float{suffix}", **options)  # type: ignore[arg-type]
    save_wav2vec2_folders(state, folder, ".bin" if suffix == ".pth" else suffix, **options)
    return folder


def save_parts(state: State, folder: Path, **options: object) -> Path:
    """Write the parts layout and return the folder."""
    parts = {
        "motion_autoencoder/encoder": "motion_autoencoder.enc.",
        "motion_autoencoder/decoder": "motion_autoencoder.dec.",
        "audio_projections/projection": "audio_encoder.audio_projection.",
        "fmt/fmt": "fmt.",
    }
    for name, prefix in parts.items():
        save(_below(prefix, state), folder / f"{name}.safetensors", **options)  # type: ignore[arg-type]
    save_wav2vec2_folders(state, folder, ".safetensors", **options)
    return folder


def _below(prefix: str, state: State, only: str = "") -> State:
    start = only or prefix
    return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(start)}


LAYOUTS: dict[str, Callable[[State, Path], Path]] = {
    "one file": save_one_file,
    "published": save_published,
    "parts": save_parts,
}
"""Each layout's name and what writes it."""
