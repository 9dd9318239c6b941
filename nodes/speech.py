"""Encode speech."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .networks import FloatModel
from .sockets import SpeechSocket, float_schema, model_input
from .stages import encode_speech


class FLOATEncodeSpeech(io.ComfyNode):
    """AUDIO to FLOAT_SPEECH."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Declare inputs and outputs."""
        return float_schema(
            "FLOATEncodeSpeech",
            "Encode Speech",
            aliases=("talking head", "lip sync", "wav2vec2", "audio encoder"),
            description=(
                "Listens to a recording and gives what the motion needs of it, one vector a video "
                "frame. Any sample rate and any number of channels; a batch gives one clip each."
            ),
            inputs=[
                model_input(),
                io.Audio.Input(
                    "audio",
                    tooltip="The recording of a voice, at least 0.1 s; clean speech works best.",
                ),
            ],
            outputs=[
                SpeechSocket.Output(
                    display_name="speech", tooltip="The encoded speech, for Sample Motion (FLOAT)."
                )
            ],
        )

    @classmethod
    def execute(cls, model: FloatModel, audio: Any) -> io.NodeOutput:
        """Encode the recording."""
        return io.NodeOutput(encode_speech(model, audio))
