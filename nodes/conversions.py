"""ComfyUI's IMAGE and AUDIO to the core's tensors and back.

IMAGE is `(batch, height, width, 3 or 4)` in [0, 1]; AUDIO is a dict of `waveform`, `(batch,
channels, samples)`, and `sample_rate`. Knows no ComfyUI module, only these shapes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from ..float_core.face import Colour, Picture
from ..float_core.portrait import frame_bytes

BLACK: Colour = (0, 0, 0)

_Value = TypeVar("_Value")


def waveform_of(audio: Any) -> tuple[Tensor, int]:
    """Take an AUDIO apart.

    Args:
        audio: A mapping of `waveform`, `(batch, channels, samples)`, and `sample_rate`.

    Returns:
        The waveform in float32 on the CPU, and its rate in Hz.

    Raises:
        ValueError: It is no AUDIO or holds no sound.
    """
    waveform = audio.get("waveform") if isinstance(audio, Mapping) else None
    if not isinstance(waveform, Tensor) or waveform.ndim != 3:
        came = type(audio).__name__ if waveform is None else f"shape {_shape(waveform)}"
        raise ValueError(
            f"Expected AUDIO with a waveform (batch, channels, samples), got {came}: "
            "connect Load Audio, or another node with an AUDIO output."
        )
    if waveform.numel() == 0:
        raise ValueError(
            "Expected AUDIO with sound in it, got no samples: check that the recording is not "
            "empty and that a node before this one did not cut it all away."
        )
    return waveform.to("cpu", torch.float32), int(audio["sample_rate"])


def audio_of(waveform: Tensor, sample_rate: int) -> dict[str, Any]:
    """Make an AUDIO of a waveform, `(batch, channels, samples)`, and its rate in Hz."""
    return {"waveform": waveform, "sample_rate": sample_rate}


def split_audio(audio: Any, count: int) -> list[dict[str, Any]]:
    """Give each of `count` clips its own sound; one sound goes with all of them.

    Raises:
        ValueError: There are several sounds, but not one a clip.
    """
    waveform, sample_rate = waveform_of(audio)
    if len(waveform) not in (1, count):
        raise ValueError(
            f"Expected 1 sound or {count}, one a clip, got {len(waveform)}: "
            "connect the AUDIO that the speech was encoded from."
        )
    return [audio_of(waveform[min(i, len(waveform) - 1), None], sample_rate) for i in range(count)]


def check_image(image: Any) -> Tensor:
    """Return an IMAGE after checking that it is one.

    Raises:
        ValueError: It is no IMAGE, or an empty one.
    """
    fits = isinstance(image, Tensor) and image.ndim == 4 and image.shape[-1] in (1, 3, 4)
    if not fits or image.numel() == 0:
        raise ValueError(
            "Expected an IMAGE (batch, height, width, 3 or 4 channels), got "
            f"{_shape(image) if isinstance(image, Tensor) else type(image).__name__}: "
            "connect Load Image, or another node with an IMAGE output."
        )
    return image


def frames_of(image: Tensor) -> Tensor:
    """Turn an IMAGE of three channels into frames `(batch, 3, height, width)` in [-1, 1].

    The result is contiguous: maps in channels-last order and half precision meet a fault in
    torch's grid sampling on the CPU, which then gives NaN.
    """
    return image.movedim(-1, 1).float().mul(2).sub(1).contiguous()


def pictures_of(image: Tensor, background: Colour) -> Iterator[Picture]:
    """Turn an IMAGE into RGB pictures of bytes, laid over a background where it is transparent.

    Args:
        image: `(batch, height, width, 1, 3 or 4)` in [0, 1].
        background: What shows through.

    Yields:
        `(height, width, 3)`, uint8.
    """
    for pixels in image:
        rgb = pixels[..., :3].float().cpu()
        if image.shape[-1] == 4:
            alpha = pixels[..., 3:].float().cpu()
            rgb = rgb * alpha + torch.tensor(background) / 255 * (1 - alpha)
        levels = rgb.clamp(0, 1).mul(255).round().to(torch.uint8)
        yield levels.expand(-1, -1, 3).contiguous().numpy()


def image_of_pictures(pictures: Iterable[Picture]) -> Tensor:
    """Turn pictures of bytes, all of one size, into an IMAGE."""
    return torch.stack([torch.from_numpy(picture) for picture in pictures]).float() / 255


def image_of(frames: Tensor) -> Tensor:
    """Turn frames `(batch, 3, height, width)` in [-1, 1] into an IMAGE; beyond is clamped."""
    return frames.movedim(1, -1).float().add(1).div(2).clamp(0, 1)


def fill_image(chunks: Iterable[Tensor], count: int, device: torch.device) -> Tensor:
    """Collect frames in one IMAGE, made once so that no second copy is needed.

    Args:
        chunks: Frames in [-1, 1], each `(b, 3, height, width)`, `count` in all.
        count: Number of frames.
        device: Where the IMAGE lies.

    Returns:
        `(count, height, width, 3)`.
    """
    image: Tensor | None = None
    done = 0
    for chunk in chunks:
        if image is None:
            _, channels, height, width = chunk.shape
            image = torch.empty(count, height, width, channels, device=device)
        image[done : done + len(chunk)] = image_of(chunk)
        done += len(chunk)
    if image is None or done != count:
        raise RuntimeError(f"Expected {count} frames from the decoder, got {done}.")
    return image


def picture_of(frame: Tensor) -> Image.Image:
    """Turn one frame `(3, height, width)` in [-1, 1] into a picture for the preview."""
    return Image.fromarray(frame_bytes(frame[None])[0].numpy())


def to_device(value: _Value, device: torch.device) -> _Value:
    """Move every tensor of a domain value (a dataclass of tensors and tuples) to a device."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple):
        return tuple(to_device(item, device) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        moved = {
            field.name: to_device(getattr(value, field.name), device) for field in fields(value)
        }
        return replace(value, **moved)
    return value


def _shape(tensor: Tensor) -> str:
    return str(tuple(tensor.shape))
