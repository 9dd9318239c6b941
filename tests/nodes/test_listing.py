"""What the page learns of the nodes: `/object_info` of a running ComfyUI."""

from __future__ import annotations

from typing import Any

import pytest

from tests.nodes.comfy_client import ComfyClient
from tests.nodes.comfy_server import PACK_NAME, ComfyServer
from tests.nodes.graphs import WEIGHTS

pytestmark = pytest.mark.comfyui

IMAGE, AUDIO, VIDEO, NUMBER, WHOLE, TEXT = "IMAGE", "AUDIO", "VIDEO", "FLOAT", "INT", "STRING"
MODEL, PORTRAIT, SPEECH = "FLOAT_MODEL", "FLOAT_PORTRAIT", "FLOAT_SPEECH"
EMOTION, MOTION, CROP, CHOICE = "FLOAT_EMOTION", "FLOAT_MOTION", "FLOAT_CROP", "COMBO"

SOCKETS: dict[str, tuple[dict[str, str], list[str]]] = {
    "FLOATLoadModel": (
        {"weights": CHOICE, "precision": CHOICE, "compile": "BOOLEAN"},
        [MODEL],
    ),
    "FLOATCropFace": (
        {
            "image": IMAGE,
            "margin": NUMBER,
            "detection": CHOICE,
            "background": TEXT,
            "size": WHOLE,
        },
        [IMAGE, CROP],
    ),
    "FLOATEncodePortrait": ({"model": MODEL, "image": IMAGE}, [PORTRAIT]),
    "FLOATEncodeSpeech": ({"model": MODEL, "audio": AUDIO}, [SPEECH]),
    "FLOATEmotion": ({"emotion": CHOICE}, [EMOTION]),
    "FLOATEmotionFromSpeech": ({"model": MODEL, "audio": AUDIO}, [EMOTION, TEXT]),
    "FLOATSampleMotion": (
        {
            "model": MODEL,
            "portrait": PORTRAIT,
            "speech": SPEECH,
            "emotion": EMOTION,
            "audio_guidance": NUMBER,
            "emotion_guidance": NUMBER,
            "reference_guidance": NUMBER,
            "time_points": WHOLE,
            "solver": CHOICE,
            "seed": WHOLE,
        },
        [MOTION],
    ),
    "FLOATDecodeMotion": (
        {"model": MODEL, "portrait": PORTRAIT, "motion": MOTION, "fps": NUMBER},
        [IMAGE, NUMBER],
    ),
    "FLOATRenderVideo": (
        {"model": MODEL, "portrait": PORTRAIT, "motion": MOTION, "audio": AUDIO, "fps": NUMBER},
        [VIDEO],
    ),
    "FLOATTalkingPortrait": (
        {
            "model": MODEL,
            "image": IMAGE,
            "audio": AUDIO,
            "emotion": CHOICE,
            "emotion_guidance": NUMBER,
            "crop_face": "BOOLEAN",
            "fps": NUMBER,
            "seed": WHOLE,
        },
        [IMAGE, AUDIO, NUMBER],
    ),
    "FLOATTalkingPortraitVideo": (
        {
            "model": MODEL,
            "image": IMAGE,
            "audio": AUDIO,
            "emotion": CHOICE,
            "emotion_guidance": NUMBER,
            "crop_face": "BOOLEAN",
            "fps": NUMBER,
            "seed": WHOLE,
        },
        [VIDEO],
    ),
    "FLOATExamplePortrait": ({"picture": CHOICE}, [IMAGE]),
    "FLOATExampleSpeech": ({}, [AUDIO]),
}


@pytest.fixture(scope="module")
def listing(server: ComfyServer) -> dict[str, Any]:
    everything = ComfyClient(server.url).get("/object_info")
    return {name: info for name, info in everything.items() if name.startswith("FLOAT")}


def _inputs(info: dict[str, Any]) -> dict[str, tuple[Any, dict[str, Any]]]:
    return {**info["input"].get("required", {}), **info["input"].get("optional", {})}


def _offered(info: dict[str, Any], name: str) -> list[str]:
    return list(_inputs(info)[name][1]["options"])


def test_the_pack_imports_quickly_and_without_a_complaint(server: ComfyServer) -> None:
    assert server.import_seconds(PACK_NAME) < 0.3


def test_exactly_the_promised_nodes_are_listed(listing: dict[str, Any]) -> None:
    assert set(listing) == set(SOCKETS)


@pytest.mark.parametrize("name", SOCKETS)
def test_sockets_have_the_frozen_names_and_types(name: str, listing: dict[str, Any]) -> None:
    inputs, outputs = SOCKETS[name]
    found = {key: declared[0] for key, declared in _inputs(listing[name]).items()}
    assert found == inputs
    assert list(found) == list(inputs)
    assert listing[name]["output"] == outputs


@pytest.mark.parametrize("name", SOCKETS)
def test_every_node_explains_itself(name: str, listing: dict[str, Any]) -> None:
    info = listing[name]
    assert info["category"] == "FLOAT"
    assert info["display_name"].endswith(" (FLOAT)")
    assert info["description"]
    assert not info["output_node"]
    assert all(declared[1].get("tooltip") for declared in _inputs(info).values())
    assert all(info["output_tooltips"])


def test_widgets_start_at_the_core_defaults(listing: dict[str, Any]) -> None:
    from float_core.config import SOLVER_NAMES, FloatConfig, SamplingOptions

    sampler, defaults = _inputs(listing["FLOATSampleMotion"]), SamplingOptions()
    for name in SamplingOptions.__dataclass_fields__:
        assert sampler[name][1]["default"] == getattr(defaults, name), name
    assert tuple(_offered(listing["FLOATSampleMotion"], "solver")) == SOLVER_NAMES
    decoder = _inputs(listing["FLOATDecodeMotion"])
    assert decoder["fps"][1]["default"] == FloatConfig().fps


def test_weights_are_listed_from_extra_paths_without_what_is_part_of_something(
    listing: dict[str, Any],
) -> None:
    offered = _offered(listing["FLOATLoadModel"], "weights")
    assert WEIGHTS in offered
    assert {"parts/", "float.pth"} <= set(offered)
    assert "download" in offered
    assert not [name for name in offered if "wav2vec" in name or "fmt" in name]
