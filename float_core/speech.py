"""Speech: its embedding, whole, in pieces or as it comes, and the emotion heard in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

from torch import Tensor

from .audio import frame_count
from .config import FloatConfig
from .long_speech import (
    WHOLE_SECONDS,
    Encoding,
    LiveSpeech,
    Piece,
    PreparedSpeech,
    live_pieces,
    plan_pieces,
)
from .modules.audio_encoder import AudioEncoder
from .modules.emotion_classifier import EmotionClassifier
from .modules.wav2vec2 import LayerCallback, WindowMoments
from .placement import like, precise

Step = Callable[[], None]
"""Called after each layer of a network; stops the work when it raises."""


@dataclass(frozen=True, slots=True, eq=False)
class Speech:
    """An encoded speech, or a batch of equal length.

    Attributes:
        embedding: One vector a video frame, (batch, frames, speech_dim).
        seconds: Duration of the waveform; the last frame may reach beyond it.
    """

    embedding: Tensor
    seconds: float

    @property
    def batch(self) -> int:
        """Return the number of speeches."""
        return self.embedding.shape[0]

    @property
    def frames(self) -> int:
        """Return the number of video frames."""
        return self.embedding.shape[1]


def speech_pieces(sound: PreparedSpeech, config: FloatConfig, encoding: Encoding) -> list[Piece]:
    """Return the stretches of a whole sound that are encoded together.

    Args:
        sound: The sound.
        config: What the weights fix.
        encoding: "auto" cuts sounds of more than a minute, "whole" none.

    Raises:
        ValueError: The encoding is neither.
    """
    if encoding not in get_args(Encoding):
        raise ValueError(f'Expected encoding "auto" or "whole", got {encoding!r}.')
    frames = frame_count(sound.samples, config.fps)
    if encoding == "whole" or sound.seconds <= WHOLE_SECONDS:
        return [Piece(0, 0, frames, frames)]
    return list(plan_pieces(frames, config.fps, config.transformer.window_frames))


def embed_pieces(
    network: AudioEncoder,
    config: FloatConfig,
    sound: PreparedSpeech,
    pieces: Sequence[Piece],
    on_step: Step | None = None,
) -> Iterator[Tensor]:
    """Encode a whole sound, in pieces that are normalised alike.

    Args:
        network: The speech network.
        config: What the weights fix.
        sound: The sound.
        pieces: From `speech_pieces`.
        on_step: Called after each layer.

    Yields:
        Each piece's own frames, (batch, frames, speech_dim).
    """
    moments = None
    if len(pieces) > 1 and config.speech.extractor_norm == "group":
        moments = sound.window_moments(config.speech.conv_kernel[0], config.speech.conv_stride[0])
        place = next(network.parameters()).device
        moments = WindowMoments(moments.mean.to(place), moments.square.to(place))
    for piece in pieces:
        yield embed_piece(network, config, sound, piece, on_step, moments)


def embed_piece(
    network: AudioEncoder,
    config: FloatConfig,
    sound: PreparedSpeech | LiveSpeech,
    piece: Piece,
    on_step: Step | None = None,
    moments: WindowMoments | None = None,
) -> Tensor:
    """Encode one piece of speech and keep its own frames, (batch, frames, speech_dim)."""
    span = config.samples_per_frame
    part = like(network, sound.part(piece.first * span, piece.last * span))
    embedding = network(part, piece.last - piece.first, _each_layer(on_step), moments)
    return precise(embedding[:, piece.start - piece.first : piece.stop - piece.first])


def embed_live(
    network: AudioEncoder,
    config: FloatConfig,
    stretches: Iterable[Tensor],
    sample_rate: int,
    lookahead_seconds: float,
    on_step: Step | None = None,
) -> Iterator[Tensor]:
    """Encode a live sound window by window, as it comes.

    Args:
        network: The speech network.
        config: What the weights fix.
        stretches: Sound in [-1, 1], each (1, channels, samples).
        sample_rate: Its rate in Hz.
        lookahead_seconds: How far beyond a window the sound is heard first, 0 or more.
        on_step: Called after each layer.

    Yields:
        (1, frames, speech_dim).

    Raises:
        ValueError: The lookahead is negative, or a stretch is no sound.
    """
    if lookahead_seconds < 0:
        raise ValueError(f"Expected a lookahead of 0 s or more, got {lookahead_seconds}.")
    sound = LiveSpeech(stretches, sample_rate)
    lookahead = round(lookahead_seconds * config.fps)
    for piece in live_pieces(sound, config.fps, config.transformer.window_frames, lookahead):
        yield embed_piece(network, config, sound, piece, on_step)


def hear_emotion(
    network: EmotionClassifier,
    config: FloatConfig,
    sound: PreparedSpeech,
    pieces: Sequence[Piece],
    on_step: Step | None = None,
) -> Tensor:
    """Classify a sound in pieces, whose frames count alike.

    Args:
        network: The emotion network.
        config: What the weights fix.
        sound: The sound.
        pieces: From `speech_pieces`.
        on_step: Called after each layer.

    Returns:
        Probabilities, (batch, 7).
    """
    span = config.samples_per_frame
    layers = _each_layer(on_step)
    total: Tensor | float = 0.0
    for piece in pieces:
        part = like(network, sound.part(piece.first * span, piece.last * span))
        own = slice((piece.start - piece.first) * span, (piece.stop - piece.first) * span)
        total = total + network.mean_hidden(part, own, layers) * (piece.stop - piece.start)
    logits = network.classifier(total / sum(p.stop - p.start for p in pieces))
    return precise(logits).softmax(-1)


def _each_layer(on_step: Step | None) -> LayerCallback | None:
    return None if on_step is None else lambda _index, _output: on_step()
