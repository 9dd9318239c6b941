"""Libraries that are installed but do not load: the pack does, and says what to install."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nodes.comfy_client import ComfyClient
from tests.nodes.comfy_server import INPUT_PACK, PACK, PACK_NAME, ComfyServer, make_base
from tests.nodes.graphs import frames, reported, stages

pytestmark = pytest.mark.comfyui

BREAK = '''
import importlib.abc, importlib.machinery, os, sys

class Broken(importlib.abc.Loader):
    """Fails as a library does that was built for another torch."""

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        wav2vec2 = "transformers.models.wav2vec2.modeling_wav2vec2"
        if name == "torchaudio" or (name == wav2vec2 and os.path.exists({flag!r})):
            return importlib.machinery.ModuleSpec(name, cls())
        return None

    def exec_module(self, module):
        raise OSError(f"{{module.__name__}}: undefined symbol: _ZNK5torch8autograd4Node4nameEv")

sys.meta_path.insert(0, Broken)
'''


@pytest.fixture(scope="module")
def transformers_broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file whose presence breaks transformers' wav2vec2 too."""
    return tmp_path_factory.mktemp("broken") / "transformers"


@pytest.fixture(scope="module")
def broken_server(
    comfyui: Path,
    tiny_weights: Path,
    transformers_broken: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ComfyServer]:
    base = make_base(
        tmp_path_factory.mktemp("comfyui") / "base",
        {PACK_NAME: PACK, "float_test_inputs": INPUT_PACK},
    )
    (base / "sitecustomize.py").write_text(BREAK.format(flag=str(transformers_broken)))
    extra = base / "extra.yaml"
    extra.write_text(f"tests:\n    base_path: {tiny_weights}\n    float: float\n    audio: audio\n")
    options = ("--cpu", "--extra-model-paths-config", str(extra))
    with ComfyServer(comfyui, base, options, {"PYTHONPATH": str(base)}) as running:
        yield running


def test_the_pack_loads_without_a_working_torchaudio(broken_server: ComfyServer) -> None:
    assert "undefined symbol" in broken_server.log
    assert broken_server.import_seconds(PACK_NAME) < 0.3
    assert len(ComfyClient(broken_server.url).get("/object_info/FLOATEncodeSpeech")) == 1


@pytest.mark.parametrize("library", ["torchaudio", "transformers"])
def test_the_node_that_needs_a_broken_library_says_what_to_install(
    broken_server: ComfyServer, transformers_broken: Path, library: str
) -> None:
    client = ComfyClient(broken_server.url)
    if library == "transformers":
        transformers_broken.touch()
    run = client.run(reported(frames(), ("frames", 0)))
    assert run.status == "error"
    assert run.error_node == "model"
    assert f"({library}" in run.error
    assert "pip install" in run.error
    assert "\n" not in run.error


def test_nodes_that_need_neither_still_run(broken_server: ComfyServer) -> None:
    client = ComfyClient(broken_server.url)
    graph = {name: stages()[name] for name in ("picture", "crop", "emotion")}
    run = client.run(reported(graph, ("crop", 0), ("emotion", 0)))
    assert run.status == "success", run.error
