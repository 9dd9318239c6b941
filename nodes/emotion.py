"""Choose an emotion, or hear it in the speech."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..float_core.emotion import EMOTIONS, one_hot
from .networks import FloatModel
from .progress import tell
from .sockets import EmotionSocket, float_schema, model_input
from .stages import hear_emotion

DEFAULT_EMOTION = "neutral"


class FLOATEmotion(io.ComfyNode):
    """A chosen emotion."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Declare inputs and outputs."""
        return float_schema(
            "FLOATEmotion",
            "Emotion",
            aliases=("mood", "expression"),
            description="One of the seven emotions that FLOAT knows, for the whole clip.",
            inputs=[
                io.Combo.Input(
                    "emotion",
                    options=list(EMOTIONS),
                    default=DEFAULT_EMOTION,
                    tooltip=(
                        "The emotion of the whole clip. How strongly it shows is set by "
                        "emotion_guidance in Sample Motion (FLOAT)."
                    ),
                )
            ],
            outputs=[
                EmotionSocket.Output(
                    display_name="emotion", tooltip="The emotion, for Sample Motion (FLOAT)."
                )
            ],
        )

    @classmethod
    def execute(cls, emotion: str) -> io.NodeOutput:
        """Return the emotion's vector."""
        return io.NodeOutput(one_hot(emotion))


class FLOATEmotionFromSpeech(io.ComfyNode):
    """The emotion heard in a recording."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Declare inputs and outputs."""
        return float_schema(
            "FLOATEmotionFromSpeech",
            "Emotion from Speech",
            aliases=("mood", "emotion recognition"),
            description=(
                "Hears the emotion in a recording with a network of its own, half of all weights, "
                "which is read from disk only when this node runs."
            ),
            inputs=[
                model_input(),
                io.Audio.Input("audio", tooltip="The recording in which the emotion is heard."),
            ],
            outputs=[
                EmotionSocket.Output(
                    display_name="emotion", tooltip="The emotion, for Sample Motion (FLOAT)."
                ),
                io.String.Output(
                    display_name="probabilities",
                    tooltip="The seven probabilities as text, largest first; one line a recording.",
                ),
            ],
        )

    @classmethod
    def execute(cls, model: FloatModel, audio: Any) -> io.NodeOutput:
        """Classify the recording."""
        track, probabilities = hear_emotion(model, audio)
        tell(probabilities)
        return io.NodeOutput(track, probabilities)
