"""The whole way in one node."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy.model_management import intermediate_device
from comfy_api.latest import io

from ..float_core.config import SamplingOptions
from ..float_core.emotion import EMOTIONS, one_hot
from ..float_core.face import DEFAULT_MARGIN
from .conversions import BLACK, fill_image, split_audio
from .decoder import fps_input, fps_output
from .face import DETECTIONS, crop_faces
from .networks import FloatModel
from .progress import NodeProgress
from .sampler import DEFAULTS, guidance_input, seed_input
from .sockets import float_schema, model_input
from .stages import (
    Clips,
    decode_motion,
    encode_portrait,
    encode_speech,
    hear_emotion,
    sample_motion,
)

FROM_SPEECH = "from speech"


class FLOATTalkingPortrait(io.ComfyNode):
    """Model, picture and recording to frames and sound."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Declare inputs and outputs."""
        return float_schema(
            "FLOATTalkingPortrait",
            "Talking Portrait",
            aliases=("talking head", "lip sync", "audio to video", "avatar"),
            description=(
                "Makes a portrait speak: a photo and a recording to frames and sound, for Create "
                "Video or Video Combine. It runs the same stages as the other nodes of FLOAT."
            ),
            inputs=[
                model_input(),
                io.Image.Input(
                    "image", tooltip="A photo or drawing with one face, seen from the front."
                ),
                io.Audio.Input("audio", tooltip="The recording of a voice, at least 0.1 s."),
                io.Combo.Input(
                    "emotion",
                    options=[FROM_SPEECH, *EMOTIONS],
                    default=FROM_SPEECH,
                    tooltip="The emotion of the clip: heard in the recording, or one of the seven.",
                ),
                guidance_input(
                    "emotion_guidance",
                    "How strongly the emotion shows: 0 ignores it, 1 is the published value, "
                    "3 to 5 is theatrical.",
                ),
                io.Boolean.Input(
                    "crop_face",
                    default=True,
                    tooltip="Find the face and cut it out; off for a portrait framed already.",
                ),
                fps_input(),
                seed_input(),
            ],
            outputs=[
                io.Image.Output(
                    display_name="images",
                    tooltip="The frames, one IMAGE a clip.",
                    is_output_list=True,
                ),
                io.Audio.Output(
                    display_name="audio",
                    tooltip="The sound, one AUDIO a clip.",
                    is_output_list=True,
                ),
                fps_output(),
            ],
        )

    @classmethod
    def execute(
        cls,
        model: FloatModel,
        image: Any,
        audio: Any,
        emotion: str,
        emotion_guidance: float,
        crop_face: bool,
        fps: float,
        seed: int,
    ) -> io.NodeOutput:
        """Run every stage."""
        options = replace(DEFAULTS, emotion_guidance=emotion_guidance, seed=seed)
        clips = _talk(model, image, audio, emotion, options, crop_face, fps)
        sounds = split_audio(audio, clips.count)
        images = [fill_image(clip, clips.frames, intermediate_device()) for clip in clips]
        return io.NodeOutput(images, sounds, float(clips.fps))


def _talk(
    model: FloatModel,
    image: Any,
    audio: Any,
    emotion: str,
    options: SamplingOptions,
    crop_face: bool,
    fps: float,
) -> Clips:
    """Run the stages up to decoding; each fills the part of the bar that it takes of the time."""
    progress = NodeProgress()
    if crop_face:
        side = model.pipeline.config.image_size
        image, _ = crop_faces(image, DEFAULT_MARGIN, DETECTIONS[0], BLACK, side)
    portrait = encode_portrait(model, image, progress.span(0.0, 0.02))
    speech = encode_speech(model, audio, progress.span(0.02, 0.06))
    if emotion == FROM_SPEECH:
        track, _ = hear_emotion(model, audio, progress.span(0.06, 0.1))
    else:
        track = one_hot(emotion)
    motion = sample_motion(model, portrait, speech, track, options, progress.span(0.1, 0.2))
    return decode_motion(model, portrait, motion, fps, progress.span(0.2, 1.0))
