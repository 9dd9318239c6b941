"""The drawn world: seeded, varied, and true to its own account of motion."""

import pytest
import torch
import torch.nn.functional as F

from float_core.emotion import EMOTIONS
from float_core.training import poses, seeds
from float_core.training.geometry import Head
from float_core.training.identities import draw_identities
from float_core.training.portraits import boxes, draw, true_motion

SIZE = 96


def psnr(error: torch.Tensor) -> torch.Tensor:
    return 10 * torch.log10(4 / error)


@pytest.fixture(scope="module")
def who():
    return draw_identities(seeds.generator(seeds.TRAINING, "world"), 6)


def test_a_stream_is_a_function_of_its_name() -> None:
    first = torch.rand(4, generator=seeds.generator("a", 1))
    assert torch.equal(first, torch.rand(4, generator=seeds.generator("a", 1)))
    assert not torch.equal(first, torch.rand(4, generator=seeds.generator("a", 2)))
    assert not torch.equal(first, torch.rand(4, generator=seeds.generator("a1")))


def test_the_same_seed_draws_the_same_world(who) -> None:
    again = draw_identities(seeds.generator(seeds.TRAINING, "world"), 6)
    pose = poses.random_poses(seeds.generator("p"), 6)
    assert torch.equal(draw(who, pose, 32).image, draw(again, pose, 32).image)
    held_out = draw_identities(seeds.generator(seeds.HELD_OUT, "world"), 6)
    assert not torch.equal(draw(who, pose, 32).image, draw(held_out, pose, 32).image)


def test_a_batch_equals_one_by_one(who) -> None:
    pose = poses.random_poses(seeds.generator("p"), 6)
    together = draw(who, pose, 48).image
    for k in range(6):
        alone = draw(who.chosen(torch.tensor([k])), pose[k, None], 48).image
        torch.testing.assert_close(alone[0], together[k], atol=1e-5, rtol=0)


def test_every_parameter_shows(who) -> None:
    pose = poses.neutral(6)
    pose[:, poses.index("opening")] = 0.3
    before = draw(who, pose, 64).image
    for name in poses.PARAMETERS:
        changed = pose.clone()
        changed[:, poses.index(name)] += 0.1 if poses.index(name) < 6 else 0.6
        difference = (draw(who, changed, 64).image - before).abs().amax((1, 2, 3))
        assert difference.min() > 0.05, name


def test_every_emotion_shows_and_neutral_does_not(who) -> None:
    pose = poses.neutral(6)
    before = draw(who, pose, 64).image
    for emotion, shift in zip(EMOTIONS, poses.expression_table(), strict=True):
        changed = (draw(who, poses.limited(pose + shift), 64).image - before).abs().amax((1, 2, 3))
        assert (changed.max() == 0) if emotion == "neutral" else (changed.min() > 0.05), emotion


def test_identities_must_fit_poses(who) -> None:
    with pytest.raises(ValueError, match="got 6 and 2"):
        draw(who, poses.neutral(2), 32)


def test_outwards_undoes_inwards(who) -> None:
    pose = poses.random_poses(seeds.generator("p", 3), 6)
    head = Head(who, pose)
    line = torch.linspace(-0.25, 0.25, 9)
    x, y = line.expand(6, 9, 9), (line * 1.4)[:, None].expand(6, 9, 9)
    for there, back in (
        (head.enter, head.leave),
        (head.widen, head.narrow),
        (head.shorten, head.stretch),
        (head.enter_body, head.leave_body),
        (head.express, lambda x, y: head.relax(x, y)[:2]),
    ):
        again = back(*there(x, y))
        torch.testing.assert_close(again[0], x, atol=3e-3, rtol=0)
        torch.testing.assert_close(again[1], y, atol=3e-3, rtol=0)


def test_standing_still_is_no_motion(who) -> None:
    drawing = draw(who, poses.random_poses(seeds.generator("still"), 6), SIZE)
    motion = true_motion(drawing, drawing)
    own = F.affine_grid(torch.eye(2, 3).expand(6, 2, 3), (6, 1, SIZE, SIZE), align_corners=False)
    seen = motion.visible[..., None]
    assert motion.visible.mean() > 0.97
    assert ((motion.grid - own) * seen).abs().max() < 1 / SIZE


@pytest.mark.parametrize("expression_only", [True, False])
def test_true_motion_warps_source_onto_target(who, expression_only) -> None:
    stream = seeds.generator("pairs", int(expression_only))
    first = poses.random_poses(stream, 6, spread=0.6)
    if expression_only:
        second = poses.expression_variants(stream, first)
    else:
        second = poses.random_poses(stream, 6, spread=0.6)
    source, target = draw(who, first, SIZE), draw(who, second, SIZE)
    motion = true_motion(source, target)
    warped = F.grid_sample(source.image, motion.grid, align_corners=False)
    seen = motion.visible[:, None]
    share = seen.mean((1, 2, 3))
    warp_error = ((warped - target.image).square() * seen).mean((1, 2, 3)) / share
    copy_error = ((source.image - target.image).square() * seen).mean((1, 2, 3)) / share
    assert share.min() > 0.75
    assert psnr(warp_error).mean() > 28
    assert (psnr(warp_error) > psnr(copy_error) + 3).all()


def test_the_mouth_lies_in_its_box(who) -> None:
    shut, wide = poses.neutral(6), poses.neutral(6)
    wide[:, poses.index("opening")] = 0.7
    change = (draw(who, shut, SIZE).image - draw(who, wide, SIZE).image).abs().sum(1)
    x, y, half_width, half_height = boxes(Head(who, wide))[:, 0].unbind(-1)
    line = (torch.arange(SIZE) * 2 + 1) / SIZE - 1
    across = (line - x[:, None]).abs() < half_width[:, None]
    down = (line - y[:, None]).abs() < half_height[:, None]
    within = change * across[:, None, :] * down[:, :, None]
    assert (within.sum((1, 2)) / change.sum((1, 2))).min() > 0.6
