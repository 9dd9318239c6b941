"""One training loop for every stage: state, averages, log, held-out figures, sample sheets.

The state is all that the next step depends on: the step's number, the networks, their running
average and the optimiser. Batches come from the step's number, so a resumed run is the unbroken
one.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from .optimiser import ADAM_BETAS, OrthogonalMomentum
from .recipe import Stage

Progress = Callable[[str, int, int], None]
"""Called with a stage's name, the steps done and their number."""

WARM_UP_STEPS = 100
LAST_RATE = 0.05  # of the highest learning rate, at the end
GRADIENT_LIMIT = 1.0
AVERAGE_DECAY = 0.998


class Task(Protocol):
    """What a stage trains, and how it is judged."""

    networks: nn.ModuleDict

    def losses(self, step: int) -> dict[str, Tensor]:
        """Return the parts of one step's loss; "loss" is what is minimised."""

    def figures(self, networks: nn.ModuleDict) -> dict[str, float]:
        """Return held-out figures of some networks."""

    def sheet(self, networks: nn.ModuleDict) -> npt.NDArray[np.uint8] | None:
        """Return a picture to look at, (height, width, 3), or None."""


@dataclass(frozen=True, slots=True)
class Habits:
    """How often things are done.

    Attributes:
        log_steps: Steps between lines of the log.
        figure_steps: Steps between held-out figures and sample sheets.
        save_seconds: Seconds between saved states.
        half_precision: Whether convolutions and products run in bfloat16.
    """

    log_steps: int = 50
    figure_steps: int = 500
    save_seconds: float = 120.0
    half_precision: bool = False


@dataclass(frozen=True, slots=True)
class Session:
    """One sitting: where files go, and how it is watched and stopped.

    Attributes:
        folder: Where states, log and sheets go.
        device: Where networks train.
        habits: How often things are done.
        on_progress: Called after each step.
        stopped: Asked after each step; when True the state is saved and training stops.
    """

    folder: Path
    device: torch.device
    habits: Habits = Habits()
    on_progress: Progress | None = None
    stopped: Callable[[], bool] = lambda: False

    def report(self, stage: str, done: int, total: int) -> None:
        """Pass progress on."""
        if self.on_progress is not None:
            self.on_progress(stage, done, total)


def save_tensors(path: Path, state: Mapping[str, Any]) -> None:
    """Save tensors and plain values under another name, then move the file into place."""
    part = path.with_name(path.name + ".part")
    torch.save(dict(state), part)
    os.replace(part, path)


def load_tensors(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Load what `save_tensors` saved; nothing but tensors and plain values is read."""
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return state


def rate_at(stage: Stage, step: int) -> float:
    """Return the learning rate of a step: a short rise, then half a cosine."""
    rise = min(1.0, (step + 1) / min(WARM_UP_STEPS, max(1, stage.steps // 10)))
    fall = 0.5 * (1 + math.cos(math.pi * step / stage.steps))
    return stage.learning_rate * rise * (LAST_RATE + (1 - LAST_RATE) * fall)


def _optimiser(stage: Stage, trained: list[nn.Parameter]) -> torch.optim.Optimizer:
    if stage.orthogonal:
        return OrthogonalMomentum(trained, stage.learning_rate)
    return torch.optim.Adam(trained, lr=stage.learning_rate, betas=ADAM_BETAS)


def _state_file(stage: Stage, session: Session) -> Path:
    return session.folder / f"{stage.name}.state.pt"


def finished_average(stage: Stage, session: Session) -> dict[str, Tensor] | None:
    """Return the running average of a stage that is done, or None where it is not.

    Args:
        stage: The stage.
        session: Where its state lies.
    """
    file = _state_file(stage, session)
    if not file.is_file():
        return None
    state = load_tensors(file, session.device)
    average: dict[str, Tensor] = state["average"]
    return average if state["step"] >= stage.steps else None


class Run:
    """A stage under way."""

    def __init__(self, stage: Stage, task: Task, session: Session) -> None:
        """Start at step 0, or where a saved state left off.

        Args:
            stage: Steps and rates.
            task: What to train; its networks are on the session's device.
            session: Files, device, watching.
        """
        self.stage = stage
        self.task = task
        self.session = session
        self.step = 0
        self.average = {k: v.detach().clone() for k, v in task.networks.state_dict().items()}
        self._trained = [p for p in task.networks.parameters() if p.requires_grad]
        self.optimiser = _optimiser(stage, self._trained)
        self._saved_at = time.monotonic()
        if self.state_file.is_file():
            self._load()

    @property
    def state_file(self) -> Path:
        """Return where the state is kept."""
        return _state_file(self.stage, self.session)

    @property
    def finished(self) -> bool:
        """Return whether all steps are done."""
        return self.step >= self.stage.steps

    def train(self) -> bool:
        """Train until the end, or until the session is stopped.

        Returns:
            Whether all steps are done. The state is saved either way.
        """
        habits, log = self.session.habits, Log(self.session.folder / "log.jsonl")
        log.cut(self.stage.name, self.step)
        while not self.finished:
            parts = self.train_step()
            self.session.report(self.stage.name, self.step, self.stage.steps)
            if self.step % habits.log_steps == 0 or self.finished:
                log.add(self.stage.name, self.step, {k: float(v) for k, v in parts.items()})
            if self.step % habits.figure_steps == 0 or self.finished:
                log.add(self.stage.name, self.step, self._judge())
            if time.monotonic() - self._saved_at > habits.save_seconds:
                self.save()
            if self.session.stopped():
                break
        self.save()
        return self.finished

    def train_step(self) -> dict[str, Tensor]:
        """Take one step and return the parts of its loss."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate_at(self.stage, self.step) * group.get("share", 1.0)
        with self._precision():
            parts = self.task.losses(self.step)
        self.optimiser.zero_grad(set_to_none=True)
        parts["loss"].backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._trained, GRADIENT_LIMIT)
        self.optimiser.step()
        self.step += 1
        self._follow()
        return {name: value.detach() for name, value in parts.items()}

    def averaged(self) -> nn.ModuleDict:
        """Return the task's networks holding the running average, until `restored` is called."""
        self._own = {k: v.detach().clone() for k, v in self.task.networks.state_dict().items()}
        self.task.networks.load_state_dict(self.average)
        return self.task.networks.eval()

    def restored(self) -> None:
        """Give the task's networks back what they were trained to."""
        self.task.networks.load_state_dict(self._own)
        self.task.networks.train()

    def save(self) -> None:
        """Save the state."""
        state = {
            "step": self.step,
            "networks": self.task.networks.state_dict(),
            "average": self.average,
            "optimiser": self.optimiser.state_dict(),
        }
        save_tensors(self.state_file, state)
        self._saved_at = time.monotonic()

    def _load(self) -> None:
        state = load_tensors(self.state_file, self.session.device)
        self.step = state["step"]
        self.task.networks.load_state_dict(state["networks"])
        self.average = state["average"]
        self.optimiser.load_state_dict(state["optimiser"])

    def _precision(self) -> AbstractContextManager[Any]:
        if not self.session.habits.half_precision:
            return nullcontext()
        return torch.autocast(self.session.device.type, torch.bfloat16)

    @torch.no_grad()
    def _follow(self) -> None:
        """Let the average follow the networks, faster at the beginning."""
        decay = min(AVERAGE_DECAY, self.step / (self.step + 10))
        for name, value in self.task.networks.state_dict().items():
            if value.is_floating_point():
                self.average[name].lerp_(value, 1 - decay)

    @torch.no_grad()
    def _judge(self) -> dict[str, float]:
        networks = self.averaged()
        figures = {f"held-out {k}": v for k, v in self.task.figures(networks).items()}
        sheet = self.task.sheet(networks)
        self.restored()
        if sheet is not None:
            name = f"{self.stage.name}-{self.step:06d}.png"
            Image.fromarray(sheet).save(self.session.folder / name)
        return figures


class Log:
    """A file of JSON lines: stage, step, and whatever was measured."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def add(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Append a line."""
        if values:
            line = {"stage": stage, "step": step, **{k: round(v, 5) for k, v in values.items()}}
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def cut(self, stage: str, step: int) -> None:
        """Take out lines of a stage beyond a step, which are about to be written again."""
        kept = [
            line for line in self.lines() if line["stage"] != stage or int(line["step"]) <= step
        ]
        if self.path.is_file():
            text = "".join(json.dumps(line) + "\n" for line in kept)
            self.path.write_text(text, encoding="utf-8")

    def lines(self) -> list[dict[str, Any]]:
        """Return all lines."""
        if not self.path.is_file():
            return []
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]
