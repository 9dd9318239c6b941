"""Where things of a drawn head lie in the picture, in both directions and in closed form.

Going inwards, a pixel becomes a point of the head's plane (shift, lean and size undone, the chin's
narrowing too), then a point of a surface that turns with the head: an ellipsoid for face and hair,
a plane for ears and back hair. On the face it goes on to the point of the resting face that the
expression has moved there. Paint depends on resting points only, so that it moves with the skin.

Going outwards, the same steps are undone: that is how the true motion of a pixel is known.

All coordinates have x to the right, y down and z towards the viewer; numbers are (batch, 1, 1),
coordinates (batch, height, width).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .identities import Identities
from .poses import PARAMETERS

FACE_CENTRE = 0.22  # from the head's centre down to the middle between brows and chin
NECK_Y = 0.75  # the head leans about this point of the picture
CHIN_STRETCH = 0.20  # of the height below the mouth, at full opening
BACK_HAIR_Z = -0.15
EXPRESS_STEPS = 8  # of the fixed-point iteration; each shrinks the error at least by half

Triple = tuple[Tensor, Tensor, Tensor]
Pair = tuple[Tensor, Tensor]


def pixel_grid(size: int, like: Tensor) -> Pair:
    """Return the centres of all pixels, pixel edges at -1 and 1, (1, size, size) each."""
    line = (torch.arange(size, dtype=like.dtype, device=like.device) * 2 + 1) / size - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    return x[None], y[None]


def bump(distance: Tensor) -> Tensor:
    """Return 1 at distance 0, falling smoothly to 0; `distance` is in widths of the bump."""
    return torch.exp(-distance.square())


def dot(first: Triple, second: Triple) -> Tensor:
    """Return the inner product of two vectors, coordinate by coordinate."""
    return first[0] * second[0] + first[1] * second[1] + first[2] * second[2]


@dataclass(frozen=True, slots=True)
class Mouth:
    """The mouth's curves at given places across it.

    Attributes:
        across: 0 in the middle, 1 at the corners, unsigned.
        line: Height of the shut lips' line, y.
        up: How far the upper lip lies above that line.
        down: How far the lower lip lies below it.
    """

    across: Tensor
    line: Tensor
    up: Tensor
    down: Tensor


class Head:
    """A batch of heads in their poses."""

    def __init__(self, who: Identities, pose: Tensor) -> None:
        """Prepare whatever the whole picture shares.

        Args:
            who: The identities, one a pose.
            pose: (batch, parameters).
        """
        self.who = who
        columns = pose.to(who.background)[:, :, None, None].unbind(1)
        self.pose = dict(zip(PARAMETERS, columns, strict=True))
        yaw, pitch, roll = (self.pose[name] for name in ("yaw", "pitch", "roll"))
        self._yaw = (torch.cos(yaw), torch.sin(yaw))
        self._pitch = (torch.cos(pitch), torch.sin(pitch))
        self._roll = (torch.cos(roll), torch.sin(roll))
        number = who.number
        self.zoom = number("zoom")
        self.drop = number("lift") - FACE_CENTRE * self.zoom
        self.scale = self.pose["scale"] * self.zoom
        self.axes = (number("half_width"), number("half_height"), number("depth"))
        volume = number("hair_volume")
        self.hair_axes = (self.axes[0] + 0.6 * volume, self.axes[1] + volume, self.axes[2] + volume)
        half = number("mouth_width")
        self.mouth_half = half * (
            1
            + 0.3 * self.pose["width"]
            + 0.1 * self.pose["smile"].clamp(min=0)
            - 0.1 * self.pose["opening"]
        )
        mouth = (torch.zeros_like(half), number("mouth_y"))
        self._stretch_from = self.turn((*mouth, self.bulge(*mouth, self.axes)))[1]

    # The picture and the head's plane

    def enter(self, x: Tensor, y: Tensor) -> Pair:
        """Map the picture to the head's plane: shift, lean and size undone."""
        cos, sin = self._roll
        dx = x - self.pose["shift_x"]
        dy = y - self.pose["shift_y"] - NECK_Y
        x = dx * cos + dy * sin
        y = -dx * sin + dy * cos
        return x / self.scale, (y + NECK_Y - self.drop) / self.scale

    def leave(self, x: Tensor, y: Tensor) -> Pair:
        """Map the head's plane to the picture; undoes `enter`."""
        cos, sin = self._roll
        x, y = x * self.scale, y * self.scale + self.drop - NECK_Y
        return (
            x * cos - y * sin + self.pose["shift_x"],
            x * sin + y * cos + self.pose["shift_y"] + NECK_Y,
        )

    def enter_body(self, x: Tensor, y: Tensor) -> Pair:
        """Map the picture to neck and clothes, which follow the head a little."""
        x, y = x - 0.6 * self.pose["shift_x"], y - 0.4 * self.pose["shift_y"]
        return x / self.zoom, (y - self.drop) / self.zoom

    def leave_body(self, x: Tensor, y: Tensor) -> Pair:
        """Map neck and clothes to the picture; undoes `enter_body`."""
        x, y = x * self.zoom, y * self.zoom + self.drop
        return x + 0.6 * self.pose["shift_x"], y + 0.4 * self.pose["shift_y"]

    def widen(self, x: Tensor, y: Tensor) -> Pair:
        """Undo the narrowing towards the chin."""
        return x / self._narrowing(y), y

    def narrow(self, x: Tensor, y: Tensor) -> Pair:
        """Narrow the head towards the chin."""
        return x * self._narrowing(y), y

    def _narrowing(self, y: Tensor) -> Tensor:
        share = (y / self.axes[1]).clamp(0, 1)
        return 1 - self.who.number("taper") * share * share.sqrt()

    def shorten(self, x: Tensor, y: Tensor) -> Pair:
        """Undo the dropping of the chin when the mouth opens."""
        below = (y - self._stretch_from).clamp(min=0)
        return x, y - below + below / (1 + CHIN_STRETCH * self.pose["opening"])

    def stretch(self, x: Tensor, y: Tensor) -> Pair:
        """Drop the chin as the mouth opens."""
        below = (y - self._stretch_from).clamp(min=0)
        return x, y + below * CHIN_STRETCH * self.pose["opening"]

    # The head's plane and the surfaces that turn with the head

    def turn(self, point: Triple) -> Pair:
        """Turn a point of the head by yaw and pitch and look at it, (x, y)."""
        (cos_yaw, sin_yaw), (cos_pitch, sin_pitch) = self._yaw, self._pitch
        x, y, z = point
        ahead = sin_yaw * x - cos_yaw * z
        return cos_yaw * x + sin_yaw * z, cos_pitch * y + sin_pitch * ahead

    def on_ellipsoid(self, x: Tensor, y: Tensor, axes: Triple) -> tuple[Triple, Tensor, Tensor]:
        """Meet the line of sight with an ellipsoid around the head's centre.

        Args:
            x: Place in the head's plane.
            y: Place in the head's plane.
            axes: Half widths of the ellipsoid.

        Returns:
            The point; how far outside the outline the place lies, about, negative inside; and
            how much the surface there looks at the viewer, 0 to 1. Outside the outline the point
            is that of the nearest outline, about.
        """
        (cos_yaw, sin_yaw), (cos_pitch, sin_pitch) = self._yaw, self._pitch
        a, b, c = (1 / axis for axis in axes)
        # In coordinates where the ellipsoid is the unit sphere: start + depth * sight.
        start = (
            a * (cos_yaw * x + sin_yaw * sin_pitch * y),
            b * cos_pitch * y,
            c * (sin_yaw * x - cos_yaw * sin_pitch * y),
        )
        sight = (-a * cos_pitch * sin_yaw, b * sin_pitch, c * cos_pitch * cos_yaw)
        length = dot(sight, sight)
        along = dot(start, sight)
        across = dot(start, start) - along * along / length
        facing = (1 - across).clamp(min=0).sqrt()
        depth = facing / length.sqrt() - along / length
        point = tuple((s + depth * v) * axis for s, v, axis in zip(start, sight, axes, strict=True))
        outside = (across.clamp(min=1e-6).sqrt() - 1) * torch.sqrt(axes[0] * axes[1])
        return (point[0], point[1], point[2]), outside, facing

    def on_plane(self, x: Tensor, y: Tensor, z: float) -> Pair:
        """Meet the line of sight with a plane of the head at depth `z`."""
        (cos_yaw, sin_yaw), (cos_pitch, sin_pitch) = self._yaw, self._pitch
        along = (x - sin_yaw * z) / cos_yaw
        down = (y - sin_pitch * (sin_yaw * along - cos_yaw * z)) / cos_pitch
        return along, down

    def bulge(self, x: Tensor, y: Tensor, axes: Triple, behind: Tensor | None = None) -> Tensor:
        """Return the depth of an ellipsoid's surface; negative where `behind` is."""
        square = 1 - (x / axes[0]).square() - (y / axes[1]).square()
        depth = axes[2] * square.clamp(min=0).sqrt()
        return depth if behind is None else torch.where(behind < 0, -depth, depth)

    # The face at rest and its expression

    def mouth(self, x: Tensor) -> Mouth:
        """Return the mouth's curves at places across the face."""
        across = (x / self.mouth_half).abs()
        arc = (1 - across.square()).clamp(min=0)
        smile, sneer = self.pose["smile"], self.pose["sneer"]
        near = across.clamp(max=1.4).square()
        line = self.who.number("mouth_y") - 0.055 * smile * (near - 0.35) - 0.03 * sneer * arc
        gap = self.pose["opening"] * self.who.number("gap") * arc.sqrt()
        return Mouth(across, line, 0.25 * gap, 0.75 * gap)

    def relax(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Map points of the face to where they are at rest.

        Returns:
            x and y at rest; and how far the point lies within the open mouth, positive inside.
        """
        mouth = self.mouth(x)
        depth = y - mouth.line
        inside = torch.minimum(depth + mouth.up, mouth.down - depth)
        lower = depth > 0
        dx, dy = self._displacement(x, y, lower)
        # At rest the lips' line is straight; no point of one lip may come to lie on the other.
        rest, line = y - dy, self.who.number("mouth_y")
        near_line = mouth.across < 1
        rest = torch.where(near_line & lower, torch.maximum(rest, line + 1e-4), rest)
        rest = torch.where(near_line & ~lower, torch.minimum(rest, line), rest)
        return x - dx, rest, inside

    def express(self, x: Tensor, y: Tensor) -> Pair:
        """Map points of the resting face to where the expression moves them; undoes `relax`."""
        lower = y > self.who.number("mouth_y")
        moved_x, moved_y = x, y
        for _ in range(EXPRESS_STEPS):
            dx, dy = self._displacement(moved_x, moved_y, lower)
            moved_x, moved_y = x + dx, y + dy
        return moved_x, moved_y

    def _displacement(self, x: Tensor, y: Tensor, lower: Tensor) -> Pair:
        """Return how far points of the expressive face are from rest.

        Args:
            x: Place on the face.
            y: Place on the face.
            lower: Whether the point belongs to the lower lip and what is below it.
        """
        nose_x, nose_y = self._nose_parallax(x, y)
        mouth_x, mouth_y = self._mouth_displacement(x, y, lower)
        return nose_x + mouth_x, nose_y + mouth_y + self._brow_displacement(x, y)

    def _mouth_displacement(self, x: Tensor, y: Tensor, lower: Tensor) -> Pair:
        number = self.who.number
        mouth = self.mouth(x)
        rest = number("mouth_y")
        near = bump((y - rest) / 0.17) * bump(x / 0.38)
        dx = x * near * (1 - number("mouth_width") / self.mouth_half)
        above = (mouth.line - mouth.up - y).clamp(min=0)
        below = (y - mouth.line - mouth.down).clamp(min=0)
        parted = torch.where(lower, mouth.down * bump(below / 0.2), -mouth.up * bump(above / 0.15))
        return dx, (mouth.line - rest) * near + parted

    def _brow_displacement(self, x: Tensor, y: Tensor) -> Tensor:
        number = self.who.number
        height = number("eye_y") - number("brow_gap")
        outwards = ((x.abs() - number("eye_x")) / number("eye_width")).clamp(-1.3, 1.3)
        lift = 0.05 * self.pose["brow_raise"] - 0.038 * self.pose["brow_tilt"] * outwards
        return -lift * bump((y - height) / 0.1) * bump(x / 0.45)

    def _nose_parallax(self, x: Tensor, y: Tensor) -> Pair:
        """Return how a nose that sticks out shifts over the face as the head turns."""
        number = self.who.number
        near = number("nose_depth") * bump(x / 0.12) * bump((y - number("nose_y") + 0.02) / 0.15)
        sneer = 0.018 * self.pose["sneer"] * bump(x / 0.16)
        lift = sneer * bump((y - number("nose_y")) / 0.1)
        return near * self._yaw[1], -near * self._pitch[1] - lift

    def face_point(self, x: Tensor, y: Tensor) -> Pair:
        """Return where a point of the expressive face is seen in the picture."""
        seen = self.turn((x, y, self.bulge(x, y, self.axes)))
        return self.leave(*self.stretch(*self.narrow(*seen)))
