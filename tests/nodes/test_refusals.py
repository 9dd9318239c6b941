"""What a user may get wrong: one sentence on the page, or it just works; the server goes on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.nodes.comfy_client import ComfyClient, Graph, Refused, Run
from tests.nodes.comfy_server import ComfyServer
from tests.nodes.graphs import changed, frames, node, rendered, reported, stages, talking

pytestmark = pytest.mark.comfyui


def failing(client: ComfyClient, graph: Graph) -> Run:
    """Run a graph that must fail, then one that must work."""
    run = client.run(graph)
    assert run.status == "error"
    after = client.run(reported(frames(), ("frames", 0)))
    assert after.status == "success", after.error
    return run


def shown_frames() -> Graph:
    return reported(frames(), ("frames", 0))


def check_sentence(run: Run, *words: str) -> None:
    assert "\n" not in run.error or words[0] == "Could not download", run.error
    for word in words:
        assert word in run.error, run.error


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("other.safetensors", ("holds no FLOAT weights", "resemble", "decoder.safetensors")),
        ("text.safetensors", ("text.safetensors",)),
        ("small.safetensors", ()),
    ],
)
def test_weights_of_a_wrong_model(client: ComfyClient, name: str, words: tuple[str, ...]) -> None:
    graph = changed(shown_frames(), "model", weights=name)
    if not words:
        assert client.run(graph).status == "success", "another size of FLOAT is no wrong model"
        return
    run = failing(client, graph)
    assert run.error_node == "model"
    check_sentence(run, *words)


def test_weights_missing_with_the_network_off(client: ComfyClient, server: ComfyServer) -> None:
    run = failing(client, changed(shown_frames(), "model", weights="download"))
    assert run.error_node == "model"
    check_sentence(run, "Could not download", "HF_HUB_OFFLINE", "FLOAT.safetensors", "https://")
    assert not [p for p in (server.base / "models").rglob("*") if p.suffix == ".safetensors"]


def test_weights_without_the_emotion_network(client: ComfyClient) -> None:
    graph = changed(talking(), "model", weights="float.pth")
    run = failing(client, reported(changed(graph, "talk", emotion="from speech"), ("talk", 0)))
    check_sentence(run, "no emotion network", "choose one of the seven")
    chosen = client.run(reported(graph, ("talk", 0)))
    assert chosen.status == "success", chosen.error


@pytest.mark.parametrize("name", ["../FLOAT.safetensors", "/etc/passwd", "absent.safetensors"])
def test_names_that_are_not_listed(client: ComfyClient, name: str) -> None:
    with pytest.raises(Refused, match="Expected weights of a listed name"):
        client.queue(changed(shown_frames(), "model", weights=name))


def test_a_missing_wire(client: ComfyClient) -> None:
    graph = shown_frames()
    del graph["motion"]["inputs"]["speech"]
    with pytest.raises(Refused, match="Required input is missing: speech"):
        client.queue(graph)


@pytest.mark.parametrize(
    ("target", "name", "source"),
    [
        ("motion", "speech", "portrait"),
        ("motion", "emotion", "speech"),
        ("frames", "motion", "portrait"),
        ("frames", "model", "motion"),
        ("frames", "fps", "model"),
        ("portrait", "image", "sound"),
        ("speech", "audio", "crop"),
    ],
)
def test_a_wrong_wire(client: ComfyClient, target: str, name: str, source: str) -> None:
    with pytest.raises(Refused, match="Return type mismatch"):
        client.queue(changed(shown_frames(), target, **{name: (source, 0)}))


def test_a_crop_is_no_picture(client: ComfyClient) -> None:
    with pytest.raises(Refused, match="Return type mismatch"):
        client.queue(changed(shown_frames(), "portrait", image=("crop", 1)))


def test_stages_of_two_models(client: ComfyClient) -> None:
    graph = shown_frames()
    graph["other"] = node("FLOATLoadModel", weights="small.safetensors", precision="auto")
    run = failing(client, changed(graph, "frames", model=("other", 0)))
    check_sentence(run, "Expected a portrait of this model", "same Load Model (FLOAT)")
    run = failing(client, changed(graph, "motion", model=("other", 0)))
    check_sentence(run, "Expected a portrait of this model", "same Load Model (FLOAT)")


@pytest.mark.parametrize("build", [talking, frames], ids=["one node", "stages"])
@pytest.mark.parametrize(
    "picture",
    [
        {"width": 37, "height": 5000},
        {"width": 5000, "height": 37},
        {"width": 90, "height": 70, "channels": 4},
        {"channels": 1},
        {"width": 6000, "height": 4500},
    ],
    ids=["37x5000", "5000x37", "RGBA", "grey", "large"],
)
def test_odd_pictures_work(
    client: ComfyClient, build: Callable[[], Graph], picture: dict[str, int]
) -> None:
    graph = changed(build(), "picture", **picture)
    run = client.run(reported(graph, (list(graph)[-1], 0)))
    assert run.status == "success", run.error


@pytest.mark.parametrize(
    "sound",
    [
        {"sample_rate": 8000},
        {"sample_rate": 48000, "channels": 6},
        {"sample_rate": 44101, "channels": 2},
        {"seconds": 0.1},
    ],
    ids=["8 kHz mono", "48 kHz six channels", "44,101 Hz", "0.1 s"],
)
def test_odd_sounds_work(client: ComfyClient, sound: dict[str, float], tmp_path: Path) -> None:
    run = client.run(changed(rendered(), "sound", **sound))
    assert run.status == "success", run.error
    assert client.files(run, tmp_path)[0].stat().st_size > 1000


@pytest.mark.parametrize("build", [talking, frames], ids=["one node", "stages"])
@pytest.mark.parametrize(
    ("sound", "words"),
    [({"seconds": 0.0}, "Expected AUDIO with sound in it"), ({"seconds": 0.05}, "at least 0.1 s")],
    ids=["empty", "too short"],
)
def test_sounds_that_say_nothing(
    client: ComfyClient, build: Callable[[], Graph], sound: dict[str, float], words: str
) -> None:
    graph = changed(build(), "sound", **sound)
    check_sentence(failing(client, reported(graph, (list(graph)[-1], 0))), words)


def test_a_picture_too_small(client: ComfyClient) -> None:
    graph = changed(shown_frames(), "picture", width=15)
    check_sentence(failing(client, graph), "at least 16", "15 x 64")


def test_batches_that_do_not_fit(client: ComfyClient) -> None:
    graph = changed(changed(shown_frames(), "picture", batch=3), "sound", batch=2)
    check_sentence(failing(client, graph), "Expected one of each or equal numbers", "3", "2")


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("background", "no colour", "Expected a colour"),
        ("detection", "guess", "Expected detection of auto"),
        ("detection", "yunet", "face_detection_yunet"),
    ],
)
def test_settings_of_the_crop(client: ComfyClient, name: str, value: str, words: str) -> None:
    check_sentence(failing(client, changed(shown_frames(), "crop", **{name: value})), words)


@pytest.mark.parametrize(
    ("target", "name", "value"),
    [("frames", "fps", 0.0), ("frames", "fps", 121.0), ("motion", "time_points", 1)],
)
def test_numbers_out_of_range(client: ComfyClient, target: str, name: str, value: float) -> None:
    with pytest.raises(Refused, match=r"(smaller than min|bigger than max)"):
        client.queue(changed(shown_frames(), target, **{name: value}))


@pytest.mark.parametrize(("name", "value"), [("emotion", "hangry"), ("solver", "guess")])
def test_choices_that_are_none(client: ComfyClient, name: str, value: str) -> None:
    target = "emotion" if name == "emotion" else "motion"
    graph = changed(reported(stages(), ("motion", 0)), target, **{name: value})
    check_sentence(failing(client, graph), value)


def test_a_run_after_an_error_reuses_what_still_holds(client: ComfyClient) -> None:
    good = shown_frames()
    assert client.run(good).status == "success"
    assert client.run(changed(good, "crop", background="no colour")).status == "error"
    run = client.run(good)
    assert run.status == "success"
    assert run.cached >= {"model", "speech"}
