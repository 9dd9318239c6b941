"""Phase 1: its decoder, its losses, its steps."""

import copy
from dataclasses import replace

import pytest
import torch

from float_core.modules.motion_decoder import MotionDecoder
from float_core.modules.motion_encoder import MotionEncoder
from float_core.training import autoencoder, losses, seeds
from float_core.training.autoencoder import (
    build_networks,
    copy_source,
    draw_pairs,
    grow,
    psnr,
    reenact,
)
from float_core.training.decoding import decode
from float_core.training.norms import attach_norms, fold_norms
from float_core.training.optimiser import OrthogonalMomentum, orthogonalised
from float_core.training.poses import HEAD_PARAMETERS
from float_core.training.recipe import DEMO_CONFIG, LossWeights, smaller_image
from float_core.training.runs import Run
from tests.training import tiny

SMALL = smaller_image(tiny.CONFIG, 16)


def test_the_training_decoder_equals_the_plain_one() -> None:
    torch.manual_seed(0)
    encoder, decoder = MotionEncoder(tiny.CONFIG), MotionDecoder(tiny.CONFIG)
    for to_flow in decoder.to_flows:
        to_flow.conv.weight.data *= 0.1
    identity, _, features = encoder(torch.rand(3, 3, 32, 32) * 2 - 1)
    decoded = decode(decoder, identity, features)
    expected = decoder(identity, features)
    torch.testing.assert_close(decoded.image, expected, atol=2e-5, rtol=1e-5)
    assert [grid.shape for grid in decoded.grids] == [(3, side, side, 2) for side in (8, 16, 32)]


def test_fresh_networks_sample_where_they_stand() -> None:
    networks = build_networks(SMALL)
    image = torch.rand(2, 3, 16, 16)
    decoded, coefficients = reenact(networks, image, image)
    for grid in decoded.grids:
        line = torch.linspace(-1, 1, grid.shape[1])
        torch.testing.assert_close(grid[..., 0], line.expand_as(grid[..., 0]))
    assert coefficients.shape == (4, tiny.CONFIG.motion_dim)


def test_half_of_the_pairs_differ_in_expression_only() -> None:
    pairs = draw_pairs(seeds.generator("pairs"), 8, 16, 0.7, "cpu")
    head = (pairs.source_pose - pairs.target_pose)[:, :HEAD_PARAMETERS].abs().amax(1)
    face = (pairs.source_pose - pairs.target_pose)[:, HEAD_PARAMETERS:].abs().amax(1)
    assert (head[:4] > 0).all()
    assert (head[4:] == 0).all()
    assert (face > 0.1).all()


def test_the_flow_loss_is_zero_at_the_truth_only() -> None:
    pairs = draw_pairs(seeds.generator("pairs"), 4, 32, 0.7, "cpu")
    truth = pairs.motion
    assert losses.flow_loss([truth.grid], truth) < 1e-6
    off = losses.flow_loss([truth.grid + 0.25], truth)
    assert off == pytest.approx(0.5, rel=0.05)  # x and y each, all that is visible


def test_hidden_pixels_do_not_count_in_the_flow_loss() -> None:
    pairs = draw_pairs(seeds.generator("pairs"), 4, 32, 0.7, "cpu")
    truth = pairs.motion
    wrong = truth.grid + (1 - truth.visible)[..., None] * 5
    assert (1 - truth.visible).sum() > 0
    assert losses.flow_loss([wrong], truth) < 1e-6


def test_the_motion_of_mouth_and_eyes_counts_more() -> None:
    box = torch.tensor([[[0.0, 0.5, 0.25, 0.25], [0.0, -0.5, 0.5, 0.125]]])
    importance = losses.importance_of(box, 16)
    expected = torch.ones(1, 16, 16)
    expected[:, 10:14, 6:10] = expected[:, 3:5, 4:12] = 1 + losses.REGION_IMPORTANCE
    torch.testing.assert_close(importance, expected)


def test_regions_are_cut_where_the_boxes_say() -> None:
    image = torch.zeros(1, 1, 32, 32)
    image[..., 8:16, 16:24] = 1
    box = torch.tensor([[[0.25, -0.25, 0.25, 0.25], [-0.5, 0.5, 0.2, 0.2]]])
    inside, outside = losses.crop_regions(image, box, 8)
    torch.testing.assert_close(inside, torch.ones(1, 8, 8))
    assert outside.abs().max() == 0


def test_one_step_lowers_the_loss(tmp_path) -> None:
    task = tiny.autoencoder_task(tiny.stage())
    own = task.losses
    task.losses = lambda _step: own(0)  # type: ignore[method-assign]
    run = Run(tiny.stage(20), task, tiny.session(tmp_path))
    history = [run.train_step() for _ in range(12)]
    assert history[1]["loss"] < history[0]["loss"]
    assert history[-1]["loss"] < 0.9 * history[0]["loss"]
    assert history[-1]["image"] < history[0]["image"]


@pytest.mark.parametrize("half_precision", [False, True])
def test_a_resumed_run_equals_an_unbroken_one(tmp_path, half_precision) -> None:
    states = []
    for name, breaks in (("unbroken", ()), ("resumed", (1, 3))):
        folder = tmp_path / name
        folder.mkdir()
        habits = replace(tiny.session(folder).habits, half_precision=half_precision)
        for stop in (*breaks, None):
            task = tiny.autoencoder_task(tiny.stage(5))
            torch.manual_seed(len(states))  # nothing may hang on the global stream
            sitting = tiny.session(folder, habits=habits)
            run = Run(tiny.stage(5), task, sitting)
            if stop is not None:
                sitting = replace(sitting, stopped=lambda run=run, stop=stop: run.step >= stop)
                run.session = sitting
            assert run.train() == (stop is None)
        lines = [line for line in (folder / "log.jsonl").read_text().splitlines() if line]
        states.append((run.task.networks.state_dict(), run.average, lines))
    for key in states[0][0]:
        assert torch.equal(states[0][0][key], states[1][0][key]), key
        assert torch.equal(states[0][1][key], states[1][1][key]), key
    assert states[0][2] == states[1][2]


def test_without_the_renderers_knowledge_nothing_asks_for_it(monkeypatch) -> None:
    def refuse(*_args: object) -> None:
        raise AssertionError("the true motion was asked for")

    monkeypatch.setattr(autoencoder, "true_motion", refuse)
    blind = tiny.stage(weights=LossWeights(flow=0, parameters=0))
    parts = tiny.autoencoder_task(blind).losses(0)
    assert set(parts) == {"loss", "image", "detail", "regions"}
    with pytest.raises(AssertionError, match="true motion"):
        tiny.autoencoder_task(tiny.stage()).losses(0)


def test_a_stage_of_the_decoder_leaves_the_motion_space_as_it_was(tmp_path) -> None:
    weights = LossWeights(parameters=0, scale=0, cycle=1)
    shape = tiny.stage(2, weights=weights, decoder_only=True, orthogonal=True)
    task = tiny.autoencoder_task(shape)
    before = copy.deepcopy(task.networks.state_dict())
    parts = Run(shape, task, tiny.session(tmp_path)).train_step()
    assert parts["cycle"] > 0
    changed = {k for k, v in task.networks.state_dict().items() if not torch.equal(v, before[k])}
    assert any(key.startswith("decoder.to_flows") for key in changed)
    assert not any(key.startswith(("encoder.", "probe.", "decoder.direction")) for key in changed)


def test_growing_keeps_what_was_learned() -> None:
    torch.manual_seed(3)
    small, large = build_networks(SMALL), build_networks(tiny.CONFIG)
    for to_flow in small["decoder"].to_flows:
        torch.nn.init.normal_(to_flow.conv.weight)
    grow(small.state_dict(), large)
    latent = torch.randn(2, tiny.CONFIG.latent_dim)
    features = [torch.randn(2, c, s, s) for c, s in ((12, 8), (8, 16), (8, 32))]
    first = decode(small["decoder"], latent, features[:2])
    second = decode(large["decoder"], latent, features)
    for before, after in zip(first.grids, second.grids, strict=False):
        torch.testing.assert_close(before, after)
    maps = torch.randn(2, 8, 16, 16)
    for before, after in zip(
        small["encoder"].net_app.convs[1:], large["encoder"].net_app.convs[2:], strict=True
    ):
        torch.testing.assert_close(before(maps), after(maps))
        maps = before(maps)


def test_a_grown_encoder_sees_what_the_smaller_one_saw() -> None:
    torch.manual_seed(4)
    small, large = build_networks(SMALL), build_networks(tiny.CONFIG)
    grow(small.state_dict(), large)
    images = torch.nn.functional.interpolate(
        torch.rand(8, 3, 4, 4) * 2 - 1, (32, 32), mode="bicubic"
    )
    halved = torch.nn.functional.avg_pool2d(images, 2)
    before, after = small["encoder"](halved)[1], large["encoder"](images)[1]
    assert (after - before).square().mean() < 0.4 * before.var(0).mean()


def test_an_untrained_decoder_shows_the_source() -> None:
    task = tiny.autoencoder_task(tiny.stage())
    pairs = draw_pairs(seeds.generator(seeds.TRAINING, "x"), 4, 16, 0.5, "cpu")

    @torch.no_grad()
    def similarity() -> float:
        made = reenact(task.networks, pairs.source.image, pairs.target.image)[0].image
        return float(psnr(made, pairs.source.image).mean())

    untouched = similarity()
    copy_source(task.networks)
    assert similarity() > 18 > untouched


def test_held_out_pairs_are_no_training_pairs() -> None:
    training = seeds.generator(seeds.TRAINING, "pairs", 0)
    held_out = seeds.generator(seeds.HELD_OUT, "pairs", 0)
    assert training.initial_seed() != held_out.initial_seed()


def test_the_demo_model_fits_into_the_repository() -> None:
    networks = build_networks(DEMO_CONFIG)
    count = sum(p.numel() for n in ("encoder", "decoder") for p in networks[n].parameters())
    assert count < 2_300_000


def test_an_orthogonal_step_keeps_directions_and_evens_their_sizes() -> None:
    torch.manual_seed(0)
    for shape in ((12, 40), (40, 12)):
        matrix = torch.randn(shape)
        made = orthogonalised(matrix)
        assert torch.linalg.svdvals(made).min() > 0.5
        assert torch.linalg.svdvals(made).max() < 1.5
        left, _, right = torch.linalg.svd(matrix, full_matrices=False)
        assert (made * (left @ right)).sum() > 0.8 * 12


def test_the_optimiser_solves_a_small_problem_and_resumes_equal() -> None:
    torch.manual_seed(0)
    inputs, wanted = torch.randn(64, 10), torch.randn(64, 9)
    layer = torch.nn.Linear(10, 9)
    layers = [layer, copy.deepcopy(layer)]
    optimisers = [OrthogonalMomentum(own.parameters(), 0.02) for own in layers]
    first = (layer(inputs) - wanted).square().mean().detach()
    for step in range(60):
        if step == 30:
            state = copy.deepcopy(optimisers[1].state_dict())
            optimisers[1] = OrthogonalMomentum(layers[1].parameters(), 0.02)
            optimisers[1].load_state_dict(state)
        for own, optimiser in zip(layers, optimisers, strict=True):
            loss = (own(inputs) - wanted).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    assert loss < 0.85 * first
    assert torch.equal(layers[0].weight, layers[1].weight)
    assert torch.equal(layers[0].bias, layers[1].bias)


def test_norms_fold_into_the_encoder() -> None:
    torch.manual_seed(0)
    encoder = MotionEncoder(SMALL)
    plain = copy.deepcopy(encoder)
    norms = attach_norms(encoder)
    image = torch.rand(8, 3, 16, 16)
    for _ in range(3):
        encoder(image)
    for norm in norms:
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
        torch.nn.init.uniform_(norm.bias)
    norms.eval()
    expected = encoder(image)
    assert not torch.allclose(expected[1], plain(image)[1], atol=0.1)
    fold_norms(plain, norms)
    torch.testing.assert_close(plain(image)[1], expected[1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(plain(image)[2][0], expected[2][0], atol=1e-4, rtol=1e-4)
