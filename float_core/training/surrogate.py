"""What phase 1's encoder would see of a pose, without drawing it.

Drawing and encoding a clip takes seconds; its speech and poses take a tenth of one, and phase 2
needs thousands to hear speech and emotion instead of remembering clips. So a small network learns
from drawn frames how poses become coefficients. What it leaves over is taken as the identity's own
share, the same in all of its frames; clips that are never drawn borrow that of a drawn identity.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import FloatConfig
from .clips import Performance, encode_poses, rehearse
from .poses import PARAMETER_SPREAD, PARAMETERS, neutral
from .runs import Session, load_tensors, save_tensors
from .seeds import TRAINING, generator

FRAMES_EACH = 12
"""Frames drawn of each identity: its portrait, and moments of its performance."""

HIDDEN = 128
FIT_STEPS = 1_500
FIT_BATCH = 512
FIT_RATE = 3e-3


class Surrogate(nn.Module):
    """Maps poses, (frames, parameters), to coefficients, (frames, motion_dim)."""

    shares: Tensor

    def __init__(self, motion_dim: int, identities: int) -> None:
        """Build the network, untrained.

        Args:
            motion_dim: Number of coefficients.
            identities: Number of identities whose own shares are kept.
        """
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(len(PARAMETERS), HIDDEN),
            nn.SiLU(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.SiLU(),
            nn.Linear(HIDDEN, motion_dim),
        )
        self.register_buffer("shares", torch.zeros(identities, motion_dim))

    def forward(self, pose: Tensor) -> Tensor:
        """Return the mean coefficients of identities in some poses."""
        spread = PARAMETER_SPREAD.to(pose)
        coefficients: Tensor = self.layers((pose - neutral().to(pose)) / spread)
        return coefficients

    @torch.no_grad()
    def see(self, performance: Performance) -> Tensor:
        """Return what would be seen of a performance: portrait, then frames.

        Args:
            performance: A performance; its number decides whose share it borrows.

        Returns:
            (1 + frames, motion_dim).
        """
        pose = torch.cat((performance.portrait, performance.pose))
        seen: Tensor = self(pose) + self.shares[performance.number % len(self.shares)]
        return seen


@dataclass(frozen=True, slots=True)
class Sightings:
    """Drawn frames as the encoder sees them.

    Attributes:
        pose: (identities, frames, parameters).
        coefficients: (identities, frames, motion_dim).
    """

    pose: Tensor
    coefficients: Tensor


def look(
    encoder: nn.Module, config: FloatConfig, split: str, seed: int, count: int, session: Session
) -> Sightings | None:
    """Draw moments of performances and encode them.

    Args:
        encoder: Phase 1's motion encoder.
        config: The model.
        split: `seeds.TRAINING` or `seeds.HELD_OUT`.
        seed: Name of the random streams.
        count: Number of identities.
        session: Device, progress and stopping.

    Returns:
        What was seen; None where the session was stopped.
    """
    poses, seen = [], []
    for number in range(count):
        # Short performances of all emotions, apart from those that become clips.
        performance = rehearse(split, seed, number, 2.0, config.fps, "sightings")
        stream = generator(split, "moments", seed, number)
        moments = torch.randperm(len(performance.pose), generator=stream)[: FRAMES_EACH - 1]
        pose = torch.cat((performance.portrait, performance.pose[moments]))
        poses.append(pose)
        size = config.image_size
        seen.append(encode_poses(encoder, performance.who, pose, size, session.device).cpu())
        session.report("sightings", number + 1, count)
        if session.stopped():
            return None
    return Sightings(torch.stack(poses), torch.stack(seen))


def fit(sightings: Sightings, seed: int) -> Surrogate:
    """Train a surrogate on what was seen.

    Args:
        sightings: Drawn frames of many identities.
        seed: Name of the random streams.
    """
    identities, _, motion_dim = sightings.coefficients.shape
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        surrogate = Surrogate(motion_dim, identities)
    pose, coefficients = sightings.pose.flatten(0, 1), sightings.coefficients.flatten(0, 1)
    optimiser = torch.optim.AdamW(surrogate.parameters(), lr=FIT_RATE)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, FIT_STEPS)
    stream = generator(TRAINING, "surrogate", seed)
    for _ in range(FIT_STEPS):
        chosen = torch.randint(len(pose), (FIT_BATCH,), generator=stream)
        loss = F.mse_loss(surrogate(pose[chosen]), coefficients[chosen])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        rate.step()
    surrogate.shares.copy_((sightings.coefficients - surrogate(sightings.pose)).detach().mean(1))
    return surrogate.eval().requires_grad_(False)


@torch.no_grad()
def explained(surrogate: Surrogate, sightings: Sightings) -> tuple[float, float]:
    """Return how much of the coefficients' variance is told: by the pose, and by the identity too.

    Args:
        surrogate: The network.
        sightings: Identities it has not seen.
    """
    truth = sightings.coefficients
    rest = truth - surrogate(sightings.pose)
    whole = truth.flatten(0, 1).var(0).sum()
    own = rest - rest.mean(1, keepdim=True)
    by_pose, by_both = (
        1 - float(part.flatten(0, 1).square().mean(0).sum() / whole) for part in (rest, own)
    )
    return by_pose, by_both


def make_surrogate(
    encoder: nn.Module, config: FloatConfig, seed: int, identities: int, session: Session
) -> Surrogate | None:
    """Train a surrogate, or take the one that an earlier session trained.

    Args:
        encoder: Phase 1's motion encoder.
        config: The model.
        seed: Name of the random streams.
        identities: How many are drawn.
        session: Where it is kept; progress and stopping.

    Returns:
        The surrogate, on the CPU; None where the session was stopped before.
    """
    file = session.folder / "surrogate.pt"
    if not file.is_file():
        sightings = look(encoder, config, TRAINING, seed, identities, session)
        if sightings is None:
            return None
        save_tensors(file, fit(sightings, seed).state_dict())
    surrogate = Surrogate(config.motion_dim, identities)
    surrogate.load_state_dict(load_tensors(file))
    return surrogate.eval().requires_grad_(False)
