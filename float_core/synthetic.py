"""Synthetic weights, a pure function of a checkpoint key and a shape.

Every tensor is filled from a counter-based hash (SplitMix64) of its key, so that two programs that
agree on the keys hold the same weights without exchanging a file. Pictures made with them mean
nothing; they are for tests, benchmarks and a first run without downloads.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterable, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from .checkpoint_layouts import NETWORK_PREFIXES, NetworkName, canonical_key
from .config import FloatConfig
from .modules.flow_transformer import position_table

_GAMMA = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def unit_noise(name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Return noise, uniform with mean 0 and variance 1, keyed by a name.

    Args:
        name: Key of the noise.
        shape: Shape of the result.
    """
    count = math.prod(shape)
    with np.errstate(over="ignore"):
        z = np.arange(1, count + 1, dtype=np.uint64)
        z *= np.uint64(_GAMMA)
        z += np.uint64((zlib.crc32(name.encode()) * _GAMMA) & _MASK)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    uniform = (z >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
    noise: npt.NDArray[np.float32] = (2 * uniform - 1) * np.float32(math.sqrt(3))
    return noise.reshape(shape)


def weight(key: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Return the synthetic weight of a checkpoint key.

    The rules keep activations near unit scale and warps to a few pixels. Fixed tensors (blur
    kernels, masks, the position table) have no synthetic form.

    Args:
        key: Key in the one-file layout.
        shape: Shape of the tensor.
    """
    mean, gain, divisor = _scales(key, shape)
    # Division and product stay apart: together they would round differently.
    values = np.float32(gain) * (unit_noise(key, shape) / np.float32(divisor))
    result: npt.NDArray[np.float32] = values + np.float32(mean) if mean else values
    return result


def _scales(key: str, shape: tuple[int, ...]) -> tuple[float, float, float]:
    """Return mean, gain and divisor of a key's noise."""
    leaf = key.rsplit(".", 1)[-1]
    if key.endswith("modulation.bias") and "adaLN" not in key:
        return 1, 0.1, 1
    if key.endswith(("norm.weight", "audio_projection.1.weight", "original0")):
        return 1, 0.1, 1
    if leaf in ("bias", "masked_spec_embed") or key.endswith("noise.weight"):
        return 0, 0.1, 1
    if ".to_flows." in key and key.endswith(".conv.weight"):
        return 0, 0.05, 1
    if key.startswith("motion_autoencoder."):
        return 0, 1, 1  # equalised learning rate: the layer itself scales by fan-in
    return 0, 0.5 if "adaLN_modulation" in key else 1, math.sqrt(math.prod(shape[1:]))


def synthetic_weights(
    config: FloatConfig,
    networks: Mapping[NetworkName, Callable[[FloatConfig], nn.Module]],
    leave_out: Iterable[NetworkName] = (),
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, Tensor]:
    """Return synthetic weights under the keys of the one-file layout, float32.

    Args:
        config: Shape of the model.
        networks: What builds each network, `pipeline.NETWORKS`.
        leave_out: Networks to make no weights for.
        on_progress: Called with the tensors made and their number.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for name, build in networks.items():
        if name not in leave_out:
            with torch.device("meta"):
                expected = build(config).state_dict()
            prefix = NETWORK_PREFIXES[name]
            shapes |= {canonical_key(prefix + k): tuple(v.shape) for k, v in expected.items()}
    state: dict[str, Tensor] = {}
    for key, shape in shapes.items():
        if key.endswith("pos_embed"):
            state[key] = position_table(*shape[1:])
        else:
            state[key] = torch.from_numpy(weight(key, shape))
        if on_progress is not None:
            on_progress(len(state), len(shapes))
    return state
