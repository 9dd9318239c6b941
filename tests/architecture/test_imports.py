"""The arrows of the codebase: who may import whom, read off the source without running it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("nodes", "float_core")
FILES = sorted(
    [ROOT / "__init__.py", *(file for name in PACKAGES for file in (ROOT / name).rglob("*.py"))]
)

COMFYUI = (
    *("comfy", "comfy_api", "comfy_extras", "comfy_execution", "folder_paths", "server"),
    *("execution", "latent_preview", "node_helpers", "app", "utils"),
)

WEIGHT_OPENERS = ("safetensors", "pickle", "huggingface_hub")
MEDIA_OPENERS = ("av", "soundfile", "imageio", "wave")
LAZY = ("transformers", "cv2", "torchaudio", "scipy", "kornia", "huggingface_hub", "torchvision")
"""Large or breakable libraries: only ever imported by the function that needs them."""


@dataclass(frozen=True)
class Import:
    """One imported module.

    Attributes:
        file: Who imports, relative to the root.
        target: What, dotted from the root for our own modules, such as `float_core.config`.
        line: Line of the statement.
        relative: Whether it is written with dots.
        at_import: Whether it runs when the file is imported.
    """

    file: str
    target: str
    line: int
    relative: bool
    at_import: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.target}"

    @property
    def library(self) -> str:
        return self.target.split(".")[0]


def parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def deferred(tree: ast.Module) -> set[ast.AST]:
    """Return the nodes that do not run at import: in functions and under TYPE_CHECKING."""
    late = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    checks = [
        statement
        for n in ast.walk(tree)
        if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)
        for statement in n.body
    ]
    return {inner for node in (*late, *checks) for inner in ast.walk(node)}


def imports_of(file: Path) -> Iterator[Import]:
    name, tree = file.relative_to(ROOT).as_posix(), parse(file)
    late = deferred(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(name, alias.name, node.lineno, False, node not in late)
        elif isinstance(node, ast.ImportFrom):
            for target in targets_of(file, node):
                yield Import(name, target, node.lineno, node.level > 0, node not in late)


def targets_of(file: Path, node: ast.ImportFrom) -> list[str]:
    """Return what a `from … import …` names; `from . import x` names the module x."""
    if node.level == 0:
        return [node.module or ""]
    folder = file.parent
    for _ in range(node.level - 1):
        folder = folder.parent
    assert folder == ROOT or ROOT in folder.parents, f"{file}:{node.lineno} climbs out of the pack"
    start = ".".join((*folder.relative_to(ROOT).parts, *filter(None, [node.module])))
    if node.module:
        return [start]
    return [".".join(filter(None, (start, alias.name))) for alias in node.names]


IMPORTS = [entry for file in FILES for entry in imports_of(file)]


ROOMS = {
    "values": ("motion", "emotion", "face"),
    "sound and pictures": ("audio", "media", "media_writer"),
    "checkpoint": (
        *("checkpoint", "checkpoint_config", "checkpoint_export", "checkpoint_files"),
        "checkpoint_layouts",
    ),
    "hub": ("hub", "hub_files", "transfer"),
    "runs": ("talk", "weights_choice", "synthetic"),
    "cli": ("cli", "__main__"),
}
"""Rooms of several files; any other file of `float_core` is a room of its own."""

_ROOM_OF = {name: room for room, names in ROOMS.items() for name in names}
_SHARED = {"config", "values", "sound and pictures"}
_ENTRANCES = {"nodes", "cli", "training", "runs"}

ALLOWED = {
    "config": set(),
    "values": _SHARED,
    "sound and pictures": _SHARED,
    "modules": {"config"},
    "sampling": _SHARED,
    "checkpoint": _SHARED,
    "hub": _SHARED,
}
"""What the lower rooms may import besides themselves."""


def layer(module: str) -> str:
    """Return the room of one of our modules, by its dotted name or its file."""
    parts = module.removesuffix(".py").replace("/", ".").split(".")
    if parts[0] == "nodes":
        return "nodes"
    if parts[0] != "float_core" or len(parts) == 1:
        return "root"
    return _ROOM_OF.get(parts[1], parts[1])


def problems(found: Iterator[Import]) -> str:
    return "\n".join(map(str, found))


def test_there_is_something_to_check() -> None:
    assert len(FILES) > 20
    assert {layer(entry.file) for entry in IMPORTS} >= {"nodes", "pipeline", "modules", "root"}


def test_the_core_knows_no_comfyui() -> None:
    core = (i for i in IMPORTS if i.file.startswith("float_core") and not i.relative)
    assert not problems(i for i in core if i.library in COMFYUI)


def test_the_core_imports_no_node() -> None:
    core = (i for i in IMPORTS if i.file.startswith("float_core"))
    assert not problems(i for i in core if i.relative and not i.target.startswith("float_core"))


def test_inside_the_pack_imports_are_relative() -> None:
    own = (i for i in IMPORTS if i.library in (*PACKAGES, "tests", "benchmarks"))
    assert not problems(i for i in own if not i.relative)


@pytest.mark.parametrize("room", ALLOWED)
def test_lower_rooms_import_only_what_lies_below(room: str) -> None:
    assert room == "config" or any(layer(i.file) == room for i in IMPORTS)
    inside = (i for i in IMPORTS if i.relative and layer(i.file) == room)
    assert not problems(i for i in inside if layer(i.target) not in ALLOWED[room] | {room, "root"})


def test_nothing_below_the_entrances_imports_one() -> None:
    below = (i for i in IMPORTS if i.relative and layer(i.file) not in _ENTRANCES | {"root"})
    assert not problems(i for i in below if layer(i.target) in _ENTRANCES)


def test_only_the_entrances_import_the_pipeline() -> None:
    others = (i for i in IMPORTS if i.relative and layer(i.file) not in _ENTRANCES)
    assert not problems(i for i in others if layer(i.target) == "pipeline")


def test_training_is_imported_by_the_command_that_asks_for_it_alone() -> None:
    outside = [i for i in IMPORTS if layer(i.target) == "training" and layer(i.file) != "training"]
    assert not problems(i for i in outside if layer(i.file) != "cli" or i.at_import)


def test_only_checkpoint_and_hub_open_weights() -> None:
    others = (i for i in IMPORTS if layer(i.file) not in ("checkpoint", "hub", "training"))
    assert not problems(i for i in others if i.library in WEIGHT_OPENERS)
    for file in FILES:
        if layer(file.relative_to(ROOT).as_posix()) not in ("checkpoint", "training"):
            assert "torch.load(" not in file.read_text(encoding="utf-8"), file


def test_only_media_opens_pictures_and_sound() -> None:
    others = (i for i in IMPORTS if not Path(i.file).name.startswith("media"))
    assert not problems(i for i in others if i.library in MEDIA_OPENERS)
    for file in FILES:
        if not file.name.startswith("media"):
            text = file.read_text(encoding="utf-8")
            assert not {"Image.open(", "cv2.imread(", "torchaudio.load("} & set(text.split()), file


def test_breakable_libraries_wait_until_they_are_needed() -> None:
    early = (i for i in IMPORTS if i.at_import and layer(i.file) != "training")
    assert not problems(i for i in early if i.library in LAZY)


def test_the_root_imports_nothing_of_comfyui_early() -> None:
    root = (i for i in IMPORTS if i.file == "__init__.py" and i.at_import)
    assert not problems(i for i in root if i.library not in ("__future__", "typing"))


def test_the_pack_has_one_form() -> None:
    names = {
        node.id for node in ast.walk(parse(ROOT / "__init__.py")) if isinstance(node, ast.Name)
    }
    assert "NODE_CLASS_MAPPINGS" not in names


FORBIDDEN_CALLS = {
    *("makedirs", "mkdir", "touch", "unlink", "rmtree", "open", "print", "basicConfig"),
    *("is_available", "get_device_properties", "device_count", "set_default_dtype"),
    *("urlopen", "download_weights", "manual_seed", "add_model_folder_path"),
}


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.relative_to(ROOT).as_posix())
def test_nothing_happens_at_import(file: Path) -> None:
    tree = parse(file)
    late = deferred(tree)
    guarded = {
        inner
        for node in tree.body
        if isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and n not in late | guarded]
    names = {
        call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)
        for call in calls
    }
    assert not names & FORBIDDEN_CALLS


def test_the_core_imports_without_its_breakable_libraries() -> None:
    """Import every module of the core in a fresh process and look at what came along."""
    modules = [
        ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for file in FILES
        if file.is_relative_to(ROOT / "float_core")
        and file.name not in ("__init__.py", "__main__.py")
        and "training" not in file.parts
    ]
    code = (
        f"import sys, importlib; [importlib.import_module(m) for m in {modules!r}]; "
        f"print([m for m in {LAZY!r} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
