"""The stages of a clip, as every node runs them: one code path for several entrances."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any

import torch
from comfy.model_management import (
    intermediate_device,
    throw_exception_if_processing_interrupted,
)
from torch import Tensor

from ..float_core.config import SPEECH_SAMPLE_RATE, FloatConfig, SamplingOptions
from ..float_core.decoding import decoding_bytes
from ..float_core.emotion import UNHEARD, UNHEARD_EMOTION, describe, one_hot
from ..float_core.face import Colour, CropSquare
from ..float_core.long_speech import WHOLE_SECONDS
from ..float_core.motion import Motion, exact_fps
from ..float_core.pipeline import DECODE_BATCH, Portrait, Speech
from ..float_core.portrait import portrait_image
from ..float_core.talk import video_frames
from .conversions import (
    BLACK,
    check_image,
    frames_of,
    pictures_of,
    to_device,
    waveform_of,
)
from .networks import FloatModel, sound_bytes
from .progress import NodeProgress, watch

Report = Callable[..., None]
"""A callback of `NodeProgress.span`."""


def encode_portrait(
    model: FloatModel, image: Any, report: Report | None = None, background: Colour = BLACK
) -> Portrait:
    """Encode an IMAGE, a few pictures at a time.

    Args:
        model: The networks.
        image: `(batch, height, width, 3 or 4)`; of another size than the model's it is scaled and,
            where it is not square, filled up with the background.
        report: Where progress goes; the node's whole bar where None.
        background: Colour behind what is transparent or missing.

    Raises:
        ValueError: It is no IMAGE.
    """
    report = report or NodeProgress().span()
    config = model.pipeline.config
    pixels = _square_frames(check_image(image), config.image_size, background)
    pipeline = model.load("motion_encoder", decoding_bytes(config, DECODE_BATCH))
    portraits = []
    for begin in range(0, len(pixels), DECODE_BATCH):
        report(begin, len(pixels))
        encoded = pipeline.encode_portrait(pixels[begin : begin + DECODE_BATCH])
        portraits.append(to_device(encoded, intermediate_device()))
    report(len(pixels), len(pixels))
    return _join(portraits)


def encode_speech(model: FloatModel, audio: Any, report: Report | None = None) -> Speech:
    """Encode an AUDIO.

    Raises:
        ValueError: There is no sound in it, or not enough.
    """
    report = report or NodeProgress().span()
    waveform, sample_rate = waveform_of(audio)
    samples = _model_samples(waveform, sample_rate)
    pipeline = model.load("audio_encoder", sound_bytes(model.pipeline.config.speech, samples))
    speech = pipeline.encode_speech(waveform, sample_rate, on_progress=report)
    return to_device(speech, intermediate_device())


def hear_emotion(model: FloatModel, audio: Any, report: Report | None = None) -> tuple[Tensor, str]:
    """Hear the emotion of an AUDIO.

    Returns:
        The emotion, `(batch, 1, 7)`, and the probabilities as text, a line a recording; neutral,
        and why, where the weights do without an emotion network on purpose.

    Raises:
        ValueError: There is no sound in it, or the weights have no emotion network.
    """
    report = report or NodeProgress().span()
    waveform, sample_rate = waveform_of(audio)
    if model.pipeline.hears_no_emotion:
        return one_hot(UNHEARD_EMOTION).expand(len(waveform), -1, -1), UNHEARD
    samples = _model_samples(waveform, sample_rate)
    pipeline = model.load("emotion_classifier", sound_bytes(model.pipeline.config.emotion, samples))
    probabilities = pipeline.classify_emotion(waveform, sample_rate, on_progress=report)
    probabilities = probabilities.to(intermediate_device())
    return probabilities[:, None], "\n".join(map(describe, probabilities))


def sample_motion(
    model: FloatModel,
    portrait: Portrait,
    speech: Speech,
    emotion: Tensor,
    options: SamplingOptions,
    report: Report | None = None,
) -> Motion:
    """Sample motion.

    Raises:
        ValueError: Portrait, speech or emotion come from another model or do not fit each other.
    """
    report = report or NodeProgress().span()
    config = model.pipeline.config
    _require_width("portrait", portrait.motion, config.latent_dim, "Encode Portrait (FLOAT)")
    _require_width("speech", speech.embedding, config.speech_dim, "Encode Speech (FLOAT)")
    pipeline = model.load("flow_transformer")
    motion = pipeline.sample(portrait, speech, emotion, options, on_progress=report)
    return to_device(motion, intermediate_device())


@dataclass(frozen=True, slots=True)
class Clips:
    """Frames to come of one clip or several of equal length.

    Attributes:
        count: Number of clips.
        frames: Frames of each.
        fps: Frames a second.
        chunks: All frames in order, clip after clip, in [-1, 1], each `(b, 3, side, side)`.
    """

    count: int
    frames: int
    fps: Fraction
    chunks: Iterator[Tensor]

    def __iter__(self) -> Iterator[Iterator[Tensor]]:
        """Yield the chunks of each clip; read one to its end before the next."""
        for _ in range(self.count):
            yield self._next_clip()

    def _next_clip(self) -> Iterator[Tensor]:
        done = 0
        while done < self.frames:
            chunk = next(self.chunks)
            done += len(chunk)
            yield chunk


def decode_motion(
    model: FloatModel,
    portrait: Portrait,
    motion: Motion,
    fps: float,
    report: Report | None = None,
) -> Clips:
    """Prepare the decoding of motion; frames are computed as they are read.

    Raises:
        ValueError: Portrait or motion come from another model or do not fit each other, or the
            rate is out of range.
    """
    report = report or NodeProgress().span()
    config = model.pipeline.config
    _require_portrait(portrait, config)
    _require_width("motion", motion.latents, config.latent_dim, "Sample Motion (FLOAT)")
    motion = motion.at_fps(fps)
    count = max(portrait.batch, len(motion.latents))
    pipeline = model.load("motion_decoder", decoding_bytes(config, DECODE_BATCH))
    chunks = watch(pipeline.decode(portrait, motion), count * motion.frames, report)
    return Clips(count, motion.frames, motion.fps, chunks)


def stream_clips(
    model: FloatModel,
    portrait: Portrait,
    audio: Any,
    emotion: Tensor,
    options: SamplingOptions,
    fps: float,
    report: Report,
) -> Clips:
    """Prepare clips whose speech, motion and frames are computed as the frames are read.

    Raises:
        ValueError: There is no sound, the rate is out of range, or the numbers of portraits,
            recordings and emotions do not fit each other.
    """
    waveform, sample_rate = waveform_of(audio)
    config = model.pipeline.config
    counts = (portrait.batch, len(waveform), len(emotion))
    count = max(counts)
    if any(each not in (1, count) for each in counts):
        raise ValueError(
            f"Expected one of each or equal numbers, got {counts[0]} portrait(s), {counts[1]} "
            f"recording(s) and {counts[2]} emotion(s)."
        )
    samples = _model_samples(waveform[:1], sample_rate)
    pipeline = model.load_together(
        ("audio_encoder", "flow_transformer", "motion_decoder"),
        max(decoding_bytes(config, DECODE_BATCH), sound_bytes(config.speech, samples)),
    )
    frames = video_frames(pipeline, waveform, sample_rate, fps)

    def chunks() -> Iterator[Tensor]:
        for index in range(count):
            yield from pipeline.stream(
                portrait.item(min(index, portrait.batch - 1)),
                waveform[min(index, len(waveform) - 1), None],
                sample_rate,
                emotion[min(index, len(emotion) - 1), None],
                options,
                fps=fps,
                on_step=throw_exception_if_processing_interrupted,
            )

    return Clips(count, frames, exact_fps(fps), watch(chunks(), count * frames, report))


def _square_frames(image: Tensor, side: int, background: Colour) -> Tensor:
    """Return `(batch, 3, side, side)` in [-1, 1]; untouched where the size fits already."""
    if image.shape[1:] == (side, side, 3):
        return frames_of(image)
    whole = CropSquare.whole(image.shape[2], image.shape[1])
    pictures = pictures_of(image, background)
    cuts = [portrait_image(whole.cut(picture, side, background)) for picture in pictures]
    return torch.cat(cuts).contiguous()


def _join(portraits: list[Portrait]) -> Portrait:
    if len(portraits) == 1:
        return portraits[0]
    columns = [[getattr(p, field.name) for p in portraits] for field in fields(Portrait)]
    identity, coefficients, motion, features = columns
    maps = tuple(torch.cat(level) for level in zip(*features, strict=True))
    return Portrait(torch.cat(identity), torch.cat(coefficients), torch.cat(motion), maps)


def _model_samples(waveform: Tensor, sample_rate: int) -> int:
    """Return the samples that the networks hear at once, for the memory estimate."""
    seconds = min(waveform.shape[-1] / max(1, sample_rate), WHOLE_SECONDS)
    return waveform.shape[0] * int(seconds * SPEECH_SAMPLE_RATE)


def _require_width(what: str, value: Tensor, width: int, node: str) -> None:
    if value.shape[-1] != width:
        raise ValueError(
            f"Expected a {what} of this model, {width} numbers wide, got {value.shape[-1]}: "
            f"connect the same Load Model (FLOAT) to {node} and to this node."
        )


def _require_portrait(portrait: Portrait, config: FloatConfig) -> None:
    _require_width("portrait", portrait.identity, config.latent_dim, "Encode Portrait (FLOAT)")
    shapes = tuple(tuple(feature.shape[1:3]) for feature in portrait.features)
    expected = tuple(zip(config.channels[1:], config.sides[1:], strict=True))
    if shapes != expected:
        raise ValueError(
            f"Expected a portrait of this model, {config.image_size} pixels wide, got another "
            "model's: connect the same Load Model (FLOAT) to Encode Portrait (FLOAT) and this node."
        )
