"""Random streams by name: every picture and voice is a function of words and numbers alone.

A batch is drawn from its phase and its step, never from the state of a running generator, so that
a resumed training sees what an unbroken one sees. All draws happen on the CPU: a seed means one
world on every device.
"""

from __future__ import annotations

import hashlib

import torch

TRAINING = "training"
HELD_OUT = "held-out"
"""First words of the streams of identities and voices: no name of one is a name of the other."""


def generator(*name: str | int) -> torch.Generator:
    """Return a generator that depends on nothing but its name.

    Args:
        name: Words and whole numbers; the order matters.
    """
    digest = hashlib.sha256(repr(name).encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def uniform(stream: torch.Generator, low: float, high: float, *shape: int) -> torch.Tensor:
    """Draw from [low, high)."""
    return low + (high - low) * torch.rand(shape, generator=stream)
