"""Phase 2: clips, windows, dropout, and steps; then the weights in one file."""

import json
from dataclasses import replace

import pytest
import torch

from float_core import cli
from float_core.checkpoint import open_weights
from float_core.config import SamplingOptions
from float_core.emotion import one_hot
from float_core.motion import MotionBasis
from float_core.pipeline import FloatPipeline
from float_core.training import seeds, speaking, surrogate
from float_core.training.autoencoder import build_networks
from float_core.training.clips import IMAGINED, SILENT_EVERY, make_library, rehearse, watched
from float_core.training.demo import choose_recipe, export, plan_minutes, train_all
from float_core.training.poses import index, random_poses
from float_core.training.recipe import Recipe
from float_core.training.runs import Log, Run
from float_core.training.speaking import SpeakingTask
from tests.training import tiny


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    return tiny.library(folder), tiny.library(folder, seeds.HELD_OUT)


def speaking_task(clips, steps: int = 4) -> SpeakingTask:
    torch.manual_seed(0)
    networks = build_networks(tiny.CONFIG)
    basis = MotionBasis.from_weight(networks["decoder"].direction.weight.detach())
    shape = tiny.stage(steps)
    return SpeakingTask(tiny.CONFIG, shape, 0, tiny.CPU, *clips, basis, networks["probe"])


def test_clips_are_seeded_and_kept_apart(clips, tmp_path) -> None:
    again = tiny.library(tmp_path)
    training, held_out = clips
    assert torch.equal(again.coefficients, training.coefficients)
    assert torch.equal(again.sound, training.sound)
    assert not torch.equal(training.sound, held_out.sound)
    assert training.pose.shape[:2] == training.coefficients.shape[:2] == (3, 25)
    assert training.sound.shape == (3, 16_000)
    assert training.emotion.tolist() == [0, 1, 2]


def test_clips_that_were_made_are_not_made_again(tmp_path, monkeypatch) -> None:
    first = tiny.library(tmp_path)
    monkeypatch.setattr("float_core.training.clips.rehearse", None)
    assert torch.equal(tiny.library(tmp_path).coefficients, first.coefficients)


def test_making_clips_can_stop(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("float_core.training.clips.SHARD_CLIPS", 1)
    encoder = build_networks(tiny.CONFIG)["encoder"]
    asked = tiny.session(tmp_path, stopped=lambda: True)
    see = watched(encoder, tiny.CONFIG, asked)
    assert make_library(see, tiny.CONFIG, seeds.TRAINING, 0, 3, 1.0, asked) is None
    assert len(list(tmp_path.glob("clips-*"))) == 1


def test_the_exact_velocity_has_no_loss() -> None:
    noise, motion = torch.randn(2, 8, 4), torch.randn(2, 8, 4)
    windows = speaking.Windows(noise, motion, torch.rand(2), None)  # type: ignore[arg-type]
    exact = speaking.velocity_losses(motion - noise, windows)
    assert exact["velocity"] == 0
    assert exact["change"] == 0
    offset = speaking.velocity_losses(motion - noise + 2, windows)
    assert offset["velocity"] == pytest.approx(2)
    assert offset["change"] == pytest.approx(0, abs=1e-6)


def test_conditions_are_dropped_as_often_as_published_and_each_by_itself() -> None:
    count = 4000
    ones = torch.ones(count, 2, 3)
    whole = speaking.sampling.WindowCondition(ones[:, 0], ones, ones, ones, ones)
    dropped = speaking.drop_conditions(whole, seeds.generator("dropout"))
    fields = ("reference", "previous_motion", "previous_speech", "speech", "emotion")
    kept = torch.stack([getattr(dropped, f).reshape(count, -1)[:, 0] for f in fields])
    expected = torch.tensor([0.9, 0.5, 0.5, 0.9, 0.9])
    torch.testing.assert_close(kept.mean(1), expected, atol=0.03, rtol=0)
    correlation = torch.corrcoef(kept) - torch.eye(5)
    assert correlation.abs().max() < 0.06


def test_windows_follow_what_came_before(clips) -> None:
    task = speaking_task(clips)
    windows, _ = task._windows(task.networks, clips[0], 32, seeds.generator("w"))
    context = tiny.CONFIG.transformer.context_frames
    previous = windows.condition.previous_motion
    first = (previous == 0).all(2).all(1)
    assert 0 < first.sum() < 32
    assert ((previous == 0).all(2).any(1) == first).all()
    # What precedes a window lies just before it in some clip.
    motion = task.basis.motion(clips[0].coefficients)
    for k in torch.nonzero(~first).flatten().tolist():
        joined = torch.cat((previous[k], windows.motion[k]))
        starts = motion.unfold(1, len(joined), 1).transpose(2, 3)
        assert (starts - joined).abs().amax((2, 3)).min() < 1e-5
    assert windows.motion.shape == (32, 8, tiny.CONFIG.latent_dim)
    assert windows.condition.speech.shape == (32, 8, tiny.CONFIG.speech_dim)
    assert context == previous.shape[1]


def test_one_step_lowers_the_loss(clips, tmp_path) -> None:
    task = speaking_task(clips)
    own = task.losses
    task.losses = lambda _step: own(0)  # type: ignore[method-assign]
    run = Run(tiny.stage(20), task, tiny.session(tmp_path))
    history = [run.train_step()["loss"] for _ in range(12)]
    assert history[1] < history[0]
    assert history[-1] < 0.98 * history[0]


def test_a_resumed_run_equals_an_unbroken_one(clips, tmp_path) -> None:
    states = []
    for name, breaks in (("unbroken", ()), ("resumed", (2,))):
        folder = tmp_path / name
        folder.mkdir()
        for stop in (*breaks, None):
            run = Run(tiny.stage(4), speaking_task(clips), tiny.session(folder))
            if stop is not None:
                run.session = replace(
                    run.session, stopped=lambda run=run, stop=stop: run.step >= stop
                )
            assert run.train() == (stop is None)
        states.append(run.average)
    for key in states[0]:
        assert torch.equal(states[0][key], states[1][key]), key


def test_the_whole_recipe_ends_in_weights_that_run(tmp_path) -> None:
    sitting = tiny.session(tmp_path)
    stopped = replace(sitting, stopped=lambda: True)
    assert train_all(tiny.RECIPE, tiny.CONFIG, stopped) is None
    trained = train_all(tiny.RECIPE, tiny.CONFIG, sitting)
    assert trained is not None
    again = train_all(tiny.RECIPE, tiny.CONFIG, sitting)  # all is done: nothing changes
    assert again is not None
    for key, value in trained.speaking.state_dict().items():
        assert torch.equal(value, again.speaking.state_dict()[key])
    export(trained, tiny.CONFIG, tmp_path / "demo.safetensors", tiny.RECIPE)
    weights = open_weights(tmp_path / "demo.safetensors")
    assert weights.licence == "MIT"
    assert "drawn" in weights.metadata["model_card"]
    assert weights.config.transformer == tiny.CONFIG.transformer
    assert {info.dtype for info in weights.info.values()} == {torch.float16}
    pipeline = FloatPipeline(weights, dtype=torch.float32)
    performance = rehearse(seeds.HELD_OUT, 9, 0, 1.0, 25)
    portrait = pipeline.encode_portrait(torch.zeros(1, 3, 32, 32))
    speech = pipeline.encode_speech(performance.sound[None, None], 16_000)
    motion = pipeline.sample(portrait, speech, one_hot("happy"), SamplingOptions(time_points=2))
    frames = torch.cat(list(pipeline.decode(portrait, motion)))
    assert frames.shape == (25, 3, 32, 32)
    assert torch.isfinite(frames).all()


def test_each_stage_begins_where_the_one_before_ended(tmp_path) -> None:
    train_all(tiny.RECIPE, tiny.CONFIG, tiny.session(tmp_path))
    lines = Log(tmp_path / "log.jsonl").lines()
    assert [line["stage"] for line in lines if line["step"] == 2 and "loss" in line] == [
        "encoder", "autoencoder-16", "autoencoder-32", "listening", "motion",
    ]  # fmt: skip
    assert any("held-out opening correlation" in line for line in lines)
    assert (tmp_path / "autoencoder-32-000002.png").stat().st_size > 1000


def test_a_recipe_is_kept_and_guarded(tmp_path) -> None:
    folder = tmp_path / "run"
    plan = lambda: tiny.RECIPE.scaled(2)  # noqa: E731
    first = choose_recipe(folder, False, plan, tiny.CONFIG)
    assert first.motion.steps == 4
    assert choose_recipe(folder, True, lambda: Recipe(), tiny.CONFIG) == first
    with pytest.raises(ValueError, match="--resume"):
        choose_recipe(folder, False, plan, tiny.CONFIG)
    with pytest.raises(ValueError, match="another model"):
        choose_recipe(folder, True, plan)
    assert json.loads((folder / "recipe.json").read_text())["recipe"]["clips"] == first.clips


def test_minutes_choose_the_number_of_steps(tmp_path) -> None:
    sitting = tiny.session(tmp_path)
    recipe = replace(tiny.RECIPE, motion=tiny.RECIPE.motion.with_steps(1000))
    short, long = (plan_minutes(recipe, tiny.CONFIG, m, sitting) for m in (0.05, 5.0))
    assert 1 <= short.motion.steps < long.motion.steps
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="minutes above 0"):
        plan_minutes(recipe, tiny.CONFIG, 0, sitting)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--output", "x.bin"], "ending in .safetensors"),
        (["--output", "nowhere/x.safetensors"], "no folder"),
        (["--output", "x.safetensors", "--minutes", "1", "--effort", "1"], "choose one"),
        (["--output", "x.safetensors", "--effort", "0"], "above 0"),
    ],
)
def test_the_command_line_refuses_in_one_sentence(
    words, expected, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "demo", *words]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert not list(tmp_path.iterdir())


def sightings(count: int, generator: torch.Generator) -> surrogate.Sightings:
    """Identities whose coefficients are a bent function of the pose plus a share of their own."""
    pose = random_poses(generator, count * 12).view(count, 12, -1)
    directions = torch.randn(pose.shape[-1], 6, generator=torch.Generator().manual_seed(9)) / 2
    own = 0.3 * torch.randn(count, 1, 6, generator=generator)
    return surrogate.Sightings(pose, torch.tanh(pose @ directions) + own)


def test_a_surrogate_tells_what_would_be_seen_of_unseen_identities() -> None:
    stream = torch.Generator().manual_seed(1)
    fitted = surrogate.fit(sightings(200, stream), 0)
    by_pose, by_both = surrogate.explained(fitted, sightings(50, stream))
    assert by_pose > 0.4
    assert by_both > 0.8


def test_imagined_clips_are_made_without_drawing(tmp_path, monkeypatch) -> None:
    encoder = build_networks(tiny.CONFIG)["encoder"]
    where = tiny.session(tmp_path)
    told = surrogate.make_surrogate(encoder, tiny.CONFIG, 0, 3, where)
    assert told is not None
    monkeypatch.setattr("float_core.training.clips.draw", None)
    monkeypatch.setattr("float_core.training.surrogate.look", None)
    again = surrogate.make_surrogate(encoder, tiny.CONFIG, 0, 3, where)
    assert again is not None
    clips = make_library(again.see, tiny.CONFIG, seeds.TRAINING, 0, 4, 1.0, where, IMAGINED)
    assert clips is not None
    assert clips.coefficients.shape == (4, 25, tiny.CONFIG.motion_dim)
    assert torch.allclose(clips.coefficients[0], told(clips.pose[0]) + told.shares[0])
    # An identity's share is the same in its portrait and its frames.
    assert torch.allclose(clips.coefficients[3], told(clips.pose[3]) + told.shares[0])


def test_some_imagined_clips_are_silent_and_shut() -> None:
    silent, spoken = (
        rehearse(seeds.TRAINING, 0, number, 2.0, 25, IMAGINED)
        for number in (SILENT_EVERY - 1, SILENT_EVERY)
    )
    opening = index("opening")
    assert silent.pose[:, opening].max() < 0.02
    assert spoken.pose[:, opening].max() > 0.3
    assert 0 < silent.sound.abs().max() <= 1
    # What is left is even: no stretch is louder than another, as syllables are.
    loudness = silent.sound.unfold(0, 1600, 1600).square().mean(1).sqrt()
    assert loudness.max() < 1.5 * loudness.min()
