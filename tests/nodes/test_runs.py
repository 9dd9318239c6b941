"""Graphs that run to their end: videos, batches, cached stages, memory."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import av
import pytest

from tests.nodes.checkouts import vhs_path
from tests.nodes.comfy_client import ComfyClient, Graph, Run
from tests.nodes.comfy_server import ComfyServer
from tests.nodes.graphs import (
    WEIGHTS,
    changed,
    combined,
    frames,
    node,
    rendered,
    reported,
    saved,
    stages,
    streamed,
    talking,
)

pytestmark = pytest.mark.comfyui

SIDE = 64


def run_well(client: ComfyClient, graph: Graph) -> Run:
    run = client.run(graph)
    assert run.status == "success", run.error
    return run


def report(run: Run, node_id: str, slot: int) -> list[Any]:
    """Return what a graph showed of an output, one entry for each item of a list."""
    return [json.loads(text) for text in run.outputs[f"report {node_id} {slot}"]["report"]]


def ran(graph: Graph, run: Run) -> set[str]:
    """Return the ids of the nodes that were not answered from the cache."""
    return set(graph) - run.cached


def check_video(path: Path, fps: float, frame_count: int, seconds: float) -> None:
    with av.open(str(path)) as file:
        video, audio = file.streams.video[0], file.streams.audio[0]
        pictures = [picture.to_ndarray(format="rgb24") for picture in file.decode(video)]
        file.seek(0)
        heard = sum(float(sound.samples / sound.sample_rate) for sound in file.decode(audio))
        rate = float(video.average_rate)
    assert len(pictures) == frame_count
    assert pictures[0].shape == (SIDE, SIDE, 3)
    assert pictures[0].std() > 5
    assert rate == pytest.approx(fps, rel=1e-3)
    assert heard == pytest.approx(seconds, abs=max(1 / fps, 0.07))


def test_stages_to_a_video_by_core_nodes(client: ComfyClient, tmp_path: Path) -> None:
    graph = saved(frames(), ("frames", 0), ("frames", 1), ("sound", 0))
    (path,) = client.files(run_well(client, graph), tmp_path)
    check_video(path, fps=25, frame_count=25, seconds=1)


@pytest.mark.skipif(vhs_path() is None, reason="no VideoHelperSuite: name its checkout in VHS_PATH")
def test_stages_to_a_video_by_video_combine(client: ComfyClient, tmp_path: Path) -> None:
    graph = combined(frames(), ("frames", 0), ("frames", 1), ("sound", 0))
    files = client.files(run_well(client, graph), tmp_path)
    (path,) = [file for file in files if file.name.endswith("-audio.mp4")]
    check_video(path, fps=25, frame_count=25, seconds=1)


@pytest.mark.parametrize(("fps", "frame_count"), [(25.0, 25), (29.97, 30), (50.0, 50), (12.5, 13)])
def test_rendering_straight_into_a_file(
    client: ComfyClient, tmp_path: Path, fps: float, frame_count: int
) -> None:
    graph = changed(rendered(), "video", fps=fps)
    (path,) = client.files(run_well(client, graph), tmp_path)
    check_video(path, fps=fps, frame_count=frame_count, seconds=1)
    with av.open(str(path)) as file:
        assert "AI-generated" in file.metadata["comment"]


def test_one_node_to_a_video(client: ComfyClient, tmp_path: Path) -> None:
    graph = saved(talking(), ("talk", 0), ("talk", 2), ("talk", 1))
    graph = changed(graph, "talk", emotion="from speech")
    (path,) = client.files(run_well(client, graph), tmp_path)
    check_video(path, fps=25, frame_count=25, seconds=1)


@pytest.mark.parametrize(("fps", "frame_count"), [(25.0, 25), (29.97, 30)])
def test_one_node_streams_into_a_video(
    client: ComfyClient, tmp_path: Path, fps: float, frame_count: int
) -> None:
    graph = changed(streamed(), "talk", fps=fps)
    (path,) = client.files(run_well(client, graph), tmp_path)
    check_video(path, fps=fps, frame_count=frame_count, seconds=1)


def test_streaming_a_batch_gives_a_list_of_videos(client: ComfyClient, tmp_path: Path) -> None:
    graph = changed(changed(streamed(), "picture", batch=2), "sound", batch=2)
    paths = client.files(run_well(client, graph), tmp_path)
    assert len(paths) == 2
    for path in paths:
        check_video(path, fps=25, frame_count=25, seconds=1)


def test_the_streamed_video_shows_the_frames_of_the_stages(
    client: ComfyClient, tmp_path: Path
) -> None:
    """Bit for bit through the same encoder: the streamed file equals the rendered one."""
    videos = []
    for graph in (changed(rendered(), "motion", time_points=10), streamed()):
        if "crop" in graph:
            graph = changed(graph, "crop", detection="auto")
        (path,) = client.files(run_well(client, graph), tmp_path)
        with av.open(str(path)) as file:
            videos.append([frame.to_ndarray() for frame in file.decode(video=0)])
    assert len(videos[0]) == len(videos[1]) == 25
    assert all((a == b).all() for a, b in zip(*videos, strict=True))


def test_one_node_shows_what_the_stages_show(client: ComfyClient) -> None:
    staged = reported(changed(frames(), "motion", time_points=10), ("frames", 0))
    staged = changed(staged, "crop", detection="auto")
    alone = reported(talking(), ("talk", 0), ("talk", 2))
    expected = report(run_well(client, staged), "frames", 0)
    run = run_well(client, alone)
    assert report(run, "talk", 0) == expected
    assert report(run, "talk", 2) == [25.0]


def test_examples_run_at_the_first_press(client: ComfyClient) -> None:
    graph = {"picture": node("FLOATExamplePortrait"), "sound": node("FLOATExampleSpeech")}
    run = run_well(client, reported(graph, ("picture", 0), ("sound", 0)))
    (picture,), (sound,) = report(run, "picture", 0), report(run, "sound", 0)
    assert picture["shape"] == [1, 512, 512, 3]
    graph = changed(graph, "picture", picture="photo")
    (photo,) = report(run_well(client, reported(graph, ("picture", 0))), "picture", 0)
    assert photo["shape"] == [1, 512, 512, 3]
    assert photo != picture
    batch, _, samples = sound["waveform"]["shape"]
    assert batch == 1
    assert 7 <= samples / sound["sample_rate"] <= 12
    assert sound["waveform"]["spread"] > 0.01


def test_every_layout_gives_the_same_frames(client: ComfyClient) -> None:
    one = run_well(client, reported(frames(), ("frames", 0)))
    graph = changed(reported(frames(), ("frames", 0)), "model", weights="parts/")
    (expected,), (shown,) = report(one, "frames", 0), report(run_well(client, graph), "frames", 0)
    assert shown.pop("shape") == expected.pop("shape")
    assert shown == pytest.approx(expected, abs=1e-5)


def test_the_published_layout_finds_its_parts_in_the_audio_folder(client: ComfyClient) -> None:
    graph = changed(reported(frames(), ("frames", 0)), "model", weights="float.pth")
    assert report(run_well(client, graph), "frames", 0)[0]["shape"] == [25, SIDE, SIDE, 3]


@pytest.mark.parametrize("precision", ["auto", "fp16", "bf16"])
def test_other_precisions_stay_near(client: ComfyClient, precision: str) -> None:
    whole = report(run_well(client, reported(frames(), ("frames", 0))), "frames", 0)
    graph = changed(reported(frames(), ("frames", 0)), "model", precision=precision)
    half = report(run_well(client, graph), "frames", 0)
    assert precision == "auto" or half != whole
    assert half[0]["mean"] == pytest.approx(whole[0]["mean"], abs=0.02)


@pytest.mark.parametrize(
    ("pictures", "sounds", "clips"), [(1, 2, 2), (3, 1, 3), (2, 2, 2)], ids=["1xN", "Nx1", "NxN"]
)
def test_batches_give_a_list_of_clips(
    client: ComfyClient, tmp_path: Path, pictures: int, sounds: int, clips: int
) -> None:
    graph = changed(changed(talking(), "picture", batch=pictures), "sound", batch=sounds)
    graph = saved(graph, ("talk", 0), ("talk", 2), ("talk", 1))
    run = run_well(client, reported(graph, ("talk", 0), ("talk", 1)))
    shown, heard = report(run, "talk", 0), report(run, "talk", 1)
    assert [entry["shape"] for entry in shown] == [[25, SIDE, SIDE, 3]] * clips
    assert len({entry["mean"] for entry in shown}) == clips
    assert {tuple(entry["waveform"]["shape"]) for entry in heard} == {(1, 1, 16000)}
    paths = client.files(run, tmp_path)
    assert len(paths) == clips
    for path in paths:
        check_video(path, fps=25, frame_count=25, seconds=1)


def test_rendering_a_batch_gives_a_list_of_videos(client: ComfyClient, tmp_path: Path) -> None:
    graph = changed(changed(rendered(), "picture", batch=2), "sound", batch=2)
    paths = client.files(run_well(client, graph), tmp_path)
    assert len(paths) == 2
    for path in paths:
        check_video(path, fps=25, frame_count=25, seconds=1)


def test_every_knob_of_the_sampler_turns_something(client: ComfyClient) -> None:
    graph = reported(stages(), ("motion", 0))
    before = report(run_well(client, graph), "motion", 0)
    knobs: dict[str, Any] = {
        "audio_guidance": 3.0,
        "emotion_guidance": 4.0,
        "reference_guidance": 2.0,
        "time_points": 5,
        "solver": "heun2",
        "seed": 16,
    }
    for name, value in knobs.items():
        after = report(run_well(client, changed(graph, "motion", **{name: value})), "motion", 0)
        assert after != before, name


def test_every_knob_of_the_crop_turns_something(client: ComfyClient) -> None:
    graph = changed(stages(), "picture", channels=4, width=80)
    graph = reported(graph, ("crop", 0), ("crop", 1))
    before = report(run_well(client, graph), "crop", 0)
    knobs: dict[str, Any] = {"background": "#ff8000", "size": 128, "detection": "whole"}
    for name, value in knobs.items():
        after = report(run_well(client, changed(graph, "crop", **{name: value})), "crop", 0)
        assert after != before, name


def test_emotion_is_heard_only_when_asked_for(client: ComfyClient) -> None:
    chosen = reported(frames(), ("frames", 0))
    chosen = changed(chosen, "sound", pitch=131.0)
    client.post("/free", {"unload_models": True, "free_memory": True})
    run_well(client, chosen)
    assert "EmotionClassifier" not in client.get("/float_test/state")["loaded"]
    heard = {
        **chosen,
        "emotion": node("FLOATEmotionFromSpeech", model=("model", 0), audio=("sound", 0)),
    }
    run = run_well(client, reported(heard, ("emotion", 0), ("emotion", 1)))
    assert "EmotionClassifier" in client.get("/float_test/state")["loaded"]
    assert report(run, "emotion", 0)[0]["shape"] == [1, 1, 7]
    (text,) = report(run, "emotion", 1)
    from float_core.emotion import EMOTIONS

    assert all(name in text for name in EMOTIONS)


def test_nodes_show_what_they_found(client: ComfyClient) -> None:
    heard = node("FLOATEmotionFromSpeech", model=("model", 0), audio=("sound", 0))
    graph = changed({**stages(), "emotion": heard}, "picture", phase=0.25)
    graph = changed(changed(graph, "crop", detection="auto"), "sound", pitch=133.0)
    with client.listening() as page:
        run_well(client, reported(graph, ("crop", 0), ("emotion", 0)))
        time.sleep(0.3)
    shown = dict(page.texts)
    assert shown["crop"].startswith("framed by: ")
    assert "happy" in shown["emotion"]


def test_another_emotion_encodes_nothing_again(client: ComfyClient) -> None:
    graph = reported(frames(), ("frames", 0))
    run_well(client, graph)
    other = changed(graph, "emotion", emotion="sad")
    assert ran(other, run_well(client, other)) == {"emotion", "motion", "frames", "report frames 0"}


def test_another_fps_samples_nothing_again(client: ComfyClient) -> None:
    graph = reported(frames(), ("frames", 0))
    run_well(client, graph)
    other = changed(graph, "frames", fps=30.0)
    assert ran(other, run_well(client, other)) == {"frames", "report frames 0"}


def test_the_same_graph_runs_nothing_again(client: ComfyClient) -> None:
    graph = reported(frames(), ("frames", 0))
    run_well(client, graph)
    assert ran(graph, run_well(client, graph)) <= {"report frames 0"}


def test_a_changed_weights_file_is_noticed(client: ComfyClient, tiny_weights: Path) -> None:
    name = "replaced.safetensors"
    folder = tiny_weights / "float"
    shutil.copyfile(folder / WEIGHTS, folder / name)
    graph = changed(reported(frames(), ("frames", 0)), "model", weights=name)
    run_well(client, graph)
    assert "model" not in ran(graph, run_well(client, graph))
    later = (folder / name).stat().st_mtime + 10
    os.utime(folder / name, (later, later))
    assert ran(graph, run_well(client, graph)) >= {"model", "portrait", "speech", "motion"}


def test_memory_stays_where_it_was_after_the_second_run(
    client: ComfyClient, server: ComfyServer
) -> None:
    graph = saved(frames(), ("frames", 0), ("frames", 1), ("sound", 0))
    used = []
    for seed in range(10):
        run_well(client, changed(graph, "motion", seed=1000 + seed))
        used.append(server.memory_bytes())
    rise = used[9] - used[1]
    assert rise <= 20e6, [round(value / 1e6) for value in used]
