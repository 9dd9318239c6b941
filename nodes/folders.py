"""Where weights lie: ComfyUI's model folders `float` and `audio`, extra model paths included.

A widget only ever names an entry of a listing; no path is built from what a widget holds.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path, PurePath

import folder_paths

from ..float_core.hub import LAYOUTS, plan
from ..float_core.weights_choice import DEMO, DEMO_FILE, DOWNLOAD

FLOAT_FOLDER = "float"
AUDIO_FOLDER = "audio"

_SUFFIXES = (".safetensors", ".sft", ".pth", ".pt", ".ckpt", ".bin")
_PARTS_MARK = PurePath("fmt", "fmt.safetensors")
_PARTS_FOLDERS = ("motion_autoencoder", "audio_projections", "fmt")
_WAV2VEC2_PREFIX = "wav2vec"


def register_model_folders() -> None:
    """Make ComfyUI look for weights in `models/float` and `models/audio` too."""
    for name in (FLOAT_FOLDER, AUDIO_FOLDER):
        folder_paths.add_model_folder_path(name, os.path.join(folder_paths.models_dir, name))


def weights_options() -> list[str]:
    """Return what the weights widget offers: files and folders found, the demo, the download."""
    demo = [DEMO] if DEMO_FILE.is_file() else []
    return [*_found(), *demo, DOWNLOAD]


def weights_path(name: str) -> Path | None:
    """Return the file or folder of a listed name; None where it still has to be downloaded.

    Raises:
        FileNotFoundError: The name is not listed (any more).
    """
    if name == DEMO and DEMO_FILE.is_file():
        return DEMO_FILE
    if name == DOWNLOAD:
        return next((path for path in map(_downloaded, search_folders()) if path), None)
    path = _found().get(name)
    if path is None:
        raise FileNotFoundError(
            f"Expected weights of a listed name, got {name!r}: choose one of "
            f"{', '.join(weights_options())}, or put the file into {download_folder()} and press R."
        )
    return path


def download_folder() -> Path:
    """Return where a download goes: `models/float`."""
    return Path(folder_paths.models_dir) / FLOAT_FOLDER


def search_folders() -> list[Path]:
    """Return every folder in which weights or wav2vec2 folders may lie."""
    return [
        Path(path)
        for name in (FLOAT_FOLDER, AUDIO_FOLDER)
        for path in folder_paths.get_folder_paths(name)
    ]


def weights_fingerprint(name: str) -> str:
    """Return a text that changes when a file of these weights does.

    It holds path, size and time of change of every file; the contents are not read.
    """
    path = weights_path(name)
    if path is None:
        return DOWNLOAD
    files = [path] if path.is_file() else _files_below([path])
    folders = [
        folder
        for root in search_folders()
        if root.is_dir()
        for folder in sorted(root.iterdir())
        if folder.is_dir() and folder.name.startswith(_WAV2VEC2_PREFIX)
    ]
    return "\n".join(map(_state, [*files, *_files_below(folders)]))


def _found() -> dict[str, Path]:
    """Return files and folders of weights by their name, relative to the model folder."""
    found: dict[str, Path] = {}
    for folder in (FLOAT_FOLDER, AUDIO_FOLDER):
        names = [PurePath(name) for name in folder_paths.get_filename_list(folder)]
        for name in (*_folders_of_parts(names), *_single_files(names)):
            if folder == FLOAT_FOLDER or FLOAT_FOLDER in name.name.lower():
                _add(found, folder, name)
    return found


def _add(found: dict[str, Path], folder: str, name: PurePath) -> None:
    is_file = name.suffix.lower() in _SUFFIXES
    full = folder_paths.get_full_path(folder, str(name if is_file else name / _PARTS_MARK))
    if full is not None:
        title = str(name) if is_file else f"{name.as_posix()}/"
        found.setdefault(title, Path(full) if is_file else Path(full).parent.parent)


def _folders_of_parts(names: Iterable[PurePath]) -> list[PurePath]:
    return [name.parent.parent for name in names if name.parts[-2:] == _PARTS_MARK.parts]


def _single_files(names: Iterable[PurePath]) -> list[PurePath]:
    """Return the weight files that are not a part of something else."""
    names = list(names)
    hub_folders = {name.parent for name in names if name.name == "config.json"}
    parts = {root / part for root in _folders_of_parts(names) for part in _PARTS_FOLDERS}
    return [
        name
        for name in names
        if name.suffix.lower() in _SUFFIXES
        and name.parent not in hub_folders | parts
        and not name.parent.name.startswith(_WAV2VEC2_PREFIX)
    ]


def _downloaded(folder: Path) -> Path | None:
    """Return what a download left in a folder, if nothing of it is missing."""
    files = LAYOUTS["one-file"]
    return folder / files[0].target if not plan(folder) else None


def _files_below(folders: Iterable[Path]) -> list[Path]:
    return sorted(file for folder in folders for file in folder.rglob("*") if file.is_file())


def _state(file: Path) -> str:
    stat = file.stat()
    return f"{file}|{stat.st_size}|{stat.st_mtime_ns}"
