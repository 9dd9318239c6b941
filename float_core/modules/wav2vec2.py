"""transformers' wav2vec2 taken apart: extractor, projection and encoder, called one by one.

FLOAT resamples the features between extractor and projection, which the stock model cannot do,
and reads every transformer layer. Works with transformers 4.40 and later, 5.x included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..config import Wav2Vec2Shape
from .blockwise_extractor import extract_in_blocks, suits_blocks

LayerCallback = Callable[[int, Tensor], None]
"""Called with a layer's index and its output, (batch, frames, hidden)."""


def build_wav2vec2(shape: Wav2Vec2Shape) -> Any:
    """Build a wav2vec2 network, a `transformers.Wav2Vec2Model`, without weights worth keeping.

    Args:
        shape: The network's shape.

    Raises:
        ImportError: transformers, or a library it imports, does not load.
    """
    config_class, model_class = _import_wav2vec2()
    config = config_class(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.intermediate,
        conv_dim=shape.conv_dim,
        conv_kernel=shape.conv_kernel,
        conv_stride=shape.conv_stride,
        num_feat_extract_layers=len(shape.conv_dim),
        num_conv_pos_embeddings=shape.pos_conv_width,
        num_conv_pos_embedding_groups=shape.pos_conv_groups,
        feat_extract_norm=shape.extractor_norm,
        do_stable_layer_norm=shape.stable_layer_norm,
        conv_bias=shape.conv_bias,
        hidden_act="gelu",
        feat_extract_activation="gelu",
        layer_norm_eps=1e-5,
        hidden_dropout=0.0,
        activation_dropout=0.0,
        attention_dropout=0.0,
        feat_proj_dropout=0.0,
        layerdrop=0.0,
        apply_spec_augment=False,
        mask_time_prob=0.0,
        # 4.40 knows no other attention for wav2vec2 than its own and refuses the choice.
        attn_implementation="sdpa" if getattr(model_class, "_supports_sdpa", False) else "eager",
    )
    return model_class(config)


def _import_wav2vec2() -> tuple[Any, Any]:
    try:
        from transformers import Wav2Vec2Config, Wav2Vec2Model
    except (ImportError, OSError, RuntimeError) as error:
        # transformers' wav2vec2 imports torchaudio where one is installed, even a broken one.
        raise ImportError(
            f"Speech needs transformers' wav2vec2, which does not load here ({error}). Install a "
            "matched set: `pip install -U transformers`, and a torchaudio of the same release as "
            "torch, such as `pip install torch==2.11.0 torchvision==0.26.0 torchaudio==2.11.0`; "
            "or remove a broken one with `pip uninstall torchaudio`."
        ) from error
    return Wav2Vec2Config, Wav2Vec2Model


@dataclass(frozen=True, slots=True, eq=False)
class WindowMoments:
    """First and second moments of a clip's windows under the extractor's first kernel.

    Attributes:
        mean: Mean of each sample of a window, (batch, kernel).
        square: Mean of the products of each two samples, (batch, kernel, kernel).
    """

    mean: Tensor
    square: Tensor


def extract_features(model: Any, waveform: Tensor, moments: WindowMoments | None = None) -> Tensor:
    """Run the convolutional extractor.

    Args:
        model: A network of `build_wav2vec2`.
        waveform: Normalised waveform at 16 kHz, (batch, samples).
        moments: Where the waveform is a piece of a clip, those of the whole clip: an extractor
            with a group norm then normalises by the clip instead of the piece.

    Returns:
        (batch, features, channels).
    """
    extractor = model.feature_extractor
    first = extractor.conv_layers[0]
    affine = None
    if moments is not None and isinstance(getattr(first, "layer_norm", None), nn.GroupNorm):
        affine = _affine_of_clip(first, moments)
    if suits_blocks(extractor, waveform):
        return extract_in_blocks(extractor, waveform, affine).transpose(1, 2)
    with _norm_replaced(first, affine):
        features: Tensor = extractor(waveform)
    return features.transpose(1, 2)


def _affine_of_clip(first: Any, moments: WindowMoments) -> tuple[Tensor, Tensor]:
    """Return scale and shift, (batch, channels, 1), of a group norm over a whole clip.

    The convolution before it is linear: its output's mean and variance over the clip follow from
    the moments of the clip's windows.
    """
    conv, norm = first.conv, first.layer_norm
    kernel = conv.weight[:, 0].to(moments.mean)  # (channels, kernel)
    mean = moments.mean @ kernel.T
    power = torch.einsum("ck,bkl,cl->bc", kernel, moments.square, kernel)
    deviation = torch.sqrt((power - mean.square()).clamp(min=0) + norm.eps)
    if conv.bias is not None:  # it moves the mean and leaves the deviation
        mean = mean + conv.bias.to(mean)
    scale = norm.weight / deviation
    shift = norm.bias - mean * scale
    return scale[..., None].to(conv.weight), shift[..., None].to(conv.weight)


@contextmanager
def _norm_replaced(first: Any, affine: tuple[Tensor, Tensor] | None) -> Iterator[None]:
    """Let the group norm of the first layer use a given scale and shift, if there are any."""
    if affine is None:
        yield
        return
    scale, shift = affine

    def normalise(_norm: nn.GroupNorm, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return torch.addcmul(shift, inputs[0], scale)
        # Into the memory of the norm's own result: fresh memory costs more than the arithmetic.
        return torch.addcmul(shift, inputs[0], scale, out=output)

    handle = first.layer_norm.register_forward_hook(normalise)
    try:
        yield
    finally:
        handle.remove()


def encode_features(model: Any, features: Tensor, on_layer: LayerCallback | None = None) -> Tensor:
    """Project features and run the transformer over them.

    Args:
        model: A network of `build_wav2vec2`.
        features: Extracted features, (batch, frames, channels).
        on_layer: Called after each transformer layer with its index and output.

    Returns:
        The encoder's output, (batch, frames, hidden).
    """
    hidden, _ = model.feature_projection(features)
    with _layer_hooks(model.encoder.layers, on_layer):
        output: Tensor = model.encoder(hidden)[0]
    return output


@contextmanager
def _layer_hooks(layers: nn.ModuleList, on_layer: LayerCallback | None) -> Iterator[None]:
    """Call `on_layer` after each layer; newer transformers return no hidden states from here."""
    if on_layer is None:
        yield
        return

    def hook_of(index: int) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            on_layer(index, output[0] if isinstance(output, tuple) else output)

        return hook

    handles = [layer.register_forward_hook(hook_of(i)) for i, layer in enumerate(layers)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
