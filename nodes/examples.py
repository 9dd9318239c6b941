"""The shipped portrait and speech, so that a template runs at the first press."""

from __future__ import annotations

from pathlib import Path

from comfy_api.latest import io

from ..float_core.media import load_audio, load_image
from .conversions import audio_of, image_of_pictures
from .sockets import float_schema

ASSETS = Path(__file__).parent.parent / "assets"
DRAWING, PHOTO = "drawing", "photo"
PORTRAITS = {DRAWING: ASSETS / "drawing.png", PHOTO: ASSETS / "portrait.png"}
SPEECH = ASSETS / "speech.flac"


class FLOATExamplePortrait(io.ComfyNode):
    """The shipped portrait."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Declare inputs and outputs."""
        return float_schema(
            "FLOATExamplePortrait",
            "Example Portrait",
            aliases=("sample image", "demo portrait"),
            description=(
                "A portrait to try FLOAT with, framed already: a drawing, for the demo weights, or "
                "NASA's photo of the astronaut Eileen Collins, in the public domain, for the "
                "released ones. Put Load Image in its place for your own."
            ),
            inputs=[
                io.Combo.Input(
                    "picture",
                    options=list(PORTRAITS),
                    default=DRAWING,
                    optional=True,
                    tooltip=(
                        "The drawing is the kind of face that the demo weights know; the released "
                        "weights animate photos."
                    ),
                )
            ],
            outputs=[io.Image.Output(display_name="image", tooltip="The portrait, 512 x 512.")],
        )

    @classmethod
    def execute(cls, picture: str = DRAWING) -> io.NodeOutput:
        """Read the picture."""
        return io.NodeOutput(image_of_pictures([load_image(PORTRAITS[picture])]))


class FLOATExampleSpeech(io.ComfyNode):
    """The shipped speech."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Declare inputs and outputs."""
        return float_schema(
            "FLOATExampleSpeech",
            "Example Speech",
            aliases=("sample audio", "demo speech"),
            description=(
                "A recording to try FLOAT with: a LibriVox reading in the public domain. Put Load "
                "Audio in its place for your own."
            ),
            inputs=[],
            outputs=[io.Audio.Output(display_name="audio", tooltip="The recording.")],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        """Read the recording."""
        return io.NodeOutput(audio_of(*load_audio(SPEECH)))
