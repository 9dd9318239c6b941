"""The compiled decoder draws what the eager one draws, and gives way to it where it fails."""

from __future__ import annotations

import functools
import logging
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from float_core import cli
from float_core.compiling import CompiledDecoder
from float_core.config import FloatConfig
from float_core.decoding import BatchSize, decode_in_batches
from float_core.modules import fast_decoder
from float_core.modules.fast_decoder import FastMotionDecoder
from float_core.modules.motion_decoder import MotionDecoder
from float_core.motion import Motion
from float_core.pipeline import FloatPipeline
from tests.core.weights import SMALL, synthetic_state_dict

CONFIG = FloatConfig(image_size=16, latent_dim=7, motion_dim=3, channels=(10, 8, 6))
COMPILERS = ("g++", "clang++", "cl")

compile_by_torch = torch.compile


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def decoder() -> FastMotionDecoder:
    plain = MotionDecoder(CONFIG).eval().requires_grad_(False)
    for seed, parameter in enumerate(plain.parameters()):
        parameter.copy_(parameter + 0.3 * noise(*parameter.shape, seed=seed))
    return FastMotionDecoder(plain)


@pytest.fixture(scope="module")
def source(decoder: FastMotionDecoder) -> fast_decoder.WarpSource:
    return decoder.prepare([noise(1, 8, 8, 8), noise(1, 6, 16, 16)])


class Graphs:
    """A backend that runs graphs as they are.

    Attributes:
        count: Graphs taken so far.
    """

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, graph: torch.fx.GraphModule, _inputs: list[Any]) -> Callable[..., Any]:
        self.count += 1
        return graph.forward


@pytest.fixture
def graphs(monkeypatch) -> Iterator[Graphs]:
    """Take the graphs, but let no compiler run."""
    backend = Graphs()
    monkeypatch.setattr(torch, "compile", functools.partial(compile_by_torch, backend=backend))
    torch._dynamo.reset()
    yield backend
    torch._dynamo.reset()


def test_a_clip_of_any_length_needs_no_more_graphs(
    monkeypatch, decoder, source, graphs: Graphs
) -> None:
    monkeypatch.setattr(fast_decoder, "SHARED_SIDE", 8)
    draw = CompiledDecoder(decoder)
    for frames in (7, 9, 5, 1):  # in batches of 4: 4 + 3, 4 + 4 + 1, 4 + 1, 1
        latents = noise(frames, CONFIG.latent_dim, seed=frames)
        batches = decode_in_batches(lambda part: draw(part, source), latents, BatchSize(4))
        close(torch.cat(list(batches)), decoder(latents, source))
    assert graphs.count == 2, "levels together, levels frame by frame"


def test_frames_may_come_one_by_one(decoder, source, graphs: Graphs) -> None:
    draw = CompiledDecoder(decoder)
    for seed in range(3):
        latent = noise(1, CONFIG.latent_dim, seed=seed)
        close(draw(latent, source), decoder(latent, source))
    assert graphs.count == 1


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="no C++ compiler")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_equals_eager(monkeypatch, dtype, caplog) -> None:
    monkeypatch.setattr(fast_decoder, "SHARED_SIDE", 8)
    plain = MotionDecoder(CONFIG).double().eval().requires_grad_(False)
    features = [noise(1, 8, 8, 8), noise(1, 6, 16, 16)]
    exact, eager = FastMotionDecoder(plain, torch.float64), FastMotionDecoder(plain, dtype)
    draw, source = CompiledDecoder(eager), eager.prepare(features)
    for frames in (3, 2, 1):
        latents = noise(frames, CONFIG.latent_dim, seed=frames)
        expected = exact(latents, features)
        rounding = (eager(latents, source) - expected).square().mean().sqrt()
        # Fused code rounds elsewhere, not more.
        assert (draw(latents, source) - expected).square().mean().sqrt() < 2 * rounding
    assert "Could not compile" not in caplog.text


def failing(error: Exception) -> Callable[..., Callable[..., Any]]:
    """Return what stands for `torch.compile` and gives code that raises."""

    def compile_nothing(*_function: Any, **_options: Any) -> Callable[..., Any]:
        def run(*_arguments: Any) -> Any:
            raise error

        return run

    return compile_nothing


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("\nNo C++ compiler found.\n\nSet TORCHDYNAMO_VERBOSE=1"), "No C++ compiler"),
        (AssertionError(), "AssertionError"),
        (ImportError("triton is missing"), "triton is missing"),
    ],
)
def test_a_failure_is_said_once_and_drawn_without(
    monkeypatch, decoder, source, caplog, error: Exception, words: str
) -> None:
    monkeypatch.setattr(torch, "compile", failing(error))
    draw = CompiledDecoder(decoder)
    latents = noise(2, CONFIG.latent_dim)
    for _ in range(2):
        torch.testing.assert_close(draw(latents, source), decoder(latents, source), rtol=0, atol=0)
    (said,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert words in said
    assert said.startswith("Could not compile the decoder (")
    assert said.endswith("it goes on uncompiled.")
    assert "\n" not in said
    assert "VERBOSE" not in said


def test_a_compiler_that_refuses_at_once_is_a_failure_too(monkeypatch, decoder, source) -> None:
    def refuse(*_function: Any, **_options: Any) -> None:
        raise RuntimeError("torch.compile is not supported here")

    monkeypatch.setattr(torch, "compile", refuse)
    latents = noise(2, CONFIG.latent_dim)
    close(CompiledDecoder(decoder)(latents, source), decoder(latents, source))


def test_memory_that_runs_out_is_no_failure_of_the_compiler(monkeypatch, decoder, source) -> None:
    monkeypatch.setattr(torch, "compile", failing(torch.OutOfMemoryError("CUDA out of memory")))
    with pytest.raises(torch.OutOfMemoryError):
        CompiledDecoder(decoder)(noise(2, CONFIG.latent_dim), source)


def test_a_wrong_call_is_still_an_error(monkeypatch, decoder, source) -> None:
    monkeypatch.setattr(torch, "compile", failing(RuntimeError("wrong shape")))
    with pytest.raises(RuntimeError, match="shape"):
        CompiledDecoder(decoder)(noise(2, CONFIG.latent_dim + 1), source)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return synthetic_state_dict(SMALL)


def test_the_pipeline_compiles_only_when_told(monkeypatch, state) -> None:
    pieces: list[str] = []

    def note(function: Callable[..., Any], **_options: Any) -> Callable[..., Any]:
        pieces.append(function.__name__)
        return function

    monkeypatch.setattr(torch, "compile", note)
    pipeline = FloatPipeline.from_state_dict(state, SMALL)
    side = SMALL.image_size
    portrait = pipeline.encode_portrait(noise(1, 3, side, side).clamp(-1, 1))
    motion = Motion(noise(1, 3, SMALL.latent_dim), SMALL.fps)
    eager = torch.cat(list(pipeline.decode(portrait, motion)))
    assert pieces == []
    pipeline.compile_decoder()
    for _ in range(2):
        close(torch.cat(list(pipeline.decode(portrait, motion, batch_size=2))), eager)
    assert sorted(pieces) == ["own_levels", "shared_levels"], "once for all clips"


def test_the_plain_pipeline_is_not_compiled(state) -> None:
    with pytest.raises(ValueError, match="plain"):
        FloatPipeline.from_state_dict(state, SMALL, plain=True).compile_decoder()


@pytest.mark.parametrize("words", [(), ("--compile",)])
def test_the_command_line_passes_the_choice_on(monkeypatch, state, words: tuple[str, ...]) -> None:
    pipeline = FloatPipeline.from_state_dict(state, SMALL)
    told: list[bool] = []
    monkeypatch.setattr(pipeline, "compile_decoder", lambda: told.append(True))
    monkeypatch.setattr(cli, "choose_weights", lambda _choice: "somewhere")
    monkeypatch.setattr(cli, "load_pipeline", lambda *_arguments: pipeline)

    def talk(_image: str, _audio: str, _output: str, load: Any, *_rest: Any, **_more: Any) -> None:
        assert load(None) is pipeline
        raise ValueError("enough")

    monkeypatch.setattr(cli, "talk", talk)
    arguments = ["talk", "--image", "i", "--audio", "a", "--output", "o.mp4", *words]
    assert cli.main(arguments) == cli.BAD_INPUT
    assert told == [True] * len(words)
