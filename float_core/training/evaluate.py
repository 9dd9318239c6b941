"""Does it speak? Figures of a trained model on held-out identities, voices and recordings.

The model is judged through `FloatPipeline`, as it is used, and by readers that were trained on
drawn frames alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor

from ..audio import prepare_speech
from ..config import SPEECH_SAMPLE_RATE, SamplingOptions
from ..emotion import EMOTIONS, one_hot
from ..motion import Motion
from ..pipeline import FloatPipeline, Portrait
from .autoencoder import draw_pairs, psnr
from .clips import Performance, rehearse
from .curves import mean_correlation
from .losses import crop_regions
from .portraits import boxes, draw
from .poses import index
from .readers import Reader
from .seeds import HELD_OUT, generator

CLIPS = 21
CLIP_SECONDS = 4.0
PAIRS = 128
LAGS = range(-4, 5)
STRONG_GUIDANCE = 3.0
SILENCE_LEVEL = 1e-3
ENVELOPE_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Judges:
    """The readers.

    Attributes:
        opening: Reads how far the mouth opens.
        emotion: Reads the emotion.
    """

    opening: Reader
    emotion: Reader


@dataclass(frozen=True, slots=True)
class Clip:
    """A held-out performance, drawn.

    Attributes:
        performance: What is performed.
        image: The portrait that is to be animated, (1, 3, S, S).
        portrait: The same, encoded.
        frames: The true frames, (frames, 3, S, S).
        opening: The true opening, (frames,).
    """

    performance: Performance
    image: Tensor
    portrait: Portrait
    frames: Tensor
    opening: Tensor


def draw_clip(pipeline: FloatPipeline, seed: int, number: int) -> Clip:
    """Rehearse and draw one held-out clip."""
    config = pipeline.config
    performance = rehearse(HELD_OUT, seed + 1, number, CLIP_SECONDS, config.fps)
    size, who = config.image_size, performance.who
    frames = [
        draw(who.repeated(len(part)), part, size).image
        for part in torch.split(performance.pose, 25)
    ]
    image = draw(who, performance.portrait, size).image
    portrait = pipeline.encode_portrait(image)
    opening = performance.pose[:, index("opening")]
    return Clip(performance, image, portrait, torch.cat(frames), opening)


def judge_reconstruction(pipeline: FloatPipeline, seed: int = 0) -> dict[str, float]:
    """Return PSNR of held-out pictures redrawn in the poses of others, in dB.

    Args:
        pipeline: The model.
        seed: Name of the random streams.
    """
    size = pipeline.config.image_size
    pairs = draw_pairs(generator(HELD_OUT, "judged pairs", seed), PAIRS, size, 0.7, "cpu")
    source, target = pairs.source.image, pairs.target.image
    decoded = []
    for one, other in zip(torch.split(source, 1), torch.split(target, 1), strict=True):
        motion = pipeline.encode_portrait(other).motion
        portrait = pipeline.encode_portrait(one)
        decoded += list(pipeline.decode(portrait, _still(motion, pipeline)))
    made = torch.cat(decoded).cpu()
    places = boxes(pairs.target.head)[:, :1]
    mouths = [crop_regions(image, places) for image in (made, source, target)]
    whole, gain = psnr(made, target), psnr(made, target) - psnr(source, target)
    mouth_gain = psnr(mouths[0], mouths[2]) - psnr(mouths[1], mouths[2])
    half = PAIRS // 2  # the others differ in expression only
    return {
        "reconstruction PSNR": float(whole[:half].mean()),
        "reconstruction over copying": float(gain[:half].mean()),
        "expression-only PSNR": float(whole[half:].mean()),
        "expression-only over copying": float(gain[half:].mean()),
        "expression-only mouth over copying": float(mouth_gain[half:].mean()),
    }


def _still(motion: Tensor, pipeline: FloatPipeline) -> Motion:
    """Return one frame of motion for each of a batch."""
    return Motion(motion[:, None], Fraction(pipeline.config.fps))


Mood = tuple[float, bool]
"""The probability that a reader gives the wanted emotion, and whether it is the likeliest."""


@dataclass(frozen=True, slots=True)
class ClipFigures:
    """What is read off one clip; openings are tracks, (frames,).

    Attributes:
        truth: The true opening.
        on_drawn: The opening read off the drawn frames.
        on_another: The opening read off another portrait in this clip's motion.
        spoken: The opening read off generated frames.
        own: PSNR of the clip redrawn from its portrait, dB.
        copied: PSNR of the portrait itself, dB.
        moods: How the wanted emotion shows in drawn, redrawn and generated frames, and in those
            generated at strong guidance: its probability, and whether it is the likeliest.
        every_mood: The same, for frames generated in each of the seven emotions.
    """

    truth: Tensor
    on_drawn: Tensor
    on_another: Tensor
    spoken: Tensor
    own: float
    copied: float
    moods: tuple[Mood, ...]
    every_mood: tuple[Mood, ...]


MOODS = (
    "emotion told right, drawn",
    "emotion told right, redrawn",
    "emotion told right",
    "emotion told right, guidance 3",
)


def judge_clip(pipeline: FloatPipeline, judges: Judges, clip: Clip, other: Portrait) -> ClipFigures:
    """Return the figures of one clip.

    Args:
        pipeline: The model.
        judges: The readers.
        clip: The clip.
        other: Another identity's portrait, which gets this clip's motion.
    """
    sound, emotion = clip.performance.sound, clip.performance.emotion
    redrawn = reenacted(pipeline, clip.portrait, clip.frames)
    acted = {name: generated(pipeline, clip.portrait, sound, name) for name in EMOTIONS}
    spoken = acted[emotion]
    options = SamplingOptions(emotion_guidance=STRONG_GUIDANCE)
    strong = generated(pipeline, clip.portrait, sound, emotion, options)
    return ClipFigures(
        truth=clip.opening,
        on_drawn=judges.opening.read(clip.frames).cpu(),
        on_another=judges.opening.read(reenacted(pipeline, other, clip.frames)).cpu(),
        spoken=judges.opening.read(spoken).cpu(),
        own=float(psnr(redrawn, clip.frames).mean()),
        copied=float(psnr(clip.image, clip.frames).mean()),
        moods=tuple(_mood(judges, f, emotion) for f in (clip.frames, redrawn, spoken, strong)),
        every_mood=tuple(_mood(judges, frames, name) for name, frames in acted.items()),
    )


def judge_clips(
    pipeline: FloatPipeline,
    judges: Judges,
    seed: int = 0,
    count: int = CLIPS,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """Return how the mouth and the face of held-out clips follow speech and emotion.

    Args:
        pipeline: The model.
        judges: The readers.
        seed: Name of the random streams.
        count: Number of clips.
        on_progress: Called with the clips done and their number.
    """
    clips = []
    other = draw_clip(pipeline, seed, count).portrait
    for number in range(count):
        clip = draw_clip(pipeline, seed, number)
        clips.append(judge_clip(pipeline, judges, clip, other))
        other = clip.portrait
        if on_progress is not None:
            on_progress(number + 1, count)
    truth = torch.stack([clip.truth for clip in clips])
    mouths = torch.stack([clip.spoken for clip in clips])
    lag, best = best_lag(mouths, truth)
    moods = list(zip(*(clip.moods for clip in clips), strict=True))
    return {
        "clips redrawn PSNR": _mean(clip.own for clip in clips),
        "clips redrawn over copying": _mean(clip.own - clip.copied for clip in clips),
        "meter on drawn frames": mean_correlation(torch.stack([c.on_drawn for c in clips]), truth),
        "opening of another's coefficients": mean_correlation(
            torch.stack([clip.on_another for clip in clips]), truth
        ),
        "opening generated": mean_correlation(mouths, truth),
        "opening generated, best lag": best,
        "lag in frames": float(lag),
        "opening against another clip": mean_correlation(mouths, truth.roll(1, 0)),
        **{n: _mean(float(right) for _, right in m) for n, m in zip(MOODS, moods, strict=True)},
        "emotion told right, all seven on each clip": _mean(
            float(right) for clip in clips for _, right in clip.every_mood
        ),
        "emotion probability": _mean(p for p, _ in moods[2]),
        "emotion probability, guidance 3": _mean(p for p, _ in moods[3]),
    }


def _mood(judges: Judges, frames: Tensor, emotion: str) -> Mood:
    """Return how an emotion shows in frames."""
    probabilities = judges.emotion.read(frames).mean(0)
    wanted = EMOTIONS.index(emotion)
    return float(probabilities[wanted]), int(probabilities.argmax()) == wanted


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / max(len(listed), 1)


def generated(
    pipeline: FloatPipeline,
    portrait: Portrait,
    sound: Tensor,
    emotion: str,
    options: SamplingOptions | None = None,
) -> Tensor:
    """Return the frames the model makes of a portrait and a 16 kHz sound, (frames, 3, S, S)."""
    speech = pipeline.encode_speech(sound[None, None], SPEECH_SAMPLE_RATE)
    motion = pipeline.sample(portrait, speech, one_hot(emotion), options)
    return torch.cat(list(pipeline.decode(portrait, motion, 25)))


def reenacted(pipeline: FloatPipeline, portrait: Portrait, frames: Tensor) -> Tensor:
    """Return a portrait in the poses seen in another's frames, (frames, 3, S, S)."""
    motion = torch.cat([pipeline.encode_portrait(part).motion for part in torch.split(frames, 25)])
    track = Motion(motion[None], Fraction(pipeline.config.fps))
    return torch.cat(list(pipeline.decode(portrait, track, 25)))


def best_lag(made: Tensor, truth: Tensor) -> tuple[int, float]:
    """Return by how many frames one set of tracks lags another, and the correlation there.

    Args:
        made: (clips, frames).
        truth: (clips, frames).
    """
    scores = {}
    for lag in LAGS:
        late = made[:, max(lag, 0) : made.shape[1] + min(lag, 0)]
        early = truth[:, max(-lag, 0) : truth.shape[1] + min(-lag, 0)]
        scores[lag] = mean_correlation(late, early)
    best = max(scores, key=lambda lag: scores[lag])
    return best, scores[best]


def envelope(sound: Tensor, fps: int, frames: int) -> Tensor:
    """Return the loudness of a 16 kHz sound around each video frame, (frames,)."""
    window = round(ENVELOPE_SECONDS * SPEECH_SAMPLE_RATE)
    step = SPEECH_SAMPLE_RATE // fps
    padded = F.pad(sound, (window // 2, window + frames * step))
    pieces = padded.unfold(0, window, step)[:frames]
    return pieces.square().mean(1).sqrt()


def judge_recordings(
    pipeline: FloatPipeline,
    meter: Reader,
    recordings: Iterable[tuple[Tensor, int]],
    portrait: Portrait,
) -> dict[str, float]:
    """Return how the mouth follows the loudness of recorded voices.

    Args:
        pipeline: The model.
        meter: Reads how far the mouth opens.
        recordings: Waveforms, (1, channels, samples), and their rates in Hz.
        portrait: Who speaks.
    """
    scores = []
    for waveform, rate in recordings:
        sound = prepare_speech(waveform, rate)[0]
        opening = meter.read(generated(pipeline, portrait, sound, "neutral")).cpu()
        loud = envelope(sound, pipeline.config.fps, len(opening))
        scores.append(mean_correlation(opening[None], loud[None]))
    return {"opening against envelope": _mean(scores)}


def judge_silence(
    pipeline: FloatPipeline, meter: Reader, portraits: Iterator[Portrait]
) -> dict[str, float]:
    """Return how far mouths stand open in faint noise.

    Args:
        pipeline: The model.
        meter: Reads how far the mouth opens.
        portraits: Who is silent.
    """
    stream = generator(HELD_OUT, "silence")
    count = round(CLIP_SECONDS * SPEECH_SAMPLE_RATE)
    openings = []
    for portrait in portraits:
        hiss = SILENCE_LEVEL * torch.randn(count, generator=stream)
        openings.append(meter.read(generated(pipeline, portrait, hiss, "neutral")).cpu())
    return {"opening in silence": float(torch.stack(openings).mean())}


def judge(
    pipeline: FloatPipeline,
    judges: Judges,
    seed: int = 0,
    count: int = CLIPS,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """Return all figures that need no recordings.

    Args:
        pipeline: The model.
        judges: The readers.
        seed: Name of the random streams.
        count: Number of clips.
        on_progress: Called with the clips done and their number.
    """
    clips = (draw_clip(pipeline, seed, number) for number in range(count, count + 4))
    return {
        **judge_reconstruction(pipeline, seed),
        **judge_clips(pipeline, judges, seed, count, on_progress),
        **judge_silence(pipeline, judges.opening, (clip.portrait for clip in clips)),
    }
