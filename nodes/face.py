"""Frame a face, and encode the portrait."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from comfy_api.latest import io

from ..float_core.config import FloatConfig
from ..float_core.face import (
    DEFAULT_MARGIN,
    Colour,
    CropSquare,
    FaceBox,
    Picture,
    detect_with_haar,
    detect_with_yunet,
    find_yunet_model,
    frame_portrait,
)
from ..float_core.hub import FACE_DETECTOR
from ..float_core.media import MINIMUM_SIDE, parse_colour
from .conversions import check_image, image_of_pictures, pictures_of
from .folders import download_folder, search_folders
from .networks import FloatModel
from .progress import tell
from .sockets import CropSocket, PortraitSocket, float_schema, model_input
from .stages import encode_portrait

DETECTIONS = ("auto", "yunet", "haar", "centre", "whole")
DEFAULT_BACKGROUND = "#000000"


@dataclass(frozen=True, slots=True)
class FaceCrops:
    """What the FLOAT_CROP wire carries: where each portrait was cut from.

    Attributes:
        squares: One square a picture, in pixels of the original.
        width: Width of the originals in pixels.
        height: Height of the originals in pixels.
    """

    squares: tuple[CropSquare, ...]
    width: int
    height: int


class FLOATCropFace(io.ComfyNode):
    """IMAGE to the square that the weights expect."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Declare inputs and outputs."""
        return float_schema(
            "FLOATCropFace",
            "Crop Face",
            aliases=("face detection", "portrait crop", "yunet"),
            description=(
                "Finds the face and cuts the square around it that FLOAT was trained on. Every "
                "picture of a batch is framed on its own."
            ),
            inputs=[
                io.Image.Input(
                    "image", tooltip="A photo or drawing with one face, seen from the front."
                ),
                io.Float.Input(
                    "margin",
                    default=DEFAULT_MARGIN,
                    min=0.5,
                    max=10.0,
                    step=0.05,
                    round=0.001,
                    tooltip=(
                        "Side of the square over the longer side of the face. The weights expect "
                        f"{DEFAULT_MARGIN}; more shows more around the face."
                    ),
                ),
                io.Combo.Input(
                    "detection",
                    options=list(DETECTIONS),
                    default=DETECTIONS[0],
                    tooltip=(
                        "auto takes YuNet where its file is in models/float, else OpenCV's Haar "
                        "where OpenCV has it, and the centre of the picture where no face is "
                        "found. yunet and haar stop without a face. whole keeps all of the picture."
                    ),
                ),
                io.String.Input(
                    "background",
                    default=DEFAULT_BACKGROUND,
                    tooltip=(
                        "Colour behind what is transparent and beyond the picture's edge: "
                        '"#000000", "white".'
                    ),
                ),
                io.Int.Input(
                    "size",
                    default=FloatConfig().image_size,
                    min=64,
                    max=1024,
                    step=64,
                    tooltip="Side of the result in pixels; the released weights work at 512.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The square portrait."),
                CropSocket.Output(
                    display_name="crop", tooltip="Where in the picture the square lies."
                ),
            ],
        )

    @classmethod
    def execute(
        cls, image: Any, margin: float, detection: str, background: str, size: int
    ) -> io.NodeOutput:
        """Cut the faces."""
        return io.NodeOutput(*crop_faces(image, margin, detection, parse_colour(background), size))


class FLOATEncodePortrait(io.ComfyNode):
    """IMAGE to FLOAT_PORTRAIT."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Declare inputs and outputs."""
        return float_schema(
            "FLOATEncodePortrait",
            "Encode Portrait",
            aliases=("talking head", "motion encoder"),
            description=(
                "Looks at a portrait and gives its identity, appearance and pose. A batch of "
                "pictures gives one clip each."
            ),
            inputs=[
                model_input(),
                io.Image.Input(
                    "image",
                    tooltip=(
                        "A framed portrait, from Crop Face (FLOAT). Another size is scaled, what "
                        "is not square is filled up with black."
                    ),
                ),
            ],
            outputs=[
                PortraitSocket.Output(
                    display_name="portrait",
                    tooltip="The encoded portrait, for Sample Motion (FLOAT) and the decoders.",
                )
            ],
        )

    @classmethod
    def execute(cls, model: FloatModel, image: Any) -> io.NodeOutput:
        """Encode the portraits."""
        return io.NodeOutput(encode_portrait(model, image))


def crop_faces(
    image: Any, margin: float, detection: str, background: Colour, size: int
) -> tuple[Any, FaceCrops]:
    """Frame and cut every picture of an IMAGE.

    Returns:
        The portraits, `(batch, size, size, 3)`, and where they were cut from.

    Raises:
        ValueError: It is no IMAGE, or a chosen detector finds no face.
        FileNotFoundError: A chosen detector is not there.
    """
    _, height, width, _ = check_image(image).shape
    if min(width, height) < MINIMUM_SIDE:
        raise ValueError(
            f"Expected a picture of at least {MINIMUM_SIDE} x {MINIMUM_SIDE} pixels, got "
            f"{width} x {height}: give a larger one."
        )
    portraits, squares = [], []
    for picture in pictures_of(image, background):
        square = _frame(picture, margin, detection)
        portraits.append(square.cut(picture, size, background))
        squares.append(square)
    tell(_framing(squares, detection))
    return image_of_pictures(portraits), FaceCrops(tuple(squares), width, height)


def _frame(picture: Picture, margin: float, detection: str) -> CropSquare:
    height, width, _ = picture.shape
    if detection == "centre":
        return CropSquare.centred(width, height)
    if detection == "whole":
        return CropSquare.whole(width, height)
    yunet = find_yunet_model(search_folders())
    if detection == "auto":
        return frame_portrait(picture, margin, yunet)
    if detection == "haar":
        return _around_first(detect_with_haar(picture), margin, "haar")
    if detection != "yunet":
        raise ValueError(f"Expected detection of {', '.join(DETECTIONS)}, got {detection!r}.")
    if yunet is None:
        raise FileNotFoundError(
            f"Expected YuNet's file {FACE_DETECTOR.target} in {download_folder()}, found none: put "
            f'it there from {FACE_DETECTOR.url}, or switch detection to "auto".'
        )
    return _around_first(detect_with_yunet(picture, yunet), margin, "yunet")


def _framing(squares: Sequence[CropSquare], detection: str) -> str:
    """Say what framed the pictures, and what to do where that was no face."""
    methods = dict.fromkeys(square.method for square in squares)
    text = f"framed by: {', '.join(methods)}"
    if detection == "auto" and "centre" in methods:
        text += (
            f". No face was found. Frame the picture by hand, or put {FACE_DETECTOR.target} into "
            f"{download_folder()} for a better detector."
        )
    return text


def _around_first(faces: tuple[FaceBox, ...], margin: float, method: Any) -> CropSquare:
    if not faces:
        raise ValueError(
            f"Expected one face, {method} found none: give a picture in which the face is larger "
            'and seen from the front, or switch detection to "centre".'
        )
    return CropSquare.around(faces[0], margin, method)
