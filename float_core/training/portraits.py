"""Drawn portraits, and the true motion of every pixel between two poses of one identity."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .canvas import Canvas, Layer
from .geometry import BACK_HAIR_Z, Head, Pair, pixel_grid
from .identities import Identities
from .painting import Painter

VISIBLE_WITHIN_PIXELS = 1.5
"""A pixel counts as seen in the source where the source shows the same point this near."""

_LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True, slots=True)
class Drawing:
    """Drawn portraits with all that is known of them.

    Attributes:
        image: RGB in [-1, 1], (batch, 3, side, side).
        layer: What each pixel shows, a number of `Layer`, (batch, side, side).
        point: Which point of that layer, in its own coordinates, (batch, 3, side, side).
        head: Who is drawn in which pose.
    """

    image: Tensor
    layer: Tensor
    point: Tensor
    head: Head


@dataclass(frozen=True, slots=True)
class TrueMotion:
    """Where each pixel of a target is found in the source.

    Attributes:
        grid: Sampling position in the source, pixel edges at -1 and 1, x before y, as
            `grid_sample` takes it without aligned corners, (batch, side, side, 2).
        visible: Whether the source shows that point, (batch, side, side), 0 or 1.
    """

    grid: Tensor
    visible: Tensor


@torch.no_grad()
def draw(who: Identities, pose: Tensor, size: int) -> Drawing:
    """Draw portraits.

    Args:
        who: The identities, one a pose.
        pose: (batch, parameters), as in `poses`.
        size: Side of the picture in pixels.

    Raises:
        ValueError: There are not as many identities as poses.
    """
    if len(who) != len(pose):
        raise ValueError(
            f"Expected one identity a pose, got {len(who)} and {len(pose)}: repeat the identities."
        )
    x, y = pixel_grid(size, who.background)
    background = F.interpolate(who.background, (size, size), mode="area")
    if size > who.background.shape[-1]:
        background = F.interpolate(who.background, (size, size), mode="bicubic").clamp(0, 1)
    canvas = Canvas(background, x, y)
    head = Head(who, pose)
    painter = Painter(head, canvas, x, y)
    painter.body()
    painter.back_hair()
    painter.ears()
    painter.face()
    painter.hair()
    return Drawing(_graded(who, canvas.colour), canvas.layer, canvas.point, head)


def _graded(who: Identities, colour: Tensor) -> Tensor:
    """Develop the picture: colour cast, saturation, contrast, brightness."""
    colour = colour * who.colours["gain"]
    weights = torch.tensor(_LUMA, dtype=colour.dtype, device=colour.device).view(1, 3, 1, 1)
    grey = (colour * weights).sum(1, keepdim=True)
    saturation = who.number("saturation") * (1 - who.number("grey_picture"))
    colour = torch.lerp(grey, colour, saturation[:, None])
    contrast, brightness = who.number("contrast")[:, None], who.number("brightness")[:, None]
    return ((colour - 0.5) * contrast + 0.5 + brightness).clamp(0, 1) * 2 - 1


@torch.no_grad()
def true_motion(source: Drawing, target: Drawing) -> TrueMotion:
    """Return the motion from source to target that the decoder has to find.

    Args:
        source: Portraits.
        target: The same identities in other poses.
    """
    x, y = _seen_in(source.head, target)
    grid = torch.stack((x, y), dim=-1)
    known = torch.cat((source.layer[:, None], source.point), dim=1)
    there = F.grid_sample(known, grid, "nearest", "border", align_corners=False)
    size = target.image.shape[-1]
    near = (there[:, 1:3] - target.point[:, :2]).square().sum(1).sqrt()
    within = VISIBLE_WITHIN_PIXELS * 2 / size * (1 + near_edge(target))
    inside = grid.abs().amax(-1) <= 1
    same_side = there[:, 3] * target.point[:, 2] >= 0
    visible = (there[:, 0] == target.layer) & (near < within) & same_side & inside
    return TrueMotion(grid, visible.to(grid))


def near_edge(drawing: Drawing) -> Tensor:
    """Return how steeply the surface turns away, where one pixel spans more of it, 0 or more."""
    a, b, _ = drawing.head.axes
    x, y = drawing.point[:, 0], drawing.point[:, 1]
    return 1.5 * ((x / a).square() + (y / b).square()).clamp(max=1)


def _seen_in(head: Head, target: Drawing) -> Pair:
    """Return where another pose shows the points that a drawing shows."""
    x, y, z = target.point.unbind(1)
    pose = head.pose
    moved_x, moved_y = head.express(x, y)
    gaze_x = 0.42 * head.who.number("eye_width") * pose["gaze_x"]
    gaze_y = 0.4 * head.who.number("eye_height") * pose["gaze_y"]
    face = Layer.SKIN.value
    is_skin, is_eye = target.layer == face, target.layer == Layer.EYE
    on_x = torch.where(is_skin, moved_x, torch.where(is_eye, x + gaze_x, x))
    on_y = torch.where(is_skin, moved_y, torch.where(is_eye, y + gaze_y, y))
    axes_depth = torch.where(
        target.layer == Layer.HAIR,
        head.bulge(x, y, head.hair_axes, z),
        head.bulge(on_x, on_y, head.axes, z),
    )
    depth = torch.where(target.layer == Layer.EARS, 0.0, axes_depth)
    depth = torch.where(target.layer == Layer.BACK_HAIR, BACK_HAIR_Z, depth)
    plane = head.turn((on_x, on_y, depth))
    narrow = head.narrow(*plane)
    stretched = head.stretch(*narrow)
    on_face = (target.layer >= face) & (target.layer <= Layer.GLASSES)
    behind = target.layer == Layer.BACK_HAIR
    plane_x = torch.where(behind, plane[0], torch.where(on_face, stretched[0], narrow[0]))
    plane_y = torch.where(behind, plane[1], torch.where(on_face, stretched[1], narrow[1]))
    seen_x, seen_y = head.leave(plane_x, plane_y)
    still = target.layer == Layer.BACKGROUND
    body = target.layer == Layer.BODY
    body_x, body_y = head.leave_body(x, y)
    seen_x = torch.where(body, body_x, torch.where(still, x, seen_x))
    seen_y = torch.where(body, body_y, torch.where(still, y, seen_y))
    return seen_x, seen_y


def boxes(head: Head) -> Tensor:
    """Return the places of mouth and eyes, for losses and measures.

    Args:
        head: The heads.

    Returns:
        Centre x, centre y, half width and half height of the mouth, then of the eyes with the
        brows, in image units, (batch, 2, 4).
    """
    number, scale = head.who.number, head.scale
    zero = torch.zeros_like(scale)
    mouth = head.face_point(zero, number("mouth_y") + 0.03 + 0.04 * head.pose["opening"])
    eyes = head.face_point(zero, number("eye_y") - 0.04)
    rows = (
        (*mouth, 0.27 * scale, 0.22 * scale),
        (*eyes, 0.38 * scale, 0.2 * scale),
    )
    return torch.stack([torch.stack([v.flatten() for v in row], -1) for row in rows], 1)
