"""Weights in every layout in the wild, read strictly, safely and in one copy of memory.

`open_weights` reads only lists of tensors; `Weights.network` gives one network's tensors, as views
of the memory-mapped file wherever the format allows it; `fill_module` puts them into a module.
`checkpoint_export` describes and converts what is opened here.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn

from .checkpoint_config import infer_config, parse_config, read_wav2vec2_shape
from .checkpoint_files import CheckpointError, StateDict, TensorInfo, WeightsNotFoundError
from .checkpoint_layouts import (
    NETWORK_PREFIXES,
    Layout,
    NetworkName,
    Source,
    canonical_key,
    find_layout,
    is_released,
    is_unread,
    resembling,
)
from .config import FloatConfig

__all__ = [
    "CONFIG_KEY",
    "LEFT_OUT_KEY",
    "LICENCE_KEY",
    "NETWORK_PREFIXES",
    "UNSTATED_LICENCE",
    "CheckpointError",
    "Weights",
    "WeightsNotFoundError",
    "cast",
    "fill_module",
    "infer_config",
    "open_weights",
]

CONFIG_KEY = "float_config"
"""Metadata name under which a file carries its configuration, as JSON of `FloatConfig.to_dict`."""

LICENCE_KEY = "license"
"""Metadata name under which a file carries its licence."""

LEFT_OUT_KEY = "left_out"
"""Metadata name under which a file says which networks it does without on purpose."""

UNSTATED_LICENCE = (
    "Not stated in the files. FLOAT's released weights: their README says CC BY-NC-ND 4.0, their "
    "LICENSE file holds the text of CC BY-NC 4.0. Neither allows commercial use, and under the "
    "first no converted or fine-tuned file may be shared."
)
"""What is known of the licence of weights that carry none."""

_STORED_TYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_log = logging.getLogger(__name__)


class Weights:
    """A set of weights in the one-file layout's keys, whichever layout it lies in.

    Attributes:
        layout: "published", "one file", "parts" or "state dict".
        source: Name of the main file or folder for messages.
        files: The files it is read from.
        config: Everything the weights fix.
        metadata: The texts stored in the files.
        extra: Names of tensors that no released weights have; they are not read.
    """

    def __init__(self, layout: Layout, source: str, config: FloatConfig | None = None) -> None:
        """Translate names and read the configuration.

        Args:
            layout: The open files.
            source: Name of the main file or folder for messages.
            config: What shapes cannot tell; else the files' metadata, else the published values.

        Raises:
            CheckpointError: The configuration cannot be read off the weights.
        """
        self.layout = layout.name
        self.source = source
        self.files = tuple(s.file.path for s in layout.sources if s.file.path is not None)
        self.metadata = {
            name: text for s in reversed(layout.sources) for name, text in s.file.metadata.items()
        }
        self._sources = layout.sources
        self._places, self.extra = _places(layout.sources)
        self.config = infer_config(
            {key: info.shape for key, info in self.info.items()},
            config or _told_config(layout),
            source,
        )
        if self.extra:
            _log.warning(
                "%s: %d tensors that no network reads are left out: %s",
                source,
                len(self.extra),
                _some(self.extra, 20),
            )

    @classmethod
    def from_state_dict(
        cls, state_dict: Mapping[str, Tensor], config: FloatConfig | None = None
    ) -> Weights:
        """Take tensors under the keys of the one-file layout.

        Args:
            state_dict: The tensors; kept, not copied.
            config: What shapes cannot tell; the published values where None.

        Raises:
            CheckpointError: The configuration cannot be read off the tensors.
        """
        source = Source(StateDict(state_dict), canonical_key)
        return cls(Layout("state dict", (source,)), source.file.name, config)

    @property
    def info(self) -> dict[str, TensorInfo]:
        """Return shape and dtype of every tensor by its key."""
        return {
            key: self._sources[index].file.info[name] for key, (index, name) in self._places.items()
        }

    @property
    def hears_no_emotion(self) -> bool:
        """Return whether the weights do without an emotion network on purpose."""
        return "emotion_classifier" in self.metadata.get(LEFT_OUT_KEY, "").split()

    @property
    def licence(self) -> str:
        """Return what the files say of their licence, else what is known of the released ones."""
        stated = (s.file.metadata.get(LICENCE_KEY) for s in self._sources)
        return "; ".join(dict.fromkeys(filter(None, stated))) or UNSTATED_LICENCE

    def has(self, network: NetworkName) -> bool:
        """Return whether there are weights of this network."""
        return any(key.startswith(NETWORK_PREFIXES[network]) for key in self._places)

    def source_of(self, network: NetworkName) -> str:
        """Return the names of the files that hold this network, for messages."""
        prefix = NETWORK_PREFIXES[network]
        indices = {i for key, (i, _) in self._places.items() if key.startswith(prefix)}
        return " and ".join(self._sources[i].file.name for i in sorted(indices)) or self.source

    def network(self, network: NetworkName) -> dict[str, Tensor]:
        """Return the tensors of one network by key without its prefix, on the CPU.

        Args:
            network: One of `NETWORK_PREFIXES`.

        Raises:
            CheckpointError: A file cannot be read.
        """
        prefix = NETWORK_PREFIXES[network]
        tensors = self._read([key for key in self._places if key.startswith(prefix)])
        return {key[len(prefix) :]: tensor for key, tensor in tensors.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """Return all tensors of the one-file layout, those no network reads included.

        Raises:
            CheckpointError: A file cannot be read.
        """
        return self._read(list(self._places))

    def fill(
        self, network: NetworkName, module: nn.Module, dtype: torch.dtype | None = None
    ) -> None:
        """Put one network's tensors into its module; messages name whole keys.

        Args:
            network: One of `NETWORK_PREFIXES`.
            module: As for `fill_module`.
            dtype: As for `fill_module`.

        Raises:
            CheckpointError: A weight is missing or has another shape, or a file cannot be read.
        """
        tensors, source = self.network(network), self.source_of(network)
        fill_module(module, tensors, source, dtype, prefix=NETWORK_PREFIXES[network])

    def _read(self, keys: Sequence[str]) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for index, source in enumerate(self._sources):
            names = {self._places[key][1]: key for key in keys if self._places[key][0] == index}
            if names:
                read = source.file.read(names)
                tensors.update((key, read[name]) for name, key in names.items())
        return {key: tensors[key] for key in keys}


def open_weights(
    path: str | PathLike[str],
    config: FloatConfig | None = None,
    search: Sequence[str | PathLike[str]] = (),
) -> Weights:
    """Open weights in any of the layouts; tensors are read later, network by network.

    Args:
        path: A weight file, or a folder of weights.
        config: What shapes cannot tell; else the files' metadata, else the published values.
        search: More folders in which the two wav2vec2 folders of the published and of the parts
            layout may lie.

    Raises:
        WeightsNotFoundError: A file or folder that must be there is not (a `FileNotFoundError`
            and a `CheckpointError`).
        CheckpointError: A file cannot be read, holds something else, or does not fit the config.
    """
    where = Path(path)
    layout = find_layout(where, [Path(folder) for folder in search])
    return Weights(layout, str(where), config)


def fill_module(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    source: str,
    dtype: torch.dtype | None = None,
    *,
    prefix: str = "",
) -> None:
    """Put tensors into a module: every one it has, in its shape; taken over, not copied.

    The module is best built on the meta device. Its parameters end without gradient. Buffers that
    are not part of its state dict stay as they are.

    Args:
        module: The network, whose names are the keys.
        tensors: Tensors by key; both namings of a weight norm are understood.
        source: Name of the weights for messages.
        dtype: Precision to cast to where the stored one differs; None keeps the stored one (the
            widest, where a network's tensors are stored in several).
        prefix: What to put before keys in messages.

    Raises:
        CheckpointError: A weight is missing, has another shape or is no floating point number.
    """
    expected = module.state_dict()
    given = _with_names_of(expected, tensors)
    missing = [key for key in expected if key not in given]
    wrong = [key for key in expected if key in given and not _fits(given[key], expected[key])]
    if missing or wrong:
        raise _unfilled(module, source, prefix, expected, given, missing, wrong)
    unread = [prefix + key for key in given if key not in expected and not is_unread(key)]
    if unread:
        _log.warning(
            "%s: tensors that no network reads are left out: %s", source, _some(unread, 20)
        )
    chosen = {key: given[key] for key in expected}
    module.requires_grad_(False)
    module.load_state_dict(cast(chosen, dtype), strict=True, assign=True)


def _places(sources: Sequence[Source]) -> tuple[dict[str, tuple[int, str]], tuple[str, ...]]:
    """Return the file and stored name of every key, and the names that have no key."""
    places: dict[str, tuple[int, str]] = {}
    extra: list[str] = []
    for index, source in enumerate(sources):
        for name in source.file.info:
            key = source.translate(name)
            if key is None or not is_released(key) or key in places:
                extra.append(name)
            else:
                places[key] = (index, name)
    return places, tuple(extra)


def _told_config(layout: Layout) -> FloatConfig:
    """Return the configuration the files carry, else the published one."""
    for source in layout.sources:
        if CONFIG_KEY in source.file.metadata:
            return parse_config(source.file.metadata[CONFIG_KEY], source.file.name)
    config = FloatConfig()
    if layout.speech_folder is not None:
        config = replace(config, speech=read_wav2vec2_shape(layout.speech_folder, config.speech))
    if layout.emotion_folder is not None:
        config = replace(config, emotion=read_wav2vec2_shape(layout.emotion_folder, config.emotion))
    return config


def _with_names_of(
    expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Rename weight norms the way the module names them."""
    ours = {canonical_key(key): key for key in expected}
    return {ours.get(canonical_key(key), key): tensor for key, tensor in tensors.items()}


def _fits(given: Tensor, expected: Tensor) -> bool:
    kind = given.dtype in _STORED_TYPES if expected.is_floating_point() else True
    return kind and given.shape == expected.shape


def cast(tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    """Bring floating point tensors to one precision; those that have it are not copied.

    Args:
        tensors: Tensors by key.
        dtype: The precision; the widest among the tensors where None.
    """
    kinds = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    if dtype is None and kinds:
        dtype = functools.reduce(torch.promote_types, kinds)
    return {
        key: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for key, tensor in tensors.items()
    }


def _unfilled(
    module: nn.Module,
    source: str,
    prefix: str,
    expected: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    missing: Sequence[str],
    wrong: Sequence[str],
) -> CheckpointError:
    """Say which weights of a module are missing or do not fit."""
    problems = []
    if missing:
        names = _some([prefix + key for key in missing])
        problems.append(f"{len(missing)} of {len(expected)} weights missing: {names}")
    if wrong:
        names = _some(
            [
                f"{prefix}{key} expected {tuple(expected[key].shape)}, got "
                f"{tuple(given[key].shape)} of {str(given[key].dtype).removeprefix('torch.')}"
                for key in wrong
            ]
        )
        problems.append(f"{len(wrong)} of another shape or kind: {names}")
    if len(missing) * 2 > len(expected):
        problems.append(f"the names found most resemble {resembling(given)}")
    return CheckpointError(
        f"{source} does not fill the {type(module).__name__}: {'; '.join(problems)}. Fetch the "
        "file again, or choose weights of FLOAT"
    )


def _some(names: Sequence[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")
