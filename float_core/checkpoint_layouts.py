"""Where released weights lie, and how each layout's names translate to the one-file layout's.

Three layouts are in the wild: "published" (one file without the wav2vec2 networks, and a folder for
each of these), "one file", and "parts" (a file a network, keys without their prefix, and the same
two folders). Inside the pack a key is always the one-file layout's, with the positional
convolution's weight norm under its newer names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from .checkpoint_files import CheckpointError, TensorFile, WeightsNotFoundError, open_tensors

LayoutName = Literal["published", "one file", "parts", "state dict"]
NetworkName = Literal[
    "motion_encoder", "motion_decoder", "audio_encoder", "emotion_classifier", "flow_transformer"
]

NETWORK_PREFIXES: dict[NetworkName, str] = {
    "motion_encoder": "motion_autoencoder.enc.",
    "motion_decoder": "motion_autoencoder.dec.",
    "audio_encoder": "audio_encoder.",
    "emotion_classifier": "emotion_encoder.wav2vec2_for_emotion.",
    "flow_transformer": "fmt.",
}
"""What the keys of each network start with in the one-file layout."""

SPEECH_FOLDER = "wav2vec2-base-960h"
EMOTION_FOLDER = "wav2vec-english-speech-emotion-recognition"

PARTS = {
    "motion_autoencoder/encoder": "motion_autoencoder.enc.",
    "motion_autoencoder/decoder": "motion_autoencoder.dec.",
    "audio_projections/projection": "audio_encoder.audio_projection.",
    "fmt/fmt": "fmt.",
}
"""Files of the parts layout, without suffix, and the prefix their keys lack."""

_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
"""Suffixes of weight files, the preferred first."""

_FOLDER_FILES = ("model", "pytorch_model")
_MAIN_FILES = ("FLOAT", "float")

_STYLED = r"(activate\.bias|conv\.weight|conv\.modulation\.(weight|bias))"
_LAYER = r"\.(weight|bias)"
_WAV2VEC2 = (
    r"wav2vec2\.(feature_extractor\.conv_layers\.\d+\.(conv|layer_norm)"
    r"|feature_projection\.(layer_norm|projection)"
    r"|encoder\.(layer_norm|pos_conv_embed\.conv"
    r"|layers\.\d+\.(attention\.(q|k|v|out)_proj|feed_forward\.(intermediate|output)_dense"
    rf"|layer_norm|final_layer_norm))){_LAYER}"
    r"|wav2vec2\.encoder\.pos_conv_embed\.conv\.parametrizations\.weight\.original[01]"
)
_READ: dict[NetworkName, str] = {
    "motion_encoder": rf"fc\.\d+{_LAYER}|net_app\.convs\.\d+\.(weight|0\.weight|1\.bias"
    r"|conv1\.0\.weight|conv1\.1\.bias|conv2\.1\.weight|conv2\.2\.bias|skip\.1\.weight)",
    "motion_decoder": rf"direction\.weight|input\.input|conv1\.{_STYLED}|convs\.\d+\.{_STYLED}"
    r"|to_flows\.\d+\.(bias|conv\.weight|conv\.modulation\.(weight|bias))"
    r"|to_rgbs\.\d+\.(bias|conv\.0\.weight|conv\.1\.bias)",
    "audio_encoder": rf"audio_projection\.[01]{_LAYER}|{_WAV2VEC2}",
    "emotion_classifier": rf"classifier\.(dense|out_proj){_LAYER}|{_WAV2VEC2}",
    "flow_transformer": r"pos_embed|(x_embedder\.proj|c_embedder|t_embedder\.mlp\.[02]"
    r"|decoder\.(linear|adaLN_modulation\.1)"
    rf"|blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc[12]|adaLN_modulation\.1)){_LAYER}",
}
"""What the keys of each network look like, after the prefix."""

_UNREAD = re.compile(r"(.*\.)?(noise\.weight|kernel|to_rgb1\..+|alignment_mask|masked_spec_embed)")
"""Tensors of the released layouts that training needed and inference does not."""


class Source(NamedTuple):
    """One file of a layout and how its names translate.

    Attributes:
        file: The open file.
        translate: Turns a stored name into the one-file layout's key, or None where the one-file
            layout has no place for it.
    """

    file: TensorFile
    translate: Callable[[str], str | None]


class Layout(NamedTuple):
    """The files that make up one set of weights.

    Attributes:
        name: Which layout they are in.
        sources: The files, the one with the transformer first.
        speech_folder: Folder of the speech network, if it lies in one of its own.
        emotion_folder: Folder of the emotion network, likewise.
    """

    name: LayoutName
    sources: tuple[Source, ...]
    speech_folder: Path | None = None
    emotion_folder: Path | None = None


def is_unread(name: str) -> bool:
    """Return whether released weights carry this tensor although no network reads it."""
    return _UNREAD.fullmatch(name) is not None


def is_released(key: str) -> bool:
    """Return whether a key of the one-file layout is one that released weights have."""
    return any(
        key.startswith(prefix)
        and (is_unread(key) or re.fullmatch(_READ[network], key[len(prefix) :]) is not None)
        for network, prefix in NETWORK_PREFIXES.items()
    )


def canonical_key(key: str) -> str:
    """Return a key with the positional convolution's weight norm under its newer names."""
    key = re.sub(r"\bconv\.weight_g$", "conv.parametrizations.weight.original0", key)
    return re.sub(r"\bconv\.weight_v$", "conv.parametrizations.weight.original1", key)


def resembling(names: Iterable[str]) -> str:
    """Say which file of which layout some names come closest to, for messages."""
    names = [canonical_key(name) for name in names]
    scores = {label: sum(map(matches, names)) for label, matches in _CANDIDATES.items()}
    best = max(scores, key=lambda label: scores[label])
    if scores[best] * 2 < len(names) or not names:
        return "none of the layouts of FLOAT's weights"
    if best == "the published layout's float.pth" and any(".wav2vec2." in key for key in names):
        return "the one-file layout"
    return best


def _part_matcher(network: NetworkName, prefix: str) -> Callable[[str], bool]:
    """Return a test for the names in one file of the parts layout."""
    inner = prefix[len(NETWORK_PREFIXES[network]) :]
    pattern = re.compile(_READ[network])

    def matches(name: str) -> bool:
        return is_unread(name) or pattern.fullmatch(inner + name) is not None

    return matches


_CANDIDATES: dict[str, Callable[[str], bool]] = {
    "the published layout's float.pth": is_released,
    **{
        f"{file}.safetensors of the parts layout": _part_matcher(network, prefix)
        for file, prefix in PARTS.items()
        for network, start in NETWORK_PREFIXES.items()
        if prefix.startswith(start)
    },
    "the speech network's own folder": _part_matcher(
        "audio_encoder", NETWORK_PREFIXES["audio_encoder"]
    ),
    "the emotion network's own folder": _part_matcher(
        "emotion_classifier", NETWORK_PREFIXES["emotion_classifier"]
    ),
}


def find_layout(path: Path, search: Sequence[Path] = ()) -> Layout:
    """Find and open the files of a set of weights.

    Args:
        path: A weight file, or a folder in any of the layouts.
        search: More folders in which the two wav2vec2 folders may lie.

    Raises:
        WeightsNotFoundError: A file that must be there is not.
        CheckpointError: A file cannot be read, or holds something else.
    """
    if path.is_dir():
        return _in_folder(path, search)
    return _around_file(open_tensors(path), path.parent, search)


def _in_folder(folder: Path, search: Sequence[Path]) -> Layout:
    main = _first_file(folder, _MAIN_FILES)
    parts = {name: _first_file(folder, [name]) for name in PARTS}
    missing = [name for name, file in parts.items() if file is None]
    if not missing and (main is None or main.suffix != ".safetensors"):
        sources = [
            Source(open_tensors(file), _prefixed(PARTS[name]))
            for name, file in parts.items()
            if file is not None
        ]
        return _with_folders("parts", sources, folder, search)
    if main is None and len(missing) < len(PARTS):
        raise WeightsNotFoundError(
            f"{folder} looks like the parts layout, but lacks "
            f"{', '.join(f'{name}.safetensors' for name in missing)}: add what is missing"
        )
    main = main or _only_file(folder)
    if main is None:
        raise _no_weights(folder)
    return _around_file(open_tensors(main), folder, search)


def _only_file(folder: Path) -> Path | None:
    """Return the weight file of a folder that has only one, whatever its name."""
    files = [file for file in folder.iterdir() if file.suffix in _SUFFIXES and file.is_file()]
    return files[0] if len(files) == 1 else None


def _first_file(folder: Path, stems: Sequence[str]) -> Path | None:
    """Return the first of some files that is there, safetensors before anything else."""
    files = (folder / f"{stem}{suffix}" for suffix in _SUFFIXES for stem in stems)
    return next(filter(Path.is_file, files), None)


def _no_weights(folder: Path) -> WeightsNotFoundError:
    found = sorted(entry.name for entry in folder.iterdir())
    return WeightsNotFoundError(
        f"{folder} holds no FLOAT weights: expected FLOAT.safetensors, or float.pth with the "
        f"folders {SPEECH_FOLDER} and {EMOTION_FOLDER}, or the parts "
        f"{', '.join(f'{name}.safetensors' for name in PARTS)}; "
        f"found {', '.join(found[:6]) + (', …' if len(found) > 6 else '') or 'nothing'}"
    )


def _around_file(file: TensorFile, folder: Path, search: Sequence[Path]) -> Layout:
    """Return the layout of a file that holds the transformer and the motion autoencoder."""
    keys = [canonical_key(name) for name in file.info]
    if not any(key.startswith("fmt.") for key in keys):
        raise CheckpointError(
            f"{file.name} holds no FLOAT weights: expected names such as "
            f"fmt.blocks.0.attn.qkv.weight, found {', '.join(list(file.info)[:3]) or 'none'}; its "
            f"names most resemble {resembling(keys)}. Choose the file or folder of FLOAT's weights"
        )
    whole = any(key.startswith("audio_encoder.wav2vec2.") for key in keys)
    sources = [Source(file, canonical_key)]
    return _with_folders("one file" if whole else "published", sources, folder, search)


def _with_folders(
    name: LayoutName, sources: list[Source], folder: Path, search: Sequence[Path]
) -> Layout:
    """Add the wav2vec2 networks' own folders for those that no file holds so far."""
    places = [folder, *search]
    held = {key for source in sources for key in map(source.translate, source.file.info) if key}
    speech = emotion = None
    if not any(key.startswith("audio_encoder.wav2vec2.") for key in held):
        speech = _wav2vec2_file(SPEECH_FOLDER, places)
        if speech is None:
            raise _no_folder(SPEECH_FOLDER, sources[0].file, places)
        sources.append(Source(open_tensors(speech), _inside("audio_encoder.", ("wav2vec2.",))))
    prefix = NETWORK_PREFIXES["emotion_classifier"]
    if not any(key.startswith(prefix) for key in held):
        emotion = _wav2vec2_file(EMOTION_FOLDER, places)
        if emotion is not None:
            inner = ("wav2vec2.", "classifier.")
            sources.append(Source(open_tensors(emotion), _inside(prefix, inner)))
    return Layout(name, tuple(sources), speech and speech.parent, emotion and emotion.parent)


def _wav2vec2_file(name: str, places: Sequence[Path]) -> Path | None:
    """Return the weight file of a wav2vec2 folder that lies in one of `places`, or is one."""
    folders = [place / name for place in places] + [p for p in places if p.name == name]
    files = (_first_file(folder, _FOLDER_FILES) for folder in folders)
    return next(filter(None, files), None)


def _no_folder(name: str, main: TensorFile, places: Sequence[Path]) -> WeightsNotFoundError:
    where = ", ".join(map(str, places))
    return WeightsNotFoundError(
        f"{main.name} needs the folder {name} with model.safetensors or pytorch_model.bin in it; "
        f"looked in {where}: put it there"
    )


def _prefixed(prefix: str) -> Callable[[str], str | None]:
    """Return a translation that adds `prefix`, or what of it is not there yet."""
    words = prefix.split(".")[:-1]
    tails = [".".join(words[i:]) + "." for i in range(len(words))]

    def translate(name: str) -> str:
        tail = next(filter(name.startswith, tails), "")
        return canonical_key(prefix + name[len(tail) :])

    return translate


def _inside(prefix: str, starts: tuple[str, ...]) -> Callable[[str], str | None]:
    """Return a translation that adds `prefix` to the names that start with one of `starts`."""

    def translate(name: str) -> str | None:
        return canonical_key(prefix + name) if name.startswith(starts) else None

    return translate
