"""Pictures, sound and video from and to files; nothing else here opens one.

Pillow reads pictures, PyAV reads sound and writes video (in `float_core.media_writer`, whose
public names are found here).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageColor, ImageOps, UnidentifiedImageError

from .face import Colour, Picture
from .media_writer import AI_COMMENT, FilePath, VideoWriter, check_output

__all__ = [
    "AI_COMMENT",
    "MAXIMUM_PIXELS",
    "MINIMUM_SIDE",
    "FilePath",
    "VideoWriter",
    "check_output",
    "load_audio",
    "load_image",
    "parse_colour",
]

logger = logging.getLogger(__name__)

MINIMUM_SIDE = 16
_GATHERED_FRAMES = 1000
_NOTHING = np.empty((0, 0), np.float32)
MAXIMUM_PIXELS = 300_000_000
"""Largest accepted picture; beyond it a small file may be made to fill the memory."""


def parse_colour(text: str) -> Colour:
    """Read a colour such as "#1a2b3c" or "white" as red, green and blue from 0 to 255.

    Raises:
        ValueError: The text names no colour.
    """
    try:
        red, green, blue = ImageColor.getrgb(text)[:3]
    except (ValueError, AttributeError) as error:
        raise ValueError(f'Expected a colour such as "#000000", got {text!r}.') from error
    return red, green, blue


def load_image(path: FilePath, background: str = "#000000") -> Picture:
    """Open a picture as plain RGB, turned as its EXIF tag says.

    An animation gives its first frame. The pixels are those of the file, so that a face box in
    pixels of the file fits.

    Args:
        path: Anything Pillow opens: grey of 1 to 32 bits, palette, RGB, CMYK, with alpha or not.
        background: Colour behind what is transparent, such as "#ffffff".

    Returns:
        `(height, width, 3)`, uint8.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no picture or a broken one, a side is under 16 pixels, or it has
            more than 300 million pixels.
    """
    colour = parse_colour(background)
    path = _existing(path, "picture")
    try:
        with _own_pixel_limit(), Image.open(path) as image:
            _check_size(path, *image.size)
            ImageOps.exif_transpose(image, in_place=True)
            return np.array(_flattened(_eight_bits(image), colour))
    except UnidentifiedImageError as error:
        raise ValueError(
            f"Expected a picture, got {path}, which Pillow cannot read: "
            "save it as PNG, JPEG or WebP."
        ) from error
    except (OSError, SyntaxError, EOFError) as error:
        raise ValueError(
            f"Expected a whole picture, got {path}, which breaks off or is damaged ({error}): "
            "save it again."
        ) from error


def _existing(path: FilePath, what: str) -> Path:
    path = Path(path)
    if path.is_file():
        return path
    found = "a folder" if path.is_dir() else "nothing"
    raise FileNotFoundError(f"Expected a {what} at {path}, found {found}: check the path.")


@contextmanager
def _own_pixel_limit() -> Iterator[None]:
    """Lift Pillow's limit, which refuses large photographs, where `_check_size` stands instead."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _check_size(path: Path, width: int, height: int) -> None:
    if min(width, height) < MINIMUM_SIDE:
        raise ValueError(
            f"Expected a picture of at least {MINIMUM_SIDE} pixels a side, got {width} x {height} "
            f"in {path}: give a larger one."
        )
    if width * height > MAXIMUM_PIXELS:
        raise ValueError(
            f"Expected a picture of at most {MAXIMUM_PIXELS:,} pixels, got {width} x {height} "
            f"in {path}: scale it down first."
        )


def _eight_bits(image: Image.Image) -> Image.Image:
    """Scale grey of more than 8 bits to 8; Pillow's own conversion clips it instead."""
    if not image.mode.startswith(("I", "F")):
        return image
    grey = np.asarray(image).astype(np.float32)
    if image.mode == "F":
        white = 1.0 if grey.max() <= 1 else 255.0
    else:
        white = 65535.0 if grey.max() <= 65535 else 2.0**31 - 1
    scaled = np.nan_to_num(grey) * (255 / white)
    return Image.fromarray(np.clip(np.rint(scaled), 0, 255).astype(np.uint8))


def _flattened(image: Image.Image, colour: Colour) -> Image.Image:
    """Return the image as RGB over the colour."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode[-1] not in "Aa" and "transparency" not in image.info:
        return image.convert("RGB")
    behind = Image.new("RGBA", image.size, (*colour, 255))
    return Image.alpha_composite(behind, image.convert("RGBA")).convert("RGB")


def load_audio(path: FilePath) -> tuple[torch.Tensor, int]:
    """Decode the first sound track of a file, at the file's own rate.

    Args:
        path: Anything PyAV decodes: WAV, MP3, M4A, FLAC, Ogg, or a video with sound.

    Returns:
        The sound in [-1, 1], `(1, channels, samples)`, float32, and its sample rate in Hz.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no media file, has no sound track, or the track is empty or damaged.
    """
    path = _existing(path, "recording")
    try:
        # No sound needs the network, and a playlist in disguise must not reach it.
        with av.open(str(path), options={"protocol_whitelist": "file"}) as container:
            if not container.streams.audio:
                raise ValueError(
                    f"Expected a recording, got {path}, which has no sound track: "
                    "give a file with sound."
                )
            waveform, rate = _joined(_decoded(container, path), path)
    except av.FFmpegError as error:
        raise ValueError(
            f"Expected a recording, got {path}, which FFmpeg cannot read ({error.strerror}): "
            "save it as WAV, FLAC or MP3."
        ) from error
    return torch.from_numpy(waveform)[None], rate


def _joined(
    frames: Iterable[tuple[int, npt.NDArray[np.float32]]], path: Path
) -> tuple[npt.NDArray[np.float32], int]:
    """Join a track's frames, `(channels, samples)`, holding a long sound once and not twice."""
    kinds: set[tuple[int, int]] = set()
    blocks: list[npt.NDArray[np.float32]] = []
    gathered: list[npt.NDArray[np.float32]] = []
    for rate, samples in frames:
        kinds.add((rate, len(samples)))
        gathered.append(samples)
        if len(kinds) == 1 and len(gathered) == _GATHERED_FRAMES:
            blocks.append(np.concatenate(gathered, axis=1))
            gathered = []
    if len(kinds) > 1:
        raise ValueError(
            f"Expected one sample rate and number of channels, got several in {path}: "
            "save it again as WAV."
        )
    if not kinds:
        raise ValueError(
            f"Expected a recording, got {path}, whose sound track is empty or broken: "
            "give at least 0.1 s of sound."
        )
    blocks.extend(gathered)
    ((rate, channels),) = kinds
    joined = np.empty((channels, sum(block.shape[1] for block in blocks)), np.float32)
    position = 0
    for index, block in enumerate(blocks):
        joined[:, position : position + block.shape[1]] = block
        position += block.shape[1]
        blocks[index] = _NOTHING  # what is copied is given back at once
    return joined, rate


def _decoded(container: Any, path: Path) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """Yield sample rate and samples `(channels, samples)` of each frame of the first track."""
    broken = 0
    for packet in container.demux(container.streams.audio[0]):
        try:
            frames = packet.decode()
        except av.FFmpegError:
            # Usual in MP3 files with tags in their midst: players skip such a packet too.
            broken += 1
            continue
        for frame in frames:
            yield frame.sample_rate, _samples(frame)
    if broken:
        logger.warning("%s: %d broken packets of sound were left out.", path, broken)


def _samples(frame: Any) -> npt.NDArray[np.float32]:
    """Return a frame's samples in [-1, 1], `(channels, samples)`; 16 bits and less stay exact."""
    values: npt.NDArray[Any] = frame.to_ndarray()
    if not frame.format.is_planar:
        values = values.reshape(-1, len(frame.layout.channels)).T
    if values.dtype == np.uint8:
        values = (values.astype(np.float32) - 128) / 128
    elif np.issubdtype(values.dtype, np.integer):
        values = values / -float(np.iinfo(values.dtype).min)
    return np.ascontiguousarray(values, dtype=np.float32)
