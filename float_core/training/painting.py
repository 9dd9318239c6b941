"""The paint of a drawn portrait, layer by layer, back to front."""

from __future__ import annotations

import torch
from torch import Tensor

from .canvas import Canvas, Layer, cover_of, look_up
from .geometry import BACK_HAIR_Z, Head, Triple, bump, dot

_TEETH, _CAVITY, _TONGUE = (0.92, 0.90, 0.86), (0.17, 0.05, 0.06), (0.64, 0.30, 0.32)
_EYEBALL = (0.93, 0.92, 0.90)
_BLACK = (0.03, 0.03, 0.03)


def _colour(rgb: tuple[float, float, float], like: Tensor) -> Tensor:
    return torch.tensor(rgb, dtype=like.dtype, device=like.device).view(1, 3, 1, 1)


class Painter:
    """Paints one batch of heads onto one canvas."""

    def __init__(self, head: Head, canvas: Canvas, x: Tensor, y: Tensor) -> None:
        """Prepare what several layers share.

        Args:
            head: The heads.
            canvas: Where to paint.
            x: Centres of the pixels, (1, side, side).
            y: Centres of the pixels, (1, side, side).
        """
        self.head = head
        self.canvas = canvas
        self.number = head.who.number
        self.colours = head.who.colours
        self.x, self.y = x, y
        self.pixel = 2 / x.shape[-1] / head.scale
        self.plane = head.enter(x, y)
        self.wide = head.widen(*self.plane)

    def light(self, point: Triple, axes: Triple) -> Tensor:
        """Return the brightness of an ellipsoid's surface under the portrait's lamp."""
        x, y, z = (p / axis.square() for p, axis in zip(point, axes, strict=True))
        length = torch.sqrt(dot((x, y, z), (x, y, z)) + 1e-6)
        x, y = self.head.turn((x, y, z))
        facing = (self.number("light_x") * x + self.number("light_y") * y) / length
        return 0.95 + self.number("light_strength") * facing

    def body(self) -> None:
        """Paint neck and clothes."""
        number = self.number
        x, y = self.head.enter_body(self.x, self.y)
        z = torch.zeros_like(x)
        throat = torch.maximum(
            x.abs() - number("neck_width") * (1 + 0.8 * (y - 0.6).clamp(min=0)), 0.25 - y
        )
        shadow = 0.62 + 0.3 * ((y - 0.55) / 0.4).clamp(0, 1)
        self.canvas.put(
            Layer.BODY, self.colours["skin"] * shadow[:, None], cover_of(throat, self.pixel),
            (x, y, z),
        )  # fmt: skip
        opening = number("collar") * (1 - x.abs() / (number("neck_width") + 0.05)).clamp(min=0)
        cloth = number("shoulder_y") + 0.3 * x.square() + 1.3 * opening - y
        angle = number("stripe_angle")
        wave = torch.sin((x * angle.cos() + y * angle.sin()) * number("stripes"))
        striped = (0.5 + 2 * wave).clamp(0, 1) * number("striped")
        colour = torch.lerp(self.colours["clothes"], self.colours["stripe"], striped[:, None])
        fold = 1 + 0.12 * torch.sin(5 * x + 3 * y) - 0.25 * x * number("light_x").sign() * -0.6
        cover = cover_of(cloth, self.pixel)
        self.canvas.put(Layer.BODY, (colour * fold[:, None]).clamp(0, 1), cover, (x, y, z))

    def back_hair(self) -> None:
        """Paint the hair behind head and neck."""
        number, (a, b, _) = self.number, self.head.axes
        x, y = self.head.on_plane(*self.plane, BACK_HAIR_Z)
        volume = number("hair_volume")
        length = b * (0.35 + 0.75 * number("long_hair") * number("hair_length").clamp(min=0))
        height = torch.where(y > 0, length, b + volume)
        radius = torch.sqrt((x / (a + volume)).square() + (y / height).square() + 1e-6)
        outside = (radius - 1) * a + number("bald") * 4
        streaks = 1 + 0.16 * look_up(self.head.who.hair_detail, x * 1.3, y * 0.6)
        colour = self.colours["hair"] * 0.68 * streaks
        z = torch.full_like(x, BACK_HAIR_Z)
        self.canvas.put(Layer.BACK_HAIR, colour, cover_of(outside, self.pixel), (x, y, z))

    def ears(self) -> None:
        """Paint the ears."""
        size = self.number("ear_size")
        x, y = self.head.on_plane(*self.wide, 0.0)
        dx, dy = (x.abs() - self.head.axes[0]) / size, (y - 0.02) / (2.1 * size)
        radius = torch.sqrt(dx.square() + dy.square() + 1e-6)
        colour = self.colours["skin"] * (0.72 + 0.16 * radius.clamp(max=1))[:, None]
        cover = cover_of((radius - 1) * size, self.pixel)
        self.canvas.put(Layer.EARS, colour, cover, (x, y, torch.zeros_like(x)))

    def face(self) -> None:
        """Paint the face with all that is on it, glasses included."""
        head = self.head
        plane = head.widen(*head.shorten(*self.plane))
        point, outside, facing = head.on_ellipsoid(*plane, head.axes)
        x, y, inside = head.relax(point[0], point[1])
        on_head = cover_of(outside, self.pixel)
        brightness = self.light(point, head.axes)
        skin = self.colours["skin"] * (1 + 0.07 * look_up(head.who.skin_detail, x * 1.2, y * 1.2))
        edge = 0.78 + 0.22 * (facing * 2.2).clamp(max=1)
        lit = (brightness * edge * self._relief(x, y))[:, None]
        self.canvas.put(Layer.SKIN, skin * lit, on_head, (x, y, point[2]))
        front = on_head * (point[2] > 0)
        self._paint_features(x, y, front, brightness)
        self._eyes(point, front, brightness)
        self._open_mouth(point, inside, front)
        self._glasses(point, front)

    def _relief(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the shadows and lights of nose, eye sockets, chin and cheeks."""
        number = self.number
        nose_y, nose_width = number("nose_y"), number("nose_width")
        lamp = number("light_x").sign()
        along = ((y - number("eye_y")) / (nose_y - number("eye_y"))).clamp(0, 1)
        on_nose = bump((y - 0.5 * (nose_y + number("eye_y"))) / (0.75 * (nose_y + 0.12)))
        flank = nose_width * (0.35 + 0.65 * along)
        ridge = 0.16 * bump(x / (0.5 * flank)) * on_nose
        shadow = 0.24 * bump((x + lamp * flank) / (0.55 * nose_width)) * on_nose
        below = 0.22 * bump(x / (1.1 * nose_width)) * bump((y - nose_y - 0.045) / 0.022)
        eye_dx = (x.abs() - number("eye_x")) / (1.35 * number("eye_width"))
        socket = 0.17 * bump(eye_dx) * bump((y - number("eye_y") + 0.02) / 0.075)
        lip_y = number("mouth_y") + 2.0 * number("lower_lip")
        chin = 0.13 * bump(x / 0.1) * bump((y - lip_y - 0.02) / 0.025)
        cheek = 0.05 * bump((x.abs() - 0.24) / 0.1) * bump((y - 0.12) / 0.1)
        return 1 + ridge + cheek - shadow - below - socket - chin

    def _paint_features(self, x: Tensor, y: Tensor, front: Tensor, light: Tensor) -> None:
        """Paint what moves with the skin: nostrils, beard, lips, brows."""
        skin, number = self.colours["skin"], self.number
        nostril = ((x.abs() - 0.52 * number("nose_width")) / 0.021).square()
        nostril = (nostril + ((y - number("nose_y") - 0.02) / 0.013).square()).sqrt()
        self.canvas.paint(skin * 0.35, cover_of((nostril - 1) * 0.015, self.pixel) * front * 0.85)
        self._beard(x, y, front)
        upper, lower = self._lips(x, y)
        lip = self.colours["lip"] * light[:, None]
        self.canvas.paint(lip * 0.88, upper * front)
        self.canvas.paint(lip, lower * front)
        line = (y - number("mouth_y")).abs() - 0.006
        across = (x / (1.05 * number("mouth_width"))).abs()
        seam = cover_of(line, self.pixel.clamp(min=0.008)) * (across < 1)
        self.canvas.paint(self.colours["lip"] * 0.4, seam * front * 0.85)
        self.canvas.paint(self.colours["brow"], self._brows(x, y) * front * 0.92)

    def _beard(self, x: Tensor, y: Tensor, front: Tensor) -> None:
        low = ((y - 0.2) / 0.12).clamp(0, 1) + ((x.abs() - 0.3) / 0.08).clamp(0, 1) * (y > 0)
        gap = bump(x / 0.12) * bump((y - self.number("mouth_y")) / 0.07)
        cover = (low.clamp(max=1) * (1 - 0.8 * gap)) * front * self.number("beard") * 0.8
        self.canvas.paint(self.colours["hair"] * 0.6 + self.colours["skin"] * 0.2, cover)

    def _lips(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the covers of upper and lower lip; both reach the line between them."""
        number = self.number
        across = (x / number("mouth_width")).abs()
        arc = (1 - across.square()).clamp(min=0)
        purse = 1 - 0.3 * self.head.pose["width"].clamp(max=0)
        bow = 1 - 0.35 * bump(x / 0.03)
        y = y - number("mouth_y")
        upper = torch.maximum(-y - number("upper_lip") * 1.5 * arc * bow * purse, y)
        lower = torch.maximum(y - number("lower_lip") * 1.4 * arc.sqrt() * purse, -y)
        within = (across < 1).to(x)
        return (
            cover_of(upper, self.pixel) * within,
            cover_of(lower, self.pixel) * within,
        )

    def _brows(self, x: Tensor, y: Tensor) -> Tensor:
        number = self.number
        along = (x.abs() - number("eye_x")) / (number("eye_width") * number("brow_length"))
        middle = number("eye_y") - number("brow_gap") - number("brow_arch") * (1 - along.square())
        thickness = number("brow_thickness") * (1 - 0.55 * along.clamp(0, 1))
        outside = torch.maximum((y - middle).abs() - thickness, (along.abs() - 1) * 0.1)
        return cover_of(outside, self.pixel.clamp(min=0.01))

    def _eyes(self, point: Triple, front: Tensor, light: Tensor) -> None:
        """Paint eyeballs within the lids, then the lashes."""
        x, y, z = point
        number, pose = self.number, self.head.pose
        dx, dy = x.abs() - number("eye_x"), y - number("eye_y")
        along = dx / number("eye_width")
        arc = 1 - along.square()
        dy = dy - number("eye_tilt") * along
        height = number("eye_height") * (1 - 0.4 * pose["lids"]) * (1 - pose["blink"])
        upper, lower = -1.1 * height * arc, 0.75 * height * arc
        outside = torch.maximum(upper - dy, dy - lower)
        aperture = cover_of(outside, self.pixel) * (arc > 0) * (height > 0.004) * front
        ball_x = dx * x.sign() - 0.42 * number("eye_width") * pose["gaze_x"]
        gaze_y = 0.4 * number("eye_height") * pose["gaze_y"]
        ball_y = dy - gaze_y
        radius = torch.sqrt(ball_x.square() + ball_y.square() + 1e-8)
        size = 1.0 * number("eye_height")
        shadow = 0.75 + 0.25 * ((dy - upper) / (0.6 * number("eye_height"))).clamp(0, 1)
        eye = torch.lerp(
            _colour(_EYEBALL, x) * shadow[:, None],
            self.colours["iris"],
            cover_of(radius - size, self.pixel)[:, None],
        )
        pupil = cover_of(radius - 0.45 * size, self.pixel)[:, None]
        eye = torch.lerp(eye, _colour(_BLACK, x), pupil)
        gleam = torch.hypot(ball_x + 0.3 * size, ball_y + 0.35 * size) - 0.22 * size
        eye = torch.lerp(eye, torch.ones_like(eye), 0.9 * cover_of(gleam, self.pixel)[:, None])
        place = (ball_x + x.sign() * number("eye_x"), y - gaze_y, z)
        self.canvas.put(Layer.EYE, eye * light[:, None], aperture, place)
        lash = torch.maximum((dy - upper).abs() - 0.008, (along.abs() - 1.08) * 0.1)
        cover = cover_of(lash, self.pixel.clamp(min=0.01)) * front * 0.85
        self.canvas.paint(self.colours["skin"] * 0.22, cover)

    def _open_mouth(self, point: Triple, inside: Tensor, front: Tensor) -> None:
        """Paint teeth and tongue between the lips; neither moves with the upper lip."""
        x, y, z = point
        mouth = self.head.mouth(x)
        drop = 2 * mouth.down
        teeth = (0.9 - mouth.across) * 0.1
        row = torch.minimum(self.number("mouth_y") + self.number("teeth") - y, teeth)
        tongue = torch.hypot(x / (0.62 * self.head.mouth_half), (y - mouth.line - drop) / 0.075)
        on_tongue = cover_of((tongue - 1) * 0.07, self.pixel)[:, None]
        colour = torch.lerp(_colour(_CAVITY, x), _colour(_TONGUE, x), on_tongue)
        colour = torch.lerp(colour, _colour(_TEETH, x), cover_of(-row, self.pixel)[:, None])
        within = (mouth.across < 1) & (self.head.pose["opening"] > 0.01)
        cover = cover_of(-inside, self.pixel) * within * front
        self.canvas.put(Layer.MOUTH, colour, cover, (x, y, z))

    def _glasses(self, point: Triple, front: Tensor) -> None:
        x, y, _ = point
        number = self.number
        half = number("eye_width") * number("glasses_width")
        tall = number("eye_width") * number("glasses_height")
        dx, dy = (x.abs() - number("eye_x")) / half, (y - number("eye_y") - 0.012) / tall
        radius = (dx.square().square() + dy.square().square() + 1e-8).sqrt().sqrt()
        ring = (radius - 1).abs() * tall - 0.009
        bridge = torch.maximum(
            (y - number("eye_y")).abs() - 0.008, x.abs() - number("eye_x") + half
        )
        arm = torch.maximum((y - number("eye_y")).abs() - 0.009, number("eye_x") + half - x.abs())
        outside = torch.minimum(torch.minimum(ring, bridge), arm)
        cover = cover_of(outside, self.pixel) * front * number("glasses")
        colour = self.colours["rim"] * (1 - 0.85 * number("dark_rims"))[:, None]
        self.canvas.put(Layer.GLASSES, colour, cover, point)

    def hair(self) -> None:
        """Paint the hair around the forehead."""
        number = self.number
        axes = self.head.hair_axes
        point, outside, facing = self.head.on_ellipsoid(*self.wide, axes)
        x, y, z = point
        side = (x / axes[0]).abs()
        waves = torch.sin(9 * x + number("fringe_phase")) + 0.6 * torch.sin(
            23 * x + 2 * number("fringe_phase")
        )
        parting = 0.12 * bump((x - number("hair_parting")) / 0.09)
        line = number("hairline") + number("hair_side") * side.square().square() - parting
        bare = y - line - number("fringe") * waves
        bare = torch.where(z > 0, bare, torch.minimum(bare, y - 0.1))
        cover = torch.maximum(outside, bare) + number("bald") * 4
        streaks = 1 + 0.2 * look_up(self.head.who.hair_detail, x * 1.5, y * 0.5 + 0.3 * z)
        shine = self.light(point, axes) * (0.7 + 0.3 * facing)
        colour = (self.colours["hair"] * streaks).clamp(min=0.01) * shine[:, None]
        self.canvas.put(Layer.HAIR, colour, cover_of(cover, self.pixel.clamp(min=0.012)), point)
