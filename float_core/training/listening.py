"""The speech encoder alone, told the mouth: a start for phase 2 that needs no picture.

A linear layer reads opening and width of the lips off the encoded speech. What is told comes from
the performance, so that this stage needs nothing of phase 1.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..audio import normalise
from ..config import SPEECH_SAMPLE_RATE, FloatConfig
from ..modules.audio_encoder import AudioEncoder
from .clips import rehearse
from .curves import curves, mean_correlation
from .poses import index
from .recipe import Stage
from .seeds import HELD_OUT, TRAINING, generator

READ_PARAMETERS = ("opening", "width")
HELD_OUT_CLIPS = 32
SHOWN_CLIPS = 6


def build_listening_networks(config: FloatConfig) -> nn.ModuleDict:
    """Build the speech encoder and the layer that reads the mouth off it."""
    reader = nn.Linear(config.speech_dim, len(READ_PARAMETERS))
    return nn.ModuleDict({"audio_encoder": AudioEncoder(config), "reader": reader})


def read_loss(read: Tensor, pose: Tensor) -> Tensor:
    """Return how far the mouth read off speech is from the true one.

    Args:
        read: (…, read parameters).
        pose: All parameters of the poses, (…, parameters).
    """
    columns = [index(name) for name in READ_PARAMETERS]
    # Emotion widens the mouth beyond what is heard; the error's size forgives that.
    return (read.float() - pose[..., columns]).abs().mean()


class ListeningTask:
    """The task of the stage before phase 2."""

    def __init__(
        self,
        config: FloatConfig,
        stage: Stage,
        seed: int,
        device: torch.device | str,
        clips: int,
        seconds: float,
    ) -> None:
        """Build the networks and rehearse the clips, which takes a tenth of a second for each.

        Args:
            config: The model.
            stage: Batch and rates.
            seed: Name of the random streams.
            device: Where to train.
            clips: How many to learn from.
            seconds: Their length.
        """
        self.config, self.stage, self.seed, self.device = config, stage, seed, device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + 1)
            self.networks = build_listening_networks(config).to(device)
        self._heard = self._rehearsed(TRAINING, clips, seconds)
        self._held_out = self._rehearsed(HELD_OUT, HELD_OUT_CLIPS, seconds)

    def _rehearsed(self, split: str, count: int, seconds: float) -> tuple[Tensor, Tensor]:
        """Return sounds, (clips, samples), and poses, (clips, frames, parameters)."""
        fps = self.config.fps
        clips = [rehearse(split, self.seed, k, seconds, fps) for k in range(count)]
        samples = len(clips[0].pose) * SPEECH_SAMPLE_RATE // fps
        sound = torch.stack([clip.sound[:samples] for clip in clips])
        return sound.to(self.device), torch.stack([clip.pose for clip in clips]).to(self.device)

    def losses(self, step: int) -> dict[str, Tensor]:
        """Return one step's loss."""
        sound, pose = self._stretch(step)
        error = read_loss(self._read(self.networks, sound, pose.shape[1]), pose)
        return {"loss": error}

    def _stretch(self, step: int) -> tuple[Tensor, Tensor]:
        """Choose clips and cut the same stretch out of all of them."""
        stream = generator(TRAINING, "stretches", self.seed, step)
        chosen = torch.randint(len(self._heard[0]), (self.stage.batch,), generator=stream)
        sound, pose = (track[chosen.to(self.device)] for track in self._heard)
        whole, unit = pose.shape[1], self.config.samples_per_frame
        frames = int(torch.randint(max(1, whole // 2), whole + 1, (), generator=stream))
        begin = int(torch.randint(whole - frames + 1, (), generator=stream))
        end = begin + frames
        return sound[:, begin * unit : end * unit], pose[:, begin:end]

    def _read(self, networks: nn.ModuleDict, sound: Tensor, frames: int) -> Tensor:
        read: Tensor = networks["reader"](networks["audio_encoder"](normalise(sound), frames))
        return read.float()

    @torch.no_grad()
    def figures(self, networks: nn.ModuleDict) -> dict[str, float]:
        """Return the held-out error, and how well the opening is heard."""
        sound, pose = self._held_out
        read = self._read(networks, sound, pose.shape[1])
        column = READ_PARAMETERS.index("opening")
        heard = mean_correlation(read[..., column], pose[..., index("opening")])
        return {"read": float(read_loss(read, pose)), "opening correlation": heard}

    @torch.no_grad()
    def sheet(self, networks: nn.ModuleDict) -> npt.NDArray[np.uint8] | None:
        """Return curves of the opening: the true one above, the heard one below."""
        sound, pose = (part[:SHOWN_CLIPS] for part in self._held_out)
        read = self._read(networks, sound, pose.shape[1])
        return curves(pose[..., index("opening")], read[..., READ_PARAMETERS.index("opening")])
