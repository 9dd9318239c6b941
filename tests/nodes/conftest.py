"""The real ComfyUI: one server for all tests, tiny weights in its model folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.nodes.checkouts import comfyui_path, vhs_path, why_not
from tests.nodes.comfy_client import ComfyClient
from tests.nodes.comfy_page import open_browser, why_no_browser
from tests.nodes.comfy_server import INPUT_PACK, PACK, PACK_NAME, ComfyServer, make_base
from tests.nodes.graphs import WEIGHTS

VHS_NAME = "ComfyUI-VideoHelperSuite"


@pytest.fixture(scope="session")
def comfyui() -> Path:
    """Return ComfyUI's checkout; tests that ask for it skip where there is none."""
    path = comfyui_path()
    assert path is not None, "comfyui tests are skipped where there is no checkout"
    return path


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of tiny weights in released layouts, and of files that are none.

    Folder `float` is for `models/float`; folder `audio` is for `models/audio` and holds the speech
    network that `float.pth` needs, but no emotion network.
    """
    from core.weights import (
        EMOTION_FOLDER,
        SMALL,
        TINY,
        save,
        save_parts,
        save_published,
        synthetic_state_dict,
    )

    from float_core.checkpoint import CONFIG_KEY
    from float_core.config import TransformerConfig

    folder = tmp_path_factory.mktemp("weights")
    quick = replace(
        TINY,
        latent_dim=32,
        motion_dim=8,
        speech_dim=32,
        channels=(24, 24, 16, 16, 12),
        transformer=TransformerConfig(hidden=64, depth=2, heads=2),
    )
    state = synthetic_state_dict(quick)
    told = {CONFIG_KEY: json.dumps(quick.to_dict())}
    save(state, folder / "float" / WEIGHTS, metadata=told)
    save_parts(state, folder / "float" / "parts", metadata=told)
    published = save_published(state, folder / "audio")
    shutil.rmtree(published / EMOTION_FOLDER)
    (published / "float.pth").rename(folder / "float" / "float.pth")
    small = synthetic_state_dict(SMALL)
    save(
        small,
        folder / "float" / "small.safetensors",
        metadata={CONFIG_KEY: json.dumps(SMALL.to_dict())},
    )
    decoder = "motion_autoencoder.dec."
    save(
        {k[len(decoder) :]: v for k, v in state.items() if decoder in k},
        folder / "float" / "other.safetensors",
    )
    (folder / "float" / "text.safetensors").write_text("not weights")
    return folder


@pytest.fixture(scope="session")
def server(
    comfyui: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ComfyServer]:
    """Run ComfyUI with this pack, VideoHelperSuite where it is, and the tests' own inputs.

    The weights are reached through an extra model path, as users with several ComfyUIs have them.
    """
    packs = {PACK_NAME: PACK, "float_test_inputs": INPUT_PACK}
    vhs = vhs_path()
    base = make_base(
        tmp_path_factory.mktemp("comfyui") / "base", packs | ({VHS_NAME: vhs} if vhs else {})
    )
    extra = base / "extra_model_paths.yaml"
    extra.write_text(f"tests:\n    base_path: {tiny_weights}\n    float: float\n    audio: audio\n")
    options = ("--cpu", "--extra-model-paths-config", str(extra))
    with ComfyServer(comfyui, base, options) as running:
        yield running


@pytest.fixture
def client(server: ComfyServer) -> Iterator[ComfyClient]:
    """Return a page of its own; afterwards the server must still be there."""
    page = ComfyClient(server.url)
    page.post("/float_test/cancel_after", {"updates": None})
    yield page
    assert server.alive, server.log[-4000:]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Return a headless browser; tests that ask for it skip where there is none."""
    reason = why_not() or why_no_browser()
    if reason:
        pytest.skip(reason)
    with open_browser() as running:
        yield running
