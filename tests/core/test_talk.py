"""talk: whole runs on a tiny model, what must work, and what must be refused."""

import json
import logging
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from parity.model import ROOT
from PIL import Image

from float_core import weights_choice
from float_core.checkpoint import CONFIG_KEY
from float_core.cli import main
from float_core.media import VideoWriter
from tests.core.weights import SMALL, save_one_file, synthetic_state_dict

RATE = 16000


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    metadata = {CONFIG_KEY: json.dumps(SMALL.to_dict())}
    return save_one_file(synthetic_state_dict(SMALL), folder, metadata=metadata)


def write_image(path: Path, height: int = 64, width: int = 64, mode: str = "RGB") -> Path:
    levels = np.random.default_rng(0).integers(0, 255, (height, width, len(mode)), np.uint8)
    Image.fromarray(levels.squeeze(), mode).save(path)
    return path


def write_sound(
    path: Path, seconds: float = 0.5, rate: int = RATE, channels: int = 1, level: float = 0.3
) -> Path:
    samples = np.random.default_rng(1).normal(0, level, (channels, round(seconds * rate)))
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[channels]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_f32le", rate=rate, layout=layout)
        if samples.size:
            packed = samples.astype(np.float32).T.reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(packed, format="flt", layout=layout)
            frame.sample_rate = rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture
def image(tmp_path) -> Path:
    return write_image(tmp_path / "face.png")


@pytest.fixture
def sound(tmp_path) -> Path:
    return write_sound(tmp_path / "voice.wav")


def run(weights, image, sound, *more: object, output: Path | None = None) -> tuple[int, Path]:
    """Run talk in this process; return its status and the file it was to write."""
    output = output or Path(image).parent / "out.mp4"
    words = ["talk", "--image", image, "--audio", sound, "--output", output]
    words += ["--emotion", "happy", "--device", "cpu"]
    if weights is not None:
        words += ["--weights", weights]
    return main([*map(str, words), *map(str, more)]), output


def count(path: Path) -> tuple[int, Fraction, int]:
    """Return the frames, the rate and the side of a video."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = sum(1 for _ in container.decode(stream))
        return frames, stream.average_rate, stream.width


@pytest.mark.parametrize("seconds", [0.1, 0.5, 1.01, 2.0])
def test_frames_are_the_seconds_times_25_rounded_up(seconds, weights, image, tmp_path) -> None:
    sound = write_sound(tmp_path / "voice.wav", seconds)
    status, video = run(weights, image, sound)
    assert status == 0
    # The small model was trained at 20 frames a second; the video has 25.
    assert abs(count(video)[0] - int(np.ceil(seconds * 25))) <= 1
    assert count(video)[1:] == (25, 16)


def test_the_report_says_what_was_done(weights, image, sound, capsys) -> None:
    run(weights, image, sound, "--box", "10,10,30,40", "--fps", "50")
    text = capsys.readouterr().out
    assert "25 frames at 50 fps" in text
    assert "framed by: box" in text
    for stage in ("weights", "portrait", "emotion", "first frame", "video"):
        assert f"{stage} " in text


def test_the_emotion_is_heard(weights, image, sound, capsys) -> None:
    status, _ = run(weights, image, sound, "--emotion", "speech")
    assert status == 0
    text = capsys.readouterr().out
    assert all(name in text for name in ("angry", "surprise"))


@pytest.mark.parametrize(
    "turn",
    [
        ("--emotion", "sad"),
        ("--audio-guidance", "4"),
        ("--emotion-guidance", "4"),
        ("--reference-guidance", "3"),
        ("--time-points", "3"),
        ("--solver", "midpoint"),
        ("--seed", "3"),
        ("--fps", "24"),
        ("--box", "5,5,20,20"),
        ("--no-crop", "--background", "#ff8800"),
        ("--margin", "0.8", "--box", "10,10,44,44"),
        ("--dtype", "fp16"),
    ],
)
def test_every_option_changes_the_video(turn, weights, sound, tmp_path) -> None:
    image = write_image(tmp_path / "face.png", 64, 96)
    usual, turned = tmp_path / "usual.mp4", tmp_path / "turned.mp4"
    base = ("--box", "10,10,44,44") if "--margin" in turn else ()
    assert run(weights, image, sound, *base, output=usual)[0] == 0
    assert run(weights, image, sound, *turn, output=turned)[0] == 0
    assert usual.read_bytes() != turned.read_bytes()


def test_the_background_alone_changes_the_video(weights, sound, tmp_path) -> None:
    image = write_image(tmp_path / "face.png", 64, 64, "RGBA")
    black, white = tmp_path / "black.mp4", tmp_path / "white.mp4"
    run(weights, image, sound, output=black)
    run(weights, image, sound, "--background", "#ffffff", output=white)
    assert black.read_bytes() != white.read_bytes()


@pytest.mark.parametrize("mode", ["RGBA", "L", "LA"])
def test_pictures_of_other_kinds_work(mode, weights, sound, tmp_path) -> None:
    status, video = run(weights, write_image(tmp_path / "a.png", mode=mode), sound)
    assert (status, count(video)[0]) == (0, 13)


@pytest.mark.parametrize(("rate", "channels"), [(8000, 1), (48000, 6), (44100, 2)])
def test_sounds_of_other_kinds_work(rate, channels, weights, image, tmp_path) -> None:
    status, video = run(weights, image, write_sound(tmp_path / "a.wav", 0.5, rate, channels))
    assert (status, count(video)[0]) == (0, 13)


def test_silence_works_with_a_warning(weights, image, tmp_path, caplog) -> None:
    sound = write_sound(tmp_path / "a.wav", level=0)
    with caplog.at_level(logging.WARNING):
        assert run(weights, image, sound)[0] == 0
    assert "silent" in caplog.text


def test_a_portrait_without_a_face_works_with_a_warning(weights, image, sound, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        assert run(weights, image, sound)[0] == 0
    assert "centre of the picture" in caplog.text


def refused(capsys, status: int, output: Path, *words: str) -> None:
    """Hold a refusal: status 2, one sentence that has the words, no file of any name."""
    text = capsys.readouterr().err.strip()
    assert status == 2
    assert all(word in text for word in words), text
    assert len(text.splitlines()) == 1
    if output.parent.is_dir():
        assert not list(output.parent.glob("*.mp4"))
        assert not list(output.parent.glob("*.part"))


@pytest.mark.parametrize("which", ["image", "sound"])
def test_a_missing_file(which, weights, image, sound, tmp_path, capsys) -> None:
    paths = {"image": image, "sound": sound, which: tmp_path / "none.png"}
    refused(capsys, *run(weights, paths["image"], paths["sound"]), "none.png")


@pytest.mark.parametrize("which", ["image", "sound"])
def test_a_text_file_by_another_name(which, weights, image, sound, tmp_path, capsys) -> None:
    text = tmp_path / ("a.png" if which == "image" else "a.wav")
    text.write_text("no picture and no sound")
    paths = {"image": image, "sound": sound, which: text}
    refused(capsys, *run(weights, paths["image"], paths["sound"]), text.name)


@pytest.mark.parametrize("seconds", [0, 0.09])
def test_empty_and_too_short_sound(seconds, weights, image, tmp_path, capsys) -> None:
    sound = write_sound(tmp_path / "a.wav", seconds)
    refused(capsys, *run(weights, image, sound), "sound" if seconds else "a.wav")


def test_samples_that_are_no_numbers(weights, image, tmp_path, capsys) -> None:
    sound = write_sound(tmp_path / "a.wav", level=float("nan"))
    refused(capsys, *run(weights, image, sound), "NaN")


def test_a_side_under_16(weights, sound, tmp_path, capsys) -> None:
    image = write_image(tmp_path / "a.png", 15, 40)
    refused(capsys, *run(weights, image, sound), "16")


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [
        ("--emotion", "bored", "bored"),
        ("--fps", "0", "fps from 1 to 120, got 0"),
        ("--fps", "-5", "got -5"),
        ("--time-points", "1", "got 1"),
        ("--solver", "rk45", "rk45"),
        ("--seed", "-1", "got -1"),
        ("--box", "1,2,3", "X,Y,W,H"),
        ("--box", "1,2,0,4", "face box"),
        ("--margin", "0", "margin above 0"),
        ("--background", "no colour", "no colour"),
        ("--device", "toaster", "toaster"),
    ],
)
def test_options_out_of_range(option, value, word, weights, image, sound, capsys) -> None:
    try:
        status, output = run(weights, image, sound, f"{option}={value}")
    except SystemExit as stop:  # the parser's own refusals
        status, output = stop.code, image.parent / "out.mp4"
    refused(capsys, status, output, word)


def test_weights_of_another_model(image, sound, tmp_path, capsys) -> None:
    other = save_one_file({"encoder.weight": torch.zeros(3, 3)}, tmp_path)
    refused(capsys, *run(other, image, sound), "FLOAT.safetensors")


def test_weights_that_are_not_there(image, sound, tmp_path, capsys) -> None:
    refused(capsys, *run(tmp_path / "none", image, sound), "none")


def test_no_weights_at_all(image, sound, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLOAT_WEIGHTS", raising=False)
    monkeypatch.setattr(weights_choice, "DEMO_FILE", tmp_path / "none")
    refused(capsys, *run(None, image, sound), "FLOAT_WEIGHTS", "models/float", "--weights")


def test_weights_found_by_the_variable(weights, image, sound, monkeypatch) -> None:
    monkeypatch.setenv("FLOAT_WEIGHTS", str(weights.parent))
    assert run(None, image, sound)[0] == 0


def test_weights_found_in_the_models_folder(weights, image, sound, tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("FLOAT_WEIGHTS", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "float").symlink_to(weights.parent)
    assert run(None, image, sound)[0] == 0


def test_an_output_folder_that_is_not_there(weights, image, sound, tmp_path, capsys) -> None:
    output = tmp_path / "none" / "out.mp4"
    refused(capsys, *run(weights, image, sound, output=output), "none")


def test_an_output_folder_that_cannot_be_written(weights, image, sound, capsys) -> None:
    output = Path("/proc/out.mp4")  # even root writes no file there
    status, _ = run(weights, image, sound, output=output)
    text = capsys.readouterr().err.strip()
    assert status == 2
    assert "/proc" in text
    assert len(text.splitlines()) == 1


def test_a_failure_in_the_video_leaves_no_file(weights, image, sound, monkeypatch, capsys) -> None:
    def fail(_writer: VideoWriter, _frames: torch.Tensor) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(VideoWriter, "write", fail)
    refused(capsys, *run(weights, image, sound), "No space left")


def start_long_run(weights: Path, image: Path, folder: Path) -> subprocess.Popen[str]:
    """Start talk in a process of its own, and wait until it has begun to write the video."""
    sound = write_sound(folder / "long.wav", 120)
    command = [sys.executable, "-m", "float_core", "talk", "--emotion=sad", "--device=cpu"]
    command += [f"--image={image}", f"--audio={sound}", f"--output={folder / 'out.mp4'}"]
    process = subprocess.Popen(
        [*command, f"--weights={weights}"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        # A background job of a shell ignores SIGINT, and so would this child.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not list(folder.glob(".out.mp4*.part")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


def test_ctrl_c_leaves_no_file(weights, image, tmp_path) -> None:
    process = start_long_run(weights, image, tmp_path)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "no file was written" in error
    assert sorted(p.name for p in tmp_path.iterdir()) == ["face.png", "long.wav"]


def test_a_killed_run_leaves_only_a_hidden_part(weights, image, tmp_path) -> None:
    """Nothing can be tidied up then, but no half file may have the name of a whole one."""
    process = start_long_run(weights, image, tmp_path)
    with pytest.raises(subprocess.TimeoutExpired):  # still at work when it is killed
        process.wait(timeout=0.5)
    appeared = (tmp_path / "out.mp4").exists()
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert not appeared
    left = {p.name for p in tmp_path.iterdir()} - {"face.png", "long.wav"}
    assert len(left) == 1
    (name,) = left
    assert name.startswith(".out.mp4")
    assert name.endswith(".part")


def test_info_and_convert(weights, tmp_path, capsys) -> None:
    output = tmp_path / "half.safetensors"
    assert main(["convert", str(weights), str(output), "--dtype", "bf16"]) == 0
    assert main(["info", str(output)]) == 0
    text = capsys.readouterr().out
    assert "bfloat16" in text
    assert "CC BY-NC" in text
    assert main(["info", str(tmp_path / "none")]) == 2
    assert main(["convert", str(weights), str(tmp_path / "a.bin")]) == 2


def test_help_names_every_option(capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["talk", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for option in ("--image", "--audio", "--emotion-guidance", "--no-crop", "--weights", "consent"):
        assert option in text
