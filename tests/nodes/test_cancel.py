"""Progress and Cancel: reported and checked at every unit of work, and nothing left behind."""

from __future__ import annotations

import io
import math
import time
from itertools import count
from pathlib import Path

import pytest
from PIL import Image

from tests.nodes.comfy_client import ComfyClient, Graph
from tests.nodes.comfy_server import ComfyServer
from tests.nodes.graphs import changed, frames, node, rendered, reported, stages, talking

pytestmark = pytest.mark.comfyui

AUDIO_LAYERS = 3
"""Transformer layers of both audio networks of the tiny weights."""

FRAMES = 25

_takes = count(10_000)


def batches() -> int:
    from float_core.pipeline import DECODE_BATCH

    return math.ceil(FRAMES / DECODE_BATCH)


def fresh() -> Graph:
    """Return stages whose speech and seed no other run has used, so that no cache answers."""
    take = next(_takes)
    return changed(changed(stages(), "sound", pitch=take / 100), "motion", seed=take)


def speech() -> tuple[Graph, str, int]:
    return reported(fresh(), ("speech", 0)), "speech", AUDIO_LAYERS


def emotion() -> tuple[Graph, str, int]:
    heard = node("FLOATEmotionFromSpeech", model=("model", 0), audio=("sound", 0))
    return reported({**fresh(), "emotion": heard}, ("emotion", 0)), "emotion", AUDIO_LAYERS


def motion() -> tuple[Graph, str, int]:
    graph = changed(fresh(), "motion", time_points=20)
    return reported(graph, ("motion", 0)), "motion", 19


def images() -> tuple[Graph, str, int]:
    return reported({**frames(), **fresh()}, ("frames", 0)), "frames", batches()


def video() -> tuple[Graph, str, int]:
    return {**rendered(), **fresh()}, "video", batches()


def without(graph: Graph, target: str) -> Graph:
    """Return what stands before a node, with its sources shown so that they run."""
    gone = {target}
    kept: Graph = {}
    for name, entry in graph.items():
        wires = [value for value in entry["inputs"].values() if isinstance(value, list)]
        if name in gone or any(source in gone for source, _ in wires):
            gone.add(name)
        else:
            kept[name] = entry
    wires = [value for value in graph[target]["inputs"].values() if isinstance(value, list)]
    return reported(kept, *[(source, slot) for source, slot in wires])


def temporary_files(server: ComfyServer) -> set[Path]:
    return {path for path in (server.base / "temp").rglob("*") if path.is_file()}


@pytest.mark.parametrize("case", [speech, emotion, motion, images, video])
def test_cancel_is_checked_at_every_unit_of_work(
    client: ComfyClient, server: ComfyServer, case: object
) -> None:
    assert callable(case)
    graph, target, units = case()
    assert client.run(without(graph, target)).status == "success"
    files = temporary_files(server)
    client.post("/float_test/cancel_after", {"updates": 2})
    run = client.run(graph)
    assert (run.status, run.error_node) == ("interrupted", target)
    assert client.get("/float_test/state")["updates"] == 2
    assert temporary_files(server) == files
    client.post("/float_test/cancel_after", {"updates": None})
    assert client.run(graph).status == "success"
    assert client.get("/float_test/state")["updates"] == units


def test_cancel_in_a_later_clip_removes_the_earlier_ones(
    client: ComfyClient, server: ComfyServer
) -> None:
    graph, _, units = video()
    graph = changed(graph, "picture", batch=2)
    assert client.run(without(graph, "video")).status == "success"
    files = temporary_files(server)
    client.post("/float_test/cancel_after", {"updates": units + 2})
    assert client.run(graph).status == "interrupted"
    assert temporary_files(server) == files


def test_the_cancel_button_stops_a_long_run_at_once(client: ComfyClient) -> None:
    graph = changed(fresh(), "motion", time_points=1000)
    graph = changed(graph, "sound", seconds=20.0)
    with client.listening() as heard:
        prompt = client.queue(reported(graph, ("motion", 0)))
        started = time.monotonic()
        while not heard.progress("motion"):
            assert time.monotonic() - started < 30, "sampling never began"
            time.sleep(0.01)
        pressed = time.monotonic()
        client.post("/interrupt", {})
        run = client.wait(prompt)
    assert run.status == "interrupted"
    assert time.monotonic() - pressed < 2
    assert heard.progress("motion")[-1] < 0.9


def test_a_run_after_a_cancelled_one_works(client: ComfyClient) -> None:
    graph, _, _ = images()
    client.post("/float_test/cancel_after", {"updates": 5})
    assert client.run(graph).status == "interrupted"
    client.post("/float_test/cancel_after", {"updates": None})
    assert client.run(graph).status == "success"


def test_the_newest_frame_is_shown_while_decoding(client: ComfyClient) -> None:
    graph, target, units = images()
    with client.listening() as heard:
        assert client.run(graph).status == "success"
        time.sleep(0.3)
    assert len(heard.pictures) == units
    assert len(set(heard.pictures)) > 1
    width, height = Image.open(io.BytesIO(heard.pictures[-1])).size
    assert width == height
    bar = heard.progress(target)
    assert len(bar) == units
    assert bar == sorted(bar)
    assert bar[-1] == 1


def test_one_node_has_one_bar_that_never_goes_back(client: ComfyClient) -> None:
    take = next(_takes)
    graph = changed(changed(talking(), "talk", seed=take), "sound", pitch=take / 100)
    with client.listening() as heard:
        assert client.run(reported(graph, ("talk", 0))).status == "success"
        time.sleep(0.3)
    bar = heard.progress("talk")
    assert bar == sorted(bar)
    assert bar[-1] == 1
    assert len(bar) > 15
