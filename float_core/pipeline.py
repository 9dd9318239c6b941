"""FloatPipeline: one portrait and one speech to frames, stage by stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from os import PathLike
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from . import sampling
from .audio import frame_count, normalise, prepare_speech
from .checkpoint import CheckpointError, Weights, open_weights
from .checkpoint_layouts import NetworkName
from .config import SPEECH_SAMPLE_RATE, FloatConfig, SamplingOptions
from .emotion import check_track
from .modules.audio_encoder import AudioEncoder
from .modules.emotion_classifier import EmotionClassifier
from .modules.flow_transformer import FlowTransformer
from .modules.motion_decoder import MotionDecoder
from .modules.motion_encoder import MotionEncoder
from .motion import Motion, MotionBasis

Network = TypeVar("Network", bound=nn.Module)

Progress = Callable[[int, int], None]
"""Called with the units done and their total; a stage stops when it raises."""

DECODE_BATCH = 4
"""Frames decoded at once where the caller does not say."""


@dataclass(frozen=True, slots=True)
class Portrait:
    """An encoded portrait, or a batch of them.

    Attributes:
        identity: Latent s_r, (batch, latent_dim).
        coefficients: Motion coefficients of the portrait's own pose, (batch, motion_dim).
        motion: The same as motion r_s, (batch, latent_dim).
        features: Appearance at sides 8, 16, … S, each (batch, channels, side, side).
    """

    identity: Tensor
    coefficients: Tensor
    motion: Tensor
    features: tuple[Tensor, ...]

    @property
    def batch(self) -> int:
        """Return the number of portraits."""
        return self.identity.shape[0]


@dataclass(frozen=True, slots=True)
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
    there, results are float32 (float64 from float64 networks) on the same device.

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
    ) -> None:
        """Build all networks but the emotion classifier, which waits until it is asked for.

        Args:
            weights: An opened checkpoint.
            device: Where the networks go.
            dtype: Precision they run in; the stored one where None.
        """
        self._weights = weights
        self._device = device
        self._dtype = dtype
        self._emotion_classifier: EmotionClassifier | None = None
        self.config = weights.config
        self.motion_encoder = self._build("motion_encoder", MotionEncoder)
        self.motion_decoder = self._build("motion_decoder", MotionDecoder)
        self.audio_encoder = self._build("audio_encoder", AudioEncoder)
        self.flow_transformer = self._build("flow_transformer", FlowTransformer)
        self.basis = MotionBasis.from_weight(self.motion_decoder.direction.weight)

    @classmethod
    def from_checkpoint(
        cls,
        path: str | PathLike[str],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        config: FloatConfig | None = None,
        search: Sequence[str | PathLike[str]] = (),
    ) -> FloatPipeline:
        """Load weights in any of the layouts in the wild.

        Args:
            path: A file or folder of weights.
            device: Where the networks go.
            dtype: Precision they run in; the stored one where None.
            config: What shapes cannot tell (heads, window, fps); else the file's metadata, else
                the published values.
            search: More folders in which the two wav2vec2 folders may lie.

        Raises:
            FileNotFoundError: There is nothing at `path`.
            CheckpointError: The file is no checkpoint of FLOAT, or not a whole one.
        """
        return cls(open_weights(path, config=config, search=search), device, dtype)

    @classmethod
    def from_state_dict(
        cls,
        state_dict: Mapping[str, Tensor],
        config: FloatConfig | None = None,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
    ) -> FloatPipeline:
        """Build a pipeline from tensors under the keys of the one-file layout.

        Args:
            state_dict: The tensors; taken over, not copied, where precision and device agree.
            config: What shapes cannot tell; the published values where None.
            device: Where the networks go.
            dtype: Precision they run in; the tensors' own where None.

        Raises:
            CheckpointError: A key is missing or has another shape than its neighbours ask for.
        """
        return cls(Weights.from_state_dict(state_dict, config), device, dtype)

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

    def _build(self, name: NetworkName, build: Callable[[FloatConfig], Network]) -> Network:
        with torch.device("meta"):
            network = build(self.config)
        self._weights.fill(name, network, self._dtype)
        return network.to(self._device).eval().requires_grad_(False)

    @torch.inference_mode()
    def encode_portrait(self, image: Tensor) -> Portrait:
        """Encode portraits.

        Args:
            image: RGB in [-1, 1], (batch, 3, S, S) with the config's image size S.

        Raises:
            ValueError: The image has another shape.
        """
        side = self.config.image_size
        if image.ndim != 4 or image.shape[1:] != (3, side, side):
            raise ValueError(
                f"Expected images of shape (batch, 3, {side}, {side}), got {tuple(image.shape)}: "
                "crop the face first."
            )
        identity, coefficients, features = self.motion_encoder(_like(self.motion_encoder, image))
        coefficients = _precise(coefficients)
        return Portrait(
            identity=_precise(identity),
            coefficients=coefficients,
            motion=self.basis.motion(coefficients),
            features=tuple(features),
        )

    @torch.inference_mode()
    def encode_speech(
        self, waveform: Tensor, sample_rate: int, on_progress: Progress | None = None
    ) -> Speech:
        """Encode speech.

        Args:
            waveform: Sound in [-1, 1], (batch, channels, samples).
            sample_rate: Its rate in Hz.
            on_progress: Called with the transformer layers done and their number.

        Raises:
            ValueError: The waveform is empty, too short, not finite or of another shape.
            ImportError: transformers does not load.
        """
        speech = prepare_speech(waveform, sample_rate)
        samples = speech.shape[-1]
        embedding = self.audio_encoder(
            _like(self.audio_encoder, normalise(speech)),
            frame_count(samples, self.config.fps),
            _each_layer(on_progress, self.config.speech.layers),
        )
        return Speech(_precise(embedding), samples / SPEECH_SAMPLE_RATE)

    @torch.inference_mode()
    def classify_emotion(
        self, waveform: Tensor, sample_rate: int, on_progress: Progress | None = None
    ) -> Tensor:
        """Hear the emotion of speech.

        Args:
            waveform: Sound in [-1, 1], (batch, channels, samples).
            sample_rate: Its rate in Hz.
            on_progress: Called with the transformer layers done and their number.

        Returns:
            Probabilities in the order of `emotion.EMOTIONS`, (batch, 7).

        Raises:
            ValueError: As `encode_speech`.
            CheckpointError: The weights have no emotion network.
            ImportError: transformers does not load.
        """
        speech = normalise(prepare_speech(waveform, sample_rate))
        network = self.emotion_classifier
        logits = network(
            _like(network, speech), _each_layer(on_progress, self.config.emotion.layers)
        )
        return _precise(logits).softmax(-1)

    @torch.inference_mode()
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
        batch = _common_batch(portrait=portrait.batch, speech=speech.batch, emotion=len(emotion))
        shape = self.config.transformer
        count = -(-speech.frames // shape.window_frames)
        steps = _count_calls(on_progress, count * (options.time_points - 1))
        starts = self._noise(options.seed, noise, batch, count)
        track = check_track(emotion, speech.frames).expand(-1, speech.frames, -1)
        windows = zip(
            self._windows(speech.embedding, batch),
            self._windows(track, batch),
            starts,
            strict=False,
        )
        motion = sampling.sample_windows(
            self._velocity_field,
            _expand(self._state(portrait.motion), batch),
            windows,
            options,
            shape.context_frames,
            steps,
        )
        latents = torch.cat(list(motion), dim=1)[:, : speech.frames]
        return Motion(latents, Fraction(self.config.fps))

    def _windows(self, track: Tensor, batch: int) -> Iterator[Tensor]:
        for window in sampling.split_windows(track, self.config.transformer.window_frames):
            yield _expand(self._state(window), batch)

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
        """Prepare the velocity under a condition; the solver's state stays precise."""
        network = self.flow_transformer
        window = condition.speech.shape[1]
        previous = _like(network, condition.previous_motion)
        embedded = network.embed_condition(
            _like(network, condition.reference),
            _like(network, torch.cat((condition.previous_speech, condition.speech), dim=1)),
            _like(network, condition.emotion),
        )

        def velocity(time: Tensor, state: Tensor) -> Tensor:
            motion = torch.cat((previous, state.to(previous.dtype)), dim=1)
            result: Tensor = network(time, motion, embedded)[:, -window:]
            return result.to(state.dtype)

        return velocity

    @torch.inference_mode()
    def decode(
        self, portrait: Portrait, motion: Motion, batch_size: int | None = None
    ) -> Iterator[Tensor]:
        """Decode motion to frames, chunk by chunk; a batch is decoded item after item.

        Args:
            portrait: One portrait or a batch.
            motion: One motion or a batch, at any fps.
            batch_size: Frames decoded at once.

        Yields:
            RGB frames in order, nominally in [-1, 1] and not clamped, (b, 3, S, S) with b at most
            `batch_size`; frames of different items never share a chunk.

        Raises:
            ValueError: The batches do not fit each other.
        """
        size = DECODE_BATCH if batch_size is None else batch_size
        if size < 1:
            raise ValueError(f"Expected a batch size of 1 or more frames, got {size}.")
        batch = _common_batch(portrait=portrait.batch, motion=len(motion.latents))
        for item in range(batch):
            own = min(item, portrait.batch - 1)
            features = [_like(self.motion_decoder, f[own, None]) for f in portrait.features]
            latents = motion.latents[min(item, len(motion.latents) - 1)]
            latents = latents + portrait.identity[own].to(latents)
            for chunk in torch.split(latents, size):
                yield _precise(self.motion_decoder(_like(self.motion_decoder, chunk), features))


def portrait_image(picture: npt.NDArray[np.uint8]) -> Tensor:
    """Turn a picture of bytes, (S, S, 3), into what `encode_portrait` takes, (1, 3, S, S)."""
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None]
    return pixels.to(torch.float32) / 127.5 - 1


def frame_bytes(frames: Tensor) -> Tensor:
    """Turn decoded frames, (b, 3, S, S), into bytes for a video, (b, S, S, 3), on the CPU."""
    levels = ((frames.clamp(-1, 1) + 1) * 127.5).round()
    return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu()


def _like(network: nn.Module, value: Tensor) -> Tensor:
    """Bring a value to where a network lies, in its precision."""
    parameter = next(network.parameters())
    return value.to(parameter.device, parameter.dtype)


def _precise(value: Tensor) -> Tensor:
    """Return a value in float32 or better."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


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


def _each_layer(on_progress: Progress | None, layers: int) -> Callable[[int, Tensor], None] | None:
    if on_progress is None:
        return None
    return lambda index, _output: on_progress(index + 1, layers)


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
