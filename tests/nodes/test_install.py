"""What an installer and a reader of the README rely on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from float_core.hub import FACE_DETECTOR, LAYOUTS
from tests.nodes.comfy_server import PACK, PACK_NAME

README = (PACK / "README.md").read_text(encoding="utf-8")


def requirements(path: Path) -> list[str]:
    """Return the lines of a requirements file without comments."""
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line]


def package(requirement: str) -> str:
    """Return the package that a requirement names."""
    found = re.match(r"[A-Za-z0-9_.-]+", requirement)
    assert found, requirement
    return found[0].lower().replace("_", "-")


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    tomllib = pytest.importorskip("tomllib")
    return dict(tomllib.loads((PACK / "pyproject.toml").read_text(encoding="utf-8")))


def test_the_registry_learns_name_and_versions(project: dict[str, Any]) -> None:
    assert project["project"]["name"] == PACK_NAME
    assert project["tool"]["comfy"]["requires-comfyui"] == ">=0.3.48"
    assert "ComfyUI 0.3.48" in README
    assert project["project"]["dependencies"] == requirements(PACK / "requirements.txt")


def test_nothing_is_pinned() -> None:
    pinned = [
        line for line in requirements(PACK / "requirements.txt") if re.search("[<>=~!]", line)
    ]
    assert pinned == [], "a bound would change what another pack installed"


@pytest.mark.comfyui
def test_nothing_is_asked_for_that_comfyui_brings(comfyui: Path) -> None:
    brought = set(map(package, requirements(comfyui / "requirements.txt")))
    assert {"torch", "torchaudio", "transformers", "safetensors", "av"} <= brought
    assert brought.isdisjoint(map(package, requirements(PACK / "requirements.txt")))


def test_the_readme_names_every_file_and_where_it_comes_from() -> None:
    table = README[README.index("| file or folder |") :].split("\n\n")[0]
    for file in (file for files in LAYOUTS.values() for file in files):
        assert f"`{file.target.split('/')[0]}`" in table or file.target.startswith("wav2vec")
        assert f"`{file.repo}`" in table
    for name in ("wav2vec2-base-960h", "wav2vec-english-speech-emotion-recognition"):
        assert f"`{name}`" in table
    assert f"`{FACE_DETECTOR.target}`" in table
