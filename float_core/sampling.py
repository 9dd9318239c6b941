"""Sampling: time grid, solvers, guidance and windows.

Knows no network: whatever it integrates is given to it as a callable. A solver is a Butcher
tableau in `SOLVERS`; to add one, add its coefficients there and its name to
`config.SOLVER_NAMES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from .config import SamplingOptions

Velocity = Callable[[Tensor, Tensor], Tensor]
"""Velocity at (time (), state (batch, …)), of the state's shape."""


@dataclass(frozen=True, slots=True)
class ButcherTableau:
    """Coefficients of an explicit Runge-Kutta method (Hairer, Norsett, Wanner, section II.1).

    Attributes:
        nodes: Time of each stage within the step, 0 to 1.
        matrix: Weights of the earlier stages' velocities in each stage's state, a row a stage.
        weights: Weights of the velocities in the step.
    """

    nodes: tuple[float, ...]
    matrix: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]


SOLVERS = {
    "euler": ButcherTableau((0,), ((),), (1,)),
    "midpoint": ButcherTableau((0, 1 / 2), ((), (1 / 2,)), (0, 1)),
    "heun2": ButcherTableau((0, 1), ((), (1,)), (1 / 2, 1 / 2)),
    "heun3": ButcherTableau((0, 1 / 3, 2 / 3), ((), (1 / 3,), (0, 2 / 3)), (1 / 4, 0, 3 / 4)),
    # The 3/8 rule, which is what torchdiffeq calls rk4.
    "rk4": ButcherTableau(
        (0, 1 / 3, 2 / 3, 1), ((), (1 / 3,), (-1 / 3, 1), (1, -1, 1)), (1 / 8, 3 / 8, 3 / 8, 1 / 8)
    ),
}
"""The fixed-step solvers, as torchdiffeq defines them."""


def time_grid(points: int, like: Tensor) -> Tensor:
    """Return the ODE's times from 0 to 1, (points,), with dtype and device of `like`.

    Computed on the CPU, so that every device integrates over the same numbers.
    """
    return torch.linspace(0, 1, points, dtype=like.dtype, device="cpu").to(like.device)


def _weighted_sum(weights: Iterable[float], terms: Iterable[Tensor]) -> Tensor | None:
    total = None
    for weight, term in zip(weights, terms, strict=True):
        if weight != 0:
            total = weight * term if total is None else total + weight * term
    return total


def solver_step(
    tableau: ButcherTableau, velocity: Velocity, state: Tensor, start: Tensor, end: Tensor
) -> Tensor:
    """Take one step of an explicit Runge-Kutta method.

    Args:
        tableau: The method.
        velocity: Velocity to integrate.
        state: State at `start`, (batch, …).
        start: Time at the step's start, ().
        end: Time at the step's end, ().

    Returns:
        State at `end`, of the same shape.
    """
    step = end - start
    stages: list[Tensor] = []
    for node, row in zip(tableau.nodes, tableau.matrix, strict=True):
        slope = _weighted_sum(row, stages)
        stages.append(
            velocity(start + node * step, state if slope is None else state + step * slope)
        )
    slope = _weighted_sum(tableau.weights, stages)
    return state if slope is None else state + step * slope


def integrate(
    velocity: Velocity,
    state: Tensor,
    grid: Tensor,
    solver: str,
    on_step: Callable[[], None] | None = None,
) -> Tensor:
    """Integrate a velocity over a time grid, one step an interval.

    Args:
        velocity: Velocity to integrate.
        state: State at the first time, (batch, …).
        grid: Times, (points,).
        solver: One of `SOLVERS`.
        on_step: Called after each step; stops the integration when it raises.

    Returns:
        State at the last time, of the same shape.
    """
    tableau = SOLVERS[solver]
    for start, end in pairwise(grid):
        state = solver_step(tableau, velocity, state, start, end)
        if on_step is not None:
            on_step()
    return state


@dataclass(frozen=True, slots=True)
class Branch:
    """One evaluation of the network within the guidance, and its share in the velocity.

    Attributes:
        coefficient: Factor of this evaluation in the guided velocity.
        reference: Whether it sees the portrait's own motion.
        audio: Whether it hears the window's speech.
        emotion: Whether it is given the emotion.
    """

    coefficient: float
    reference: bool = True
    audio: bool = True
    emotion: bool = True


def guidance_branches(options: SamplingOptions, emotion_given: bool = True) -> tuple[Branch, ...]:
    """Return the evaluations that the guided velocity needs, those with coefficient 0 left out.

    Classifier-free guidance on three conditions (FLOAT, section 3.3):
    v = v_nothing + r (v_none - v_nothing) + a (v_audio - v_none) + e (v_audio_emotion - v_audio),
    where `v_nothing` lacks the reference too (an extension; r = 1 is the published formula).

    Args:
        options: The guidance scales.
        emotion_given: False where the emotion vector is zero: the last two are then the same.
    """
    r, a, e = options.reference_guidance, options.audio_guidance, options.emotion_guidance
    if not emotion_given:
        e = 0.0
    branches = (
        Branch(1 - r, reference=False, audio=False, emotion=False),
        Branch(r - a, audio=False, emotion=False),
        Branch(e),
        Branch(a - e, emotion=False),
    )
    return tuple(branch for branch in branches if branch.coefficient != 0)


@dataclass(frozen=True, slots=True)
class WindowCondition:
    """What a window of motion is sampled from; context frames come before the window's own.

    Attributes:
        reference: The portrait's own motion, (batch, latent_dim).
        previous_motion: Last frames of the previous window, (batch, context, latent_dim).
        previous_speech: Their speech embedding, (batch, context, speech_dim).
        speech: The window's speech embedding, (batch, window, speech_dim).
        emotion: Emotion of context and window, (batch, context + window, 7).
    """

    reference: Tensor
    previous_motion: Tensor
    previous_speech: Tensor
    speech: Tensor
    emotion: Tensor

    def for_branches(self, branches: Iterable[Branch]) -> WindowCondition:
        """Return the condition of every branch in one batch, branch by branch.

        A branch without audio loses the window's speech only: the previous frames' stays.
        """
        chosen = tuple(branches)

        def stack(value: Tensor, kept: Iterable[bool]) -> Tensor:
            return torch.cat([value if keep else torch.zeros_like(value) for keep in kept])

        every = [True] * len(chosen)
        return WindowCondition(
            reference=stack(self.reference, (b.reference for b in chosen)),
            previous_motion=stack(self.previous_motion, every),
            previous_speech=stack(self.previous_speech, every),
            speech=stack(self.speech, (b.audio for b in chosen)),
            emotion=stack(self.emotion, (b.emotion for b in chosen)),
        )


VelocityField = Callable[[WindowCondition], Velocity]
"""Given a condition, prepares whatever does not depend on time and returns the velocity."""


def guided_velocity(
    field: VelocityField, condition: WindowCondition, branches: tuple[Branch, ...]
) -> Velocity:
    """Return the guided velocity of a window; all branches are evaluated in one batch.

    Args:
        field: The network.
        condition: Condition of the window.
        branches: Evaluations to combine, from `guidance_branches`; at least one.
    """
    velocity = field(condition.for_branches(branches))

    def guided(time: Tensor, state: Tensor) -> Tensor:
        count = len(branches)
        every = velocity(time, state.repeat(count, *[1] * (state.ndim - 1))).chunk(count)
        total = _weighted_sum((branch.coefficient for branch in branches), every)
        assert total is not None, "branches with coefficient 0 are left out before"
        return total

    return guided


def draw_noise(seed: int, frames: int, width: int) -> Iterator[Tensor]:
    """Yield the noise of one window after another, without end.

    Drawn on the CPU, so that a seed means the same noise on every device, and one window at a time,
    so that a longer clip starts like a shorter one.

    Args:
        seed: Seed of the stream.
        frames: Frames of a window.
        width: Width of a motion latent.

    Yields:
        (1, frames, width); every item of a batch starts from the same noise.
    """
    generator = torch.Generator("cpu").manual_seed(seed)
    while True:
        yield torch.randn(1, frames, width, generator=generator, dtype=torch.float32, device="cpu")


@dataclass(frozen=True, slots=True)
class Window:
    """What one window of motion is sampled from, without what came before it.

    Attributes:
        speech: Speech embedding, (batch, window, speech_dim).
        emotion: Emotion of each frame, (batch, window, 7).
        noise: State at time 0, (batch, window, latent_dim).
        frames: Frames of the clip in it; fewer than the window's in the last one only.
    """

    speech: Tensor
    emotion: Tensor
    noise: Tensor
    frames: int


def split_windows(chunks: Iterable[Tensor], frames: int) -> Iterator[tuple[Tensor, int]]:
    """Cut a track into windows; the last one is filled up by repeating its last frame.

    Args:
        chunks: The track in parts of any length, each (batch, frames, width); read as needed.
        frames: Frames of a window.

    Yields:
        A window, (batch, frames, width), and how many of its frames are the track's own.
    """
    rest: Tensor | None = None
    for chunk in chunks:
        track = chunk if rest is None else torch.cat((rest, chunk), dim=1)
        *whole, rest = torch.split(track, frames, dim=1)
        if rest.shape[1] == frames:
            whole, rest = [*whole, rest], None
        for window in whole:
            yield window, frames
    if rest is not None:
        yield _filled_up(rest, frames), rest.shape[1]


def window_of(track: Tensor, start: int, frames: int) -> Tensor:
    """Cut one window out of a track that may be constant.

    Args:
        track: (batch, 1 or frames of the clip, width).
        start: First frame.
        frames: Frames of the window; beyond the track its last frame is repeated.

    Returns:
        (batch, frames, width).
    """
    return _filled_up(track[:, min(start, track.shape[1] - 1) :][:, :frames], frames)


def _filled_up(window: Tensor, frames: int) -> Tensor:
    missing = frames - window.shape[1]
    return torch.cat((window, window[:, -1:].expand(-1, missing, -1)), dim=1)


def sample_windows(
    field: VelocityField,
    reference: Tensor,
    windows: Iterable[Window],
    options: SamplingOptions,
    context_frames: int,
    on_step: Callable[[], None] | None = None,
) -> Iterator[Tensor]:
    """Sample motion window by window, each from the last frames of the one before.

    Args:
        field: The network.
        reference: The portrait's own motion, (batch, latent_dim).
        windows: The windows in order; read as needed.
        options: Time points, solver and guidance scales.
        context_frames: Frames of the previous window that a window sees; zeros at the first.
        on_step: Called after each solver step; stops the sampling when it raises.

    Yields:
        Motion of each window's own frames, (batch, frames, latent_dim).
    """
    grid = time_grid(options.time_points, reference)
    previous: tuple[Tensor, Tensor, Tensor] | None = None
    for window in windows:
        if previous is None:
            # Before the clip there is no motion and no speech, but its first frame's emotion.
            previous = (
                torch.zeros_like(window.noise[:, -context_frames:]),
                torch.zeros_like(window.speech[:, -context_frames:]),
                window.emotion[:, :1].expand(-1, context_frames, -1),
            )
        condition = WindowCondition(
            reference=reference,
            previous_motion=previous[0],
            previous_speech=previous[1],
            speech=window.speech,
            emotion=torch.cat((previous[2], window.emotion), dim=1),
        )
        branches = guidance_branches(options, emotion_given=bool(condition.emotion.any()))
        velocity = guided_velocity(field, condition, branches)
        motion = integrate(velocity, window.noise, grid, options.solver, on_step)
        yield motion[:, : window.frames]
        previous = (
            motion[:, -context_frames:],
            window.speech[:, -context_frames:],
            window.emotion[:, -context_frames:],
        )
