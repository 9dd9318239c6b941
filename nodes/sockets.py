"""The sockets between the nodes, each declared once, and what every schema shares.

Each stage's result has a type of its own, so that a wrong wire cannot be drawn.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from comfy_api.latest import io

CATEGORY = "FLOAT"

ModelSocket = io.Custom("FLOAT_MODEL")
CropSocket = io.Custom("FLOAT_CROP")
PortraitSocket = io.Custom("FLOAT_PORTRAIT")
SpeechSocket = io.Custom("FLOAT_SPEECH")
EmotionSocket = io.Custom("FLOAT_EMOTION")
MotionSocket = io.Custom("FLOAT_MOTION")

_SCHEMA_FIELDS = {field.name for field in fields(io.Schema)}


def float_schema(
    node_id: str, title: str, *, aliases: tuple[str, ...] = (), **schema: Any
) -> io.Schema:
    """Return a node's schema in this pack's category, named after it.

    Args:
        node_id: Public id; saved workflows hold it.
        title: What the node does, in two or three words.
        aliases: More words under which the node search finds it, where ComfyUI knows aliases.
        schema: The remaining fields of `io.Schema`.
    """
    if "search_aliases" in _SCHEMA_FIELDS:
        schema["search_aliases"] = list(aliases)
    return io.Schema(node_id=node_id, display_name=f"{title} (FLOAT)", category=CATEGORY, **schema)


def model_input() -> io.Input:
    """Return the input that every stage with a network has."""
    return ModelSocket.Input("model", tooltip="The networks, from Load Model (FLOAT).")
