"""Nodes and routes that only the tests use: odd inputs, a look at results, a timed Cancel."""

from __future__ import annotations

import json

import comfy.model_management
import comfy.utils
import torch
from aiohttp import web
from server import PromptServer

import nodes


class _AnyType(str):
    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = str.__hash__


class TestSound:
    """A voice-like sound of any rate, length and number of channels; 0 seconds is an empty one."""

    RETURN_TYPES = ("AUDIO",)
    FUNCTION = "make"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {
            "required": {
                "seconds": ("FLOAT", {"default": 1.0}),
                "sample_rate": ("INT", {"default": 16000, "max": 192000}),
                "channels": ("INT", {"default": 1}),
                "batch": ("INT", {"default": 1}),
                "pitch": ("FLOAT", {"default": 120.0}),
            }
        }

    def make(
        self, seconds: float, sample_rate: int, channels: int, batch: int, pitch: float
    ) -> tuple:
        time = torch.arange(round(seconds * sample_rate)) / sample_rate
        beat = 0.5 - 0.5 * torch.cos(2 * torch.pi * 3 * time)
        tracks = [
            0.2 * beat * torch.sin(2 * torch.pi * (pitch + 20 * item) * time)
            for item in range(batch)
        ]
        waveform = torch.stack(tracks)[:, None].expand(-1, channels, -1).contiguous()
        return ({"waveform": waveform, "sample_rate": sample_rate},)


class TestPicture:
    """A smooth picture of any size, number of channels and batch."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "make"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {
            "required": {
                "width": ("INT", {"default": 64, "max": 20000}),
                "height": ("INT", {"default": 64, "max": 20000}),
                "channels": ("INT", {"default": 3}),
                "batch": ("INT", {"default": 1}),
                "phase": ("FLOAT", {"default": 0.0}),
            }
        }

    def make(self, width: int, height: int, channels: int, batch: int, phase: float) -> tuple:
        y = torch.linspace(0, 3, height)[:, None, None]
        x = torch.linspace(0, 3, width)[None, :, None]
        shift = torch.arange(channels)[None, None, :]
        pictures = [torch.sin(x + y + shift + phase + item) / 2 + 0.5 for item in range(batch)]
        return (torch.stack(pictures),)


class TestReport:
    """Shows what came in as JSON; one entry for each item of a list."""

    RETURN_TYPES = ()
    FUNCTION = "report"
    CATEGORY = "test"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {"required": {"value": (_AnyType("*"),)}}

    def report(self, value: object) -> dict:
        return {"ui": {"report": [json.dumps(_describe(value))]}}


def _describe(value: object) -> object:
    if isinstance(value, torch.Tensor):
        figures = value.float()
        return {
            "shape": list(value.shape),
            "mean": figures.mean().item(),
            "spread": figures.std().item(),
            "least": figures.min().item(),
            "most": figures.max().item(),
        }
    if isinstance(value, dict):
        return {key: _describe(item) for key, item in value.items()}
    if hasattr(value, "__dataclass_fields__"):
        return {key: _describe(getattr(value, key)) for key in value.__dataclass_fields__}
    if isinstance(value, (list, tuple)):
        return [_describe(item) for item in value]
    if isinstance(value, (int, float, str)):
        return value
    return type(value).__name__


class _Cancel:
    """Presses Cancel when the running node reports progress for the nth time."""

    after: int | None = None
    updates = 0


_update = comfy.utils.ProgressBar.update_absolute


def _counted_update(self: comfy.utils.ProgressBar, *args: object, **kwargs: object) -> None:
    _Cancel.updates += 1
    if _Cancel.after is not None and _Cancel.updates == _Cancel.after:
        nodes.interrupt_processing()
    _update(self, *args, **kwargs)


comfy.utils.ProgressBar.update_absolute = _counted_update


@PromptServer.instance.routes.post("/float_test/cancel_after")
async def cancel_after(request: web.Request) -> web.Response:
    """Count progress from now on and cancel at the given report; null only counts."""
    _Cancel.after = (await request.json())["updates"]
    _Cancel.updates = 0
    return web.json_response({})


@PromptServer.instance.routes.get("/float_test/state")
async def state(_: web.Request) -> web.Response:
    """Return the reports of progress so far and the names of the networks that are loaded."""
    loaded = [type(model.model).__name__ for model in comfy.model_management.loaded_models()]
    return web.json_response({"updates": _Cancel.updates, "loaded": loaded})


NODE_CLASS_MAPPINGS = {
    "TestSound": TestSound,
    "TestPicture": TestPicture,
    "TestReport": TestReport,
}
