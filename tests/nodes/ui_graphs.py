"""Workflows in UI form, as ComfyUI saves them: read, measured, and turned into API form."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.nodes.comfy_client import Graph
from tests.nodes.comfy_server import PACK

Workflow = dict[str, Any]
"""A workflow in UI form."""

Box = tuple[float, float, float, float]
"""Left, top, right and bottom on the canvas."""

WORKFLOWS = {path.stem: path for path in sorted((PACK / "workflows").glob("*.json"))}
"""The shipped workflows by title."""

DEMO = "demo"
NOTES = ("Note", "MarkdownNote")
TITLE_HEIGHT = 30.0

_AFTER_GENERATE = "control_after_generate"
_WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


def first_weights() -> str:
    """Return what Load Model offers first to who has no weights: the demo where it ships."""
    return DEMO if (PACK / "assets" / "demo.safetensors").is_file() else "download"


def read(path: Path) -> Workflow:
    """Return a saved workflow."""
    return dict(json.loads(path.read_text(encoding="utf-8")))


def nodes_of(workflow: Workflow) -> list[dict[str, Any]]:
    """Return the nodes that run, without notes."""
    return [node for node in workflow["nodes"] if node["type"] not in NOTES]


def note_text(workflow: Workflow) -> str:
    """Return what all notes say."""
    texts = [node["widgets_values"][0] for node in workflow["nodes"] if node["type"] in NOTES]
    return "\n".join(texts)


def node_box(node: Mapping[str, Any]) -> Box:
    """Return what a node covers, its title included."""
    (left, top), (width, height) = node["pos"], node["size"]
    return left, top - TITLE_HEIGHT, left + width, top + height


def group_box(group: Mapping[str, Any]) -> Box:
    """Return what a group covers."""
    left, top, width, height = group["bounding"]
    return left, top, left + width, top + height


def overlap(one: Box, other: Box) -> bool:
    """Return whether two boxes share an area."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def contains(outer: Box, inner: Box) -> bool:
    """Return whether one box lies wholly in another."""
    return (
        outer[0] <= inner[0]
        and outer[1] <= inner[1]
        and inner[2] <= outer[2]
        and inner[3] <= outer[3]
    )


def input_names(info: Mapping[str, Any]) -> list[str]:
    """Return the names of all inputs of a kind of node, by what the server tells of it."""
    return [*info["input"].get("required", {}), *info["input"].get("optional", {})]


def widget_values(node: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, Any]:
    """Return a node's widgets by name.

    Args:
        node: A node in UI form; its values are a list in the order of the widgets, or named.
        info: What the server tells of this kind of node.
    """
    values = node.get("widgets_values") or []
    if isinstance(values, Mapping):
        return {name: value for name, value in values.items() if name != "videopreview"}
    names = list(_widget_names(info))
    assert len(names) == len(values), (node["type"], names, values)
    return {
        name: value for name, value in zip(names, values, strict=True) if name != _AFTER_GENERATE
    }


def api_graph(workflow: Workflow, listing: Mapping[str, Any]) -> Graph:
    """Turn a workflow into what the page queues.

    Args:
        workflow: In UI form, without subgraphs and without muted nodes.
        listing: The server's `/object_info`.
    """
    sources = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    graph: Graph = {}
    for node in nodes_of(workflow):
        assert node["mode"] == 0, f"{node['type']} is muted or bypassed"
        inputs = widget_values(node, listing[node["type"]])
        for slot in node["inputs"]:
            if slot["link"] is not None:
                inputs[slot["name"]] = sources[slot["link"]]
        graph[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return graph


def _widget_names(info: Mapping[str, Any]) -> Iterator[str]:
    for group in ("required", "optional"):
        for name, declared in info["input"].get(group, {}).items():
            options = declared[1] if len(declared) > 1 else {}
            if isinstance(declared[0], list) or declared[0] in _WIDGETS:
                yield name
            if options.get(_AFTER_GENERATE):
                yield _AFTER_GENERATE
