"""Where the ComfyUI that the tests run against lies, and what to say where there is none."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

CACHE = Path.home() / ".cache" / "comfyui-float-portrait"
COMFYUI_ADDRESS = "https://github.com/comfyanonymous/ComfyUI"
VHS_ADDRESS = "https://github.com/Kosinkadink/ComfyUI-VideoHelperSuite"

_NEEDED = ("aiohttp", "torchsde", "torchvision", "torchaudio", "einops", "alembic", "yaml", "av")


def comfyui_path() -> Path | None:
    """Return the checkout that `COMFYUI_PATH` names, else the one in the user's cache folder."""
    return _checkout("COMFYUI_PATH", CACHE / "ComfyUI", "main.py")


def vhs_path() -> Path | None:
    """Return the VideoHelperSuite that `VHS_PATH` names, else the one in the cache folder."""
    return _checkout("VHS_PATH", CACHE / "ComfyUI-VideoHelperSuite", "__init__.py")


def why_not() -> str | None:
    """Say why the tests against ComfyUI cannot run and how to change that; None where they can."""
    path = comfyui_path()
    if path is None:
        return (
            f"no ComfyUI checkout: git clone {COMFYUI_ADDRESS} {CACHE / 'ComfyUI'} (or name one in "
            f"COMFYUI_PATH), and for its video node git clone {VHS_ADDRESS} "
            f"{CACHE / 'ComfyUI-VideoHelperSuite'} (or VHS_PATH)"
        )
    absent = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        return (
            f"{sys.executable} lacks what ComfyUI imports ({', '.join(absent)}): "
            f"{sys.executable} -m pip install requests -r {path / 'requirements.txt'}"
        )
    return None


def _checkout(variable: str, usual: Path, mark: str) -> Path | None:
    named = os.environ.get(variable)
    path = Path(named).expanduser() if named else usual
    if (path / mark).is_file():
        return path.resolve()
    if named:
        raise FileNotFoundError(f"Expected {mark} in {path}, which {variable} names: correct it.")
    return None
