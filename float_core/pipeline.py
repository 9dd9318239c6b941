"""FloatPipeline: one portrait and one speech to frames, stage by stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import chain
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from . import sampling
from .audio import frame_count, warn_if_silent
from .checkpoint import CheckpointError, Weights, open_weights
from .checkpoint_layouts import NetworkName
from .compiling import CompiledDecoder
from .config import FloatConfig, SamplingOptions
from .decoding import DECODE_BATCH, BatchSize, decode_in_batches, drawing, fitting_batch
from .emotion import check_track
from .long_speech import Encoding, PreparedSpeech
from .modules.audio_encoder import AudioEncoder
from .modules.emotion_classifier import EmotionClassifier
from .modules.fast_decoder import FastMotionDecoder
from .modules.flow_transformer import FlowTransformer
from .modules.motion_decoder import MotionDecoder
from .modules.motion_encoder import MotionEncoder
from .motion import FpsConverter, Motion, MotionBasis, exact_fps
from .placement import like, precise
from .portrait import Portrait
from .precision import apply_precision
from .speech import Speech, embed_live, embed_pieces, hear_emotion, speech_pieces

__all__ = ["DECODE_BATCH", "NETWORKS", "FloatPipeline", "Portrait", "Progress", "Speech"]

Progress = Callable[[int, int], None]
"""Called with the units done and their total; a stage stops when it raises."""

NETWORKS: Mapping[NetworkName, Callable[[FloatConfig], nn.Module]] = {
    "motion_encoder": MotionEncoder,
    "motion_decoder": MotionDecoder,
    "audio_encoder": AudioEncoder,
    "flow_transformer": FlowTransformer,
    "emotion_classifier": EmotionClassifier,
}


class FloatPipeline:
    """FLOAT, stage by stage: encode, sample, decode.

    Each stage runs where its network lies and in the network's precision; inputs are brought
    there, results are float32 (float64 from float64 networks; a portrait's features stay in the
    network's precision) on the same device.

    Attributes:
        config: What the weights fix.
        basis: The orthonormal motion directions.
        motion_encoder, audio_encoder, flow_transformer, motion_decoder: The networks.
    """

    def __init__(
        self,
        weights: Weights,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        *,
        plain: bool = False,
    ) -> None:
        """Build all networks but the emotion classifier, which waits until it is asked for.

        Args:
            weights: An opened checkpoint.
            device: Where the networks go.
            dtype: Precision they run in; the stored one where None. Half precisions halve only
                what takes the time (`precision.apply_precision`).
            plain: Run the readable reference: decode by `MotionDecoder` instead of the fast form,
                and cast networks as a whole.
        """
        self._weights = weights
        self._device = device
        self._dtype = dtype
        self._plain = plain
        self._emotion_classifier: EmotionClassifier | None = None
        self._compiled: CompiledDecoder | None = None
        self.config = weights.config
        self.motion_encoder: MotionEncoder = self._build("motion_encoder", MotionEncoder)
        self.audio_encoder: AudioEncoder = self._build("audio_encoder", AudioEncoder)
        self.flow_transformer: FlowTransformer = self._build("flow_transformer", FlowTransformer)
        self.motion_decoder: MotionDecoder | FastMotionDecoder = self._build(
            "motion_decoder", MotionDecoder
        )
        self.basis = MotionBasis.from_weight(weights.network("motion_decoder")["direction.weight"])

    @classmethod
    def from_checkpoint(
        cls,
        path: str | PathLike[str],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        config: FloatConfig | None = None,
        search: Sequence[str | PathLike[str]] = (),
        plain: bool = False,
    ) -> FloatPipeline:
        """Load weights in any of the layouts in the wild.

        Args:
            path: A file or folder of weights.
            device: Where the networks go.
            dtype: Precision they run in; the stored one where None.
            config: What shapes cannot tell (heads, window, fps); else the file's metadata, else
                the published values.
            search: More folders in which the two wav2vec2 folders may lie.
            plain: As for the constructor.

        Raises:
            FileNotFoundError: There is nothing at `path`.
            CheckpointError: The file is no checkpoint of FLOAT, or not a whole one.
        """
        return cls(open_weights(path, config=config, search=search), device, dtype, plain=plain)

    @classmethod
    def from_state_dict(
        cls,
        state_dict: Mapping[str, Tensor],
        config: FloatConfig | None = None,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        plain: bool = False,
    ) -> FloatPipeline:
        """Build a pipeline from tensors under the keys of the one-file layout.

        Args:
            state_dict: The tensors; taken over, not copied, where precision and device agree.
            config: What shapes cannot tell; the published values where None.
            device: Where the networks go.
            dtype: Precision they run in; the tensors' own where None.
            plain: As for the constructor.

        Raises:
            CheckpointError: A key is missing or has another shape than its neighbours ask for.
        """
        return cls(Weights.from_state_dict(state_dict, config), device, dtype, plain=plain)

    @property
    def emotion_classifier(self) -> EmotionClassifier:
        """Return the emotion network, read at the first access.

        Raises:
            CheckpointError: The weights have no emotion network.
        """
        if self._emotion_classifier is None:
            if not self._weights.has("emotion_classifier"):
                raise CheckpointError(
                    f"{self._weights.source} holds no emotion network, so the emotion cannot be "
                    "heard from the speech: choose one of the seven, or add the folder "
                    '"wav2vec-english-speech-emotion-recognition" beside the weights.'
                )
            self._emotion_classifier = self._build("emotion_classifier", EmotionClassifier)
        return self._emotion_classifier

    @property
    def hears_no_emotion(self) -> bool:
        """Return whether the weights do without an emotion network on purpose: the demo's do."""
        return self._weights.hears_no_emotion

    def read_emotion_network(self) -> None:
        """Read the emotion network now rather than when it is first asked for.

        Raises:
            CheckpointError: The weights have none, or not a whole one.
        """
        _ = self.emotion_classifier

    def compile_decoder(self) -> None:
        """Have the decoder compiled when it draws its first frames, which wait for that.

        Frames are the same within rounding. Where the compiler fails, the log says so once and the
        decoder goes on uncompiled.

        Raises:
            ValueError: The pipeline is the plain one.
        """
        if not isinstance(self.motion_decoder, FastMotionDecoder):
            raise ValueError("Expected the fast decoder to compile, got plain=True: leave one out.")
        self._compiled = self._compiled or CompiledDecoder(self.motion_decoder)

    def _build(self, name: NetworkName, build: Callable[[FloatConfig], nn.Module]) -> Any:
        with torch.device("meta"):
            network = build(self.config)
        self._weights.fill(name, network)
        dtype = self._dtype or next(network.parameters()).dtype
        ready = network.to(dtype) if self._plain else apply_precision(network, dtype)
        return ready.to(self._device).eval().requires_grad_(False)

    @torch.no_grad()
    def encode_portrait(self, image: Tensor) -> Portrait:
        """Encode portraits.

        Args:
            image: RGB in [-1, 1], (batch, 3, S, S) with the config's image size S.

        Raises:
            ValueError: The image has another shape.
        """
        side = self.config.image_size
        if image.ndim != 4 or image.shape[1:] != (3, side, side) or not len(image):
            raise ValueError(
                f"Expected images of shape (batch, 3, {side}, {side}), got {tuple(image.shape)}: "
                f"crop the face to {side} x {side} pixels, RGB, channels first."
            )
        if not image.is_floating_point() or not bool(torch.isfinite(image).all()):
            raise ValueError(
                f"Expected finite floats in [-1, 1], got {image.dtype}: divide bytes by 127.5 and "
                "subtract 1."
            )
        identity, coefficients, features = self.motion_encoder(like(self.motion_encoder, image))
        coefficients = precise(coefficients)
        return Portrait(
            identity=precise(identity),
            coefficients=coefficients,
            motion=self.basis.motion(coefficients),
            features=tuple(features),
        )

    @torch.no_grad()
    def encode_speech(
        self,
        waveform: Tensor,
        sample_rate: int,
        on_progress: Progress | None = None,
        encoding: Encoding = "auto",
    ) -> Speech:
        """Encode speech: at once up to a minute, beyond that in pieces that overlap.

        Args:
            waveform: Sound in [-1, 1], (batch, channels, samples).
            sample_rate: Its rate in Hz.
            on_progress: Called with the transformer layers done and their number.
            encoding: "whole" encodes at once at any length.

        Raises:
            ValueError: The waveform is empty, too short, not finite or of another shape.
            ImportError: transformers does not load.
        """
        sound = PreparedSpeech(waveform, sample_rate)
        warn_if_silent(waveform)
        pieces = speech_pieces(sound, self.config, encoding)
        steps = _count_calls(on_progress, len(pieces) * self.config.speech.layers)
        parts = embed_pieces(self.audio_encoder, self.config, sound, pieces, steps)
        return Speech(torch.cat(list(parts), dim=1), sound.seconds)

    @torch.no_grad()
    def classify_emotion(
        self,
        waveform: Tensor,
        sample_rate: int,
        on_progress: Progress | None = None,
        encoding: Encoding = "auto",
    ) -> Tensor:
        """Hear the emotion of speech; beyond a minute in pieces, whose frames count alike.

        Args:
            waveform: Sound in [-1, 1], (batch, channels, samples).
            sample_rate: Its rate in Hz.
            on_progress: Called with the transformer layers done and their number.
            encoding: As for `encode_speech`.

        Returns:
            Probabilities in the order of `emotion.EMOTIONS`, (batch, 7).

        Raises:
            ValueError: As `encode_speech`.
            CheckpointError: The weights have no emotion network.
            ImportError: transformers does not load.
        """
        sound = PreparedSpeech(waveform, sample_rate)
        network = self.emotion_classifier
        pieces = speech_pieces(sound, self.config, encoding)
        steps = _count_calls(on_progress, len(pieces) * self.config.emotion.layers)
        return hear_emotion(network, self.config, sound, pieces, steps)

    @torch.no_grad()
    def sample(
        self,
        portrait: Portrait,
        speech: Speech,
        emotion: Tensor,
        options: SamplingOptions | None = None,
        noise: Tensor | None = None,
        on_progress: Progress | None = None,
    ) -> Motion:
        """Sample motion for a speech; 1 x N, N x 1 and N x N portraits and speeches.

        Args:
            portrait: One portrait or a batch.
            speech: One speech or a batch.
            emotion: Constant or frame by frame, (batch or 1, 1 or frames, 7).
            options: Time points, solver, guidance scales, seed.
            noise: What each window starts from, (batch or 1, windows, window_frames, latent_dim),
                instead of the seed's noise.
            on_progress: Called with the solver steps done and their number.

        Raises:
            ValueError: The batches do not fit each other, or the emotion or noise the speech.
        """
        options = options or SamplingOptions()
        track = check_track(emotion, speech.frames)
        batch = _common_batch(portrait=portrait.batch, speech=speech.batch, emotion=len(track))
        shape = self.config.transformer
        count = -(-speech.frames // shape.window_frames)
        steps = _count_calls(on_progress, count * (options.time_points - 1))
        starts = self._noise(options.seed, noise, batch, count)
        windows = self._windows([speech.embedding], track, starts, batch)
        motion = self._sample_windows(portrait, windows, options, batch, steps)
        return Motion(torch.cat(list(motion), dim=1), Fraction(self.config.fps))

    def _sample_windows(
        self,
        portrait: Portrait,
        windows: Iterable[sampling.Window],
        options: SamplingOptions,
        batch: int,
        on_step: Callable[[], None] | None,
    ) -> Iterator[Tensor]:
        return sampling.sample_windows(
            self._velocity_field,
            _expand(self._state(portrait.motion), batch),
            windows,
            options,
            self.config.transformer.context_frames,
            on_step,
        )

    def _windows(
        self, embeddings: Iterable[Tensor], emotion: Tensor, starts: Iterator[Tensor], batch: int
    ) -> Iterator[sampling.Window]:
        """Cut speech that comes in parts, each (batch, frames, speech_dim), into windows."""
        frames = self.config.transformer.window_frames
        for index, (speech, own) in enumerate(sampling.split_windows(embeddings, frames)):
            felt = sampling.window_of(emotion, index * frames, frames)
            yield sampling.Window(
                speech=_expand(self._state(speech), batch),
                emotion=_expand(self._state(felt), batch),
                noise=next(starts),
                frames=own,
            )

    def _noise(self, seed: int, noise: Tensor | None, batch: int, count: int) -> Iterator[Tensor]:
        frames, width = self.config.transformer.window_frames, self.config.latent_dim
        if noise is None:
            drawn: Iterator[Tensor] = sampling.draw_noise(seed, frames, width)
        else:
            expected = (count, frames, width)
            if noise.shape[1:] != expected or len(noise) not in (1, batch):
                raise ValueError(
                    f"Expected noise of shape (1 or {batch}, {', '.join(map(str, expected))}) for "
                    f"{count} windows, got {tuple(noise.shape)}."
                )
            drawn = iter(noise.unbind(dim=1))
        return (_expand(self._state(window), batch) for window in drawn)

    def _state(self, value: Tensor) -> Tensor:
        """Bring what the solver works on to the transformer's device, in float32 or better."""
        network = self.flow_transformer.c_embedder.weight
        return value.to(network.device, torch.promote_types(network.dtype, torch.float32))

    def _velocity_field(self, condition: sampling.WindowCondition) -> sampling.Velocity:
        """Prepare the velocity under a condition; the solver's state stays precise.

        The plain way embeds and computes every frame, the other nothing twice or for nobody.
        """
        network = self.flow_transformer
        window = condition.speech.shape[1]
        previous = like(network, condition.previous_motion)
        embed = network.embed_condition if self._plain else network.embed_distinct
        asked = None if self._plain else window
        embedded = embed(
            like(network, condition.reference),
            like(network, torch.cat((condition.previous_speech, condition.speech), dim=1)),
            like(network, condition.emotion),
        )

        def velocity(time: Tensor, state: Tensor) -> Tensor:
            motion = torch.cat((previous, state.to(previous.dtype)), dim=1)
            result: Tensor = network(time, motion, embedded, asked)[:, -window:]
            return result.to(state.dtype)

        return velocity

    @torch.no_grad()
    def decode(
        self, portrait: Portrait, motion: Motion, batch_size: int | None = None
    ) -> Iterator[Tensor]:
        """Decode motion to frames, chunk by chunk; a batch is decoded item after item.

        Args:
            portrait: One portrait or a batch.
            motion: One motion or a batch, at any fps.
            batch_size: Frames decoded at once; what the free memory holds, up to a cap, where None.

        Yields:
            RGB frames in order, nominally in [-1, 1] and not clamped, (b, 3, S, S) with b at most
            `batch_size`; frames of different items never share a chunk.

        Raises:
            ValueError: The batches do not fit each other.
        """
        size = self._batch_size(batch_size)
        batch = _common_batch(portrait=portrait.batch, motion=len(motion.latents))
        for item in range(batch):
            draw = self._drawing(portrait, min(item, portrait.batch - 1))
            latents = motion.latents[min(item, len(motion.latents) - 1)]
            yield from decode_in_batches(draw, latents, size)

    def _drawing(self, portrait: Portrait, item: int) -> Callable[[Tensor], Tensor]:
        return drawing(self.motion_decoder, portrait, item, self._compiled)

    def _batch_size(self, asked: int | None) -> BatchSize:
        if asked is None:
            place = next(chain(self.motion_decoder.parameters(), self.motion_decoder.buffers()))
            asked = fitting_batch(self.config, place.device)
        return BatchSize(asked)

    @torch.no_grad()
    def stream(
        self,
        portrait: Portrait,
        sound: Tensor | Iterable[Tensor],
        sample_rate: int,
        emotion: Tensor,
        options: SamplingOptions | None = None,
        *,
        fps: float | Fraction | None = None,
        batch_size: int | None = None,
        encoding: Encoding = "auto",
        lookahead_seconds: float = 0.4,
        on_step: Callable[[], None] | None = None,
    ) -> Iterator[Tensor]:
        """Yield the frames of a speech window by window, while later ones are still to be made.

        Memory does not grow with the speech. Of a whole sound, the frames are those of
        `encode_speech`, `sample`, `at_fps` and `decode`. A live sound is heard in windows (2 s) as
        it comes, each encoded with what went before and `lookahead_seconds` of what follows, and
        normalised by what was heard so far: a frame comes at most one window, the lookahead and
        the time of computing after its sound.

        Args:
            portrait: One portrait.
            sound: A whole sound in [-1, 1], (1, channels, samples), or a live one: an iterator of
                such stretches of any length.
            sample_rate: Its rate in Hz.
            emotion: Constant, or frame by frame of a whole sound, (1, 1 or frames, 7).
            options: Time points, solver, guidance scales, seed.
            fps: Frames a second of the video, 1 to 120; the model's own where None.
            batch_size: Frames decoded at once; what the free memory holds, up to a cap, where None.
            encoding: As for `encode_speech`; of no effect on a live sound.
            lookahead_seconds: How far beyond a window a live sound is heard first, 0 or more.
            on_step: Called after each layer of the speech network and each solver step; stops the
                work when it raises.

        Yields:
            Frames as `decode` yields them, (b, 3, S, S).

        Raises:
            ValueError: As `encode_speech` and `sample`; or there is more than one portrait.
        """
        options = options or SamplingOptions()
        _require_one(portrait=portrait.batch, emotion=len(emotion))
        if isinstance(sound, Tensor):
            embeddings = self._whole_embeddings(sound, sample_rate, emotion, encoding, on_step)
        else:
            check_track(emotion, 1)
            embeddings = embed_live(
                self.audio_encoder, self.config, sound, sample_rate, lookahead_seconds, on_step
            )
        starts = self._noise(options.seed, None, 1, 0)
        windows = self._windows(embeddings, emotion, starts, 1)
        draw, size = self._drawing(portrait, 0), self._batch_size(batch_size)
        converter = FpsConverter(
            Fraction(self.config.fps), exact_fps(self.config.fps if fps is None else fps)
        )
        for latents in self._sample_windows(portrait, windows, options, 1, on_step):
            yield from decode_in_batches(draw, converter.push(latents)[0], size)
        yield from decode_in_batches(draw, converter.finish()[0], size)

    def _whole_embeddings(
        self,
        waveform: Tensor,
        sample_rate: int,
        emotion: Tensor,
        encoding: Encoding,
        on_step: Callable[[], None] | None,
    ) -> Iterator[Tensor]:
        sound = PreparedSpeech(waveform, sample_rate)
        warn_if_silent(waveform)
        _require_one(speech=len(waveform))
        check_track(emotion, frame_count(sound.samples, self.config.fps))
        pieces = speech_pieces(sound, self.config, encoding)
        return embed_pieces(self.audio_encoder, self.config, sound, pieces, on_step)


def _expand(value: Tensor, batch: int) -> Tensor:
    return value.expand(batch, *value.shape[1:])


def _common_batch(**sizes: int) -> int:
    """Return the batch size that the parts share; parts of one item go with any.

    Raises:
        ValueError: Two parts have different sizes above 1.
    """
    batch = max(sizes.values())
    if any(size not in (1, batch) for size in sizes.values()):
        listed = ", ".join(f"{size} {name}(s)" for name, size in sizes.items())
        raise ValueError(f"Expected one of each or equal numbers, got {listed}.")
    return batch


def _require_one(**sizes: int) -> None:
    if _common_batch(**sizes) != 1:
        listed = ", ".join(f"{size} {name}(s)" for name, size in sizes.items())
        raise ValueError(f"Expected one of each to stream, got {listed}: stream them one by one.")


def _count_calls(on_progress: Progress | None, total: int) -> Callable[[], None] | None:
    """Return a callback that counts its calls and reports them."""
    if on_progress is None:
        return None
    done = 0

    def count() -> None:
        nonlocal done
        done += 1
        on_progress(done, total)

    return count
