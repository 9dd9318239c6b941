"""The whole way in one node."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from comfy.model_management import intermediate_device
from comfy_api.latest import InputImpl, io
from torch import Tensor

from ..float_core.config import SamplingOptions
from ..float_core.emotion import EMOTIONS, one_hot
from ..float_core.face import DEFAULT_MARGIN
from ..float_core.pipeline import Portrait
from .conversions import BLACK, fill_image, split_audio
from .decoder import fps_input, fps_output, temporary_files, write_video
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
    stream_clips,
)

FROM_SPEECH = "from speech"


def _inputs() -> list[io.Input]:
    """Return the few widgets that a beginner needs."""
    return [
        model_input(),
        io.Image.Input("image", tooltip="A photo or drawing with one face, seen from the front."),
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
    ]


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
            inputs=_inputs(),
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


class FLOATTalkingPortraitVideo(io.ComfyNode):
    """Model, picture and recording to VIDEO, in flat memory."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Declare inputs and outputs."""
        return float_schema(
            "FLOATTalkingPortraitVideo",
            "Talking Portrait Video",
            aliases=("talking head", "lip sync", "long video", "streaming"),
            description=(
                "Makes a portrait speak for as long as you like: the frames go into an H.264 file "
                "while later ones are still to be made, so that memory does not grow with the "
                "recording. Connect Save Video. Several portraits or recordings give a list with "
                "one VIDEO a clip."
            ),
            inputs=_inputs(),
            outputs=[
                io.Video.Output(
                    display_name="video",
                    tooltip="The video with its sound, one VIDEO a clip.",
                    is_output_list=True,
                )
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
        """Stream every clip into a file of its own in ComfyUI's temp folder."""
        options = replace(DEFAULTS, emotion_guidance=emotion_guidance, seed=seed)
        progress = NodeProgress()
        portrait = _encode_portrait(model, image, crop_face, progress)
        track = _emotion(model, audio, emotion, progress)
        clips = stream_clips(model, portrait, audio, track, options, fps, progress.span(0.1, 1.0))
        sounds = split_audio(audio, clips.count)
        with temporary_files(clips.count) as paths:
            for path, clip, sound in zip(paths, clips, sounds, strict=True):
                write_video(path, clip, clips.fps, model.pipeline.config.image_size, sound)
        return io.NodeOutput([InputImpl.VideoFromFile(str(path)) for path in paths])


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
    portrait = _encode_portrait(model, image, crop_face, progress)
    track = _emotion(model, audio, emotion, progress)
    speech = encode_speech(model, audio, progress.span(0.06, 0.1))
    motion = sample_motion(model, portrait, speech, track, options, progress.span(0.1, 0.2))
    return decode_motion(model, portrait, motion, fps, progress.span(0.2, 1.0))


def _encode_portrait(
    model: FloatModel, image: Any, crop_face: bool, progress: NodeProgress
) -> Portrait:
    if crop_face:
        side = model.pipeline.config.image_size
        image, _ = crop_faces(image, DEFAULT_MARGIN, DETECTIONS[0], BLACK, side)
    return encode_portrait(model, image, progress.span(0.0, 0.02))


def _emotion(model: FloatModel, audio: Any, emotion: str, progress: NodeProgress) -> Tensor:
    if emotion != FROM_SPEECH:
        return one_hot(emotion)
    track, _ = hear_emotion(model, audio, progress.span(0.02, 0.06))
    return track
