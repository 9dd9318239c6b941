"""Decode motion to frames, or straight into a video file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any
from uuid import uuid4

import folder_paths
from comfy.model_management import intermediate_device
from comfy_api.latest import InputImpl, io
from torch import Tensor

from ..float_core.config import FloatConfig
from ..float_core.media import VideoWriter
from ..float_core.motion import MAXIMUM_FPS, MINIMUM_FPS, Motion
from ..float_core.pipeline import Portrait
from ..float_core.portrait import frame_bytes
from ..float_core.writer_thread import WriterThread
from .conversions import fill_image, split_audio
from .networks import FloatModel
from .sockets import MotionSocket, PortraitSocket, float_schema, model_input
from .stages import decode_motion


def fps_input() -> io.Input:
    """Return the frame rate's input."""
    return io.Float.Input(
        "fps",
        default=float(FloatConfig().fps),
        min=float(MINIMUM_FPS),
        max=float(MAXIMUM_FPS),
        step=0.01,
        round=0.001,
        tooltip=(
            "Frames a second of the video. The motion is sampled at 25 and interpolated, so "
            "another rate changes neither tempo nor length."
        ),
    )


def fps_output() -> io.Output:
    """Return the frame rate's output."""
    return io.Float.Output(
        display_name="fps", tooltip="Frames a second, for Create Video or Video Combine."
    )


def _decoder_inputs() -> list[io.Input]:
    return [
        model_input(),
        PortraitSocket.Input(
            "portrait", tooltip="The portrait that moves; another one than was sampled for works."
        ),
        MotionSocket.Input("motion", tooltip="From Sample Motion (FLOAT)."),
    ]


class FLOATDecodeMotion(io.ComfyNode):
    """Portrait and motion to IMAGE."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Declare inputs and outputs."""
        return float_schema(
            "FLOATDecodeMotion",
            "Decode Motion",
            aliases=("talking head", "render frames"),
            description=(
                "Paints the frames of the video. Several portraits or motions give a list with one "
                "IMAGE a clip. A minute of 512 x 512 frames takes 4.7 GB of memory: for long clips "
                "use Render Video (FLOAT)."
            ),
            inputs=[*_decoder_inputs(), fps_input()],
            outputs=[
                io.Image.Output(
                    display_name="images",
                    tooltip="The frames, one IMAGE a clip.",
                    is_output_list=True,
                ),
                fps_output(),
            ],
        )

    @classmethod
    def execute(
        cls, model: FloatModel, portrait: Portrait, motion: Motion, fps: float
    ) -> io.NodeOutput:
        """Decode every clip."""
        clips = decode_motion(model, portrait, motion, fps)
        images = [fill_image(clip, clips.frames, intermediate_device()) for clip in clips]
        return io.NodeOutput(images, float(clips.fps))


class FLOATRenderVideo(io.ComfyNode):
    """Portrait, motion and audio to VIDEO."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Declare inputs and outputs."""
        return float_schema(
            "FLOATRenderVideo",
            "Render Video",
            aliases=("talking head", "save video", "long video"),
            description=(
                "Paints the frames straight into an H.264 file with the sound, a few at a time, so "
                "that memory does not grow with the length. Connect Save Video. Several portraits "
                "or motions give a list with one VIDEO a clip."
            ),
            inputs=[
                *_decoder_inputs(),
                io.Audio.Input("audio", tooltip="The sound of the video: the recording itself."),
                fps_input(),
            ],
            outputs=[
                io.Video.Output(
                    display_name="video",
                    tooltip="The video, one VIDEO a clip.",
                    is_output_list=True,
                )
            ],
        )

    @classmethod
    def execute(
        cls, model: FloatModel, portrait: Portrait, motion: Motion, audio: Any, fps: float
    ) -> io.NodeOutput:
        """Decode every clip into a file of its own in ComfyUI's temp folder."""
        clips = decode_motion(model, portrait, motion, fps)
        sounds = split_audio(audio, clips.count)
        with temporary_files(clips.count) as paths:
            for path, clip, sound in zip(paths, clips, sounds, strict=True):
                write_video(path, clip, clips.fps, model.pipeline.config.image_size, sound)
        return io.NodeOutput([InputImpl.VideoFromFile(str(path)) for path in paths])


@contextmanager
def temporary_files(count: int) -> Iterator[list[Path]]:
    """Name files in ComfyUI's temp folder, which it empties at every start.

    They are removed where the block fails or is cancelled.
    """
    folder = Path(folder_paths.get_temp_directory())
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"float_{uuid4().hex}.mp4" for _ in range(count)]
    try:
        yield paths
    except BaseException:
        for path in paths:
            path.unlink(missing_ok=True)
        raise


def write_video(
    path: Path, clip: Iterator[Tensor], fps: Fraction, side: int, sound: dict[str, Any]
) -> None:
    """Write one clip with its sound, encoding on another thread.

    Args:
        path: The file.
        clip: Frames in [-1, 1], each `(b, 3, side, side)`.
        fps: Frames a second.
        side: Side of a frame in pixels.
        sound: AUDIO of one clip.
    """
    with (
        VideoWriter(path, fps, (side, side), sound["waveform"], sound["sample_rate"]) as video,
        WriterThread(video.write) as writer,
    ):
        for chunk in clip:
            writer.put(frame_bytes(chunk))
