"""Sampling on velocities whose integral is known."""

import math

import pytest
import torch

from float_core import sampling
from float_core.config import SOLVER_NAMES, SamplingOptions

torchdiffeq = pytest.importorskip("torchdiffeq")


def grid(points: int) -> torch.Tensor:
    return sampling.time_grid(points, torch.zeros((), dtype=torch.float64))


def rotation(time: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
    """Turn and stretch, depending on time: neither linear in time nor in the state."""
    return torch.stack((-state[..., 1], state[..., 0]), dim=-1) * (1 + time) + torch.sin(state)


def test_every_named_solver_exists() -> None:
    assert tuple(sampling.SOLVERS) == SOLVER_NAMES


@pytest.mark.parametrize("solver", SOLVER_NAMES)
def test_constant_velocity_gives_a_straight_line(solver: str) -> None:
    state = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    result = sampling.integrate(lambda _t, x: torch.full_like(x, 3.0), state, grid(4), solver)
    torch.testing.assert_close(result, state + 3)


@pytest.mark.parametrize(
    ("solver", "degree"), [("euler", 0), ("midpoint", 1), ("heun2", 1), ("heun3", 2), ("rk4", 3)]
)
def test_polynomials_up_to_the_order_are_exact(solver: str, degree: int) -> None:
    state = torch.zeros(1, 1, dtype=torch.float64)
    result = sampling.integrate(lambda t, x: torch.ones_like(x) * t**degree, state, grid(3), solver)
    torch.testing.assert_close(result, torch.full_like(state, 1 / (degree + 1)))


@pytest.mark.parametrize(
    ("solver", "order"), [("euler", 1), ("midpoint", 2), ("heun2", 2), ("heun3", 3), ("rk4", 4)]
)
def test_order_of_convergence(solver: str, order: int) -> None:
    """dx/dt = x from 1 gives e: halving the step divides the error by 2 to the order."""
    state = torch.ones(1, dtype=torch.float64)
    errors = [
        abs(sampling.integrate(lambda _t, x: x, state, grid(n + 1), solver).item() - math.e)
        for n in (16, 32)
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("solver", SOLVER_NAMES)
def test_equals_torchdiffeq(solver: str) -> None:
    state = torch.randn(2, 5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = torchdiffeq.odeint(rotation, state, grid(7), method=solver)[-1]
    actual = sampling.integrate(rotation, state, grid(7), solver)
    torch.testing.assert_close(actual, expected, rtol=1e-13, atol=1e-13)


def test_a_step_callback_that_raises_stops() -> None:
    calls = []

    def stop() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        sampling.integrate(lambda _t, x: x, torch.ones(1), grid(10).float(), "euler", stop)
    assert len(calls) == 2


SCALES = [-1.0, 0.0, 0.5, 1.0, 2.0, 5.0]


@pytest.mark.parametrize("audio", SCALES)
@pytest.mark.parametrize("emotion", SCALES)
@pytest.mark.parametrize("reference", [0.0, 1.0, 1.5])
def test_branches_add_up_to_the_formula(audio: float, emotion: float, reference: float) -> None:
    options = SamplingOptions(
        audio_guidance=audio, emotion_guidance=emotion, reference_guidance=reference
    )
    nothing, none, heard, felt = 1.0, 10.0, 100.0, 1000.0
    values = {
        (False, False, False): nothing,
        (True, False, False): none,
        (True, True, False): heard,
        (True, True, True): felt,
    }
    expected = (
        nothing + reference * (none - nothing) + audio * (heard - none) + emotion * (felt - heard)
    )
    branches = sampling.guidance_branches(options)
    total = sum(b.coefficient * values[b.reference, b.audio, b.emotion] for b in branches)
    assert total == pytest.approx(expected)
    assert all(b.coefficient != 0 for b in branches)


@pytest.mark.parametrize(
    ("scales", "count"),
    [((2, 1), 3), ((1, 5), 2), ((2, 2), 2), ((2, 0), 2), ((1, 1), 1), ((1, 0), 1), ((0, 0), 1)],
)
def test_evaluations_saved(scales: tuple[float, float], count: int) -> None:
    options = SamplingOptions(audio_guidance=scales[0], emotion_guidance=scales[1])
    assert len(sampling.guidance_branches(options)) == count


def test_a_zero_emotion_needs_no_branch_of_its_own() -> None:
    branches = sampling.guidance_branches(SamplingOptions(), emotion_given=False)
    assert [(b.coefficient, b.audio) for b in branches] == [(-1.0, False), (2.0, True)]


class RecordingField:
    """A field that is linear in every condition, and keeps what it was given."""

    def __init__(self) -> None:
        self.conditions: list[sampling.WindowCondition] = []

    def __call__(self, condition: sampling.WindowCondition) -> sampling.Velocity:
        self.conditions.append(condition)
        said = condition.speech.mean(-1, keepdim=True)
        felt = condition.emotion.sum((1, 2))[:, None, None]
        before = condition.previous_motion.sum((1, 2))[:, None, None]
        seen = condition.reference.sum(-1)[:, None, None]

        def velocity(time: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
            return state * 0.1 + said + felt + 0.01 * before + seen + time

        return velocity


def condition(batch: int = 2) -> sampling.WindowCondition:
    generator = torch.Generator().manual_seed(3)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(batch, *shape, generator=generator)

    return sampling.WindowCondition(noise(4), noise(2, 4), noise(2, 3), noise(5, 3), noise(7, 7))


def test_only_the_windows_own_speech_is_dropped() -> None:
    given = condition()
    options = SamplingOptions(reference_guidance=3.0)
    stacked = given.for_branches(sampling.guidance_branches(options))
    nothing, none, both = stacked.speech.chunk(4)[:3]
    assert not nothing.any()
    assert not none.any()
    assert torch.equal(both, given.speech)
    for name in ("previous_speech", "previous_motion"):
        assert torch.equal(getattr(stacked, name), getattr(given, name).repeat(4, 1, 1))
    reference = stacked.reference.chunk(4)
    assert not reference[0].any()
    assert torch.equal(reference[1], given.reference)
    emotion = stacked.emotion.chunk(4)
    assert [bool(e.any()) for e in emotion] == [False, False, True, False]


@pytest.mark.parametrize("scales", [(2.0, 1.0), (1.0, 3.0), (2.0, 2.0), (1.0, 1.0), (2.0, 0.0)])
def test_saving_branches_changes_nothing(scales: tuple[float, float]) -> None:
    """The same velocity as from all three evaluations, made one by one."""
    given = condition()
    state = torch.randn(2, 5, 4)
    time = torch.tensor(0.3)
    audio, emotion = scales

    def evaluate(hears: bool, feels: bool) -> torch.Tensor:
        branch = sampling.Branch(1.0, audio=hears, emotion=feels)
        return RecordingField()(given.for_branches([branch]))(time, state)

    none, heard, felt = evaluate(False, False), evaluate(True, False), evaluate(True, True)
    expected = none + audio * (heard - none) + emotion * (felt - heard)
    options = SamplingOptions(audio_guidance=audio, emotion_guidance=emotion)
    branches = sampling.guidance_branches(options)
    actual = sampling.guided_velocity(RecordingField(), given, branches)(time, state)
    torch.testing.assert_close(actual, expected)


def sample(field: sampling.VelocityField, frames: int, window: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    speech = torch.randn(1, 40, 3, generator=generator)[:, :frames]
    emotion = torch.randn(1, 40, 7, generator=generator)[:, :frames]
    noise = sampling.draw_noise(0, window, 4)
    windows = (
        sampling.Window(part, sampling.window_of(emotion, window * i, window), next(noise), own)
        for i, (part, own) in enumerate(sampling.split_windows([speech], window))
    )
    motion = sampling.sample_windows(
        field, torch.ones(1, 4), windows, SamplingOptions(), context_frames=2
    )
    return torch.cat(list(motion), dim=1)


def test_windows_hand_on_their_last_frames() -> None:
    field = RecordingField()
    motion = sample(field, 12)
    first, second, third = field.conditions
    assert not first.previous_motion.any()
    assert not first.previous_speech.any()
    kept = len(second.previous_motion) // 3
    assert torch.equal(second.previous_motion[:kept], motion[:, 3:5])
    assert torch.equal(third.previous_motion[:kept], motion[:, 8:10])
    whole = sampling.guidance_branches(SamplingOptions())
    full = next(i for i, branch in enumerate(whole) if branch.audio and branch.emotion)
    assert torch.equal(second.previous_speech[full], first.speech[full, -2:])
    assert torch.equal(second.emotion[full, :2], first.emotion[full, -2:])
    opening = first.emotion[full]
    assert torch.equal(opening[:2], opening[2:3].expand(2, -1))


def test_a_later_window_does_not_change_an_earlier_one() -> None:
    short, long = sample(RecordingField(), 10), sample(RecordingField(), 30)
    assert torch.equal(short, long[:, :10])


@pytest.mark.parametrize("parts", [[7], [1] * 7, [5, 2], [6, 1], [3, 4]])
def test_the_last_window_repeats_its_last_frame(parts: list[int]) -> None:
    track = torch.arange(7.0).reshape(1, 7, 1)
    windows = list(sampling.split_windows(track.split(parts, dim=1), 5))
    assert [own for _, own in windows] == [5, 2]
    assert windows[0][0].flatten().tolist() == [0, 1, 2, 3, 4]
    assert windows[1][0].flatten().tolist() == [5, 6, 6, 6, 6]
    assert torch.equal(sampling.window_of(track, 5, 5), windows[1][0])
    assert torch.equal(sampling.window_of(track[:, :1], 5, 5), torch.zeros(1, 5, 1))


def test_windows_are_cut_as_they_are_asked_for() -> None:
    def chunks():
        yield torch.zeros(1, 6, 1)
        raise AssertionError("the second chunk was read too early")

    assert next(sampling.split_windows(chunks(), 5))[1] == 5


def test_motion_has_the_frames_of_the_speech() -> None:
    assert sample(RecordingField(), 12).shape == (1, 12, 4)


def test_noise_is_a_stream_by_seed() -> None:
    first, again, other = (sampling.draw_noise(seed, 5, 4) for seed in (1, 1, 2))
    one, two = next(first), next(first)
    assert torch.equal(next(again), one)
    assert not torch.equal(two, one)
    assert not torch.equal(next(other), one)
