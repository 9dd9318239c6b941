"""Precision: which one a device runs fastest at the stated quality, and networks made for it.

Quality, on the golden motions of full size: half-precision frames within 40 dB PSNR of float32's,
sampled motion within 1 % at guidance 2 / 1 and 3 % at 2 / 5. Measured: bfloat16 63 dB, 0.3 % and
0.4 %; float16 80 dB, 0.04 % and 0.05 %. Float16 is the more accurate one wherever its range is
enough; it is, as only products are in half precision and their factors are bounded.
"""

from __future__ import annotations

import torch
from torch import nn

from .modules.audio_encoder import AudioEncoder
from .modules.emotion_classifier import EmotionClassifier
from .modules.fast_decoder import FastMotionDecoder
from .modules.flow_transformer import FlowTransformer
from .modules.fused_linear import fuse_linears
from .modules.half_linear import HalfLinear, halve_linears
from .modules.motion_decoder import MotionDecoder

HALF_PRECISIONS = (torch.float16, torch.bfloat16)

TENSOR_CORES = (7, 0)
"""First CUDA capability with units for products in float16; older ones gain little or lose."""


def choose_dtype(device: torch.device | str) -> torch.dtype:
    """Return the fastest precision that keeps the stated quality on a device ("auto").

    Float16 on NVIDIA and AMD graphics cards with matrix units; bfloat16 on CPUs with instructions
    for it (AVX512_BF16, AMX), where float16 has none; float32 elsewhere, where no half precision
    has been measured to be faster.

    Args:
        device: Where the networks will run.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.float16 if _has_matrix_units(device) else torch.float32
    if device.type == "cpu" and _cpu_has_bfloat16():
        return torch.bfloat16
    return torch.float32


def _has_matrix_units(device: torch.device) -> bool:
    if torch.version.hip is not None:
        return True
    return torch.cuda.get_device_capability(device) >= TENSOR_CORES


def _cpu_has_bfloat16() -> bool:
    # Not in every release of torch; without an answer the CPU counts as one without.
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    checks = (getattr(torch.cpu, name, None) for name in names)
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available and any(check() for check in checks if check)


def apply_precision(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Make a network ready to run in a precision.

    In half precision only what takes the time is halved: the linear layers of the transformers,
    and the decoder but for styles, flows and colours (`modules.fast_decoder`). Whatever the
    precision, networks take and give float32 (float64 where that was asked for).
    On CPUs linear layers are oneDNN's (`modules.fused_linear`).

    Args:
        network: One of FLOAT's networks, filled with its weights; changed in place, or in the
            decoder's case replaced.
        dtype: float16, bfloat16, float32 or float64.

    Returns:
        The network to run.

    Raises:
        ValueError: The precision is none of these.
    """
    if dtype not in (*HALF_PRECISIONS, torch.float32, torch.float64):
        raise ValueError(f"Expected float16, bfloat16, float32 or float64, got {dtype}.")
    precise = torch.promote_types(dtype, torch.float32)
    if isinstance(network, MotionDecoder):
        return FastMotionDecoder(network.to(precise), dtype)
    if dtype in HALF_PRECISIONS:
        if isinstance(network, FlowTransformer):
            halve_linears(network.blocks, dtype)
        elif isinstance(network, AudioEncoder | EmotionClassifier):
            halve_linears(network.wav2vec2.encoder, dtype)
    fuse_linears(network)
    # After the halving: weights that are stored in half precision are not copied back and forth.
    for module in network.modules():
        if not isinstance(module, HalfLinear):
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                tensor.data = tensor.data.to(precise)
    return network
