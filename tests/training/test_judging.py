"""The measures that judge a model, judged themselves."""

import pytest
import torch

from float_core.config import SPEECH_SAMPLE_RATE
from float_core.emotion import EMOTIONS
from float_core.pipeline import NETWORKS, FloatPipeline
from float_core.synthetic import synthetic_weights
from float_core.training import evaluate, readers, seeds
from float_core.training.clips import rehearse
from float_core.training.portraits import draw
from float_core.training.poses import index
from float_core.training.speaking import mean_correlation
from tests.training import tiny


def test_correlation_is_that_of_the_tracks() -> None:
    track = torch.rand(3, 40, generator=torch.Generator().manual_seed(0))
    assert mean_correlation(track, 2 * track + 1) == pytest.approx(1)
    assert mean_correlation(track, -track) == pytest.approx(-1)
    assert mean_correlation(track, torch.ones(3, 40)) == 0
    assert abs(mean_correlation(track, track.roll(1, 0))) < 0.4


@pytest.mark.parametrize("lag", [-3, 0, 2])
def test_a_lag_is_found(lag: int) -> None:
    truth = torch.rand(2, 60, generator=torch.Generator().manual_seed(1))
    found, score = evaluate.best_lag(truth.roll(lag, 1), truth)
    assert found == lag
    assert score > 0.9


def test_the_envelope_rises_where_the_sound_is() -> None:
    sound = torch.zeros(2 * SPEECH_SAMPLE_RATE)
    sound[SPEECH_SAMPLE_RATE // 2 : SPEECH_SAMPLE_RATE] = 0.5
    level = evaluate.envelope(sound, 25, 50)
    assert level.shape == (50,)
    assert level[15:23].min() == pytest.approx(0.5)
    assert level[:9].max() == 0
    assert level[29:].max() == 0


def test_a_reader_is_seeded(monkeypatch) -> None:
    monkeypatch.setattr(readers, "READER_BATCH", 4)
    for kind in ("opening", "emotion"):
        reader = readers.train_reader(kind, steps=2, frames=8)
        again = readers.train_reader(kind, steps=2, frames=8)
        frames = torch.rand(3, 3, 128, 128, generator=torch.Generator().manual_seed(0))
        assert torch.equal(reader.read(frames), again.read(frames))
    assert reader.read(frames).sum(1).tolist() == pytest.approx([1, 1, 1])


def held_out_frames(count: int):
    for number in range(count):
        clip = rehearse(seeds.HELD_OUT, 5, number, 2.0, 25)
        yield clip, draw(clip.who.repeated(50), clip.pose, readers.DRAWN_SIDE).image


@pytest.mark.slow
def test_the_meter_agrees_with_the_truth_on_drawn_frames() -> None:
    meter = readers.train_reader("opening", steps=600, frames=3000)
    read, truth = [], []
    for clip, frames in held_out_frames(14):
        read.append(meter.read(frames))
        truth.append(clip.pose[:, index("opening")])
    assert mean_correlation(torch.stack(read), torch.stack(truth)) > 0.95


@pytest.mark.slow
def test_the_emotion_is_told_on_drawn_frames() -> None:
    reader = readers.train_reader("emotion")
    told = [
        EMOTIONS[int(reader.read(frames).mean(0).argmax())] == clip.emotion
        for clip, frames in held_out_frames(14)
    ]
    assert sum(told) >= 12


def test_a_model_without_sense_scores_nothing(monkeypatch) -> None:
    monkeypatch.setattr(evaluate, "CLIP_SECONDS", 1.0)
    monkeypatch.setattr(evaluate, "PAIRS", 4)
    state = synthetic_weights(tiny.CONFIG, NETWORKS, ("emotion_classifier",))
    pipeline = FloatPipeline.from_state_dict(state, tiny.CONFIG)
    judges = evaluate.Judges(
        *(readers.train_reader(k, steps=1, frames=4) for k in ("opening", "emotion"))
    )
    done = []
    figures = evaluate.judge(pipeline, judges, 0, 2, lambda *at: done.append(at))
    assert done == [(1, 2), (2, 2)]
    assert all(torch.isfinite(torch.tensor(value)) for value in figures.values())
    assert figures["reconstruction over copying"] < 0
    assert figures["opening generated"] < 0.9
    sound = rehearse(seeds.HELD_OUT, 5, 0, 1.0, 25).sound
    portrait = evaluate.draw_clip(pipeline, 0, 0).portrait
    recorded = evaluate.judge_recordings(
        pipeline, judges.opening, [(sound[None, None], SPEECH_SAMPLE_RATE)], portrait
    )
    assert abs(recorded["opening against envelope"]) <= 1
