"""The demo weights, where they are there, used as a newcomer uses them."""

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from float_core.checkpoint import open_weights
from float_core.cli import main
from float_core.emotion import one_hot
from float_core.pipeline import FloatPipeline
from float_core.training import evaluate
from float_core.training.curves import mean_correlation
from float_core.training.demo import MAXIMUM_BYTES
from float_core.weights_choice import DEMO_FILE

ROOT = Path(__file__).parents[2]
DRAWING = ROOT / "assets" / "drawing.png"
SPEECH = ROOT / "assets" / "speech.flac"
CLIPS = 4

pytestmark = pytest.mark.skipif(
    not DEMO_FILE.is_file(), reason="no demo weights: python -m float_core train demo"
)


@cache
def demo() -> FloatPipeline:
    return FloatPipeline.from_checkpoint(DEMO_FILE, dtype=torch.float32)


def test_the_file_is_small_free_and_whole() -> None:
    weights = open_weights(DEMO_FILE)
    assert DEMO_FILE.stat().st_size <= MAXIMUM_BYTES
    assert weights.licence == "MIT"
    assert "model_card" in weights.metadata
    assert demo().config == weights.config


def test_talk_takes_it_where_nothing_is_found_and_says_so(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLOAT_WEIGHTS", raising=False)
    words = ["talk", "--image", DRAWING, "--audio", SPEECH, "--output", "talk.mp4", "--no-crop"]
    assert main(list(map(str, words))) == 0
    told = capsys.readouterr().out
    assert "Demo weights" in told
    assert "Emotion: neutral (these weights have no network that hears emotions" in told
    assert Path("talk.mp4").stat().st_size > 20_000


@cache
def spoken() -> tuple[Tensor, Tensor]:
    """Return the mouth's opening in generated frames, and the true one, (clips, frames) each.

    The opening is read off frames by the best linear combination of what the model's own encoder
    sees, fitted on drawn frames of other clips.
    """
    pipeline = demo()

    def seen(frames: Tensor) -> Tensor:
        parts = [pipeline.encode_portrait(part).motion for part in torch.split(frames, 25)]
        return torch.nn.functional.pad(torch.cat(parts), (0, 1), value=1.0)

    drawn = [evaluate.draw_clip(pipeline, 1, number) for number in range(6)]
    known = torch.cat([seen(clip.frames) for clip in drawn])
    opening = torch.cat([clip.opening for clip in drawn])
    reader = torch.linalg.lstsq(known, opening[:, None]).solution
    read, truth = [], []
    for number in range(CLIPS):
        clip = evaluate.draw_clip(pipeline, 0, number)
        performed = clip.performance
        frames = evaluate.generated(pipeline, clip.portrait, performed.sound, performed.emotion)
        read.append((seen(frames) @ reader)[:, 0])
        truth.append(clip.opening)
    return torch.stack(read), torch.stack(truth)


def test_the_mouth_follows_the_speech() -> None:
    read, truth = spoken()
    lag, best = evaluate.best_lag(read, truth)
    assert best > 0.6
    assert abs(lag) <= 1


def test_the_mouth_does_not_follow_the_speech_of_others() -> None:
    read, truth = spoken()
    assert mean_correlation(read, truth.roll(1, 0)) < 0.3


@pytest.mark.parametrize("emotion", ["happy", "sad"])
def test_an_emotion_moves_the_face(emotion: str) -> None:
    pipeline = demo()
    clip = evaluate.draw_clip(pipeline, 0, 0)
    speech = pipeline.encode_speech(clip.performance.sound[None, None, :32_000], 16_000)
    calm, moved = (
        pipeline.sample(clip.portrait, speech, one_hot(name)).latents
        for name in ("neutral", emotion)
    )
    assert (moved - calm).norm() > 0.1 * calm.norm()
