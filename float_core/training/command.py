"""What `python -m float_core train …` does."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType

import torch

from ..media import load_audio
from ..pipeline import FloatPipeline
from .card import model_card
from .demo import choose_recipe, export, plan_minutes, train_all
from .evaluate import Judges, draw_clip, judge, judge_recordings
from .readers import train_reader
from .recipe import DEMO_CONFIG, Recipe
from .runs import Habits, Progress, Session

GPU_EFFORT = 2.0
"""Factor of the steps on a GPU where nothing else is said."""

GPU_WIDTH = 4
"""Factor of the batches on a GPU, which takes hardly longer over them."""


@dataclass(frozen=True, slots=True)
class DemoOrder:
    """What a user asked `train demo` for.

    Attributes:
        output: The `.safetensors` file to write.
        folder: Where the training keeps its files; beside the output where None.
        minutes: Time to fit the training into; None for the usual number of steps.
        effort: Factor of the usual number of steps; by the device where None.
        resume: Whether to go on with a training that is there.
        seed: Name of all random streams.
        figures: Whether to judge the model afterwards.
        half_precision: Whether to train in bfloat16 where it is safe.
    """

    output: Path
    folder: Path | None = None
    minutes: float | None = None
    effort: float | None = None
    resume: bool = False
    seed: int = 0
    figures: bool = True
    half_precision: bool = True

    @property
    def training_folder(self) -> Path:
        """Return where the training keeps its files."""
        return self.folder or self.output.with_suffix(".training")


def train_demo(order: DemoOrder, device: torch.device, on_progress: Progress | None = None) -> str:
    """Train the demo model and write it, or stop at a signal with everything saved.

    Args:
        order: What was asked for.
        device: Where to train.
        on_progress: Called with a stage's name, the steps done and their number.

    Returns:
        What to tell the user.

    Raises:
        ValueError: A value is out of range, or there is a training and `resume` is off.
        FileNotFoundError: There is no folder to write the output into.
    """
    _check_output(order.output)
    with _until_signalled() as stopped:
        habits = Habits(half_precision=order.half_precision)
        session = Session(order.training_folder, device, habits, on_progress, stopped)
        recipe = choose_recipe(session.folder, order.resume, partial(_plan, order, session))
        trained = train_all(recipe, DEMO_CONFIG, session)
    if trained is None:
        return (
            f"Stopped; all is saved in {session.folder}. Go on with the same command and --resume."
        )
    export(trained, DEMO_CONFIG, order.output, recipe)
    card, figures = order.output.with_suffix(".md"), {}
    if order.figures:
        figures = figures_of(order.output, device, recipe.seed, on_progress=on_progress)
        told = json.dumps(figures, indent=1)
        (session.folder / "figures.json").write_text(told, encoding="utf-8")
    card.write_text(model_card(recipe, DEMO_CONFIG, figures), encoding="utf-8")
    return f"Wrote {order.output} and {card}.\n{_listed(figures)}".rstrip()


def _check_output(output: Path) -> None:
    if output.suffix != ".safetensors":
        raise ValueError(f"Expected an output ending in .safetensors, got {output.name!r}.")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {output.parent} to write into: make it.")


def _plan(order: DemoOrder, session: Session) -> Recipe:
    on_gpu = session.device.type == "cuda"
    recipe = Recipe(seed=order.seed).widened(GPU_WIDTH if on_gpu else 1)
    if order.minutes is not None and order.effort is not None:
        raise ValueError("Expected minutes or an effort, got both: choose one.")
    if order.minutes is not None:
        return plan_minutes(recipe, DEMO_CONFIG, order.minutes, session)
    usual = GPU_EFFORT if on_gpu else 1.0
    return recipe.scaled(usual if order.effort is None else order.effort)


@contextmanager
def _until_signalled() -> Iterator[Callable[[], bool]]:
    """Turn the first interrupt into a wish to stop after the step; a second one stops at once."""
    asked: list[int] = []
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, _frame: FrameType | None) -> None:
        asked.append(number)
        signal.signal(number, usual[signal.Signals(number)])

    for number in usual:
        signal.signal(number, note)
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in usual.items():
            signal.signal(number, handler)


def figures_of(
    weights: Path,
    device: torch.device,
    seed: int = 0,
    recordings: Iterable[Path] = (),
    on_progress: Progress | None = None,
) -> dict[str, float]:
    """Train the readers and return a model's held-out figures.

    Args:
        weights: A model of any size.
        device: Where to work.
        seed: Name of the random streams.
        recordings: Sounds of real voices.
        on_progress: Called with a stage's name, what is done and how much there is.
    """

    def stage(name: str) -> Callable[[int, int], None] | None:
        return None if on_progress is None else partial(on_progress, name)

    judges = Judges(
        train_reader("opening", seed, None, device, stage("reader of the mouth")),
        train_reader("emotion", seed, None, device, stage("reader of the emotion")),
    )
    pipeline = FloatPipeline.from_checkpoint(weights, device=device, dtype=torch.float32)
    figures = judge(pipeline, judges, seed, on_progress=stage("figures"))
    sounds = [load_audio(path) for path in recordings]
    if sounds:
        portrait = draw_clip(pipeline, seed, 0).portrait
        figures |= judge_recordings(pipeline, judges.opening, sounds, portrait)
    return figures


def _listed(figures: dict[str, float]) -> str:
    return "\n".join(f"{name}: {value:.3f}" for name, value in figures.items())


def evaluate_weights(
    weights: Path,
    recordings: Iterable[Path],
    device: torch.device,
    on_progress: Progress | None = None,
) -> str:
    """Return a model's held-out figures as lines of text.

    Args:
        weights: A model.
        recordings: Sounds of real voices.
        device: Where to work.
        on_progress: Called with a stage's name, what is done and how much there is.
    """
    return _listed(figures_of(weights, device, recordings=recordings, on_progress=on_progress))
