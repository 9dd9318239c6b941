"""Sample motion."""

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..float_core.config import SOLVER_NAMES, SamplingOptions
from ..float_core.pipeline import Portrait, Speech
from .networks import FloatModel
from .sockets import (
    EmotionSocket,
    MotionSocket,
    PortraitSocket,
    SpeechSocket,
    float_schema,
    model_input,
)
from .stages import sample_motion

DEFAULTS = SamplingOptions()


def guidance_input(name: str, tooltip: str) -> io.Input:
    """Return a guidance scale's input, with the default of the sampling options."""
    return io.Float.Input(
        name,
        default=getattr(DEFAULTS, name),
        min=-100.0,
        max=100.0,
        step=0.1,
        round=0.01,
        tooltip=tooltip,
    )


def seed_input() -> io.Input:
    """Return the seed's input."""
    return io.Int.Input(
        "seed",
        default=DEFAULTS.seed,
        min=0,
        max=2**64 - 1,
        control_after_generate=True,
        tooltip="Another seed gives another take of head and eye movement; the same seed the same.",
    )


class FLOATSampleMotion(io.ComfyNode):
    """Portrait, speech and emotion to FLOAT_MOTION."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Declare inputs and outputs."""
        return float_schema(
            "FLOATSampleMotion",
            "Sample Motion",
            aliases=("flow matching", "talking head sampler", "lip sync"),
            description=(
                "Draws the motion of head, eyes and lips that fits the speech. One portrait with "
                "several speeches, several with one, or equal numbers give one clip each."
            ),
            inputs=[
                model_input(),
                PortraitSocket.Input("portrait", tooltip="From Encode Portrait (FLOAT)."),
                SpeechSocket.Input("speech", tooltip="From Encode Speech (FLOAT)."),
                EmotionSocket.Input(
                    "emotion", tooltip="From Emotion (FLOAT) or Emotion from Speech (FLOAT)."
                ),
                guidance_input(
                    "audio_guidance",
                    "How closely the motion follows the speech: 1 is unguided, 2 is the published "
                    "value, more opens the mouth wider and may overdo it.",
                ),
                guidance_input(
                    "emotion_guidance",
                    "How strongly the emotion shows: 0 ignores it, 1 is the published value, "
                    "3 to 5 is theatrical.",
                ),
                guidance_input(
                    "reference_guidance",
                    "How strongly the portrait's own pose holds: 1 is off, as published; other "
                    "values cost a fourth evaluation at every step.",
                ),
                io.Int.Input(
                    "time_points",
                    default=DEFAULTS.time_points,
                    min=2,
                    max=1000,
                    tooltip=(
                        "Points of the time grid (the published nfe): ten points are nine steps. "
                        "More is slower and slightly more exact."
                    ),
                ),
                io.Combo.Input(
                    "solver",
                    options=list(SOLVER_NAMES),
                    default=DEFAULTS.solver,
                    tooltip=(
                        "How a step is taken. Euler evaluates the network once a step, midpoint "
                        "and heun2 twice, heun3 three times, rk4 four times."
                    ),
                ),
                seed_input(),
            ],
            outputs=[
                MotionSocket.Output(
                    display_name="motion",
                    tooltip="The motion, for Decode Motion (FLOAT) or Render Video (FLOAT).",
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        model: FloatModel,
        portrait: Portrait,
        speech: Speech,
        emotion: Tensor,
        **options: float | int | str,
    ) -> io.NodeOutput:
        """Sample the motion."""
        return io.NodeOutput(
            sample_motion(model, portrait, speech, emotion, SamplingOptions(**options))
        )
