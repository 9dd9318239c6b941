"""Where the face is, and the square around it that the weights expect.

A `FaceBox` is a detected face, a `CropSquare` the part of the picture to cut. The published weights
were trained on squares around boxes of the S3FD detector, so the boxes of the detectors used here
are first brought to S3FD's extents.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

logger = logging.getLogger(__name__)

Picture: TypeAlias = npt.NDArray[np.uint8]
"""RGB, `(height, width, 3)`."""

Colour: TypeAlias = tuple[int, int, int]

Detector = Literal["yunet", "haar"]
Method = Literal["box", "yunet", "haar", "centre", "whole"]
"""What a square was framed by: a given box, a detector, or no face at all."""

DEFAULT_MARGIN = 1.6
"""Half side of the square over half the longer side of the face box, as published."""

PUBLISHED_MINIMUM_SCORE = 0.95

YUNET_FILES = "face_detection_yunet_*.onnx"
YUNET_MINIMUM_SCORE = 0.6
YUNET_LONG_SIDES = (640, 320, 1280)
"""Long sides in pixels at which YuNet looks, in turn, until it finds a face.

It was trained on faces of about 10 to 300 pixels, so a face that fills the picture is found at a
smaller scale, and a small one at a larger.
"""

YUNET_SHORT_SIDE = 64
"""Least side in pixels; at 32 and below OpenCV 4 returns boxes out of uninitialised memory."""

HAAR_LONG_SIDE = 640
HAAR_FILE = "haarcascade_frontalface_default.xml"

_AREA_ROWS = 360
_CANVAS_SIDE = 4096


@dataclass(frozen=True, slots=True)
class FaceBox:
    """A face: from the top of the brows to the chin, and from cheek to cheek, as S3FD gives it.

    Attributes:
        left: Left edge in pixels of the original picture; edges may lie outside of it.
        top: Upper edge.
        right: Right edge, greater than `left`.
        bottom: Lower edge, greater than `top`.
        score: Certainty of the detector, 0 to 1; 1 for a box drawn by hand.
    """

    left: float
    top: float
    right: float
    bottom: float
    score: float = 1.0

    def __post_init__(self) -> None:
        corners = (self.left, self.top, self.right, self.bottom)
        if not all(math.isfinite(value) for value in (*corners, self.score)):
            raise ValueError(f"Expected finite numbers for a face box, got {self}.")
        if self.right <= self.left or self.bottom <= self.top:
            raise ValueError(
                "Expected a face box whose right and bottom lie beyond its left and top, "
                f"got {corners}: give the box as left, top, width, height, all in pixels."
            )

    @classmethod
    def from_size(cls, left: float, top: float, width: float, height: float) -> FaceBox:
        """Build the box drawn by hand from its upper left corner and its size, in pixels.

        Raises:
            ValueError: Width or height is not above 0.
        """
        return cls(left, top, left + width, top + height)


@dataclass(frozen=True, slots=True)
class Extents:
    """Where S3FD's box lies in another detector's, as fractions of that box's width and height."""

    left: float
    top: float
    right: float
    bottom: float

    def apply(self, found: Sequence[float], score: float, scale: float) -> FaceBox:
        """Return the face box for what was found on a picture shrunk by `scale`.

        Args:
            found: Left, top, width and height in pixels of the shrunk picture.
            score: Certainty of the detector, 0 to 1.
            scale: Size of the shrunk picture over the original's.
        """
        x, y, width, height = map(float, found)
        return FaceBox(
            left=(x + self.left * width) / scale,
            top=(y + self.top * height) / scale,
            right=(x + self.right * width) / scale,
            bottom=(y + self.bottom * height) / scale,
            score=score,
        )


# Measured on NASA's portrait of Eileen Collins, the astronaut of scikit-image (512 x 512), where
# the cheeks are at x 180 and 269, the top of the brows at y 87 and the chin at y 178. There YuNet
# gives x 178, y 63, width 90, height 113, and OpenCV's Haar cascade x 177, y 66, width and height
# 95: both begin on the forehead, and the cascade's square ends above the chin.
YUNET_EXTENTS = Extents(left=0.02, top=0.21, right=1.01, bottom=1.02)
HAAR_EXTENTS = Extents(left=0.03, top=0.22, right=0.97, bottom=1.18)


def _opencv() -> Any:
    # Imported when first needed: it takes a while, and most of the core does without. Its types
    # differ between OpenCV 4 and 5.
    import cv2

    return cv2


def check_margin(margin: float) -> None:
    """Refuse a margin that gives no crop.

    Raises:
        ValueError: The margin is not above 0, up to 10.
    """
    if not (math.isfinite(margin) and 0 < margin <= 10):
        raise ValueError(f"Expected a margin above 0, up to 10, got {margin!r}: 1.6 is usual.")


def first_face(
    boxes: Iterable[FaceBox], minimum_score: float = PUBLISHED_MINIMUM_SCORE
) -> FaceBox | None:
    """Return the first box above the score, which need not be the best: the published choice."""
    return next((box for box in boxes if box.score > minimum_score), None)


@dataclass(frozen=True, slots=True)
class CropSquare:
    """The square of the original picture that becomes the portrait.

    Attributes:
        centre_x: Column of the centre, in pixels of the original picture.
        centre_y: Row of the centre.
        half: Half the side in pixels, 1 or more; the square may reach beyond the picture.
        method: What it was framed by.
    """

    centre_x: int
    centre_y: int
    half: int
    method: Method = "box"

    def __post_init__(self) -> None:
        if self.half < 1:
            raise ValueError(
                f"Expected a crop of at least 2 pixels a side, got {2 * self.half}: "
                "give a larger face box or margin."
            )

    @classmethod
    def around(
        cls, box: FaceBox, margin: float = DEFAULT_MARGIN, method: Method = "box"
    ) -> CropSquare:
        """Frame a face by the published rule, whose every rounding is towards zero.

        Args:
            box: The face.
            margin: Half side of the square over half the longer side of the box; above 0, up to 10.
            method: What found the face.

        Raises:
            ValueError: The margin is out of range, or the square would have no pixel.
        """
        check_margin(margin)
        left, top, right, bottom = (int(v) for v in (box.left, box.top, box.right, box.bottom))
        half = int(max(int((bottom - top) / 2), int((right - left) / 2)) * margin)
        return cls(int((left + right) / 2), int((top + bottom) / 2), half, method)

    @classmethod
    def centred(cls, width: int, height: int) -> CropSquare:
        """Return the largest square in the middle of a picture."""
        return cls(width // 2, height // 2, min(width, height) // 2, "centre")

    @classmethod
    def whole(cls, width: int, height: int) -> CropSquare:
        """Return the smallest square that holds all of a picture: what "no crop" means."""
        return cls(width // 2, height // 2, (max(width, height) + 1) // 2, "whole")

    @property
    def side(self) -> int:
        """Return the side in pixels of the original picture."""
        return 2 * self.half

    def cut(self, picture: Picture, size: int, background: Colour = (0, 0, 0)) -> Picture:
        """Cut the square out and bring it to the size of the network.

        Args:
            picture: The original picture, RGB, `(height, width, 3)`, uint8.
            size: Side of the result in pixels.
            background: Colour of what lies beyond the picture.

        Returns:
            `(size, size, 3)`, uint8.

        Raises:
            ValueError: The picture has another shape or type, or the square does not touch it.
        """
        cv2 = _opencv()
        check_picture(picture)
        square = self._filled(picture, background)
        # The rule reads the rows of the original picture, not of the square.
        method = cv2.INTER_AREA if picture.shape[0] > _AREA_ROWS else cv2.INTER_CUBIC
        return np.asarray(cv2.resize(square, (size, size), interpolation=method), dtype=np.uint8)

    def require_overlap(self, width: int, height: int) -> None:
        """Refuse a square that lies beyond a picture of so many pixels.

        Raises:
            ValueError: No pixel of the picture lies in the square.
        """
        left, top = self.centre_x - self.half, self.centre_y - self.half
        if left >= width or top >= height or left + self.side <= 0 or top + self.side <= 0:
            raise ValueError(
                f"Expected a face box on the picture of {width} x {height} pixels, got a crop "
                f"centred at ({self.centre_x}, {self.centre_y}): give the box in pixels of that "
                "picture."
            )

    def _filled(self, picture: Picture, background: Colour) -> Picture:
        """Return the square at its own scale, a view where it lies inside of the picture.

        What reaches beyond is filled without padding the picture, and a very large square is first
        shrunk by a whole factor, so that memory stays bounded.
        """
        cv2 = _opencv()
        left, top = self.centre_x - self.half, self.centre_y - self.half
        x, y = max(left, 0), max(top, 0)
        inside = picture[y : max(top + self.side, 0), x : max(left + self.side, 0)]
        self.require_overlap(picture.shape[1], picture.shape[0])
        if inside.shape[:2] == (self.side, self.side):
            return inside
        factor = -(-self.side // _CANVAS_SIDE)
        if factor > 1:
            smaller = [max(1, length // factor) for length in (inside.shape[1], inside.shape[0])]
            inside = cv2.resize(inside, smaller, interpolation=cv2.INTER_AREA)
        canvas = np.empty((self.side // factor, self.side // factor, 3), np.uint8)
        canvas[:] = background
        hole = canvas[round((y - top) / factor) :, round((x - left) / factor) :]
        rows, columns = (min(a, b) for a, b in zip(hole.shape[:2], inside.shape[:2], strict=True))
        hole[:rows, :columns] = inside[:rows, :columns]
        return canvas


def check_picture(picture: Picture) -> None:
    """Refuse what is not an RGB picture of bytes.

    Raises:
        ValueError: The shape is not `(height, width, 3)`, or the type is not uint8.
    """
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise ValueError(
            "Expected a uint8 RGB picture of shape (height, width, 3), got "
            f"{picture.dtype} of shape {tuple(picture.shape)}: convert it first."
        )


def frame_portrait(
    picture: Picture, margin: float = DEFAULT_MARGIN, yunet_model: Path | str | None = None
) -> CropSquare:
    """Find the face of a portrait and frame it; without a face, take the centre and warn.

    YuNet is used where its model file is given, else OpenCV's Haar cascade where that is there.

    Args:
        picture: RGB, `(height, width, 3)`, uint8.
        margin: See `CropSquare.around`.
        yunet_model: YuNet's file, as `find_yunet_model` gives it.

    Returns:
        The square; its `method` says what framed it.

    Raises:
        FileNotFoundError: `yunet_model` names no file.
        ValueError: The picture is not RGB bytes, the margin is out of range, or the model file
            cannot be read.
    """
    check_picture(picture)
    detector: Detector
    if yunet_model is not None:
        detector, faces = "yunet", detect_with_yunet(picture, yunet_model)
    elif haar_cascade() is not None:
        detector, faces = "haar", detect_with_haar(picture)
    else:
        return _centre(picture, "There is no face detector (no YuNet file, and no Haar in OpenCV)")
    if not faces:
        return _centre(picture, f"{detector} found no face")
    if len(faces) > 1:
        logger.info("%s found %d faces; the first is taken.", detector, len(faces))
    return CropSquare.around(faces[0], margin, detector)


def _centre(picture: Picture, reason: str) -> CropSquare:
    logger.warning(
        "%s: the centre of the picture is taken. Give a face box, or a picture already framed.",
        reason,
    )
    return CropSquare.centred(picture.shape[1], picture.shape[0])


def find_yunet_model(folders: Iterable[Path | str]) -> Path | None:
    """Return YuNet's newest model file in the first folder that holds one, or None.

    Args:
        folders: Where to look, in order; they need not exist.
    """
    for folder in folders:
        # The names end in year and month; the quantised variants are less exact.
        files = sorted(path for path in Path(folder).glob(YUNET_FILES) if "int8" not in path.name)
        if files:
            return files[-1]
    return None


def detect_with_yunet(picture: Picture, model: Path | str) -> tuple[FaceBox, ...]:
    """Find faces with OpenCV's YuNet.

    Args:
        picture: RGB, `(height, width, 3)`, uint8.
        model: YuNet's ONNX file.

    Returns:
        The faces, the most certain first, with S3FD's extents.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: OpenCV cannot run the file.
    """
    cv2 = _opencv()
    if not Path(model).is_file():
        raise FileNotFoundError(
            f"Expected YuNet's model file at {model}, found none: download "
            "face_detection_yunet_2026may.onnx from the OpenCV Zoo."
        )
    try:
        detector = cv2.FaceDetectorYN.create(str(model), "", (320, 320), YUNET_MINIMUM_SCORE)
        for long_side in YUNET_LONG_SIDES:
            found = _yunet_at(detector, picture, long_side)
            if found:
                return found
    except cv2.error as error:
        raise ValueError(
            f"Expected a YuNet model that OpenCV {cv2.__version__} can run, got {model}: download "
            "face_detection_yunet_2026may.onnx from the OpenCV Zoo."
        ) from error
    return ()


def _yunet_at(detector: Any, picture: Picture, long_side: int) -> tuple[FaceBox, ...]:
    shrunk, scale = _shrunk(picture, long_side)
    rows, columns = (max(0, YUNET_SHORT_SIDE - length) for length in shrunk.shape[:2])
    shrunk = np.pad(shrunk, ((0, rows), (0, columns), (0, 0)))
    detector.setInputSize((shrunk.shape[1], shrunk.shape[0]))
    found = detector.detect(np.ascontiguousarray(shrunk[:, :, ::-1]))[1]
    # A row is x, y, width, height, ten numbers for eyes, nose and mouth, and the score.
    faces = [
        YUNET_EXTENTS.apply(row[:4], score=float(row[14]), scale=scale)
        for row in (() if found is None else found)
    ]
    return tuple(sorted(faces, key=lambda box: -box.score))


def haar_cascade() -> Path | None:
    """Return the file of OpenCV's frontal face cascade, or None where OpenCV has none (5.0)."""
    cv2 = _opencv()
    if not hasattr(cv2, "CascadeClassifier") or not hasattr(cv2, "data"):
        return None
    path = Path(cv2.data.haarcascades) / HAAR_FILE
    return path if path.is_file() else None


def detect_with_haar(picture: Picture) -> tuple[FaceBox, ...]:
    """Find faces with OpenCV's Haar cascade, which gives no score: the largest comes first.

    Args:
        picture: RGB, `(height, width, 3)`, uint8.

    Returns:
        The faces with S3FD's extents.

    Raises:
        FileNotFoundError: OpenCV has no cascade.
    """
    cv2 = _opencv()
    path = haar_cascade()
    if path is None:
        raise FileNotFoundError(
            f"Expected OpenCV's Haar cascade, found none in OpenCV {cv2.__version__}: "
            "use YuNet, or OpenCV 4."
        )
    shrunk, scale = _shrunk(picture, HAAR_LONG_SIDE)
    grey = cv2.cvtColor(shrunk, cv2.COLOR_RGB2GRAY)
    smallest = max(24, min(grey.shape) // 12)
    found: Sequence[Sequence[int]] = cv2.CascadeClassifier(str(path)).detectMultiScale(
        grey, scaleFactor=1.1, minNeighbors=5, minSize=(smallest, smallest)
    )
    largest_first = sorted(found, key=lambda row: -row[2])
    return tuple(HAAR_EXTENTS.apply(row, score=1.0, scale=scale) for row in largest_first)


def _shrunk(picture: Picture, long_side: int) -> tuple[Picture, float]:
    """Scale a picture down so that its longer side is at most `long_side`; return the factor too.

    Both sides keep their exact ratio to within half a pixel.
    """
    cv2 = _opencv()
    scale = min(1.0, long_side / max(picture.shape[:2]))
    if scale == 1:
        return picture, 1.0
    size = [max(1, round(length * scale)) for length in (picture.shape[1], picture.shape[0])]
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA), scale
