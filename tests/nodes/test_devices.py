"""Networks on a device with little memory: wholly loaded or not at all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.nodes.checkouts import comfyui_path
from tests.nodes.comfy_client import ComfyClient
from tests.nodes.comfy_server import INPUT_PACK, PACK, PACK_NAME, ComfyServer, make_base
from tests.nodes.graphs import changed, frames, node, rendered

pytestmark = pytest.mark.comfyui

PROBE = Path(__file__).with_name("patcher_probe.py")


@pytest.fixture(scope="module")
def probe(comfyui: Path) -> dict[str, dict[str, bool]]:
    """Run the probe in a process of its own, where ComfyUI's modules may be imported."""
    command = [sys.executable, str(PROBE), str(comfyui), str(PACK)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-4000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("state", ["NORMAL_VRAM", "LOW_VRAM", "NO_VRAM"])
def test_a_network_is_loaded_whole(probe: dict[str, dict[str, bool]], state: str) -> None:
    assert probe[state] == {"loaded whole": True, "counted whole": True, "evicted whole": True}


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
@pytest.mark.parametrize("option", ["--normalvram", "--lowvram", "--novram", "--gpu-only"])
def test_graphs_run_on_a_gpu(option: str, tiny_weights: Path, tmp_path: Path) -> None:
    comfyui = comfyui_path()
    assert comfyui is not None
    base = make_base(tmp_path / "base", {PACK_NAME: PACK, "float_test_inputs": INPUT_PACK})
    extra = base / "extra.yaml"
    extra.write_text(f"tests:\n    base_path: {tiny_weights}\n    float: float\n    audio: audio\n")
    options = (option, "--extra-model-paths-config", str(extra))
    heard = node("FLOATEmotionFromSpeech", model=("model", 0), audio=("sound", 0))
    graph = {**frames(), **rendered(), "emotion": heard}
    with ComfyServer(comfyui, base, options) as server:
        client = ComfyClient(server.url)
        for precision in ("fp32", "fp16", "bf16"):
            run = client.run(changed(graph, "model", precision=precision))
            assert run.status == "success", run.error
