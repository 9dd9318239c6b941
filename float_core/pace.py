"""How long a run still takes, said once when it is long."""

from __future__ import annotations

import logging
import time

LONG_SECONDS = 60
"""Runs that take longer are worth an estimate."""

_MEASURED_SECONDS = 2.0

_log = logging.getLogger(__name__)


class Pace:
    """Measures how fast frames come and says what is left."""

    def __init__(self, frames: int) -> None:
        """Start the clock.

        Args:
            frames: Frames of the whole run.
        """
        self._total = frames
        self._first: tuple[float, int] | None = None
        self._said = False

    def estimate(self, done: int) -> str | None:
        """Return a sentence with the time and memory still needed, once, for a long run.

        The first chunk, which waits for the encoders, is not counted in the pace.

        Args:
            done: Frames made so far.
        """
        now = time.perf_counter()
        if self._first is None:
            self._first = (now, done)
            return None
        elapsed, frames = now - self._first[0], done - self._first[1]
        if self._said or elapsed < _MEASURED_SECONDS or frames < 1:
            return None
        self._said = True
        left = (self._total - done) * elapsed / frames
        if left < LONG_SECONDS:
            return None
        return (
            f"About {left / 60:.0f} min for {self._total - done:,} more frames "
            f"({frames / elapsed:.1f} a second); memory stays as it is now."
        )

    def log_estimate(self, done: int) -> None:
        """Log the sentence of `estimate` where there is one."""
        sentence = self.estimate(done)
        if sentence:
            _log.warning(sentence)
