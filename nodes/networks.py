"""FLOAT_MODEL: a pipeline whose networks ComfyUI loads and evicts, one by one and each whole."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management as management
import torch
from comfy.model_patcher import ModelPatcher
from torch import nn

from ..float_core.config import Wav2Vec2Shape
from ..float_core.pipeline import FloatPipeline
from ..float_core.precision import choose_dtype

_AUTO = "auto"
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
PRECISIONS = (_AUTO, *_DTYPES)

_FLOAT_BYTES = 4


def run_dtype(precision: str) -> torch.dtype:
    """Return the precision that the networks run in; "auto" is the best one for the device.

    Raises:
        ValueError: The name is none of `PRECISIONS`.
    """
    if precision == _AUTO:
        return choose_dtype(management.get_torch_device())
    if precision not in _DTYPES:
        raise ValueError(f"Expected a precision of {', '.join(PRECISIONS)}, got {precision!r}.")
    return _DTYPES[precision]


class WholeModelPatcher(ModelPatcher):
    """A patcher that moves its network as a whole.

    ComfyUI's own layers cast their weights as they go and may lie half here, half there. Ours do
    not: under `--lowvram` and `--novram`, or where another model needs room, a network is wholly
    on the load device or wholly off it.
    """

    def load(self, *args: Any, **kwargs: Any) -> Any:
        """Load everything, whatever budget ComfyUI proposes."""
        names = ("device_to", "lowvram_model_memory", "force_patch_weights", "full_load")
        kwargs.update(zip(names, args, strict=False))
        kwargs.update(lowvram_model_memory=0, full_load=True)
        return super().load(**kwargs)

    def partially_unload(self, *_args: Any, **_kwargs: Any) -> int:
        """Free nothing in part: ComfyUI then unloads the network as a whole."""
        return 0


@dataclass(slots=True)
class FloatModel:
    """What the FLOAT_MODEL wire carries.

    Attributes:
        pipeline: The networks; they lie where ComfyUI last put them.
    """

    pipeline: FloatPipeline
    _patchers: dict[str, WholeModelPatcher] = field(default_factory=dict)

    def load(self, name: str, working_bytes: int = 0) -> FloatPipeline:
        """Bring one network to the compute device and return the pipeline.

        Args:
            name: The pipeline's attribute that holds it; the emotion network is read from its
                file when it is first named here.
            working_bytes: Memory that the stage needs beside the weights, in bytes.
        """
        management.load_models_gpu([self._patcher(name)], memory_required=working_bytes)
        return self.pipeline

    def load_together(self, names: Iterable[str], working_bytes: int = 0) -> FloatPipeline:
        """Bring several networks to the compute device at once and return the pipeline.

        Args:
            names: As for `load`.
            working_bytes: As for `load`.
        """
        patchers = [self._patcher(name) for name in names]
        management.load_models_gpu(patchers, memory_required=working_bytes)
        return self.pipeline

    def _patcher(self, name: str) -> WholeModelPatcher:
        network = getattr(self.pipeline, name)
        patcher = self._patchers.get(name)
        if patcher is None or patcher.model.network is not network:
            patcher = self._patchers[name] = WholeModelPatcher(
                _housed(network),
                load_device=management.get_torch_device(),
                offload_device=management.unet_offload_device(),
            )
        return patcher


def _housed(network: nn.Module) -> nn.Module:
    """Put a network into a module of its own, which bears its name in ComfyUI's log.

    ComfyUI keeps its books in attributes of the module it loads, `device` among them; those are
    then no attributes of the network.
    """
    house = type(type(network).__name__, (nn.Module,), {})()
    house.network = network
    return house


def sound_bytes(shape: Wav2Vec2Shape, samples: int) -> int:
    """Estimate what a wav2vec2 needs for `samples` samples, in bytes.

    Args:
        shape: The network's shape.
        samples: Length of the 16 kHz waveform times the batch, in samples.
    """
    features = samples // shape.conv_stride[0]
    return 3 * features * shape.conv_dim[0] * _FLOAT_BYTES
