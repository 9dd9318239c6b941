"""Talk: from a photo and a recording to a video file, stage by stage."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from os import PathLike
from pathlib import Path

from torch import Tensor

from .audio import check_waveform, frame_count, resampled_length
from .config import SPEECH_SAMPLE_RATE, SamplingOptions
from .emotion import EMOTIONS, UNHEARD, UNHEARD_EMOTION, describe, one_hot
from .face import (
    DEFAULT_MARGIN,
    CropSquare,
    FaceBox,
    Picture,
    check_margin,
    find_yunet_model,
    frame_portrait,
)
from .long_speech import Encoding
from .media import VideoWriter, check_output, load_audio, load_image, parse_colour
from .motion import exact_fps
from .pace import Pace
from .pipeline import FloatPipeline
from .portrait import frame_bytes, portrait_image
from .writer_thread import WriterThread

FROM_SPEECH = "speech"
"""The choice of emotion that is heard from the recording."""


@dataclass(frozen=True, slots=True)
class TalkOptions:
    """What a run of `talk` may choose, besides its files.

    Attributes:
        emotion: One of the seven, or "speech" to hear it.
        sampling: Time points, solver, guidance scales, seed.
        fps: Frames a second of the video, 1 to 120.
        box: The face as left, top, width, height in pixels of the picture; found where None.
        crop: False takes the whole picture as the portrait.
        margin: Half side of the crop over half the longer side of the face.
        background: Colour beyond the picture and behind transparency.
        batch_size: Frames decoded at once; what suits the device where None.
        encoding: "auto" hears speech beyond a minute in pieces, "whole" at once.
    """

    emotion: str = FROM_SPEECH
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    fps: float | Fraction = 25
    box: tuple[float, float, float, float] | None = None
    crop: bool = True
    margin: float = DEFAULT_MARGIN
    background: str = "#000000"
    batch_size: int | None = None
    encoding: Encoding = "auto"

    def __post_init__(self) -> None:
        if self.emotion not in (*EMOTIONS, FROM_SPEECH):
            raise ValueError(
                f"Expected an emotion of {', '.join(EMOTIONS)} or {FROM_SPEECH}, "
                f"got {self.emotion!r}."
            )
        if not self.crop and self.box is not None:
            raise ValueError("Expected a face box or no crop, got both: leave one out.")
        if self.box is not None and len(self.box) != 4:
            raise ValueError(f"Expected a face box of 4 numbers, got {len(self.box)}.")
        exact_fps(self.fps)
        check_margin(self.margin)
        parse_colour(self.background)


@dataclass(slots=True)
class TalkReport:
    """What a run did.

    Attributes:
        frames: Frames in the video.
        framed_by: What framed the face: a detector, "box", "centre" or "whole".
        emotion: The chosen emotion, or the probabilities heard.
        seconds: Wall time of each stage.
    """

    frames: int = 0
    framed_by: str = ""
    emotion: str = ""
    seconds: dict[str, float] = field(default_factory=dict)


class Stages:
    """Times stages, and shows their progress where it is told how.

    Attributes:
        seconds: Wall time of each stage so far.
    """

    def __init__(self, on_progress: Callable[[str, int, int], None] | None = None) -> None:
        """Start without stages.

        Args:
            on_progress: Called with the stage's name, the units done and their total.
        """
        self.seconds: dict[str, float] = {}
        self._on_progress = on_progress or (lambda _stage, _done, _total: None)

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[int, int], None]]:
        """Time a stage and hand out the callback for its progress."""
        start = time.perf_counter()
        yield lambda done, total: self._on_progress(name, done, total)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def talk(
    image: str | PathLike[str],
    audio: str | PathLike[str],
    output: str | PathLike[str],
    load: Callable[[Callable[[int, int], None]], FloatPipeline],
    options: TalkOptions | None = None,
    face_models: Sequence[Path] = (),
    on_progress: Callable[[str, int, int], None] | None = None,
) -> TalkReport:
    """Make a portrait speak and write the video.

    Whatever can be refused is looked at before the weights are loaded. The output appears under
    its name only when it is whole.

    Args:
        image: A picture file.
        audio: A sound file, or a video with a sound track.
        output: The .mp4 file to write.
        load: Loads the weights; given a callback for its progress.
        options: What to do.
        face_models: Folders in which YuNet's file may lie.
        on_progress: Called with a stage's name, the units done and their total.

    Raises:
        FileNotFoundError: A file or folder is not there.
        OSError: The output cannot be written.
        ValueError: A file or an option is of no use; the message says why.
    """
    options = options or TalkOptions()
    stages = Stages(on_progress)
    report = TalkReport(seconds=stages.seconds)
    _check_output(output, image, audio)
    with stages.stage("inputs"):
        picture = load_image(image, options.background)
        waveform, rate = load_audio(audio)
        check_waveform(waveform, rate)
        square = _frame(picture, options, face_models)
        report.framed_by = square.method
    with stages.stage("weights") as bar:
        pipeline = load(bar)
    with stages.stage("portrait"):
        cut = square.cut(picture, pipeline.config.image_size, parse_colour(options.background))
        portrait = pipeline.encode_portrait(portrait_image(cut))
    with stages.stage("emotion") as bar:
        emotion, report.emotion = _emotion(pipeline, options.emotion, waveform, rate, bar)
    frames = video_frames(pipeline, waveform, rate, options.fps)
    side = pipeline.config.image_size
    with VideoWriter(output, options.fps, (side, side), waveform, rate) as video:
        with stages.stage("first frame") as bar:
            steps = _first_steps(pipeline, options, bar)
            chunks = pipeline.stream(
                portrait,
                waveform,
                rate,
                emotion,
                options.sampling,
                fps=options.fps,
                batch_size=options.batch_size,
                encoding=options.encoding,
                on_step=steps,
            )
            first = next(chunks)
        with stages.stage("video") as bar, WriterThread(video.write) as writer:
            pace = Pace(frames)
            for chunk in chain([first], chunks):
                writer.put(frame_bytes(chunk))
                report.frames += len(chunk)
                bar(report.frames, frames)
                pace.log_estimate(report.frames)
    return report


def _first_steps(
    pipeline: FloatPipeline, options: TalkOptions, on_progress: Callable[[int, int], None]
) -> Callable[[], None]:
    """Return a callback that counts the steps up to the first frame and ignores later ones."""
    total = pipeline.config.speech.layers + options.sampling.time_points - 1
    steps = iter(range(1, total + 1))

    def count() -> None:
        done = next(steps, None)
        if done is not None:
            on_progress(done, total)

    return count


def video_frames(
    pipeline: FloatPipeline, waveform: Tensor, sample_rate: int, fps: float | Fraction
) -> int:
    """Return how many frames `FloatPipeline.stream` yields for a sound.

    Args:
        pipeline: The pipeline.
        waveform: (1, channels, samples).
        sample_rate: Its rate in Hz.
        fps: Frames a second of the video.
    """
    samples = resampled_length(waveform.shape[-1], sample_rate, SPEECH_SAMPLE_RATE)
    sampled = frame_count(samples, pipeline.config.fps)
    return math.ceil(sampled * exact_fps(fps) / pipeline.config.fps)


def _check_output(output: str | PathLike[str], *inputs: str | PathLike[str]) -> None:
    path = check_output(output)
    if path.suffix.lower() != ".mp4":
        raise ValueError(f"Expected an output file ending in .mp4, got {path.name!r}.")
    for name in map(Path, inputs):
        if path.exists() and name.exists() and path.samefile(name):
            raise ValueError(f"Expected an output file of its own, got the input {name}.")


def _frame(picture: Picture, options: TalkOptions, face_models: Sequence[Path]) -> CropSquare:
    height, width = picture.shape[:2]
    if not options.crop:
        return CropSquare.whole(width, height)
    if options.box is not None:
        square = CropSquare.around(FaceBox.from_size(*options.box), options.margin)
        square.require_overlap(width, height)
        return square
    return frame_portrait(picture, options.margin, find_yunet_model(face_models))


def _emotion(
    pipeline: FloatPipeline,
    choice: str,
    waveform: Tensor,
    sample_rate: int,
    on_progress: Callable[[int, int], None],
) -> tuple[Tensor, str]:
    """Return the emotion vector, (1, 1, 7), and its description."""
    if choice != FROM_SPEECH:
        return one_hot(choice), choice
    if pipeline.hears_no_emotion:
        return one_hot(UNHEARD_EMOTION), UNHEARD
    heard = pipeline.classify_emotion(waveform, sample_rate, on_progress)
    return heard[:, None], describe(heard[0])
