"""Open one weight file: safetensors, or a pickle of tensors read without running code in it.

What kind of file it is is read off its first bytes, not off its name.
"""

from __future__ import annotations

import math
import pickle
import re
import struct
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import safetensors
import torch
from torch import Tensor

_SAFETENSORS_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_ZIP_START = b"PK\x03\x04"
_PICKLE_START = b"\x80"
_SAFE_TORCH = (2, 6)
_DAMAGE = (
    RuntimeError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    OSError,
    OverflowError,
    struct.error,
)
"""What torch raises on bytes that are not what they should be."""


class CheckpointError(ValueError):
    """Weights that cannot be used: the message names the file, what was expected and what came."""


class WeightsNotFoundError(CheckpointError, FileNotFoundError):
    """A weight file that is not there: the message says what was looked for and where."""


class TensorInfo(NamedTuple):
    """What is known of a stored tensor without reading it."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def numel(self) -> int:
        """Return the number of values."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Return the bytes they take."""
        return self.numel * self.dtype.itemsize


class TensorFile(ABC):
    """Named tensors of one file.

    Attributes:
        name: What messages call it.
        path: The file, or None for tensors in memory.
        info: Shape and dtype of each tensor by its stored name.
        metadata: The texts stored beside the tensors; empty for a pickle.
    """

    name: str
    path: Path | None
    info: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]

    @abstractmethod
    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Return tensors by stored name, on the CPU, in the stored dtype.

        Args:
            names: Stored names, all of them in `info`.

        Raises:
            CheckpointError: The file cannot be read to its end.
        """


class StateDict(TensorFile):
    """Tensors in memory."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.name, self.path = "the state dict", None
        wrong = [name for name, value in tensors.items() if not isinstance(value, Tensor)]
        if wrong:
            raise CheckpointError(
                f"{self.name}: expected tensors by name, got {type(tensors[wrong[0]]).__name__} "
                f"for {wrong[0]!r}"
            )
        self._tensors = tensors
        self.info = {
            name: TensorInfo(tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()
        }
        self.metadata = MappingProxyType({})

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Return tensors by name, detached."""
        return {name: self._tensors[name].detach() for name in names}


class _SafetensorsFile(TensorFile):
    """A safetensors file; its tensors are views of the memory-mapped file."""

    def __init__(self, path: Path) -> None:
        self.name, self.path, self._path = str(path), path, path
        with self._open() as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            self.metadata = dict(file.metadata() or {})
            self.info = {name: self._describe(name, part) for name, part in slices.items()}

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        with self._open() as file:
            return {name: file.get_tensor(name) for name in names}

    def _open(self) -> safetensors.safe_open:
        try:
            return safetensors.safe_open(self._path, framework="pt")
        except safetensors.SafetensorError as error:
            raise _damaged(self._path, "safetensors", str(error)) from error

    def _describe(self, name: str, part: Any) -> TensorInfo:
        dtype = _SAFETENSORS_TYPES.get(part.get_dtype())
        if dtype is None:
            raise CheckpointError(
                f"{self.name}: expected float32, float16 or bfloat16, got {part.get_dtype()} for "
                f"{name}; use a file in one of these precisions"
            )
        return TensorInfo(tuple(part.get_shape()), dtype)


class _PickleFile(TensorFile):
    """A `.pth` or `.bin` of tensors by name, read with weights-only unpickling.

    Files of torch 1.6 and newer are memory-mapped. Older ones cannot be: opening one reads it
    through without keeping it, and reading one holds the whole file until its tensors are taken.
    """

    def __init__(self, path: Path) -> None:
        self.name, self.path, self._path = str(path), path, path
        _require_safe_torch(path)
        self._mapped = _first_bytes(path).startswith(_ZIP_START)
        self._held = self._load("cpu" if self._mapped else "meta")
        self.info = {
            name: TensorInfo(tuple(tensor.shape), tensor.dtype)
            for name, tensor in self._held.items()
        }
        self.metadata = MappingProxyType({})
        if not self._mapped:
            self._held = {}

    def read(self, names: Iterable[str]) -> dict[str, Tensor]:
        wanted = list(names)
        if not self._held.keys() >= set(wanted):
            self._held = self._load("cpu")
        if self._mapped:
            return {name: self._held[name] for name in wanted}
        return {name: self._held.pop(name) for name in wanted}

    def _load(self, device: str) -> dict[str, Tensor]:
        try:
            with warnings.catch_warnings():
                # torch warns of pickle protocols and of TorchScript; what fails is told below.
                warnings.simplefilter("ignore")
                loaded = torch.load(
                    self._path, map_location=device, weights_only=True, mmap=self._mapped or None
                )
        except pickle.UnpicklingError as error:
            raise _holds_code(self._path, str(error)) from error
        except _DAMAGE as error:
            if "TorchScript" in str(error):
                raise _holds_code(self._path, "GLOBAL TorchScript") from error
            if "allocate memory" in str(error):
                raise
            raise _damaged(self._path, "torch", str(error)) from error
        return self._tensors(loaded)

    def _tensors(self, loaded: object) -> dict[str, Tensor]:
        if not isinstance(loaded, Mapping):
            raise CheckpointError(
                f"{self.name}: expected tensors by name (a state dict), "
                f"got a {type(loaded).__name__}"
            )
        return {
            str(name): value.detach() for name, value in loaded.items() if isinstance(value, Tensor)
        }


def open_tensors(path: Path) -> TensorFile:
    """Open a weight file; only its list of tensors is read.

    Args:
        path: A safetensors file, or a pickle written by `torch.save`.

    Raises:
        WeightsNotFoundError: There is no such file.
        CheckpointError: It is no weight file, is damaged, holds code, or is a pickle and this torch
            is too old to read one safely.
    """
    if not path.is_file():
        raise WeightsNotFoundError(f"Expected a weight file at {path}, found none")
    start = _first_bytes(path)
    # Eight bytes of length come first, and may begin like a pickle: so this is asked first.
    if start[8:9] == b"{":
        return _SafetensorsFile(path)
    if start.startswith((_ZIP_START, _PICKLE_START)):
        if path.suffix == ".safetensors":
            raise CheckpointError(
                f"{path} is named .safetensors but holds a pickle: rename it to .pth if you trust "
                "where it comes from (it is read without running code in it), or fetch it again"
            )
        return _PickleFile(path)
    raise CheckpointError(f"{path} is no weight file: {_guess(path, start)}")


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(256)


def _guess(path: Path, start: bytes) -> str:
    """Say what a file that holds no tensors seems to be, and what to do."""
    size = path.stat().st_size
    again = "fetch the file itself again"
    if start.startswith(b"version https://git-lfs"):
        return (
            f"it is the {size}-byte pointer that git leaves in its place; run `git lfs pull`, "
            f"or {again}"
        )
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return f"it is a web page ({size} bytes), saved instead of the file; {again}"
    if not start:
        return f"it is empty; {again}"
    text = start.isascii() and not re.search(rb"[\x00-\x08\x0e-\x1f]", start)
    kind = "text" if text else "something else"
    return (
        f"expected safetensors or a file written by torch.save, got {kind} ({size:,} bytes); "
        "choose the weight file or the folder that holds it"
    )


def _damaged(path: Path, kind: str, reason: str) -> CheckpointError:
    first = reason.split(". ")[0].strip() or "it ends too soon"
    size = path.stat().st_size
    return CheckpointError(
        f"{path} ({size:,} bytes) is cut short or damaged: {kind} says «{first}»; fetch it again"
    )


def _holds_code(path: Path, reason: str) -> CheckpointError:
    asked = re.search(r"GLOBAL ([\w.]+)", reason)
    what = f" (it asks for {asked.group(1)})" if asked else ""
    return CheckpointError(
        f"{path} holds more than tensors{what}, so reading it could run code in it; nothing was "
        "run. Expected a state dict or safetensors: fetch the file from its publisher"
    )


def _require_safe_torch(path: Path) -> None:
    """Refuse pickles where weights-only unpickling can be bypassed (CVE-2025-32434)."""
    found = re.match(r"(\d+)\.(\d+)", torch.__version__)
    if found is None or tuple(map(int, found.groups())) < _SAFE_TORCH:
        raise CheckpointError(
            f"{path} is a pickle, and torch {torch.__version__} can be made to run code in one: "
            "update torch to 2.6 or later, or use the weights as .safetensors"
        )
