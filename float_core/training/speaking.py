"""Phase 2: the flow transformer learns to move as speech sounds, with the speech encoder.

Source: FLOAT (ICCV 2025), section 3.2, and flow matching (Lipman et al., 2023): between noise x_0
and motion x_1 lies x_t = (1 - t) x_0 + t x_1, whose velocity is x_1 - x_0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import sampling
from ..audio import normalise
from ..config import EMOTION_COUNT, FloatConfig, SamplingOptions
from ..modules.flow_transformer import FlowTransformer
from ..motion import MotionBasis
from .clips import Library
from .curves import curves, mean_correlation
from .listening import build_listening_networks, read_loss
from .poses import index
from .recipe import Stage
from .seeds import HELD_OUT, TRAINING, generator, uniform

CONDITION_DROPOUT = 0.1
PREVIOUS_DROPOUT = 0.5
FIRST_WINDOW_SHARE = 0.25
READ_WEIGHT = 0.5
HELD_OUT_WINDOWS = 64


@dataclass(frozen=True, slots=True)
class Windows:
    """A batch of training windows; context frames come before the window's own.

    Attributes:
        noise: x_0, (batch, window, latent_dim).
        motion: x_1, (batch, window, latent_dim).
        time: t, (batch,).
        condition: What the velocity depends on.
    """

    noise: Tensor
    motion: Tensor
    time: Tensor
    condition: sampling.WindowCondition


def velocity_losses(predicted: Tensor, windows: Windows) -> dict[str, Tensor]:
    """Return the error of a window's velocity and of its change from frame to frame.

    Args:
        predicted: (batch, window, latent_dim).
        windows: What was given.
    """
    error = predicted - (windows.motion - windows.noise)
    return {"velocity": error.abs().mean(), "change": error.diff(dim=1).abs().mean()}


def drop(value: Tensor, probability: float, stream: torch.Generator) -> Tensor:
    """Set whole items of a batch to zero, each by its own draw; `value` is (batch, …)."""
    kept = torch.rand(len(value), generator=stream) >= probability
    return value * kept.to(value).view(-1, *[1] * (value.ndim - 1))


def drop_conditions(
    condition: sampling.WindowCondition, stream: torch.Generator
) -> sampling.WindowCondition:
    """Drop conditions for guidance and for first windows, each by itself."""
    return sampling.WindowCondition(
        reference=drop(condition.reference, CONDITION_DROPOUT, stream),
        previous_motion=drop(condition.previous_motion, PREVIOUS_DROPOUT, stream),
        previous_speech=drop(condition.previous_speech, PREVIOUS_DROPOUT, stream),
        speech=drop(condition.speech, CONDITION_DROPOUT, stream),
        emotion=drop(condition.emotion, CONDITION_DROPOUT, stream),
    )


def predict_velocity(
    network: FlowTransformer, state: Tensor, time: Tensor, condition: sampling.WindowCondition
) -> Tensor:
    """Return the velocity of a window, (batch, window, latent_dim).

    Args:
        network: The flow transformer.
        state: x_t, (batch, window, latent_dim).
        time: t, (batch,) or ().
        condition: What it depends on.
    """
    speech = torch.cat((condition.previous_speech, condition.speech), dim=1)
    embedded = network.embed_condition(condition.reference, speech, condition.emotion)
    motion = torch.cat((condition.previous_motion, state), dim=1)
    velocity: Tensor = network(time, motion, embedded)
    return velocity[:, -state.shape[1] :]


def build_speaking_networks(config: FloatConfig) -> nn.ModuleDict:
    """Build flow transformer, speech encoder and the layer that reads the mouth off the speech.

    Modulations and the last layer start at zero (DiT's adaLN-Zero): every block begins as the
    identity.
    """
    transformer = FlowTransformer(config)
    for module in (*transformer.blocks, transformer.decoder):
        modulation = cast(nn.Linear, cast(nn.Sequential, module.adaLN_modulation)[1])
        nn.init.zeros_(modulation.weight)
        nn.init.zeros_(modulation.bias)
    nn.init.zeros_(transformer.decoder.linear.weight)
    nn.init.zeros_(transformer.decoder.linear.bias)
    return nn.ModuleDict({"transformer": transformer, **build_listening_networks(config)})


class SpeakingTask:
    """Phase 2's task."""

    def __init__(
        self,
        config: FloatConfig,
        stage: Stage,
        seed: int,
        device: torch.device | str,
        library: Library,
        held_out: Library,
        basis: MotionBasis,
        probe: nn.Linear,
        listening: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Build the networks.

        Args:
            config: The model.
            stage: Batch and rates.
            seed: Name of the random streams.
            device: Where to train.
            library: Clips to learn from.
            held_out: Clips of other identities and voices.
            basis: Phase 1's motion directions.
            probe: Phase 1's linear layer from coefficients to poses, to judge by.
            listening: What the speech encoder learned alone, if it did.
        """
        self.config, self.stage, self.seed, self.device = config, stage, seed, device
        self.library, self.held_out = library.to(device), held_out.to(device)
        self.basis = MotionBasis(basis.directions.to(device))
        self._probe = probe
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + 1)
            networks = build_speaking_networks(config)
        networks.load_state_dict({**networks.state_dict(), **(listening or {})})
        self.networks = networks.to(device)

    def losses(self, step: int) -> dict[str, Tensor]:
        """Return the parts of one step's loss."""
        stream = generator(TRAINING, "windows", self.seed, step)
        windows, read = self._windows(self.networks, self.library, self.stage.batch, stream)
        parts = self._velocity_parts(self.networks, windows, stream)
        return {
            "loss": parts["velocity"] + parts["change"] + READ_WEIGHT * read,
            **parts,
            "read": read,
        }

    def _velocity_parts(
        self, networks: nn.ModuleDict, windows: Windows, stream: torch.Generator | None
    ) -> dict[str, Tensor]:
        condition = windows.condition
        if stream is not None:
            condition = drop_conditions(condition, stream)
        time = windows.time[:, None, None]
        state = torch.lerp(windows.noise, windows.motion, time)
        transformer = cast(FlowTransformer, networks["transformer"])
        predicted = predict_velocity(transformer, state, windows.time, condition)
        return velocity_losses(predicted.float(), windows)

    def _windows(
        self, networks: nn.ModuleDict, library: Library, count: int, stream: torch.Generator
    ) -> tuple[Windows, Tensor]:
        """Cut windows out of clips; also return the error of the mouth read off the speech."""
        shape = self.config.transformer
        window, context = shape.window_frames, shape.context_frames
        whole = library.pose.shape[1]
        chosen = torch.randint(len(library), (count,), generator=stream).to(self.device)
        # One stretch a batch, of any length: the speech encoder meets long clips and short ones.
        least = min(window + context, whole)
        frames = int(torch.randint(least, whole + 1, (), generator=stream))
        begin = int(torch.randint(whole - frames + 1, (), generator=stream))
        stretch = slice(begin, begin + frames)
        speech, read = self._hear(networks, library, chosen, stretch)
        start = torch.randint(context, frames - window + 1, (count,), generator=stream)
        first = torch.rand(count, generator=stream) < FIRST_WINDOW_SHARE
        start = torch.where(first, 0, start).to(self.device)
        motion = self._motion(library.coefficients[chosen, stretch])
        # Zeros before the stretch stand for what a first window finds before the clip.
        speech, motion = (F.pad(track, (0, 0, context, 0)) for track in (speech, motion))
        rows = torch.arange(count, device=self.device)[:, None]
        columns = start[:, None] + torch.arange(context + window, device=self.device)
        speech, motion = speech[rows, columns], motion[rows, columns]
        emotion = F.one_hot(library.emotion[chosen], EMOTION_COUNT).to(motion)[:, None]
        condition = sampling.WindowCondition(
            reference=self._motion(library.reference[chosen]),
            previous_motion=motion[:, :context],
            previous_speech=speech[:, :context],
            speech=speech[:, context:],
            emotion=emotion.expand(-1, context + window, -1),
        )
        noise = torch.randn(count, window, self.config.latent_dim, generator=stream)
        time = uniform(stream, 0, 1, count).to(self.device)
        return Windows(noise.to(self.device), motion[:, context:], time, condition), read

    def _motion(self, coefficients: Tensor) -> Tensor:
        """Return motion latents, exact under autocast too: they are what is learned."""
        with torch.autocast(coefficients.device.type, enabled=False):
            return self.basis.motion(coefficients)

    def _hear(
        self, networks: nn.ModuleDict, library: Library, chosen: Tensor, stretch: slice
    ) -> tuple[Tensor, Tensor]:
        """Encode the speech of a stretch of clips, (batch, frames, speech_dim)."""
        frames, step = stretch.stop - stretch.start, self.config.samples_per_frame
        sound = library.waveform(chosen, stretch.start * step, frames * step)
        speech: Tensor = networks["audio_encoder"](normalise(sound), frames).float()
        return speech, read_loss(networks["reader"](speech), library.pose[chosen, stretch])

    @torch.no_grad()
    def figures(self, networks: nn.ModuleDict) -> dict[str, float]:
        """Return held-out errors, and whether the sampled mouth opens when it should."""
        stream = generator(HELD_OUT, "windows", self.seed)
        windows, read = self._windows(networks, self.held_out, HELD_OUT_WINDOWS, stream)
        parts = self._velocity_parts(networks, windows, None)
        figures = {name: float(value) for name, value in (*parts.items(), ("read", read))}
        opening, truth = self._sampled(networks)
        figures["opening correlation"] = mean_correlation(opening, truth)
        figures["opening of another clip"] = mean_correlation(opening, truth.roll(1, 0))
        return figures

    def _sampled(self, networks: nn.ModuleDict) -> tuple[Tensor, Tensor]:
        """Sample motion for held-out clips; return opening read off it, and the true one."""
        library = self.held_out
        every = torch.arange(len(library), device=self.device)
        frames = library.pose.shape[1]
        speech, _ = self._hear(networks, library, every, slice(0, frames))
        emotion = F.one_hot(library.emotion, EMOTION_COUNT).to(speech)[:, None]
        transformer = cast(FlowTransformer, networks["transformer"])

        def field(condition: sampling.WindowCondition) -> sampling.Velocity:
            return lambda time, state: predict_velocity(transformer, state, time, condition)

        sampled = sampling.sample_windows(
            field,
            self._motion(library.reference),
            self._windows_of(speech, emotion),
            SamplingOptions(),
            self.config.transformer.context_frames,
        )
        motion = torch.cat(list(sampled), dim=1)
        read = self._probe(self.basis.coefficients(motion))[..., index("opening")]
        return read, library.pose[..., index("opening")]

    def _windows_of(self, speech: Tensor, emotion: Tensor) -> Iterator[sampling.Window]:
        """Cut whole clips, (clips, frames, speech_dim), into windows with the usual noise."""
        frames, width = self.config.transformer.window_frames, self.config.latent_dim
        noises = sampling.draw_noise(SamplingOptions().seed, frames, width)
        pieces = sampling.split_windows([speech], frames)
        for (piece, own), noise in zip(pieces, noises, strict=False):
            start = noise.to(speech).expand(len(speech), -1, -1)
            yield sampling.Window(piece, emotion.expand(-1, frames, -1), start, own)

    def sheet(self, networks: nn.ModuleDict) -> npt.NDArray[np.uint8] | None:
        """Return curves of the opening: the true one above, the sampled one below."""
        with torch.no_grad():
            opening, truth = self._sampled(networks)
        return curves(truth[:6], opening[:6])
