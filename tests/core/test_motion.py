"""Motion tracks at other rates, and the orthonormal basis."""

from fractions import Fraction

import pytest
import torch

from float_core.motion import FpsConverter, Motion, MotionBasis, exact_fps


def track(frames: int = 9) -> Motion:
    latents = torch.randn(2, frames, 5, generator=torch.Generator().manual_seed(0))
    return Motion(latents, Fraction(25))


def test_shared_times_are_equal_at_twice_the_rate() -> None:
    motion = track()
    double = motion.at_fps(50)
    assert torch.equal(double.latents[:, ::2], motion.latents)
    middle = (motion.latents[:, :-1] + motion.latents[:, 1:]) / 2
    torch.testing.assert_close(double.latents[:, 1:-1:2], middle)


def test_the_last_sample_is_held() -> None:
    motion = track()
    double = motion.at_fps(50)
    assert double.frames == 18
    assert torch.equal(double.latents[:, -1], motion.latents[:, -1])


@pytest.mark.parametrize("fps", [1, 7, 12.5, 23.976, 24, 29.97, 30, 60, 119.88, 120])
def test_any_rate_keeps_the_duration(fps: float) -> None:
    motion = track(103)
    other = motion.at_fps(fps)
    assert 0 <= other.seconds - motion.seconds < 1 / fps
    assert float(other.fps) == pytest.approx(fps, abs=1e-3)


def test_a_straight_line_stays_straight() -> None:
    ramp = Motion(torch.arange(26.0).reshape(1, 26, 1), Fraction(25))
    other = ramp.at_fps(30)
    expected = (torch.arange(other.frames) * 25 / 30).clamp(max=25)
    torch.testing.assert_close(other.latents[0, :, 0], expected)


@pytest.mark.parametrize(
    ("given", "exact"),
    [(25, Fraction(25)), (29.97, Fraction(30000, 1001)), (23.976, Fraction(24000, 1001)),
     (12.5, Fraction(25, 2)), (1, Fraction(1)), (Fraction(30000, 1001), Fraction(30000, 1001))],
)  # fmt: skip
def test_rates_are_exact(given: float, exact: Fraction) -> None:
    assert exact_fps(given) == exact


@pytest.mark.parametrize("fps", [0, -1, 0.5, 121, float("nan"), float("inf")])
def test_rates_out_of_range_are_refused(fps: float) -> None:
    with pytest.raises(ValueError, match="fps from 1 to 120"):
        track().at_fps(fps)


@pytest.mark.parametrize("fps", [7, 12.5, 23.976, 24, 30, 50, 120])
@pytest.mark.parametrize("parts", [[103], [1] * 103, [50, 50, 3], [99, 4]])
def test_motion_in_parts_is_converted_as_a_whole(fps: float, parts: list[int]) -> None:
    motion = track(103)
    converter = FpsConverter(motion.fps, exact_fps(fps))
    made = [converter.push(part) for part in motion.latents.split(parts, dim=1)]
    made.append(converter.finish())
    assert torch.equal(torch.cat(made, dim=1), motion.at_fps(fps).latents)


def test_frames_are_not_held_back_longer_than_needed() -> None:
    motion = track(50)
    converter = FpsConverter(motion.fps, exact_fps(50))
    assert converter.push(motion.latents).shape[1] == 99  # the last waits for the next sample


def test_the_basis_is_orthonormal_and_spans_the_weights() -> None:
    weight = torch.randn(32, 6)
    basis = MotionBasis.from_weight(weight)
    torch.testing.assert_close(basis.directions.T @ basis.directions, torch.eye(6))
    back = basis.motion(basis.coefficients(weight.T)).T
    torch.testing.assert_close(back, weight, rtol=1e-4, atol=1e-4)


def test_motion_splits_into_coefficients_and_rest() -> None:
    basis = MotionBasis.from_weight(torch.randn(32, 6))
    motion = torch.randn(3, 32)
    coefficients, rest = basis.split(motion)
    torch.testing.assert_close(basis.motion(coefficients) + rest, motion)
    torch.testing.assert_close(basis.coefficients(rest), torch.zeros(3, 6), rtol=0, atol=1e-5)
    torch.testing.assert_close(basis.coefficients(basis.motion(coefficients)), coefficients)
