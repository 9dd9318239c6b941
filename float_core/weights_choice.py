"""Which weights a run uses: a path, synthetic ones, a download, the demo, or what is found."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch

from .checkpoint import Weights
from .checkpoint_layouts import NetworkName
from .config import FloatConfig
from .hub import download_weights
from .pipeline import NETWORKS, FloatPipeline
from .synthetic import synthetic_weights

SYNTHETIC = "synthetic"
DOWNLOAD = "download"
DEMO = "demo"

WEIGHTS_VARIABLE = "FLOAT_WEIGHTS"
MODELS_FOLDER = Path("models") / "float"
DEMO_FILE = Path(__file__).resolve().parent.parent / "assets" / "demo.safetensors"

DEMO_NOTE = (
    "Demo weights: a small model of drawn faces, MIT licence. Photographs need the released ones "
    "(--weights download, non-commercial licence)."
)


def weights_folder() -> Path:
    """Return where released weights are looked for and downloaded to."""
    return Path(os.environ.get(WEIGHTS_VARIABLE) or MODELS_FOLDER)


def choose_weights(choice: str | None) -> Path | str:
    """Return the file or folder of a choice, or "synthetic" or "download".

    Args:
        choice: A path, "synthetic", "download", "demo", or None for what is found.

    Raises:
        FileNotFoundError: There is nothing at the path, or nothing was found.
    """
    if choice in (SYNTHETIC, DOWNLOAD):
        return choice
    if choice is not None and choice != DEMO:
        return existing(choice)
    if choice is None:
        folder = weights_folder()
        if os.environ.get(WEIGHTS_VARIABLE):
            return existing(folder, f"${WEIGHTS_VARIABLE}")
        if folder.is_dir() and any(map(_is_weights, folder.rglob("*"))):
            return folder
    if DEMO_FILE.is_file():
        return DEMO_FILE
    raise FileNotFoundError(_nothing_found(choice))


def existing(path: str | Path, named_by: str = "there") -> Path:
    """Return a path after checking that something lies there.

    Raises:
        FileNotFoundError: There is nothing, or the path is empty.
    """
    if not str(path) or not Path(path).exists():
        where = f"named by {named_by}" if named_by != "there" else named_by
        raise FileNotFoundError(f"Expected weights at {str(path)!r}, found nothing {where}.")
    return Path(path)


def _is_weights(path: Path) -> bool:
    return path.suffix in (".safetensors", ".pth", ".pt", ".bin")


def _nothing_found(choice: str | None) -> str:
    if choice == DEMO:
        return (
            f"Expected the demo weights at {DEMO_FILE}, found none: this version ships without "
            'them. Use "--weights synthetic" for a run without meaning, or "--weights download".'
        )
    return (
        f"Expected weights in ${WEIGHTS_VARIABLE} or {MODELS_FOLDER}, found none: put the released "
        f'files there, give "--weights PATH", fetch them with "--weights download" '
        '(2.4 GB, non-commercial licence), or try the program with "--weights synthetic", whose '
        "picture means nothing."
    )


def load_pipeline(
    chosen: Path | str,
    device: torch.device | str,
    dtype: torch.dtype | None,
    with_emotion: bool,
    on_progress: Callable[[int, int], None] | None = None,
) -> FloatPipeline:
    """Load the weights of a choice.

    Args:
        chosen: What `choose_weights` returned.
        device: Where the networks go.
        dtype: Precision they run in; the stored one where None.
        with_emotion: Whether synthetic weights need an emotion network.
        on_progress: Called with the bytes downloaded, or the tensors made, and their total.

    Raises:
        CheckpointError: The weights are not FLOAT's, or not whole.
        DownloadError: A download failed.
    """
    if chosen == DOWNLOAD:
        chosen = download_weights(weights_folder(), on_progress)
    if chosen == SYNTHETIC:
        config = FloatConfig()
        left_out: tuple[NetworkName, ...] = () if with_emotion else ("emotion_classifier",)
        state = synthetic_weights(config, NETWORKS, left_out, on_progress)
        return FloatPipeline(Weights.from_state_dict(state, config), device, dtype)
    return FloatPipeline.from_checkpoint(chosen, device=device, dtype=dtype)
