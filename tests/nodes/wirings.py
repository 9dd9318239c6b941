"""For each node the small graph that shows how it is wired: what feeds it and what it feeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.nodes.comfy_client import Graph

SOURCES = {
    "FLOAT_MODEL": "FLOATLoadModel",
    "FLOAT_PORTRAIT": "FLOATEncodePortrait",
    "FLOAT_SPEECH": "FLOATEncodeSpeech",
    "FLOAT_EMOTION": "FLOATEmotion",
    "FLOAT_MOTION": "FLOATSampleMotion",
    "IMAGE": "FLOATExamplePortrait",
    "AUDIO": "FLOATExampleSpeech",
}
"""The node that usually makes a type."""

TARGETS = {
    "FLOAT_MODEL": "FLOATEncodePortrait",
    "FLOAT_PORTRAIT": "FLOATSampleMotion",
    "FLOAT_SPEECH": "FLOATSampleMotion",
    "FLOAT_EMOTION": "FLOATSampleMotion",
    "FLOAT_MOTION": "FLOATDecodeMotion",
    "IMAGE": "CreateVideo",
    "AUDIO": "FLOATEncodeSpeech",
    "VIDEO": "SaveVideo",
    "STRING": "PreviewAny",
}
"""The node that usually takes a type."""

CROP = "FLOATCropFace"
_BEFORE_ENCODING = {"FLOATExamplePortrait": CROP, CROP: "FLOATEncodePortrait"}

NODE = "node"


def wiring(kind: str, listing: Mapping[str, Any]) -> tuple[Graph, list[list[str]]]:
    """Return a node's graph in API form, and the ids of its columns from left to right.

    Args:
        kind: The node, which gets the id `NODE`.
        listing: The server's `/object_info`.
    """
    graph: Graph = {NODE: {"class_type": kind, "inputs": {}}}
    sources = _add_sources(graph, kind, listing)
    targets = _add_targets(graph, kind, listing)
    return graph, [sources, [NODE], targets]


def _add_sources(graph: Graph, kind: str, listing: Mapping[str, Any]) -> list[str]:
    added: dict[str, str] = {}
    for name, declared in listing[kind]["input"].get("required", {}).items():
        source = SOURCES.get(declared[0]) if isinstance(declared[0], str) else None
        if source is None:
            continue
        if declared[0] == "IMAGE" and kind == _BEFORE_ENCODING[CROP]:
            source = CROP
        node_id = added.setdefault(source, f"source {len(added)}")
        graph[node_id] = {"class_type": source, "inputs": {}}
        graph[NODE]["inputs"][name] = [node_id, listing[source]["output"].index(declared[0])]
    return list(added.values())


def _add_targets(graph: Graph, kind: str, listing: Mapping[str, Any]) -> list[str]:
    added: list[str] = []
    for slot, made in enumerate(listing[kind]["output"]):
        target = TARGETS.get(made)
        if made == "IMAGE":
            target = _BEFORE_ENCODING.get(kind, target)
        free = [(i, n) for i in added if (n := _free_input(graph[i], made, listing))]
        if not free and target is not None:
            node_id = f"target {len(added)}"
            graph[node_id] = {"class_type": target, "inputs": {}}
            added.append(node_id)
            free = [(node_id, str(_free_input(graph[node_id], made, listing)))]
        for node_id, name in free[:1]:
            graph[node_id]["inputs"][name] = [NODE, slot]
    return added


def _free_input(node: Mapping[str, Any], made: str, listing: Mapping[str, Any]) -> str | None:
    inputs = listing[node["class_type"]]["input"]
    declared = {**inputs.get("required", {}), **inputs.get("optional", {})}
    fitting = (n for n, d in declared.items() if d[0] in (made, "*") and n not in node["inputs"])
    return next(fitting, None)
