"""Write a video file: H.264 pictures and AAC sound in MP4, through PyAV."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import av
import numpy as np
import numpy.typing as npt
import torch
from av.video.reformatter import VideoReformatter

from .audio import check_waveform, resample_part, to_mono
from .face import Picture
from .motion import exact_fps

FilePath: TypeAlias = str | os.PathLike[str]

AI_COMMENT = "AI-generated video (FLOAT talking portrait)"
"""Metadata comment of every video, so that a player or a platform can tell."""

_ENCODER_THREADS = 4
_AAC_FRAME = 1024
_AAC_RATES = (32_000, 44_100, 48_000, 64_000, 88_200, 96_000)
"""Rates kept as they come. AAC can hold lower ones, but its last frame, always 1024 samples when
decoded, would then outlast the video by more than a picture."""
_AAC_OTHER_RATE = 48_000
_STRETCH_SECONDS = 10
_AAC_BITS_PER_CHANNEL = 128_000


def check_output(path: FilePath) -> Path:
    """Make sure a file can be written, before the work that fills it.

    Args:
        path: The file to write; it may exist, and is not touched.

    Returns:
        The path.

    Raises:
        FileNotFoundError: Its folder does not exist.
        OSError: Its folder cannot be written, or the path is a folder itself.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(
            f"Expected an output folder at {path.parent}, found none: create it first."
        )
    if path.is_dir():
        raise IsADirectoryError(f"Expected an output file, got the folder {path}: add a file name.")
    trial = _temporary_beside(path)
    try:
        trial.touch(exist_ok=False)
        trial.unlink()
    except OSError as error:
        raise PermissionError(
            f"Expected an output folder that can be written, got {path.parent} "
            f"({error.strerror}): choose another."
        ) from error
    return path


def _temporary_beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.part")


class VideoWriter:
    """Write H.264 video and AAC sound to an MP4 file, frame by frame in flat memory.

    A context manager. The file appears under its name only when everything went well; an error or
    Ctrl-C inside of the block leaves nothing behind. Both tracks start at 0, and the sound is cut
    or filled with silence to the length of the video::

        with VideoWriter("talk.mp4", 25, (512, 512), waveform, sample_rate) as video:
            for frames in chunks:
                video.write(frames)

    Attributes:
        path: The file.
        frames: Number of frames written so far.
    """

    def __init__(
        self,
        path: FilePath,
        fps: float | Fraction,
        size: tuple[int, int],
        waveform: torch.Tensor | None = None,
        sample_rate: int | None = None,
        *,
        crf: int = 18,
        preset: str = "veryfast",
    ) -> None:
        """Check everything that can be checked before the work; open nothing yet.

        Args:
            path: The file to write, ending in .mp4; an existing one is replaced at the end.
            fps: Frames a second, 1 to 120.
            size: Width and height of the frames in pixels. The video repeats the last column or row
                of an odd side, since H.264 halves the colours' sides.
            waveform: Sound in [-1, 1], `(1, channels, samples)`; None for a silent video. More than
                two channels are averaged to one.
            sample_rate: Samples a second, with a waveform.
            crf: Quality of x264: 0 is lossless, 18 looks lossless, 51 is the worst.
            preset: Speed of x264 at equal quality, "ultrafast" to "veryslow".

        Raises:
            FileNotFoundError: The folder of the file does not exist.
            OSError: The file cannot be written.
            ValueError: A number is out of range, or the sound cannot be used.
        """
        self._fps = exact_fps(fps)
        if min(size) < 1:
            raise ValueError(f"Expected a frame size above 0, got {size[0]} x {size[1]}.")
        self._size = size
        self._sound: tuple[torch.Tensor, int] | None = None
        if waveform is not None:
            self._sound = _playable(waveform, sample_rate or 0)
        self._options = {
            "crf": str(crf),
            "preset": preset,
            "colorspace": "bt709",
            "color_primaries": "bt709",
            "color_trc": "bt709",
            "color_range": "tv",
        }
        self.path = check_output(path)
        self.frames = 0
        self._temporary = _temporary_beside(self.path)
        self._reformatter: Any = VideoReformatter()  # its types name fewer arguments than it takes

    def __enter__(self) -> VideoWriter:
        try:
            self._container: Any = av.open(
                str(self._temporary), "w", format="mp4", options={"movflags": "+faststart"}
            )
            self._container.metadata["comment"] = AI_COMMENT
            self._video = self._add_video()
            self._track = _Soundtrack(self._container, *self._sound) if self._sound else None
        except BaseException:
            self._discard()
            raise
        return self

    def _add_video(self) -> Any:
        if "libx264" not in av.codecs_available:
            raise ValueError(
                "Expected a PyAV with the libx264 encoder, got one without: "
                "install PyAV's wheel from the Python package index."
            )
        stream = self._container.add_stream("libx264", rate=self._fps, options=self._options)
        stream.width, stream.height = (side + side % 2 for side in self._size)
        stream.pix_fmt = "yuv420p"
        stream.time_base = 1 / self._fps
        # Without B-frames the first picture needs no edit list to start at 0.
        stream.codec_context.max_b_frames = 0
        stream.codec_context.thread_count = min(_ENCODER_THREADS, os.cpu_count() or 1)
        return stream

    def write(self, frames: npt.NDArray[np.uint8] | torch.Tensor) -> None:
        """Append one frame or several.

        Args:
            frames: RGB, `(height, width, 3)` or `(frames, height, width, 3)`, uint8.

        Raises:
            ValueError: The shape or the type is another.
        """
        pixels = frames.cpu().numpy() if isinstance(frames, torch.Tensor) else np.asarray(frames)
        width, height = self._size
        if pixels.dtype != np.uint8 or pixels.shape[-3:] != (height, width, 3) or pixels.ndim > 4:
            raise ValueError(
                f"Expected uint8 RGB frames of {width} x {height} pixels, (height, width, 3) or "
                f"(frames, height, width, 3), got {pixels.dtype} of shape {pixels.shape}."
            )
        for picture in pixels.reshape(-1, height, width, 3):
            self._write_one(picture)

    def _write_one(self, picture: Picture) -> None:
        even = np.pad(picture, [(0, side % 2) for side in picture.shape[:2]] + [(0, 0)], "edge")
        frame = self._reformatter.reformat(
            av.VideoFrame.from_ndarray(even, format="rgb24"),
            format="yuv420p",
            dst_colorspace="ITU709",
            dst_color_range="MPEG",
        )
        frame.pts = self.frames
        frame.time_base = 1 / self._fps
        self._container.mux(self._video.encode(frame))
        self.frames += 1
        if self._track:
            self._track.write_until(self.frames / self._fps)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._discard()
            return
        try:
            self._finish()
        except BaseException:
            self._discard()
            raise

    def _finish(self) -> None:
        if self.frames == 0:
            raise ValueError("Expected at least one frame before the video is closed, got none.")
        if self._track:
            self._track.finish(self.frames / self._fps)
        self._container.mux(self._video.encode(None))
        self._container.close()
        os.replace(self._temporary, self.path)

    def _discard(self) -> None:
        container = getattr(self, "_container", None)
        if container is not None:
            # The error that led here matters, not that the half file cannot be completed.
            with suppress(av.FFmpegError, OSError, ValueError):
                container.close()
        self._temporary.unlink(missing_ok=True)


def _playable(waveform: torch.Tensor, sample_rate: int) -> tuple[torch.Tensor, int]:
    """Return the sound of one video, `(channels, samples)` with 1 or 2 channels, and its rate."""
    check_waveform(waveform, sample_rate)
    if waveform.shape[0] != 1:
        raise ValueError(f"Expected the sound of one video, got a batch of {waveform.shape[0]}.")
    sound = waveform[0].detach().cpu().float()
    if sound.shape[0] > 2:
        sound = to_mono(waveform.detach().cpu())
    return sound, sample_rate


class _Soundtrack:
    """The sound of a video under way, encoded just as far as the pictures have come."""

    def __init__(self, container: Any, sound: torch.Tensor, sample_rate: int) -> None:
        self._container = container
        self._sound = sound  # (channels, samples)
        self._source_rate = sample_rate
        self._rate = sample_rate if sample_rate in _AAC_RATES else _AAC_OTHER_RATE
        self._position = 0
        self._ready = np.empty((len(sound), 0), np.float32)  # resampled, from _position on
        self._layout = "mono" if len(sound) == 1 else "stereo"
        self._stream = container.add_stream("aac", rate=self._rate, layout=self._layout)
        self._stream.codec_context.bit_rate = _AAC_BITS_PER_CHANNEL * len(sound)

    def write_until(self, seconds: Fraction) -> None:
        """Encode all whole AAC frames that end before this time."""
        while self._position + _AAC_FRAME <= seconds * self._rate:
            self._encode(_AAC_FRAME)

    def finish(self, seconds: Fraction) -> None:
        """Encode the rest, up to exactly this time."""
        self.write_until(seconds)
        rest = round(seconds * self._rate) - self._position
        if rest > 0:
            self._encode(rest)
        self._container.mux(self._stream.encode(None))

    def _encode(self, samples: int) -> None:
        piece = np.ascontiguousarray(self._next(samples))
        frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout=self._layout)
        frame.sample_rate = self._rate
        frame.pts = self._position
        frame.time_base = Fraction(1, self._rate)
        self._position += samples
        self._container.mux(self._stream.encode(frame))

    def _next(self, samples: int) -> npt.NDArray[np.float32]:
        """Return the next samples, `(channels, samples)`, with silence after the sound's end."""
        if self._ready.shape[1] < samples:
            # A stretch at a time: a long sound is never held a second time.
            stretch = max(samples, _STRETCH_SECONDS * self._rate)
            start, stop = self._position, self._position + stretch
            part = resample_part(self._sound, self._source_rate, self._rate, start, stop)
            made = part.clamp(-1, 1).numpy()
            self._ready = np.pad(made, ((0, 0), (0, stop - start - made.shape[1])))
        piece, self._ready = self._ready[:, :samples], self._ready[:, samples:]
        return piece
