"""What there is to fetch: the repositories, files and addresses of released weights."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a repository on the Hugging Face hub.

    Attributes:
        repo: Owner and name of the repository.
        filename: Path inside the repository.
        target: Path inside the weights folder.
        size_bytes: Approximate size, for messages before the hub has told the true one.
        revision: Commit, tag or branch; `main` stands for the commit it was at when first asked.
    """

    repo: str
    filename: str
    target: str
    size_bytes: int
    revision: str = "main"

    def url(self, revision: str) -> str:
        """Return the address of the file at a revision, on the mirror where one is set."""
        from huggingface_hub import hf_hub_url

        return str(hf_hub_url(self.repo, self.filename, revision=revision))


@dataclass(frozen=True, slots=True)
class WebFile:
    """One file at a fixed address outside the hub, with its exact size and SHA-256."""

    url: str
    target: str
    size_bytes: int
    sha256: str


_SPEECH = "wav2vec2-base-960h"
_EMOTION = "wav2vec-english-speech-emotion-recognition"
_SPEECH_REVISION = "22aad52d435eb6dbaf354bdad9b0da84ce7d6156"
_EMOTION_REVISION = "b9e996ed194ec1d0338aea597332c3e65a84f212"
_CONFIG_BYTES, _SPEECH_BYTES, _EMOTION_BYTES = 2_000, 378_000_000, 1_266_000_000

LAYOUTS: dict[str, tuple[HubFile, ...]] = {
    "one-file": tuple(
        HubFile("set-soft/float", name, name, size)
        for name, size in (("FLOAT.safetensors", 2_470_000_000),)
    ),
    "published": tuple(
        HubFile("yuvraj108c/float", name, name, size)
        for name, size in (
            ("float.pth", 827_000_000),
            (f"{_SPEECH}/config.json", _CONFIG_BYTES),
            (f"{_SPEECH}/pytorch_model.bin", _SPEECH_BYTES),
            (f"{_EMOTION}/config.json", _CONFIG_BYTES),
            (f"{_EMOTION}/pytorch_model.bin", _EMOTION_BYTES),
        )
    ),
    "parts": (
        *(
            HubFile("set-soft/float_advanced", name, name, size)
            for name, size in (
                ("motion_autoencoder/encoder.safetensors", 91_000_000),
                ("motion_autoencoder/decoder.safetensors", 90_000_000),
                ("audio_projections/projection.safetensors", 19_000_000),
                ("fmt/fmt.safetensors", 627_000_000),
            )
        ),
        *(
            HubFile(f"{owner}/{folder}", name, f"{folder}/{name}", size, revision)
            for owner, folder, name, size, revision in (
                ("facebook", _SPEECH, "config.json", _CONFIG_BYTES, _SPEECH_REVISION),
                ("facebook", _SPEECH, "model.safetensors", _SPEECH_BYTES, _SPEECH_REVISION),
                ("r-f", _EMOTION, "config.json", _CONFIG_BYTES, _EMOTION_REVISION),
                ("r-f", _EMOTION, "pytorch_model.bin", _EMOTION_BYTES, _EMOTION_REVISION),
            )
        ),
    ),
}
"""Files of each layout, by name. The default, `one-file`, is safetensors: no code hides in it."""

FACE_DETECTOR = WebFile(
    url="https://github.com/opencv/opencv_zoo/raw/main/models/face_detection_yunet/"
    "face_detection_yunet_2026may.onnx",
    target="face_detection_yunet_2026may.onnx",
    size_bytes=229_738,
    sha256="ebafce4e3c118d6554634be5c27ab333b4c047a9a8c3faf1d7cf93101c22f0f0",
)
"""YuNet, the face detector of the OpenCV Zoo (MIT licence)."""


def layout_files(layout: str, revision: str | None) -> tuple[HubFile, ...]:
    """Return the files of a layout, its own repository's at `revision` where one is named.

    Raises:
        ValueError: The layout is unknown.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    files = LAYOUTS[layout]
    if revision is None:
        return files
    own = files[0].repo
    return tuple(replace(file, revision=revision) if file.repo == own else file for file in files)
