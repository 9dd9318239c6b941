"""Who is drawn: the numbers, colours and textures of an identity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .seeds import uniform

BACKGROUND_SIDE = 64
_SHAPES = 4  # rectangles and discs behind the head

_RANGES = {
    "half_width": (0.41, 0.52),
    "half_height": (0.60, 0.69),
    "depth": (0.44, 0.56),
    "taper": (0.12, 0.36),
    "eye_x": (0.165, 0.205),
    "eye_y": (-0.12, -0.03),
    "eye_width": (0.085, 0.115),
    "eye_height": (0.036, 0.058),
    "eye_tilt": (-0.018, 0.018),
    "brow_gap": (0.085, 0.125),
    "brow_thickness": (0.010, 0.028),
    "brow_arch": (0.0, 0.03),
    "brow_length": (1.1, 1.4),
    "nose_y": (0.12, 0.18),
    "nose_width": (0.05, 0.085),
    "nose_depth": (0.06, 0.14),
    "mouth_y": (0.31, 0.37),
    "mouth_width": (0.135, 0.185),
    "upper_lip": (0.018, 0.036),
    "lower_lip": (0.024, 0.046),
    "gap": (0.15, 0.2),
    "teeth": (0.0, 0.032),
    "zoom": (1.15, 1.42),
    "lift": (-0.04, 0.18),
    "hairline": (-0.44, -0.28),
    "hair_volume": (0.02, 0.11),
    "hair_length": (-0.3, 1.1),
    "hair_parting": (-0.35, 0.35),
    "hair_side": (0.05, 0.35),
    "fringe": (0.0, 0.035),
    "fringe_phase": (0.0, 6.28),
    "ear_size": (0.05, 0.075),
    "neck_width": (0.19, 0.28),
    "shoulder_y": (0.76, 0.92),
    "collar": (0.02, 0.16),
    "stripes": (4.0, 22.0),
    "stripe_angle": (0.0, 3.14),
    "glasses_width": (1.25, 1.7),
    "glasses_height": (0.6, 1.05),
    "light_x": (-0.9, 0.9),
    "light_y": (-0.9, -0.1),
    "light_strength": (0.1, 0.55),
    "contrast": (0.8, 1.12),
    "brightness": (-0.1, 0.08),
    "saturation": (0.45, 1.2),
}
_CHANCES = {
    "bald": 0.08,
    "beard": 0.16,
    "glasses": 0.16,
    "dark_rims": 0.7,
    "striped": 0.35,
    "long_hair": 0.4,
    "grey_picture": 0.05,
}
_SKIN = ((0.24, 0.16, 0.12), (0.72, 0.50, 0.38), (0.96, 0.82, 0.73))  # dark, middle, fair
_LIP_OVER_SKIN = (0.95, 0.62, 0.62)
_HAIR = (
    (0.10, 0.08, 0.07),
    (0.24, 0.15, 0.09),
    (0.43, 0.27, 0.14),
    (0.75, 0.59, 0.35),
    (0.59, 0.24, 0.12),
    (0.62, 0.62, 0.62),
    (0.16, 0.16, 0.18),
)
_IRIS = ((0.24, 0.14, 0.08), (0.16, 0.35, 0.55), (0.24, 0.43, 0.24), (0.35, 0.35, 0.39))


@dataclass(frozen=True, slots=True)
class Identities:
    """A batch of identities.

    Attributes:
        numbers: Sizes, places and yes-or-no features by name, each (batch, 1, 1).
        colours: RGB in [0, 1] by name, each (batch, 3, 1, 1).
        background: What is behind the head, (batch, 3, side, side) in [0, 1].
        skin_detail: Unevenness of the skin, around 0, (batch, 3, 48, 48).
        hair_detail: Streaks of the hair, around 0, (batch, 3, 48, 48).
    """

    numbers: dict[str, Tensor]
    colours: dict[str, Tensor]
    background: Tensor
    skin_detail: Tensor
    hair_detail: Tensor

    def __len__(self) -> int:
        return len(self.background)

    def number(self, name: str) -> Tensor:
        """Return one number of each identity, (batch, 1, 1)."""
        return self.numbers[name]

    def _each(self, change: Callable[[Tensor], Tensor]) -> Identities:
        return Identities(
            {name: change(value) for name, value in self.numbers.items()},
            {name: change(value) for name, value in self.colours.items()},
            change(self.background),
            change(self.skin_detail),
            change(self.hair_detail),
        )

    def to(self, device: torch.device | str) -> Identities:
        """Return the same identities on a device."""
        return self._each(lambda value: value.to(device))

    def repeated(self, times: int) -> Identities:
        """Return each identity `times` in a row: a a b b c c."""
        return self._each(lambda value: value.repeat_interleave(times, 0))

    def chosen(self, index: Tensor) -> Identities:
        """Return the identities of an index, (any,)."""
        return self._each(lambda value: value[index.to(value.device)])


def draw_identities(
    stream: torch.Generator, count: int, device: torch.device | str = "cpu"
) -> Identities:
    """Draw identities.

    Args:
        stream: Where chance comes from; a CPU's, so that all devices draw the same.
        count: How many.
        device: Where textures are made and all tensors end.
    """
    chance = _Chance(stream, count, device)
    numbers = {name: chance.between(low, high, 1, 1) for name, (low, high) in _RANGES.items()}
    for name, share in _CHANCES.items():
        numbers[name] = (chance.between(0, 1, 1, 1) < share).float()
    skin = _draw_texture(chance, (48, 48), ((6, 6), (12, 12), (48, 48)))
    return Identities(
        numbers,
        _draw_colours(chance),
        _draw_background(chance),
        skin * chance.between(0.3, 1, 1, 1, 1),
        _draw_texture(chance, (48, 48), ((4, 24), (4, 48), (12, 48))),
    )


class _Chance:
    """Draws for a whole batch, made on the CPU and brought to the device."""

    def __init__(self, stream: torch.Generator, count: int, device: torch.device | str) -> None:
        self._stream = stream
        self._count = count
        self.device = device

    def between(self, low: float, high: float, *shape: int) -> Tensor:
        """Return uniform numbers, (count, *shape)."""
        return uniform(self._stream, low, high, self._count, *shape).to(self.device)

    def noise(self, *shape: int) -> Tensor:
        """Return normal numbers, (count, *shape)."""
        return torch.randn(self._count, *shape, generator=self._stream).to(self.device)

    def one_of(self, choices: Sequence[tuple[float, float, float]]) -> Tensor:
        """Return colours of a list, (count, 3)."""
        chosen = torch.randint(len(choices), (self._count,), generator=self._stream)
        return torch.tensor(choices)[chosen].to(self.device)

    def near(self, colour: Tensor, amount: float) -> Tensor:
        """Return colours near others, (count, 3)."""
        return (colour + self.between(-amount, amount, 3)).clamp(0, 1)


def _draw_colours(chance: _Chance) -> dict[str, Tensor]:
    tone = chance.between(0, 1, 1)
    dark, middle, fair = torch.tensor(_SKIN, device=chance.device)
    skin = torch.lerp(torch.lerp(dark, middle, tone), torch.lerp(middle, fair, tone), tone)
    skin = chance.near(skin * chance.between(0.88, 1.08, 1), 0.03)
    hair = chance.near(chance.one_of(_HAIR) * chance.between(0.7, 1.2, 1), 0.03)
    dyed = chance.between(0, 1, 1) < 0.05
    hair = torch.where(dyed, chance.between(0.1, 0.9, 3), hair)
    redness = torch.tensor(_LIP_OVER_SKIN, device=chance.device)
    lip = skin * redness * chance.between(0.8, 1.05, 1)
    lip[:, :1] += chance.between(0, 0.2, 1)
    colours = {
        "skin": skin,
        "hair": hair,
        "lip": lip.clamp(0, 1),
        "iris": chance.near(chance.one_of(_IRIS), 0.06),
        "brow": chance.near(hair * chance.between(0.45, 0.95, 1), 0.02),
        "clothes": chance.between(0.03, 0.95, 3),
        "stripe": chance.between(0.03, 0.95, 3),
        "rim": chance.between(0.05, 0.6, 3),
        "gain": chance.between(0.88, 1.1, 3),
    }
    return {name: value[:, :, None, None] for name, value in colours.items()}


def _draw_texture(
    chance: _Chance, size: tuple[int, int], octaves: Sequence[tuple[int, int]]
) -> Tensor:
    """Sum noise of several grids, (count, 3, *size), spread below 1."""
    total = torch.zeros(1, device=chance.device)
    for grid in octaves:
        rough = chance.noise(1, *grid) + 0.25 * chance.noise(3, *grid)
        smooth = F.interpolate(rough, size, mode="bicubic", align_corners=False)
        total = total + smooth * chance.between(0.2, 1.0, 1, 1, 1)
    return total / len(octaves)


def _draw_background(chance: _Chance) -> Tensor:
    """Draw a gradient, clouds, and a few blurred things, (count, 3, side, side)."""
    side = BACKGROUND_SIDE
    line = torch.linspace(-1, 1, side, device=chance.device)
    x, y = line.expand(side, side), line[:, None].expand(side, side)
    angle = chance.between(0, 6.28, 1, 1, 1)
    slope = (0.5 + 0.5 * (x * angle.cos() + y * angle.sin())).clamp(0, 1)
    picture = torch.lerp(chance.between(0, 1, 3, 1, 1), chance.between(0, 1, 3, 1, 1), slope)
    clouds = _draw_texture(chance, (side, side), ((4, 4), (8, 8), (16, 16), (32, 32)))
    picture = picture + clouds * chance.between(0, 0.25, 1, 1, 1)
    softness = chance.between(0.02, 0.25, 1, 1, 1)
    for _ in range(_SHAPES):
        cover = (0.5 - _draw_shape(chance, x, y) / softness).clamp(0, 1)
        shown = (chance.between(0, 1, 1, 1, 1) < 0.5).float()
        picture = torch.lerp(picture, chance.between(0, 1, 3, 1, 1), cover * shown)
    grain = chance.noise(3, side, side) * chance.between(0, 0.03, 1, 1, 1)
    return (picture + grain).clamp(0, 1)


def _draw_shape(chance: _Chance, x: Tensor, y: Tensor) -> Tensor:
    """Return the distance to a random rectangle or disc, (count, 1, side, side)."""
    dx = (x - chance.between(-1, 1, 1, 1, 1)).abs()
    dy = (y - chance.between(-1, 1, 1, 1, 1)).abs()
    half_width, half_height = (chance.between(0.08, 0.6, 1, 1, 1) for _ in range(2))
    rectangle = torch.maximum(dx - half_width, dy - half_height)
    disc = torch.hypot(dx, dy) - half_width * 0.7
    return torch.where(chance.between(0, 1, 1, 1, 1) < 0.5, disc, rectangle)
