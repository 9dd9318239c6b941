"""Load a network by ComfyUI's memory management as on a GPU with too little memory.

patcher_probe.py COMFYUI PACK; prints JSON. The device "meta" stands for the GPU: it is no CPU, and
tensors can be moved to it. Free memory is what this script says it is.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from types import ModuleType

comfyui, pack = sys.argv[1:]
sys.path.insert(0, comfyui)
sys.argv = [sys.argv[0]]

from comfy.cli_args import args  # noqa: E402, TID251

args.cpu = True

import comfy.model_management as management  # noqa: E402, TID251
import torch  # noqa: E402
from torch import nn  # noqa: E402

GPU = torch.device("meta")
SIDE = 1024
LAYERS = 40
"""40 layers of 4 MB: more than the 128 MB that ComfyUI loads of any model."""


class Network(nn.Sequential):
    """Linear layers that come back from the stand-in device without their values."""

    def __init__(self) -> None:
        super().__init__(*(nn.Linear(SIDE, SIDE, bias=False) for _ in range(LAYERS)))

    def to(self, device: torch.device) -> Network:
        """Move all layers."""
        return self.to_empty(device=device)


def load_pack() -> ModuleType:
    """Import the pack's module of networks as ComfyUI does, under a name of its own."""
    spec = importlib.util.spec_from_file_location(
        "pack", f"{pack}/__init__.py", submodule_search_locations=[pack]
    )
    assert spec is not None
    assert spec.loader is not None
    sys.modules["pack"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["pack"])
    return importlib.import_module("pack.nodes.networks")


def devices(network: nn.Module) -> set[str]:
    """Return where the weights lie."""
    return {parameter.device.type for parameter in network.parameters()}


def probe(networks: ModuleType, state: str) -> dict[str, bool]:
    """Load one network with 64 MB free, then ask for memory that another model needs."""
    management.vram_state = management.VRAMState[state]
    network = Network()
    patcher = networks.WholeModelPatcher(
        network, load_device=GPU, offload_device=torch.device("cpu")
    )
    management.load_models_gpu([patcher])
    loaded, counted = devices(network), patcher.loaded_size()
    management.free_memory(128e6, GPU)
    return {
        "loaded whole": loaded == {"meta"},
        "counted whole": counted == SIDE * SIDE * 4 * LAYERS,
        "evicted whole": devices(network) == {"cpu"} and not management.current_loaded_models,
    }


def free_memory_stand_in(_device: object = None, torch_free_too: bool = False) -> object:
    """Return 64 MB, whatever the device."""
    return (64e6, 64e6) if torch_free_too else 64e6


management.get_free_memory = free_memory_stand_in
management.soft_empty_cache = lambda *_: None
module = load_pack()
print(json.dumps({s: probe(module, s) for s in ("NORMAL_VRAM", "LOW_VRAM", "NO_VRAM")}))  # noqa: T201
