"""Graphs in API form, small enough for two cores."""

from __future__ import annotations

from typing import Any

from tests.nodes.comfy_client import Graph

WEIGHTS = "tiny.safetensors"

SOUND = {"seconds": 1.0, "sample_rate": 16000, "channels": 1, "batch": 1, "pitch": 120.0}
PICTURE = {"width": 64, "height": 64, "channels": 3, "batch": 1, "phase": 0.0}
SAMPLING = {
    "audio_guidance": 2.0,
    "emotion_guidance": 1.0,
    "reference_guidance": 1.0,
    "time_points": 4,
    "solver": "euler",
    "seed": 15,
}
CROP = {"margin": 1.6, "detection": "centre", "background": "#000000", "size": 64}
TALK = {
    "emotion": "happy",
    "emotion_guidance": 1.0,
    "crop_face": True,
    "fps": 25.0,
    "seed": 15,
}


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    """Return one node; an input of `(id, slot)` is a wire."""
    return {
        "class_type": kind,
        "inputs": {k: list(v) if isinstance(v, tuple) else v for k, v in inputs.items()},
    }


def changed(graph: Graph, node_id: str, **inputs: Any) -> Graph:
    """Return a graph with some inputs of one node replaced."""
    old = graph[node_id]
    return {**graph, node_id: node(old["class_type"], **{**old["inputs"], **inputs})}


def stages() -> Graph:
    """Return the stages up to the motion, without an end; node ids say what they are."""
    return {
        "model": node("FLOATLoadModel", weights=WEIGHTS, precision="fp32"),
        "picture": node("TestPicture", **PICTURE),
        "sound": node("TestSound", **SOUND),
        "crop": node("FLOATCropFace", image=("picture", 0), **CROP),
        "portrait": node("FLOATEncodePortrait", model=("model", 0), image=("crop", 0)),
        "speech": node("FLOATEncodeSpeech", model=("model", 0), audio=("sound", 0)),
        "emotion": node("FLOATEmotion", emotion="happy"),
        "motion": node(
            "FLOATSampleMotion",
            model=("model", 0),
            portrait=("portrait", 0),
            speech=("speech", 0),
            emotion=("emotion", 0),
            **SAMPLING,
        ),
    }


def frames() -> Graph:
    """Return the stages up to the frames."""
    decode = node(
        "FLOATDecodeMotion",
        model=("model", 0),
        portrait=("portrait", 0),
        motion=("motion", 0),
        fps=25.0,
    )
    return {**stages(), "frames": decode}


def reported(graph: Graph, *sources: tuple[str, int]) -> Graph:
    """Return a graph that shows the given outputs; each report has the id "report NODE SLOT"."""
    reports = {f"report {i} {slot}": node("TestReport", value=(i, slot)) for i, slot in sources}
    return {**graph, **reports}


def saved(
    graph: Graph, images: tuple[str, int], fps: tuple[str, int], audio: tuple[str, int]
) -> Graph:
    """Return a graph that saves frames and sound by ComfyUI's own nodes."""
    return {
        **graph,
        "video": node("CreateVideo", images=images, fps=fps, audio=audio),
        "save": node(
            "SaveVideo", video=("video", 0), filename_prefix="test", format="auto", codec="auto"
        ),
    }


def combined(
    graph: Graph, images: tuple[str, int], fps: tuple[str, int], audio: tuple[str, int]
) -> Graph:
    """Return a graph that saves frames and sound by VideoHelperSuite's Video Combine."""
    combine = node(
        "VHS_VideoCombine",
        images=images,
        audio=audio,
        frame_rate=fps,
        loop_count=0,
        filename_prefix="combined",
        format="video/h264-mp4",
        pingpong=False,
        save_output=True,
        pix_fmt="yuv420p",
        crf=19,
        save_metadata=True,
        trim_to_audio=False,
    )
    return {**graph, "save": combine}


def rendered() -> Graph:
    """Return the graph that renders straight into a file and saves it."""
    return {
        **stages(),
        "video": node(
            "FLOATRenderVideo",
            model=("model", 0),
            portrait=("portrait", 0),
            motion=("motion", 0),
            audio=("sound", 0),
            fps=25.0,
        ),
        "save": node(
            "SaveVideo", video=("video", 0), filename_prefix="rendered", format="auto", codec="auto"
        ),
    }


def talking() -> Graph:
    """Return the one-node graph, without an end."""
    source = stages()
    talk = node(
        "FLOATTalkingPortrait",
        model=("model", 0),
        image=("picture", 0),
        audio=("sound", 0),
        **TALK,
    )
    return {**{name: source[name] for name in ("model", "picture", "sound")}, "talk": talk}


def streamed() -> Graph:
    """Return the one-node graph that streams into a video, saved."""
    graph = talking()
    graph["talk"]["class_type"] = "FLOATTalkingPortraitVideo"
    save = node(
        "SaveVideo", video=("talk", 0), filename_prefix="streamed", format="auto", codec="auto"
    )
    return {**graph, "save": save}
