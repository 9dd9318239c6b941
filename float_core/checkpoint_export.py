"""Say what weights are, and write them into the one-file layout."""

from __future__ import annotations

import json
import secrets
from collections import Counter
from collections.abc import Mapping
from os import PathLike
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from .checkpoint import CONFIG_KEY, LICENCE_KEY, Weights, cast
from .checkpoint_layouts import NETWORK_PREFIXES, is_unread
from .config import FloatConfig


def convert(
    weights: Weights, out_path: str | PathLike[str], dtype: torch.dtype | None = None
) -> None:
    """Write weights into the one-file layout, with their configuration and licence.

    The file is written under another name and moved into place when whole.

    Args:
        weights: Opened weights.
        out_path: The `.safetensors` file to write; one that is there is replaced.
        dtype: Precision to store; None keeps each tensor's own.

    Raises:
        ValueError: The name does not end in `.safetensors`, or is that of a file being read.
        CheckpointError: A file cannot be read.
        OSError: The file cannot be written; nothing is left of it.
    """
    out = Path(out_path)
    if out.suffix != ".safetensors":
        raise ValueError(f"Expected a file name ending in .safetensors, got {out.name!r}")
    if out.exists() and any(out.samefile(file) for file in weights.files):
        raise ValueError(f"{out} is being read: choose another name for the converted file")
    if not out.parent.is_dir():
        raise FileNotFoundError(
            f"There is no folder {out.parent} to write {out.name} into: make it"
        )
    tensors = weights.state_dict()
    if dtype is not None:
        tensors = cast(tensors, dtype)
    metadata = {
        **weights.metadata,
        "format": "pt",
        CONFIG_KEY: json.dumps(weights.config.to_dict()),
        LICENCE_KEY: weights.licence,
    }
    part = out.with_name(f"{out.name}.{secrets.token_hex(4)}.part")
    try:
        part.touch(exist_ok=False)
        mode = part.stat().st_mode  # newer safetensors makes files only their owner can read
        safetensors.torch.save_file(_apart(tensors), part, metadata=metadata)
        part.chmod(mode)
        part.replace(out)
    except safetensors.SafetensorError as error:
        raise OSError(f"Could not write {out}: {error}") from error
    finally:
        part.unlink(missing_ok=True)


def describe(weights: Weights) -> str:
    """Return what weights are, in lines: layout, precision, parameters, config, licence.

    Args:
        weights: Opened weights.
    """
    info = weights.info
    config = weights.config
    used = {key: entry for key, entry in info.items() if not is_unread(key)}
    counts = {
        name: sum(e.numel for key, e in used.items() if key.startswith(prefix))
        for name, prefix in NETWORK_PREFIXES.items()
    }
    precision = Counter(str(e.dtype).removeprefix("torch.") for e in used.values())
    size = sum(entry.size_bytes for entry in info.values())
    lines = [
        f"weights: {weights.source}",
        f"layout: {weights.layout}",
        *(f"file: {file}" for file in weights.files),
        f"precision: {', '.join(f'{name} ({count} tensors)' for name, count in precision.items())}",
        f"size: {size / 1e9:.2f} GB",
        f"parameters: {sum(counts.values()):,}",
        *(f"  {name}: {f'{n:,}' if n else 'none'}" for name, n in counts.items()),
        f"tensors no network reads: {len(info) - len(used) + len(weights.extra)}",
        *_config_lines(config),
        f"licence: {weights.licence}",
    ]
    return "\n".join(lines)


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give tensors that share memory, which safetensors cannot store, memory of their own."""
    seen: set[int] = set()
    apart: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        memory = tensor.untyped_storage().data_ptr()
        apart[key] = tensor.clone() if memory in seen else tensor
        apart[key] = apart[key].contiguous()
        seen.add(memory)
    return apart


def _config_lines(config: FloatConfig) -> list[str]:
    values = config.to_dict()
    lines = ["config:"]
    for name, value in values.items():
        inner = value.items() if isinstance(value, dict) else ()
        text = ", ".join(f"{key} {_plain(item)}" for key, item in inner) or _plain(value)
        lines.append(f"  {name}: {text}")
    return lines


def _plain(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
