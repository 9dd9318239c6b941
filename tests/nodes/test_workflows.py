"""The shipped workflows: readable, complete, and running."""

from __future__ import annotations

import itertools
from pathlib import Path

import av
import pytest
from PIL import Image

from tests.nodes.checkouts import vhs_path
from tests.nodes.comfy_client import ComfyClient
from tests.nodes.comfy_server import PACK
from tests.nodes.graphs import WEIGHTS, changed
from tests.nodes.ui_graphs import (
    NOTES,
    WORKFLOWS,
    api_graph,
    contains,
    first_weights,
    group_box,
    node_box,
    nodes_of,
    note_text,
    overlap,
    read,
)

TITLES = tuple(WORKFLOWS)
COMBINED = "Talking portrait - Video Combine"
CORE_KINDS = {"CreateVideo", "SaveVideo", *NOTES}
VHS_KINDS = {"VHS_VideoCombine"}
PICTURE_BYTES = 200_000

in_comfyui = pytest.mark.comfyui


def test_there_are_the_promised_workflows() -> None:
    ends = ("Video Combine", "one node", "stages", "strong emotion")
    assert tuple(f"Talking portrait - {end}" for end in ends) == TITLES


@pytest.mark.parametrize("title", TITLES)
def test_nothing_overlaps(title: str) -> None:
    workflow = read(WORKFLOWS[title])
    for one, other in itertools.combinations(workflow["nodes"], 2):
        assert not overlap(node_box(one), node_box(other)), (one["type"], other["type"])
    for one, other in itertools.combinations(workflow["groups"], 2):
        assert not overlap(group_box(one), group_box(other)), (one["title"], other["title"])


@pytest.mark.parametrize("title", TITLES)
def test_every_node_lies_in_a_group(title: str) -> None:
    workflow = read(WORKFLOWS[title])
    boxes = [group_box(group) for group in workflow["groups"]]
    for node in workflow["nodes"]:
        assert any(contains(box, node_box(node)) for box in boxes), node["type"]


@pytest.mark.parametrize("title", TITLES)
def test_wires_go_from_left_to_right(title: str) -> None:
    workflow = read(WORKFLOWS[title])
    boxes = {node["id"]: node_box(node) for node in workflow["nodes"]}
    for _, source, _, target, _, kind in workflow["links"]:
        assert boxes[source][2] < boxes[target][0], kind


@pytest.mark.parametrize("title", TITLES)
def test_no_other_pack_is_needed(title: str) -> None:
    kinds = {node["type"] for node in read(WORKFLOWS[title])["nodes"]}
    foreign = {kind for kind in kinds if not kind.startswith("FLOAT")} - CORE_KINDS
    assert foreign == (VHS_KINDS if title == COMBINED else set())


@pytest.mark.parametrize("title", TITLES)
def test_they_start_with_what_a_first_user_has(title: str) -> None:
    workflow = read(WORKFLOWS[title])
    (loader,) = [node for node in workflow["nodes"] if node["type"] == "FLOATLoadModel"]
    assert loader["widgets_values"][0] == first_weights()
    kinds = {node["type"] for node in workflow["nodes"]}
    assert {"FLOATExamplePortrait", "FLOATExampleSpeech"} <= kinds


@pytest.mark.parametrize("title", TITLES)
def test_notes_say_what_to_do(title: str) -> None:
    workflow = read(WORKFLOWS[title])
    text = note_text(workflow)
    for word in ("Run", "non-commercial", "models/float", "Load Image", "Load Audio", "consent"):
        assert word in text, word
    named = {word for word in ("seed", "emotion", "fps", "precision") if f"**{word}**" in text}
    kinds = [node["type"] for node in nodes_of(workflow)]
    assert "emotion" in named, kinds
    assert ("ComfyUI-VideoHelperSuite" in text) == (title == COMBINED)


@pytest.mark.parametrize("title", TITLES)
def test_each_has_a_small_picture(title: str) -> None:
    path = WORKFLOWS[title].with_suffix(".jpg")
    assert path.stat().st_size < PICTURE_BYTES
    with Image.open(path) as picture:
        assert picture.format == "JPEG"
        assert picture.width >= 1000
        assert len(picture.convert("L").getcolors(256) or []) > 50, "an empty picture"


def test_no_picture_is_left_over() -> None:
    assert {path.stem for path in (PACK / "workflows").glob("*.jpg")} == set(TITLES)


@in_comfyui
@pytest.mark.parametrize("title", TITLES)
def test_the_server_takes_them_as_they_are(title: str, client: ComfyClient) -> None:
    if title == COMBINED and vhs_path() is None:
        pytest.skip("no VideoHelperSuite: name its checkout in VHS_PATH")
    graph = api_graph(read(WORKFLOWS[title]), client.get("/object_info"))
    run = client.run(graph)
    if first_weights() == "download":
        assert graph[run.error_node]["class_type"] == "FLOATLoadModel"
        assert "Could not download" in run.error, "the tests' server is kept off the network"
    else:
        assert run.status == "success", run.error


@in_comfyui
@pytest.mark.parametrize("title", TITLES)
def test_they_run_to_a_video(title: str, client: ComfyClient, tmp_path: Path) -> None:
    if title == COMBINED and vhs_path() is None:
        pytest.skip("no VideoHelperSuite: name its checkout in VHS_PATH")
    graph = api_graph(read(WORKFLOWS[title]), client.get("/object_info"))
    (loader,) = [key for key, node in graph.items() if node["class_type"] == "FLOATLoadModel"]
    run = client.run(changed(graph, loader, weights=WEIGHTS))
    assert run.status == "success", run.error
    videos = [file for file in client.files(run, tmp_path) if file.suffix == ".mp4"]
    with av.open(str(videos[-1])) as file:
        frames = sum(1 for _ in file.decode(video=0))
        seconds = float(file.streams.video[0].duration * file.streams.video[0].time_base)
        assert file.streams.audio
        assert file.streams.video[0].codec_context.name == "h264"
    assert seconds == pytest.approx(10.1, abs=0.1)
    assert frames == pytest.approx(25 * seconds, abs=1.5)
