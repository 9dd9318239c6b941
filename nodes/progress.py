"""ComfyUI's progress bar, Cancel button and node text, as the callbacks that the core calls."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import comfy.utils
from comfy.cli_args import args
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy_execution.utils import get_executing_context
from server import PromptServer
from torch import Tensor

from ..float_core.pace import Pace
from .conversions import picture_of

_STEPS = 1000
_DEFAULT_PREVIEW_SIDE = 512

_log = logging.getLogger(__name__)


class NodeProgress:
    """The bar of the running node; whatever reports to it also stops when Cancel was pressed."""

    def __init__(self) -> None:
        throw_exception_if_processing_interrupted()
        self._bar = comfy.utils.ProgressBar(_STEPS)

    def span(self, begin: float = 0.0, end: float = 1.0) -> Callable[..., None]:
        """Return a callback for a stage that fills a part of the bar.

        Args:
            begin: Where the stage begins, 0 to 1.
            end: Where it ends, 0 to 1.

        Returns:
            Called with the units done, their total and, if there is one, the newest frame,
            `(3, height, width)` in [-1, 1]. It raises when the user cancelled.
        """

        def report(done: int, total: int, frame: Tensor | None = None) -> None:
            throw_exception_if_processing_interrupted()
            share = begin + (end - begin) * done / total
            self._bar.update_absolute(round(share * _STEPS), _STEPS, _preview(frame))

        return report


def watch(chunks: Iterator[Tensor], count: int, report: Callable[..., None]) -> Iterator[Tensor]:
    """Pass chunks of frames on and report each, the last of its frames as the preview.

    A run that will take long says so once, in the log and on the node.

    Args:
        chunks: Frames in [-1, 1], each `(b, 3, height, width)`.
        count: Number of frames in all.
        report: A callback of `NodeProgress.span`.
    """
    done = 0
    pace = Pace(count)
    for chunk in chunks:
        done += len(chunk)
        report(done, count, chunk[-1])
        estimate = pace.estimate(done)
        if estimate:
            _log.warning(estimate)
            tell(estimate)
        yield chunk


def tell(text: str) -> None:
    """Write a text onto the running node, where the page shows it until the next run."""
    context = get_executing_context()
    if context is not None:
        PromptServer.instance.send_progress_text(text, context.node_id)


def _preview(frame: Tensor | None) -> tuple[str, object, int] | None:
    if frame is None:
        return None
    side = getattr(args, "preview_size", _DEFAULT_PREVIEW_SIDE)
    return "JPEG", picture_of(frame), side
