"""Writing on another thread, so that encoding a video does not wait for drawing it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from types import TracebackType

from torch import Tensor

_WAITING = 4
"""Chunks that may wait; when there are so many, drawing waits for the encoder."""


class WriterThread:
    """Hands chunks of frames to a function on another thread, in order.

    A context manager: leaving it waits until everything is written. What the function raises is
    raised again by the next `put` or on leaving.
    """

    def __init__(self, write: Callable[[Tensor], None]) -> None:
        """Prepare the thread; it starts with the context.

        Args:
            write: Called with one chunk after another.
        """
        self._write = write
        self._chunks: queue.Queue[Tensor | None] = queue.Queue(_WAITING)
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="float-video", daemon=True)

    def __enter__(self) -> WriterThread:
        self._thread.start()
        return self

    def put(self, chunk: Tensor) -> None:
        """Hand over a chunk; waits while too many are waiting.

        Raises:
            BaseException: Whatever writing an earlier chunk raised.
        """
        if self._failure is not None:
            raise self._failure
        self._chunks.put(chunk)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._drop_waiting()
        self._chunks.put(None)
        self._thread.join()
        if kind is None and self._failure is not None:
            raise self._failure

    def _drop_waiting(self) -> None:
        """Forget what waits: the work was stopped."""
        try:
            while True:
                self._chunks.get_nowait()
        except queue.Empty:
            return

    def _run(self) -> None:
        while (chunk := self._chunks.get()) is not None:
            if self._failure is None:
                try:
                    self._write(chunk)
                except BaseException as failure:  # noqa: BLE001 - raised again by the caller
                    self._failure = failure
