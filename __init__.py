"""ComfyUI-FLOAT-Portrait: a photo and a recording become a video of the person speaking.

ComfyUI calls `comfy_entrypoint` when it loads the pack. Nothing of ComfyUI is imported before that,
so that tests and scripts may import this folder without ComfyUI.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comfy_api.latest import ComfyExtension

WEB_DIRECTORY = "./web"
"""Where ComfyUI finds the help pages; there are no scripts in it."""


async def comfy_entrypoint() -> ComfyExtension:
    """Return the extension that lists the nodes."""
    from .nodes.extension import FloatExtension

    return FloatExtension()
