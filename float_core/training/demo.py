"""The demo model from nothing: both phases, the weights in one file, and their model card."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from ..checkpoint import LEFT_OUT_KEY, LICENCE_KEY, Weights
from ..checkpoint_export import convert
from ..checkpoint_files import StateDict
from ..checkpoint_layouts import NETWORK_PREFIXES, Layout, NetworkName, Source, canonical_key
from ..config import FloatConfig
from ..motion import MotionBasis
from .autoencoder import AutoencoderTask, copy_source, grow
from .card import model_card
from .clips import IMAGINED, Library, joined, make_library, rehearse, watched
from .listening import ListeningTask
from .recipe import DEMO_CONFIG, Recipe, Stage, smaller_image
from .runs import Run, Session, Task, finished_average
from .seeds import HELD_OUT, TRAINING
from .speaking import SpeakingTask
from .surrogate import look, make_surrogate

LICENCE = "MIT"
HELD_OUT_CLIPS = 21
MAXIMUM_BYTES = 8_000_000
TIMED_STEPS = 3


@dataclass(frozen=True, slots=True)
class Trained:
    """The networks of a finished training, with their running averages.

    Attributes:
        autoencoder: Encoder, decoder and probe.
        speaking: Flow transformer, audio encoder and reader.
    """

    autoencoder: nn.ModuleDict
    speaking: nn.ModuleDict


def choose_recipe(
    folder: Path, resume: bool, plan: Callable[[], Recipe], config: FloatConfig = DEMO_CONFIG
) -> Recipe:
    """Return the recipe of a training: that of its folder, or a new one, which is written there.

    Args:
        folder: Where the training keeps its files.
        resume: Whether to go on with what is there.
        plan: Makes a new recipe.
        config: The model.

    Raises:
        ValueError: There is a training and `resume` is off, or it is of another model.
    """
    file = folder / "recipe.json"
    if file.is_file():
        if not resume:
            raise ValueError(
                f"{folder} holds a training already: go on with it with --resume, or remove it."
            )
        told = json.loads(file.read_text(encoding="utf-8"))
        if FloatConfig.from_dict(told["config"]) != config:
            raise ValueError(f"{folder} trains another model: choose another folder.")
        return Recipe.from_dict(told["recipe"])
    recipe = plan()
    folder.mkdir(parents=True, exist_ok=True)
    told = {"recipe": recipe.to_dict(), "config": config.to_dict()}
    file.write_text(json.dumps(told, indent=1), encoding="utf-8")
    return recipe


def train_all(recipe: Recipe, config: FloatConfig, session: Session) -> Trained | None:
    """Run the recipe, from where it stands.

    Args:
        recipe: Stages and seed.
        config: The model.
        session: Files, device, watching.

    Returns:
        The networks; None where the session was stopped before the end.
    """
    autoencoder = _phase_one(recipe, config, session)
    if autoencoder is None:
        return None
    listening = _listen(recipe, config, session)
    if listening is None:
        return None
    speaking = _phase_two(recipe, config, session, autoencoder, listening)
    return None if speaking is None else Trained(autoencoder, speaking)


def _phase_one(recipe: Recipe, config: FloatConfig, session: Session) -> nn.ModuleDict | None:
    """Train encoder and autoencoder, stage by stage."""
    before: Mapping[str, Tensor] | None = None
    side = 0
    reads_only = False
    for stage in recipe.phase_one:
        model = smaller_image(config, stage.image_size)
        task = AutoencoderTask(model, stage, recipe.seed, session.device)
        if before is not None and stage.image_size == side:
            task.networks.load_state_dict({**task.networks.state_dict(), **before})
        elif before is not None:
            grow(before, task.networks)
        if reads_only and not stage.reads_only:
            copy_source(task.networks)
        reads_only = stage.reads_only
        run = Run(stage, task, session)
        if not run.finished and not run.train():
            return None
        before, side = task.outcome(run.average), stage.image_size
    return run.averaged().requires_grad_(False)


def _listen(recipe: Recipe, config: FloatConfig, session: Session) -> dict[str, Tensor] | None:
    """Train the speech encoder alone; return its state, or None where it was stopped."""
    heard = finished_average(recipe.listening, session)
    if heard is not None:
        return heard
    stage, length = recipe.listening, (recipe.listening_clips, recipe.clip_seconds)
    run = Run(stage, ListeningTask(config, stage, recipe.seed, session.device, *length), session)
    if not run.finished and not run.train():
        return None
    return run.average


def _phase_two(
    recipe: Recipe,
    config: FloatConfig,
    session: Session,
    autoencoder: nn.ModuleDict,
    listening: Mapping[str, Tensor],
) -> nn.ModuleDict | None:
    """Make the clips, then train flow transformer and speech encoder on them."""
    libraries = _libraries(recipe, config, session, autoencoder["encoder"])
    if libraries is None:
        return None
    decoder = autoencoder["decoder"]
    basis = MotionBasis.from_weight(cast(nn.Linear, decoder.direction).weight)
    probe = cast(nn.Linear, autoencoder["probe"])
    where = recipe.seed, session.device
    task = SpeakingTask(config, recipe.motion, *where, *libraries, basis, probe, listening)
    run = Run(recipe.motion, task, session)
    if not run.finished and not run.train():
        return None
    return run.averaged().requires_grad_(False)


def _libraries(
    recipe: Recipe, config: FloatConfig, session: Session, encoder: nn.Module
) -> tuple[Library, Library] | None:
    """Return the clips to learn from and those held out; None where the session was stopped."""
    seed, seconds = recipe.seed, recipe.clip_seconds
    see = watched(encoder, config, session)
    held_out = make_library(see, config, HELD_OUT, seed, HELD_OUT_CLIPS, seconds, session)
    if held_out is None:
        return None
    drawn = make_library(see, config, TRAINING, seed, recipe.clips, seconds, session)
    if drawn is None:
        return None
    surrogate = make_surrogate(encoder, config, seed, recipe.surrogate_identities, session)
    if surrogate is None:
        return None
    told = surrogate.see, config, TRAINING, seed, recipe.imagined_clips, seconds, session
    imagined = make_library(*told, IMAGINED)
    return None if imagined is None else (joined([drawn, imagined]), held_out)


def plan_minutes(recipe: Recipe, config: FloatConfig, minutes: float, session: Session) -> Recipe:
    """Scale a recipe to take about some minutes on this machine.

    Every stage is timed for a few steps; the counts that come out are part of the recipe, so that
    the training itself does not depend on the clock.

    Args:
        recipe: The usual recipe.
        config: The model.
        minutes: How long it may take, evaluation not counted.
        session: The device and its habits.

    Raises:
        ValueError: The time is 0 or less.
    """
    if not minutes > 0:
        raise ValueError(f"Expected minutes above 0, got {minutes}.")
    with tempfile.TemporaryDirectory() as folder:
        trial = replace(session, folder=Path(folder), on_progress=None, stopped=lambda: False)
        seconds = _time_all(recipe, config, trial)
    return recipe.scaled(60 * minutes / seconds)


def _time_all(recipe: Recipe, config: FloatConfig, trial: Session) -> float:
    """Return how long a recipe would take here, in seconds."""
    total = 0.0
    task: Task
    for stage in recipe.phase_one:
        model = smaller_image(config, stage.image_size)
        task = AutoencoderTask(model, stage, recipe.seed, trial.device)
        total += _time_stage(stage, task, trial)
    networks = task.networks
    began = time.monotonic()
    see = watched(networks["encoder"], config, trial)
    library = make_library(see, config, TRAINING, 0, 2, recipe.clip_seconds, trial)
    total += (time.monotonic() - began) / 2 * (recipe.clips + HELD_OUT_CLIPS)
    total += _time_imagination(networks["encoder"], recipe, config, trial)
    assert library is not None, "a trial is never stopped"
    task = ListeningTask(config, recipe.listening, 0, trial.device, 8, recipe.clip_seconds)
    total += _time_stage(recipe.listening, task, trial)
    weight = cast(nn.Linear, networks["decoder"].direction).weight
    basis = MotionBasis.from_weight(weight.detach())
    probe = cast(nn.Linear, networks["probe"])
    task = SpeakingTask(config, recipe.motion, 0, trial.device, library, library, basis, probe)
    return total + _time_stage(recipe.motion, task, trial)


def _time_imagination(
    encoder: nn.Module, recipe: Recipe, config: FloatConfig, trial: Session
) -> float:
    """Return how long making the clips that are not drawn would take, in seconds."""
    began = time.monotonic()
    look(encoder, config, TRAINING, 0, TIMED_STEPS, trial)
    looking = (time.monotonic() - began) / TIMED_STEPS * recipe.surrogate_identities
    began = time.monotonic()
    rehearse(TRAINING, 0, 0, recipe.clip_seconds, config.fps)
    return looking + (time.monotonic() - began) * recipe.imagined_clips


def _time_stage(stage: Stage, task: Task, trial: Session) -> float:
    """Return how long a stage would take, in seconds; the first step warms up."""
    run = Run(stage, task, trial)
    run.train_step()
    began = time.monotonic()
    for _ in range(TIMED_STEPS):
        parts = run.train_step()
    float(parts["loss"])  # waits for the device
    return (time.monotonic() - began) / TIMED_STEPS * stage.steps


def one_file_state(trained: Trained) -> dict[str, Tensor]:
    """Return the tensors under the keys of the one-file layout, on the CPU."""
    networks: dict[NetworkName, nn.Module] = {
        "motion_encoder": trained.autoencoder["encoder"],
        "motion_decoder": trained.autoencoder["decoder"],
        "audio_encoder": trained.speaking["audio_encoder"],
        "flow_transformer": trained.speaking["transformer"],
    }
    return {
        canonical_key(NETWORK_PREFIXES[name] + key): value.detach().cpu()
        for name, network in networks.items()
        for key, value in network.state_dict().items()
    }


def export(trained: Trained, config: FloatConfig, output: Path, recipe: Recipe) -> None:
    """Write the weights into one file, in half precision, with config, licence and card.

    Args:
        trained: The networks.
        config: The model.
        output: The `.safetensors` file to write.
        recipe: How they were trained.

    Raises:
        ValueError: The file would be larger than a repository should carry.
        OSError: The file cannot be written.
    """
    state = one_file_state(trained)
    size = 2 * sum(value.numel() for value in state.values())
    if size > MAXIMUM_BYTES:
        raise ValueError(
            f"Expected weights of at most {MAXIMUM_BYTES:,} bytes in half precision, got {size:,}: "
            "make the model smaller."
        )
    tensors = StateDict(state)
    tensors.metadata = {
        LICENCE_KEY: LICENCE,
        LEFT_OUT_KEY: "emotion_classifier",
        "model_card": model_card(recipe, config),
    }
    layout = Layout("state dict", (Source(tensors, canonical_key),))
    convert(Weights(layout, "the demo model", config), output, torch.float16)
