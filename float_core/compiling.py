"""Decoding by compiled code, for who chooses to wait for a compiler; eager code where it fails.

Two pieces are compiled, each as one graph: the levels that a batch takes together, with the batch's
size left open, so that the shorter batch at the end of a clip needs no code of its own; and the
levels of a single frame, which only CPUs have. The mode is torch's default one, without CUDA
graphs: a graph holds for one batch size, keeps its memory where ComfyUI cannot take it back, fails
in a thread that did not import it, and saves the launches of kernels, which are little beside a
batch of 512 x 512 frames.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from .decoding import is_out_of_memory
from .modules.fast_decoder import FastMotionDecoder, OwnLevels, SharedLevels
from .modules.fast_level import Begun, WarpSource

_log = logging.getLogger(__name__)


class CompiledDecoder:
    """Draws what its decoder draws; compiles at the first frames.

    Attributes:
        decoder: The eager decoder, which keeps the weights.
    """

    def __init__(self, decoder: FastMotionDecoder) -> None:
        """Compile nothing yet.

        Args:
            decoder: The decoder; may be moved to another device at any time.
        """
        self.decoder = decoder
        self._failed = False
        self._widest = 0
        self._levels: tuple[SharedLevels, OwnLevels] | None = None

    def __call__(self, latent: Tensor, source: WarpSource) -> Tensor:
        """Decode frames.

        Args:
            latent: Identity plus motion, (batch, latent_dim).
            source: The portrait, as the decoder prepares it.

        Returns:
            As `FastMotionDecoder.forward`.
        """
        if not self._failed:
            try:
                return self._draw(latent, source)
            except Exception as error:  # a compiler may raise whatever it likes
                if is_out_of_memory(error):
                    raise
                self._failed = True
                _log.warning(
                    "Could not compile the decoder (%s); it goes on uncompiled.", _reason(error)
                )
        frames: Tensor = self.decoder(latent, source)
        return frames

    @torch.no_grad()
    def _draw(self, latent: Tensor, source: WarpSource) -> Tensor:
        if self._levels is None:
            _log.info("Compiling the decoder: the first frames wait for it.")
            own = torch.compile(self.decoder.own_levels, fullgraph=True, dynamic=False)
            self._levels = (self._shared_levels(), own)
        return self.decoder.draw(latent, source, *self._levels)

    def _shared_levels(self) -> SharedLevels:
        compiled = torch.compile(self.decoder.shared_levels, fullgraph=True)

        def shared(latent: Tensor, source: WarpSource) -> Begun:
            self._widest = max(self._widest, len(latent))
            if len(latent) == 1 and self._widest > 1:
                # Code for any size is not code for one: draw twice rather than compile again.
                return compiled(latent.repeat(2, 1), source).item(0)
            if len(latent) > 1:
                torch._dynamo.maybe_mark_dynamic(latent, 0)
            return compiled(latent, source)

        return shared


def _reason(error: Exception) -> str:
    """Return the first line of what an error says, or its kind where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__
