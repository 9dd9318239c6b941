"""Decoding: one portrait's motion to frames, in batches that fit the memory."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .config import FloatConfig
from .modules.fast_decoder import FastMotionDecoder
from .modules.fast_level import WarpSource
from .modules.motion_decoder import MotionDecoder
from .placement import like, precise
from .portrait import Portrait

_log = logging.getLogger(__name__)


DECODE_BATCH = 4
"""Most frames decoded at once on a CPU where the caller does not say: more gain nothing there."""

GPU_BATCH = 32
"""Most frames decoded at once on a GPU where the caller does not say."""

_MAPS_ALIVE = 10
_FLOAT_BYTES = 4
_SHARE_OF_FREE = 0.5


def decoding_bytes(config: FloatConfig, frames: int) -> int:
    """Estimate the memory that decoding so many frames at once takes beside the weights, in bytes.

    Nearly all of it is held at the largest side, where about ten maps are alive at a time.
    """
    return _MAPS_ALIVE * frames * config.channels[-1] * config.image_size**2 * _FLOAT_BYTES


def fitting_batch(config: FloatConfig, device: torch.device) -> int:
    """Return how many frames to decode at once: what half of the free memory holds, up to a cap.

    Args:
        config: What the weights fix.
        device: Where the decoder lies.
    """
    cap = DECODE_BATCH if device.type == "cpu" else GPU_BATCH
    free = free_bytes(device)
    if free is None:
        return DECODE_BATCH
    return max(1, min(cap, int(free * _SHARE_OF_FREE) // decoding_bytes(config, 1)))


def free_bytes(device: torch.device) -> int | None:
    """Return the free memory of a device in bytes; None where it cannot be asked."""
    if device.type == "cuda":
        free, _total = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free) + cached
    if device.type == "cpu" and "SC_AVPHYS_PAGES" in getattr(os, "sysconf_names", {}):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


class BatchSize:
    """Frames decoded at once; halved when memory runs out.

    Attributes:
        frames: The size now.
    """

    def __init__(self, frames: int) -> None:
        """Start with a size.

        Args:
            frames: 1 or more.

        Raises:
            ValueError: The size is below 1.
        """
        if frames < 1:
            raise ValueError(f"Expected a batch size of 1 or more frames, got {frames}.")
        self.frames = frames

    def halve(self, error: BaseException) -> None:
        """Halve the size after memory ran out.

        Raises:
            MemoryError: A single frame is too much.
        """
        if self.frames == 1:
            raise MemoryError(
                "Out of memory with one frame at a time: close other programs or unload other "
                "models, choose half precision, or run on the CPU."
            ) from error
        self.frames //= 2
        _log.warning("Out of memory: decoding %d frames at once from here on.", self.frames)


def drawing(
    network: MotionDecoder | FastMotionDecoder,
    portrait: Portrait,
    item: int,
    compiled: Callable[[Tensor, WarpSource], Tensor] | None = None,
) -> Callable[[Tensor], Tensor]:
    """Return what turns motion, (b, latent_dim), into one portrait's frames, (b, 3, S, S).

    Args:
        network: The decoder, plain or fast.
        portrait: A batch of portraits.
        item: Which of them.
        compiled: What to run in place of a fast decoder, if anything.
    """
    identity = portrait.identity[item]
    own = [feature[item, None] for feature in portrait.features]
    if isinstance(network, FastMotionDecoder):
        source = network.prepare(own)
        run = compiled or network
        return lambda latents: run(latents + identity.to(latents), source)
    features = [like(network, feature) for feature in own]
    return lambda latents: precise(network(like(network, latents + identity.to(latents)), features))


def decode_in_batches(
    draw: Callable[[Tensor], Tensor], latents: Tensor, size: BatchSize
) -> Iterator[Tensor]:
    """Draw frames in batches, smaller ones where memory runs out.

    Args:
        draw: Turns motion, (b, latent_dim), into frames.
        latents: Motion, (frames, latent_dim).
        size: Frames at once; stays smaller after memory ran out.

    Yields:
        Frames in order, (b, 3, S, S).

    Raises:
        MemoryError: A single frame is too much.
    """
    start = 0
    while start < len(latents):
        try:
            frames = draw(latents[start : start + size.frames])
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            failure = error.with_traceback(None)  # the frames of the failed try hold its tensors
        else:
            start += len(frames)
            yield frames
            continue
        size.halve(failure)
        _give_back()


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, on any device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    words = str(error).lower()
    return "out of memory" in words or "can't allocate memory" in words


def _give_back() -> None:
    """Return what a failed try left in the allocator's cache."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
