"""Load the networks."""

from __future__ import annotations

from inspect import signature
from pathlib import Path

from comfy.model_management import unet_offload_device
from comfy_api.latest import io

from ..float_core.hub import download_weights
from ..float_core.pipeline import FloatPipeline
from .folders import (
    download_folder,
    search_folders,
    weights_fingerprint,
    weights_options,
    weights_path,
)
from .networks import PRECISIONS, FloatModel, run_dtype
from .progress import NodeProgress
from .sockets import ModelSocket, float_schema


class FLOATLoadModel(io.ComfyNode):
    """Weights to FLOAT_MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Declare inputs and outputs; the list of weights is read anew each time."""
        return float_schema(
            "FLOATLoadModel",
            "Load Model",
            aliases=("talking head", "talking portrait", "checkpoint loader"),
            description=(
                "Loads FLOAT's networks from models/float or models/audio, extra model paths "
                "included. ComfyUI moves each network to the GPU when a stage needs it and off it "
                "when something else needs the room."
            ),
            inputs=[
                io.Combo.Input(
                    "weights",
                    options=weights_options(),
                    tooltip=(
                        "A file or folder of weights found in models/float or models/audio, the "
                        "demo model where it is installed, or download: FLOAT.safetensors, "
                        "2.5 GB, from Hugging Face into models/float, not for commercial use."
                    ),
                ),
                io.Combo.Input(
                    "precision",
                    options=list(PRECISIONS),
                    default=PRECISIONS[0],
                    tooltip=(
                        "What the networks compute in. auto is the fastest that keeps the quality "
                        "on this device; fp32 is exact; fp16 and bf16 take about half the memory."
                    ),
                ),
                _compile_input(),
            ],
            outputs=[
                ModelSocket.Output(
                    display_name="model", tooltip="The networks, for every other node of FLOAT."
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, weights: str | None) -> bool | str:
        """Refuse a name that is not listed, before anything runs; None stands for a wire."""
        try:
            return weights is None or weights_path(weights) is None or True
        except FileNotFoundError as error:
            return str(error)

    @classmethod
    def fingerprint_inputs(cls, weights: str, precision: str, compile: bool = False) -> str:
        """Return what changes when a weight file does, so that it is then loaded again."""
        return f"{precision}\n{compile}\n{weights_fingerprint(weights)}"

    @classmethod
    def execute(cls, weights: str, precision: str, compile: bool = False) -> io.NodeOutput:
        """Load the weights, fetching them first where that was chosen."""
        path = weights_path(weights) or _download()
        pipeline = FloatPipeline.from_checkpoint(
            path,
            device=unet_offload_device(),
            dtype=run_dtype(precision),
            search=search_folders(),
        )
        if compile:
            pipeline.compile_decoder()
        return io.NodeOutput(FloatModel(pipeline))


def _compile_input() -> io.Input:
    """Return the choice to compile, folded away where ComfyUI knows advanced inputs."""
    known = signature(io.Boolean.Input).parameters
    folded = {"advanced": True} if "advanced" in known else {}
    return io.Boolean.Input(
        "compile",
        default=False,
        optional=True,
        tooltip=(
            "Compile the decoder with torch.compile. The first frames then wait, often for "
            "minutes, and a C++ compiler is needed, on a GPU Triton; where it fails the decoder "
            "runs as without. On a CPU it gains hardly anything; on a GPU try whether it does."
        ),
        **folded,
    )


def _download() -> Path:
    return download_weights(download_folder(), on_progress=NodeProgress().span())
